// SPDX-License-Identifier: Apache-2.0
// Which processes belong to this slice. Owns: that judgement, for NVML's lists and for the OOM killer.
#ifndef SOFTMIG_PRELOAD_OWN_H
#define SOFTMIG_PRELOAD_OWN_H
#include <stdbool.h>
#include <sys/types.h>

// Does pid (as seen from this process's PID namespace) belong to the slice? In a Slurm job: its cgroup names the job. Outside:
// it has a slot in the ledger. This process always does.
bool softmig_own_process(pid_t pid);
#endif
