// SPDX-License-Identifier: Apache-2.0
// The components of a heterogeneous job on this node. Where no cgroup tells their processes apart, all bear the number of the job's
// first component, so what is in force for that number is the sum of the parts. Owns: a file for each part, FIRST+JOB.part in the
// state directory, from which the sum can be made anew after any interruption. Must never: touch a limit file.
#ifndef SOFTMIG_CLI_SLICE_PARTS_H
#define SOFTMIG_CLI_SLICE_PARTS_H
#include "cli/slice_state.h"

// The first component's number of the job that job is a part of, or that has parts by its number; 0: neither.
uint64_t softmig_parts_first(const struct softmig_state *state, uint64_t job);
// 0 or -1 with why.
int softmig_parts_write(const struct softmig_state *state, uint64_t first, uint64_t job, const struct softmig_limits *limits, char *why,
                        size_t why_size);
int softmig_parts_remove(const struct softmig_state *state, uint64_t first, uint64_t job, char *why, size_t why_size);
// What this component was given.
enum softmig_limits_status softmig_parts_load(uint64_t first, uint64_t job, struct softmig_limits *limits, struct softmig_limits_error *error);
// The sum of all parts but except's (0: of all). How many they are (0: sum is as after softmig_limits_init), -1 with why: they are on more
// GPUs than a slice has, or one cannot be read.
int softmig_parts_sum(const struct softmig_state *state, uint64_t first, uint64_t except, struct softmig_limits *sum, char *why,
                      size_t why_size);
#endif
