// SPDX-License-Identifier: Apache-2.0
// Measuring and billing; see meter_gpu.h. The lock is held for some ten nanoseconds on most launches, for microseconds when events
// are looked at, and never while sleeping.
#include "preload/meter_gpu.h"

#include <sched.h>
#include <string.h>
#include <time.h>

#include "preload/mode.h"
#include "preload/note.h"
#include "preload/stream.h"
#include "preload/uuid.h"
#include "slice/log.h"
#include "slice/sys.h"

// Streams side by side are judged by so much work together.
#define CROWD_NS (10 * MS)
enum { SPANS = 64 };

struct softmig_meter softmig_meters[SOFTMIG_MAX_GPUS];
_Atomic bool softmig_meter_in_use;
static _Atomic uint32_t locked;
static pid_t locked_in;

uint64_t softmig_meter_clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

// Launches that were noted without the lock.
static void reckon_notes(void)
{
	struct softmig_lane *lane;
	uint64_t now_ns = softmig_meter_clock_ns(), work_ns = softmig_notes_reckon(&lane, now_ns);
	if (work_ns == 0)
		return;
	struct softmig_meter *meter = &softmig_meters[lane->home->gpu];
	int i = softmig_lane_index(lane);
	atomic_fetch_sub_explicit(&meter->gate.credit_ns, (int64_t)work_ns, memory_order_relaxed);
	meter->active[i / 64] |= UINT64_C(1) << (i % 64);
	if (softmig_meter_lanes(meter) > 1)
		meter->scene.crowd_ns = now_ns;
}

bool softmig_meter_lock(void)
{
	for (unsigned tries = 1; atomic_exchange_explicit(&locked, 1, memory_order_acquire) != 0; tries++) {
		if (tries % 64 == 0)
			sched_yield();
		else
			softmig_meter_relax();
		if (tries % 4096 == 0 && softmig_sys_getpid() != locked_in)
			return false;
	}
	if (softmig_notes_end())
		reckon_notes();
	return true;
}

void softmig_meter_unlock(void)
{
	atomic_store_explicit(&locked, 0, memory_order_release);
}

static void set_up_turns(struct softmig_meter *meter)
{
	char uuid[SOFTMIG_UUID_TEXT];
	int error;
	softmig_uuid_text(meter->gpu->uuid, "GPU-", uuid);
	if (softmig_mode_from_file()) {
		error = softmig_turn_open_root(&meter->directory, SOFTMIG_TURN_DIR, uuid, softmig_mode_job(), &meter->turn.own);
		meter->turn.sum_is_whole = true;
	} else {
		// A job is known by the moment at which its ledger was made.
		error = softmig_turn_open_user(&meter->directory, "/tmp", uuid, meter->gate.phase_ns, softmig_meter_clock_ns(), &meter->turn.own);
	}
	if (error)
		softmig_log(SOFTMIG_LOG_DEBUG, "no turns on %s (errno %d): time-slicing among neighbours", uuid, error);
}

struct softmig_meter *softmig_meter_of(struct softmig_gpu *gpu)
{
	struct softmig_meter *meter = &softmig_meters[gpu->ledger];
	if (meter->gpu != NULL)
		return meter;
	struct softmig_ledger *ledger = softmig_ledger_now();
	struct softmig_ledger_slot *slot = softmig_ledger_self(ledger);
	meter->share = (struct softmig_share *)(void *)ledger->file->gpu[gpu->ledger].share_words;
	meter->gate.tag = slot != NULL ? (unsigned)(slot - ledger->file->slot) + 1 : (unsigned)softmig_sys_getpid() % 32768 + 32768;
	meter->gate.phase_ns = atomic_load_explicit(&ledger->file->created_ns, memory_order_relaxed);
	meter->gpu = gpu;
	locked_in = softmig_sys_getpid();
	set_up_turns(meter);
	atomic_store_explicit(&softmig_meter_in_use, true, memory_order_release);
	return meter;
}

struct softmig_turn *softmig_meter_turn(struct softmig_meter *meter)
{
	return meter->turn.own != NULL ? &meter->turn : NULL;
}

unsigned softmig_meter_pct(const struct softmig_meter *meter, const struct softmig_limits *limits)
{
	return meter->gpu->number >= 0 ? limits->sm_pct[meter->gpu->number] : 100;
}

void softmig_meter_add_use(const struct softmig_meter *meter, uint64_t busy_ns, uint64_t throttled_ns)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(softmig_ledger_now());
	if (slot == NULL)
		return;
	struct softmig_ledger_use *use = &slot->use[meter->gpu->ledger];
	if (busy_ns)
		atomic_fetch_add_explicit(&use->busy_ns, busy_ns, memory_order_relaxed);
	if (throttled_ns)
		atomic_fetch_add_explicit(&use->throttled_ns, throttled_ns, memory_order_relaxed);
}

bool softmig_meter_is_crowd(const struct softmig_meter *meter, uint64_t now_ns)
{
	return now_ns < meter->scene.crowd_ns + CROWD_NS;
}

// Streams that work side by side take each other's time: by how much, only their sum tells.
static void compare_crowd(struct softmig_meter *meter, uint64_t busy_ns, uint64_t now_ns)
{
	if (meter->scene.crowd_permille == 0)
		meter->scene.crowd_permille = 1000;
	if (!softmig_meter_is_crowd(meter, now_ns)) {
		meter->crowd_busy_ns = meter->crowd_estimated_ns = 0;
		return;
	}
	meter->crowd_busy_ns += busy_ns;
	meter->crowd_estimated_ns += meter->scene.estimated_ns;
	if (meter->crowd_estimated_ns < CROWD_NS)
		return;
	uint64_t permille = meter->crowd_busy_ns * 1000 / meter->crowd_estimated_ns;
	meter->scene.crowd_permille = permille < 500 ? 500 : permille > 4000 ? 4000 : permille;
	meter->crowd_busy_ns = meter->crowd_estimated_ns = 0;
}

int softmig_meter_lanes(const struct softmig_meter *meter)
{
	int lanes = 0;
	for (int word = 0; word < SOFTMIG_METER_ACTIVE && lanes < 2; word++)
		if (meter->active[word] != 0)
			lanes += (meter->active[word] & (meter->active[word] - 1)) != 0 ? 2 : 1;
	return lanes < 2 ? lanes : 2;
}

bool softmig_meter_is_covered(const struct softmig_meter *meter, const struct softmig_lane *lane, uint64_t now_ns)
{
	const struct softmig_lane *latest = NULL;
	if (meter->gate.contested || meter->gate.sharers > 0 || meter->gate.peers)
		return false;
	for (int word = 0; word < SOFTMIG_METER_ACTIVE; word++)
		for (uint64_t bits = meter->active[word]; bits != 0; bits &= bits - 1) {
			const struct softmig_lane *other = softmig_lane_at(word * 64 + __builtin_ctzll(bits));
			if (other != lane && other->home != NULL && softmig_lane_busy(other) && (latest == NULL || other->used_ns > latest->used_ns))
				latest = other;
		}
	return latest != NULL && softmig_lane_works(latest, now_ns);
}

// Lanes that have drained since active was so: what comes next in them begins anew.
static void rest(struct softmig_meter *meter, const uint64_t were[SOFTMIG_METER_ACTIVE])
{
	for (int word = 0; word < SOFTMIG_METER_ACTIVE; word++)
		for (uint64_t bits = were[word] & ~meter->active[word]; bits != 0; bits &= bits - 1)
			softmig_lane_at(word * 64 + __builtin_ctzll(bits))->rested = true;
}

uint64_t softmig_meter_sweep(struct softmig_meter *meter, uint64_t now_ns)
{
	struct softmig_lane_span span[SPANS];
	const struct softmig_limits *limits = softmig_limits_now();
	uint64_t drains_ns = 0, busy_ns = 0;
	int spans = 0;
	meter->scene.sharers = meter->gate.sharers; // other processes of the job share as other jobs do, but are billed together
	if (softmig_share_others(meter->share, meter->gate.tag, now_ns) > now_ns)
		meter->scene.sharers++;
	meter->scene.estimated_ns = meter->scene.longest_ns = 0;
	uint64_t completions = meter->scene.completions, were[SOFTMIG_METER_ACTIVE];
	memcpy(were, meter->active, sizeof(were));
	for (int word = 0; word < SOFTMIG_METER_ACTIVE; word++)
		for (uint64_t bits = meter->active[word]; bits != 0; bits &= bits - 1) {
			int i = word * 64 + __builtin_ctzll(bits);
			struct softmig_lane *lane = softmig_lane_at(i);
			if (lane->home != NULL && softmig_lane_busy(lane))
				spans += softmig_lane_look(lane, softmig_meter_self(), span + spans, SPANS - spans, &meter->scene, now_ns);
			if (lane->home == NULL || !softmig_lane_busy(lane))
				meter->active[word] &= ~(UINT64_C(1) << (i % 64));
			else if (lane->drains_ns > drains_ns)
				drains_ns = lane->drains_ns;
			else if (drains_ns == 0)
				drains_ns = now_ns;
		}
	if (meter->waited)
		rest(meter, were);
	meter->waited = false;
	for (int i = 1; i < spans; i++) // in the order of their beginnings, so that the union comes out right
		for (int j = i; j > 0 && span[j].from_ns < span[j - 1].from_ns; j--) {
			struct softmig_lane_span swap = span[j];
			span[j] = span[j - 1];
			span[j - 1] = swap;
		}
	for (int i = 0; i < spans; i++)
		busy_ns += softmig_gate_bill(&meter->gate, meter->share, softmig_meter_pct(meter, limits), limits->share_mode == SOFTMIG_SHARE_BORROW,
		                             span[i].from_ns, span[i].to_ns, now_ns);
	if (meter->scene.completions != completions)
		softmig_share_expect(meter->share, drains_ns > now_ns ? drains_ns : now_ns);
	if (busy_ns)
		softmig_meter_add_use(meter, busy_ns, 0);
	compare_crowd(meter, busy_ns, now_ns);
	return drains_ns;
}

void softmig_meter_close_one(struct softmig_meter *meter, struct softmig_lane *lane, uint64_t now_ns)
{
	int mode = softmig_stream_relax();
	softmig_lane_close(lane, softmig_meter_self(), false, meter->gate.sharers > 0, now_ns);
	softmig_stream_restore(mode);
}

void softmig_meter_close_all(struct softmig_meter *meter, CUcontext context, uint64_t now_ns)
{
	for (int word = 0; word < SOFTMIG_METER_ACTIVE; word++)
		for (uint64_t bits = meter->active[word]; bits != 0; bits &= bits - 1) {
			struct softmig_lane *lane = softmig_lane_at(word * 64 + __builtin_ctzll(bits));
			if (lane->home != NULL && lane->open.count > 0 && (context == NULL || lane->home->context == context))
				softmig_lane_close(lane, softmig_meter_self(), false, meter->gate.sharers > 0, now_ns);
		}
}

void softmig_meter_settle(struct softmig_meter *meter, uint64_t now_ns)
{
	if (meter->gpu == NULL || softmig_meter_lanes(meter) == 0)
		return;
	meter->waited = true;
	int mode = softmig_stream_relax();
	// What it waited for was one of several, and the GPU works on: the next look is soon enough.
	bool works = softmig_meter_lanes(meter) > 1 && softmig_meter_is_covered(meter, NULL, now_ns);
	uint64_t drains_ns = works ? now_ns : softmig_meter_sweep(meter, now_ns);
	softmig_stream_restore(mode);
	if (drains_ns == 0)
		softmig_gate_drained(&meter->gate, meter->share, softmig_meter_turn(meter), softmig_meter_pct(meter, softmig_limits_now()), now_ns);
}
