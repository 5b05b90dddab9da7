// SPDX-License-Identifier: Apache-2.0
// What this process holds: see track.h. Open addressing, grown at half full; the lock is held for a few memory accesses and
// lies, with the table's address, in a page that fork wipes.
#include "preload/track.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

struct table {
	_Atomic int lock;
	pid_t pid; // only looked at where the kernel cannot wipe
	bool wiped;
	struct softmig_track_entry *entries;
	size_t size, used; // used counts GONE places too
};

enum { FIRST_SIZE = 1024 };

static struct table *_Atomic shared_table;

static void *map(size_t bytes)
{
	int kept = errno;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	errno = kept;
	return memory == MAP_FAILED ? NULL : memory;
}

static struct table *table_get(void)
{
	struct table *table = atomic_load_explicit(&shared_table, memory_order_acquire);
	int kept = errno;

	if (table == NULL) {
		struct table *mine = map(sizeof(*mine));
		if (mine == NULL)
			return NULL;
		mine->wiped = madvise(mine, sizeof(*mine), MADV_WIPEONFORK) == 0;
		mine->pid = getpid();
		if (atomic_compare_exchange_strong(&shared_table, &table, mine))
			table = mine;
		else
			munmap(mine, sizeof(*mine));
	} else if (!table->wiped && table->pid != getpid()) {
		// Wiped by fork (pid and wiped read 0), or a kernel that cannot wipe: either way a child's first call.
		*table = (struct table){.pid = getpid()};
		table->wiped = madvise(table, sizeof(*table), MADV_WIPEONFORK) == 0;
	}
	errno = kept;
	return table;
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
	struct softmig_track_entry *entries = map(size * sizeof(*entries));
	if (entries == NULL)
		return table->used + 1 < table->size;
	struct table grown = {.entries = entries, .size = size};
	for (size_t i = 0; i < table->size; i++)
		if (table->entries[i].kind > SOFTMIG_TRACK_GONE)
			place(&grown, &table->entries[i]);
	if (table->entries != NULL)
		munmap(table->entries, table->size * sizeof(*entries));
	table->entries = grown.entries;
	table->size = grown.size;
	table->used = grown.used;
	return true;
}

bool softmig_track_add(const struct softmig_track_entry *entry)
{
	struct table *table = table_get();
	bool added = false;

	if (table == NULL)
		return false;
	lock(table);
	struct softmig_track_entry *old = find(table, (enum softmig_track_kind)entry->kind, entry->key);
	if (old != NULL) {
		*old = *entry;
		added = true;
	} else if (make_room(table)) {
		place(table, entry);
		added = true;
	}
	unlock(table);
	return added;
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
		found->kind = SOFTMIG_TRACK_GONE;
	}
	unlock(table);
	return found != NULL;
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
			found->kind = SOFTMIG_TRACK_GONE;
			count = 0;
		} else {
			found->count = (uint32_t)count;
		}
	}
	unlock(table);
	return count;
}

bool softmig_track_remove_any(uint64_t context, struct softmig_track_entry *entry)
{
	struct table *table = table_get();
	bool found = false;

	if (table == NULL || context == 0)
		return false;
	lock(table);
	for (size_t i = 0; i < table->size && !found; i++) {
		if (table->entries[i].kind > SOFTMIG_TRACK_GONE && table->entries[i].context == context) {
			*entry = table->entries[i];
			table->entries[i].kind = SOFTMIG_TRACK_GONE;
			found = true;
		}
	}
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
	for (; *cursor < table->size && !found; (*cursor)++) {
		if (table->entries[*cursor].kind == kind) {
			*entry = table->entries[*cursor];
			found = true;
		}
	}
	unlock(table);
	return found;
}
