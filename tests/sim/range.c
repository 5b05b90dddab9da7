// SPDX-License-Identifier: Apache-2.0
// Which addresses are the driver's: a sorted table of everything that it handed out. sim_enter held in all calls.
#include <stdlib.h>
#include <string.h>

#include "sim.h"

static struct sim_range **table;
static size_t count, room;

uint64_t sim_next_id(void)
{
	sim_lock();
	uint64_t id = sim_state->next_id++;
	sim_unlock();
	return id;
}

// The first range that starts above address.
static size_t above(uint64_t address)
{
	size_t low = 0, high = count;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (table[middle]->base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

struct sim_range *sim_range_add(uint64_t base, uint64_t bytes, enum sim_range_kind kind)
{
	if (count == room) {
		size_t more = room == 0 ? 256 : room * 2;
		struct sim_range **bigger = realloc(table, more * sizeof(*table));
		if (bigger == NULL)
			return NULL;
		table = bigger;
		room = more;
	}
	struct sim_range *range = calloc(1, sizeof(*range));
	if (range == NULL)
		return NULL;
	range->base = base;
	range->bytes = bytes;
	range->kind = kind;
	range->device = -1;
	range->shared_block = -1;
	range->id = sim_next_id();
	size_t at = above(base);
	memmove(&table[at + 1], &table[at], (count - at) * sizeof(*table));
	table[at] = range;
	count++;
	return range;
}

struct sim_range *sim_range_find(uint64_t address)
{
	size_t at = above(address);
	if (at == 0)
		return NULL;
	struct sim_range *range = table[at - 1];
	return address - range->base < range->bytes ? range : NULL;
}

void sim_range_remove(struct sim_range *range)
{
	size_t at = above(range->base);
	while (at > 0 && table[at - 1] != range)
		at--;
	if (at == 0)
		return;
	memmove(&table[at - 1], &table[at], (count - at) * sizeof(*table));
	count--;
	free(range);
}

void sim_range_each(void (*body)(struct sim_range *range, void *argument), void *argument)
{
	for (size_t i = count; i > 0; i--) // backwards: the body may remove the one it is given
		if (i <= count)
			body(table[i - 1], argument);
}

static void drop(struct sim_range *range, void *argument)
{
	if (range->context != argument)
		return;
	switch (range->kind) {
	case SIM_RANGE_DEVICE:
	case SIM_RANGE_MANAGED:
	case SIM_RANGE_SMALL:
	case SIM_RANGE_GLOBAL:
	case SIM_RANGE_IPC:
	case SIM_RANGE_EXTERNAL:
		sim_free(range);
		break;
	case SIM_RANGE_HOST: // pinned memory lives on with the process
	case SIM_RANGE_REGISTERED:
	case SIM_RANGE_RESERVED: // virtual memory and pools belong to the device, not to a context
	case SIM_RANGE_POOL:
	case SIM_RANGE_GRAPH:
		range->context = NULL;
		break;
	}
}

void sim_range_drop_context(struct CUctx_st *context)
{
	sim_range_each(drop, context);
}
