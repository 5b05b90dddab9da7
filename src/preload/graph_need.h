// SPDX-License-Identifier: Apache-2.0
// What a graph needs for its memory nodes, read from the graph itself. Owns: that reckoning. Must never: charge anything.
#ifndef SOFTMIG_PRELOAD_GRAPH_NEED_H
#define SOFTMIG_PRELOAD_GRAPH_NEED_H
#include "preload/gpu.h"

// The driver gives graphs memory by pieces of their address space of this size.
#define SOFTMIG_GRAPH_CHUNK_BYTES (32ull << 20)

struct softmig_graph_need {
	size_t nodes; // of all kinds, child graphs' too
	int gpus;     // on which it has memory
	struct {
		struct softmig_gpu *gpu;
		uint64_t bytes;      // the chunks that its allocations touch: the most that a launch takes
		uint64_t kept_bytes; // of these, chunks with allocations that it does not free itself
	} on[SOFTMIG_MAX_GPUS];
};

// False: no memory to read it with.
bool softmig_graph_need(CUgraph graph, struct softmig_graph_need *need);
#endif
