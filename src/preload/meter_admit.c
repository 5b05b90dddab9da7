// SPDX-License-Identifier: Apache-2.0
// Waiting for the gate; see meter_gpu.h. Must never: sleep with the meter's lock held, change errno.
#include <errno.h>
#include <string.h>
#include <time.h>

#include "preload/meter_gpu.h"
#include "preload/mode.h"
#include "slice/budget.h"

// Neighbours' pages are read this often while work goes on, and at every look while waiting for them.
#define PAGES_NS (MS)
// See is_stuck: no batch done for so long, though there is work; nothing gained in so long, for small commands and others.
#define STUCK_NS (300 * MS)
#define STARVED_NS (2000 * MS)
#define STARVED_LONG_NS (60000 * MS)
#define SMALL_NS (5 * MS)

// How the job's other GPUs stand.
static void ask_peers(struct softmig_meter *meter, struct softmig_gate_ask *ask)
{
	struct softmig_ledger_file *file = softmig_ledger_now()->file;
	struct softmig_share *first = NULL;
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		if (atomic_load_explicit(&file->gpu[i].state, memory_order_acquire) != 2)
			continue;
		struct softmig_share *share = (struct softmig_share *)(void *)file->gpu[i].share_words;
		first = first == NULL ? share : first;
		if (i != meter->gpu->ledger)
			softmig_budget_peer(&meter->gate, ask, meter->share, share);
	}
	softmig_budget_phase(&meter->gate, first, first == meter->share, softmig_meter_turn(meter), ask);
}

// A thread that waits for one GPU may be the one that would see what another has done: others' gates must not take that one's kernels for waiting.
static void settle_others(const struct softmig_meter *meter, uint64_t now_ns)
{
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		if (&softmig_meters[i] != meter)
			softmig_meter_settle(&softmig_meters[i], now_ns);
}

void softmig_meter_pause_until(uint64_t until_ns)
{
	struct timespec time = {.tv_sec = (time_t)(until_ns / UINT64_C(1000000000)), .tv_nsec = (long)(until_ns % UINT64_C(1000000000))};
	int kept = errno;
	syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL); // a signal merely ends it early
	errno = kept;
}

// Sleeps or polls until an answer's moment; returns the time.
static uint64_t wait_for(const struct softmig_gate_answer *answer, uint64_t now_ns)
{
	if (!answer->soon && answer->until_ns > now_ns)
		softmig_meter_pause_until(answer->until_ns);
	else if (answer->soon && answer->until_ns > now_ns + SOFTMIG_METER_EARLY_NS + 20 * US)
		softmig_meter_pause_until(answer->until_ns - SOFTMIG_METER_EARLY_NS);
	else
		for (int i = 0; i < 32; i++)
			softmig_meter_relax();
	return softmig_meter_clock_ns();
}

// Work on the GPU may itself wait for the command that is held back here (a kernel that runs until another one answers): after a
// while without progress one command passes, whatever the debt, which is carried on.
struct progress {
	uint64_t completions, since_ns; // batches done, and when that last changed
	uint64_t drained_ns;            // since when nothing of this process is on the GPU, and the tokens then
	int64_t tokens_ns;
};

static bool is_stuck(const struct softmig_meter *meter, struct progress *progress, uint64_t estimate_ns, bool in_flight, uint64_t now_ns)
{
	if (progress->since_ns == 0 || progress->completions != meter->scene.completions) {
		progress->completions = meter->scene.completions;
		progress->since_ns = now_ns;
	}
	if (in_flight) { // far longer than such work ever took
		progress->drained_ns = 0;
		return now_ns > progress->since_ns + STUCK_NS + 4 * meter->scene.longest_ns;
	}
	int64_t tokens_ns = softmig_share_tokens(meter->share, 100, now_ns, 0);
	if (progress->drained_ns == 0) {
		progress->drained_ns = now_ns;
		progress->tokens_ns = tokens_ns;
	}
	// Other processes of the job use up all that comes in.
	return now_ns > progress->drained_ns + (estimate_ns <= SMALL_NS ? STARVED_NS : STARVED_LONG_NS) && tokens_ns <= progress->tokens_ns;
}

void softmig_meter_read_pages(struct softmig_meter *meter, uint64_t now_ns)
{
	softmig_turn_read(&meter->directory, &meter->turn, now_ns);
	meter->pages_ns = now_ns;
}

uint64_t softmig_meter_admit(struct softmig_meter *meter, uint64_t estimate_ns, uint64_t now_ns)
{
	uint64_t throttled_ns = 0;
	struct progress progress = {0};
	bool waits = false, turns = false;
	for (;;) {
		const struct softmig_limits *limits = softmig_limits_now();
		int mode = softmig_stream_relax();
		meter->waited |= waits;
		uint64_t drains_ns = softmig_meter_sweep(meter, now_ns);
		softmig_stream_restore(mode);
		if (waits)
			settle_others(meter, now_ns);
		if (softmig_meter_turn(meter) != NULL && (turns || now_ns >= meter->pages_ns + PAGES_NS)) {
			// To read them takes 10 us [H200], a third of a small kernel's round trip.
			meter->pages_later = softmig_gate_may_look_later(&meter->gate, drains_ns != 0, estimate_ns, now_ns);
			if (!meter->pages_later)
				softmig_meter_read_pages(meter, now_ns);
		}
		struct softmig_gate_ask ask = {.now_ns = now_ns,
		                               .pct = softmig_meter_pct(meter, limits),
		                               .borrow = limits->share_mode == SOFTMIG_SHARE_BORROW,
		                               .in_flight = drains_ns != 0,
		                               .streams = softmig_meter_is_crowd(meter, now_ns),
		                               .outstanding_ns = drains_ns > now_ns ? drains_ns - now_ns : 0,
		                               .estimate_ns = estimate_ns};
		ask_peers(meter, &ask);
		struct softmig_gate_answer answer = softmig_gate_decide(&meter->gate, meter->share, softmig_meter_turn(meter), &ask);
		if (answer.reason == SOFTMIG_GATE_GO || is_stuck(meter, &progress, estimate_ns, drains_ns != 0, now_ns))
			break;
		if (!waits) {
			mode = softmig_stream_relax();
			for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
				softmig_meter_close_all(&softmig_meters[i], NULL, now_ns);
			softmig_stream_restore(mode);
			waits = true;
		}
		turns = answer.reason == SOFTMIG_GATE_TURN;
		softmig_meter_unlock();
		uint64_t woken_ns = wait_for(&answer, now_ns);
		if (answer.reason != SOFTMIG_GATE_AHEAD) // that is a queue's end, as the driver has one
			throttled_ns += woken_ns - now_ns;
		now_ns = woken_ns;
		if (!softmig_meter_lock())
			return 0;
	}
	if (throttled_ns) {
		softmig_share_count(meter->share, 0, throttled_ns, now_ns);
		softmig_meter_add_use(meter, 0, throttled_ns);
	}
	return now_ns;
}
