// SPDX-License-Identifier: Apache-2.0
// The meter; see meter.h. One lock for the process: it is held for some ten nanoseconds on most launches, for microseconds
// when events are looked at, and never while sleeping.
#include "preload/meter.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "preload/gpu.h"
#include "preload/lane.h"
#include "preload/mode.h"
#include "preload/stream.h"
#include "preload/uuid.h"
#include "slice/gate.h"
#include "slice/log.h"
#include "slice/sys.h"
#include "slice/turn_files.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
// Neighbours' pages are read this often while work goes on, and at every look while waiting for them.
#define PAGES_NS (MS)
// Around an awaited moment: wake up so much earlier, then poll.
#define EARLY_NS (80 * US)
// The job's other GPUs matter when they are ready this soon.
#define LEVEL_NS (150 * MS)
// See is_stuck: no batch done for so long, though there is work; nothing gained in so long, for small commands and others.
#define STUCK_NS (300 * MS)
#define STARVED_NS (2000 * MS)
#define STARVED_LONG_NS (60000 * MS)
#define SMALL_NS (5 * MS)
// So much open work in a stream is worth an event when the program turns to another, or sets an event of its own.
#define SWITCH_NS (100 * US)
// Streams side by side are judged by so much work together.
#define CROWD_NS (10 * MS)
enum { SPANS = 64, CACHED = 64, ACTIVE = SOFTMIG_LANES / 64 };

struct meter {
	struct softmig_gpu *gpu; // NULL: not in use
	struct softmig_share *share;
	struct softmig_gate gate;
	struct softmig_turn turn;
	struct softmig_turn_directory directory;
	uint64_t pages_ns;
	uint64_t active[ACTIVE]; // lanes that may have work
	struct softmig_lane_scene scene;
	uint64_t crowd_busy_ns, crowd_estimated_ns;
	struct softmig_lane *last; // launched into last
};

static struct meter meters[SOFTMIG_MAX_GPUS];
static _Atomic bool in_use;     // some launch was metered
static _Atomic int captures;    // streams being captured in this process, as far as was seen
static _Atomic uint32_t locked;
static pid_t locked_in;

static struct softmig_lane *cache[CACHED]; // what was launched into lately

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

// False: in a child forked while another thread held it. Such a child has no driver to meter.
static inline bool lock(void)
{
	for (unsigned tries = 1; atomic_exchange_explicit(&locked, 1, memory_order_acquire) != 0; tries++) {
		if (tries % 64 == 0)
			sched_yield();
		else
			relax();
		if (tries % 4096 == 0 && softmig_sys_getpid() != locked_in)
			return false;
	}
	return true;
}

static void unlock(void)
{
	atomic_store_explicit(&locked, 0, memory_order_release);
}

// Our driver calls are none of a capture's business, whichever thread is capturing in whatever mode.
static CUstreamCaptureMode relaxed(void)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	if (SOFTMIG_HAS(cuThreadExchangeStreamCaptureMode))
		DRIVER(cuThreadExchangeStreamCaptureMode)(&mode);
	return mode;
}

static void restore(CUstreamCaptureMode mode)
{
	if (SOFTMIG_HAS(cuThreadExchangeStreamCaptureMode))
		DRIVER(cuThreadExchangeStreamCaptureMode)(&mode);
}

// The calling thread, by the place of its control block. No thread-local variable: it would take room in every thread of every process.
static inline uint64_t self(void)
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

// ---- a GPU's meter

static void set_up_turns(struct meter *meter)
{
	char uuid[SOFTMIG_UUID_TEXT];
	// Outside Slurm a job is known by the moment at which its ledger was made.
	uint64_t key = atomic_load_explicit(&softmig_ledger_now()->file->created_ns, memory_order_relaxed);
	int error;
	softmig_uuid_text(meter->gpu->uuid, "GPU-", uuid);
	if (softmig_mode_from_file()) {
		error = softmig_turn_open_root(&meter->directory, SOFTMIG_TURN_DIR, uuid, softmig_mode_job(), &meter->turn.own);
		meter->turn.sum_is_whole = true;
	} else {
		error = softmig_turn_open_user(&meter->directory, "/tmp", uuid, key, clock_ns(), &meter->turn.own);
	}
	if (error)
		softmig_log(SOFTMIG_LOG_DEBUG, "no turns on %s (errno %d): time-slicing among neighbours", uuid, error);
}

// Lock held.
static struct meter *meter_of(struct softmig_gpu *gpu)
{
	struct meter *meter = &meters[gpu->ledger];
	if (meter->gpu != NULL)
		return meter;
	struct softmig_ledger *ledger = softmig_ledger_now();
	struct softmig_ledger_slot *slot = softmig_ledger_self(ledger);
	meter->share = (struct softmig_share *)(void *)ledger->file->gpu[gpu->ledger].share_words;
	meter->gate.tag = slot != NULL ? (unsigned)(slot - ledger->file->slot) + 1 : (unsigned)softmig_sys_getpid() % 32768 + 32768;
	meter->gpu = gpu;
	locked_in = softmig_sys_getpid();
	set_up_turns(meter);
	atomic_store_explicit(&in_use, true, memory_order_release);
	return meter;
}

static struct softmig_turn *turn_of(struct meter *meter)
{
	return meter->turn.own != NULL ? &meter->turn : NULL;
}

static unsigned pct_of(const struct meter *meter, const struct softmig_limits *limits)
{
	return meter->gpu->number >= 0 ? limits->sm_pct[meter->gpu->number] : 100;
}

static void add_use(const struct meter *meter, uint64_t busy_ns, uint64_t throttled_ns)
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

// Streams that work side by side take each other's time: by how much, only their sum tells.
static void compare_crowd(struct meter *meter, uint64_t busy_ns, uint64_t now_ns)
{
	if (meter->scene.crowd_permille == 0)
		meter->scene.crowd_permille = 1000;
	if (now_ns > meter->scene.crowd_ns + CROWD_NS) {
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

// No lane at work, one, or more (2).
static int lanes_active(const struct meter *meter)
{
	int lanes = 0;
	for (int word = 0; word < ACTIVE && lanes < 2; word++)
		if (meter->active[word] != 0)
			lanes += (meter->active[word] & (meter->active[word] - 1)) != 0 ? 2 : 1;
	return lanes < 2 ? lanes : 2;
}

// Bills what was done until now. Returns until when there is work on the GPU by the estimates; 0: there is none. Lock held.
static uint64_t sweep(struct meter *meter, uint64_t now_ns)
{
	struct softmig_lane_span span[SPANS];
	const struct softmig_limits *limits = softmig_limits_now();
	uint64_t drains_ns = 0, busy_ns = 0;
	int spans = 0;
	meter->scene.sharers = meter->gate.sharers; // other processes of the job share as other jobs do, but are billed together
	if (softmig_share_others(meter->share, meter->gate.tag, now_ns) > now_ns)
		meter->scene.sharers++;
	meter->scene.estimated_ns = meter->scene.longest_ns = 0;
	for (int word = 0; word < ACTIVE; word++)
		for (uint64_t bits = meter->active[word]; bits != 0; bits &= bits - 1) {
			int i = word * 64 + __builtin_ctzll(bits);
			struct softmig_lane *lane = softmig_lane_at(i);
			if (lane->home != NULL && softmig_lane_busy(lane))
				spans += softmig_lane_look(lane, self(), span + spans, SPANS - spans, &meter->scene, now_ns);
			if (lane->home == NULL || !softmig_lane_busy(lane))
				meter->active[word] &= ~(UINT64_C(1) << (i % 64));
			else if (lane->drains_ns > drains_ns)
				drains_ns = lane->drains_ns;
			else if (drains_ns == 0)
				drains_ns = now_ns;
		}
	for (int i = 1; i < spans; i++) // in the order of their beginnings, so that the union comes out right
		for (int j = i; j > 0 && span[j].from_ns < span[j - 1].from_ns; j--) {
			struct softmig_lane_span swap = span[j];
			span[j] = span[j - 1];
			span[j - 1] = swap;
		}
	for (int i = 0; i < spans; i++)
		busy_ns += softmig_gate_bill(&meter->gate, meter->share, pct_of(meter, limits), limits->share_mode == SOFTMIG_SHARE_BORROW,
		                             span[i].from_ns, span[i].to_ns, now_ns);
	if (busy_ns)
		add_use(meter, busy_ns, 0);
	compare_crowd(meter, busy_ns, now_ns);
	return drains_ns;
}

// Ends the open batches, so that events tell when they are done, rather than estimates. Lock held.
static void close_one(struct meter *meter, struct softmig_lane *lane, uint64_t now_ns)
{
	if (atomic_load_explicit(&captures, memory_order_relaxed) > 0 && softmig_stream_is_capturing(lane->stream, false))
		return;
	CUstreamCaptureMode mode = relaxed();
	softmig_lane_close(lane, self(), false, meter->gate.sharers > 0, now_ns);
	restore(mode);
}

static void close_all(struct meter *meter, CUcontext context, uint64_t now_ns)
{
	for (int word = 0; word < ACTIVE; word++)
		for (uint64_t bits = meter->active[word]; bits != 0; bits &= bits - 1) {
			struct softmig_lane *lane = softmig_lane_at(word * 64 + __builtin_ctzll(bits));
			if (lane->home != NULL && lane->open.count > 0 && (context == NULL || lane->home->context == context) &&
			    (atomic_load_explicit(&captures, memory_order_relaxed) == 0 || !softmig_stream_is_capturing(lane->stream, false)))
				softmig_lane_close(lane, self(), false, meter->gate.sharers > 0, now_ns);
		}
}

// When the last of the job's other GPUs that are short of tokens will have some. Lock not needed.
static uint64_t level(const struct meter *meter, uint64_t now_ns)
{
	struct softmig_ledger_file *file = softmig_ledger_now()->file;
	uint64_t latest_ns = 0;
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		struct softmig_share *share = (struct softmig_share *)(void *)file->gpu[i].share_words;
		if (i == meter->gpu->ledger || atomic_load_explicit(&file->gpu[i].state, memory_order_acquire) != 2)
			continue;
		unsigned pct = (unsigned)(atomic_load_explicit(&share->bucket, memory_order_relaxed) & 127);
		uint64_t ready_ns = softmig_share_when(share, pct, now_ns, 0);
		if (ready_ns > latest_ns && ready_ns > now_ns && ready_ns < now_ns + LEVEL_NS)
			latest_ns = ready_ns;
	}
	return latest_ns;
}

static void pause_until(uint64_t until_ns)
{
	struct timespec time = {.tv_sec = (time_t)(until_ns / UINT64_C(1000000000)), .tv_nsec = (long)(until_ns % UINT64_C(1000000000))};
	int kept = errno;
	syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL); // a signal merely ends it early
	errno = kept;
}

// Sleeps or polls until an answer's moment; returns the time.
static uint64_t wait_for(const struct softmig_gate_answer *answer, uint64_t now_ns)
{
	if (!answer->soon && answer->until_ns > now_ns)
		pause_until(answer->until_ns);
	else if (answer->soon && answer->until_ns > now_ns + EARLY_NS + 20 * US)
		pause_until(answer->until_ns - EARLY_NS);
	else
		for (int i = 0; i < 32; i++)
			relax();
	return clock_ns();
}

// Work on the GPU may itself wait for the command that is held back here (a kernel that runs until another one answers): after a
// while without progress one command passes, whatever the debt, which is carried on.
struct progress {
	uint64_t completions, since_ns; // batches done, and when that last changed
	uint64_t drained_ns;            // since when nothing of this process is on the GPU, and the tokens then
	int64_t tokens_ns;
};

static bool is_stuck(const struct meter *meter, struct progress *progress, uint64_t estimate_ns, bool in_flight, uint64_t now_ns)
{
	if (progress->since_ns == 0 || progress->completions != meter->scene.completions) {
		progress->completions = meter->scene.completions;
		progress->since_ns = now_ns;
	}
	if (in_flight) { // far longer than such work ever took
		progress->drained_ns = 0;
		return now_ns > progress->since_ns + STUCK_NS + 4 * meter->scene.longest_ns;
	}
	int64_t tokens_ns = softmig_share_tokens(meter->share, 100, now_ns, 0);
	if (progress->drained_ns == 0) {
		progress->drained_ns = now_ns;
		progress->tokens_ns = tokens_ns;
	}
	// Other processes of the job use up all that comes in.
	return now_ns > progress->drained_ns + (estimate_ns <= SMALL_NS ? STARVED_NS : STARVED_LONG_NS) && tokens_ns <= progress->tokens_ns;
}

// Waits until the gate lets the command pass. Called and returns with the lock held; returns the time.
// Lanes that drained since: what comes next in them begins anew.
static void rest(struct meter *meter, const uint64_t were[ACTIVE])
{
	for (int word = 0; word < ACTIVE; word++)
		for (uint64_t bits = were[word] & ~meter->active[word]; bits != 0; bits &= bits - 1)
			softmig_lane_at(word * 64 + __builtin_ctzll(bits))->rested = true;
}

static uint64_t admit(struct meter *meter, uint64_t estimate_ns, uint64_t now_ns)
{
	uint64_t throttled_ns = 0;
	struct progress progress = {0};
	bool waits = false, turns = false;
	for (;;) {
		const struct softmig_limits *limits = softmig_limits_now();
		CUstreamCaptureMode mode = relaxed();
		uint64_t were[ACTIVE];
		memcpy(were, meter->active, sizeof(were));
		uint64_t drains_ns = sweep(meter, now_ns);
		if (waits)
			rest(meter, were);
		restore(mode);
		if (turn_of(meter) != NULL && (turns || now_ns >= meter->pages_ns + PAGES_NS)) {
			softmig_turn_read(&meter->directory, &meter->turn, now_ns);
			meter->pages_ns = now_ns;
		}
		struct softmig_gate_ask ask = {.now_ns = now_ns,
		                               .pct = pct_of(meter, limits),
		                               .borrow = limits->share_mode == SOFTMIG_SHARE_BORROW,
		                               .in_flight = drains_ns != 0,
		                               .streams = now_ns < meter->scene.crowd_ns + CROWD_NS,
		                               .outstanding_ns = drains_ns > now_ns ? drains_ns - now_ns : 0,
		                               .estimate_ns = estimate_ns,
		                               .level_ns = meter->gate.over ? level(meter, now_ns) : 0};
		struct softmig_gate_answer answer = softmig_gate_decide(&meter->gate, meter->share, turn_of(meter), &ask);
		if (answer.reason == SOFTMIG_GATE_GO || is_stuck(meter, &progress, estimate_ns, drains_ns != 0, now_ns))
			break;
		if (!waits) {
			mode = relaxed();
			close_all(meter, NULL, now_ns);
			restore(mode);
			waits = true;
		}
		turns = answer.reason == SOFTMIG_GATE_TURN;
		unlock();
		uint64_t woken_ns = wait_for(&answer, now_ns);
		if (answer.reason != SOFTMIG_GATE_AHEAD) // that is a queue's end, as the driver has one
			throttled_ns += woken_ns - now_ns;
		now_ns = woken_ns;
		if (!lock())
			return 0;
	}
	if (throttled_ns) {
		softmig_share_count(meter->share, 0, throttled_ns, now_ns);
		add_use(meter, 0, throttled_ns);
	}
	return now_ns;
}

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
	uint64_t owner = stream == CU_STREAM_PER_THREAD ? self() : 0;
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
	meter_of(gpu);
	return *cached = softmig_lane_find(context, gpu->ledger, stream, owner, now_ns);
}

void softmig_meter_before(struct softmig_meter_launch *launch, CUstream stream, bool per_thread, uint64_t key, bool dependent)
{
	CUcontext context;
	bool known;
	launch->lane = NULL;
	stream = plain_name(stream, per_thread, &context);
	if (atomic_load_explicit(&captures, memory_order_relaxed) > 0) {
		CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
		if (SOFTMIG_HAS(cuStreamIsCapturing) && (DRIVER(cuStreamIsCapturing)(stream, &status) != CUDA_SUCCESS ||
		                                         status != CU_STREAM_CAPTURE_STATUS_NONE))
			return;
	}
	launch->estimate = softmig_estimate_find(key | 1);
	launch->estimate_ns = softmig_estimate_ns(launch->estimate, &known);
	uint64_t now_ns = clock_ns();
	if (!lock())
		return;
	struct softmig_lane *lane = lane_of(stream, context, now_ns);
	if (lane == NULL) {
		unlock();
		return;
	}
	struct meter *meter = &meters[lane->home->gpu];
	struct softmig_gate *gate = &meter->gate;
	int64_t credit_ns = atomic_load_explicit(&gate->credit_ns, memory_order_relaxed);
	if (credit_ns >= (int64_t)launch->estimate_ns && now_ns < atomic_load_explicit(&gate->valid_until_ns, memory_order_relaxed)) {
		atomic_store_explicit(&gate->credit_ns, credit_ns - (int64_t)launch->estimate_ns, memory_order_relaxed);
	} else {
		now_ns = admit(meter, launch->estimate_ns, now_ns);
		if (now_ns == 0)
			return;
		lane = lane_of(stream, context, now_ns); // it may have been given away meanwhile
		if (lane == NULL) {
			unlock();
			return;
		}
	}
	int i = softmig_lane_index(lane);
	if (meter->last != lane && meter->last != NULL && meter->last->home != NULL && meter->last->open.estimate_ns >= SWITCH_NS)
		close_one(meter, meter->last, now_ns); // or nobody would know when its work was done
	meter->last = lane;
	if (!softmig_lane_busy(lane) || softmig_lane_may_have_paused(lane, now_ns) || lane->close_later) {
		CUstreamCaptureMode mode = relaxed();
		if (softmig_lane_busy(lane) && softmig_lane_may_have_paused(lane, now_ns))
			sweep(meter, now_ns);
		meter->active[i / 64] |= UINT64_C(1) << (i % 64);
		softmig_lane_launch(lane, self(), launch->estimate, launch->estimate_ns, dependent, now_ns);
		restore(mode);
	} else {
		meter->active[i / 64] |= UINT64_C(1) << (i % 64);
		softmig_lane_launch(lane, self(), launch->estimate, launch->estimate_ns, dependent, now_ns);
	}
	if (lanes_active(meter) > 1)
		meter->scene.crowd_ns = now_ns;
	launch->due = softmig_lane_is_due(lane, known, now_ns);
	launch->lane = lane;
	unlock();
}

CUresult softmig_meter_after(struct softmig_meter_launch *launch, CUresult result)
{
	struct softmig_lane *lane = launch->lane;
	if (lane == NULL || (result == CUDA_SUCCESS && !launch->due) || !lock())
		return result;
	if (result != CUDA_SUCCESS) {
		softmig_lane_unlaunch(lane, launch->estimate_ns);
	} else if (lane->home != NULL) {
		CUstreamCaptureMode mode = relaxed();
		softmig_lane_close(lane, self(), true, meters[lane->home->gpu].gate.sharers > 0, clock_ns());
		restore(mode);
	}
	unlock();
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
	if (!atomic_load_explicit(&in_use, memory_order_acquire) || atomic_load_explicit(&captures, memory_order_relaxed) > 0)
		return; // the driver knows best whether one may wait during a capture
	DRIVER(cuCtxGetCurrent)(&context);
	struct softmig_gpu *gpu = context != NULL ? softmig_gpu_of_context(context) : NULL;
	if (gpu == NULL || !lock())
		return;
	struct meter *meter = &meters[gpu->ledger];
	uint64_t now_ns = clock_ns();
	if (meter->gpu != NULL) {
		CUstreamCaptureMode mode = relaxed();
		close_all(meter, context, now_ns);
		while (turn_of(meter) != NULL && meter->gate.contested) {
			uint64_t drains_ns = sweep(meter, now_ns);
			uint64_t left_ns = drains_ns > now_ns ? drains_ns - now_ns : 0;
			unsigned pct = pct_of(meter, softmig_limits_now());
			if (drains_ns == 0) {
				softmig_gate_drained(&meter->gate, meter->share, turn_of(meter), pct, now_ns);
				break;
			}
			softmig_gate_running(&meter->gate, meter->share, turn_of(meter), pct, left_ns, now_ns);
			unlock();
			if (left_ns > EARLY_NS)
				pause_until(now_ns + (left_ns - EARLY_NS / 2 < MS / 5 ? left_ns - EARLY_NS / 2 : MS / 5));
			else
				sched_yield();
			bool done = is_done(object, handle);
			now_ns = clock_ns();
			if (!lock()) {
				restore(mode);
				return;
			}
			if (done)
				break;
		}
		restore(mode);
	}
	unlock();
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

void softmig_meter_event(CUstream stream, bool per_thread)
{
	CUcontext context;
	if (!atomic_load_explicit(&in_use, memory_order_acquire))
		return;
	stream = plain_name(stream, per_thread, &context);
	if (stream == NULL || !lock())
		return;
	uint64_t owner = stream == CU_STREAM_PER_THREAD ? self() : 0;
	struct softmig_lane *lane = *cached_lane(stream, owner);
	if (lane != NULL && lane->home != NULL && lane->stream == stream && lane->thread == owner && !lane->gone &&
	    lane->open.estimate_ns >= SWITCH_NS)
		close_one(&meters[lane->home->gpu], lane, clock_ns());
	unlock();
}

void softmig_meter_synced(void)
{
	if (!atomic_load_explicit(&in_use, memory_order_acquire) || !lock())
		return;
	uint64_t now_ns = clock_ns();
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		struct meter *meter = &meters[i];
		uint64_t were[ACTIVE];
		memcpy(were, meter->active, sizeof(were));
		if (meter->gpu == NULL || lanes_active(meter) == 0)
			continue;
		CUstreamCaptureMode mode = relaxed();
		uint64_t drains_ns = sweep(meter, now_ns);
		restore(mode);
		if (drains_ns == 0)
			softmig_gate_drained(&meter->gate, meter->share, turn_of(meter), pct_of(meter, softmig_limits_now()), now_ns);
		rest(meter, were);
	}
	unlock();
}

// ---- lives

void softmig_meter_capture(int change)
{
	int now = atomic_load_explicit(&captures, memory_order_relaxed);
	while (now + change >= 0 && !atomic_compare_exchange_weak(&captures, &now, now + change))
		;
}

void softmig_meter_stream_gone(CUstream stream)
{
	if (!atomic_load_explicit(&in_use, memory_order_acquire) || softmig_stream_is_special(stream) || !lock())
		return;
	for (int i = 0; i < SOFTMIG_LANES; i++) {
		struct softmig_lane *lane = softmig_lane_at(i);
		if (lane->home == NULL || lane->stream != stream || lane->gone)
			continue;
		bool capturing = atomic_load_explicit(&captures, memory_order_relaxed) > 0 && softmig_stream_is_capturing(stream, false);
		CUstreamCaptureMode mode = relaxed();
		softmig_lane_stream_gone(lane, capturing, clock_ns());
		restore(mode);
	}
	unlock();
}

void softmig_meter_context_gone(CUcontext context)
{
	if (!atomic_load_explicit(&in_use, memory_order_acquire) || !lock())
		return;
	softmig_lane_context_gone(context);
	unlock();
}
