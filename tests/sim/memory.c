// SPDX-License-Identifier: Apache-2.0
// Plain allocations: whole granules for what is large, shared 2 MiB blocks for what is small, and the truth about what
// is free.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "sim.h"

#define SMALL_UNIT 512u
#define SMALL_UNITS (SIM_GRANULE / SMALL_UNIT)

uint64_t sim_round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

_Static_assert(SMALL_UNITS == 64 * 64, "one bit per unit of a block");

static bool bit(const struct sim_small_block *block, unsigned unit)
{
	return block->used[unit / 64] >> (unit % 64) & 1;
}

static void flip(struct sim_small_block *block, unsigned from, unsigned units)
{
	for (unsigned unit = from; unit < from + units; unit++)
		block->used[unit / 64] ^= 1ull << (unit % 64);
}

// First place in block where units are free in a row; SMALL_UNITS: none.
static unsigned place(const struct sim_small_block *block, unsigned units)
{
	unsigned run = 0;
	for (unsigned unit = 0; unit < SMALL_UNITS; unit++) {
		if (run == 0 && unit % 64 == 0 && block->used[unit / 64] == UINT64_MAX) {
			unit += 63;
			continue;
		}
		run = bit(block, unit) ? 0 : run + 1;
		if (run == units)
			return unit + 1 - units;
	}
	return SMALL_UNITS;
}

CUresult sim_small_alloc(struct CUctx_st *context, struct sim_small_block **list, uint64_t bytes,
	struct sim_small_block **in, uint64_t *address)
{
	unsigned units = (unsigned)(sim_round_up(bytes, SMALL_UNIT) / SMALL_UNIT);
	struct sim_small_block *block;
	unsigned at = SMALL_UNITS;
	for (block = *list; block != NULL; block = block->next) {
		if (SMALL_UNITS - block->units >= units && (at = place(block, units)) < SMALL_UNITS)
			break;
	}
	if (block == NULL) {
		const bool managed = list == sim_managed_blocks(context);
		CUresult result = managed ? CUDA_SUCCESS : sim_context_charge(context, SIM_GRANULE);
		if (result != CUDA_SUCCESS)
			return result;
		block = calloc(1, sizeof(*block));
		if (block == NULL || !(managed ? sim_backing_map_managed(&block->backing, SIM_GRANULE)
				: sim_backing_map(&block->backing, SIM_GRANULE, true))) {
			free(block);
			if (!managed)
				sim_context_uncharge(context, SIM_GRANULE);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		block->next = *list;
		*list = block;
		at = 0;
	}
	flip(block, at, units);
	block->units += units;
	*in = block;
	*address = block->backing.address + at * SMALL_UNIT;
	return CUDA_SUCCESS;
}

void sim_small_free(struct CUctx_st *context, struct sim_small_block **list, struct sim_small_block *block,
	uint64_t address, uint64_t bytes)
{
	unsigned units = (unsigned)(sim_round_up(bytes, SMALL_UNIT) / SMALL_UNIT);
	flip(block, (unsigned)((address - block->backing.address) / SMALL_UNIT), units);
	block->units -= units;
	if (block->units > 0)
		return;
	const bool managed = list == sim_managed_blocks(context);
	while (*list != block)
		list = &(*list)->next;
	*list = block->next;
	sim_backing_unmap(&block->backing);
	if (!managed)
		sim_context_uncharge(context, SIM_GRANULE);
	sim_dma_buf_memory_gone(block);
	free(block);
}

CUresult sim_small_range(struct CUctx_st *context, struct sim_small_block **list, uint64_t bytes, enum sim_range_kind kind,
	struct sim_range **range)
{
	struct sim_small_block *block;
	uint64_t address;
	CUresult result = sim_small_alloc(context, list, bytes, &block, &address);
	if (result != CUDA_SUCCESS)
		return result;
	*range = sim_range_add(address, bytes, kind);
	if (*range == NULL) {
		sim_small_free(context, list, block, address, bytes);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	(*range)->block = block;
	return CUDA_SUCCESS;
}

static void drop_list(struct CUctx_st *context, struct sim_small_block **list)
{
	while (*list != NULL) {
		struct sim_small_block *block = *list;
		*list = block->next;
		sim_backing_unmap(&block->backing);
		sim_context_uncharge(context, SIM_GRANULE);
		sim_dma_buf_memory_gone(block);
		free(block);
	}
}

void sim_small_drop(struct CUctx_st *context)
{
	drop_list(context, &context->small);
	drop_list(context, &context->code);
}

CUresult sim_alloc(struct CUctx_st *context, uint64_t bytes, enum sim_range_kind kind, CUdeviceptr *address)
{
	struct sim_range *range;
	if (bytes <= SIM_SMALL_BYTES && kind == SIM_RANGE_DEVICE) {
		CUresult result = sim_small_range(context, &context->small, bytes, SIM_RANGE_SMALL, &range);
		if (result != CUDA_SUCCESS)
			return result;
	} else {
		uint64_t whole = sim_round_up(bytes, SIM_GRANULE);
		if (whole < bytes)
			return CUDA_ERROR_OUT_OF_MEMORY;
		CUresult result = sim_context_charge(context, whole);
		if (result != CUDA_SUCCESS)
			return result;
		struct sim_backing backing;
		if (!sim_backing_map(&backing, whole, true)) {
			sim_context_uncharge(context, whole);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		range = sim_range_add(backing.address, bytes, kind);
		if (range == NULL) {
			sim_backing_unmap(&backing);
			sim_context_uncharge(context, whole);
			return CUDA_ERROR_OUT_OF_MEMORY;
		}
		range->backing = backing;
		range->charged_bytes = whole;
	}
	range->context = context;
	range->device = context->device;
	*address = range->base;
	return CUDA_SUCCESS;
}

CUresult sim_free(struct sim_range *range)
{
	struct CUctx_st *context = range->context;
	if (range->kind == SIM_RANGE_SMALL) {
		sim_small_free(context, &context->small, range->block, range->base, range->bytes);
	} else if (range->kind == SIM_RANGE_MANAGED) {
		sim_managed_leave(range);
		if (range->block != NULL)
			sim_small_free(context, sim_managed_blocks(context), range->block, range->base, range->bytes);
		else
			sim_backing_unmap(&range->backing);
	} else {
		sim_backing_unmap(&range->backing);
		if (range->shared_block >= 0)
			sim_shared_release(range->shared_block, range->kind == SIM_RANGE_DEVICE);
		else if (context != NULL)
			sim_context_uncharge(context, range->charged_bytes);
		sim_dma_buf_memory_gone(range);
	}
	sim_range_remove(range);
	return CUDA_SUCCESS;
}

static CUresult allocate(struct CUctx_st *context, uint64_t bytes, CUdeviceptr *address)
{
	CUresult result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	result = sim_alloc(context, bytes, SIM_RANGE_DEVICE, address);
	sim_leave();
	return result;
}

CUresult cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
	SIM_CURRENT(context);
	if (dptr == NULL || bytesize == 0)
		return CUDA_ERROR_INVALID_VALUE;
	return allocate(context, bytesize, dptr);
}

CUresult cuMemAllocPitch_v2(
	CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes)
{
	SIM_CURRENT(context);
	if (dptr == NULL || pPitch == NULL || WidthInBytes == 0 || Height == 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (ElementSizeBytes != 4 && ElementSizeBytes != 8 && ElementSizeBytes != 16)
		return CUDA_ERROR_INVALID_VALUE;
	size_t pitch = sim_round_up(WidthInBytes, 512), bytes;
	if (pitch < WidthInBytes || __builtin_mul_overflow(pitch, Height, &bytes))
		return CUDA_ERROR_OUT_OF_MEMORY;
	CUresult result = allocate(context, bytes, dptr);
	if (result == CUDA_SUCCESS)
		*pPitch = pitch;
	return result;
}

CUresult cuMemFree_v2(CUdeviceptr dptr)
{
	SIM_CURRENT(context);
	if (dptr == 0)
		return CUDA_SUCCESS;
	CUresult result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	sim_enter();
	struct sim_range *range = sim_range_find(dptr);
	bool freeable = range != NULL && range->base == dptr;
	enum sim_range_kind kind = freeable ? range->kind : SIM_RANGE_HOST;
	struct CUctx_st *owner = freeable ? range->context : NULL;
	sim_leave();
	if (kind == SIM_RANGE_POOL || kind == SIM_RANGE_GRAPH)
		return sim_pool_free_now(dptr);
	if (kind != SIM_RANGE_DEVICE && kind != SIM_RANGE_SMALL && kind != SIM_RANGE_MANAGED && kind != SIM_RANGE_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	// What the context has queued may still use it.
	result = sim_context_synchronize(owner);
	sim_enter();
	range = sim_range_find(dptr);
	if (result == CUDA_SUCCESS)
		result = range != NULL && range->base == dptr ? sim_free(range) : CUDA_ERROR_INVALID_VALUE;
	sim_leave();
	long late_ms = sim_fault("free:late");
	if (late_ms > 0)
		nanosleep(&(struct timespec){.tv_sec = late_ms / 1000, .tv_nsec = late_ms % 1000 * 1000000}, NULL);
	return result;
}

CUresult cuMemGetInfo_v2(size_t *free, size_t *total)
{
	SIM_CURRENT(context);
	sim_lock();
	sim_reap();
	uint64_t capacity = sim_gpu_capacity(context->gpu), used = sim_gpu_used(context->gpu);
	sim_unlock();
	if (free != NULL)
		*free = capacity > used ? capacity - used : 0;
	if (total != NULL)
		*total = capacity;
	return CUDA_SUCCESS;
}

CUresult cuMemGetInfo(unsigned int *free, unsigned int *total)
{
	size_t free_bytes = 0, total_bytes = 0;
	SIM_READY();
	CUresult result = CUDA_SUCCESS;
	struct CUctx_st *context = sim_context_current(&result);
	if (context == NULL)
		return result;
	sim_lock();
	sim_reap();
	total_bytes = sim_gpu_capacity(context->gpu);
	uint64_t used = sim_gpu_used(context->gpu);
	sim_unlock();
	free_bytes = total_bytes > used ? total_bytes - used : 0;
	if (free != NULL)
		*free = free_bytes > UINT32_MAX ? UINT32_MAX : (unsigned)free_bytes;
	if (total != NULL)
		*total = total_bytes > UINT32_MAX ? UINT32_MAX : (unsigned)total_bytes;
	return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *pbase, size_t *psize, CUdeviceptr dptr)
{
	SIM_CURRENT(context);
	(void)context;
	sim_enter();
	const struct sim_range *range = sim_range_find(dptr);
	bool found = range != NULL && range->device >= 0 && range->kind != SIM_RANGE_RESERVED;
	if (found && pbase != NULL)
		*pbase = range->base;
	if (found && psize != NULL)
		*psize = range->bytes;
	sim_leave();
	return found ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
