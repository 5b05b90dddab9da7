// SPDX-License-Identifier: Apache-2.0
// Executable graphs: instantiating, updating, launching, and the memory that their allocation nodes hold on a device.
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "pool.h"

// --- graph memory: the device's graph pool counts; an allocation has its address for ever and its memory while it is
// live

static CUresult make_live(struct sim_graph_allocation *allocation)
{
	struct sim_graph_chunk *chunk = allocation->chunk;
	struct CUmemPoolHandle_st *pool = sim_pool_graph(chunk->device);
	if (pool == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	if (allocation->live)
		return CUDA_ERROR_INVALID_VALUE; // launched again without having been freed
	uint64_t mapped = pool->mapped_bytes + (chunk->live == 0 ? chunk->backing.bytes : 0);
	if (mapped > pool->reserved_bytes) {
		CUresult result = sim_gpu_charge(pool->gpu, pool->device, mapped - pool->reserved_bytes);
		if (result != CUDA_SUCCESS)
			return result;
		pool->reserved_bytes = mapped;
	}
	struct sim_range *range = sim_range_add(allocation->address, allocation->bytes, SIM_RANGE_GRAPH);
	if (range == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	range->device = chunk->device;
	range->owner = allocation;
	pool->mapped_bytes = mapped;
	chunk->live++;
	pool->used_bytes += allocation->bytes;
	pool->used_high_bytes = pool->used_bytes > pool->used_high_bytes ? pool->used_bytes : pool->used_high_bytes;
	pool->reserved_high_bytes =
		pool->reserved_bytes > pool->reserved_high_bytes ? pool->reserved_bytes : pool->reserved_high_bytes;
	allocation->live = true;
	allocation->references++;
	return CUDA_SUCCESS;
}

CUresult sim_graph_free_allocation(struct sim_range *range, struct CUstream_st *stream)
{
	(void)stream;
	struct sim_graph_allocation *allocation = range->owner;
	struct CUmemPoolHandle_st *pool = sim_pool_graph(allocation->chunk->device);
	pool->used_bytes -= allocation->bytes;
	if (--allocation->chunk->live == 0)
		pool->mapped_bytes -= allocation->chunk->backing.bytes;
	allocation->live = false;
	sim_range_remove(range);
	sim_graph_allocation_release(allocation);
	return CUDA_SUCCESS;
}

static CUresult free_address(CUdeviceptr address)
{
	struct sim_range *range = sim_range_find(address);
	if (range == NULL || range->base != address)
		return CUDA_ERROR_INVALID_VALUE;
	if (range->kind == SIM_RANGE_GRAPH)
		return sim_graph_free_allocation(range, NULL);
	if (range->kind != SIM_RANGE_POOL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_pool_put(range->owner, address, NULL);
	sim_range_remove(range);
	return CUDA_SUCCESS;
}

#define ORDINAL(ordinal) \
	SIM_READY(); \
	if ((ordinal) < 0 || (ordinal) >= sim_device_count) \
		return CUDA_ERROR_INVALID_DEVICE

// Whether it is unsafe during a capture, like cuMemPoolGetAttribute, is not documented and was not measured: here it is, so that nothing
// depends on it.
CUresult cuDeviceGetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
	ORDINAL(device);
	if (value == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult forbidden = sim_capture_forbid(NULL);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	sim_enter();
	const struct CUmemPoolHandle_st *pool = sim_pool_graph(device);
	CUresult result = pool != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	if (pool != NULL) {
		switch ((int)attr) {
		case CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT: *(uint64_t *)value = pool->used_bytes; break;
		case CU_GRAPH_MEM_ATTR_USED_MEM_HIGH: *(uint64_t *)value = pool->used_high_bytes; break;
		case CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT: *(uint64_t *)value = pool->reserved_bytes; break;
		case CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH: *(uint64_t *)value = pool->reserved_high_bytes; break;
		default: result = CUDA_ERROR_INVALID_VALUE;
		}
	}
	sim_leave();
	return result;
}

CUresult cuDeviceSetGraphMemAttribute(CUdevice device, CUgraphMem_attribute attr, void *value)
{
	ORDINAL(device);
	if (value == NULL || *(uint64_t *)value != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct CUmemPoolHandle_st *pool = sim_pool_graph(device);
	CUresult result = CUDA_SUCCESS;
	if (pool == NULL)
		result = CUDA_ERROR_OUT_OF_MEMORY;
	else if (attr == CU_GRAPH_MEM_ATTR_USED_MEM_HIGH)
		pool->used_high_bytes = pool->used_bytes;
	else if (attr == CU_GRAPH_MEM_ATTR_RESERVED_MEM_HIGH)
		pool->reserved_high_bytes = pool->reserved_bytes;
	else
		result = CUDA_ERROR_INVALID_VALUE;
	sim_leave();
	return result;
}

CUresult cuDeviceGraphMemTrim(CUdevice device)
{
	ORDINAL(device);
	CUresult forbidden = sim_capture_forbid(NULL); // as cuMemPoolTrimTo
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	struct CUctx_st *context = sim_context_of_device(device);
	if (context != NULL)
		sim_stream_wait_idle(context, -1); // what a running graph uses is not idle
	sim_enter();
	struct CUmemPoolHandle_st *pool = sim_pool_graph(device);
	uint64_t kept = pool == NULL ? 0 : pool->mapped_bytes;
	if (pool != NULL && pool->reserved_bytes > kept) {
		sim_gpu_uncharge(pool->gpu, pool->reserved_bytes - kept);
		pool->reserved_bytes = kept;
	}
	sim_leave();
	return CUDA_SUCCESS;
}

// --- instantiating

static struct CUgraphExec_st *execs;

// What an executable graph takes for itself in the current context, if there is one. sim_enter held.
static CUresult take_own(struct CUgraphExec_st *exec)
{
	CUresult result = CUDA_SUCCESS;
	exec->context = sim_context_current(&result);
	if (exec->context == NULL)
		return CUDA_SUCCESS;
	exec->bytes = SIM_EXEC_BYTES + exec->graph->count * SIM_NODE_BYTES;
	if (exec->bytes <= SIM_SMALL_BYTES)
		return sim_small_alloc(exec->context, &exec->context->code, exec->bytes, &exec->block, &exec->address);
	return sim_context_charge(exec->context, sim_round_up(exec->bytes, SIM_GRANULE));
}

static void give_own(struct CUgraphExec_st *exec)
{
	if (exec->context == NULL)
		return;
	if (exec->block != NULL)
		sim_small_free(exec->context, &exec->context->code, exec->block, exec->address, exec->bytes);
	else
		sim_context_uncharge(exec->context, sim_round_up(exec->bytes, SIM_GRANULE));
}

void sim_graph_drop_context(struct CUctx_st *context)
{
	for (struct CUgraphExec_st *exec = execs; exec != NULL; exec = exec->next) {
		if (exec->context == context) {
			give_own(exec);
			exec->context = NULL;
		}
	}
}

static CUresult instantiate(CUgraphExec *out, CUgraph graph, uint64_t flags)
{
	SIM_READY();
	const uint64_t known = CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH | CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD
		| CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
	if (out == NULL || graph == NULL || graph->magic != SIM_GRAPH)
		return CUDA_ERROR_INVALID_VALUE;
	if ((flags & ~known) != 0)
		return flags == CUDA_GRAPH_INSTANTIATE_FLAG_DEVICE_LAUNCH ? CUDA_ERROR_NOT_SUPPORTED : CUDA_ERROR_INVALID_VALUE;
	struct CUgraphExec_st *exec = calloc(1, sizeof(*exec));
	if (exec == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	exec->graph = sim_graph_copy(graph);
	if (exec->graph == NULL || take_own(exec) != CUDA_SUCCESS) {
		if (exec->graph != NULL)
			sim_graph_destroy(exec->graph);
		free(exec);
		sim_leave();
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	exec->next = execs;
	execs = exec;
	sim_leave();
	exec->magic = SIM_EXEC;
	exec->flags = flags;
	*out = exec;
	return CUDA_SUCCESS;
}

CUresult cuGraphInstantiate(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	(void)phErrorNode, (void)logBuffer, (void)bufferSize;
	return instantiate(phGraphExec, hGraph, 0);
}

CUresult cuGraphInstantiate_v2(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer, size_t bufferSize)
{
	(void)phErrorNode, (void)logBuffer, (void)bufferSize;
	return instantiate(phGraphExec, hGraph, 0);
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags)
{
	return instantiate(phGraphExec, hGraph, flags);
}

static CUresult instantiate_params(CUgraphExec *out, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params)
{
	if (params == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = instantiate(out, graph, params->flags);
	params->hErrNode_out = NULL;
	params->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
	return result;
}

CUresult cuGraphInstantiateWithParams(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return instantiate_params(phGraphExec, hGraph, instantiateParams);
}

CUresult cuGraphInstantiateWithParams_ptsz(
	CUgraphExec *phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams)
{
	return instantiate_params(phGraphExec, hGraph, instantiateParams);
}

#define EXEC(exec) \
	SIM_READY(); \
	if ((exec) == NULL || (exec)->magic != SIM_EXEC) \
		return CUDA_ERROR_INVALID_VALUE

// Unsafe during a capture: PyTorch does it in relaxed mode, since it may come about in the midst of another graph's capture.
CUresult cuGraphExecDestroy(CUgraphExec hGraphExec)
{
	EXEC(hGraphExec);
	CUresult forbidden = sim_capture_forbid(NULL);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	sim_enter();
	struct CUgraphExec_st **link = &execs;
	while (*link != hGraphExec)
		link = &(*link)->next;
	*link = hGraphExec->next;
	give_own(hGraphExec);
	sim_graph_destroy(hGraphExec->graph);
	hGraphExec->magic = 0;
	free(hGraphExec);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuGraphExecGetFlags(CUgraphExec hGraphExec, cuuint64_t *flags)
{
	EXEC(hGraphExec);
	if (flags == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = hGraphExec->flags;
	return CUDA_SUCCESS;
}

static CUgraphExecUpdateResult update(struct CUgraph_st *to, const struct CUgraph_st *from, CUgraphNode *offender)
{
	if (to->count != from->count)
		return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
	struct CUgraphNode_st *mine = to->first;
	for (struct CUgraphNode_st *theirs = from->first; theirs != NULL; theirs = theirs->next, mine = mine->next) {
		*offender = theirs;
		if (mine->type != theirs->type)
			return CU_GRAPH_EXEC_UPDATE_ERROR_NODE_TYPE_CHANGED;
		if (mine->before_count != theirs->before_count)
			return CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
		if (mine->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC || mine->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
			return CU_GRAPH_EXEC_UPDATE_ERROR_NOT_SUPPORTED;
	}
	*offender = NULL;
	mine = to->first;
	for (struct CUgraphNode_st *theirs = from->first; theirs != NULL; theirs = theirs->next, mine = mine->next)
		sim_graph_node_copy(mine, theirs);
	return CU_GRAPH_EXEC_UPDATE_SUCCESS;
}

CUresult cuGraphExecUpdate_v2(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphExecUpdateResultInfo *resultInfo)
{
	EXEC(hGraphExec);
	if (hGraph == NULL || hGraph->magic != SIM_GRAPH || resultInfo == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	memset(resultInfo, 0, sizeof(*resultInfo));
	sim_enter();
	resultInfo->result = update(hGraphExec->graph, hGraph, &resultInfo->errorNode);
	sim_leave();
	return resultInfo->result == CU_GRAPH_EXEC_UPDATE_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE;
}

CUresult cuGraphExecUpdate(
	CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out, CUgraphExecUpdateResult *updateResult_out)
{
	CUgraphExecUpdateResultInfo info = {0};
	CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);
	if (hErrorNode_out != NULL)
		*hErrorNode_out = info.errorNode;
	if (updateResult_out != NULL)
		*updateResult_out = info.result;
	return result;
}

static struct CUgraphNode_st *twin_of(struct CUgraphExec_st *exec, CUgraphNode original)
{
	struct CUgraphNode_st *node = exec->graph->first;
	while (node != NULL && node->copy_of != original)
		node = node->next;
	return node;
}

CUresult cuGraphExecKernelNodeSetParams_v2(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS *nodeParams)
{
	EXEC(hGraphExec);
	struct CUgraphNode_st *node = twin_of(hGraphExec, hNode);
	return node == NULL ? CUDA_ERROR_INVALID_VALUE : cuGraphKernelNodeSetParams_v2(node, nodeParams);
}

CUresult cuGraphExecKernelNodeSetParams(
	CUgraphExec hGraphExec, CUgraphNode hNode, const CUDA_KERNEL_NODE_PARAMS_v1 *nodeParams)
{
	EXEC(hGraphExec);
	struct CUgraphNode_st *node = twin_of(hGraphExec, hNode);
	return node == NULL ? CUDA_ERROR_INVALID_VALUE : cuGraphKernelNodeSetParams(node, nodeParams);
}

CUresult cuGraphNodeSetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int isEnabled)
{
	EXEC(hGraphExec);
	struct CUgraphNode_st *node = twin_of(hGraphExec, hNode);
	if (node == NULL || node->type > CU_GRAPH_NODE_TYPE_MEMSET)
		return CUDA_ERROR_INVALID_VALUE;
	node->disabled = isEnabled == 0;
	return CUDA_SUCCESS;
}

CUresult cuGraphNodeGetEnabled(CUgraphExec hGraphExec, CUgraphNode hNode, unsigned int *isEnabled)
{
	EXEC(hGraphExec);
	const struct CUgraphNode_st *node = twin_of(hGraphExec, hNode);
	if (node == NULL || isEnabled == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*isEnabled = !node->disabled;
	return CUDA_SUCCESS;
}

// --- launching

// Memory that the graph's allocation nodes must have, before anything of it runs.
static CUresult allocate_all(struct CUgraphExec_st *exec, const struct CUgraph_st *graph)
{
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		CUresult result = CUDA_SUCCESS;
		if (node->type == CU_GRAPH_NODE_TYPE_GRAPH)
			result = allocate_all(exec, node->child);
		if (node->type == CU_GRAPH_NODE_TYPE_MEM_ALLOC) {
			if (node->allocation->live && (exec->flags & CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH))
				free_address(node->allocation->address);
			result = sim_alloc_fault() ? CUDA_ERROR_OUT_OF_MEMORY : make_live(node->allocation);
		}
		if (result != CUDA_SUCCESS)
			return result;
	}
	return CUDA_SUCCESS;
}

static void free_all(const struct CUgraph_st *graph)
{
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		if (node->type == CU_GRAPH_NODE_TYPE_GRAPH)
			free_all(node->child);
		if (node->type == CU_GRAPH_NODE_TYPE_MEM_FREE)
			free_address(node->freed);
	}
}

// Does one node's bytes now, tells how long the hardware takes for it.
static uint64_t perform(struct CUgraphNode_st *node);

// Does a graph's bytes; returns the length of its critical path. Nodes come after those that they depend on, as they
// were added.
static uint64_t critical_path(const struct CUgraph_st *graph)
{
	uint64_t longest = 0;
	for (struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		uint64_t start = 0;
		for (size_t i = 0; i < node->before_count; i++)
			if (node->before[i] != NULL && node->before[i]->end_ns > start)
				start = node->before[i]->end_ns;
		node->end_ns = start + perform(node);
		longest = node->end_ns > longest ? node->end_ns : longest;
	}
	return longest;
}

static uint64_t perform(struct CUgraphNode_st *node)
{
	uint64_t ns = 0;
	if (node->disabled)
		return 0;
	switch ((int)node->type) {
	case CU_GRAPH_NODE_TYPE_KERNEL: return node->launch.function->ns;
	case CU_GRAPH_NODE_TYPE_MEMCPY: sim_copy_3d(&node->copy, &ns); return ns;
	case CU_GRAPH_NODE_TYPE_MEMSET:
		sim_fill(node->fill.dst, node->fill.pitch, node->fill.value, node->fill.elementSize, node->fill.width,
			node->fill.height, &ns);
		return ns;
	case CU_GRAPH_NODE_TYPE_GRAPH: return critical_path(node->child);
	default: return 0;
	}
}

static bool has_outer_part(const struct CUgraph_st *graph)
{
	for (const struct CUgraphNode_st *node = graph->first; node != NULL; node = node->next) {
		if (node->type == CU_GRAPH_NODE_TYPE_HOST || node->type == CU_GRAPH_NODE_TYPE_EVENT_RECORD
			|| node->type == CU_GRAPH_NODE_TYPE_WAIT_EVENT
			|| (node->type == CU_GRAPH_NODE_TYPE_KERNEL && node->launch.function->ranks > 0))
			return true;
		if (node->type == CU_GRAPH_NODE_TYPE_GRAPH && has_outer_part(node->child))
			return true;
	}
	return false;
}

// A graph in which the host, events or other GPUs take part goes node by node through the stream: no two of its nodes side by side.
static CUresult one_by_one(const struct CUgraph_st *graph, struct CUstream_st *stream)
{
	CUresult result = CUDA_SUCCESS;
	for (struct CUgraphNode_st *node = graph->first; node != NULL && result == CUDA_SUCCESS; node = node->next) {
		switch ((int)node->type) {
		case CU_GRAPH_NODE_TYPE_HOST: result = sim_host_submit(stream, &node->task); break;
		case CU_GRAPH_NODE_TYPE_EVENT_RECORD: result = sim_event_record(node->event, stream); break;
		case CU_GRAPH_NODE_TYPE_WAIT_EVENT: result = sim_event_wait(node->event, stream); break;
		case CU_GRAPH_NODE_TYPE_GRAPH: result = one_by_one(node->child, stream); break;
		default: {
			if (node->type == CU_GRAPH_NODE_TYPE_KERNEL && node->launch.function->ranks > 0 && !node->disabled) {
				result = sim_launch_submit(&node->launch, stream);
				break;
			}
			uint64_t ns = perform(node);
			if (ns > 0)
				result = sim_stream_submit(stream, SIM_KERNEL, ns, SIM_FULL_WIDTH);
		}
		}
	}
	return result;
}

static CUresult grow_local(const struct CUgraph_st *graph)
{
	CUresult result = CUDA_SUCCESS;
	for (const struct CUgraphNode_st *node = graph->first; node != NULL && result == CUDA_SUCCESS; node = node->next) {
		if (node->type == CU_GRAPH_NODE_TYPE_KERNEL)
			result = sim_context_need(node->launch.function->module->context, node->launch.function->local_bytes,
				node->launch.function->heap, node->launch.function->printf_buffer);
		if (node->type == CU_GRAPH_NODE_TYPE_GRAPH)
			result = grow_local(node->child);
	}
	return result;
}

static CUresult launch(CUgraphExec exec, CUstream handle)
{
	EXEC(exec);
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream))
		return sim_capture_graph(stream, exec->graph);
	result = grow_local(exec->graph);
	if (result != CUDA_SUCCESS)
		return result;
	sim_enter();
	result = allocate_all(exec, exec->graph);
	uint64_t ns = 0;
	bool steps = has_outer_part(exec->graph);
	if (result == CUDA_SUCCESS && !steps)
		ns = critical_path(exec->graph);
	sim_leave();
	if (result != CUDA_SUCCESS)
		return result;
	result = steps ? one_by_one(exec->graph, stream) : sim_stream_submit(stream, SIM_KERNEL, ns, SIM_FULL_WIDTH);
	sim_enter();
	free_all(exec->graph);
	sim_leave();
	return result;
}

CUresult cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
	return launch(hGraph, hStream);
}

CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream)
{
	return launch(hGraphExec, hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}

static CUresult upload(CUgraphExec exec, CUstream handle)
{
	EXEC(exec);
	SIM_STREAM(stream, handle);
	return sim_stream_submit(stream, SIM_COPY, 2000, 0);
}

CUresult cuGraphUpload(CUgraphExec hGraph, CUstream hStream)
{
	return upload(hGraph, hStream);
}

CUresult cuGraphUpload_ptsz(CUgraphExec hGraphExec, CUstream hStream)
{
	return upload(hGraphExec, hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}
