// SPDX-License-Identifier: Apache-2.0
// A slice as seen from outside: what its limits are and who uses what. Owns: finding slices (of a job, of a process, all of this
// node's), copying their ledgers, adding up. Must never: write to a ledger or map it; trust a figure or a name in it.
#ifndef SOFTMIG_CLI_VIEW_H
#define SOFTMIG_CLI_VIEW_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice/ledger.h"
#include "slice/limits.h"

struct softmig_view_gpu {
	int ledger;                  // its index there, -1: no process has used it yet
	int entry;                   // of the limits, -1: unknown which
	bool has_uuid;
	uint8_t uuid[16];
	bool limit_known;            // false: the limits differ from GPU to GPU and do not say which is for this one
	uint64_t limit_bytes;        // 0: none
	unsigned sm_pct;             // 100: none
	uint64_t used_bytes;
	uint64_t peak_bytes;
	uint64_t refusals;
	uint64_t busy_ns;
	uint64_t throttled_ns;
	unsigned used_permille;      // of the GPU's time, over the last seconds
};

enum softmig_view_status {
	SOFTMIG_VIEW_OK,
	SOFTMIG_VIEW_NONE,   // no such slice
	SOFTMIG_VIEW_FAILED, // there is one, but it cannot be shown: why says it
};

struct softmig_view {
	uint64_t job;                       // 0: not a job's
	bool from_file;                     // root's limit file, else the environment of a process
	char source[PATH_MAX];              // that file; "" for this process's environment
	char ledger_path[PATH_MAX];
	uid_t uid;                          // who owns the ledger, (uid_t)-1: unknown
	struct softmig_limits limits;
	bool has_ledger;                    // false: no process has used a GPU yet
	struct softmig_ledger_file *ledger; // a copy; malloc'ed
	struct softmig_view_gpu gpu[SOFTMIG_MAX_GPUS];
	int gpus;
	char why[320];                      // printable
};

// The slice of a job that has a limit file.
enum softmig_view_status softmig_view_job(struct softmig_view *view, uint64_t job);
// The slice of a process (0: this one), from its job's limit file or its environment.
enum softmig_view_status softmig_view_process(struct softmig_view *view, pid_t pid);
void softmig_view_free(struct softmig_view *view);

// Calls each for every slice on this node that may be looked at: jobs with limit files in the order of their numbers, then
// slices of softmig run. A view that failed comes too, with its status. Returns how many there were.
int softmig_view_all(void (*each)(void *context, enum softmig_view_status status, const struct softmig_view *view), void *context);

struct softmig_view_process {
	struct softmig_ledger_process in_ledger;
	char name[32]; // printable ASCII; "?" where it cannot be seen
};
// The next process of the slice, from *cursor on (0 at first).
bool softmig_view_next_process(const struct softmig_view *view, int *cursor, struct softmig_view_process *process);
#endif
