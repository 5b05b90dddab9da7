// SPDX-License-Identifier: Apache-2.0
// The pool in which the driver keeps graphs' memory, one per device, from their launch until cuDeviceGraphMemTrim. Owns: its charge, and what a
// launch may make it grow by.
#ifndef SOFTMIG_PRELOAD_GRAPH_POOL_H
#define SOFTMIG_PRELOAD_GRAPH_POOL_H
#include "preload/gpu.h"

// An executable graph, as one of its launches sees it on one GPU.
struct softmig_graph_launch {
	uint64_t stream;       // a number for it, see softmig_graph_stream()
	uint64_t bytes;        // the most that the graph takes
	uint64_t kept_bytes;   // what it may leave allocated
	uint32_t counted;      // when that was counted in the pool; 0: never. Kept with the graph
	uint64_t held_bytes;   // what was reserved for it
};

// From now on there may be executable graphs with memory nodes. Until then the rest costs nothing.
void softmig_graph_pool_used(void);
bool softmig_graph_pool_is_used(void);
// What tells streams apart. The per-thread stream is another one in each thread.
uint64_t softmig_graph_stream(CUstream stream, bool per_thread);
// Around a launch, between enter and leave: reserves what it may make the pool grow by (false: refused; then no end), and takes account of what it did.
bool softmig_graph_pool_begin(struct softmig_gpu *gpu, struct softmig_graph_launch *launch);
void softmig_graph_pool_end(struct softmig_gpu *gpu, const struct softmig_graph_launch *launch);
// The program gives back idle memory: cuDeviceGraphMemTrim, between enter and leave.
CUresult softmig_graph_pool_trim(struct softmig_gpu *gpu);
#endif
