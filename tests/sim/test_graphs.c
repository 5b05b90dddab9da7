// SPDX-License-Identifier: Apache-2.0
// Graphs and capture: what becomes a node, how long a launch takes, what memory it holds, and what spoils a capture.
#include "check.h"

#include <pthread.h>

static CUmodule module;
static CUstream s, t;

static CUfunction kernel(const char *name)
{
	CUfunction function;
	OK(cuModuleGetFunction(&function, module, name));
	return function;
}

static CUresult run(const char *name, CUstream stream)
{
	return cuLaunchKernel(kernel(name), 264, 1, 1, 1024, 1, 1, 0, stream, NULL, NULL);
}

// Milliseconds of GPU time that one launch takes.
static double time_of(CUgraphExec exec)
{
	CUevent first, last;
	float ms;
	OK(cuEventCreate(&first, 0));
	OK(cuEventCreate(&last, 0));
	OK(run("spin_3ms", s));
	OK(cuEventRecord(first, s));
	OK(cuGraphLaunch(exec, s));
	OK(cuEventRecord(last, s));
	OK(cuEventSynchronize(last));
	OK(cuEventElapsedTime(&ms, first, last));
	OK(cuEventDestroy_v2(first));
	OK(cuEventDestroy_v2(last));
	return ms;
}

static void captured_work_runs_along_its_critical_path(void)
{
	CUgraph graph;
	CUgraphExec exec;
	CUevent fork_here, join_here;
	CUstreamCaptureStatus status;
	size_t count = 0;
	OK(cuEventCreate(&fork_here, CU_EVENT_DISABLE_TIMING));
	OK(cuEventCreate(&join_here, CU_EVENT_DISABLE_TIMING));
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(cuStreamIsCapturing(s, &status));
	EQUAL(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
	OK(run("spin_1ms", s));
	OK(cuEventRecord(fork_here, s));
	OK(cuStreamWaitEvent(t, fork_here, 0));
	OK(run("spin_2ms", t));
	OK(run("spin_500us", s));
	OK(cuEventRecord(join_here, t));
	OK(cuStreamWaitEvent(s, join_here, 0));
	OK(run("spin_250us", s));
	OK(cuStreamEndCapture(s, &graph));
	OK(cuStreamIsCapturing(t, &status));
	EQUAL(status, CU_STREAM_CAPTURE_STATUS_NONE);
	OK(cuGraphGetNodes(graph, NULL, &count));
	EQUAL(count, 4);
	OK(cuGraphGetEdges(graph, NULL, NULL, &count));
	EQUAL(count, 4);
	OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
	WITHIN(time_of(exec), 3.249, 3.251);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuEventDestroy_v2(fork_here));
	OK(cuEventDestroy_v2(join_here));
}

static void captured_copies_are_done_at_each_launch(void)
{
	CUgraph graph;
	CUgraphExec exec;
	CUdeviceptr at;
	unsigned *host, out = 0;
	OK(cuMemAlloc_v2(&at, 1024));
	OK(cuMemHostAlloc((void **)&host, 4, 0));
	*host = 1;
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cuMemsetD32Async(at, 5, 256, s));
	OK(cuMemcpyHtoDAsync_v2(at, host, 4, s));
	OK(cuStreamEndCapture(s, &graph));
	OK(cuMemcpyDtoH_v2(&out, at + 4, 4));
	EQUAL(out, 0);
	*host = 77;
	OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
	OK(cuGraphLaunch(exec, s));
	OK(cuMemcpyDtoH_v2(&out, at, 4));
	EQUAL(out, 77);
	OK(cuMemcpyDtoH_v2(&out, at + 4, 4));
	EQUAL(out, 5);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	OK(cuMemFreeHost(host));
	OK(cuMemFree_v2(at));
}

static CUresult end_result(void)
{
	CUgraph graph = (CUgraph)1;
	CUresult result = cuStreamEndCapture(s, &graph);
	if (result == CUDA_SUCCESS)
		OK(cuGraphDestroy(graph));
	else if (result != CUDA_ERROR_ILLEGAL_STATE)
		CHECK(graph == NULL);
	return result;
}

static void *query_elsewhere(void *event)
{
	return (void *)(intptr_t)cuEventQuery(event);
}

static void what_must_not_be_done_beside_a_capture_spoils_it(void)
{
	CUevent event;
	CUdeviceptr at;
	CUstreamCaptureStatus status;
	OK(cuEventCreate(&event, 0));
	OK(cuEventRecord(event, t));
	// asking for a stream that is captured
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	EQUAL(cuStreamQuery(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EQUAL(run("plain", s), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuStreamIsCapturing(s, &status));
	EQUAL(status, CU_STREAM_CAPTURE_STATUS_INVALIDATED);
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	// allocating
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	EQUAL(cuMemAlloc_v2(&at, 100), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cuMemAlloc_v2(&at, 100));
	EQUAL(end_result(), CUDA_SUCCESS);
	OK(cuMemFree_v2(at));
	// a watching thread asks for an event of its own
	for (int mode = CU_STREAM_CAPTURE_MODE_GLOBAL; mode <= CU_STREAM_CAPTURE_MODE_RELAXED; mode++) {
		pthread_t thread;
		void *result;
		OK(cuStreamBeginCapture_v2(s, (CUstreamCaptureMode)mode));
		CHECK(pthread_create(&thread, NULL, query_elsewhere, event) == 0);
		pthread_join(thread, &result);
		bool harmful = mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
		EQUAL((intptr_t)result, harmful ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS);
		EQUAL(end_result(), harmful ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
	}
	// a thread may say that it knows what it does
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(cuThreadExchangeStreamCaptureMode(&mode));
	EQUAL(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
	OK(cuEventQuery(event));
	OK(cuThreadExchangeStreamCaptureMode(&mode));
	EQUAL(end_result(), CUDA_SUCCESS);
	OK(cuEventDestroy_v2(event));
}

static void the_legacy_stream_may_not_be_used_beside_a_captured_blocking_stream(void)
{
	CUstream blocking;
	CUgraph graph;
	CUstreamCaptureStatus status;
	OK(cuStreamCreate(&blocking, CU_STREAM_DEFAULT));
	EQUAL(cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
	OK(cuStreamBeginCapture_v2(blocking, CU_STREAM_CAPTURE_MODE_GLOBAL));
	EQUAL(cuStreamIsCapturing(NULL, &status), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT); // asking is no harm
	OK(run("plain", blocking));
	EQUAL(run("plain", NULL), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
	EQUAL(cuStreamEndCapture(blocking, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL)); // a non-blocking stream has nothing to do with it
	OK(run("plain", NULL));
	EQUAL(end_result(), CUDA_SUCCESS);
	OK(cuStreamDestroy_v2(blocking));
}

static void captures_end_where_and_when_they_may(void)
{
	CUevent event, outside;
	CUgraph graph;
	OK(cuEventCreate(&event, 0));
	OK(cuEventCreate(&outside, 0));
	EQUAL(end_result(), CUDA_ERROR_ILLEGAL_STATE);
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	EQUAL(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_ERROR_ILLEGAL_STATE);
	OK(run("plain", s));
	OK(cuEventRecord(event, s));
	EQUAL(cuEventQuery(event), CUDA_ERROR_CAPTURED_EVENT);
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(run("plain", s));
	OK(cuEventRecord(event, s));
	OK(cuStreamWaitEvent(t, event, 0));
	OK(run("plain", t));
	EQUAL(cuStreamEndCapture(t, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(cuEventRecord(event, s));
	OK(cuStreamWaitEvent(t, event, 0));
	OK(run("plain", t));
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
	OK(run("spin_10ms", t));
	OK(cuEventRecord(outside, t));
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
	EQUAL(cuStreamWaitEvent(s, outside, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
	EQUAL(end_result(), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
	OK(cuEventDestroy_v2(event));
	OK(cuEventDestroy_v2(outside));
	OK(cuCtxSynchronize());
}

static uint64_t graph_bytes(CUgraphMem_attribute which)
{
	uint64_t value;
	OK(cuDeviceGetGraphMemAttribute(0, which, &value));
	return value;
}

static void graph_memory_is_there_from_launch_to_free_and_reserved_until_trimmed(void)
{
	CUgraph graph;
	CUgraphExec exec;
	CUgraphNode alloc, fill, release;
	size_t before = free_bytes();
	CUDA_MEM_ALLOC_NODE_PARAMS params = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}}, .bytesize = 100 * MIB};
	OK(cuGraphCreate(&graph, 0));
	OK(cuGraphAddMemAllocNode(&alloc, graph, NULL, 0, &params));
	CHECK(params.dptr != 0);
	CUDA_MEMSET_NODE_PARAMS set = {.dst = params.dptr, .value = 4, .elementSize = 1, .width = 100 * MIB, .height = 1};
	OK(cuGraphAddMemsetNode(&fill, graph, &alloc, 1, &set, NULL));
	OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
	EQUAL(free_bytes(), before);
	OK(cuGraphLaunch(exec, s));
	EQUAL(before - free_bytes(), 128 * MIB);
	EQUAL(graph_bytes(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 100 * MIB);
	char byte;
	OK(cuMemcpyDtoH_v2(&byte, params.dptr + 50 * MIB, 1));
	EQUAL(byte, 4);
	EQUAL(cuGraphLaunch(exec, s), CUDA_ERROR_INVALID_VALUE); // not freed yet
	OK(cuMemFreeAsync(params.dptr, s));
	OK(cuStreamSynchronize(s));
	EQUAL(graph_bytes(CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT), 0);
	EQUAL(graph_bytes(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 128 * MIB);
	EQUAL(before - free_bytes(), 128 * MIB);
	OK(cuDeviceGraphMemTrim(0));
	EQUAL(free_bytes(), before);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphAddMemFreeNode(&release, graph, &fill, 1, params.dptr));
	OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
	for (int i = 0; i < 3; i++)
		OK(cuGraphLaunch(exec, s));
	EQUAL(graph_bytes(CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT), 128 * MIB);
	EQUAL(graph_bytes(CU_GRAPH_MEM_ATTR_USED_MEM_HIGH), 100 * MIB);
	OK(cuDeviceGraphMemTrim(0));
	EQUAL(free_bytes(), before);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
}

static void captured_allocations_become_nodes(void)
{
	CUgraph graph;
	CUgraphExec exec;
	CUdeviceptr at;
	size_t before = free_bytes(), count = 8;
	CUgraphNode nodes[8];
	CUgraphNodeType type;
	OK(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(cuMemAllocAsync(&at, 10 * MIB, s));
	OK(run("plain", s));
	OK(cuMemFreeAsync(at, s));
	OK(cuStreamEndCapture(s, &graph));
	OK(cuGraphGetNodes(graph, nodes, &count));
	EQUAL(count, 3);
	OK(cuGraphNodeGetType(nodes[0], &type));
	EQUAL(type, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
	OK(cuGraphNodeGetType(nodes[2], &type));
	EQUAL(type, CU_GRAPH_NODE_TYPE_MEM_FREE);
	EQUAL(free_bytes(), before);
	OK(cuGraphInstantiateWithFlags(&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
	OK(cuGraphLaunch(exec, s));
	EQUAL(before - free_bytes(), 32 * MIB);
	OK(cuStreamSynchronize(s));
	OK(cuDeviceGraphMemTrim(0));
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(graph));
	EQUAL(free_bytes(), before);
}

static int called;

static void call(void *data)
{
	called += *(int *)data;
}

static void host_nodes_and_updates(void)
{
	CUgraph graph, other;
	CUgraphExec exec;
	CUgraphNode a, b;
	int two = 2;
	CUDA_KERNEL_NODE_PARAMS params = {.func = kernel("spin_1ms"),
		.gridDimX = 1,
		.gridDimY = 1,
		.gridDimZ = 1,
		.blockDimX = 1,
		.blockDimY = 1,
		.blockDimZ = 1};
	CUDA_HOST_NODE_PARAMS host = {.fn = call, .userData = &two};
	OK(cuGraphCreate(&graph, 0));
	OK(cuGraphAddKernelNode_v2(&a, graph, NULL, 0, &params));
	OK(cuGraphAddHostNode(&b, graph, &a, 1, &host));
	OK(cuGraphInstantiateWithFlags(&exec, graph, 0));
	OK(cuGraphLaunch(exec, s));
	OK(cuStreamSynchronize(s));
	EQUAL(called, 2);
	OK(cuGraphCreate(&other, 0));
	OK(cuGraphAddKernelNode_v2(&a, other, NULL, 0, &params));
	CUgraphExecUpdateResultInfo info;
	EQUAL(cuGraphExecUpdate_v2(exec, other, &info), CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
	EQUAL(info.result, CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphInstantiateWithFlags(&exec, other, 0));
	params.func = kernel("spin_2ms");
	OK(cuGraphKernelNodeSetParams_v2(a, &params));
	WITHIN(time_of(exec), 0.999, 1.001);
	OK(cuGraphExecUpdate_v2(exec, other, &info));
	WITHIN(time_of(exec), 1.999, 2.001);
	OK(cuGraphExecDestroy(exec));
	OK(cuGraphDestroy(other));
	OK(cuGraphDestroy(graph));
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	start(0);
	OK(cuModuleLoadData(&module, "softmig-sim-module"));
	OK(cuStreamCreate(&s, CU_STREAM_NON_BLOCKING));
	OK(cuStreamCreate(&t, CU_STREAM_NON_BLOCKING));
	captured_work_runs_along_its_critical_path();
	captured_copies_are_done_at_each_launch();
	what_must_not_be_done_beside_a_capture_spoils_it();
	the_legacy_stream_may_not_be_used_beside_a_captured_blocking_stream();
	captures_end_where_and_when_they_may();
	graph_memory_is_there_from_launch_to_free_and_reserved_until_trimmed();
	captured_allocations_become_nodes();
	host_nodes_and_updates();
	return 0;
}
