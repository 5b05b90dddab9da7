// SPDX-License-Identifier: Apache-2.0
// Captures a graph from two joined streams in the strictest mode, while another thread launches into a third stream all the
// time. Then many graphs of streams that have work of their own, and in the legacy stream, when their captures begin. Prints how many nodes the first
// graph got, how many of the others were captured, and how many launches of the other thread failed: "nodes 7 captured 40 failed 0".
//   capture_beside [legacy|blocking]: the other thread uses the legacy default stream (no capture then joins it), or a blocking one
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <time.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuModuleLoadData) \
	X(cuModuleGetFunction) X(cuLaunchKernel) X(cuStreamCreate) X(cuEventCreate) X(cuEventRecord) X(cuStreamWaitEvent) \
	X(cuStreamBeginCapture_v2) X(cuStreamEndCapture) X(cuGraphGetNodes) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch)
#include "../../gpu/programs/driver.h"

static CUcontext context;
static CUmodule module;
static CUfunction kernel;
static CUstream beside;
static _Atomic bool done;
static _Atomic int failed, launched;

static void *launch_beside(void *unused)
{
	CHECK(CU(cuCtxSetCurrent)(context));
	while (!done) {
		if (CU(cuLaunchKernel)(kernel, 4096, 1, 1, 128, 1, 1, 0, beside, NULL, NULL) != CUDA_SUCCESS)
			failed++;
		launched++;
	}
	return unused;
}

static void launch(CUstream stream, int count)
{
	struct timespec pause = {0, 20000000};
	for (int i = 0; i < count; i++) {
		CHECK(CU(cuLaunchKernel)(kernel, 4096, 1, 1, 128, 1, 1, 0, stream, NULL, NULL));
		nanosleep(&pause, NULL);
	}
}

// One graph of a kernel, directly behind a shorter one, which nobody has seen to end.
static bool capture_at_once(CUstream stream, CUfunction small, bool blocking)
{
	CUgraph graph;
	if (blocking)
		CHECK(CU(cuLaunchKernel)(small, 1, 1, 1, 128, 1, 1, 0, NULL, NULL, NULL));
	CHECK(CU(cuLaunchKernel)(small, 1, 1, 1, 128, 1, 1, 0, stream, NULL, NULL));
	CHECK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	nanosleep(&(struct timespec){0, 3000000}, NULL);
	bool launched_it = CU(cuLaunchKernel)(small, 1, 1, 1, 128, 1, 1, 0, stream, NULL, NULL) == CUDA_SUCCESS;
	return CU(cuStreamEndCapture)(stream, &graph) == CUDA_SUCCESS && launched_it;
}

static int captured_at_once(CUstream one, bool with_blocking)
{
	CUstream blocking;
	CUfunction small;
	int captured = 0;
	CHECK(CU(cuModuleGetFunction)(&small, module, "spin_20us"));
	CHECK(CU(cuStreamCreate)(&blocking, CU_STREAM_DEFAULT));
	launch(one, 1);
	for (int i = 0; i < 40; i++)
		captured += i % 2 == 0 || !with_blocking ? capture_at_once(one, small, false) : capture_at_once(blocking, small, true);
	return captured;
}

int main(int argc, char **argv)
{
	CUstream one, two;
	CUevent fork, join;
	CUgraph graph;
	CUgraphExec executable;
	pthread_t thread;
	size_t nodes = 0;
	START(context, module);
	CHECK(CU(cuModuleGetFunction)(&kernel, module, "spin_100us"));
	CHECK(CU(cuStreamCreate)(&one, CU_STREAM_NON_BLOCKING));
	CHECK(CU(cuStreamCreate)(&two, CU_STREAM_NON_BLOCKING));
	CHECK(CU(cuEventCreate)(&fork, CU_EVENT_DISABLE_TIMING));
	CHECK(CU(cuEventCreate)(&join, CU_EVENT_DISABLE_TIMING));
	if (argc < 2 || strcmp(argv[1], "legacy") != 0)
		CHECK(CU(cuStreamCreate)(&beside, argc > 1 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
	launch(one, 2); // known streams, with batches open
	launch(two, 2);
	pthread_create(&thread, NULL, launch_beside, NULL);
	while (launched < 10)
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	CHECK(CU(cuStreamBeginCapture_v2)(one, CU_STREAM_CAPTURE_MODE_GLOBAL));
	launch(one, 3);
	CHECK(CU(cuEventRecord)(fork, one));
	CHECK(CU(cuStreamWaitEvent)(two, fork, 0)); // from here on the second stream is captured too
	launch(two, 3);
	CHECK(CU(cuEventRecord)(join, two));
	CHECK(CU(cuStreamWaitEvent)(one, join, 0));
	launch(one, 1);
	CHECK(CU(cuStreamEndCapture)(one, &graph));
	int captured = captured_at_once(one, argc < 2);
	done = true;
	pthread_join(thread, NULL);
	CHECK(CU(cuGraphGetNodes)(graph, NULL, &nodes));
	CHECK(CU(cuGraphInstantiateWithFlags)(&executable, graph, 0));
	for (int i = 0; i < 20; i++)
		CHECK(CU(cuGraphLaunch)(executable, one));
	CHECK(CU(cuCtxSynchronize)());
	printf("nodes %zu captured %d failed %d\n", nodes, captured, (int)failed);
	return 0;
}
