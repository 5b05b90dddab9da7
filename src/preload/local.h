// SPDX-License-Identifier: Apache-2.0
// Local memory: what the driver will take at a launch for every thread that the GPU can hold. Owns: the promise, from the moment it is
// known until NVML shows it. A context keeps the largest that it ever needed (docs/driver-facts.md).
#ifndef SOFTMIG_PRELOAD_LOCAL_H
#define SOFTMIG_PRELOAD_LOCAL_H
#include "preload/gpu.h"

// Charges what a kernel with so much local memory, or so large a stack, will make the current context grow by. False: the slice
// has no room.
bool softmig_local_promise(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// What the context grows by when the local memory of each thread does, from one size to the other. False: more than can be counted.
bool softmig_local_growth(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes, uint64_t *growth_bytes);
// The stack limit is this from now on, and so large a stack is taken; fallen_bytes: how much less than before NVML shows. Where that
// is the difference, a kernel that needs more has to ask for it again.
void softmig_local_stack(struct softmig_gpu *gpu, uint64_t bytes_per_thread, uint64_t fallen_bytes);
// Part of the overhead that NVML does not show yet; overhead_bytes is what it shows. Called by settling.
uint64_t softmig_local_outstanding(struct softmig_gpu *gpu, uint64_t overhead_bytes);
// A context is gone: the next starts anew.
void softmig_local_forget(struct softmig_gpu *gpu);
#endif
