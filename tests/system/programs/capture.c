// SPDX-License-Identifier: Apache-2.0
// capture TEST: what a slice asks the driver on its own account ends no capture, on whatever stream of whatever thread, in the strictest
// mode. See tests/system/capture.bats.
#include <pthread.h>

#include "slice.h"

static const size_t SIZE = 128 * MIB;

static CUcontext context;
static CUstream captured, beside;

static CUstream new_stream(void)
{
	CUstream stream;
	OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
	return stream;
}

static CUgraphExec graph_with_memory(void)
{
	CUDA_MEM_ALLOC_NODE_PARAMS params = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                                                   .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}},
	                                     .bytesize = SIZE};
	CUgraphExec exec;
	CUgraphNode node, end;
	CUgraph graph;
	OK(CU(cuGraphCreate)(&graph, 0));
	OK(CU(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &params));
	OK(CU(cuGraphAddMemFreeNode)(&end, graph, &node, 1, params.dptr));
	OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	return exec;
}

static CUmodule module;
static CUlibrary library;
static CUgraphExec exec;
static CUmemoryPool own_pool;

// What may be done beside any capture. Everything of it has been done before, so that there is something to account for.
static void live(void)
{
	CUdeviceptr pointer;
	CUfunction function;
	CUkernel kernel;
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, beside));
	OK(CU(cuMemFreeAsync)(pointer, beside));
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, SIZE, own_pool, beside));
	OK(CU(cuMemFreeAsync)(pointer, beside));
	OK(CU(cuMemAllocAsync_ptsz)(&pointer, SIZE, NULL));
	OK(CU(cuMemFreeAsync_ptsz)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(beside)); // a pool may give back
	OK(CU(cuGraphLaunch)(exec, beside));
	OK(CU(cuGraphUpload)(exec, beside));
	graph_with_memory();
	OK(CU(cuModuleGetFunction)(&function, module, "spin_10us_local4096"));
	OK(CU(cuLibraryGetKernel)(&kernel, library, "spin_10us_local8192"));
	OK(CU(cuStreamDestroy_v2)(new_stream()));
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemGenericAllocationHandle handle;
	OK(CU(cuMemCreate)(&handle, SIZE, &prop, 0));
	OK(CU(cuMemRelease)(handle));
}

// The same where there is no room: pools and graphs are trimmed, NVML is asked.
static void want_too_much(void)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemGenericAllocationHandle handle;
	CUdeviceptr pointer;
	REFUSED(CU(cuMemCreate)(&handle, limit_bytes(), &prop, 0));
	REFUSED(CU(cuMemAllocAsync)(&pointer, limit_bytes(), beside));
}

static void begin(CUstreamCaptureMode mode)
{
	OK(CU(cuStreamBeginCapture_v2)(captured, mode));
}

static void end(void)
{
	CUgraph graph;
	CUdeviceptr pointer;
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, captured));
	OK(CU(cuMemFreeAsync)(pointer, captured));
	OK(CU(cuStreamEndCapture)(captured, &graph));
	OK(CU(cuGraphDestroy)(graph));
}

static void set_up(void)
{
	context = use_device(0);
	captured = new_stream();
	beside = new_stream();
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	OK(CU(cuMemPoolCreate)(&own_pool, &props));
	OK(CU(cuModuleLoadData)(&module, "code"));
	OK(CU(cuLibraryLoadData)(&library, "code", NULL, NULL, 0, NULL, NULL, 0));
	exec = graph_with_memory();
	live();
	want_too_much();
}

static void same_thread(void)
{
	set_up();
	for (int mode = CU_STREAM_CAPTURE_MODE_GLOBAL; mode <= CU_STREAM_CAPTURE_MODE_RELAXED; mode++) {
		begin((CUstreamCaptureMode)mode);
		live();
		want_too_much();
		end();
	}
}

static void *other(void *what)
{
	OK(CU(cuCtxSetCurrent)(context));
	((void (*)(void))(uintptr_t)what)();
	return NULL;
}

static void in_thread(void (*what)(void))
{
	pthread_t thread;
	pthread_create(&thread, NULL, other, (void *)(uintptr_t)what);
	pthread_join(thread, NULL);
}

static void other_thread(void)
{
	set_up();
	for (int mode = CU_STREAM_CAPTURE_MODE_GLOBAL; mode <= CU_STREAM_CAPTURE_MODE_RELAXED; mode++) {
		begin((CUstreamCaptureMode)mode);
		in_thread(live);
		in_thread(want_too_much);
		end();
	}
}

// A thread that asked for it may do what else is unsafe: every kind of memory, charged as ever.
static void relaxed_by_the_program(void)
{
	CUDA_ARRAY_DESCRIPTOR array = {.Width = 4096, .Height = 4096, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	CUdeviceptr large, small;
	CUarray handle;
	set_up();
	begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
	mark(0);
	OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
	OK(CU(cuMemAlloc_v2)(&large, 64 * MIB));
	OK(CU(cuMemAlloc_v2)(&small, KIB));
	OK(CU(cuArrayCreate_v2)(&handle, &array));
	OK(CU(cuArrayDestroy)(handle));
	GREW(66 * MIB);
	OK(CU(cuMemFree_v2)(small));
	OK(CU(cuMemFree_v2)(large));
	GREW(0);
	OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
	EXPECT(mode, CU_STREAM_CAPTURE_MODE_RELAXED); // as the program left it
	end();
}

// What the driver refuses beside a capture is refused with its code, and charged to nobody.
static void unsafe_calls_are_the_drivers_to_refuse(void)
{
	CUDA_ARRAY_DESCRIPTOR array = {.Width = 4096, .Height = 4096, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	CUdeviceptr large, held;
	CUarray handle;
	CUgraph graph;
	set_up();
	OK(CU(cuMemAlloc_v2)(&held, 64 * MIB));
	mark(0);
	begin(CU_STREAM_CAPTURE_MODE_GLOBAL);
	EXPECT(CU(cuMemAlloc_v2)(&large, 64 * MIB), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EXPECT(CU(cuMemAlloc_v2)(&large, KIB), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EXPECT(CU(cuArrayCreate_v2)(&handle, &array), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EXPECT(CU(cuMemFree_v2)(held), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EXPECT(CU(cuGraphExecDestroy)(exec), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EXPECT(CU(cuStreamEndCapture)(captured, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	GREW(0);
	OK(CU(cuMemFree_v2)(held));
	// The graph is still there, and still known: its memory is asked for.
	OK(CU(cuDeviceGraphMemTrim)(0));
	OK(CU(cuMemAlloc_v2)(&large, (limit_bytes() - slice_bytes()) / (2 * MIB) * (2 * MIB)));
	REFUSED(CU(cuGraphLaunch)(exec, beside));
	OK(CU(cuMemFree_v2)(large));
	OK(CU(cuGraphLaunch)(exec, beside));
	OK(CU(cuGraphExecDestroy)(exec));
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"same_thread", same_thread}, {"other_thread", other_thread}, {"relaxed_by_the_program", relaxed_by_the_program},
		{"unsafe_calls_are_the_drivers_to_refuse", unsafe_calls_are_the_drivers_to_refuse}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
