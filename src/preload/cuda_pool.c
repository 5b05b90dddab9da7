// SPDX-License-Identifier: Apache-2.0
// Stream-ordered pools: charged by what each pool has reserved from the GPU, which is what the driver really holds, not by what
// the program took out of it. Owns: the list of this process's pools and their charges.
// A pool grows by the request rounded up to 32 MiB and shrinks at synchronisations (docs/driver-facts.md). So: reserve the
// growth that may come, call, read what the pool has now (18 ns), give back the rest.
#include <sched.h>

#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/mode.h"
#include "preload/stream.h"
#include "slice/log.h"

#define POOL_CHUNK_BYTES (32ull << 20)
enum { MAX_POOLS = 1024 };

struct pool {
	_Atomic(CUmemoryPool) handle; // NULL: free
	_Atomic int32_t gpu;          // ledger's index, -1: not GPU memory of ours (host, imported)
	_Atomic uint64_t charged_bytes;
	_Atomic int lock;             // for reading the driver's figure and settling the charge as one step
};

static struct pool pools[MAX_POOLS];
static _Atomic uint32_t pools_used; // entries below it may be in use
// Something was freed into a pool since its figure was last read: the next synchronisation may give memory back.
static _Atomic bool freed;

static struct pool *find(CUmemoryPool handle)
{
	uint32_t used = atomic_load_explicit(&pools_used, memory_order_acquire);
	for (uint32_t i = 0; i < used; i++)
		if (atomic_load_explicit(&pools[i].handle, memory_order_relaxed) == handle)
			return &pools[i];
	return NULL;
}

static struct pool *enlist(CUmemoryPool handle, int gpu)
{
	struct pool *known = find(handle);
	if (known != NULL)
		return known;
	for (uint32_t i = 0; i < MAX_POOLS; i++) {
		CUmemoryPool none = NULL;
		if (!atomic_compare_exchange_strong(&pools[i].handle, &none, handle)) {
			if (none == handle)
				return &pools[i];
			continue;
		}
		atomic_store(&pools[i].gpu, gpu);
		uint32_t used = atomic_load(&pools_used);
		while (used < i + 1 && !atomic_compare_exchange_weak(&pools_used, &used, i + 1))
			;
		return &pools[i];
	}
	softmig_log(SOFTMIG_LOG_ERROR, "more than %d memory pools: the last ones are charged by NVML alone", MAX_POOLS);
	return NULL;
}

static uint64_t attribute(CUmemoryPool handle, CUmemPool_attribute which)
{
	cuuint64_t value = 0;
	return DRIVER(cuMemPoolGetAttribute)(handle, which, &value) == CUDA_SUCCESS ? value : 0;
}

// Brings the pool's charge to what the pool has reserved; held_bytes are reserved already for its growth.
static void refresh(struct pool *pool, uint64_t held_bytes)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pool->gpu));

	while (atomic_exchange_explicit(&pool->lock, 1, memory_order_acquire) != 0)
		sched_yield();
	CUmemoryPool handle = atomic_load(&pool->handle);
	uint64_t now = handle == NULL ? 0 : attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
	uint64_t before = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);
	atomic_store_explicit(&pool->charged_bytes, now, memory_order_relaxed);
	if (now > before + held_bytes) // more than foreseen: the driver holds it, so it is charged, limit or not
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, now - before - held_bytes, 0);
	else
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, before + held_bytes - now);
	atomic_store_explicit(&pool->lock, 0, memory_order_release);
}

static bool is_ours(const struct pool *pool, const struct softmig_gpu *gpu)
{
	return atomic_load_explicit(&pool->handle, memory_order_acquire) != NULL && atomic_load(&pool->gpu) >= 0 &&
	       (gpu == NULL || atomic_load(&pool->gpu) == gpu->ledger);
}

void softmig_pools_trim(struct softmig_gpu *gpu)
{
	for (uint32_t i = 0; i < atomic_load(&pools_used); i++) {
		if (!is_ours(&pools[i], gpu))
			continue;
		DRIVER(cuMemPoolTrimTo)(atomic_load(&pools[i].handle), 0);
		refresh(&pools[i], 0);
	}
}

void softmig_pools_forget(struct softmig_gpu *gpu)
{
	for (uint32_t i = 0; i < atomic_load(&pools_used); i++) {
		if (!is_ours(&pools[i], gpu))
			continue;
		atomic_store(&pools[i].handle, NULL);
		refresh(&pools[i], 0);
	}
}

void softmig_pools_refresh(void)
{
	for (uint32_t i = 0; i < atomic_load(&pools_used); i++) {
		if (!is_ours(&pools[i], NULL))
			continue;
		struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pools[i].gpu));
		softmig_gpu_enter(gpu);
		refresh(&pools[i], 0);
		softmig_gpu_leave(gpu);
	}
}

// No room for growth: but what is asked for may fit into what the pool already has, where trimming could not free whole chunks.
static bool may_fit_inside(CUmemoryPool handle, uint64_t bytes)
{
	uint64_t has = attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
	uint64_t used = attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT);
	return has > used && (has - used) / 2 >= bytes;
}

static uint64_t growth_of(uint64_t bytes)
{
	return bytes > UINT64_MAX - POOL_CHUNK_BYTES ? bytes : (bytes + POOL_CHUNK_BYTES - 1) / POOL_CHUNK_BYTES * POOL_CHUNK_BYTES;
}

// The three moves. stream_: where the program asked; a capturing stream gets a node in a graph, not memory.
#define ALLOCATE(gpu_, pool_, stream_, per_thread, bytes_, call, undo) \
	do { \
		struct softmig_gpu *gpu = (gpu_); \
		if (gpu == NULL || softmig_stream_is_capturing((stream_), (per_thread))) \
			return (call); \
		CUmemoryPool handle = (pool_); \
		struct pool *pool = handle == NULL ? NULL : enlist(handle, gpu->ledger); \
		if (pool == NULL || !is_ours(pool, NULL)) \
			return (call); \
		gpu = softmig_gpu_by_index(atomic_load(&pool->gpu)); \
		softmig_settle_if_due(gpu); \
		softmig_gpu_enter(gpu); \
		uint64_t held = growth_of(bytes_); \
		CUresult result = CUDA_ERROR_OUT_OF_MEMORY; \
		if (softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, held, "cuMemAllocAsync")) { \
			result = (call); \
			refresh(pool, held); \
		} else if (may_fit_inside(handle, (bytes_))) { \
			result = (call); \
			refresh(pool, 0); \
			if (result == CUDA_SUCCESS && softmig_gpu_used_bytes(gpu) > softmig_gpu_limit_bytes(gpu)) { \
				(undo); \
				softmig_pools_trim(gpu); \
				result = CUDA_ERROR_OUT_OF_MEMORY; \
			} \
		} \
		softmig_gpu_leave(gpu); \
		return result; \
	} while (0)

static CUmemoryPool current_pool(const struct softmig_gpu *gpu)
{
	CUmemoryPool pool = NULL;
	return DRIVER(cuDeviceGetMemPool)(&pool, gpu->device) == CUDA_SUCCESS ? pool : NULL;
}

// The GPU of a pool that was not created here: a device's default pool, else the current device.
static struct softmig_gpu *gpu_of_pool(CUmemoryPool handle)
{
	struct pool *known = find(handle);
	CUmemoryPool own;

	if (known != NULL)
		return softmig_gpu_by_index(atomic_load(&known->gpu) < 0 ? 0 : atomic_load(&known->gpu));
	for (int device = 0; device < SOFTMIG_MAX_GPUS; device++)
		if (DRIVER(cuDeviceGetDefaultMemPool)(&own, device) == CUDA_SUCCESS && own == handle)
			return softmig_gpu_of_device(device);
	return softmig_gpu_current();
}

CUresult hook_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	ALLOCATE(softmig_gpu_of_stream(hStream, false), current_pool(gpu), hStream, false, bytesize,
	         DRIVER(cuMemAllocAsync)(dptr, bytesize, hStream), DRIVER(cuMemFreeAsync)(*dptr, hStream));
}

CUresult hook_cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	ALLOCATE(softmig_gpu_of_stream(hStream, true), current_pool(gpu), hStream, true, bytesize,
	         DRIVER(cuMemAllocAsync_ptsz)(dptr, bytesize, hStream), DRIVER(cuMemFreeAsync)(*dptr, hStream));
}

CUresult hook_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool_, CUstream hStream)
{
	ALLOCATE(gpu_of_pool(pool_), pool_, hStream, false, bytesize,
	         DRIVER(cuMemAllocFromPoolAsync)(dptr, bytesize, pool_, hStream), DRIVER(cuMemFreeAsync)(*dptr, hStream));
}

CUresult hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool_, CUstream hStream)
{
	ALLOCATE(gpu_of_pool(pool_), pool_, hStream, true, bytesize,
	         DRIVER(cuMemAllocFromPoolAsync_ptsz)(dptr, bytesize, pool_, hStream), DRIVER(cuMemFreeAsync)(*dptr, hStream));
}

void softmig_pools_freed(void)
{
	if (!atomic_load_explicit(&freed, memory_order_relaxed))
		atomic_store_explicit(&freed, true, memory_order_relaxed);
}

CUresult hook_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	CUresult result = DRIVER(cuMemFreeAsync)(dptr, hStream);
	softmig_pools_freed();
	return result;
}

CUresult hook_cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
	CUresult result = DRIVER(cuMemFreeAsync_ptsz)(dptr, hStream);
	softmig_pools_freed();
	return result;
}

// A synchronisation is where a pool gives back what is above its threshold: told to the ledger at once, or other processes of the
// slice would be refused what is free.
static CUresult synchronised(CUresult result)
{
	softmig_meter_synced();
	if (atomic_load_explicit(&freed, memory_order_relaxed) && atomic_exchange(&freed, false))
		softmig_pools_refresh();
	return result;
}

CUresult hook_cuStreamSynchronize(CUstream hStream)
{
	softmig_meter_sync_stream(hStream, false);
	return synchronised(DRIVER(cuStreamSynchronize)(hStream));
}

CUresult hook_cuStreamSynchronize_ptsz(CUstream hStream)
{
	softmig_meter_sync_stream(hStream, true);
	return synchronised(DRIVER(cuStreamSynchronize_ptsz)(hStream));
}

CUresult hook_cuEventSynchronize(CUevent hEvent)
{
	softmig_meter_sync_event(hEvent);
	return synchronised(DRIVER(cuEventSynchronize)(hEvent));
}

CUresult hook_cuCtxSynchronize(void)
{
	softmig_meter_sync_context();
	return synchronised(DRIVER(cuCtxSynchronize)());
}

CUresult hook_cuCtxSynchronize_v2(CUcontext ctx)
{
	softmig_meter_sync_context();
	return synchronised(DRIVER(cuCtxSynchronize_v2)(ctx));
}

CUresult hook_cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	CUresult result = DRIVER(cuMemPoolCreate)(pool, poolProps);

	if (result == CUDA_SUCCESS) {
		struct softmig_gpu *gpu = poolProps->location.type == CU_MEM_LOCATION_TYPE_DEVICE
		                                  ? softmig_gpu_of_device(poolProps->location.id) : NULL;
		enlist(*pool, gpu == NULL ? -1 : gpu->ledger);
	}
	return result;
}

// Imported: the memory is the exporter's, who is charged for it.
CUresult hook_cuMemPoolImportFromShareableHandle(CUmemoryPool *pool_out, void *handle, CUmemAllocationHandleType handleType,
                                                 unsigned long long flags)
{
	CUresult result = DRIVER(cuMemPoolImportFromShareableHandle)(pool_out, handle, handleType, flags);
	if (result == CUDA_SUCCESS)
		enlist(*pool_out, -1);
	return result;
}

CUresult hook_cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	CUresult result = DRIVER(cuMemPoolTrimTo)(pool, minBytesToKeep);
	softmig_pools_refresh();
	return result;
}

// What is still taken out of a destroyed pool stays on the GPU until it is freed, and the pool can no longer be asked: from
// here on NVML alone knows.
CUresult hook_cuMemPoolDestroy(CUmemoryPool pool)
{
	struct pool *known = find(pool);
	CUmemoryPool gone = pool;

	if (known == NULL || atomic_load(&known->gpu) < 0) {
		CUresult result = DRIVER(cuMemPoolDestroy)(pool);
		if (result == CUDA_SUCCESS && known != NULL)
			atomic_store(&known->handle, NULL);
		return result;
	}
	struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&known->gpu));
	softmig_gpu_enter(gpu);
	atomic_compare_exchange_strong(&known->handle, &gone, NULL); // nobody asks it any more
	CUresult result = DRIVER(cuMemPoolDestroy)(pool);
	if (result != CUDA_SUCCESS) {
		atomic_store(&known->handle, pool);
	} else {
		uint64_t charged = atomic_load(&known->charged_bytes);
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, charged, 0);
		refresh(known, 0);
	}
	softmig_gpu_leave(gpu);
	if (result == CUDA_SUCCESS)
		softmig_settle(gpu);
	return result;
}
