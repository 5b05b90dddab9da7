// SPDX-License-Identifier: Apache-2.0
// Memory of this very process: see private.h. The kernel wipes it at fork (4.14 and later), so that a child finds zeros, which is
// the state to start with: nothing is reset while another thread of the child is at it. Older kernels: a child takes another page.
#include "preload/private.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "slice/sys.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

void *softmig_scratch_get(size_t bytes)
{
	int kept = errno;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	errno = kept;
	return memory == MAP_FAILED ? NULL : memory;
}

void softmig_scratch_free(void *scratch, size_t bytes)
{
	int kept = errno;
	if (scratch != NULL)
		munmap(scratch, bytes);
	errno = kept;
}

void *softmig_private_make(struct softmig_private *memory, size_t bytes)
{
	struct softmig_private_page *page = atomic_load_explicit(&memory->page, memory_order_acquire);
	size_t whole = sizeof(struct softmig_private_page) + bytes;

	if (page != NULL && (page->pid == 0 || page->pid == getpid()))
		return page->memory;
	struct softmig_private_page *mine = softmig_scratch_get(whole);
	if (mine == NULL)
		return NULL;
	int kept = errno;
	if (madvise(mine, whole, MADV_WIPEONFORK) != 0)
		mine->pid = getpid();
	errno = kept;
	struct softmig_private_page *seen = page;
	if (!atomic_compare_exchange_strong(&memory->page, &seen, mine)) {
		softmig_scratch_free(mine, whole); // another thread was faster
		mine = seen;
	}
	return mine->memory;
}

static _Atomic int *lock_of(struct softmig_private *locks, int count, int index)
{
	_Atomic int *all = softmig_private_get(locks, (size_t)count * sizeof(*all));
	return all == NULL ? NULL : &all[index];
}

void softmig_private_lock(struct softmig_private *locks, int count, int index)
{
	_Atomic int *lock = lock_of(locks, count, index);
	int kept = errno;

	while (lock != NULL && atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
		softmig_sys_sleep_ns(50000);
	errno = kept;
}

void softmig_private_unlock(struct softmig_private *locks, int count, int index)
{
	_Atomic int *lock = lock_of(locks, count, index);
	if (lock != NULL)
		atomic_store_explicit(lock, 0, memory_order_release);
}
