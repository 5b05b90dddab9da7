// SPDX-License-Identifier: Apache-2.0
// How long a command will take, judged by how long the like of it took. Owns: one fixed table, by function and size of the grid or
// by executable graph. Must never: allocate, lock, matter for the bill (that is measured): an estimate only bounds run-ahead.
#ifndef SOFTMIG_PRELOAD_ESTIMATE_H
#define SOFTMIG_PRELOAD_ESTIMATE_H
#include <stdbool.h>
#include <stdint.h>

struct softmig_estimate; // an entry of the table

// What is assumed of a command that was never measured.
#define SOFTMIG_ESTIMATE_UNKNOWN_NS 1000000u

// The entry for a key other than 0, made if new. Never NULL: where the table is crowded, entries are reused.
struct softmig_estimate *softmig_estimate_find(uint64_t key);
// Nanoseconds; *known: was it measured?
uint64_t softmig_estimate_ns(const struct softmig_estimate *estimate, bool *known);
// A batch took actual_ns where expected_ns was estimated for all commands in it; part_ns was estimated, then, for the count such commands
// among them. shrinks: it took too long for reasons of its own, and proves no command to be longer than it is taken for.
void softmig_estimate_learn(struct softmig_estimate *estimate, uint32_t count, uint64_t part_ns, uint64_t expected_ns, uint64_t actual_ns, bool shrinks);
#endif
