// SPDX-License-Identifier: Apache-2.0
// Managed memory: addresses in a range of its own, where what is below 2 MiB shares blocks; pages come to the GPU when it
// uses them or when they are prefetched, and may be more than it has. They are in use on the GPU, but in no process's
// figure (docs/driver-facts.md).
#include <sched.h>
#include <string.h>

#include "sim.h"

struct sim_small_block **sim_managed_blocks(struct CUctx_st *context)
{
	static struct sim_small_block *together;
	return sim_fault("managed:together") >= 0 ? &together : &context->managed;
}

// Pages come to the GPU of the context, as far as it has room: else they stay on the host, without an error.
static bool come(int gpu, uint64_t bytes)
{
	sim_lock();
	bool room = sim_gpu_used(gpu) + bytes <= sim_gpu_capacity(gpu);
	if (room)
		sim_state->process[sim_slot].managed_bytes[gpu] += bytes;
	sim_unlock();
	return room;
}

static void go(int gpu, uint64_t bytes)
{
	sim_lock();
	sim_state->process[sim_slot].managed_bytes[gpu] -= bytes;
	sim_unlock();
}

// The whole block comes with the first of its small allocations.
static void touch_small(struct sim_range *range)
{
	struct sim_small_block *block = range->block;
	if (range->charged_bytes != 0)
		return;
	if (block->resident == 0) {
		block->gpu = range->context->gpu;
		if (!come(block->gpu, SIM_GRANULE))
			return;
	}
	block->resident++;
	range->charged_bytes = range->bytes;
}

void sim_managed_touch(struct sim_range *range, uint64_t upto_bytes)
{
	uint64_t wanted = sim_round_up(upto_bytes, SIM_GRANULE);
	if (range->context == NULL)
		return;
	if (range->block != NULL)
		touch_small(range);
	else if (wanted > range->charged_bytes && come(range->context->gpu, wanted - range->charged_bytes))
		range->charged_bytes = wanted;
}

void sim_managed_leave(struct sim_range *range)
{
	if (range->context == NULL || range->charged_bytes == 0)
		return;
	if (range->block == NULL)
		go(range->context->gpu, range->charged_bytes);
	else if (--range->block->resident == 0)
		go(range->block->gpu, SIM_GRANULE);
	range->charged_bytes = 0;
}

static struct sim_range *allocate(struct CUctx_st *context, uint64_t bytes)
{
	uint64_t whole = sim_round_up(bytes, SIM_GRANULE);
	struct sim_backing backing;
	struct sim_range *range;
	if (bytes <= SIM_SMALL_BYTES) {
		if (sim_small_range(context, sim_managed_blocks(context), bytes, SIM_RANGE_MANAGED, &range) != CUDA_SUCCESS)
			return NULL;
	} else {
		if (whole < bytes || !sim_backing_map_managed(&backing, whole))
			return NULL;
		range = sim_range_add(backing.address, bytes, SIM_RANGE_MANAGED);
		if (range == NULL) {
			sim_backing_unmap(&backing);
			return NULL;
		}
		range->backing = backing;
	}
	range->context = context;
	range->device = context->device;
	return range;
}

static void meet(void)
{
	static _Atomic long met;
	long calls = sim_fault("managed:meet");
	if (calls < 1)
		return;
	for (long all = met++ / calls * calls + calls; met < all;)
		sched_yield();
}

// It may exceed the GPU: it has pages there only once they are used, so this takes nothing.
CUresult cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	SIM_CURRENT(context);
	if (dptr == NULL || bytesize == 0
		|| (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST && flags != CU_MEM_ATTACH_SINGLE))
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	struct sim_range *range = allocate(context, bytesize);
	if (range != NULL) {
		range->flags = flags;
		*dptr = range->base;
	}
	sim_leave();
	meet();
	return range != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult prefetch(CUdeviceptr address, size_t bytes, int device, CUstream handle)
{
	SIM_STREAM(stream, handle);
	(void)stream;
	if (device >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	sim_enter();
	struct sim_range *range = sim_range_find(address);
	bool managed = range != NULL && range->kind == SIM_RANGE_MANAGED && bytes > 0
		&& bytes <= range->bytes - (address - range->base);
	if (managed && device >= 0) {
		sim_managed_touch(range, address - range->base + bytes);
	} else if (managed) { // to the host: the GPU's pages are given back
		sim_managed_leave(range);
	}
	sim_leave();
	if (!managed)
		return CUDA_ERROR_INVALID_VALUE;
	return sim_stream_submit(stream, SIM_COPY, 1000 + bytes / 25, 0);
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)

CUresult cuMemPrefetchAsync(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream)
{
	return prefetch(devPtr, count, dstDevice, hStream);
}

CUresult cuMemPrefetchAsync_ptsz(CUdeviceptr devPtr, size_t count, CUdevice dstDevice, CUstream hStream)
{
	return prefetch(devPtr, count, dstDevice, THREADED(hStream));
}

static int location_device(CUmemLocation location)
{
	return location.type == CU_MEM_LOCATION_TYPE_DEVICE ? location.id : -1;
}

CUresult cuMemPrefetchAsync_v2(
	CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags, CUstream hStream)
{
	return flags != 0 ? CUDA_ERROR_INVALID_VALUE : prefetch(devPtr, count, location_device(location), hStream);
}

CUresult cuMemPrefetchAsync_v2_ptsz(
	CUdeviceptr devPtr, size_t count, CUmemLocation location, unsigned int flags, CUstream hStream)
{
	return flags != 0 ? CUDA_ERROR_INVALID_VALUE
		: prefetch(devPtr, count, location_device(location), THREADED(hStream));
}

static CUresult advise(CUdeviceptr address, size_t bytes)
{
	SIM_READY();
	sim_enter();
	const struct sim_range *range = sim_range_find(address);
	bool managed = range != NULL && range->kind == SIM_RANGE_MANAGED && bytes > 0
		&& bytes <= range->bytes - (address - range->base);
	sim_leave();
	return managed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemAdvise(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUdevice device)
{
	(void)advice, (void)device;
	return advise(devPtr, count);
}

CUresult cuMemAdvise_v2(CUdeviceptr devPtr, size_t count, CUmem_advise advice, CUmemLocation location)
{
	(void)advice, (void)location;
	return advise(devPtr, count);
}
