// SPDX-License-Identifier: Apache-2.0
// The share of a job that is alone on its GPU, in simulated time: the figures of the table in docs/share.md.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "share_sim.h"

static const unsigned shares[] = {10, 25, 50, 75, 90};
#define SHARES (sizeof(shares) / sizeof(shares[0]))

static void assert_near(double value, double expected, double tolerance)
{
	if (value < expected - tolerance || value > expected + tolerance)
		fail_msg("%.3f is not within %.3f of %.3f", value, tolerance, expected);
}

// Runs ten seconds after one of warming up; returns the mean in percent, and the deviation of its seconds.
static double measure(struct sim *sim, struct sim_job *job, double *deviation)
{
	sim_run(sim, SEC);
	sim_clear(sim);
	sim_run(sim, 10 * SEC);
	*deviation = sim_deviation(job, 1, 10);
	double mean = sim_pct(job, 10 * SEC);
	return mean;
}

static void one_length(uint64_t length_ns, double tolerance, double deviation_limit)
{
	for (size_t i = 0; i < SHARES; i++) {
		struct sim *sim = sim_new();
		struct sim_job *job = sim_job(sim, shares[i]);
		double deviation;
		sim_process(sim, job, length_ns);
		assert_near(measure(sim, job, &deviation), shares[i], tolerance);
		assert_true(deviation <= deviation_limit);
		free(sim);
	}
}

static void short_kernels_get_the_share_within_half_a_point(void **state)
{
	(void)state;
	one_length(10 * US, 0.2, 0.5);
	one_length(100 * US, 0.2, 0.5);
	one_length(1 * MS, 0.2, 0.5);
	one_length(5 * MS, 0.5, 0.5);
}

static void kernels_of_20_ms_get_it_within_a_point_and_of_100_ms_within_one_and_a_half(void **state)
{
	(void)state;
	one_length(20 * MS, 1, 2); // indivisible: L(1-p)/T is up to 1.8 points in one second
	one_length(100 * MS, 1.5, 10);
}

static void wrong_estimates_do_not_change_the_share(void **state)
{
	(void)state;
	static const uint64_t wrong[] = {40, 250};
	for (size_t i = 0; i < 2; i++) {
		sim_estimate_pct = wrong[i];
		one_length(100 * US, 0.3, 0.7);
		one_length(1 * MS, 0.3, 0.7);
		one_length(20 * MS, 1, 2);
	}
	sim_estimate_pct = 100;
}

static void a_pause_ends_when_its_reason_was_an_estimate_far_too_long(void **state)
{
	(void)state;
	sim_estimate_wild = 70;
	one_length(100 * US, 0.5, 0.7);
	sim_estimate_wild = 7;
	one_length(1 * MS, 0.5, 0.7);
	one_length(5 * MS, 0.5, 0.7);
	sim_estimate_wild = 0;
}

static void a_program_that_is_slow_to_start_loses_a_point_at_most(void **state)
{
	(void)state;
	sim_start_ns = 180 * US; // [H200] PyTorch's eager mode
	one_length(100 * US, 1, 0.5);
	one_length(MS, 1, 0.5);
	sim_start_ns = 0;
}

static void mixed_kernels_get_it_within_half_a_point(void **state)
{
	(void)state;
	for (size_t i = 0; i < SHARES; i++) {
		struct sim *sim = sim_new();
		struct sim_job *job = sim_job(sim, shares[i]);
		double deviation;
		sim_process(sim, job, 100 * US)->length2_ns = 5 * MS;
		assert_near(measure(sim, job, &deviation), shares[i], 0.5);
		assert_true(deviation <= 0.7);
		free(sim);
	}
}

static void four_processes_get_one_share_together(void **state)
{
	(void)state;
	for (size_t i = 0; i < SHARES; i++) {
		double alone, limited, deviation;
		struct sim *sim = sim_new();
		struct sim_job *job = sim_job(sim, 100);
		job->bare = true;
		for (int p = 0; p < 4; p++)
			sim_process(sim, job, MS);
		alone = measure(sim, job, &deviation);
		free(sim);
		sim = sim_new();
		job = sim_job(sim, shares[i]);
		for (int p = 0; p < 4; p++)
			sim_process(sim, job, MS);
		limited = measure(sim, job, &deviation);
		assert_near(100 * limited / alone, shares[i], 1);
		assert_true(deviation <= 0.5); // of each second too
		assert_near((double)job->share.busy_ns / 1.1e8, shares[i], 0.5); // GPU time, eleven seconds of it
		sim_run(sim, 33 * SEC); // at 10 % each has eight kernels a second: chance evens out in the long run
		for (int p = 1; p < 4; p++) // and each an equal part of it
			assert_near((double)sim->process[p].kernels / (double)sim->process[0].kernels, 1, 0.15);
		free(sim);
	}
}

static void a_killed_process_takes_nothing_of_the_share_with_it(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *job = sim_job(sim, 25);
	sim_process(sim, job, 100 * US);
	struct sim_process *victim = sim_process(sim, job, 5 * MS);
	sim_run(sim, SEC + 3 * MS);
	sim_kill(victim);
	sim_run(sim, 100 * MS);
	sim_clear(sim);
	sim_run(sim, 5 * SEC);
	assert_near(sim_pct(job, 5 * SEC), 25, 0.3);
	free(sim);
}

static void a_changed_share_holds_at_once(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *job = sim_job(sim, 10);
	sim_process(sim, job, MS);
	sim_run(sim, SEC);
	job->pct = 75;
	sim_clear(sim);
	sim_run(sim, SEC);
	assert_near(sim_pct(job, SEC), 75, 1.2);
	job->pct = 10;
	sim_clear(sim);
	sim_run(sim, SEC);
	assert_near(sim_pct(job, SEC), 10, 1.2);
	free(sim);
}

static void work_that_needs_less_than_its_share_is_not_slowed(void **state)
{
	(void)state;
	uint64_t done[2], slowest_ns[2];
	for (int limited = 0; limited < 2; limited++) { // 3 ms of kernels, 7 ms of pause: 30 % under 50 %
		struct sim *sim = sim_new();
		struct sim_job *job = sim_job(sim, 50);
		job->bare = !limited;
		struct sim_process *process = sim_process(sim, job, 100 * US);
		process->burst = 30;
		process->pause_ns = 7 * MS;
		sim_run(sim, 10 * SEC);
		done[limited] = process->kernels;
		slowest_ns[limited] = sim_percentile(process, 99);
		free(sim);
	}
	assert_true(done[1] * 100 >= done[0] * 99);
	assert_true(slowest_ns[1] <= slowest_ns[0] + 50 * US);
}

static void an_idle_minute_buys_one_point_of_a_second(void **state)
{
	(void)state;
	struct sim *sim = sim_new();
	struct sim_job *job = sim_job(sim, 25);
	struct sim_process *process = sim_process(sim, job, MS);
	sim_run(sim, SEC);
	process->wake_ns += 10 * SEC; // the program pauses
	sim_run(sim, 10 * SEC);
	sim_clear(sim);
	sim_run(sim, SEC);
	assert_near(sim_pct(job, SEC), 25.5, 0.7);
	free(sim);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(short_kernels_get_the_share_within_half_a_point),
		cmocka_unit_test(kernels_of_20_ms_get_it_within_a_point_and_of_100_ms_within_one_and_a_half),
		cmocka_unit_test(wrong_estimates_do_not_change_the_share),
		cmocka_unit_test(a_pause_ends_when_its_reason_was_an_estimate_far_too_long),
		cmocka_unit_test(a_program_that_is_slow_to_start_loses_a_point_at_most),
		cmocka_unit_test(mixed_kernels_get_it_within_half_a_point),
		cmocka_unit_test(four_processes_get_one_share_together),
		cmocka_unit_test(a_killed_process_takes_nothing_of_the_share_with_it),
		cmocka_unit_test(a_changed_share_holds_at_once),
		cmocka_unit_test(work_that_needs_less_than_its_share_is_not_slowed),
		cmocka_unit_test(an_idle_minute_buys_one_point_of_a_second),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
