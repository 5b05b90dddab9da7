// SPDX-License-Identifier: Apache-2.0
// Has the job the tokens for more work on a GPU? Owns: what it may have at once, when it pauses and when it goes on (beat.h), and how its GPUs do so
// together. For gate.c, and for who tells a gate of the other GPUs. Must never: read a clock, know the driver, decide about neighbours' turns.
#ifndef SOFTMIG_SLICE_BUDGET_H
#define SOFTMIG_SLICE_BUDGET_H
#include "slice/gate.h"

// Before the gate's question, about the GPU of share own: takes another GPU of the job into account, whose share is peer.
void softmig_budget_peer(const struct softmig_gate *gate, struct softmig_gate_ask *ask, const struct softmig_share *own, const struct softmig_share *peer);

// After that: where the job works on several GPUs, chooses when its beats are, the same on all of them; neighbours of which each does so work one
// after the other within a beat. first: the share on the first GPU of the job; chooses: it is this gate's.
void softmig_budget_phase(struct softmig_gate *gate, struct softmig_share *first, bool chooses, const struct softmig_turn *turn,
                          const struct softmig_gate_ask *ask);

// The share that counts at this moment, 1..100.
unsigned softmig_budget_pct(const struct softmig_gate *gate, unsigned pct, bool borrow);

// Do streams, processes or GPUs of the job work side by side? Kept in the ledger, so that all its processes keep the same beat.
bool softmig_budget_is_side_by_side(const struct softmig_share *share, uint64_t now_ns);

// The tokens that a rested job has.
int64_t softmig_budget_allowance(const struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, uint64_t now_ns);

// The debt beyond which more is forgiven.
int64_t softmig_budget_debt(const struct softmig_gate *gate);

// What the job has beyond the tokens that it must have to submit more; negative: it lacks so much.
int64_t softmig_budget_surplus(const struct softmig_gate *gate, const struct softmig_share *share, struct softmig_turn *turn, unsigned pct,
                               const struct softmig_gate_ask *ask);

// Must this command wait for tokens? Then gate->resumes_ns is when, as things stand, it need not any more.
bool softmig_budget_stops(struct softmig_gate *gate, const struct softmig_share *share, unsigned pct, const struct softmig_gate_ask *ask,
                          int64_t surplus_ns);
#endif
