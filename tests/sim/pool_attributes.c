// SPDX-License-Identifier: Apache-2.0
// Pools: what they are set to, who may use them, sharing them between processes.
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "pool.h"
#include "share_fd.h"

#define POOL(pool) \
	SIM_READY(); \
	if ((pool) == NULL || !(pool)->alive) \
		return CUDA_ERROR_INVALID_VALUE

// Unsafe during a capture, as is setting one: refused with STREAM_CAPTURE_UNSUPPORTED, and the capture is invalidated (NVIDIA says so in
// github.com/NVIDIA/cccl/pull/11360; in relaxed mode it is allowed).
CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	POOL(pool);
	if (value == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult forbidden = sim_capture_forbid(NULL);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	switch ((int)attr) {
	case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: *(int *)value = pool->reuse[attr]; break;
	case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *(uint64_t *)value = pool->threshold_bytes; break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *(uint64_t *)value = pool->reserved_bytes; break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *(uint64_t *)value = pool->reserved_high_bytes; break;
	case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *(uint64_t *)value = pool->used_bytes; break;
	case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *(uint64_t *)value = pool->used_high_bytes; break;
	default: return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value)
{
	POOL(pool);
	if (value == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult forbidden = sim_capture_forbid(NULL);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	switch ((int)attr) {
	case CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_OPPORTUNISTIC:
	case CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES: pool->reuse[attr] = *(int *)value; break;
	case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: pool->threshold_bytes = *(uint64_t *)value; break;
	case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: // may only be reset
		if (*(uint64_t *)value != 0)
			return CUDA_ERROR_INVALID_VALUE;
		pool->reserved_high_bytes = pool->reserved_bytes;
		break;
	case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
		if (*(uint64_t *)value != 0)
			return CUDA_ERROR_INVALID_VALUE;
		pool->used_high_bytes = pool->used_bytes;
		break;
	default: return CUDA_ERROR_INVALID_VALUE;
	}
	return CUDA_SUCCESS;
}

CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count)
{
	POOL(pool);
	for (size_t i = 0; i < count; i++) {
		if (map[i].location.type != CU_MEM_LOCATION_TYPE_DEVICE || map[i].location.id < 0
			|| map[i].location.id >= sim_device_count)
			return CUDA_ERROR_INVALID_DEVICE;
		if (map[i].location.id == pool->device && map[i].flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
			return CUDA_ERROR_INVALID_DEVICE; // its own device's access cannot be taken away
	}
	return CUDA_SUCCESS;
}

CUresult cuMemPoolGetAccess(CUmemAccess_flags *flags, CUmemoryPool memPool, CUmemLocation *location)
{
	POOL(memPool);
	if (flags == NULL || location == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = location->type == CU_MEM_LOCATION_TYPE_DEVICE && location->id == memPool->device
		? CU_MEM_ACCESS_FLAGS_PROT_READWRITE
		: CU_MEM_ACCESS_FLAGS_PROT_NONE;
	return CUDA_SUCCESS;
}

// --- sharing: the importer sees the exporter's memory, which stays charged to the exporter

// sim_enter held.
static bool shared_of(struct CUmemPoolHandle_st *pool)
{
	if (pool->shared < 0)
		pool->shared = sim_shared_pool(pool->id, pool->gpu, true);
	return pool->shared >= 0;
}

CUresult cuMemPoolExportToShareableHandle(
	void *handle_out, CUmemoryPool pool, CUmemAllocationHandleType handleType, unsigned long long flags)
{
	POOL(pool);
	if (handle_out == NULL || flags != 0 || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
		|| pool->handle_types != handleType)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	int fd = shared_of(pool) ? sim_shared_pool_export(pool->shared) : -1;
	sim_leave();
	if (fd < 0)
		return CUDA_ERROR_OPERATING_SYSTEM;
	*(int *)handle_out = fd;
	return CUDA_SUCCESS;
}

CUresult cuMemPoolImportFromShareableHandle(
	CUmemoryPool *pool_out, void *handle, CUmemAllocationHandleType handleType, unsigned long long flags)
{
	SIM_READY();
	uint64_t id, bytes;
	int gpu;
	if (pool_out == NULL || flags != 0 || handleType != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return CUDA_ERROR_INVALID_VALUE;
	if (!sim_share_read((int)(intptr_t)handle, "pool", &id, &gpu, &bytes))
		return CUDA_ERROR_INVALID_VALUE;
	for (int ordinal = 0; ordinal < sim_device_count; ordinal++) {
		if (sim_device[ordinal].gpu != gpu)
			continue;
		sim_enter();
		int shared = sim_shared_pool(id, gpu, false);
		bool held = shared >= 0 && sim_shared_pool_hold(shared);
		struct CUmemPoolHandle_st *pool = held ? sim_pool_make(SIM_POOL_IMPORTED, ordinal) : NULL;
		if (held && pool == NULL)
			sim_shared_pool_release(shared);
		sim_leave();
		if (!held)
			return CUDA_ERROR_INVALID_VALUE;
		if (pool == NULL)
			return CUDA_ERROR_OUT_OF_MEMORY;
		pool->shared = shared;
		pool->id = id;
		*pool_out = pool;
		return CUDA_SUCCESS;
	}
	return CUDA_ERROR_INVALID_DEVICE;
}

struct exported_pointer {
	uint64_t pool, offset, bytes, place, generation;
	int32_t pid, fd;
};
_Static_assert(sizeof(struct exported_pointer) <= sizeof(CUmemPoolPtrExportData), "fits");

CUresult cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
	SIM_READY();
	if (shareData_out == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	const struct sim_range *range = sim_range_find(ptr);
	struct CUmemPoolHandle_st *pool = range != NULL && range->kind == SIM_RANGE_POOL ? range->owner : NULL;
	if (pool != NULL && pool->handle_types == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && shared_of(pool)) {
		struct sim_chunk *chunk = sim_pool_chunk(pool, ptr);
		const struct sim_backing *backing = &chunk->backing;
		result = sim_pool_exported(pool, chunk, range->base, range->bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
		struct exported_pointer out = {.pool = pool->id,
			.offset = backing->offset + (range->base - backing->address),
			.bytes = range->bytes,
			.place = range->base,
			.generation = pool->generation,
			.pid = getpid(),
			.fd = backing->fd};
		memset(shareData_out, 0, sizeof(*shareData_out));
		memcpy(shareData_out, &out, sizeof(out));
	}
	sim_leave();
	return result;
}

CUresult cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData)
{
	POOL(pool);
	struct exported_pointer in;
	if (ptr_out == NULL || shareData == NULL || pool->kind != SIM_POOL_IMPORTED)
		return CUDA_ERROR_INVALID_VALUE;
	memcpy(&in, shareData, sizeof(in));
	if (in.pool != pool->id)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_range *range = sim_share_map(in.pid, in.fd, in.offset, in.bytes);
	if (range != NULL) {
		sim_shared_pool_pointer_imported(pool->shared, in.place, in.bytes, in.generation, range->base);
		range->device = pool->device;
		range->owner = pool;
		pool->used_bytes += range->bytes;
		*ptr_out = range->base;
	}
	sim_leave();
	return range != NULL ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
