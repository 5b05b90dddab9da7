// SPDX-License-Identifier: Apache-2.0
// What this process holds: see track.h. Open addressing, grown at half full; the lock is held for a few memory accesses and
// lies, with the table's address, in memory that fork wipes.
#include "preload/track.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>

#include "preload/private.h"

// All zero is an empty table, and what a forked child finds.
struct table {
	_Atomic int lock;
	struct softmig_track_entry *entries;
	size_t size, used; // used counts GONE places too
	uint32_t made;     // counts how often entries were moved to new memory: a walk begins anew
};

enum { FIRST_SIZE = 1024 };

static struct softmig_private private_table;

static struct table *table_get(void)
{
	return softmig_private_get(&private_table, sizeof(struct table));
}

static void lock(struct table *table)
{
	for (int spins = 0; atomic_exchange_explicit(&table->lock, 1, memory_order_acquire) != 0; spins++)
		if (spins > 100)
			sched_yield();
}

static void unlock(struct table *table)
{
	atomic_store_explicit(&table->lock, 0, memory_order_release);
}

static size_t place_of(enum softmig_track_kind kind, uint64_t key, size_t size)
{
	uint64_t hash = (key ^ ((uint64_t)kind << 56)) * 0x9e3779b97f4a7c15ull;
	return (size_t)(hash >> 32) & (size - 1);
}

static struct softmig_track_entry *find(struct table *table, enum softmig_track_kind kind, uint64_t key)
{
	if (table->size == 0)
		return NULL;
	for (size_t i = place_of(kind, key, table->size);; i = (i + 1) & (table->size - 1)) {
		struct softmig_track_entry *entry = &table->entries[i];
		if (entry->kind == SOFTMIG_TRACK_FREE)
			return NULL;
		if (entry->kind == kind && entry->key == key)
			return entry;
	}
}

// Behind a free place nothing is looked for: where the next one is free, so are this one and the GONE before it. Else the table would
// fill with those of pointers and handles that never come again, and be made anew every few hundred of them.
static void take_out(struct table *table, struct softmig_track_entry *entry)
{
	size_t mask = table->size - 1, i = (size_t)(entry - table->entries);

	entry->kind = SOFTMIG_TRACK_GONE;
	if (table->entries[(i + 1) & mask].kind != SOFTMIG_TRACK_FREE)
		return;
	for (; table->entries[i].kind == SOFTMIG_TRACK_GONE; i = (i - 1) & mask) {
		table->entries[i].kind = SOFTMIG_TRACK_FREE;
		table->used--;
	}
}

static void place(struct table *table, const struct softmig_track_entry *entry)
{
	size_t i = place_of((enum softmig_track_kind)entry->kind, entry->key, table->size);
	while (table->entries[i].kind > SOFTMIG_TRACK_GONE)
		i = (i + 1) & (table->size - 1);
	if (table->entries[i].kind == SOFTMIG_TRACK_FREE)
		table->used++;
	table->entries[i] = *entry;
}

// Room for one more: grows when half full, or tidies in the same size when most of it is GONE.
static bool make_room(struct table *table)
{
	if (table->used * 2 < table->size)
		return true;
	size_t live = 0;
	for (size_t i = 0; i < table->size; i++)
		live += table->entries[i].kind > SOFTMIG_TRACK_GONE;
	size_t size = table->size == 0 ? FIRST_SIZE : live * 4 > table->size ? table->size * 2 : table->size;
	struct softmig_track_entry *entries = softmig_scratch_get(size * sizeof(*entries));
	if (entries == NULL)
		return table->used + 1 < table->size;
	struct table grown = {.entries = entries, .size = size};
	for (size_t i = 0; i < table->size; i++)
		if (table->entries[i].kind > SOFTMIG_TRACK_GONE)
			place(&grown, &table->entries[i]);
	softmig_scratch_free(table->entries, table->size * sizeof(*entries));
	table->entries = grown.entries;
	table->size = grown.size;
	table->used = grown.used;
	table->made++;
	return true;
}

bool softmig_track_swap(const struct softmig_track_entry *entry, struct softmig_track_entry *old)
{
	struct table *table = table_get();
	bool added = false;

	old->kind = SOFTMIG_TRACK_FREE;
	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *there = find(table, (enum softmig_track_kind)entry->kind, entry->key);
	if (there != NULL) {
		*old = *there;
		*there = *entry;
		added = true;
	} else if (make_room(table)) {
		place(table, entry);
		added = true;
	}
	unlock(table);
	return added;
}

bool softmig_track_add(const struct softmig_track_entry *entry)
{
	struct softmig_track_entry old;
	return softmig_track_swap(entry, &old);
}

bool softmig_track_find(enum softmig_track_kind kind, uint64_t key, struct softmig_track_entry *entry)
{
	struct table *table = table_get();

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *found = find(table, kind, key);
	if (found != NULL)
		*entry = *found;
	unlock(table);
	return found != NULL;
}

bool softmig_track_remove(enum softmig_track_kind kind, uint64_t key, struct softmig_track_entry *entry)
{
	struct table *table = table_get();

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *found = find(table, kind, key);
	if (found != NULL) {
		*entry = *found;
		take_out(table, found);
	}
	unlock(table);
	return found != NULL;
}

bool softmig_track_remove_exactly(const struct softmig_track_entry *entry)
{
	struct table *table = table_get();

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *found = find(table, (enum softmig_track_kind)entry->kind, entry->key);
	bool same = found != NULL && found->more == entry->more && found->bytes == entry->bytes;
	if (same)
		take_out(table, found);
	unlock(table);
	return same;
}

int64_t softmig_track_count(const struct softmig_track_entry *template, int change)
{
	struct table *table = table_get();
	int64_t count = -1;

	if (table == NULL)
		return -1;
	lock(table);
	struct softmig_track_entry *found = find(table, (enum softmig_track_kind)template->kind, template->key);
	if (found == NULL && change > 0 && make_room(table)) {
		struct softmig_track_entry fresh = *template;
		fresh.count = (uint32_t)change;
		place(table, &fresh);
		count = change;
	} else if (found != NULL) {
		count = (int64_t)found->count + change;
		if (count <= 0) {
			take_out(table, found);
			count = 0;
		} else {
			found->count = (uint32_t)count;
		}
	}
	unlock(table);
	return count;
}

bool softmig_track_adjust(enum softmig_track_kind kind, uint64_t key, int change, uint64_t more_bits,
                          struct softmig_track_entry *entry)
{
	struct table *table = table_get();

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *found = find(table, kind, key);
	if (found != NULL) {
		found->more |= more_bits;
		found->count = change < 0 && found->count < (uint32_t)-change ? 0 : found->count + (uint32_t)change;
		*entry = *found;
		if (found->count == 0)
			take_out(table, found);
	}
	unlock(table);
	return found != NULL;
}

bool softmig_track_mark(enum softmig_track_kind kind, uint64_t key, uint64_t more_bits, bool set, struct softmig_track_entry *entry)
{
	struct table *table = table_get();

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *found = find(table, kind, key);
	bool changes = found != NULL && (found->more & more_bits) != (set ? more_bits : 0);
	if (changes) {
		found->more ^= more_bits;
		*entry = *found;
	}
	unlock(table);
	return changes;
}

// A cursor: when it was begun, and the next place. Returns that place, the first where the table has been made anew since.
static size_t walk_from(const struct table *table, uint64_t cursor)
{
	return (uint32_t)(cursor >> 32) == table->made ? (uint32_t)cursor : 0;
}

static uint64_t walk_to(const struct table *table, size_t place)
{
	return (uint64_t)table->made << 32 | place;
}

bool softmig_track_remove_any(int gpu, uint64_t context, uint64_t *cursor, struct softmig_track_entry *entry)
{
	struct table *table = table_get();
	bool found = false;

	if (table == NULL)
		return false;
	lock(table);
	size_t i = walk_from(table, *cursor);
	for (; i < table->size && !found; i++) {
		struct softmig_track_entry *at = &table->entries[i];
		if (at->kind > SOFTMIG_TRACK_GONE && at->gpu == gpu && at->context != 0 && (context == 0 || at->context == context)) {
			*entry = *at;
			take_out(table, at);
			found = true;
		}
	}
	*cursor = walk_to(table, i);
	unlock(table);
	return found;
}

bool softmig_track_next(enum softmig_track_kind kind, uint64_t *cursor, struct softmig_track_entry *entry)
{
	struct table *table = table_get();
	bool found = false;

	if (table == NULL)
		return false;
	lock(table);
	size_t i = walk_from(table, *cursor);
	for (; i < table->size && !found; i++) {
		if (table->entries[i].kind == kind) {
			*entry = table->entries[i];
			found = true;
		}
	}
	*cursor = walk_to(table, i);
	unlock(table);
	return found;
}
