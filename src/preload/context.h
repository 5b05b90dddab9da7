// SPDX-License-Identifier: Apache-2.0
// What other hooks ask of cuda_context.c, which owns contexts' charges.
#ifndef SOFTMIG_PRELOAD_CONTEXT_H
#define SOFTMIG_PRELOAD_CONTEXT_H
#include "preload/gpu.h"

// What a bare context takes on the GPU, 0: not known yet.
uint64_t softmig_context_cost_bytes(const struct softmig_gpu *gpu);
// After a call that may have ended the primary context: if it did, its charges and those of all that hung on it are gone, and the GPU is
// to be settled. Between enter and leave.
bool softmig_context_primary_ended(struct softmig_gpu *gpu);
#endif
