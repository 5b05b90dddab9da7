// SPDX-License-Identifier: Apache-2.0
// Kernels that wait for each other on several GPUs: in one thread, in several, in several processes, beside others, and
// with ranks that are killed.
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/prctl.h>

#define GPUS 4

// One GPU as a rank uses it.
struct rank {
	CUcontext context;
	CUmodule module;
	CUstream stream;
};

static struct rank rank_on(int device)
{
	struct rank rank = {.context = start(device)};
	OK(cuModuleLoadData(&rank.module, "softmig-sim-module"));
	OK(cuStreamCreate(&rank.stream, CU_STREAM_NON_BLOCKING));
	return rank;
}

static void launch(const struct rank *rank, const char *name)
{
	CUfunction function;
	OK(cuCtxSetCurrent(rank->context));
	OK(cuModuleGetFunction(&function, rank->module, name));
	OK(cuLaunchKernel(function, 264, 1, 1, 1024, 1, 1, 0, rank->stream, NULL, NULL));
}

static CUevent mark(const struct rank *rank)
{
	CUevent event;
	OK(cuCtxSetCurrent(rank->context));
	OK(cuEventCreate(&event, 0));
	OK(cuEventRecord(event, rank->stream));
	return event;
}

static double between(CUevent from, CUevent to)
{
	float ms;
	OK(cuEventSynchronize(to));
	OK(cuEventElapsedTime(&ms, from, to));
	OK(cuEventDestroy_v2(from));
	return ms;
}

static void finish_work(const struct rank *rank)
{
	OK(cuCtxSetCurrent(rank->context));
	OK(cuStreamSynchronize(rank->stream));
}

static struct rank one, two;

static void a_kernel_spins_until_its_other_rank_comes_and_both_end_together(void)
{
	launch(&one, "collective_2ms_of2");
	CUevent first = mark(&one);
	usleep(20000);
	EQUAL(cuStreamQuery(one.stream), CUDA_ERROR_NOT_READY); // alone it comes to nothing
	launch(&two, "collective_2ms_of2");
	CUevent first_of_two = mark(&two);
	// Both end at the same moment, so what comes after it can be reckoned: the second waits for the 3 ms before its other rank.
	launch(&one, "collective_1ms_of2");
	CUevent second = mark(&one);
	launch(&one, "spin_5ms");
	launch(&one, "collective_1ms_of2");
	CUevent third = mark(&one);
	launch(&two, "spin_3ms");
	launch(&two, "collective_1ms_of2");
	CUevent second_of_two = mark(&two);
	launch(&two, "collective_1ms_of2");
	CUevent third_of_two = mark(&two);
	WITHIN(between(first, second), 3.9999, 4.0001);
	WITHIN(between(first_of_two, second_of_two), 3.9999, 4.0001);
	WITHIN(between(second, third), 5.9999, 6.0001);
	WITHIN(between(second_of_two, third_of_two), 5.9999, 6.0001);
	OK(cuEventDestroy_v2(third));
	OK(cuEventDestroy_v2(third_of_two));
}

static void waiting_keeps_the_gpu_busy(void)
{
	nvmlDevice_t device;
	nvmlUtilization_t use;
	launch(&one, "collective_1ms_of2");
	usleep(400000);
	EQUAL(nvmlDeviceGetHandleByIndex_v2(0, &device), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetUtilizationRates(device, &use), NVML_SUCCESS);
	WITHIN(use.gpu, 95, 100);
	launch(&two, "collective_1ms_of2");
	finish_work(&one);
	OK(cuStreamQuery(two.stream));
}

static void graphs_have_collectives_in_them(void)
{
	struct rank *both[2] = {&one, &two};
	CUgraphExec executable[2];
	CUgraph graph;
	for (int i = 0; i < 2; i++) {
		OK(cuCtxSetCurrent(both[i]->context));
		OK(cuStreamBeginCapture_v2(both[i]->stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
		launch(both[i], i == 0 ? "spin_1ms" : "spin_3ms");
		launch(both[i], "collective_1ms_of2");
		OK(cuStreamEndCapture(both[i]->stream, &graph));
		OK(cuGraphInstantiateWithFlags(&executable[i], graph, 0));
	}
	CUevent before[2], after[2];
	for (int i = 0; i < 2; i++) {
		launch(both[i], "collective_1ms_of2"); // so that they begin at the same moment
		before[i] = mark(both[i]);
		for (int round = 0; round < 3; round++)
			OK(cuGraphLaunch(executable[i], both[i]->stream));
		after[i] = mark(both[i]);
	}
	for (int i = 0; i < 2; i++) {
		WITHIN(between(before[i], after[i]), 11.999, 12.001);
		OK(cuEventDestroy_v2(after[i]));
		OK(cuGraphExecDestroy(executable[i]));
	}
}

// --- several threads, several processes

static void steps(const struct rank *rank, const char *name, int count)
{
	for (int i = 0; i < count; i++) {
		launch(rank, name);
		if (i % 8 == 7)
			finish_work(rank);
	}
	finish_work(rank);
}

static void *run_thread(void *number)
{
	struct rank rank = rank_on((int)(intptr_t)number);
	steps(&rank, "collective_300us_of4_comm3", 160);
	return NULL;
}

static void threads_do_as_much_as_the_kernels_take(void)
{
	pthread_t thread[GPUS];
	double began = seconds();
	for (intptr_t i = 0; i < GPUS; i++)
		CHECK(pthread_create(&thread[i], NULL, run_thread, (void *)i) == 0);
	for (int i = 0; i < GPUS; i++)
		CHECK(pthread_join(thread[i], NULL) == 0);
	WITHIN(seconds() - began, 0.048, 1);
}

static int number; // of the next child

static void run_process(int to_parent, int from_parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct rank rank = rank_on(number);
	say(to_parent);
	hear(from_parent);
	steps(&rank, "collective_300us_of4", 160);
	say(to_parent);
	hear(from_parent);
}

static void processes_do_as_much_as_the_kernels_take(void)
{
	struct child child[GPUS];
	for (number = 0; number < GPUS; number++)
		child[number] = spawn(run_process);
	for (int i = 0; i < GPUS; i++)
		hear(child[i].from);
	double began = seconds();
	for (int i = 0; i < GPUS; i++)
		say(child[i].to);
	for (int i = 0; i < GPUS; i++)
		hear(child[i].from);
	WITHIN(seconds() - began, 0.048, 1);
	for (int i = 0; i < GPUS; i++) {
		say(child[i].to);
		EQUAL(finish(child[i]), 0);
	}
}

static void run_without_end(int to_parent, int from_parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)from_parent;
	struct rank rank = rank_on(number);
	for (;;) {
		steps(&rank, "collective_500us_of2_comm5", 8);
		say(to_parent);
	}
}

static bool has_said(const struct child *child)
{
	char heard[256];
	bool any = false;
	CHECK(fcntl(child->from, F_SETFL, O_NONBLOCK) == 0);
	while (read(child->from, heard, sizeof(heard)) > 0)
		any = true;
	return any;
}

static bool gets_on(const struct child *child)
{
	has_said(child);
	usleep(60000);
	return has_said(child);
}

static void who_waits_for_a_killed_rank_waits_on_and_holds_nobody_up(void)
{
	number = 0;
	struct child first = spawn(run_without_end);
	number = 1;
	struct child second = spawn(run_without_end);
	hear(first.from);
	hear(second.from);
	CHECK(gets_on(&first));
	kill(second.pid, SIGKILL);
	EQUAL(finish(second), 128 + SIGKILL);
	while (gets_on(&first))
		; // what was said before
	// The GPU of the one that waits is shared with it, the other is free.
	one = rank_on(0);
	two = rank_on(1);
	launch(&one, "spin_1ms");
	finish_work(&one);
	CUevent from = mark(&one);
	launch(&one, "spin_40ms");
	CUevent to = mark(&one);
	WITHIN(between(from, to), 70, 95);
	launch(&two, "spin_1ms");
	from = mark(&two);
	launch(&two, "spin_40ms");
	to = mark(&two);
	WITHIN(between(from, to), 39.9, 40.1);
	kill(first.pid, SIGKILL);
	EQUAL(finish(first), 128 + SIGKILL);
	from = mark(&one);
	launch(&one, "spin_40ms");
	to = mark(&one);
	WITHIN(between(from, to), 39.9, 46);
}

// Each rank has behind its kernel the one that the other waits for.
static void run_into_a_deadlock(int to_parent, int from_parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct rank first = rank_on(0), second = rank_on(1);
	launch(&first, "collective_1ms_of2_comm7");
	launch(&second, "collective_1ms_of2_comm8");
	launch(&first, "collective_1ms_of2_comm8");
	launch(&second, "collective_1ms_of2_comm7");
	usleep(20000);
	EQUAL(cuStreamQuery(first.stream), CUDA_ERROR_NOT_READY);
	EQUAL(cuStreamQuery(second.stream), CUDA_ERROR_NOT_READY);
	say(to_parent);
	hear(from_parent);
}

static void communicators_know_nothing_of_each_other(void)
{
	struct child child = spawn(run_into_a_deadlock);
	hear(child.from);
	kill(child.pid, SIGKILL);
	EQUAL(finish(child), 128 + SIGKILL);
}

// --- beside others

static void keep_busy(int to_parent, int from_parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	hear(from_parent);
	struct rank rank = rank_on(number);
	for (int i = 0;; i++) {
		for (int k = 0; k < 50; k++)
			launch(&rank, "spin_1ms");
		if (i == 0)
			say(to_parent);
		finish_work(&rank);
	}
}

static void a_collective_gets_on_only_while_all_its_ranks_have_the_slice(struct child neighbour)
{
	say(neighbour.to);
	hear(neighbour.from);
	struct rank *both[2] = {&one, &two};
	CUevent from[2], to[2];
	for (int i = 0; i < 2; i++) {
		launch(both[i], "collective_1ms_of2");
		from[i] = mark(both[i]);
	}
	for (int i = 0; i < 2; i++) {
		for (int k = 0; k < 20; k++)
			launch(both[i], "collective_1ms_of2");
		to[i] = mark(both[i]);
	}
	// GPU 0 gives 2 ms in each 4.424; the rank on GPU 1 has a GPU to itself and waits there.
	for (int i = 0; i < 2; i++) {
		WITHIN(between(from[i], to[i]), 38, 50);
		OK(cuEventDestroy_v2(to[i]));
	}
	kill(neighbour.pid, SIGKILL);
	EQUAL(finish(neighbour), 128 + SIGKILL);
}

static void hammer(int to_parent, int from_parent)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)to_parent, (void)from_parent;
	struct rank rank = rank_on(number);
	for (;;)
		steps(&rank, "spin_20us", 16);
}

static void who_is_killed_while_it_reckons_for_all_leaves_nobody_waiting(void)
{
	unsigned seed = 1, kills = 0;
	struct child pair[2], other[2];
	for (number = 0; number < 2; number++)
		pair[number] = spawn(run_without_end);
	for (number = 2; number < 4; number++)
		other[number - 2] = spawn(hammer);
	for (double until = seconds() + 1.5; seconds() < until; kills++) {
		usleep((useconds_t)(rand_r(&seed) % 4000));
		int victim = (int)(kills % 2);
		kill(other[victim].pid, SIGKILL);
		EQUAL(finish(other[victim]), 128 + SIGKILL);
		number = victim + 2;
		other[victim] = spawn(hammer);
	}
	CHECK(kills > 100);
	CHECK(gets_on(&pair[0]));
	CHECK(gets_on(&pair[1]));
	for (int i = 0; i < 2; i++) {
		kill(pair[i].pid, SIGKILL);
		EQUAL(finish(pair[i]), 128 + SIGKILL);
		kill(other[i].pid, SIGKILL);
		EQUAL(finish(other[i]), 128 + SIGKILL);
	}
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	processes_do_as_much_as_the_kernels_take();
	who_is_killed_while_it_reckons_for_all_leaves_nobody_waiting();
	communicators_know_nothing_of_each_other();
	number = 0;
	struct child neighbour = spawn(keep_busy); // before this process has a driver, which a child has not
	who_waits_for_a_killed_rank_waits_on_and_holds_nobody_up();
	a_kernel_spins_until_its_other_rank_comes_and_both_end_together();
	a_collective_gets_on_only_while_all_its_ranks_have_the_slice(neighbour);
	waiting_keeps_the_gpu_busy();
	graphs_have_collectives_in_them();
	threads_do_as_much_as_the_kernels_take();
	return 0;
}
