// SPDX-License-Identifier: Apache-2.0
// The slice's GPUs as this process sees them, and what is charged to them. Owns: the map from CUDA device to ledger entry and
// NVML device (by UUID, never by number), reserving and giving back, and the overhead that only NVML knows.
// A hook's three moves with it: softmig_charge (ask), the driver's function (call), softmig_uncharge on failure (tell).
#ifndef SOFTMIG_PRELOAD_GPU_H
#define SOFTMIG_PRELOAD_GPU_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/abi/cuda_types.h"
#include "preload/abi/nvml_types.h"
#include "preload/track.h"
#include "slice/ledger.h"

// The driver takes device memory from the GPU in pieces of this size (docs/driver-facts.md).
#define SOFTMIG_GRANULE_BYTES (2ull << 20)
// What the driver takes for itself it takes unasked, in such pieces, while the program calls for something else: memory for streams, graphs,
// copies, its own code. So each process that has a context has so much more charged than NVML shows, and what comes unasked comes out
// of that. It is filled up again when NVML has shown that some is gone.
#define SOFTMIG_HEADROOM_BYTES (4ull << 20)
// Requests up to this size are sub-allocated from blocks of one granule: of one that takes more than half of a block, the rest is
// given to smaller ones.
#define SOFTMIG_SMALL_BYTES (SOFTMIG_GRANULE_BYTES - 1)

struct softmig_gpu {
	int ledger;                       // index in the ledger, and here
	CUdevice device;
	uint8_t uuid[16];
	int number;                       // entry of the limits, -1: this GPU is not part of the slice
	_Atomic(nvmlDevice_t) nvml;       // NULL: not asked yet, or not to be had
	_Atomic uint64_t settle_due_ns;
	_Atomic uint64_t activity;        // low 16 bits: calls in flight; above: calls completed; highest: see settle.c
	_Atomic uint32_t contexts;        // alive in this process
	_Atomic(CUcontext) primary;       // while it is active
	_Atomic uint64_t unseen_bytes;    // tracked, but not in NVML's figure: managed memory
	_Atomic bool shares_blocks;       // small arrays may lie in the same blocks as small allocations
	_Atomic bool settle_wanted;       // something shrank: ask NVML when the call in flight has ended
	_Atomic uint64_t settle_again_ns; // not before; 0: at once
	_Atomic uint64_t unsettled_bytes; // of the overhead, what was given back since it was measured: free, as far as is known
	_Atomic bool nvml_blind;          // NVML does not know this process although it has a context
	_Atomic uint64_t cover_limit_bytes; // the limit under which the cover for small allocations was looked for
	_Atomic uint64_t headroom_bytes;  // what was left of it when NVML was asked last
};

// What each small allocation or release looks at, in one cache line.
struct softmig_hot {
	_Alignas(64) _Atomic(struct softmig_gpu *) only_gpu; // that the process sees; NULL: several, or not known yet
	_Atomic uint64_t lowerings;     // see softmig_lowerings()
	_Atomic uint32_t kept_covers;   // see cuda_memory.c
	_Atomic bool uneven_pointers;   // see cuda_memory.c
	_Atomic bool pool_exports;      // see pool_export.h
	_Atomic bool pools_freed;       // see softmig_pools_freed(); in a forked child it may stand there from the parent: then an empty list is refreshed
};
extern struct softmig_hot softmig_hot;

// Size as the driver takes it: whole granules.
static inline uint64_t softmig_granules(uint64_t bytes)
{
	uint64_t rounded = (bytes + SOFTMIG_GRANULE_BYTES - 1) & ~(SOFTMIG_GRANULE_BYTES - 1);
	return rounded < bytes ? UINT64_MAX & ~(SOFTMIG_GRANULE_BYTES - 1) : rounded; // an overflow can never be granted
}

// The GPU of a CUDA device number; of the current context; by the ledger's index. NULL: none, and nothing is to be charged
// (the driver will say what is wrong).
struct softmig_gpu *softmig_gpu_of_device(CUdevice device);
struct softmig_gpu *softmig_gpu_current(void);
struct softmig_gpu *softmig_gpu_by_index(int ledger);
// The same as the current context's, for what needs no current context, without asking the driver where there is but one GPU to see.
struct softmig_gpu *softmig_gpu_current_or_only_asked(void);
static inline struct softmig_gpu *softmig_gpu_current_or_only(void)
{
	struct softmig_gpu *gpu = atomic_load_explicit(&softmig_hot.only_gpu, memory_order_acquire);
	return __builtin_expect(gpu != NULL, 1) ? gpu : softmig_gpu_current_or_only_asked();
}
// Is it forbidden to the slice (root's file lists GPUs, and this is none of them)?
bool softmig_gpu_forbidden(const struct softmig_gpu *gpu);
// The memory limit in force, UINT64_MAX: none.
uint64_t softmig_gpu_limit_bytes(const struct softmig_gpu *gpu);
// The same for a UUID and the number that CUDA would give it (-1: unknown), without a CUDA device; *entry: which entry of the limits.
uint64_t softmig_gpu_limit_of(const uint8_t uuid[16], int number, int *entry);
// Would there be room for bytes if so much of what is charged were free?
bool softmig_gpu_may_fit(const struct softmig_gpu *gpu, uint64_t bytes, uint64_t free_bytes);
// This process's overhead on it, as charged.
uint64_t softmig_gpu_overhead_bytes(const struct softmig_gpu *gpu);
// All the job's bytes on it.
uint64_t softmig_gpu_used_bytes(const struct softmig_gpu *gpu);

// Around every hook that changes what this process holds, from before its charge to after its last word to the ledger, so
// that settling knows when its two figures belong together.
void softmig_gpu_enter(struct softmig_gpu *gpu);
void softmig_gpu_leave(struct softmig_gpu *gpu);
// Between enter and leave, by a call that holds nothing that it is not charged for, and is charged for nothing that the driver does not
// hold: as if it had not begun. Until the next enter.
void softmig_gpu_step_out(struct softmig_gpu *gpu);

// Reserves; between enter and leave. False: refused for good, after settling, reclaiming the dead and trimming idle pools; logged. what: for the log.
bool softmig_charge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes, const char *what);
// The same for the growth of a pool: idle memory of graphs stays with them, as the driver leaves it before it refuses a stream-ordered
// allocation (docs/driver-facts.md).
bool softmig_charge_stream_ordered(struct softmig_gpu *gpu, uint64_t bytes, const char *what);
// A process with a context and less than a granule of headroom: it is given nothing before that is there (softmig_charge sees to it).
bool softmig_gpu_starved(const struct softmig_gpu *gpu);
// softmig_charge without all that: does it fit as things are?
bool softmig_charge_if_room(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes);
void softmig_uncharge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes);
// The same where it is not certain that the driver gave all of it back (pools, shared blocks, arrays): stays charged as overhead until
// NVML has been asked, which leaving does.
void softmig_uncharge_measured(struct softmig_gpu *gpu, uint64_t bytes);
// Around a call that asks for no memory but may make the driver take up to most_bytes for itself: makes sure that so much is reserved or in
// the headroom; then takes account of what came. False: the slice has no room for it; logged. gpu may be NULL. Outside enter and leave.
struct softmig_unasked {
	struct softmig_gpu *gpu;
	uint64_t reserved_bytes;
};
bool softmig_unasked_begin(struct softmig_unasked *unasked, struct softmig_gpu *gpu, uint64_t most_bytes, const char *what);
void softmig_unasked_end(const struct softmig_unasked *unasked);
// The first half alone, between enter and leave. *reserved_bytes: what was reserved, 0 where the headroom has it.
bool softmig_charge_unasked(struct softmig_gpu *gpu, uint64_t most_bytes, const char *what, uint64_t *reserved_bytes);
// A pool that was charged *charged_bytes has now_bytes: charges what it has grown by, held_bytes of which are reserved already; what of these it
// did not need is given back. Returns what was charged before; what it shrank by is the caller's to give back. Under the pool's lock.
uint64_t softmig_charge_follow(struct softmig_gpu *gpu, _Atomic uint64_t *charged_bytes, uint64_t now_bytes, uint64_t held_bytes);
// softmig_uncharge for what a track entry was charged, once it is out of the table and gone from the driver. Of a small managed allocation:
// for its block, if it was the last in it.
void softmig_uncharge_entry(const struct softmig_track_entry *entry);
// What was tracked so far may be held on by something that hooks cannot see (another process, a file descriptor, a destroyed pool):
// from here on NVML's figure alone counts. Outside enter and leave.
void softmig_hand_over(struct softmig_gpu *gpu, uint64_t bytes);
// Makes this process's overhead on the GPU what NVML says less what is tracked, and the headroom as far as the slice has it. Raising is
// always right; lowering waits for a moment without calls in flight (so call it outside enter and leave). Returns NVML's bytes for this
// process, 0: unknown.
uint64_t softmig_settle(struct softmig_gpu *gpu);
// The same after a call for which this thread had reserved that much overhead, which the measured figure replaces, as soon as it can be measured.
uint64_t softmig_settle_reserved(struct softmig_gpu *gpu, uint64_t reserved_bytes);
// The same, but at most twice a second; for hooks that allocate.
void softmig_settle_if_due(struct softmig_gpu *gpu);
// For a call that is about to be refused bytes, between enter and leave, and like one for softmig_gpu_step_out: settles, and asks charge; again,
// when that says no and other calls are in flight, with these ended, where what they may have reserved too much would do. What charge said last.
bool softmig_settle_and(struct softmig_gpu *gpu, uint64_t bytes, bool (*charge)(struct softmig_gpu *gpu, void *request), void *request);
// How many times settling lowered an overhead. Small allocations are freed without enter and leave, unless their block ends with them; who
// then, after enter, finds this changed since before the driver's call gives the block back by softmig_uncharge_measured: it
// may have been gone from NVML's figure, but not from what is tracked.
static inline uint64_t softmig_lowerings(void)
{
	return atomic_load(&softmig_hot.lowerings);
}
// NVML's bytes for this process on the GPU. False: NVML cannot tell.
bool softmig_gpu_nvml_bytes(struct softmig_gpu *gpu, uint64_t *bytes);

// graph_pool.c: gives memory that no running graph uses back to the driver (between enter and leave);
void softmig_graph_memory_trim(struct softmig_gpu *gpu);
// is there any?
bool softmig_graph_memory_idle(struct softmig_gpu *gpu);
// nothing is left of it (between enter and leave).
void softmig_graph_memory_forget(struct softmig_gpu *gpu);
// brings its charge up to date: did it change?
bool softmig_graph_memory_changed(struct softmig_gpu *gpu);
// a stream on it was destroyed.
void softmig_graph_memory_stream_gone(struct softmig_gpu *gpu, CUstream stream);
// allocation.c: memory that descriptors alone held, which have been closed, is given back (outside enter and leave).
void softmig_descriptors_look(void);
// cuda_pool.c: gives idle pool memory of this process on the GPU back to the driver (between enter and leave);
void softmig_pools_trim(struct softmig_gpu *gpu);
// is there any?
bool softmig_pools_idle(struct softmig_gpu *gpu);
// brings the charges of its pools up to date: did one change?
bool softmig_pools_changed(struct softmig_gpu *gpu);
// the primary context and its pools are gone (between enter and leave);
void softmig_pools_forget(struct softmig_gpu *gpu);
// brings all pools' charges up to date (outside enter and leave);
void softmig_pools_refresh(void);
// something that may have come from a pool was freed: the next synchronisation may give memory back.
static inline void softmig_pools_freed(void)
{
	if (!atomic_load_explicit(&softmig_hot.pools_freed, memory_order_relaxed))
		atomic_store_explicit(&softmig_hot.pools_freed, true, memory_order_relaxed);
}
// the device was waited for: a pool gives back what is above its threshold, which is told to the ledger at once, or other processes of
// the slice would be refused what is free.
static inline void softmig_pools_synchronised(void)
{
	if (atomic_load_explicit(&softmig_hot.pools_freed, memory_order_relaxed) && atomic_exchange(&softmig_hot.pools_freed, false))
		softmig_pools_refresh();
}
#endif
