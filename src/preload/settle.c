// SPDX-License-Identifier: Apache-2.0
// Settling: makes this process's overhead on a GPU what NVML says less what is tracked (gpu.h). Owns: when the two figures belong together, who
// waits for that. Must never: lower the overhead to a figure taken while a call was under way, keep a call waiting for longer than it says.
//
// A call under way is charged more than the driver holds for it, or less was given back than the driver freed, so what NVML says is only good
// between calls. One thread settles at a time. Whoever is about to be refused steps out of the calls under way first, since it holds
// nothing ahead, so that two who need the same idle memory do not keep each other from finding it; and if calls are under way all the
// same, it lets those end and others begin later (HELD), which takes as long as NVML does, 32 us.
#include <errno.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/local.h"
#include "preload/mode.h"
#include "preload/pool_import.h"
#include "preload/private.h"
#include "preload/uuid.h"
#include "slice/log.h"
#include "slice/sys.h"

enum { SETTLE_EVERY_NS = 500000000, SETTLE_AGAIN_NS = 5000000, USUAL_PROCESSES = 128, MOST_PROCESSES = 65536, ATTEMPTS = 3 };
// Calls under way are let end for so long: a large allocation takes 50 us, but a release may wait for a kernel. A refusal has more patience
// where something was given back.
enum { DRAIN_NS = 100000, DRAIN_REFUSAL_NS = 1000000, DRAIN_RESERVED_NS = 20000000 };
// What a call under way may have reserved and will not need, but for few: a pool's chunk, a module that does not tell its size. Where that would
// do, a refusal waits for it as long as a thread may wait for the processor.
#define MOST_TOO_MUCH_BYTES (128ull << 20)
#define MOST_HELD_NS 1000000000ull // and calls that begin wait for no longer than that, whoever does not let go

// In gpu->activity: its low bits count calls under way, the others calls completed.
#define CALLS 0xffffull
#define COMPLETED 0xffffull // added: one fewer under way, one more completed
#define HELD (1ull << 63)   // calls that begin wait

static struct softmig_private settling; // a lock for each GPU

static void let_go(struct softmig_gpu *gpu)
{
	atomic_fetch_and(&gpu->activity, ~HELD);
}

// Begun while another thread settles: not yet.
static __attribute__((noinline, cold)) void enter_later(struct softmig_gpu *gpu)
{
	uint64_t until = softmig_ledger_clock_ns(CLOCK_MONOTONIC) + MOST_HELD_NS;
	int kept = errno;

	do {
		atomic_fetch_sub(&gpu->activity, 1); // as if it had not been
		for (int round = 0; (atomic_load(&gpu->activity) & HELD) && softmig_ledger_clock_ns(CLOCK_MONOTONIC) < until; round++) {
			if (round < 20)
				sched_yield();
			else
				softmig_sys_sleep_ns(20000);
		}
		if (softmig_ledger_clock_ns(CLOCK_MONOTONIC) >= until)
			let_go(gpu);
	} while (atomic_fetch_add(&gpu->activity, 1) & HELD);
	errno = kept;
}

void softmig_gpu_enter(struct softmig_gpu *gpu)
{
	if (__builtin_expect((atomic_fetch_add_explicit(&gpu->activity, 1, memory_order_seq_cst) & HELD) != 0, 0)) // see softmig_lowerings()
		enter_later(gpu);
}

// Lets the calls under way end, but for own of this thread's, and no other one begin. False: they do not end. By one thread at a time.
static bool hold(struct softmig_gpu *gpu, uint64_t own, uint64_t patience_ns)
{
	uint64_t until = softmig_ledger_clock_ns(CLOCK_MONOTONIC) + patience_ns;

	for (atomic_fetch_or(&gpu->activity, HELD); (atomic_load(&gpu->activity) & CALLS) > own; sched_yield()) {
		if (softmig_ledger_clock_ns(CLOCK_MONOTONIC) >= until) {
			let_go(gpu);
			return false;
		}
	}
	return true;
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

// What is tracked, without and with the cover of a small allocation under way, which the driver may have taken already: read before what it
// becomes when it is spent.
struct tracked {
	uint64_t sure_bytes, most_bytes;
};

static void read_tracked(const struct softmig_gpu *gpu, struct tracked *tracked)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(softmig_ledger_now());
	if (slot == NULL)
		return;
	uint64_t cover = atomic_load_explicit(&slot->use[gpu->ledger].cover_bytes, memory_order_acquire);
	uint64_t sure = atomic_load_explicit(&slot->use[gpu->ledger].tracked_bytes, memory_order_acquire);
	uint64_t most = sure + (cover & SOFTMIG_LEDGER_COVER_IN_USE ? cover - SOFTMIG_LEDGER_COVER_IN_USE : 0);
	tracked->sure_bytes = sure > tracked->sure_bytes ? sure : tracked->sure_bytes;
	tracked->most_bytes = most > tracked->most_bytes ? most : tracked->most_bytes;
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
	uint64_t passed_on = softmig_ledger_passed_on(softmig_ledger_now(), gpu->ledger); // as now has it, at least
	uint64_t kept = softmig_pool_imports_keep(gpu, passed_on);

	if (overhead < now)
		atomic_fetch_add(&softmig_hot.lowerings, 1);
	bool lowered = atomic_load(&gpu->activity) == seen && softmig_ledger_swap_overhead(softmig_ledger_now(), gpu->ledger, now, overhead);
	if (lowered)
		softmig_pool_imports_kept(gpu, passed_on);
	else
		softmig_pool_imports_undo(gpu, kept);
	return lowered;
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

// What was given back until then has been measured, but for left_bytes.
static void has_settled(struct softmig_gpu *gpu, uint64_t measured_bytes, uint64_t left_bytes)
{
	atomic_store_explicit(&gpu->settle_again_ns, 0, memory_order_relaxed);
	if (measured_bytes != left_bytes)
		atomic_fetch_add(&gpu->unsettled_bytes, left_bytes - measured_bytes);
	if (left_bytes != 0)
		atomic_store_explicit(&gpu->settle_wanted, true, memory_order_relaxed);
}

enum outcome { SETTLED, MOVED, UNKNOWN };

struct figures {
	uint64_t bytes;       // NVML's
	uint64_t least_bytes; // of the overhead
};

// One comparison. A call under way is charged before it is made and given back after: tracked may be ahead of the driver, never behind.
// With the larger of two readings of it, and the smaller of two of what NVML does not see of it, the difference can only be too
// small; so it may raise the overhead at any time, and lower it when nothing moved meanwhile, the overhead itself included. Small
// allocations under cover are no calls under way: last: they have not stopped, so one cover is taken for overhead.
static enum outcome compare(struct softmig_gpu *gpu, bool last, struct figures *figures)
{
	struct tracked tracked = {0, 0};
	int kept = errno;

	pools_changed(gpu);
	uint64_t unsettled = atomic_load(&gpu->unsettled_bytes);
	uint64_t now = softmig_gpu_overhead_bytes(gpu);
	uint64_t before = atomic_load_explicit(&gpu->activity, memory_order_acquire);
	uint64_t unseen = atomic_load_explicit(&gpu->unseen_bytes, memory_order_acquire);
	read_tracked(gpu, &tracked);
	bool known = softmig_gpu_nvml_bytes(gpu, &figures->bytes);
	read_tracked(gpu, &tracked);
	uint64_t unseen_again = atomic_load_explicit(&gpu->unseen_bytes, memory_order_acquire);
	uint64_t after = atomic_load_explicit(&gpu->activity, memory_order_acquire);
	bool quiet = before == after && (before & CALLS) == 0;
	errno = kept;
	if (!known) {
		// No context: nothing is held. A context that NVML does not see: its measured cost stays charged.
		bool none = atomic_load_explicit(&gpu->contexts, memory_order_acquire) == 0;
		if (!none)
			atomic_store_explicit(&gpu->nvml_blind, true, memory_order_relaxed);
		figures->bytes = 0;
		has_settled(gpu, unsettled, 0);
		return none && quiet && lower_overhead(gpu, before, now, 0) ? SETTLED : UNKNOWN;
	}
	atomic_store_explicit(&gpu->nvml_blind, false, memory_order_relaxed);
	unseen = unseen_again < unseen ? unseen_again : unseen;
	uint64_t seen = tracked.most_bytes > unseen ? tracked.most_bytes - unseen : 0, covered = tracked.most_bytes - tracked.sure_bytes;
	figures->least_bytes = figures->bytes > seen ? figures->bytes - seen : 0;
	figures->least_bytes += softmig_local_outstanding(gpu, figures->least_bytes);
	// What is charged already stays as headroom, up to what is wanted: what has grown has been granted before.
	uint64_t least = figures->least_bytes, sure = least + covered, most = sure + headroom_wanted(gpu);
	uint64_t charged = now < least ? least : now > most ? most : now;
	quiet = quiet && (covered == 0 || last) && !pools_changed(gpu);
	if (!quiet || !lower_overhead(gpu, before, now, charged))
		return MOVED;
	has_settled(gpu, unsettled, covered);
	if (now < least)
		tell_if_above(gpu, least - now);
	fill_headroom(gpu, charged > sure ? charged - sure : 0);
	return SETTLED;
}

// Never quiet: raises only, and looks again soon. What other threads' calls reserved and the driver has not taken yet hides what NVML shows for
// this thread's, so reserved_bytes stay charged until they can be measured.
static void raise_overhead(struct softmig_gpu *gpu, uint64_t least, uint64_t reserved_bytes)
{
	uint64_t again = softmig_ledger_clock_ns(CLOCK_MONOTONIC_COARSE) + SETTLE_AGAIN_NS, now, charged;

	atomic_store_explicit(&gpu->settle_due_ns, again, memory_order_relaxed);
	if (atomic_fetch_add(&gpu->unsettled_bytes, reserved_bytes) + reserved_bytes != 0) {
		atomic_store_explicit(&gpu->settle_again_ns, again, memory_order_relaxed);
		atomic_store_explicit(&gpu->settle_wanted, true, memory_order_relaxed);
	}
	do {
		now = softmig_gpu_overhead_bytes(gpu);
		charged = now < least ? least : now;
	} while (!softmig_ledger_swap_overhead(softmig_ledger_now(), gpu->ledger, now, charged));
	if (now < least)
		tell_if_above(gpu, least - now);
	fill_headroom(gpu, charged - least);
}

// reserved_bytes: of the overhead, what this thread reserved for a call that has been made.
static uint64_t settle(struct softmig_gpu *gpu, uint64_t reserved_bytes, bool refusing)
{
	enum outcome outcome = MOVED;
	struct figures figures = {0, 0};
	bool drained = true;

	// Others are kept waiting only where something may be there that is not known yet.
	for (int attempt = 0; attempt < ATTEMPTS && outcome == MOVED && drained; attempt++) {
		bool gave = reserved_bytes != 0 || atomic_load(&gpu->unsettled_bytes) != 0;
		bool wanted = (refusing || gave) && (attempt > 0 || (atomic_load(&gpu->activity) & CALLS) != 0);
		bool held = wanted && hold(gpu, 0, refusing && gave ? DRAIN_REFUSAL_NS : DRAIN_NS);
		drained = held || !wanted;
		outcome = compare(gpu, attempt == ATTEMPTS - 1, &figures);
		if (held)
			let_go(gpu);
	}
	if (outcome == MOVED)
		raise_overhead(gpu, figures.least_bytes, reserved_bytes);
	else if (outcome == UNKNOWN && reserved_bytes != 0)
		softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD, reserved_bytes);
	return figures.bytes;
}

uint64_t softmig_settle_reserved(struct softmig_gpu *gpu, uint64_t reserved_bytes)
{
	softmig_private_lock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
	uint64_t bytes = settle(gpu, reserved_bytes, false);
	softmig_private_unlock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
	return bytes;
}

// Something was given back while calls were under way. Another thread may have measured it already.
static __attribute__((noinline)) void settle_wanted(struct softmig_gpu *gpu)
{
	if (softmig_ledger_clock_ns(CLOCK_MONOTONIC_COARSE) < atomic_load_explicit(&gpu->settle_again_ns, memory_order_relaxed) || !atomic_exchange(&gpu->settle_wanted, false))
		return;
	softmig_private_lock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
	if (atomic_load(&gpu->unsettled_bytes) != 0)
		settle(gpu, 0, false);
	softmig_private_unlock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
}

void softmig_gpu_leave(struct softmig_gpu *gpu)
{
	atomic_fetch_add_explicit(&gpu->activity, COMPLETED, memory_order_acq_rel);
	if (atomic_load_explicit(&gpu->settle_wanted, memory_order_relaxed))
		settle_wanted(gpu);
}

uint64_t softmig_settle(struct softmig_gpu *gpu)
{
	return softmig_settle_reserved(gpu, 0);
}

void softmig_settle_if_due(struct softmig_gpu *gpu)
{
	uint64_t now = softmig_ledger_clock_ns(CLOCK_MONOTONIC_COARSE), due = atomic_load_explicit(&gpu->settle_due_ns, memory_order_relaxed);

	if (__builtin_expect(softmig_ledger_inherited(softmig_ledger_now(), gpu->ledger), 0)) {
		// Perhaps it is another's: others shall not be refused for longer than need be.
		atomic_fetch_add(&gpu->unsettled_bytes, SOFTMIG_GRANULE_BYTES);
		softmig_settle(gpu);
		return;
	}
	if (now >= due && atomic_compare_exchange_strong_explicit(&gpu->settle_due_ns, &due, now + SETTLE_EVERY_NS,
	                                                          memory_order_relaxed, memory_order_relaxed)) {
		softmig_descriptors_look();
		softmig_settle(gpu);
	}
}

void softmig_gpu_step_out(struct softmig_gpu *gpu)
{
	atomic_fetch_add(&gpu->activity, COMPLETED);
}

bool softmig_settle_and(struct softmig_gpu *gpu, uint64_t bytes, bool (*charge)(struct softmig_gpu *gpu, void *request), void *request)
{
	softmig_gpu_step_out(gpu);
	softmig_private_lock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
	settle(gpu, 0, true);
	softmig_gpu_enter(gpu);
	uint64_t before = atomic_load(&gpu->activity);
	bool granted = charge(gpu, request);
	uint64_t after = atomic_load(&gpu->activity), most = (before & CALLS) > (after & CALLS) ? before & CALLS : after & CALLS;
	uint64_t others = most > 1 ? most - 1 : before != after;
	if (!granted && others != 0 && softmig_gpu_may_fit(gpu, bytes, others * MOST_TOO_MUCH_BYTES) && hold(gpu, 1, DRAIN_RESERVED_NS)) {
		granted = charge(gpu, request);
		let_go(gpu);
	}
	softmig_private_unlock(&settling, SOFTMIG_MAX_GPUS, gpu->ledger);
	return granted;
}
