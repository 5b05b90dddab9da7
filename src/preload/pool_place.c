// SPDX-License-Identifier: Apache-2.0
// Pools' places: see pool_place.h.
//
//   POOL_PLACE (address) ──> chunk, chunk, ... <── POOL_CHUNK (address / 32 MiB): how many places lie in it
// [H200] The driver keeps memory, and lets go of it, by chunks of 32 MiB at multiples of that, whole. Here a chunk counts as kept while there is any place left in it,
// though with the first one that is exported anew it is let go of. A place of which a part is exported anew shrinks by that.
#include "preload/pool_place.h"

#include <stddef.h>

#include "preload/pool.h"
#include "preload/track.h"

#define STEP_BYTES 512ull // all addresses in pools are multiples of that
#define MOST_BYTES (UINT32_MAX * STEP_BYTES)

static uint64_t first_chunk(uint64_t address)
{
	return address / SOFTMIG_POOL_CHUNK_BYTES;
}

static uint64_t last_chunk(uint64_t address, uint64_t bytes)
{
	return (address + bytes - 1) / SOFTMIG_POOL_CHUNK_BYTES;
}

static struct softmig_track_entry chunk_entry(const struct softmig_pool_places *places, uint64_t chunk)
{
	return (struct softmig_track_entry){.kind = SOFTMIG_TRACK_POOL_CHUNK, .key = places->number << 32 ^ chunk, .more = places->number};
}

static uint64_t bytes_of(const struct softmig_track_entry *entry)
{
	return entry->count * STEP_BYTES;
}

static void count_chunks(struct softmig_pool_places *places, uint64_t address, uint64_t bytes)
{
	for (uint64_t chunk = first_chunk(address); chunk <= last_chunk(address, bytes); chunk++) {
		struct softmig_track_entry entry = chunk_entry(places, chunk);
		int64_t count = softmig_track_count(&entry, 1);
		if (count == 1)
			places->chunk_bytes += SOFTMIG_POOL_CHUNK_BYTES;
		else if (count < 0)
			softmig_pool_place_lost(places, SOFTMIG_POOL_CHUNK_BYTES);
	}
}

// Do others lie in its chunks, too?
static bool uncount_chunks(struct softmig_pool_places *places, uint64_t address, uint64_t bytes)
{
	bool others = false;

	for (uint64_t chunk = first_chunk(address); chunk <= last_chunk(address, bytes); chunk++) {
		struct softmig_track_entry entry = chunk_entry(places, chunk);
		int64_t count = softmig_track_count(&entry, -1);
		if (count == 0)
			places->chunk_bytes -= SOFTMIG_POOL_CHUNK_BYTES;
		others |= count > 0;
	}
	return others;
}

void softmig_pool_place_lost(struct softmig_pool_places *places, uint64_t bytes)
{
	places->lost_bytes += bytes;
}

// Earlier, 0 being never.
static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a == 0 || (b != 0 && b < a) ? b : a;
}

void softmig_pool_place_passes_later(struct softmig_pool_places *places, uint64_t since_ns)
{
	if (since_ns != UINT64_MAX && places->count != 0)
		places->since_ns = earlier(places->since_ns, since_ns);
}

static void note(struct softmig_pool_places *places, uint64_t address, uint64_t bytes, uint64_t since_ns)
{
	struct softmig_track_entry entry = {
		.kind = SOFTMIG_TRACK_POOL_PLACE, .key = address, .bytes = since_ns, .more = places->number, .count = (uint32_t)(bytes / STEP_BYTES)};

	if (bytes == 0)
		return;
	if (bytes > MOST_BYTES || !softmig_track_add(&entry)) {
		softmig_pool_place_lost(places, (last_chunk(address, bytes) - first_chunk(address) + 1) * SOFTMIG_POOL_CHUNK_BYTES);
		return;
	}
	count_chunks(places, address, bytes);
	places->count++;
}

static bool is_in(const struct softmig_track_entry *entry, const struct softmig_pool_places *places, uint64_t address, uint64_t bytes)
{
	return entry->more == places->number && entry->key < address + bytes && address < entry->key + bytes_of(entry);
}

// Takes the range out of a place. Returns how much of the range that was; *since_ns: lowered to when it was exported.
static uint64_t carve(struct softmig_pool_places *places, const struct softmig_track_entry *place, uint64_t address, uint64_t bytes, uint64_t *since_ns)
{
	uint64_t end = address + bytes, place_end = place->key + bytes_of(place);
	uint64_t first = place->key > address ? place->key : address, last = place_end < end ? place_end : end;

	if (!softmig_track_remove_exactly(place))
		return 0;
	places->count--;
	bool shared = uncount_chunks(places, place->key, bytes_of(place)) || place->key < address || place_end > end;
	if (place->key < address)
		note(places, place->key, address - place->key, place->bytes);
	if (place_end > end)
		note(places, end, place_end - end, place->bytes);
	if (shared) // the chunk is charged as long as there is another place in it
		places->since_ns = earlier(places->since_ns, place->bytes);
	*since_ns = place->bytes < *since_ns ? place->bytes : *since_ns;
	return last - first;
}

static bool any_in_chunks(const struct softmig_pool_places *places, uint64_t address, uint64_t bytes)
{
	for (uint64_t chunk = first_chunk(address); chunk <= last_chunk(address, bytes); chunk++) {
		struct softmig_track_entry entry = chunk_entry(places, chunk), found;
		if (softmig_track_find(SOFTMIG_TRACK_POOL_CHUNK, entry.key, &found))
			return true;
	}
	return false;
}

// As a rule an allocation lies where one of its size was before, or several side by side, and no other place needs to be looked for.
uint64_t softmig_pool_place_renew(struct softmig_pool_places *places, uint64_t address, uint64_t bytes)
{
	uint64_t since_ns = UINT64_MAX, cursor = 0, carved = 0;
	struct softmig_track_entry entry;

	if (places->count == 0 || bytes == 0)
		return UINT64_MAX;
	for (uint64_t part = 1; part != 0 && carved < bytes; carved += part) {
		bool there = softmig_track_find(SOFTMIG_TRACK_POOL_PLACE, address + carved, &entry) && is_in(&entry, places, address, bytes);
		part = there ? carve(places, &entry, address, bytes, &since_ns) : 0;
	}
	bool others = carved < bytes && (places->lost_bytes != 0 || any_in_chunks(places, address, bytes));
	while (others && carved < bytes && softmig_track_next(SOFTMIG_TRACK_POOL_PLACE, &cursor, &entry))
		if (is_in(&entry, places, address, bytes))
			carved += carve(places, &entry, address, bytes, &since_ns);
	since_ns = places->since_ns != 0 && places->since_ns < since_ns ? places->since_ns : since_ns;
	if (places->count == 0)
		places->since_ns = 0;
	return since_ns;
}

// Places do not overlap: what lay there has been exported anew since, or went with a pool that went without a word.
void softmig_pool_place_add(struct softmig_pool_places *places, uint64_t address, uint64_t bytes, uint64_t since_ns)
{
	struct softmig_track_entry old;

	if (softmig_track_find(SOFTMIG_TRACK_POOL_PLACE, address, &old))
		softmig_pool_place_renew(places, address, bytes);
	note(places, address, bytes, since_ns);
}

void softmig_pool_places_forget(struct softmig_pool_places *places)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (places->count != 0 && softmig_track_next(SOFTMIG_TRACK_POOL_PLACE, &cursor, &entry)) {
		if (entry.more != places->number || !softmig_track_remove_exactly(&entry))
			continue;
		uncount_chunks(places, entry.key, bytes_of(&entry));
		places->count--;
	}
	places->count = places->chunk_bytes = places->lost_bytes = places->since_ns = 0;
}
