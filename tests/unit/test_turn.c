// SPDX-License-Identifier: Apache-2.0
// Neighbours on one GPU, in simulated time: shares of each other, the work they do together, latency, and neighbours that
// stop, die, lie or run endless kernels.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "share_sim.h"

static void assert_near(double value, double expected, double tolerance)
{
	if (value < expected - tolerance || value > expected + tolerance)
		fail_msg("%.3f is not within %.3f of %.3f", value, tolerance, expected);
}

struct result {
	double total, part[SIM_JOBS]; // percent of the GPU, percent of the total
};

// Each job's part of the work is its part of the shares.
static void assert_parts(const struct result *result, int count, const unsigned *pct, double tolerance)
{
	unsigned sum = 0;
	for (int i = 0; i < count; i++)
		sum += pct[i];
	for (int i = 0; i < count; i++)
		assert_near(result->part[i], 100.0 * pct[i] / sum, tolerance);
}

static uint64_t measured_ns = 5 * SEC;

static struct result neighbours(int count, const unsigned *pct, const uint64_t *length_ns, bool bare)
{
	struct sim *sim = sim_new();
	struct result result = {0};
	unsigned sum = 0;
	for (int i = 0; i < count; i++)
		sum += pct[i];
	for (int i = 0; i < count; i++) {
		struct sim_job *job = sim_job(sim, pct[i]);
		job->bare = bare;
		sim_process(sim, job, length_ns[i])->turn.sum_is_whole = sum <= 100;
	}
	sim_run(sim, SEC);
	sim_clear(sim);
	sim_run(sim, measured_ns);
	for (int i = 0; i < count; i++)
		result.total += sim_pct(&sim->job[i], measured_ns);
	for (int i = 0; i < count; i++)
		result.part[i] = 100 * sim_pct(&sim->job[i], measured_ns) / result.total;
	free(sim);
	return result;
}

static const uint64_t lengths[] = {100 * US, MS, 5 * MS, 20 * MS};

static void busy_neighbours_keep_their_parts_and_do_more_than_by_time_slicing(void **state)
{
	(void)state;
	static const struct { int count; unsigned pct[8]; double total; } cases[] = {
		{2, {50, 50}, 97}, {2, {30, 70}, 97}, {2, {10, 90}, 97},
		{4, {25, 25, 25, 25}, 95}, {8, {12, 12, 12, 12, 12, 12, 12, 12}, 95},
	};
	for (size_t l = 0; l < 4; l++) {
		uint64_t same[8];
		for (int i = 0; i < 8; i++)
			same[i] = lengths[l];
		assert_near(neighbours(2, cases[0].pct, same, true).total, 90.4, 1); // the model agrees with the measurement
		for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
			struct result result = neighbours(cases[c].count, cases[c].pct, same, false);
			assert_parts(&result, cases[c].count, cases[c].pct, 1);
			assert_true(result.total >= cases[c].total);
		}
	}
}

static void wrong_estimates_cost_no_more_than_time_slicing_does(void **state)
{
	(void)state;
	static const uint64_t wrong[] = {40, 150, 250}; // as they come out of work that others had a part in
	measured_ns = 30 * SEC; // now and then turns are given up for a second
	for (size_t e = 0; e < 3; e++)
		for (size_t l = 0; l < 3; l++) {
			uint64_t same[4] = {lengths[l], lengths[l], lengths[l], lengths[l]};
			sim_estimate_pct = wrong[e];
			struct result two = neighbours(2, (unsigned[]){30, 70}, same, false);
			struct result four = neighbours(4, (unsigned[]){25, 25, 25, 25}, same, false);
			sim_estimate_pct = 100;
			assert_near(two.part[0], 30, 1.2);
			assert_true(two.total >= 93);
			assert_near(four.part[3], 25, 1);
			assert_true(four.total >= 89.5);
		}
	measured_ns = 5 * SEC;
}

static void neighbours_with_kernels_of_different_lengths_keep_their_parts(void **state)
{
	(void)state;
	struct result result = neighbours(2, (unsigned[]){50, 50}, (uint64_t[]){100 * US, 20 * MS}, false);
	assert_near(result.part[0], 50, 1);
	assert_true(result.total >= 97);
	result = neighbours(2, (unsigned[]){30, 70}, (uint64_t[]){20 * MS, MS}, false);
	assert_near(result.part[0], 30, 1);
	assert_true(result.total >= 97);
}

static void shares_that_come_to_more_than_the_whole_are_levelled(void **state)
{
	(void)state;
	uint64_t same[2] = {MS, MS};
	assert_near(neighbours(2, (unsigned[]){30, 100}, same, false).part[0], 30, 1);
	assert_near(neighbours(2, (unsigned[]){75, 75}, same, false).part[0], 50, 1);
}

// Two GPUs and jobs on both, whose kernels wait for each other: what the jobs do of the first GPU's time.
static struct result twins(int count, const unsigned *pct, uint64_t length_ns)
{
	struct sim *gpu[2] = {sim_new(), sim_new()};
	struct result result = {0};
	if (gpu[0] > gpu[1]) { // the one at the lower address is the first
		struct sim *swap = gpu[0];
		gpu[0] = gpu[1];
		gpu[1] = swap;
	}
	for (int g = 0; g < 2; g++)
		for (int i = 0; i < count; i++) {
			struct sim_job *job = sim_job(gpu[g], pct[i]);
			struct sim_process *process = sim_process(gpu[g], job, length_ns);
			process->burst = 8;
			process->pause_ns = 50 * US;
			process->wake_ns += (uint64_t)g * 11 * US;
			process->twin = &gpu[!g]->process[i];
		}
	sim_run_two(gpu[0], gpu[1], SEC);
	sim_clear(gpu[0]);
	sim_run_two(gpu[0], gpu[1], 3 * SEC);
	for (int i = 0; i < count; i++)
		result.total += sim_pct(&gpu[0]->job[i], 3 * SEC);
	for (int i = 0; i < count; i++)
		result.part[i] = 100 * sim_pct(&gpu[0]->job[i], 3 * SEC) / result.total;
	free(gpu[0]);
	free(gpu[1]);
	return result;
}

static void jobs_whose_gpus_wait_for_each_other_do_not_hold_them_from_one_another(void **state)
{
	(void)state;
	static const struct { int count; unsigned pct[4]; double total; } cases[] = {
		{1, {50}, 48}, {2, {50, 50}, 78}, {2, {30, 70}, 80}, {2, {30, 30}, 52}, {4, {25, 25, 25, 25}, 65},
	};
	for (size_t l = 1; l < 3; l++)
		for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
			struct result result = twins(cases[c].count, cases[c].pct, lengths[l]);
			assert_parts(&result, cases[c].count, cases[c].pct, 4);
			assert_true(result.total >= cases[c].total);
		}
}

static void a_job_alone_is_told_so_without_waiting(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *job = sim_job(sim, 100);
	sim_job(sim, 50); // has a page, but wants nothing
	sim_process(sim, job, 100 * US);
	sim_run(sim, 3 * SEC);
	assert_true(sim_pct(job, 3 * SEC) >= 99.8);
	free(sim);
}

static void who_joins_is_served_soon_and_who_leaves_is_not_waited_for(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *stays = sim_job(sim, 50), *comes = sim_job(sim, 50);
	sim_process(sim, stays, MS);
	struct sim_process *visitor = sim_process(sim, comes, MS);
	visitor->start_ns = sim->now_ns + SEC;
	visitor->wake_ns = visitor->start_ns;
	visitor->stop_ns = sim->now_ns + 3 * SEC;
	sim_run(sim, SEC);
	assert_near(sim_pct(stays, SEC), 50, 1.2);
	sim_run(sim, 20 * MS);
	assert_true(comes->work_ns >= 5 * MS);
	sim_run(sim, 2 * SEC);
	sim_clear(sim);
	sim_run(sim, SEC);
	assert_near(sim_pct(stays, SEC), 50, 1.2);
	assert_int_equal(comes->work_ns, 0);
	free(sim);
}

static void a_job_of_several_processes_has_one_turn(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *many = sim_job(sim, 50), *one = sim_job(sim, 50);
	for (int i = 0; i < 3; i++)
		sim_process(sim, many, MS);
	sim_process(sim, one, MS);
	sim_run(sim, SEC);
	sim_clear(sim);
	sim_run(sim, 5 * SEC);
	assert_near(sim_pct(one, 5 * SEC), 49, 1.5);
	assert_near(sim_pct(many, 5 * SEC), 45, 3); // the switching among its own processes is its own
	free(sim);
}

static void borrowing_takes_what_is_idle_and_gives_it_back(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *borrower = sim_job(sim, 25), *owner = sim_job(sim, 75);
	borrower->borrow = true;
	sim_process(sim, borrower, MS);
	struct sim_process *visitor = sim_process(sim, owner, MS);
	visitor->start_ns = sim->now_ns + 2 * SEC;
	visitor->wake_ns = visitor->start_ns;
	sim_run(sim, 2 * SEC);
	assert_true(sim_pct(borrower, 2 * SEC) >= 99);
	sim_clear(sim);
	sim_run(sim, 3 * SEC);
	assert_true(sim_pct(owner, 3 * SEC) >= 72);
	assert_true(sim_pct(borrower, 3 * SEC) >= 22);
	free(sim);
}

static void a_small_kernel_now_and_then_passes_at_once(void **state)
{
	(void)state;
	uint64_t slow_ns[2];
	for (int turns = 0; turns < 2; turns++) {
		struct sim *sim = sim_new();
		struct sim_job *small = sim_job(sim, 50), *busy = sim_job(sim, 100);
		small->bare = busy->bare = !turns;
		struct sim_process *process = sim_process(sim, small, 100 * US);
		process->burst = 1;
		process->pause_ns = 50 * MS;
		sim_process(sim, busy, MS);
		sim_run(sim, 10 * SEC);
		slow_ns[turns] = sim_percentile(process, 99);
		assert_true(sim_pct(busy, 10 * SEC) >= 98.5);
		free(sim);
	}
	assert_true(slow_ns[1] <= slow_ns[0]);
}

static void an_inference_loop_beside_a_busy_neighbour_costs_neither_much(void **state)
{
	(void)state;
	uint64_t median_ns[2];
	for (int turns = 0; turns < 2; turns++) {
		struct sim *sim = sim_new();
		struct sim_job *steps = sim_job(sim, 50), *busy = sim_job(sim, 50);
		steps->bare = busy->bare = !turns;
		struct sim_process *process = sim_process(sim, steps, 100 * US);
		process->burst = 50;
		process->pause_ns = 20 * MS;
		sim_process(sim, busy, MS);
		sim_run(sim, 10 * SEC);
		median_ns[turns] = sim_percentile(process, 50);
		if (turns)
			assert_true(sim_pct(busy, 10 * SEC) >= 45);
		free(sim);
	}
	assert_true(median_ns[1] <= median_ns[0]);
}

static void who_was_alone_before_a_pause_looks_around_after_it_has_submitted(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *small = sim_job(sim, 50);
	struct sim_process *process = sim_process(sim, small, 10 * US);
	process->burst = 1;
	process->pause_ns = 2 * MS;
	sim_run(sim, SEC);
	unsigned alone = process->looked_later;
	assert_true(alone >= 450); // at nearly every one of 500
	struct sim_process *long_one = sim_process(sim, small, 20 * MS);
	long_one->burst = 1;
	long_one->pause_ns = 20 * MS;
	sim_run(sim, SEC);
	assert_int_equal(long_one->looked_later, 0); // that may not pass beside others
	sim_kill(long_one);
	struct sim_job *busy = sim_job(sim, 50);
	sim_process(sim, busy, MS);
	sim_run(sim, SEC);
	alone = process->looked_later;
	sim_run(sim, SEC);
	assert_true(process->looked_later <= alone + 2); // while somebody is there, before
	free(sim);
}

// ---- bad neighbours: the good one (50 %, 1 ms kernels) never gets less than 0.95 of what plain time-slicing gives it, 45.2 %,
// nor of its share where that is less

static double beside(unsigned pct, unsigned bad_pct, uint64_t bad_length_ns, void (*meddle)(struct sim *sim))
{
	struct sim *sim = sim_new();
	struct sim_job *good = sim_job(sim, pct), *bad = sim_job(sim, bad_pct);
	sim_process(sim, good, MS);
	sim_process(sim, bad, bad_length_ns);
	sim->meddle = meddle;
	sim_run(sim, SEC);
	sim_clear(sim);
	sim_run(sim, 10 * SEC);
	double got = sim_pct(good, 10 * SEC);
	free(sim);
	return got;
}

static void hold_forever(struct sim *sim)
{
	struct softmig_turn_page *page = &sim->job[1].page;
	page->want_until_ns = sim->now_ns + 10 * MS;
	page->hold_until_ns = sim->now_ns + 20 * MS;
	page->hold_since_ns = sim->now_ns;
	page->turns++;
	page->virtual_ns = 0;
}

static void claim_to_have_had_nothing(struct sim *sim)
{
	sim->job[1].page.virtual_ns = 0;
	sim->job[1].page.pct = 100;
}

static void never_work_but_want(struct sim *sim)
{
	struct softmig_turn_page *page = &sim->job[1].page;
	sim_kill(&sim->process[1]);
	page->want_until_ns = sim->now_ns + 10 * MS;
}

static void scribble(struct sim *sim)
{
	static uint64_t x = 88172645463325252u, next_ns;
	uint64_t *words = (uint64_t *)&sim->job[1].page;
	if (sim->now_ns < next_ns)
		return;
	next_ns = sim->now_ns + 300 * MS;
	for (int i = 1; i < 9; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		words[i] = x >> (x & 63);
	}
}

static void a_neighbour_that_lies_in_its_page_gains_nothing(void **state)
{
	(void)state;
	assert_true(beside(50, 50, MS, hold_forever) >= 0.95 * 45.2);
	assert_true(beside(10, 50, MS, hold_forever) >= 0.95 * 10);
	assert_true(beside(50, 50, MS, claim_to_have_had_nothing) >= 0.95 * 45.2);
	assert_true(beside(70, 30, MS, claim_to_have_had_nothing) >= 0.95 * 63); // plain: 70 % are beyond it, 30 % the other's
	assert_true(beside(50, 50, MS, never_work_but_want) >= 0.95 * 50);
	assert_true(beside(50, 50, MS, scribble) >= 0.95 * 45.2);
}

static void a_neighbour_with_endless_kernels_does_not_starve_the_other(void **state)
{
	(void)state;
	assert_true(beside(50, 50, 500 * MS, NULL) >= 0.95 * 45.2);
	assert_true(beside(50, 100, 500 * MS, NULL) >= 0.95 * 45.2);
}

static void a_neighbour_that_is_stopped_or_killed_in_its_turn_is_passed_over(void **state)
{
	(void)state;
	for (int how = 0; how < 2; how++)
		for (uint64_t phase_ns = 0; phase_ns < 25 * MS; phase_ns += 5 * MS) {
			struct sim *sim = sim_new();
			struct sim_job *good = sim_job(sim, 50), *bad = sim_job(sim, 50);
			sim_process(sim, good, MS);
			struct sim_process *process = sim_process(sim, bad, MS);
			sim_run(sim, SEC + phase_ns);
			sim_clear(sim);
			process->stopped_from_ns = sim->now_ns;
			process->stopped_to_ns = sim->now_ns + 10 * SEC;
			if (how)
				sim_kill(process);
			sim_run(sim, SEC);
			assert_near(sim_pct(good, SEC), 51, 2.5); // 3 points are what it saved up while it waited for its turn
			free(sim);
		}
}

static void a_neighbour_that_is_stopped_again_and_again_does_not_matter(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *good = sim_job(sim, 50), *bad = sim_job(sim, 50);
	sim_process(sim, good, MS);
	struct sim_process *process = sim_process(sim, bad, MS);
	for (int i = 0; i < 50; i++) {
		process->stopped_from_ns = sim->now_ns + 13 * MS;
		process->stopped_to_ns = sim->now_ns + 50 * MS;
		sim_run(sim, 100 * MS);
	}
	assert_near(sim_pct(good, 5 * SEC), 50, 1);
	free(sim);
}

// ---- the rule, step by step

static struct softmig_turn_page mine, theirs;
static struct softmig_turn one, other;
#define T0 (5000 * SEC)

static void read_each_other(uint64_t now_ns)
{
	struct softmig_turn_seen seen;
	one.peers = other.peers = 1;
	memcpy(&seen, &theirs, sizeof(seen));
	softmig_turn_see(&one, 0, &seen, now_ns);
	memcpy(&seen, &mine, sizeof(seen));
	softmig_turn_see(&other, 0, &seen, now_ns);
}

static int two_pages(void **state)
{
	(void)state;
	memset(&mine, 0, sizeof(mine));
	memset(&theirs, 0, sizeof(theirs));
	softmig_turn_init(&mine, 1);
	softmig_turn_init(&theirs, 2);
	one = (struct softmig_turn){.own = &mine, .sum_is_whole = true};
	other = (struct softmig_turn){.own = &theirs, .sum_is_whole = true};
	return 0;
}

// Both want, one holds.
static uint64_t begin(unsigned pct, unsigned other_pct)
{
	theirs.pct = other_pct;
	theirs.want_until_ns = T0 + 10 * SEC; // out of bounds: not heard
	read_each_other(T0);
	assert_int_equal(softmig_turn_others(&one, T0), 0);
	theirs.want_until_ns = T0 + 500 * MS;
	read_each_other(T0);
	struct softmig_turn_answer answer = softmig_turn_ask(&one, pct, T0);
	assert_int_equal(answer.verdict, SOFTMIG_TURN_MINE);
	return answer.until_ns - T0;
}

static void a_turn_is_as_long_as_the_share_says(void **state)
{
	(void)state;
	assert_int_equal(begin(50, 50), 12 * MS);
	two_pages(NULL);
	assert_int_equal(begin(10, 90), 3 * MS); // 2.4, but shorter than this is not worth a hand-over
	two_pages(NULL);
	assert_int_equal(begin(70, 100), 24 * MS * 70 / 100); // root gave this job 70: whatever the other claims
	two_pages(NULL);
	one.sum_is_whole = false;
	assert_int_equal(begin(70, 100), 12 * MS);
}

static void equal_jobs_alternate(void **state)
{
	(void)state;
	uint64_t end_ns = T0 + begin(50, 50);
	softmig_turn_release(&one, 50, 0, end_ns);
	assert_int_equal(mine.virtual_ns, 24 * MS);
	theirs.virtual_ns = mine.virtual_ns + MS; // the other is a little ahead
	read_each_other(end_ns);
	struct softmig_turn_answer again = softmig_turn_ask(&one, 50, end_ns), next = softmig_turn_ask(&other, 50, end_ns);
	assert_int_equal(again.verdict, SOFTMIG_TURN_WAIT);
	assert_int_equal(next.verdict, SOFTMIG_TURN_MINE);
}

static void a_hold_without_end_counts_for_40_ms(void **state)
{
	uint64_t now_ns = T0;
	(void)state;
	theirs.pct = 50;
	for (; now_ns < T0 + 45 * MS; now_ns += MS / 4) {
		theirs.want_until_ns = now_ns + 10 * MS;
		theirs.hold_until_ns = now_ns + 10 * MS;
		read_each_other(now_ns);
		if (softmig_turn_ask(&one, 50, now_ns).verdict != SOFTMIG_TURN_WAIT)
			break;
	}
	assert_in_range(now_ns - T0, 40 * MS, 41 * MS);
	assert_int_equal(one.plain_until_ns, 0); // and turns go on
}

static void a_hold_ends_a_quarter_of_a_millisecond_after_what_was_announced(void **state)
{
	(void)state;
	theirs.pct = 50;
	theirs.hold_until_ns = T0 + 5 * MS;
	read_each_other(T0);
	struct softmig_turn_answer answer = softmig_turn_ask(&one, 50, T0);
	assert_int_equal(answer.verdict, SOFTMIG_TURN_WAIT);
	assert_int_equal(answer.until_ns, T0 + 5 * MS + MS / 4);
	assert_int_equal(answer.free_ns, T0 + 5 * MS - SOFTMIG_TURN_LINGER_NS);
	read_each_other(T0 + 6 * MS);
	assert_int_not_equal(softmig_turn_ask(&one, 50, T0 + 6 * MS).verdict, SOFTMIG_TURN_WAIT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_turn_is_as_long_as_the_share_says, two_pages),
		cmocka_unit_test_setup(equal_jobs_alternate, two_pages),
		cmocka_unit_test_setup(a_hold_without_end_counts_for_40_ms, two_pages),
		cmocka_unit_test_setup(a_hold_ends_a_quarter_of_a_millisecond_after_what_was_announced, two_pages),
		cmocka_unit_test(busy_neighbours_keep_their_parts_and_do_more_than_by_time_slicing),
		cmocka_unit_test(wrong_estimates_cost_no_more_than_time_slicing_does),
		cmocka_unit_test(neighbours_with_kernels_of_different_lengths_keep_their_parts),
		cmocka_unit_test(shares_that_come_to_more_than_the_whole_are_levelled),
		cmocka_unit_test(jobs_whose_gpus_wait_for_each_other_do_not_hold_them_from_one_another),
		cmocka_unit_test(a_job_alone_is_told_so_without_waiting),
		cmocka_unit_test(who_joins_is_served_soon_and_who_leaves_is_not_waited_for),
		cmocka_unit_test(a_job_of_several_processes_has_one_turn),
		cmocka_unit_test(borrowing_takes_what_is_idle_and_gives_it_back),
		cmocka_unit_test(a_small_kernel_now_and_then_passes_at_once),
		cmocka_unit_test(an_inference_loop_beside_a_busy_neighbour_costs_neither_much),
		cmocka_unit_test(who_was_alone_before_a_pause_looks_around_after_it_has_submitted),
		cmocka_unit_test(a_neighbour_that_lies_in_its_page_gains_nothing),
		cmocka_unit_test(a_neighbour_with_endless_kernels_does_not_starve_the_other),
		cmocka_unit_test(a_neighbour_that_is_stopped_or_killed_in_its_turn_is_passed_over),
		cmocka_unit_test(a_neighbour_that_is_stopped_again_and_again_does_not_matter),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
