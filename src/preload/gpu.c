// SPDX-License-Identifier: Apache-2.0
// The slice's GPUs and what is charged to them: see gpu.h.
#include "preload/gpu.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "preload/dma_buf.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/oom_killer.h"
#include "preload/private.h"
#include "preload/sharing.h"
#include "slice/log.h"
#include "slice/sys.h"

enum { MAX_DEVICES = 64, FIRST_PAUSE_NS = 20000, MOST_PAUSE_NS = 5000000, ROUNDS_FOR_OTHERS = 3 };
// For so long at most does whoever is about to be refused wait for others who are giving back, or for what was given back to be measured.
#define MOST_WAIT_NS 1000000000ull

static struct softmig_gpu gpus[SOFTMIG_MAX_GPUS];
// CUDA device number -> ledger index + 1; 0: not asked yet.
static _Atomic int8_t index_of_device[MAX_DEVICES];
struct softmig_hot softmig_hot;

uint64_t softmig_gpu_limit_of(const uint8_t uuid[16], int number, int *entry)
{
	const struct softmig_limits *limits = softmig_limits_now();
	bool by_uuid = false;

	*entry = -1;
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		by_uuid |= limits->has_uuid[i];
		if (limits->has_uuid[i] && memcmp(limits->uuid[i], uuid, 16) == 0)
			*entry = i;
	}
	if (!by_uuid && number >= 0 && number < SOFTMIG_MAX_GPUS)
		*entry = number;
	if (*entry < 0)
		return by_uuid ? 0 : UINT64_MAX;
	return limits->memory_bytes[*entry] == 0 ? UINT64_MAX : limits->memory_bytes[*entry];
}

struct softmig_gpu *softmig_gpu_by_index(int ledger)
{
	return ledger >= 0 && ledger < SOFTMIG_MAX_GPUS ? &gpus[ledger] : NULL;
}

struct softmig_gpu *softmig_gpu_of_device(CUdevice device)
{
	CUuuid uuid;

	if (device < 0 || device >= MAX_DEVICES)
		return NULL;
	int known = atomic_load_explicit(&index_of_device[device], memory_order_acquire);
	if (known != 0)
		return &gpus[known - 1];
	// _v2 tells MIG instances apart; drivers before 11.4 have only the first.
	CUresult (*get)(CUuuid *, CUdevice) = SOFTMIG_HAS(cuDeviceGetUuid_v2) ? DRIVER(cuDeviceGetUuid_v2) : DRIVER(cuDeviceGetUuid);
	if (get == NULL || get(&uuid, device) != CUDA_SUCCESS)
		return NULL;
	int index = softmig_ledger_gpu(softmig_ledger_now(), (const uint8_t *)uuid.bytes);
	if (index < 0) {
		softmig_log(SOFTMIG_LOG_ERROR, "no room in the ledger for CUDA device %d", device);
		return NULL;
	}
	struct softmig_gpu *gpu = &gpus[index];
	gpu->ledger = index;
	gpu->device = device;
	memcpy(gpu->uuid, uuid.bytes, 16);
	softmig_gpu_limit_of(gpu->uuid, device, &gpu->number);
	atomic_store_explicit(&index_of_device[device], (int8_t)(index + 1), memory_order_release);
	return gpu;
}

struct softmig_gpu *softmig_gpu_current(void)
{
	CUdevice device;
	return DRIVER(cuCtxGetDevice)(&device) == CUDA_SUCCESS ? softmig_gpu_of_device(device) : NULL;
}

// The driver's count is that of the process's whole life.
struct softmig_gpu *softmig_gpu_current_or_only_asked(void)
{
	static _Atomic int seen; // GPUs, 0: not asked yet
	struct softmig_gpu *gpu = softmig_gpu_current();
	int count = atomic_load_explicit(&seen, memory_order_relaxed);

	if (gpu != NULL && count == 0 && DRIVER(cuDeviceGetCount)(&count) == CUDA_SUCCESS)
		atomic_store_explicit(&seen, count, memory_order_relaxed);
	if (gpu != NULL && count == 1)
		atomic_store_explicit(&softmig_hot.only_gpu, gpu, memory_order_release);
	return gpu;
}

bool softmig_gpu_forbidden(const struct softmig_gpu *gpu)
{
	return gpu->number < 0;
}

uint64_t softmig_gpu_limit_bytes(const struct softmig_gpu *gpu)
{
	int entry;
	return softmig_gpu_limit_of(gpu->uuid, gpu->device, &entry);
}

uint64_t softmig_gpu_used_bytes(const struct softmig_gpu *gpu)
{
	return softmig_ledger_used(softmig_ledger_now(), gpu->ledger);
}

bool softmig_gpu_may_fit(const struct softmig_gpu *gpu, uint64_t bytes, uint64_t free_bytes)
{
	uint64_t used = softmig_gpu_used_bytes(gpu), limit = softmig_gpu_limit_bytes(gpu);
	return bytes <= limit && used - (used < free_bytes ? used : free_bytes) <= limit - bytes;
}

// Who holds what, for whoever reads the log after a refusal.
static void log_holders(const struct softmig_gpu *gpu)
{
	struct softmig_ledger_process process;
	int cursor = 0;

	if (softmig_log_level() < SOFTMIG_LOG_WARN)
		return;
	while (softmig_ledger_next(softmig_ledger_now()->file, &cursor, &process))
		if (process.used_bytes[gpu->ledger] != 0)
			softmig_log(SOFTMIG_LOG_WARN, "process %d holds %llu bytes on GPU %d", (int)process.pid,
			            (unsigned long long)process.used_bytes[gpu->ledger], gpu->number);
}

bool softmig_charge_if_room(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	uint64_t limit = softmig_gpu_limit_bytes(gpu);

	// The ledger's "no limit" is 0; a forbidden GPU has a limit of nothing at all.
	return limit != 0 && softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, kind, bytes, limit == UINT64_MAX ? 0 : limit);
}

// A call that asks for memory may also make the driver take some for itself, which is not to be had without headroom.
static bool charge_fed(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	return !softmig_gpu_starved(gpu) && softmig_charge_if_room(gpu, kind, bytes);
}

static struct softmig_private refusing; // a lock for each GPU

struct request {
	enum softmig_ledger_kind kind;
	uint64_t bytes;
	bool graphs; // their idle memory is given back before a refusal
	bool others; // processes were giving back before the last look
	int round;
};

static bool look(struct softmig_gpu *gpu, void *argument)
{
	struct request *request = argument;

	// Asked first: who has ended since has told the ledger what is free before.
	request->others = softmig_ledger_others_give_back(softmig_ledger_now(), gpu->ledger);
	return charge_fed(gpu, request->kind, request->bytes);
}

// One thread at a time, as in a driver: the next one finds what this one has given back.
static bool give_back_and_charge(struct softmig_gpu *gpu, struct request *request)
{
	softmig_gpu_step_out(gpu);
	softmig_private_lock(&refusing, SOFTMIG_MAX_GPUS, gpu->ledger);
	softmig_descriptors_look();
	softmig_gpu_enter(gpu);
	bool granted = softmig_gpu_may_fit(gpu, request->bytes, 0) && look(gpu, request);
	if (!granted && softmig_gpu_starved(gpu))
		granted = softmig_settle_and(gpu, request->bytes, look, request);
	if (!granted) {
		// What is idle and stays so after the first time is in pieces: two who go on about that would keep each other waiting.
		bool idle = request->round++ == 0 && (softmig_pools_idle(gpu) || (request->graphs && softmig_graph_memory_idle(gpu)));
		bool gives = idle || atomic_load(&gpu->unsettled_bytes) != 0;
		if (gives)
			softmig_ledger_gives_back(softmig_ledger_now(), gpu->ledger, true);
		softmig_pools_trim(gpu);
		if (request->graphs)
			softmig_graph_memory_trim(gpu);
		granted = softmig_settle_and(gpu, request->bytes, look, request);
		if (gives)
			softmig_ledger_gives_back(softmig_ledger_now(), gpu->ledger, false);
	}
	softmig_private_unlock(&refusing, SOFTMIG_MAX_GPUS, gpu->ledger);
	return granted;
}

// Refused as things are: tries again as long as others are giving back, or what this process gave back could not be measured yet and would do.
static bool give_back_until_charged(struct softmig_gpu *gpu, struct request *request)
{
	uint64_t until = 0;
	long pause_ns = FIRST_PAUSE_NS;

	while (!give_back_and_charge(gpu, request)) {
		uint64_t now = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
		until = until == 0 ? now + MOST_WAIT_NS : until;
		bool others = request->others && request->round <= ROUNDS_FOR_OTHERS;
		if (now >= until || !(others || softmig_gpu_may_fit(gpu, request->bytes, atomic_load(&gpu->unsettled_bytes))))
			return false;
		int kept = errno;
		softmig_gpu_step_out(gpu);
		do {
			softmig_sys_sleep_ns(pause_ns);
			pause_ns = pause_ns < MOST_PAUSE_NS ? pause_ns * 2 : MOST_PAUSE_NS;
		} while (softmig_ledger_others_give_back(softmig_ledger_now(), gpu->ledger) && !softmig_gpu_may_fit(gpu, request->bytes, 0) &&
		         softmig_ledger_clock_ns(CLOCK_MONOTONIC) < until);
		softmig_gpu_enter(gpu);
		errno = kept;
	}
	return true;
}

static bool charge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes, const char *what, bool graphs)
{
	struct request request = {.kind = kind, .bytes = bytes, .graphs = graphs};

	if (charge_fed(gpu, kind, bytes))
		return true;
	if (softmig_gpu_limit_bytes(gpu) == 0)
		return false;
	if (give_back_until_charged(gpu, &request))
		return true;
	softmig_log(SOFTMIG_LOG_WARN, "refused: %s of %llu bytes on GPU %d; the slice has %llu, used %llu", what,
	            (unsigned long long)bytes, gpu->number, (unsigned long long)softmig_gpu_limit_bytes(gpu),
	            (unsigned long long)softmig_gpu_used_bytes(gpu));
	log_holders(gpu);
	softmig_ledger_count_refusal(softmig_ledger_now(), gpu->ledger);
	softmig_oom_kill(gpu);
	return false;
}

bool softmig_charge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes, const char *what)
{
	return charge(gpu, kind, bytes, what, true);
}

bool softmig_charge_stream_ordered(struct softmig_gpu *gpu, uint64_t bytes, const char *what)
{
	return charge(gpu, SOFTMIG_LEDGER_TRACKED, bytes, what, false);
}

bool softmig_charge_unasked(struct softmig_gpu *gpu, uint64_t most_bytes, const char *what, uint64_t *reserved_bytes)
{
	*reserved_bytes = most_bytes;
	if (softmig_charge_if_room(gpu, SOFTMIG_LEDGER_OVERHEAD, most_bytes))
		return true;
	if (atomic_load_explicit(&gpu->headroom_bytes, memory_order_relaxed) >= most_bytes) {
		*reserved_bytes = 0;
		return true;
	}
	return softmig_charge(gpu, SOFTMIG_LEDGER_OVERHEAD, most_bytes, what);
}

bool softmig_unasked_begin(struct softmig_unasked *unasked, struct softmig_gpu *gpu, uint64_t most_bytes, const char *what)
{
	*unasked = (struct softmig_unasked){gpu, 0};
	if (gpu == NULL)
		return true;
	softmig_gpu_enter(gpu);
	if (softmig_charge_unasked(gpu, most_bytes, what, &unasked->reserved_bytes))
		return true;
	softmig_gpu_leave(gpu);
	return false;
}

void softmig_unasked_end(const struct softmig_unasked *unasked)
{
	if (unasked->gpu == NULL)
		return;
	softmig_gpu_leave(unasked->gpu);
	softmig_settle_reserved(unasked->gpu, unasked->reserved_bytes);
}

void softmig_uncharge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	softmig_ledger_release(softmig_ledger_now(), gpu->ledger, kind, bytes);
}

void softmig_uncharge_measured(struct softmig_gpu *gpu, uint64_t bytes)
{
	if (bytes != 0 && !atomic_load_explicit(&gpu->nvml_blind, memory_order_relaxed)) {
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, bytes, 0);
		atomic_fetch_add(&gpu->unsettled_bytes, bytes);
		atomic_store_explicit(&gpu->settle_wanted, true, memory_order_relaxed);
	}
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
}

uint64_t softmig_charge_follow(struct softmig_gpu *gpu, _Atomic uint64_t *charged_bytes, uint64_t now_bytes, uint64_t held_bytes)
{
	uint64_t before_bytes = atomic_load_explicit(charged_bytes, memory_order_relaxed);
	uint64_t grown_bytes = now_bytes > before_bytes ? now_bytes - before_bytes : 0;

	atomic_store_explicit(charged_bytes, now_bytes, memory_order_relaxed);
	if (grown_bytes > held_bytes) // more than foreseen: the driver holds it, so it is charged, limit or not
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, grown_bytes - held_bytes, 0);
	else
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, held_bytes - grown_bytes);
	return before_bytes;
}

void softmig_uncharge_entry(const struct softmig_track_entry *entry)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(entry->gpu);
	struct softmig_track_entry block;

	if (entry->kind == SOFTMIG_TRACK_POINTER && entry->more != 0) {
		if (!softmig_track_adjust(SOFTMIG_TRACK_MANAGED_BLOCK, entry->more, -1, 0, &block) || block.count != 0)
			return;
		entry = &block;
	}
	if (entry->unseen)
		atomic_fetch_sub(&gpu->unseen_bytes, entry->bytes);
	bool kept = entry->kind == SOFTMIG_TRACK_POINTER && softmig_dma_buf_keeps(entry);
	if (entry->kind == SOFTMIG_TRACK_POINTER && entry->count != 0)
		softmig_export_ended(gpu, entry->bytes, 0);
	if (!kept)
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, entry->bytes);
}

void softmig_hand_over(struct softmig_gpu *gpu, uint64_t bytes)
{
	softmig_gpu_enter(gpu);
	if (!atomic_load(&gpu->nvml_blind)) {
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, bytes, 0);
		atomic_fetch_add(&gpu->unsettled_bytes, bytes);
	}
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	softmig_gpu_leave(gpu);
	softmig_settle(gpu);
}
