// SPDX-License-Identifier: Apache-2.0
// dma_buf TEST: memory that dma-bufs keep after it has been freed. See tests/system/dma_buf.bats.
#include "slice.h"

#define SIZE (256 * MIB)

static int dma_buf(CUdeviceptr address, size_t bytes)
{
	int fd = -1;
	OK(CU(cuMemGetHandleForAddressRange)(&fd, address, bytes, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0));
	return fd;
}

// Since the mark: charged bytes more, of which the driver shows so many.
#define STANDS(charged, shown) \
	do { \
		EXPECT(inside_bytes() - mark_inside, (charged)); \
		EXPECT(outside_bytes(0) - mark_outside, (shown)); \
	} while (0)

static void freed(void)
{
	use_device(0);
	mark(0);
	CUdeviceptr pointer = allocate_plain(SIZE);
	int part = dma_buf(pointer + 64 * MIB, 2 * MIB), whole = dma_buf(pointer, SIZE);
	STANDS(SIZE, SIZE);
	release_plain(pointer);
	STANDS(SIZE, 0);
	CUdeviceptr another = allocate_plain(SIZE);
	STANDS(2 * SIZE, SIZE);
	close(part);
	STANDS(2 * SIZE, SIZE);
	release_plain(another);
	STANDS(SIZE, 0);
	close(whole);
	STANDS(0, 0);
}

// A descriptor that was closed keeps nothing, whatever has its number or its memory's address later.
static void closed_first(void)
{
	use_device(0);
	mark(0);
	CUdeviceptr pointer = allocate_plain(SIZE);
	int fd = dma_buf(pointer, SIZE);
	close(fd);
	EXPECT(dma_buf(pointer, SIZE), fd);
	close(fd);
	release_plain(pointer);
	STANDS(0, 0);
	CUdeviceptr again = allocate_plain(SIZE);
	EXPECT(again, pointer);
	EXPECT(dma_buf(again, SIZE), fd);
	release_plain(again);
	STANDS(SIZE, 0);
	again = allocate_plain(SIZE);
	STANDS(2 * SIZE, SIZE);
	release_plain(again);
	STANDS(SIZE, 0);
	close(fd);
	CUdeviceptr small = allocate_plain(4096);
	EXPECT(dma_buf(small, 4096), fd); // before anybody looked
	release_plain(small);
	STANDS(2 * MIB, 0);
	close(fd);
	STANDS(0, 0);
}

static void small(void)
{
	use_device(0);
	mark(0);
	CUdeviceptr first = allocate_plain(64 * KIB), second = allocate_plain(64 * KIB);
	int fd = dma_buf(first, 64 * KIB);
	STANDS(4 * MIB, 2 * MIB); // whether it keeps a block of its own is known when the block ends
	release_plain(first);
	release_plain(second);
	STANDS(2 * MIB, 0);
	close(fd);
	STANDS(0, 0);
}

static void pooled(void)
{
	CUdeviceptr pointer;
	CUstream stream;
	use_device(0);
	OK(CU(cuStreamCreate)(&stream, 0));
	mark(0);
	OK(CU(cuMemAllocAsync)(&pointer, SIZE, stream));
	int fd = dma_buf(pointer, SIZE);
	STANDS(2 * SIZE, SIZE);
	OK(CU(cuMemFreeAsync)(pointer, stream));
	OK(CU(cuStreamSynchronize)(stream));
	STANDS(SIZE, 0);
	close(fd);
	STANDS(0, 0);
}

static void mapped(void)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUmemGenericAllocationHandle handle;
	CUdeviceptr address;
	use_device(0);
	mark(0);
	OK(CU(cuMemCreate)(&handle, SIZE, &prop, 0));
	OK(CU(cuMemAddressReserve)(&address, SIZE, 0, 0, 0));
	OK(CU(cuMemMap)(address, SIZE, 0, handle, 0));
	OK(CU(cuMemSetAccess)(address, SIZE, &access, 1));
	int fd = dma_buf(address, SIZE);
	STANDS(SIZE, SIZE);
	OK(CU(cuMemRelease)(handle));
	STANDS(SIZE, SIZE);
	OK(CU(cuMemUnmap)(address, SIZE));
	STANDS(SIZE, 0);
	close(fd);
	STANDS(0, 0);
}

static void context_reset(void)
{
	use_device(0);
	mark(0);
	int fd = dma_buf(allocate_plain(SIZE), SIZE);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	use_device(0);
	STANDS(SIZE, 0);
	close(fd);
	STANDS(0, 0);
}

// As many pieces as fit, each freed and kept by a dma-buf alone.
static void as_many_as_fit(void)
{
	enum { PIECE = 32 * MIB, MOST = 128 };
	int fd[MOST];
	use_device(0);
	uint64_t room = (limit_bytes() - slice_bytes()) / PIECE;
	for (int round = 0; round < 3; round++) {
		uint64_t count = 0;
		CUdeviceptr pointer;
		while (CU(cuMemAlloc_v2)(&pointer, PIECE) == CUDA_SUCCESS) {
			EXPECT(count < MOST, 1);
			fd[count++] = dma_buf(pointer, PIECE);
			release_plain(pointer);
		}
		EXPECT(count, room);
		while (count > 0)
			close(fd[--count]);
	}
}

static void refused(void)
{
	int fd = -1;
	use_device(0);
	mark(0);
	CUdeviceptr pointer = allocate_plain(SIZE);
	EXPECT(CU(cuMemGetHandleForAddressRange)(&fd, pointer, SIZE, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 1), CUDA_ERROR_NOT_SUPPORTED);
	EXPECT(CU(cuMemGetHandleForAddressRange)(&fd, pointer + 1, 4096, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0), CUDA_ERROR_INVALID_VALUE);
	EXPECT(CU(cuMemGetHandleForAddressRange)(NULL, pointer, SIZE, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0), CUDA_ERROR_INVALID_VALUE);
	release_plain(pointer);
	STANDS(0, 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"freed", freed},
		{"closed_first", closed_first},
		{"small", small},
		{"pooled", pooled},
		{"mapped", mapped},
		{"context_reset", context_reset},
		{"as_many_as_fit", as_many_as_fit},
		{"refused", refused},
		{NULL, NULL},
	};
	return run_test(argc, argv, tests);
}
