// SPDX-License-Identifier: Apache-2.0
// Virtual memory management: memory without an address (cuMemCreate) and what keeps it. Owns: which handles and mappings hold
// which allocation. Charged from creation until the last of both is gone, to the GPU where it lies, whichever context is
// current or none.
//
//   HANDLE (value) ──┐
//   HANDLE (value) ──┼──> ALLOCATION (a number of ours): count = handles' references + mappings + descriptors; bytes; gpu
//   MAPPING (address)┤
//   DESCRIPTOR (fd) ─┘
// The number in between, because the driver reissues a handle's value once it is released, also while the memory is still mapped.
// An exported handle may live on in another process or descriptor, and sparse arrays and multicast objects hold memory in pieces that
// are not followed here: the end of such an allocation is NVML's to tell. Imported memory is its exporter's, and charged there.
//
// What is exported by a descriptor stays charged while that is open here, since NVML shows it to nobody once no holder is left that has not
// imported it (ORIGINALS counts these): it is unseen, then. What the process imports again by such a descriptor is the same allocation.
#include "preload/descriptor.h"
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/private.h"
#include "preload/sharing.h"
#include "preload/track.h"

// In an ALLOCATION's more.
enum {
	IMPORTED = 1,  // not charged here; but what it holds may be this process's own
	ELSEWHERE = 2, // may be held by what is not seen here
	EXPORTED = 4,  // by other processes, too: since when stands above these, in SINCE_NS
	UNSEEN = 8,    // by NVML, as things are
	SINCE_SHIFT = 8,
};
#define SINCE_NS (1ull << 20)

static _Atomic uint64_t last_allocation;

// What came to an end in one call: settled when the call is over.
struct ended {
	uint32_t gpus; // one bit each
	uint64_t bytes[SOFTMIG_MAX_GPUS];
	uint64_t exported_bytes[SOFTMIG_MAX_GPUS];
	uint64_t since_ns; // the first of these was exported
	int imports;
	bool exports; // something that was exported has a holder fewer
};

_Static_assert(SOFTMIG_MAX_GPUS <= 32, "one bit each");

// From now on, or not any more.
static void set_unseen(uint64_t allocation, bool unseen)
{
	struct softmig_track_entry entry;

	if (!softmig_track_mark(SOFTMIG_TRACK_ALLOCATION, allocation, UNSEEN, unseen, &entry))
		return;
	if (unseen)
		atomic_fetch_add(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
	else
		atomic_fetch_sub(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
}

// One holder fewer, which may have imported it. Call it when the driver has let go, between enter and leave of the allocation's GPU.
static void let_go(uint64_t allocation, bool imported, struct ended *ended)
{
	struct softmig_track_entry entry;

	if (!softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, -1, 0, &entry))
		return;
	if (entry.more & EXPORTED) {
		struct softmig_track_entry originals;
		bool last = !imported && softmig_track_adjust(SOFTMIG_TRACK_ORIGINALS, allocation, -1, 0, &originals) && originals.count == 0;
		if (last && entry.count != 0 && softmig_descriptor_is_open(allocation))
			set_unseen(allocation, true);
		ended->exports = true;
	}
	if (entry.count != 0)
		return;
	if (entry.more & UNSEEN)
		atomic_fetch_sub(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
	if (entry.more & (IMPORTED | ELSEWHERE)) {
		ended->gpus |= 1u << entry.gpu;
		ended->bytes[entry.gpu] += entry.bytes;
		ended->imports += (entry.more & IMPORTED) != 0;
		if (entry.more & EXPORTED) {
			uint64_t since_ns = (entry.more >> SINCE_SHIFT) * SINCE_NS;
			ended->since_ns = ended->exported_bytes[entry.gpu] != 0 && ended->since_ns < since_ns ? ended->since_ns : since_ns;
			ended->exported_bytes[entry.gpu] += entry.bytes;
		}
	} else {
		softmig_uncharge(softmig_gpu_by_index(entry.gpu), SOFTMIG_LEDGER_TRACKED, entry.bytes);
	}
}

static void finish(const struct ended *ended)
{
	for (int i = 0; i < ended->imports; i++)
		softmig_import_ended();
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		if (ended->exported_bytes[i] != 0)
			softmig_export_ended(softmig_gpu_by_index(i), ended->exported_bytes[i], ended->since_ns);
		if (ended->gpus & 1u << i)
			softmig_hand_over(softmig_gpu_by_index(i), ended->bytes[i]);
	}
}

// One holder more, which may be an import.
static bool hold(uint64_t allocation, bool imported, struct softmig_track_entry *entry)
{
	if (!softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, 1, 0, entry))
		return false;
	if (!imported && (entry->more & EXPORTED))
		softmig_track_adjust(SOFTMIG_TRACK_ORIGINALS, allocation, 1, 0, &(struct softmig_track_entry){0});
	return true;
}

// Descriptors that were closed since hold their memory no longer. What nobody holds any more is handed over; NVML knows it again where an import
// does.
static void look_at_descriptors(struct ended *ended)
{
	uint64_t allocation;

	while (ended->exports && (allocation = softmig_descriptor_closed()) != 0) {
		struct softmig_track_entry entry;
		if (!softmig_track_find(SOFTMIG_TRACK_ALLOCATION, allocation, &entry))
			continue;
		struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu);
		softmig_gpu_enter(gpu);
		if (entry.count > 1 && !softmig_descriptor_is_open(allocation))
			set_unseen(allocation, false);
		let_go(allocation, true, ended);
		softmig_gpu_leave(gpu);
	}
}

void softmig_descriptors_look(void)
{
	struct ended ended = {.exports = true};

	look_at_descriptors(&ended);
	finish(&ended);
}

// A new allocation, held by a handle. False: no memory to record it in.
static bool record(struct softmig_gpu *gpu, CUmemGenericAllocationHandle handle, uint64_t bytes, uint64_t more, struct ended *ended)
{
	struct softmig_track_entry old, allocation = {.kind = SOFTMIG_TRACK_ALLOCATION,
	                                              .key = atomic_fetch_add(&last_allocation, 1) + 1,
	                                              .bytes = bytes,
	                                              .more = more,
	                                              .count = 1,
	                                              .gpu = (uint8_t)gpu->ledger};
	struct softmig_track_entry held = {
		.kind = SOFTMIG_TRACK_HANDLE, .key = handle, .more = allocation.key, .count = 1, .gpu = allocation.gpu};

	if (!softmig_track_add(&allocation))
		return false;
	if (!softmig_track_swap(&held, &old)) {
		softmig_track_remove(SOFTMIG_TRACK_ALLOCATION, allocation.key, &allocation);
		return false;
	}
	for (; old.kind != SOFTMIG_TRACK_FREE && old.count > 0; old.count--)
		let_go(old.more, old.unseen, ended);
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
	struct ended ended = {0};

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
	finish(&ended);
	return result;
}

// One reference taken off before the driver drops it, since another thread may be given the same value at once.
CUresult hook_cuMemRelease(CUmemGenericAllocationHandle handle)
{
	struct softmig_track_entry held;
	struct ended ended = {0};

	if (!softmig_track_adjust(SOFTMIG_TRACK_HANDLE, handle, -1, 0, &held))
		return DRIVER(cuMemRelease)(handle);
	struct softmig_gpu *gpu = softmig_gpu_by_index(held.gpu);
	softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuMemRelease)(handle);
	if (result == CUDA_SUCCESS)
		let_go(held.more, held.unseen, &ended);
	else
		softmig_track_count(&held, 1);
	softmig_gpu_leave(gpu);
	look_at_descriptors(&ended);
	finish(&ended);
	return result;
}

// Memory of this very process, imported again by a descriptor of its own: one more holder, which has been counted before the driver's call, so that it
// does not end in between.
static CUresult import_own(CUmemGenericAllocationHandle *handle, void *descriptor, CUmemAllocationHandleType type, const struct softmig_track_entry *allocation)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(allocation->gpu);
	struct softmig_track_entry old;
	struct ended ended = {0};
	CUresult result = DRIVER(cuMemImportFromShareableHandle)(handle, descriptor, type);

	softmig_gpu_enter(gpu);
	if (result != CUDA_SUCCESS) {
		let_go(allocation->key, true, &ended);
	} else if (!softmig_track_adjust(SOFTMIG_TRACK_HANDLE, *handle, 1, 0, &old)) { // unless the driver answers with a handle that is held already
		struct softmig_track_entry held = {
			.kind = SOFTMIG_TRACK_HANDLE, .key = *handle, .more = allocation->key, .count = 1, .gpu = allocation->gpu, .unseen = true};
		if (softmig_track_swap(&held, &old))
			for (; old.kind != SOFTMIG_TRACK_FREE && old.count > 0; old.count--)
				let_go(old.more, old.unseen, &ended);
	}
	softmig_gpu_leave(gpu);
	finish(&ended);
	return result;
}

// An import is one more reference to memory that its exporter is charged for. Its end may be the end of memory of this very
// process, if it has imported its own.
CUresult hook_cuMemImportFromShareableHandle(CUmemGenericAllocationHandle *handle, void *osHandle, CUmemAllocationHandleType shHandleType)
{
	uint64_t own = shHandleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR ? softmig_descriptor_of((int)(intptr_t)osHandle) : 0;
	struct softmig_track_entry allocation;
	if (own != 0 && hold(own, true, &allocation))
		return import_own(handle, osHandle, shHandleType, &allocation);
	softmig_import_begins();
	CUresult result = DRIVER(cuMemImportFromShareableHandle)(handle, osHandle, shHandleType);
	CUmemAllocationProp prop;
	struct softmig_track_entry held;
	struct ended ended = {0};

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
		record(gpu, *handle, 0, IMPORTED, &ended);
	else
		softmig_import_ended(); // host memory
	finish(&ended);
	return result;
}

static void held_elsewhere(CUmemGenericAllocationHandle handle)
{
	struct softmig_track_entry entry;

	if (softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &entry))
		softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, entry.more, 0, ELSEWHERE, &entry);
}

// fd: by which it was, -1: by none.
static void exported(CUmemGenericAllocationHandle handle, int fd)
{
	struct softmig_track_entry held, allocation;
	struct ended ended = {0};
	uint64_t former = 0;

	held_elsewhere(handle);
	if (!softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &held) || !softmig_track_find(SOFTMIG_TRACK_ALLOCATION, held.more, &allocation) ||
	    (allocation.more & IMPORTED))
		return;
	if (softmig_track_mark(SOFTMIG_TRACK_ALLOCATION, held.more, EXPORTED, true, &allocation)) { // one thread, once
		struct softmig_track_entry originals = {.kind = SOFTMIG_TRACK_ORIGINALS, .key = held.more, .count = allocation.count, .gpu = allocation.gpu};
		softmig_track_add(&originals);
		uint64_t since_ns = softmig_exported(allocation.bytes);
		softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, held.more, 0, EXPORTED | since_ns / SINCE_NS << SINCE_SHIFT, &allocation);
	}
	struct softmig_gpu *gpu = softmig_gpu_by_index(allocation.gpu);
	softmig_gpu_enter(gpu);
	if (fd >= 0 && hold(held.more, true, &allocation)) {
		if (!softmig_descriptor_add(fd, held.more, &former))
			former = held.more;
		if (former != 0)
			let_go(former, true, &ended);
	}
	softmig_gpu_leave(gpu);
	finish(&ended);
}

CUresult hook_cuMemExportToShareableHandle(void *shareableHandle, CUmemGenericAllocationHandle handle,
                                           CUmemAllocationHandleType handleType, unsigned long long flags)
{
	CUresult result = DRIVER(cuMemExportToShareableHandle)(shareableHandle, handle, handleType, flags);
	if (result == CUDA_SUCCESS)
		exported(handle, handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && shareableHandle != NULL ? *(int *)shareableHandle : -1);
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
	struct ended ended = {0};

	if (result != CUDA_SUCCESS)
		return result;
	// The driver answers with the handle's own value, unless that has been released.
	if (softmig_track_adjust(SOFTMIG_TRACK_HANDLE, *handle, 1, 0, &held)) {
		hold(held.more, held.unseen, &allocation);
		return result;
	}
	if (!find_mapping((uint64_t)(uintptr_t)addr, &mapping) || !hold(mapping.more, mapping.unseen, &allocation))
		return result;
	held = (struct softmig_track_entry){
		.kind = SOFTMIG_TRACK_HANDLE, .key = *handle, .more = mapping.more, .gpu = allocation.gpu, .unseen = mapping.unseen};
	if (softmig_track_count(&held, 1) < 0) {
		DRIVER(cuMemRelease)(*handle);
		let_go(mapping.more, mapping.unseen, &ended);
		finish(&ended);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	return result;
}

// Mappings of memory that is not charged here are listed too, held by allocation 0, so that cuMemUnmap can walk a range.
CUresult hook_cuMemMap(CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle handle, unsigned long long flags)
{
	struct softmig_track_entry held, allocation, old;
	struct softmig_track_entry mapping = {.kind = SOFTMIG_TRACK_MAPPING, .key = ptr, .bytes = size};
	struct ended ended = {0};

	// Held before it is mapped, so that a release in another thread does not end it in between.
	if (softmig_track_find(SOFTMIG_TRACK_HANDLE, handle, &held) && hold(held.more, held.unseen, &allocation)) {
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
		let_go(old.more, old.unseen, &ended);
	}
	if (result != CUDA_SUCCESS)
		let_go(mapping.more, mapping.unseen, &ended);
	softmig_gpu_leave(gpu);
	finish(&ended);
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

// Mappings are taken out before the driver drops them, since another thread may map there at once; put back if it did not.
CUresult hook_cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	struct softmig_track_entry few[16], *taken = few, mapping;
	uint64_t end = size > UINT64_MAX - ptr ? UINT64_MAX : ptr + size, at = ptr;
	size_t room = 0, count = 0;
	struct ended ended = {0};
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
			let_go(taken[i].more, taken[i].unseen, &ended);
		else
			softmig_track_add(&taken[i]);
	}
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		if (gpus & 1u << i)
			softmig_gpu_leave(softmig_gpu_by_index(i));
	look_at_descriptors(&ended);
	finish(&ended);
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
	struct softmig_track_entry mapping, allocation;
	uint64_t end = size > UINT64_MAX - address ? UINT64_MAX : address + size;

	if (result != CUDA_SUCCESS || !find_mapping(address, &mapping))
		return result;
	do
		softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, mapping.more, 0, ELSEWHERE, &allocation);
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
