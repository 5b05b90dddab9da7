// SPDX-License-Identifier: Apache-2.0
// Graphs' memory nodes. The driver gives them memory at the launch (or upload) and keeps it in one pool per device until
// cuDeviceGraphMemTrim. Owns: what a launch may make that pool grow by, and the pool's charge.
//
// Nodes get their addresses when they are added, and share addresses where one is freed before the other is allocated, so a
// graph takes at most the 32 MiB chunks of address space that its nodes touch. A launch reserves them, calls, reads what
// the pool really has (20 ns), gives back the rest. Where the slice is nearly full, what is there already is not asked for twice. Graphs
// of one stream share what they free; graphs of several streams may run at once; what a graph does not free itself is not there for others.
// So a launch makes the pool grow at most by
//   the graph's own chunks + what other graphs keep + the most that each other stream's graphs had - what the pool has,
// whoever frees what, and when: what is kept too long only makes this larger.
//
// Graphs themselves are on the GPU too: their nodes, from the instantiation on.
#include "preload/cuda_graph_memory.h"

#include <errno.h>
#include <sched.h>

#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/private.h"
#include "preload/stream.h"
#include "preload/track.h"

#define CHUNK_BYTES (32ull << 20)
// Measured: 2.7 KiB for each node of a graph of 3000 kernels, 3.3 KiB of one of 100; 2 MiB for 18 graphs of one.
#define NODE_BYTES 4096ull
// Beyond any GPU; keeps sums from wrapping.
#define MOST_CHUNKS (1ull << 24)
enum { DEEPEST = 16, STREAMS = 16 };

// A device's pool. All zero: nothing charged, and what a forked child finds. What follows the charge is the lock's.
struct pool {
	_Atomic int lock; // for reading the driver's figure and settling the charge as one step
	_Atomic uint64_t charged_bytes;
	uint64_t kept_bytes;      // that graphs launched so far may have left allocated, each counted once in an era
	uint64_t elsewhere_bytes; // the most that graphs had in streams not listed any more
	uint32_t era;             // ends when the driver has less than kept_bytes: it is not known whose is gone
	uint32_t under_way;       // launches
	uint32_t relying;         // those that were not granted all their chunks, since the pool has some
	struct {
		uint64_t stream, most_bytes; // what graphs launched in this stream have had
	} had[STREAMS];
};

static struct softmig_private private_pools;
// Executable graphs with memory nodes, ever: while there is none, a launch costs nothing.
static _Atomic bool any;

static struct pool *pool_of(const struct softmig_gpu *gpu)
{
	struct pool *pools = softmig_private_get(&private_pools, SOFTMIG_MAX_GPUS * sizeof(*pools));
	return pools == NULL ? NULL : &pools[gpu->ledger];
}

// unknown: the answer where the driver does not say.
static uint64_t reserved_bytes(const struct softmig_gpu *gpu, uint64_t unknown)
{
	CUstreamCaptureMode mode = softmig_stream_relax();
	cuuint64_t value = 0;

	if (!SOFTMIG_HAS(cuDeviceGetGraphMemAttribute) ||
	    DRIVER(cuDeviceGetGraphMemAttribute)(gpu->device, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &value) != CUDA_SUCCESS)
		value = unknown;
	softmig_stream_restore(mode);
	return value;
}

static void lock(struct pool *pool)
{
	while (atomic_exchange_explicit(&pool->lock, 1, memory_order_acquire) != 0)
		sched_yield();
}

static void unlock(struct pool *pool)
{
	atomic_store_explicit(&pool->lock, 0, memory_order_release);
}

// The pool has now_bytes and no more, all of it in use or kept: nothing in it is there for another launch. Under the lock.
static void trimmed(struct pool *pool, uint64_t now_bytes)
{
	for (int i = 0; i < STREAMS && pool->under_way == 0; i++)
		pool->had[i].most_bytes = 0;
	if (pool->kept_bytes > now_bytes) {
		pool->kept_bytes = now_bytes;
		pool->era++;
	}
	pool->elsewhere_bytes = now_bytes - pool->kept_bytes;
}

// Brings the pool's charge to what the driver has; held_bytes are reserved already for its growth. Under the lock.
static void charge(struct softmig_gpu *gpu, struct pool *pool, uint64_t now, uint64_t held_bytes)
{
	uint64_t before = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);

	atomic_store_explicit(&pool->charged_bytes, now, memory_order_relaxed);
	if (now > before + held_bytes) // more than foreseen: the driver holds it, so it is charged, limit or not
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, now - before - held_bytes, 0);
	else
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, before + held_bytes - (now > before ? now : before));
	if (now < before)
		softmig_uncharge_measured(gpu, before - now);
}

static void refresh(struct softmig_gpu *gpu, struct pool *pool, uint64_t held_bytes)
{
	lock(pool);
	charge(gpu, pool, reserved_bytes(gpu, atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed)), held_bytes);
	unlock(pool);
}

// Under the lock, which keeps launches from relying on what is being given back. A launch under way that does is left alone.
void softmig_graph_memory_trim(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL || !SOFTMIG_HAS(cuDeviceGraphMemTrim))
		return;
	lock(pool);
	uint64_t now = reserved_bytes(gpu, atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed));
	if (pool->relying == 0 && now != 0) {
		CUstreamCaptureMode mode = softmig_stream_relax();
		DRIVER(cuDeviceGraphMemTrim)(gpu->device);
		softmig_stream_restore(mode);
		now = reserved_bytes(gpu, now);
		trimmed(pool, now);
	}
	charge(gpu, pool, now, 0);
	unlock(pool);
}

bool softmig_graph_memory_changed(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL)
		return false;
	uint64_t before = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);
	refresh(gpu, pool, 0);
	return atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed) != before;
}

void softmig_graph_memory_forget(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL)
		return;
	lock(pool);
	trimmed(pool, 0);
	charge(gpu, pool, 0, 0);
	unlock(pool);
}

CUresult hook_cuDeviceGraphMemTrim(CUdevice device)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(device);
	struct pool *pool = gpu != NULL && atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL)
		return DRIVER(cuDeviceGraphMemTrim)(device);
	softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuDeviceGraphMemTrim)(device);
	lock(pool);
	uint64_t now = reserved_bytes(gpu, atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed));
	if (result == CUDA_SUCCESS)
		trimmed(pool, now);
	charge(gpu, pool, now, 0);
	unlock(pool);
	softmig_gpu_leave(gpu);
	return result;
}

// --- What a graph needs: its memory nodes' addresses in chunks.

// An allocation, or (gpu NULL) the end of one.
struct span {
	uint64_t pointer, end; // end: behind its last byte
	struct softmig_gpu *gpu;
	bool kept; // not freed by the graph itself
};

struct spans {
	struct span *at; // scratch memory
	size_t count, room;
	size_t frees; // of these
	size_t nodes; // of all kinds
	bool failed;
};

static void add_span(struct spans *spans, const struct span *span)
{
	if (spans->count == spans->room) {
		size_t room = spans->room == 0 ? 128 : spans->room * 2;
		struct span *more = softmig_scratch_get(room * sizeof(*more));
		if (more == NULL) {
			spans->failed = true;
			return;
		}
		for (size_t i = 0; i < spans->count; i++)
			more[i] = spans->at[i];
		softmig_scratch_free(spans->at, spans->room * sizeof(*more));
		spans->at = more;
		spans->room = room;
	}
	spans->at[spans->count++] = *span;
	spans->frees += span->gpu == NULL;
}

static void add_allocation(struct spans *spans, CUgraphNode node)
{
	CUDA_MEM_ALLOC_NODE_PARAMS params;

	if (!SOFTMIG_HAS(cuGraphMemAllocNodeGetParams) || DRIVER(cuGraphMemAllocNodeGetParams)(node, &params) != CUDA_SUCCESS)
		return;
	const CUmemLocation *location = &params.poolProps.location;
	struct softmig_gpu *gpu = location->type == CU_MEM_LOCATION_TYPE_DEVICE ? softmig_gpu_of_device(location->id) : NULL;
	if (gpu == NULL || params.bytesize == 0)
		return;
	uint64_t end = params.bytesize > UINT64_MAX - params.dptr ? UINT64_MAX : params.dptr + params.bytesize;
	add_span(spans, &(struct span){params.dptr, end, gpu, true});
}

static void add_free(struct spans *spans, CUgraphNode node)
{
	CUdeviceptr pointer;

	if (SOFTMIG_HAS(cuGraphMemFreeNodeGetParams) && DRIVER(cuGraphMemFreeNodeGetParams)(node, &pointer) == CUDA_SUCCESS)
		add_span(spans, &(struct span){pointer, pointer, NULL, false});
}

// Child graphs may have memory nodes since CUDA 12.9, bodies of conditional nodes may not (they hold kernels, copies, fills, child
// graphs and conditionals alone).
static void walk(struct spans *spans, CUgraph graph, int depth)
{
	size_t count = 0;

	if (depth == DEEPEST || DRIVER(cuGraphGetNodes)(graph, NULL, &count) != CUDA_SUCCESS || count == 0)
		return;
	CUgraphNode *nodes = softmig_scratch_get(count * sizeof(CUgraphNode));
	if (nodes == NULL) {
		spans->failed = true;
		return;
	}
	size_t got = count;
	if (DRIVER(cuGraphGetNodes)(graph, nodes, &got) != CUDA_SUCCESS)
		got = 0;
	spans->nodes += got;
	for (size_t i = 0; i < got && i < count; i++) {
		CUgraphNodeType type;
		CUgraph child;
		if (DRIVER(cuGraphNodeGetType)(nodes[i], &type) != CUDA_SUCCESS)
			continue;
		if (type == CU_GRAPH_NODE_TYPE_MEM_ALLOC)
			add_allocation(spans, nodes[i]);
		else if (type == CU_GRAPH_NODE_TYPE_MEM_FREE)
			add_free(spans, nodes[i]);
		else if (type == CU_GRAPH_NODE_TYPE_GRAPH && DRIVER(cuGraphChildGraphNodeGetGraph)(nodes[i], &child) == CUDA_SUCCESS)
			walk(spans, child, depth + 1);
	}
	softmig_scratch_free(nodes, count * sizeof(CUgraphNode));
}

static bool before(const struct span *a, const struct span *b)
{
	return a->gpu != b->gpu ? a->gpu < b->gpu : a->pointer < b->pointer;
}

// Heap sort: in place, n log n whatever comes.
static void sift(struct span *at, size_t from, size_t count)
{
	for (size_t child = 2 * from + 1; child < count; from = child, child = 2 * from + 1) {
		if (child + 1 < count && before(&at[child], &at[child + 1]))
			child++;
		if (!before(&at[from], &at[child]))
			return;
		struct span moved = at[from];
		at[from] = at[child];
		at[child] = moved;
	}
}

static void sort(struct span *at, size_t count)
{
	for (size_t i = count / 2; i-- > 0;)
		sift(at, i, count);
	while (count-- > 1) {
		struct span moved = at[0];
		at[0] = at[count];
		at[count] = moved;
		sift(at, 0, count);
	}
}

// Which allocations (of one GPU) the graph frees itself. Both are in the order of pointers; an address that two allocations have one after the
// other is freed twice.
static void match(struct span *allocations, size_t count, const struct span *frees, size_t free_count)
{
	size_t at = 0;
	for (size_t i = 0; i < count; i++) {
		while (at < free_count && frees[at].pointer < allocations[i].pointer)
			at++;
		if (at < free_count && frees[at].pointer == allocations[i].pointer) {
			allocations[i].kept = false;
			at++;
		}
	}
}

// The chunks that allocations (of one GPU, in order) touch, those that are kept or all; at most what the pool may be charged in total.
static uint64_t chunk_bytes(const struct span *allocations, size_t count, bool kept_only)
{
	uint64_t chunks = 0, upto = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t from = allocations[i].pointer / CHUNK_BYTES, end = (allocations[i].end - 1) / CHUNK_BYTES + 1;
		if (kept_only && !allocations[i].kept)
			continue;
		from = from < upto ? upto : from;
		chunks += end > from ? end - from : 0;
		upto = end > upto ? end : upto;
	}
	return chunks > MOST_CHUNKS ? MOST_CHUNKS * CHUNK_BYTES : chunks * CHUNK_BYTES;
}

// --- Executable graphs. GRAPH entries, one per GPU that a graph has memory on, in a chain: the first has the graph's own key,
// count is the GPU of the next one, plus 1. bytes: what a launch may take; more: see below.

// What a graph keeps, in chunks, and the era in which that was counted, plus 1.
static uint64_t kept_bytes_of(const struct softmig_track_entry *graph)
{
	return (graph->more >> 32) * CHUNK_BYTES;
}

static bool is_counted(const struct softmig_track_entry *graph, const struct pool *pool)
{
	return (uint32_t)graph->more == pool->era + 1;
}

static uint64_t key_of(CUgraphExec exec, int gpu)
{
	return (uint64_t)(uintptr_t)exec ^ (uint64_t)(gpu + 1) << 56;
}

// -1: it has memory on no other.
static int next_gpu(const struct softmig_track_entry *graph)
{
	return (int)graph->count - 1;
}

// Takes its entries out. Returns how many there were.
static int take_exec(CUgraphExec exec, struct softmig_track_entry entries[SOFTMIG_MAX_GPUS])
{
	uint64_t key = (uint64_t)(uintptr_t)exec;
	int count = 0;

	while (atomic_load(&any) && count < SOFTMIG_MAX_GPUS && softmig_track_remove(SOFTMIG_TRACK_GRAPH, key, &entries[count]) &&
	       next_gpu(&entries[count++]) >= 0)
		key = key_of(exec, next_gpu(&entries[count - 1]));
	return count;
}

// Records an executable graph, walked before, and ends with the spans. False: no memory to record it in.
static bool note_exec(CUgraphExec exec, struct spans *spans)
{
	struct softmig_track_entry next = {0}, former[SOFTMIG_MAX_GPUS];
	bool noted = true;

	take_exec(exec, former);
	sort(spans->at, spans->count);
	for (size_t i = spans->count; i > spans->frees && noted;) {
		// From the back, GPU by GPU; the one that ends up last is the chain's head.
		struct softmig_gpu *gpu = spans->at[i - 1].gpu;
		size_t first = i;
		while (first > spans->frees && spans->at[first - 1].gpu == gpu)
			first--;
		struct span *own = &spans->at[first];
		match(own, i - first, spans->at, spans->frees);
		struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_GRAPH,
		                                    .key = first == spans->frees ? (uint64_t)(uintptr_t)exec : key_of(exec, gpu->ledger),
		                                    .bytes = chunk_bytes(own, i - first, false),
		                                    .more = chunk_bytes(own, i - first, true) / CHUNK_BYTES << 32,
		                                    .count = next.kind == SOFTMIG_TRACK_FREE ? 0 : (uint32_t)next.gpu + 1,
		                                    .gpu = (uint8_t)gpu->ledger};
		noted = softmig_track_add(&entry);
		next = entry;
		i = first;
	}
	noted &= !spans->failed;
	if (spans->count > spans->frees)
		atomic_store(&any, true);
	softmig_scratch_free(spans->at, spans->room * sizeof(*spans->at));
	return noted;
}

// The three moves of an instantiation. Afterwards its memory nodes are known.
struct making {
	struct spans spans;
	struct softmig_unasked unasked;
};

static bool make_begin(struct making *making, CUgraph graph)
{
	*making = (struct making){0};
	walk(&making->spans, graph, 0);
	uint64_t most_bytes = SOFTMIG_GRANULE_BYTES + softmig_granules(making->spans.nodes * NODE_BYTES);
	if (softmig_unasked_begin(&making->unasked, softmig_gpu_current(), most_bytes, "graph"))
		return true;
	softmig_scratch_free(making->spans.at, making->spans.room * sizeof(*making->spans.at));
	return false;
}

static CUresult make_end(struct making *making, CUresult result, const CUgraphExec *exec)
{
	struct softmig_gpu *gpu = making->unasked.gpu;

	softmig_unasked_end(&making->unasked);
	if (result != CUDA_SUCCESS) {
		softmig_scratch_free(making->spans.at, making->spans.room * sizeof(*making->spans.at));
		return result;
	}
	if (note_exec(*exec, &making->spans))
		return CUDA_SUCCESS;
	hook_cuGraphExecDestroy(*exec);
	if (gpu != NULL)
		softmig_settle(gpu);
	return CUDA_ERROR_OUT_OF_MEMORY;
}

#define MAKE(exec, graph, call) \
	do { \
		struct making making; \
		if (!make_begin(&making, (graph))) \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		CUresult result = (call); \
		return make_end(&making, result, (exec)); \
	} while (0)

CUresult hook_cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	MAKE(phGraphExec, hGraph, DRIVER(cuGraphInstantiate)(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
}

CUresult hook_cuGraphInstantiate_v2(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
                                    size_t bufferSize)
{
	MAKE(phGraphExec, hGraph, DRIVER(cuGraphInstantiate_v2)(phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize));
}

CUresult hook_cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
	MAKE(phGraphExec, hGraph, DRIVER(cuGraphInstantiateWithFlags)(phGraphExec, hGraph, flags));
}

static CUresult refused_with_params(CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
	params->hErrNode_out = NULL;
	params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
	return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult make_with_params(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
                                 CUresult (*call)(CUgraphExec *, CUgraph, CUDA_GRAPH_INSTANTIATE_PARAMS *))
{
	struct making making;

	if (params == NULL)
		return call(exec, graph, params);
	if (!make_begin(&making, graph))
		return refused_with_params(params);
	CUresult result = call(exec, graph, params), ended = make_end(&making, result, exec);
	return ended != result ? refused_with_params(params) : result;
}

// May upload the graph as it makes it, and so give it memory: a graph with memory nodes is made without, and uploaded by our own hook.
static CUresult with_params(CUgraphExec *exec, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params,
                            CUresult (*call)(CUgraphExec *, CUgraph, CUDA_GRAPH_INSTANTIATE_PARAMS *),
                            CUresult (*upload)(CUgraphExec, CUstream))
{
	struct spans spans = {0};

	if (params == NULL || !(params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
		return make_with_params(exec, graph, params, call);
	walk(&spans, graph, 0);
	bool has_memory = spans.count > spans.frees;
	softmig_scratch_free(spans.at, spans.room * sizeof(*spans.at));
	if (!has_memory)
		return make_with_params(exec, graph, params, call);
	params->flags &= ~(cuuint64_t)CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
	CUresult result = make_with_params(exec, graph, params, call);
	params->flags |= CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD;
	if (result == CUDA_SUCCESS) {
		result = upload(*exec, params->hUploadStream);
		if (result != CUDA_SUCCESS) {
			hook_cuGraphExecDestroy(*exec);
			params->result_out = CUDA_GRAPH_INSTANTIATE_ERROR;
		}
	}
	return result;
}

CUresult hook_cuGraphInstantiateWithParams(CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return with_params(phGraphExec, hGraph, instantiateParams, DRIVER(cuGraphInstantiateWithParams), hook_cuGraphUpload);
}

CUresult hook_cuGraphInstantiateWithParams_ptsz(CUgraphExec *phGraphExec, CUgraph hGraph,
                                                CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return with_params(phGraphExec, hGraph, instantiateParams, DRIVER(cuGraphInstantiateWithParams_ptsz), hook_cuGraphUpload_ptsz);
}

// Taken out before the driver destroys it, since another thread may be given the same handle at once; put back if it was not destroyed.
CUresult hook_cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	struct softmig_track_entry entries[SOFTMIG_MAX_GPUS];
	int count = take_exec(hGraphExec, entries);
	CUresult result = DRIVER(cuGraphExecDestroy)(hGraphExec);

	for (int i = 0; result != CUDA_SUCCESS && i < count; i++)
		softmig_track_add(&entries[i]);
	return result;
}

// An update leaves nodes' kinds as they are; where memory nodes are among them they are looked at again.
static CUresult updated(CUresult result, CUgraphExec exec, CUgraph graph)
{
	struct softmig_track_entry entry;

	if (result == CUDA_SUCCESS && atomic_load(&any) &&
	    softmig_track_find(SOFTMIG_TRACK_GRAPH, (uint64_t)(uintptr_t)exec, &entry)) {
		struct spans spans = {0};
		walk(&spans, graph, 0);
		note_exec(exec, &spans);
	}
	return result;
}

CUresult hook_cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                                CUgraphExecUpdateResult *updateResult_out)
{
	return updated(DRIVER(cuGraphExecUpdate)(hGraphExec, hGraph, hErrorNode_out, updateResult_out), hGraphExec, hGraph);
}

CUresult hook_cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
	return updated(DRIVER(cuGraphExecUpdate_v2)(hGraphExec, hGraph, resultInfo), hGraphExec, hGraph);
}

// --- Launches.

// What tells streams apart. The per-thread stream is another one in each thread, as errno is.
static uint64_t stream_number(CUstream stream, bool per_thread)
{
	bool thread = stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread);
	return ((thread ? (uint64_t)(uintptr_t)&errno : (uint64_t)(uintptr_t)stream) + 1) * 0x9e3779b97f4a7c15ull;
}

// Lists what a graph needs in its stream, and returns the most that all other streams' graphs had. Under the lock.
static uint64_t note_stream(struct pool *pool, uint64_t stream, uint64_t bytes)
{
	uint64_t others = pool->elsewhere_bytes;
	int own = -1, free_place = -1;

	for (int i = 0; i < STREAMS; i++) {
		if (pool->had[i].most_bytes == 0)
			free_place = i;
		else if (pool->had[i].stream == stream)
			own = i;
		else
			others += pool->had[i].most_bytes;
	}
	if (own < 0) {
		own = free_place >= 0 ? free_place : 0;
		pool->elsewhere_bytes += pool->had[own].most_bytes; // of the one that it takes the place of, which others has already
		pool->had[own].stream = stream;
		pool->had[own].most_bytes = 0;
	}
	if (pool->had[own].most_bytes < bytes)
		pool->had[own].most_bytes = bytes;
	return others;
}

// A launch is under way, and relies on what the pool has. Returns the most that it can make the pool grow by: see above.
static uint64_t begin(struct softmig_track_entry *graph, const struct softmig_gpu *gpu, struct pool *pool, uint64_t stream)
{
	lock(pool);
	uint64_t has = reserved_bytes(gpu, 0), kept = kept_bytes_of(graph);
	uint64_t others = note_stream(pool, stream, graph->bytes) + pool->kept_bytes - (is_counted(graph, pool) ? kept : 0);
	if (kept != 0 && !is_counted(graph, pool)) {
		pool->kept_bytes += kept;
		graph->more = graph->more >> 32 << 32 | (pool->era + 1);
		softmig_track_add(graph);
	}
	pool->under_way++;
	pool->relying++;
	unlock(pool);
	uint64_t needed = graph->bytes + others;
	return needed <= has ? 0 : needed - has < graph->bytes ? needed - has : graph->bytes;
}

static void end(struct pool *pool, uint32_t under_way, uint32_t relying)
{
	lock(pool);
	pool->under_way -= under_way;
	pool->relying -= relying;
	unlock(pool);
}

// Reserves what the launch may make the pool grow by: all that the graph takes, or else what is not there already. False: refused.
static bool ask(struct softmig_track_entry *graph, struct softmig_gpu *gpu, struct pool *pool, uint64_t stream, uint64_t *held_bytes)
{
	uint64_t least = begin(graph, gpu, pool, stream);

	*held_bytes = graph->bytes;
	if (softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, *held_bytes)) {
		end(pool, 0, 1);
		return true;
	}
	*held_bytes = least;
	if (least < graph->bytes && softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, *held_bytes))
		return true;
	end(pool, 1, 1); // so that it can be trimmed
	*held_bytes = graph->bytes;
	if (!softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, *held_bytes, "graph memory"))
		return false;
	begin(graph, gpu, pool, stream);
	end(pool, 0, 1);
	return true;
}

static void tell(const struct softmig_track_entry *graph, struct softmig_gpu *gpu, struct pool *pool, uint64_t held_bytes)
{
	refresh(gpu, pool, held_bytes);
	end(pool, 1, held_bytes < graph->bytes);
}

// A stream is gone, and its handle may be another's. What its graphs had may still be in use.
void softmig_graph_memory_stream_gone(struct softmig_gpu *gpu, CUstream stream)
{
	struct pool *pool = atomic_load_explicit(&any, memory_order_relaxed) ? pool_of(gpu) : NULL;
	uint64_t number = stream_number(stream, false);

	if (pool == NULL)
		return;
	lock(pool);
	for (int i = 0; i < STREAMS; i++) {
		if (pool->had[i].stream == number) {
			pool->elsewhere_bytes += pool->had[i].most_bytes;
			pool->had[i].most_bytes = 0;
		}
	}
	unlock(pool);
}

CUresult softmig_graph_memory_launch(CUgraphExec exec, CUstream stream, bool per_thread, CUresult (*call)(CUgraphExec, CUstream))
{
	struct softmig_track_entry graphs[SOFTMIG_MAX_GPUS];
	uint64_t held_bytes[SOFTMIG_MAX_GPUS], number = stream_number(stream, per_thread), key = (uint64_t)(uintptr_t)exec;
	int count = 0, granted = 0;
	CUresult result = CUDA_SUCCESS;

	if (!atomic_load_explicit(&any, memory_order_relaxed))
		return call(exec, stream);
	while (count < SOFTMIG_MAX_GPUS && softmig_track_find(SOFTMIG_TRACK_GRAPH, key, &graphs[count]))
		if (next_gpu(&graphs[count++]) < 0)
			break;
		else
			key = key_of(exec, next_gpu(&graphs[count - 1]));
	// A launch into a capturing stream becomes part of another graph: memory comes with that one's launch.
	if (count == 0 || softmig_stream_is_capturing(stream, per_thread))
		return call(exec, stream);
	for (; granted < count; granted++) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(graphs[granted].gpu);
		struct pool *pool = pool_of(gpu);
		softmig_settle_if_due(gpu);
		softmig_gpu_enter(gpu);
		if (pool == NULL || !ask(&graphs[granted], gpu, pool, number, &held_bytes[granted])) {
			softmig_gpu_leave(gpu);
			result = CUDA_ERROR_OUT_OF_MEMORY;
			break;
		}
	}
	if (result == CUDA_SUCCESS)
		result = call(exec, stream);
	for (int i = 0; i < granted; i++) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(graphs[i].gpu);
		tell(&graphs[i], gpu, pool_of(gpu), held_bytes[i]);
		softmig_gpu_leave(gpu);
	}
	return result;
}

CUresult hook_cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
	return softmig_graph_memory_launch(hGraph, hStream, false, DRIVER(cuGraphUpload));
}

CUresult hook_cuGraphUpload_ptsz(CUgraphExec hGraphExec, CUstream hStream)
{
	return softmig_graph_memory_launch(hGraphExec, hStream, true, DRIVER(cuGraphUpload_ptsz));
}
