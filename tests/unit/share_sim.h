// SPDX-License-Identifier: Apache-2.0
// A GPU, jobs and processes in simulated time, for the tests of the compute share: a discrete-event model of what the driver
// does without MPS (whole contexts are time-sliced, switching costs) and of programs that launch kernels through the gate.
// Owns: the model. The code under test is the real share.c, turn.c and gate.c.
#ifndef SOFTMIG_TESTS_SHARE_SIM_H
#define SOFTMIG_TESTS_SHARE_SIM_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "slice/budget.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define SEC UINT64_C(1000000000)
enum { SIM_QUEUE = 1024, SIM_PROCESSES = 16, SIM_JOBS = 16, SIM_WINDOWS = 64 };
// [H200] Plain time-slicing leaves 90.4 % of the work; a hand-over of an empty GPU costs 0.165 ms; a launch 2.65 us.
static const uint64_t sim_slice_ns = 1800 * US, sim_switch_ns = 190 * US, sim_handover_ns = 165 * US, sim_launch_ns = 2650;

// How far estimates are off, in percent.
static uint64_t sim_estimate_pct = 100;
// One command in so many is taken for one of 50 ms; 0: none.
static unsigned sim_estimate_wild;
// What a program loses until it is ahead of a GPU that it finds empty.
static uint64_t sim_start_ns;

struct sim_kernel {
	uint64_t left_ns, length_ns, estimate_ns;
	uint64_t begin_ns; // when it first ran (its begin event), 0: not yet
	uint64_t number;   // of the process's kernels
};

struct sim_job {
	unsigned pct;
	bool borrow;
	bool bare; // no SoftMig: launches as it likes
	struct softmig_share share;
	struct softmig_turn_page page;
	bool has_page;
	uint64_t work_ns; // completed kernels
	uint64_t window_ns[SIM_WINDOWS];
};

struct sim_process {
	struct sim_job *job;
	uint64_t length_ns, length2_ns; // kernels; the second kind at random
	uint64_t start_ns, stop_ns;
	int burst;                 // so many kernels, then wait until they are done and pause; 0: never
	uint64_t pause_ns;
	struct sim_process *twin; // the job's process on another GPU: a kernel runs on until the twin's of the same number runs as well
	uint64_t stopped_from_ns, stopped_to_ns; // SIGSTOP: submits nothing; what is submitted runs on
	bool dead;                               // killed: its queue is gone

	struct softmig_gate gate;
	struct softmig_turn turn;
	struct sim_kernel queue[SIM_QUEUE];
	unsigned head, count;
	uint64_t done_from_ns, done_to_ns; // completed and not yet billed, one stretch
	struct { uint64_t from_ns, to_ns; } done[64];
	int dones;
	uint64_t wake_ns, asked_ns;
	int in_burst;
	bool syncing;
	uint64_t next_length_ns;
	unsigned looked_later; // how often it read its neighbours' pages after a submission
	uint64_t latency_ns[4096]; // of bursts
	int latencies;
	uint64_t burst_began_ns;
	uint64_t submitted, kernels, throttled_ns;
	unsigned seed;
};

struct sim {
	uint64_t now_ns;
	struct sim_job job[SIM_JOBS];
	struct sim_process process[SIM_PROCESSES];
	int jobs, processes;
	int current;              // the process whose context is on the GPU
	uint64_t slice_until_ns;  // it may stay until then if others have work
	uint64_t ready_ns;        // switching until then
	uint64_t last_ns;         // the GPU is simulated up to here
	void (*meddle)(struct sim *sim); // called at every step: liars and the like
};

static struct sim *sim_new(void)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	sim->now_ns = sim->last_ns = 5000 * SEC; // a machine that has been up for a while
	sim->current = -1;
	return sim;
}

static struct sim_job *sim_job(struct sim *sim, unsigned pct)
{
	struct sim_job *job = &sim->job[sim->jobs++];
	job->pct = pct;
	job->has_page = true;
	softmig_turn_init(&job->page, (uint64_t)sim->jobs);
	return job;
}

static struct sim_process *sim_process(struct sim *sim, struct sim_job *job, uint64_t length_ns)
{
	struct sim_process *process = &sim->process[sim->processes++];
	process->job = job;
	process->length_ns = process->length2_ns = process->next_length_ns = length_ns;
	process->stop_ns = UINT64_MAX;
	process->wake_ns = sim->now_ns + (uint64_t)sim->processes * 37 * US;
	process->gate.tag = (unsigned)sim->processes;
	process->turn.own = &job->page;
	process->turn.sum_is_whole = true;
	process->seed = (unsigned)sim->processes * 7919;
	return process;
}

static uint64_t sim_random(struct sim_process *process)
{
	process->seed = process->seed * 1103515245u + 12345u;
	return process->seed >> 8;
}

// ---- the GPU

static bool sim_others_have_work(const struct sim *sim, int except)
{
	for (int i = 0; i < sim->processes; i++)
		if (i != except && sim->process[i].count)
			return true;
	return false;
}

static void sim_complete(struct sim *sim, struct sim_process *process)
{
	struct sim_kernel *kernel = &process->queue[process->head];
	process->job->work_ns += kernel->length_ns;
	size_t window = (size_t)((sim->last_ns - 5000 * SEC) / SEC);
	if (window < SIM_WINDOWS)
		process->job->window_ns[window] += kernel->length_ns;
	process->kernels++;
	// A stretch without a gap is one interval, as the end event of one batch is the beginning of the next.
	int last = process->dones - 1;
	if (last >= 0 && process->done[last].to_ns >= kernel->begin_ns) {
		process->done[last].to_ns = sim->last_ns;
	} else {
		if (process->dones == 64) {
			process->dones = 63;
			process->done[62].to_ns = process->done[63].to_ns;
		}
		process->done[process->dones].from_ns = kernel->begin_ns;
		process->done[process->dones++].to_ns = sim->last_ns;
	}
	process->head = (process->head + 1) % SIM_QUEUE;
	process->count--;
	if (process->count) // the next one begins as this one ends, whoever has the GPU meanwhile
		process->queue[process->head].begin_ns = sim->last_ns;
	else if (process->syncing)
		process->wake_ns = sim->last_ns + 5 * US;
}

// Waits on the GPU for the twin's kernel.
static bool sim_spins(const struct sim_process *process)
{
	const struct sim_process *twin = process->twin;
	if (!twin)
		return false;
	uint64_t number = process->queue[process->head].number;
	const struct sim_kernel *theirs = &twin->queue[twin->head];
	return twin->kernels <= number && (!twin->count || theirs->number < number || !theirs->begin_ns);
}

// Runs the GPU up to sim->now_ns.
static void sim_gpu(struct sim *sim)
{
	while (sim->last_ns < sim->now_ns) {
		struct sim_process *process = sim->current >= 0 ? &sim->process[sim->current] : NULL;
		bool others = sim_others_have_work(sim, sim->current);
		bool leave = !process || !process->count || (others && sim->last_ns >= sim->slice_until_ns);
		if (leave && others && sim->last_ns >= sim->ready_ns) {
			uint64_t cost_ns = process && process->count ? sim_switch_ns : sim_handover_ns;
			for (int i = 1; i <= sim->processes; i++) {
				int next = (sim->current + i) % sim->processes;
				if (next != sim->current && sim->process[next].count) {
					sim->current = next;
					break;
				}
			}
			sim->ready_ns = sim->last_ns + cost_ns;
			sim->slice_until_ns = sim->ready_ns + sim_slice_ns;
			process = &sim->process[sim->current];
		}
		if (sim->last_ns < sim->ready_ns) {
			sim->last_ns = sim->ready_ns < sim->now_ns ? sim->ready_ns : sim->now_ns;
			continue;
		}
		if (!process || !process->count) {
			sim->last_ns = sim->now_ns;
			return;
		}
		struct sim_kernel *kernel = &process->queue[process->head];
		if (!kernel->begin_ns)
			kernel->begin_ns = sim->last_ns;
		bool spins = sim_spins(process);
		uint64_t run_ns = kernel->left_ns;
		if (spins || run_ns > sim->now_ns - sim->last_ns)
			run_ns = sim->now_ns - sim->last_ns;
		if (others && sim->slice_until_ns > sim->last_ns && run_ns > sim->slice_until_ns - sim->last_ns)
			run_ns = sim->slice_until_ns - sim->last_ns;
		else if (others && sim->slice_until_ns <= sim->last_ns)
			sim->slice_until_ns = sim->last_ns + sim_slice_ns, run_ns = 0;
		sim->last_ns += run_ns;
		kernel->left_ns -= spins ? 0 : run_ns;
		if (kernel->left_ns == 0)
			sim_complete(sim, process);
	}
}

// The next moment at which the GPU completes something, if nobody interferes; at most far_ns.
static uint64_t sim_gpu_next(const struct sim *sim, uint64_t far_ns)
{
	uint64_t next_ns = far_ns;
	if (sim->current >= 0 && sim->process[sim->current].count) {
		const struct sim_process *process = &sim->process[sim->current];
		uint64_t from_ns = sim->ready_ns > sim->now_ns ? sim->ready_ns : sim->now_ns;
		next_ns = from_ns + process->queue[process->head].left_ns;
	} else {
		for (int i = 0; i < sim->processes; i++)
			if (sim->process[i].count)
				next_ns = sim->now_ns + 10 * US;
	}
	if (sim_others_have_work(sim, sim->current) && next_ns > sim->now_ns + 20 * US)
		next_ns = sim->now_ns + 20 * US; // slices end in between
	return next_ns < far_ns ? next_ns : far_ns;
}

// ---- a process: what the preload library does around a launch

static void sim_read_pages(struct sim *sim, struct sim_process *process)
{
	int n = 0;
	for (int i = 0; i < sim->jobs; i++) {
		struct sim_job *job = &sim->job[i];
		if (job == process->job || job->bare || !job->has_page)
			continue;
		struct softmig_turn_seen seen;
		memcpy(&seen, &job->page, sizeof(seen));
		process->turn.peers = n + 1 > process->turn.peers ? n + 1 : process->turn.peers;
		softmig_turn_see(&process->turn, n++, &seen, sim->now_ns);
	}
}

static uint64_t sim_estimate(const struct sim_process *process)
{
	if (sim_estimate_wild != 0 && process->submitted % sim_estimate_wild == 0)
		return 50 * MS;
	return process->next_length_ns * sim_estimate_pct / 100;
}

static uint64_t sim_outstanding(const struct sim *sim, const struct sim_process *process)
{
	uint64_t total_ns = 0;
	for (unsigned i = 0; i < process->count; i++)
		total_ns += process->queue[(process->head + i) % SIM_QUEUE].estimate_ns;
	if (process->count) {
		uint64_t begin_ns = process->queue[process->head].begin_ns, first_ns = process->queue[process->head].estimate_ns;
		uint64_t ran_ns = begin_ns ? sim->now_ns - begin_ns : 0;
		total_ns -= ran_ns < first_ns ? ran_ns : first_ns;
	}
	return total_ns;
}

static void sim_sweep(struct sim *sim, struct sim_process *process)
{
	struct sim_job *job = process->job;
	for (int i = 0; i < process->dones; i++)
		softmig_gate_bill(&process->gate, &job->share, job->pct, job->borrow, process->done[i].from_ns,
		                  process->done[i].to_ns, sim->now_ns);
	if (process->dones)
		softmig_share_expect(&job->share, sim->now_ns + sim_outstanding(sim, process));
	process->dones = 0;
	if (process->count && process->queue[process->head].begin_ns)
		softmig_gate_bill(&process->gate, &job->share, job->pct, job->borrow, process->queue[process->head].begin_ns,
		                  sim->now_ns, sim->now_ns);
}

static void sim_submit(struct sim *sim, struct sim_process *process)
{
	struct sim_kernel *kernel = &process->queue[(process->head + process->count) % SIM_QUEUE];
	*kernel = (struct sim_kernel){.left_ns = process->next_length_ns, .length_ns = process->next_length_ns,
	                              .estimate_ns = sim_estimate(process), .number = process->submitted++};
	if (process->count == 0)
		kernel->left_ns += sim_start_ns;
	process->count++;
	if (process->burst && process->in_burst == 0)
		process->burst_began_ns = process->asked_ns;
	process->in_burst++;
	process->next_length_ns = sim_random(process) & 1 ? process->length_ns : process->length2_ns;
	process->asked_ns = 0;
	process->wake_ns = sim->now_ns + sim_launch_ns;
	if (process->burst && process->in_burst >= process->burst) {
		process->syncing = true;
		process->wake_ns = UINT64_MAX;
	}
}

static void sim_step(struct sim *sim, struct sim_process *process)
{
	struct sim_job *job = process->job;
	if (process->dead || sim->now_ns < process->start_ns || sim->now_ns >= process->stop_ns) {
		process->wake_ns = process->dead || sim->now_ns >= process->stop_ns ? UINT64_MAX : process->start_ns;
		return;
	}
	if (sim->now_ns >= process->stopped_from_ns && sim->now_ns < process->stopped_to_ns) {
		process->wake_ns = process->stopped_to_ns;
		return;
	}
	if (process->syncing) { // the burst is done
		process->syncing = false;
		process->in_burst = 0;
		if (process->latencies < 4096)
			process->latency_ns[process->latencies++] = sim->now_ns - process->burst_began_ns;
		sim_sweep(sim, process);
		if (!job->bare)
			softmig_gate_drained(&process->gate, &job->share, job->has_page ? &process->turn : NULL, job->pct, sim->now_ns);
		process->wake_ns = sim->now_ns + process->pause_ns + sim_random(process) % 100 * US / 10;
		return;
	}
	if (!process->asked_ns)
		process->asked_ns = sim->now_ns;
	if (process->count == SIM_QUEUE) {
		process->wake_ns = sim->now_ns + 20 * US;
		return;
	}
	struct softmig_gate *gate = &process->gate;
	if (job->bare) {
		sim_submit(sim, process);
		return;
	}
	int64_t estimate_ns = (int64_t)sim_estimate(process);
	if (gate->credit_ns >= estimate_ns && sim->now_ns < gate->valid_until_ns) {
		gate->credit_ns -= estimate_ns;
		sim_submit(sim, process);
		return;
	}
	sim_sweep(sim, process);
	bool later = job->has_page && softmig_gate_may_look_later(gate, process->count > 0, (uint64_t)estimate_ns, sim->now_ns);
	process->looked_later += later;
	if (job->has_page && !later)
		sim_read_pages(sim, process);
	struct softmig_gate_ask ask = {.now_ns = sim->now_ns, .pct = job->pct, .borrow = job->borrow, .in_flight = process->count > 0,
	                               .outstanding_ns = sim_outstanding(sim, process), .estimate_ns = (uint64_t)estimate_ns};
	if (process->twin) {
		bool first = process < process->twin;
		softmig_budget_peer(gate, &ask, &job->share, &process->twin->job->share);
		softmig_budget_phase(gate, first ? &job->share : &process->twin->job->share, first, job->has_page ? &process->turn : NULL, &ask);
	}
	struct softmig_gate_answer answer = softmig_gate_decide(gate, &job->share, job->has_page ? &process->turn : NULL, &ask);
	if (answer.reason == SOFTMIG_GATE_GO) {
		sim_submit(sim, process);
		if (later) {
			sim_read_pages(sim, process);
			softmig_gate_has_looked(gate, &process->turn, sim->now_ns);
		}
		return;
	}
	uint64_t until_ns = answer.until_ns;
	if (answer.soon) // polls for the last 100 us, 5 us a look
		until_ns = until_ns > sim->now_ns + 100 * US ? until_ns - 50 * US : sim->now_ns + 5 * US;
	else // sleeps, and wakes up late
		until_ns = (until_ns > sim->now_ns ? until_ns : sim->now_ns) + 30 * US + sim_random(process) % 80 * US;
	process->throttled_ns += until_ns - sim->now_ns;
	process->wake_ns = until_ns;
}

static void sim_wake(struct sim *sim)
{
	if (sim->meddle)
		sim->meddle(sim);
	for (int i = 0; i < sim->processes; i++)
		if (sim->process[i].wake_ns <= sim->now_ns)
			sim_step(sim, &sim->process[i]);
}

static void sim_run(struct sim *sim, uint64_t duration_ns)
{
	uint64_t end_ns = sim->now_ns + duration_ns;
	while (sim->now_ns < end_ns) {
		uint64_t next_ns = end_ns;
		for (int i = 0; i < sim->processes; i++)
			if (sim->process[i].wake_ns < next_ns)
				next_ns = sim->process[i].wake_ns;
		next_ns = sim_gpu_next(sim, next_ns);
		sim->now_ns = next_ns > sim->now_ns ? next_ns : sim->now_ns;
		sim_gpu(sim);
		sim_wake(sim);
	}
}

// Two GPUs, in steps small against what their processes do to each other.
static inline void sim_run_two(struct sim *one, struct sim *two, uint64_t duration_ns)
{
	for (uint64_t end_ns = one->now_ns + duration_ns; one->now_ns < end_ns;) {
		uint64_t next_ns = one->now_ns + 10 * US;
		for (int i = 0; i < 2; i++) {
			const struct sim *sim = i == 0 ? one : two;
			for (int p = 0; p < sim->processes; p++)
				if (sim->process[p].wake_ns < next_ns)
					next_ns = sim->process[p].wake_ns;
		}
		one->now_ns = two->now_ns = next_ns > one->now_ns + 3 * US ? next_ns : one->now_ns + 3 * US;
		sim_gpu(one);
		sim_gpu(two);
		sim_wake(one);
		sim_wake(two);
	}
}

// SIGKILL: its context and all it submitted are gone; its words stay as they are.
static inline void sim_kill(struct sim_process *process)
{
	process->dead = true;
	process->count = 0;
	process->wake_ns = UINT64_MAX;
}

// ---- figures

// Forgets what was counted, to leave out the beginning.
static inline void sim_clear(struct sim *sim)
{
	for (int i = 0; i < sim->jobs; i++) {
		sim->job[i].work_ns = 0;
		memset(sim->job[i].window_ns, 0, sizeof(sim->job[i].window_ns));
	}
}

static inline double sim_pct(const struct sim_job *job, uint64_t duration_ns)
{
	return 100.0 * (double)job->work_ns / (double)duration_ns;
}

// Standard deviation of the work per second, in points, over windows first..first+count-1.
static inline double sim_deviation(const struct sim_job *job, int first, int count)
{
	double mean = 0, square = 0;
	for (int i = first; i < first + count; i++)
		mean += 100.0 * (double)job->window_ns[i] / (double)SEC / count;
	for (int i = first; i < first + count; i++) {
		double off = 100.0 * (double)job->window_ns[i] / (double)SEC - mean;
		square += off * off / count;
	}
	double root = square > 1 ? square : 1;
	for (int i = 0; i < 60; i++)
		root = (root + square / root) / 2;
	return root;
}

static int sim_compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

static inline uint64_t sim_percentile(struct sim_process *process, int pct)
{
	qsort(process->latency_ns, (size_t)process->latencies, sizeof(uint64_t), sim_compare);
	return process->latencies ? process->latency_ns[(process->latencies - 1) * pct / 100] : 0;
}
#endif
