// SPDX-License-Identifier: Apache-2.0
// Events: marks in a stream whose end is read from the timeline.
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static struct CUevent_st **table; // by tag
static uint32_t room;
static struct CUevent_st **spare; // tags' events that were destroyed, reusable
static uint32_t spare_count, spare_room;

static struct CUevent_st *make(void)
{
	if (spare_count > 0)
		return spare[--spare_count];
	struct CUevent_st **bigger = realloc(table, (room + 1) * sizeof(*table));
	struct CUevent_st *event = calloc(1, sizeof(*event));
	if (bigger != NULL)
		table = bigger;
	if (bigger == NULL || event == NULL) {
		free(event);
		return NULL;
	}
	event->tag = room;
	table[room++] = event;
	return event;
}

CUresult cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
	SIM_CURRENT(context);
	const unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
	if (phEvent == NULL || (Flags & ~known) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if ((Flags & CU_EVENT_INTERPROCESS) && !(Flags & CU_EVENT_DISABLE_TIMING))
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct CUevent_st *event = make();
	if (event != NULL) {
		uint32_t tag = event->tag;
		memset(event, 0, sizeof(*event));
		event->tag = tag;
		event->alive = true;
		event->context = context;
		event->flags = Flags;
		*phEvent = event;
	}
	sim_leave();
	return event != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static void unmake(struct CUevent_st *event)
{
	free(event->capture_last);
	event->capture_last = NULL;
	event->alive = false;
	event->sequence = 0;
	if (spare_count == spare_room) {
		uint32_t more = spare_room == 0 ? 64 : spare_room * 2;
		struct CUevent_st **bigger = realloc(spare, more * sizeof(*spare));
		if (bigger == NULL)
			return;
		spare = bigger;
		spare_room = more;
	}
	spare[spare_count++] = event;
}

static CUresult destroy(CUevent event)
{
	SIM_READY();
	if (event == NULL || !event->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_enter();
	unmake(event);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent hEvent)
{
	return destroy(hEvent);
}

CUresult cuEventDestroy(CUevent hEvent)
{
	return destroy(hEvent);
}

void sim_event_drop_context(struct CUctx_st *context)
{
	for (uint32_t tag = 0; tag < room; tag++)
		if (table[tag]->alive && table[tag]->context == context)
			unmake(table[tag]);
}

void sim_event_collect(struct CUctx_st *context)
{
	struct sim_context_queue *queue = &sim_state->context[context->queue];
	for (int index = 0; index < SIM_COMMANDS && queue->done_marks > 0; index++) {
		const struct sim_command *command = &queue->command[index];
		if (command->state != SIM_DONE)
			continue;
		struct CUevent_st *event = (uint32_t)command->wait_context < room ? table[command->wait_context] : NULL;
		if (event != NULL && event->sequence == command->sequence) {
			event->end_ns = command->end_ns;
			event->state = SIM_EVENT_DONE;
		}
		sim_timeline_release(context->queue, index, command->sequence, 0);
	}
}

CUresult sim_event_record(struct CUevent_st *event, struct CUstream_st *stream)
{
	struct CUctx_st *context = stream->context;
	for (;;) {
		uint64_t sequence;
		sim_enter();
		sim_lock();
		sim_timeline_catch_up(context->gpu);
		if (sim_state->context[context->queue].done_marks > 64 || sim_state->context[context->queue].free_head < 0)
			sim_event_collect(context);
		int command = sim_timeline_submit(context->queue, stream->queue, SIM_MARK, 0, 0, (int)event->tag, &sequence);
		sim_unlock();
		if (command >= 0) {
			event->state = SIM_EVENT_PENDING;
			event->queue = context->queue;
			event->command = command;
			event->sequence = sequence;
		}
		sim_leave();
		if (command >= 0)
			return CUDA_SUCCESS;
		sim_stream_nap(200000);
	}
}

static CUresult record(CUevent event, CUstream handle, unsigned flags)
{
	SIM_STREAM(stream, handle);
	if (event == NULL || !event->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	if (flags > CU_EVENT_RECORD_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	if (event->context->device != stream->context->device)
		return CUDA_ERROR_INVALID_HANDLE;
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream))
		return sim_capture_record(stream, event, flags == CU_EVENT_RECORD_EXTERNAL);
	event->capture = NULL;
	return sim_event_record(event, stream);
}

CUresult cuEventRecord(CUevent hEvent, CUstream hStream)
{
	return record(hEvent, hStream, 0);
}

CUresult cuEventRecord_ptsz(CUevent hEvent, CUstream hStream)
{
	return record(hEvent, hStream != NULL ? hStream : CU_STREAM_PER_THREAD, 0);
}

CUresult cuEventRecordWithFlags(CUevent hEvent, CUstream hStream, unsigned int flags)
{
	return record(hEvent, hStream, flags);
}

CUresult cuEventRecordWithFlags_ptsz(CUevent hEvent, CUstream hStream, unsigned int flags)
{
	return record(hEvent, hStream != NULL ? hStream : CU_STREAM_PER_THREAD, flags);
}

// Brings what is known of a pending event up to date; returns what is left to wait (0: it is done).
static uint64_t look(struct CUevent_st *event)
{
	uint64_t left = 0;
	sim_enter();
	if (event->state == SIM_EVENT_PENDING) {
		struct CUctx_st *context = event->context;
		uint64_t end_ns = 0;
		sim_lock();
		uint64_t now_ns = sim_now_ns();
		sim_timeline_advance(context->gpu, now_ns);
		if (sim_timeline_done(event->queue, event->command, event->sequence, &end_ns)) {
			event->end_ns = end_ns != 0 ? end_ns : now_ns;
			event->state = SIM_EVENT_DONE;
			sim_timeline_release(event->queue, event->command, event->sequence, 0);
		} else {
			int stream = sim_state->context[event->queue].command[event->command].stream;
			left = sim_timeline_left(event->queue, stream, event->sequence);
		}
		sim_unlock();
	}
	sim_leave();
	return left;
}

static CUresult check(CUevent event)
{
	SIM_READY();
	if (event == NULL || !event->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	if (event->state == SIM_EVENT_CAPTURED) {
		sim_capture_invalidate(event->capture);
		return CUDA_ERROR_CAPTURED_EVENT;
	}
	return sim_capture_forbid(event->context);
}

CUresult cuEventQuery(CUevent hEvent)
{
	CUresult result = check(hEvent);
	if (result != CUDA_SUCCESS)
		return result;
	return look(hEvent) == 0 ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent hEvent)
{
	CUresult result = check(hEvent);
	if (result != CUDA_SUCCESS)
		return result;
	for (uint64_t left = look(hEvent); left > 0; left = look(hEvent))
		sim_stream_nap(left);
	sim_pool_trim_idle(hEvent->context->device);
	return CUDA_SUCCESS;
}

static CUresult elapsed(float *milliseconds, CUevent start, CUevent end)
{
	SIM_READY();
	if (milliseconds == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (start == NULL || end == NULL || !start->alive || !end->alive
		|| ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0)
		return CUDA_ERROR_INVALID_HANDLE;
	if (start->state == SIM_EVENT_CAPTURED || end->state == SIM_EVENT_CAPTURED)
		return CUDA_ERROR_CAPTURED_EVENT;
	if (start->state == SIM_EVENT_NEW || end->state == SIM_EVENT_NEW || start->context->device != end->context->device)
		return CUDA_ERROR_INVALID_HANDLE;
	if (look(start) != 0 || look(end) != 0)
		return CUDA_ERROR_NOT_READY;
	double ns = (double)(int64_t)(end->end_ns - start->end_ns);
	*milliseconds = (float)(ns / 1e6);
	return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
	return elapsed(pMilliseconds, hStart, hEnd);
}

CUresult cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
	return elapsed(pMilliseconds, hStart, hEnd);
}

CUresult sim_event_wait(struct CUevent_st *event, struct CUstream_st *stream)
{
	while (look(event) != 0) {
		struct CUctx_st *context = stream->context;
		sim_enter();
		sim_lock();
		sim_timeline_advance(context->gpu, sim_now_ns());
		if (sim_state->context[context->queue].free_head < 0)
			sim_event_collect(context);
		int command =
			sim_timeline_submit_wait(context->queue, stream->queue, event->queue, event->command, event->sequence);
		sim_unlock();
		sim_leave();
		if (command >= 0)
			return CUDA_SUCCESS;
		sim_stream_nap(200000);
	}
	return CUDA_SUCCESS;
}

static CUresult wait_event(CUstream handle, CUevent event, unsigned flags)
{
	SIM_STREAM(stream, handle);
	if (event == NULL || !event->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	if (flags > CU_EVENT_WAIT_EXTERNAL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream) || event->state == SIM_EVENT_CAPTURED)
		return sim_capture_wait(stream, event, flags == CU_EVENT_WAIT_EXTERNAL);
	return sim_event_wait(event, stream);
}

CUresult cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	return wait_event(hStream, hEvent, Flags);
}

CUresult cuStreamWaitEvent_ptsz(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	return wait_event(hStream != NULL ? hStream : CU_STREAM_PER_THREAD, hEvent, Flags);
}
