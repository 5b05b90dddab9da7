// SPDX-License-Identifier: Apache-2.0
// Memory that several processes hold open. The driver, and so the ledger, charges it to the exporter alone, as long as that holds it; then to one
// of those that have imported it. Owns: that it stays charged when the exporter lets go. Must never: charge memory twice for good.
#ifndef SOFTMIG_PRELOAD_SHARING_H
#define SOFTMIG_PRELOAD_SHARING_H
#include "preload/gpu.h"

// So much of what is tracked can be opened by others from now on. Returns when that is, CLOCK_MONOTONIC.
uint64_t softmig_exported(uint64_t bytes);
// The driver has let go of so much that was exported at since_ns (CLOCK_MONOTONIC) or later, and that is still charged: charges it to whoever may have it
// open as well. The caller then takes it off.
void softmig_export_ended(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns);
// The same of what a pool kept, which NVML shows to nobody who has it.
void softmig_pool_memory_ended(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns);
// This process is about to import memory, which it then holds once more: before the driver's call.
void softmig_import_begins(void);
// The import failed, or what was imported has been let go of: after the driver's call.
void softmig_import_ended(void);
// The same of a pool, of whose memory a process has only that to which it has imported pointers.
void softmig_import_of_pool_begins(void);
void softmig_import_of_pool_ended(void);
// How many imports have ended so far, 0: none since softmig_imports_waited. What is freed in a stream may be held until the stream has come to it; whoever has then
// waited for all that had ended, so many, says so: while it holds pools alone, it has no memory imported since.
uint64_t softmig_imports_ended(void);
void softmig_imports_waited(uint64_t ended);
#endif
