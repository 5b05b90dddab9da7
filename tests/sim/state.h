// SPDX-License-Identifier: Apache-2.0
// What the simulated GPUs know, shared by all processes: one mapped file. Owns: its layout, its lock, who is alive, how
// many bytes each process holds on each GPU. Must never: keep anything that only one process's code understands (no
// pointers), or depend on the order in which a killed process wrote: whatever it left is discarded with it.
#ifndef SOFTMIG_SIM_STATE_H
#define SOFTMIG_SIM_STATE_H
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_MAGIC 0x354d49534d54464full
#define SIM_GPUS 16
#define SIM_PROCESSES 512
#define SIM_CONTEXTS 512
#define SIM_STREAMS 256
#define SIM_COMMANDS 1024
#define SIM_SHARED_BLOCKS 1024
#define SIM_SHARED_POOLS 256
#define SIM_COMMUNICATORS 16 // that one context takes part in
#define SIM_HOLDERS 16
#define SIM_POOL_IMPORTS 64 // pointers of one pool that are imported
#define SIM_SAMPLES 64 // windows of utilisation kept per GPU
#define SIM_SAMPLE_NS (1000000000ull / 6)
#define SIM_ACCOUNTING 128

#define SIM_MIB 1048576ull
#define SIM_GRANULE (2 * SIM_MIB)

enum sim_command_state { SIM_FREE, SIM_QUEUED, SIM_RUNNING, SIM_DONE };
enum sim_command_kind {
	SIM_KERNEL, // needs its context's time slice for left_ns; of a collective: while its other ranks have theirs
	SIM_COPY,   // left_ns on a copy engine, whoever has the slice
	SIM_MARK,   // takes no time; kept until its process has read end_ns
	SIM_WAIT,   // holds its stream until another command is done
	SIM_HOST,   // holds its stream until its process has called the function
	SIM_POLL,   // holds its stream until its process has seen a value in memory
};

struct sim_command {
	uint32_t state;
	uint16_t kind, stream;
	int32_t next;       // of the stream, or of the free list; -1: none
	uint32_t width_ppm; // part of the GPU that it fills
	uint64_t sequence;  // order of submission, never used twice; 0: free
	uint64_t left_ns;
	uint64_t end_ns;
	int32_t wait_context, wait_command; // of a SIM_WAIT; a SIM_MARK or SIM_HOST has its owner's tag in wait_context
	uint64_t wait_sequence;
	uint32_t ranks; // of a collective, which is its communicator's so-manieth; 0: it is none
	uint32_t met;   // the other ranks run too, at this moment
	uint64_t communicator, number;
};

struct sim_stream_queue {
	int32_t head, tail;
	uint32_t flags; // SIM_STREAM_*
	uint32_t pending;
};
enum { SIM_STREAM_USED = 1, SIM_STREAM_LEGACY = 2, SIM_STREAM_BLOCKING = 4 };

// A context as the hardware sees it: what it has to do on one GPU.
struct sim_context_queue {
	uint32_t used;
	int32_t process, gpu;
	int32_t free_head;
	uint32_t pending;
	uint32_t done_marks; // finished, not yet read
	uint32_t copies;     // under way
	uint32_t collectives; // queued or running
	uint32_t communicators;
	struct {
		uint64_t name, submitted, finished; // collectives
	} communicator[SIM_COMMUNICATORS];
	uint64_t busy_ns;
	uint64_t active[SIM_STREAMS / 64]; // streams with something queued
	struct sim_stream_queue stream[SIM_STREAMS];
	struct sim_command command[SIM_COMMANDS];
};

struct sim_process {
	int32_t pid;      // 0: free; as its owner sees it
	int32_t host_pid; // as the namespace sees it that the state was made in; 0: not known there yet
	uint64_t pid_ns;
	uint64_t generation;
	uint64_t start_ns; // CLOCK_REALTIME
	uint64_t used_bytes[SIM_GPUS];
	uint64_t managed_bytes[SIM_GPUS]; // pages of managed memory: the GPU's, but in no figure of the process
	uint64_t peak_bytes[SIM_GPUS];
	uint32_t contexts[SIM_GPUS];
	uint64_t busy_ns[SIM_GPUS];
	uint64_t window_ns[SIM_GPUS][2]; // busy in the running and in the last whole sample window
	uint64_t window_index[SIM_GPUS];
	char name[64];
};

struct sim_gpu {
	char model[32];
	char name[64];
	uint8_t uuid[16];
	uint64_t total_bytes;    // as NVML has it
	uint64_t reserved_bytes; // firmware and driver: neither free nor a process's
	int32_t processors, capability;
	uint64_t context_bytes; // what each context costs
	uint64_t hidden_bytes;  // in use, in no process's figure: see sim_shared_settle
	// the timeline, see timeline.c
	uint64_t clock_ns;
	int32_t current;
	int32_t context_count, context[SIM_CONTEXTS]; // those on this GPU, in the order of their turns
	uint64_t slice_left_ns, switch_left_ns;
	uint64_t busy_ns;
	uint64_t sample_index;
	uint64_t sample_ns[SIM_SAMPLES];
	uint32_t compute_mode, accounting;
	struct {
		int32_t pid;
		uint32_t running;
		uint64_t peak_bytes, busy_ns, start_ns, end_ns;
	} history[SIM_ACCOUNTING];
	uint32_t history_next;
};

// How often a process holds something.
struct sim_holder {
	int32_t process;
	uint32_t count;
};

// Memory that more than one process may hold: exported VMM handles, pools, IPC. It lives until the last holder has let
// go and the last exported descriptor is closed. It is charged to the process that made it while that one has what it
// made (a handle, or a mapping from it), then, once no descriptor is open, to the next holder; in between to nobody.
struct sim_shared_block {
	uint32_t used;
	int32_t gpu;
	uint64_t id, bytes;
	int32_t owner;      // process slot that is charged, -1: nobody
	uint32_t originals; // the maker's references that are no imports
	uint32_t inherited; // the owner is a later holder: it is charged while it has any reference
	uint32_t has_file;  // see sim_shared_path
	uint32_t exported;  // a descriptor has been given out
	int32_t backing_pid, backing_fd;
	uint64_t backing_offset;
	struct sim_holder holder[SIM_HOLDERS];
};

// A pointer of a pool that a process has imported. place: as the pool's maker sees it.
struct sim_pool_import {
	uint32_t used;
	int32_t process;
	uint64_t address, place, bytes; // bytes 0: it has imported a later one of that place, and has nothing of this one any more
	uint64_t generation, renewed;   // exported as that; let go of by the pool when that was exported there
	uint64_t charged_bytes;         // to this process, since the pool has let go of them
};

// A pool that was exported. What has been exported of its memory and was given back by the pool stays in use, in no process's
// figure, until something is exported at the same place, or the pool, its imports and its descriptors are gone (docs/driver-facts.md).
struct sim_shared_pool {
	uint32_t used;
	int32_t gpu;
	uint64_t id;
	int32_t maker;           // process slot; -1: no more
	uint32_t exported;       // a descriptor has been given out
	uint64_t reserved_bytes; // exported, and still the maker's
	uint64_t hidden_bytes;
	struct sim_holder holder[SIM_HOLDERS]; // the pool itself, and imports
	struct sim_pool_import import[SIM_POOL_IMPORTS];
};

struct sim_state {
	uint64_t magic;
	uint64_t size_bytes;
	uint64_t host_pid_ns; // of the process that made it: the host, as far as NVML is concerned
	pthread_mutex_t lock;
	int32_t gpu_count;
	uint64_t slice_ns, switch_ns, idle_switch_ns;
	uint64_t next_id, next_sequence;
	uint64_t reaped_ns; // when last
	uint64_t collectives; // queued or running: while there are any, all GPUs' clocks go together
	char config[512];
	struct sim_gpu gpu[SIM_GPUS];
	struct sim_process process[SIM_PROCESSES];
	struct sim_shared_block block[SIM_SHARED_BLOCKS];
	struct sim_shared_pool pool[SIM_SHARED_POOLS];
	struct sim_context_queue context[SIM_CONTEXTS];
};

extern struct sim_state *sim_state; // mapped by sim_state_open

// Maps (and, if need be, makes) the state. Returns 0 or an errno. Thread-safe, cheap when done.
int sim_state_open(void);
// The lock over everything in the state. Repairs what a process killed inside left behind.
void sim_lock(void);
void sim_unlock(void);

uint64_t sim_now_ns(void);
uint64_t sim_realtime_ns(void);

// This process's slot, taken at the first call (lock held). -1: table full.
int sim_process_claim(void);
// Does the process of this slot live (lock held)?
bool sim_process_alive(int slot);
// Its pid as the caller's PID namespace knows it, 0: not visible there (lock held). With the fault "nvml:hostpids": its
// pid on the host, whoever asks; 0: not known, as it has a /proc of its own and nobody on the host has looked.
int sim_process_pid(int slot);
// Discards processes that are no more: memory, contexts, queued work (lock held). Returns how many.
int sim_reap(void);
void sim_process_discard(int slot);

// The file whose pages are the contents of this block. Each exported descriptor of it carries a lock on the file's first
// byte that belongs to the open file description (F_OFD_SETLK): it lasts until the last copy of the descriptor is closed,
// in whatever process or socket that is and however it ends. What the driver itself opens carries none.
void sim_shared_path(const struct sim_shared_block *block, char *path, size_t size);
// The same for a pool, whose file is empty.
void sim_shared_pool_path(const struct sim_shared_pool *pool, char *path, size_t size);
// Finds who is to be charged for blocks without an owner, discards those that nobody has (lock held). Needed before
// figures are read, since the driver's libraries are not told when a descriptor is closed; sim_reap does it too.
void sim_shared_settle(void);

// Bytes in use on gpu by all processes (lock held, the dead included until reaped).
uint64_t sim_gpu_used(int gpu);
// Physical bytes that processes may have.
uint64_t sim_gpu_capacity(int gpu);
// Is any of that place this import's (lock held)?
bool sim_pool_import_covers(const struct sim_pool_import *import, uint64_t place, uint64_t bytes);
// What an import of the pool is charged goes to another one that has the same memory, or is gone (lock held).
void sim_pool_import_pass_on(struct sim_shared_pool *pool, struct sim_pool_import *import);
// Takes or gives physical memory for slot (lock held). False: the GPU has no more.
bool sim_charge(int slot, int gpu, uint64_t bytes);
void sim_uncharge(int slot, int gpu, uint64_t bytes);

// SOFTMIG_SIM_FAULT: the argument of fault `name`, -1 where it is not asked for ("alloc:7" -> 7; without argument: 0).
long sim_fault(const char *name);
uint64_t sim_env_bytes(const char *name, uint64_t fallback);
long sim_env_number(const char *name, long fallback);
#endif
