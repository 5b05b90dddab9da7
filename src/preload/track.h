// SPDX-License-Identifier: Apache-2.0
// What this process holds: which pointer, handle or array was charged how much, to which GPU, in which context. Owns: one
// hash table in anonymous memory. Must never: use the heap, hold its lock across a driver call, be in doubt after a fork
// (a forked child has no driver state and starts with an empty table).
#ifndef SOFTMIG_PRELOAD_TRACK_H
#define SOFTMIG_PRELOAD_TRACK_H
#include <stdbool.h>
#include <stdint.h>

enum softmig_track_kind {
	SOFTMIG_TRACK_FREE, // an empty place in the table
	SOFTMIG_TRACK_GONE,
	SOFTMIG_TRACK_POINTER, // key: device pointer, small allocations apart (block.h); count: how often it was exported; small managed ones: bytes 0, more: their MANAGED_BLOCK
	SOFTMIG_TRACK_ARRAY,   // key: handle; bytes 0: it lies in blocks that only NVML knows
	SOFTMIG_TRACK_MIPMAP,
	SOFTMIG_TRACK_HANDLE,     // key: CUmemGenericAllocationHandle; count: references; bytes 0; more: the allocation
	SOFTMIG_TRACK_MAPPING,    // key: mapped address; bytes: its length, charged with the allocation, more
	SOFTMIG_TRACK_ALLOCATION, // key: our own number; count: handles' references and mappings; more: how else it may be held
	SOFTMIG_TRACK_CONTEXT, // key: CUcontext
	SOFTMIG_TRACK_GRAPH,   // key: CUgraphExec and GPU; see cuda_graph_memory.c
	SOFTMIG_TRACK_ORIGINALS,  // key: an exported ALLOCATION; count: those of its holders that did not import it
	SOFTMIG_TRACK_DESCRIPTOR, // key: a file descriptor and which of those it stands for; more: that ALLOCATION; bytes: see descriptor.c
	SOFTMIG_TRACK_DMA_BUF,    // key: a file descriptor; more: the POINTER over which it is a dma-buf; bytes: see dma_buf.c
	SOFTMIG_TRACK_POOL_POINTER, // key: address of a stream-ordered allocation that was exported; the rest: see pool_export.c
	SOFTMIG_TRACK_POOL_PLACE, // key: address at which one was; bytes: when it was exported; more: the pool's number; count: its length: see pool_place.c
	SOFTMIG_TRACK_POOL_CHUNK, // key: chunk of a pool; count: of these places
	SOFTMIG_TRACK_POOL_IMPORTED, // key: address of one that was imported; count: how often; more: see pool_import.c
	SOFTMIG_TRACK_MANAGED_BLOCK, // key: block of small managed allocations, and GPU; count: these; see cuda_memory.c
};

struct softmig_track_entry {
	uint64_t key;
	uint64_t bytes;   // charged for it
	uint64_t context; // CUcontext that its life hangs on, 0: none
	uint64_t more;    // the kind's own
	uint32_t count;   // the kind's own
	uint8_t kind;     // enum softmig_track_kind
	uint8_t gpu;      // ledger's index
	bool unseen;      // NVML does not count these bytes (managed memory); HANDLE and MAPPING: by an import of this process's own memory
};

// Adds, or replaces an entry of the same kind and key. False: no memory for the table.
bool softmig_track_add(const struct softmig_track_entry *entry);
// The same; *old: what stood there, of kind SOFTMIG_TRACK_FREE where there was none. The driver reissues a pointer or handle only
// when what it stood for is gone, so *old is gone, by a way that was not seen.
bool softmig_track_swap(const struct softmig_track_entry *entry, struct softmig_track_entry *old);
// Copies an entry out. False: not there.
bool softmig_track_find(enum softmig_track_kind kind, uint64_t key, struct softmig_track_entry *entry);
// Takes an entry out. False: not there (then *entry is untouched).
bool softmig_track_remove(enum softmig_track_kind kind, uint64_t key, struct softmig_track_entry *entry);
// The same, if it is as it was found: of that more and those bytes.
bool softmig_track_remove_exactly(const struct softmig_track_entry *entry);
// Adds change to an entry's count, adding the entry if it is new and removing it when the count comes to 0, in one step.
// template: the entry as it would be added. Returns the new count, -1: no memory.
int64_t softmig_track_count(const struct softmig_track_entry *template, int change);
// Adds change to the count of an entry that is there and more_bits to its more, takes it out when the count comes to 0, and copies
// it out as it is then, in one step. False: not there.
bool softmig_track_adjust(enum softmig_track_kind kind, uint64_t key, int change, uint64_t more_bits,
                          struct softmig_track_entry *entry);
// Sets or clears bits of an entry's more, and copies it out. False: it is not there, or they were so already.
bool softmig_track_mark(enum softmig_track_kind kind, uint64_t key, uint64_t more_bits, bool set, struct softmig_track_entry *entry);
// Takes out an entry of the GPU that hangs on context (0: on any), of any kind, one a call. False: none left. *cursor starts at 0.
// What comes while the table is walked may be missed (nothing new hangs on a context that is gone), what was there is not.
bool softmig_track_remove_any(int gpu, uint64_t context, uint64_t *cursor, struct softmig_track_entry *entry);
// The next entry of a kind, in no order; for walking while others may come and go (then these may be missed, and others met twice).
// False: no more. *cursor starts at 0.
bool softmig_track_next(enum softmig_track_kind kind, uint64_t *cursor, struct softmig_track_entry *entry);
#endif
