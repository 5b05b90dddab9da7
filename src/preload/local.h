// SPDX-License-Identifier: Apache-2.0
// What a context will take later: local memory, at a launch, for every thread that the GPU can hold; the buffers of printf and malloc, when
// a kernel first needs them. Owns: such promises, charged from the moment they are known until NVML shows them. A context keeps
// the largest local memory that its stack limit or any kernel needed (docs/driver-facts.md).
#ifndef SOFTMIG_PRELOAD_LOCAL_H
#define SOFTMIG_PRELOAD_LOCAL_H
#include "preload/gpu.h"

// A kernel with so much local memory will make the current context grow: charges it. False: the slice has no room.
bool softmig_local_kernel(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// Around a change of the stack limit, from asking what it takes to telling what it has become: one thread after another, or what one
// lowers meanwhile the other would raise unasked.
void softmig_local_stack_begin(struct softmig_gpu *gpu);
void softmig_local_stack_end(struct softmig_gpu *gpu);
// What a stack limit of so much will make the context grow by, at once.
uint64_t softmig_local_stack_growth(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// The stack limit has become that.
void softmig_local_stack_is(struct softmig_gpu *gpu, uint64_t bytes_per_thread);
// A buffer's limit is about to change from one size to another: charges growth. False: no room.
bool softmig_local_buffer_before(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes);
void softmig_local_buffer_after(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes, bool ok);
// Part of the overhead that NVML does not show yet; overhead_bytes is what it shows. Called by settling.
uint64_t softmig_local_outstanding(struct softmig_gpu *gpu, uint64_t overhead_bytes);
// A context is gone: the next starts anew.
void softmig_local_forget(struct softmig_gpu *gpu);
#endif
