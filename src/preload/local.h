// SPDX-License-Identifier: Apache-2.0
// Local memory: what the driver will take at a launch for every thread that the GPU can hold. Owns: the promise, from the moment it is
// known until NVML shows it. A context keeps the largest that it ever needed (docs/driver-facts.md).
#ifndef SOFTMIG_PRELOAD_LOCAL_H
#define SOFTMIG_PRELOAD_LOCAL_H
#include "preload/gpu.h"

// Charges what a kernel with so much local memory, or so large a stack, will make the current context grow by. False: the slice
// has no room.
bool softmig_local_promise(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// The driver has taken it by now: from here on it is in NVML's figure.
void softmig_local_kept(struct softmig_gpu *gpu);
// Part of the overhead that NVML does not show yet; overhead_bytes is what it shows. Called by settling.
uint64_t softmig_local_outstanding(struct softmig_gpu *gpu, uint64_t overhead_bytes);
// A context is gone: the next starts anew.
void softmig_local_forget(struct softmig_gpu *gpu);
#endif
