// SPDX-License-Identifier: Apache-2.0
// What a context will take later: local memory, at a launch, for every thread that the GPU can hold; the buffers of printf and malloc, when
// a kernel first needs them. Owns: such promises, charged from the moment they are known until NVML shows them. A context keeps
// the largest local memory that its stack limit or any kernel needed (docs/driver-facts.md).
#ifndef SOFTMIG_PRELOAD_LOCAL_H
#define SOFTMIG_PRELOAD_LOCAL_H
#include "preload/gpu.h"

// A kernel with so much local memory will make the current context grow: charges it. False: the slice has no room.
bool softmig_local_kernel(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// The stack limit is about to become bytes_per_thread: charges the growth. False: no room.
bool softmig_local_stack_before(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// It has become that (or, if not ok, it has not): what it took or gave back is in NVML's figure, settled by the caller.
void softmig_local_stack_after(struct softmig_gpu *gpu, uint64_t bytes_per_thread, bool ok);
// A buffer's limit is about to change from one size to another: charges growth. False: no room.
bool softmig_local_buffer_before(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes);
void softmig_local_buffer_after(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes, bool ok);
// Part of the overhead that NVML does not show yet; overhead_bytes is what it shows. Called by settling.
uint64_t softmig_local_outstanding(struct softmig_gpu *gpu, uint64_t overhead_bytes);
// A context is gone: the next starts anew.
void softmig_local_forget(struct softmig_gpu *gpu);
#endif
