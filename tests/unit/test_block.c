// SPDX-License-Identifier: Apache-2.0
// The table of small allocations' blocks: counted per 2 MiB block, whatever the order in which threads tell what the driver did.
#include "cmocka_all.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

// The library's own files, which are part of no library to link with.
#include "../../src/preload/block.c"
#include "../../src/preload/private.c"

#define AT(block, unit) ((0x7f0000ull + (block)) * SOFTMIG_BLOCK_BYTES + (uint64_t)(unit) * 256)

static unsigned exported; // blocks, of those forgotten

static enum softmig_block leave(uint64_t pointer)
{
	int gpu = -1;
	enum softmig_block told = softmig_block_leave(pointer, &gpu);
	assert_int_equal(gpu, told == SOFTMIG_BLOCK_NONE ? -1 : 3);
	return told;
}

static void a_block_lasts_from_its_first_allocation_to_its_last(void **state)
{
	(void)state;
	assert_int_equal(softmig_block_join(AT(0, 0)), SOFTMIG_BLOCK_NONE);
	assert_int_equal(softmig_block_make(AT(0, 0), 3, 1), SOFTMIG_BLOCK_ENDS);
	assert_int_equal(softmig_block_make(AT(0, 2), 3, 1), SOFTMIG_BLOCK_HELD); // another thread had made it
	assert_int_equal(softmig_block_join(AT(0, 8191)), SOFTMIG_BLOCK_HELD);
	assert_int_equal(softmig_block_join(AT(1, 0)), SOFTMIG_BLOCK_NONE); // the neighbour
	assert_true(softmig_block_has(AT(0, 2)));
	assert_false(softmig_block_has(AT(0, 1)));
	assert_false(softmig_block_has(AT(1, 0)));
	assert_int_equal(leave(AT(0, 0)), SOFTMIG_BLOCK_HELD);
	assert_int_equal(leave(AT(0, 8191)), SOFTMIG_BLOCK_HELD);
	assert_int_equal(leave(AT(0, 2)), SOFTMIG_BLOCK_ENDS);
	assert_int_equal(leave(AT(0, 2)), SOFTMIG_BLOCK_NONE);
}

static void what_was_never_told_changes_no_count(void **state)
{
	(void)state;
	softmig_block_make(AT(0, 0), 3, 1);
	assert_int_equal(leave(AT(0, 4)), SOFTMIG_BLOCK_NONE);
	assert_int_equal(leave(AT(0, 0)), SOFTMIG_BLOCK_ENDS);
}

// One thread frees an address, another is given it, and is the first to tell.
static void tellings_of_one_address_may_come_in_either_order(void **state)
{
	(void)state;
	softmig_block_make(AT(0, 6), 3, 1);
	assert_int_equal(softmig_block_join(AT(0, 6)), SOFTMIG_BLOCK_HELD); // given again
	assert_true(softmig_block_has(AT(0, 6)));
	assert_int_equal(leave(AT(0, 6)), SOFTMIG_BLOCK_HELD); // the first one's release
	assert_true(softmig_block_has(AT(0, 6)));
	assert_int_equal(leave(AT(0, 6)), SOFTMIG_BLOCK_ENDS);
	// And the second one's release before the first one's.
	softmig_block_make(AT(0, 6), 3, 1);
	softmig_block_join(AT(0, 6));
	softmig_block_join(AT(0, 6));
	for (int i = 0; i < 2; i++)
		assert_int_equal(leave(AT(0, 6)), SOFTMIG_BLOCK_HELD);
	assert_int_equal(leave(AT(0, 6)), SOFTMIG_BLOCK_ENDS);
	assert_int_equal(leave(AT(0, 6)), SOFTMIG_BLOCK_NONE);
}

static void many_blocks_come_and_go_in_any_order(void **state)
{
	enum { BLOCKS = 3000 };
	static unsigned char count[BLOCKS];
	unsigned seed = 42;
	(void)state;
	for (int i = 0; i < 200000; i++) {
		unsigned block = (unsigned)rand_r(&seed) % BLOCKS;
		if (i < 180000 && count[block] < 200 && rand_r(&seed) % 2 == 0) {
			assert_int_equal(softmig_block_make(AT(block, count[block]), 3, 1),
			                 count[block] == 0 ? SOFTMIG_BLOCK_ENDS : SOFTMIG_BLOCK_HELD);
			count[block]++;
		} else if (count[block] > 0) {
			count[block]--;
			assert_int_equal(leave(AT(block, count[block])), count[block] == 0 ? SOFTMIG_BLOCK_ENDS : SOFTMIG_BLOCK_HELD);
		} else {
			assert_int_equal(softmig_block_join(AT(block, 7)), SOFTMIG_BLOCK_NONE);
		}
	}
	unsigned left = 0;
	for (int i = 0; i < BLOCKS; i++)
		left += count[i] != 0;
	assert_true(left > 0);
	assert_int_equal(softmig_block_forget(3, 0, &exported), left);
	assert_int_equal(softmig_block_forget(3, 0, &exported), 0);
}

static void a_context_takes_along_its_own_blocks(void **state)
{
	(void)state;
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(softmig_block_make(AT(i * 37, 0), 3, 1 + i % 2), SOFTMIG_BLOCK_ENDS);
	assert_int_equal(softmig_block_forget(4, 0, &exported), 0); // another GPU's
	assert_int_equal(softmig_block_forget(3, 2, &exported), 500);
	for (unsigned i = 0; i < 1000; i++)
		assert_int_equal(leave(AT(i * 37, 0)), i % 2 == 0 ? SOFTMIG_BLOCK_ENDS : SOFTMIG_BLOCK_NONE);
}

// A driver for threads: which units of one block are taken, and whether the block is there.
static _Atomic int units[64];
static _Atomic int blocks_ended, blocks_made;

static void *allocate_and_free(void *argument)
{
	unsigned seed = (unsigned)(uintptr_t)argument;
	for (int i = 0; i < 20000; i++) {
		unsigned unit = (unsigned)rand_r(&seed) % 64;
		int none = 0;
		if (!atomic_compare_exchange_strong(&units[unit], &none, 1))
			continue;
		if (softmig_block_join(AT(9, unit)) == SOFTMIG_BLOCK_NONE)
			atomic_fetch_add(&blocks_made, softmig_block_make(AT(9, unit), 3, 1) == SOFTMIG_BLOCK_ENDS);
		int gpu;
		atomic_store(&units[unit], 0); // the driver has freed it, and may give it to another thread before this is told
		atomic_fetch_add(&blocks_ended, softmig_block_leave(AT(9, unit), &gpu) == SOFTMIG_BLOCK_ENDS);
	}
	return NULL;
}

static void threads_that_are_given_each_others_addresses_leave_nothing_behind(void **state)
{
	pthread_t threads[4];
	(void)state;
	for (uintptr_t i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, allocate_and_free, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_true(atomic_load(&blocks_made) > 0);
	assert_int_equal(atomic_load(&blocks_made), atomic_load(&blocks_ended));
	assert_int_equal(softmig_block_forget(3, 0, &exported), 0);
}

static void a_forked_child_starts_with_nothing(void **state)
{
	int status;
	(void)state;
	softmig_block_make(AT(0, 0), 3, 1);
	pid_t child = fork();
	if (child == 0)
		_exit(softmig_block_join(AT(0, 1)) == SOFTMIG_BLOCK_NONE && softmig_block_forget(3, 0, &exported) == 0 &&
		              softmig_block_make(AT(0, 1), 3, 1) == SOFTMIG_BLOCK_ENDS ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(leave(AT(0, 0)), SOFTMIG_BLOCK_ENDS);
}

static void an_exported_block_says_so_when_it_ends(void **state)
{
	(void)state;
	int gpu = -1;
	softmig_block_make(AT(20, 0), 3, 1);
	softmig_block_make(AT(20, 1), 3, 1);
	softmig_block_make(AT(21, 0), 3, 1);
	assert_false(softmig_block_export(AT(22, 0))); // none of a block's
	assert_true(softmig_block_export(AT(20, 1)));
	assert_false(softmig_block_export(AT(20, 0))); // the block is
	assert_int_equal(softmig_block_leave(AT(20, 1), &gpu), SOFTMIG_BLOCK_HELD);
	assert_int_equal(gpu, 3);
	assert_int_equal(softmig_block_leave(AT(20, 0), &gpu), SOFTMIG_BLOCK_ENDS);
	assert_int_equal(gpu, 3 + SOFTMIG_BLOCK_EXPORTED);
	softmig_block_make(AT(20, 0), 3, 1); // another one there
	assert_true(softmig_block_export(AT(20, 0)));
	assert_int_equal(softmig_block_forget(3, 0, &exported), 2);
	assert_int_equal(exported, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_lasts_from_its_first_allocation_to_its_last),
		cmocka_unit_test(what_was_never_told_changes_no_count),
		cmocka_unit_test(tellings_of_one_address_may_come_in_either_order),
		cmocka_unit_test(many_blocks_come_and_go_in_any_order),
		cmocka_unit_test(a_context_takes_along_its_own_blocks),
		cmocka_unit_test(threads_that_are_given_each_others_addresses_leave_nothing_behind),
		cmocka_unit_test(an_exported_block_says_so_when_it_ends),
		cmocka_unit_test(a_forked_child_starts_with_nothing),
	};
	return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
