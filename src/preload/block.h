// SPDX-License-Identifier: Apache-2.0
// The 2 MiB blocks that small allocations share: which are there, and which addresses in them are taken. Owns: a table in anonymous memory
// that fork wipes. Must never: use the heap, hold its lock across a driver call, charge anything.
//
// An allocation is told after the driver made it, a release after the driver did it, each in one step; so when another thread is given
// an address before its release was told, the two tellings come in the other order. Both turn over the address's bit and
// change the block's count, so the order makes no difference.
#ifndef SOFTMIG_PRELOAD_BLOCK_H
#define SOFTMIG_PRELOAD_BLOCK_H
#include <stdbool.h>
#include <stdint.h>

#define SOFTMIG_BLOCK_BYTES (1ull << 21)

enum softmig_block {
	SOFTMIG_BLOCK_NONE, // not in a block known here, or no memory to note it in
	SOFTMIG_BLOCK_HELD, // the block was there already, or still is
	SOFTMIG_BLOCK_ENDS, // it was made for this one, or ended with it
};

// An allocation at pointer, in a block that is known (HELD), else NONE.
enum softmig_block softmig_block_join(uint64_t pointer);
// An allocation at pointer, whose block is made known if it is not (ENDS: it was not). NONE: no memory for it.
enum softmig_block softmig_block_make(uint64_t pointer, int gpu, uint64_t context);
// The allocation at pointer has been exported, so others may hold its block from now on. True: the first of its block.
bool softmig_block_export(uint64_t pointer);
// Is pointer an allocation in a block?
bool softmig_block_has(uint64_t pointer);
// The allocation at pointer was freed. *gpu: where its block lies, and SOFTMIG_BLOCK_EXPORTED added where that has ended and others may hold it. NONE: it is
// none of a block's.
#define SOFTMIG_BLOCK_EXPORTED 0x100
enum softmig_block softmig_block_leave(uint64_t pointer, int *gpu);
// Forgets the blocks of the GPU that hang on context (0: on any). Returns how many there were; *exported: how many of these others may hold.
unsigned softmig_block_forget(int gpu, uint64_t context, unsigned *exported);
#endif
