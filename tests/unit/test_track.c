// SPDX-License-Identifier: Apache-2.0
// What the library remembers of a process's allocations, and that a forked child remembers nothing, however its threads come.
#include "cmocka_all.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

// The library's own files, which are part of no library to link with.
#include "../../src/preload/private.c"
#include "../../src/preload/track.c"

static struct softmig_track_entry pointer_at(uint64_t key, uint64_t bytes, uint64_t context)
{
	return (struct softmig_track_entry){.kind = SOFTMIG_TRACK_POINTER, .key = key, .bytes = bytes, .context = context, .gpu = 3};
}

static void what_is_added_is_found_and_removed(void **state)
{
	struct softmig_track_entry entry = pointer_at(0x1000, 7, 1), found;
	(void)state;
	assert_true(softmig_track_add(&entry));
	assert_true(softmig_track_find(SOFTMIG_TRACK_POINTER, 0x1000, &found));
	assert_int_equal(found.bytes, 7);
	assert_false(softmig_track_find(SOFTMIG_TRACK_ARRAY, 0x1000, &found)); // another kind
	assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x1000, &found));
	assert_false(softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x1000, &found));
	assert_false(softmig_track_find(SOFTMIG_TRACK_POINTER, 0x1000, &found));
}

static void a_key_that_comes_again_gives_the_old_entry(void **state)
{
	struct softmig_track_entry first = pointer_at(0x2000, 1, 1), second = pointer_at(0x2000, 2, 2), old;
	(void)state;
	assert_true(softmig_track_swap(&first, &old));
	assert_int_equal(old.kind, SOFTMIG_TRACK_FREE);
	assert_true(softmig_track_swap(&second, &old));
	assert_int_equal(old.kind, SOFTMIG_TRACK_POINTER);
	assert_int_equal(old.bytes, 1);
	assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x2000, &old));
	assert_int_equal(old.bytes, 2);
}

static void counts_go_up_and_down_and_end(void **state)
{
	struct softmig_track_entry block = {.kind = SOFTMIG_TRACK_HANDLE, .key = 5, .bytes = 9}, after;
	(void)state;
	assert_int_equal(softmig_track_count(&block, -1), -1); // not there: not made
	assert_int_equal(softmig_track_count(&block, 1), 1);
	assert_int_equal(softmig_track_count(&block, 1), 2);
	assert_int_equal(softmig_track_count(&block, -1), 1);
	assert_true(softmig_track_adjust(SOFTMIG_TRACK_HANDLE, 5, 0, 4, &after));
	assert_int_equal(after.count, 1);
	assert_int_equal(after.more, 4);
	assert_true(softmig_track_adjust(SOFTMIG_TRACK_HANDLE, 5, -1, 0, &after));
	assert_int_equal(after.count, 0);
	assert_int_equal(after.more, 4);
	assert_false(softmig_track_adjust(SOFTMIG_TRACK_HANDLE, 5, 1, 0, &after)); // strictly what is there
	assert_false(softmig_track_find(SOFTMIG_TRACK_HANDLE, 5, &after));
}

static void a_context_takes_along_what_hangs_on_it(void **state)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;
	int count = 0;
	(void)state;
	for (uint64_t i = 0; i < 30000; i++) { // quadratic walks would take minutes
		entry = pointer_at(0x100000 + i, 1, 1 + i % 3);
		assert_true(softmig_track_add(&entry));
	}
	while (softmig_track_remove_any(3, 2, &cursor, &entry)) {
		assert_int_equal(entry.context, 2);
		count++;
	}
	assert_int_equal(count, 10000);
	cursor = 0;
	assert_false(softmig_track_remove_any(4, 0, &cursor, &entry)); // another GPU's
	cursor = 0;
	for (count = 0; softmig_track_remove_any(3, 0, &cursor, &entry);)
		count++;
	assert_int_equal(count, 20000);
}

// Two entries that want the same place, now and when the table has grown: while it is walked, it grows, and the second moves to where the walk
// has been.
static void a_table_that_grows_under_a_walk_hides_nothing(void **state)
{
	struct softmig_track_entry entry = pointer_at(0x40000, 1, 77), filler;
	uint64_t cursor = 0, first = 0, second = 0, key = 0x2000000;
	(void)state;
	assert_true(softmig_track_add(&entry) && softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x40000, &entry));
	struct table *table = table_get();
	size_t size = table->size, grown = size * 2;
	for (first = key; place_of(SOFTMIG_TRACK_POINTER, first, size) != 5 || place_of(SOFTMIG_TRACK_POINTER, first, grown) != 5;)
		first++;
	for (second = first + 1; place_of(SOFTMIG_TRACK_POINTER, second, size) != 5 || place_of(SOFTMIG_TRACK_POINTER, second, grown) != 5;)
		second++;
	entry = pointer_at(first, 1, 77);
	assert_true(softmig_track_add(&entry));
	entry = pointer_at(second, 1, 77);
	assert_true(softmig_track_add(&entry));
	assert_true(softmig_track_remove_any(3, 77, &cursor, &entry));
	assert_int_equal(entry.key, first);
	const struct softmig_track_entry *before = table->entries;
	for (key = 0x9000000; table->entries == before; key++) {
		filler = pointer_at(key, 1, 78);
		assert_true(softmig_track_add(&filler));
	}
	assert_int_equal(table->size, grown);
	assert_true(softmig_track_remove_any(3, 77, &cursor, &entry));
	assert_int_equal(entry.key, second);
	assert_false(softmig_track_remove_any(3, 77, &cursor, &entry));
	while (key-- > 0x9000000)
		assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, key, &filler));
}

static void keys_that_never_come_again_do_not_fill_the_table(void **state)
{
	struct softmig_track_entry entry, kept = pointer_at(0x40000, 5, 1);
	(void)state;
	assert_true(softmig_track_add(&kept));
	struct table *table = table_get();
	size_t used = table->used;
	const struct softmig_track_entry *entries = table->entries;
	for (uint64_t i = 1; i < 20000; i++) {
		struct softmig_track_entry held = {.kind = SOFTMIG_TRACK_HANDLE, .key = i, .count = 1};
		entry = pointer_at(0x50000 + i, 1, 1);
		assert_true(softmig_track_add(&entry) && softmig_track_add(&held));
		assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, entry.key, &entry));
		assert_true(softmig_track_adjust(SOFTMIG_TRACK_HANDLE, i, -1, 0, &entry));
	}
	assert_true(table->used < used + 100); // of 40000: what was left before entries that stay
	assert_ptr_equal(table->entries, entries);
	assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x40000, &entry));
	assert_int_equal(entry.bytes, 5);
}

static atomic_int go, kept;

static void *first_call(void *number)
{
	uint64_t key = 0x900000 + (uint64_t)(uintptr_t)number;
	struct softmig_track_entry entry = pointer_at(key, 1, 1);
	while (atomic_load(&go) == 0)
		;
	if (softmig_track_add(&entry) && softmig_track_find(SOFTMIG_TRACK_POINTER, key, &entry))
		atomic_fetch_add(&kept, 1);
	return NULL;
}

static int child_with_threads(void)
{
	struct softmig_track_entry entry;
	pthread_t thread[4];
	if (softmig_track_find(SOFTMIG_TRACK_POINTER, 0x3000, &entry))
		return 1; // the parent's
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, first_call, (void *)i);
	atomic_store(&go, 1);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	for (uint64_t i = 0; i < 4; i++)
		if (!softmig_track_find(SOFTMIG_TRACK_POINTER, 0x900000 + i, &entry))
			return 2; // what one thread added, another has wiped
	return atomic_load(&kept) == 4 ? 0 : 3;
}

static void a_forked_child_starts_with_nothing_and_its_threads_agree(void **state)
{
	struct softmig_track_entry entry = pointer_at(0x3000, 1, 1);
	(void)state;
	assert_true(softmig_track_add(&entry));
	for (int i = 0; i < 200; i++) {
		int status;
		pid_t child = fork();
		if (child == 0)
			_exit(child_with_threads());
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
	assert_true(softmig_track_remove(SOFTMIG_TRACK_POINTER, 0x3000, &entry));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_added_is_found_and_removed),
		cmocka_unit_test(a_key_that_comes_again_gives_the_old_entry),
		cmocka_unit_test(counts_go_up_and_down_and_end),
		cmocka_unit_test(a_table_that_grows_under_a_walk_hides_nothing),
		cmocka_unit_test(keys_that_never_come_again_do_not_fill_the_table),
		cmocka_unit_test(a_context_takes_along_what_hangs_on_it),
		cmocka_unit_test(a_forked_child_starts_with_nothing_and_its_threads_agree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
