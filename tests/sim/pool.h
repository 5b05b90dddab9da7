// SPDX-License-Identifier: Apache-2.0
// Memory pools as the simulated driver keeps them: chunks of reserved memory, each a row of extents in use or free.
#ifndef SOFTMIG_SIM_POOL_H
#define SOFTMIG_SIM_POOL_H
#include "sim.h"

#define SIM_POOL_CHUNK (32 * SIM_MIB)

enum sim_pool_kind { SIM_POOL_DEFAULT, SIM_POOL_OWN, SIM_POOL_GRAPH, SIM_POOL_IMPORTED };

struct sim_extent {
	struct sim_extent *next;
	uint64_t offset, bytes;
	bool used;
	int context, stream; // freed there, -1: by nobody, at once reusable
	uint64_t sequence;   // reusable by others when that stream has passed this
};

struct sim_chunk {
	struct sim_chunk *next;
	struct sim_backing backing;
	struct sim_extent *extents;
	uint64_t *exported; // for each piece, as which generation a pointer into it was exported; 0: not. NULL: none was
};

// What was exported and given back.
struct sim_kept {
	struct sim_kept *next;
	uint64_t address, bytes, generation;
};

struct CUmemPoolHandle_st {
	bool alive;
	enum sim_pool_kind kind;
	int device, gpu;
	CUmemAllocationHandleType handle_types;
	uint64_t threshold_bytes, max_bytes;
	uint64_t reserved_bytes, reserved_high_bytes, used_bytes, used_high_bytes;
	uint64_t mapped_bytes; // the graph pool's: of chunks in which something is live
	int reuse[4];
	uint64_t id;
	int shared; // in the state, if it was exported or imported; -1: neither
	struct sim_chunk *chunks;
	uint64_t address, bytes, file_offset; // reserved for its chunks, which take the lowest free place; 0: none yet
	uint64_t generation;     // of what was exported last
	struct sim_kept *kept;
	struct CUmemPoolHandle_st *next;
};

// sim_enter held. A piece of memory for stream (NULL: for any), reserved where the pool has none.
CUresult sim_pool_take(
	struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream, uint64_t *address);
// Gives a piece back, as of the present end of stream (NULL: at once).
void sim_pool_put(struct CUmemPoolHandle_st *pool, uint64_t address, const struct CUstream_st *stream);
// Releases idle chunks until keep_bytes are reserved; returns the bytes released.
uint64_t sim_pool_trim(struct CUmemPoolHandle_st *pool, uint64_t keep_bytes);
struct CUmemPoolHandle_st *sim_pool_graph(int ordinal);
struct sim_chunk *sim_pool_chunk(struct CUmemPoolHandle_st *pool, uint64_t address);
struct CUmemPoolHandle_st *sim_pool_current(int ordinal);
struct CUmemPoolHandle_st *sim_pool_make(enum sim_pool_kind kind, int ordinal);
CUresult sim_pool_alloc(
	struct CUmemPoolHandle_st *pool, uint64_t bytes, const struct CUstream_st *stream, CUdeviceptr *address);
// --- pool_places.c
// The backing of a new chunk.
bool sim_pool_map(struct CUmemPoolHandle_st *pool, struct sim_chunk *chunk, uint64_t bytes);
// May the chunk grow by so much, for something that begins in what is free at its end (offset), rather than lower in a new one?
bool sim_pool_may_extend(struct CUmemPoolHandle_st *pool, const struct sim_chunk *chunk, uint64_t offset, uint64_t bytes);
bool sim_pool_extend(struct sim_chunk *chunk, uint64_t bytes);
// A pointer into the chunk has been exported. False: no memory.
bool sim_pool_exported(struct CUmemPoolHandle_st *pool, struct sim_chunk *chunk, uint64_t address, uint64_t bytes);
// The chunk is given back: keeps what was exported of it. Returns how much that is.
uint64_t sim_pool_keep(struct CUmemPoolHandle_st *pool, const struct sim_chunk *chunk);
void sim_pool_places_gone(struct CUmemPoolHandle_st *pool);
#endif
