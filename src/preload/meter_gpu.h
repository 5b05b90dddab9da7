// SPDX-License-Identifier: Apache-2.0
// One GPU's meter in this process, for the files that make up the meter (meter.c the doors, meter_admit.c the waiting, meter_gpu.c the
// measuring). Owns: the meters, their lock, sweeping what was done into the bill. Everything but the lock itself is called with it held.
#ifndef SOFTMIG_PRELOAD_METER_GPU_H
#define SOFTMIG_PRELOAD_METER_GPU_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload/gpu.h"
#include "preload/lane.h"
#include "preload/stream.h"
#include "slice/gate.h"
#include "slice/limits.h"
#include "slice/turn_files.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
// Around an awaited moment: wake up so much earlier, then poll.
#define SOFTMIG_METER_EARLY_NS (80 * US)
enum { SOFTMIG_METER_ACTIVE = SOFTMIG_LANES / 64 };

struct softmig_meter {
	struct softmig_gpu *gpu; // NULL: not in use
	struct softmig_share *share;
	struct softmig_gate gate;
	struct softmig_turn turn;
	struct softmig_turn_directory directory;
	uint64_t pages_ns;
	bool pages_later; // they are due, and read as soon as the command at hand is submitted
	uint64_t active[SOFTMIG_METER_ACTIVE]; // lanes that may have work
	bool waited; // the program did, or the thread that works for this GPU, since it was last swept: what has drained is at rest
	struct softmig_lane_scene scene;
	uint64_t crowd_busy_ns, crowd_estimated_ns; // since the scene's crowd was last compared
	struct softmig_lane *last; // launched into last
};

extern struct softmig_meter softmig_meters[SOFTMIG_MAX_GPUS]; // by the ledger's index
extern _Atomic bool softmig_meter_in_use;     // some launch was metered

uint64_t softmig_meter_clock_ns(void);
static inline void softmig_meter_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

// The calling thread, by the place of its control block. No thread-local variable: it would take room in every thread of every process.
static inline uint64_t softmig_meter_self(void)
{
	uint64_t place;
#if defined(__x86_64__)
	__asm__("mov %%fs:0, %0" : "=r"(place));
#elif defined(__aarch64__)
	__asm__("mrs %0, tpidr_el0" : "=r"(place));
#else
	place = (uint64_t)syscall(SYS_gettid);
#endif
	return place;
}

// One lock for the process. False: in a child forked while another thread held it. Such a child has no driver to meter.
bool softmig_meter_lock(void);
void softmig_meter_unlock(void);
// The meter of a GPU, set up if new.
struct softmig_meter *softmig_meter_of(struct softmig_gpu *gpu);
// Its turns; NULL: there are none.
struct softmig_turn *softmig_meter_turn(struct softmig_meter *meter);
// The share in percent.
unsigned softmig_meter_pct(const struct softmig_meter *meter, const struct softmig_limits *limits);
// Adds to this process's figures for status.
void softmig_meter_add_use(const struct softmig_meter *meter, uint64_t busy_ns, uint64_t throttled_ns);
// No lane at work, one, or more (2).
int softmig_meter_lanes(const struct softmig_meter *meter);
// Two streams were at work at once, not long ago.
bool softmig_meter_is_crowd(const struct softmig_meter *meter, uint64_t now_ns);
// Is a lane, other than this one, at work at this moment? Then that time is billed, whatever this one does. False where there are neighbours or other
// GPUs of the job, which want to know more.
bool softmig_meter_is_covered(const struct softmig_meter *meter, const struct softmig_lane *lane, uint64_t now_ns);
// Bills what was done until now. Returns until when there is work on the GPU by the estimates; 0: there is none.
uint64_t softmig_meter_sweep(struct softmig_meter *meter, uint64_t now_ns);
// Ends open batches (of a context; NULL: all), so that events tell when they are done, rather than estimates.
void softmig_meter_close_one(struct softmig_meter *meter, struct softmig_lane *lane, uint64_t now_ns);
void softmig_meter_close_all(struct softmig_meter *meter, CUcontext context, uint64_t now_ns);
// The program, or the thread that works for this GPU among others, has waited: bills, and lets go of what has drained.
void softmig_meter_settle(struct softmig_meter *meter, uint64_t now_ns);

// meter_admit.c: waits until the gate lets a command pass. The lock is held, given up while sleeping, and held again on return.
// Returns the time; 0: the lock is lost (see softmig_meter_lock).
uint64_t softmig_meter_admit(struct softmig_meter *meter, uint64_t estimate_ns, uint64_t now_ns);
void softmig_meter_pause_until(uint64_t until_ns);
// What neighbours say. The lock is held, and there are turns.
void softmig_meter_read_pages(struct softmig_meter *meter, uint64_t now_ns);
#endif
