// SPDX-License-Identifier: Apache-2.0
// Who uses how much: a small file of fixed layout that every process of a slice maps. Owns: its layout, admission, slots,
// reclaiming the dead. Must never: know the driver, block on another process, trust what another process can write,
// allocate, print, keep a descriptor, change errno.
//
// Admission without a lock and without a total (a total could be left wrong by a process killed between two writes):
//   announce   pending += n in one's own slot (sequentially consistent),
//   look       sum used + pending over all slots that are claimed,
//   grant      sum <= limit: used += n, then pending -= n;
//   refuse     what others already use plus n is over the limit: pending -= n;
//   contend    only others' announcements are in the way: the lowest slot stands, the others withdraw, wait and retry (bounded).
// Two requests that do not fit together see each other, so never both are granted; a dead process's part is its slot alone,
// so discarding the slot restores the sum exactly, whatever instruction it died at.
#ifndef SOFTMIG_SLICE_LEDGER_H
#define SOFTMIG_SLICE_LEDGER_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice/limits.h"

#define SOFTMIG_LEDGER_MAGIC 0x4c47494d54464f53ull // "SOFTMIGL"
#define SOFTMIG_LEDGER_VERSION 1u
#define SOFTMIG_LEDGER_SLOTS 1024

// A process's use of one GPU. Written by its owner's threads only (and zeroed by whoever reclaims the slot).
struct softmig_ledger_use {
	_Atomic uint64_t tracked_bytes;  // what the hooks saw the driver hand out
	_Atomic uint64_t overhead_bytes; // contexts, modules, slack: the driver's own figure less tracked, or the measured cost
	_Atomic uint64_t pending_bytes;  // announced, not yet granted
	_Atomic uint64_t peak_bytes;
	_Atomic uint64_t busy_ns;        // GPU time used
	_Atomic uint64_t throttled_ns;   // time that launches waited
	uint64_t reserved[2];
};

struct softmig_ledger_slot {
	_Atomic uint64_t owner;      // pid << 32 | low 32 bits of its start time (clock ticks); 0: free
	_Atomic uint64_t pid_ns;     // inode of its PID namespace
	_Atomic uint64_t claimed_ns; // CLOCK_BOOTTIME
	uint64_t reserved[5];
	struct softmig_ledger_use use[SOFTMIG_MAX_GPUS];
};

// What the job shares about one GPU. The bucket and its neighbours belong to share.h (see there); 192 bytes are theirs.
struct softmig_ledger_gpu {
	uint8_t uuid[16];                  // written once, before state becomes SOFTMIG_LEDGER_GPU_KNOWN
	_Atomic uint32_t state;            // 0 free, 1 being written, 2 known
	uint32_t reserved0;
	_Atomic uint64_t context_bytes;    // largest measured cost of a bare context here
	_Atomic uint64_t refusals;         // requests refused
	_Atomic uint64_t peak_bytes;       // of the job
	uint64_t reserved1[2];
	_Atomic uint64_t share_words[24];
};

struct softmig_ledger_file {
	_Atomic uint64_t magic;
	uint32_t version;
	uint32_t size_bytes;
	uint64_t created_ns;       // CLOCK_REALTIME
	uint8_t pad[4096 - 24];
	struct softmig_ledger_gpu gpu[SOFTMIG_MAX_GPUS];
	struct softmig_ledger_slot slot[SOFTMIG_LEDGER_SLOTS];
};

// A process's own handle; zero-initialised is "not open".
struct softmig_ledger {
	struct softmig_ledger_file *file; // mapped shared
	dev_t device;                     // of the file, to recognise it in /proc/PID/maps
	ino_t inode;
};

// Creates (if create) or opens the ledger at path and maps it. Refuses a link, a file of another owner than owner_uid, one that group or
// others may write, a short or foreign file (an own file of wrong magic or version is rebuilt when create is set). Returns 0, or
// the errno that tells why: ELOOP link, EPERM owner or mode, EINVAL not a ledger, ENOSPC ...
int softmig_ledger_open(struct softmig_ledger *ledger, const char *path, uid_t owner_uid, bool create);
void softmig_ledger_close(struct softmig_ledger *ledger);

// The ledger's index of a GPU, adding it when new. -1: table full or damaged.
int softmig_ledger_gpu(struct softmig_ledger *ledger, const uint8_t uuid[16]);

// This process's slot, claimed at the first call after start, exec or fork. NULL: table full (after reclaiming the dead).
// Cheap when already claimed: one load of a page that fork wipes.
struct softmig_ledger_slot *softmig_ledger_self(struct softmig_ledger *ledger);

enum softmig_ledger_kind { SOFTMIG_LEDGER_TRACKED, SOFTMIG_LEDGER_OVERHEAD };

// Asks for bytes on gpu under limit_bytes (0: no limit). True: granted and charged to this process. False: refused, nothing
// charged; the dead have been reclaimed before refusing. Thread-safe; waits for nobody but a contending announcement, at most 10 ms.
bool softmig_ledger_reserve(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes, uint64_t limit_bytes);
// Gives back what was granted. Never lets a figure fall below zero.
void softmig_ledger_release(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes);
// Sets this process's overhead on gpu to the measured figure, up or down, limit or not: it is what the driver already holds.
void softmig_ledger_set_overhead(struct softmig_ledger *ledger, int gpu, uint64_t bytes);

// Bytes of all the job's processes on gpu, announcements left out. Validates every figure; never fails.
uint64_t softmig_ledger_used(const struct softmig_ledger *ledger, int gpu);
// Frees the slots of dead processes. Returns how many.
int softmig_ledger_reclaim(struct softmig_ledger *ledger);

// For tools: a copy of the file taken with pread, so that an owner who truncates it harms nobody. 0 or errno.
int softmig_ledger_snapshot(const char *path, struct softmig_ledger_file *copy);
// Is the process of this slot alive, seen from here? (pid, start time, namespace, and still mapping the file where that can be read)
bool softmig_ledger_slot_alive(const struct softmig_ledger *ledger, const struct softmig_ledger_slot *slot);
#endif
