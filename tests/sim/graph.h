// SPDX-License-Identifier: Apache-2.0
// Graphs, their nodes, and captures as the simulated driver keeps them.
#ifndef SOFTMIG_SIM_GRAPH_H
#define SOFTMIG_SIM_GRAPH_H
#include "module.h"

enum { SIM_GRAPH = 0x47524130, SIM_NODE, SIM_EXEC };

// Address space of a graph, in whole pieces of SIM_POOL_CHUNK. It has memory of the GPU's while anything that lies in it is live
// (docs/driver-facts.md: a graph with one node that is not freed keeps 32 MiB, whatever the node's size).
struct sim_graph_chunk {
	int device;
	uint64_t filled_bytes;
	struct sim_backing backing;
	unsigned references; // allocations, and the graph that fills it
	unsigned live;       // allocations
};

// Memory of an allocation node: its address is fixed with the node, it is there from a launch until it is freed.
struct sim_graph_allocation {
	uint64_t address, bytes;
	struct sim_graph_chunk *chunk;
	bool live;
	unsigned references; // nodes, and what is live
	struct sim_graph_allocation *next;
};

struct CUgraphNode_st {
	int magic;
	CUgraphNodeType type;
	struct CUgraph_st *graph;
	struct CUgraphNode_st *next; // of the graph, in the order of creation
	struct CUgraphNode_st **before;
	size_t before_count;
	struct CUgraphNode_st *copy_of; // in a clone or an executable graph
	bool disabled;
	uint64_t end_ns; // while a critical path is computed
	struct sim_launch launch;
	CUDA_KERNEL_NODE_PARAMS kernel;
	CUDA_MEMCPY3D copy;
	CUDA_MEMSET_NODE_PARAMS fill;
	struct sim_host_task task;
	struct CUevent_st *event;
	struct CUgraph_st *child;
	struct sim_graph_allocation *allocation;
	CUDA_MEM_ALLOC_NODE_PARAMS alloc;
	CUdeviceptr freed;
};

struct CUgraph_st {
	int magic;
	struct CUgraphNode_st *first, *last;
	size_t count;
	struct CUgraph_st *copy_of;
	struct sim_graph_chunk *chunk; // which its next allocations lie in, NULL: none yet
	bool child; // belongs to a node
};

struct CUgraphExec_st {
	int magic;
	uint64_t flags;
	struct CUgraph_st *graph;
	struct CUctx_st *context; // what it takes there: in a block of the driver's own, or whole pieces
	struct sim_small_block *block;
	uint64_t address, bytes;
	struct CUgraphExec_st *next;
};
// Its memory is gone with the context; sim_enter held.
void sim_graph_drop_context(struct CUctx_st *context);

struct sim_graph_capture {
	bool ended, invalidated;
	CUstreamCaptureMode mode;
	uint64_t thread, id;
	struct CUctx_st *context;
	struct CUstream_st *origin;
	struct CUgraph_st *graph;
	struct sim_graph_capture *next;
};

struct CUgraph_st *sim_graph_make(void);
void sim_graph_destroy(struct CUgraph_st *graph);
struct CUgraph_st *sim_graph_copy(const struct CUgraph_st *graph);
// A new node that depends on before[0..count). NULL: no memory.
struct CUgraphNode_st *sim_graph_add(
	struct CUgraph_st *graph, CUgraphNodeType type, struct CUgraphNode_st *const *before, size_t count);
struct sim_graph_allocation *sim_graph_allocation_make(struct CUgraph_st *graph, int device, uint64_t bytes);
void sim_graph_allocation_release(struct sim_graph_allocation *allocation);
// May a node of this graph free the address? Only what an allocation node of some graph has given, and once ("cuGraphAddMemFreeNode" in the
// driver API reference; "cuMemFreeAsync" there says the same of captures).
bool sim_graph_may_free(const struct CUgraph_st *graph, CUdeviceptr address);
// A node's parameters from another's of the same type.
void sim_graph_node_copy(struct CUgraphNode_st *to, const struct CUgraphNode_st *from);
bool sim_graph_has_live_allocation(const struct CUgraph_st *graph);
#endif
