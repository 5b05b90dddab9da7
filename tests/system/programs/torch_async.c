// SPDX-License-Identifier: Apache-2.0
// torch_async: the driver calls that PyTorch makes with the allocator backend cudaMallocAsync and CUDA graphs, in their order, as its public
// source has them (c10/cuda/CUDAMallocAsyncAllocator.cpp, ATen/cuda/CUDAGraph.cpp); what tests/gpu/frameworks/torch_slice.py does with them.
// Any call that fails ends it, as an exception from a destructor ends PyTorch. See tests/system/torch_async.bats.
#include <stdbool.h>

#include "slice.h"

enum { MOST_TENSORS = 4096, POOL_STREAMS = 32 };

struct tensor {
	CUdeviceptr pointer;
	size_t bytes;
	CUstream made, recorded; // where it was made; another stream that it was used in
	bool captured;
};

static struct tensor tensors[MOST_TENSORS];
static int deferred[MOST_TENSORS], deferred_count;
static bool capturing;
static CUstream free_streams[MOST_TENSORS];
static int free_stream_count;
static CUstream unifying, current;
static size_t used_bytes;
static CUmemoryPool pool;

static void wait_for(CUstream waiting, CUstream before)
{
	CUevent event;
	OK(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
	OK(CU(cuEventRecord)(event, before));
	OK(CU(cuStreamWaitEvent)(waiting, event, 0));
	OK(CU(cuEventDestroy_v2)(event));
}

// --- The allocator.

static void initialise(void)
{
	cuuint64_t all = UINT64_MAX;
	int enable = 1;
	CUstream stream[POOL_STREAMS];
	OK(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &enable));
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC, &enable));
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES, &enable));
	for (int i = 0; i < POOL_STREAMS; i++)
		OK(CU(cuStreamCreateWithPriority)(&stream[i], CU_STREAM_NON_BLOCKING, 0));
	unifying = stream[0];
}

static void release(int i)
{
	struct tensor *tensor = &tensors[i];
	CUstream stream = tensor->made;
	if (tensor->recorded != NULL) {
		wait_for(unifying, tensor->made);
		wait_for(unifying, tensor->recorded);
		stream = unifying;
	}
	OK(CU(cuMemFreeAsync)(tensor->pointer, stream));
	if (capturing)
		free_streams[free_stream_count++] = stream;
	used_bytes -= tensor->bytes;
	tensor->pointer = 0;
}

static void drop(int i)
{
	if (capturing && !tensors[i].captured)
		deferred[deferred_count++] = i;
	else
		release(i);
}

// -1: out of memory, of which the framework then asks how much there is.
static int try_make(size_t bytes)
{
	int i = 0;
	while (!capturing && deferred_count > 0)
		release(deferred[--deferred_count]);
	while (tensors[i].pointer != 0)
		i++;
	tensors[i] = (struct tensor){.bytes = bytes, .made = current, .captured = capturing};
	CUresult result = CU(cuMemAllocAsync)(&tensors[i].pointer, bytes, current);
	if (result == CUDA_ERROR_OUT_OF_MEMORY) {
		size_t free_bytes, total_bytes;
		OK(CU(cuMemGetInfo_v2)(&free_bytes, &total_bytes));
		tensors[i].pointer = 0;
		return -1;
	}
	OK(result);
	used_bytes += bytes;
	return i;
}

static int make(size_t bytes)
{
	int i = try_make(bytes);
	EXPECT(i >= 0, 1);
	return i;
}

static void empty_cache(void)
{
	OK(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
	OK(CU(cuCtxSynchronize)());
	OK(CU(cuMemPoolTrimTo)(pool, 0));
}

static void ask_for_stats(void)
{
	cuuint64_t reserved, used;
	OK(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
	OK(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
}

// --- Graphs.

static void begin_capture(void)
{
	CUstreamCaptureStatus status;
	cuuint64_t id;
	OK(CU(cuCtxSynchronize)());
	empty_cache();
	EXPECT(capturing, false);
	capturing = true;
	OK(CU(cuStreamBeginCapture_v2)(current, CU_STREAM_CAPTURE_MODE_GLOBAL));
	OK(CU(cuStreamGetCaptureInfo_v2)(current, &status, &id, NULL, NULL, NULL));
	EXPECT(status, CU_STREAM_CAPTURE_STATUS_ACTIVE);
}

static CUgraphExec end_capture(void)
{
	CUgraph graph;
	CUgraphExec exec;
	size_t count = 0;
	// Streams in which something was freed join again.
	for (int i = 0; i < free_stream_count; i++)
		if (free_streams[i] != current)
			wait_for(current, free_streams[i]);
	free_stream_count = 0;
	OK(CU(cuStreamEndCapture)(current, &graph));
	capturing = false;
	OK(CU(cuGraphGetNodes)(graph, NULL, &count));
	EXPECT(count > 0, 1);
	OK(CU(cuGraphInstantiateWithFlags)(
		&exec, graph, CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY));
	OK(CU(cuGraphDestroy)(graph));
	return exec;
}

static void replay(CUgraphExec exec)
{
	OK(CU(cuGraphLaunch)(exec, current));
}

static void forget(CUgraphExec exec)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
	OK(CU(cuGraphExecDestroy)(exec));
	OK(CU(cuThreadExchangeStreamCaptureMode)(&mode));
}

// --- Work. A kernel is looked up when it is first launched, the CUDA runtime sees to that.

static CUlibrary library;

static void run(const char *name)
{
	CUkernel kernel;
	OK(CU(cuLibraryGetKernel)(&kernel, library, name));
	OK(CU(cuLaunchKernel)((CUfunction)(void *)kernel, 1, 1, 1, 128, 1, 1, 0, current, NULL, NULL));
}

static const size_t SMALL = 4 * MIB, LARGE = 64 * MIB, PIECE = 128 * MIB;

// (x * 2 + 1).sqrt()
static int expression(int round)
{
	char name[64];
	int doubled = make(SMALL), plus, root;
	snprintf(name, sizeof(name), "spin_1us_mul%d", round);
	run(name);
	plus = make(SMALL);
	snprintf(name, sizeof(name), "spin_1us_add%d_local2048", round); // a kernel with local memory, first met in the capture
	run(name);
	drop(doubled);
	root = make(SMALL);
	run("spin_1us_sqrt");
	drop(plus);
	return root;
}

static int fill_with_pieces(int *held)
{
	int count = 0;
	while ((held[count] = try_make(PIECE)) >= 0)
		count++;
	return count;
}

static void agrees(void)
{
	OK(CU(cuCtxSynchronize)());
	if (getenv("LD_PRELOAD") == NULL)
		return; // no slice
	EXPECT(inside_bytes() >= outside_bytes(0), 1); // the charge may be ahead by what it keeps for what comes unasked
	EXPECT(inside_bytes() - outside_bytes(0) <= HEADROOM, 1);
	EXPECT(outside_bytes(0) <= limit_bytes(), 1);
}

static CUstream capture_stream;

static void graphs(int replays)
{
	static int held[MOST_TENSORS];
	CUstream side;
	CUgraphExec exec[2];
	int result[2], scratch = -1, x, y = -1;
	use_device(0);
	OK(CU(cuLibraryLoadData)(&library, "code", NULL, NULL, 0, NULL, NULL, 0));
	initialise();
	OK(CU(cuStreamCreateWithPriority)(&side, CU_STREAM_NON_BLOCKING, 0));
	OK(CU(cuStreamCreateWithPriority)(&capture_stream, CU_STREAM_NON_BLOCKING, 0));
	x = make(SMALL);
	current = side;
	for (int i = 0; i < 3; i++) {
		if (y >= 0)
			drop(y);
		y = expression(0);
	}
	current = NULL;
	wait_for(current, side);
	for (int i = 0; i < 2; i++) {
		wait_for(capture_stream, current);
		current = capture_stream;
		begin_capture();
		int former = scratch;
		scratch = make(LARGE);
		OK(CU(cuMemsetD8Async)(tensors[scratch].pointer, 0, LARGE, current));
		if (former >= 0)
			drop(former); // the other graph's: this one frees it
		int root = expression(i + 1);
		// A branch on another stream, which joins again; what it used is freed in the stream that unites them.
		wait_for(side, current);
		current = side;
		int branch = make(SMALL);
		run("spin_1us_branch");
		current = capture_stream;
		tensors[branch].recorded = capture_stream;
		wait_for(current, side);
		drop(branch);
		if (i == 0)
			drop(y); // not of this capture: freed afterwards
		result[i] = make(SMALL);
		run("spin_1us_index");
		drop(root);
		exec[i] = end_capture();
		current = NULL;
		wait_for(current, capture_stream);
	}
	ask_for_stats();
	for (int i = 0; i < replays; i++)
		for (int graph = 0; graph < 2; graph++)
			replay(exec[graph]);
	agrees();
	// A full slice, by stream-ordered allocations: refused, and the graphs have what they need.
	int pieces = fill_with_pieces(held);
	for (int i = 0; i < replays; i++)
		for (int graph = 0; graph < 2; graph++)
			replay(exec[graph]);
	agrees();
	while (pieces > 0)
		drop(held[--pieces]);
	OK(CU(cuCtxSynchronize)());
	empty_cache();
	for (int i = 0; i < replays; i++)
		for (int graph = 0; graph < 2; graph++)
			replay(exec[graph]);
	agrees();
	// One graph goes in the midst of another one's capture. What is left of it goes afterwards.
	current = capture_stream;
	begin_capture();
	forget(exec[0]);
	drop(expression(3));
	CUgraphExec third = end_capture();
	current = NULL;
	replay(third);
	drop(result[0]);
	forget(exec[1]);
	forget(third);
	drop(result[1]);
	drop(scratch);
	drop(x);
	OK(CU(cuCtxSynchronize)());
	empty_cache();
	OK(CU(cuDeviceGraphMemTrim)(0));
	agrees();
	int all = fill_with_pieces(held); // nothing stays charged
	EXPECT(used_bytes, (size_t)all * PIECE);
	EXPECT(limit_bytes() - slice_bytes() < PIECE, 1);
	agrees();
}

static void once(void)
{
	graphs(1);
}

static void many_times(void)
{
	graphs(20);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"once", once}, {"many_times", many_times}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
