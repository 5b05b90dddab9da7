// SPDX-License-Identifier: Apache-2.0
// Pools of other processes that this one has imported. What they keep when their maker has let go or died (pool_export.h) is in no figure of NVML's, so
// settling would drop what was passed on for it. Owns: that it stays charged: tracked, and unseen by NVML, until the last such pool is destroyed.
// Must never: charge what was not passed on to this process.
#ifndef SOFTMIG_PRELOAD_POOL_IMPORT_H
#define SOFTMIG_PRELOAD_POOL_IMPORT_H
#include "preload/gpu.h"
#include "preload/pool_export.h"

// A pool is about to be imported; the import has failed, or the pool is destroyed (outside enter and leave). It holds what it keeps as long as pointers are out.
void softmig_pool_import_begins(void);
void softmig_pool_import_ended(void);
// A pointer has been imported from such a pool, or from one of this process's own.
void softmig_pool_import_pointer(CUdeviceptr pointer, struct softmig_pool_export *own);
// A pointer is about to be freed: was it imported? Then, when it has been freed (outside enter and leave), or has not.
bool softmig_pool_import_frees(CUdeviceptr pointer, struct softmig_track_entry *entry);
void softmig_pool_import_freed(const struct softmig_track_entry *entry, bool freed);
// The program has waited for all that it had freed when softmig_imports_ended said seen.
void softmig_pool_imports_waited(uint64_t seen);

// For settle(), which is about to set the overhead, in which there is what has been passed on. Charges what of it imported pools may keep, and returns it;
uint64_t softmig_pool_imports_keep(struct softmig_gpu *gpu, uint64_t passed_on_bytes);
// the overhead has been set,
void softmig_pool_imports_kept(struct softmig_gpu *gpu, uint64_t passed_on_bytes);
// or has not.
void softmig_pool_imports_undo(struct softmig_gpu *gpu, uint64_t kept_bytes);
#endif
