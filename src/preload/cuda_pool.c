// SPDX-License-Identifier: Apache-2.0
// Allocating from stream-ordered pools, freeing, and the synchronisations at which they give back. Owns: what is done when a pool cannot grow. The
// charges: pool.h.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/pool.h"
#include "preload/pool_export.h"
#include "preload/pool_import.h"
#include "preload/sharing.h"
#include "preload/stream.h"

// What is free in a pool lies in pieces, the more so after whole chunks were given back; a try that makes the pool grow stands above the
// limit until it is undone (with half of the free memory the fight saw 200 MiB for an instant, with a sixteenth nothing).
enum { FREE_WHOLE = 2, FREE_IN_PIECES = 16 };

static void use_stream(struct softmig_pools *pools, CUstream stream, bool per_thread)
{
	uintptr_t number = (uintptr_t)stream + 1, none = 0;

	if (stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread))
		atomic_store_explicit(&pools->streams, true, memory_order_relaxed);
	else if (atomic_load_explicit(&pools->stream, memory_order_relaxed) != number &&
	         !atomic_compare_exchange_strong(&pools->stream, &none, number))
		atomic_store_explicit(&pools->streams, true, memory_order_relaxed);
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
static __attribute__((noinline)) CUresult ask_beside_exports(const struct request *request, struct softmig_pool *pool, struct softmig_gpu *gpu)
{
	uint64_t begun = softmig_pool_calls_begin();
	struct softmig_pool_export *export = softmig_pool_export_of(pool);

	if (export != NULL && softmig_pool_export_may_keep(export))
		softmig_pool_refresh(pool, request->handle, gpu, 0, false);
	CUresult result = ask(request);
	if (!softmig_pool_calls_end(begun))
		return result;
	softmig_pool_lock(&pool->lock);
	export = atomic_load(&pool->handle) == request->handle ? softmig_pool_export_of(pool) : NULL;
	if (export != NULL)
		atomic_fetch_add(&pool->charged_bytes, softmig_pool_export_keep_all(export));
	softmig_pool_unlock(&pool->lock);
	return result;
}

static CUresult ask_driver(const struct request *request, struct softmig_pool *pool, struct softmig_gpu *gpu)
{
	CUresult result = softmig_pool_exports_any() ? ask_beside_exports(request, pool, gpu) : ask(request);
	uint64_t chunk = softmig_pool_growth(request->bytes), largest = atomic_load_explicit(&pool->largest_bytes, memory_order_relaxed);

	while (result == CUDA_SUCCESS && __builtin_expect(largest < chunk, 0) && !atomic_compare_exchange_weak(&pool->largest_bytes, &largest, chunk))
		;
	return result;
}

// An allocation in the hope that the pool need not grow. If it did, beyond the limit, it is undone.
static CUresult squeeze(const struct request *request, struct softmig_pool *pool, struct softmig_gpu *gpu)
{
	CUresult result = ask_driver(request, pool, gpu);

	softmig_pool_refresh(pool, request->handle, gpu, 0, false);
	if (result == CUDA_SUCCESS && !within_limit(gpu)) {
		(request->per_thread ? DRIVER(cuMemFreeAsync_ptsz) : DRIVER(cuMemFreeAsync))(*request->pointer, request->stream);
		softmig_pools_trim(gpu);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	return result;
}

// Where so many times as much is free in the pool. One thread at a time: two would count on the same memory, and the second make the pool grow.
static CUresult squeeze_if_it_fits(const struct request *request, struct softmig_pools *pools, struct softmig_pool *pool, struct softmig_gpu *gpu, unsigned times)
{
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

	softmig_pool_lock(&pools->squeezing);
	if (softmig_pool_may_fit(request->handle, request->bytes, times))
		result = squeeze(request, pool, gpu);
	softmig_pool_unlock(&pools->squeezing);
	return result;
}

// The three moves. Where there is no room for growth, in this order: what the pool already has, as far as it is sure to be free
// for this stream; idle memory of all pools but the graphs', given back; what remains in the chunks that could not be given back.
static CUresult allocate(const struct request *request, struct softmig_pools *pools, struct softmig_pool *pool, struct softmig_gpu *gpu)
{
	uint64_t held = softmig_pool_growth(request->bytes);
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
	bool charged = softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, held);

	if (!charged && !atomic_load(&pools->streams))
		result = squeeze_if_it_fits(request, pools, pool, gpu, FREE_WHOLE);
	if (result != CUDA_ERROR_OUT_OF_MEMORY)
		return result;
	if (charged || softmig_charge_stream_ordered(gpu, held, "cuMemAllocAsync")) {
		result = ask_driver(request, pool, gpu);
		softmig_pool_refresh(pool, request->handle, gpu, held, false);
	} else {
		result = squeeze_if_it_fits(request, pools, pool, gpu, FREE_IN_PIECES);
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
	return gpu == NULL ? SOFTMIG_POOL_NOT_OURS : gpu->ledger;
}

// A capturing stream gets a node in a graph, not memory.
static CUresult allocate_in_stream(CUdeviceptr *pointer, struct request *request)
{
	request->pointer = pointer;
	struct softmig_pools *pools = softmig_pools_all();

	if (pools == NULL || softmig_stream_is_capturing(request->stream, request->per_thread))
		return ask(request);
	struct softmig_gpu *gpu = softmig_gpu_of_stream(request->stream, request->per_thread);
	if (gpu == NULL)
		return ask(request);
	if (!request->named && DRIVER(cuDeviceGetMemPool)(&request->handle, gpu->device) != CUDA_SUCCESS)
		return ask(request);
	struct softmig_pool *pool = softmig_pool_find(pools, request->handle);
	// What the driver does not know as a pool is its to refuse.
	if (request->handle == NULL ||
	    (pool == NULL && softmig_pool_attribute(request->handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, UINT64_MAX) == UINT64_MAX))
		return ask(request);
	if (pool == NULL)
		pool = softmig_pool_enlist(pools, request->handle, request->named ? gpu_of_pool(request->handle) : gpu->ledger, false);
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
			imported_freed(&entry, result, (stream), (per_thread)); \
		return freed_in(result, (stream), (per_thread)); \
	} while (0)

// In this order: whoever waits for a stream, and sees that it has been freed, sees in which.
static void imported_freed(const struct softmig_track_entry *entry, CUresult result, CUstream stream, bool per_thread)
{
	struct softmig_pools *pools = softmig_pools_all();
	if (pools != NULL)
		use_stream(pools, stream, per_thread);
	softmig_pool_import_freed(entry, result == CUDA_SUCCESS);
}

static CUresult freed_in(CUresult result, CUstream stream, bool per_thread)
{
	struct softmig_pools *pools = softmig_pools_all();
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

// Of what was imported and freed so far, how much has been waited for when that stream has been; and when the only context has been. 0: it is not known, or there
// is nothing.
static uint64_t freed_so_far_in(CUstream stream, bool per_thread)
{
	struct softmig_pools *pools = softmig_pool_exports_any() ? softmig_pools_all() : NULL;
	uint64_t ended = pools == NULL ? 0 : softmig_imports_ended();
	bool special = stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread);

	return ended != 0 && !special && !atomic_load(&pools->streams) && atomic_load(&pools->stream) == (uintptr_t)stream + 1 ? ended : 0;
}

static uint64_t freed_so_far(void)
{
	uint64_t ended = softmig_pool_exports_any() ? softmig_imports_ended() : 0;
	uint32_t contexts = 0;

	for (int i = 0; ended != 0 && i < SOFTMIG_MAX_GPUS; i++) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(i);
		contexts += gpu == NULL ? 0 : atomic_load(&gpu->contexts);
	}
	return contexts == 1 ? ended : 0;
}

#define SYNCHRONISE(freed, call) \
	do { \
		uint64_t begun = softmig_pool_calls_begin(), ended = (freed); \
		CUresult result = (call); \
		softmig_pool_calls_end(begun); \
		if (ended != 0 && result == CUDA_SUCCESS) \
			softmig_pool_imports_waited(ended); \
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
	SYNCHRONISE(freed_so_far_in(hStream, false), DRIVER(cuStreamSynchronize)(hStream));
}

CUresult hook_cuStreamSynchronize_ptsz(CUstream hStream)
{
	softmig_meter_sync_stream(hStream, true);
	SYNCHRONISE(freed_so_far_in(hStream, true), DRIVER(cuStreamSynchronize_ptsz)(hStream));
}

CUresult hook_cuEventSynchronize(CUevent hEvent)
{
	softmig_meter_sync_event(hEvent);
	SYNCHRONISE(0, DRIVER(cuEventSynchronize)(hEvent));
}

CUresult hook_cuCtxSynchronize(void)
{
	softmig_meter_sync_context();
	SYNCHRONISE(freed_so_far(), DRIVER(cuCtxSynchronize)());
}

CUresult hook_cuCtxSynchronize_v2(CUcontext ctx)
{
	softmig_meter_sync_context();
	SYNCHRONISE(freed_so_far(), DRIVER(cuCtxSynchronize_v2)(ctx));
}
