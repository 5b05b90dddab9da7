// SPDX-License-Identifier: Apache-2.0
// pool TEST: stream-ordered allocations, judged from within the slice and from without. See tests/system/pool.bats.
#include <pthread.h>

#include "slice.h"

static CUstream new_stream(void)
{
	CUstream stream;
	OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
	return stream;
}

static CUdeviceptr allocate(size_t bytes, CUstream stream)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAllocAsync)(&pointer, bytes, stream));
	return pointer;
}

static void release(CUdeviceptr pointer, CUstream stream)
{
	OK(CU(cuMemFreeAsync)(pointer, stream));
}

static void synchronise(CUstream stream)
{
	OK(CU(cuStreamSynchronize)(stream));
}

static CUmemoryPool default_pool(CUdevice device)
{
	CUmemoryPool pool;
	OK(CU(cuDeviceGetDefaultMemPool)(&pool, device));
	return pool;
}

static CUmemoryPool new_pool(CUdevice device)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	CUmemoryPool pool;
	OK(CU(cuMemPoolCreate)(&pool, &props));
	return pool;
}

static void keep_everything(CUmemoryPool pool)
{
	cuuint64_t all = UINT64_MAX;
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
}

// Within equals without, whatever the sum is.
static void agrees(void)
{
	EXPECT(inside_bytes() - mark_inside, outside_bytes(mark_gpu) - mark_outside);
}

static void charged_by_what_the_pool_holds(void)
{
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUdeviceptr a = allocate(MIB, stream);
	GREW(32 * MIB);
	CUdeviceptr b = allocate(2 * MIB, stream);
	GREW(32 * MIB); // fits
	CUdeviceptr c = allocate(33 * MIB, stream);
	GREW(64 * MIB); // it goes on behind what is left of the first 32
	CUdeviceptr d = allocate(100 * MIB, stream);
	GREW(160 * MIB);
	release(d, stream);
	release(c, stream);
	GREW(160 * MIB); // until the next synchronisation
	synchronise(stream);
	GREW(32 * MIB);
	release(a, stream);
	release(b, stream);
	synchronise(stream);
	agrees();
	OK(CU(cuMemPoolTrimTo)(default_pool(0), 0));
	agrees();
}

static void every_synchronisation_gives_back(void)
{
	CUevent event;
	use_device(0);
	CUstream stream = new_stream();
	OK(CU(cuEventCreate)(&event, CU_EVENT_DISABLE_TIMING));
	release(allocate(MIB, stream), stream);
	synchronise(stream);
	mark(0);
	for (int way = 0; way < 4; way++) {
		CUdeviceptr pointer = allocate(200 * MIB, stream);
		EXPECT(inside_bytes() - mark_inside >= 192 * MIB, 1);
		if (way == 3)
			OK(CU(cuMemFree_v2)(pointer));
		else
			release(pointer, stream);
		OK(CU(cuEventRecord)(event, stream));
		OK(way == 0 ? CU(cuEventSynchronize)(event) : way == 1 ? CU(cuCtxSynchronize)() : CU(cuStreamSynchronize)(stream));
		GREW(0);
	}
}

static void own_pool(void)
{
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUmemoryPool pool = new_pool(0);
	keep_everything(pool);
	GREW(0);
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, 64 * MIB, pool, stream));
	GREW(64 * MIB);
	release(pointer, stream);
	synchronise(stream);
	GREW(64 * MIB); // kept
	OK(CU(cuMemPoolTrimTo)(pool, 0));
	GREW(0);
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, 512 * MIB, pool, stream)); // more than a context takes
	OK(CU(cuMemPoolDestroy)(pool));
	agrees(); // what is taken out stays until it is freed
	release(pointer, stream);
	synchronise(stream);
	usleep(600000); // only NVML knows of it: at the next measurement
	CUdeviceptr other;
	OK(CU(cuMemAlloc_v2)(&other, 2 * MIB));
	GREW(2 * MIB);
}

static void current_pool(void)
{
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUmemoryPool pool = new_pool(0);
	OK(CU(cuDeviceSetMemPool)(0, pool));
	CUdeviceptr pointer = allocate(64 * MIB, stream);
	GREW(64 * MIB);
	cuuint64_t used;
	OK(CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
	EXPECT(used, 64 * MIB);
	release(pointer, stream);
	synchronise(stream);
	GREW(0);
}

static void refused_and_recovered(void)
{
	CUdeviceptr pointer = 0, plain;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	REFUSED(CU(cuMemAllocAsync)(&pointer, left + 32 * MIB, stream));
	REFUSED(CU(cuMemAllocAsync_ptsz)(&pointer, left + 32 * MIB, stream));
	REFUSED(CU(cuMemAllocFromPoolAsync)(&pointer, left + 32 * MIB, default_pool(0), stream));
	REFUSED(CU(cuMemAllocFromPoolAsync_ptsz)(&pointer, left + 32 * MIB, default_pool(0), stream));
	GREW(0);
	size_t most = left / (32 * MIB) * (32 * MIB);
	pointer = allocate(most, stream);
	GREW(most);
	REFUSED(CU(cuMemAlloc_v2)(&plain, left - most + 1));
	release(pointer, stream);
	synchronise(stream);
	agrees();
	OK(CU(cuMemAlloc_v2)(&plain, most));
}

// Idle memory of pools is given back before anything is refused: to plain memory and to other pools.
static void idle_memory_is_given_back(void)
{
	CUdeviceptr pointer, other;
	use_device(0);
	CUstream stream = new_stream();
	CUmemoryPool pool = new_pool(0);
	keep_everything(pool);
	keep_everything(default_pool(0));
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes(), most = left / (32 * MIB) * (32 * MIB);
	release(allocate(most, stream), stream);
	synchronise(stream);
	GREW(most);
	OK(CU(cuMemAllocFromPoolAsync)(&other, most, pool, stream));
	GREW(most);
	release(other, stream);
	synchronise(stream);
	OK(CU(cuMemAlloc_v2)(&pointer, left));
	GREW(left);
}

// A slice that is full keeps allocating from what its pool has.
static void within_a_full_pool(void)
{
	CUdeviceptr plain, kept;
	use_device(0);
	CUstream stream = new_stream(), other = new_stream();
	keep_everything(default_pool(0));
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	CUdeviceptr pointer = allocate(256 * MIB, stream);
	OK(CU(cuMemAlloc_v2)(&plain, left - 256 * MIB));
	GREW(left);
	release(pointer, stream);
	for (int i = 1; i <= 100; i++) {
		pointer = allocate((unsigned)i * MIB, stream);
		release(pointer, stream);
	}
	GREW(left);
	// Another stream too, when the memory is idle for it.
	synchronise(stream);
	pointer = allocate(64 * MIB, other);
	agrees();
	EXPECT(outside_bytes(0) <= limit_bytes(), 1);
	release(pointer, other);
	kept = allocate(16 * MIB, stream);
	for (int i = 0; i < 20; i++) {
		pointer = allocate(4 * MIB, stream);
		release(pointer, stream);
	}
	release(kept, stream);
	agrees();
	EXPECT(outside_bytes(0) <= limit_bytes(), 1);
}

static void on_the_second_gpu(void)
{
	CUcontext first = use_device(0);
	CUdeviceptr pointer, none;
	use_device(1);
	CUstream stream = new_stream();
	mark(1);
	OK(CU(cuCtxSetCurrent)(first));
	uint64_t here = inside_bytes();
	pointer = allocate(64 * MIB, stream); // a stream of the other device
	EXPECT(inside_bytes(), here);
	use_device(1);
	GREW(64 * MIB);
	OK(CU(cuCtxSetCurrent)(first));
	REFUSED(CU(cuMemAllocFromPoolAsync)(&none, limit_bytes(), default_pool(1), stream));
	release(pointer, stream);
	synchronise(stream);
	use_device(1);
	agrees();
}

static void host_pool_is_free(void)
{
	CUmemLocation host = {.type = CU_MEM_LOCATION_TYPE_HOST};
	CUmemoryPool pool;
	CUdeviceptr pointer;
	use_device(0);
	CUstream stream = new_stream();
	mark(0);
	CUresult result = CU(cuMemGetDefaultMemPool)(&pool, &host, CU_MEM_ALLOCATION_TYPE_PINNED);
	if (result != CUDA_SUCCESS)
		exit(77); // no such pool in this driver
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, 64 * MIB, pool, stream));
	GREW(0);
}

// cuMemFree waits for the device: that is a synchronisation, too.
static void freeing_synchronises(void)
{
	CUdeviceptr plain;
	use_device(0);
	CUstream stream = new_stream();
	release(allocate(MIB, stream), stream);
	synchronise(stream);
	mark(0);
	for (int i = 0; i < 3; i++) {
		OK(CU(cuMemAlloc_v2)(&plain, 2 * MIB));
		release(allocate(320 * MIB, stream), stream);
		GREW(2 * MIB + 320 * MIB);
		OK(CU(cuMemFree_v2)(plain));
		GREW(0);
		synchronise(stream);
		GREW(0);
	}
}

// While capturing, an allocation is a node of a graph.
static void captured_is_not_charged(void)
{
	CUdeviceptr pointer, all;
	CUgraph graph;
	use_device(0);
	CUstream stream = new_stream();
	OK(CU(cuMemAlloc_v2)(&all, limit_bytes() - slice_bytes()));
	mark(0);
	OK(CU(cuStreamBeginCapture_v2)(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
	pointer = allocate(64 * MIB, stream);
	release(pointer, stream);
	OK(CU(cuStreamEndCapture)(stream, &graph));
	GREW(0);
}

// The driver refuses what is no pool, and nothing is charged for it.
static void no_such_pool(void)
{
	CUdeviceptr pointer, plain;
	use_device(0);
	CUstream stream = new_stream();
	CUmemoryPool pool = new_pool(0), never_used = new_pool(0);
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, MIB, pool, stream));
	release(pointer, stream);
	synchronise(stream);
	OK(CU(cuMemPoolDestroy)(pool));
	OK(CU(cuMemPoolDestroy)(never_used));
	mark(0);
	for (int i = 0; i < 5; i++) {
		EXPECT(CU(cuMemAllocFromPoolAsync)(&pointer, MIB, NULL, stream), CUDA_ERROR_INVALID_VALUE);
		EXPECT(CU(cuMemAllocFromPoolAsync)(&pointer, MIB, pool, stream), CUDA_ERROR_INVALID_VALUE);
		EXPECT(CU(cuMemAllocFromPoolAsync)(&pointer, MIB, never_used, stream), CUDA_ERROR_INVALID_VALUE);
		EXPECT(CU(cuMemAllocAsync)(NULL, MIB, stream), CUDA_ERROR_INVALID_VALUE);
		EXPECT(CU(cuMemAllocAsync)(&pointer, 0, stream), CUDA_ERROR_INVALID_VALUE);
	}
	GREW(0);
	OK(CU(cuMemAlloc_v2)(&plain, limit_bytes() - slice_bytes()));
}

static CUcontext shared_context;

static void *use_pools(void *unused)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	CUstream stream = new_stream();
	for (int i = 0; i < 60; i++) {
		CUmemoryPool pool = new_pool(0);
		CUdeviceptr pointer[3], plain;
		int count = 0;
		while (count < 3 && CU(cuMemAllocFromPoolAsync)(&pointer[count], (unsigned)(i % 5 + 1) * 30 * MIB, pool, stream) == CUDA_SUCCESS)
			count++;
		if (CU(cuMemAlloc_v2)(&plain, 300 * MIB) == CUDA_SUCCESS) // a refusal trims all pools
			OK(CU(cuMemFree_v2)(plain));
		while (count > 0)
			release(pointer[--count], stream);
		synchronise(stream);
		OK(CU(cuMemPoolDestroy)(pool));
	}
	return unused;
}

// Threads that make and destroy pools while others are refused, which trims.
static void many_threads(void)
{
	pthread_t thread[4];
	shared_context = use_device(0);
	mark(0);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, use_pools, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	usleep(600000);
	CUdeviceptr plain;
	OK(CU(cuMemAlloc_v2)(&plain, 2 * MIB)); // measures
	GREW(2 * MIB + FIRST_STREAM); // four streams share one block
}

static void after_reset(void)
{
	use_device(0);
	uint64_t bare = outside_bytes(0);
	CUstream stream = new_stream();
	keep_everything(default_pool(0));
	for (int i = 0; i < 3; i++) {
		allocate(512 * MIB, stream); // more than a context takes
		OK(CU(cuDevicePrimaryCtxReset_v2)(0));
		use_device(0);
		EXPECT(inside_bytes(), outside_bytes(0));
		EXPECT(inside_bytes(), bare);
		stream = new_stream();
	}
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"charged_by_what_the_pool_holds", charged_by_what_the_pool_holds},
	                                    {"every_synchronisation_gives_back", every_synchronisation_gives_back},
	                                    {"own_pool", own_pool},
	                                    {"current_pool", current_pool},
	                                    {"refused_and_recovered", refused_and_recovered},
	                                    {"idle_memory_is_given_back", idle_memory_is_given_back},
	                                    {"within_a_full_pool", within_a_full_pool},
	                                    {"on_the_second_gpu", on_the_second_gpu},
	                                    {"host_pool_is_free", host_pool_is_free},
	                                    {"freeing_synchronises", freeing_synchronises},
	                                    {"captured_is_not_charged", captured_is_not_charged},
	                                    {"many_threads", many_threads}, {"no_such_pool", no_such_pool},
	                                    {"after_reset", after_reset},
	                                    {NULL, NULL}};
	return run_test(argc, argv, tests);
}
