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

struct softmig_state {
	int directory;
	int lock;
};

// Opens the state directory (making it where it is missing) and holds off every other softmig slice until it is closed.
// False with why (one sentence without a full stop).
bool softmig_state_open(struct softmig_state *state, char *why, size_t why_size);
void softmig_state_close(const struct softmig_state *state);

bool softmig_state_has_limits(const struct softmig_state *state, uint64_t job);
// The job's limit file as it is.
enum softmig_limits_status softmig_state_load(uint64_t job, struct softmig_limits *limits, struct softmig_limits_error *error);

// Writes the job's limit file by a rename, so that readers see the old one or the new one. 0 or -1 with why.
int softmig_state_write(const struct softmig_state *state, uint64_t job, const struct softmig_limits *limits, char *why, size_t why_size);
// The same for a file of another name.
int softmig_state_write_named(const struct softmig_state *state, const char *name, uint64_t job, const struct softmig_limits *limits,
                              char *why, size_t why_size);

// Makes what the job's processes share: the ledger, and for each GPU the page by which jobs take turns. What is there is kept.
// 0 or -1 with why.
int softmig_state_create_shared(uint64_t job, uid_t uid, gid_t gid, const struct softmig_limits *limits, char *why, size_t why_size);

// Is the ledger there and whole and uid's?
bool softmig_state_shared_fits(const struct softmig_state *state, uint64_t job, uid_t uid);

// Removes everything of the job, limit file last so that its processes are never without one while they have a ledger.
// 0, also when there was nothing, or -1 with why (everything that could be removed is).
int softmig_state_remove(const struct softmig_state *state, uint64_t job, char *why, size_t why_size);
// Removes a file of that name, and what an interrupted softmig_state_write_named has left of it. 0 or -1 with why.
int softmig_state_remove_named(const struct softmig_state *state, const char *name, char *why, size_t why_size);
#endif
