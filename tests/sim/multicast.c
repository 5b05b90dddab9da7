// SPDX-License-Identifier: Apache-2.0
// Multicast objects: handles that stand for memory of several devices, which they keep alive while it is bound.
#include <stdlib.h>
#include <string.h>

#include "vmm.h"

static bool supported(int ordinal)
{
	return sim_state->gpu[sim_device[ordinal].gpu].capability >= 90;
}

static CUresult check(const CUmulticastObjectProp *prop)
{
	if (prop == NULL || prop->numDevices == 0 || prop->flags != 0
		|| (prop->handleTypes & ~(unsigned long long)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	for (int ordinal = 0; ordinal < sim_device_count; ordinal++)
		if (!supported(ordinal))
			return CUDA_ERROR_NOT_SUPPORTED;
	return (int)prop->numDevices <= sim_device_count ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMulticastGetGranularity(
	size_t *granularity, const CUmulticastObjectProp *prop, CUmulticastGranularity_flags option)
{
	SIM_READY();
	CUresult result = check(prop);
	if (granularity == NULL || option > CU_MULTICAST_GRANULARITY_RECOMMENDED)
		return CUDA_ERROR_INVALID_VALUE;
	if (result == CUDA_SUCCESS)
		*granularity = SIM_GRANULE;
	return result;
}

CUresult cuMulticastCreate(CUmemGenericAllocationHandle *mcHandle, const CUmulticastObjectProp *prop)
{
	SIM_READY();
	CUresult result = check(prop);
	if (result != CUDA_SUCCESS)
		return result;
	if (mcHandle == NULL || prop->size == 0 || prop->size % SIM_GRANULE != 0)
		return CUDA_ERROR_INVALID_VALUE;
	const CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED};
	struct sim_vmm *object = sim_vmm_make(&properties, prop->size);
	if (object == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	object->multicast = true;
	object->devices_wanted = prop->numDevices;
	sim_enter();
	object->fd = sim_backing_file(prop->size, &object->offset); // what is written through it; no device's memory
	sim_leave();
	*mcHandle = (CUmemGenericAllocationHandle)(uintptr_t)object;
	return CUDA_SUCCESS;
}

CUresult cuMulticastAddDevice(CUmemGenericAllocationHandle mcHandle, CUdevice dev)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_vmm *object = sim_vmm_of(mcHandle);
	if (object != NULL && object->multicast && !(object->devices & 1u << dev)
			&& (unsigned)__builtin_popcount(object->devices) < object->devices_wanted) {
		object->devices |= 1u << dev;
		result = CUDA_SUCCESS;
	}
	sim_leave();
	return result;
}

static CUresult bind(
	CUmemGenericAllocationHandle value, uint64_t offset, struct sim_vmm *memory, uint64_t memory_offset, uint64_t bytes)
{
	struct sim_vmm *object = sim_vmm_of(value);
	if (object == NULL || !object->multicast || memory == NULL || memory->multicast || memory->device < 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (bytes == 0 || offset % SIM_GRANULE != 0 || memory_offset % SIM_GRANULE != 0 || bytes % SIM_GRANULE != 0
		|| offset > object->bytes || bytes > object->bytes - offset || memory_offset > memory->bytes
		|| bytes > memory->bytes - memory_offset)
		return CUDA_ERROR_INVALID_VALUE;
	if ((unsigned)__builtin_popcount(object->devices) < object->devices_wanted)
		return CUDA_ERROR_INVALID_VALUE; // only once all devices have been added
	if (!(object->devices & 1u << memory->device))
		return CUDA_ERROR_INVALID_DEVICE;
	for (const struct sim_vmm_binding *other = object->bindings; other != NULL; other = other->next)
		if (other->memory->device == memory->device && other->offset < offset + bytes
			&& offset < other->offset + other->bytes)
			return CUDA_ERROR_INVALID_VALUE;
	struct sim_vmm_binding *binding = calloc(1, sizeof(*binding));
	if (binding == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*binding = (struct sim_vmm_binding){.next = object->bindings, .memory = memory, .offset = offset, .bytes = bytes};
	object->bindings = binding;
	memory->mappings++;
	return CUDA_SUCCESS;
}

CUresult cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset,
	CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size, unsigned long long flags)
{
	SIM_READY();
	if (flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	CUresult result = bind(mcHandle, mcOffset, sim_vmm_of(memHandle), memOffset, size);
	sim_leave();
	return result;
}

CUresult cuMulticastBindAddr(
	CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUdeviceptr memptr, size_t size, unsigned long long flags)
{
	SIM_READY();
	if (flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	CUresult result = bind(mcHandle, mcOffset, sim_vmm_at(memptr), 0, size);
	sim_leave();
	return result;
}

// Ends the bindings of device (-1: of all) that lie within a part of the object; returns how many.
static int unbind(struct sim_vmm *object, int device, uint64_t offset, uint64_t bytes)
{
	int count = 0;
	for (struct sim_vmm_binding **link = &object->bindings; *link != NULL;) {
		struct sim_vmm_binding *binding = *link;
		bool inside = binding->offset >= offset && binding->offset + binding->bytes <= offset + bytes;
		if (!inside || (device >= 0 && binding->memory->device != device)) {
			link = &binding->next;
			continue;
		}
		*link = binding->next;
		binding->memory->mappings--;
		sim_vmm_let_go(binding->memory);
		free(binding);
		count++;
	}
	return count;
}

CUresult cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset, size_t size)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	sim_enter();
	struct sim_vmm *object = sim_vmm_of(mcHandle);
	int count = object != NULL && object->multicast ? unbind(object, dev, mcOffset, size) : 0;
	sim_leave();
	return count > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

void sim_multicast_unbind_all(struct sim_vmm *handle)
{
	if (handle->multicast)
		unbind(handle, -1, 0, handle->bytes);
}
