// SPDX-License-Identifier: Apache-2.0
// Several processes on one GPU: each sees the others' use, the dead give everything back, a forked child is nobody.
#include "check.h"

static void hold(int to_parent, int from_parent)
{
	CUdeviceptr at;
	start(0);
	OK(cuMemAlloc_v2(&at, 1000 * MIB));
	say(to_parent);
	hear(from_parent);
}

static void a_killed_process_leaves_nothing(void)
{
	struct child child = spawn(hold);
	hear(child.from);
	EQUAL(process_bytes(0, child.pid), 1518 * MIB);
	EQUAL(used_bytes(0), 1518 * MIB);
	kill(child.pid, SIGKILL);
	siginfo_t info;
	EQUAL(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT), 0); // dead, but nobody has asked for its status yet
	EQUAL(process_bytes(0, child.pid), 0);
	EQUAL(used_bytes(0), 0);
	EQUAL(finish(child), 128 + SIGKILL);
}

static void the_last_bytes_go_to_one(void)
{
	struct child first = spawn(hold), second = spawn(hold);
	hear(first.from);
	hear(second.from);
	start(0);
	EQUAL(free_bytes(), (size_t)(143155 - 3 * 518 - 2000) * MIB);
	CUdeviceptr at;
	EQUAL(cuMemAlloc_v2(&at, free_bytes() + MIB), CUDA_ERROR_OUT_OF_MEMORY);
	kill(second.pid, SIGKILL);
	finish(second);
	OK(cuMemAlloc_v2(&at, (size_t)(143154 - 2 * 518 - 1000) * MIB));
	EQUAL(free_bytes(), MIB);
	OK(cuMemFree_v2(at));
	say(first.to);
	EQUAL(finish(first), 0);
	EQUAL(process_bytes(0, getpid()), 518 * MIB);
}

static void inherit(int to_parent, int from_parent)
{
	(void)to_parent, (void)from_parent;
	CUdeviceptr at;
	int count;
	EQUAL(cuMemAlloc_v2(&at, 100), CUDA_ERROR_NOT_INITIALIZED);
	EQUAL(cuInit(0), CUDA_ERROR_NOT_INITIALIZED);
	EQUAL(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
}

static void a_forked_child_has_no_driver(void)
{
	struct child child = spawn(inherit);
	EQUAL(finish(child), 0);
	EQUAL(process_bytes(0, getpid()), 518 * MIB); // its end did not touch what is its parent's
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	a_killed_process_leaves_nothing();
	the_last_bytes_go_to_one();
	a_forked_child_has_no_driver();
	return 0;
}
