// SPDX-License-Identifier: Apache-2.0
// The places of pools where what was exported lay that is free: what of them can be kept, whatever is exported anew, in whichever parts and order.
#include "cmocka_all.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// The library's own files, which are part of no library to link with.
#include "../../src/preload/private.c"
#include "../../src/preload/track.c"

#include "../../src/preload/pool_place.c"

#define MIB (1ull << 20)
#define CHUNK SOFTMIG_POOL_CHUNK_BYTES
#define BASE 0x48ea000000ull

static struct softmig_pool_places pool(uint64_t number)
{
	return (struct softmig_pool_places){.number = 1ull << 31 | number};
}

static void equal_pieces_come_and_go(void **state)
{
	struct softmig_pool_places places = pool(1);
	(void)state;
	for (uint64_t round = 1; round < 5; round++) {
		for (uint64_t i = 0; i < 4; i++)
			softmig_pool_place_add(&places, BASE + i * 256 * MIB, 256 * MIB, round * 10 + i);
		assert_int_equal(softmig_pool_places_most(&places), 1024 * MIB);
		for (uint64_t i = 0; i < 4; i++) {
			assert_int_equal(softmig_pool_place_renew(&places, BASE + i * 256 * MIB, 256 * MIB), round * 10 + i);
			assert_int_equal(softmig_pool_places_most(&places), (3 - i) * 256 * MIB);
		}
		assert_int_equal(softmig_pool_place_renew(&places, BASE, 256 * MIB), UINT64_MAX); // nothing is there
	}
}

static void a_place_shrinks_from_both_ends_and_in_the_middle(void **state)
{
	struct softmig_pool_places places = pool(2);
	(void)state;
	softmig_pool_place_add(&places, BASE, 8 * CHUNK, 7);
	assert_int_equal(softmig_pool_place_renew(&places, BASE, CHUNK), 7);
	assert_int_equal(softmig_pool_places_most(&places), 7 * CHUNK);
	assert_int_equal(softmig_pool_place_renew(&places, BASE + 6 * CHUNK, 5 * CHUNK), 7); // and beyond
	assert_int_equal(softmig_pool_places_most(&places), 5 * CHUNK);
	assert_int_equal(softmig_pool_place_renew(&places, BASE + 3 * CHUNK, CHUNK), 7);
	assert_int_equal(softmig_pool_places_most(&places), 4 * CHUNK);
	assert_int_equal(places.count, 2);
	assert_int_equal(softmig_pool_place_renew(&places, BASE, 9 * CHUNK), 7);
	assert_int_equal(softmig_pool_places_most(&places), 0);
}

static void a_chunk_counts_as_long_as_any_place_is_in_it(void **state)
{
	struct softmig_pool_places places = pool(3);
	(void)state;
	softmig_pool_place_add(&places, BASE, MIB, 5);
	softmig_pool_place_add(&places, BASE + MIB, MIB, 6);
	softmig_pool_place_add(&places, BASE + CHUNK - MIB, 2 * MIB, 7); // in two chunks
	assert_int_equal(softmig_pool_places_most(&places), 2 * CHUNK);
	softmig_pool_place_renew(&places, BASE, MIB);
	assert_int_equal(softmig_pool_places_most(&places), 2 * CHUNK);
	// The chunk of the first is charged still: who imported that is heir when the chunk is given back.
	assert_int_equal(softmig_pool_place_renew(&places, BASE + CHUNK - MIB, 2 * MIB), 5);
	assert_int_equal(softmig_pool_places_most(&places), CHUNK);
	assert_int_equal(softmig_pool_place_renew(&places, BASE + MIB, MIB), 5);
	assert_int_equal(softmig_pool_places_most(&places), 0);
	softmig_pool_place_add(&places, BASE, MIB, 9);
	assert_int_equal(softmig_pool_place_renew(&places, BASE, MIB), 9);
}

static void what_could_not_be_noted_is_kept_until_the_pool_is_gone(void **state)
{
	struct softmig_pool_places places = pool(4);
	(void)state;
	softmig_pool_place_lost(&places, 64 * MIB);
	softmig_pool_place_add(&places, BASE, CHUNK, 5);
	softmig_pool_place_renew(&places, BASE, CHUNK);
	assert_int_equal(softmig_pool_places_most(&places), 64 * MIB);
	softmig_pool_places_forget(&places);
	assert_int_equal(softmig_pool_places_most(&places), 0);
}

static void pools_have_places_of_their_own(void **state)
{
	struct softmig_pool_places one = pool(5), two = pool(6);
	struct softmig_track_entry entry;
	uint64_t cursor = 0;
	(void)state;
	softmig_pool_place_add(&one, BASE, CHUNK, 5);
	softmig_pool_place_add(&two, BASE + CHUNK, 3 * CHUNK, 6);
	assert_int_equal(softmig_pool_place_renew(&one, BASE, 4 * CHUNK), 5);
	assert_int_equal(softmig_pool_places_most(&one), 0);
	assert_int_equal(softmig_pool_places_most(&two), 3 * CHUNK);
	softmig_pool_places_forget(&one);
	assert_int_equal(softmig_pool_places_most(&two), 3 * CHUNK);
	softmig_pool_places_forget(&two);
	assert_false(softmig_track_next(SOFTMIG_TRACK_POOL_PLACE, &cursor, &entry));
	assert_false(softmig_track_next(SOFTMIG_TRACK_POOL_CHUNK, &cursor, &entry));
}

// Against a map of all steps of 1 MiB: 0, or when what lies there was exported.
static void as_a_map_of_every_mib_says(void **state)
{
	enum { MAP = 640, STEPS = 4000 };
	static uint64_t map[MAP];
	struct softmig_pool_places places = pool(7);
	unsigned seed = 3;
	(void)state;
	for (uint64_t step = 1; step <= STEPS; step++) {
		uint64_t first = (uint64_t)(rand_r(&seed) % MAP), most = MAP - first, oldest = UINT64_MAX, chunks = 0;
		uint64_t length = (uint64_t)rand_r(&seed) % (most < 100 ? most : 100) + 1;
		for (uint64_t i = first; i < first + length; i++)
			oldest = map[i] != 0 && map[i] < oldest ? map[i] : oldest;
		uint64_t since = softmig_pool_place_renew(&places, BASE + first * MIB, length * MIB);
		assert_true(since <= oldest);
		bool freed = rand_r(&seed) % 2 == 0;
		for (uint64_t i = first; i < first + length; i++)
			map[i] = freed ? step : 0;
		if (freed)
			softmig_pool_place_add(&places, BASE + first * MIB, length * MIB, step);
		for (uint64_t i = 0; i < MAP; i += 32) {
			bool any = false;
			for (uint64_t j = i; j < i + 32; j++)
				any |= map[j] != 0;
			chunks += any;
		}
		assert_int_equal(softmig_pool_places_most(&places), chunks * CHUNK);
	}
	softmig_pool_places_forget(&places);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_pieces_come_and_go),
		cmocka_unit_test(a_place_shrinks_from_both_ends_and_in_the_middle),
		cmocka_unit_test(a_chunk_counts_as_long_as_any_place_is_in_it),
		cmocka_unit_test(what_could_not_be_noted_is_kept_until_the_pool_is_gone),
		cmocka_unit_test(pools_have_places_of_their_own),
		cmocka_unit_test(as_a_map_of_every_mib_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
