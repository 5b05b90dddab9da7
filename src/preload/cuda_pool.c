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
#include "preload/pool_export.h"
#include "preload/pool_import.h"
#include "preload/private.h"
#include "preload/stream.h"
#include "slice/log.h"

#define POOL_CHUNK_BYTES (32ull << 20)
#define BUSY ((CUmemoryPool)UINTPTR_MAX) // being destroyed: nobody's, and not free yet
// What is free in a pool lies in pieces, the more so after whole chunks were given back; a try that makes the pool grow stands above the
// limit until it is undone (with half of the free memory the fight saw 200 MiB for an instant, with a sixteenth nothing).
enum { FREE_WHOLE = 2, FREE_IN_PIECES = 16 };
enum { MAX_POOLS = 1024, NOT_OURS = -1 };

struct pool {
	_Atomic(CUmemoryPool) handle; // NULL: free
	_Atomic int32_t gpu;          // ledger's index; NOT_OURS: host memory, or another process's
	_Atomic bool unseen;          // managed memory, which NVML does not count
	_Atomic bool imported;        // another process's
	_Atomic(struct softmig_pool_export *) export; // what stays of what it exported; NULL: it has exported nothing
	_Atomic(struct softmig_pool_export *) import; // of that pool of this very process
	_Atomic uint64_t largest_bytes; // that its chunks may have
	_Atomic uint64_t charged_bytes;
	_Atomic int lock; // for asking the driver about the pool and settling its charge as one step; while it is held, the pool exists
};

// All zero: no pool known, and what a forked child finds.
struct pools {
	_Atomic int lock;      // for taking an entry
	_Atomic uint32_t used; // entries below it may be in use
	// The only stream that pools were used in so far, plus 1. What is freed in one stream need not be there for another.
	_Atomic uintptr_t stream;
	_Atomic bool streams;
	struct pool pool[MAX_POOLS];
};

static struct softmig_private private_pools;

static struct pools *all(void)
{
	return softmig_private_get(&private_pools, sizeof(struct pools));
}

static void lock(_Atomic int *word)
{
	while (atomic_exchange_explicit(word, 1, memory_order_acquire) != 0)
		sched_yield();
}

static void unlock(_Atomic int *word)
{
	atomic_store_explicit(word, 0, memory_order_release);
}

static struct pool *find(struct pools *pools, CUmemoryPool handle)
{
	uint32_t used = pools == NULL ? 0 : atomic_load_explicit(&pools->used, memory_order_acquire);
	for (uint32_t i = 0; i < used; i++)
		if (atomic_load_explicit(&pools->pool[i].handle, memory_order_acquire) == handle)
			return &pools->pool[i];
	return NULL;
}

// The pool's entry, made where it is new. NULL: no room.
static struct pool *enlist(struct pools *pools, CUmemoryPool handle, int gpu, bool unseen)
{
	struct pool *found = find(pools, handle);

	if (found != NULL || pools == NULL)
		return found;
	lock(&pools->lock);
	found = find(pools, handle);
	for (uint32_t i = 0; i < MAX_POOLS && found == NULL; i++) {
		if (atomic_load(&pools->pool[i].handle) != NULL)
			continue;
		found = &pools->pool[i];
		atomic_store(&found->gpu, gpu);
		atomic_store(&found->unseen, unseen);
		atomic_store(&found->imported, false);
		atomic_store(&found->export, NULL);
		atomic_store(&found->import, NULL);
		atomic_store(&found->largest_bytes, 0);
		atomic_store_explicit(&found->handle, handle, memory_order_release); // last: whoever finds it finds the rest
		if (atomic_load(&pools->used) < i + 1)
			atomic_store_explicit(&pools->used, i + 1, memory_order_release);
	}
	unlock(&pools->lock);
	if (found == NULL)
		softmig_log(SOFTMIG_LOG_ERROR, "more than %d memory pools: the last ones are charged by NVML alone", MAX_POOLS);
	return found;
}

// unknown: the answer where the driver does not say. To ask is unsafe beside a capture.
static uint64_t attribute(CUmemoryPool handle, CUmemPool_attribute which, uint64_t unknown)
{
	int mode = softmig_stream_relax();
	cuuint64_t value = 0;

	if (DRIVER(cuMemPoolGetAttribute)(handle, which, &value) != CUDA_SUCCESS)
		value = unknown;
	softmig_stream_restore(mode);
	return value;
}

// There is no room for growth, but what is asked for may fit into what the pool already has: if so many times as much is free there.
static bool may_fit_inside(CUmemoryPool handle, uint64_t bytes, unsigned times)
{
	uint64_t has = attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, 0);
	uint64_t used = attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
	return has > used && (has - used) / times >= bytes;
}

static void trim_all(CUmemoryPool handle)
{
	int mode = softmig_stream_relax();

	DRIVER(cuMemPoolTrimTo)(handle, 0);
	softmig_stream_restore(mode);
}

static struct softmig_pool_export *export_of(struct pool *pool)
{
	return atomic_load_explicit(&pool->export, memory_order_acquire);
}

// What the pool had reserved when it was looked at last. Under its lock.
static uint64_t reserved(struct pool *pool)
{
	uint64_t charged = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);
	struct softmig_pool_export *export = export_of(pool);
	return export == NULL ? charged : charged - softmig_pool_export_kept(export);
}

// Of a pool that has exported something, what stays is charged beside what it has reserved, now_bytes: returns both.
static uint64_t with_kept(struct pool *pool, uint64_t now)
{
	struct softmig_pool_export *export = export_of(pool);
	uint64_t before = reserved(pool);

	if (export == NULL)
		return now;
	softmig_pool_export_gave_back(export, now < before ? before - now : 0, now);
	return now + softmig_pool_export_kept(export);
}

// Sets the pool's charge to what it has reserved; held_bytes are reserved already for its growth. Under its lock.
static void set_charge(struct pool *pool, struct softmig_gpu *gpu, uint64_t now, uint64_t held_bytes)
{
	now = with_kept(pool, now);
	uint64_t before = softmig_charge_follow(gpu, &pool->charged_bytes, now, held_bytes);

	if (atomic_load(&pool->unseen)) {
		atomic_fetch_add(&gpu->unseen_bytes, now - before); // never more than is charged: see settle()
		if (now < before)
			softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, before - now);
	} else if (now < before) {
		softmig_uncharge_measured(gpu, before - now);
	}
}

// Brings the pool's charge to what the pool has reserved, having trimmed it first where that is asked for. One that was destroyed
// meanwhile has been charged anew by whoever did it; its entry may be another's by now. Did it change?
static bool refresh(struct pool *pool, CUmemoryPool handle, struct softmig_gpu *gpu, uint64_t held_bytes, bool trim)
{
	bool changed = false;

	lock(&pool->lock);
	if (atomic_load(&pool->handle) == handle) {
		if (trim)
			trim_all(handle);
		// Not to be had: as it was.
		uint64_t before = reserved(pool), now = attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, before);
		set_charge(pool, gpu, now, held_bytes);
		changed = now != before;
	} else {
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, held_bytes);
	}
	unlock(&pool->lock);
	return changed;
}

// The i-th pool, if it is one to charge (to gpu, NULL: any).
static bool is_ours(struct pool *pool, const struct softmig_gpu *gpu, CUmemoryPool *handle)
{
	*handle = atomic_load_explicit(&pool->handle, memory_order_acquire);
	int32_t index = atomic_load(&pool->gpu);
	return *handle != NULL && *handle != BUSY && index >= 0 && (gpu == NULL || index == gpu->ledger);
}

void softmig_pools_trim(struct softmig_gpu *gpu)
{
	struct pools *pools = all();
	CUmemoryPool handle;
	uint64_t begun = softmig_pool_calls_begin();

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++)
		if (is_ours(&pools->pool[i], gpu, &handle))
			refresh(&pools->pool[i], handle, gpu, 0, true);
	softmig_pool_calls_end(begun);
}

static bool is_idle(struct pool *pool, CUmemoryPool handle)
{
	lock(&pool->lock);
	bool idle = atomic_load(&pool->handle) == handle && may_fit_inside(handle, 1, 1);
	unlock(&pool->lock);
	return idle;
}

bool softmig_pools_idle(struct softmig_gpu *gpu)
{
	struct pools *pools = all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++)
		if (is_ours(&pools->pool[i], gpu, &handle) && is_idle(&pools->pool[i], handle))
			return true;
	return false;
}

bool softmig_pools_changed(struct softmig_gpu *gpu)
{
	struct pools *pools = all();
	CUmemoryPool handle;
	bool changed = false;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		if (is_ours(&pools->pool[i], gpu, &handle))
			changed |= refresh(&pools->pool[i], handle, gpu, 0, false);
	}
	return changed;
}

void softmig_pools_forget(struct softmig_gpu *gpu)
{
	struct pools *pools = all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		struct pool *pool = &pools->pool[i];
		if (!is_ours(pool, gpu, &handle))
			continue;
		lock(&pool->lock);
		if (atomic_compare_exchange_strong(&pool->handle, &handle, BUSY)) {
			struct softmig_pool_export *export = export_of(pool);
			if (export != NULL)
				softmig_pool_export_emptied(export); // whether what stays is gone as well is not known
			set_charge(pool, gpu, 0, 0);
			atomic_store(&pool->charged_bytes, 0);
			atomic_store(&pool->handle, NULL);
		}
		unlock(&pool->lock);
	}
}

void softmig_pools_refresh(void)
{
	struct pools *pools = all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		if (!is_ours(&pools->pool[i], NULL, &handle))
			continue;
		struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pools->pool[i].gpu));
		softmig_gpu_enter(gpu);
		refresh(&pools->pool[i], handle, gpu, 0, false);
		softmig_gpu_leave(gpu);
	}
}

static void use_stream(struct pools *pools, CUstream stream, bool per_thread)
{
	uintptr_t number = (uintptr_t)stream + 1, none = 0;

	if (stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread))
		atomic_store_explicit(&pools->streams, true, memory_order_relaxed);
	else if (atomic_load_explicit(&pools->stream, memory_order_relaxed) != number &&
	         !atomic_compare_exchange_strong(&pools->stream, &none, number))
		atomic_store_explicit(&pools->streams, true, memory_order_relaxed);
}

static uint64_t growth_of(uint64_t bytes)
{
	return bytes > UINT64_MAX - POOL_CHUNK_BYTES ? bytes : (bytes + POOL_CHUNK_BYTES - 1) / POOL_CHUNK_BYTES * POOL_CHUNK_BYTES;
}

static bool within_limit(const struct softmig_gpu *gpu)
{
	return softmig_gpu_used_bytes(gpu) <= softmig_gpu_limit_bytes(gpu);
}

// One allocation, as the program asked for it.
struct request {
	CUdeviceptr *pointer;
	uint64_t bytes;
	CUmemoryPool handle; // where it comes from
	CUstream stream;
	bool named;      // the program named the pool
	bool per_thread; // it came through a _ptsz function
};

static CUresult ask(const struct request *request)
{
	if (request->named)
		return (request->per_thread ? DRIVER(cuMemAllocFromPoolAsync_ptsz) : DRIVER(cuMemAllocFromPoolAsync))(
			request->pointer, request->bytes, request->handle, request->stream);
	return (request->per_thread ? DRIVER(cuMemAllocAsync_ptsz) : DRIVER(cuMemAllocAsync))(request->pointer, request->bytes,
	                                                                                    request->stream);
}

// The same of a pool that may be about to give back what stays: what it gives back while it grows must not go unseen.
static __attribute__((noinline)) CUresult ask_beside_exports(const struct request *request, struct pool *pool, struct softmig_gpu *gpu)
{
	uint64_t begun = softmig_pool_calls_begin();
	struct softmig_pool_export *export = export_of(pool);

	if (export != NULL && softmig_pool_export_may_keep(export))
		refresh(pool, request->handle, gpu, 0, false);
	CUresult result = ask(request);
	if (!softmig_pool_calls_end(begun))
		return result;
	lock(&pool->lock);
	export = atomic_load(&pool->handle) == request->handle ? export_of(pool) : NULL;
	if (export != NULL)
		atomic_fetch_add(&pool->charged_bytes, softmig_pool_export_keep_all(export));
	unlock(&pool->lock);
	return result;
}

static CUresult ask_driver(const struct request *request, struct pool *pool, struct softmig_gpu *gpu)
{
	CUresult result = softmig_pool_exports_any() ? ask_beside_exports(request, pool, gpu) : ask(request);
	uint64_t chunk = growth_of(request->bytes), largest = atomic_load_explicit(&pool->largest_bytes, memory_order_relaxed);

	while (result == CUDA_SUCCESS && __builtin_expect(largest < chunk, 0) && !atomic_compare_exchange_weak(&pool->largest_bytes, &largest, chunk))
		;
	return result;
}

// An allocation in the hope that the pool need not grow. If it did, beyond the limit, it is undone.
static CUresult squeeze(const struct request *request, struct pool *pool, struct softmig_gpu *gpu)
{
	CUresult result = ask_driver(request, pool, gpu);

	refresh(pool, request->handle, gpu, 0, false);
	if (result == CUDA_SUCCESS && !within_limit(gpu)) {
		(request->per_thread ? DRIVER(cuMemFreeAsync_ptsz) : DRIVER(cuMemFreeAsync))(*request->pointer, request->stream);
		softmig_pools_trim(gpu);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	return result;
}

// The three moves. Where there is no room for growth, in this order: what the pool already has, as far as it is sure to be free
// for this stream; idle memory of all pools but the graphs', given back; what remains in the chunks that could not be given back.
static CUresult allocate(const struct request *request, struct pools *pools, struct pool *pool, struct softmig_gpu *gpu)
{
	uint64_t held = growth_of(request->bytes);
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
	bool charged = softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, held);

	if (!charged && !atomic_load(&pools->streams) && may_fit_inside(request->handle, request->bytes, FREE_WHOLE))
		result = squeeze(request, pool, gpu);
	if (result != CUDA_ERROR_OUT_OF_MEMORY)
		return result;
	if (charged || softmig_charge_stream_ordered(gpu, held, "cuMemAllocAsync")) {
		result = ask_driver(request, pool, gpu);
		refresh(pool, request->handle, gpu, held, false);
	} else if (may_fit_inside(request->handle, request->bytes, FREE_IN_PIECES)) {
		result = squeeze(request, pool, gpu);
	}
	return result;
}

// The GPU of a pool that came to the program by no hook of ours: a device's default pool, else the current device.
static int gpu_of_pool(CUmemoryPool handle)
{
	struct softmig_gpu *gpu = NULL;
	CUmemoryPool own;

	for (int device = 0; device < SOFTMIG_MAX_GPUS && gpu == NULL; device++)
		if (DRIVER(cuDeviceGetDefaultMemPool)(&own, device) == CUDA_SUCCESS && own == handle)
			gpu = softmig_gpu_of_device(device);
	if (gpu == NULL)
		gpu = softmig_gpu_current();
	return gpu == NULL ? NOT_OURS : gpu->ledger;
}

// A capturing stream gets a node in a graph, not memory.
static CUresult allocate_in_stream(CUdeviceptr *pointer, struct request *request)
{
	request->pointer = pointer;
	struct pools *pools = all();

	if (pools == NULL || softmig_stream_is_capturing(request->stream, request->per_thread))
		return ask(request);
	struct softmig_gpu *gpu = softmig_gpu_of_stream(request->stream, request->per_thread);
	if (gpu == NULL)
		return ask(request);
	if (!request->named && DRIVER(cuDeviceGetMemPool)(&request->handle, gpu->device) != CUDA_SUCCESS)
		return ask(request);
	struct pool *pool = find(pools, request->handle);
	// What the driver does not know as a pool is its to refuse.
	if (request->handle == NULL ||
	    (pool == NULL && attribute(request->handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, UINT64_MAX) == UINT64_MAX))
		return ask(request);
	if (pool == NULL)
		pool = enlist(pools, request->handle, request->named ? gpu_of_pool(request->handle) : gpu->ledger, false);
	gpu = pool == NULL ? NULL : softmig_gpu_by_index(atomic_load(&pool->gpu));
	if (gpu == NULL)
		return ask(request);
	softmig_settle_if_due(gpu);
	softmig_gpu_enter(gpu);
	use_stream(pools, request->stream, request->per_thread);
	CUresult result = allocate(request, pools, pool, gpu);
	softmig_gpu_leave(gpu);
	return result;
}

CUresult hook_cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	struct request request = {.bytes = bytesize, .stream = hStream};
	return allocate_in_stream(dptr, &request);
}

CUresult hook_cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	struct request request = {.bytes = bytesize, .stream = hStream, .per_thread = true};
	return allocate_in_stream(dptr, &request);
}

CUresult hook_cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	struct request request = {.bytes = bytesize, .handle = pool, .stream = hStream, .named = true};
	return allocate_in_stream(dptr, &request);
}

CUresult hook_cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	struct request request = {
		.pointer = dptr, .bytes = bytesize, .handle = pool, .stream = hStream, .named = true, .per_thread = true};
	return allocate_in_stream(dptr, &request);
}

#define FREE_ASYNC(pointer, stream, per_thread, call) \
	do { \
		if (!softmig_pool_exports_any()) \
			return freed_in((call), (stream), (per_thread)); \
		struct softmig_track_entry entry; \
		softmig_pool_export_frees(pointer); \
		bool imported = softmig_pool_import_frees((pointer), &entry); \
		CUresult result = (call); \
		if (imported) \
			softmig_pool_import_freed(&entry, result == CUDA_SUCCESS); \
		return freed_in(result, (stream), (per_thread)); \
	} while (0)

static CUresult freed_in(CUresult result, CUstream stream, bool per_thread)
{
	struct pools *pools = all();
	if (pools != NULL && result == CUDA_SUCCESS)
		use_stream(pools, stream, per_thread);
	softmig_pools_freed();
	return result;
}

CUresult hook_cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	FREE_ASYNC(dptr, hStream, false, DRIVER(cuMemFreeAsync)(dptr, hStream));
}

CUresult hook_cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
	FREE_ASYNC(dptr, hStream, true, DRIVER(cuMemFreeAsync_ptsz)(dptr, hStream));
}

#define SYNCHRONISE(call) \
	do { \
		uint64_t begun = softmig_pool_calls_begin(); \
		CUresult result = (call); \
		softmig_pool_calls_end(begun); \
		return synchronised(result); \
	} while (0)

static CUresult synchronised(CUresult result)
{
	softmig_meter_synced();
	if (result == CUDA_SUCCESS)
		softmig_pools_synchronised();
	return result;
}

CUresult hook_cuStreamSynchronize(CUstream hStream)
{
	softmig_meter_sync_stream(hStream, false);
	SYNCHRONISE(DRIVER(cuStreamSynchronize)(hStream));
}

CUresult hook_cuStreamSynchronize_ptsz(CUstream hStream)
{
	softmig_meter_sync_stream(hStream, true);
	SYNCHRONISE(DRIVER(cuStreamSynchronize_ptsz)(hStream));
}

CUresult hook_cuEventSynchronize(CUevent hEvent)
{
	softmig_meter_sync_event(hEvent);
	SYNCHRONISE(DRIVER(cuEventSynchronize)(hEvent));
}

CUresult hook_cuCtxSynchronize(void)
{
	softmig_meter_sync_context();
	SYNCHRONISE(DRIVER(cuCtxSynchronize)());
}

CUresult hook_cuCtxSynchronize_v2(CUcontext ctx)
{
	softmig_meter_sync_context();
	SYNCHRONISE(DRIVER(cuCtxSynchronize_v2)(ctx));
}

// The driver answers with a handle of a pool that went without a word, with its context.
static void made_anew(CUmemoryPool handle)
{
	struct pool *pool = find(all(), handle);

	softmig_pool_export_ended_by_handle(handle);
	if (pool != NULL && atomic_load(&pool->gpu) == NOT_OURS) {
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
	enlist(all(), *handle, gpu == NULL ? NOT_OURS : gpu->ledger, type == CU_MEM_ALLOCATION_TYPE_MANAGED);
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
static struct softmig_pool_export *exporting(struct pool *pool, CUmemoryPool handle)
{
	struct softmig_pool_export *export = NULL;

	lock(&pool->lock);
	if (atomic_load(&pool->handle) == handle && atomic_load(&pool->gpu) >= 0 && !atomic_load(&pool->unseen)) {
		export = export_of(pool);
		if (export == NULL)
			export = softmig_pool_export_begin(handle, softmig_gpu_by_index(atomic_load(&pool->gpu)));
		atomic_store_explicit(&pool->export, export, memory_order_release);
	}
	unlock(&pool->lock);
	return export;
}

CUresult hook_cuMemPoolExportToShareableHandle(void *handle_out, CUmemoryPool pool, CUmemAllocationHandleType handleType, unsigned long long flags)
{
	CUresult result = DRIVER(cuMemPoolExportToShareableHandle)(handle_out, pool, handleType, flags);
	struct pool *entry = result == CUDA_SUCCESS ? find(all(), pool) : NULL;
	struct softmig_pool_export *export = entry == NULL ? NULL : exporting(entry, pool);

	if (export != NULL && handleType == CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR && handle_out != NULL)
		softmig_pool_export_descriptor(export, *(int *)handle_out);
	return result;
}

// The pool that a pointer comes from.
static struct pool *pool_of(CUdeviceptr pointer, CUmemoryPool *handle)
{
	*handle = NULL;
	if (!SOFTMIG_HAS(cuPointerGetAttribute) ||
	    DRIVER(cuPointerGetAttribute)(handle, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer) != CUDA_SUCCESS || *handle == NULL)
		return NULL;
	return find(all(), *handle);
}

// The chunk that it lies in, as large as it may be: that stays when the pool gives it back.
static uint64_t chunk_of(struct pool *pool, CUmemoryPool handle, CUdeviceptr *pointer)
{
	uint64_t most = atomic_load_explicit(&pool->largest_bytes, memory_order_relaxed);
	uint64_t has = attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, most);
	CUdeviceptr base;
	size_t bytes;

	if (SOFTMIG_HAS(cuMemGetAddressRange_v2) && DRIVER(cuMemGetAddressRange_v2)(&base, &bytes, *pointer) == CUDA_SUCCESS) {
		*pointer = base;
		most = growth_of(bytes) > most ? growth_of(bytes) : most;
	}
	return most < has ? most : has;
}

// Noted before it is exported: from then on it may be imported, and freed.
CUresult hook_cuMemPoolExportPointer(CUmemPoolPtrExportData *shareData_out, CUdeviceptr ptr)
{
	CUmemoryPool handle;
	struct pool *pool = pool_of(ptr, &handle);
	struct softmig_pool_export *export = pool == NULL ? NULL : exporting(pool, handle);
	CUdeviceptr pointer = ptr;
	bool known;

	if (export == NULL)
		return DRIVER(cuMemPoolExportPointer)(shareData_out, ptr);
	uint64_t bytes = chunk_of(pool, handle, &pointer);
	if (!softmig_pool_export_pointer(export, pointer, bytes, &known))
		return CUDA_ERROR_OUT_OF_MEMORY;
	CUresult result = DRIVER(cuMemPoolExportPointer)(shareData_out, ptr);
	if (result != CUDA_SUCCESS && !known)
		softmig_pool_export_no_pointer(pointer);
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
	struct pool *pool = NULL;
	if (result == CUDA_SUCCESS) {
		made_anew(*pool_out);
		pool = enlist(all(), *pool_out, NOT_OURS, false);
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
	struct pool *entry = result == CUDA_SUCCESS ? find(all(), pool) : NULL;
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
static uint64_t disown(struct pool *pool, struct softmig_gpu *gpu)
{
	lock(&pool->lock);
	uint64_t left = reserved(pool);
	struct softmig_pool_export *export = export_of(pool);
	if (atomic_load(&pool->unseen)) {
		set_charge(pool, gpu, 0, 0);
		left = 0;
	} else if (export != NULL) {
		left -= softmig_pool_export_gave_back(export, left, 0);
	}
	atomic_store(&pool->charged_bytes, 0);
	unlock(&pool->lock);
	return left;
}

static CUresult destroy(struct pool *pool, CUmemoryPool handle)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pool->gpu));
	struct softmig_pool_export *export = export_of(pool), *import = atomic_load(&pool->import);
	bool imported = atomic_load(&pool->imported);
	uint64_t left = 0;

	uint64_t out = export == NULL ? 0 : attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
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
	struct pool *entry = find(all(), pool);
	CUmemoryPool seen = pool;
	bool mine = false;

	if (entry != NULL) {
		lock(&entry->lock);
		mine = atomic_compare_exchange_strong(&entry->handle, &seen, BUSY);
		unlock(&entry->lock);
	}
	if (mine)
		return destroy(entry, pool);
	CUresult result = DRIVER(cuMemPoolDestroy)(pool);
	if (result == CUDA_SUCCESS)
		softmig_pool_export_ended_by_handle(pool);
	return result;
}
