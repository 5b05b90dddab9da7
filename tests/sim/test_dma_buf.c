// SPDX-License-Identifier: Apache-2.0
// dma-bufs: what they keep once the program has let go of it, and in whose figure that is (docs/driver-facts.md).
#include "check.h"

static const size_t SIZE = 256 * MIB;
static size_t own_before, gpu_before;
static CUstream stream;

static void begin(void)
{
	own_before = process_bytes(0, getpid());
	gpu_before = used_bytes(0);
}

// In MiB more than at the beginning.
#define FIGURES(own, gpu) \
	do { \
		EQUAL(process_bytes(0, getpid()), own_before + (own) * MIB); \
		EQUAL(used_bytes(0), gpu_before + (gpu) * MIB); \
	} while (0)

static int dma_buf(CUdeviceptr address, size_t bytes)
{
	int fd = -1;
	OK(cuMemGetHandleForAddressRange(&fd, address, bytes, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0));
	CHECK(fd >= 0);
	return fd;
}

static void small(void)
{
	CUdeviceptr pointer;
	begin();
	OK(cuMemAlloc_v2(&pointer, 64 << 10));
	FIGURES(2, 2);
	int fd = dma_buf(pointer, 64 << 10);
	OK(cuMemFree_v2(pointer));
	FIGURES(0, 2);
	close(fd);
	FIGURES(0, 0);
}

static void parts_keep_the_whole(void)
{
	CUdeviceptr pointer;
	begin();
	OK(cuMemAlloc_v2(&pointer, SIZE));
	int first = dma_buf(pointer + 64 * MIB, 2 * MIB), second = dma_buf(pointer, 4096);
	FIGURES(256, 256);
	OK(cuMemFree_v2(pointer));
	FIGURES(0, 256);
	close(first);
	FIGURES(0, 256);
	close(second);
	FIGURES(0, 0);
}

static void closed_first(void)
{
	CUdeviceptr pointer;
	begin();
	OK(cuMemAlloc_v2(&pointer, SIZE));
	close(dma_buf(pointer, SIZE));
	FIGURES(256, 256);
	close(dma_buf(pointer, SIZE));
	OK(cuMemFree_v2(pointer));
	FIGURES(0, 0);
}

static void pooled(void)
{
	CUdeviceptr pointer;
	begin();
	OK(cuMemAllocAsync(&pointer, SIZE, stream));
	OK(cuStreamSynchronize(stream));
	FIGURES(256, 256);
	int fd = dma_buf(pointer, SIZE);
	OK(cuMemFreeAsync(pointer, stream));
	OK(cuStreamSynchronize(stream));
	FIGURES(0, 256);
	close(fd);
	FIGURES(0, 0);
}

static void mapped(CUmemAllocationHandleType exportable)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.requestedHandleTypes = exportable,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	CUdeviceptr address;
	begin();
	OK(cuMemCreate(&handle, SIZE, &prop, 0));
	OK(cuMemAddressReserve(&address, SIZE, 0, 0, 0));
	OK(cuMemMap(address, SIZE, 0, handle, 0));
	OK(cuMemSetAccess(address, SIZE, &access, 1));
	int fd = dma_buf(address, SIZE);
	FIGURES(256, 256);
	OK(cuMemUnmap(address, SIZE));
	OK(cuMemRelease(handle));
	FIGURES(0, 256);
	close(fd);
	FIGURES(0, 0);
	OK(cuMemAddressFree(address, SIZE));
}

static void kept_by_another_process(void)
{
	CUdeviceptr pointer;
	int pipe_ends[2];
	char byte;
	begin();
	OK(cuMemAlloc_v2(&pointer, SIZE));
	int fd = dma_buf(pointer, SIZE);
	CHECK(pipe(pipe_ends) == 0);
	pid_t child = fork();
	if (child == 0) {
		close(pipe_ends[1]);
		_exit(read(pipe_ends[0], &byte, 1) == 0 ? 0 : 1);
	}
	OK(cuMemFree_v2(pointer));
	close(fd);
	FIGURES(0, 256);
	close(pipe_ends[0]);
	close(pipe_ends[1]);
	CHECK(waitpid(child, NULL, 0) == child);
	FIGURES(0, 0);
}

static void refused(void)
{
	CUdeviceptr pointer, managed;
	int fd = -1;
	OK(cuMemAlloc_v2(&pointer, SIZE));
	OK(cuMemAllocManaged(&managed, SIZE, CU_MEM_ATTACH_GLOBAL));
	EQUAL(cuMemGetHandleForAddressRange(&fd, pointer, SIZE, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 1), CUDA_ERROR_NOT_SUPPORTED);
	EQUAL(cuMemGetHandleForAddressRange(&fd, managed, SIZE, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemGetHandleForAddressRange(&fd, pointer + 1, 4096, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemGetHandleForAddressRange(&fd, pointer, SIZE + 4096, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0), CUDA_ERROR_INVALID_VALUE);
	EQUAL(fd, -1);
	OK(cuMemFree_v2(managed));
	OK(cuMemFree_v2(pointer));
}

static void context_reset(void)
{
	CUdeviceptr pointer;
	begin();
	size_t context_bytes = own_before;
	OK(cuMemAlloc_v2(&pointer, SIZE));
	int fd = dma_buf(pointer, SIZE);
	OK(cuDevicePrimaryCtxReset_v2(0));
	EQUAL(used_bytes(0), gpu_before - context_bytes + SIZE);
	close(fd);
	EQUAL(used_bytes(0), gpu_before - context_bytes);
}

int main(void)
{
	int supported = 0;
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	start(0);
	OK(cuDeviceGetAttribute(&supported, CU_DEVICE_ATTRIBUTE_DMA_BUF_SUPPORTED, 0));
	EQUAL(supported, 1);
	OK(cuStreamCreate(&stream, 0));
	small();
	parts_keep_the_whole();
	closed_first();
	pooled();
	mapped((CUmemAllocationHandleType)0);
	mapped(CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	kept_by_another_process();
	refused();
	context_reset();
	return 0;
}
