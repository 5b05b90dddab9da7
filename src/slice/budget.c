// SPDX-License-Identifier: Apache-2.0
// The budget; see budget.h. docs/share.md gives the reasons for the figures.
#include "slice/budget.h"

#include "slice/beat.h"

#define US INT64_C(1000)
#define MS INT64_C(1000000)
// Out of tokens, a job pauses until its next beat. In turns among neighbours it waits for a stretch of work instead: turns have their own rhythm.
#define STRETCH_NS (4 * MS)
#define STRETCH_PER_PCT_NS (MS / 5)
// Neighbours matter so long.
#define CONTESTED_NS ((uint64_t)(200 * MS))
// A pause ends before the next beat if so much of a beat's part is left.
#define LEFT_OVER_PARTS 8
// Debt that does not stop a job in its turn.
#define TURN_DEBT_NS (20 * MS)
// Streams, processes and GPUs count as side by side so long after they were seen to.
#define SIDE_BY_SIDE_NS ((uint64_t)(1000 * MS))
// The job's other GPUs matter when they were used lately.
#define PEER_USED_NS ((uint64_t)(2000 * MS))
// One GPU's debt for another's sake. [model] With 20 ms ranks with long kernels can drift apart.
#define PEER_DEBT_NS (60 * MS)
// What a GPU is let through for another's sake, and what of a debt is remembered: a rank that waits on its GPU for one which is away (a checkpoint,
// the next data) is billed for all that time, would then be away itself for longer, and so on without end.
#define PEER_CREDIT_NS (1000 * MS)
#define PEER_COMMAND_NS (100 * MS)
#define PEER_REMEMBERED_NS (900 * MS)
// Estimates of when work will be done are good to so much; and so long after it was, a process may not have seen it yet.
#define PEER_LATE_NS ((uint64_t)(250 * US))
#define PEER_UNSEEN_NS ((uint64_t)(300 * US))
#define PEER_VERY_LATE_NS ((uint64_t)(50 * MS))

static int64_t least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

unsigned softmig_budget_pct(const struct softmig_gate *gate, unsigned pct, bool borrow)
{
	if (pct < 1 || pct > 100 || (borrow && !gate->contested && gate->sharers == 0))
		return 100;
	return pct;
}

bool softmig_budget_is_side_by_side(const struct softmig_share *share, uint64_t now_ns)
{
	uint64_t seen_ns = atomic_load_explicit(&share->side_by_side_ns, memory_order_relaxed);
	// Another process's clock reading may be the later one.
	return seen_ns < now_ns + SIDE_BY_SIDE_NS && now_ns < seen_ns + SIDE_BY_SIDE_NS;
}

static int64_t beat_length(const struct softmig_share *share, uint64_t now_ns)
{
	return softmig_budget_is_side_by_side(share, now_ns) ? SOFTMIG_BEAT_LONG_NS : SOFTMIG_BEAT_NS;
}

// Neighbours come and go with every turn: not only at this moment.
static bool takes_turns(const struct softmig_gate *gate, uint64_t now_ns)
{
	return gate->contested_ns != 0 && now_ns < gate->contested_ns + CONTESTED_NS;
}

int64_t softmig_budget_allowance(const struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, uint64_t now_ns)
{
	if (takes_turns(gate, now_ns))
		return SOFTMIG_SHARE_TURN_ALLOWANCE_NS;
	int64_t begin_ns = softmig_beat_begin(beat_length(share, now_ns), pct);
	return begin_ns + (softmig_budget_is_side_by_side(share, now_ns) ? SOFTMIG_SHARE_TURN_ALLOWANCE_NS : SOFTMIG_SHARE_ALLOWANCE_NS);
}

static int64_t stretch(unsigned pct)
{
	return least(STRETCH_NS, (int64_t)pct * STRETCH_PER_PCT_NS);
}

int64_t softmig_budget_debt(const struct softmig_gate *gate)
{
	return gate->peers ? PEER_REMEMBERED_NS : SOFTMIG_SHARE_DEBT_NS;
}

// What a GPU has of its own beyond its floor, when all that is submitted is done.
static int64_t above_floor(const struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, int64_t outstanding_ns, uint64_t now_ns)
{
	return softmig_share_tokens(share, pct, now_ns, softmig_budget_allowance(gate, share, pct, now_ns)) - outstanding_ns -
	       softmig_beat_floor(now_ns, gate->phase_ns, beat_length(share, now_ns), pct);
}

void softmig_budget_peer(const struct softmig_gate *gate, struct softmig_gate_ask *ask, const struct softmig_share *own, const struct softmig_share *peer)
{
	unsigned pct = (unsigned)(atomic_load_explicit(&peer->bucket, memory_order_relaxed) & 127), own_pct = softmig_budget_pct(gate, ask->pct, ask->borrow);
	uint64_t now_ns = ask->now_ns, due_ns = softmig_share_due(peer);
	if (pct < 1 || pct > 100 || now_ns > due_ns + PEER_USED_NS)
		return;
	ask->peers = true;
	int64_t left_ns = due_ns > now_ns ? least((int64_t)(due_ns - now_ns), PEER_DEBT_NS) : 0;
	int64_t theirs_ns = above_floor(gate, peer, pct, left_ns, now_ns), ours_ns = above_floor(gate, own, own_pct, (int64_t)ask->outstanding_ns, now_ns);
	// One with much more or less has a rhythm of its own: it needs less than its share, or ran something long.
	if (pct < 100 && theirs_ns < ours_ns + PEER_DEBT_NS && theirs_ns > ours_ns - PEER_DEBT_NS) {
		ask->peers_counted++;
		ask->peers_surplus_ns += theirs_ns;
	}
	if (!softmig_share_works(peer, now_ns))
		return;
	// It was given a command before all GPUs had to stop, and may need this one's part; or what it was given for another's sake is late.
	bool on_credit = atomic_load_explicit(&peer->on_credit, memory_order_relaxed) != 0, late = now_ns > due_ns + PEER_LATE_NS;
	ask->peer_waits |= late || (!on_credit && now_ns + PEER_LATE_NS < due_ns);
	ask->peer_is_stuck |= late && (!on_credit || now_ns > due_ns + PEER_VERY_LATE_NS);
}

void softmig_budget_phase(struct softmig_gate *gate, struct softmig_share *first, bool chooses, const struct softmig_turn *turn,
                        const struct softmig_gate_ask *ask)
{
	if (!ask->peers)
		return;
	// Behind the shares of those before it, which they use up at the beginning of a beat.
	if (chooses && turn)
		atomic_store_explicit(&first->phase_ns,
		                      (uint64_t)softmig_beat_part(SOFTMIG_BEAT_LONG_NS, 100 - softmig_turn_before(turn, ask->now_ns) % 100), memory_order_relaxed);
	uint64_t phase_ns = atomic_load_explicit(&first->phase_ns, memory_order_relaxed);
	if (phase_ns != 0)
		gate->phase_ns = phase_ns;
}

int64_t softmig_budget_surplus(const struct softmig_gate *gate, const struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                       const struct softmig_gate_ask *ask)
{
	uint64_t now_ns = ask->now_ns;
	int64_t outstanding_ns = (int64_t)ask->outstanding_ns;
	if (takes_turns(gate, now_ns)) {
		// Where the wanting jobs' shares fill the GPU, turns keep their parts, and a debt from an error in billing would leave it idle.
		bool full = gate->contested && turn && softmig_turn_is_full(turn, pct, now_ns);
		return softmig_share_tokens(share, pct, now_ns, softmig_budget_allowance(gate, share, pct, now_ns)) - outstanding_ns + (full ? TURN_DEBT_NS : 0);
	}
	// All GPUs of the job stop and start together, by what they have on average: a kernel of one may run until another runs its own, that waiting
	// is billed, and ranks of which each goes by its own tokens drift apart without end.
	return (above_floor(gate, share, pct, outstanding_ns, now_ns) + ask->peers_surplus_ns) / (ask->peers_counted + 1);
}

// When a job that is out of tokens will go on.
static uint64_t resumes(const struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, int64_t surplus_ns, uint64_t now_ns)
{
	if (takes_turns(gate, now_ns))
		return now_ns + (uint64_t)(most(stretch(pct) - surplus_ns, 0) * 100 / (int64_t)pct);
	// Within a beat the floor rises as the tokens do; each beat brings its part.
	int64_t beat_ns = beat_length(share, now_ns), part_ns = softmig_beat_part(beat_ns, pct);
	return softmig_beat_next(now_ns, gate->phase_ns, beat_ns) + (uint64_t)(most(-surplus_ns - 1, 0) / part_ns * beat_ns);
}

// What a job that has stopped must have to go on; one that works only needs what it has.
static int64_t enough(const struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, const struct softmig_gate_ask *ask)
{
	if (!gate->over)
		return 0;
	if (takes_turns(gate, ask->now_ns))
		return stretch(pct);
	if (ask->now_ns >= gate->resumes_ns)
		return 0;
	// What was submitted may turn out to be shorter than estimated, so that much of the beat's part is left. But GPUs of one job
	// start together, or a kernel of the first waits for the last.
	return ask->peers ? INT64_MAX : softmig_beat_part(beat_length(share, ask->now_ns), pct) / LEFT_OVER_PARTS;
}

bool softmig_budget_stops(struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, const struct softmig_gate_ask *ask,
                          int64_t surplus_ns)
{
	uint64_t now_ns = ask->now_ns;
	if (surplus_ns >= enough(gate, share, pct, ask)) {
		gate->over = false;
		return false;
	}
	gate->over = true;
	if (ask->in_flight)
		gate->idle_since_ns = 0;
	else if (gate->idle_since_ns == 0)
		gate->idle_since_ns = now_ns;
	// What the kernel of another GPU waits for is let through, on credit.
	bool unseen = ask->in_flight || now_ns < gate->idle_since_ns + PEER_UNSEEN_NS;
	if (ask->peer_waits && !unseen && surplus_ns > -PEER_DEBT_NS)
		return false;
	// Also in deep debt, if it is likely that this is why the other one does not get on: its work had tokens, and this is no long command.
	if (ask->peer_is_stuck && !unseen && ask->estimate_ns <= (uint64_t)PEER_COMMAND_NS && surplus_ns > -PEER_CREDIT_NS)
		return false;
	gate->resumes_ns = resumes(gate, share, pct, surplus_ns, now_ns);
	return true;
}
