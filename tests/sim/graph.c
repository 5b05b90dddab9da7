// SPDX-License-Identifier: Apache-2.0
// Graphs: making, copying and taking apart; adding nodes of every kind. What a launch does is in graph_launch.c.
#include "graph.h"
#include "pool.h"

#include <stdlib.h>
#include <string.h>

struct CUgraph_st *sim_graph_make(void)
{
	struct CUgraph_st *graph = calloc(1, sizeof(*graph));
	if (graph != NULL)
		graph->magic = SIM_GRAPH;
	return graph;
}

struct CUgraphNode_st *sim_graph_add(
	struct CUgraph_st *graph, CUgraphNodeType type, struct CUgraphNode_st *const *before, size_t count)
{
	struct CUgraphNode_st *node = calloc(1, sizeof(*node));
	struct CUgraphNode_st **list = count > 0 ? malloc(count * sizeof(*list)) : NULL;
	if (node == NULL || (count > 0 && list == NULL)) {
		free(node);
		free(list);
		return NULL;
	}
	node->magic = SIM_NODE;
	node->type = type;
	node->graph = graph;
	node->before = list;
	node->before_count = count;
	if (count > 0)
		memcpy(list, before, count * sizeof(*list));
	if (graph->last != NULL)
		graph->last->next = node;
	else
		graph->first = node;
	graph->last = node;
	graph->count++;
	return node;
}

static struct sim_graph_allocation *allocations;

bool sim_graph_may_free(const struct CUgraph_st *graph, CUdeviceptr address)
{
	for (const struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next)
		if (node->type == CU_GRAPH_NODE_TYPE_MEM_FREE && node->freed == address)
			return false;
	const struct sim_graph_allocation *allocation = allocations;
	while (allocation != NULL && allocation->address != address)
		allocation = allocation->next;
	return allocation != NULL;
}

static void chunk_release(struct sim_graph_chunk *chunk)
{
	if (chunk == NULL || --chunk->references > 0)
		return;
	sim_backing_unmap(&chunk->backing);
	free(chunk);
}

void sim_graph_allocation_release(struct sim_graph_allocation *allocation)
{
	if (allocation == NULL || --allocation->references > 0 || allocation->live)
		return;
	struct sim_graph_allocation **link = &allocations;
	while (*link != allocation)
		link = &(*link)->next;
	*link = allocation->next;
	chunk_release(allocation->chunk);
	free(allocation);
}

static void free_node(struct CUgraphNode_st *node)
{
	sim_graph_allocation_release(node->allocation);
	if (node->child != NULL)
		sim_graph_destroy(node->child);
	free(node->before);
	node->magic = 0;
	free(node);
}

void sim_graph_destroy(struct CUgraph_st *graph)
{
	for (struct CUgraphNode_st *node = graph->first, *next; node != NULL; node = next) {
		next = node->next;
		free_node(node);
	}
	chunk_release(graph->chunk);
	graph->magic = 0;
	free(graph);
}

void sim_graph_node_copy(struct CUgraphNode_st *to, const struct CUgraphNode_st *from)
{
	to->launch = from->launch;
	to->kernel = from->kernel;
	to->copy = from->copy;
	to->fill = from->fill;
	to->task = from->task;
	to->event = from->event;
	to->alloc = from->alloc;
	to->freed = from->freed;
	if (to->allocation != from->allocation) {
		sim_graph_allocation_release(to->allocation);
		to->allocation = from->allocation;
		if (to->allocation != NULL)
			to->allocation->references++;
	}
	if (from->child != NULL) {
		if (to->child != NULL)
			sim_graph_destroy(to->child);
		to->child = sim_graph_copy(from->child);
		if (to->child != NULL)
			to->child->child = true;
	}
}

struct CUgraph_st *sim_graph_copy(const struct CUgraph_st *graph)
{
	struct CUgraph_st *copy = sim_graph_make();
	if (copy == NULL)
		return NULL;
	copy->copy_of = (struct CUgraph_st *)(uintptr_t)graph;
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		struct CUgraphNode_st *made = sim_graph_add(copy, node->type, node->before, node->before_count);
		if (made == NULL) {
			sim_graph_destroy(copy);
			return NULL;
		}
		made->copy_of = node;
		sim_graph_node_copy(made, node);
	}
	// Dependencies still name the original's nodes.
	for (struct CUgraphNode_st *node = copy->first; node != NULL; node = node->next) {
		for (size_t i = 0; i < node->before_count; i++) {
			struct CUgraphNode_st *twin = copy->first;
			while (twin != NULL && twin->copy_of != node->before[i])
				twin = twin->next;
			node->before[i] = twin;
		}
	}
	return copy;
}

static struct sim_graph_chunk *open_chunk(int device, uint64_t bytes)
{
	struct sim_graph_chunk *chunk = calloc(1, sizeof(*chunk));
	if (chunk == NULL)
		return NULL;
	chunk->device = device;
	chunk->references = 1;
	if (!sim_backing_map_aligned(&chunk->backing, sim_round_up(bytes, SIM_POOL_CHUNK), SIM_POOL_CHUNK, true)) {
		free(chunk);
		return NULL;
	}
	return chunk;
}

struct sim_graph_allocation *sim_graph_allocation_make(struct CUgraph_st *graph, int device, uint64_t bytes)
{
	uint64_t size = sim_round_up(bytes, 512);
	struct sim_graph_chunk *chunk = graph->chunk;
	struct sim_graph_allocation *allocation = calloc(1, sizeof(*allocation));
	if (allocation == NULL)
		return NULL;
	if (chunk == NULL || chunk->device != device || chunk->backing.bytes - chunk->filled_bytes < size) {
		chunk = open_chunk(device, size);
		if (chunk == NULL) {
			free(allocation);
			return NULL;
		}
		chunk_release(graph->chunk);
		graph->chunk = chunk;
	}
	allocation->address = chunk->backing.address + chunk->filled_bytes;
	allocation->bytes = bytes;
	allocation->chunk = chunk;
	allocation->references = 1;
	chunk->filled_bytes += size;
	chunk->references++;
	allocation->next = allocations;
	allocations = allocation;
	return allocation;
}

// --- the API: whole graphs

#define GRAPH(graph) \
	SIM_READY(); \
	if ((graph) == NULL || (graph)->magic != SIM_GRAPH) \
		return CUDA_ERROR_INVALID_VALUE
#define NODE(node, its_type) \
	SIM_READY(); \
	if ((node) == NULL || (node)->magic != SIM_NODE || (node)->type != (its_type)) \
		return CUDA_ERROR_INVALID_VALUE

CUresult cuGraphCreate(CUgraph *phGraph, unsigned int flags)
{
	SIM_READY();
	if (phGraph == NULL || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	*phGraph = sim_graph_make();
	return *phGraph != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuGraphDestroy(CUgraph hGraph)
{
	GRAPH(hGraph);
	if (hGraph->child)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	sim_graph_destroy(hGraph);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuGraphClone(CUgraph *phGraphClone, CUgraph originalGraph)
{
	GRAPH(originalGraph);
	if (phGraphClone == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	for (const struct CUgraphNode_st *node = originalGraph->first; node != NULL; node = node->next)
		if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || node->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
			return CUDA_ERROR_NOT_SUPPORTED;
	sim_enter();
	*phGraphClone = sim_graph_copy(originalGraph);
	sim_leave();
	return *phGraphClone != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult give_nodes(struct CUgraph_st *graph, CUgraphNode *nodes, size_t *count, bool roots_only)
{
	size_t room = *count, there = 0;
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		if (roots_only && node->before_count > 0)
			continue;
		if (nodes != NULL && there < room)
			nodes[there] = node;
		there++;
	}
	for (size_t i = there; nodes != NULL && i < room; i++)
		nodes[i] = NULL;
	if (nodes == NULL || there < room)
		*count = there;
	return CUDA_SUCCESS;
}

CUresult cuGraphGetNodes(CUgraph hGraph, CUgraphNode *nodes, size_t *numNodes)
{
	GRAPH(hGraph);
	return numNodes == NULL ? CUDA_ERROR_INVALID_VALUE : give_nodes(hGraph, nodes, numNodes, false);
}

CUresult cuGraphGetRootNodes(CUgraph hGraph, CUgraphNode *rootNodes, size_t *numRootNodes)
{
	GRAPH(hGraph);
	return numRootNodes == NULL ? CUDA_ERROR_INVALID_VALUE : give_nodes(hGraph, rootNodes, numRootNodes, true);
}

static CUresult give_edges(struct CUgraph_st *graph, CUgraphNode *from, CUgraphNode *to, size_t *count)
{
	size_t room = *count, there = 0;
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		for (size_t i = 0; i < node->before_count; i++, there++) {
			if (from == NULL || to == NULL || there >= room)
				continue;
			from[there] = node->before[i];
			to[there] = node;
		}
	}
	if (from == NULL || there < room)
		*count = there;
	return CUDA_SUCCESS;
}

CUresult cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
	GRAPH(hGraph);
	return numEdges == NULL ? CUDA_ERROR_INVALID_VALUE : give_edges(hGraph, from, to, numEdges);
}

CUresult cuGraphGetEdges_v2(
	CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, CUgraphEdgeData *edgeData, size_t *numEdges)
{
	GRAPH(hGraph);
	if (numEdges == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (edgeData != NULL)
		memset(edgeData, 0, *numEdges * sizeof(*edgeData));
	return give_edges(hGraph, from, to, numEdges);
}

static CUresult add_dependencies(struct CUgraph_st *graph, const CUgraphNode *from, const CUgraphNode *to, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		if (from[i] == NULL || to[i] == NULL || from[i]->magic != SIM_NODE || to[i]->magic != SIM_NODE
			|| to[i]->graph != graph)
			return CUDA_ERROR_INVALID_VALUE;
		struct CUgraphNode_st **bigger = realloc(to[i]->before, (to[i]->before_count + 1) * sizeof(*bigger));
		if (bigger == NULL)
			return CUDA_ERROR_OUT_OF_MEMORY;
		to[i]->before = bigger;
		bigger[to[i]->before_count++] = from[i];
	}
	return CUDA_SUCCESS;
}

CUresult cuGraphAddDependencies(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to, size_t numDependencies)
{
	GRAPH(hGraph);
	return add_dependencies(hGraph, from, to, numDependencies);
}

CUresult cuGraphAddDependencies_v2(CUgraph hGraph, const CUgraphNode *from, const CUgraphNode *to,
	const CUgraphEdgeData *edgeData, size_t numDependencies)
{
	GRAPH(hGraph);
	(void)edgeData;
	return add_dependencies(hGraph, from, to, numDependencies);
}

CUresult cuGraphDestroyNode(CUgraphNode hNode)
{
	SIM_READY();
	if (hNode == NULL || hNode->magic != SIM_NODE)
		return CUDA_ERROR_INVALID_VALUE;
	if (hNode->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || hNode->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
		return CUDA_ERROR_NOT_SUPPORTED;
	struct CUgraph_st *graph = hNode->graph;
	sim_enter();
	struct CUgraphNode_st **link = &graph->first, *last = NULL;
	for (; *link != NULL; link = &(*link)->next) {
		if (*link == hNode) {
			*link = hNode->next;
			break;
		}
	}
	graph->count--;
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		last = node;
		size_t kept = 0;
		for (size_t i = 0; i < node->before_count; i++)
			if (node->before[i] != hNode)
				node->before[kept++] = node->before[i];
		node->before_count = kept;
	}
	graph->last = last;
	free_node(hNode);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetType(CUgraphNode hNode, CUgraphNodeType *type)
{
	SIM_READY();
	if (hNode == NULL || hNode->magic != SIM_NODE || type == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*type = hNode->type;
	return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetDependencies(CUgraphNode hNode, CUgraphNode *dependencies, size_t *numDependencies)
{
	SIM_READY();
	if (hNode == NULL || hNode->magic != SIM_NODE || numDependencies == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; dependencies != NULL && i < *numDependencies; i++)
		dependencies[i] = i < hNode->before_count ? hNode->before[i] : NULL;
	if (dependencies == NULL || hNode->before_count < *numDependencies)
		*numDependencies = hNode->before_count;
	return CUDA_SUCCESS;
}

CUresult cuGraphNodeFindInClone(CUgraphNode *phNode, CUgraphNode hOriginalNode, CUgraph hClonedGraph)
{
	GRAPH(hClonedGraph);
	for (struct CUgraphNode_st *node = hClonedGraph->first; phNode != NULL && node != NULL; node = node->next) {
		if (node->copy_of == hOriginalNode) {
			*phNode = node;
			return CUDA_SUCCESS;
		}
	}
	return CUDA_ERROR_INVALID_VALUE;
}

// --- the API: nodes

static CUresult add(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const struct CUgraphNode_st *what)
{
	GRAPH(graph);
	if (out == NULL || (count > 0 && before == NULL))
		return CUDA_ERROR_INVALID_VALUE;
	for (size_t i = 0; i < count; i++)
		if (before[i] == NULL || before[i]->magic != SIM_NODE || before[i]->graph != graph)
			return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct CUgraphNode_st *node = sim_graph_add(graph, what->type, before, count);
	if (node != NULL)
		sim_graph_node_copy(node, what);
	sim_leave();
	*out = node;
	return node != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult fill_kernel(struct CUgraphNode_st *node, const CUDA_KERNEL_NODE_PARAMS *params)
{
	CUresult result = CUDA_SUCCESS;
	struct CUctx_st *context = params->ctx != NULL ? params->ctx : sim_context_current(&result);
	if (context == NULL)
		return result;
	node->type = CU_GRAPH_NODE_TYPE_KERNEL;
	node->kernel = *params;
	node->launch = (struct sim_launch){.grid = {params->gridDimX, params->gridDimY, params->gridDimZ},
		.block = {params->blockDimX, params->blockDimY, params->blockDimZ}, .shared_bytes = params->sharedMemBytes};
	return sim_launch_check(
		&node->launch, params->func != NULL ? params->func : (CUfunction)(void *)params->kern, context);
}

static CUDA_KERNEL_NODE_PARAMS from_v1(const CUDA_KERNEL_NODE_PARAMS_v1 *old)
{
	CUDA_KERNEL_NODE_PARAMS params;
	memset(&params, 0, sizeof(params));
	memcpy(&params, old, sizeof(*old)); // the second version begins as the first
	return params;
}

CUresult cuGraphAddKernelNode_v2(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_KERNEL_NODE_PARAMS *params)
{
	SIM_READY();
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_KERNEL};
	CUresult result = params == NULL ? CUDA_ERROR_INVALID_VALUE : fill_kernel(&node, params);
	return result != CUDA_SUCCESS ? result : add(out, graph, before, count, &node);
}

CUresult cuGraphAddKernelNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_KERNEL_NODE_PARAMS_v1 *params)
{
	if (params == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_KERNEL_NODE_PARAMS second = from_v1(params);
	return cuGraphAddKernelNode_v2(out, graph, before, count, &second);
}

CUresult cuGraphKernelNodeGetParams_v2(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
	if (nodeParams == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*nodeParams = hNode->kernel;
	return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeGetParams(CUgraphNode hNode, CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
	if (nodeParams == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	memcpy(nodeParams, &hNode->kernel, sizeof(*nodeParams));
	return CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeSetParams_v2(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
	return nodeParams == NULL ? CUDA_ERROR_INVALID_VALUE : fill_kernel(hNode, nodeParams);
}

CUresult cuGraphKernelNodeSetParams(CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_KERNEL);
	if (nodeParams == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_KERNEL_NODE_PARAMS second = from_v1(nodeParams);
	return fill_kernel(hNode, &second);
}

CUresult cuGraphAddMemcpyNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count,
	const CUDA_MEMCPY3D *copyParams, CUcontext ctx)
{
	(void)ctx;
	SIM_READY();
	CUresult result = copyParams == NULL ? CUDA_ERROR_INVALID_VALUE : sim_copy_3d_check(copyParams);
	if (result != CUDA_SUCCESS)
		return result;
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_MEMCPY, .copy = *copyParams};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphMemcpyNodeGetParams(CUgraphNode hNode, CUDA_MEMCPY3D *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_MEMCPY);
	*nodeParams = hNode->copy;
	return CUDA_SUCCESS;
}

CUresult cuGraphAddMemsetNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count,
	const CUDA_MEMSET_NODE_PARAMS *memsetParams, CUcontext ctx)
{
	(void)ctx;
	SIM_READY();
	if (memsetParams == NULL
		|| (memsetParams->elementSize != 1 && memsetParams->elementSize != 2 && memsetParams->elementSize != 4))
		return CUDA_ERROR_INVALID_VALUE;
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_MEMSET, .fill = *memsetParams};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphMemsetNodeGetParams(CUgraphNode hNode, CUDA_MEMSET_NODE_PARAMS *nodeParams)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_MEMSET);
	*nodeParams = hNode->fill;
	return CUDA_SUCCESS;
}

CUresult cuGraphAddHostNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, const CUDA_HOST_NODE_PARAMS *nodeParams)
{
	if (nodeParams == NULL || nodeParams->fn == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	struct CUgraphNode_st node = {
		.type = CU_GRAPH_NODE_TYPE_HOST, .task = {.function = nodeParams->fn, .data = nodeParams->userData}};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphAddEmptyNode(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count)
{
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_EMPTY};
	return add(out, graph, before, count, &node);
}

static CUresult add_event(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUevent event, CUgraphNodeType type)
{
	if (event == NULL || !event->alive)
		return CUDA_ERROR_INVALID_VALUE;
	struct CUgraphNode_st node = {.type = type, .event = event};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphAddEventRecordNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUevent event)
{
	return add_event(out, graph, before, count, event, CU_GRAPH_NODE_TYPE_EVENT_RECORD);
}

CUresult cuGraphAddEventWaitNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUevent event)
{
	return add_event(out, graph, before, count, event, CU_GRAPH_NODE_TYPE_WAIT_EVENT);
}

CUresult cuGraphAddChildGraphNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUgraph childGraph)
{
	GRAPH(childGraph);
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_GRAPH, .child = childGraph};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphChildGraphNodeGetGraph(CUgraphNode hNode, CUgraph *phGraph)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_GRAPH);
	*phGraph = hNode->child;
	return CUDA_SUCCESS;
}

CUresult cuGraphAddMemAllocNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUDA_MEM_ALLOC_NODE_PARAMS *nodeParams)
{
	GRAPH(graph);
	if (nodeParams == NULL || nodeParams->bytesize == 0
		|| nodeParams->poolProps.allocType != CU_MEM_ALLOCATION_TYPE_PINNED
		|| nodeParams->poolProps.location.type != CU_MEM_LOCATION_TYPE_DEVICE)
		return CUDA_ERROR_INVALID_VALUE;
	int device = nodeParams->poolProps.location.id;
	if (device < 0 || device >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	sim_enter();
	struct sim_graph_allocation *allocation = sim_graph_allocation_make(graph, device, nodeParams->bytesize);
	sim_leave();
	if (allocation == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	nodeParams->dptr = allocation->address;
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_MEM_ALLOC, .allocation = allocation, .alloc = *nodeParams};
	CUresult result = add(out, graph, before, count, &node);
	sim_enter();
	sim_graph_allocation_release(allocation); // the node has its own reference
	sim_leave();
	return result;
}

CUresult cuGraphMemAllocNodeGetParams(CUgraphNode hNode, CUDA_MEM_ALLOC_NODE_PARAMS *params_out)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_MEM_ALLOC);
	*params_out = hNode->alloc;
	return CUDA_SUCCESS;
}

CUresult cuGraphAddMemFreeNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUdeviceptr dptr)
{
	GRAPH(graph);
	sim_enter();
	bool may = sim_graph_may_free(graph, dptr);
	sim_leave();
	if (!may)
		return CUDA_ERROR_INVALID_VALUE;
	struct CUgraphNode_st node = {.type = CU_GRAPH_NODE_TYPE_MEM_FREE, .freed = dptr};
	return add(out, graph, before, count, &node);
}

CUresult cuGraphMemFreeNodeGetParams(CUgraphNode hNode, CUdeviceptr *dptr_out)
{
	NODE(hNode, CU_GRAPH_NODE_TYPE_MEM_FREE);
	*dptr_out = hNode->freed;
	return CUDA_SUCCESS;
}

// One call for all kinds.
static CUresult add_any(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUgraphNodeParams *params)
{
	if (params == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	switch ((int)params->type) {
	case CU_GRAPH_NODE_TYPE_KERNEL: {
		CUDA_KERNEL_NODE_PARAMS kernel;
		memcpy(&kernel, &params->kernel, sizeof(kernel));
		return cuGraphAddKernelNode_v2(out, graph, before, count, &kernel);
	}
	case CU_GRAPH_NODE_TYPE_MEMCPY:
		return cuGraphAddMemcpyNode(out, graph, before, count, &params->memcpy.copyParams, params->memcpy.copyCtx);
	case CU_GRAPH_NODE_TYPE_MEMSET: {
		CUDA_MEMSET_NODE_PARAMS fill;
		memcpy(&fill, &params->memset, sizeof(fill));
		return cuGraphAddMemsetNode(out, graph, before, count, &fill, params->memset.ctx);
	}
	case CU_GRAPH_NODE_TYPE_HOST: {
		CUDA_HOST_NODE_PARAMS host = {.fn = params->host.fn, .userData = params->host.userData};
		return cuGraphAddHostNode(out, graph, before, count, &host);
	}
	case CU_GRAPH_NODE_TYPE_GRAPH: return cuGraphAddChildGraphNode(out, graph, before, count, params->graph.graph);
	case CU_GRAPH_NODE_TYPE_EMPTY: return cuGraphAddEmptyNode(out, graph, before, count);
	case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
		return cuGraphAddEventWaitNode(out, graph, before, count, params->eventWait.event);
	case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
		return cuGraphAddEventRecordNode(out, graph, before, count, params->eventRecord.event);
	case CU_GRAPH_NODE_TYPE_MEM_ALLOC: {
		CUDA_MEM_ALLOC_NODE_PARAMS alloc;
		memcpy(&alloc, &params->alloc, sizeof(alloc));
		CUresult result = cuGraphAddMemAllocNode(out, graph, before, count, &alloc);
		params->alloc.dptr = alloc.dptr;
		return result;
	}
	case CU_GRAPH_NODE_TYPE_MEM_FREE: return cuGraphAddMemFreeNode(out, graph, before, count, params->free.dptr);
	default: return CUDA_ERROR_NOT_SUPPORTED; // semaphores, conditionals, batched value operations
	}
}

CUresult cuGraphAddNode(
	CUgraphNode *out, CUgraph graph, const CUgraphNode *before, size_t count, CUgraphNodeParams *params)
{
	return add_any(out, graph, before, count, params);
}

CUresult cuGraphAddNode_v2(CUgraphNode *out, CUgraph graph, const CUgraphNode *before, const CUgraphEdgeData *edges,
	size_t count, CUgraphNodeParams *params)
{
	(void)edges;
	return add_any(out, graph, before, count, params);
}
