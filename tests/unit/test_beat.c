// SPDX-License-Identifier: Apache-2.0
// When beats are, and the tokens that belong to each moment of one.
#include "cmocka_all.h"
#include "slice/beat.h"

#define MS INT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define BEAT (20 * MS)

static void whole_numbers_of_beats_fit_a_second(void **state)
{
	(void)state;
	assert_in_range(SEC - SEC / (uint64_t)SOFTMIG_BEAT_NS * (uint64_t)SOFTMIG_BEAT_NS, 0, 100);
	assert_in_range(SEC - SEC / (uint64_t)SOFTMIG_BEAT_LONG_NS * (uint64_t)SOFTMIG_BEAT_LONG_NS, 0, 100);
	assert_int_equal(SOFTMIG_BEAT_LONG_NS % SOFTMIG_BEAT_NS, 0); // so that a job's processes meet, whichever each of them keeps
}

static void the_next_beat_is_later_and_the_same_for_all_of_a_job(void **state)
{
	(void)state;
	assert_int_equal(softmig_beat_next(5 * SEC, 0, BEAT), 5 * SEC + 20 * MS); // at a beat: the one after it
	assert_int_equal(softmig_beat_next(5 * SEC + 1, 0, BEAT), 5 * SEC + 20 * MS);
	assert_int_equal(softmig_beat_next(5 * SEC + 20 * MS - 1, 0, BEAT), 5 * SEC + 20 * MS);
	assert_int_equal(softmig_beat_next(5 * SEC, 5 * MS, BEAT), 5 * SEC + 15 * MS); // a phase moves them
	assert_int_equal(softmig_beat_next(5 * SEC + 16 * MS, 5 * MS, BEAT), 5 * SEC + 35 * MS);
}

static void the_floor_rises_as_tokens_come_in(void **state)
{
	(void)state;
	assert_int_equal(softmig_beat_floor(5 * SEC, 0, BEAT, 25), -MS * 5 / 4); // 0.25 * 0.25 * 20 ms
	assert_int_equal(softmig_beat_floor(5 * SEC + 5 * MS, 0, BEAT, 25), 0);
	assert_int_equal(softmig_beat_floor(5 * SEC + 20 * MS - 1, 0, BEAT, 25), MS * 15 / 4 - 1);
	assert_int_equal(softmig_beat_begin(BEAT, 25), MS * 15 / 4);
	assert_int_equal(softmig_beat_part(BEAT, 25), 5 * MS);
	assert_int_equal(softmig_beat_floor(5 * SEC, 15 * MS, BEAT, 50), 5 * MS * 3 / 2 - 5 * MS);
	for (unsigned pct = 1; pct <= 100; pct++) {
		assert_true(softmig_beat_floor(5 * SEC, 0, SOFTMIG_BEAT_LONG_NS, pct) <= 0);
		assert_true(softmig_beat_begin(SOFTMIG_BEAT_LONG_NS, pct) >= 0);
		assert_int_equal(softmig_beat_begin(SOFTMIG_BEAT_NS, pct) - softmig_beat_floor(0, 0, SOFTMIG_BEAT_NS, pct), softmig_beat_part(SOFTMIG_BEAT_NS, pct));
	}
}

static void any_phase_and_moment_will_do(void **state)
{
	(void)state;
	static const uint64_t odd[] = {0, 1, UINT64_MAX, UINT64_MAX / 2, UINT64_C(1795000000123456789)};
	for (int i = 0; i < 5; i++)
		for (int j = 0; j < 5; j++) {
			uint64_t next_ns = softmig_beat_next(odd[i], odd[j], BEAT);
			assert_in_range(next_ns - odd[i], 1, BEAT);
			assert_in_range(softmig_beat_floor(odd[i], odd[j], BEAT, 50) + 5 * MS, 0, 10 * MS);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whole_numbers_of_beats_fit_a_second),
		cmocka_unit_test(the_next_beat_is_later_and_the_same_for_all_of_a_job),
		cmocka_unit_test(the_floor_rises_as_tokens_come_in),
		cmocka_unit_test(any_phase_and_moment_will_do),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
