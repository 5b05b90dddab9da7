// SPDX-License-Identifier: Apache-2.0
// Host memory of the driver: pinned and registered. It is not GPU memory and counts nowhere.
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "sim.h"

static CUresult allocate(void **pp, size_t bytes, unsigned flags)
{
	SIM_CURRENT(context);
	if (pp == NULL || bytes == 0 || flags > 7)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	size_t whole = sim_round_up(bytes, 4096);
	void *at = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	struct sim_range *range = sim_range_add((uint64_t)(uintptr_t)at, bytes, SIM_RANGE_HOST);
	if (range != NULL) {
		range->context = context;
		range->flags = flags;
	}
	sim_leave();
	if (range == NULL) {
		munmap(at, whole);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*pp = at;
	return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void **pp, size_t bytesize, unsigned int Flags)
{
	return allocate(pp, bytesize, Flags);
}

CUresult cuMemAllocHost_v2(void **pp, size_t bytesize)
{
	return allocate(pp, bytesize, 0);
}

CUresult cuMemAllocHost(void **pp, unsigned int bytesize)
{
	return allocate(pp, bytesize, 0);
}

CUresult cuMemFreeHost(void *p)
{
	SIM_READY();
	sim_enter();
	struct sim_range *range = sim_range_find((uint64_t)(uintptr_t)p);
	bool found = range != NULL && range->kind == SIM_RANGE_HOST && range->base == (uint64_t)(uintptr_t)p;
	if (found) {
		munmap(p, sim_round_up(range->bytes, 4096));
		sim_range_remove(range);
	}
	sim_leave();
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static CUresult register_memory(void *p, size_t bytes, unsigned flags)
{
	SIM_CURRENT(context);
	if (p == NULL || bytes == 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	CUresult result = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
	uint64_t base = (uint64_t)(uintptr_t)p;
	if (sim_range_find(base) == NULL && sim_range_find(base + bytes - 1) == NULL) {
		struct sim_range *range = sim_range_add(base, bytes, SIM_RANGE_REGISTERED);
		result = range != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
		if (range != NULL) {
			range->context = context;
			range->flags = flags;
		}
	}
	sim_leave();
	return result;
}

CUresult cuMemHostRegister_v2(void *p, size_t bytesize, unsigned int Flags)
{
	return register_memory(p, bytesize, Flags);
}

CUresult cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
	return register_memory(p, bytesize, Flags);
}

CUresult cuMemHostUnregister(void *p)
{
	SIM_READY();
	sim_enter();
	struct sim_range *range = sim_range_find((uint64_t)(uintptr_t)p);
	bool found = range != NULL && range->kind == SIM_RANGE_REGISTERED && range->base == (uint64_t)(uintptr_t)p;
	if (found)
		sim_range_remove(range);
	sim_leave();
	return found ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

static bool find_host(void *p, unsigned *flags)
{
	sim_enter();
	const struct sim_range *range = sim_range_find((uint64_t)(uintptr_t)p);
	bool found = range != NULL && (range->kind == SIM_RANGE_HOST || range->kind == SIM_RANGE_REGISTERED);
	if (found)
		*flags = range->flags;
	sim_leave();
	return found;
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *pdptr, void *p, unsigned int Flags)
{
	SIM_READY();
	unsigned flags;
	if (pdptr == NULL || Flags != 0 || !find_host(p, &flags))
		return CUDA_ERROR_INVALID_VALUE;
	*pdptr = (CUdeviceptr)(uintptr_t)p;
	return CUDA_SUCCESS;
}

CUresult cuMemHostGetFlags(unsigned int *pFlags, void *p)
{
	SIM_READY();
	if (pFlags == NULL || !find_host(p, pFlags))
		return CUDA_ERROR_INVALID_VALUE;
	return CUDA_SUCCESS;
}
