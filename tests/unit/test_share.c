// SPDX-License-Identifier: Apache-2.0
// The bucket word by word: refill, debt, live change, one bill for overlapping processes, damage.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "slice/ledger.h"
#include "slice/share.h"

#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define T0 (UINT64_C(1000) * SEC)
#define ALLOWANCE SOFTMIG_SHARE_ALLOWANCE_NS

_Static_assert(sizeof(((struct softmig_ledger_gpu *)0)->share_words) == sizeof(struct softmig_share), "the ledger's words");

static struct softmig_share share;

static int fresh(void **state)
{
	(void)state;
	memset(&share, 0, sizeof(share));
	return 0;
}

static int64_t tokens(uint64_t now_ns)
{
	return softmig_share_tokens(&share, 25, now_ns, ALLOWANCE);
}

static void a_new_job_has_its_allowance_and_no_more_after_an_idle_minute(void **state)
{
	(void)state;
	assert_int_equal(tokens(T0), ALLOWANCE);
	softmig_share_charge(&share, 25, 5 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	assert_int_equal(tokens(T0), ALLOWANCE - (int64_t)(5 * MS));
	assert_int_equal(tokens(T0 + 60 * SEC), ALLOWANCE);
}

static void tokens_come_back_at_the_pace_of_the_share(void **state)
{
	(void)state;
	softmig_share_charge(&share, 25, 8 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	assert_int_equal(tokens(T0), 0);
	assert_int_equal(tokens(T0 + 4 * MS), 1 * MS);
	assert_int_equal(tokens(T0 + 20 * MS), 5 * MS);
}

static void debt_is_carried_and_the_wait_for_its_end_is_known(void **state)
{
	(void)state;
	softmig_share_charge(&share, 25, 108 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	assert_int_equal(tokens(T0), -(int64_t)(100 * MS));
	uint64_t when_ns = softmig_share_when(&share, 25, T0, 0);
	assert_in_range(when_ns, T0 + 400 * MS, T0 + 400 * MS + 1000);
	assert_int_equal(softmig_share_when(&share, 25, T0 + SEC, 0), T0 + SEC);
}

static void debt_beyond_what_is_remembered_is_forgiven(void **state)
{
	(void)state;
	softmig_share_charge(&share, 25, 508 * MS, T0, ALLOWANCE, 100 * MS);
	assert_in_range(-tokens(T0), 100 * MS - 10, 100 * MS);
	softmig_share_charge(&share, 25, 50 * MS, T0, ALLOWANCE, 100 * MS);
	assert_in_range(-tokens(T0), 100 * MS - 10, 100 * MS);
	assert_in_range(-tokens(T0 + 200 * MS), 50 * MS - 10, 50 * MS);
}

static void what_comes_in_while_a_long_kernel_runs_is_not_lost_to_the_allowance(void **state)
{
	(void)state;
	softmig_share_charge(&share, 50, 8 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);     // empty at T0
	softmig_share_charge(&share, 50, 100 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);   // billed when it ends, at T0 + 100 ms
	assert_int_equal(softmig_share_tokens(&share, 50, T0 + 100 * MS, ALLOWANCE), -(int64_t)(50 * MS));
}

static void a_changed_share_keeps_the_debt_and_changes_its_price(void **state)
{
	(void)state;
	softmig_share_charge(&share, 10, 18 * MS, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	assert_in_range(softmig_share_when(&share, 10, T0, 0), T0 + 100 * MS, T0 + 100 * MS + 1000);
	softmig_share_charge(&share, 50, 0, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS); // now 50 %
	assert_int_equal(softmig_share_tokens(&share, 50, T0, ALLOWANCE), -(int64_t)(10 * MS));
	assert_in_range(softmig_share_when(&share, 50, T0, 0), T0 + 20 * MS, T0 + 20 * MS + 1000);
}

static void many_small_charges_come_to_the_same_as_a_large_one(void **state)
{
	(void)state;
	uint64_t now_ns = T0;
	softmig_share_charge(&share, 30, 8 * MS, now_ns, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	for (int i = 0; i < 1000000; i++) { // 1 us busy in every 2 us, for two seconds
		softmig_share_charge(&share, 30, 1000, now_ns, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
		now_ns += 2000;
	}
	int64_t expected = (int64_t)(2 * SEC * 3 / 10) - (int64_t)SEC;
	int64_t error = softmig_share_tokens(&share, 30, now_ns, ALLOWANCE) - expected;
	assert_true(error > -(int64_t)MS && error < (int64_t)MS); // half a thousandth of the second
}

static void overlapping_spans_of_two_processes_are_billed_once(void **state)
{
	(void)state;
	assert_int_equal(softmig_share_bill(&share, 1, T0, T0 + 10 * MS, T0 + 10 * MS), 10 * MS);
	assert_int_equal(softmig_share_bill(&share, 2, T0 + 2 * MS, T0 + 12 * MS, T0 + 12 * MS), 2 * MS);
	assert_int_equal(softmig_share_bill(&share, 2, T0 + 3 * MS, T0 + 5 * MS, T0 + 12 * MS), 0);
}

static void a_pause_is_not_billed_unless_another_process_works_in_it(void **state)
{
	(void)state;
	softmig_share_bill(&share, 1, T0, T0 + MS, T0 + MS);
	assert_int_equal(softmig_share_bill(&share, 1, T0 + 11 * MS, T0 + 12 * MS, T0 + 12 * MS), MS);
	assert_true(softmig_share_mark(&share, 2, T0 + 20 * MS, T0 + 12 * MS));
	assert_int_equal(softmig_share_bill(&share, 1, T0 + 16 * MS, T0 + 17 * MS, T0 + 17 * MS), 5 * MS);
	assert_int_equal(softmig_share_bill(&share, 1, T0 + 30 * MS, T0 + 30 * MS, T0 + 30 * MS), 3 * MS); // its mark ended at 20
}

static void the_mark_of_a_killed_process_ends_by_itself_and_its_place_is_used_again(void **state)
{
	(void)state;
	for (unsigned tag = 1; tag <= SOFTMIG_SHARE_MARKS; tag++)
		assert_true(softmig_share_mark(&share, tag, T0 + 5 * MS, T0));
	assert_false(softmig_share_mark(&share, 99, T0 + 5 * MS, T0));
	assert_true(softmig_share_others(&share, 99, T0) >= T0 + 5 * MS);
	assert_true(softmig_share_others(&share, 99, T0 + 6 * MS) < T0 + 6 * MS);
	assert_true(softmig_share_mark(&share, 99, T0 + 3 * SEC, T0 + 3 * SEC - MS));
	assert_true(softmig_share_mark(&share, 99, 0, T0 + 3 * SEC));
	assert_true(softmig_share_others(&share, 1, T0 + 3 * SEC) < T0 + 3 * SEC);
}

static void use_of_the_last_seconds_is_shown_in_thousandths(void **state)
{
	(void)state;
	for (uint64_t ms = 0; ms < 6000; ms += 10)
		softmig_share_count(&share, MS * 5 / 2, 0, T0 + ms * MS); // 25 %
	assert_int_equal(softmig_share_used_permille(&share, T0 + 6 * SEC), 250);
	assert_int_equal(softmig_share_used_permille(&share, T0 + 60 * SEC), 0);
	softmig_share_count(&share, 0, 7 * MS, T0);
	assert_int_equal(share.throttled_ns, 7 * MS);
}

static void words_of_another_boot_do_not_hold_anybody_up(void **state)
{
	(void)state;
	// The machine was up for a month; now it has been up for ten seconds.
	uint64_t before_ns = 30 * 86400 * SEC, now_ns = 10 * SEC;
	softmig_share_charge(&share, 25, 50 * MS, before_ns, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	softmig_share_bill(&share, 1, before_ns, before_ns + MS, before_ns + MS);
	softmig_share_mark(&share, 7, before_ns + MS, before_ns);
	assert_true(tokens(now_ns) >= 0);
	assert_int_equal(softmig_share_bill(&share, 1, now_ns, now_ns + MS, now_ns + MS), MS);
	assert_int_equal(softmig_share_others(&share, 1, now_ns), 0);
}

static void whatever_is_scribbled_there_the_answers_stay_within_bounds(void **state)
{
	(void)state;
	uint64_t x = 88172645463325252u;
	for (int i = 0; i < 200000; i++) {
		_Atomic uint64_t *words = (_Atomic uint64_t *)&share;
		for (int w = 0; w < SOFTMIG_SHARE_WORDS; w++) {
			x ^= x << 13, x ^= x >> 7, x ^= x << 17;
			words[w] = i % 3 == 0 ? x : i % 3 == 1 ? x >> (x & 63) : (T0 << 7) ^ (x & 0xffff);
		}
		unsigned pct = (unsigned)(x % 101);
		int64_t have = softmig_share_tokens(&share, pct, T0, ALLOWANCE);
		assert_true(have <= ALLOWANCE && have >= -SOFTMIG_SHARE_DEBT_NS);
		softmig_share_charge(&share, pct, x >> 20, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
		assert_true(softmig_share_when(&share, pct ? pct : 1, T0, 0) <= T0 + 12001 * SEC);
		assert_true(softmig_share_bill(&share, 3, T0 - MS, T0, T0) <= T0);
		softmig_share_mark(&share, 3, T0 + MS, T0);
		assert_true(softmig_share_others(&share, 4, T0) <= T0 + 3 * SEC);
		assert_in_range(softmig_share_used_permille(&share, T0), 0, 1000);
	}
}

static void *charges(void *unused)
{
	for (int i = 0; i < 100000; i++)
		softmig_share_charge(&share, 50, 1000, T0, ALLOWANCE, SOFTMIG_SHARE_DEBT_NS);
	return unused;
}

static void four_threads_lose_no_charge(void **state)
{
	(void)state;
	pthread_t thread[4];
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, charges, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(softmig_share_tokens(&share, 50, T0, ALLOWANCE), ALLOWANCE - 4 * 100000 * 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup(name, fresh)
		TEST(a_new_job_has_its_allowance_and_no_more_after_an_idle_minute),
		TEST(tokens_come_back_at_the_pace_of_the_share),
		TEST(debt_is_carried_and_the_wait_for_its_end_is_known),
		TEST(debt_beyond_what_is_remembered_is_forgiven),
		TEST(what_comes_in_while_a_long_kernel_runs_is_not_lost_to_the_allowance),
		TEST(a_changed_share_keeps_the_debt_and_changes_its_price),
		TEST(many_small_charges_come_to_the_same_as_a_large_one),
		TEST(overlapping_spans_of_two_processes_are_billed_once),
		TEST(a_pause_is_not_billed_unless_another_process_works_in_it),
		TEST(the_mark_of_a_killed_process_ends_by_itself_and_its_place_is_used_again),
		TEST(use_of_the_last_seconds_is_shown_in_thousandths),
		TEST(words_of_another_boot_do_not_hold_anybody_up),
		TEST(whatever_is_scribbled_there_the_answers_stay_within_bounds),
		TEST(four_threads_lose_no_charge),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
