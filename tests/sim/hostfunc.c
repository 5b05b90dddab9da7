// SPDX-License-Identifier: Apache-2.0
// What the host does in the order of a stream: host functions, callbacks, writing values, waiting for values. Owns: the
// one helper thread, started when there is such work and ended when there has been none for a while.
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sim.h"

struct host_work {
	struct host_work *next;
	struct CUctx_st *context;
	int queue, command;
	uint64_t sequence;
	struct sim_host_task task;
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t list_changed = PTHREAD_COND_INITIALIZER;
static struct host_work *list;
static pid_t helper_pid; // of the process that has a helper

static bool value_arrived(const struct sim_host_task *task)
{
	uint64_t value = task->width == 4 ? *(volatile uint32_t *)(uintptr_t)task->address
		: *(volatile uint64_t *)(uintptr_t)task->address;
	uint64_t mask = task->width == 4 ? UINT32_MAX : UINT64_MAX;
	switch (task->flags & 3u) {
	case CU_STREAM_WAIT_VALUE_GEQ:
		return task->width == 4 ? (int32_t)(value - task->value) >= 0 : (int64_t)(value - task->value) >= 0;
	case CU_STREAM_WAIT_VALUE_EQ: return value == (task->value & mask);
	case CU_STREAM_WAIT_VALUE_AND: return (value & task->value) != 0;
	default: return (~(value | task->value) & mask) != 0;
	}
}

static void perform(const struct sim_host_task *task)
{
	if (task->function != NULL)
		task->function(task->data);
	else if (task->callback != NULL)
		task->callback(task->handle, CUDA_SUCCESS, task->data);
	else if (task->width == 4)
		__atomic_store_n((uint32_t *)(uintptr_t)task->address, (uint32_t)task->value, __ATOMIC_RELEASE);
	else
		__atomic_store_n((uint64_t *)(uintptr_t)task->address, task->value, __ATOMIC_RELEASE);
}

enum progress { LATER, NOW, GONE };

static enum progress look(const struct host_work *work)
{
	enum progress progress = LATER;
	sim_lock();
	const struct sim_context_queue *queue = &sim_state->context[work->queue];
	if (queue->used)
		sim_timeline_advance(queue->gpu, sim_now_ns());
	const struct sim_command *command = &queue->command[work->command];
	if (!queue->used || command->sequence != work->sequence)
		progress = GONE;
	else if (command->state == SIM_RUNNING)
		progress = NOW;
	sim_unlock();
	return progress == NOW && work->task.poll && !value_arrived(&work->task) ? LATER : progress;
}

static void complete(struct host_work *work)
{
	if (!work->task.poll)
		perform(&work->task);
	sim_lock();
	uint64_t now_ns = sim_now_ns();
	const struct sim_context_queue *queue = &sim_state->context[work->queue];
	if (queue->used)
		sim_timeline_advance(queue->gpu, now_ns);
	sim_timeline_release(work->queue, work->command, work->sequence, now_ns);
	sim_unlock();
	free(work);
}

// One round over the list; list_lock held, let go while something is performed. Returns whether anything was.
static bool round_over_list(void)
{
	for (struct host_work **link = &list; *link != NULL; link = &(*link)->next) {
		struct host_work *work = *link;
		enum progress progress = look(work);
		if (progress == LATER)
			continue;
		*link = work->next;
		if (progress == GONE) {
			free(work);
		} else {
			pthread_mutex_unlock(&list_lock);
			complete(work);
			pthread_mutex_lock(&list_lock);
		}
		return true;
	}
	return false;
}

static void *help(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&list_lock);
	for (;;) {
		if (list == NULL) {
			struct timespec until;
			clock_gettime(CLOCK_REALTIME, &until);
			until.tv_sec += 1;
			pthread_cond_timedwait(&list_changed, &list_lock, &until);
			if (list == NULL)
				break;
		}
		if (round_over_list())
			continue;
		pthread_mutex_unlock(&list_lock);
		nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
		pthread_mutex_lock(&list_lock);
	}
	helper_pid = 0;
	pthread_mutex_unlock(&list_lock);
	return NULL;
}

CUresult sim_host_submit(struct CUstream_st *stream, const struct sim_host_task *task)
{
	struct host_work *work = calloc(1, sizeof(*work));
	if (work == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	struct CUctx_st *context = stream->context;
	work->context = context;
	work->queue = context->queue;
	work->task = *task;
	for (work->command = -1; work->command < 0;) {
		pthread_mutex_lock(&list_lock);
		sim_lock();
		sim_timeline_advance(context->gpu, sim_now_ns());
		work->command = sim_timeline_submit(
			context->queue, stream->queue, task->poll ? SIM_POLL : SIM_HOST, 0, 0, 0, &work->sequence);
		sim_unlock();
		if (work->command >= 0) {
			struct host_work **link = &list;
			while (*link != NULL)
				link = &(*link)->next;
			*link = work;
			pthread_t thread;
			if (helper_pid == 0 && pthread_create(&thread, NULL, help, NULL) == 0) {
				pthread_detach(thread);
				helper_pid = 1;
			}
			pthread_cond_signal(&list_changed);
		}
		pthread_mutex_unlock(&list_lock);
		if (work->command < 0) {
			sim_enter();
			sim_lock();
			sim_event_collect(context);
			sim_unlock();
			sim_leave();
			sim_stream_nap(200000);
		}
	}
	return CUDA_SUCCESS;
}

static CUresult submit(CUstream handle, struct sim_host_task task)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	task.handle = handle;
	return sim_capturing(stream) ? sim_capture_host(stream, &task) : sim_host_submit(stream, &task);
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)

CUresult cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
	return fn == NULL ? CUDA_ERROR_INVALID_VALUE
		: submit(hStream, (struct sim_host_task){.function = fn, .data = userData});
}

CUresult cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
	return cuLaunchHostFunc(THREADED(hStream), fn, userData);
}

CUresult cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
	if (callback == NULL || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	return submit(hStream, (struct sim_host_task){.callback = callback, .data = userData});
}

CUresult cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
	return cuStreamAddCallback(THREADED(hStream), callback, userData, flags);
}

static CUresult value_op(CUstream stream, uint64_t address, uint64_t value, int width, unsigned flags, bool wait)
{
	if (address == 0 || address % (unsigned)width != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (!sim_accessible(address, (unsigned)width))
		return CUDA_ERROR_INVALID_VALUE;
	return submit(stream,
		(struct sim_host_task){.poll = wait, .address = address, .value = value, .width = width, .flags = flags});
}

// Two generations of the same four functions, each with its per-thread form.
#define VALUE_OPS(suffix) \
	CUresult cuStreamWriteValue32##suffix(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned f) \
	{ \
		return value_op(s, a, v, 4, f, false); \
	} \
	CUresult cuStreamWriteValue32##suffix##_ptsz(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned f) \
	{ \
		return value_op(THREADED(s), a, v, 4, f, false); \
	} \
	CUresult cuStreamWriteValue64##suffix(CUstream s, CUdeviceptr a, cuuint64_t v, unsigned f) \
	{ \
		return value_op(s, a, v, 8, f, false); \
	} \
	CUresult cuStreamWriteValue64##suffix##_ptsz(CUstream s, CUdeviceptr a, cuuint64_t v, unsigned f) \
	{ \
		return value_op(THREADED(s), a, v, 8, f, false); \
	} \
	CUresult cuStreamWaitValue32##suffix(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned f) \
	{ \
		return value_op(s, a, v, 4, f, true); \
	} \
	CUresult cuStreamWaitValue32##suffix##_ptsz(CUstream s, CUdeviceptr a, cuuint32_t v, unsigned f) \
	{ \
		return value_op(THREADED(s), a, v, 4, f, true); \
	} \
	CUresult cuStreamWaitValue64##suffix(CUstream s, CUdeviceptr a, cuuint64_t v, unsigned f) \
	{ \
		return value_op(s, a, v, 8, f, true); \
	} \
	CUresult cuStreamWaitValue64##suffix##_ptsz(CUstream s, CUdeviceptr a, cuuint64_t v, unsigned f) \
	{ \
		return value_op(THREADED(s), a, v, 8, f, true); \
	}
VALUE_OPS()
VALUE_OPS(_v2)

static CUresult batch(CUstream stream, unsigned count, const CUstreamBatchMemOpParams *list_of)
{
	SIM_READY();
	if (count == 0 || list_of == NULL || count > 256)
		return CUDA_ERROR_INVALID_VALUE;
	for (unsigned i = 0; i < count; i++) {
		const CUstreamBatchMemOpParams *one = &list_of[i];
		CUresult result;
		switch ((int)one->operation) {
		case CU_STREAM_MEM_OP_WAIT_VALUE_32:
			result = value_op(stream, one->waitValue.address, one->waitValue.value, 4, one->waitValue.flags, true);
			break;
		case CU_STREAM_MEM_OP_WAIT_VALUE_64:
			result = value_op(stream, one->waitValue.address, one->waitValue.value64, 8, one->waitValue.flags, true);
			break;
		case CU_STREAM_MEM_OP_WRITE_VALUE_32:
			result = value_op(stream, one->writeValue.address, one->writeValue.value, 4, one->writeValue.flags, false);
			break;
		case CU_STREAM_MEM_OP_WRITE_VALUE_64:
			result =
				value_op(stream, one->writeValue.address, one->writeValue.value64, 8, one->writeValue.flags, false);
			break;
		case CU_STREAM_MEM_OP_BARRIER:
		case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES: result = CUDA_SUCCESS; break;
		default: result = CUDA_ERROR_INVALID_VALUE;
		}
		if (result != CUDA_SUCCESS)
			return result;
	}
	return CUDA_SUCCESS;
}

#define BATCH(suffix) \
	CUresult cuStreamBatchMemOp##suffix(CUstream s, unsigned n, CUstreamBatchMemOpParams *p, unsigned f) \
	{ \
		return f != 0 ? CUDA_ERROR_INVALID_VALUE : batch(s, n, p); \
	} \
	CUresult cuStreamBatchMemOp##suffix##_ptsz(CUstream s, unsigned n, CUstreamBatchMemOpParams *p, unsigned f) \
	{ \
		return f != 0 ? CUDA_ERROR_INVALID_VALUE : batch(THREADED(s), n, p); \
	}
BATCH()
BATCH(_v2)
