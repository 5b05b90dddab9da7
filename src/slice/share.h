// SPDX-License-Identifier: Apache-2.0
// How much GPU time a job has left: one deficit bucket per job and GPU, in the ledger, shared by all its processes. Owns: the
// meaning of softmig_ledger_gpu.share_words. Must never: read a clock (every function is told the time), block, know the
// driver, or trust a word: whatever the job's processes scribble here costs that job alone, and never a crash or a hang.
//
// The bucket is a single word: the moment at which its balance is zero, with the share it was reckoned in. Then
//     tokens(now) = share x (now - zero)       negative: debt, paid back by waiting until zero is reached
// so that refilling needs no write, charging is one compare-and-swap, and a process that is killed between any two
// instructions leaves at most its last, already used, few milliseconds uncharged. All times are CLOCK_MONOTONIC nanoseconds.
#ifndef SOFTMIG_SLICE_SHARE_H
#define SOFTMIG_SLICE_SHARE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SOFTMIG_SHARE_WORDS 24
#define SOFTMIG_SHARE_MARKS 8
#define SOFTMIG_SHARE_SECONDS 8

// What a rested job may use at once before it runs at its share's pace: one point of one second, less what runs ahead.
#define SOFTMIG_SHARE_ALLOWANCE_NS INT64_C(8000000)
// The same while neighbours take turns: time that a job spent waiting for its turn is not lost to it.
#define SOFTMIG_SHARE_TURN_ALLOWANCE_NS INT64_C(30000000)
// Debt beyond this is forgiven: no command is longer, so it is damage.
#define SOFTMIG_SHARE_DEBT_NS INT64_C(120000000000)

// The overlay of softmig_ledger_gpu.share_words.
struct softmig_share {
	_Atomic uint64_t bucket;          // zero_ns << 7 | share in percent; 0: never used
	_Atomic uint64_t billed_until_ns; // the job's busy time is accounted for up to here
	_Atomic uint64_t busy_ns;         // GPU time charged, for status
	_Atomic uint64_t throttled_ns;    // time that launches waited, all threads added up
	_Atomic uint64_t mark[SOFTMIG_SHARE_MARKS];     // tag << 48 | us: that process has work on the GPU until about then
	_Atomic uint64_t second[SOFTMIG_SHARE_SECONDS]; // second << 32 | busy us in it, a ring
	_Atomic uint64_t side_by_side_ns; // when two streams, processes or GPUs of the job were last seen at work at once
	_Atomic uint64_t due_ns;          // when all that was submitted should be done, by what was known then
	_Atomic uint64_t on_credit;       // 1: what was submitted last had to be let through for another GPU's sake
	_Atomic uint64_t phase_ns;        // on the first of the job's GPUs, where it has several: of its beats
};
_Static_assert(sizeof(struct softmig_share) == SOFTMIG_SHARE_WORDS * sizeof(uint64_t), "fits the ledger's words");
_Static_assert(offsetof(struct softmig_share, mark) == 32 && offsetof(struct softmig_share, second) == 96, "layout 1");

// The tokens that a job of share pct has at now, at most allowance_ns. Negative: debt.
int64_t softmig_share_tokens(const struct softmig_share *share, unsigned pct, uint64_t now_ns, int64_t allowance_ns);

// Takes busy_ns out of the bucket, used from since_ns on: what was over the allowance at that moment is lost, what came in
// since is not. A share other than the one the bucket was reckoned in keeps the tokens and changes their price: this is how
// a live change takes effect. Debt beyond debt_ns, at most SOFTMIG_SHARE_DEBT_NS, is forgiven.
void softmig_share_charge(struct softmig_share *share, unsigned pct, uint64_t busy_ns, uint64_t since_ns, int64_t allowance_ns, int64_t debt_ns);

// When the job will have tokens_ns, if it uses nothing until then. now_ns if it has them.
uint64_t softmig_share_when(const struct softmig_share *share, unsigned pct, uint64_t now_ns, int64_t tokens_ns);

// Tells that the process of this tag was busy on the GPU all through from_ns..to_ns; returns how much of it is new: the
// processes of a job run time-sliced, so that their spans overlap, and what one has billed is not billed again. Time between
// what is billed and from_ns counts if another process's mark covers it. Call it with from_ns == to_ns when work begins on
// a drained GPU, so that the pause before is seen.
uint64_t softmig_share_bill(struct softmig_share *share, unsigned tag, uint64_t from_ns, uint64_t to_ns, uint64_t now_ns);

// Adds to the statistics that status and report show.
void softmig_share_count(struct softmig_share *share, uint64_t busy_ns, uint64_t throttled_ns, uint64_t now_ns);

// Marks the process of this tag (1..65535) as busy until about then; 0: it has drained. False: all marks are taken.
bool softmig_share_mark(struct softmig_share *share, unsigned tag, uint64_t until_ns, uint64_t now_ns);
// Until when other processes of the job are marked busy; 0: none is.
uint64_t softmig_share_others(const struct softmig_share *share, unsigned tag, uint64_t now_ns);

// Tells when the work on that GPU should be done: whenever something was submitted, or seen to be done.
void softmig_share_expect(struct softmig_share *share, uint64_t due_ns);
// Until when the job used that GPU, about.
uint64_t softmig_share_due(const struct softmig_share *share);
// Has the job work on that GPU, as far as its processes have said? A mark that lapsed unrevoked is that of one which waits for its work.
bool softmig_share_works(const struct softmig_share *share, uint64_t now_ns);

// For tools, also on a copy: GPU time used in the last full seconds, in thousandths of the GPU. The first call to make on
// words that may come from before a reboot; every other function tolerates them as well.
unsigned softmig_share_used_permille(const struct softmig_share *share, uint64_t now_ns);
#endif
