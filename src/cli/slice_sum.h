// SPDX-License-Identifier: Apache-2.0
// The GPUs in a slice's limits, and several slices as one. Owns: the arithmetic, entry by entry, told apart by UUID. Must never: do I/O.
#ifndef SOFTMIG_CLI_SLICE_SUM_H
#define SOFTMIG_CLI_SLICE_SUM_H
#include <stdbool.h>

#include "slice/limits.h"

// How many entries with a UUID there are, from the first on.
int softmig_slice_entries(const struct softmig_limits *limits);
// The entry of this GPU, -1: none.
int softmig_slice_entry(const struct softmig_limits *limits, const uint8_t uuid[16]);
// Adds part to sum; a GPU's share never exceeds 100 %. False: no room for another GPU.
bool softmig_slice_add(struct softmig_limits *sum, const struct softmig_limits *part);
#endif
