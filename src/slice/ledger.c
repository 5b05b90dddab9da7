// SPDX-License-Identifier: Apache-2.0
// Admission: who may have how many bytes. Owns: announce, look, grant, refuse, contend. Must never: hold a lock, wait without a
// bound, grant what a look did not show to fit.
//
// Why two requests that do not fit together are never both granted (Dekker's argument): each announces and then looks, all of it
// sequentially consistent, so in the one order of these steps the later announcer's look sees the earlier announcement.
// Why a grant is never invisible: used grows before pending shrinks, and a look reads pending before used, so that it sees
// the bytes in one of the two, perhaps in both. In both means a sum too large, never too small: the look is repeated.
// Nothing of this depends on who stands and who withdraws in a contention; that only decides who is served first.
#include "slice/ledger.h"

#include <errno.h>

#include "slice/ledger_private.h"
#include "slice/sys.h"

#define WAIT_NS 10000000ull           // for an announcement whose owner is stopped or cannot be judged
#define WAIT_RUNNABLE_NS 1000000000ull // for one whose owner would run if the machine let it
#define SWEEP_EVERY_NS 200000ull
#define USED_SWEEP_EVERY_NS 10000000ull
#define GIVING_MOST_NS 1000000000ull
#define GIVING_UNIT_SHIFT 10
#define LOOKS 64 // as long as others keep claiming slots and passing on
_Static_assert(SOFTMIG_MAX_GPUS == 16, "the word of who gives back has 16 bits for them");

struct request {
	const struct softmig_ledger *ledger;
	struct softmig_ledger_use *use; // ours; NULL: only looking
	uint32_t index;                 // of our slot
	int gpu;
	enum softmig_ledger_kind kind;
	uint64_t bytes;
	uint64_t limit_bytes;
};

struct view {
	uint64_t used_bytes;
	uint64_t pending_bytes; // our own included, and all cover
	uint64_t kept_bytes;    // of these, cover that may be taken away
	uint64_t in_use_bytes;  // and cover that may not
	uint64_t print;         // of all used figures: the same twice means that the first sum was true in between
	bool older;             // somebody who announces has waited longer than we have
};

static _Atomic uint64_t *figure_of(struct softmig_ledger_use *use, enum softmig_ledger_kind kind)
{
	return kind == SOFTMIG_LEDGER_TRACKED ? &use->tracked_bytes : &use->overhead_bytes;
}

// See look(). Returns the mark as it was at the beginning.
static inline __attribute__((always_inline)) uint64_t look_once(const struct request *request, bool closely, uint64_t began_ns, struct view *view)
{
	struct softmig_ledger_file *file = request->ledger->file;
	int gpu = request->gpu;
	uint64_t used = 0, pending = 0, print = 0, kept = 0, in_use = 0;
	bool older = false;

	// After our announcement: who claims a slot raises the mark before announcing, so a request that does not see us
	// has raised the mark that we load here. A mark below our own slot was scribbled on.
	uint64_t mark = atomic_load_explicit(&file->mark, memory_order_seq_cst);
	if (UNLIKELY(ledger_mark(mark) <= request->index) && request->use != NULL) {
		softmig_ledger_raise_mark(file, request->index);
		mark = atomic_load_explicit(&file->mark, memory_order_seq_cst);
	}
	uint32_t count = ledger_mark(mark);
	for (uint32_t i = 0; i < count; i++) {
		struct softmig_ledger_slot *slot = &file->slot[i];
		struct softmig_ledger_use *use = &slot->use[gpu];
		// seq_cst: the look of Dekker's argument. Before the used figures: see above.
		uint64_t announced = atomic_load_explicit(&use->pending_bytes, memory_order_seq_cst);
		uint64_t cover = atomic_load_explicit(&use->cover_bytes, memory_order_seq_cst);
		uint64_t tracked = atomic_load_explicit(&use->tracked_bytes, memory_order_seq_cst);
		uint64_t overhead = atomic_load_explicit(&use->overhead_bytes, memory_order_seq_cst);
		if (closely)
			STEP();
		if ((announced | cover | tracked | overhead) == 0) {
			if (closely)
				print *= 0x9e3779b97f4a7c15ull;
			continue;
		}
		// Read last: whoever owned the slot while we read its figures has announced before it used them.
		if (owner_state(atomic_load_explicit(&slot->owner, memory_order_seq_cst)) != OWNER_OWNED)
			announced = cover = tracked = overhead = 0;
		uint64_t sum = add_saturated(tracked, overhead);
		used = add_saturated(used, sum);
		pending = add_saturated(pending, add_saturated(announced, cover & ~SOFTMIG_LEDGER_COVER_IN_USE));
		if (closely) {
			print = (print ^ sum) * 0x9e3779b97f4a7c15ull;
			if (cover & SOFTMIG_LEDGER_COVER_IN_USE)
				in_use = add_saturated(in_use, cover - SOFTMIG_LEDGER_COVER_IN_USE);
			else
				kept = add_saturated(kept, cover);
			if (announced > 0 && i != request->index) {
				uint64_t since = atomic_load_explicit(&use->waiting_ns, memory_order_relaxed); // only a hint
				older = older || (since != 0 && (since < began_ns || (since == began_ns && i < request->index)));
			}
		}
	}
	view->used_bytes = used;
	view->pending_bytes = pending;
	view->kept_bytes = kept;
	view->in_use_bytes = in_use;
	view->print = print;
	view->older = older;
	return mark;
}

// Sums the owned slots. closely: also the fingerprint, and whether a waiter older than began_ns announces. What is passed on from a slot to another
// meanwhile may be missed in both: then the mark has been raised, and it is summed again.
static inline __attribute__((always_inline)) void look(const struct request *request, bool closely, uint64_t began_ns, struct view *view)
{
	_Atomic uint64_t *mark = &request->ledger->file->mark;
	for (int attempt = 0; attempt < LOOKS; attempt++)
		if (LIKELY(look_once(request, closely, began_ns, view) >> 32 == atomic_load_explicit(mark, memory_order_seq_cst) >> 32))
			return;
}

static void announce(const struct request *request)
{
	atomic_fetch_add_explicit(&request->use->pending_bytes, request->bytes, memory_order_seq_cst);
	STEP();
}

static void withdraw(const struct request *request)
{
	subtract_clamped(&request->use->pending_bytes, request->bytes);
	STEP();
}

static bool fits(const struct request *request, const struct view *view)
{
	return add_saturated(view->used_bytes, view->pending_bytes) <= request->limit_bytes;
}

// Without what may yet come to nothing. A call of the driver that takes its time is not waited for: as good as used.
static bool is_over(const struct request *request, const struct view *view, uint64_t waited_ns)
{
	uint64_t used = waited_ns > WAIT_NS ? add_saturated(view->used_bytes, view->in_use_bytes) : view->used_bytes;
	return add_saturated(used, request->bytes) > request->limit_bytes;
}

// Takes away what cover is kept and not in use: its owner will announce anew, and look.
static void take_cover(const struct request *request)
{
	struct softmig_ledger_file *file = request->ledger->file;
	uint32_t count = ledger_mark(atomic_load(&file->mark));
	for (uint32_t i = 0; i < count; i++) {
		_Atomic uint64_t *cover = &file->slot[i].use[request->gpu].cover_bytes;
		uint64_t kept = atomic_load_explicit(cover, memory_order_relaxed);
		if (kept != 0 && !(kept & SOFTMIG_LEDGER_COVER_IN_USE)) {
			atomic_compare_exchange_strong(cover, &kept, 0);
			STEP();
		}
	}
}

static void raise_peaks(const struct request *request, uint64_t used_bytes)
{
	struct softmig_ledger_use *use = request->use;
	uint64_t own = add_saturated(atomic_load_explicit(&use->tracked_bytes, memory_order_relaxed),
	                             atomic_load_explicit(&use->overhead_bytes, memory_order_relaxed));
	raise_to(&use->peak_bytes, own);
	raise_to(&request->ledger->file->gpu[request->gpu].peak_bytes, add_saturated(used_bytes, request->bytes));
	STEP();
}

static void grant(const struct request *request, uint64_t used_bytes)
{
	atomic_fetch_add_explicit(figure_of(request->use, request->kind), request->bytes, memory_order_seq_cst);
	STEP();
	if (request->limit_bytes > 0)
		withdraw(request);
	if (request->kind == SOFTMIG_LEDGER_OVERHEAD && request->bytes != 0)
		return; // an estimate, measured in a moment: no peak of what was really held
	raise_peaks(request, used_bytes);
}

static void pause_for(unsigned round, uint32_t index)
{
	if (round < 6) {
		for (unsigned i = 0; i < 8u << round; i++) {
#if defined(__x86_64__)
			__builtin_ia32_pause();
#elif defined(__aarch64__)
			__asm__ volatile("yield");
#endif
		}
	} else if (round < 12) {
		syscall(SYS_sched_yield);
	} else {
		softmig_sys_sleep_ns(20000 + (long)((round * 7 + index * 13) % 8) * 10000); // apart from each other
	}
}

// One thread of a process stands at a time: its slot shows the sum of all its threads' announcements.
static bool take_standing(const struct request *request)
{
	uint64_t pid = atomic_load_explicit(&request->ledger->mine->slot, memory_order_relaxed) >> 32;
	uint64_t holder = atomic_load_explicit(&request->ledger->mine->standing, memory_order_relaxed);
	return holder != pid && atomic_compare_exchange_strong(&request->ledger->mine->standing, &holder, pid);
}

// Whoever has withdrawn stays so while an older waiter announces, or another thread of the process stands: coming back again and again
// could keep an older one from ever having a clear look (the model found that).
static bool must_wait(const struct request *request, bool standing, uint64_t began_ns)
{
	struct view view;
	if (!standing) {
		const struct softmig_ledger_mine *mine = request->ledger->mine;
		return atomic_load_explicit(&mine->standing, memory_order_relaxed) == atomic_load_explicit(&mine->slot, memory_order_relaxed) >> 32;
	}
	look(request, true, began_ns, &view);
	return view.older;
}

// Before a refusal, and before a dead process's announcement is waited for any longer.
static int sweep_withdrawn(const struct request *request, enum sweep which, bool *stuck)
{
	withdraw(request); // it takes a while: nobody shall wait for us meanwhile
	return softmig_ledger_sweep(request->ledger, request->gpu, which, stuck);
}

// Announced, and the first look did not fit.
static __attribute__((noinline)) bool contend(const struct request *request)
{
	uint64_t began_ns = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
	uint64_t next_sweep_ns = began_ns + SWEEP_EVERY_NS;
	bool standing = false, swept = false, granted = false, refused = false;

	for (unsigned round = 0; !granted && !refused; round++) {
		struct view view, again;
		look(request, true, began_ns, &view);
		uint64_t waited_ns = softmig_ledger_clock_ns(CLOCK_MONOTONIC) - began_ns;
		if (fits(request, &view)) {
			grant(request, view.used_bytes);
			granted = true;
		} else if (waited_ns > WAIT_RUNNABLE_NS) {
			withdraw(request);
			refused = true;
		} else if (is_over(request, &view, waited_ns)) {
			// A sum taken while others give back and take may never have been true. Nothing changed between two looks: it was.
			look(request, true, began_ns, &again);
			bool certain = is_over(request, &again, waited_ns) && (again.print == view.print || waited_ns > WAIT_NS);
			if (certain && swept) {
				withdraw(request);
				refused = true;
			} else if (certain) {
				// Look once more after the sweep, also when it found nobody: another process may have been about the same dead.
				swept = sweep_withdrawn(request, SWEEP_REFUSAL, NULL) == 0;
				announce(request);
			}
		} else if (view.kept_bytes != 0) {
			take_cover(request);
		} else if (began_ns + waited_ns > next_sweep_ns) {
			bool stuck = false;
			int freed = sweep_withdrawn(request, SWEEP_PENDING, &stuck);
			next_sweep_ns = softmig_ledger_clock_ns(CLOCK_MONOTONIC) + (waited_ns > WAIT_NS ? WAIT_NS : SWEEP_EVERY_NS * 10);
			if (freed == 0 && stuck && waited_ns > WAIT_NS)
				refused = true;
			else
				announce(request);
		} else {
			if (!standing && (standing = take_standing(request)))
				atomic_store_explicit(&request->use->waiting_ns, began_ns, memory_order_relaxed);
			if (standing && !view.older) {
				pause_for(round, request->index);
			} else {
				withdraw(request);
				do
					pause_for(round++, request->index);
				while (must_wait(request, standing, began_ns) && softmig_ledger_clock_ns(CLOCK_MONOTONIC) < next_sweep_ns);
				announce(request);
			}
		}
	}
	if (standing) {
		atomic_store_explicit(&request->use->waiting_ns, 0, memory_order_relaxed);
		atomic_store_explicit(&request->ledger->mine->standing, 0, memory_order_release);
	}
	return granted;
}

static bool is_valid_gpu(const struct softmig_ledger *ledger, int gpu)
{
	return ledger->file != NULL && gpu >= 0 && gpu < SOFTMIG_MAX_GPUS;
}

bool softmig_ledger_reserve(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes, uint64_t limit_bytes)
{
	// Beyond any GPU, and the sums shall not wrap.
	if (!is_valid_gpu(ledger, gpu) || bytes >> 56 != 0)
		return false;
	if (bytes == 0)
		return true;
	struct softmig_ledger_slot *slot = ledger_self(ledger);
	if (slot == NULL)
		return false;
	struct request request = {ledger, &slot->use[gpu], (uint32_t)(slot - ledger->file->slot), gpu, kind, bytes, limit_bytes};
	struct view view;
	if (limit_bytes == 0) {
		look(&request, false, 0, &view);
		grant(&request, view.used_bytes);
		return true;
	}
	announce(&request);
	look(&request, false, 0, &view);
	if (LIKELY(fits(&request, &view))) {
		grant(&request, view.used_bytes);
		return true;
	}
	int saved_errno = errno;
	bool granted = contend(&request);
	errno = saved_errno;
	return granted;
}

__attribute__((hot)) struct softmig_ledger_use *softmig_ledger_cover_kept(struct softmig_ledger *ledger, int gpu, uint64_t bytes)
{
	struct softmig_ledger_slot *slot = is_valid_gpu(ledger, gpu) ? ledger_self(ledger) : NULL;
	uint64_t kept = bytes;
	// Taken into use while nobody takes it away, it has been announced all the time since the look that showed it to fit.
	if (slot == NULL || !atomic_compare_exchange_strong_explicit(&slot->use[gpu].cover_bytes, &kept, bytes | SOFTMIG_LEDGER_COVER_IN_USE,
	                                                             memory_order_seq_cst, memory_order_relaxed))
		return NULL;
	STEP();
	return &slot->use[gpu];
}

struct softmig_ledger_use *softmig_ledger_cover(struct softmig_ledger *ledger, int gpu, uint64_t bytes, uint64_t limit_bytes)
{
	struct softmig_ledger_slot *slot = is_valid_gpu(ledger, gpu) ? ledger_self(ledger) : NULL;
	uint64_t none = 0;
	if (slot == NULL || !atomic_compare_exchange_strong_explicit(&slot->use[gpu].cover_bytes, &none, bytes | SOFTMIG_LEDGER_COVER_IN_USE,
	                                                             memory_order_seq_cst, memory_order_relaxed))
		return NULL;
	STEP();
	// Announced, as announce() does: the later of two announcers sees the earlier.
	struct request request = {ledger, &slot->use[gpu], (uint32_t)(slot - ledger->file->slot), gpu, SOFTMIG_LEDGER_TRACKED, bytes, limit_bytes};
	struct view view;
	if (limit_bytes != 0)
		look(&request, false, 0, &view);
	if (limit_bytes == 0 || fits(&request, &view))
		return &slot->use[gpu];
	softmig_ledger_cover_drop(&slot->use[gpu]);
	STEP();
	return NULL;
}

void softmig_ledger_cover_spend(struct softmig_ledger *ledger, int gpu, struct softmig_ledger_use *use, uint64_t bytes)
{
	struct softmig_ledger_slot *slot = ledger_self(ledger);
	atomic_fetch_add_explicit(&use->tracked_bytes, bytes, memory_order_seq_cst); // before the cover goes, as in grant()
	STEP();
	softmig_ledger_cover_drop(use);
	STEP();
	if (slot == NULL)
		return;
	struct request request = {ledger, use, (uint32_t)(slot - ledger->file->slot), gpu, SOFTMIG_LEDGER_TRACKED, 0, 0};
	struct view view;
	look(&request, false, 0, &view);
	raise_peaks(&request, view.used_bytes);
}

void softmig_ledger_release(struct softmig_ledger *ledger, int gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	if (!is_valid_gpu(ledger, gpu))
		return;
	struct softmig_ledger_slot *slot = ledger_self(ledger);
	if (slot == NULL)
		return;
	STEP();
	subtract_clamped(figure_of(&slot->use[gpu], kind), bytes);
	STEP();
}

// In the unit of the word that says so.
static uint64_t giving_clock(void)
{
	return softmig_ledger_clock_ns(CLOCK_MONOTONIC) >> GIVING_UNIT_SHIFT & UINT64_MAX >> SOFTMIG_MAX_GPUS;
}

void softmig_ledger_gives_back(struct softmig_ledger *ledger, int gpu, bool begins)
{
	struct softmig_ledger_slot *slot = is_valid_gpu(ledger, gpu) ? ledger_self(ledger) : NULL;
	uint64_t bit = 1ull << gpu % SOFTMIG_MAX_GPUS, mask = (1ull << SOFTMIG_MAX_GPUS) - 1;
	if (slot == NULL)
		return;
	uint64_t word = atomic_load(&slot->giving), next;
	do
		next = begins ? giving_clock() << SOFTMIG_MAX_GPUS | (word & mask) | bit : word & ~bit;
	while (!atomic_compare_exchange_weak(&slot->giving, &word, next)); // seq_cst: before what is given back, and after it is told
}

bool softmig_ledger_others_give_back(struct softmig_ledger *ledger, int gpu)
{
	struct softmig_ledger_slot *self = is_valid_gpu(ledger, gpu) ? ledger_self(ledger) : NULL;
	uint64_t now = giving_clock();
	if (self == NULL)
		return false;
	uint32_t count = ledger_mark(atomic_load(&ledger->file->mark));
	for (uint32_t i = 0; i < count; i++) {
		struct softmig_ledger_slot *slot = &ledger->file->slot[i];
		uint64_t word = atomic_load(&slot->giving), since = word >> SOFTMIG_MAX_GPUS;
		if ((word >> gpu & 1) && slot != self && since <= now && now - since < GIVING_MOST_NS >> GIVING_UNIT_SHIFT &&
		    owner_state(atomic_load(&slot->owner)) == OWNER_OWNED)
			return true;
	}
	return false;
}

bool softmig_ledger_swap_overhead(struct softmig_ledger *ledger, int gpu, uint64_t expected_bytes, uint64_t bytes)
{
	if (!is_valid_gpu(ledger, gpu))
		return true;
	struct softmig_ledger_slot *slot = ledger_self(ledger);
	if (slot == NULL)
		return true;
	struct softmig_ledger_use *use = &slot->use[gpu];
	uint64_t before = expected_bytes;
	if (!atomic_compare_exchange_strong_explicit(&use->overhead_bytes, &before, bytes, memory_order_seq_cst, memory_order_seq_cst))
		return false;
	STEP();
	struct request request = {ledger, use, (uint32_t)(slot - ledger->file->slot), gpu, SOFTMIG_LEDGER_OVERHEAD, 0, 0};
	struct view view;
	look(&request, false, 0, &view);
	grant(&request, view.used_bytes); // of nothing: raises the peaks
	return true;
}

void softmig_ledger_count_refusal(struct softmig_ledger *ledger, int gpu)
{
	if (is_valid_gpu(ledger, gpu))
		atomic_fetch_add_explicit(&ledger->file->gpu[gpu].refusals, 1, memory_order_relaxed);
}

void softmig_ledger_set_overhead(struct softmig_ledger *ledger, int gpu, uint64_t bytes)
{
	if (!is_valid_gpu(ledger, gpu))
		return;
	struct softmig_ledger_slot *slot = ledger_self(ledger);
	while (slot != NULL && !softmig_ledger_swap_overhead(ledger, gpu, atomic_load(&slot->use[gpu].overhead_bytes), bytes))
		;
}

uint64_t softmig_ledger_used(const struct softmig_ledger *ledger, int gpu)
{
	if (!is_valid_gpu(ledger, gpu))
		return 0;
	struct softmig_ledger_mine *mine = ledger->mine;
	uint64_t now = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
	uint64_t last = atomic_load_explicit(&mine->looked_ns, memory_order_relaxed);
	if (now - last > USED_SWEEP_EVERY_NS && atomic_compare_exchange_strong(&mine->looked_ns, &last, now)) {
		int saved_errno = errno;
		softmig_ledger_sweep(ledger, gpu, SWEEP_USED, NULL);
		errno = saved_errno;
	}
	struct request request = {ledger, NULL, 0, gpu, SOFTMIG_LEDGER_TRACKED, 0, 0};
	struct view view;
	look(&request, false, 0, &view);
	return view.used_bytes;
}
