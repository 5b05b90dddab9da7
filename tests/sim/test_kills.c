// SPDX-License-Identifier: Apache-2.0
// Processes killed at any instant, in the middle of any change of the shared state: nothing of theirs stays, nobody is
// blocked, and who lives on keeps what is his.
#include "check.h"

#define WORKERS 6

static void work(int to_parent, int from_parent)
{
	(void)to_parent, (void)from_parent;
	CUmodule module;
	CUfunction function;
	CUdeviceptr kept[8] = {0};
	CUevent event;
	unsigned seed = (unsigned)getpid();
	start(0);
	OK(cuModuleLoadData(&module, "softmig-sim-module"));
	OK(cuModuleGetFunction(&function, module, "spin_20us"));
	OK(cuEventCreate(&event, 0));
	for (unsigned round = 0;; round++) {
		int which = rand_r(&seed) % 8;
		if (kept[which] != 0) {
			OK(which % 2 ? cuMemFree_v2(kept[which]) : cuMemFreeAsync(kept[which], NULL));
			kept[which] = 0;
		} else {
			size_t bytes = (size_t)(rand_r(&seed) % 40 + 1) * MIB;
			OK(which % 2 ? cuMemAlloc_v2(&kept[which], bytes) : cuMemAllocAsync(&kept[which], bytes, NULL));
		}
		OK(cuLaunchKernel(function, 264, 1, 1, 1024, 1, 1, 0, NULL, NULL, NULL));
		OK(cuEventRecord(event, NULL));
		if (round % 16 == 0)
			OK(cuEventSynchronize(event));
	}
}

int main(void)
{
	struct child child[WORKERS];
	unsigned seed = 1, kills = 0;
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	for (int i = 0; i < WORKERS; i++)
		child[i] = spawn(work);
	struct child witness = spawn(work);
	double until = seconds() + 2;
	while (seconds() < until) {
		usleep((useconds_t)(rand_r(&seed) % 3000));
		int victim = (int)(rand_r(&seed) % WORKERS);
		kill(child[victim].pid, SIGKILL);
		EQUAL(finish(child[victim]), 128 + SIGKILL); // anything else is a check of its own that failed
		kills++;
		EQUAL(process_bytes(0, child[victim].pid), 0);
		child[victim] = spawn(work);
	}
	CHECK(kills > 100);
	for (int i = 0; i < WORKERS; i++) { // stopped ones hold their memory, but nobody up
		while (process_bytes(0, child[i].pid) == 0)
			usleep(1000); // it has only just started
		kill(child[i].pid, SIGSTOP);
		double began = seconds();
		CHECK(process_bytes(0, child[i].pid) > 0);
		WITHIN(seconds() - began, 0, 1);
	}
	for (int i = 0; i < WORKERS; i++) {
		kill(child[i].pid, SIGKILL);
		EQUAL(finish(child[i]), 128 + SIGKILL);
	}
	unsigned long long its = process_bytes(0, witness.pid);
	WITHIN((double)its / (double)MIB, 518, 518 + 2 + 8 * 64);
	kill(witness.pid, SIGKILL);
	EQUAL(finish(witness), 128 + SIGKILL);
	EQUAL(used_bytes(0), 0);
	start(0);
	CUdeviceptr all;
	OK(cuMemAlloc_v2(&all, (size_t)(143154 - 518) * MIB));
	return 0;
}
