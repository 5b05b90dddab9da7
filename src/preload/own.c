// SPDX-License-Identifier: Apache-2.0
// Which processes belong to this slice: see own.h.
#include "preload/own.h"

#include <unistd.h>

#include "preload/mode.h"
#include "slice/job.h"
#include "slice/ledger.h"

bool softmig_own_process(pid_t pid)
{
	struct softmig_ledger_process process;
	int cursor = 0;

	if (pid <= 0)
		return false;
	if (pid == getpid())
		return true;
	if (softmig_mode_job() != 0) {
		struct softmig_job job = softmig_job_find(pid, false);
		if (job.source == SOFTMIG_JOB_CGROUP)
			return job.id == softmig_mode_job();
	}
	while (softmig_ledger_next(softmig_ledger_now()->file, &cursor, &process))
		if (process.pid == pid)
			return true;
	return false;
}
