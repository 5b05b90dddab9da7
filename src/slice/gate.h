// SPDX-License-Identifier: Apache-2.0
// May this process submit work to the GPU now? Owns: the decision, out of the job's tokens (budget.h), what this process has
// already submitted, and the turns among neighbours (turn.h). Must never: read a clock, sleep, know the driver.
//
// A gate belongs to one process and one GPU. Its first two words are all that most launches touch: so much estimated work may
// be submitted until then without asking again. Everything else is used by one thread at a time.
#ifndef SOFTMIG_SLICE_GATE_H
#define SOFTMIG_SLICE_GATE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "slice/share.h"
#include "slice/turn.h"

struct softmig_gate {
	_Atomic int64_t credit_ns;
	_Atomic uint64_t valid_until_ns;
	unsigned tag;          // of this process, for the marks
	uint64_t phase_ns;     // of the job's beats (beat.h)
	uint64_t resumes_ns;   // over: when it goes on, unless neighbours come or go
	uint64_t idle_since_ns; // over: since when it has nothing on the GPU
	bool over;             // out of tokens
	bool waits;            // the last answer was not GO
	bool peers;            // the job worked on other GPUs too, not long before the last question
	bool contested;        // neighbours want the GPU
	int sharers;           // neighbours that the GPU is time-sliced with at this moment
	uint64_t late_since_ns; // since when the end of a turn is overdue; 0: it is not
	uint64_t busy_last_ns; // when this process was last seen at work
	uint64_t contested_ns; // when they last did
	int64_t burst_ns;      // what it may submit between others' turns
};

struct softmig_gate_ask {
	uint64_t now_ns;
	unsigned pct;            // the job's share, 1..100; 100: no limit
	bool borrow;             // beyond the share while no neighbour wants the GPU
	bool in_flight;          // this process has work on the GPU
	bool streams;            // in several streams, not long ago
	uint64_t outstanding_ns; // estimate of how long that still takes
	uint64_t estimate_ns;    // of the command to be submitted
	bool peers;               // softmig_budget_peer: the job used other GPUs, not long ago
	int peers_counted;        //   so many of them in the same rhythm,
	int64_t peers_surplus_ns; //   which together have so much more than the tokens that they must have
	bool peer_waits;          //   one has work that may wait for a kernel which is held back here
	bool peer_is_stuck;       //   one has work that it had tokens for, which is late
};

enum softmig_gate_reason {
	SOFTMIG_GATE_GO,     // submit it
	SOFTMIG_GATE_BUDGET, // out of tokens
	SOFTMIG_GATE_AHEAD,  // enough is submitted
	SOFTMIG_GATE_DRAIN,  // the turn is over, work is still running
	SOFTMIG_GATE_TURN,   // it is a neighbour's turn
};

struct softmig_gate_answer {
	enum softmig_gate_reason reason;
	uint64_t until_ns; // not GO: look at the GPU and ask again then, at the latest
	bool soon;         // the moment matters: wake up a little earlier and poll
};

// turn: NULL where there are no turns. On GO the credit is set and the command is already taken out of it.
struct softmig_gate_answer softmig_gate_decide(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn,
                                               const struct softmig_gate_ask *ask);

// May neighbours' pages be read when the command has been submitted, instead of before? If this process has nothing on the GPU, nobody was there before its
// pause, and the command might be submitted between others' turns, whoever has come.
bool softmig_gate_may_look_later(const struct softmig_gate *gate, bool in_flight, uint64_t estimate_ns, uint64_t now_ns);
// It has been, and the pages are read: if somebody has come, what comes next is asked about.
void softmig_gate_has_looked(struct softmig_gate *gate, const struct softmig_turn *turn, uint64_t now_ns);

// The process was busy on the GPU from from_ns to to_ns: bills what is new, less what the GPU did for others meanwhile.
// Returns the GPU time charged.
uint64_t softmig_gate_bill(struct softmig_gate *gate, struct softmig_share *share, unsigned pct, bool borrow, uint64_t from_ns,
                           uint64_t to_ns, uint64_t now_ns);

// The program waits for its work, which will take about outstanding_ns more: keeps the turn for so long.
void softmig_gate_running(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                          uint64_t outstanding_ns, uint64_t now_ns);

// All that this process submitted is done. It may submit more at once; if not, the turn passes on.
void softmig_gate_drained(struct softmig_gate *gate, struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                          uint64_t now_ns);
#endif
