// SPDX-License-Identifier: Apache-2.0
// dma-bufs: file descriptors by which other drivers reach memory of the GPU (RDMA, cameras, graphics). A dma-buf of any part of an allocation keeps all of it
// on the GPU after it has been freed or unmapped, until it is closed, and the driver then shows it in no process's figure (docs/driver-facts.md). Owns:
// that such memory stays charged for as long, as far as this process can see.
//
//   memory of cuMemCreate    its descriptor holds it, as one of an export does (allocation.h)
//   a large cuMemAlloc       noted here; when it is freed, its charge becomes an allocation that the open descriptors hold
//   what else there is       (blocks of small ones, pools' chunks, other processes' memory) the driver alone knows which piece it keeps, and when it would have
//                            let go of it: so as much as that can be is charged at once, for as long as the dma-buf is open
#include "preload/dma_buf.h"

#include <unistd.h>

#include "preload/descriptor.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "slice/sys.h"

static _Atomic bool any; // has been noted over a large allocation, by this process or its parent

// The next note of an open dma-buf over the allocation at address; of others that are closed, notes are dropped.
static bool next_over(uint64_t address, uint64_t *cursor, struct softmig_track_entry *note)
{
	while (softmig_track_next(SOFTMIG_TRACK_DMA_BUF, cursor, note)) {
		if (softmig_descriptor_identity((int)note->key) != note->bytes)
			softmig_track_remove_exactly(note);
		else if (note->more == address)
			return true;
	}
	return false;
}

bool softmig_dma_buf_keeps(const struct softmig_track_entry *pointer)
{
	struct softmig_track_entry note;
	uint64_t cursor = 0, allocation = 0;

	while (atomic_load_explicit(&any, memory_order_relaxed) && next_over(pointer->key, &cursor, &note)) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(pointer->gpu);
		if (!softmig_track_remove_exactly(&note))
			continue;
		if (allocation == 0)
			allocation = softmig_allocation_add(gpu, pointer->bytes, SOFTMIG_ALLOCATION_UNSEEN, 1);
		else
			softmig_allocation_hold(allocation, true, &(struct softmig_track_entry){0});
		if (!softmig_descriptor_add((int)note.key, allocation))
			softmig_allocation_let_go(allocation, true, &(struct softmig_ended){0});
	}
	return allocation != 0;
}

static struct softmig_gpu *gpu_of(CUdeviceptr address)
{
	int device = -1;

	if (SOFTMIG_HAS(cuPointerGetAttribute) &&
	    DRIVER(cuPointerGetAttribute)(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, address) == CUDA_SUCCESS && device >= 0)
		return softmig_gpu_of_device(device);
	return softmig_gpu_current();
}

// The most that a dma-buf at address, of bytes, can keep, where only the driver knows the piece that it lies in.
static uint64_t most_kept(CUdeviceptr address, uint64_t bytes)
{
	CUmemoryPool pool = NULL;
	cuuint64_t reserved = 0;
	CUdeviceptr base = address;
	size_t whole = bytes;

	if (SOFTMIG_HAS(cuPointerGetAttribute) && DRIVER(cuPointerGetAttribute)(&pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, address) == CUDA_SUCCESS && pool != NULL &&
	    SOFTMIG_HAS(cuMemPoolGetAttribute) &&
	    DRIVER(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved) == CUDA_SUCCESS && reserved > bytes)
		return softmig_granules(reserved);
	if (SOFTMIG_HAS(cuMemGetAddressRange_v2) && DRIVER(cuMemGetAddressRange_v2)(&base, &whole, address) != CUDA_SUCCESS)
		whole = bytes;
	return softmig_granules(whole > bytes ? whole : bytes);
}

// The program has not seen the descriptor yet.
static CUresult undo(int *fd)
{
	softmig_sys_close(*fd);
	*fd = -1;
	return CUDA_ERROR_OUT_OF_MEMORY;
}

// Limit or not: the memory is there already, and may soon be there for the dma-buf alone.
static CUresult charge_at_once(CUdeviceptr address, uint64_t bytes, int *fd)
{
	struct softmig_gpu *gpu = gpu_of(address);
	uint64_t kept = most_kept(address, bytes);
	CUresult result = CUDA_SUCCESS;

	if (gpu == NULL)
		return result;
	softmig_gpu_enter(gpu);
	softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, kept, 0);
	uint64_t allocation = softmig_allocation_add(gpu, kept, SOFTMIG_ALLOCATION_UNSEEN, 1);
	if (allocation == 0) {
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, kept);
		result = undo(fd);
	} else if (!softmig_descriptor_add(*fd, allocation)) {
		softmig_allocation_let_go(allocation, true, &(struct softmig_ended){0});
		result = undo(fd);
	}
	softmig_gpu_leave(gpu);
	return result;
}

// When the driver has made one: *fd, over so many bytes at address.
static CUresult made(CUdeviceptr address, uint64_t bytes, int *fd)
{
	struct softmig_track_entry pointer, note = {.kind = SOFTMIG_TRACK_DMA_BUF, .key = (uint64_t)*fd, .bytes = softmig_descriptor_identity(*fd)};
	CUdeviceptr base = address;
	size_t whole = 0;
	struct softmig_ended ended = {0};
	CUresult result = CUDA_SUCCESS;

	softmig_allocations_reissued(*fd, &ended);
	if (softmig_vmm_is_mapped(address)) {
		softmig_vmm_export_range(address, bytes, *fd, &ended);
	} else if (SOFTMIG_HAS(cuMemGetAddressRange_v2) && DRIVER(cuMemGetAddressRange_v2)(&base, &whole, address) == CUDA_SUCCESS &&
	           softmig_track_find(SOFTMIG_TRACK_POINTER, base, &pointer) && !pointer.unseen) {
		note.more = base;
		atomic_store(&any, true);
		if (!softmig_track_add(&note)) // in the place of one of that number, which was closed
			result = undo(fd);
	} else {
		result = charge_at_once(address, bytes, fd);
	}
	softmig_allocations_finish(&ended);
	return result;
}

CUresult hook_cuMemGetHandleForAddressRange(void *handle, CUdeviceptr dptr, size_t size, CUmemRangeHandleType handleType, unsigned long long flags)
{
	CUresult result = DRIVER(cuMemGetHandleForAddressRange)(handle, dptr, size, handleType, flags);
	return result == CUDA_SUCCESS && handleType == CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD ? made(dptr, size, handle) : result;
}
