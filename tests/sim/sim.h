// SPDX-License-Identifier: Apache-2.0
// What one process knows of the simulated driver: its devices, contexts, memory, streams. Owns: the objects behind
// CUDA's handles and the calls between the files of libcuda. Must never: hold sim_enter's lock while waiting for GPU
// work, or call an exported function from within (whoever interposes it would be asked twice).
//
// Locks: sim_enter (this process's objects) before sim_lock (the shared state); the second is held for moments only.
#ifndef SOFTMIG_SIM_H
#define SOFTMIG_SIM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "preload/abi/cuda_types.h"
// after the types
#include "preload/abi/cuda_functions.h"

#include "state.h"
#include "timeline.h"

#define SIM_LIMITS 16

struct sim_graph_capture;
struct sim_range;

// An allocation of GPU memory in whole granules, mapped into this process.
struct sim_backing {
	uint64_t address, bytes; // where it lies, as the program sees it
	int fd;                  // file whose pages are its contents
	uint64_t offset;
	bool own_file;
	bool inside; // of addresses that stay reserved when it is unmapped
};

// 2 MiB shared by small allocations of one context.
struct sim_small_block {
	struct sim_small_block *next;
	struct sim_backing backing;
	uint64_t used[64]; // one bit per 512 bytes
	uint32_t units;    // in use
	uint32_t resident; // managed: how many of its allocations have pages on the GPU
	int gpu;           // on that one
};

struct CUctx_st {
	bool alive, primary;
	int device; // ordinal
	int gpu;    // index in the state
	int queue;  // context in the timeline
	unsigned flags, api_version;
	unsigned retained, attached;
	uint64_t id;
	uint64_t base_bytes, limit_bytes; // what it costs by itself, and by its limits
	uint64_t local_bytes;             // of the largest kernel's local memory so far
	bool needed[SIM_LIMITS];          // which limits' memory a kernel has needed
	size_t limit[SIM_LIMITS];
	uint32_t peers; // device ordinals enabled
	CUfunc_cache cache_config;
	CUsharedconfig shared_config;
	struct sim_small_block *small, *code; // of allocations and arrays; of modules, streams, graphs
	struct sim_small_block *managed;      // of managed memory: in no process's figure
	struct CUstream_st *streams; // created ones
	struct CUstream_st *legacy;
	struct CUstream_st *per_thread;
	struct CUctx_st *next;
	int captures; // streams being captured
};

// Texels in rows; a level of a mipmapped array and a plane of another array are arrays whose bytes belong to that one.
struct CUarray_st {
	bool alive;
	struct CUctx_st *context;
	CUDA_ARRAY3D_DESCRIPTOR descriptor;
	uint64_t address;                          // NULL: sparse or deferred, nothing mapped
	uint64_t texel_bytes, pitch, rows, layers; // a layer is pitch * rows
	struct sim_backing backing;
	uint64_t charged_bytes;
	struct sim_small_block *block; // that a small one lies in
	bool part;                     // of another
	struct CUarray_st *next;
};

struct sim_device {
	int gpu;
	struct CUctx_st primary;
	struct CUmemPoolHandle_st *default_pool, *current_pool;
	struct CUmemPoolHandle_st *graph_pool;
	uint64_t kept_bytes; // of pools: stays with the process after its first use
};

struct CUstream_st {
	struct CUctx_st *context;
	int queue; // stream in the timeline
	unsigned flags;
	int priority;
	uint64_t id;
	bool alive, created;
	uint64_t thread; // of a per-thread default stream
	struct sim_small_block *block; // what the driver has for it
	uint64_t address;
	struct sim_graph_capture *capture; // NULL: not being captured
	struct CUgraphNode_st **capture_last; // what the next captured command depends on
	size_t capture_last_count;
	struct CUstream_st *next;
};

struct CUevent_st {
	bool alive;
	struct CUctx_st *context;
	unsigned flags;
	uint32_t tag;
	enum { SIM_EVENT_NEW, SIM_EVENT_PENDING, SIM_EVENT_DONE, SIM_EVENT_CAPTURED } state;
	int queue, command;
	uint64_t sequence, end_ns;
	struct sim_graph_capture *capture;
	struct CUgraphNode_st **capture_last;
	size_t capture_last_count;
	uint64_t record_id;
};

enum sim_range_kind {
	SIM_RANGE_DEVICE, SIM_RANGE_SMALL, SIM_RANGE_MANAGED, SIM_RANGE_HOST, SIM_RANGE_REGISTERED, SIM_RANGE_RESERVED,
	SIM_RANGE_POOL, SIM_RANGE_IPC, SIM_RANGE_GLOBAL, SIM_RANGE_EXTERNAL, SIM_RANGE_GRAPH,
};

// A piece of address space that the driver knows.
struct sim_range {
	uint64_t base, bytes;
	enum sim_range_kind kind;
	struct CUctx_st *context;
	int device; // ordinal; -1: host
	uint64_t id;
	unsigned flags;
	uint64_t charged_bytes;
	struct sim_backing backing;
	struct sim_small_block *block;
	void *owner; // pool, mappings of a reserved range, ...
	int shared_block; // in the state, -1: none
};

extern struct sim_device sim_device[SIM_GPUS];
extern int sim_device_count;
extern int sim_slot; // this process's
extern int sim_driver_version;

// --- init.c
CUresult sim_ready(void); // CUDA_SUCCESS where cuInit was called, in this very process
void sim_enter(void);
void sim_leave(void);
uint64_t sim_thread_id(void);
bool sim_alloc_fault(void); // is this allocation to fail?

#define SIM_READY() do { CUresult ready_ = sim_ready(); if (ready_ != CUDA_SUCCESS) return ready_; } while (0)

// --- context.c
struct CUctx_st *sim_context_current(CUresult *error); // NULL: *error says why
CUresult sim_context_check(struct CUctx_st *context);  // of a handle given
CUresult sim_context_charge(struct CUctx_st *context, uint64_t bytes); // with device OOM; sim_enter held
void sim_context_uncharge(struct CUctx_st *context, uint64_t bytes);
CUresult sim_gpu_charge(int gpu, int ordinal, uint64_t bytes); // without a context
// The same for a pool that grows: graphs keep what they have (docs/driver-facts.md).
CUresult sim_gpu_charge_stream_ordered(int gpu, int ordinal, uint64_t bytes);
// Tells the witness, if there is one, that bytes more are held (lock held); see witness.c.
void sim_witness(int gpu, uint64_t bytes);
void sim_gpu_uncharge(int gpu, uint64_t bytes);
CUresult sim_context_synchronize(struct CUctx_st *context);
CUresult sim_context_need(
	struct CUctx_st *context, uint64_t local_bytes, bool heap, bool printf_buffer); // before a launch
struct CUctx_st *sim_context_of_device(int ordinal); // its primary where active, else any of this process; NULL
struct CUctx_st *sim_context_first(void);

#define SIM_CURRENT(name) \
	SIM_READY(); \
	CUresult name##_error = CUDA_SUCCESS; \
	struct CUctx_st *name = sim_context_current(&name##_error); \
	if (name == NULL) \
		return name##_error

// --- backing.c
bool sim_backing_map(struct sim_backing *backing, uint64_t bytes, bool accessible);
bool sim_backing_map_aligned(struct sim_backing *backing, uint64_t bytes, uint64_t alignment, bool accessible);
// In addresses that are reserved already, and stay so; offset: of pages in this process's file (sim_backing_file).
bool sim_backing_map_at(struct sim_backing *backing, uint64_t bytes, uint64_t address, uint64_t offset);
// One that was mapped so grows into what follows, of both.
bool sim_backing_extend(struct sim_backing *backing, uint64_t bytes);
void sim_backing_reserve_at(uint64_t address, uint64_t bytes);
bool sim_backing_map_managed(struct sim_backing *backing, uint64_t bytes); // in a range of its own
void sim_backing_unmap(struct sim_backing *backing);
uint64_t sim_backing_reserve(uint64_t bytes, uint64_t alignment, uint64_t wanted);
int sim_backing_file(uint64_t bytes, uint64_t *offset); // a place for bytes in this process's own file
void sim_backing_discard(int fd, uint64_t offset, uint64_t bytes);
int sim_backing_open(int pid, int fd); // another process's file

// --- range.c
struct sim_range *sim_range_add(uint64_t base, uint64_t bytes, enum sim_range_kind kind);
struct sim_range *sim_range_find(uint64_t address); // NULL: not ours
void sim_range_remove(struct sim_range *range);
void sim_range_each(void (*body)(struct sim_range *range, void *argument), void *argument);
void sim_range_drop_context(struct CUctx_st *context); // forgets what died with a context
uint64_t sim_next_id(void);

// --- memory.c
CUresult sim_alloc(struct CUctx_st *context, uint64_t bytes, enum sim_range_kind kind, CUdeviceptr *address);
CUresult sim_free(struct sim_range *range);
CUresult sim_small_alloc(struct CUctx_st *context, struct sim_small_block **list, uint64_t bytes,
	struct sim_small_block **in, uint64_t *address);
void sim_small_free(struct CUctx_st *context, struct sim_small_block **list, struct sim_small_block *block,
	uint64_t address, uint64_t bytes);
// The same with a range that tells the block of an address.
CUresult sim_small_range(struct CUctx_st *context, struct sim_small_block **list, uint64_t bytes, enum sim_range_kind kind,
	struct sim_range **range);
void sim_small_drop(struct CUctx_st *context);
uint64_t sim_round_up(uint64_t value, uint64_t unit);

// --- shared.c: memory that several processes hold; sim_enter held
int sim_shared_create(int gpu, uint64_t bytes, int fd, uint64_t offset); // already charged to this process; -1: no room
// The same for memory that is this process's own and charged apart, and that descriptors alone keep when it has let go of it.
int sim_shared_create_for_descriptors(int gpu, uint64_t bytes);
void sim_shared_leave_to_descriptors(int block);
int sim_shared_find(uint64_t id);
bool sim_shared_hold(int block); // one more holder's reference of this process
void sim_shared_release(int block, bool original); // original: it is the maker's own reference, not an import
int sim_shared_file(int block);                    // makes the file of its contents; -1: none to be had
int sim_shared_export(int block, int fd);          // a descriptor to give out; fd: the driver's own
// Pools that are exported: the entry of pool id, made by its maker where it is new (maker), -1: none.
int sim_shared_pool(uint64_t id, int gpu, bool maker);
bool sim_shared_pool_hold(int pool); // one more of this process that holds it
void sim_shared_pool_release(int pool);
int sim_shared_pool_export(int pool);                       // a descriptor to give out
void sim_shared_pool_reserved(int pool, uint64_t bytes);    // so much of what this process is charged is exported from now on
void sim_shared_pool_given_back(int pool, uint64_t bytes);  // by the pool, from which they were exported
// This process has imported the pointer that lies at that place of the pool and was exported as that generation; what it still had of an earlier one that
// was there is let go of. It has freed that pointer, which it sees at address.
void sim_shared_pool_pointer_imported(int pool, uint64_t place, uint64_t bytes, uint64_t generation, uint64_t address);
void sim_shared_pool_pointer_freed(int pool, uint64_t address);
// At that place something else has been exported, as generation renewed: what was given back there, of that generation, is let go of by the pool. Who has imported it
// has it still, in its figure.
void sim_shared_pool_let_go(int pool, uint64_t place, uint64_t bytes, uint64_t generation, uint64_t renewed);
// A descriptor of the same file that shares nothing else with fd, so that it does not count as exported.
int sim_shared_reopen(int fd, int flags);

// --- copy.c
bool sim_is_device(uint64_t address);
bool sim_accessible(uint64_t address, uint64_t bytes); // is all of it memory that copies may touch?
uint64_t sim_copy_ns(uint64_t dst, uint64_t src, uint64_t bytes);
CUresult sim_copy_3d(const CUDA_MEMCPY3D *copy, uint64_t *ns); // moves the bytes now; *ns: what the hardware takes
CUresult sim_copy_3d_check(const CUDA_MEMCPY3D *copy);
void sim_copy_1d(CUDA_MEMCPY3D *copy, uint64_t dst, uint64_t src, size_t bytes);
CUresult sim_fill(uint64_t address, uint64_t pitch, unsigned value, unsigned element_bytes, uint64_t width,
	uint64_t height, uint64_t *ns);

// --- managed.c
struct sim_small_block **sim_managed_blocks(struct CUctx_st *context); // that its small ones lie in
void sim_managed_touch(struct sim_range *range, uint64_t upto_bytes); // used by the GPU: now it has pages there
void sim_managed_leave(struct sim_range *range);                       // it has none any more

// --- sparse.c: forgets what is mapped into an array that is being destroyed; sim_enter held
void sim_sparse_drop(const void *array);

// --- dma_buf.c: the process has let go of a piece of memory and uncharged it; sim_enter held
void sim_dma_buf_memory_gone(const void *memory);
// Is there one of it, open or not?
bool sim_dma_buf_is_of(const void *memory);

// --- vmm.c
bool sim_vmm_accessible(struct sim_range *range, uint64_t address, uint64_t bytes);

#define SIM_SMALL_BYTES (SIM_GRANULE - 1) // up to this, allocations share blocks (docs/driver-facts.md)
// What the driver takes for itself, from blocks of its own.
#define SIM_STREAM_BYTES (SIM_MIB / 2)
#define SIM_NODE_BYTES 2700
#define SIM_EXEC_BYTES 110000

// --- pool.c
CUresult sim_pool_free_now(CUdeviceptr address); // cuMemFree of a stream-ordered allocation
void sim_pool_trim_idle(int ordinal);          // at a synchronisation: what stands over the release threshold
uint64_t sim_pool_give_back(int ordinal, bool graphs_too); // before an out-of-memory: all that is idle; returns bytes
void sim_pool_drop_device(int ordinal);

// --- stream.c
// The stream behind a handle (0 and CU_STREAM_LEGACY, CU_STREAM_PER_THREAD included). NULL: *error.
struct CUstream_st *sim_stream(CUstream handle, CUresult *error);
void sim_stream_drop_context(struct CUctx_st *context);
CUresult sim_stream_synchronize(struct CUstream_st *stream);
CUresult sim_stream_wait_idle(struct CUctx_st *context, int stream); // -1: the whole context
// Work without bytes of its own on a stream: sim_enter not held; waits while the queue is full.
CUresult sim_stream_submit(struct CUstream_st *stream, enum sim_command_kind kind, uint64_t ns, uint32_t width_ppm);
CUresult sim_stream_submit_collective(
	struct CUstream_st *stream, uint64_t ns, uint32_t width_ppm, uint32_t ranks, uint64_t communicator);
void sim_stream_nap(uint64_t left_ns);

#define SIM_STREAM(name, handle) \
	SIM_READY(); \
	CUresult name##_error = CUDA_SUCCESS; \
	struct CUstream_st *name = sim_stream(handle, &name##_error); \
	if (name == NULL) \
		return name##_error

// --- module.c, array.c
void sim_module_drop_context(struct CUctx_st *context);
void sim_array_drop_context(struct CUctx_st *context);

// --- event.c
void sim_event_collect(struct CUctx_st *context); // reads finished marks; sim_enter and sim_lock held
CUresult sim_event_record(struct CUevent_st *event, struct CUstream_st *stream);
CUresult sim_event_wait(struct CUevent_st *event, struct CUstream_st *stream);
void sim_event_drop_context(struct CUctx_st *context);

// --- graph_launch.c: frees what an allocation node gave; sim_enter held
CUresult sim_graph_free_allocation(struct sim_range *range, struct CUstream_st *stream);

// --- hostfunc.c
// One thing that the host does in a stream's order: call a function or a callback, write a value, or (poll) wait for
// one.
struct sim_host_task {
	CUhostFn function;
	CUstreamCallback callback;
	CUstream handle;
	void *data;
	bool poll;
	uint64_t address, value;
	int width; // bytes of the value
	unsigned flags;
};
CUresult sim_host_submit(struct CUstream_st *stream, const struct sim_host_task *task);

// --- capture.c: each is asked before the thing is done
bool sim_capturing(const struct CUstream_st *stream);
// A call that may not happen beside a capture (an allocation, a query): refused, and it spoils the captures that it
// endangers.
CUresult sim_capture_forbid(struct CUctx_st *context);
// The same for asking or waiting for a stream; also refused where the stream itself is being captured.
CUresult sim_capture_forbid_sync(struct CUstream_st *stream);
// Use of the legacy stream while a blocking stream of its context is being captured.
CUresult sim_capture_forbid_legacy(struct CUstream_st *stream);
void sim_capture_invalidate(struct sim_graph_capture *capture);
void sim_capture_invalidate_context(struct CUctx_st *context);
void sim_capture_forget(struct CUstream_st *stream); // it is being destroyed
CUresult sim_capture_record(struct CUstream_st *stream, struct CUevent_st *event, bool external);
CUresult sim_capture_copy(struct CUstream_st *stream, const CUDA_MEMCPY3D *copy);
CUresult sim_capture_host(struct CUstream_st *stream, const struct sim_host_task *task);
CUresult sim_capture_fill(struct CUstream_st *stream, const CUDA_MEMSET_NODE_PARAMS *fill);
CUresult sim_capture_alloc(struct CUstream_st *stream, int device, uint64_t bytes, CUdeviceptr *address);
CUresult sim_capture_free(struct CUstream_st *stream, CUdeviceptr address);
CUresult sim_capture_graph(struct CUstream_st *stream, const struct CUgraph_st *graph);
CUresult sim_capture_wait(struct CUstream_st *stream, struct CUevent_st *event, bool external);
#endif
