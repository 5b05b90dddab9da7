// SPDX-License-Identifier: Apache-2.0
// graph_memory TEST: memory nodes of graphs, judged from within the slice and from without. See tests/system/graph_memory.bats.
#include <pthread.h>

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

// A graph that leaves SIZE at *kept to the program, as a framework's outputs are, and allocates and frees as much beside.
static CUgraphExec graph_that_keeps(size_t bytes, CUdeviceptr *kept)
{
	CUgraph graph;
	CUgraphExec exec;
	CUdeviceptr scratch;
	OK(CU(cuGraphCreate)(&graph, 0));
	CUgraphNode node = add_alloc(graph, NULL, bytes, kept);
	node = add_alloc(graph, &node, SIZE, &scratch);
	add_free(graph, node, scratch);
	OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
	return exec;
}

// Takes all that is left of the slice.
static CUdeviceptr fill(void)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAlloc_v2)(&pointer, limit_bytes() - slice_bytes()));
	EXPECT(slice_bytes(), limit_bytes());
	return pointer;
}

// Launched again, it frees what it had left and takes no more than it has.
static void kept_in_a_full_slice(void)
{
	CUdeviceptr kept;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec exec = graph_that_keeps(SIZE, &kept);
	launch(exec, stream);
	fill();
	mark(0);
	for (int i = 0; i < 3; i++)
		launch(exec, stream);
	GREW(0);
	OK(CU(cuMemFreeAsync)(kept, stream)); // by the program
	for (int i = 0; i < 3; i++)
		launch(exec, stream);
	GREW(0);
}

static void kept_by_turns_in_a_full_slice(void)
{
	CUdeviceptr kept, other;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec exec = graph_that_keeps(SIZE, &kept), second = graph_that_keeps(2 * SIZE, &other), passing = instantiate(graph_of(SIZE));
	for (int i = 0; i < 2; i++) {
		launch(exec, stream);
		launch(second, stream);
		launch(passing, stream);
	}
	fill();
	mark(0);
	for (int i = 0; i < 3; i++) {
		launch(second, stream);
		launch(passing, stream);
		launch(exec, stream);
	}
	GREW(0);
}

// Stream-ordered allocations until they are refused leave graphs what they have.
static void beside_stream_ordered(void)
{
	CUdeviceptr kept, pointer;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec keeping = graph_that_keeps(SIZE, &kept), passing = instantiate(graph_of(3 * SIZE));
	launch(keeping, stream);
	launch(passing, stream);
	CUresult result;
	while ((result = CU(cuMemAllocAsync)(&pointer, SIZE, stream)) == CUDA_SUCCESS)
		;
	REFUSED(result);
	mark(0);
	launch(passing, stream);
	launch(keeping, stream);
	GREW(0);
}

// What one graph keeps may be what another one had: that one needs memory anew.
static void taken_from_another(void)
{
	CUdeviceptr kept;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec passing = instantiate(graph_of(2 * SIZE)), keeping = graph_that_keeps(SIZE, &kept);
	launch(passing, stream);
	mark(0);
	launch(keeping, stream);
	GREW(0); // from what is idle
	fill();
	mark(0);
	REFUSED(CU(cuGraphLaunch)(passing, stream)); // and what was idle has been given back
	EXPECT(inside_bytes() - mark_inside, outside_bytes(0) - mark_outside);
	EXPECT(slice_bytes() <= limit_bytes() - SIZE, 1);
	launch(keeping, stream);
	GREW(0);
	OK(CU(cuMemFreeAsync)(kept, stream));
}

// A graph may free what another one allocated. Whether it keeps something itself is told by addresses, not by numbers.
static void freed_by_another_graph(void)
{
	CUdeviceptr first, second;
	CUgraph graph;
	CUgraphExec exec;
	use_device(0);
	CUstream stream = new_stream();
	CUgraphExec passing = instantiate(graph_of(2 * SIZE)), keeping = graph_that_keeps(SIZE, &first);
	OK(CU(cuGraphCreate)(&graph, 0));
	CUgraphNode node = add_alloc(graph, NULL, 2 * SIZE, &second);
	add_free(graph, node, first);
	OK(CU(cuGraphInstantiateWithFlags)(&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH));
	launch(keeping, stream);
	launch(passing, stream);
	launch(exec, stream); // from what is idle, and keeps it
	fill();
	mark(0);
	REFUSED(CU(cuGraphLaunch)(passing, stream));
	EXPECT(inside_bytes() - mark_inside, outside_bytes(0) - mark_outside);
	OK(CU(cuMemFreeAsync)(second, stream));
}

static CUcontext shared_context;
static _Atomic int launched;

static void *launch_and_allocate(void *number)
{
	unsigned seed = (unsigned)(uintptr_t)number;
	CUdeviceptr kept, plain;
	OK(CU(cuCtxSetCurrent)(shared_context));
	CUstream stream = new_stream();
	CUgraphExec exec[3] = {graph_that_keeps(SIZE * (seed % 2 + 1), &kept), instantiate(graph_of(SIZE)), instantiate(graph_of(3 * SIZE))};
	for (int i = 0; i < 150; i++) {
		CUresult result = CU(cuGraphLaunch)(exec[rand_r(&seed) % 3], stream);
		EXPECT(result == CUDA_SUCCESS || result == CUDA_ERROR_OUT_OF_MEMORY, 1);
		if (result == CUDA_SUCCESS)
			launched++;
		if (rand_r(&seed) % 4 == 0 && CU(cuMemAlloc_v2)(&plain, ((unsigned)rand_r(&seed) % 4 + 1) * SIZE) == CUDA_SUCCESS)
			OK(CU(cuMemFree_v2)(plain));
		if (rand_r(&seed) % 16 == 0)
			OK(CU(cuStreamSynchronize)(stream));
		if (rand_r(&seed) % 32 == 0)
			OK(CU(cuDeviceGraphMemTrim)(0));
	}
	OK(CU(cuStreamSynchronize)(stream));
	CU(cuMemFree_v2)(kept); // which an out-of-memory may have left without
	for (int i = 0; i < 3; i++)
		OK(CU(cuGraphExecDestroy)(exec[i]));
	OK(CU(cuStreamDestroy_v2)(stream));
	return NULL;
}

// Threads that launch, allocate and trim in a slice too small for all of it: the bats file sees that they never stood above it.
static void many_threads(void)
{
	enum { THREADS = 4 };
	pthread_t thread[THREADS];
	shared_context = use_device(0);
	mark(0);
	for (uintptr_t i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, launch_and_allocate, (void *)i);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	EXPECT(launched > 0, 1);
	OK(CU(cuDeviceGraphMemTrim)(0));
	GREW(0);
}

// The error is told in the parameters too.
static void refused_instantiation(void)
{
	CUDA_GRAPH_INSTANTIATE_PARAMS params = {.result_out = CUDA_GRAPH_INSTANTIATE_SUCCESS};
	CUgraphNode node = NULL;
	CUgraphExec exec;
	CUgraph graph;
	use_device(0);
	OK(CU(cuGraphCreate)(&graph, 0));
	for (int i = 0; i < 2000; i++) // more than the headroom holds
		OK(CU(cuGraphAddEmptyNode)(&node, graph, NULL, 0));
	params.hErrNode_out = node;
	fill();
	mark(0);
	REFUSED(CU(cuGraphInstantiateWithParams)(&exec, graph, &params));
	EXPECT(params.result_out, CUDA_GRAPH_INSTANTIATE_ERROR);
	EXPECT(params.hErrNode_out == NULL, 1);
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
		{"looked_up_in_a_capture", looked_up_in_a_capture}, {"gone_with_the_context", gone_with_the_context},
		{"kept_in_a_full_slice", kept_in_a_full_slice}, {"kept_by_turns_in_a_full_slice", kept_by_turns_in_a_full_slice},
		{"taken_from_another", taken_from_another}, {"beside_stream_ordered", beside_stream_ordered}, {"freed_by_another_graph", freed_by_another_graph},
		{"refused_instantiation", refused_instantiation}, {"many_threads", many_threads}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
