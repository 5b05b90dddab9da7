// SPDX-License-Identifier: Apache-2.0
// The meter's doors; see meter.h. Most launches cost a table look-up and a note, those after a moment's pause a clock reading and the lock.
#include "preload/meter.h"

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "preload/meter_gpu.h"
#include "preload/mode.h"
#include "preload/note.h"
#include "preload/stream.h"

// So much open work in a stream is worth an event when the program turns to another, or sets an event of its own.
#define SWITCH_NS (100 * US)
// What a stream waits for is told apart from its work at the price of two events and the look at them, some 9 us: so often at most, and so many at once.
#define WAIT_NS (300 * US)
#define WAITS 32
// Beside neighbours, work that a program waits for is polled for from so long before its end, as the driver would: a sleeper is told 50 us late, and
// until a small kernel's time slice comes, nobody knows its end. For more work it sleeps so long at a time.
#define AWAITED_NS (300 * US)
#define AWAIT_NAP_NS (100 * US)
enum { CACHED = 64 };

static struct softmig_lane *cache[CACHED]; // what was launched into lately

// ---- launches

// The stream by the name that means the same in every function; *context: the current one, where that is what it stands for.
static CUstream plain_name(CUstream stream, bool per_thread, CUcontext *context)
{
	*context = NULL;
	if (!softmig_stream_is_special(stream))
		return stream;
	DRIVER(cuCtxGetCurrent)(context);
	if (stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread))
		return CU_STREAM_PER_THREAD;
	return NULL;
}

static struct softmig_lane **cached_lane(CUstream stream, uint64_t owner)
{
	return &cache[((uintptr_t)stream >> 4 ^ (uintptr_t)stream >> 12 ^ owner >> 12) % CACHED];
}

// Lock held.
static struct softmig_lane *lane_of(CUstream stream, CUcontext context, uint64_t now_ns)
{
	uint64_t owner = stream == CU_STREAM_PER_THREAD ? softmig_meter_self() : 0;
	struct softmig_lane **cached = cached_lane(stream, owner);
	struct softmig_lane *lane = *cached;
	if (lane != NULL && lane->home != NULL && lane->stream == stream && !lane->gone &&
	    (context == NULL || (lane->home->context == context && lane->thread == owner)))
		return lane;
	if (context == NULL && (!SOFTMIG_HAS(cuStreamGetCtx) || DRIVER(cuStreamGetCtx)(stream, &context) != CUDA_SUCCESS))
		return NULL;
	struct softmig_gpu *gpu = context != NULL ? softmig_gpu_of_context(context) : NULL;
	if (gpu == NULL && context != NULL)
		gpu = softmig_gpu_current();
	if (gpu == NULL)
		return NULL;
	softmig_meter_of(gpu);
	return *cached = softmig_lane_find(context, gpu->ledger, stream, owner, now_ns);
}

// Has nothing but this lane work on the GPU, as far as is known?
static bool is_alone(const struct softmig_meter *meter, const struct softmig_lane *lane)
{
	int i = softmig_lane_index(lane);
	for (int word = 0; word < SOFTMIG_METER_ACTIVE; word++)
		if ((meter->active[word] & ~(word == i / 64 ? UINT64_C(1) << (i % 64) : 0)) != 0)
			return false;
	return !meter->gate.contested && meter->gate.sharers == 0;
}

// What this thread launches into the stream next need only be noted, as long as the gate's word stands.
static void allow_notes(const struct softmig_meter *meter, struct softmig_lane *lane, CUstream stream, CUcontext context, uint64_t now_ns)
{
	int64_t credit_ns = atomic_load_explicit(&meter->gate.credit_ns, memory_order_relaxed);
	uint64_t valid_until_ns = atomic_load_explicit(&meter->gate.valid_until_ns, memory_order_relaxed);
	uint32_t room_ns = softmig_lane_room(lane);
	if (credit_ns > 0 && room_ns > 0 && valid_until_ns > now_ns)
		softmig_notes_begin(softmig_meter_self(), stream, context, lane, credit_ns < room_ns ? (uint32_t)credit_ns : room_ns, valid_until_ns - now_ns, now_ns);
}

// What a launch costs is mostly what it finds not in the caches: so this lies apart.
static __attribute__((noinline)) void ask(struct softmig_meter_launch *launch, CUstream stream, CUcontext context, bool known, bool dependent)
{
	uint64_t now_ns = softmig_meter_clock_ns();
	if (!softmig_meter_lock())
		return;
	struct softmig_lane *lane = lane_of(stream, context, now_ns);
	if (lane == NULL) {
		softmig_meter_unlock();
		return;
	}
	struct softmig_meter *meter = &softmig_meters[lane->home->gpu];
	struct softmig_gate *gate = &meter->gate;
	int64_t credit_ns = atomic_load_explicit(&gate->credit_ns, memory_order_relaxed);
	if (credit_ns >= (int64_t)launch->estimate_ns && now_ns < atomic_load_explicit(&gate->valid_until_ns, memory_order_relaxed)) {
		atomic_store_explicit(&gate->credit_ns, credit_ns - (int64_t)launch->estimate_ns, memory_order_relaxed);
	} else {
		now_ns = softmig_meter_admit(meter, launch->estimate_ns, now_ns);
		if (now_ns == 0)
			return;
		launch->looks = meter->pages_later;
		meter->pages_later = false;
		lane = lane_of(stream, context, now_ns); // it may have been given away meanwhile
		if (lane == NULL) {
			softmig_meter_unlock();
			return;
		}
	}
	int i = softmig_lane_index(lane);
	if (meter->last != lane && meter->last != NULL && meter->last->home != NULL && meter->last->open.estimate_ns >= SWITCH_NS)
		softmig_meter_close_one(meter, meter->last, now_ns); // or nobody would know when its work was done
	bool again = meter->last == lane;
	meter->last = lane;
	bool alone = known && (lane->open.count == 0 || lane->open.brief) && is_alone(meter, lane);
	bool busy = softmig_lane_busy(lane), paused = busy && softmig_lane_may_have_paused(lane, meter->waited, now_ns);
	bool asks = !busy || paused || lane->close_later, covered = false; // the driver, too
	int mode = asks ? softmig_stream_relax() : 0;
	if (asks)
		covered = known && softmig_lane_may_be_covered(lane) && softmig_meter_is_covered(meter, lane, now_ns) &&
		          softmig_lane_is_empty(lane, softmig_meter_self());
	if (!covered && paused)
		softmig_meter_sweep(meter, now_ns);
	meter->active[i / 64] |= UINT64_C(1) << (i % 64);
	softmig_lane_launch(lane, softmig_meter_self(), launch->estimate, launch->estimate_ns, dependent, alone, covered, now_ns);
	if (asks)
		softmig_stream_restore(mode);
	if (softmig_meter_lanes(meter) > 1)
		meter->scene.crowd_ns = now_ns;
	launch->due = softmig_lane_is_due(lane, known, now_ns);
	launch->lane = lane;
	if (again && !launch->due && !launch->looks)
		allow_notes(meter, lane, stream, context, now_ns);
	softmig_meter_unlock();
}

static bool may_be_captured(CUstream stream)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
	return SOFTMIG_HAS(cuStreamIsCapturing) && (DRIVER(cuStreamIsCapturing)(stream, &status) != CUDA_SUCCESS || status != CU_STREAM_CAPTURE_STATUS_NONE);
}

void softmig_meter_before(struct softmig_meter_launch *launch, CUstream stream, bool per_thread, uint64_t key, bool dependent)
{
	CUcontext context;
	bool known;
	launch->lane = NULL;
	launch->due = launch->looks = false;
	stream = plain_name(stream, per_thread, &context);
	if (atomic_load_explicit(&softmig_stream_captures_open, memory_order_relaxed) > 0 && may_be_captured(stream))
		return;
	launch->estimate = softmig_estimate_find(key | 1);
	launch->estimate_ns = softmig_estimate_ns(launch->estimate, &known);
	if (known && !dependent)
		launch->lane = softmig_note(softmig_meter_self(), stream, context, launch->estimate, launch->estimate_ns);
	if (launch->lane == NULL)
		ask(launch, stream, context, known, dependent);
}

// The GPU has its work meanwhile.
static void look_now(struct softmig_meter *meter)
{
	uint64_t now_ns = softmig_meter_clock_ns();
	softmig_meter_read_pages(meter, now_ns);
	softmig_gate_has_looked(&meter->gate, &meter->turn, now_ns);
}

static void submitted(const struct softmig_meter_launch *launch, struct softmig_meter *meter)
{
	if (launch->due) {
		int mode = softmig_stream_relax();
		softmig_lane_close(launch->lane, softmig_meter_self(), true, meter->gate.sharers > 0, softmig_meter_clock_ns());
		softmig_stream_restore(mode);
	}
	if (launch->looks)
		look_now(meter);
}

CUresult softmig_meter_after(struct softmig_meter_launch *launch, CUresult result)
{
	struct softmig_lane *lane = launch->lane;
	if (lane == NULL || (result == CUDA_SUCCESS && !launch->due && !launch->looks) || !softmig_meter_lock())
		return result;
	if (result != CUDA_SUCCESS)
		softmig_lane_unlaunch(lane, launch->estimate_ns);
	else if (lane->home != NULL)
		submitted(launch, &softmig_meters[lane->home->gpu]);
	softmig_meter_unlock();
	return result;
}

// ---- waiting

enum object { STREAM, EVENT, CONTEXT };

static bool is_done(enum object object, void *handle)
{
	switch (object) {
	case STREAM: return DRIVER(cuStreamQuery)(handle) != CUDA_ERROR_NOT_READY;
	case EVENT: return DRIVER(cuEventQuery)(handle) != CUDA_ERROR_NOT_READY;
	case CONTEXT: break;
	}
	return false;
}

static void before_sync(enum object object, void *handle)
{
	CUcontext context = NULL;
	if (!atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire) || atomic_load_explicit(&softmig_stream_captures_open, memory_order_relaxed) > 0)
		return; // the driver knows best whether one may wait during a capture
	DRIVER(cuCtxGetCurrent)(&context);
	struct softmig_gpu *gpu = context != NULL ? softmig_gpu_of_context(context) : NULL;
	if (gpu == NULL || !softmig_meter_lock())
		return;
	struct softmig_meter *meter = &softmig_meters[gpu->ledger];
	uint64_t now_ns = softmig_meter_clock_ns();
	if (meter->gpu != NULL) {
		int mode = softmig_stream_relax();
		if (meter->last == NULL || !is_alone(meter, meter->last) || !softmig_lane_await(meter->last))
			softmig_meter_close_all(meter, context, now_ns);
		while (softmig_meter_turn(meter) != NULL && meter->gate.contested) {
			uint64_t drains_ns = softmig_meter_sweep(meter, now_ns);
			uint64_t left_ns = drains_ns > now_ns ? drains_ns - now_ns : 0;
			unsigned pct = softmig_meter_pct(meter, softmig_limits_now());
			if (drains_ns == 0) {
				softmig_gate_drained(&meter->gate, meter->share, softmig_meter_turn(meter), pct, now_ns);
				break;
			}
			softmig_gate_running(&meter->gate, meter->share, softmig_meter_turn(meter), pct, left_ns, now_ns);
			softmig_meter_unlock();
			if (left_ns > AWAITED_NS)
				softmig_meter_pause_until(now_ns + (left_ns - AWAITED_NS < AWAIT_NAP_NS ? left_ns - AWAITED_NS : AWAIT_NAP_NS));
			else
				sched_yield();
			bool done = is_done(object, handle);
			now_ns = softmig_meter_clock_ns();
			if (!softmig_meter_lock()) {
				softmig_stream_restore(mode);
				return;
			}
			if (done)
				break;
		}
		softmig_stream_restore(mode);
	}
	softmig_meter_unlock();
}

void softmig_meter_sync_stream(CUstream stream, bool per_thread)
{
	before_sync(STREAM, stream == NULL && per_thread ? CU_STREAM_PER_THREAD : stream);
}

void softmig_meter_sync_event(CUevent event)
{
	before_sync(EVENT, event);
}

void softmig_meter_sync_context(void)
{
	before_sync(CONTEXT, NULL);
}

// The lane of a stream that something was launched into lately; NULL: there is none. Lock held. context: NULL, or the current one.
static struct softmig_lane *recent_lane(CUstream stream, CUcontext context)
{
	uint64_t owner = stream == CU_STREAM_PER_THREAD ? softmig_meter_self() : 0;
	struct softmig_lane *lane = *cached_lane(stream, owner);
	bool fits = lane != NULL && lane->home != NULL && lane->stream == stream && lane->thread == owner && !lane->gone &&
	            (context == NULL || lane->home->context == context);
	return fits ? lane : NULL;
}

// The stream's plain name, and the lock. False: nothing has been metered so far, or see softmig_meter_lock.
static bool begin_with(CUstream *stream, bool per_thread, CUcontext *context)
{
	if (!atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire))
		return false;
	*stream = plain_name(*stream, per_thread, context);
	return softmig_meter_lock();
}

void softmig_meter_event(CUstream stream, bool per_thread)
{
	CUcontext context;
	if ((stream == NULL && !per_thread) || !begin_with(&stream, per_thread, &context))
		return;
	struct softmig_lane *lane = stream != NULL ? recent_lane(stream, context) : NULL;
	if (lane != NULL && lane->open.estimate_ns >= SWITCH_NS)
		softmig_meter_close_one(&softmig_meters[lane->home->gpu], lane, softmig_meter_clock_ns());
	softmig_meter_unlock();
}

// Before anything else of the program's comes into the stream.
static void interrupt(struct softmig_lane *lane, uint64_t now_ns)
{
	struct softmig_meter *meter = &softmig_meters[lane->home->gpu];
	lane->anew = true;
	if (lane->open.count > 0)
		softmig_meter_close_one(meter, lane, now_ns);
	if (lane->open.count == 0)
		return;
	int mode = softmig_stream_relax(); // it had drained
	softmig_meter_sweep(meter, now_ns);
	softmig_stream_restore(mode);
}

void softmig_meter_interrupt(CUstream stream, bool per_thread)
{
	CUcontext context;
	if (!begin_with(&stream, per_thread, &context))
		return;
	struct softmig_lane *lane = recent_lane(stream, context);
	if (lane != NULL)
		interrupt(lane, softmig_meter_clock_ns());
	softmig_meter_unlock();
}

void softmig_meter_wait(CUstream stream, bool per_thread, CUevent event)
{
	CUcontext context;
	if (!begin_with(&stream, per_thread, &context))
		return;
	// An event that was captured must not be asked about, and while the lock is held no capture begins.
	bool may_ask = atomic_load_explicit(&softmig_stream_captures_open, memory_order_relaxed) == 0;
	struct softmig_lane *lane = may_ask ? recent_lane(stream, context) : NULL;
	uint64_t now_ns = lane != NULL ? softmig_meter_clock_ns() : 0;
	if (lane != NULL && softmig_lane_busy(lane) && lane->next_wait_ns <= now_ns && DRIVER(cuEventQuery)(event) == CUDA_ERROR_NOT_READY) {
		uint64_t least_ns = now_ns - WAITS * WAIT_NS;
		lane->next_wait_ns = (lane->next_wait_ns > least_ns ? lane->next_wait_ns : least_ns) + WAIT_NS;
		interrupt(lane, now_ns);
	}
	softmig_meter_unlock();
}

void softmig_meter_synced(void)
{
	if (!atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire) || !softmig_meter_lock())
		return;
	uint64_t now_ns = softmig_meter_clock_ns();
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		softmig_meter_settle(&softmig_meters[i], now_ns);
	softmig_meter_unlock();
}

// ---- lives

bool softmig_meter_hold(void)
{
	return atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire) && softmig_meter_lock();
}

void softmig_meter_release(bool held)
{
	if (held)
		softmig_meter_unlock();
}

void softmig_meter_capture(int change)
{
	int now = atomic_load_explicit(&softmig_stream_captures_open, memory_order_relaxed);
	while (now + change >= 0 && !atomic_compare_exchange_weak(&softmig_stream_captures_open, &now, now + change))
		;
}

void softmig_meter_stream_gone(CUstream stream)
{
	if (!atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire) || softmig_stream_is_special(stream) || !softmig_meter_lock())
		return;
	for (int i = 0; i < SOFTMIG_LANES; i++) {
		struct softmig_lane *lane = softmig_lane_at(i);
		if (lane->home == NULL || lane->stream != stream || lane->gone)
			continue;
		bool capturing = softmig_stream_is_off_limits(stream);
		int mode = softmig_stream_relax();
		softmig_lane_stream_gone(lane, capturing, softmig_meter_clock_ns());
		softmig_stream_restore(mode);
	}
	softmig_meter_unlock();
}

void softmig_meter_context_gone(CUcontext context)
{
	if (!atomic_load_explicit(&softmig_meter_in_use, memory_order_acquire) || !softmig_meter_lock())
		return;
	softmig_lane_context_gone(context);
	softmig_meter_unlock();
}
