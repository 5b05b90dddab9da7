// SPDX-License-Identifier: Apache-2.0
// graph_memory TEST: memory nodes of graphs, judged from within the slice and from without. See tests/system/graph_memory.bats.
#include "slice.h"

// A multiple of the 32 MiB that the driver's pool grows by.
static const size_t SIZE = 128 * MIB;

static CUgraphNode add_alloc(CUgraph graph, const CUgraphNode *after, size_t bytes, CUdeviceptr *pointer)
{
	CUDA_MEM_ALLOC_NODE_PARAMS params = {.poolProps = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                                                   .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}},
	                                     .bytesize = bytes};
	CUgraphNode node;
	OK(CU(cuGraphAddMemAllocNode)(&node, graph, after, after != NULL, &params));
	*pointer = params.dptr;
	return node;
}

static CUgraphNode add_free(CUgraph graph, CUgraphNode after, CUdeviceptr pointer)
{
	CUgraphNode node;
	OK(CU(cuGraphAddMemFreeNode)(&node, graph, &after, 1, pointer));
	return node;
}

// A graph that allocates and frees so much.
static CUgraph graph_of(size_t bytes)
{
	CUgraph graph;
	CUdeviceptr pointer;
	OK(CU(cuGraphCreate)(&graph, 0));
	CUgraphNode allocation = add_alloc(graph, NULL, bytes, &pointer);
	add_free(graph, allocation, pointer);
	return graph;
}

static CUgraphExec instantiate(CUgraph graph)
{
	CUgraphExec exec;
	OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, 0));
	return exec;
}

static CUstream new_stream(void)
{
	CUstream stream;
	OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
	return stream;
}

static void launch(CUgraphExec exec, CUstream stream)
{
	OK(CU(cuGraphLaunch)(exec, stream));
	OK(CU(cuStreamSynchronize)(stream));
}

static void by_launch(void)
{
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUgraph graph = graph_of(SIZE);
	CUgraphExec exec = instantiate(graph);
	GREW(0);
	launch(exec, stream);
	GREW(SIZE);
	for (int i = 0; i < 5; i++)
		launch(exec, stream);
	GREW(SIZE);
	OK(CU(cuGraphExecDestroy)(exec));
	OK(CU(cuGraphDestroy)(graph));
	GREW(SIZE); // the driver keeps it
	OK(CU(cuDeviceGraphMemTrim)(0));
	GREW(0);
}

static void by_upload(void)
{
	CUDA_GRAPH_INSTANTIATE_PARAMS params = {.flags = CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD};
	CUgraphExec exec, none;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	exec = instantiate(graph_of(SIZE));
	OK(CU(cuGraphUpload)(exec, stream));
	OK(CU(cuStreamSynchronize)(stream));
	EXPECT(inside_bytes() - mark_inside, outside_bytes(0) - mark_outside);
	launch(exec, stream);
	GREW(SIZE);
	OK(CU(cuDeviceGraphMemTrim)(0));
	params.hUploadStream = stream;
	REFUSED(CU(cuGraphInstantiateWithParams)(&none, graph_of(limit_bytes()), &params));
	EXPECT(params.flags, CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD);
	GREW(0);
	OK(CU(cuGraphInstantiateWithParams)(&exec, graph_of(SIZE), &params));
	launch(exec, stream);
	GREW(SIZE);
}

static void captured(void)
{
	CUgraph graph;
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, stream));
	OK(CU(cuMemFreeAsync)(pointer, stream));
	OK(CU(cuStreamEndCapture)(stream, &graph));
	CUgraphExec exec = instantiate(graph);
	GREW(0);
	launch(exec, stream);
	GREW(SIZE);
}

static void in_a_child_graph(void)
{
	CUgraph graph;
	CUgraphNode node;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	OK(CU(cuGraphCreate)(&graph, 0));
	CUresult result = CU(cuGraphAddChildGraphNode)(&node, graph, NULL, 0, graph_of(limit_bytes()));
	if (result != CUDA_SUCCESS)
		return; // drivers before 12.9 take no such child
	REFUSED(CU(cuGraphLaunch)(instantiate(graph), stream));
	GREW(0);
}

static void refused(void)
{
	CUdeviceptr pointer, none;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUgraphExec large = instantiate(graph_of(limit_bytes())), exec = instantiate(graph_of(SIZE));
	REFUSED(CU(cuGraphLaunch)(large, stream));
	REFUSED(CU(cuGraphUpload)(large, stream));
	REFUSED(CU(cuGraphLaunch_ptsz)(large, stream));
	GREW(0);
	uint64_t left = limit_bytes() - slice_bytes();
	OK(CU(cuMemAlloc_v2)(&pointer, left - SIZE / 2));
	REFUSED(CU(cuGraphLaunch)(exec, stream));
	GREW(left - SIZE / 2);
	OK(CU(cuMemFree_v2)(pointer));
	launch(exec, stream);
	GREW(SIZE);
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
}

// Memory that graphs keep idle is given back before anything is refused.
static void idle_memory_is_given_back(void)
{
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	CUgraphExec exec = instantiate(graph_of(SIZE));
	launch(exec, stream);
	GREW(SIZE);
	OK(CU(cuMemAlloc_v2)(&pointer, left));
	GREW(left);
	REFUSED(CU(cuGraphLaunch)(exec, stream));
	OK(CU(cuMemFree_v2)(pointer));
	launch(exec, stream);
	GREW(SIZE);
}

// A slice that is full runs the graphs that have their memory already.
static void again_in_a_full_slice(void)
{
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	CUgraphExec exec = instantiate(graph_of(SIZE)), same = instantiate(graph_of(SIZE));
	launch(exec, stream);
	OK(CU(cuMemAlloc_v2)(&pointer, left - SIZE));
	GREW(left);
	for (int i = 0; i < 3; i++) {
		launch(exec, stream);
		OK(CU(cuGraphLaunch)(same, stream)); // the same stream's graphs share it
		OK(CU(cuStreamSynchronize)(stream));
	}
	GREW(left);
}

static void launched_into_a_capture(void)
{
	CUdeviceptr pointer;
	CUgraph graph;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec exec = instantiate(graph_of(SIZE));
	OK(CU(cuMemAlloc_v2)(&pointer, limit_bytes() - slice_bytes()));
	mark(0);
	OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	OK(CU(cuGraphLaunch)(exec, stream)); // no memory yet
	OK(CU(cuStreamEndCapture)(stream, &graph));
	GREW(0);
	CUgraphExec outer = instantiate(graph);
	REFUSED(CU(cuGraphLaunch)(outer, stream));
	OK(CU(cuMemFree_v2)(pointer));
	mark(0);
	launch(outer, stream);
	GREW(SIZE);
}

// What a slice asks the driver for its accounts must not end a capture, in whatever mode.
static void looked_up_in_a_capture(void)
{
	use_device(0);
	CUstream stream = new_stream();
	CUmodule module;
	CUfunction kernel;
	CUgraph graph;
	CUdeviceptr pointer;
	OK(CU(cuModuleLoadData)(&module, "code"));
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, stream)); // a pool to look at
	OK(CU(cuMemFreeAsync)(pointer, stream));
	launch(instantiate(graph_of(SIZE)), stream); // and graphs' memory
	OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, stream));
	OK(CU(cuModuleGetFunction)(&kernel, module, "spin_1us"));
	OK(CU(cuLaunchKernel)(kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
	OK(CU(cuMemFreeAsync)(pointer, stream));
	OK(CU(cuStreamEndCapture)(stream, &graph));
	launch(instantiate(graph), stream);
}

static void freed_outside(void)
{
	CUgraph graph;
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	OK(CU(cuGraphCreate)(&graph, 0));
	add_alloc(graph, NULL, SIZE, &pointer);
	CUgraphExec exec = instantiate(graph);
	launch(exec, stream);
	OK(CU(cuDeviceGraphMemTrim)(0));
	GREW(SIZE); // in use
	OK(CU(cuMemFreeAsync)(pointer, stream));
	OK(CU(cuStreamSynchronize)(stream));
	OK(CU(cuDeviceGraphMemTrim)(0));
	GREW(0);
}

static void gone_with_the_context(void)
{
	use_device(0);
	mark(0);
	uint64_t bare = mark_outside;
	CUstream stream = new_stream();
	launch(instantiate(graph_of(SIZE)), stream);
	GREW(SIZE + FIRST_STREAM);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	use_device(0);
	EXPECT(inside_bytes(), outside_bytes(0));
	EXPECT(outside_bytes(0) == bare || outside_bytes(0) == bare + SIZE, 1);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"by_launch", by_launch}, {"by_upload", by_upload}, {"captured", captured}, {"in_a_child_graph", in_a_child_graph},
		{"refused", refused}, {"idle_memory_is_given_back", idle_memory_is_given_back},
		{"again_in_a_full_slice", again_in_a_full_slice}, {"freed_outside", freed_outside}, {"launched_into_a_capture", launched_into_a_capture},
		{"looked_up_in_a_capture", looked_up_in_a_capture}, {"gone_with_the_context", gone_with_the_context}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
