// SPDX-License-Identifier: Apache-2.0
// The active OOM killer, off unless ACTIVE_OOM_KILLER=1. Owns: choosing and verifying its victims.
#ifndef SOFTMIG_PRELOAD_OOM_KILLER_H
#define SOFTMIG_PRELOAD_OOM_KILLER_H
#include "preload/gpu.h"

// A request on gpu was refused for good: kills the slice's processes that hold memory there, this one last, if the limits say so.
// A victim is verified at the moment of the kill: it belongs to the job (its cgroup, else the user), it is the process that the ledger
// means, it is this process's user's and never root's. One that cannot be killed does not stop the rest.
void softmig_oom_kill(struct softmig_gpu *gpu);
#endif
