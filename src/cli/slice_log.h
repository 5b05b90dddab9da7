// SPDX-License-Identifier: Apache-2.0
// The log of a job. Owns: making it before the job starts, in a directory where the job's user can make nothing.
#ifndef SOFTMIG_CLI_SLICE_LOG_H
#define SOFTMIG_CLI_SLICE_LOG_H
#include <stdint.h>
#include <sys/types.h>

// Makes JOB.log in the directory (SOFTMIG_LOG_DIR, which is made if need be), mode 0600, owned by uid and gid, so that no user can read, fake or fill another's log. One
// that is there (of a requeued job, or of softmig slice fail) is kept; one of another user's (the number came round again) is
// replaced. 0 or errno; a job without a log is no reason not to start it.
int softmig_slice_log_make(const char *directory_path, uint64_t job, uid_t uid, gid_t gid);
#endif
