// SPDX-License-Identifier: Apache-2.0
// Memory that outlives its owner. Owns: who may hold what others have exported, and that it stays charged when these let go of it. Must never:
// leave a moment in which nobody is charged for it, lower anybody's figure.
//
// The driver charges shared memory to its exporter, and when that lets go or ends, to a process that holds it open: which one, only NVML
// tells, and that process. So it is charged to all that may be, which is too much until they have compared, and never too little.
#include <time.h>

#include "slice/ledger_private.h"

// In a slot's imports: times have the bits above these.
#define FLAGS 0xffffull
_Static_assert(SOFTMIG_MAX_GPUS <= 16, "the word of who imported has 16 bits for them");

void softmig_ledger_export(struct softmig_ledger *ledger, uint64_t bytes, bool begins)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(ledger);
	if (slot == NULL)
		return;
	if (!begins) {
		subtract_clamped(&slot->exported_bytes, bytes);
		return;
	}
	uint64_t was = atomic_load_explicit(&slot->exported_bytes, memory_order_relaxed);
	while (!atomic_compare_exchange_weak(&slot->exported_bytes, &was, add_saturated(was, bytes)))
		;
}

void softmig_ledger_import_last(struct softmig_ledger *ledger, uint64_t last_ns)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(ledger);
	if (slot == NULL)
		return;
	uint64_t was = atomic_load(&slot->imports);
	while (!atomic_compare_exchange_weak(&slot->imports, &was, (last_ns & ~FLAGS) | (was & FLAGS)))
		;
}

void softmig_ledger_import(struct softmig_ledger *ledger, bool holds)
{
	softmig_ledger_import_last(ledger, holds ? softmig_ledger_clock_ns(CLOCK_MONOTONIC) : 0);
}

// To all owned slots but one that imported at that time or later.
static void charge_heirs(struct softmig_ledger_file *file, const struct softmig_ledger_slot *from, int gpu, uint64_t bytes, uint64_t since_ns, bool pools)
{
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	for (uint32_t i = 0; i < count; i++) {
		struct softmig_ledger_slot *slot = &file->slot[i];
		uint64_t time = atomic_load(&slot->imports) & ~FLAGS;
		if (slot == from || time == 0 || time < (since_ns & ~FLAGS) || owner_state(atomic_load(&slot->owner)) != OWNER_OWNED)
			continue;
		atomic_fetch_add(&file->passed_on_bytes[i][gpu], pools ? bytes : 0); // first: see softmig_ledger_passed_on
		STEP();
		atomic_fetch_add(&slot->use[gpu].overhead_bytes, bytes);
		STEP();
		atomic_fetch_or(&slot->imports, 1ull << gpu);
		STEP();
		softmig_ledger_raise_mark(file, i); // who is summing, and was here before, begins anew
	}
}

void softmig_ledger_pass_on(struct softmig_ledger *ledger, int gpu, uint64_t bytes, uint64_t since_ns, bool pools)
{
	struct softmig_ledger_slot *slot = gpu >= 0 && gpu < SOFTMIG_MAX_GPUS ? softmig_ledger_self(ledger) : NULL;
	if (slot == NULL || bytes == 0)
		return;
	charge_heirs(ledger->file, slot, gpu, bytes, since_ns, pools);
}

uint64_t softmig_ledger_passed_on(struct softmig_ledger *ledger, int gpu)
{
	struct softmig_ledger_slot *slot = gpu >= 0 && gpu < SOFTMIG_MAX_GPUS ? softmig_ledger_self(ledger) : NULL;
	return slot == NULL ? 0 : atomic_load(&ledger->file->passed_on_bytes[slot - ledger->file->slot][gpu]);
}

bool softmig_ledger_inherited(struct softmig_ledger *ledger, int gpu)
{
	struct softmig_ledger_slot *slot = gpu >= 0 && gpu < SOFTMIG_MAX_GPUS ? softmig_ledger_self(ledger) : NULL;
	uint64_t bit = slot == NULL ? 0 : 1ull << gpu;
	return slot != NULL && (atomic_load_explicit(&slot->imports, memory_order_relaxed) & bit) && (atomic_fetch_and(&slot->imports, ~bit) & bit);
}

void softmig_ledger_bequeath(struct softmig_ledger_file *file, struct softmig_ledger_slot *slot)
{
	uint64_t exported = atomic_load(&slot->exported_bytes);
	for (int gpu = 0; exported != 0 && gpu < SOFTMIG_MAX_GPUS; gpu++) {
		// In the overhead, too: of a destroyed pool what was still out.
		uint64_t held = add_saturated(atomic_load(&slot->use[gpu].tracked_bytes), atomic_load(&slot->use[gpu].overhead_bytes));
		if (held != 0 && held >> 56 == 0)
			charge_heirs(file, slot, gpu, held < exported ? held : exported, 0, true); // some of it may be pools'
	}
}
