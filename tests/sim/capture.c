// SPDX-License-Identifier: Apache-2.0
// Stream capture: which calls become nodes, which calls must not happen beside it, how streams join and leave it.
#include <stdlib.h>
#include <string.h>

#include "graph.h"

static struct sim_graph_capture *captures; // all, the ended ones too: events may still name them
static __thread CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

bool sim_capturing(const struct CUstream_st *stream)
{
	return stream->capture != NULL;
}

void sim_capture_invalidate(struct sim_graph_capture *capture)
{
	if (capture != NULL && !capture->ended)
		capture->invalidated = true;
}

void sim_capture_invalidate_context(struct CUctx_st *context)
{
	for (struct sim_graph_capture *capture = captures; capture != NULL; capture = capture->next)
		if (!capture->ended && capture->context == context)
			capture->invalidated = true;
}

// The rules of cuThreadExchangeStreamCaptureMode.
CUresult sim_capture_forbid(struct CUctx_st *context)
{
	(void)context;
	CUresult result = CUDA_SUCCESS;
	if (thread_mode == CU_STREAM_CAPTURE_MODE_RELAXED)
		return result;
	sim_enter();
	for (struct sim_graph_capture *capture = captures; capture != NULL; capture = capture->next) {
		if (capture->ended)
			continue;
		bool own = capture->thread == sim_thread_id() && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
		bool others = thread_mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
		if (own || others) {
			capture->invalidated = true;
			result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
		}
	}
	sim_leave();
	return result;
}

// A capture that the legacy stream of this context would have to wait for. NULL: none.
static struct sim_graph_capture *implicit(const struct CUstream_st *stream)
{
	if (stream != stream->context->legacy || stream->context->captures == 0)
		return NULL;
	for (struct CUstream_st *other = stream->context->streams; other != NULL; other = other->next)
		if (other->capture != NULL && !(other->flags & CU_STREAM_NON_BLOCKING))
			return other->capture;
	for (struct CUstream_st *other = stream->context->per_thread; other != NULL; other = other->next)
		if (other->capture != NULL)
			return other->capture;
	return NULL;
}

CUresult sim_capture_forbid_legacy(struct CUstream_st *stream)
{
	sim_enter();
	struct sim_graph_capture *capture = implicit(stream);
	sim_capture_invalidate(capture);
	sim_leave();
	return capture != NULL ? CUDA_ERROR_STREAM_CAPTURE_IMPLICIT : CUDA_SUCCESS;
}

CUresult sim_capture_forbid_sync(struct CUstream_st *stream)
{
	if (stream->capture == NULL)
		return sim_capture_forbid_legacy(stream);
	sim_capture_invalidate(stream->capture);
	return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static bool depend_on(struct CUgraphNode_st ***list, size_t *count, struct CUgraphNode_st *const *nodes, size_t more)
{
	struct CUgraphNode_st **bigger = realloc(*list, (*count + more + 1) * sizeof(*bigger));
	if (bigger == NULL)
		return false;
	*list = bigger;
	for (size_t i = 0; i < more; i++) {
		size_t at = 0;
		while (at < *count && bigger[at] != nodes[i])
			at++;
		if (at == *count)
			bigger[(*count)++] = nodes[i];
	}
	return true;
}

static void leave(struct CUstream_st *stream)
{
	stream->capture = NULL;
	free(stream->capture_last);
	stream->capture_last = NULL;
	stream->capture_last_count = 0;
}

void sim_capture_forget(struct CUstream_st *stream)
{
	if (stream->capture == NULL)
		return;
	sim_capture_invalidate(stream->capture);
	if (stream->capture->origin == stream) {
		stream->capture->ended = true;
		stream->context->captures--;
	}
	leave(stream);
}

// A node for something done on a stream that is being captured. NULL: *error says why.
static struct CUgraphNode_st *node_of(struct CUstream_st *stream, CUgraphNodeType type, CUresult *error)
{
	if (stream->capture->invalidated) {
		*error = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
		return NULL;
	}
	struct CUgraphNode_st *node =
		sim_graph_add(stream->capture->graph, type, stream->capture_last, stream->capture_last_count);
	*error = CUDA_ERROR_OUT_OF_MEMORY;
	if (node == NULL)
		return NULL;
	stream->capture_last_count = 0;
	depend_on(&stream->capture_last, &stream->capture_last_count, &node, 1);
	*error = CUDA_SUCCESS;
	return node;
}

CUresult sim_capture_kernel(struct CUstream_st *stream, const struct sim_launch *launch)
{
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_KERNEL, &result);
	if (node != NULL) {
		node->launch = *launch;
		node->kernel = (CUDA_KERNEL_NODE_PARAMS){.func = launch->function,
			.gridDimX = launch->grid[0],
			.gridDimY = launch->grid[1],
			.gridDimZ = launch->grid[2],
			.blockDimX = launch->block[0],
			.blockDimY = launch->block[1],
			.blockDimZ = launch->block[2],
			.sharedMemBytes = launch->shared_bytes};
	}
	sim_leave();
	return result;
}

CUresult sim_capture_copy(struct CUstream_st *stream, const CUDA_MEMCPY3D *copy)
{
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_MEMCPY, &result);
	if (node != NULL)
		node->copy = *copy;
	sim_leave();
	return result;
}

CUresult sim_capture_fill(struct CUstream_st *stream, const CUDA_MEMSET_NODE_PARAMS *fill)
{
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_MEMSET, &result);
	if (node != NULL)
		node->fill = *fill;
	sim_leave();
	return result;
}

CUresult sim_capture_host(struct CUstream_st *stream, const struct sim_host_task *task)
{
	if (task->function == NULL) { // callbacks and value operations
		sim_capture_invalidate(stream->capture);
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_HOST, &result);
	if (node != NULL)
		node->task = *task;
	sim_leave();
	return result;
}

CUresult sim_capture_graph(struct CUstream_st *stream, const struct CUgraph_st *graph)
{
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_GRAPH, &result);
	if (node != NULL && (node->child = sim_graph_copy(graph)) == NULL)
		result = CUDA_ERROR_OUT_OF_MEMORY;
	if (node != NULL && node->child != NULL)
		node->child->child = true;
	sim_leave();
	return result;
}

CUresult sim_capture_alloc(struct CUstream_st *stream, int device, uint64_t bytes, CUdeviceptr *address)
{
	CUresult result;
	sim_enter();
	struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_MEM_ALLOC, &result);
	if (node != NULL && (node->allocation = sim_graph_allocation_make(stream->capture->graph, device, bytes)) == NULL)
		result = CUDA_ERROR_OUT_OF_MEMORY;
	if (node != NULL && result == CUDA_SUCCESS) {
		node->alloc.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
		node->alloc.poolProps.location = (CUmemLocation){.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device};
		node->alloc.bytesize = bytes;
		node->alloc.dptr = *address = node->allocation->address;
	}
	sim_leave();
	return result;
}

CUresult sim_capture_free(struct CUstream_st *stream, CUdeviceptr address)
{
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	bool may = stream->capture->invalidated || sim_graph_may_free(stream->capture->graph, address);
	struct CUgraphNode_st *node = may ? node_of(stream, CU_GRAPH_NODE_TYPE_MEM_FREE, &result) : NULL;
	if (node != NULL)
		node->freed = address;
	sim_leave();
	return result;
}

CUresult sim_capture_record(struct CUstream_st *stream, struct CUevent_st *event, bool external)
{
	CUresult result = CUDA_SUCCESS;
	sim_enter();
	if (external) {
		struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_EVENT_RECORD, &result);
		if (node != NULL)
			node->event = event;
	} else if (stream->capture->invalidated) {
		result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	} else {
		event->state = SIM_EVENT_CAPTURED;
		event->capture = stream->capture;
		event->capture_last_count = 0;
		if (!depend_on(
				&event->capture_last, &event->capture_last_count, stream->capture_last, stream->capture_last_count))
			result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	sim_leave();
	return result;
}

static CUresult join(struct CUstream_st *stream, struct CUevent_st *event)
{
	struct sim_graph_capture *capture = event->capture;
	if (capture->ended)
		return CUDA_ERROR_INVALID_VALUE;
	if (capture->invalidated)
		return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	if (stream == stream->context->legacy) {
		capture->invalidated = true;
		return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
	}
	if (stream->capture != NULL && stream->capture != capture) {
		capture->invalidated = stream->capture->invalidated = true;
		return CUDA_ERROR_STREAM_CAPTURE_MERGE;
	}
	stream->capture = capture;
	return depend_on(&stream->capture_last, &stream->capture_last_count, event->capture_last, event->capture_last_count)
		? CUDA_SUCCESS
		: CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_capture_wait(struct CUstream_st *stream, struct CUevent_st *event, bool external)
{
	CUresult result = CUDA_SUCCESS;
	sim_enter();
	if (external && stream->capture != NULL) {
		struct CUgraphNode_st *node = node_of(stream, CU_GRAPH_NODE_TYPE_WAIT_EVENT, &result);
		if (node != NULL)
			node->event = event;
	} else if (event->state == SIM_EVENT_CAPTURED) {
		result = join(stream, event);
	} else if (stream->capture != NULL) { // work that is not part of the capture
		result =
			stream->capture->invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
		sim_capture_invalidate(stream->capture);
	}
	sim_leave();
	return result;
}

// --- begin and end

static CUresult begin(CUstream handle, CUgraph graph, const CUgraphNode *before, size_t count, CUstreamCaptureMode mode)
{
	SIM_STREAM(stream, handle);
	if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	if (stream == stream->context->legacy)
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	if (stream->capture != NULL)
		return CUDA_ERROR_ILLEGAL_STATE;
	struct sim_graph_capture *capture = calloc(1, sizeof(*capture));
	CUresult result = capture != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	if (capture != NULL) {
		capture->graph = graph != NULL ? graph : sim_graph_make();
		capture->mode = mode;
		capture->thread = sim_thread_id();
		capture->id = sim_next_id();
		capture->context = stream->context;
		capture->origin = stream;
		capture->next = captures;
		captures = capture;
		stream->capture = capture;
		stream->context->captures++;
		if (capture->graph == NULL || !depend_on(&stream->capture_last, &stream->capture_last_count, before, count))
			result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	sim_leave();
	return result;
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)

CUresult cuStreamBeginCapture(CUstream hStream)
{
	return begin(hStream, NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult cuStreamBeginCapture_ptsz(CUstream hStream)
{
	return begin(THREADED(hStream), NULL, NULL, 0, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

CUresult cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	return begin(hStream, NULL, NULL, 0, mode);
}

CUresult cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode)
{
	return begin(THREADED(hStream), NULL, NULL, 0, mode);
}

CUresult cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	(void)dependencyData;
	if (hGraph == NULL || hGraph->magic != SIM_GRAPH)
		return CUDA_ERROR_INVALID_VALUE;
	return begin(hStream, hGraph, dependencies, numDependencies, mode);
}

CUresult cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	return cuStreamBeginCaptureToGraph(THREADED(hStream), hGraph, dependencies, dependencyData, numDependencies, mode);
}

static bool somebody_waits_for(const struct CUgraph_st *graph, const struct CUgraphNode_st *node)
{
	for (const struct CUgraphNode_st *other = graph->first; other != NULL; other = other->next)
		for (size_t i = 0; i < other->before_count; i++)
			if (other->before[i] == node)
				return true;
	return false;
}

// Is there work of another stream that does not lead back to the stream which began?
static bool unjoined(const struct sim_graph_capture *capture, const struct CUstream_st *list)
{
	for (const struct CUstream_st *stream = list; stream != NULL; stream = stream->next) {
		if (stream->capture != capture || stream == capture->origin)
			continue;
		for (size_t i = 0; i < stream->capture_last_count; i++) {
			bool joined = somebody_waits_for(capture->graph, stream->capture_last[i]);
			for (size_t j = 0; j < capture->origin->capture_last_count; j++)
				joined |= capture->origin->capture_last[j] == stream->capture_last[i];
			if (!joined)
				return true;
		}
	}
	return false;
}

static void leave_all(const struct sim_graph_capture *capture, struct CUstream_st *list)
{
	for (struct CUstream_st *stream = list; stream != NULL; stream = stream->next)
		if (stream->capture == capture)
			leave(stream);
}

static CUresult end(CUstream handle, CUgraph *graph)
{
	SIM_STREAM(stream, handle);
	if (graph == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	struct sim_graph_capture *capture = stream->capture;
	if (capture == NULL)
		return CUDA_ERROR_ILLEGAL_STATE;
	if (capture->origin != stream) {
		sim_capture_invalidate(capture);
		return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
	}
	if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && capture->thread != sim_thread_id())
		return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
	sim_enter();
	CUresult result = CUDA_SUCCESS;
	if (capture->invalidated)
		result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
	else if (unjoined(capture, stream->context->streams) || unjoined(capture, stream->context->per_thread))
		result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
	capture->ended = true;
	stream->context->captures--;
	for (struct CUctx_st *context = sim_context_first(); context != NULL; context = context->next) {
		leave_all(capture, context->streams);
		leave_all(capture, context->per_thread);
	}
	if (result == CUDA_SUCCESS)
		*graph = capture->graph;
	else
		*graph = NULL; // what was captured is not given away; nodes of it may still be named by events, so it stays
	sim_leave();
	return result;
}

CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	return end(hStream, phGraph);
}

CUresult cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
	return end(THREADED(hStream), phGraph);
}

// --- asking

static CUstreamCaptureStatus status_of(const struct CUstream_st *stream)
{
	if (stream->capture == NULL)
		return CU_STREAM_CAPTURE_STATUS_NONE;
	return stream->capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

static CUresult info(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
	const CUgraphNode **nodes, const CUgraphEdgeData **edges, size_t *count)
{
	SIM_STREAM(stream, handle);
	if (status == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (implicit(stream) != NULL)
		return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT; // asking does not spoil the capture
	*status = status_of(stream);
	bool active = *status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
	if (id != NULL && stream->capture != NULL)
		*id = stream->capture->id;
	if (graph != NULL && active)
		*graph = stream->capture->graph;
	if (nodes != NULL && active)
		*nodes = stream->capture_last;
	if (edges != NULL)
		*edges = NULL;
	if (count != NULL && active)
		*count = stream->capture_last_count;
	return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
	return info(hStream, captureStatus, NULL, NULL, NULL, NULL, NULL);
}

CUresult cuStreamIsCapturing_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus)
{
	return info(THREADED(hStream), captureStatus, NULL, NULL, NULL, NULL, NULL);
}

CUresult cuStreamGetCaptureInfo(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out)
{
	return info(hStream, captureStatus_out, id_out, NULL, NULL, NULL, NULL);
}

CUresult cuStreamGetCaptureInfo_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out)
{
	return info(THREADED(hStream), captureStatus_out, id_out, NULL, NULL, NULL, NULL);
}

CUresult cuStreamGetCaptureInfo_v2(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
	CUgraph *graph_out, const CUgraphNode **dependencies_out, size_t *numDependencies_out)
{
	return info(hStream, captureStatus_out, id_out, graph_out, dependencies_out, NULL, numDependencies_out);
}

CUresult cuStreamGetCaptureInfo_v2_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
	CUgraph *graph_out, const CUgraphNode **dependencies_out, size_t *numDependencies_out)
{
	return info(THREADED(hStream), captureStatus_out, id_out, graph_out, dependencies_out, NULL, numDependencies_out);
}

CUresult cuStreamGetCaptureInfo_v3(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
	CUgraph *graph_out, const CUgraphNode **dependencies_out, const CUgraphEdgeData **edgeData_out,
	size_t *numDependencies_out)
{
	return info(hStream, captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out, numDependencies_out);
}

CUresult cuStreamGetCaptureInfo_v3_ptsz(CUstream hStream, CUstreamCaptureStatus *captureStatus_out, cuuint64_t *id_out,
	CUgraph *graph_out, const CUgraphNode **dependencies_out, const CUgraphEdgeData **edgeData_out,
	size_t *numDependencies_out)
{
	return info(
		THREADED(hStream), captureStatus_out, id_out, graph_out, dependencies_out, edgeData_out, numDependencies_out);
}

static CUresult change_dependencies(CUstream handle, CUgraphNode *nodes, size_t count, unsigned flags)
{
	SIM_STREAM(stream, handle);
	if (flags > CU_STREAM_SET_CAPTURE_DEPENDENCIES)
		return CUDA_ERROR_INVALID_VALUE;
	if (stream->capture == NULL)
		return CUDA_ERROR_ILLEGAL_STATE;
	sim_enter();
	if (flags == CU_STREAM_SET_CAPTURE_DEPENDENCIES)
		stream->capture_last_count = 0;
	bool done = depend_on(&stream->capture_last, &stream->capture_last_count, nodes, count);
	sim_leave();
	return done ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuStreamUpdateCaptureDependencies(
	CUstream hStream, CUgraphNode *dependencies, size_t numDependencies, unsigned int flags)
{
	return change_dependencies(hStream, dependencies, numDependencies, flags);
}

CUresult cuStreamUpdateCaptureDependencies_ptsz(
	CUstream hStream, CUgraphNode *dependencies, size_t numDependencies, unsigned int flags)
{
	return change_dependencies(THREADED(hStream), dependencies, numDependencies, flags);
}

CUresult cuStreamUpdateCaptureDependencies_v2(CUstream hStream, CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, unsigned int flags)
{
	(void)dependencyData;
	return change_dependencies(hStream, dependencies, numDependencies, flags);
}

CUresult cuStreamUpdateCaptureDependencies_v2_ptsz(CUstream hStream, CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, unsigned int flags)
{
	(void)dependencyData;
	return change_dependencies(THREADED(hStream), dependencies, numDependencies, flags);
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
	SIM_READY();
	if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED)
		return CUDA_ERROR_INVALID_VALUE;
	CUstreamCaptureMode before = thread_mode;
	thread_mode = *mode;
	*mode = before;
	return CUDA_SUCCESS;
}
