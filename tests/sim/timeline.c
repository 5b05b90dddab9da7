// SPDX-License-Identifier: Apache-2.0
// The lazy evaluation of the GPUs' timelines. See timeline.h for the model.
#include "timeline.h"

#include <string.h>

#include "collective.h"

enum { STREAM_CLOSING = 8 };
#define NEVER UINT64_MAX
#define REAP_NS 5000000ull
// sim_timeline_catch_up: as late as this a submission may be.
#define LATE_NS 20000ull
#define UNKNOWN_NS 110000ull // of what nobody knows how long it takes: look again soon

static struct sim_context_queue *context_at(int context)
{
	return &sim_state->context[context];
}

static void put_free(struct sim_context_queue *queue, int index)
{
	queue->command[index].state = SIM_FREE;
	queue->command[index].sequence = 0;
	queue->command[index].next = queue->free_head;
	queue->free_head = index;
}

int sim_timeline_open(int gpu, int slot)
{
	struct sim_gpu *its = &sim_state->gpu[gpu];
	for (int context = 0; context < SIM_CONTEXTS; context++) {
		struct sim_context_queue *queue = context_at(context);
		if (queue->used)
			continue;
		memset(queue, 0, offsetof(struct sim_context_queue, command));
		queue->process = slot;
		queue->gpu = gpu;
		queue->free_head = -1;
		for (int i = SIM_COMMANDS - 1; i >= 0; i--)
			put_free(queue, i);
		queue->used = 1;
		its->context[its->context_count++] = context;
		sim_timeline_stream_open(context, SIM_STREAM_LEGACY);
		return context;
	}
	return -1;
}

void sim_timeline_close(int context)
{
	struct sim_context_queue *queue = context_at(context);
	struct sim_gpu *gpu = &sim_state->gpu[queue->gpu];
	int kept = 0;
	for (int i = 0; i < gpu->context_count; i++)
		if (gpu->context[i] != context)
			gpu->context[kept++] = gpu->context[i];
	gpu->context_count = kept;
	if (gpu->current == context)
		gpu->current = -1;
	sim_state->collectives -= queue->collectives;
	queue->used = 0;
}

int sim_timeline_stream_open(int context, uint32_t flags)
{
	struct sim_context_queue *queue = context_at(context);
	for (int stream = 0; stream < SIM_STREAMS; stream++) {
		if (queue->stream[stream].flags != 0)
			continue;
		queue->stream[stream].head = queue->stream[stream].tail = -1;
		queue->stream[stream].pending = 0;
		queue->stream[stream].flags = flags | SIM_STREAM_USED;
		return stream;
	}
	return -1;
}

void sim_timeline_stream_close(int context, int stream)
{
	struct sim_stream_queue *its = &context_at(context)->stream[stream];
	if (its->head < 0)
		its->flags = 0;
	else
		its->flags |= STREAM_CLOSING;
}

// Removes the head of its stream: done at time t.
static void finish(struct sim_context_queue *queue, int stream, uint64_t t)
{
	struct sim_stream_queue *its = &queue->stream[stream];
	int index = its->head;
	struct sim_command *command = &queue->command[index];
	command->end_ns = t;
	its->head = command->next;
	its->pending--;
	queue->pending--;
	if (its->head < 0) {
		its->tail = -1;
		queue->active[stream / 64] &= ~(1ull << (stream % 64));
		if (its->flags & STREAM_CLOSING)
			its->flags = 0;
	}
	if (command->kind == SIM_COPY)
		queue->copies--;
	if (command->ranks > 0) {
		sim_collective_finish(queue, command);
		queue->collectives--;
		sim_state->collectives--;
	}
	if (command->kind == SIM_MARK) {
		command->state = SIM_DONE;
		queue->done_marks++;
	} else {
		put_free(queue, index);
	}
}

bool sim_timeline_done(int context, int command, uint64_t sequence, uint64_t *end_ns)
{
	const struct sim_context_queue *queue = context_at(context);
	const struct sim_command *its = &queue->command[command];
	if (!queue->used || its->sequence != sequence)
		return true;
	if (its->state != SIM_DONE)
		return false;
	if (end_ns != NULL)
		*end_ns = its->end_ns;
	return true;
}

// May this head of a stream go, as far as the legacy default stream's ordering is concerned?
static bool ordered(const struct sim_context_queue *queue, const struct sim_command *command)
{
	uint32_t flags = queue->stream[command->stream].flags;
	if (flags & SIM_STREAM_LEGACY) {
		FOR_ACTIVE(queue, other) {
			const struct sim_stream_queue *its = &queue->stream[other];
			if ((its->flags & SIM_STREAM_BLOCKING) && queue->command[its->head].sequence < command->sequence)
				return false;
		}
	} else if (flags & SIM_STREAM_BLOCKING) {
		int legacy = queue->stream[0].head;
		if (legacy >= 0 && queue->command[legacy].sequence < command->sequence)
			return false;
	}
	return true;
}

static bool wait_over(const struct sim_command *command)
{
	return sim_timeline_done(command->wait_context, command->wait_command, command->wait_sequence, NULL);
}

// Would this context use a slice?
static bool runnable(const struct sim_context_queue *queue)
{
	if (queue->pending == 0)
		return false;
	FOR_ACTIVE(queue, stream) {
		const struct sim_command *head = &queue->command[queue->stream[stream].head];
		if (head->kind == SIM_KERNEL && head->state == SIM_RUNNING)
			return true;
		if (head->state == SIM_QUEUED && ordered(queue, head) && (head->kind != SIM_WAIT || wait_over(head)))
			return true;
	}
	return false;
}

// Starts what can start at time t, and finishes what takes no time. has_slice: is it this context's turn?
static void settle(struct sim_context_queue *queue, uint64_t t, bool has_slice)
{
	for (;;) {
		bool changed = false;
		uint64_t width = 0;
		struct sim_command *next = NULL;
		FOR_ACTIVE(queue, stream) {
			struct sim_command *head = &queue->command[queue->stream[stream].head];
			if (head->state == SIM_RUNNING) {
				width += head->kind == SIM_KERNEL ? head->width_ppm : 0;
				continue;
			}
			if (!ordered(queue, head))
				continue;
			switch ((enum sim_command_kind)head->kind) {
			case SIM_MARK:
				if (has_slice) {
					finish(queue, stream, t);
					changed = true;
				}
				break;
			case SIM_WAIT:
				if (wait_over(head)) {
					finish(queue, stream, t);
					changed = true;
				}
				break;
			case SIM_HOST:
			case SIM_POLL:
				head->state = SIM_RUNNING;
				head->end_ns = t;
				break;
			case SIM_COPY:
				head->state = SIM_RUNNING;
				head->end_ns = t + head->left_ns;
				queue->copies++;
				break;
			case SIM_KERNEL:
				if (next == NULL || head->sequence < next->sequence)
					next = head;
				break;
			}
		}
		if (changed)
			continue;
		if (!has_slice || next == NULL || (width > 0 && width + next->width_ppm > SIM_FULL_WIDTH))
			return;
		next->state = SIM_RUNNING;
	}
}

static void count_busy(struct sim_gpu *gpu, const struct sim_context_queue *queue, uint64_t t, uint64_t ns)
{
	struct sim_process *process = &sim_state->process[queue->process];
	gpu->busy_ns += ns;
	process->busy_ns[queue->gpu] += ns;
	while (ns > 0) {
		uint64_t index = t / SIM_SAMPLE_NS;
		uint64_t part = (index + 1) * SIM_SAMPLE_NS - t;
		part = part < ns ? part : ns;
		for (; gpu->sample_index < index; gpu->sample_index++)
			gpu->sample_ns[(gpu->sample_index + 1) % SIM_SAMPLES] = 0;
		gpu->sample_ns[index % SIM_SAMPLES] += part;
		if (process->window_index[queue->gpu] != index) {
			process->window_ns[queue->gpu][1] =
				process->window_index[queue->gpu] + 1 == index ? process->window_ns[queue->gpu][0] : 0;
			process->window_ns[queue->gpu][0] = 0;
			process->window_index[queue->gpu] = index;
		}
		process->window_ns[queue->gpu][0] += part;
		t += part;
		ns -= part;
	}
}

static uint64_t next_copy_end(const struct sim_gpu *gpu)
{
	uint64_t end = NEVER;
	for (int i = 0; i < gpu->context_count; i++) {
		const struct sim_context_queue *queue = context_at(gpu->context[i]);
		if (queue->copies == 0)
			continue;
		FOR_ACTIVE(queue, stream) {
			const struct sim_command *head = &queue->command[queue->stream[stream].head];
			if (head->kind == SIM_COPY && head->state == SIM_RUNNING && head->end_ns < end)
				end = head->end_ns;
		}
	}
	return end;
}

static void finish_copies(struct sim_gpu *gpu, uint64_t t)
{
	for (int i = 0; i < gpu->context_count; i++) {
		struct sim_context_queue *queue = context_at(gpu->context[i]);
		if (queue->copies == 0)
			continue;
		FOR_ACTIVE(queue, stream) {
			const struct sim_command *head = &queue->command[queue->stream[stream].head];
			if (head->kind == SIM_COPY && head->state == SIM_RUNNING && head->end_ns <= t)
				finish(queue, stream, head->end_ns);
		}
		settle(queue, t, gpu->current == gpu->context[i] && gpu->switch_left_ns == 0);
	}
}

// Whose turn is next after the present context; -1: nobody else wants one.
static int next_turn(const struct sim_gpu *gpu)
{
	int at = -1;
	for (int i = 0; i < gpu->context_count; i++)
		if (gpu->context[i] == gpu->current)
			at = i;
	for (int i = 1; i <= gpu->context_count; i++) {
		int context = gpu->context[(at + i + gpu->context_count) % gpu->context_count];
		if (context != gpu->current && runnable(context_at(context)))
			return context;
	}
	return -1;
}

static void switch_to(struct sim_gpu *gpu, int context, uint64_t cost_ns)
{
	gpu->switch_left_ns = gpu->current < 0 ? 0 : cost_ns;
	gpu->current = context;
	gpu->slice_left_ns = sim_state->slice_ns;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static bool computes(const struct sim_context_queue *queue)
{
	FOR_ACTIVE(queue, stream) {
		const struct sim_command *head = &queue->command[queue->stream[stream].head];
		if (head->kind == SIM_KERNEL && head->state == SIM_RUNNING)
			return true;
	}
	return false;
}

static bool gets_on(const struct sim_command *head)
{
	return head->kind == SIM_KERNEL && head->state == SIM_RUNNING && (head->ranks == 0 || head->met);
}

// Makes all changes that take no time, until the GPU computes, switches, or has nothing to do.
static void prepare(struct sim_gpu *gpu)
{
	for (;;) {
		if (next_copy_end(gpu) <= gpu->clock_ns) {
			finish_copies(gpu, gpu->clock_ns);
			continue;
		}
		if (gpu->switch_left_ns > 0)
			return;
		if (gpu->current >= 0) {
			settle(context_at(gpu->current), gpu->clock_ns, true);
			if (computes(context_at(gpu->current)))
				return;
		}
		int next = next_turn(gpu);
		if (next < 0) {
			gpu->slice_left_ns = sim_state->slice_ns;
			return;
		}
		switch_to(gpu, next, sim_state->idle_switch_ns);
	}
}

// How long nothing changes on a prepared GPU.
static uint64_t steady_ns(const struct sim_gpu *gpu)
{
	uint64_t copy_end = next_copy_end(gpu), ns = copy_end == NEVER ? NEVER : copy_end - gpu->clock_ns;
	if (gpu->switch_left_ns > 0)
		return least(ns, gpu->switch_left_ns);
	if (gpu->current < 0 || !computes(context_at(gpu->current)))
		return ns;
	const struct sim_context_queue *queue = context_at(gpu->current);
	FOR_ACTIVE(queue, stream) {
		const struct sim_command *head = &queue->command[queue->stream[stream].head];
		if (gets_on(head))
			ns = least(ns, head->left_ns);
	}
	return least(ns, gpu->slice_left_ns);
}

// Lets the present context compute.
static void compute(struct sim_gpu *gpu, struct sim_context_queue *queue, uint64_t ns)
{
	count_busy(gpu, queue, gpu->clock_ns, ns);
	gpu->clock_ns += ns;
	gpu->slice_left_ns -= ns;
	FOR_ACTIVE(queue, stream) {
		struct sim_command *head = &queue->command[queue->stream[stream].head];
		if (!gets_on(head))
			continue;
		head->left_ns -= ns;
		if (head->left_ns == 0)
			finish(queue, stream, gpu->clock_ns);
	}
	settle(queue, gpu->clock_ns, true);
	if (gpu->slice_left_ns > 0)
		return;
	int next = next_turn(gpu);
	if (next >= 0)
		switch_to(gpu, next, sim_state->switch_ns);
	else
		gpu->slice_left_ns = sim_state->slice_ns;
}

// Lets time pass on a prepared GPU, no longer than it is steady.
static void pass(struct sim_gpu *gpu, uint64_t ns)
{
	if (gpu->switch_left_ns > 0) {
		gpu->switch_left_ns -= ns;
		gpu->clock_ns += ns;
	} else if (gpu->current >= 0 && computes(context_at(gpu->current))) {
		compute(gpu, context_at(gpu->current), ns);
	} else {
		gpu->clock_ns += ns;
	}
}

// Brings count GPUs to the time now, step by step together: none goes on before all are where it is.
static void advance(struct sim_gpu *gpu, int count, uint64_t now_ns)
{
	for (;;) {
		uint64_t first_ns = now_ns, until_ns = now_ns;
		for (int i = 0; i < count; i++)
			first_ns = least(first_ns, gpu[i].clock_ns);
		if (first_ns == now_ns)
			break;
		for (int i = 0; i < count; i++) {
			if (gpu[i].clock_ns > first_ns)
				until_ns = least(until_ns, gpu[i].clock_ns);
			else
				prepare(&gpu[i]);
		}
		if (sim_state->collectives > 0)
			sim_collective_meet();
		uint64_t ns = until_ns - first_ns;
		for (int i = 0; i < count; i++)
			if (gpu[i].clock_ns == first_ns)
				ns = least(ns, steady_ns(&gpu[i]));
		for (int i = 0; i < count; i++)
			if (gpu[i].clock_ns == first_ns)
				pass(&gpu[i], ns);
	}
	// What takes no time and stands at the head of its stream is done now, not at the next question.
	for (int i = 0; i < count; i++) {
		if (next_copy_end(&gpu[i]) <= gpu[i].clock_ns)
			finish_copies(&gpu[i], gpu[i].clock_ns);
		if (gpu[i].current >= 0 && gpu[i].switch_left_ns == 0)
			settle(context_at(gpu[i].current), gpu[i].clock_ns, true);
	}
}

void sim_timeline_advance(int index, uint64_t now_ns)
{
	if (now_ns > sim_state->reaped_ns + REAP_NS)
		sim_reap(); // what the dead had queued is not done
	if (sim_state->collectives > 0)
		advance(sim_state->gpu, sim_state->gpu_count, now_ns);
	else
		advance(&sim_state->gpu[index], 1, now_ns);
}

void sim_timeline_catch_up(int index)
{
	uint64_t now_ns;
	int tries = 3;
	do {
		now_ns = sim_now_ns();
		sim_timeline_advance(index, now_ns);
	} while (--tries > 0 && sim_now_ns() > now_ns + LATE_NS);
}

static int append(int context, int stream, const struct sim_command *what, uint64_t *sequence)
{
	struct sim_context_queue *queue = context_at(context);
	int index = queue->free_head;
	if (index < 0)
		return -1;
	struct sim_command *command = &queue->command[index];
	struct sim_stream_queue *its = &queue->stream[stream];
	queue->free_head = command->next;
	*command = *what;
	command->state = SIM_QUEUED;
	command->stream = (uint16_t)stream;
	command->next = -1;
	command->sequence = ++sim_state->next_sequence;
	if (its->tail >= 0)
		queue->command[its->tail].next = index;
	else
		its->head = index;
	its->tail = index;
	its->pending++;
	queue->pending++;
	queue->active[stream / 64] |= 1ull << (stream % 64);
	if (sequence != NULL)
		*sequence = command->sequence;
	struct sim_gpu *gpu = &sim_state->gpu[queue->gpu];
	if (gpu->current < 0
		|| (gpu->current != context && gpu->switch_left_ns == 0 && !runnable(context_at(gpu->current))))
		switch_to(gpu, context, sim_state->idle_switch_ns);
	settle(queue, gpu->clock_ns, gpu->current == context && gpu->switch_left_ns == 0);
	return index;
}

int sim_timeline_submit(
	int context, int stream, enum sim_command_kind kind, uint64_t ns, uint32_t width_ppm, int tag, uint64_t *sequence)
{
	struct sim_command command = {.kind = (uint16_t)kind, .left_ns = ns, .width_ppm = width_ppm, .wait_context = tag};
	return append(context, stream, &command, sequence);
}

int sim_timeline_submit_collective(
	int context, int stream, uint64_t ns, uint32_t width_ppm, uint32_t ranks, uint64_t communicator)
{
	struct sim_context_queue *queue = context_at(context);
	struct sim_command command = {
		.kind = SIM_KERNEL, .left_ns = ns, .width_ppm = width_ppm, .ranks = ranks, .communicator = communicator};
	if (queue->free_head < 0)
		return -1;
	if (!sim_collective_number(queue, communicator, &command.number))
		return -2;
	// From here on all clocks go together.
	for (int gpu = 0; gpu < sim_state->gpu_count && sim_state->collectives == 0; gpu++)
		advance(&sim_state->gpu[gpu], 1, sim_state->gpu[queue->gpu].clock_ns);
	queue->collectives++;
	sim_state->collectives++;
	return append(context, stream, &command, NULL);
}

int sim_timeline_submit_wait(int context, int stream, int on_context, int on_command, uint64_t on_sequence)
{
	struct sim_command command = {
		.kind = SIM_WAIT, .wait_context = on_context, .wait_command = on_command, .wait_sequence = on_sequence};
	return append(context, stream, &command, NULL);
}

void sim_timeline_release(int context, int command, uint64_t sequence, uint64_t now_ns)
{
	struct sim_context_queue *queue = context_at(context);
	struct sim_command *its = &queue->command[command];
	if (!queue->used || its->sequence != sequence)
		return;
	if (its->state == SIM_DONE) {
		queue->done_marks--;
		put_free(queue, command);
	} else if (its->state == SIM_RUNNING && (its->kind == SIM_HOST || its->kind == SIM_POLL)) {
		struct sim_gpu *gpu = &sim_state->gpu[queue->gpu];
		finish(queue, its->stream, now_ns);
		settle(queue, gpu->clock_ns, gpu->current == context && gpu->switch_left_ns == 0);
	}
}

uint64_t sim_timeline_left(int context, int stream, uint64_t sequence)
{
	const struct sim_context_queue *queue = context_at(context);
	const struct sim_gpu *gpu = &sim_state->gpu[queue->gpu];
	uint64_t longest = 0;
	FOR_ACTIVE(queue, number) {
		uint64_t left = 0;
		if (stream >= 0 && number != stream)
			continue;
		for (int i = queue->stream[number].head; i >= 0; i = queue->command[i].next) {
			const struct sim_command *command = &queue->command[i];
			if (command->sequence > sequence)
				break;
			left++; // even what takes no time is not done
			if (command->kind == SIM_HOST || command->kind == SIM_POLL || command->kind == SIM_WAIT)
				left += UNKNOWN_NS;
			if (command->kind == SIM_KERNEL && command->ranks > 0 && !command->met)
				left += UNKNOWN_NS;
			if (command->kind == SIM_COPY && command->state == SIM_RUNNING)
				left += command->end_ns > gpu->clock_ns ? command->end_ns - gpu->clock_ns : 0;
			else
				left += command->left_ns;
		}
		longest = left > longest ? left : longest;
	}
	if (longest > 0 && gpu->current != context && gpu->current >= 0 && runnable(context_at(gpu->current)))
		longest += gpu->slice_left_ns + gpu->switch_left_ns;
	return longest;
}

static void repair_context(struct sim_context_queue *queue)
{
	queue->free_head = -1;
	queue->pending = queue->done_marks = queue->copies = queue->collectives = 0;
	memset(queue->active, 0, sizeof(queue->active));
	for (int stream = 0; stream < SIM_STREAMS; stream++) {
		queue->stream[stream].head = queue->stream[stream].tail = -1;
		queue->stream[stream].pending = 0;
	}
	for (int index = SIM_COMMANDS - 1; index >= 0; index--) {
		struct sim_command *command = &queue->command[index];
		if (command->state == SIM_FREE || command->sequence == 0 || command->stream >= SIM_STREAMS) {
			put_free(queue, index);
			continue;
		}
		if (command->state == SIM_DONE) {
			queue->done_marks++;
			continue;
		}
		struct sim_stream_queue *its = &queue->stream[command->stream];
		int *link = &its->head;
		while (*link >= 0 && queue->command[*link].sequence < command->sequence)
			link = &queue->command[*link].next;
		command->next = *link;
		*link = index;
		if (command->next < 0)
			its->tail = index;
		its->pending++;
		queue->pending++;
		queue->copies += command->kind == SIM_COPY && command->state == SIM_RUNNING;
		queue->collectives += command->ranks > 0;
		queue->active[command->stream / 64] |= 1ull << (command->stream % 64);
	}
}

void sim_timeline_repair(void)
{
	sim_state->collectives = 0;
	for (int index = 0; index < sim_state->gpu_count; index++) {
		sim_state->gpu[index].context_count = 0;
		sim_state->gpu[index].current = -1;
	}
	for (int context = 0; context < SIM_CONTEXTS; context++) {
		struct sim_context_queue *queue = context_at(context);
		if (!queue->used)
			continue;
		if (!sim_process_alive(queue->process)) {
			queue->used = 0;
			continue;
		}
		repair_context(queue);
		sim_state->collectives += queue->collectives;
		struct sim_gpu *gpu = &sim_state->gpu[queue->gpu];
		gpu->context[gpu->context_count++] = context;
	}
}
