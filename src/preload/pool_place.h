// SPDX-License-Identifier: Apache-2.0
// Where in a pool memory lay that was exported by its pointer and is free now. The driver keeps such memory by its place, one piece for each, until
// something else is exported there (docs/driver-facts.md). Owns: a pool's places, and how much can be kept of them at most. Must never: say less than
// that. All under the lock of pool_export.c.
#ifndef SOFTMIG_PRELOAD_POOL_PLACE_H
#define SOFTMIG_PRELOAD_POOL_PLACE_H
#include <stdbool.h>
#include <stdint.h>

// All zero: none.
struct softmig_pool_places {
	uint64_t number; // the pool's, below 2^32
	uint64_t count;
	uint64_t chunk_bytes; // of the chunks in which there are places
	uint64_t lost_bytes;  // of places that could not be noted
	uint64_t since_ns;    // since when what was let go of, and may be charged for these still, was exported; 0: all has been given back
};

// So much can be kept of all places.
static inline uint64_t softmig_pool_places_most(const struct softmig_pool_places *places)
{
	return places->chunk_bytes + places->lost_bytes;
}

// What was exported at since_ns (CLOCK_MONOTONIC) is free.
void softmig_pool_place_add(struct softmig_pool_places *places, uint64_t address, uint64_t bytes, uint64_t since_ns);
// Something has been exported there: what was kept of it is let go of. Returns since when that was exported at the earliest, UINT64_MAX: there was none.
uint64_t softmig_pool_place_renew(struct softmig_pool_places *places, uint64_t address, uint64_t bytes);
// What was exported at since_ns (UINT64_MAX: nothing) is let go of, and charged still, as if it were some other place's.
void softmig_pool_place_passes_later(struct softmig_pool_places *places, uint64_t since_ns);
// So much could be kept where no place is known, for as long as the pool is there.
void softmig_pool_place_lost(struct softmig_pool_places *places, uint64_t bytes);
// Nothing is kept.
void softmig_pool_places_forget(struct softmig_pool_places *places);
#endif
