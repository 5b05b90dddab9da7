// SPDX-License-Identifier: Apache-2.0
// Time on the simulated GPU: kernels last as long as they say, streams side by side, contexts in slices, events tell.
#include "check.h"

#include <pthread.h>

static CUmodule module;

static CUfunction kernel(const char *name)
{
	CUfunction function;
	OK(cuModuleGetFunction(&function, module, name));
	return function;
}

// grid 132 x 2: with 1024 threads a block, the whole H200; 132: half of it
static void run(CUfunction function, unsigned grid, CUstream stream)
{
	OK(cuLaunchKernel(function, grid, 1, 1, 1024, 1, 1, 0, stream, NULL, NULL));
}

static CUevent mark(CUstream stream)
{
	CUevent event;
	OK(cuEventCreate(&event, 0));
	OK(cuEventRecord(event, stream));
	return event;
}

static double between(CUevent from, CUevent to)
{
	float ms;
	OK(cuEventSynchronize(to));
	OK(cuEventElapsedTime(&ms, from, to));
	OK(cuEventDestroy_v2(from));
	OK(cuEventDestroy_v2(to));
	return ms;
}

static CUstream stream(unsigned flags)
{
	CUstream created;
	OK(cuStreamCreate(&created, flags));
	return created;
}

static void a_kernel_takes_its_time(void)
{
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	double began = seconds();
	run(kernel("spin_5ms"), 264, s); // what follows is queued behind it, so its spans are exact
	CUevent first = mark(s);
	run(kernel("spin_250us"), 264, s);
	CUevent second = mark(s);
	for (int i = 0; i < 100; i++)
		run(kernel("plain"), 264, s);
	CUevent third = mark(s), third_again = third;
	EQUAL(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
	EQUAL(cuEventQuery(third), CUDA_ERROR_NOT_READY);
	float ms;
	EQUAL(cuEventElapsedTime(&ms, first, third), CUDA_ERROR_NOT_READY);
	OK(cuStreamSynchronize(s));
	WITHIN(seconds() - began, 0.00575, 1);
	OK(cuEventQuery(third_again));
	OK(cuEventElapsedTime(&ms, second, third));
	WITHIN(ms, 0.4999, 0.5001);
	WITHIN(between(first, second), 0.2499, 0.2501);
	OK(cuStreamQuery(s));
	OK(cuStreamDestroy_v2(s));
}

static void streams_run_side_by_side_while_they_fit(void)
{
	CUstream a = stream(CU_STREAM_NON_BLOCKING), b = stream(CU_STREAM_NON_BLOCKING);
	for (int whole = 0; whole < 2; whole++) {
		unsigned grid = whole ? 264 : 132;
		run(kernel("spin_3ms"), 264, a);
		CUevent first = mark(a);
		OK(cuStreamWaitEvent(b, first, 0));
		run(kernel("spin_1ms"), grid, a);
		run(kernel("spin_1ms"), grid, b);
		CUevent other = mark(b);
		OK(cuStreamWaitEvent(a, other, 0));
		CUevent last = mark(a);
		double ms = between(first, last);
		WITHIN(ms, whole ? 1.99 : 0.99, whole ? 2.01 : 1.01);
	}
	OK(cuStreamDestroy_v2(a));
	OK(cuStreamDestroy_v2(b));
}

static void the_legacy_stream_orders_blocking_streams_only(void)
{
	CUstream blocking = stream(CU_STREAM_DEFAULT), free_running = stream(CU_STREAM_NON_BLOCKING);
	run(kernel("spin_20ms"), 1, blocking);
	run(kernel("plain"), 1, NULL);
	run(kernel("plain"), 1, CU_STREAM_PER_THREAD);
	run(kernel("plain"), 1, free_running);
	OK(cuStreamSynchronize(free_running));
	EQUAL(cuStreamQuery(blocking), CUDA_ERROR_NOT_READY);
	EQUAL(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
	EQUAL(cuStreamQuery(CU_STREAM_PER_THREAD), CUDA_ERROR_NOT_READY);
	OK(cuStreamSynchronize(NULL));
	OK(cuStreamQuery(blocking));
	OK(cuStreamSynchronize(CU_STREAM_PER_THREAD));
	OK(cuStreamDestroy_v2(blocking));
	OK(cuStreamDestroy_v2(free_running));
}

static int calls;
static unsigned flag_value;

static void count_call(void *data)
{
	calls += *(int *)data;
}

static void the_host_takes_part_in_order(void)
{
	CUstream s = stream(CU_STREAM_NON_BLOCKING);
	int one = 1;
	unsigned *flag;
	OK(cuMemHostAlloc((void **)&flag, 4, 0));
	*flag = 0;
	run(kernel("spin_2ms"), 1, s);
	OK(cuLaunchHostFunc(s, count_call, &one));
	OK(cuStreamWriteValue32_v2(s, (CUdeviceptr)(uintptr_t)flag, 5, 0));
	EQUAL(calls, 0);
	EQUAL(*flag, 0);
	OK(cuStreamSynchronize(s));
	EQUAL(calls, 1);
	EQUAL(*flag, 5);
	OK(cuStreamWaitValue32_v2(s, (CUdeviceptr)(uintptr_t)flag, 6, CU_STREAM_WAIT_VALUE_EQ));
	CUevent after = mark(s);
	usleep(1000);
	EQUAL(cuEventQuery(after), CUDA_ERROR_NOT_READY);
	*flag = 6;
	OK(cuEventSynchronize(after));
	OK(cuEventDestroy_v2(after));
	OK(cuMemFreeHost(flag));
	OK(cuStreamDestroy_v2(s));
	flag_value = 0;
}

static void launches_are_checked(void)
{
	CUfunction function = kernel("plain");
	EQUAL(cuModuleGetFunction(&function, module, "missing"), CUDA_ERROR_NOT_FOUND);
	EQUAL(cuLaunchKernel(function, 0, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuLaunchKernel(function, 1, 1, 1, 1025, 1, 1, 0, NULL, NULL, NULL), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL), CUDA_ERROR_INVALID_HANDLE);
	OK(cuLaunchCooperativeKernel(function, 264, 1, 1, 1024, 1, 1, 0, NULL, NULL));
	EQUAL(cuLaunchCooperativeKernel(function, 265, 1, 1, 1024, 1, 1, 0, NULL, NULL),
		CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
	size_t before = free_bytes();
	run(kernel("plain_local3072"), 1, NULL);
	EQUAL(before - free_bytes(), 132ull * 2048 * 2048);
	OK(cuCtxSynchronize());
}

// --- two processes

static void keep_busy(int to_parent, int from_parent)
{
	start(0);
	OK(cuModuleLoadData(&module, "softmig-sim-module"));
	CUfunction function = kernel("spin_1ms");
	CUevent done[16];
	for (int i = 0; i < 16; i++)
		OK(cuEventCreate(&done[i], CU_EVENT_DISABLE_TIMING));
	say(to_parent);
	hear(from_parent);
	int finished = 0;
	double until = seconds() + 0.6;
	for (int i = 0; seconds() < until; i++) {
		if (i >= 16) {
			OK(cuEventSynchronize(done[i % 16]));
			finished++;
		}
		run(function, 264, NULL);
		OK(cuEventRecord(done[i % 16], NULL));
	}
	CHECK(write(to_parent, &finished, sizeof(finished)) == sizeof(finished));
	hear(from_parent);
}

static int work_of(struct child child)
{
	int finished;
	CHECK(read(child.from, &finished, sizeof(finished)) == sizeof(finished));
	return finished;
}

static void two_busy_processes_do_nine_tenths_of_the_work_of_one(void)
{
	struct child a = spawn(keep_busy), b = spawn(keep_busy);
	hear(a.from);
	hear(b.from);
	say(a.to);
	double alone = work_of(a);
	say(a.to);
	EQUAL(finish(a), 0);
	WITHIN(alone, 560, 600);
	a = spawn(keep_busy);
	hear(a.from);
	say(a.to);
	say(b.to);
	double first = work_of(a), second = work_of(b);
	// Both still live: what NVML says of the last whole sample.
	say(a.to);
	say(b.to);
	EQUAL(finish(a), 0);
	EQUAL(finish(b), 0);
	WITHIN((first + second) / alone, 0.86, 0.95);
	WITHIN(first / second, 0.9, 1.1);
}

static void a_killed_process_takes_its_queue_with_it(void)
{
	struct child child = spawn(keep_busy);
	hear(child.from);
	say(child.to);
	usleep(50000);
	kill(child.pid, SIGKILL);
	EQUAL(finish(child), 128 + SIGKILL);
	start(0);
	OK(cuModuleLoadData(&module, "softmig-sim-module"));
	run(kernel("spin_1ms"), 264, NULL);
	CUevent first = mark(NULL);
	run(kernel("spin_10ms"), 264, NULL);
	WITHIN(between(first, mark(NULL)), 9.99, 10.01);
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	two_busy_processes_do_nine_tenths_of_the_work_of_one();
	a_killed_process_takes_its_queue_with_it();
	a_kernel_takes_its_time();
	streams_run_side_by_side_while_they_fit();
	the_legacy_stream_orders_blocking_streams_only();
	the_host_takes_part_in_order();
	launches_are_checked();
	return 0;
}
