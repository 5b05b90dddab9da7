// SPDX-License-Identifier: Apache-2.0
// How pools come, are shared with other processes, and go. Owns: which pools this process knows, and what their end means for their charges (pool.h), for what
// they have exported (pool_export.h) and imported (pool_import.h).
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/pool.h"
#include "preload/pool_export.h"
#include "preload/pool_import.h"
#include "preload/sharing.h"

// The driver answers with a handle of a pool that went without a word, with its context.
static void made_anew(CUmemoryPool handle)
{
	struct softmig_pool *pool = softmig_pool_find(softmig_pools_all(), handle);

	softmig_pool_export_ended_by_handle(handle);
	if (pool != NULL && atomic_load(&pool->gpu) == SOFTMIG_POOL_NOT_OURS) {
		bool imported = atomic_load(&pool->imported);
		struct softmig_pool_export *import = atomic_load(&pool->import);
		atomic_store(&pool->handle, NULL);
		if (imported)
			softmig_pool_import_ended();
		if (import != NULL)
			softmig_pool_export_import_ended(import);
	}
}

// A pool for memory of that kind at that place: known from here on. Managed memory has no place of its own: the current GPU's.
static CUresult known(CUresult result, const CUmemoryPool *handle, const CUmemLocation *location, CUmemAllocationType type)
{
	struct softmig_gpu *gpu = NULL;

	if (result != CUDA_SUCCESS)
		return result;
	if (location->type == CU_MEM_LOCATION_TYPE_DEVICE)
		gpu = softmig_gpu_of_device(location->id);
	else if (location->type == CU_MEM_LOCATION_TYPE_DEVICE_LOCALITY_DOMAIN)
		gpu = softmig_gpu_of_device(location->localized.deviceId);
	else if (type == CU_MEM_ALLOCATION_TYPE_MANAGED)
		gpu = softmig_gpu_current();
	softmig_pool_enlist(softmig_pools_all(), *handle, gpu == NULL ? SOFTMIG_POOL_NOT_OURS : gpu->ledger, type == CU_MEM_ALLOCATION_TYPE_MANAGED);
	return result;
}

CUresult hook_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	CUresult result = DRIVER(cuMemPoolCreate)(pool, poolProps);
	if (result == CUDA_SUCCESS)
		made_anew(*pool);
	return result == CUDA_SUCCESS ? known(result, pool, &poolProps->location, poolProps->allocType) : result;
}

CUresult hook_cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location, CUmemAllocationType type)
{
	return known(DRIVER(cuMemGetDefaultMemPool)(pool_out, location, type), pool_out, location, type);
}

CUresult hook_cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
	return known(DRIVER(cuMemGetMemPool)(pool, location, type), pool, location, type);
}

// What stays of the pool is followed from now on. NULL: it is none of ours, or there is no room.
static struct softmig_pool_export *exporting(struct softmig_pool *pool, CUmemoryPool handle)
{
	struct softmig_pool_export *export = NULL;

	softmig_pool_lock(&pool->lock);
	if (atomic_load(&pool->handle) == handle && atomic_load(&pool->gpu) >= 0 && !atomic_load(&pool->unseen)) {
		export = softmig_pool_export_of(pool);
		if (export == NULL)
			export = softmig_pool_export_begin(handle, softmig_gpu_by_index(atomic_load(&pool->gpu)));
		atomic_store_explicit(&pool->export, export, memory_order_release);
	}
	softmig_pool_unlock(&pool->lock);
	return export;
}

// What an earlier pool left, whose descriptors were closed since, is passed on first: not to those who will import this one.
CUresult hook_cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool pool, CUmemAllocationHandleType handleType, unsigned long long flags)
{
	softmig_pool_exports_look();
	CUresult result = DRIVER(cuMemPoolExportToShareableHandle)(handle_out, pool, handleType, flags);
	struct softmig_pool *entry = result == CUDA_SUCCESS ? softmig_pool_find(softmig_pools_all(), pool) : NULL;
	struct softmig_pool_export *export = entry == NULL ? NULL : exporting(entry, pool);

	if (export != NULL && handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && handle_out != NULL)
		softmig_pool_export_descriptor(export, *(int *)handle_out);
	return result;
}

// The pool that a pointer comes from.
static struct softmig_pool *pool_of(CUdeviceptr pointer, CUmemoryPool *handle)
{
	*handle = NULL;
	if (!SOFTMIG_HAS(cuPointerGetAttribute) ||
	    DRIVER(cuPointerGetAttribute)(handle, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer) != CUDA_SUCCESS || *handle == NULL)
		return NULL;
	return softmig_pool_find(softmig_pools_all(), *handle);
}

// The chunks that it lies in, as large as they may be: these stay when the pool gives them back. *bytes: the allocation's own, 0: unknown.
static uint64_t chunks_of(struct softmig_pool *pool, CUmemoryPool handle, CUdeviceptr *pointer, size_t *bytes)
{
	uint64_t most = atomic_load_explicit(&pool->largest_bytes, memory_order_relaxed);
	uint64_t has = softmig_pool_attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, most);
	CUdeviceptr base;

	if (SOFTMIG_HAS(cuMemGetAddressRange_v2) && DRIVER(cuMemGetAddressRange_v2)(&base, bytes, *pointer) == CUDA_SUCCESS) {
		uint64_t chunks = softmig_pool_chunks_of(base, *bytes);
		*pointer = base;
		most = chunks > most ? chunks : most;
	} else {
		*bytes = 0;
	}
	return most < has ? most : has;
}

// What was kept of its place the driver has let go of. Who has imported it from then may have it still: until NVML tells, it is charged to all of these.
static void renewed(struct softmig_pool *pool, CUmemoryPool handle, struct softmig_pool_export *export, CUdeviceptr pointer)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pool->gpu));
	uint64_t since_ns = 0, gone = 0;

	if (gpu == NULL)
		return;
	softmig_gpu_enter(gpu);
	softmig_pool_lock(&pool->lock);
	if (atomic_load(&pool->handle) == handle && softmig_pool_export_of(pool) == export)
		gone = softmig_pool_export_renewed(export, pointer, &since_ns);
	atomic_fetch_sub(&pool->charged_bytes, gone);
	softmig_pool_unlock(&pool->lock);
	if (gone != 0) {
		softmig_export_ended(gpu, gone, since_ns);
		atomic_fetch_sub(&gpu->unseen_bytes, gone);
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, gone);
	}
	softmig_gpu_leave(gpu);
}

// Noted before it is exported: from then on it may be imported, and freed.
CUresult hook_cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
	CUmemoryPool handle;
	struct softmig_pool *pool = pool_of(ptr, &handle);
	struct softmig_pool_export *export = pool == NULL ? NULL : exporting(pool, handle);
	CUdeviceptr pointer = ptr;
	size_t bytes = 0;
	bool known;

	if (export == NULL)
		return DRIVER(cuMemPoolExportPointer)(shareData_out, ptr);
	uint64_t most = chunks_of(pool, handle, &pointer, &bytes);
	if (!softmig_pool_export_pointer(export, pointer, bytes, most, &known))
		return CUDA_ERROR_OUT_OF_MEMORY;
	CUresult result = DRIVER(cuMemPoolExportPointer)(shareData_out, ptr);
	if (result != CUDA_SUCCESS && !known)
		softmig_pool_export_no_pointer(pointer);
	else if (result == CUDA_SUCCESS && !known)
		renewed(pool, handle, export, pointer);
	return result;
}

// Imported: the memory is the exporter's, who is charged for it, as long as it has it.
CUresult hook_cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle, CUmemAllocationHandleType handleType,
                                                 unsigned long long flags)
{
	bool by_descriptor = handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	struct softmig_pool_export *own = by_descriptor ? softmig_pool_export_import((int)(intptr_t)handle) : NULL;

	if (own == NULL)
		softmig_pool_import_begins();
	CUresult result = DRIVER(cuMemPoolImportFromShareableHandle)(pool_out, handle, handleType, flags);
	struct softmig_pool *pool = NULL;
	if (result == CUDA_SUCCESS) {
		made_anew(*pool_out);
		pool = softmig_pool_enlist(softmig_pools_all(), *pool_out, SOFTMIG_POOL_NOT_OURS, false);
	}
	if (pool != NULL) {
		atomic_store(&pool->import, own);
		atomic_store(&pool->imported, own == NULL);
	} else if (result != CUDA_SUCCESS && own != NULL) {
		softmig_pool_export_import_ended(own);
	} else if (result != CUDA_SUCCESS) {
		softmig_pool_import_ended();
	}
	return result;
}

CUresult hook_cuMemPoolImportPointer(CUdeviceptr *ptr_out, CUmemoryPool pool, CUmemPoolPtrExportData *shareData)
{
	CUresult result = DRIVER(cuMemPoolImportPointer)(ptr_out, pool, shareData);
	struct softmig_pool *entry = result == CUDA_SUCCESS ? softmig_pool_find(softmig_pools_all(), pool) : NULL;
	struct softmig_pool_export *own = entry == NULL ? NULL : atomic_load(&entry->import);

	if (own != NULL || (entry != NULL && atomic_load(&entry->imported)))
		softmig_pool_import_pointer(*ptr_out, own);
	return result;
}

CUresult hook_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	CUresult result = DRIVER(cuMemPoolTrimTo)(pool, minBytesToKeep);
	softmig_pools_refresh();
	return result;
}

// What was exported of a pool that is destroyed stays, and is charged apart from it. The rest may be out still, and the pool can no longer be asked: from
// here on NVML alone knows. Returns how much that is.
static uint64_t disown(struct softmig_pool *pool, struct softmig_gpu *gpu)
{
	softmig_pool_lock(&pool->lock);
	uint64_t left = softmig_pool_reserved(pool);
	struct softmig_pool_export *export = softmig_pool_export_of(pool);
	if (atomic_load(&pool->unseen)) {
		softmig_pool_set_charge(pool, gpu, 0, 0);
		left = 0;
	} else if (export != NULL) {
		left -= softmig_pool_export_gave_back(export, left, 0);
	}
	atomic_store(&pool->charged_bytes, 0);
	softmig_pool_unlock(&pool->lock);
	return left;
}

static CUresult destroy(struct softmig_pool *pool, CUmemoryPool handle)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pool->gpu));
	struct softmig_pool_export *export = softmig_pool_export_of(pool), *import = atomic_load(&pool->import);
	bool imported = atomic_load(&pool->imported);
	uint64_t left = 0;

	uint64_t out = export == NULL ? 0 : softmig_pool_attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
	if (gpu != NULL)
		softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuMemPoolDestroy)(handle);
	if (result == CUDA_SUCCESS && gpu != NULL)
		left = disown(pool, gpu);
	if (gpu != NULL)
		softmig_gpu_leave(gpu);
	atomic_store(&pool->handle, result == CUDA_SUCCESS ? NULL : handle);
	if (result != CUDA_SUCCESS)
		return result;
	if (export != NULL)
		softmig_pool_export_ended(export, out);
	if (import != NULL)
		softmig_pool_export_import_ended(import);
	if (imported)
		softmig_pool_import_ended();
	if (left != 0)
		softmig_hand_over(gpu, left);
	return result;
}

// Nobody asks the pool once the driver has begun to destroy it.
CUresult hook_cuMemPoolDestroy(CUmemoryPool pool)
{
	struct softmig_pool *entry = softmig_pool_find(softmig_pools_all(), pool);
	CUmemoryPool seen = pool;
	bool mine = false;

	if (entry != NULL) {
		softmig_pool_lock(&entry->lock);
		mine = atomic_compare_exchange_strong(&entry->handle, &seen, SOFTMIG_POOL_BUSY);
		softmig_pool_unlock(&entry->lock);
	}
	if (mine)
		return destroy(entry, pool);
	CUresult result = DRIVER(cuMemPoolDestroy)(pool);
	if (result == CUDA_SUCCESS)
		softmig_pool_export_ended_by_handle(pool);
	return result;
}
