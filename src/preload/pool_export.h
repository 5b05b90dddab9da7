// SPDX-License-Identifier: Apache-2.0
// Memory of stream-ordered pools that was exported by its pointer. Freed, and given back by its pool, it stays on the GPU, in no process's figure and not
// used again, until something else of the pool is exported at the same place, or the pool, its imports and its descriptors are gone (docs/driver-facts.md).
// Owns: how much each pool of this process has left so, and that it stays charged: tracked, and unseen by NVML. Must never: ask the driver about a pool, charge what it has reserved (cuda_pool.c does).
#ifndef SOFTMIG_PRELOAD_POOL_EXPORT_H
#define SOFTMIG_PRELOAD_POOL_EXPORT_H
#include "preload/gpu.h"

struct softmig_pool_export;

// That of a pool of this process that is being exported: held by the caller's pool until it says _ended. NULL: no room.
struct softmig_pool_export *softmig_pool_export_begin(CUmemoryPool pool, struct softmig_gpu *gpu);
// fd stands for the pool.
void softmig_pool_export_descriptor(struct softmig_pool_export *export, int fd);
// The pointer to so many bytes (0: unknown) has been exported, or is about to be; most_bytes may stay when it is free. *known: it was already. False: no memory
// to note it in.
bool softmig_pool_export_pointer(struct softmig_pool_export *export, CUdeviceptr pointer, uint64_t bytes, uint64_t most_bytes, bool *known);
// It was not, after all.
void softmig_pool_export_no_pointer(CUdeviceptr pointer);
// It was, anew: the driver has let go of what was kept of its place. Under its pool's lock. Returns how much of that is still charged and unseen, which is the
// caller's to give back, and since when others may have imported it.
uint64_t softmig_pool_export_renewed(struct softmig_pool_export *export, CUdeviceptr pointer, uint64_t *since_ns);

// What stays of the pool, and is charged with it: by whoever has the pool's lock.
uint64_t softmig_pool_export_kept(const struct softmig_pool_export *export);
// The pool has given back so much and has now_bytes left: what of it stays, which is unseen from now on.
uint64_t softmig_pool_export_gave_back(struct softmig_pool_export *export, uint64_t bytes, uint64_t now_bytes);
// May something be given back that stays?
bool softmig_pool_export_may_keep(const struct softmig_pool_export *export);
// All that may stay stays, whether or not it has been given back: where that could not be seen. How much; charged here, with the pool.
uint64_t softmig_pool_export_keep_all(struct softmig_pool_export *export);

// All pointers of it are free, but the pool may be there (between enter and leave).
void softmig_pool_export_emptied(struct softmig_pool_export *export);
// The pool is destroyed, and so much of it is still out: what stays is charged until that is free, its descriptors here are closed and what this process imported
// of it is destroyed. Outside enter and leave.
void softmig_pool_export_ended(struct softmig_pool_export *export, uint64_t out_bytes);
// The same for one that is known by its handle alone, after softmig_pool_export_emptied.
void softmig_pool_export_ended_by_handle(CUmemoryPool pool);

// This process imports its own pool by that descriptor: before the driver's call. NULL: it is none of its own.
struct softmig_pool_export *softmig_pool_export_import(int fd);
// One fewer.
void softmig_pool_export_import_ended(struct softmig_pool_export *export);
// A pointer of it that this process has imported, and has freed.
void softmig_pool_export_pointer_imported(struct softmig_pool_export *export);
void softmig_pool_export_imported_freed(struct softmig_pool_export *export);

// Looks for descriptors that were closed since (outside enter and leave).
void softmig_pool_exports_look(void);

// A pointer is about to be freed, which may come from a pool.
void softmig_pool_export_frees(CUdeviceptr pointer);
// Around calls that may make pools grow or give back, while pointers are exported: what of both came in one moment cannot be told apart. Returns what
// to compare: were there others meanwhile?
uint64_t softmig_pool_calls_begin(void);
bool softmig_pool_calls_end(uint64_t begun);

// Has one been exported, by this process or its parent?
static inline bool softmig_pool_exports_any(void)
{
	return __builtin_expect(atomic_load_explicit(&softmig_hot.pool_exports, memory_order_relaxed), 0);
}
#endif
