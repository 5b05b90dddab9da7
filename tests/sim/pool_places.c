// SPDX-License-Identifier: Apache-2.0
// Where in a pool its memory lies, and what the GPU keeps by its place of what was exported: see docs/driver-facts.md. Owns: a pool's addresses, and the
// list of what it has given back and the GPU still has. [H200] It is exported, kept and let go of by pieces of 32 MiB at multiples of that. sim_enter held in all calls.
#include <stdlib.h>
#include <sys/mman.h>

#include "pool.h"

// The lowest one at or above place that has room, 0: none.
static uint64_t free_place(struct CUmemPoolHandle_st *pool, uint64_t place, uint64_t bytes)
{
	for (const struct sim_chunk *chunk = pool->chunks; place != 0 && chunk != NULL;) {
		const struct sim_backing *backing = &chunk->backing;
		bool taken = place < backing->address + backing->bytes && backing->address < place + bytes;
		place = taken ? sim_round_up(backing->address + backing->bytes, SIM_POOL_CHUNK) : place;
		chunk = taken ? pool->chunks : chunk->next;
	}
	return bytes <= pool->bytes && place <= pool->address + pool->bytes - bytes ? place : 0;
}

bool sim_pool_map(struct CUmemPoolHandle_st *pool, struct sim_chunk *chunk, uint64_t bytes)
{
	if (pool->address == 0) {
		pool->bytes = sim_round_up(sim_env_bytes("SOFTMIG_SIM_POOL_ROOM", sim_state->gpu[pool->gpu].total_bytes), SIM_POOL_CHUNK);
		pool->address = sim_backing_file(pool->bytes, &pool->file_offset) >= 0 ? sim_backing_reserve(pool->bytes, SIM_POOL_CHUNK, 0) : 0;
	}
	uint64_t place = free_place(pool, pool->address, bytes);
	return place != 0 ? sim_backing_map_at(&chunk->backing, bytes, place, pool->file_offset + place - pool->address)
					  : sim_backing_map(&chunk->backing, bytes, true);
}

bool sim_pool_may_extend(struct CUmemPoolHandle_st *pool, const struct sim_chunk *chunk, uint64_t offset, uint64_t bytes)
{
	const struct sim_backing *backing = &chunk->backing;
	uint64_t end = backing->address + backing->bytes, anew = free_place(pool, pool->address, backing->bytes - offset + bytes);
	return backing->inside && end % SIM_POOL_CHUNK == 0 && free_place(pool, end, bytes) == end && (anew == 0 || backing->address + offset < anew);
}

bool sim_pool_extend(struct sim_chunk *chunk, uint64_t bytes)
{
	uint64_t had = chunk->backing.bytes / SIM_POOL_CHUNK, has = had + bytes / SIM_POOL_CHUNK + 1;
	uint64_t *exported = chunk->exported != NULL ? realloc(chunk->exported, has * sizeof(*exported)) : NULL;
	if (chunk->exported != NULL && exported == NULL)
		return false;
	for (uint64_t i = had; exported != NULL && i < has; i++)
		exported[i] = 0;
	chunk->exported = exported;
	return sim_backing_extend(&chunk->backing, bytes);
}

static void let_go(struct CUmemPoolHandle_st *pool, uint64_t from, uint64_t to)
{
	for (struct sim_kept **link = &pool->kept; *link != NULL;) {
		struct sim_kept *kept = *link;
		uint64_t first = kept->address > from ? kept->address : from;
		uint64_t last = kept->address + kept->bytes < to ? kept->address + kept->bytes : to;
		if (first >= last) {
			link = &kept->next;
			continue;
		}
		sim_shared_pool_let_go(pool->shared, first, last - first, kept->generation, pool->generation);
		struct sim_kept *after = last < kept->address + kept->bytes ? malloc(sizeof(*after)) : NULL;
		if (after != NULL) {
			*after = (struct sim_kept){kept->next, last, kept->address + kept->bytes - last, kept->generation};
			kept->next = after;
		}
		kept->bytes = first - kept->address;
		if (kept->bytes == 0) {
			*link = kept->next;
			free(kept);
		} else {
			link = &kept->next;
		}
	}
}

bool sim_pool_exported(struct CUmemPoolHandle_st *pool, struct sim_chunk *chunk, uint64_t address, uint64_t bytes)
{
	uint64_t piece = SIM_POOL_CHUNK, from = address - chunk->backing.address;
	if (chunk->exported == NULL)
		chunk->exported = calloc((chunk->backing.bytes + piece - 1) / piece, sizeof(*chunk->exported));
	if (chunk->exported == NULL)
		return false;
	pool->generation++;
	for (uint64_t i = from / piece; i * piece < from + bytes; i++) {
		if (chunk->exported[i] != 0)
			continue; // it is there already, in this very memory
		uint64_t end = (i + 1) * piece < chunk->backing.bytes ? (i + 1) * piece : chunk->backing.bytes;
		chunk->exported[i] = pool->generation;
		sim_shared_pool_reserved(pool->shared, end - i * piece);
		let_go(pool, chunk->backing.address + i * piece, chunk->backing.address + end);
	}
	return true;
}

uint64_t sim_pool_keep(struct CUmemPoolHandle_st *pool, const struct sim_chunk *chunk)
{
	uint64_t piece = SIM_POOL_CHUNK, kept_bytes = 0;
	for (uint64_t i = 0; chunk->exported != NULL && i * piece < chunk->backing.bytes; i++) {
		if (chunk->exported[i] == 0)
			continue;
		uint64_t end = (i + 1) * piece < chunk->backing.bytes ? (i + 1) * piece : chunk->backing.bytes;
		struct sim_kept *kept = malloc(sizeof(*kept));
		if (kept != NULL) {
			*kept = (struct sim_kept){pool->kept, chunk->backing.address + i * piece, end - i * piece, chunk->exported[i]};
			pool->kept = kept;
		}
		kept_bytes += end - i * piece;
	}
	return kept_bytes;
}

void sim_pool_places_gone(struct CUmemPoolHandle_st *pool)
{
	while (pool->kept != NULL) {
		struct sim_kept *kept = pool->kept;
		pool->kept = kept->next;
		free(kept);
	}
	if (pool->address != 0)
		munmap((void *)(uintptr_t)pool->address, pool->bytes);
	pool->address = 0;
}
