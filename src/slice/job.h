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

// Finds the job in the text of a /proc/PID/cgroup file. Slurm's paths are
//   v1  .../uid_U/job_J/...              (below /slurm or /slurm_NODE)
//   v2  .../slurmstepd.scope/job_J/...   (or NODE_slurmstepd.scope, below system.slice or another)
// anywhere in the path, since a slurmd may itself live in a container. Where several match, the one nearest to the root
// wins, on any line: what a user can create lies below what Slurm created. A lone "job_J" is nobody's.
// Returns the id, 0 if the text names none. Reads length bytes; text need not be terminated.
uint64_t softmig_job_from_cgroup(const char *text, size_t length);

// The job of process pid (0: this one). Never fails: source is SOFTMIG_JOB_NONE where there is no job.
// use_environment: may SLURM_JOB_ID be consulted when no cgroup names a job (false in setuid programs)? It is this
// process's variable: for another pid, and in a process that gained privileges at exec, it is left alone whatever is
// asked.
struct softmig_job softmig_job_find(int pid, bool use_environment);

// SLURM_JOB_ID's value: decimal digits, not 0. Returns 0 for anything else.
uint64_t softmig_job_parse_id(const char *text, size_t length);
#endif
