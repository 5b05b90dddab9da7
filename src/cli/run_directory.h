// SPDX-License-Identifier: Apache-2.0
// The private directory of one softmig run: its ledger lies there. Owns: making it, removing it when the last program that
// uses it has ended, removing what a crash left. Must never: touch another user's files, follow a link, delay the program.
#ifndef SOFTMIG_CLI_RUN_DIRECTORY_H
#define SOFTMIG_CLI_RUN_DIRECTORY_H
#include <limits.h>

struct softmig_run_directory {
	char path[PATH_MAX];
	int lock; // descriptor of the directory, locked as long as somebody looks after it; closed by exec
};

// A fresh directory of mode 0700 under $SLURM_TMPDIR in a job, else $XDG_RUNTIME_DIR, else, outside of jobs, /tmp. Removes stale ones of
// this user there first. 0, or the errno that tells why not (path is then the place that was tried, empty: the job has none).
int softmig_run_directory_make(struct softmig_run_directory *directory);
// Removes it now: for a run that did not come about.
void softmig_run_directory_remove(const struct softmig_run_directory *directory);
// Starts the process that removes the directory once this process, and every other that names it in its environment, has
// ended. To be called right before exec. 0 or errno.
int softmig_run_directory_leave(const struct softmig_run_directory *directory);
#endif
