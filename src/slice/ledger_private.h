// SPDX-License-Identifier: Apache-2.0
// What the ledger's own files share with each other and with nobody else: the owner word, the private page, liveness.
#ifndef SOFTMIG_SLICE_LEDGER_PRIVATE_H
#define SOFTMIG_SLICE_LEDGER_PRIVATE_H
#include "slice/ledger.h"

// A test build kills a process at every one of these points; elsewhere they are nothing.
#ifdef SOFTMIG_LEDGER_STEPS
void softmig_ledger_step(void);
#define STEP() softmig_ledger_step()
#else
#define STEP() ((void)0)
#endif

#define LIKELY(condition) __builtin_expect(!!(condition), 1)
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

enum owner_state { OWNER_FREE, OWNER_OWNED, OWNER_BUSY };

#define OWNER_PID_MASK 0x3fffffu // the kernel's largest pid_max is 2^22
#define OWNER_GENERATION(word) ((word) & (0xffull << 54))
#define OWNER_IDENTITY(word) ((word) & ~(0xffull << 54)) // all but the generation

static inline enum owner_state owner_state(uint64_t word)
{
	return (enum owner_state)(word >> 62);
}

static inline uint32_t owner_pid(uint64_t word)
{
	return (uint32_t)(word >> 32) & OWNER_PID_MASK;
}

static inline uint32_t owner_start(uint64_t word)
{
	return (uint32_t)word;
}

static inline uint64_t owner_word(enum owner_state state, uint64_t generation, uint32_t pid, uint32_t start)
{
	return (uint64_t)state << 62 | OWNER_GENERATION(generation) | (uint64_t)(pid & OWNER_PID_MASK) << 32 | start;
}

static inline uint64_t owner_next_generation(uint64_t word)
{
	return OWNER_GENERATION(word + (1ull << 54));
}

// Who looks: a process's own identity, and what it can see of others. Read once per process (fork starts anew).
struct viewer {
	uint32_t pid;
	uint32_t start;      // clock ticks, low half; 0: unknown (no /proc)
	uint64_t pid_ns;     // 0: unknown
	uint64_t image;      // hash of the auxiliary vector; 0: unknown
	uint64_t random;
	bool proc_is_ours;   // /proc counts pids as we do
};

static inline uint32_t viewer_ns_mark(const struct viewer *viewer)
{
	return (uint32_t)(viewer->pid_ns ^ viewer->pid_ns >> 16) & 0xffff;
}

// Lies in an anonymous page of its own, all zero at the start and, by MADV_WIPEONFORK, in every child.
struct softmig_ledger_mine {
	_Atomic uint64_t slot;      // pid << 32 | generation << 16 | index + 1; 0: none
	_Atomic uint64_t identity;  // OWNER_IDENTITY of our slot's owner word
	_Atomic uint64_t standing;  // pid, while one of our threads stands in a contention
	_Atomic uint64_t looked_ns; // when softmig_ledger_used last looked for the dead
	_Atomic uint64_t deep_ns;   // when we last looked with the costly means
	// When each slot's owner was last found alive by all of softmig_ledger_fate(): its pid and start, mixed, and JUDGED_UNIT_NS.
	_Atomic uint64_t judged[SOFTMIG_LEDGER_SLOTS];
};

// For so long, at most twice, an owner found alive is only asked whether its pid still runs: pids do not come round in 17 ms. A
// refusal looks twice, and those who are refused ask again at once.
#define JUDGED_UNIT_NS (1ull << 23)

// ledger_alive.c
enum fate { FATE_DEAD, FATE_STOPPED, FATE_ALIVE, FATE_UNKNOWN };
void softmig_ledger_viewer(struct viewer *viewer);
// The owner or holder in an owner word, by the cheap means: kill(pid, 0) and /proc/PID/stat.
enum fate softmig_ledger_fate(const struct viewer *viewer, uint64_t word, uint64_t pid_ns);
// Does the process of the pid in an owner word still run a program (a third of the other's cost)? For one that was judged a moment ago. False: perhaps not.
bool softmig_ledger_pid_runs(uint64_t word);
// The costly means, for those whom the cheap ones show alive or not at all. Each names slots by index in dead[].
// Those that have exec'ed since they claimed their slot:
int softmig_ledger_find_execed(const struct softmig_ledger_file *file, const struct viewer *viewer, const uint16_t *candidates,
                                 int count, uint16_t *dead);
// Those of other PID namespaces, seen from one that sees every process of the machine:
int softmig_ledger_find_elsewhere(const struct softmig_ledger_file *file, const struct viewer *viewer, const uint16_t *candidates,
                                  int count, uint16_t *dead);

// ledger_slot.c
// Which slots a sweep is about, and whether it may take the costly means (at most once a second).
enum sweep {
	SWEEP_ALL,     // every one, costly
	SWEEP_CLAIM,   // every one
	SWEEP_USED,    // those that use something on the GPU
	SWEEP_REFUSAL, // the same, costly
	SWEEP_PENDING, // those that announce something on the GPU
};
// Reclaims the dead among them; returns how many. stuck, if not NULL, is set when a living owner is stopped or cannot be judged.
int softmig_ledger_sweep(const struct softmig_ledger *ledger, int gpu, enum sweep which, bool *stuck);
// The number of slots to look at, whatever stands in the file.
static inline uint32_t ledger_mark(uint64_t mark)
{
	uint32_t count = (uint32_t)mark;
	return count < SOFTMIG_LEDGER_SLOTS ? count : SOFTMIG_LEDGER_SLOTS;
}
// ledger_heirs.c: what a dead process had exported is charged to those who may hold it. Before its slot is freed.
void softmig_ledger_bequeath(struct softmig_ledger_file *file, struct softmig_ledger_slot *slot);
// Makes sure that others look at slot index, and that who is summing begins anew.
void softmig_ledger_raise_mark(struct softmig_ledger_file *file, uint32_t index);
void softmig_ledger_discard_former_self(struct softmig_ledger_file *file);
void softmig_ledger_leave(const struct softmig_ledger *ledger);

// softmig_ledger_self() without a call, where all is as it usually is.
static inline struct softmig_ledger_slot *ledger_self(struct softmig_ledger *ledger)
{
	if (LIKELY(ledger->wipes)) { // so it is open
		uint64_t word = atomic_load_explicit(&ledger->mine->slot, memory_order_acquire);
		if (LIKELY(word != 0)) {
			struct softmig_ledger_slot *slot = &ledger->file->slot[((uint32_t)word & 0xffff) - 1];
			if (LIKELY(OWNER_IDENTITY(atomic_load_explicit(&slot->owner, memory_order_relaxed)) ==
			           atomic_load_explicit(&ledger->mine->identity, memory_order_relaxed)))
				return slot;
		}
	}
	return softmig_ledger_self(ledger);
}

static inline uint64_t add_saturated(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

// Never below zero: a figure that another process scribbled on, or a slot lost and claimed anew, must not wrap.
static inline void subtract_clamped(_Atomic uint64_t *figure, uint64_t bytes)
{
	uint64_t have = atomic_load_explicit(figure, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(figure, &have, have > bytes ? have - bytes : 0, memory_order_seq_cst,
	                                              memory_order_relaxed)) {
	}
}

static inline void raise_to(_Atomic uint64_t *figure, uint64_t value)
{
	uint64_t have = atomic_load_explicit(figure, memory_order_relaxed);
	while (have < value &&
	       !atomic_compare_exchange_weak_explicit(figure, &have, value, memory_order_relaxed, memory_order_relaxed)) {
	}
}
#endif
