// SPDX-License-Identifier: Apache-2.0
// dma-bufs: a descriptor of any part of a piece of memory keeps all of it on the GPU once the program has let go of it, in
// no process's figure, until it is closed (docs/driver-facts.md). Modelled by a shared block that belongs to this
// process as long as the memory does, and to nobody after that.
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "pool.h"
#include "vmm.h"

struct kept {
	struct kept *next;
	const void *memory; // range, block of small ones, physical memory or chunk
	int block, fd;      // in the state; the driver's own descriptor of its file
};

static struct kept *all;

static struct kept *keep(const void *memory, int gpu, uint64_t bytes)
{
	for (struct kept *kept = all; kept != NULL; kept = kept->next)
		if (kept->memory == memory)
			return kept;
	struct kept *kept = calloc(1, sizeof(*kept));
	if (kept == NULL)
		return NULL;
	kept->memory = memory;
	kept->block = sim_shared_create_for_descriptors(gpu, bytes);
	kept->fd = kept->block < 0 ? -1 : sim_shared_file(kept->block);
	if (kept->fd < 0) {
		if (kept->block >= 0)
			sim_shared_leave_to_descriptors(kept->block);
		free(kept);
		return NULL;
	}
	kept->next = all;
	return all = kept;
}

bool sim_dma_buf_is_of(const void *memory)
{
	const struct kept *kept = all;
	while (kept != NULL && kept->memory != memory)
		kept = kept->next;
	return kept != NULL;
}

void sim_dma_buf_memory_gone(const void *memory)
{
	for (struct kept **at = &all; *at != NULL; at = &(*at)->next) {
		struct kept *kept = *at;
		if (kept->memory != memory)
			continue;
		*at = kept->next;
		close(kept->fd);
		sim_shared_leave_to_descriptors(kept->block);
		free(kept);
		return;
	}
}

// The real driver also makes one over several mappings in a row, which is refused here.
static struct kept *memory_at(struct sim_range *range, uint64_t address, uint64_t bytes)
{
	struct sim_vmm *handle;
	struct sim_chunk *chunk;
	switch (range->kind) {
	case SIM_RANGE_DEVICE:
		return keep(range, sim_device[range->device].gpu, range->charged_bytes);
	case SIM_RANGE_SMALL:
		return keep(range->block, sim_device[range->device].gpu, SIM_GRANULE);
	case SIM_RANGE_POOL:
		chunk = sim_pool_chunk(range->owner, address);
		return chunk == NULL ? NULL : keep(chunk, ((struct CUmemPoolHandle_st *)range->owner)->gpu, chunk->backing.bytes);
	case SIM_RANGE_RESERVED:
		handle = sim_vmm_at(address);
		return handle == NULL || handle->device < 0 || sim_vmm_at(address + bytes - 1) != handle
			? NULL
			: keep(handle, sim_device[handle->device].gpu, handle->bytes);
	default: return NULL; // managed memory, host memory, other processes'
	}
}

CUresult cuMemGetHandleForAddressRange(
	void *handle, CUdeviceptr dptr, size_t size, CUmemRangeHandleType handleType, unsigned long long flags)
{
	SIM_READY();
	if (handle == NULL || size == 0 || handleType != CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD)
		return CUDA_ERROR_INVALID_VALUE;
	if (flags != 0)
		return CUDA_ERROR_NOT_SUPPORTED;
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	if (dptr % page != 0 || size % page != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_range *range = sim_range_find(dptr);
	bool inside = range != NULL && size <= sim_round_up(range->bytes, page) - (dptr - range->base);
	struct kept *kept = inside ? memory_at(range, dptr, size) : NULL;
	int fd = kept == NULL ? -1 : sim_shared_export(kept->block, kept->fd);
	sim_leave();
	if (fd < 0)
		return CUDA_ERROR_INVALID_VALUE;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	*(int *)handle = fd;
	return CUDA_SUCCESS;
}
