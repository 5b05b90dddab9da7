// SPDX-License-Identifier: Apache-2.0
// Beats: the rhythm in which a job that needs more than its share works and pauses. Owns: when beats are, and how many tokens (share.h) belong
// to each moment of one. Must never: read a clock, know who asks.
//
// In a beat of length T a job of share p works p T and pauses (1-p) T. It begins with p (1-p) T tokens, has none left after p T, and has as many
// again at the end. The floor is this course: a job whose tokens lie above it works on, one below pauses until the next beat. So whatever went
// wrong in one beat, a kernel too long or a wake-up too late, is made up for in the next, and every beat ends with the same tokens. As whole
// numbers of beats fit a second, every second holds the same work.
#ifndef SOFTMIG_SLICE_BEAT_H
#define SOFTMIG_SLICE_BEAT_H
#include <stdint.h>

// [H200] PyTorch's eager mode loses about 0.18 ms of work at each beat's beginning, until it is ahead of the GPU again: a point at this length.
#define SOFTMIG_BEAT_NS (INT64_C(1000000000) / 48)
// Streams, processes and GPUs of a job that work side by side begin and end one after another, and the GPU is not full then. [H200] 4 streams lose
// 1 ms of work by it. So their beats are eight times as long.
#define SOFTMIG_BEAT_LONG_NS (8 * SOFTMIG_BEAT_NS)

// The next beat after from_ns. phase_ns: the job's own, so that not all jobs of a node begin at once; beats are where from_ns + phase_ns is a
// multiple of beat_ns.
uint64_t softmig_beat_next(uint64_t from_ns, uint64_t phase_ns, int64_t beat_ns);

// What a share of pct percent (1..100) has of so much time.
int64_t softmig_beat_part(int64_t length_ns, unsigned pct);

// The tokens that belong to now_ns. Negative at a beat's beginning, by what will come in while it works: a job that has had too much before
// begins with less, but begins.
int64_t softmig_beat_floor(uint64_t now_ns, uint64_t phase_ns, int64_t beat_ns, unsigned pct);

// The tokens that a beat begins with where nothing went wrong; the floor at its end.
int64_t softmig_beat_begin(int64_t beat_ns, unsigned pct);
#endif
