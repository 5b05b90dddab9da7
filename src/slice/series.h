// SPDX-License-Identifier: Apache-2.0
// A job's course in time: a bounded number of samples in its ledger. Owns: the meaning of softmig_ledger_file.series_words. Must never:
// start anything (it is told the time by those who look at the limits anyway), block, or trust a word that another process can write.
#ifndef SOFTMIG_SLICE_SERIES_H
#define SOFTMIG_SLICE_SERIES_H
#include <stdint.h>

#include "slice/ledger.h"

#define SOFTMIG_SERIES_POINTS 240
#define SOFTMIG_SERIES_READ   (SOFTMIG_SERIES_POINTS + 2)

// All of the job's GPUs together.
struct softmig_series_point {
	uint32_t second;       // since the ledger was made
	uint32_t used_mib;
	uint32_t busy_ms;      // GPU time so far
	uint32_t throttled_ms; // so far
};

// The overlay of softmig_ledger_file.series_words. Zero is empty.
struct softmig_series {
	_Atomic uint64_t due_ns;  // CLOCK_MONOTONIC; who moves it takes the sample
	_Atomic uint64_t seen_ns; // CLOCK_MONOTONIC, to 10 ms: when a process last could have changed anything
	_Atomic uint64_t taken;   // seconds between samples << 32 | how many there are
	_Atomic uint64_t word[SOFTMIG_SERIES_POINTS][2]; // second << 32 | used_mib, busy_ms << 32 | throttled_ms
};
_Static_assert(sizeof(struct softmig_series) == sizeof(((struct softmig_ledger_file *)0)->series_words), "fits the ledger's words");

// Takes a sample if one is due. Some microseconds once a second for one process of the job, two loads for the others.
void softmig_series_sample(struct softmig_ledger *ledger, uint64_t now_ns);
// Keeps a point, dropping every second one when all places are taken. For softmig_series_sample, which lets one process at a time.
void softmig_series_add(struct softmig_series *series, const struct softmig_series_point *point);
// For tools, of a copy: the points in the order of time, that at which the job was last heard of, and now, which is given; returns how many.
// What does not fit the one before it is left out.
int softmig_series_read(const struct softmig_ledger_file *file, const struct softmig_series_point *now, uint64_t now_ns,
                        struct softmig_series_point points[SOFTMIG_SERIES_READ]);
// Is b a later state of the job than a?
bool softmig_series_follows(const struct softmig_series_point *a, const struct softmig_series_point *b);
#endif
