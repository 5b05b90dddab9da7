// SPDX-License-Identifier: Apache-2.0
// Virtual memory management: physical memory by handle, addresses reserved apart from it. Physical memory lives until
// its handle is released, its last mapping gone and no other process holds it; it belongs to the device that it was
// asked for, context or none.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "share_fd.h"
#include "vmm.h"

static struct sim_vmm *spare; // released ones: their memory is used for handles only, so an old handle is recognised

struct mapping {
	uint64_t address, bytes;
	struct sim_vmm *handle;
	CUmemAccess_flags access;
};

// What a reserved range has mapped, in the order of addresses.
struct mappings {
	struct mapping *list;
	size_t count, room;
};

struct sim_vmm *sim_vmm_of(CUmemGenericAllocationHandle value)
{
	struct sim_vmm *handle = (struct sim_vmm *)(uintptr_t)value;
	if (value % _Alignof(struct sim_vmm) != 0)
		return NULL;
	return handle != NULL && handle->magic == SIM_VMM_MAGIC ? handle : NULL;
}

void sim_vmm_let_go(struct sim_vmm *handle)
{
	if (handle->references > 0 || handle->mappings > 0)
		return;
	sim_multicast_unbind_all(handle);
	if (handle->shared_block >= 0)
		sim_shared_release(handle->shared_block, handle->original);
	else if (handle->device >= 0)
		sim_gpu_uncharge(sim_device[handle->device].gpu, handle->bytes);
	sim_dma_buf_memory_gone(handle);
	if (handle->own_fd)
		close(handle->fd);
	else
		sim_backing_discard(handle->fd, handle->offset, handle->bytes);
	handle->magic = 0;
	handle->next_spare = spare;
	spare = handle;
}

struct sim_vmm *sim_vmm_make(const CUmemAllocationProp *properties, uint64_t bytes)
{
	sim_enter();
	struct sim_vmm *handle = spare;
	if (handle != NULL)
		spare = handle->next_spare;
	sim_leave();
	if (handle == NULL)
		handle = malloc(sizeof(*handle));
	if (handle == NULL)
		return NULL;
	memset(handle, 0, sizeof(*handle));
	handle->magic = SIM_VMM_MAGIC;
	handle->references = 1;
	handle->device = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE ? properties->location.id : -1;
	handle->bytes = bytes;
	handle->properties = *properties;
	handle->shared_block = -1;
	return handle;
}

static CUresult check_properties(const CUmemAllocationProp *prop)
{
	if (prop == NULL || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED)
		return CUDA_ERROR_INVALID_VALUE;
	if (((unsigned)prop->requestedHandleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
		return CUDA_ERROR_NOT_SUPPORTED;
	if (prop->location.type == CU_MEM_LOCATION_TYPE_DEVICE)
		return prop->location.id >= 0 && prop->location.id < sim_device_count ? CUDA_SUCCESS
			: CUDA_ERROR_INVALID_DEVICE;
	return prop->location.type == CU_MEM_LOCATION_TYPE_HOST || prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA
			|| prop->location.type == CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAllocationGranularity(
	size_t *granularity, const CUmemAllocationProp *prop, CUmemAllocationGranularity_flags option)
{
	SIM_READY();
	if (granularity == NULL || option > CU_MEM_ALLOC_GRANULARITY_RECOMMENDED)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = check_properties(prop);
	if (result == CUDA_SUCCESS)
		*granularity = SIM_GRANULE;
	return result;
}

CUresult cuMemCreate(
	CUmemGenericAllocationHandle *out, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	SIM_READY();
	if (out == NULL || size == 0 || size % SIM_GRANULE != 0 || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = check_properties(prop);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	struct sim_vmm *handle = sim_vmm_make(prop, size);
	if (handle == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	int gpu = handle->device >= 0 ? sim_device[handle->device].gpu : -1;
	if (gpu >= 0)
		result = sim_gpu_charge(gpu, handle->device, size);
	if (result == CUDA_SUCCESS && prop->requestedHandleTypes == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && gpu >= 0) {
		handle->shared_block = sim_shared_create(gpu, size, -1, 0);
		handle->own_fd = true;
		handle->original = true;
		handle->fd = handle->shared_block < 0 ? -1 : sim_shared_file(handle->shared_block);
	} else if (result == CUDA_SUCCESS) {
		handle->fd = sim_backing_file(size, &handle->offset);
	}
	if (result == CUDA_SUCCESS && handle->fd < 0) {
		if (handle->shared_block >= 0)
			sim_shared_release(handle->shared_block, true);
		else if (gpu >= 0)
			sim_gpu_uncharge(gpu, size);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	sim_leave();
	if (result != CUDA_SUCCESS) {
		free(handle);
		return result;
	}
	*out = (CUmemGenericAllocationHandle)(uintptr_t)handle;
	return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle value)
{
	SIM_READY();
	sim_enter();
	struct sim_vmm *handle = sim_vmm_of(value);
	bool held = handle != NULL && handle->references > 0;
	if (held) {
		handle->references--;
		sim_vmm_let_go(handle);
	}
	sim_leave();
	return held ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// --- addresses

CUresult cuMemAddressReserve(
	CUdeviceptr *ptr, size_t size, size_t alignment, CUdeviceptr addr, unsigned long long flags)
{
	SIM_READY();
	if (ptr == NULL || size == 0 || size % SIM_GRANULE != 0 || (alignment & (alignment - 1)) != 0 || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	uint64_t at = sim_backing_reserve(size, alignment, addr);
	struct sim_range *range = at != 0 ? sim_range_add(at, size, SIM_RANGE_RESERVED) : NULL;
	if (range != NULL)
		range->owner = calloc(1, sizeof(struct mappings));
	sim_leave();
	if (range == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	*ptr = at;
	return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr ptr, size_t size)
{
	SIM_READY();
	sim_enter();
	struct sim_range *range = sim_range_find(ptr);
	bool whole = range != NULL && range->kind == SIM_RANGE_RESERVED && range->base == ptr && range->bytes == size;
	bool idle = whole && ((struct mappings *)range->owner)->count == 0;
	if (idle) {
		munmap((void *)(uintptr_t)ptr, size);
		free(((struct mappings *)range->owner)->list);
		free(range->owner);
		sim_range_remove(range);
	}
	sim_leave();
	return idle ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static struct sim_range *reserved(uint64_t address, uint64_t bytes)
{
	struct sim_range *range = sim_range_find(address);
	bool inside = range != NULL && range->kind == SIM_RANGE_RESERVED && bytes <= range->bytes - (address - range->base);
	return inside ? range : NULL;
}

// Where in the list a mapping at address stands or would stand.
static size_t position(const struct mappings *mappings, uint64_t address)
{
	size_t at = 0;
	while (at < mappings->count && mappings->list[at].address < address)
		at++;
	return at;
}

CUresult cuMemMap(
	CUdeviceptr ptr, size_t size, size_t offset, CUmemGenericAllocationHandle value, unsigned long long flags)
{
	SIM_READY();
	if (size == 0 || size % SIM_GRANULE != 0 || ptr % SIM_GRANULE != 0 || offset % SIM_GRANULE != 0 || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_vmm *handle = sim_vmm_of(value);
	struct sim_range *range = reserved(ptr, size);
	if (handle != NULL && range != NULL && handle->references > 0 && offset <= handle->bytes
		&& size <= handle->bytes - offset) {
		struct mappings *mappings = range->owner;
		size_t at = position(mappings, ptr);
		bool free_here = (at == mappings->count || mappings->list[at].address >= ptr + size)
			&& (at == 0 || mappings->list[at - 1].address + mappings->list[at - 1].bytes <= ptr);
		if (free_here && mappings->count == mappings->room) {
			size_t room = mappings->room == 0 ? 16 : mappings->room * 2;
			struct mapping *bigger = realloc(mappings->list, room * sizeof(*bigger));
			free_here = bigger != NULL;
			if (bigger != NULL) {
				mappings->list = bigger;
				mappings->room = room;
			}
		}
		if (free_here
			&& mmap((void *)(uintptr_t)ptr, size, PROT_NONE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, handle->fd,
				   (off_t)(handle->offset + offset))
				!= MAP_FAILED) {
			memmove(&mappings->list[at + 1], &mappings->list[at], (mappings->count - at) * sizeof(*mappings->list));
			mappings->list[at] = (struct mapping){.address = ptr, .bytes = size, .handle = handle};
			mappings->count++;
			handle->mappings++;
			range->device = handle->device;
			result = CUDA_SUCCESS;
		}
	}
	sim_leave();
	return result;
}

CUresult cuMemUnmap(CUdeviceptr ptr, size_t size)
{
	SIM_READY();
	struct CUctx_st *first = sim_context_first();
	if (first != NULL)
		sim_stream_wait_idle(first, -1);
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_range *range = reserved(ptr, size);
	struct mappings *mappings = range != NULL ? range->owner : NULL;
	size_t from = mappings != NULL ? position(mappings, ptr) : 0, to = from;
	uint64_t reached = ptr;
	while (mappings != NULL && to < mappings->count && mappings->list[to].address < ptr + size) {
		reached = mappings->list[to].address + mappings->list[to].bytes;
		to++;
	}
	// Whole mappings only: both ends must be ends of mappings.
	if (to > from && mappings->list[from].address == ptr && reached == ptr + size) {
		mmap((void *)(uintptr_t)ptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
		for (size_t i = from; i < to; i++) {
			mappings->list[i].handle->mappings--;
			sim_vmm_let_go(mappings->list[i].handle);
		}
		memmove(&mappings->list[from], &mappings->list[to], (mappings->count - to) * sizeof(*mappings->list));
		mappings->count -= to - from;
		result = CUDA_SUCCESS;
	}
	sim_leave();
	return result;
}

CUresult cuMemSetAccess(CUdeviceptr ptr, size_t size, const CUmemAccessDesc *desc, size_t count)
{
	SIM_READY();
	if (desc == NULL || count == 0 || size == 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUmemAccess_flags access = CU_MEM_ACCESS_FLAGS_PROT_NONE;
	for (size_t i = 0; i < count; i++) {
		if (desc[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE
			&& (desc[i].location.id < 0 || desc[i].location.id >= sim_device_count))
			return CUDA_ERROR_INVALID_DEVICE;
		if (desc[i].flags > access)
			access = desc[i].flags;
	}
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_range *range = reserved(ptr, size);
	struct mappings *mappings = range != NULL ? range->owner : NULL;
	uint64_t reached = ptr;
	for (size_t i = 0; mappings != NULL && i < mappings->count && reached < ptr + size; i++)
		if (mappings->list[i].address == reached)
			reached += mappings->list[i].bytes;
	if (mappings != NULL && reached == ptr + size) {
		for (size_t i = position(mappings, ptr); i < mappings->count && mappings->list[i].address < ptr + size; i++)
			mappings->list[i].access = access;
		int protection = access == CU_MEM_ACCESS_FLAGS_PROT_NONE ? PROT_NONE : PROT_READ | PROT_WRITE;
		mprotect((void *)(uintptr_t)ptr, size, protection);
		result = CUDA_SUCCESS;
	}
	sim_leave();
	return result;
}

// The mapping at address, NULL: none. sim_enter held.
static struct mapping *mapping_at(uint64_t address)
{
	struct sim_range *range = reserved(address, 1);
	const struct mappings *mappings = range != NULL ? range->owner : NULL;
	for (size_t i = 0; mappings != NULL && i < mappings->count; i++)
		if (address - mappings->list[i].address < mappings->list[i].bytes)
			return &mappings->list[i];
	return NULL;
}

struct sim_vmm *sim_vmm_at(uint64_t address)
{
	const struct mapping *mapping = mapping_at(address);
	return mapping != NULL ? mapping->handle : NULL;
}

bool sim_vmm_accessible(struct sim_range *range, uint64_t address, uint64_t bytes)
{
	if (bytes > range->bytes - (address - range->base))
		return false;
	const uint64_t end = address + bytes;
	while (address < end) {
		const struct mapping *mapping = mapping_at(address);
		if (mapping == NULL || mapping->access == CU_MEM_ACCESS_FLAGS_PROT_NONE)
			return false;
		address = mapping->address + mapping->bytes;
	}
	return true;
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr ptr)
{
	SIM_READY();
	if (flags == NULL || location == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	const struct mapping *mapping = mapping_at(ptr);
	if (mapping != NULL)
		*flags = mapping->access;
	sim_leave();
	return mapping != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

// --- handles of what is there already

CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *out, void *addr)
{
	SIM_READY();
	if (out == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	const struct mapping *mapping = mapping_at((uint64_t)(uintptr_t)addr);
	if (mapping != NULL) {
		mapping->handle->references++;
		*out = (CUmemGenericAllocationHandle)(uintptr_t)mapping->handle;
	}
	sim_leave();
	return mapping != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *prop, CUmemGenericAllocationHandle value)
{
	SIM_READY();
	const struct sim_vmm *handle = sim_vmm_of(value);
	if (prop == NULL || handle == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*prop = handle->properties;
	return CUDA_SUCCESS;
}

CUresult cuMemExportToShareableHandle(
	void *out, CUmemGenericAllocationHandle value, CUmemAllocationHandleType type, unsigned long long flags)
{
	SIM_READY();
	const struct sim_vmm *handle = sim_vmm_of(value);
	if (out == NULL || handle == NULL || flags != 0 || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
		|| !handle->own_fd)
		return CUDA_ERROR_INVALID_VALUE;
	int fd = sim_shared_export(handle->shared_block, handle->fd);
	if (fd < 0)
		return CUDA_ERROR_OPERATING_SYSTEM;
	*(int *)out = fd;
	return CUDA_SUCCESS;
}

CUresult cuMemImportFromShareableHandle(
	CUmemGenericAllocationHandle *out, void *osHandle, CUmemAllocationHandleType type)
{
	SIM_READY();
	uint64_t id, bytes;
	int gpu, ordinal = 0;
	if (out == NULL || type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
		|| !sim_share_read((int)(intptr_t)osHandle, "vmm", &id, &gpu, &bytes))
		return CUDA_ERROR_INVALID_VALUE;
	while (ordinal < sim_device_count && sim_device[ordinal].gpu != gpu)
		ordinal++;
	if (ordinal == sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .requestedHandleTypes = type,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = ordinal}};
	sim_lock();
	if (sim_slot < 0)
		sim_slot = sim_process_claim();
	sim_unlock();
	sim_enter();
	int block = sim_shared_find(id);
	struct sim_vmm *handle = block >= 0 && sim_slot >= 0 ? sim_vmm_make(&properties, bytes) : NULL;
	if (handle != NULL) {
		handle->fd = sim_shared_reopen((int)(intptr_t)osHandle, O_CLOEXEC);
		handle->own_fd = true;
		handle->shared_block = block;
		if (handle->fd < 0 || !sim_shared_hold(block)) {
			free(handle);
			handle = NULL;
		}
	}
	sim_leave();
	if (handle == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*out = (CUmemGenericAllocationHandle)(uintptr_t)handle;
	return CUDA_SUCCESS;
}
