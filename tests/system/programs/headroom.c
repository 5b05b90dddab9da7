// SPDX-License-Identifier: Apache-2.0
// headroom TEST: what the driver takes unasked stays within the slice. See tests/system/headroom.bats.
#include "slice.h"

#define MOST_STREAMS 64

static uint64_t left_bytes(void)
{
	return limit_bytes() - slice_bytes();
}

// Streams until the slice has no room for another.
static int fill_with_streams(CUstream stream[MOST_STREAMS])
{
	for (int count = 0; count < MOST_STREAMS; count++) {
		CUresult result = count % 2 == 0 ? CU(cuStreamCreate)(&stream[count], CU_STREAM_NON_BLOCKING)
		                                 : CU(cuStreamCreateWithPriority)(&stream[count], CU_STREAM_NON_BLOCKING, 0);
		EXPECT(outside_bytes(0) <= limit_bytes(), 1);
		if (result != CUDA_SUCCESS) {
			EXPECT(result, CUDA_ERROR_OUT_OF_MEMORY);
			return count;
		}
	}
	return MOST_STREAMS;
}

static void streams(void)
{
	CUstream stream[MOST_STREAMS];
	use_device(0);
	CUdeviceptr some = allocate_plain(20 * MIB);
	allocate_plain(left_bytes());
	EXPECT(left_bytes(), 0);
	// Each may take two blocks, which the headroom has for the first alone; it took one.
	EXPECT(fill_with_streams(stream), 1);
	EXPECT(outside_bytes(0), limit_bytes() - HEADROOM + 2 * MIB);
	OK(CU(cuMemFree_v2)(some));
	OK(CU(cuStreamCreate)(&stream[1], 0)); // shares the block
	EXPECT(outside_bytes(0), limit_bytes() - HEADROOM + 2 * MIB - 20 * MIB);
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM); // filled up again
	for (int i = 0; i < 2; i++)
		OK(CU(cuStreamDestroy_v2)(stream[i]));
	EXPECT(outside_bytes(0), limit_bytes() - HEADROOM - 20 * MIB);
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
}

static CUresult make_graph(CUgraphExec *exec, int nodes)
{
	CUgraph graph;
	CUgraphNode node;
	OK(CU(cuGraphCreate)(&graph, 0));
	for (int i = 0; i < nodes; i++)
		OK(CU(cuGraphAddEmptyNode)(&node, graph, NULL, 0));
	CUresult result = CU(cuGraphInstantiateWithFlags)(exec, graph, 0);
	OK(CU(cuGraphDestroy)(graph));
	return result;
}

static void graphs(void)
{
	CUgraphExec exec[64];
	int count = 0;
	use_device(0);
	mark(0);
	OK(make_graph(&exec[0], 3000));
	EXPECT(outside_bytes(0) > mark_outside, 1);
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
	OK(CU(cuGraphExecDestroy)(exec[0]));
	CUdeviceptr some = allocate_plain(32 * MIB);
	allocate_plain(left_bytes());
	REFUSED(make_graph(&exec[0], 3000)); // 12 MiB of nodes at most
	for (CUresult result = CUDA_SUCCESS; result == CUDA_SUCCESS; count++) {
		result = make_graph(&exec[count], 1);
		EXPECT(outside_bytes(0) <= limit_bytes(), 1);
		EXPECT(count < 63, 1);
	}
	EXPECT(count > 1, 1);
	OK(CU(cuMemFree_v2)(some));
	OK(make_graph(&exec[0], 3000));
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
}

// A kernel that is there already is found in a full slice, as on a full GPU; small code comes out of the headroom, and no more of it than that.
static void code(void)
{
	CUmodule module, more;
	CUlibrary library;
	CUfunction function;
	CUkernel kernel;
	use_device(0);
	OK(CU(cuModuleLoadData)(&module, "code"));
	OK(CU(cuLibraryLoadData)(&library, "code", NULL, NULL, 0, NULL, NULL, 0));
	OK(CU(cuModuleGetFunction)(&function, module, "spin_1us"));
	OK(CU(cuLibraryGetKernel)(&kernel, library, "spin_1us"));
	CUdeviceptr some = allocate_plain(20 * MIB);
	allocate_plain(left_bytes());
	for (int i = 0; i < 3; i++) {
		OK(CU(cuModuleGetFunction)(&function, module, "spin_1us"));
		OK(CU(cuLibraryGetKernel)(&kernel, library, "spin_1us"));
		EXPECT(left_bytes(), 0);
		EXPECT(outside_bytes(0), limit_bytes() - HEADROOM);
	}
	for (int i = 0; i < 8 && CU(cuModuleLoadData)(&more, "softmig-sim-module code=1500K") == CUDA_SUCCESS; i++)
		EXPECT(outside_bytes(0) <= limit_bytes(), 1);
	EXPECT(outside_bytes(0) > limit_bytes() - HEADROOM, 1);
	EXPECT(outside_bytes(0) <= limit_bytes(), 1);
	OK(CU(cuMemFree_v2)(some));
	OK(CU(cuModuleLoadData)(&more, "softmig-sim-module code=1500K"));
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
}

// With the driver taking a block for itself now and then.
static void starved(void)
{
	CUdeviceptr pointer[32];
	use_device(0);
	CUdeviceptr some = allocate_plain(64 * MIB);
	allocate_plain(left_bytes());
	for (int i = 0; i < 32; i++) {
		if (CU(cuMemAlloc_v2)(&pointer[i], 1000) != CUDA_SUCCESS)
			pointer[i] = 0;
		usleep(30000);
		REFUSED(CU(cuMemAlloc_v2)(&(CUdeviceptr){0}, 64 * MIB)); // asks NVML
		EXPECT(outside_bytes(0) <= limit_bytes(), 1);
		EXPECT(slice_bytes() >= outside_bytes(0), 1);
	}
	OK(CU(cuMemFree_v2)(some));
	allocate_plain(16 * MIB);
	EXPECT(outside_bytes(0) <= limit_bytes(), 1);
}

// Headroom comes with a process's first context on a GPU and goes with the last.
static void with_the_context(void)
{
	CUcontext context;
	use_device(0);
	uint64_t one = slice_bytes();
	EXPECT(one, outside_bytes(0) + HEADROOM);
	OK(CU(cuCtxCreate_v2)(&context, 0, 0));
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
	OK(CU(cuCtxDestroy_v2)(context));
	context = use_device(1);
	EXPECT(slice_bytes(), outside_bytes(1) + HEADROOM);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	EXPECT(outside_bytes(0), 0);
	use_device(0);
	EXPECT(slice_bytes(), one);
	EXPECT(CU(cuDevicePrimaryCtxRelease_v2)(0), CUDA_SUCCESS);
	OK(CU(cuCtxSetCurrent)(context));
	EXPECT(slice_bytes(), outside_bytes(1) + HEADROOM);
}

// A context fits that has room for its headroom, to the byte.
static void context_fits(void)
{
	CUcontext context;
	OK(CU(cuInit)(0));
	OK(CU(cuDevicePrimaryCtxRetain)(&context, 0));
	OK(CU(cuCtxSetCurrent)(context));
	uint64_t bare = outside_bytes(0);
	allocate_plain(left_bytes() - bare);
	OK(CU(cuCtxCreate_v2)(&context, 0, 0)); // a second one brings none
	EXPECT(left_bytes(), 0);
	EXPECT(outside_bytes(0), limit_bytes() - HEADROOM);
}

// A pool that gives memory back while nobody asks it, and grows again to what it had.
static void pool_grows_again(void)
{
	CUstream stream;
	CUmemoryPool pool;
	CUdeviceptr held, pointer;
	cuuint64_t keep = 64 * MIB, none = 0;
	use_device(0);
	OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
	OK(CU(cuDeviceGetDefaultMemPool)(&pool, 0));
	OK(CU(cuMemAllocAsync)(&held, 30 * MIB, stream));
	for (int i = 0; i < 4; i++) {
		OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep));
		OK(CU(cuMemAllocAsync)(&pointer, 30 * MIB, stream));
		OK(CU(cuMemFreeAsync)(pointer, stream));
		OK(CU(cuStreamSynchronize)(stream));
		OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &none));
		OK(CU(cuStreamSynchronize)(stream)); // nothing was freed since
		CUstream other;
		OK(CU(cuStreamCreate)(&other, CU_STREAM_NON_BLOCKING)); // asks NVML
		OK(CU(cuMemAllocAsync)(&pointer, 30 * MIB, stream));
		EXPECT(slice_bytes() >= outside_bytes(0) + HEADROOM, 1);
		OK(CU(cuMemFreeAsync)(pointer, stream));
		OK(CU(cuStreamSynchronize)(stream));
		OK(CU(cuStreamDestroy_v2)(other));
		EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
	}
}

// What a larger allocation leaves of its block goes to smaller ones: one block, whichever goes first.
static void shared_with_larger_ones(void)
{
	use_device(0);
	for (int i = 0; i < 2; i++) {
		mark(0);
		CUdeviceptr large = allocate_plain(3 * MIB / 2), small = allocate_plain(300 * KIB);
		EXPECT(large >> 21, small >> 21);
		GREW(2 * MIB);
		OK(CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 1024)); // asks NVML
		GREW(2 * MIB);
		OK(CU(cuMemFree_v2)(i == 0 ? large : small));
		GREW(2 * MIB);
		OK(CU(cuMemFree_v2)(i == 0 ? small : large));
		GREW(0);
	}
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"streams", streams}, {"graphs", graphs}, {"code", code}, {"starved", starved}, {"with_the_context", with_the_context},
	                                    {"context_fits", context_fits}, {"pool_grows_again", pool_grows_again},
	                                    {"shared_with_larger_ones", shared_with_larger_ones}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
