// SPDX-License-Identifier: Apache-2.0
// Managed memory: pages come to the GPU when it uses them or when they are prefetched, and may be more than it has.
// They are in use on the GPU, but in no process's figure (docs/driver-facts.md).
#include <string.h>

#include "sim.h"

void sim_managed_touch(struct sim_range *range, uint64_t upto_bytes)
{
	uint64_t wanted = sim_round_up(upto_bytes, SIM_GRANULE);
	if (range->context == NULL || wanted <= range->charged_bytes)
		return;
	const int gpu = range->context->gpu;
	const uint64_t more = wanted - range->charged_bytes;
	sim_lock();
	if (sim_gpu_used(gpu) + more <= sim_gpu_capacity(gpu)) { // where the GPU is full, pages stay on the host: no error
		sim_state->process[sim_slot].managed_bytes[gpu] += more;
		range->charged_bytes = wanted;
	}
	sim_unlock();
}

void sim_managed_leave(struct sim_range *range)
{
	if (range->context == NULL)
		return;
	sim_lock();
	sim_state->process[sim_slot].managed_bytes[range->context->gpu] -= range->charged_bytes;
	sim_unlock();
	range->charged_bytes = 0;
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
