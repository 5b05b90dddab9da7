// SPDX-License-Identifier: Apache-2.0
// Memory of this very process: zero at first, and zero again in a forked child, which has no driver state. Owns: that promise.
// Must never: be released, since another thread may be in it.
#ifndef SOFTMIG_PRELOAD_PRIVATE_H
#define SOFTMIG_PRELOAD_PRIVATE_H
#include <stdatomic.h>
#include <stddef.h>

struct softmig_private {
	_Atomic(void *) page;
};

// The memory behind it, bytes large at every call, zero where nobody has written since start or fork. NULL: none to be had.
void *softmig_private_get(struct softmig_private *memory, size_t bytes);

// Scratch memory for one call, without the heap. NULL: none to be had.
void *softmig_scratch_get(size_t bytes);
void softmig_scratch_free(void *scratch, size_t bytes);
#endif
