// SPDX-License-Identifier: Apache-2.0
// Stream-ordered pools: charged by what each pool has reserved from the GPU, which is what the driver really holds, not by what
// the program took out of it. Owns: the list of this process's pools and their charges. Must never: change what a program sees of its pools.
// A pool grows by the request rounded up to 32 MiB and shrinks at synchronisations (docs/driver-facts.md). So: reserve the
// growth that may come, call, read what the pool has now (18 ns), give back the rest.
#ifndef SOFTMIG_PRELOAD_POOL_H
#define SOFTMIG_PRELOAD_POOL_H
#include <sched.h>

#include "preload/gpu.h"
#include "preload/pool_export.h"
#include "preload/private.h"

#define SOFTMIG_POOL_CHUNK_BYTES (32ull << 20)
#define SOFTMIG_POOL_BUSY ((CUmemoryPool)UINTPTR_MAX) // being destroyed: nobody's, and not free yet
enum { SOFTMIG_MAX_POOLS = 1024, SOFTMIG_POOL_NOT_OURS = -1 };

struct softmig_pool {
	_Atomic(CUmemoryPool) handle; // NULL: free
	_Atomic int32_t gpu;          // ledger's index; SOFTMIG_POOL_NOT_OURS: host memory, or another process's
	_Atomic bool unseen;          // managed memory, which NVML does not count
	_Atomic bool imported;        // another process's
	_Atomic(struct softmig_pool_export *) export; // what stays of what it exported; NULL: it has exported nothing
	_Atomic(struct softmig_pool_export *) import; // of that pool of this very process
	_Atomic uint64_t largest_bytes; // that its chunks may have
	_Atomic uint64_t charged_bytes;
	_Atomic int lock; // for asking the driver about the pool and settling its charge as one step; while it is held, the pool exists
};

// All zero: no pool known, and what a forked child finds.
struct softmig_pools {
	_Atomic int lock;      // for taking an entry
	_Atomic uint32_t used; // entries below it may be in use
	// The only stream that pools were used in so far, plus 1. What is freed in one stream need not be there for another.
	_Atomic uintptr_t stream;
	_Atomic bool streams;
	_Atomic int squeezing; // a lock: a thread takes what is free in a pool, with no room for growth
	struct softmig_pool pool[SOFTMIG_MAX_POOLS];
};

extern struct softmig_private softmig_private_pools;

static inline struct softmig_pools *softmig_pools_all(void)
{
	return softmig_private_get(&softmig_private_pools, sizeof(struct softmig_pools));
}

static inline void softmig_pool_lock(_Atomic int *word)
{
	while (atomic_exchange_explicit(word, 1, memory_order_acquire) != 0)
		sched_yield();
}

static inline void softmig_pool_unlock(_Atomic int *word)
{
	atomic_store_explicit(word, 0, memory_order_release);
}

static inline struct softmig_pool_export *softmig_pool_export_of(struct softmig_pool *pool)
{
	return atomic_load_explicit(&pool->export, memory_order_acquire);
}

static inline uint64_t softmig_pool_growth(uint64_t bytes)
{
	return bytes > UINT64_MAX - SOFTMIG_POOL_CHUNK_BYTES ? bytes : (bytes + SOFTMIG_POOL_CHUNK_BYTES - 1) / SOFTMIG_POOL_CHUNK_BYTES * SOFTMIG_POOL_CHUNK_BYTES;
}

// How many bytes of chunks something at this address lies in: [H200] chunks begin at multiples of their size, and what does not fit into the end of one goes on
// in the next.
static inline uint64_t softmig_pool_chunks_of(CUdeviceptr address, uint64_t bytes)
{
	return softmig_pool_growth(address % SOFTMIG_POOL_CHUNK_BYTES + bytes);
}

struct softmig_pool *softmig_pool_find(struct softmig_pools *pools, CUmemoryPool handle);
// The pool's entry, made where it is new. NULL: no room.
struct softmig_pool *softmig_pool_enlist(struct softmig_pools *pools, CUmemoryPool handle, int gpu, bool unseen);
// unknown: the answer where the driver does not say. To ask is unsafe beside a capture.
uint64_t softmig_pool_attribute(CUmemoryPool handle, CUmemPool_attribute which, uint64_t unknown);
// There is no room for growth, but what is asked for may fit into what the pool already has: if so many times as much is free there.
bool softmig_pool_may_fit(CUmemoryPool handle, uint64_t bytes, unsigned times);
// What the pool had reserved when it was looked at last. Under its lock.
uint64_t softmig_pool_reserved(struct softmig_pool *pool);
// Sets the pool's charge to what it has reserved; held_bytes are reserved already for its growth. Under its lock.
void softmig_pool_set_charge(struct softmig_pool *pool, struct softmig_gpu *gpu, uint64_t now, uint64_t held_bytes);
// Brings the pool's charge to what the pool has reserved, having trimmed it first where that is asked for. One that was destroyed
// meanwhile has been charged anew by whoever did it; its entry may be another's by now. Did it change?
bool softmig_pool_refresh(struct softmig_pool *pool, CUmemoryPool handle, struct softmig_gpu *gpu, uint64_t held_bytes, bool trim);
#endif
