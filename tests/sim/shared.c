// SPDX-License-Identifier: Apache-2.0
// Memory that several processes hold: counted holders in the shared state, freed with the last of them. See state.h.
#include <unistd.h>

#include "sim.h"

int sim_shared_create(int gpu, uint64_t bytes, int fd, uint64_t offset)
{
	int found = -1;
	sim_lock();
	for (int index = 0; index < SIM_SHARED_BLOCKS && found < 0; index++) {
		struct sim_shared_block *block = &sim_state->block[index];
		if (block->used)
			continue;
		*block = (struct sim_shared_block){.gpu = gpu,
			.bytes = bytes,
			.owner = sim_slot,
			.backing_pid = getpid(),
			.backing_fd = fd,
			.backing_offset = offset,
			.id = sim_state->next_id++};
		block->holder[0].process = sim_slot;
		block->holder[0].count = 1;
		block->used = 1;
		found = index;
	}
	sim_unlock();
	return found;
}

int sim_shared_find(uint64_t id)
{
	int found = -1;
	sim_lock();
	sim_reap();
	for (int index = 0; index < SIM_SHARED_BLOCKS; index++)
		if (sim_state->block[index].used && sim_state->block[index].id == id)
			found = index;
	sim_unlock();
	return found;
}

bool sim_shared_hold(int index)
{
	bool held = false;
	sim_lock();
	struct sim_shared_block *block = &sim_state->block[index];
	for (int i = 0; i < SIM_HOLDERS && !held; i++) {
		if (block->holder[i].count > 0 && block->holder[i].process == sim_slot) {
			block->holder[i].count++;
			held = true;
		}
	}
	for (int i = 0; i < SIM_HOLDERS && !held; i++) {
		if (block->holder[i].count == 0) {
			block->holder[i].process = sim_slot;
			block->holder[i].count = 1;
			held = true;
		}
	}
	sim_unlock();
	return held;
}

void sim_shared_release(int index)
{
	sim_lock();
	struct sim_shared_block *block = &sim_state->block[index];
	int heir = -1;
	bool mine = false;
	for (int i = 0; i < SIM_HOLDERS; i++) {
		if (block->holder[i].count > 0 && block->holder[i].process == sim_slot) {
			block->holder[i].count--;
			mine = block->holder[i].count > 0;
		} else if (block->holder[i].count > 0 && heir < 0) {
			heir = block->holder[i].process;
		}
	}
	if (!mine && block->owner == sim_slot) {
		sim_uncharge(sim_slot, block->gpu, block->bytes);
		if (heir >= 0) {
			block->owner = heir;
			sim_state->process[heir].used_bytes[block->gpu] += block->bytes;
		}
	}
	if (!mine && heir < 0)
		block->used = 0;
	sim_unlock();
}
