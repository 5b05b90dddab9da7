// SPDX-License-Identifier: Apache-2.0
// Memory nodes of graphs, seen from a launch. Owns: that a launch takes no memory that the slice does not have.
#ifndef SOFTMIG_PRELOAD_CUDA_GRAPH_MEMORY_H
#define SOFTMIG_PRELOAD_CUDA_GRAPH_MEMORY_H
#include <stdbool.h>

#include "preload/abi/cuda_types.h"

// Launches (or uploads) by call, asking for the graph's memory before and telling what it took after. CUDA_ERROR_OUT_OF_MEMORY: not
// called, the slice has no room. A graph without memory nodes costs one look at a counter, or one in the table of those that have.
// per_thread: the caller came through a _ptsz function. Any other hook of cuGraphLaunch goes inside call.
CUresult softmig_graph_memory_launch(CUgraphExec exec, CUstream stream, bool per_thread,
                                     CUresult (*call)(CUgraphExec, CUstream));
#endif
