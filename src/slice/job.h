// SPDX-License-Identifier: Apache-2.0
// Which Slurm job does this process belong to? Owns: reading that out of cgroup paths and, failing those, the
// environment. Must never: allocate, print, keep a descriptor, change errno, or trust a variable when a cgroup speaks.
#ifndef SOFTMIG_SLICE_JOB_H
#define SOFTMIG_SLICE_JOB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum softmig_job_source { SOFTMIG_JOB_NONE, SOFTMIG_JOB_CGROUP, SOFTMIG_JOB_ENVIRONMENT };

struct softmig_job {
	enum softmig_job_source source;
	uint64_t id; // Slurm's raw job id (SLURM_JOB_ID; for an array element its own id), 0 if none
};

// Finds the job in the text of a /proc/PID/cgroup file (v1 ".../uid_U/job_J/...", v2 ".../slurmstepd.scope/job_J/...").
// Returns the id, 0 if the text names none. Reads length bytes; text need not be terminated.
uint64_t softmig_job_from_cgroup(const char *text, size_t length);

// The job of process pid (0: this one). Never fails: source is SOFTMIG_JOB_NONE where there is no job.
// use_environment: may SLURM_JOB_ID be consulted when no cgroup names a job (false in setuid programs and for other pids)?
struct softmig_job softmig_job_find(int pid, bool use_environment);
#endif
