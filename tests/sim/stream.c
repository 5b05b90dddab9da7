// SPDX-License-Identifier: Apache-2.0
// Streams: handles, the default streams, submitting, waiting.
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

static struct CUstream_st
	*spare; // destroyed ones: their memory is reused for streams only, so an old handle is recognised

static struct CUstream_st *make(struct CUctx_st *context, int queue, unsigned flags, int priority)
{
	struct CUstream_st *stream = spare;
	if (stream != NULL)
		spare = stream->next;
	else
		stream = malloc(sizeof(*stream));
	if (stream == NULL)
		return NULL;
	memset(stream, 0, sizeof(*stream));
	if (queue != 0 && sim_small_alloc(context, &context->code, SIM_STREAM_BYTES, &stream->block, &stream->address) != CUDA_SUCCESS) {
		stream->next = spare;
		spare = stream;
		return NULL;
	}
	stream->context = context;
	stream->queue = queue;
	stream->flags = flags;
	stream->priority = priority;
	stream->id = sim_next_id();
	stream->alive = true;
	return stream;
}

static void unmake(struct CUstream_st *stream)
{
	free(stream->capture_last);
	stream->capture_last = NULL;
	stream->alive = false;
	if (stream->block != NULL)
		sim_small_free(stream->context, &stream->context->code, stream->block, stream->address, SIM_STREAM_BYTES);
	stream->block = NULL;
	stream->next = spare;
	spare = stream;
}

static int open_queue(struct CUctx_st *context, uint32_t flags)
{
	sim_lock();
	sim_timeline_advance(context->gpu, sim_now_ns());
	int queue = sim_timeline_stream_open(context->queue, flags);
	sim_unlock();
	return queue;
}

static struct CUstream_st *legacy_stream(struct CUctx_st *context)
{
	if (context->legacy == NULL)
		context->legacy = make(context, 0, CU_STREAM_DEFAULT, 0);
	return context->legacy;
}

static struct CUstream_st *thread_stream(struct CUctx_st *context)
{
	uint64_t thread = sim_thread_id();
	for (struct CUstream_st *stream = context->per_thread; stream != NULL; stream = stream->next)
		if (stream->thread == thread)
			return stream;
	int queue = open_queue(context, SIM_STREAM_BLOCKING);
	struct CUstream_st *stream = queue < 0 ? NULL : make(context, queue, CU_STREAM_DEFAULT, 0);
	if (stream != NULL) {
		stream->thread = thread;
		stream->next = context->per_thread;
		context->per_thread = stream;
	}
	return stream;
}

struct CUstream_st *sim_stream(CUstream handle, CUresult *error)
{
	if (handle != NULL && handle != CU_STREAM_LEGACY && handle != CU_STREAM_PER_THREAD) {
		if (handle->alive)
			return handle;
		*error = CUDA_ERROR_INVALID_HANDLE;
		return NULL;
	}
	struct CUctx_st *context = sim_context_current(error);
	if (context == NULL)
		return NULL;
	sim_enter();
	struct CUstream_st *stream = handle == CU_STREAM_PER_THREAD ? thread_stream(context) : legacy_stream(context);
	sim_leave();
	if (stream == NULL)
		*error = CUDA_ERROR_OUT_OF_MEMORY;
	return stream;
}

void sim_stream_nap(uint64_t left_ns)
{
	if (left_ns < 100000) {
		sched_yield();
		return;
	}
	uint64_t ns = left_ns - 60000 < 20000000 ? left_ns - 60000 : 20000000;
	struct timespec time = {.tv_sec = 0, .tv_nsec = (long)ns};
	nanosleep(&time, NULL);
}

CUresult sim_stream_wait_idle(struct CUctx_st *context, int stream)
{
	for (;;) {
		sim_lock();
		sim_timeline_advance(context->gpu, sim_now_ns());
		uint64_t left = sim_timeline_left(context->queue, stream, UINT64_MAX);
		sim_unlock();
		if (left == 0)
			return CUDA_SUCCESS;
		sim_stream_nap(left);
	}
}

// Submits, waiting while the queue is full as the hardware's queues make one wait.
static CUresult submit(struct CUstream_st *stream, enum sim_command_kind kind, uint64_t ns, uint32_t width_ppm,
	uint32_t ranks, uint64_t communicator)
{
	struct CUctx_st *context = stream->context;
	for (;;) {
		sim_enter();
		sim_lock();
		sim_timeline_catch_up(context->gpu);
		if (sim_state->context[context->queue].done_marks > 64 || sim_state->context[context->queue].free_head < 0)
			sim_event_collect(context);
		int command = ranks > 0
			? sim_timeline_submit_collective(context->queue, stream->queue, ns, width_ppm, ranks, communicator)
			: sim_timeline_submit(context->queue, stream->queue, kind, ns, width_ppm, 0, NULL);
		sim_unlock();
		sim_leave();
		if (command >= 0)
			return CUDA_SUCCESS;
		if (command == -2)
			return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
		sim_stream_nap(200000);
	}
}

CUresult sim_stream_submit(struct CUstream_st *stream, enum sim_command_kind kind, uint64_t ns, uint32_t width_ppm)
{
	return submit(stream, kind, ns, width_ppm, 0, 0);
}

CUresult sim_stream_submit_collective(
	struct CUstream_st *stream, uint64_t ns, uint32_t width_ppm, uint32_t ranks, uint64_t communicator)
{
	return submit(stream, SIM_KERNEL, ns, width_ppm, ranks, communicator);
}

static CUresult create(CUstream *phStream, unsigned flags, int priority)
{
	SIM_CURRENT(context);
	if (phStream == NULL || flags > CU_STREAM_NON_BLOCKING)
		return CUDA_ERROR_INVALID_VALUE;
	priority = priority > 0 ? 0 : priority < -5 ? -5 : priority;
	sim_enter();
	int queue = open_queue(context, flags & CU_STREAM_NON_BLOCKING ? 0 : SIM_STREAM_BLOCKING);
	struct CUstream_st *stream = queue < 0 ? NULL : make(context, queue, flags, priority);
	if (stream != NULL) {
		stream->created = true;
		stream->next = context->streams;
		context->streams = stream;
		*phStream = stream;
	}
	sim_leave();
	return stream != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
	return create(phStream, Flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
	return create(phStream, flags, priority);
}

static CUresult destroy(CUstream handle)
{
	if (handle == NULL || handle == CU_STREAM_LEGACY || handle == CU_STREAM_PER_THREAD)
		return CUDA_ERROR_INVALID_HANDLE;
	SIM_STREAM(stream, handle);
	if (stream->capture != NULL)
		sim_capture_invalidate(stream->capture);
	sim_enter();
	struct CUstream_st **link = &stream->context->streams;
	while (*link != NULL && *link != stream)
		link = &(*link)->next;
	if (*link != NULL)
		*link = stream->next;
	sim_capture_forget(stream);
	sim_lock();
	sim_timeline_advance(stream->context->gpu, sim_now_ns());
	sim_timeline_stream_close(stream->context->queue, stream->queue); // what is queued there is still done
	sim_unlock();
	unmake(stream);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream hStream)
{
	return destroy(hStream);
}

CUresult cuStreamDestroy(CUstream hStream)
{
	return destroy(hStream);
}

static void drop_list(struct CUstream_st *stream)
{
	while (stream != NULL) {
		struct CUstream_st *next = stream->next;
		sim_capture_forget(stream);
		unmake(stream);
		stream = next;
	}
}

void sim_stream_drop_context(struct CUctx_st *context)
{
	drop_list(context->streams);
	drop_list(context->per_thread);
	drop_list(context->legacy);
	context->streams = context->per_thread = context->legacy = NULL;
}

// --- asking and waiting

static CUresult query(CUstream handle)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_sync(stream);
	if (result != CUDA_SUCCESS)
		return result;
	struct CUctx_st *context = stream->context;
	bool all = stream == context->legacy; // the legacy stream is done when the blocking streams before it are
	sim_lock();
	sim_timeline_advance(context->gpu, sim_now_ns());
	uint64_t left = sim_timeline_left(context->queue, stream->queue, UINT64_MAX);
	for (int other = 1; all && left == 0 && other < SIM_STREAMS; other++)
		if (sim_state->context[context->queue].stream[other].flags & SIM_STREAM_BLOCKING)
			left = sim_timeline_left(context->queue, other, UINT64_MAX);
	sim_unlock();
	return left == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamQuery(CUstream hStream)
{
	return query(hStream);
}

CUresult cuStreamQuery_ptsz(CUstream hStream)
{
	return query(hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}

CUresult sim_stream_synchronize(struct CUstream_st *stream)
{
	struct CUctx_st *context = stream->context;
	CUresult result = sim_stream_wait_idle(context, stream->queue);
	for (int other = 1; stream == context->legacy && other < SIM_STREAMS; other++)
		if (sim_state->context[context->queue].stream[other].flags & SIM_STREAM_BLOCKING)
			sim_stream_wait_idle(context, other);
	sim_pool_trim_idle(context->device);
	return result;
}

static CUresult synchronize(CUstream handle)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_sync(stream);
	return result != CUDA_SUCCESS ? result : sim_stream_synchronize(stream);
}

CUresult cuStreamSynchronize(CUstream hStream)
{
	return synchronize(hStream);
}

CUresult cuStreamSynchronize_ptsz(CUstream hStream)
{
	return synchronize(hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}

// --- what a stream is

#define GETTER(name, type, value) \
	static CUresult ask_##name(CUstream handle, type *out) \
	{ \
		SIM_STREAM(stream, handle); \
		if (out == NULL) \
			return CUDA_ERROR_INVALID_VALUE; \
		*out = value; \
		return CUDA_SUCCESS; \
	} \
	CUresult name(CUstream hStream, type *out) \
	{ \
		return ask_##name(hStream, out); \
	} \
	CUresult name##_ptsz(CUstream hStream, type *out) \
	{ \
		return ask_##name(hStream != NULL ? hStream : CU_STREAM_PER_THREAD, out); \
	}

GETTER(cuStreamGetCtx, CUcontext, stream->context)
GETTER(cuStreamGetFlags, unsigned, stream->flags)
GETTER(cuStreamGetPriority, int, stream->priority)
GETTER(cuStreamGetId, unsigned long long, stream->id)
GETTER(cuStreamGetDevice, CUdevice, stream->context->device)

static CUresult get_context_v2(CUstream handle, CUcontext *context, CUgreenCtx *green)
{
	SIM_STREAM(stream, handle);
	if (context == NULL || green == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*context = stream->context;
	*green = NULL;
	return CUDA_SUCCESS;
}

CUresult cuStreamGetCtx_v2(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
	return get_context_v2(hStream, pCtx, pGreenCtx);
}

CUresult cuStreamGetCtx_v2_ptsz(CUstream hStream, CUcontext *pCtx, CUgreenCtx *pGreenCtx)
{
	return get_context_v2(hStream != NULL ? hStream : CU_STREAM_PER_THREAD, pCtx, pGreenCtx);
}

CUresult cuStreamGetGreenCtx(CUstream hStream, CUgreenCtx *phCtx)
{
	SIM_STREAM(stream, hStream);
	if (phCtx == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	(void)stream;
	*phCtx = NULL;
	return CUDA_SUCCESS;
}

CUresult cuStreamAttachMemAsync(CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags)
{
	SIM_STREAM(stream, hStream);
	(void)stream, (void)length, (void)flags;
	sim_enter();
	const struct sim_range *range = sim_range_find(dptr);
	bool managed = range != NULL && range->kind == SIM_RANGE_MANAGED;
	sim_leave();
	return managed ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuStreamAttachMemAsync_ptsz(CUstream hStream, CUdeviceptr dptr, size_t length, unsigned int flags)
{
	return cuStreamAttachMemAsync(hStream != NULL ? hStream : CU_STREAM_PER_THREAD, dptr, length, flags);
}
