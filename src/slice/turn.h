// SPDX-License-Identifier: Apache-2.0
// Turns between busy neighbours on one GPU. Owns: the page that a job shows its neighbours, and the rule by which whoever has
// read all pages knows whose turn it is. Must never: read a clock (every function is told the time), block, know the driver,
// trust a neighbour: the worst that a page can bring about is plain time-slicing.
//
// Without MPS a GPU time-slices whole contexts, which costs a tenth of it. So busy jobs work one after the other, each for
// some milliseconds, and empty the GPU before they pass it on:
//   - who wants to work says so (want_until_ns, which lapses by itself);
//   - who works says until when at most (hold_until_ns, moved on as work is submitted, which lapses by itself as well);
//   - when nobody holds, the job that has had least GPU time for its weight (virtual_ns) takes the turn; the others give it
//     a moment each, in that order, and then do without it;
//   - small bursts after a pause do not take part (see gate.h); a job that nobody disturbs never waits.
// A page is written by the processes of its job alone, each word by itself. Weights are the shares, filled up evenly where
// they come to more than the whole.
#ifndef SOFTMIG_SLICE_TURN_H
#define SOFTMIG_SLICE_TURN_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define SOFTMIG_TURN_MAGIC UINT64_C(0x31304e5254464f53) // "SOFTRN01"
#define SOFTMIG_TURN_PEERS 32
// What a holder announces is the estimated end of its work and this: estimates err, and more work may be on its way.
#define SOFTMIG_TURN_LINGER_NS UINT64_C(500000)
#define SOFTMIG_TURN_PAGE_BYTES 4096

// The first 128 bytes of a page file. Times are CLOCK_MONOTONIC.
struct softmig_turn_page {
	_Atomic uint64_t magic;
	_Atomic uint64_t key;           // of the job, breaks ties; never 0
	_Atomic uint64_t pct;           // the job's share, 1..100
	_Atomic uint64_t want_until_ns; // the job counts as wanting until then
	_Atomic uint64_t hold_since_ns;
	_Atomic uint64_t hold_until_ns; // the GPU is taken until then; 0: it is not
	_Atomic uint64_t virtual_ns;    // GPU time held beside others, divided by weight
	_Atomic uint64_t turns;         // so many turns are over
	_Atomic uint64_t burst_until_ns; // a small burst runs beside whoever holds until about then
	_Atomic uint64_t reserved[7];
};
_Static_assert(sizeof(struct softmig_turn_page) == 128, "layout 1");

// What was read of a page.
struct softmig_turn_seen {
	uint64_t magic, key, pct, want_until_ns, hold_since_ns, hold_until_ns, virtual_ns, turns, burst_until_ns, reserved[7];
};
_Static_assert(sizeof(struct softmig_turn_seen) == sizeof(struct softmig_turn_page), "a copy of it");

struct softmig_turn_peer {
	struct softmig_turn_seen page;
	uint64_t held_since_ns; // since when this process has seen it hold without a break; 0: it does not
};

// What one process knows about the turns on one GPU; in its private memory, used by one thread at a time.
struct softmig_turn {
	struct softmig_turn_page *own; // the job's page
	int peers;
	struct softmig_turn_peer peer[SOFTMIG_TURN_PEERS];
	bool sum_is_whole;         // root gave out the shares, so they come to 100 at most
	uint64_t free_since_ns;    // since when this process has seen nobody hold; 0: somebody does
	uint64_t last_ns;          // of the last call
	bool alone;                // nobody else wanted the GPU then
	bool waited;               // what it was told then
	int64_t deprived_ns;       // how much longer it has waited than its weight explains
	uint64_t plain_until_ns;   // turns are not working: time-slicing until then
	uint64_t plain_length_ns;
};

enum softmig_turn_verdict {
	SOFTMIG_TURN_ALONE, // nobody else wants the GPU: work
	SOFTMIG_TURN_MINE,  // work until until_ns
	SOFTMIG_TURN_OVER,  // submit nothing more; when all is done, release
	SOFTMIG_TURN_WAIT,  // look again at until_ns at the latest
	SOFTMIG_TURN_PLAIN, // neighbours do not keep to the turns: work among them
};

struct softmig_turn_answer {
	enum softmig_turn_verdict verdict;
	uint64_t until_ns;
	uint64_t free_ns; // WAIT: when the GPU may become free, if all goes as announced
	int others; // jobs that want the GPU now
	bool next;  // it is this job that the GPU falls to next
};

// Writes a page's first state; the file is fresh or belonged to the same job.
void softmig_turn_init(struct softmig_turn_page *page, uint64_t key);

// Enters what was read of the neighbour at place i (0 .. peers - 1) of the list.
void softmig_turn_see(struct softmig_turn *turn, int i, const struct softmig_turn_seen *page, uint64_t now_ns);

// May this process, which has work for the GPU and the tokens for it, submit? Takes the turn if it is free and this job's.
struct softmig_turn_answer softmig_turn_ask(struct softmig_turn *turn, unsigned pct, uint64_t now_ns);

// Is another job wanting or holding? Takes no part.
int softmig_turn_others(const struct softmig_turn *turn, uint64_t now_ns);

// Tells that a job of share pct works on the GPU beside whoever holds it, until about then.
void softmig_turn_burst(struct softmig_turn *turn, unsigned pct, uint64_t until_ns, uint64_t now_ns);
// How many others are on the GPU at this moment, in order or not: while this job works it is time-sliced with them.
int softmig_turn_sharers(const struct softmig_turn *turn, uint64_t now_ns);

// What the neighbours who were there lately and whose key is smaller have as shares, together, in percent of the GPU.
unsigned softmig_turn_before(const struct softmig_turn *turn, uint64_t now_ns);

// Do the shares of the jobs that want the GPU come to all of it, this one's included?
bool softmig_turn_is_full(const struct softmig_turn *turn, unsigned pct, uint64_t now_ns);

// While holding: what has been submitted will be done at until_ns. False: the turn is no longer this job's.
bool softmig_turn_hold(struct softmig_turn *turn, unsigned pct, uint64_t until_ns, uint64_t now_ns);

// The job's work on the GPU is done. keep_ns: how much longer others shall leave it the GPU, because more may come at once
// (never beyond what was announced); 0 passes the turn on.
void softmig_turn_release(struct softmig_turn *turn, unsigned pct, uint64_t keep_ns, uint64_t now_ns);

// The job does not want the GPU for now: it is out of tokens, or waits for something else.
void softmig_turn_leave(struct softmig_turn *turn, uint64_t now_ns);
#endif
