// SPDX-License-Identifier: Apache-2.0
// One job on two GPUs, in simulated time: a rank on each, whose kernels are collectives that run until the other GPU runs its own (as
// NCCL's do), or work of their own. The code under test is share.c and gate.c.
#include <stdio.h>
#include <stdlib.h>

#include "cmocka_all.h"
#include "slice/gate.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
#define STEP_NS (5 * US)
enum { TOGETHER = 8 }; // kernels between two synchronisations

struct rank {
	struct softmig_share share;
	struct softmig_gate gate;
	uint64_t launched, done, seen; // kernels; seen: by the last sweep
	uint64_t begin_ns;             // since when the GPU works on the first that is not done; 0: it does not
	uint64_t end_ns;               // when that will be done; 0: not known yet
	uint64_t wake_ns;
	uint64_t done_ns[TOGETHER * 2]; // of those not seen
	uint64_t began_ns[TOGETHER * 2];
	bool syncing;
};

struct job {
	struct rank rank[2];
	bool collective, bare, streams;
	unsigned pct;
	uint64_t length_ns, late_ns; // of a kernel; how much later the second rank is with everything
	uint64_t now_ns;
	unsigned seed;
};

static bool can_end(const struct job *job, const struct rank *rank)
{
	const struct rank *other = &job->rank[rank == &job->rank[0]];
	return !job->collective || (other->launched > rank->done && other->done >= rank->done && (other->done > rank->done || other->begin_ns != 0));
}

static void run_gpu(struct job *job, struct rank *rank)
{
	if (rank->begin_ns == 0 && rank->launched > rank->done) {
		rank->begin_ns = job->now_ns;
		rank->end_ns = 0;
	}
	if (rank->begin_ns != 0 && rank->end_ns == 0 && can_end(job, rank))
		rank->end_ns = job->now_ns + job->length_ns;
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
		softmig_share_progress(&rank->share, job->now_ns);
	for (; rank->seen < rank->done; rank->seen++)
		softmig_gate_bill(&rank->gate, &rank->share, job->pct, false, rank->began_ns[rank->seen % (TOGETHER * 2)],
		                  rank->done_ns[rank->seen % (TOGETHER * 2)], job->now_ns);
	if (rank->begin_ns != 0)
		softmig_gate_bill(&rank->gate, &rank->share, job->pct, false, rank->begin_ns, job->now_ns, job->now_ns);
}

static void run_program(struct job *job, struct rank *rank)
{
	uint64_t late_ns = rank == &job->rank[1] ? job->late_ns : 0;
	if (rank->syncing) {
		if (rank->done < rank->launched)
			return;
		rank->syncing = false;
		rank->wake_ns = job->now_ns + 50 * US + late_ns;
		if (!job->bare) {
			sweep(job, rank);
			softmig_gate_drained(&rank->gate, &rank->share, NULL, job->pct, job->now_ns);
		}
		return;
	}
	if (job->now_ns < rank->wake_ns)
		return;
	int64_t estimate_ns = (int64_t)job->length_ns;
	if (!job->bare && !(rank->gate.credit_ns >= estimate_ns && job->now_ns < rank->gate.valid_until_ns)) {
		sweep(job, rank);
		uint64_t left_ns = (rank->launched - rank->done) * job->length_ns, ran_ns = rank->begin_ns != 0 ? job->now_ns - rank->begin_ns : 0;
		struct softmig_gate_ask ask = {.now_ns = job->now_ns, .pct = job->pct, .in_flight = rank->launched > rank->done, .streams = job->streams,
		                               .outstanding_ns = left_ns - (ran_ns < left_ns ? ran_ns : left_ns), .estimate_ns = (uint64_t)estimate_ns};
		softmig_gate_peer(&rank->gate, &ask, &job->rank[rank == &job->rank[0]].share);
		struct softmig_gate_answer answer = softmig_gate_decide(&rank->gate, &rank->share, NULL, &ask);
		if (answer.reason != SOFTMIG_GATE_GO) {
			job->seed = job->seed * 1103515245u + 12345u;
			rank->wake_ns = (answer.until_ns > job->now_ns ? answer.until_ns : job->now_ns) + 30 * US + (job->seed >> 8) % 80 * US;
			return;
		}
	} else if (!job->bare) {
		rank->gate.credit_ns -= estimate_ns;
	}
	rank->launched++;
	rank->wake_ns = job->now_ns + STEP_NS;
	rank->syncing = rank->launched % TOGETHER == 0;
}

// Kernels that each rank does in ten seconds, after one that is not counted.
static void measure(struct job *job, double done[2])
{
	uint64_t before[2] = {0};
	for (int r = 0; r < 2; r++)
		job->rank[r] = (struct rank){.gate.tag = (unsigned)r + 1};
	job->now_ns = 5000 * SEC;
	job->seed = 7;
	for (uint64_t end_ns = job->now_ns + 11 * SEC; job->now_ns < end_ns; job->now_ns += STEP_NS) {
		for (int r = 0; r < 2; r++)
			run_gpu(job, &job->rank[r]);
		for (int r = 0; r < 2; r++)
			run_program(job, &job->rank[r]);
		if (job->now_ns == end_ns - 10 * SEC)
			for (int r = 0; r < 2; r++)
				before[r] = job->rank[r].done;
	}
	for (int r = 0; r < 2; r++)
		done[r] = (double)(job->rank[r].done - before[r]);
}

static void assert_share(struct job job, double tolerance)
{
	double native[2], sliced[2];
	job.bare = true;
	measure(&job, native);
	job.bare = false;
	measure(&job, sliced);
	for (int r = 0; r < 2; r++) {
		// of what it does alone; without collectives, of the GPU's time
		double pct = job.collective ? 100 * sliced[r] / native[r] : 100 * sliced[r] * (double)job.length_ns / (10.0 * (double)SEC);
		if (pct < job.pct - tolerance || pct > job.pct + tolerance)
			fail_msg("rank %d: %.2f %% of %u, kernels of %u us, %s", r, pct, job.pct, (unsigned)(job.length_ns / US), job.streams ? "streams" : "one stream");
	}
}

static void ranks_of_one_collective_get_the_share(void **state)
{
	(void)state;
	static const unsigned shares[] = {10, 30, 50, 75};
	for (size_t i = 0; i < 4; i++)
		for (int streams = 0; streams < 2; streams++)
			assert_share((struct job){.collective = true, .pct = shares[i], .length_ns = MS, .streams = streams}, 2);
}

static void also_when_one_is_always_late(void **state)
{
	(void)state;
	for (int streams = 0; streams < 2; streams++)
		assert_share((struct job){.collective = true, .pct = 30, .length_ns = MS, .streams = streams, .late_ns = 300 * US}, 2.5);
}

static void gpus_of_one_job_that_have_nothing_to_do_with_each_other_keep_their_share(void **state)
{
	(void)state;
	static const uint64_t lengths[] = {MS, 5 * MS, 20 * MS}; // long against the steps of time here
	for (size_t i = 0; i < 3; i++)
		assert_share((struct job){.pct = 30, .length_ns = lengths[i]}, lengths[i] > 5 * MS ? 1 : 0.5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ranks_of_one_collective_get_the_share),
		cmocka_unit_test(also_when_one_is_always_late),
		cmocka_unit_test(gpus_of_one_job_that_have_nothing_to_do_with_each_other_keep_their_share),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
