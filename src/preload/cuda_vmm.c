// SPDX-License-Identifier: Apache-2.0
// Virtual memory management: memory without an address (cuMemCreate) and what keeps it (allocation.h). Owns: which handles and mappings hold
// which allocation. Charged from creation until the last of both is gone, to the GPU where it lies, whichever context is
// current or none.
//
// An exported handle may live on in another process or descriptor, and sparse arrays and multicast objects hold memory in pieces that
// are not followed here: the end of such an allocation is NVML's to tell. Imported memory is its exporter's, and charged there. What the process
// imports again by a descriptor of its own is the same allocation.
#include "preload/allocation.h"
#include "preload/descriptor.h"
#include "preload/dma_buf.h"
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/private.h"
#include "preload/sharing.h"
#include "preload/track.h"

// A new allocation, held by a handle. False: no memory to record it in.
static bool record(struct softmig_gpu *gpu, CUmemGenericAllocationHandle handle, uint64_t bytes, uint64_t more, struct softmig_ended *ended)
{
	struct softmig_track_entry old, held = {.kind = SOFTMIG_TRACK_HANDLE, .key = handle, .count = 1, .gpu = (uint8_t)gpu->ledger};

	held.more = softmig_allocation_add(gpu, bytes, more, 1);
	if (held.more == 0)
		return false;
	if (!softmig_track_swap(&held, &old)) {
		softmig_track_remove(SOFTMIG_TRACK_ALLOCATION, held.more, &old);
		return false;
	}
	for (; old.kind != SOFTMIG_TRACK_FREE && old.count > 0; old.count--)
		softmig_allocation_let_go(old.more, old.unseen, ended);
	return true;
}

static struct softmig_gpu *gpu_of_location(const CUmemLocation *location)
{
	if (location->type == CU_MEM_LOCATION_TYPE_DEVICE)
		return softmig_gpu_of_device(location->id);
	if (location->type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN)
		return softmig_gpu_of_device(location->localized.deviceId);
	return NULL; // host memory
}

CUresult hook_cuMemCreate(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	struct softmig_gpu *gpu = prop == NULL ? NULL : gpu_of_location(&prop->location);
	uint64_t bytes = softmig_granules(size);
	struct softmig_ended ended = {0};

	if (gpu == NULL || size == 0)
		return DRIVER(cuMemCreate)(handle, size, prop, flags);
	softmig_settle_if_due(gpu);
	softmig_gpu_enter(gpu);
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
	if (softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, bytes, "cuMemCreate")) {
		result = DRIVER(cuMemCreate)(handle, size, prop, flags);
		if (result == CUDA_SUCCESS && !record(gpu, *handle, bytes, 0, &ended)) {
			DRIVER(cuMemRelease)(*handle);
			result = CUDA_ERROR_OUT_OF_MEMORY;
		}
		if (result != CUDA_SUCCESS)
			softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	}
	softmig_gpu_leave(gpu);
	softmig_allocations_finish(&ended);
	return result;
}

// One reference taken off before the driver drops it, since another thread may be given the same value at once.
CUresult hook_cuMemRelease(CUmemGenericAllocationHandle handle)
{
	struct softmig_track_entry held;
	struct softmig_ended ended = {0};

	if (!softmig_track_adjust(SOFTMIG_TRACK_HANDLE, handle, -1, 0, &held))
		return DRIVER(cuMemRelease)(handle);
	struct softmig_gpu *gpu = softmig_gpu_by_index(held.gpu);
	softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuMemRelease)(handle);
	if (result == CUDA_SUCCESS)
		softmig_allocation_let_go(held.more, held.unseen, &ended);
	else
		softmig_track_count(&held, 1);
	softmig_gpu_leave(gpu);
	softmig_allocations_look(&ended);
	softmig_allocations_finish(&ended);
	return result;
}

// Memory of this very process, imported again by a descriptor of its own: one more holder, which has been counted before the driver's call, so that it
// does not end in between.
static CUresult import_own(CUmemGenericAllocationHandle *handle, void *descriptor, CUmemAllocationHandleType type, const struct softmig_track_entry *allocation)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(allocation->gpu);
	struct softmig_track_entry old;
	struct softmig_ended ended = {0};
	CUresult result = DRIVER(cuMemImportFromShareableHandle)(handle, descriptor, type);

	softmig_gpu_enter(gpu);
	if (result != CUDA_SUCCESS) {
		softmig_allocation_let_go(allocation->key, true, &ended);
	} else if (!softmig_track_adjust(SOFTMIG_TRACK_HANDLE, *handle, 1, 0, &old)) { // unless the driver answers with a handle that is held already
		struct softmig_track_entry held = {
			.kind = SOFTMIG_TRACK_HANDLE, .key = *handle, .more = allocation->key, .count = 1, .gpu = allocation->gpu, .unseen = true};
		if (softmig_track_swap(&held, &old))
			for (; old.kind != SOFTMIG_TRACK_FREE && old.count > 0; old.count--)
				softmig_allocation_let_go(old.more, old.unseen, &ended);
	}
	softmig_gpu_leave(gpu);
	softmig_allocations_finish(&ended);
	return result;
}

// An import is one more reference to memory that its exporter is charged for. Its end may be the end of memory of this very
// process, if it has imported its own.
CUresult hook_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle, CUmemAllocationHandleType shHandleType)
{
	uint64_t own = shHandleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ? softmig_descriptor_of((int)(intptr_t)osHandle) : 0;
	struct softmig_track_entry allocation;
	if (own != 0 && softmig_allocation_hold(own, true, &allocation))
		return import_own(handle, osHandle, shHandleType, &allocation);
	softmig_import_begins();
	CUresult result = DRIVER(cuMemImportFromShareableHandle)(handle, osHandle, shHandleType);
	CUmemAllocationProp prop;
	struct softmig_track_entry held;
	struct softmig_ended ended = {0};

	if (result != CUDA_SUCCESS) {
		softmig_import_ended();
		return result;
	}
	if (!SOFTMIG_HAS(cuMemGetAllocationPropertiesFromHandle) || DRIVER(cuMemGetAllocationPropertiesFromHandle)(&prop, *handle) != CUDA_SUCCESS)
		return result; // held from now on, as far as is known
	// A driver that answers with a handle that is held already means that one.
	if (softmig_track_adjust(SOFTMIG_TRACK_HANDLE, *handle, 1, 0, &held)) {
		softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, held.more, 1, 0, &held);
		softmig_import_ended();
		return result;
	}
	struct softmig_gpu *gpu = gpu_of_location(&prop.location);
	if (gpu != NULL)
		record(gpu, *handle, 0, SOFTMIG_ALLOCATION_IMPORTED, &ended);
	else
		softmig_import_ended(); // host memory
	softmig_allocations_finish(&ended);
	return result;
}

static void held_elsewhere(CUmemGenericAllocationHandle handle)
{
	struct softmig_track_entry held;

	if (softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &held))
		softmig_allocation_elsewhere(held.more);
}

CUresult hook_cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                           CUmemAllocationHandleType handleType, unsigned long long flags)
{
	CUresult result = DRIVER(cuMemExportToShareableHandle)(shareableHandle, handle, handleType, flags);
	int fd = result == CUDA_SUCCESS && handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && shareableHandle != NULL ? *(int *)shareableHandle : -1;
	struct softmig_track_entry held;
	struct softmig_ended ended = {0};

	if (fd >= 0)
		softmig_allocations_reissued(fd, &ended);
	if (result == CUDA_SUCCESS && softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &held))
		softmig_allocation_export(held.more, fd, &ended);
	softmig_allocations_finish(&ended);
	return result;
}

// The mapping that address lies in.
static bool find_mapping(uint64_t address, struct softmig_track_entry *mapping)
{
	uint64_t cursor = 0;

	if (softmig_track_find(SOFTMIG_TRACK_MAPPING, address, mapping))
		return true;
	while (softmig_track_next(SOFTMIG_TRACK_MAPPING, &cursor, mapping))
		if (address - mapping->key < mapping->bytes)
			return true;
	return false;
}

CUresult hook_cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *handle, void *addr)
{
	CUresult result = DRIVER(cuMemRetainAllocationHandle)(handle, addr);
	struct softmig_track_entry held, allocation, mapping;
	struct softmig_ended ended = {0};

	if (result != CUDA_SUCCESS)
		return result;
	// The driver answers with the handle's own value, unless that has been released.
	if (softmig_track_adjust(SOFTMIG_TRACK_HANDLE, *handle, 1, 0, &held)) {
		softmig_allocation_hold(held.more, held.unseen, &allocation);
		return result;
	}
	if (!find_mapping((uint64_t)(uintptr_t)addr, &mapping) || !softmig_allocation_hold(mapping.more, mapping.unseen, &allocation))
		return result;
	held = (struct softmig_track_entry){
		.kind = SOFTMIG_TRACK_HANDLE, .key = *handle, .more = mapping.more, .gpu = allocation.gpu, .unseen = mapping.unseen};
	if (softmig_track_count(&held, 1) < 0) {
		DRIVER(cuMemRelease)(*handle);
		softmig_allocation_let_go(mapping.more, mapping.unseen, &ended);
		softmig_allocations_finish(&ended);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	return result;
}

// Mappings of memory that is not charged here are listed too, held by allocation 0, so that cuMemUnmap can walk a range.
CUresult hook_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	struct softmig_track_entry held, allocation, old;
	struct softmig_track_entry mapping = {.kind = SOFTMIG_TRACK_MAPPING, .key = ptr, .bytes = size};
	struct softmig_ended ended = {0};

	// Held before it is mapped, so that a release in another thread does not end it in between.
	if (softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &held) && softmig_allocation_hold(held.more, held.unseen, &allocation)) {
		mapping.more = held.more;
		mapping.unseen = held.unseen;
		mapping.gpu = held.gpu;
	}
	struct softmig_gpu *gpu = softmig_gpu_by_index(mapping.gpu);
	softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuMemMap)(ptr, size, offset, handle, flags);
	if (result == CUDA_SUCCESS && !softmig_track_swap(&mapping, &old)) {
		DRIVER(cuMemUnmap)(ptr, size);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	} else if (result == CUDA_SUCCESS && old.kind != SOFTMIG_TRACK_FREE) {
		softmig_allocation_let_go(old.more, old.unseen, &ended);
	}
	if (result != CUDA_SUCCESS)
		softmig_allocation_let_go(mapping.more, mapping.unseen, &ended);
	softmig_gpu_leave(gpu);
	softmig_allocations_finish(&ended);
	return result;
}

// The next mapping that begins in [*at, end): *at moves past it. In one range they lie end to end; only over a hole the table is searched.
static bool next_mapping(uint64_t *at, uint64_t end, struct softmig_track_entry *mapping)
{
	struct softmig_track_entry seen;
	uint64_t cursor = 0;
	bool found = *at < end && softmig_track_find(SOFTMIG_TRACK_MAPPING, *at, mapping);

	if (!found && *at < end) {
		while (softmig_track_next(SOFTMIG_TRACK_MAPPING, &cursor, &seen)) {
			if (seen.key > *at && seen.key < end && (!found || seen.key < mapping->key)) {
				*mapping = seen;
				found = true;
			}
		}
	}
	if (found)
		*at = mapping->key + mapping->bytes;
	return found;
}

bool softmig_vmm_is_mapped(uint64_t address)
{
	return find_mapping(address, &(struct softmig_track_entry){0});
}

void softmig_vmm_export_range(uint64_t address, uint64_t bytes, int fd, struct softmig_ended *ended)
{
	struct softmig_track_entry mapping;
	uint64_t end = bytes > UINT64_MAX - address ? UINT64_MAX : address + bytes;

	if (!find_mapping(address, &mapping))
		return;
	address = mapping.key;
	while (next_mapping(&address, end, &mapping))
		softmig_allocation_export(mapping.more, fd, ended);
}

// Mappings are taken out before the driver drops them, since another thread may map there at once; put back if it did not.
CUresult hook_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	struct softmig_track_entry few[16], *taken = few, mapping;
	uint64_t end = size > UINT64_MAX - ptr ? UINT64_MAX : ptr + size, at = ptr;
	size_t room = 0, count = 0;
	struct softmig_ended ended = {0};
	uint32_t gpus = 0;

	while (next_mapping(&at, end, &mapping))
		room++;
	if (room > sizeof(few) / sizeof(few[0])) {
		taken = softmig_scratch_get(room * sizeof(*taken));
		if (taken == NULL)
			return CUDA_ERROR_OUT_OF_MEMORY;
	}
	at = ptr;
	while (count < room && next_mapping(&at, end, &mapping)) {
		if (softmig_track_remove(SOFTMIG_TRACK_MAPPING, mapping.key, &taken[count])) {
			gpus |= 1u << taken[count].gpu;
			count++;
		}
	}
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		if (gpus & 1u << i)
			softmig_gpu_enter(softmig_gpu_by_index(i));
	CUresult result = DRIVER(cuMemUnmap)(ptr, size);
	for (size_t i = 0; i < count; i++) {
		if (result == CUDA_SUCCESS)
			softmig_allocation_let_go(taken[i].more, taken[i].unseen, &ended);
		else
			softmig_track_add(&taken[i]);
	}
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		if (gpus & 1u << i)
			softmig_gpu_leave(softmig_gpu_by_index(i));
	softmig_allocations_look(&ended);
	softmig_allocations_finish(&ended);
	if (taken != few)
		softmig_scratch_free(taken, room * sizeof(*taken));
	return result;
}

// Tiles of sparse arrays. Which tile holds what is not followed: the memory's end is NVML's to tell.
static CUresult map_array(const CUarrayMapInfo *list, unsigned int count, CUresult result)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	bool unmaps = false;

	if (result != CUDA_SUCCESS || list == NULL)
		return result;
	for (unsigned int i = 0; i < count; i++) {
		if (list[i].memOperationType == CU_MEM_OPERATION_TYPE_MAP)
			held_elsewhere(list[i].memHandle.memHandle);
		unmaps |= list[i].memOperationType == CU_MEM_OPERATION_TYPE_UNMAP;
	}
	if (unmaps && gpu != NULL)
		softmig_settle(gpu);
	return result;
}

CUresult hook_cuMemMapArrayAsync(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return map_array(mapInfoList, count, DRIVER(cuMemMapArrayAsync)(mapInfoList, count, hStream));
}

CUresult hook_cuMemMapArrayAsync_ptsz(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return map_array(mapInfoList, count, DRIVER(cuMemMapArrayAsync_ptsz)(mapInfoList, count, hStream));
}

// Multicast objects and logical endpoints hold what is bound to them.
static CUresult bound(CUresult result, CUmemGenericAllocationHandle handle)
{
	if (result == CUDA_SUCCESS)
		held_elsewhere(handle);
	return result;
}

static CUresult bound_address(CUresult result, uint64_t address, uint64_t size)
{
	struct softmig_track_entry mapping;
	uint64_t end = size > UINT64_MAX - address ? UINT64_MAX : address + size;

	if (result != CUDA_SUCCESS || !find_mapping(address, &mapping))
		return result;
	do
		softmig_allocation_elsewhere(mapping.more);
	while (next_mapping(&address, end, &mapping));
	return result;
}

static CUresult unbound(CUresult result, CUdevice device)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(device);
	if (result == CUDA_SUCCESS && gpu != NULL)
		softmig_settle(gpu);
	return result;
}

CUresult hook_cuMulticastBindMem(CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUmemGenericAllocationHandle memHandle,
                                 size_t memOffset, size_t size, unsigned long long flags)
{
	return bound(DRIVER(cuMulticastBindMem)(mcHandle, mcOffset, memHandle, memOffset, size, flags), memHandle);
}

CUresult hook_cuMulticastBindMem_v2(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset,
                                    CUmemGenericAllocationHandle memHandle, size_t memOffset, size_t size, unsigned long long flags)
{
	return bound(DRIVER(cuMulticastBindMem_v2)(mcHandle, dev, mcOffset, memHandle, memOffset, size, flags), memHandle);
}

CUresult hook_cuMulticastBindAddr(CUmemGenericAllocationHandle mcHandle, size_t mcOffset, CUdeviceptr memptr, size_t size,
                                  unsigned long long flags)
{
	return bound_address(DRIVER(cuMulticastBindAddr)(mcHandle, mcOffset, memptr, size, flags), memptr, size);
}

CUresult hook_cuMulticastBindAddr_v2(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset, CUdeviceptr memptr,
                                     size_t size, unsigned long long flags)
{
	return bound_address(DRIVER(cuMulticastBindAddr_v2)(mcHandle, dev, mcOffset, memptr, size, flags), memptr, size);
}

CUresult hook_cuMulticastUnbind(CUmemGenericAllocationHandle mcHandle, CUdevice dev, size_t mcOffset, size_t size)
{
	return unbound(DRIVER(cuMulticastUnbind)(mcHandle, dev, mcOffset, size), dev);
}

CUresult hook_cuLogicalEndpointBindMem(CUlogicalEndpointId leId, CUdevice dev, cuuint64_t offset, CUmemGenericAllocationHandle memHandle,
                                       cuuint64_t memOffset, cuuint64_t size, unsigned long long flags)
{
	return bound(DRIVER(cuLogicalEndpointBindMem)(leId, dev, offset, memHandle, memOffset, size, flags), memHandle);
}

CUresult hook_cuLogicalEndpointBindAddr(CUlogicalEndpointId leId, CUdevice dev, cuuint64_t offset, void *ptr, cuuint64_t size,
                                        unsigned long long flags)
{
	return bound_address(DRIVER(cuLogicalEndpointBindAddr)(leId, dev, offset, ptr, size, flags), (uint64_t)(uintptr_t)ptr, size);
}

CUresult hook_cuLogicalEndpointUnbind(CUlogicalEndpointId leId, CUdevice dev, cuuint64_t offset, cuuint64_t size)
{
	return unbound(DRIVER(cuLogicalEndpointUnbind)(leId, dev, offset, size), dev);
}

// Ends the bindings on all its devices.
CUresult hook_cuLogicalEndpointDestroy(CUlogicalEndpointId leId)
{
	CUresult result = DRIVER(cuLogicalEndpointDestroy)(leId);
	if (result == CUDA_SUCCESS)
		for (int device = 0; device < SOFTMIG_MAX_GPUS; device++)
			unbound(result, device);
	return result;
}
