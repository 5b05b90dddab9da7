// SPDX-License-Identifier: Apache-2.0
// Memory that several processes hold: counted holders in the shared state, freed with the last of them. See state.h.
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
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
			.originals = 1,
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

int sim_shared_create_for_descriptors(int gpu, uint64_t bytes)
{
	int index = sim_shared_create(gpu, bytes, -1, 0);
	if (index < 0)
		return index;
	sim_lock();
	sim_state->block[index].holder[0].count = 0;
	sim_unlock();
	return index;
}

void sim_shared_leave_to_descriptors(int index)
{
	sim_lock();
	sim_state->block[index].owner = -1;
	sim_shared_settle();
	sim_unlock();
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

// One more of this process, in the place that it has or in an empty one. False: there is none.
static bool add_holder(struct sim_holder *holder)
{
	struct sim_holder *place = NULL;
	for (int i = SIM_HOLDERS - 1; i >= 0; i--)
		if (holder[i].count == 0)
			place = &holder[i];
	for (int i = 0; i < SIM_HOLDERS; i++)
		if (holder[i].count > 0 && holder[i].process == sim_slot)
			place = &holder[i];
	if (place == NULL)
		return false;
	place->process = sim_slot;
	place->count++;
	return true;
}

// One fewer of this process. Does it hold it still?
static bool drop_holder(struct sim_holder *holder)
{
	for (int i = 0; i < SIM_HOLDERS; i++)
		if (holder[i].count > 0 && holder[i].process == sim_slot)
			return --holder[i].count > 0;
	return false;
}

bool sim_shared_hold(int index)
{
	sim_lock();
	bool held = add_holder(sim_state->block[index].holder);
	sim_unlock();
	return held;
}

void sim_shared_release(int index, bool original)
{
	sim_lock();
	struct sim_shared_block *block = &sim_state->block[index];
	bool mine = drop_holder(block->holder);
	if (original && block->originals > 0)
		block->originals--;
	if (block->owner == sim_slot && (block->inherited ? !mine : block->originals == 0)) {
		sim_uncharge(sim_slot, block->gpu, block->bytes);
		block->owner = -1;
	}
	sim_shared_settle();
	sim_unlock();
}

int sim_shared_file(int index)
{
	char path[PATH_MAX + 96];
	sim_lock();
	struct sim_shared_block *block = &sim_state->block[index];
	sim_shared_path(block, path, sizeof(path));
	unlink(path); // of an earlier state in the same place
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	block->has_file = fd >= 0;
	sim_unlock();
	if (fd >= 0 && ftruncate(fd, (off_t)block->bytes) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

// What is open stands for a descriptor that was given out from now on.
static int lock_file(int fd)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
	if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) != 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int sim_shared_export(int index, int fd)
{
	int out = lock_file(sim_shared_reopen(fd, 0));
	sim_lock();
	if (out >= 0)
		sim_state->block[index].exported = 1;
	sim_unlock();
	return out;
}

int sim_shared_reopen(int fd, int flags)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDWR | flags);
}

// --- pools

int sim_shared_pool(uint64_t id, int gpu, bool maker)
{
	int found = -1, empty = -1;
	sim_lock();
	sim_reap();
	for (int index = 0; index < SIM_SHARED_POOLS && found < 0; index++) {
		const struct sim_shared_pool *pool = &sim_state->pool[index];
		if (pool->used && pool->id == id)
			found = index;
		else if (!pool->used && empty < 0)
			empty = index;
	}
	if (found < 0 && maker && empty >= 0) {
		struct sim_shared_pool *pool = &sim_state->pool[empty];
		*pool = (struct sim_shared_pool){.gpu = gpu, .id = id, .maker = sim_slot};
		pool->holder[0].process = sim_slot;
		pool->holder[0].count = 1;
		pool->used = 1;
		found = empty;
	}
	sim_unlock();
	return found;
}

bool sim_shared_pool_hold(int index)
{
	sim_lock();
	bool held = add_holder(sim_state->pool[index].holder);
	sim_unlock();
	return held;
}

void sim_shared_pool_release(int index)
{
	sim_lock();
	drop_holder(sim_state->pool[index].holder);
	sim_shared_settle();
	sim_unlock();
}

int sim_shared_pool_export(int index)
{
	char path[PATH_MAX + 96];
	sim_lock();
	struct sim_shared_pool *pool = &sim_state->pool[index];
	sim_shared_pool_path(pool, path, sizeof(path));
	if (!pool->exported)
		unlink(path); // of an earlier state in the same place
	int fd = lock_file(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666));
	if (fd >= 0)
		pool->exported = 1;
	sim_unlock();
	return fd;
}

void sim_shared_pool_reserved(int index, uint64_t bytes)
{
	sim_lock();
	sim_state->pool[index].reserved_bytes += bytes;
	sim_unlock();
}

void sim_shared_pool_given_back(int index, uint64_t bytes)
{
	sim_lock();
	struct sim_shared_pool *pool = &sim_state->pool[index];
	pool->reserved_bytes -= bytes;
	pool->hidden_bytes += bytes;
	sim_uncharge(sim_slot, pool->gpu, bytes);
	sim_shared_settle();
	sim_unlock();
}

// --- pointers of pools that are imported

void sim_shared_pool_pointer_imported(int index, uint64_t place, uint64_t bytes, uint64_t generation, uint64_t address)
{
	sim_lock();
	struct sim_shared_pool *pool = &sim_state->pool[index];
	struct sim_pool_import *free_one = NULL;
	for (int i = 0; i < SIM_POOL_IMPORTS; i++) {
		struct sim_pool_import *import = &pool->import[i];
		if (!import->used) {
			free_one = import;
		} else if (import->process == sim_slot && sim_pool_import_covers(import, place, bytes) && import->generation < generation) {
			sim_pool_import_pass_on(pool, import);
			import->bytes = 0;
		}
	}
	if (free_one != NULL)
		*free_one = (struct sim_pool_import){.used = 1,
			.process = sim_slot,
			.address = address,
			.place = place,
			.bytes = bytes,
			.generation = generation,
			.renewed = UINT64_MAX};
	sim_unlock();
}

void sim_shared_pool_pointer_freed(int index, uint64_t address)
{
	sim_lock();
	struct sim_shared_pool *pool = &sim_state->pool[index];
	for (int i = 0; i < SIM_POOL_IMPORTS; i++) {
		struct sim_pool_import *import = &pool->import[i];
		if (!import->used || import->process != sim_slot || import->address != address)
			continue;
		sim_pool_import_pass_on(pool, import);
		import->used = 0;
	}
	sim_unlock();
}

void sim_shared_pool_let_go(int index, uint64_t place, uint64_t bytes, uint64_t generation, uint64_t renewed)
{
	sim_lock();
	struct sim_shared_pool *pool = &sim_state->pool[index];
	pool->hidden_bytes -= bytes < pool->hidden_bytes ? bytes : pool->hidden_bytes;
	for (int i = 0; i < SIM_POOL_IMPORTS; i++) {
		struct sim_pool_import *import = &pool->import[i];
		if (!sim_pool_import_covers(import, place, bytes) || import->generation < generation || import->generation >= renewed)
			continue;
		import->charged_bytes += bytes;
		import->renewed = renewed;
		sim_state->process[import->process].used_bytes[pool->gpu] += bytes;
		break;
	}
	sim_shared_settle();
	sim_unlock();
}
