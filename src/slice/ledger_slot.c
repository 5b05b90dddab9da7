// SPDX-License-Identifier: Apache-2.0
// Slots: claiming one's own, taking those of the dead. Owns: the owner word's life, the mark above which no slot is used.
// Must never: change a figure of a slot that another living process owns (ledger_heirs.c adds to one), or leave a figure in a slot it frees.
//
// A taker writes its own name into the owner word (busy) before it zeroes, and its last step is one compare-and-swap, so of two takers
// one wins, one that dies half-way is itself found dead, and a word judged long ago no longer matches: its generation has changed.
#include <errno.h>

#include "slice/ledger_private.h"
#include "slice/sys.h"

#define FIRST_SWEEP_AT 16u // claims look for the dead when 16, 32, 64 ... slots are in use: rarely, whatever number starts at once

void softmig_ledger_raise_mark(struct softmig_ledger_file *file, uint32_t index)
{
	uint64_t mark = atomic_load(&file->mark), next;
	do {
		uint32_t count = ledger_mark(mark);
		next = (mark & ~0xffffffffull) + (1ull << 32) + (count > index ? count : index + 1);
	} while (!atomic_compare_exchange_weak(&file->mark, &mark, next)); // seq_cst, see look()
	STEP();
}

// Slots at the end that are free need not be looked at. A claim since we read the mark has changed its high half (and one that
// comes later raises it again), so no owned slot is ever above the mark.
static void lower_mark(struct softmig_ledger_file *file)
{
	uint64_t mark = atomic_load(&file->mark);
	uint32_t count = ledger_mark(mark), needed = count;
	while (needed > 0 && owner_state(atomic_load(&file->slot[needed - 1].owner)) == OWNER_FREE)
		needed--;
	if (needed < count)
		atomic_compare_exchange_strong(&file->mark, &mark, (mark & ~0xffffffffull) + needed);
}

static uint64_t busy_word(const struct viewer *viewer, uint64_t generation)
{
	return owner_word(OWNER_BUSY, generation, viewer->pid, (viewer->start & 0xffff) | viewer_ns_mark(viewer) << 16);
}

// Takes the slot if its word is still the one judged, and zeroes all of it. *held gets the word it now bears.
static bool take(struct softmig_ledger_file *file, struct softmig_ledger_slot *slot, const struct viewer *viewer, uint64_t judged, uint64_t *held)
{
	STEP();
	*held = busy_word(viewer, owner_next_generation(judged));
	if (!atomic_compare_exchange_strong(&slot->owner, &judged, *held))
		return false;
	STEP();
	// Relaxed: nobody looks at them before the owner word changes again, which is sequentially consistent.
	atomic_store_explicit(&slot->pid_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->claimed_ns, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->image, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->random, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->giving, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->exported_bytes, 0, memory_order_relaxed);
	atomic_store_explicit(&slot->imports, 0, memory_order_relaxed);
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		struct softmig_ledger_use *use = &slot->use[i];
		atomic_store_explicit(&use->tracked_bytes, 0, memory_order_relaxed);
		STEP();
		atomic_store_explicit(&use->overhead_bytes, 0, memory_order_relaxed);
		atomic_store_explicit(&use->pending_bytes, 0, memory_order_relaxed);
		atomic_store_explicit(&use->peak_bytes, 0, memory_order_relaxed);
		atomic_store_explicit(&use->busy_ns, 0, memory_order_relaxed);
		atomic_store_explicit(&use->throttled_ns, 0, memory_order_relaxed);
		atomic_store_explicit(&use->waiting_ns, 0, memory_order_relaxed);
		atomic_store_explicit(&use->cover_bytes, 0, memory_order_relaxed);
		atomic_store_explicit(&file->passed_on_bytes[slot - file->slot][i], 0, memory_order_relaxed);
	}
	STEP();
	return true;
}

static bool discard(struct softmig_ledger_file *file, struct softmig_ledger_slot *slot, const struct viewer *viewer, uint64_t judged)
{
	uint64_t held;
	if (owner_state(judged) == OWNER_OWNED)
		softmig_ledger_bequeath(file, slot);
	if (!take(file, slot, viewer, judged, &held))
		return false;
	bool freed = atomic_compare_exchange_strong(&slot->owner, &held, owner_word(OWNER_FREE, held, 0, 0));
	STEP();
	return freed;
}

// Does the slot hold anything that this sweep is about?
static bool concerns(struct softmig_ledger_slot *slot, int gpu, enum sweep which)
{
	if (which == SWEEP_ALL || which == SWEEP_CLAIM)
		return true;
	struct softmig_ledger_use *use = &slot->use[gpu];
	// Waited for like an announcement, and when that took too long counted as used.
	bool covers = (atomic_load_explicit(&use->cover_bytes, memory_order_relaxed) & SOFTMIG_LEDGER_COVER_IN_USE) != 0;
	if (which == SWEEP_PENDING)
		return atomic_load_explicit(&use->pending_bytes, memory_order_relaxed) > 0 || covers;
	return covers || (atomic_load_explicit(&use->tracked_bytes, memory_order_relaxed) |
	        atomic_load_explicit(&use->overhead_bytes, memory_order_relaxed)) != 0;
}

#define DEEP_MAX 64
#define DEEP_EVERY_NS 1000000000ull

// Judges by the costly means those whom the cheap ones left alive.
static int sweep_deep(struct softmig_ledger_file *file, const struct viewer *viewer, int gpu, enum sweep which)
{
	uint16_t near[DEEP_MAX], far[DEEP_MAX], dead[DEEP_MAX];
	uint64_t words[DEEP_MAX];
	int near_count = 0, far_count = 0, freed = 0;
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	// From another place each time, so that many who live do not hide those behind them for ever.
	uint32_t first = count > DEEP_MAX ? (uint32_t)(softmig_ledger_clock_ns(CLOCK_MONOTONIC) / 1000000000ull * DEEP_MAX) % count : 0;
	for (uint32_t n = 0; n < count; n++) {
		uint32_t i = (first + n) % count;
		struct softmig_ledger_slot *slot = &file->slot[i];
		if (owner_state(atomic_load(&slot->owner)) != OWNER_OWNED || !concerns(slot, gpu, which))
			continue;
		uint64_t pid_ns = atomic_load_explicit(&slot->pid_ns, memory_order_relaxed);
		if (pid_ns != viewer->pid_ns && far_count < DEEP_MAX)
			far[far_count++] = (uint16_t)i;
		else if (pid_ns == viewer->pid_ns && near_count < DEEP_MAX)
			near[near_count++] = (uint16_t)i;
	}
	for (int pass = 0; pass < 2; pass++) {
		const uint16_t *candidates = pass == 0 ? near : far;
		int candidate_count = pass == 0 ? near_count : far_count;
		for (int i = 0; i < candidate_count; i++)
			words[i] = atomic_load(&file->slot[candidates[i]].owner);
		int found = pass == 0 ? softmig_ledger_find_execed(file, viewer, candidates, candidate_count, dead)
		                      : softmig_ledger_find_elsewhere(file, viewer, candidates, candidate_count, dead);
		for (int i = 0; i < candidate_count; i++) // the words from before the judgement
			for (int j = 0; j < found; j++)
				if (dead[j] == candidates[i] && owner_state(words[i]) == OWNER_OWNED)
					freed += discard(file, &file->slot[dead[j]], viewer, words[i]);
	}
	return freed;
}

// The costly means are used before a refusal or on demand, and at most once a second.
static bool is_deep_due(const struct softmig_ledger *ledger)
{
	uint64_t now = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
	uint64_t last = atomic_load_explicit(&ledger->mine->deep_ns, memory_order_relaxed);
	return (last == 0 || now - last > DEEP_EVERY_NS) && atomic_compare_exchange_strong(&ledger->mine->deep_ns, &last, now);
}

// The same owner, by all but a coincidence of 2^-32, and the moment.
static uint64_t judgement(uint64_t word, uint64_t now_ns)
{
	return (OWNER_IDENTITY(word) * 0x9e3779b97f4a7c15ull >> 32) << 32 | (uint32_t)(now_ns / JUDGED_UNIT_NS);
}

static bool judged_just_now(const struct softmig_ledger_mine *mine, uint32_t index, uint64_t word, uint64_t now_ns)
{
	uint64_t judged = atomic_load_explicit(&mine->judged[index], memory_order_relaxed);
	return judged == judgement(word, now_ns) || judged == judgement(word, now_ns - JUDGED_UNIT_NS);
}

int softmig_ledger_sweep(const struct softmig_ledger *ledger, int gpu, enum sweep which, bool *stuck)
{
	struct softmig_ledger_file *file = ledger->file;
	struct viewer viewer;
	bool has_viewer = false;
	int freed = 0;
	uint64_t now_ns = which == SWEEP_REFUSAL ? softmig_ledger_clock_ns(CLOCK_MONOTONIC) : 0;
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	for (uint32_t i = 0; i < count; i++) {
		struct softmig_ledger_slot *slot = &file->slot[i];
		uint64_t word = atomic_load(&slot->owner);
		if (owner_state(word) == OWNER_FREE || !concerns(slot, gpu, which))
			continue;
		if (OWNER_IDENTITY(word) == atomic_load_explicit(&ledger->mine->identity, memory_order_relaxed) && ledger->wipes)
			continue; // ourselves, without asking the kernel
		if (which == SWEEP_REFUSAL && ledger->wipes && judged_just_now(ledger->mine, i, word, now_ns) && softmig_ledger_pid_runs(word))
			continue;
		if (!has_viewer)
			softmig_ledger_viewer(&viewer);
		has_viewer = true;
		enum fate fate = softmig_ledger_fate(&viewer, word, atomic_load_explicit(&slot->pid_ns, memory_order_relaxed));
		if (fate == FATE_DEAD)
			freed += discard(file, slot, &viewer, word);
		else if (which == SWEEP_REFUSAL && fate != FATE_UNKNOWN && viewer.proc_is_ours)
			atomic_store_explicit(&ledger->mine->judged[i], judgement(word, now_ns), memory_order_relaxed);
		else if (stuck != NULL && fate != FATE_ALIVE && owner_state(word) == OWNER_OWNED)
			*stuck = true;
	}
	if (has_viewer && freed == 0 && (which == SWEEP_ALL || which == SWEEP_REFUSAL) && is_deep_due(ledger))
		freed += sweep_deep(file, &viewer, gpu, which);
	if (freed > 0)
		lower_mark(file);
	return freed;
}

int softmig_ledger_reclaim(struct softmig_ledger *ledger)
{
	if (ledger->file == NULL)
		return 0;
	int saved_errno = errno;
	int freed = softmig_ledger_sweep(ledger, 0, SWEEP_ALL, NULL);
	errno = saved_errno;
	return freed;
}

// What this process left in the ledger before it exec'ed: same process, another image. Its memory went with the old image.
static void discard_former_self_as(struct softmig_ledger_file *file, const struct viewer *viewer)
{
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	uint64_t identity = owner_word(OWNER_OWNED, 0, viewer->pid, viewer->start);
	for (uint32_t i = 0; i < count; i++) {
		struct softmig_ledger_slot *slot = &file->slot[i];
		uint64_t word = atomic_load(&slot->owner);
		if (OWNER_IDENTITY(word) == identity && atomic_load(&slot->pid_ns) == viewer->pid_ns &&
		    (atomic_load(&slot->random) != viewer->random || atomic_load(&slot->image) != viewer->image))
			discard(file, slot, viewer, word);
	}
}

// At the opening, since from then on it maps the file again and looks alive to the others. Costs a look at the owner words unless there is one.
void softmig_ledger_discard_former_self(struct softmig_ledger_file *file)
{
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	uint32_t pid = (uint32_t)softmig_sys_getpid();
	for (uint32_t i = 0; i < count; i++) {
		struct viewer viewer;
		uint64_t word = atomic_load(&file->slot[i].owner);
		if (owner_state(word) != OWNER_OWNED || owner_pid(word) != pid)
			continue;
		softmig_ledger_viewer(&viewer);
		discard_former_self_as(file, &viewer);
		return;
	}
}

// Makes slot index ours if it is free. The figures are zero before anybody counts them, whatever was scribbled into a free slot.
static bool claim_at(struct softmig_ledger_file *file, uint32_t index, const struct viewer *viewer)
{
	struct softmig_ledger_slot *slot = &file->slot[index];
	uint64_t word = atomic_load(&slot->owner), held;
	if (owner_state(word) != OWNER_FREE || !take(file, slot, viewer, word, &held))
		return false;
	atomic_store_explicit(&slot->pid_ns, viewer->pid_ns, memory_order_relaxed);
	atomic_store_explicit(&slot->image, viewer->image, memory_order_relaxed);
	atomic_store_explicit(&slot->random, viewer->random, memory_order_relaxed);
	atomic_store_explicit(&slot->claimed_ns, softmig_ledger_clock_ns(CLOCK_BOOTTIME), memory_order_relaxed);
	STEP();
	softmig_ledger_raise_mark(file, index); // before the first announcement, and after the slot is seen to be in use: see lower_mark()
	uint64_t owned = owner_word(OWNER_OWNED, held, viewer->pid, viewer->start);
	bool claimed = atomic_compare_exchange_strong(&slot->owner, &held, owned);
	STEP();
	return claimed;
}

static int claim_any(struct softmig_ledger *ledger, const struct viewer *viewer)
{
	struct softmig_ledger_file *file = ledger->file;
	for (int attempt = 0; attempt < 2; attempt++) {
		for (uint32_t i = 0; i < SOFTMIG_LEDGER_SLOTS; i++) {
			if (attempt == 0 && i >= FIRST_SWEEP_AT && (i & (i - 1)) == 0 && i == ledger_mark(atomic_load(&file->mark)) &&
			    softmig_ledger_sweep(ledger, 0, SWEEP_CLAIM, NULL) > 0)
				i = 0; // there is room below now
			if (claim_at(file, i, viewer))
				return (int)i;
		}
		if (attempt == 0) {
			// Full: also slots at the end that are taken but not below the mark, by somebody killed while claiming.
			softmig_ledger_raise_mark(file, SOFTMIG_LEDGER_SLOTS - 1);
			softmig_ledger_sweep(ledger, 0, SWEEP_ALL, NULL);
		}
	}
	return -1;
}

// Is a word of the private page, if any, that of a slot which is still ours? -1: no.
static int index_of(const struct softmig_ledger *ledger, uint64_t word)
{
	if (word == 0 || (UNLIKELY(!ledger->wipes) && (pid_t)(word >> 32) != softmig_sys_getpid()))
		return -1;
	// Another process may have taken us for dead (or scribbled): then the figures are gone, and the slot may be another's.
	uint32_t index = ((uint32_t)word & 0xffff) - 1;
	uint64_t owner = atomic_load_explicit(&ledger->file->slot[index].owner, memory_order_relaxed);
	if (UNLIKELY(OWNER_IDENTITY(owner) != atomic_load_explicit(&ledger->mine->identity, memory_order_relaxed)))
		return -1;
	return (int)index;
}

// judged: what the private page said, and was found not to do.
static __attribute__((noinline)) struct softmig_ledger_slot *claim(struct softmig_ledger *ledger, uint64_t judged)
{
	struct softmig_ledger_file *file = ledger->file;
	struct softmig_ledger_mine *mine = ledger->mine;
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	discard_former_self_as(file, &viewer);
	int index = claim_any(ledger, &viewer);
	if (index < 0)
		return NULL;
	uint64_t owner = atomic_load(&file->slot[index].owner);
	// The same value from every thread; published by the exchange below (release).
	atomic_store_explicit(&mine->identity, owner_word(OWNER_OWNED, 0, viewer.pid, viewer.start), memory_order_relaxed);
	STEP();
	// With the slot's generation, so that a slot lost and claimed anew has another word.
	uint64_t word = (uint64_t)viewer.pid << 32 | OWNER_GENERATION(owner) >> 54 << 16 | (uint32_t)(index + 1);
	if (!atomic_compare_exchange_strong(&mine->slot, &judged, word)) {
		// Another thread was faster: its slot is the process's, ours is still empty.
		if (OWNER_IDENTITY(owner) == atomic_load(&mine->identity))
			discard(file, &file->slot[index], &viewer, owner);
		index = index_of(ledger, judged);
	}
	return index < 0 ? NULL : &file->slot[index];
}

struct softmig_ledger_slot *softmig_ledger_self(struct softmig_ledger *ledger)
{
	if (UNLIKELY(ledger->file == NULL))
		return NULL;
	uint64_t word = atomic_load_explicit(&ledger->mine->slot, memory_order_acquire);
	int index = index_of(ledger, word);
	if (LIKELY(index >= 0))
		return &ledger->file->slot[index];
	int saved_errno = errno;
	struct softmig_ledger_slot *slot = claim(ledger, word);
	errno = saved_errno;
	return slot;
}

void softmig_ledger_leave(const struct softmig_ledger *ledger)
{
	int index = index_of(ledger, atomic_load(&ledger->mine->slot));
	if (index < 0)
		return;
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	struct softmig_ledger_slot *slot = &ledger->file->slot[index];
	discard(ledger->file, slot, &viewer, atomic_load(&slot->owner));
	atomic_store(&ledger->mine->slot, 0);
	lower_mark(ledger->file);
}
