// SPDX-License-Identifier: Apache-2.0
// Pools' memory that was exported by its pointer: see pool_export.h.
//
//   POOL_POINTER (address) ──> export (a number of ours) <── DESCRIPTOR (fd)
//        live ── freed ──> loose ── given back by the pool ──> kept ── something exported at its place ──> let go of
// Which of a pool's chunks it gives back is not known: what was exported and is free (loose) goes first. So as much is kept as the driver keeps,
// whatever else comes and goes. In which chunk a pointer lies is not known either: cuda_pool_life.c says how large it may be at most.
// For the same reason it is not known which of the places (pool_place.h) are kept and which are loose. When one is renewed, nothing can be kept, and nothing loose, but at the
// places that remain: more than these hold at most is given back, whatever it was charged for. So what is charged is never less than what is kept; it is the
// same when all places have been renewed, or all that is loose has been given back.
#include "preload/pool_export.h"

#include <sched.h>
#include <time.h>

#include "preload/allocation.h"
#include "preload/descriptor.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/pool_place.h"
#include "preload/private.h"
#include "preload/sharing.h"

enum { MAX_EXPORTS = 1024 };
#define POOL_STEP_BYTES 512ull // what is taken out of a pool is rounded up to that
#define IS_POOL (1ull << 31) // in numbers, which allocation.c's lack
#define NUMBER_BITS 32

struct softmig_pool_export {
	_Atomic uint64_t number; // 0: free
	CUmemoryPool handle;
	struct softmig_gpu *gpu;
	_Atomic bool ended; // the pool is destroyed
	uint32_t pointers; // live
	uint32_t imports; // of this process, with pointers
	uint32_t imported_pointers; // of these
	uint64_t out_bytes; // of a pool that is destroyed, what was not free then: it holds what stays, as the pool did
	uint64_t since_ns;
	uint64_t told_bytes; // to the ledger, as exported
	_Atomic uint64_t loose_bytes;
	_Atomic uint64_t kept_bytes;
	struct softmig_pool_places places; // of what is loose or kept
};

// A POOL_POINTER. In the table, bytes: since_ns; more: the number, and above it most_bytes in granules; count: bytes in steps, 0: unknown.
struct pointer {
	uint64_t number;
	uint64_t bytes;
	uint64_t most_bytes; // that may stay of it
	uint64_t since_ns;   // exported
};

// All zero: none, and what a forked child finds.
struct exports {
	_Atomic int lock; // held for a few memory accesses
	_Atomic uint32_t used;
	_Atomic uint32_t out; // pools that are destroyed and hold what stays
	_Atomic uint64_t calls; // see softmig_pool_calls_begin: low half under way, high half ended
	struct softmig_pool_export export[MAX_EXPORTS];
};

static struct softmig_private private_exports, looking;
static _Atomic uint64_t last_number;

static struct exports *all(void)
{
	return softmig_private_get(&private_exports, sizeof(struct exports));
}

static void lock(struct exports *exports)
{
	while (atomic_exchange_explicit(&exports->lock, 1, memory_order_acquire) != 0)
		sched_yield();
}

static void unlock(struct exports *exports)
{
	atomic_store_explicit(&exports->lock, 0, memory_order_release);
}

static struct softmig_pool_export *of_number(struct exports *exports, uint64_t number)
{
	for (uint32_t i = 0; i < atomic_load(&exports->used); i++)
		if (atomic_load(&exports->export[i].number) == number)
			return &exports->export[i];
	return NULL;
}

// Under the lock. NULL: none is left.
static struct softmig_pool_export *a_free_one(struct exports *exports)
{
	for (uint32_t i = 0; i < MAX_EXPORTS; i++) {
		if (atomic_load(&exports->export[i].number) != 0)
			continue;
		if (atomic_load(&exports->used) < i + 1)
			atomic_store(&exports->used, i + 1);
		return &exports->export[i];
	}
	return NULL;
}

struct softmig_pool_export *softmig_pool_export_begin(CUmemoryPool pool, struct softmig_gpu *gpu)
{
	struct exports *exports = all();

	if (exports == NULL)
		return NULL;
	lock(exports);
	struct softmig_pool_export *export = a_free_one(exports);
	if (export != NULL) {
		export->handle = pool;
		export->gpu = gpu;
		atomic_store(&export->ended, false);
		export->pointers = export->imports = export->imported_pointers = 0;
		export->out_bytes = 0;
		export->since_ns = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
		export->told_bytes = 0;
		atomic_store(&export->loose_bytes, 0);
		atomic_store(&export->kept_bytes, 0);
		uint64_t number = IS_POOL | ((atomic_fetch_add(&last_number, 1) + 1) % IS_POOL);
		export->places = (struct softmig_pool_places){.number = number};
		atomic_store(&export->number, number);
	}
	unlock(exports);
	return export;
}

void softmig_pool_export_descriptor(struct softmig_pool_export *export, int fd)
{
	struct softmig_ended ended = {0};

	softmig_allocations_reissued(fd, &ended);
	softmig_descriptor_add(fd, atomic_load(&export->number));
	softmig_allocations_finish(&ended);
}

// Less is exported than was told. Under the lock.
static void untell(struct softmig_pool_export *export, uint64_t bytes)
{
	uint64_t less = bytes < export->told_bytes ? bytes : export->told_bytes;

	export->told_bytes -= less;
	softmig_ledger_export(softmig_ledger_now(), less, false);
}

static struct softmig_track_entry entry_of(const struct pointer *pointer, CUdeviceptr address, int gpu)
{
	uint64_t steps = (pointer->bytes + POOL_STEP_BYTES - 1) / POOL_STEP_BYTES;

	return (struct softmig_track_entry){.kind = SOFTMIG_TRACK_POOL_POINTER,
	                                    .key = address,
	                                    .bytes = pointer->since_ns,
	                                    .more = pointer->number | softmig_granules(pointer->most_bytes) / SOFTMIG_GRANULE_BYTES << NUMBER_BITS,
	                                    .count = steps <= UINT32_MAX ? (uint32_t)steps : 0,
	                                    .gpu = (uint8_t)gpu};
}

static struct pointer pointer_of(const struct softmig_track_entry *entry)
{
	return (struct pointer){.number = entry->more & ((1ull << NUMBER_BITS) - 1),
	                        .bytes = entry->count * POOL_STEP_BYTES,
	                        .most_bytes = (entry->more >> NUMBER_BITS) * SOFTMIG_GRANULE_BYTES,
	                        .since_ns = entry->bytes};
}

bool softmig_pool_export_pointer(struct softmig_pool_export *export, CUdeviceptr pointer, uint64_t bytes, uint64_t most_bytes, bool *known)
{
	struct exports *exports = all();
	struct pointer fresh = {atomic_load(&export->number), bytes, softmig_granules(most_bytes), softmig_ledger_clock_ns(CLOCK_MONOTONIC)};
	struct softmig_track_entry old, entry = entry_of(&fresh, pointer, export->gpu->ledger);

	*known = softmig_track_find(SOFTMIG_TRACK_POOL_POINTER, pointer, &old) && pointer_of(&old).number == fresh.number;
	if (*known)
		return true;
	atomic_store_explicit(&softmig_hot.pool_exports, true, memory_order_relaxed);
	softmig_pool_export_frees(pointer); // another pool's, which went without a word
	if (!softmig_track_add(&entry))
		return false;
	lock(exports);
	export->pointers++;
	export->told_bytes += fresh.most_bytes;
	softmig_exported(fresh.most_bytes);
	unlock(exports);
	return true;
}

void softmig_pool_export_no_pointer(CUdeviceptr pointer)
{
	struct exports *exports = all();
	struct softmig_track_entry entry;

	if (!softmig_track_remove(SOFTMIG_TRACK_POOL_POINTER, pointer, &entry))
		return;
	lock(exports);
	struct pointer gone = pointer_of(&entry);
	struct softmig_pool_export *export = of_number(exports, gone.number);
	if (export != NULL) {
		export->pointers--;
		untell(export, gone.most_bytes);
	}
	unlock(exports);
}

// Under the lock. What this process has imported itself of the same pool may hold what was there: then who is shown it is not known, and nothing is given back.
static uint64_t renew(struct softmig_pool_export *export, CUdeviceptr pointer, uint64_t bytes)
{
	struct softmig_pool_places *places = &export->places;
	uint64_t before = softmig_pool_places_most(places), since_ns = softmig_pool_place_renew(places, pointer, bytes), most = softmig_pool_places_most(places);

	if (export->imported_pointers != 0 && most < before)
		softmig_pool_place_lost(places, before - most);
	if (atomic_load(&export->kept_bytes) < before)
		softmig_pool_place_passes_later(places, since_ns); // it is not known whether this one was kept: perhaps what is given back for another one is this one's
	return since_ns;
}

// Freed meanwhile: not before others have imported it, who cannot have done so yet, or by mistake. It is a place then.
uint64_t softmig_pool_export_renewed(struct softmig_pool_export *export, CUdeviceptr pointer, uint64_t *since_ns)
{
	struct exports *exports = all();
	struct softmig_track_entry entry;
	uint64_t gone = 0;

	lock(exports);
	struct pointer live = {0};
	if (softmig_track_find(SOFTMIG_TRACK_POOL_POINTER, pointer, &entry))
		live = pointer_of(&entry);
	if (live.number == atomic_load(&export->number) && !atomic_load(&export->ended)) {
		*since_ns = renew(export, pointer, live.bytes);
		uint64_t most = softmig_pool_places_most(&export->places), loose = atomic_load(&export->loose_bytes), kept = atomic_load(&export->kept_bytes);
		if (loose > most) {
			atomic_store(&export->loose_bytes, most);
			untell(export, loose - most);
		}
		gone = kept > most ? kept - most : 0;
		atomic_store(&export->kept_bytes, kept - gone);
		export->told_bytes -= gone < export->told_bytes ? gone : export->told_bytes; // softmig_export_ended says so
	}
	unlock(exports);
	return gone;
}

uint64_t softmig_pool_export_kept(const struct softmig_pool_export *export)
{
	return atomic_load_explicit(&export->kept_bytes, memory_order_relaxed);
}

bool softmig_pool_export_may_keep(const struct softmig_pool_export *export)
{
	return atomic_load(&export->loose_bytes) != 0;
}

uint64_t softmig_pool_export_gave_back(struct softmig_pool_export *export, uint64_t bytes, uint64_t now_bytes)
{
	struct exports *exports = all();

	lock(exports);
	uint64_t loose = atomic_load(&export->loose_bytes), kept = bytes < loose ? bytes : loose, rest = loose - kept;
	if (rest > now_bytes) { // several pointers lay in one chunk
		untell(export, rest - now_bytes);
		rest = now_bytes;
	}
	atomic_store(&export->loose_bytes, rest);
	atomic_fetch_add(&export->kept_bytes, kept);
	atomic_fetch_add(&export->gpu->unseen_bytes, kept);
	unlock(exports);
	return kept;
}

uint64_t softmig_pool_export_keep_all(struct softmig_pool_export *export)
{
	struct exports *exports = all();

	lock(exports);
	uint64_t bytes = atomic_exchange(&export->loose_bytes, 0);
	softmig_ledger_reserve(softmig_ledger_now(), export->gpu->ledger, SOFTMIG_LEDGER_TRACKED, bytes, 0);
	atomic_fetch_add(&export->kept_bytes, bytes);
	atomic_fetch_add(&export->gpu->unseen_bytes, bytes);
	unlock(exports);
	return bytes;
}

// ---- The end of a pool, and of what holds it

// Under the lock. What stays of a pool that is destroyed, where nothing of this process holds it any more.
static uint64_t take_unheld(struct softmig_pool_export *export, uint64_t *since_ns)
{
	uint64_t number = atomic_load(&export->number), bytes = 0;

	if (number == 0 || !atomic_load(&export->ended) || export->imports != 0 || export->out_bytes != 0)
		return 0;
	if (atomic_load(&export->kept_bytes) != 0 && !softmig_descriptor_is_open(number))
		bytes = atomic_exchange(&export->kept_bytes, 0);
	*since_ns = export->since_ns;
	export->told_bytes -= bytes < export->told_bytes ? bytes : export->told_bytes; // softmig_pool_memory_ended says so
	if (export->pointers == 0 && atomic_load(&export->kept_bytes) == 0) { // nothing more can come
		untell(export, UINT64_MAX);
		atomic_store(&export->number, 0);
	}
	return bytes;
}

// Others may hold it still: then it is theirs.
static void pass_on_unheld(struct exports *exports, struct softmig_pool_export *export)
{
	struct softmig_gpu *gpu = export->gpu;
	uint64_t since_ns = 0;

	softmig_gpu_enter(gpu);
	lock(exports);
	uint64_t bytes = take_unheld(export, &since_ns);
	unlock(exports);
	if (bytes != 0) {
		softmig_pool_memory_ended(gpu, bytes, since_ns);
		atomic_fetch_sub(&gpu->unseen_bytes, bytes);
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	}
	softmig_gpu_leave(gpu);
}

static void look_at(struct exports *exports, struct softmig_pool_export *export)
{
	softmig_private_lock(&looking, 1, 0);
	pass_on_unheld(exports, export);
	softmig_private_unlock(&looking, 1, 0);
}

void softmig_pool_exports_look(void)
{
	struct exports *exports = softmig_pool_exports_any() ? all() : NULL;

	if (exports == NULL)
		return;
	softmig_private_lock(&looking, 1, 0);
	for (uint32_t i = 0; i < atomic_load(&exports->used); i++)
		if (atomic_load(&exports->export[i].number) != 0 && atomic_load(&exports->export[i].ended))
			pass_on_unheld(exports, &exports->export[i]);
	softmig_private_unlock(&looking, 1, 0);
}

void softmig_pool_export_emptied(struct softmig_pool_export *export)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (softmig_track_next(SOFTMIG_TRACK_POOL_POINTER, &cursor, &entry))
		if (pointer_of(&entry).number == atomic_load(&export->number))
			softmig_pool_export_frees(entry.key);
}

void softmig_pool_export_ended(struct softmig_pool_export *export, uint64_t out_bytes)
{
	struct exports *exports = all();

	lock(exports);
	untell(export, atomic_exchange(&export->loose_bytes, 0));
	softmig_pool_places_forget(&export->places);
	if (out_bytes != 0 && (export->pointers != 0 || atomic_load(&export->kept_bytes) != 0)) {
		export->out_bytes = out_bytes;
		atomic_fetch_add(&exports->out, 1);
	}
	atomic_store(&export->ended, true);
	unlock(exports);
	look_at(exports, export);
}

void softmig_pool_export_ended_by_handle(CUmemoryPool pool)
{
	struct exports *exports = softmig_pool_exports_any() ? all() : NULL;

	for (uint32_t i = 0; exports != NULL && i < atomic_load(&exports->used); i++)
		if (atomic_load(&exports->export[i].number) != 0 && !atomic_load(&exports->export[i].ended) && exports->export[i].handle == pool)
			softmig_pool_export_ended(&exports->export[i], 0);
}

struct softmig_pool_export *softmig_pool_export_import(int fd)
{
	uint64_t number = softmig_descriptor_of(fd);
	struct exports *exports = (number & IS_POOL) != 0 ? all() : NULL;

	if (exports == NULL)
		return NULL;
	lock(exports);
	struct softmig_pool_export *export = of_number(exports, number);
	if (export != NULL)
		export->imports++;
	unlock(exports);
	return export;
}

void softmig_pool_export_import_ended(struct softmig_pool_export *export)
{
	struct exports *exports = all();

	lock(exports);
	export->imports--;
	unlock(exports);
	look_at(exports, export);
}

void softmig_pool_export_pointer_imported(struct softmig_pool_export *export)
{
	struct exports *exports = all();

	lock(exports);
	export->imports++;
	export->imported_pointers++;
	unlock(exports);
}

void softmig_pool_export_imported_freed(struct softmig_pool_export *export)
{
	struct exports *exports = all();

	lock(exports);
	export->imported_pointers--;
	unlock(exports);
	softmig_pool_export_import_ended(export);
}

// ---- What the hooks see of it

// Of what is out of pools that are destroyed.
static void one_fewer_out(struct exports *exports, CUdeviceptr pointer)
{
	CUmemoryPool pool = NULL;
	CUdeviceptr base;
	size_t bytes;

	if (!SOFTMIG_HAS(cuPointerGetAttribute) || !SOFTMIG_HAS(cuMemGetAddressRange_v2) ||
	    DRIVER(cuPointerGetAttribute)(&pool, CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE, pointer) != CUDA_SUCCESS || pool == NULL ||
	    DRIVER(cuMemGetAddressRange_v2)(&base, &bytes, pointer) != CUDA_SUCCESS)
		return;
	bytes = (bytes + POOL_STEP_BYTES - 1) / POOL_STEP_BYTES * POOL_STEP_BYTES;
	lock(exports);
	for (uint32_t i = 0; i < atomic_load(&exports->used); i++) {
		struct softmig_pool_export *export = &exports->export[i];
		if (atomic_load(&export->number) == 0 || export->handle != pool || export->out_bytes == 0)
			continue;
		export->out_bytes -= bytes < export->out_bytes ? bytes : export->out_bytes;
		if (export->out_bytes == 0)
			atomic_fetch_sub(&exports->out, 1);
	}
	unlock(exports);
}

// Several places in one chunk are loose, or kept, together. Under the lock.
static void share_chunks(struct softmig_pool_export *export)
{
	uint64_t loose = atomic_load(&export->loose_bytes), all = loose + atomic_load(&export->kept_bytes), most = softmig_pool_places_most(&export->places);
	uint64_t less = all <= most ? 0 : all - most < loose ? all - most : loose;

	atomic_store(&export->loose_bytes, loose - less);
	untell(export, less);
}

// Before the driver's call: another thread may see at once what the pool gives back. Of a pool that is destroyed nobody sees it.
void softmig_pool_export_frees(CUdeviceptr pointer)
{
	struct exports *exports = all();
	struct softmig_track_entry entry;

	if (exports != NULL && atomic_load(&exports->out) != 0)
		one_fewer_out(exports, pointer);
	if (exports == NULL || !softmig_track_remove(SOFTMIG_TRACK_POOL_POINTER, pointer, &entry))
		return;
	struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu);
	softmig_gpu_enter(gpu);
	lock(exports);
	struct pointer gone = pointer_of(&entry);
	struct softmig_pool_export *export = of_number(exports, gone.number);
	if (export != NULL)
		export->pointers--;
	if (export != NULL && atomic_load(&export->ended)) {
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, gone.most_bytes, 0);
		atomic_fetch_add(&export->kept_bytes, gone.most_bytes);
		atomic_fetch_add(&gpu->unseen_bytes, gone.most_bytes);
	} else if (export != NULL) {
		atomic_fetch_add(&export->loose_bytes, gone.most_bytes);
		if (gone.bytes != 0)
			softmig_pool_place_add(&export->places, pointer, gone.bytes, gone.since_ns);
		else
			softmig_pool_place_lost(&export->places, gone.most_bytes);
		share_chunks(export);
	}
	unlock(exports);
	softmig_gpu_leave(gpu);
}

uint64_t softmig_pool_calls_begin(void)
{
	struct exports *exports = softmig_pool_exports_any() ? all() : NULL;
	return exports == NULL ? 0 : atomic_fetch_add(&exports->calls, 1) + 1;
}

bool softmig_pool_calls_end(uint64_t begun)
{
	struct exports *exports = begun == 0 ? NULL : all();

	if (exports == NULL)
		return false;
	uint64_t now = atomic_fetch_add(&exports->calls, (1ull << 32) - 1);
	return now != begun || (uint32_t)begun > 1;
}
