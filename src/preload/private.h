// SPDX-License-Identifier: Apache-2.0
// Memory of this very process: zero at first, and zero again in a forked child, which has no driver state. Owns: that promise.
// Must never: be released, since another thread may be in it.
#ifndef SOFTMIG_PRELOAD_PRIVATE_H
#define SOFTMIG_PRELOAD_PRIVATE_H
#include <stdatomic.h>
#include <stddef.h>
#include <sys/types.h>

struct softmig_private_page {
	pid_t pid; // whose it is; 0: the kernel sees to that
	_Alignas(16) char memory[]; // what comes first in it shares the line
};

struct softmig_private {
	_Atomic(struct softmig_private_page *) page;
};

void *softmig_private_make(struct softmig_private *memory, size_t bytes);

// The memory behind it, bytes large at every call, zero where nobody has written since start or fork. NULL: none to be had.
static inline void *softmig_private_get(struct softmig_private *memory, size_t bytes)
{
	struct softmig_private_page *page = atomic_load_explicit(&memory->page, memory_order_acquire);
	return __builtin_expect(page != NULL && page->pid == 0, 1) ? page->memory : softmig_private_make(memory, bytes);
}

// One of count locks for what only one thread may do at a time, the driver's call in it included, which waits for nobody else: milliseconds. A
// forked child finds them open. Where there is no memory for them, nobody waits.
void softmig_private_lock(struct softmig_private *locks, int count, int index);
void softmig_private_unlock(struct softmig_private *locks, int count, int index);

// Scratch memory for one call, without the heap. NULL: none to be had.
void *softmig_scratch_get(size_t bytes);
void softmig_scratch_free(void *scratch, size_t bytes);
#endif
