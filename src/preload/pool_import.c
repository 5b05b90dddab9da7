// SPDX-License-Identifier: Apache-2.0
// Imported pools: see pool_import.h. Which of them keeps what was passed on is not known, so all of it stays charged until the last one is destroyed; and
// of several processes that have imported a pool each is charged.
#include "preload/pool_import.h"

#include <sched.h>
#include <time.h>

#include "preload/mode.h"
#include "preload/private.h"
#include "preload/sharing.h"

// All zero: none, and what a forked child finds.
struct imports {
	_Atomic int lock; // held for a few memory accesses
	uint32_t count;
	uint64_t taken_bytes[SOFTMIG_MAX_GPUS]; // of what was passed on
	uint64_t kept_bytes[SOFTMIG_MAX_GPUS];
	uint64_t since_ns[SOFTMIG_MAX_GPUS]; // whoever imported it later was not charged then
};

static struct softmig_private private_imports;

static struct imports *locked(void)
{
	struct imports *imports = softmig_private_get(&private_imports, sizeof(struct imports));

	while (imports != NULL && atomic_exchange_explicit(&imports->lock, 1, memory_order_acquire) != 0)
		sched_yield();
	return imports;
}

static void unlock(struct imports *imports)
{
	if (imports != NULL)
		atomic_store_explicit(&imports->lock, 0, memory_order_release);
}

// One more that holds what the pool keeps: the pool, or a pointer of it.
static void begins(void)
{
	struct imports *imports = locked();

	for (int gpu = 0; imports != NULL && imports->count == 0 && gpu < SOFTMIG_MAX_GPUS; gpu++)
		imports->taken_bytes[gpu] = softmig_ledger_passed_on(softmig_ledger_now(), gpu);
	if (imports != NULL)
		imports->count++;
	unlock(imports);
}

void softmig_pool_import_begins(void)
{
	begins();
	softmig_import_of_pool_begins();
}

// Others may have imported it from this process's descriptors, when its maker was gone.
static void give_back(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns)
{
	softmig_gpu_enter(gpu);
	softmig_pool_memory_ended(gpu, bytes, since_ns);
	atomic_fetch_sub(&gpu->unseen_bytes, bytes);
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	softmig_gpu_leave(gpu);
}

// What was passed on lately is gone with what has been let go of, perhaps, and this process may not allocate for hours.
static void settle_inherited(void)
{
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++)
		if (softmig_ledger_inherited(softmig_ledger_now(), gpu))
			softmig_settle(softmig_gpu_by_index(gpu));
}

// Both are done with: what they held, and that it was imported.
static void ended(void (*import_ended)(void))
{
	uint64_t kept_bytes[SOFTMIG_MAX_GPUS] = {0}, since_ns[SOFTMIG_MAX_GPUS] = {0};
	struct imports *imports = locked();

	if (imports != NULL && imports->count != 0 && --imports->count == 0) {
		for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
			kept_bytes[gpu] = imports->kept_bytes[gpu];
			since_ns[gpu] = imports->since_ns[gpu];
			imports->kept_bytes[gpu] = 0;
		}
	}
	unlock(imports);
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++)
		if (kept_bytes[gpu] != 0)
			give_back(softmig_gpu_by_index(gpu), kept_bytes[gpu], since_ns[gpu]);
	import_ended();
	settle_inherited();
}

void softmig_pool_import_ended(void)
{
	ended(softmig_import_of_pool_ended);
}

void softmig_pool_import_pointer(CUdeviceptr pointer, struct softmig_pool_export *own)
{
	struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_POOL_IMPORTED, .key = pointer, .more = (uintptr_t)own};

	atomic_store_explicit(&softmig_hot.pool_exports, true, memory_order_relaxed);
	if (own != NULL) {
		softmig_pool_export_pointer_imported(own);
	} else {
		begins();
		softmig_import_begins();
	}
	softmig_track_count(&entry, 1);
	settle_inherited(); // by a pointer to what is there now, an older one to the same place is let go of
}

bool softmig_pool_import_frees(CUdeviceptr pointer, struct softmig_track_entry *entry)
{
	return softmig_track_adjust(SOFTMIG_TRACK_POOL_IMPORTED, pointer, -1, 0, entry);
}

void softmig_pool_import_freed(const struct softmig_track_entry *entry, bool freed)
{
	struct softmig_pool_export *own = (struct softmig_pool_export *)(uintptr_t)entry->more; // held so far

	if (!freed)
		softmig_track_count(entry, 1);
	else if (own != NULL)
		softmig_pool_export_imported_freed(own);
	else
		ended(softmig_import_ended);
}

void softmig_pool_imports_waited(uint64_t seen)
{
	softmig_imports_waited(seen);
	settle_inherited();
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t softmig_pool_imports_keep(struct softmig_gpu *gpu, uint64_t passed_on_bytes)
{
	struct imports *imports = locked();
	uint64_t bytes = 0;

	if (imports != NULL && imports->count != 0) {
		uint64_t taken = imports->taken_bytes[gpu->ledger];
		bytes = passed_on_bytes < taken ? passed_on_bytes : passed_on_bytes - taken; // it may be another slot than it was
		imports->kept_bytes[gpu->ledger] += bytes;
		if (bytes != 0) {
			imports->since_ns[gpu->ledger] = softmig_exported(bytes);
			softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, bytes, 0);
			atomic_fetch_add(&gpu->unseen_bytes, bytes);
		}
	}
	unlock(imports);
	return bytes;
}

void softmig_pool_imports_kept(struct softmig_gpu *gpu, uint64_t passed_on_bytes)
{
	struct imports *imports = locked();

	if (imports != NULL && imports->count != 0)
		imports->taken_bytes[gpu->ledger] = passed_on_bytes;
	unlock(imports);
}

void softmig_pool_imports_undo(struct softmig_gpu *gpu, uint64_t kept_bytes)
{
	struct imports *imports = kept_bytes == 0 ? NULL : locked();

	if (imports == NULL)
		return;
	uint64_t bytes = smaller(kept_bytes, imports->kept_bytes[gpu->ledger]); // unless the last pool is gone meanwhile, and that with it
	imports->kept_bytes[gpu->ledger] -= bytes;
	softmig_ledger_export(softmig_ledger_now(), bytes, false);
	atomic_fetch_sub(&gpu->unseen_bytes, bytes);
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, bytes);
	unlock(imports);
}
