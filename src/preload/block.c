// SPDX-License-Identifier: Apache-2.0
// The blocks of small allocations: see block.h. Open addressing without gaps (what lies behind an entry taken out moves up), at most half
// full; one bit for each 256 bytes of a block, the finest alignment that CUDA promises.
#include "preload/block.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include "preload/private.h"

enum { UNIT_BYTES = 256, WORDS = SOFTMIG_BLOCK_BYTES / UNIT_BYTES / 64, FIRST_SIZE = 128, BITMAPS_AT_ONCE = 64 };

union bitmap {
	uint64_t words[WORDS]; // turned over by each allocation and each release of the address
	union bitmap *next;    // while it is spare
};

struct block {
	uint64_t number; // address / block's size
	uint64_t context;
	union bitmap *taken; // NULL: an empty place in the table
	uint32_t count;      // allocations told less releases told
	uint16_t early;      // allocations that were told before the release of the same address
	uint8_t gpu;
	bool exported;
};

// All zero is an empty table, and what a forked child finds.
struct table {
	_Atomic int lock;
	uint32_t size, used;
	struct block *blocks;
	struct block *last; // looked for last
	union bitmap *spare;
};

static struct softmig_private private_table;

static struct table *table_get(void)
{
	return softmig_private_get(&private_table, sizeof(struct table));
}

static __attribute__((noinline)) void lock_slowly(struct table *table)
{
	for (int spins = 0; atomic_exchange_explicit(&table->lock, 1, memory_order_acquire) != 0; spins++)
		if (spins > 100)
			sched_yield();
}

static inline void lock(struct table *table)
{
	if (__builtin_expect(atomic_exchange_explicit(&table->lock, 1, memory_order_acquire) != 0, 0))
		lock_slowly(table);
}

static void unlock(struct table *table)
{
	atomic_store_explicit(&table->lock, 0, memory_order_release);
}

static uint32_t place_of(uint64_t number, uint32_t size)
{
	return (uint32_t)(number * 0x9e3779b97f4a7c15ull >> 32) & (size - 1);
}

static __attribute__((noinline)) struct block *search(struct table *table, uint64_t number)
{
	for (uint32_t i = table->size == 0 ? 0 : place_of(number, table->size); i < table->size; i = (i + 1) & (table->size - 1)) {
		if (table->blocks[i].taken == NULL)
			break;
		if (table->blocks[i].number == number)
			return table->last = &table->blocks[i];
	}
	return NULL;
}

static inline struct block *find(struct table *table, uint64_t pointer)
{
	uint64_t number = pointer / SOFTMIG_BLOCK_BYTES;
	return __builtin_expect(table->last != NULL && table->last->number == number, 1) ? table->last : search(table, number);
}

static struct block *place(struct table *table, const struct block *block)
{
	uint32_t i = place_of(block->number, table->size);
	while (table->blocks[i].taken != NULL)
		i = (i + 1) & (table->size - 1);
	table->blocks[i] = *block;
	table->used++;
	return &table->blocks[i];
}

static void take_out(struct table *table, struct block *block)
{
	uint32_t mask = table->size - 1, hole = (uint32_t)(block - table->blocks);

	block->taken->next = table->spare;
	table->spare = block->taken;
	for (uint32_t i = (hole + 1) & mask; table->blocks[i].taken != NULL; i = (i + 1) & mask) {
		// It moves up unless the place it wants lies behind the hole.
		uint32_t wanted = place_of(table->blocks[i].number, table->size);
		if (((i - wanted) & mask) >= ((i - hole) & mask)) {
			table->blocks[hole] = table->blocks[i];
			hole = i;
		}
	}
	table->blocks[hole].taken = NULL;
	table->used--;
	table->last = NULL;
}

static bool make_room(struct table *table)
{
	if (table->used * 2 < table->size)
		return true;
	struct table grown = {.size = table->size == 0 ? FIRST_SIZE : table->size * 2};
	grown.blocks = softmig_scratch_get(grown.size * sizeof(*grown.blocks));
	if (grown.blocks == NULL)
		return table->used + 1 < table->size;
	for (uint32_t i = 0; i < table->size; i++)
		if (table->blocks[i].taken != NULL)
			place(&grown, &table->blocks[i]);
	softmig_scratch_free(table->blocks, table->size * sizeof(*table->blocks));
	table->blocks = grown.blocks;
	table->size = grown.size;
	table->last = NULL;
	return true;
}

static union bitmap *take_bitmap(struct table *table)
{
	if (table->spare == NULL) {
		union bitmap *more = softmig_scratch_get(BITMAPS_AT_ONCE * sizeof(*more));
		for (int i = 0; more != NULL && i < BITMAPS_AT_ONCE; i++) {
			more[i].next = table->spare;
			table->spare = &more[i];
		}
	}
	union bitmap *bitmap = table->spare;
	if (bitmap != NULL) {
		table->spare = bitmap->next;
		memset(bitmap, 0, sizeof(*bitmap));
	}
	return bitmap;
}

// The address's bit in its block's bitmap.
static uint64_t *word_of(const struct block *block, uint64_t pointer, uint64_t *bit)
{
	uint64_t unit = pointer % SOFTMIG_BLOCK_BYTES / UNIT_BYTES;
	*bit = 1ull << unit % 64;
	return &block->taken->words[unit / 64];
}

static void note(struct block *block, uint64_t pointer)
{
	uint64_t bit, *word = word_of(block, pointer, &bit);

	block->early = (uint16_t)(block->early + ((*word & bit) != 0));
	*word ^= bit;
	block->count++;
}

__attribute__((hot)) enum softmig_block softmig_block_join(uint64_t pointer)
{
	struct table *table = table_get();

	if (table == NULL)
		return SOFTMIG_BLOCK_NONE;
	lock(table);
	struct block *block = find(table, pointer);
	if (block != NULL)
		note(block, pointer);
	unlock(table);
	return block == NULL ? SOFTMIG_BLOCK_NONE : SOFTMIG_BLOCK_HELD;
}

enum softmig_block softmig_block_make(uint64_t pointer, int gpu, uint64_t context)
{
	struct table *table = table_get();
	enum softmig_block told = SOFTMIG_BLOCK_HELD;

	if (table == NULL)
		return SOFTMIG_BLOCK_NONE;
	lock(table);
	struct block *block = find(table, pointer);
	if (block == NULL) {
		struct block fresh = {.number = pointer / SOFTMIG_BLOCK_BYTES, .context = context, .gpu = (uint8_t)gpu};
		fresh.taken = make_room(table) ? take_bitmap(table) : NULL;
		block = fresh.taken == NULL ? NULL : place(table, &fresh);
		told = block == NULL ? SOFTMIG_BLOCK_NONE : SOFTMIG_BLOCK_ENDS;
	}
	if (block != NULL)
		note(block, pointer);
	unlock(table);
	return told;
}

bool softmig_block_has(uint64_t pointer)
{
	struct table *table = table_get();
	bool has = false;
	uint64_t bit;

	if (table == NULL)
		return false;
	lock(table);
	struct block *block = find(table, pointer);
	if (block != NULL)
		has = (*word_of(block, pointer, &bit) & bit) != 0 || block->early != 0;
	unlock(table);
	return has;
}

__attribute__((hot)) enum softmig_block softmig_block_leave(uint64_t pointer, int *gpu)
{
	struct table *table = table_get();
	enum softmig_block told = SOFTMIG_BLOCK_NONE;

	if (table == NULL)
		return SOFTMIG_BLOCK_NONE;
	lock(table);
	struct block *block = find(table, pointer);
	if (block != NULL) {
		uint64_t bit, *word = word_of(block, pointer, &bit);
		bool taken = (*word & bit) != 0;
		if (taken || block->early != 0) {
			block->early = (uint16_t)(block->early - !taken);
			*word ^= bit;
			*gpu = block->gpu;
			told = --block->count == 0 ? SOFTMIG_BLOCK_ENDS : SOFTMIG_BLOCK_HELD;
			if (told == SOFTMIG_BLOCK_ENDS) {
				*gpu += block->exported ? SOFTMIG_BLOCK_EXPORTED : 0;
				take_out(table, block);
			}
		}
	}
	unlock(table);
	return told;
}

bool softmig_block_export(uint64_t pointer)
{
	struct table *table = table_get();
	bool first = false;

	if (table == NULL)
		return false;
	lock(table);
	struct block *block = find(table, pointer);
	if (block != NULL) {
		first = !block->exported;
		block->exported = true;
	}
	unlock(table);
	return first;
}

unsigned softmig_block_forget(int gpu, uint64_t context, unsigned *exported)
{
	struct table *table = table_get();
	unsigned count = 0;

	*exported = 0;
	if (table == NULL)
		return 0;
	lock(table);
	for (uint32_t i = 0; i < table->size;) {
		struct block *block = &table->blocks[i];
		if (block->taken != NULL && block->gpu == gpu && (context == 0 || block->context == context)) {
			*exported += block->exported;
			take_out(table, block); // another one may have moved up into its place; one that moved from the front has been looked at
			count++;
		} else {
			i++;
		}
	}
	unlock(table);
	return count;
}
