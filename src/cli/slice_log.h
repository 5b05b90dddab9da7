// SPDX-License-Identifier: Apache-2.0
// The log of a job. Owns: making it before the job starts, in a directory where the job's user can make nothing.
#ifndef SOFTMIG_CLI_SLICE_LOG_H
#define SOFTMIG_CLI_SLICE_LOG_H
#include <stdint.h>
#include <sys/types.h>

// Makes JOB.log, or JOB_TASK.log where array_task is not negative, in the directory (SOFTMIG_LOG_DIR, which is made if need be), mode 0600,
// owned by uid and gid, so that no user can read, fake or fill another's log. One that is there (of a requeued job, or of softmig
// slice fail) is kept; one of another user's (the number came round again) is replaced. 0 or errno; a job without a log is no
// reason not to start it.
int softmig_slice_log_make(const char *directory_path, uint64_t job, int64_t array_task, uid_t uid, gid_t gid);

// After the job: removes its log if nothing was written to it. What was written stays, for logrotate and tmpfiles.d to remove.
void softmig_slice_log_tidy(const char *directory_path, uint64_t job);
#endif
