// SPDX-License-Identifier: Apache-2.0
// Lanes; see lane.h. The driver's costs that shape this are in docs/share.md.
#include "preload/lane.h"

#include <string.h>

#include "preload/stream.h"

// A batch is closed when it holds so much estimated work: few events, and a bill at most so late.
#define BATCH_NS 2000000u
#define GAP_NS SOFTMIG_LANE_GAP_NS
// Where a program pauses, events are set this often, so that its pauses are seen.
#define PAUSED_GAP_NS 50000u
#define PAUSES 16
// While other streams are at work, so many batches begin unmeasured before one is measured: estimates are learned from that.
#define COVERED 7
// [H200] A pair of events and looking at them makes a small kernel's round trip 6 us longer, of 28. So bursts up to this, after a pause of
// so much, are timed by the host. They use 5 % of the GPU at most, so that an error of 20 us in each decides nothing.
#define BRIEF_NS 50000u
#define BRIEF_PAUSE_NS 1500000u
#define BRIEF_LATE_NS 20000u
// What is so late may have waited for a copy, as may the next ones: these get events.
#define BRIEF_FAR_NS 200000u
#define WARY 16
// The event clock is a float in ms: this far from its anchor it resolves better than 0.25 us.
#define REBASE_NS INT64_C(2000000000)
// How far the two clocks may drift apart, and how soon at least a GPU sees what it is given.
#define DRIFT_PER(ns) ((ns) / 10000)
#define LATENCY_NS 5000u
enum { CONTEXTS = 32, LANE_PROBES = 16 };

static struct softmig_lane_context contexts[CONTEXTS];
static struct softmig_lane lanes[SOFTMIG_LANES];

// ---- contexts, their events and clocks

static struct softmig_lane_context *find_context(CUcontext context, int gpu)
{
	struct softmig_lane_context *home = NULL;
	for (int i = 0; i < CONTEXTS; i++) {
		if (contexts[i].context == context)
			return &contexts[i];
		if (home == NULL && contexts[i].context == NULL)
			home = &contexts[i];
	}
	if (home != NULL)
		*home = (struct softmig_lane_context){.context = context, .gpu = gpu};
	return home;
}

static bool enter(const struct softmig_lane_context *home, bool *pushed)
{
	CUcontext current = NULL;
	*pushed = false;
	if (DRIVER(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == home->context)
		return true;
	*pushed = SOFTMIG_HAS(cuCtxPushCurrent_v2) && DRIVER(cuCtxPushCurrent_v2)(home->context) == CUDA_SUCCESS;
	return *pushed;
}

static void leave(bool pushed)
{
	CUcontext popped;
	if (pushed)
		DRIVER(cuCtxPopCurrent_v2)(&popped);
}

static CUevent take_event(struct softmig_lane_context *home)
{
	CUevent event = NULL;
	bool pushed;
	if (home->free_count > 0)
		return home->free[--home->free_count];
	if (home->made >= SOFTMIG_LANE_EVENTS || !enter(home, &pushed))
		return NULL;
	if (DRIVER(cuEventCreate)(&event, CU_EVENT_DEFAULT) == CUDA_SUCCESS)
		home->made++;
	else
		event = NULL;
	leave(pushed);
	return event;
}

static void give_event(struct softmig_lane_context *home, CUevent event)
{
	if (event != NULL && event != home->anchor && home->free_count < SOFTMIG_LANE_EVENTS)
		home->free[home->free_count++] = event;
}

// When a completed event happened. It was set at record_ns and is seen now, which also tells the clocks apart.
static uint64_t event_time(struct softmig_lane_context *home, CUevent event, uint64_t record_ns, uint64_t now_ns)
{
	float ms = 0;
	int64_t gpu_ns = 0;
	if (home->anchor == NULL) {
		home->anchor = event;
		home->low_ns = record_ns;
		home->high_ns = now_ns;
		home->sampled_ns = now_ns;
	} else if (event != home->anchor) {
		if (DRIVER(cuEventElapsedTime)(&ms, home->anchor, event) != CUDA_SUCCESS)
			return now_ns;
		gpu_ns = (int64_t)((double)ms * 1e6);
	}
	uint64_t drift_ns = DRIFT_PER(now_ns - home->sampled_ns);
	uint64_t low_ns = record_ns - (uint64_t)gpu_ns, high_ns = now_ns - (uint64_t)gpu_ns;
	home->sampled_ns = now_ns;
	home->low_ns = home->low_ns - drift_ns > low_ns ? home->low_ns - drift_ns : low_ns;
	home->high_ns = home->high_ns + drift_ns < high_ns ? home->high_ns + drift_ns : high_ns;
	if (home->low_ns > home->high_ns) {
		home->low_ns = low_ns;
		home->high_ns = high_ns;
	}
	uint64_t half_ns = (home->high_ns - home->low_ns) / 2;
	uint64_t time_ns = home->low_ns + (half_ns < LATENCY_NS ? half_ns : LATENCY_NS) + (uint64_t)gpu_ns;
	if (gpu_ns > REBASE_NS) {
		CUevent old = home->anchor;
		home->anchor = event;
		home->low_ns += (uint64_t)gpu_ns;
		home->high_ns += (uint64_t)gpu_ns;
		give_event(home, old);
	}
	return time_ns < now_ns ? time_ns : now_ns;
}

// ---- lanes

static bool matches(const struct softmig_lane *lane, CUcontext context, CUstream stream, uint64_t thread)
{
	return lane->home != NULL && lane->home->context == context && lane->stream == stream && lane->thread == thread && !lane->gone;
}

bool softmig_lane_busy(const struct softmig_lane *lane)
{
	return lane->closed > 0 || lane->open.count > 0;
}

struct softmig_lane *softmig_lane_find(CUcontext context, int gpu, CUstream stream, uint64_t thread, uint64_t now_ns)
{
	uint64_t hash = ((uint64_t)(uintptr_t)stream ^ (uint64_t)(uintptr_t)context * 31 ^ thread * 7) * 0x9e3779b97f4a7c15ull >> 40;
	struct softmig_lane *place = NULL;
	for (unsigned i = 0; i < LANE_PROBES; i++) {
		struct softmig_lane *lane = &lanes[(hash + i) % SOFTMIG_LANES];
		if (matches(lane, context, stream, thread))
			return lane;
		if (lane->home != NULL && softmig_lane_busy(lane))
			continue;
		if (place == NULL || lane->home == NULL || (place->home != NULL && lane->used_ns < place->used_ns))
			place = lane;
	}
	struct softmig_lane_context *home = place != NULL ? find_context(context, gpu) : NULL;
	if (home == NULL)
		return NULL;
	*place = (struct softmig_lane){.home = home, .stream = stream, .thread = thread, .rested = true,
	                               .used_ns = now_ns, .drains_ns = now_ns, .ended_ns = now_ns};
	return place;
}

struct softmig_lane *softmig_lane_at(int i)
{
	return i < SOFTMIG_LANES ? &lanes[i] : NULL;
}

int softmig_lane_index(const struct softmig_lane *lane)
{
	return (int)(lane - lanes);
}

// May this thread set an event in the stream at this moment? after_launch: into it, a moment ago.
static bool may_record(const struct softmig_lane *lane, bool after_launch, uint64_t thread)
{
	if (lane->gone || (lane->thread != 0 && lane->thread != thread))
		return false;
	if (lane->stream != NULL)
		return true;
	// The legacy stream waits for all others and they for it: an event there is only free of consequence directly after its own launch.
	CUcontext current = NULL;
	return DRIVER(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == lane->home->context &&
	       (after_launch || lane->sequence == lane->home->sequence);
}

static CUevent record(struct softmig_lane *lane, uint64_t now_ns)
{
	CUevent event = take_event(lane->home);
	bool pushed;
	if (event == NULL)
		return NULL;
	if (enter(lane->home, &pushed)) {
		CUresult result = DRIVER(cuEventRecord)(event, lane->stream);
		leave(pushed);
		if (result == CUDA_SUCCESS) {
			lane->recorded_ns = now_ns;
			return event;
		}
	}
	give_event(lane->home, event);
	return NULL;
}

// Neither done nor NOT_READY: it must not be asked now.
static CUresult query(const struct softmig_lane *lane)
{
	CUresult result = CUDA_ERROR_NOT_READY;
	bool pushed;
	if (softmig_stream_is_off_limits(lane->stream))
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	if (enter(lane->home, &pushed)) {
		result = DRIVER(cuStreamQuery)(lane->stream);
		leave(pushed);
	}
	return result;
}

bool softmig_lane_works(const struct softmig_lane *lane, uint64_t now_ns)
{
	const struct softmig_lane_batch *first = lane->closed > 0 ? &lane->batch[lane->first] : &lane->open;
	if (first->began_ns == 0 && first->begin != NULL && DRIVER(cuEventQuery)(first->begin) == CUDA_ERROR_NOT_READY)
		return false; // it waits for another one, perhaps for the one that asks
	if (lane->closed == 0)
		return lane->open.count > 0 && lane->drains_ns > now_ns + GAP_NS;
	return DRIVER(cuEventQuery)(lane->batch[(lane->first + lane->closed - 1) % SOFTMIG_LANE_BATCHES].end) == CUDA_ERROR_NOT_READY;
}

static void close_open(struct softmig_lane *lane, bool disturbed, uint64_t now_ns)
{
	if (lane->open.count == 0 || lane->closed == SOFTMIG_LANE_BATCHES)
		return;
	CUevent event = record(lane, now_ns);
	if (event == NULL)
		return;
	lane->open.end = event;
	lane->open.end_record_ns = now_ns;
	lane->open.disturbed = disturbed;
	lane->batch[(lane->first + lane->closed++) % SOFTMIG_LANE_BATCHES] = lane->open;
	lane->open = (struct softmig_lane_batch){0};
	lane->close_later = lane->guessed = false;
	if (lane->pauses > 0)
		lane->pauses--;
}

void softmig_lane_close(struct softmig_lane *lane, uint64_t thread, bool after_launch, bool disturbed, uint64_t now_ns)
{
	if (after_launch && lane->dependent) {
		lane->close_later = true;
		return;
	}
	if (!may_record(lane, after_launch, thread))
		return;
	// An event set in a stream that has drained tells when it was set, not when the work was done.
	if (!after_launch && query(lane) != CUDA_ERROR_NOT_READY) {
		lane->drains_ns = lane->drains_ns < now_ns ? lane->drains_ns : now_ns - 1;
		return;
	}
	close_open(lane, disturbed, now_ns);
}

bool softmig_lane_may_be_covered(const struct softmig_lane *lane)
{
	return lane->open.count == 0 && lane->covered < COVERED;
}

bool softmig_lane_is_empty(const struct softmig_lane *lane, uint64_t thread)
{
	return may_record(lane, true, thread) && query(lane) == CUDA_SUCCESS;
}

static void begin_batch(struct softmig_lane *lane, uint64_t thread, uint64_t estimate_ns, bool alone, bool covered, uint64_t now_ns)
{
	struct softmig_lane_batch *open = &lane->open;
	open->covered = covered;
	if (covered) { // it begins at once, in time that is billed for others anyway
		open->began_ns = lane->drains_ns = now_ns;
		lane->covered++;
		lane->rested = lane->anew = false;
		return;
	}
	bool busy = softmig_lane_busy(lane);
	if (!lane->anew && (busy || (!lane->rested && now_ns <= lane->ended_ns + GAP_NS)))
		return; // it follows the one before
	open->brief = alone && !lane->anew && estimate_ns <= BRIEF_NS && !lane->guessed && lane->wary == 0 && now_ns > lane->ended_ns + BRIEF_PAUSE_NS;
	lane->wary -= lane->wary > 0;
	open->begin = !open->brief && may_record(lane, true, thread) ? record(lane, now_ns) : NULL;
	open->begin_record_ns = now_ns;
	if (!busy)
		lane->ended_ns = now_ns;
	if (!lane->rested && !lane->anew)
		lane->pauses = PAUSES;
	lane->rested = lane->anew = false;
	lane->covered = 0;
}

void softmig_lane_more(struct softmig_lane *lane, struct softmig_estimate *estimate, uint64_t estimate_ns, uint64_t now_ns)
{
	struct softmig_lane_batch *open = &lane->open;
	lane->used_ns = now_ns;
	open->count++;
	open->estimate_ns += estimate_ns;
	uint32_t i = 0;
	while (i < open->parts && i < SOFTMIG_LANE_PARTS && open->part[i].estimate != estimate)
		i++;
	if (i == open->parts && i < SOFTMIG_LANE_PARTS) {
		open->part[i].estimate = estimate;
		open->part[i].count = 0;
		open->part[i].estimate_ns = 0;
		open->parts++;
	}
	if (i < SOFTMIG_LANE_PARTS) {
		open->part[i].count++;
		open->part[i].estimate_ns += estimate_ns;
	}
	lane->drains_ns = (lane->drains_ns > now_ns ? lane->drains_ns : now_ns) + estimate_ns;
	lane->sequence = ++lane->home->sequence;
}

uint32_t softmig_lane_room(const struct softmig_lane *lane)
{
	const struct softmig_lane_batch *open = &lane->open;
	if (open->count == 0 || open->brief || lane->dependent || lane->close_later || lane->guessed || lane->pauses > 0 || lane->gone)
		return 0;
	return open->estimate_ns < BATCH_NS ? BATCH_NS - (uint32_t)open->estimate_ns : 0;
}

void softmig_lane_launch(struct softmig_lane *lane, uint64_t thread, struct softmig_estimate *estimate, uint64_t estimate_ns,
                         bool dependent, bool alone, bool covered, uint64_t now_ns)
{
	lane->dependent = dependent || (lane->dependent && lane->open.count > 0);
	if (lane->close_later && !dependent && may_record(lane, true, thread)) {
		close_open(lane, false, now_ns);
		lane->dependent = false;
	}
	if (lane->open.count == 0)
		begin_batch(lane, thread, estimate_ns, alone, covered, now_ns);
	softmig_lane_more(lane, estimate, estimate_ns, now_ns);
	lane->open.brief = lane->open.brief && alone && lane->open.estimate_ns <= BRIEF_NS;
}

void softmig_lane_unlaunch(struct softmig_lane *lane, uint64_t estimate_ns)
{
	struct softmig_lane_batch *open = &lane->open;
	if (open->count == 0)
		return;
	open->estimate_ns -= open->estimate_ns < estimate_ns ? open->estimate_ns : estimate_ns;
	lane->drains_ns -= estimate_ns;
	if (--open->count == 0) {
		give_event(lane->home, open->begin);
		*open = (struct softmig_lane_batch){0};
	}
}

bool softmig_lane_await(struct softmig_lane *lane)
{
	lane->open.awaited = lane->open.brief && lane->closed == 0;
	return lane->open.awaited;
}

bool softmig_lane_is_due(const struct softmig_lane *lane, bool known, uint64_t now_ns)
{
	if (lane->closed >= SOFTMIG_LANE_BATCHES - 2) // places kept for the end of the work, before a wait
		return false;
	return !known || lane->guessed || lane->open.estimate_ns >= BATCH_NS || (lane->pauses > 0 && now_ns - lane->recorded_ns >= PAUSED_GAP_NS);
}

bool softmig_lane_may_have_paused(const struct softmig_lane *lane, bool waited, uint64_t now_ns)
{
	// Where a batch begins, the event that ended the last one knows better than any estimate; but what was launched a moment ago has been done since then at the earliest.
	return now_ns > lane->used_ns + GAP_NS || (lane->open.count == 0 && (waited || lane->anew));
}

// ---- what is done

static void learn(const struct softmig_lane_batch *batch, uint64_t from_ns, uint64_t to_ns, struct softmig_lane_scene *scene)
{
	uint64_t expected_ns = batch->estimate_ns, actual_ns = to_ns - from_ns;
	scene->estimated_ns += expected_ns;
	scene->completions++;
	bool shrinks = batch->disturbed || scene->sharers > 0;
	if (batch->covered || (shrinks && actual_ns >= expected_ns))
		return; // its beginning was not measured; or alone it would have taken less
	if (scene->crowd_ns >= from_ns) {
		uint64_t shared_ns = expected_ns / 1000 * scene->crowd_permille;
		actual_ns = shared_ns < actual_ns ? shared_ns : actual_ns;
	}
	for (uint32_t i = 0; i < batch->parts && i < SOFTMIG_LANE_PARTS; i++)
		softmig_estimate_learn(batch->part[i].estimate, batch->part[i].count, batch->part[i].estimate_ns, expected_ns, actual_ns, shrinks);
}

static void finish(struct softmig_lane *lane, struct softmig_lane_batch *batch, uint64_t from_ns, uint64_t to_ns)
{
	give_event(lane->home, batch->begin);
	give_event(lane->home, batch->end);
	lane->ended_ns = to_ns > from_ns ? to_ns : from_ns;
	if (lane->closed > 0 && batch == &lane->batch[lane->first]) {
		lane->first = (lane->first + 1) % SOFTMIG_LANE_BATCHES;
		lane->closed--;
	}
	*batch = (struct softmig_lane_batch){0};
}

// When a batch began to run; 0: not yet, or unknown.
static uint64_t began(struct softmig_lane *lane, struct softmig_lane_batch *batch, uint64_t now_ns)
{
	if (batch->began_ns != 0)
		return batch->began_ns;
	if (batch->begin == NULL)
		return lane->ended_ns;
	if (DRIVER(cuEventQuery)(batch->begin) != CUDA_SUCCESS)
		return 0;
	uint64_t time_ns = event_time(lane->home, batch->begin, batch->begin_record_ns, now_ns);
	batch->began_ns = time_ns > batch->begin_record_ns ? time_ns : batch->begin_record_ns;
	return batch->began_ns;
}

int softmig_lane_look(struct softmig_lane *lane, uint64_t thread, struct softmig_lane_span *span, int room,
                      struct softmig_lane_scene *scene, uint64_t now_ns)
{
	int spans = 0;
	uint64_t running_ns = 0, left_ns = lane->open.estimate_ns;
	while (lane->closed > 0 && spans < room) {
		struct softmig_lane_batch *batch = &lane->batch[lane->first];
		CUresult result = DRIVER(cuEventQuery)(batch->end);
		if (result == CUDA_ERROR_NOT_READY)
			break;
		uint64_t from_ns = began(lane, batch, now_ns), to_ns;
		if (from_ns == 0)
			from_ns = lane->ended_ns;
		if (result == CUDA_SUCCESS) {
			to_ns = event_time(lane->home, batch->end, batch->end_record_ns, now_ns);
			if (to_ns > from_ns)
				learn(batch, from_ns, to_ns, scene);
		} else { // a failed context: nothing can be measured any more
			to_ns = from_ns + batch->estimate_ns < now_ns ? from_ns + batch->estimate_ns : now_ns;
		}
		if (to_ns > from_ns)
			span[spans++] = (struct softmig_lane_span){from_ns, to_ns};
		finish(lane, batch, from_ns, to_ns);
	}
	if (spans == room)
		return spans;
	if (lane->closed > 0) {
		for (unsigned i = 0; i < lane->closed; i++)
			left_ns += lane->batch[(lane->first + i) % SOFTMIG_LANE_BATCHES].estimate_ns;
		uint64_t from_ns = began(lane, &lane->batch[lane->first], now_ns);
		if (from_ns != 0 && from_ns < now_ns) {
			span[spans++] = (struct softmig_lane_span){from_ns, now_ns};
			running_ns = now_ns - from_ns;
		}
		uint64_t first_ns = lane->batch[lane->first].estimate_ns;
		if (first_ns > scene->longest_ns)
			scene->longest_ns = first_ns;
		lane->drains_ns = now_ns + left_ns - (running_ns < first_ns ? running_ns : first_ns);
	} else if (lane->open.count > 0 && (now_ns > lane->drains_ns || now_ns > lane->used_ns + GAP_NS || lane->open.awaited)) {
		// No event follows what was submitted last. The stream knows whether it is done, but not since when.
		bool own = lane->thread == 0 || lane->thread == thread;
		CUresult result = lane->gone || !own ? CUDA_SUCCESS : query(lane);
		uint64_t from_ns = began(lane, &lane->open, now_ns);
		if (result == CUDA_ERROR_NOT_READY) {
			if (from_ns != 0 && from_ns < now_ns)
				span[spans++] = (struct softmig_lane_span){from_ns, now_ns};
			if (lane->drains_ns < now_ns)
				lane->drains_ns = now_ns;
		} else {
			bool late = lane->open.awaited && now_ns > lane->drains_ns + BRIEF_LATE_NS; // it took longer than ever before
			lane->guessed = late || !lane->open.awaited;
			if (late && now_ns > lane->drains_ns + BRIEF_FAR_NS)
				lane->wary = WARY;
			uint64_t to_ns = lane->dependent || late || lane->drains_ns > now_ns ? now_ns : lane->drains_ns;
			if (lane->open.begin != NULL && from_ns != 0 && to_ns < from_ns + lane->open.estimate_ns) // it had to wait
				to_ns = from_ns + lane->open.estimate_ns < now_ns ? from_ns + lane->open.estimate_ns : now_ns;
			if (from_ns == 0)
				from_ns = lane->ended_ns;
			if (to_ns > from_ns)
				span[spans++] = (struct softmig_lane_span){from_ns, to_ns};
			finish(lane, &lane->open, from_ns, to_ns);
			lane->close_later = false;
			scene->completions++;
		}
	}
	return spans;
}

// ---- ends

void softmig_lane_stream_gone(struct softmig_lane *lane, bool capturing, uint64_t now_ns)
{
	if (lane->open.count > 0 && !capturing)
		close_open(lane, true, now_ns); // its work goes on after it
	lane->gone = true;
}

void softmig_lane_context_gone(CUcontext context)
{
	for (int i = 0; i < SOFTMIG_LANES; i++)
		if (lanes[i].home != NULL && lanes[i].home->context == context)
			lanes[i] = (struct softmig_lane){0};
	for (int i = 0; i < CONTEXTS; i++)
		if (contexts[i].context == context)
			contexts[i] = (struct softmig_lane_context){0};
}
