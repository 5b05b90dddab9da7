// SPDX-License-Identifier: Apache-2.0
// What a graph needs for its memory nodes: see graph_need.h. Nodes get their addresses when they are added, and share addresses where one is
// freed before the other is allocated, so a graph takes at most the chunks of address space that its nodes touch.
#include "preload/graph_need.h"

#include "preload/hook.h"
#include "preload/private.h"

// Beyond any GPU; keeps sums from wrapping.
#define MOST_CHUNKS (1ull << 24)
enum { DEEPEST = 16 };

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
	size_t nodes; // of the graph, of all kinds
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

// The chunks that allocations (of one GPU, in order) touch, those that are kept or all.
static uint64_t chunk_bytes(const struct span *allocations, size_t count, bool kept_only)
{
	uint64_t chunks = 0, upto = 0;
	for (size_t i = 0; i < count; i++) {
		uint64_t from = allocations[i].pointer / SOFTMIG_GRAPH_CHUNK_BYTES, end = (allocations[i].end - 1) / SOFTMIG_GRAPH_CHUNK_BYTES + 1;
		if (kept_only && !allocations[i].kept)
			continue;
		from = from < upto ? upto : from;
		chunks += end > from ? end - from : 0;
		upto = end > upto ? end : upto;
	}
	return (chunks > MOST_CHUNKS ? MOST_CHUNKS : chunks) * SOFTMIG_GRAPH_CHUNK_BYTES;
}

bool softmig_graph_need(CUgraph graph, struct softmig_graph_need *need)
{
	struct spans spans = {0};

	*need = (struct softmig_graph_need){0};
	walk(&spans, graph, 0);
	need->nodes = spans.nodes;
	sort(spans.at, spans.count);
	for (size_t first = spans.frees, end; first < spans.count && need->gpus < SOFTMIG_MAX_GPUS; first = end) {
		struct softmig_gpu *gpu = spans.at[first].gpu;
		for (end = first; end < spans.count && spans.at[end].gpu == gpu;)
			end++;
		match(&spans.at[first], end - first, spans.at, spans.frees);
		need->on[need->gpus].gpu = gpu;
		need->on[need->gpus].bytes = chunk_bytes(&spans.at[first], end - first, false);
		need->on[need->gpus++].kept_bytes = chunk_bytes(&spans.at[first], end - first, true);
	}
	softmig_scratch_free(spans.at, spans.room * sizeof(*spans.at));
	return !spans.failed;
}
