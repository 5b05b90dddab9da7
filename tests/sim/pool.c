// SPDX-License-Identifier: Apache-2.0
// Pools' memory: reserved in chunks of 32 MiB and more, handed out in pieces, reused in stream order, trimmed at
// synchronisations.
#include "pool.h"

#include <stdlib.h>
#include <string.h>

static struct CUmemPoolHandle_st *pools;
static struct CUmemPoolHandle_st *gone; // destroyed ones: kept, so that an old handle is recognised

struct CUmemPoolHandle_st *sim_pool_make(enum sim_pool_kind kind, int ordinal)
{
	struct CUmemPoolHandle_st *pool = calloc(1, sizeof(*pool));
	if (pool == NULL)
		return NULL;
	pool->alive = true;
	pool->kind = kind;
	pool->device = ordinal;
	pool->gpu = sim_device[ordinal].gpu;
	pool->reuse[1] = pool->reuse[2] = pool->reuse[3] = 1;
	pool->id = sim_next_id();
	pool->shared = -1;
	pool->next = pools;
	pools = pool;
	return pool;
}

static struct CUmemPoolHandle_st *default_pool(int ordinal)
{
	if (sim_device[ordinal].default_pool == NULL)
		sim_device[ordinal].default_pool = sim_pool_make(SIM_POOL_DEFAULT, ordinal);
	return sim_device[ordinal].default_pool;
}

struct CUmemPoolHandle_st *sim_pool_current(int ordinal)
{
	return sim_device[ordinal].current_pool != NULL ? sim_device[ordinal].current_pool : default_pool(ordinal);
}

struct CUmemPoolHandle_st *sim_pool_graph(int ordinal)
{
	if (sim_device[ordinal].graph_pool == NULL) {
		struct CUmemPoolHandle_st *pool = sim_pool_make(SIM_POOL_GRAPH, ordinal);
		if (pool != NULL)
			pool->threshold_bytes = UINT64_MAX; // kept until it is trimmed expressly
		sim_device[ordinal].graph_pool = pool;
	}
	return sim_device[ordinal].graph_pool;
}

// Has the work that may still use this free extent been done?
static bool settled(struct sim_extent *extent)
{
	if (extent->context < 0)
		return true;
	sim_lock();
	const struct sim_context_queue *queue = &sim_state->context[extent->context];
	bool done = !queue->used || queue->process != sim_slot;
	if (!done) {
		sim_timeline_advance(queue->gpu, sim_now_ns());
		done = sim_timeline_left(extent->context, extent->stream, extent->sequence) == 0;
	}
	sim_unlock();
	if (done)
		extent->context = -1;
	return done;
}

static bool usable(struct sim_extent *extent, const struct CUstream_st *stream)
{
	if (extent->used)
		return false;
	bool own = stream != NULL && extent->context == stream->context->queue && extent->stream == stream->queue;
	return own || settled(extent);
}

// Makes bytes of free extents from `first` on into one used extent. False: they do not suffice.
static bool carve(struct sim_extent *first, uint64_t bytes, const struct CUstream_st *stream)
{
	uint64_t together = 0;
	struct sim_extent *last = NULL;
	for (struct sim_extent *extent = first; extent != NULL && together < bytes && usable(extent, stream);
		 extent = extent->next) {
		together += extent->bytes;
		last = extent;
	}
	if (together < bytes)
		return false;
	while (first != last) {
		struct sim_extent *merged = first->next;
		first->bytes += merged->bytes;
		first->next = merged->next;
		if (merged == last)
			last = first;
		free(merged);
	}
	if (first->bytes > bytes) {
		struct sim_extent *rest = calloc(1, sizeof(*rest));
		if (rest != NULL) {
			*rest = *first;
			rest->offset += bytes;
			rest->bytes -= bytes;
			first->bytes = bytes;
			first->next = rest;
		}
	}
	first->used = true;
	return true;
}

// Charges for a chunk of *whole bytes, or of what is needed of it where that is the last of the GPU's memory.
static CUresult charge(struct CUmemPoolHandle_st *pool, uint64_t bytes, uint64_t *whole)
{
	if (pool->max_bytes != 0 && pool->reserved_bytes + *whole > pool->max_bytes)
		return CUDA_ERROR_OUT_OF_MEMORY;
	uint64_t *kept = &sim_device[pool->device].kept_bytes;
	uint64_t from_kept = *kept <= *whole ? *kept : 0;
	CUresult result = sim_gpu_charge_stream_ordered(pool->gpu, pool->device, *whole - from_kept);
	if (result == CUDA_SUCCESS)
		*kept -= from_kept;
	else if (*whole > sim_round_up(bytes, SIM_GRANULE)) {
		*whole = sim_round_up(bytes, SIM_GRANULE);
		result = sim_gpu_charge_stream_ordered(pool->gpu, pool->device, *whole);
	}
	return result;
}

static void has_grown(struct CUmemPoolHandle_st *pool, uint64_t bytes)
{
	pool->reserved_bytes += bytes;
	if (pool->reserved_bytes > pool->reserved_high_bytes)
		pool->reserved_high_bytes = pool->reserved_bytes;
}

static CUresult grow(struct CUmemPoolHandle_st *pool, uint64_t bytes)
{
	uint64_t whole = sim_round_up(bytes, SIM_POOL_CHUNK);
	CUresult result = whole < bytes ? CUDA_ERROR_OUT_OF_MEMORY : charge(pool, bytes, &whole);
	if (result != CUDA_SUCCESS)
		return result;
	struct sim_chunk *chunk = calloc(1, sizeof(*chunk));
	struct sim_extent *extent = calloc(1, sizeof(*extent));
	if (chunk == NULL || extent == NULL || !sim_pool_map(pool, chunk, whole)) {
		free(chunk);
		free(extent);
		sim_gpu_uncharge(pool->gpu, whole);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	extent->bytes = whole;
	extent->context = -1;
	chunk->extents = extent;
	chunk->next = pool->chunks;
	pool->chunks = chunk;
	has_grown(pool, whole);
	return CUDA_SUCCESS;
}

// What does not fit into the free end of a chunk begins there all the same, and goes on in a new one behind it: the chunk that can grow so. [H200] 2 and 62 MiB
// take 64, 33 and 67 MiB 128.
static struct sim_extent *free_end(struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream, struct sim_chunk **found, uint64_t *missing)
{
	struct sim_extent *lowest = NULL;
	for (struct sim_chunk *chunk = pool->chunks; chunk != NULL; chunk = chunk->next) {
		struct sim_extent *first = NULL, *last = NULL;
		for (struct sim_extent *extent = chunk->extents; extent != NULL; last = extent, extent = extent->next)
			first = !usable(extent, stream) ? NULL : first == NULL ? extent : first;
		uint64_t has = first != NULL ? chunk->backing.bytes - first->offset : bytes;
		if (has >= bytes || !sim_pool_may_extend(pool, chunk, first->offset, sim_round_up(bytes - has, SIM_POOL_CHUNK)) ||
			(lowest != NULL && chunk->backing.address > (*found)->backing.address))
			continue;
		lowest = last;
		*found = chunk;
		*missing = bytes - has;
	}
	return lowest;
}

static bool extend(struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream)
{
	struct sim_chunk *chunk = NULL;
	uint64_t missing = 0;
	struct sim_extent *last = free_end(pool, bytes, stream, &chunk, &missing);
	uint64_t whole = sim_round_up(missing, SIM_POOL_CHUNK);
	if (last == NULL || charge(pool, missing, &whole) != CUDA_SUCCESS)
		return false;
	if (!sim_pool_extend(chunk, whole)) {
		sim_gpu_uncharge(pool->gpu, whole);
		return false;
	}
	last->bytes += whole;
	has_grown(pool, whole);
	return true;
}

CUresult sim_pool_take(
	struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream, uint64_t *address)
{
	bytes = sim_round_up(bytes, 512);
	for (int pass = 0; pass < 2; pass++) {
		for (struct sim_chunk *chunk = pool->chunks; chunk != NULL; chunk = chunk->next) {
			for (struct sim_extent *extent = chunk->extents; extent != NULL; extent = extent->next) {
				if (!carve(extent, bytes, stream))
					continue;
				pool->used_bytes += extent->bytes;
				if (pool->used_bytes > pool->used_high_bytes)
					pool->used_high_bytes = pool->used_bytes;
				*address = chunk->backing.address + extent->offset;
				return CUDA_SUCCESS;
			}
		}
		if (pass == 0 && !extend(pool, bytes, stream)) {
			CUresult result = grow(pool, bytes);
			if (result != CUDA_SUCCESS)
				return result;
		}
	}
	return CUDA_ERROR_OUT_OF_MEMORY;
}

struct sim_chunk *sim_pool_chunk(struct CUmemPoolHandle_st *pool, uint64_t address)
{
	struct sim_chunk *chunk = pool->chunks;
	while (chunk != NULL && address - chunk->backing.address >= chunk->backing.bytes)
		chunk = chunk->next;
	return chunk;
}

static void destroy_if_done(struct CUmemPoolHandle_st *pool)
{
	if (pool->alive || pool->used_bytes > 0)
		return;
	sim_pool_trim(pool, 0);
	if (pool->chunks != NULL)
		return; // something is still under way: the next look frees it
	struct CUmemPoolHandle_st **link = &pools;
	while (*link != NULL && *link != pool)
		link = &(*link)->next;
	if (*link != NULL)
		*link = pool->next;
	pool->next = gone;
	gone = pool;
	sim_pool_places_gone(pool);
	if (pool->shared >= 0)
		sim_shared_pool_release(pool->shared);
	pool->shared = -1;
}

void sim_pool_put(struct CUmemPoolHandle_st *pool, uint64_t address, const struct CUstream_st *stream)
{
	struct sim_chunk *chunk = sim_pool_chunk(pool, address);
	struct sim_extent *extent = chunk != NULL ? chunk->extents : NULL;
	while (extent != NULL && chunk->backing.address + extent->offset != address)
		extent = extent->next;
	if (extent == NULL || !extent->used)
		return;
	extent->used = false;
	extent->context = -1;
	if (stream != NULL) {
		extent->context = stream->context->queue;
		extent->stream = stream->queue;
		sim_lock();
		extent->sequence = sim_state->next_sequence;
		sim_unlock();
	}
	pool->used_bytes -= extent->bytes;
	destroy_if_done(pool);
}

static uint64_t reserved_on(int ordinal)
{
	uint64_t bytes = 0;
	for (const struct CUmemPoolHandle_st *pool = pools; pool != NULL; pool = pool->next)
		if (pool->device == ordinal && pool->kind != SIM_POOL_GRAPH)
			bytes += pool->reserved_bytes;
	return bytes;
}

static void chunk_gone(struct sim_chunk *chunk)
{
	sim_dma_buf_memory_gone(chunk);
	sim_backing_unmap(&chunk->backing);
	while (chunk->extents != NULL) {
		struct sim_extent *extent = chunk->extents;
		chunk->extents = extent->next;
		free(extent);
	}
	free(chunk->exported);
	free(chunk);
}

static bool idle_between(struct sim_chunk *chunk, uint64_t from, uint64_t to)
{
	for (struct sim_extent *extent = chunk->extents; extent != NULL; extent = extent->next)
		if (extent->offset < to && from < extent->offset + extent->bytes && (extent->used || !settled(extent)))
			return false;
	return true;
}

// Takes the chunk apart there, where nothing in use lies across. Returns the second part; NULL: no memory.
static struct sim_chunk *cut(struct sim_chunk *chunk, uint64_t at)
{
	struct sim_chunk *rest = calloc(1, sizeof(*rest));
	struct sim_extent *last = chunk->extents, *across = calloc(1, sizeof(*across));
	uint64_t *exported = chunk->exported != NULL ? calloc(chunk->backing.bytes / SIM_POOL_CHUNK + 1, sizeof(*exported)) : NULL;
	if (rest == NULL || across == NULL || (chunk->exported != NULL && exported == NULL)) {
		free(rest);
		free(across);
		free(exported);
		return NULL;
	}
	while (last->next != NULL && last->next->offset < at)
		last = last->next;
	if (last->offset + last->bytes > at) {
		*across = *last;
		across->offset = at;
		across->bytes = last->offset + last->bytes - at;
		last->bytes = at - last->offset;
		last->next = across;
	} else {
		free(across);
	}
	rest->extents = last->next;
	last->next = NULL;
	for (struct sim_extent *extent = rest->extents; extent != NULL; extent = extent->next)
		extent->offset -= at;
	for (uint64_t i = at / SIM_POOL_CHUNK; exported != NULL && i * SIM_POOL_CHUNK < chunk->backing.bytes; i++)
		exported[i - at / SIM_POOL_CHUNK] = chunk->exported[i];
	rest->exported = exported;
	rest->backing = chunk->backing;
	rest->backing.address += at;
	rest->backing.offset += at;
	rest->backing.bytes -= at;
	chunk->backing.bytes = at;
	rest->next = chunk->next;
	chunk->next = rest;
	return rest;
}

// The link to a part of the chunk that nothing lies in, made a chunk of its own; NULL: there is none.
static struct sim_chunk **idle_part(struct sim_chunk **link)
{
	struct sim_chunk *chunk = *link;
	for (uint64_t at = 0; at + SIM_POOL_CHUNK <= chunk->backing.bytes && chunk->backing.bytes > SIM_POOL_CHUNK && !sim_dma_buf_is_of(chunk);
		 at += SIM_POOL_CHUNK) {
		if (!idle_between(chunk, at, at + SIM_POOL_CHUNK))
			continue;
		if (at + SIM_POOL_CHUNK < chunk->backing.bytes && cut(chunk, at + SIM_POOL_CHUNK) == NULL)
			return NULL;
		if (at == 0)
			return link;
		return cut(chunk, at) != NULL ? &chunk->next : NULL;
	}
	return NULL;
}

static uint64_t give_back(struct CUmemPoolHandle_st *pool, struct sim_chunk *chunk)
{
	uint64_t stays = 0;
	pool->reserved_bytes -= chunk->backing.bytes;
	if (chunk->exported != NULL) { // what was exported of it stays on the GPU
		stays = sim_pool_keep(pool, chunk);
		sim_shared_pool_given_back(pool->shared, stays);
	} else {
		// As ordered, the last of it stays with the process, for its next pool that grows: an H200 keeps 32 MiB
		// (docs/driver-facts.md).
		uint64_t *kept = &sim_device[pool->device].kept_bytes, most = sim_env_bytes("SOFTMIG_SIM_POOL_KEEP", 0);
		stays = *kept == 0 && reserved_on(pool->device) == 0 && chunk->backing.bytes >= most ? most : 0;
		*kept += stays;
	}
	uint64_t released = chunk->backing.bytes - stays;
	sim_gpu_uncharge(pool->gpu, released);
	chunk_gone(chunk);
	return released;
}

uint64_t sim_pool_trim(struct CUmemPoolHandle_st *pool, uint64_t keep_bytes)
{
	uint64_t released = 0;
	for (struct sim_chunk **link = &pool->chunks; *link != NULL && pool->reserved_bytes > keep_bytes;) {
		struct sim_chunk **part = link;
		if (!idle_between(*link, 0, (*link)->backing.bytes))
			part = idle_part(link);
		if (part == NULL || pool->reserved_bytes - (*part)->backing.bytes < keep_bytes) {
			link = &(*link)->next;
			continue;
		}
		struct sim_chunk *chunk = *part;
		*part = chunk->next;
		released += give_back(pool, chunk);
	}
	return released;
}

void sim_pool_trim_idle(int ordinal)
{
	sim_enter();
	for (struct CUmemPoolHandle_st *pool = pools, *next; pool != NULL; pool = next) {
		next = pool->next;
		if (pool->device != ordinal || pool->chunks == NULL)
			continue;
		if (!pool->alive)
			destroy_if_done(pool);
		else if (pool->reserved_bytes > pool->threshold_bytes)
			sim_pool_trim(pool, pool->threshold_bytes);
	}
	sim_leave();
}

// The graph pool has no chunks: its memory is counted, its addresses belong to the nodes.
static uint64_t release_idle(struct CUmemPoolHandle_st *pool)
{
	if (pool->kind != SIM_POOL_GRAPH)
		return sim_pool_trim(pool, 0);
	uint64_t idle = pool->reserved_bytes - pool->mapped_bytes;
	sim_gpu_uncharge(pool->gpu, idle);
	pool->reserved_bytes = pool->mapped_bytes;
	return idle;
}

uint64_t sim_pool_give_back(int ordinal, bool graphs_too)
{
	uint64_t released = 0;
	sim_enter();
	for (struct CUmemPoolHandle_st *pool = pools; pool != NULL; pool = pool->next)
		if (pool->device == ordinal && (graphs_too || pool->kind != SIM_POOL_GRAPH))
			released += release_idle(pool);
	sim_leave();
	return released;
}

static void forget(struct sim_range *range, void *device)
{
	if (range->kind == SIM_RANGE_POOL && range->device == *(int *)device) {
		sim_pool_put(range->owner, range->base, NULL);
		sim_range_remove(range);
	}
}

static void forget_graph(struct sim_range *range, void *device)
{
	if (range->kind == SIM_RANGE_GRAPH && range->device == *(int *)device)
		sim_graph_free_allocation(range, NULL);
}

void sim_pool_drop_device(int ordinal)
{
	sim_range_each(forget, &ordinal);
	sim_range_each(forget_graph, &ordinal);
	for (struct CUmemPoolHandle_st *pool = pools; pool != NULL; pool = pool->next)
		if (pool->device == ordinal)
			release_idle(pool);
	sim_gpu_uncharge(sim_device[ordinal].gpu, sim_device[ordinal].kept_bytes);
	sim_device[ordinal].kept_bytes = 0;
}

// --- stream-ordered allocation

CUresult sim_pool_alloc(
	struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream, CUdeviceptr *address)
{
	sim_enter();
	uint64_t at = 0;
	CUresult result = sim_pool_take(pool, bytes, stream, &at);
	struct sim_range *range = result == CUDA_SUCCESS ? sim_range_add(at, bytes, SIM_RANGE_POOL) : NULL;
	if (range != NULL) {
		range->device = pool->device;
		range->owner = pool;
		*address = at;
	} else if (result == CUDA_SUCCESS) {
		sim_pool_put(pool, at, NULL);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	sim_leave();
	return result;
}

static CUresult alloc_on(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream handle)
{
	SIM_STREAM(stream, handle);
	if (address == NULL || bytes == 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (pool == NULL)
		pool = sim_pool_current(stream->context->device);
	if (!pool->alive || pool->kind == SIM_POOL_IMPORTED)
		return CUDA_ERROR_INVALID_VALUE;
	if (sim_capturing(stream))
		return sim_capture_alloc(stream, pool->device, bytes, address);
	return sim_pool_alloc(pool, bytes, stream, address);
}

static CUresult free_on(CUdeviceptr address, CUstream handle)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream))
		return sim_capture_free(stream, address);
	sim_enter();
	struct sim_range *range = sim_range_find(address);
	if (range == NULL || range->base != address) {
		result = CUDA_ERROR_INVALID_VALUE;
	} else if (range->kind == SIM_RANGE_POOL) {
		sim_pool_put(range->owner, address, stream);
		sim_range_remove(range);
	} else if (range->kind == SIM_RANGE_IPC && range->context == NULL) { // imported with its pool
		struct CUmemPoolHandle_st *pool = range->owner;
		pool->used_bytes -= range->bytes;
		sim_shared_pool_pointer_freed(pool->shared, range->base);
		sim_free(range);
		destroy_if_done(pool);
	} else if (range->kind == SIM_RANGE_GRAPH) {
		result = sim_graph_free_allocation(range, stream);
	} else {
		result = CUDA_ERROR_INVALID_VALUE;
	}
	sim_leave();
	return result;
}

CUresult sim_pool_free_now(CUdeviceptr address)
{
	sim_enter();
	struct sim_range *range = sim_range_find(address);
	int device = range != NULL ? range->device : -1;
	sim_leave();
	struct CUctx_st *context = device >= 0 ? sim_context_of_device(device) : NULL;
	if (context != NULL)
		sim_stream_wait_idle(context, -1);
	sim_enter();
	range = sim_range_find(address);
	bool found =
		range != NULL && range->base == address && (range->kind == SIM_RANGE_POOL || range->kind == SIM_RANGE_GRAPH);
	if (found && range->kind == SIM_RANGE_GRAPH) {
		sim_graph_free_allocation(range, NULL);
	} else if (found) {
		sim_pool_put(range->owner, address, NULL);
		sim_range_remove(range);
	}
	sim_leave();
	if (found)
		sim_pool_trim_idle(device);
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)

CUresult cuMemAllocAsync(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return alloc_on(dptr, bytesize, NULL, hStream);
}

CUresult cuMemAllocAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUstream hStream)
{
	return alloc_on(dptr, bytesize, NULL, THREADED(hStream));
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	return pool == NULL ? CUDA_ERROR_INVALID_VALUE : alloc_on(dptr, bytesize, pool, hStream);
}

CUresult cuMemAllocFromPoolAsync_ptsz(CUdeviceptr *dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream)
{
	return pool == NULL ? CUDA_ERROR_INVALID_VALUE : alloc_on(dptr, bytesize, pool, THREADED(hStream));
}

CUresult cuMemFreeAsync(CUdeviceptr dptr, CUstream hStream)
{
	return free_on(dptr, hStream);
}

CUresult cuMemFreeAsync_ptsz(CUdeviceptr dptr, CUstream hStream)
{
	return free_on(dptr, THREADED(hStream));
}

// --- which pool

#define ORDINAL(ordinal) \
	SIM_READY(); \
	if ((ordinal) < 0 || (ordinal) >= sim_device_count) \
		return CUDA_ERROR_INVALID_DEVICE

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool_out, CUdevice dev)
{
	ORDINAL(dev);
	if (pool_out == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	*pool_out = default_pool(dev);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuDeviceGetMemPool(CUmemoryPool *pool, CUdevice dev)
{
	ORDINAL(dev);
	if (pool == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	*pool = sim_pool_current(dev);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuDeviceSetMemPool(CUdevice dev, CUmemoryPool pool)
{
	ORDINAL(dev);
	if (pool == NULL || !pool->alive || pool->device != dev || pool->kind == SIM_POOL_IMPORTED)
		return CUDA_ERROR_INVALID_VALUE;
	sim_device[dev].current_pool = pool;
	return CUDA_SUCCESS;
}

CUresult cuMemGetDefaultMemPool(CUmemoryPool *pool_out, CUmemLocation *location, CUmemAllocationType type)
{
	if (location == NULL || location->type != CU_MEM_LOCATION_TYPE_DEVICE || type != CU_MEM_ALLOCATION_TYPE_PINNED)
		return CUDA_ERROR_NOT_SUPPORTED; // pools of the host
	return cuDeviceGetDefaultMemPool(pool_out, location->id);
}

CUresult cuMemGetMemPool(CUmemoryPool *pool, CUmemLocation *location, CUmemAllocationType type)
{
	if (location == NULL || location->type != CU_MEM_LOCATION_TYPE_DEVICE || type != CU_MEM_ALLOCATION_TYPE_PINNED)
		return CUDA_ERROR_NOT_SUPPORTED;
	return cuDeviceGetMemPool(pool, location->id);
}

CUresult cuMemSetMemPool(CUmemLocation *location, CUmemAllocationType type, CUmemoryPool pool)
{
	if (location == NULL || location->type != CU_MEM_LOCATION_TYPE_DEVICE || type != CU_MEM_ALLOCATION_TYPE_PINNED)
		return CUDA_ERROR_NOT_SUPPORTED;
	return cuDeviceSetMemPool(location->id, pool);
}

CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps)
{
	SIM_READY();
	if (pool == NULL || poolProps == NULL || poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED)
		return CUDA_ERROR_INVALID_VALUE;
	if (poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_NOT_SUPPORTED; // pools of the host
	ORDINAL(poolProps->location.id);
	if (((unsigned)poolProps->handleTypes & ~(unsigned)CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR) != 0)
		return CUDA_ERROR_NOT_SUPPORTED;
	sim_enter();
	struct CUmemPoolHandle_st *made = sim_pool_make(SIM_POOL_OWN, poolProps->location.id);
	sim_leave();
	if (made == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	made->handle_types = poolProps->handleTypes;
	made->max_bytes = sim_round_up(poolProps->maxSize, SIM_POOL_CHUNK);
	*pool = made;
	return CUDA_SUCCESS;
}

CUresult cuMemPoolDestroy(CUmemoryPool pool)
{
	SIM_READY();
	if (pool == NULL || !pool->alive || pool->kind == SIM_POOL_DEFAULT)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	pool->alive = false;
	if (sim_device[pool->device].current_pool == pool)
		sim_device[pool->device].current_pool = NULL; // the default one again
	destroy_if_done(pool);
	sim_leave();
	return CUDA_SUCCESS;
}

// Unsafe during a capture, we take it, like cuMemPoolGetAttribute.
CUresult cuMemPoolTrimTo(CUmemoryPool pool, size_t minBytesToKeep)
{
	SIM_READY();
	if (pool == NULL || !pool->alive)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult forbidden = sim_capture_forbid(NULL);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	sim_enter();
	sim_pool_trim(pool, minBytesToKeep);
	sim_leave();
	return CUDA_SUCCESS;
}
