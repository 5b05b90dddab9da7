// SPDX-License-Identifier: Apache-2.0
// Who uses how much: a small file of fixed layout that every process of a slice maps. Owns: its layout, admission, slots,
// reclaiming the dead. Must never: know the driver, block on another process, trust what another process can write,
// allocate, print, keep a descriptor, change errno.
//
// Admission without a lock and without a total (a total could be left wrong by a process killed between two writes):
//   announce   pending += n in one's own slot (sequentially consistent),
//   look       sum used + pending over all slots that are owned,
//   grant      sum <= limit: used += n, then pending -= n;
//   refuse     what is used already plus n is over the limit, twice with nothing changed in between: pending -= n;
//   contend    only announcements are in the way: the oldest waiter stands, the others withdraw, wait and retry (bounded).
// Cover is an announcement that stays: for small allocations, of which the driver alone knows whether they take memory. Kept from one
// to the next, it spares each the look; whoever needs it to be granted something takes it away while it is not in use.
// Two requests that do not fit together see each other, so never both are granted; a dead process's part is its slot alone,
// so discarding the slot restores the sum exactly, whatever instruction it died at.
//
// A slot's life, by compare-and-swap of its owner word alone:
//   free -> busy (one process, named in the word, holds it and zeroes it) -> owned -> busy (another found the owner dead) -> free.
// Only owned slots count. A holder that dies while busy is found dead like any other and its slot taken over.
//
// What dies with a slot may live on in another process, which had opened it. So whoever discards the slot, or a process that lets go of such memory,
// first charges it to all that may hold it (pass on), as overhead, until they have compared it with NVML's figure.
//
// Files: ledger.c admission, ledger_slot.c slots, ledger_heirs.c what is passed on, ledger_alive.c who lives, ledger_file.c the file and its readers.
#ifndef SOFTMIG_SLICE_LEDGER_H
#define SOFTMIG_SLICE_LEDGER_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice/limits.h"

#define SOFTMIG_LEDGER_MAGIC 0x4c47494d54464f53ull // "SOFTMIGL"
#define SOFTMIG_LEDGER_VERSION 1u
#define SOFTMIG_LEDGER_SLOTS 1024

// A process's use of one GPU, one cache line. Written by its owner's threads only, zeroed by whoever reclaims the slot; but to the overhead others
// may add (softmig_ledger_pass_on).
struct softmig_ledger_use {
	_Atomic uint64_t tracked_bytes;  // what the hooks saw the driver hand out
	_Atomic uint64_t overhead_bytes; // contexts, modules, slack: the driver's own figure less tracked, or the measured cost
	_Atomic uint64_t pending_bytes;  // announced, not yet granted
	_Atomic uint64_t peak_bytes;     // most of tracked + overhead
	_Atomic uint64_t busy_ns;        // GPU time used
	_Atomic uint64_t throttled_ns;   // time that launches waited
	_Atomic uint64_t waiting_ns;     // CLOCK_MONOTONIC since when a request of its contends: the oldest is served first
	_Atomic uint64_t cover_bytes;    // announced, and kept: SOFTMIG_LEDGER_COVER_IN_USE is added while an allocation is under way
};

// owner: 2 bits state, 8 bits generation (so that a word never comes back while somebody still judges it), 22 bits pid,
// 32 bits of the start time (clock ticks). Busy: the holder's pid, 16 bits of its start time and 16 bits that stand for its
// PID namespace. Read it by the functions below, not by hand.
struct softmig_ledger_slot {
	_Atomic uint64_t owner;
	_Atomic uint64_t pid_ns;     // inode of its PID namespace
	_Atomic uint64_t claimed_ns; // CLOCK_BOOTTIME
	_Atomic uint64_t image;      // hash of its auxiliary vector, which others can read: another one after exec, save by accident
	_Atomic uint64_t random;     // of the kernel's random bytes, which others cannot read: certainly another one after exec
	_Atomic uint64_t giving;     // low 16 bits: on these GPUs it is giving back; above: since when, CLOCK_MONOTONIC in 2^10 ns
	_Atomic uint64_t exported_bytes; // what others may have opened of what it holds: too much rather than too little
	_Atomic uint64_t imports;        // low 16 bits: on these GPUs something was passed on to it; above: when it imported last, CLOCK_MONOTONIC; 0: holds none
	struct softmig_ledger_use use[SOFTMIG_MAX_GPUS];
};

enum { SOFTMIG_LEDGER_GPU_FREE, SOFTMIG_LEDGER_GPU_KNOWN = 2 };

// What the job shares about one GPU. The bucket and its neighbours belong to share.h (see there); 192 bytes are theirs.
struct softmig_ledger_gpu {
	_Atomic uint8_t uuid[16];          // valid when state is SOFTMIG_LEDGER_GPU_KNOWN
	_Atomic uint32_t state;
	uint32_t reserved0;
	_Atomic uint64_t context_bytes;    // largest measured cost of a bare context here
	_Atomic uint64_t refusals;         // requests refused
	_Atomic uint64_t peak_bytes;       // of the job
	_Atomic uint64_t key;              // hash of the uuid: taken by compare-and-swap, then anybody with the same uuid completes the entry
	uint64_t reserved1;
	_Atomic uint64_t share_words[24];
};

// All zero but for the first 24 bytes is an empty ledger, so creating one can be completed by anybody at any step.
struct softmig_ledger_file {
	_Atomic uint64_t magic;            // written last
	_Atomic uint32_t version;
	_Atomic uint32_t size_bytes;
	_Atomic uint64_t created_ns;       // CLOCK_REALTIME
	uint64_t pad0[5];
	_Atomic uint64_t mark;             // low half: slots below it may be in use, none above; high half: counts claims
	uint8_t pad1[128 - 72];
	_Atomic uint64_t series_words[483]; // the job's course in time: see series.h
	uint8_t pad2[4096 - 128 - 483 * 8];
	struct softmig_ledger_gpu gpu[SOFTMIG_MAX_GPUS];
	struct softmig_ledger_slot slot[SOFTMIG_LEDGER_SLOTS];
	// What pools keep and was passed on to each slot's owner on each GPU: no less than there is of it in the overhead.
	_Atomic uint64_t passed_on_bytes[SOFTMIG_LEDGER_SLOTS][SOFTMIG_MAX_GPUS];
};

_Static_assert(sizeof(struct softmig_ledger_use) == 64, "a process's use of a GPU is one cache line");
_Static_assert(sizeof(struct softmig_ledger_slot) == 64 + 64 * SOFTMIG_MAX_GPUS, "slots keep the lines aligned");
_Static_assert(sizeof(struct softmig_ledger_gpu) == 256 && offsetof(struct softmig_ledger_gpu, share_words) == 64, "share.h counts on it");
_Static_assert(offsetof(struct softmig_ledger_file, mark) == 64, "the mark has its own cache line");
_Static_assert(offsetof(struct softmig_ledger_file, series_words) == 128, "layout, version 1");
_Static_assert(offsetof(struct softmig_ledger_file, gpu) == 4096 && offsetof(struct softmig_ledger_file, slot) == 8192, "layout, version 1");
_Static_assert(sizeof(struct softmig_ledger_file) == 1253376, "layout, version 1");

struct softmig_ledger_mine; // private to the process, see ledger_private.h

// A process's own handle; zero-initialised is "not open".
struct softmig_ledger {
	struct softmig_ledger_file *file; // mapped shared
	struct softmig_ledger_mine *mine; // a page of this process that fork wipes: which slot is ours
	bool wipes;                       // false: the kernel cannot wipe (before 4.14), the pid is compared instead
};

// A clock's time, as the ledger's figures in _ns are.
uint64_t softmig_ledger_clock_ns(int clock);

// Creates (if create) or opens the ledger at path and maps it. Refuses a link, a file of another owner than owner_uid, one that group or
// others may write, a foreign or short file (unless create, where an empty or half-made one is completed; what is neither
// empty nor a ledger of this version is never overwritten). The full size is allocated on the disk at once, so that a file
// system that fills up later does not kill with SIGBUS (where the file system cannot allocate ahead, the file is sparse).
// Who may write the file can also truncate it, and so kill the processes that map it: the job's own fault; tools use the snapshot.
// Returns 0, or the errno that tells why: ELOOP link, EPERM owner or mode, EINVAL not a ledger, ENOSPC ...
int softmig_ledger_open(struct softmig_ledger *ledger, const char *path, uid_t owner_uid, bool create);
// Frees this process's slot and unmaps. Only when the driver holds nothing for this process any more and no thread uses the
// handle; a process that just ends must not call it: its slot is found dead as soon as its memory is the driver's again.
void softmig_ledger_close(struct softmig_ledger *ledger);
// For root: makes a new, complete ledger owned by uid and gid, mode 0600, in a directory of root's. Follows no link.
// EEXIST: something of that name is there (and untouched). Leaves nothing behind when it fails.
int softmig_ledger_create(const char *path, uid_t uid, gid_t gid);

// The ledger's index of a GPU, adding it when new. -1: table full or damaged.
int softmig_ledger_gpu(struct softmig_ledger *ledger, const uint8_t uuid[16]);

// This process's slot, claimed at the first call after start, exec or fork. NULL: table full (after reclaiming the dead).
// Cheap when already claimed: one load of a page that fork wipes and one of the slot. Threads of a process share it: add, never store,
// except where one thread alone writes.
struct softmig_ledger_slot *softmig_ledger_self(struct softmig_ledger *ledger);

enum softmig_ledger_kind { SOFTMIG_LEDGER_TRACKED, SOFTMIG_LEDGER_OVERHEAD };

// Asks for bytes on gpu under limit_bytes (0: no limit). True: granted and charged to this process. False: refused, nothing
// charged; the dead have been reclaimed before refusing. Thread-safe. Waits for nobody but a contending announcement, at most
// 10 ms; longer, up to a second, only while its owner is alive and runnable but the machine has not let it run.
// Not from signal handlers.
bool softmig_ledger_reserve(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes, uint64_t limit_bytes);
// Counts a refusal that a program was told of (a reservation may be tried several times for one answer).
void softmig_ledger_count_refusal(struct softmig_ledger *ledger, int gpu);
// Gives back what was granted. Never lets a figure fall below zero.
void softmig_ledger_release(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes);
// This process begins or ends to give back what is still charged to it, and to find out how much that was. Begins before anything is free,
// and ends when the ledger says so. One thread at a time for each GPU.
void softmig_ledger_gives_back(struct softmig_ledger *ledger, int gpu, bool begins);
// Do other processes? Who asks, and then looks, finds what those had given back who no longer do. Whoever began more than a second ago is not
// waited for.
bool softmig_ledger_others_give_back(struct softmig_ledger *ledger, int gpu);
// This process has exported so much that it holds: others may hold it open when this one has ended. Or that is not so any more.
void softmig_ledger_export(struct softmig_ledger *ledger, uint64_t bytes, bool begins);
// It holds memory of others open from now on, or does not any more. Begins before it has any. One thread at a time.
void softmig_ledger_import(struct softmig_ledger *ledger, bool holds);
// It holds nothing any more that it imported later than at last_ns (CLOCK_MONOTONIC). No thread beside that either.
void softmig_ledger_import_last(struct softmig_ledger *ledger, uint64_t last_ns);
// It has let go of so much that it had exported at since_ns or later (CLOCK_MONOTONIC; 0: at any time) and that is still charged to it: charges it to
// all that may hold it open as well. Then it is for each of them to find out. pools: it is what these kept, which NVML shows to nobody.
void softmig_ledger_pass_on(struct softmig_ledger *ledger, int gpu, uint64_t bytes, uint64_t since_ns, bool pools);
// So much that pools keep has been passed on to this process on that GPU since its slot is its own: asked after the overhead, all that is in that.
uint64_t softmig_ledger_passed_on(struct softmig_ledger *ledger, int gpu);
// Has something been passed on to this process since it was asked last?
bool softmig_ledger_inherited(struct softmig_ledger *ledger, int gpu);
// Cover for one allocation that may turn out to take memory. Ask before the driver's call: first for what was kept, which costs no look
// (and minds no change of the limit since: mind it when the cover is spent), else anew, if it fits as things are. NULL: not to be had,
// or another thread has it. After the call, with what was answered: keep it, if the allocation took nothing; spend it, if it
// took all of it, which is then charged as tracked; or drop it. bytes: even, not 0, always the same for a GPU.
struct softmig_ledger_use *softmig_ledger_cover_kept(struct softmig_ledger *ledger, int gpu, uint64_t bytes);
struct softmig_ledger_use *softmig_ledger_cover(struct softmig_ledger *ledger, int gpu, uint64_t bytes, uint64_t limit_bytes);
void softmig_ledger_cover_spend(struct softmig_ledger *ledger, int gpu, struct softmig_ledger_use *use, uint64_t bytes);
#define SOFTMIG_LEDGER_COVER_IN_USE 1ull
// Release: whoever sees it kept or gone sees what was charged before.
static inline void softmig_ledger_cover_keep(struct softmig_ledger_use *use, uint64_t bytes)
{
	atomic_store_explicit(&use->cover_bytes, bytes, memory_order_release);
}
static inline void softmig_ledger_cover_drop(struct softmig_ledger_use *use)
{
	atomic_store_explicit(&use->cover_bytes, 0, memory_order_release);
}
// Sets this process's overhead on gpu to the measured figure, up or down, limit or not: it is what the driver already holds.
void softmig_ledger_set_overhead(struct softmig_ledger *ledger, int gpu, uint64_t bytes);
// The same, but only if it still is expected_bytes: another thread may have reserved overhead since the figure was taken. False: it is not.
bool softmig_ledger_swap_overhead(struct softmig_ledger *ledger, int gpu, uint64_t expected_bytes, uint64_t bytes);

// Bytes of all the job's processes on gpu, announcements left out. Validates every figure; never fails. Every 10 ms at most it
// first looks whether the other owners of these bytes are alive.
uint64_t softmig_ledger_used(const struct softmig_ledger *ledger, int gpu);
// Frees the slots of dead processes. Returns how many. 10 us per other process.
int softmig_ledger_reclaim(struct softmig_ledger *ledger);

// For tools: a copy of the file taken with pread, so that an owner who truncates it harms nobody, of a
// regular file: nothing else is opened. 0 or errno (EINVAL: not a ledger).
int softmig_ledger_snapshot(const char *path, struct softmig_ledger_file *copy);
// Is the process of this slot alive, seen from here? By pid, start time and namespace; a zombie whose threads are all gone is dead: the
// driver has its memory back. What cannot be seen (another PID namespace, no /proc) counts as alive. ledger may be NULL.
bool softmig_ledger_slot_alive(const struct softmig_ledger *ledger, const struct softmig_ledger_slot *slot);

// One process of a ledger, for tools. The pid is as its own namespace counts.
struct softmig_ledger_process {
	pid_t pid;
	uint64_t pid_ns;
	uint64_t claimed_ns;                        // CLOCK_BOOTTIME
	uint64_t used_bytes[SOFTMIG_MAX_GPUS];      // tracked and overhead
	uint64_t overhead_bytes[SOFTMIG_MAX_GPUS];  // of these
	uint64_t peak_bytes[SOFTMIG_MAX_GPUS];
	uint64_t busy_ns[SOFTMIG_MAX_GPUS];
	uint64_t throttled_ns[SOFTMIG_MAX_GPUS];
};

// The next living process of a copy (or of a mapped file), from *cursor on (0 at first). False: no more.
bool softmig_ledger_next(const struct softmig_ledger_file *file, int *cursor, struct softmig_ledger_process *process);
// Is entry gpu of the table in use, and which GPU is it?
bool softmig_ledger_gpu_uuid(const struct softmig_ledger_file *file, int gpu, uint8_t uuid[16]);
// The pid in a slot's owner word, 0 when nobody owns it.
pid_t softmig_ledger_slot_pid(const struct softmig_ledger_slot *slot);
#endif
