// SPDX-License-Identifier: Apache-2.0
// Stream-ordered memory: pools reserve in chunks, keep or give back, tell the truth about it, and yield before an
// out-of-memory.
#include "check.h"

static uint64_t attribute(CUmemoryPool pool, CUmemPool_attribute which)
{
	uint64_t value;
	OK(cuMemPoolGetAttribute(pool, which, &value));
	return value;
}

static void a_pool_reserves_chunks_and_trims_them_when_synchronised(void)
{
	CUmemoryPool pool;
	CUdeviceptr a, b;
	size_t before = free_bytes();
	OK(cuDeviceGetDefaultMemPool(&pool, 0));
	OK(cuMemAllocAsync(&a, MIB, NULL));
	EQUAL(before - free_bytes(), 32 * MIB);
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 32 * MIB);
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), MIB);
	OK(cuMemAllocAsync(&b, 40 * MIB, NULL));
	EQUAL(before - free_bytes(), 64 * MIB);
	OK(cuMemsetD8Async(b, 3, 40 * MIB, NULL));
	char last;
	OK(cuMemcpyDtoH_v2(&last, b + 40 * MIB - 1, 1));
	EQUAL(last, 3);
	OK(cuMemFreeAsync(b, NULL));
	EQUAL(before - free_bytes(), 64 * MIB);
	OK(cuStreamSynchronize(NULL));
	EQUAL(before - free_bytes(), 32 * MIB);
	uint64_t threshold = 64 * MIB, zero = 0;
	OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
	OK(cuMemFreeAsync(a, NULL));
	OK(cuStreamSynchronize(NULL));
	EQUAL(before - free_bytes(), 32 * MIB);
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 0);
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 64 * MIB);
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH), 41 * MIB);
	OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH, &zero));
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH), 32 * MIB);
	OK(cuMemPoolTrimTo(pool, 0));
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
	EQUAL(before - free_bytes(), 32 * MIB); // which stay with the process after its first use of a pool
	EQUAL(cuMemFreeAsync(a, NULL), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &zero));
}

static void memory_is_reused_in_its_stream_at_once_and_elsewhere_when_done(void)
{
	CUmodule module;
	CUfunction spin;
	CUstream one, two;
	CUdeviceptr a, b, c;
	OK(cuModuleLoadData(&module, "softmig-sim-module"));
	OK(cuModuleGetFunction(&spin, module, "spin_30ms"));
	OK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
	OK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
	size_t before = free_bytes();
	OK(cuMemAllocAsync(&a, 32 * MIB, one));
	OK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, one, NULL, NULL));
	OK(cuMemFreeAsync(a, one));
	OK(cuMemAllocAsync(&b, 32 * MIB, two)); // the kernel may still use a
	CHECK(b != a);
	EQUAL(before - free_bytes(), 32 * MIB); // beside those that stay
	OK(cuMemAllocAsync(&c, 32 * MIB, one));
	EQUAL(c, a);
	OK(cuMemFreeAsync(c, one));
	OK(cuMemFree_v2(b)); // synchronises: both are idle now
	OK(cuStreamSynchronize(one));
	EQUAL(free_bytes(), before);
	OK(cuStreamDestroy_v2(one));
	OK(cuStreamDestroy_v2(two));
}

static void own_pools_count_too_and_yield_before_a_refusal(void)
{
	CUmemoryPool pool, current;
	CUmemPoolProps props = {
		.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUdeviceptr a, all;
	size_t before = free_bytes();
	uint64_t for_ever = UINT64_MAX;
	OK(cuMemPoolCreate(&pool, &props));
	OK(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &for_ever));
	OK(cuMemAllocFromPoolAsync(&a, 100 * MIB, pool, NULL));
	EQUAL(before - free_bytes(), 96 * MIB);
	OK(cuMemFreeAsync(a, NULL));
	OK(cuStreamSynchronize(NULL));
	EQUAL(before - free_bytes(), 96 * MIB);
	OK(cuMemAlloc_v2(&all, before / (2 * MIB) * (2 * MIB)));
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT), 0);
	EQUAL(cuMemAllocFromPoolAsync(&a, 33 * MIB, pool, NULL), CUDA_ERROR_OUT_OF_MEMORY); // 32 MiB it could have
	OK(cuMemFree_v2(all));
	OK(cuDeviceSetMemPool(0, pool));
	OK(cuMemAllocAsync(&a, 10, NULL));
	EQUAL(attribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT), 512);
	OK(cuMemPoolDestroy(pool));
	OK(cuDeviceGetMemPool(&current, 0));
	CHECK(current != pool);
	EQUAL(before - free_bytes(), 0);
	OK(cuMemFreeAsync(a, NULL)); // the last of a destroyed pool
	OK(cuCtxSynchronize());
	EQUAL(free_bytes(), before);
}

static void a_limited_pool_keeps_its_limit(void)
{
	CUmemoryPool pool;
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
		.maxSize = 64 * MIB};
	CUdeviceptr a, b;
	OK(cuMemPoolCreate(&pool, &props));
	OK(cuMemAllocFromPoolAsync(&a, 60 * MIB, pool, NULL));
	EQUAL(cuMemAllocFromPoolAsync(&b, 10 * MIB, pool, NULL), CUDA_ERROR_OUT_OF_MEMORY);
	OK(cuMemFree_v2(a));
	OK(cuMemPoolDestroy(pool));
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	start(0);
	a_pool_reserves_chunks_and_trims_them_when_synchronised();
	memory_is_reused_in_its_stream_at_once_and_elsewhere_when_done();
	own_pools_count_too_and_yield_before_a_refusal();
	a_limited_pool_keeps_its_limit();
	EQUAL(process_bytes(0, getpid()), (518 + 2 + 32) * MIB); // the module's code, and what stays of the pools
	return 0;
}
