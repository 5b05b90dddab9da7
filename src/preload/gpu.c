// SPDX-License-Identifier: Apache-2.0
// The slice's GPUs and what is charged to them: see gpu.h.
#include "preload/gpu.h"

#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "preload/hook.h"
#include "preload/local.h"
#include "preload/mode.h"
#include "preload/oom_killer.h"
#include "preload/private.h"
#include "preload/uuid.h"
#include "slice/log.h"

enum { MAX_DEVICES = 64, SETTLE_EVERY_NS = 500000000, SETTLE_AGAIN_NS = 5000000, USUAL_PROCESSES = 128, MOST_PROCESSES = 65536 };

static struct softmig_gpu gpus[SOFTMIG_MAX_GPUS];
// CUDA device number -> ledger index + 1; 0: not asked yet.
static _Atomic int8_t index_of_device[MAX_DEVICES];
struct softmig_hot softmig_hot;

static uint64_t coarse_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

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
	struct softmig_gpu *gpu = softmig_gpu_current();
	int count;

	if (gpu != NULL && DRIVER(cuDeviceGetCount)(&count) == CUDA_SUCCESS && count == 1)
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

void softmig_gpu_enter(struct softmig_gpu *gpu)
{
	atomic_fetch_add_explicit(&gpu->activity, 1, memory_order_seq_cst); // see softmig_lowerings()
}

void softmig_gpu_leave(struct softmig_gpu *gpu)
{
	atomic_fetch_add_explicit(&gpu->activity, 0xffff, memory_order_acq_rel); // one fewer in flight, one more completed
	if (atomic_load_explicit(&gpu->settle_wanted, memory_order_relaxed) && atomic_exchange(&gpu->settle_wanted, false))
		softmig_settle(gpu);
}

static nvmlDevice_t nvml_device(struct softmig_gpu *gpu)
{
	nvmlDevice_t device = atomic_load_explicit(&gpu->nvml, memory_order_acquire);
	char name[SOFTMIG_UUID_TEXT];

	if (device != NULL)
		return device;
	if (!softmig_driver_load(SOFTMIG_LIBNVML) || !SOFTMIG_HAS(nvmlInit_v2) || !SOFTMIG_HAS(nvmlDeviceGetHandleByUUID))
		return NULL;
	if (DRIVER(nvmlInit_v2)() != NVML_SUCCESS)
		return NULL;
	softmig_uuid_text(gpu->uuid, "GPU-", name);
	if (DRIVER(nvmlDeviceGetHandleByUUID)(name, &device) != NVML_SUCCESS) {
		softmig_uuid_text(gpu->uuid, "MIG-", name);
		if (DRIVER(nvmlDeviceGetHandleByUUID)(name, &device) != NVML_SUCCESS)
			return NULL;
	}
	atomic_store_explicit(&gpu->nvml, device, memory_order_release);
	return device;
}

static bool find_self(const nvmlProcessInfo_t *processes, unsigned int count, uint64_t *bytes)
{
	unsigned int self = (unsigned int)getpid();

	for (unsigned int i = 0; i < count; i++) {
		if (processes[i].pid == self && processes[i].usedGpuMemory != UINT64_MAX) {
			*bytes = processes[i].usedGpuMemory;
			return true;
		}
	}
	return false;
}

bool softmig_gpu_nvml_bytes(struct softmig_gpu *gpu, uint64_t *bytes)
{
	nvmlProcessInfo_t few[USUAL_PROCESSES];
	unsigned int count = USUAL_PROCESSES;
	nvmlDevice_t device = nvml_device(gpu);

	// Version 2 first: in drivers 535.43 to 535.86 version 3 writes longer records than it was declared with (abi/nvml_types.h).
	nvmlReturn_t (*list)(nvmlDevice_t, unsigned int *, nvmlProcessInfo_t *) =
		SOFTMIG_HAS(nvmlDeviceGetComputeRunningProcesses_v2) ? DRIVER(nvmlDeviceGetComputeRunningProcesses_v2) :
		DRIVER(nvmlDeviceGetComputeRunningProcesses_v3);
	if (device == NULL || list == NULL)
		return false;
	nvmlReturn_t result = list(device, &count, few);
	if (result == NVML_SUCCESS)
		return find_self(few, count, bytes);
	// More than usual: count says how many. Others may have come when it is asked again.
	for (int attempt = 0; attempt < 3 && result == NVML_ERROR_INSUFFICIENT_SIZE && count <= MOST_PROCESSES; attempt++) {
		unsigned int room = count + USUAL_PROCESSES;
		nvmlProcessInfo_t *many = softmig_scratch_get(room * sizeof(*many));
		if (many == NULL)
			return false;
		count = room;
		result = list(device, &count, many);
		bool found = result == NVML_SUCCESS && find_self(many, count, bytes);
		softmig_scratch_free(many, room * sizeof(*many));
		if (result == NVML_SUCCESS)
			return found;
	}
	return false;
}

// With the cover of a small allocation under way, which the driver may have taken already: read before what it becomes when it is spent.
static uint64_t own_tracked(const struct softmig_gpu *gpu, bool *covers)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(softmig_ledger_now());
	if (slot == NULL)
		return 0;
	uint64_t cover = atomic_load_explicit(&slot->use[gpu->ledger].cover_bytes, memory_order_acquire);
	uint64_t tracked = atomic_load_explicit(&slot->use[gpu->ledger].tracked_bytes, memory_order_acquire);
	if (!(cover & SOFTMIG_LEDGER_COVER_IN_USE))
		return tracked;
	*covers = true;
	return tracked + (cover - SOFTMIG_LEDGER_COVER_IN_USE);
}

uint64_t softmig_gpu_overhead_bytes(const struct softmig_gpu *gpu)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(softmig_ledger_now());
	return slot == NULL ? 0 : atomic_load_explicit(&slot->use[gpu->ledger].overhead_bytes, memory_order_acquire);
}

// Nothing moved since activity was read as seen. Counted first and looked at again, as whoever enters when a block has ended does it
// the other way round: one of the two sees the other.
static bool lower_overhead(struct softmig_gpu *gpu, uint64_t seen, uint64_t now, uint64_t overhead)
{
	if (overhead < now)
		atomic_fetch_add(&softmig_hot.lowerings, 1);
	return atomic_load(&gpu->activity) == seen && softmig_ledger_swap_overhead(softmig_ledger_now(), gpu->ledger, now, overhead);
}

static uint64_t headroom_wanted(const struct softmig_gpu *gpu)
{
	return atomic_load_explicit(&gpu->contexts, memory_order_acquire) == 0 ? 0 : SOFTMIG_HEADROOM_BYTES;
}

// Fills the headroom up, of which has_bytes are there: by all that it lacks, else by a granule.
static void fill_headroom(struct softmig_gpu *gpu, uint64_t has_bytes)
{
	uint64_t wanted = headroom_wanted(gpu), lacks = wanted > has_bytes ? wanted - has_bytes : 0;

	if (lacks != 0 && softmig_charge_if_room(gpu, SOFTMIG_LEDGER_OVERHEAD, lacks))
		has_bytes = wanted;
	else if (lacks > SOFTMIG_GRANULE_BYTES && softmig_charge_if_room(gpu, SOFTMIG_LEDGER_OVERHEAD, SOFTMIG_GRANULE_BYTES))
		has_bytes += SOFTMIG_GRANULE_BYTES;
	if (atomic_load_explicit(&gpu->headroom_bytes, memory_order_relaxed) != has_bytes)
		atomic_store_explicit(&gpu->headroom_bytes, has_bytes, memory_order_relaxed);
}

bool softmig_gpu_starved(const struct softmig_gpu *gpu)
{
	return atomic_load_explicit(&gpu->headroom_bytes, memory_order_relaxed) < SOFTMIG_GRANULE_BYTES &&
	       atomic_load_explicit(&gpu->contexts, memory_order_relaxed) != 0 && !atomic_load_explicit(&gpu->nvml_blind, memory_order_relaxed);
}

// More came unasked than the headroom held.
static void tell_if_above(const struct softmig_gpu *gpu, uint64_t bytes)
{
	uint64_t limit = softmig_gpu_limit_bytes(gpu), used = softmig_gpu_used_bytes(gpu);

	if (used > limit)
		softmig_log(SOFTMIG_LOG_WARN, "the driver took %llu bytes unasked; GPU %d stands at %llu of %llu", (unsigned long long)bytes,
		            gpu->number, (unsigned long long)used, (unsigned long long)limit);
}

// The driver takes from its pools at any synchronisation. A pool whose charge is above what it has would have its difference
// taken off the overhead, and grow again unnoticed.
static bool pools_changed(struct softmig_gpu *gpu)
{
	bool changed = softmig_pools_changed(gpu);
	return softmig_graph_memory_changed(gpu) || changed;
}

// own: calls of this thread that are counted as in flight. reserved_bytes: of the overhead, what this thread reserved for a call
// that has been made.
static uint64_t settle(struct softmig_gpu *gpu, uint64_t own, uint64_t reserved_bytes)
{
	struct softmig_ledger *ledger = softmig_ledger_now();
	uint64_t bytes = 0, least = 0;
	int kept = errno;

	// A call in flight is charged before it is made and given back after: tracked may be ahead of the driver, never behind.
	// With the larger of two readings of it, and the smaller of two of what NVML does not see of it, the difference can only be too
	// small; so it may raise the overhead at any time, and lower it when nothing moved meanwhile, the overhead itself included.
	for (int attempt = 0; attempt < 3; attempt++) {
		pools_changed(gpu);
		uint64_t now = softmig_gpu_overhead_bytes(gpu);
		uint64_t before = atomic_load_explicit(&gpu->activity, memory_order_acquire);
		bool covers = false;
		uint64_t unseen = atomic_load_explicit(&gpu->unseen_bytes, memory_order_acquire);
		uint64_t tracked = own_tracked(gpu, &covers);
		bool known = softmig_gpu_nvml_bytes(gpu, &bytes);
		uint64_t again = own_tracked(gpu, &covers), unseen_again = atomic_load_explicit(&gpu->unseen_bytes, memory_order_acquire);
		tracked = again > tracked ? again : tracked;
		unseen = unseen_again < unseen ? unseen_again : unseen;
		tracked = tracked > unseen ? tracked - unseen : 0;
		uint64_t after = atomic_load_explicit(&gpu->activity, memory_order_acquire);
		bool quiet = before == after && (before & 0xffff) == own && !covers;
		errno = kept;
		if (!known) {
			// No context: nothing is held. A context that NVML does not see: its measured cost stays charged.
			if (atomic_load_explicit(&gpu->contexts, memory_order_acquire) != 0)
				atomic_store_explicit(&gpu->nvml_blind, true, memory_order_relaxed);
			else if (quiet && lower_overhead(gpu, before, now, 0))
				return 0;
			if (reserved_bytes != 0)
				softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD, reserved_bytes);
			return 0;
		}
		atomic_store_explicit(&gpu->nvml_blind, false, memory_order_relaxed);
		least = bytes > tracked ? bytes - tracked : 0;
		least += softmig_local_outstanding(gpu, least);
		// What is charged already stays as headroom, up to what is wanted: what has grown has been granted before.
		uint64_t most = least + headroom_wanted(gpu), charged = now < least ? least : now > most ? most : now;
		quiet = quiet && !pools_changed(gpu);
		if (quiet && lower_overhead(gpu, before, now, charged)) {
			if (now < least)
				tell_if_above(gpu, least - now);
			fill_headroom(gpu, charged - least);
			return bytes;
		}
	}
	// Never quiet: raise only, apart from this thread's own reservation, and look again soon.
	atomic_store_explicit(&gpu->settle_due_ns, coarse_now_ns() + SETTLE_AGAIN_NS, memory_order_relaxed);
	for (;;) {
		uint64_t now = softmig_gpu_overhead_bytes(gpu), without = now > reserved_bytes ? now - reserved_bytes : 0;
		uint64_t most = least + headroom_wanted(gpu), kept_bytes = without > most ? without : most;
		uint64_t charged = now < least ? least : now > kept_bytes ? kept_bytes : now;
		if (!softmig_ledger_swap_overhead(ledger, gpu->ledger, now, charged))
			continue;
		if (now < least)
			tell_if_above(gpu, least - now);
		fill_headroom(gpu, charged - least);
		return bytes;
	}
}

uint64_t softmig_settle(struct softmig_gpu *gpu)
{
	return settle(gpu, 0, 0);
}

uint64_t softmig_settle_reserved(struct softmig_gpu *gpu, uint64_t reserved_bytes)
{
	return settle(gpu, 0, reserved_bytes);
}

void softmig_settle_if_due(struct softmig_gpu *gpu)
{
	uint64_t now = coarse_now_ns(), due = atomic_load_explicit(&gpu->settle_due_ns, memory_order_relaxed);

	if (now >= due && atomic_compare_exchange_strong_explicit(&gpu->settle_due_ns, &due, now + SETTLE_EVERY_NS,
	                                                          memory_order_relaxed, memory_order_relaxed))
		softmig_settle(gpu);
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

// graphs: their idle memory is given back before a refusal.
static bool charge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes, const char *what, bool graphs)
{
	if (charge_fed(gpu, kind, bytes))
		return true;
	if (softmig_gpu_limit_bytes(gpu) == 0)
		return false;
	if (softmig_gpu_starved(gpu)) {
		settle(gpu, 1, 0);
		if (charge_fed(gpu, kind, bytes))
			return true;
	}
	softmig_pools_trim(gpu);
	if (graphs)
		softmig_graph_memory_trim(gpu);
	settle(gpu, 1, 0);
	if (charge_fed(gpu, kind, bytes))
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
	settle(unasked->gpu, 0, unasked->reserved_bytes);
}

void softmig_uncharge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	softmig_ledger_release(softmig_ledger_now(), gpu->ledger, kind, bytes);
}

void softmig_uncharge_measured(struct softmig_gpu *gpu, uint64_t bytes)
{
	if (bytes != 0 && !atomic_load_explicit(&gpu->nvml_blind, memory_order_relaxed)) {
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, bytes, 0);
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
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, entry->bytes);
}

void softmig_hand_over(struct softmig_gpu *gpu, uint64_t bytes)
{
	softmig_gpu_enter(gpu);
	if (!atomic_load(&gpu->nvml_blind))
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, bytes, 0);
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	softmig_gpu_leave(gpu);
	softmig_settle(gpu);
}
