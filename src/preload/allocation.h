// SPDX-License-Identifier: Apache-2.0
// Memory that may be held in several ways at once, and is charged until the last of these is gone. Owns: how many hold it, whether NVML shows it
// meanwhile, and what its end means for others.
//
//   HANDLE (value) ──┐
//   HANDLE (value) ──┼──> ALLOCATION (a number of ours): count = handles' references + mappings + descriptors; bytes; gpu
//   MAPPING (address)┤
//   DESCRIPTOR (fd) ─┘
// The number in between, because the driver reissues a handle's value once it is released, also while the memory is still mapped.
//
// What is exported by a descriptor stays charged while that is open here, since NVML shows it to nobody once no holder is left that has not
// imported it (ORIGINALS counts these): it is unseen, then. Nothing tells that a descriptor was closed, so they are looked at.
#ifndef SOFTMIG_PRELOAD_ALLOCATION_H
#define SOFTMIG_PRELOAD_ALLOCATION_H
#include <stdbool.h>
#include <stdint.h>

#include "preload/gpu.h"
#include "preload/track.h"

// In an ALLOCATION's more.
enum {
	SOFTMIG_ALLOCATION_IMPORTED = 1,  // not charged here; but what it holds may be this process's own
	SOFTMIG_ALLOCATION_ELSEWHERE = 2, // may be held by what is not seen here: the end is NVML's to tell
	SOFTMIG_ALLOCATION_EXPORTED = 4,  // by other processes, too: since when stands above these
	SOFTMIG_ALLOCATION_UNSEEN = 8,    // by NVML, as things are
};

// What came to an end in one call: settled when the call is over.
struct softmig_ended {
	uint32_t gpus; // one bit each: of these something came to an end
	uint64_t bytes[SOFTMIG_MAX_GPUS];
	uint64_t exported_bytes[SOFTMIG_MAX_GPUS];
	uint64_t since_ns; // the first of these was exported
	int imports;
	bool exports; // something that was exported has a holder fewer
};

// A new allocation of so many bytes, charged already (imported: 0), and so many holders. 0: no memory to record it in.
uint64_t softmig_allocation_add(struct softmig_gpu *gpu, uint64_t bytes, uint64_t more, uint32_t holders);
// One holder more, which may be an import; *entry: the allocation. False: there is none of that number.
bool softmig_allocation_hold(uint64_t allocation, bool imported, struct softmig_track_entry *entry);
// One holder fewer, which may have imported it. Call it when the driver has let go, between enter and leave of the allocation's GPU.
void softmig_allocation_let_go(uint64_t allocation, bool imported, struct softmig_ended *ended);
// It may be held by what is not seen here from now on.
void softmig_allocation_elsewhere(uint64_t allocation);
// It has been exported, by fd (-1: by none), whose former number softmig_allocations_reissued has been told. Outside enter and leave.
void softmig_allocation_export(uint64_t allocation, int fd, struct softmig_ended *ended);
// The driver has answered with fd: what it stood for before was closed meanwhile. Outside enter and leave.
void softmig_allocations_reissued(int fd, struct softmig_ended *ended);
// If something that was exported has a holder fewer, descriptors that were closed since hold their memory no longer; what nobody holds any more
// is handed over. Outside enter and leave.
void softmig_allocations_look(struct softmig_ended *ended);
// At the end of the call. Outside enter and leave.
void softmig_allocations_finish_some(const struct softmig_ended *ended);
static inline void softmig_allocations_finish(const struct softmig_ended *ended)
{
	if (ended->gpus != 0)
		softmig_allocations_finish_some(ended);
}
#endif
