// SPDX-License-Identifier: Apache-2.0
// Plain memory: what is charged, what moves, what is refused, and that the outside sees the same. GPUs: H200, then a
// small one.
#include "check.h"

static void a_context_costs_what_the_h200_was_measured_to_cost(void)
{
	size_t free, total;
	start(0);
	OK(cuMemGetInfo_v2(&free, &total));
	EQUAL(total, 143155 * MIB);
	EQUAL(free, 142637 * MIB);
	EQUAL(process_bytes(0, getpid()), 518 * MIB);
	OK(cuMemGetInfo_v2(NULL, &total));
	OK(cuMemGetInfo_v2(&free, NULL));
	OK(cuMemGetInfo_v2(NULL, NULL));
	OK(cuDeviceTotalMem_v2(&total, 0));
	EQUAL(total, 143155 * MIB);
}

static void small_allocations_share_a_block_of_2_mib(void)
{
	CUdeviceptr first, second, third;
	size_t before = free_bytes();
	OK(cuMemAlloc_v2(&first, 1));
	EQUAL(before - free_bytes(), 2 * MIB);
	OK(cuMemAlloc_v2(&second, MIB));
	EQUAL(before - free_bytes(), 2 * MIB);
	EQUAL(second % 256, 0);
	OK(cuMemAlloc_v2(&third, MIB));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuMemFree_v2(first));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuMemFree_v2(second));
	EQUAL(before - free_bytes(), 2 * MIB);
	OK(cuMemFree_v2(third));
	EQUAL(before - free_bytes(), 0);
}

static void large_ones_take_whole_granules(void)
{
	CUdeviceptr at;
	size_t before = free_bytes(), pitch;
	OK(cuMemAlloc_v2(&at, 3 * MIB));
	EQUAL(before - free_bytes(), 4 * MIB);
	EQUAL(process_bytes(0, getpid()), 522 * MIB);
	OK(cuMemFree_v2(at));
	OK(cuMemAllocPitch_v2(&at, &pitch, 1000, 5000, 4));
	EQUAL(pitch, 1024);
	EQUAL(before - free_bytes(), 6 * MIB);
	OK(cuMemFree_v2(at));
	EQUAL(cuMemAllocPitch_v2(&at, &pitch, 1000, 5000, 3), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemAlloc_v2(&at, 0), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemFree_v2(0x1234), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemFree_v2(0));
}

static void the_gpu_can_be_filled_and_no_further(void)
{
	CUdeviceptr all, more;
	size_t free = free_bytes() / (2 * MIB) * (2 * MIB); // the GPU has an odd number of MiB
	EQUAL(cuMemAlloc_v2(&all, free + 1), CUDA_ERROR_OUT_OF_MEMORY);
	OK(cuMemAlloc_v2(&all, free));
	EQUAL(free_bytes(), MIB);
	EQUAL(cuMemAlloc_v2(&more, 1), CUDA_ERROR_OUT_OF_MEMORY);
	EQUAL(used_bytes(0), 143154 * MIB);
	OK(cuMemsetD32_v2(all + free - 64, 7, 16));
	unsigned last[16];
	OK(cuMemcpyDtoH_v2(last, all + free - 64, 64));
	EQUAL(last[15], 7);
	OK(cuMemFree_v2(all));
	EQUAL(free_bytes(), free + MIB);
}

static void bytes_move(void)
{
	CUdeviceptr a, b;
	char in[5000], out[5000];
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (char)(i * 7);
	OK(cuMemAlloc_v2(&a, 8192));
	OK(cuMemAlloc_v2(&b, 4 * MIB));
	OK(cuMemcpyHtoD_v2(a, in, sizeof(in)));
	OK(cuMemcpyDtoD_v2(b + 100, a, sizeof(in)));
	OK(cuMemcpyDtoH_v2(out, b + 100, sizeof(out)));
	EQUAL(memcmp(in, out, sizeof(in)), 0);
	OK(cuMemsetD16_v2(a, 0x1234, 10));
	OK(cuMemcpyAsync((CUdeviceptr)(uintptr_t)out, a, 20, NULL));
	OK(cuStreamSynchronize(NULL));
	EQUAL(out[18], 0x34);
	EQUAL(out[19], 0x12);
	EQUAL(cuMemcpyHtoD_v2(a, in, 8193), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)out, in, 10), CUDA_ERROR_INVALID_VALUE);
	CUDA_MEMCPY2D rows = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = in,
		.srcPitch = 100,
		.dstMemoryType = CU_MEMORYTYPE_DEVICE,
		.dstDevice = b,
		.dstPitch = 512,
		.WidthInBytes = 100,
		.Height = 50};
	OK(cuMemcpy2D_v2(&rows));
	OK(cuMemcpyDtoH_v2(out, b + 49 * 512, 100));
	EQUAL(memcmp(in + 4900, out, 100), 0);
	OK(cuMemFree_v2(a));
	OK(cuMemFree_v2(b));
}

static void pointers_say_what_they_are(void)
{
	CUdeviceptr at, base;
	void *host;
	unsigned type, managed;
	size_t size;
	int ordinal;
	OK(cuMemAlloc_v2(&at, 1000));
	OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at + 999));
	EQUAL(type, CU_MEMORYTYPE_DEVICE);
	OK(cuMemGetAddressRange_v2(&base, &size, at + 10));
	EQUAL(base, at);
	EQUAL(size, 1000);
	OK(cuMemHostAlloc(&host, 100, 0));
	OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)host));
	EQUAL(type, CU_MEMORYTYPE_HOST);
	EQUAL(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)(uintptr_t)&size),
		CUDA_ERROR_INVALID_VALUE);
	CUpointer_attribute which[] = {
		CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_IS_MANAGED, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL};
	void *where[] = {&type, &managed, &ordinal};
	OK(cuPointerGetAttributes(3, which, where, (CUdeviceptr)(uintptr_t)&size));
	EQUAL(type, 0);
	EQUAL(ordinal, -2);
	OK(cuMemFreeHost(host));
	OK(cuMemFree_v2(at));
	size_t before = free_bytes();
	OK(cuMemAllocManaged(&at, 100 * MIB, CU_MEM_ATTACH_GLOBAL));
	EQUAL(before - free_bytes(), 0);
	OK(cuPointerGetAttributes(3, which, where, at));
	EQUAL(managed, 1);
	OK(cuMemPrefetchAsync(at, 50 * MIB, 0, NULL));
	EQUAL(before - free_bytes(), 50 * MIB);
	memset((void *)(uintptr_t)at, 1, 10);
	OK(cuMemFree_v2(at));
	EQUAL(before - free_bytes(), 0);
}

// As measured: the distance of six of one size, and what 600 of 4 KiB take once the GPU has touched them.
static void small_managed_ones_share_blocks_of_a_range_of_their_own(void)
{
	static const struct {
		uint64_t bytes, apart;
	} seen[] = {{4096, 4096}, {65536, 65536}, {MIB, MIB}, {2 * MIB - 4096, 2 * MIB}, {2 * MIB, 2 * MIB}, {3 * MIB, 4 * MIB},
		{5 * MIB, 6 * MIB}};
	CUdeviceptr at[600], plain, next;
	size_t before = free_bytes();
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
		for (unsigned k = 0; k < 6; k++) {
			OK(cuMemAllocManaged(&at[k], seen[i].bytes, CU_MEM_ATTACH_GLOBAL));
			EQUAL(at[k] - at[0], k * seen[i].apart);
		}
		for (unsigned k = 0; k < 6; k++)
			OK(cuMemFree_v2(at[k]));
	}
	OK(cuMemAlloc_v2(&plain, 4096));
	for (unsigned i = 0; i < 600; i++) {
		OK(cuMemAllocManaged(&at[i], 4096, CU_MEM_ATTACH_GLOBAL));
		EQUAL(at[i] - at[0], i * 4096);
	}
	EQUAL(at[0] % (2 * MIB), 0);
	OK(cuMemAlloc_v2(&next, 4096));
	EQUAL(next / (2 * MIB), plain / (2 * MIB));
	EQUAL(plain > at[0] && plain - at[0] < 256 * 1024 * MIB, 0);
	EQUAL(before - free_bytes(), 2 * MIB);
	for (unsigned i = 0; i < 600; i++)
		OK(cuMemsetD8_v2(at[i], 1, 4096));
	EQUAL(before - free_bytes(), 6 * MIB);
	EQUAL(process_bytes(0, getpid()), (518 + 2) * MIB);
	for (unsigned i = 1; i < 600; i++)
		OK(cuMemFree_v2(at[i]));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuMemFree_v2(at[0]));
	OK(cuMemFree_v2(plain));
	OK(cuMemFree_v2(next));
	EQUAL(before - free_bytes(), 0);
}

static void limits_of_a_context_cost_memory(void)
{
	size_t before = free_bytes(), value;
	OK(cuCtxGetLimit(&value, CU_LIMIT_STACK_SIZE));
	EQUAL(value, 1024);
	OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 5120));
	EQUAL(before - free_bytes(), 132ull * 2048 * 4096);
	OK(cuCtxSetLimit(CU_LIMIT_STACK_SIZE, 1024));
	OK(cuCtxSetLimit(CU_LIMIT_MALLOC_HEAP_SIZE, 108 * MIB));
	EQUAL(before - free_bytes(), 0);
	EQUAL(free_bytes(), before);
}

static void an_ended_context_gives_all_back(void)
{
	CUcontext second;
	CUdeviceptr at;
	CUmodule module;
	OK(cuCtxCreate_v2(&second, 0, 0));
	EQUAL(process_bytes(0, getpid()), (518 + 518) * MIB);
	OK(cuMemAlloc_v2(&at, 10));
	OK(cuMemAlloc_v2(&at, 100 * MIB));
	OK(cuModuleLoadData(&module, "softmig-sim-module code=6M"));
	EQUAL(process_bytes(0, getpid()), (518 + 518 + 2 + 100 + 6) * MIB);
	OK(cuCtxDestroy_v2(second));
	EQUAL(process_bytes(0, getpid()), 518 * MIB);
	OK(cuDevicePrimaryCtxRelease_v2(0));
	EQUAL(process_bytes(0, getpid()), 0);
	size_t bytes;
	EQUAL(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_CONTEXT_IS_DESTROYED);
	EQUAL(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	size_t bytes;
	EQUAL(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_NOT_INITIALIZED);
	OK(cuInit(0));
	EQUAL(cuMemGetInfo_v2(&bytes, &bytes), CUDA_ERROR_INVALID_CONTEXT);
	a_context_costs_what_the_h200_was_measured_to_cost();
	small_allocations_share_a_block_of_2_mib();
	large_ones_take_whole_granules();
	the_gpu_can_be_filled_and_no_further();
	bytes_move();
	pointers_say_what_they_are();
	small_managed_ones_share_blocks_of_a_range_of_their_own();
	limits_of_a_context_cost_memory();
	an_ended_context_gives_all_back();
	return 0;
}
