// SPDX-License-Identifier: Apache-2.0
// What root keeps of a job in SOFTMIG_STATE_DIR. Owns: the limit file's text, writing it whole or not at all, removing all
// of a job and nothing of another. Must never: follow a link, leave half a slice behind.
#ifndef SOFTMIG_CLI_SLICE_STATE_H
#define SOFTMIG_CLI_SLICE_STATE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice/limits.h"

// Opens the state directory (making it where it is missing) and holds off every other softmig slice until it is closed.
// Returns the descriptor, or -1 with why (one sentence without a full stop).
int softmig_state_open(char *why, size_t why_size);

bool softmig_state_has_limits(int directory, uint64_t job);

// Writes the job's limit file by a rename, so that readers see the old one or the new one. 0 or -1 with why.
int softmig_state_write(int directory, uint64_t job, const struct softmig_limits *limits, char *why, size_t why_size);

// Makes what the job's processes share: the ledger, and for each GPU the page by which jobs take turns. What is there is kept.
// 0 or -1 with why.
int softmig_state_create_shared(uint64_t job, uid_t uid, gid_t gid, const struct softmig_limits *limits, char *why, size_t why_size);

// Is the ledger there and whole and uid's?
bool softmig_state_shared_fits(int directory, uint64_t job, uid_t uid);

// Removes everything of the job, limit file last so that its processes are never without one while they have a ledger.
// 0, also when there was nothing, or -1 with why (everything that could be removed is).
int softmig_state_remove(int directory, uint64_t job, char *why, size_t why_size);
#endif
