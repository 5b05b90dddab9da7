// SPDX-License-Identifier: Apache-2.0
// Graphs' memory nodes, and graphs themselves, whose nodes are on the GPU from the instantiation on. Owns: the hooks, and what each executable graph
// needs (graph_need.c) until it is destroyed, for its launches to be charged (graph_pool.c).
#include "preload/cuda_graph_memory.h"

#include "preload/gpu.h"
#include "preload/graph_need.h"
#include "preload/graph_pool.h"
#include "preload/hook.h"
#include "preload/stream.h"
#include "preload/track.h"

// Measured: 2.7 KiB for each node of a graph of 3000 kernels, 3.3 KiB of one of 100; 2 MiB for 18 graphs of one.
#define NODE_BYTES 4096ull

CUresult hook_cuDeviceGraphMemTrim(CUdevice device)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(device);

	if (gpu == NULL || !softmig_graph_pool_is_used())
		return DRIVER(cuDeviceGraphMemTrim)(device);
	softmig_gpu_enter(gpu);
	CUresult result = softmig_graph_pool_trim(gpu);
	softmig_gpu_leave(gpu);
	return result;
}

// --- Executable graphs. GRAPH entries, one per GPU that a graph has memory on, in a chain: the first has the graph's own key,
// count is the GPU of the next one, plus 1. bytes: what a launch may take; more: what the graph keeps, in chunks, and when that was counted.

static struct softmig_graph_launch launch_of(const struct softmig_track_entry *graph, uint64_t stream)
{
	return (struct softmig_graph_launch){
		.stream = stream, .bytes = graph->bytes, .kept_bytes = (graph->more >> 32) * SOFTMIG_GRAPH_CHUNK_BYTES, .counted = (uint32_t)graph->more};
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

	while (softmig_graph_pool_is_used() && count < SOFTMIG_MAX_GPUS && softmig_track_remove(SOFTMIG_TRACK_GRAPH, key, &entries[count]) &&
	       next_gpu(&entries[count++]) >= 0)
		key = key_of(exec, next_gpu(&entries[count - 1]));
	return count;
}

// Records an executable graph. False: no memory to record it in.
static bool note_exec(CUgraphExec exec, const struct softmig_graph_need *need)
{
	struct softmig_track_entry former[SOFTMIG_MAX_GPUS];
	uint32_t next = 0;
	bool noted = true;

	take_exec(exec, former);
	for (int i = need->gpus - 1; i >= 0 && noted; i--) { // the one that comes last is the chain's head
		struct softmig_gpu *gpu = need->on[i].gpu;
		struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_GRAPH,
		                                    .key = i == 0 ? (uint64_t)(uintptr_t)exec : key_of(exec, gpu->ledger),
		                                    .bytes = need->on[i].bytes,
		                                    .more = need->on[i].kept_bytes / SOFTMIG_GRAPH_CHUNK_BYTES << 32,
		                                    .count = next,
		                                    .gpu = (uint8_t)gpu->ledger};
		noted = softmig_track_add(&entry);
		next = (uint32_t)gpu->ledger + 1;
	}
	if (need->gpus > 0)
		softmig_graph_pool_used();
	return noted;
}

// The three moves of an instantiation. Afterwards its memory nodes are known.
struct making {
	struct softmig_graph_need need;
	struct softmig_unasked unasked;
};

static bool make_begin(struct making *making, CUgraph graph)
{
	if (!softmig_graph_need(graph, &making->need))
		return false;
	uint64_t most_bytes = SOFTMIG_GRANULE_BYTES + softmig_granules(making->need.nodes * NODE_BYTES);
	return softmig_unasked_begin(&making->unasked, softmig_gpu_current(), most_bytes, "graph");
}

static CUresult make_end(struct making *making, CUresult result, const CUgraphExec *exec)
{
	struct softmig_gpu *gpu = making->unasked.gpu;

	softmig_unasked_end(&making->unasked);
	if (result != CUDA_SUCCESS || note_exec(*exec, &making->need))
		return result;
	int mode = softmig_stream_relax();
	hook_cuGraphExecDestroy(*exec);
	softmig_stream_restore(mode);
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
	struct softmig_graph_need need;

	if (params == NULL || !(params->flags & CUDA_GRAPH_INSTANTIATE_FLAG_UPLOAD))
		return make_with_params(exec, graph, params, call);
	if (!softmig_graph_need(graph, &need))
		return refused_with_params(params);
	if (need.gpus == 0)
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
	struct softmig_graph_need need;

	if (result == CUDA_SUCCESS && softmig_graph_pool_is_used() &&
	    softmig_track_find(SOFTMIG_TRACK_GRAPH, (uint64_t)(uintptr_t)exec, &entry) && softmig_graph_need(graph, &need))
		note_exec(exec, &need);
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

CUresult softmig_graph_memory_launch(CUgraphExec exec, CUstream stream, bool per_thread, CUresult (*call)(CUgraphExec, CUstream))
{
	struct softmig_track_entry graphs[SOFTMIG_MAX_GPUS];
	struct softmig_graph_launch launches[SOFTMIG_MAX_GPUS];
	uint64_t key = (uint64_t)(uintptr_t)exec;
	int count = 0, granted = 0;
	CUresult result = CUDA_SUCCESS;

	if (!softmig_graph_pool_is_used())
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
		struct softmig_graph_launch *launch = &launches[granted];
		softmig_settle_if_due(gpu);
		softmig_gpu_enter(gpu);
		*launch = launch_of(&graphs[granted], softmig_graph_stream(stream, per_thread));
		bool began = softmig_graph_pool_begin(gpu, launch);
		if (launch->counted != (uint32_t)graphs[granted].more) {
			graphs[granted].more = graphs[granted].more >> 32 << 32 | launch->counted;
			softmig_track_add(&graphs[granted]);
		}
		if (!began) {
			softmig_gpu_leave(gpu);
			result = CUDA_ERROR_OUT_OF_MEMORY;
			break;
		}
	}
	if (result == CUDA_SUCCESS)
		result = call(exec, stream);
	for (int i = 0; i < granted; i++) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(graphs[i].gpu);
		softmig_graph_pool_end(gpu, &launches[i]);
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
