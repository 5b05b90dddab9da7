// SPDX-License-Identifier: Apache-2.0
// One job on several GPUs, in simulated time: a rank on each, whose kernels are collectives that run until the other GPUs run theirs (as
// NCCL's do), or work of their own. The code under test is share.c and gate.c.
#include <stdio.h>
#include <stdlib.h>

#include "cmocka_all.h"
#include "slice/budget.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define STEP_NS (5 * US)
#define STALL_NS (5000 * SEC + SEC / 2)
enum { TOGETHER = 8, RANKS = 4 }; // TOGETHER: kernels between two synchronisations

struct rank {
	struct softmig_share share;
	struct softmig_gate gate;
	uint64_t launched, done, seen; // kernels; seen: by the last sweep
	uint64_t begin_ns;             // since when the GPU works on the first that is not done; 0: it does not
	uint64_t end_ns;               // when that will be done; 0: not known yet
	uint64_t wake_ns;
	uint64_t done_ns[TOGETHER * 2]; // of those not seen
	uint64_t began_ns[TOGETHER * 2];
	bool syncing, stalled;
};

struct job {
	struct rank rank[RANKS];
	int ranks;
	bool collective, bare, streams;
	unsigned pct;
	uint64_t length_ns, late_ns; // of a kernel; how much later the last rank is with everything
	uint64_t last_length_ns;     // of the last rank's kernels, if not the same
	uint64_t held_up_ns;         // one time in twenty a rank is held up after it waited, by up to twice as much (others make the host wait)
	uint64_t stall_ns, settle_ns; // how long the last rank is away, once; how long is not counted at first, if not a second
	uint64_t now_ns;
	unsigned seed;
};

static unsigned random_below(struct job *job, unsigned limit)
{
	job->seed = job->seed * 1103515245u + 12345u;
	return (job->seed >> 8) % limit;
}

static uint64_t length(const struct job *job, const struct rank *rank)
{
	return job->last_length_ns != 0 && rank == &job->rank[job->ranks - 1] ? job->last_length_ns : job->length_ns;
}

static bool can_end(const struct job *job, const struct rank *rank)
{
	for (int r = 0; r < job->ranks && job->collective; r++) {
		const struct rank *other = &job->rank[r];
		if (other->launched <= rank->done || other->done < rank->done || (other->done == rank->done && other->begin_ns == 0))
			return false;
	}
	return true;
}

static void run_gpu(struct job *job, struct rank *rank)
{
	if (rank->begin_ns == 0 && rank->launched > rank->done) {
		rank->begin_ns = job->now_ns;
		rank->end_ns = 0;
	}
	if (rank->begin_ns != 0 && rank->end_ns == 0 && can_end(job, rank))
		rank->end_ns = job->now_ns + length(job, rank);
	if (rank->end_ns != 0 && job->now_ns >= rank->end_ns) {
		rank->began_ns[rank->done % (TOGETHER * 2)] = rank->begin_ns;
		rank->done_ns[rank->done % (TOGETHER * 2)] = job->now_ns;
		rank->done++;
		rank->begin_ns = rank->launched > rank->done ? job->now_ns : 0;
		rank->end_ns = 0;
	}
}

static void sweep(struct job *job, struct rank *rank)
{
	if (rank->seen < rank->done)
		softmig_share_expect(&rank->share, job->now_ns + (rank->launched - rank->done) * length(job, rank));
	for (; rank->seen < rank->done; rank->seen++)
		softmig_gate_bill(&rank->gate, &rank->share, job->pct, false, rank->began_ns[rank->seen % (TOGETHER * 2)],
		                  rank->done_ns[rank->seen % (TOGETHER * 2)], job->now_ns);
	if (rank->begin_ns != 0)
		softmig_gate_bill(&rank->gate, &rank->share, job->pct, false, rank->begin_ns, job->now_ns, job->now_ns);
}

static void run_program(struct job *job, struct rank *rank)
{
	uint64_t late_ns = rank == &job->rank[job->ranks - 1] ? job->late_ns : 0;
	if (rank->syncing) {
		if (rank->done < rank->launched)
			return;
		rank->syncing = false;
		if (job->held_up_ns != 0 && random_below(job, 20) == 0)
			late_ns += random_below(job, 1000) * job->held_up_ns / 500;
		rank->wake_ns = job->now_ns + 50 * US + late_ns;
		if (!job->bare) {
			sweep(job, rank);
			softmig_gate_drained(&rank->gate, &rank->share, NULL, job->pct, job->now_ns);
		}
		return;
	}
	if (job->now_ns < rank->wake_ns)
		return;
	if (job->stall_ns != 0 && !rank->stalled && rank == &job->rank[job->ranks - 1] && job->now_ns > STALL_NS) {
		rank->stalled = true;
		rank->wake_ns = job->now_ns + job->stall_ns;
		return;
	}
	int64_t estimate_ns = (int64_t)length(job, rank);
	if (!job->bare && !(rank->gate.credit_ns >= estimate_ns && job->now_ns < rank->gate.valid_until_ns)) {
		sweep(job, rank);
		uint64_t left_ns = (rank->launched - rank->done) * length(job, rank), ran_ns = rank->begin_ns != 0 ? job->now_ns - rank->begin_ns : 0;
		struct softmig_gate_ask ask = {.now_ns = job->now_ns, .pct = job->pct, .in_flight = rank->launched > rank->done, .streams = job->streams,
		                               .outstanding_ns = left_ns - (ran_ns < left_ns ? ran_ns : left_ns), .estimate_ns = (uint64_t)estimate_ns};
		for (int r = 0; r < job->ranks; r++)
			if (rank != &job->rank[r])
				softmig_budget_peer(&rank->gate, &ask, &rank->share, &job->rank[r].share);
		struct softmig_gate_answer answer = softmig_gate_decide(&rank->gate, &rank->share, NULL, &ask);
		if (answer.reason != SOFTMIG_GATE_GO) {
			rank->wake_ns = (answer.until_ns > job->now_ns ? answer.until_ns : job->now_ns) + 30 * US + random_below(job, 80) * US;
			return;
		}
	} else if (!job->bare) {
		rank->gate.credit_ns -= estimate_ns;
	}
	rank->launched++;
	rank->wake_ns = job->now_ns + STEP_NS;
	rank->syncing = rank->launched % TOGETHER == 0;
}

// When something happens next.
static uint64_t next_event(const struct job *job)
{
	uint64_t next_ns = UINT64_MAX;
	for (int r = 0; r < job->ranks; r++) {
		const struct rank *rank = &job->rank[r];
		bool begins = rank->launched > rank->done && rank->begin_ns == 0, ends = rank->begin_ns != 0 && rank->end_ns == 0 && can_end(job, rank);
		if (begins || ends || (rank->syncing && rank->done >= rank->launched))
			return job->now_ns + STEP_NS;
		if (!rank->syncing && rank->wake_ns < next_ns)
			next_ns = rank->wake_ns;
		if (rank->end_ns != 0 && rank->end_ns < next_ns)
			next_ns = rank->end_ns;
	}
	return next_ns > job->now_ns + STEP_NS && next_ns != UINT64_MAX ? next_ns : job->now_ns + STEP_NS;
}

// Kernels that each rank does in five seconds, after one that is not counted.
static void measure(struct job *job, double done[RANKS])
{
	uint64_t before[RANKS] = {0}, counted_ns = 0;
	for (int r = 0; r < job->ranks; r++)
		job->rank[r] = (struct rank){.gate.tag = (unsigned)r + 1};
	job->now_ns = 5000 * SEC;
	job->seed = 7;
	for (uint64_t end_ns = job->now_ns + (job->settle_ns != 0 ? job->settle_ns : SEC) + 5 * SEC; job->now_ns < end_ns; job->now_ns = next_event(job)) {
		for (int r = 0; r < job->ranks; r++)
			run_gpu(job, &job->rank[r]);
		for (int r = 0; r < job->ranks; r++)
			run_program(job, &job->rank[r]);
		if (counted_ns == 0 && job->now_ns >= end_ns - 5 * SEC && (counted_ns = job->now_ns))
			for (int r = 0; r < job->ranks; r++)
				before[r] = job->rank[r].done;
	}
	for (int r = 0; r < job->ranks; r++)
		done[r] = (double)(job->rank[r].done - before[r]);
}

static void assert_share(struct job job, double tolerance)
{
	static struct job last; // of which native is
	static double native[RANKS];
	double sliced[RANKS];
	if (job.ranks != last.ranks || job.held_up_ns != last.held_up_ns || job.length_ns != last.length_ns || job.late_ns != last.late_ns || job.collective != last.collective) {
		last = job;
		last.bare = true;
		measure(&last, native);
	}
	measure(&job, sliced);
	for (int r = 0; r < job.ranks; r++) {
		// of what it does alone; without collectives, of the GPU's time
		double pct = job.collective ? 100 * sliced[r] / native[r] : 100 * sliced[r] * (double)length(&job, &job.rank[r]) / (5.0 * (double)SEC);
		if (pct < job.pct - tolerance || pct > job.pct + tolerance)
			fail_msg("rank %d of %d: %.2f %% of %u, kernels of %u us, %s", r, job.ranks, pct, job.pct, (unsigned)(job.length_ns / US),
			         job.streams ? "streams" : "one stream");
	}
}

static const uint64_t lengths[] = {300 * US, MS, 2 * MS, 5 * MS, 20 * MS};

static void ranks_of_one_collective_get_the_share(void **state)
{
	(void)state;
	static const unsigned shares[] = {10, 30, 50, 75};
	for (int ranks = 2; ranks <= RANKS; ranks += 2)
		for (size_t l = 0; l < 5; l++)
			for (size_t i = 0; i < 4; i++)
				for (int streams = 0; streams < 2; streams++)
					assert_share((struct job){.ranks = ranks, .collective = true, .pct = shares[i], .length_ns = lengths[l], .streams = streams}, 1.5);
}

static void also_when_one_is_always_late(void **state)
{
	(void)state;
	for (int ranks = 2; ranks <= RANKS; ranks += 2)
		for (size_t l = 0; l < 5; l++)
			for (int streams = 0; streams < 2; streams++)
				assert_share((struct job){.ranks = ranks, .collective = true, .pct = 30, .length_ns = lengths[l], .streams = streams, .late_ns = 300 * US}, 1.5);
}

// Natively the others wait for it as well.
static void also_when_now_and_then_one_is_held_up(void **state)
{
	(void)state;
	for (int ranks = 2; ranks <= RANKS; ranks += 2)
		for (size_t l = 1; l < 4; l++) {
			assert_share((struct job){.ranks = ranks, .collective = true, .pct = 30, .length_ns = lengths[l], .held_up_ns = 2 * MS}, 1.5);
			assert_share((struct job){.ranks = ranks, .collective = true, .pct = 30, .length_ns = lengths[l], .held_up_ns = 10 * MS}, 2.5);
		}
}

// Its partners' kernels spin for it all the while, and are billed: those GPUs have a debt that this one has not.
static void a_rank_that_was_away_for_a_moment_does_not_part_them(void **state)
{
	(void)state;
	for (int ranks = 2; ranks <= RANKS; ranks += 2)
		for (size_t l = 0; l < 5; l++)
			for (uint64_t stall_ns = 125 * MS; stall_ns <= 2000 * MS; stall_ns *= 4)
				assert_share((struct job){.ranks = ranks, .collective = true, .pct = 30, .length_ns = lengths[l], .stall_ns = stall_ns, .settle_ns = 9 * SEC}, 2);
}

static void gpus_of_one_job_that_have_nothing_to_do_with_each_other_keep_their_share(void **state)
{
	(void)state;
	for (size_t l = 1; l < 5; l++) // long against the steps of time here
		assert_share((struct job){.ranks = 2, .pct = 30, .length_ns = lengths[l]}, lengths[l] > 5 * MS ? 1 : 0.5);
}

static void a_gpu_that_needs_less_is_not_slowed_by_one_that_wants_more(void **state)
{
	(void)state;
	struct job job = {.ranks = 2, .pct = 30, .length_ns = MS, .late_ns = 40 * MS}; // the last: 8 ms of work in 48
	double native[RANKS], sliced[RANKS];
	job.bare = true;
	measure(&job, native);
	job.bare = false;
	measure(&job, sliced);
	assert_in_range(sliced[1] * 1000 / native[1], 990, 1000);
	assert_in_range(sliced[0], 1475, 1525); // kernels of 1 ms in 5 s
}

static void kernels_of_half_a_second_on_one_gpu_do_not_hold_up_another(void **state)
{
	(void)state;
	struct job job = {.ranks = 2, .pct = 30, .length_ns = MS, .last_length_ns = 500 * MS};
	double sliced[RANKS];
	measure(&job, sliced);
	assert_in_range(sliced[0], 1475, 1525);
	assert_in_range(sliced[1], 2, 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranks_of_one_collective_get_the_share),
		cmocka_unit_test(also_when_one_is_always_late),
		cmocka_unit_test(also_when_now_and_then_one_is_held_up),
		cmocka_unit_test(a_rank_that_was_away_for_a_moment_does_not_part_them),
		cmocka_unit_test(gpus_of_one_job_that_have_nothing_to_do_with_each_other_keep_their_share),
		cmocka_unit_test(a_gpu_that_needs_less_is_not_slowed_by_one_that_wants_more),
		cmocka_unit_test(kernels_of_half_a_second_on_one_gpu_do_not_hold_up_another),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
