// SPDX-License-Identifier: Apache-2.0
// Who of a collective is there. See collective.h. Nothing is kept but each context's own figures, so what a rank that was
// killed had of a communicator is gone with its context, and those that wait for it wait on.
#include "collective.h"

#include "timeline.h"

static int find(const struct sim_context_queue *queue, uint64_t communicator)
{
	for (uint32_t i = 0; i < queue->communicators; i++)
		if (queue->communicator[i].name == communicator)
			return (int)i;
	return -1;
}

bool sim_collective_number(struct sim_context_queue *queue, uint64_t communicator, uint64_t *number)
{
	int i = find(queue, communicator);
	if (i < 0 && queue->communicators < SIM_COMMUNICATORS) {
		i = (int)queue->communicators++;
		queue->communicator[i].name = communicator;
		queue->communicator[i].submitted = queue->communicator[i].finished = 0;
	}
	if (i < 0)
		return false;
	*number = queue->communicator[i].submitted++;
	return true;
}

void sim_collective_finish(struct sim_context_queue *queue, const struct sim_command *command)
{
	int i = find(queue, command->communicator);
	if (i >= 0 && queue->communicator[i].finished <= command->number)
		queue->communicator[i].finished = command->number + 1;
}

// The queue that a GPU works on at this moment; NULL: none.
static struct sim_context_queue *working(const struct sim_gpu *gpu)
{
	return gpu->current >= 0 && gpu->switch_left_ns == 0 ? &sim_state->context[gpu->current] : NULL;
}

// Has this GPU done its part of the collective, or is it at it? Done: all ranks end at the same moment, unless a process was
// killed while it computed that; then the rest goes on by itself.
static bool is_there(const struct sim_gpu *gpu, const struct sim_command *what)
{
	for (int i = 0; i < gpu->context_count; i++) {
		const struct sim_context_queue *queue = &sim_state->context[gpu->context[i]];
		int at = find(queue, what->communicator);
		if (at >= 0 && queue->communicator[at].finished > what->number)
			return true;
	}
	const struct sim_context_queue *queue = working(gpu);
	if (queue == NULL || queue->collectives == 0)
		return false;
	FOR_ACTIVE(queue, stream) {
		const struct sim_command *head = &queue->command[queue->stream[stream].head];
		if (head->state == SIM_RUNNING && head->ranks > 0 && head->communicator == what->communicator
			&& head->number == what->number)
			return true;
	}
	return false;
}

void sim_collective_meet(void)
{
	for (int gpu = 0; gpu < sim_state->gpu_count; gpu++) {
		struct sim_context_queue *queue = working(&sim_state->gpu[gpu]);
		if (queue == NULL || queue->collectives == 0)
			continue;
		FOR_ACTIVE(queue, stream) {
			struct sim_command *head = &queue->command[queue->stream[stream].head];
			if (head->state != SIM_RUNNING || head->ranks == 0)
				continue;
			uint32_t there = 0;
			for (int other = 0; other < sim_state->gpu_count; other++)
				there += is_there(&sim_state->gpu[other], head);
			head->met = there >= head->ranks;
		}
	}
}
