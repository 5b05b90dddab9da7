// SPDX-License-Identifier: Apache-2.0
// The decision; see gate.h. Whether there are tokens, budget.h tells. docs/share.md gives the reasons for the figures.
#include "slice/gate.h"

#include "slice/budget.h"

#define US INT64_C(1000)
#define MS INT64_C(1000000)
// How much estimated work may be on its way to the GPU, with a limit and without one.
#define AHEAD_NS (5 * MS)
#define AHEAD_FREE_NS (10 * MS)
// Enough to keep the GPU busy while a sleeper wakes up.
#define AHEAD_MIN_NS (MS / 2)
// One decision is good for so much work and time.
#define CREDIT_NS (2 * MS)
#define VALID_NS (2 * MS)
#define LINGER_NS ((int64_t)SOFTMIG_TURN_LINGER_NS)
// Around the moment when a turn may become free its next holder polls, so long.
#define POLL_NS ((uint64_t)(150 * US))
#define FRESH_NS (2 * MS)
// Bursts between others' turns: a sixteenth of the pause before, at most this.
#define BURST_NS (2 * MS)
#define BURST_PAUSE 16
// Limits change while a launch sleeps.
#define NAP_NS (50 * MS)
#define NAP_PEERS_NS (MS / 2)
#define NAP_TURN_NS (MS / 2)
#define NAP_WORK_NS MS
#define NAP_LATE_NS (200 * US)
#define NAP_MIN_NS (30 * US)

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

static struct softmig_gate_answer wait_until(enum softmig_gate_reason reason, uint64_t until_ns, bool soon)
{
	return (struct softmig_gate_answer){.reason = reason, .until_ns = until_ns, .soon = soon};
}

uint64_t softmig_gate_bill(struct softmig_gate *gate, struct softmig_share *share, unsigned pct, bool borrow, uint64_t from_ns,
                           uint64_t to_ns, uint64_t now_ns)
{
	uint64_t busy_ns = softmig_share_bill(share, gate->tag, from_ns, to_ns, now_ns);
	uint64_t since_ns = (to_ns < now_ns ? to_ns : now_ns) - busy_ns;
	if (gate->sharers > 0)
		busy_ns /= (uint64_t)gate->sharers + 1;
	gate->busy_last_ns = now_ns;
	if (busy_ns == 0)
		return 0;
	pct = softmig_budget_pct(gate, pct, borrow);
	softmig_share_charge(share, pct, busy_ns, since_ns, softmig_budget_allowance(gate, share, pct, now_ns), softmig_budget_debt(gate));
	softmig_share_count(share, busy_ns, 0, now_ns);
	return busy_ns;
}

// Never further ahead than it is renewed: an estimate too long would have others bill the job for a pause.
static void mark(const struct softmig_gate *gate, struct softmig_share *share, uint64_t outstanding_ns, uint64_t now_ns)
{
	if (outstanding_ns > (uint64_t)VALID_NS)
		outstanding_ns = (uint64_t)VALID_NS;
	softmig_share_mark(share, gate->tag, now_ns + outstanding_ns, now_ns);
}

static struct softmig_gate_answer go(struct softmig_gate *gate, struct softmig_share *share, const struct softmig_gate_ask *ask,
                                     int64_t credit_ns, uint64_t valid_until_ns)
{
	credit_ns = least(credit_ns, CREDIT_NS);
	atomic_store_explicit(&gate->valid_until_ns, valid_until_ns, memory_order_relaxed);
	atomic_store_explicit(&gate->credit_ns, credit_ns - (int64_t)ask->estimate_ns, memory_order_relaxed);
	gate->busy_last_ns = ask->now_ns;
	gate->idle_since_ns = 0;
	if (!ask->in_flight) {
		// the pause before is over, and what other processes of the job did in it is seen
		softmig_gate_bill(gate, share, ask->pct, ask->borrow, ask->now_ns, ask->now_ns, ask->now_ns);
	}
	if (ask->streams || ask->peers || softmig_share_others(share, gate->tag, ask->now_ns) > ask->now_ns)
		atomic_store_explicit(&share->side_by_side_ns, ask->now_ns, memory_order_relaxed);
	uint64_t ahead_ns = (uint64_t)most(credit_ns, (int64_t)ask->estimate_ns);
	mark(gate, share, ask->outstanding_ns + ahead_ns, ask->now_ns);
	softmig_share_expect(share, ask->now_ns + ask->outstanding_ns + ahead_ns);
	atomic_store_explicit(&share->on_credit, gate->over, memory_order_relaxed);
	return (struct softmig_gate_answer){.reason = SOFTMIG_GATE_GO};
}

// How long to sleep for work that is estimated to take so long. Estimates may be far too long (learned while neighbours or other
// streams took their part): half of it, and never so much that the GPU would stand idle for long.
static uint64_t nap(int64_t outstanding_ns, bool contested)
{
	return (uint64_t)most(least(outstanding_ns / 2, contested ? NAP_TURN_NS / 2 : NAP_WORK_NS), NAP_MIN_NS);
}

// Nothing of the job is on the GPU: the turn is not needed.
static void pass_on(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                    uint64_t keep_ns, uint64_t now_ns)
{
	softmig_share_mark(share, gate->tag, 0, now_ns);
	if (turn && gate->contested && softmig_share_others(share, gate->tag, now_ns) <= now_ns)
		softmig_turn_release(turn, pct, keep_ns, now_ns);
}

// Out of tokens: until when to sleep.
static struct softmig_gate_answer wait_for_tokens(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                                                  const struct softmig_gate_ask *ask)
{
	uint64_t now_ns = ask->now_ns, until_ns = gate->resumes_ns;
	if (!ask->in_flight) {
		pass_on(gate, share, turn, pct, 0, now_ns);
		if (turn && gate->contested)
			softmig_turn_leave(turn, now_ns);
	} else {
		uint64_t nap_ns = nap((int64_t)ask->outstanding_ns, gate->contested || softmig_budget_is_side_by_side(share, now_ns));
		until_ns = until_ns < now_ns + nap_ns ? until_ns : now_ns + nap_ns;
	}
	uint64_t longest_ns = ask->peers ? NAP_PEERS_NS : NAP_NS;
	if (until_ns > now_ns + longest_ns)
		until_ns = now_ns + longest_ns;
	return wait_until(SOFTMIG_GATE_BUDGET, until_ns, false);
}

static uint64_t held(const struct softmig_turn *turn)
{
	return atomic_load_explicit(&turn->own->hold_until_ns, memory_order_relaxed);
}

static bool turn_is_fresh(const struct softmig_turn *turn, uint64_t now_ns)
{
	return now_ns < atomic_load_explicit(&turn->own->hold_since_ns, memory_order_relaxed) + (uint64_t)FRESH_NS;
}

static struct softmig_gate_answer wait_for_turn(const struct softmig_turn_answer *place, uint64_t now_ns)
{
	uint64_t until_ns = now_ns + (uint64_t)NAP_TURN_NS;
	if (place->until_ns < until_ns)
		until_ns = place->until_ns;
	if (!place->next)
		return wait_until(SOFTMIG_GATE_TURN, until_ns, false);
	if (now_ns + POLL_NS < place->free_ns) // sleep until shortly before
		return wait_until(SOFTMIG_GATE_TURN, until_ns < place->free_ns ? until_ns : place->free_ns, true);
	if (now_ns < place->free_ns + POLL_NS || place->until_ns < now_ns + POLL_NS)
		return wait_until(SOFTMIG_GATE_TURN, now_ns, true);
	return wait_until(SOFTMIG_GATE_TURN, now_ns + POLL_NS, false);
}

// The turn passes on when the last of the work is done: polled for around the time when it should be, not for ever.
static struct softmig_gate_answer wait_for_end(struct softmig_gate *gate, int64_t outstanding_ns, uint64_t now_ns)
{
	if (outstanding_ns > 0)
		gate->late_since_ns = 0;
	else if (gate->late_since_ns == 0)
		gate->late_since_ns = now_ns;
	if (gate->late_since_ns != 0 && now_ns > gate->late_since_ns + (uint64_t)MS)
		return wait_until(SOFTMIG_GATE_DRAIN, now_ns + (uint64_t)NAP_LATE_NS, false);
	if (outstanding_ns > NAP_LATE_NS)
		return wait_until(SOFTMIG_GATE_DRAIN, now_ns + nap(outstanding_ns, true), false);
	return wait_until(SOFTMIG_GATE_DRAIN, now_ns + (uint64_t)most(outstanding_ns, 0), true);
}

// Without turns. Both sides must know that they share, or both are billed for both.
static struct softmig_gate_answer go_among(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn,
                                           const struct softmig_gate_ask *ask, int64_t credit_ns)
{
	gate->sharers = softmig_turn_sharers(turn, ask->now_ns);
	uint64_t work_ns = ask->outstanding_ns + (uint64_t)most(credit_ns, (int64_t)ask->estimate_ns);
	softmig_turn_burst(turn, ask->pct, ask->now_ns + work_ns + (uint64_t)LINGER_NS, ask->now_ns);
	return go(gate, share, ask, credit_ns, ask->now_ns + (uint64_t)VALID_NS);
}

static void give_up(struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	softmig_turn_release(turn, pct, 0, now_ns);
	softmig_turn_leave(turn, now_ns);
}

// What it may submit between others' turns after this pause. Only the program's own pauses count, not those that it was told to make.
static int64_t burst_after_pause(const struct softmig_gate *gate, uint64_t now_ns)
{
	if (gate->waits || gate->busy_last_ns == 0 || now_ns <= gate->busy_last_ns)
		return gate->burst_ns;
	return least(BURST_NS, gate->burst_ns + (int64_t)(now_ns - gate->busy_last_ns) / BURST_PAUSE);
}

bool softmig_gate_may_look_later(const struct softmig_gate *gate, bool in_flight, uint64_t estimate_ns, uint64_t now_ns)
{
	return !in_flight && !gate->waits && !gate->contested && gate->sharers == 0 && burst_after_pause(gate, now_ns) >= (int64_t)estimate_ns;
}

void softmig_gate_has_looked(struct softmig_gate *gate, const struct softmig_turn *turn, uint64_t now_ns)
{
	if (softmig_turn_others(turn, now_ns) > 0)
		atomic_store_explicit(&gate->credit_ns, 0, memory_order_relaxed);
}

static struct softmig_gate_answer decide(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn,
                                               const struct softmig_gate_ask *ask)
{
	uint64_t now_ns = ask->now_ns;
	// A job on several GPUs has its turns at different times on each, and a collective needs them all at once: two such jobs would hold one GPU each,
	// with kernels that wait for the other. So it works among its neighbours.
	bool plain = turn && ask->peers;
	gate->peers = ask->peers;
	if (plain && held(turn) != 0)
		give_up(turn, ask->pct, now_ns);
	int others = turn && !plain ? softmig_turn_others(turn, now_ns) : 0;
	gate->contested = others > 0;
	if (others > 0)
		gate->contested_ns = now_ns;
	unsigned pct = softmig_budget_pct(gate, ask->pct, ask->borrow), turn_pct = ask->pct >= 1 && ask->pct <= 100 ? ask->pct : 100;
	int64_t outstanding_ns = (int64_t)ask->outstanding_ns, estimate_ns = (int64_t)ask->estimate_ns;
	int64_t credit_ns = CREDIT_NS;

	if (!ask->in_flight)
		gate->burst_ns = burst_after_pause(gate, now_ns);
	gate->busy_last_ns = now_ns;
	if (!ask->in_flight)
		softmig_share_mark(share, gate->tag, 0, now_ns);
	else
		mark(gate, share, ask->outstanding_ns, now_ns);

	uint64_t drained_ns = now_ns + (uint64_t)outstanding_ns;
	if (turn && ask->in_flight && held(turn) != 0 && held(turn) < drained_ns + (uint64_t)(LINGER_NS / 2))
		softmig_turn_hold(turn, turn_pct, drained_ns + (uint64_t)LINGER_NS, now_ns); // the work takes longer than announced

	if (pct < 100) {
		int64_t surplus_ns = softmig_budget_surplus(gate, share, turn, pct, ask);
		if (softmig_budget_stops(gate, share, pct, ask, surplus_ns))
			return wait_for_tokens(gate, share, turn, pct, ask);
		credit_ns = least(credit_ns, surplus_ns > 0 ? surplus_ns : gate->over ? CREDIT_NS : CREDIT_NS / 4);
	} else {
		gate->over = false;
	}

	int64_t ahead_ns = others > 0 || (pct < 100 && !ask->streams) ? AHEAD_NS : AHEAD_FREE_NS;
	int64_t room_ns = most(ahead_ns - estimate_ns, AHEAD_MIN_NS);
	if (ask->in_flight && outstanding_ns > room_ns) {
		int64_t nap_ns = outstanding_ns - room_ns / 2 - AHEAD_MIN_NS / 2;
		return wait_until(SOFTMIG_GATE_AHEAD, now_ns + nap(nap_ns, others > 0), false);
	}
	credit_ns = least(credit_ns, ahead_ns - outstanding_ns);

	if (!turn) {
		gate->sharers = 0;
		return go(gate, share, ask, credit_ns, now_ns + (uint64_t)VALID_NS);
	}
	if (plain)
		return go_among(gate, share, turn, ask, credit_ns);
	bool mine = others == 0 || held(turn) > now_ns;
	if (!mine && gate->burst_ns >= estimate_ns) {
		gate->burst_ns -= estimate_ns;
		gate->sharers = others;
		softmig_turn_burst(turn, turn_pct, drained_ns + ask->estimate_ns * (uint64_t)(others + 1), now_ns);
		return go(gate, share, ask, 0, 0);
	}
	struct softmig_turn_answer place = softmig_turn_ask(turn, turn_pct, now_ns);
	switch (place.verdict) {
	case SOFTMIG_TURN_MINE:
		room_ns = (int64_t)(place.until_ns - now_ns) - outstanding_ns;
		// A turn that has just begun fits at least one command, however long.
		if (estimate_ns / 2 <= room_ns || (!ask->in_flight && turn_is_fresh(turn, now_ns))) {
			credit_ns = least(credit_ns, room_ns);
			uint64_t hold_until_ns = drained_ns + (uint64_t)(most(credit_ns, estimate_ns) + LINGER_NS);
			if (!softmig_turn_hold(turn, turn_pct, hold_until_ns, now_ns))
				return wait_until(SOFTMIG_GATE_TURN, now_ns, true);
			gate->sharers = softmig_turn_sharers(turn, now_ns);
			return go(gate, share, ask, credit_ns, hold_until_ns - (uint64_t)(LINGER_NS / 2));
		}
		__attribute__((fallthrough)); // what is left of the turn is too short for this command
	case SOFTMIG_TURN_OVER:
		if (ask->in_flight) {
			softmig_turn_hold(turn, turn_pct, drained_ns + (uint64_t)LINGER_NS, now_ns);
			return wait_for_end(gate, outstanding_ns, now_ns);
		}
		if (softmig_share_others(share, gate->tag, now_ns) > now_ns) // the job's other processes are still at work
			return wait_until(SOFTMIG_GATE_DRAIN, now_ns + (uint64_t)(NAP_TURN_NS / 4), false);
		softmig_turn_release(turn, turn_pct, 0, now_ns);
		return wait_until(SOFTMIG_GATE_TURN, now_ns, true);
	case SOFTMIG_TURN_WAIT:
		return wait_for_turn(&place, now_ns);
	case SOFTMIG_TURN_ALONE:
		gate->sharers = softmig_turn_sharers(turn, now_ns);
		softmig_turn_hold(turn, turn_pct, drained_ns + (uint64_t)(most(credit_ns, estimate_ns) + LINGER_NS), now_ns);
		break;
	case SOFTMIG_TURN_PLAIN:
		return go_among(gate, share, turn, ask, credit_ns);
	}
	return go(gate, share, ask, credit_ns, now_ns + (uint64_t)VALID_NS);
}

struct softmig_gate_answer softmig_gate_decide(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn,
                                               const struct softmig_gate_ask *ask)
{
	struct softmig_gate_answer answer = decide(gate, share, turn, ask);
	gate->waits = answer.reason != SOFTMIG_GATE_GO;
	return answer;
}

void softmig_gate_running(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                          uint64_t outstanding_ns, uint64_t now_ns)
{
	gate->busy_last_ns = now_ns;
	mark(gate, share, outstanding_ns, now_ns);
	if (turn && held(turn) != 0)
		softmig_turn_hold(turn, pct, now_ns + outstanding_ns + (uint64_t)LINGER_NS, now_ns);
}

void softmig_gate_drained(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                          uint64_t now_ns)
{
	gate->busy_last_ns = now_ns;
	atomic_store_explicit(&gate->credit_ns, 0, memory_order_relaxed); // the next launch begins anew
	pass_on(gate, share, turn, pct, (uint64_t)LINGER_NS, now_ns);
}
