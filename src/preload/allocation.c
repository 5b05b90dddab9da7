// SPDX-License-Identifier: Apache-2.0
// Memory that may be held in several ways at once: see allocation.h.
#include "preload/allocation.h"

#include "preload/descriptor.h"
#include "preload/pool_export.h"
#include "preload/sharing.h"

enum {
	IMPORTED = SOFTMIG_ALLOCATION_IMPORTED,
	ELSEWHERE = SOFTMIG_ALLOCATION_ELSEWHERE,
	EXPORTED = SOFTMIG_ALLOCATION_EXPORTED,
	UNSEEN = SOFTMIG_ALLOCATION_UNSEEN,
	SINCE_SHIFT = 8, // above: since when it is exported, in SINCE_NS
};
#define SINCE_NS (1ull << 20)

_Static_assert(SOFTMIG_MAX_GPUS <= 32, "one bit each");

static _Atomic uint64_t last_allocation;

// From now on, or not any more.
static void set_unseen(uint64_t allocation, bool unseen)
{
	struct softmig_track_entry entry;

	if (!softmig_track_mark(SOFTMIG_TRACK_ALLOCATION, allocation, UNSEEN, unseen, &entry))
		return;
	if (unseen)
		atomic_fetch_add(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
	else
		atomic_fetch_sub(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
}

uint64_t softmig_allocation_add(struct softmig_gpu *gpu, uint64_t bytes, uint64_t more, uint32_t holders)
{
	struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_ALLOCATION,
	                                    .key = atomic_fetch_add(&last_allocation, 1) + 1,
	                                    .bytes = bytes,
	                                    .more = more,
	                                    .count = holders,
	                                    .gpu = (uint8_t)gpu->ledger};

	if (!softmig_track_add(&entry))
		return 0;
	if (more & UNSEEN)
		atomic_fetch_add(&gpu->unseen_bytes, bytes);
	return entry.key;
}

bool softmig_allocation_hold(uint64_t allocation, bool imported, struct softmig_track_entry *entry)
{
	if (!softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, 1, 0, entry))
		return false;
	if (!imported && (entry->more & EXPORTED))
		softmig_track_adjust(SOFTMIG_TRACK_ORIGINALS, allocation, 1, 0, &(struct softmig_track_entry){0});
	return true;
}

void softmig_allocation_let_go(uint64_t allocation, bool imported, struct softmig_ended *ended)
{
	struct softmig_track_entry entry;

	if (!softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, -1, 0, &entry))
		return;
	if (entry.more & EXPORTED) {
		struct softmig_track_entry originals;
		bool last = !imported && softmig_track_adjust(SOFTMIG_TRACK_ORIGINALS, allocation, -1, 0, &originals) && originals.count == 0;
		if (last && entry.count != 0 && softmig_descriptor_is_open(allocation))
			set_unseen(allocation, true);
		ended->exports = true;
	}
	if (entry.count != 0)
		return;
	if (entry.more & UNSEEN)
		atomic_fetch_sub(&softmig_gpu_by_index(entry.gpu)->unseen_bytes, entry.bytes);
	if (entry.more & (IMPORTED | ELSEWHERE)) {
		ended->gpus |= 1u << entry.gpu;
		ended->bytes[entry.gpu] += entry.bytes;
		ended->imports += (entry.more & IMPORTED) != 0;
		if (entry.more & EXPORTED) {
			uint64_t since_ns = (entry.more >> SINCE_SHIFT) * SINCE_NS;
			ended->since_ns = ended->exported_bytes[entry.gpu] != 0 && ended->since_ns < since_ns ? ended->since_ns : since_ns;
			ended->exported_bytes[entry.gpu] += entry.bytes;
		}
	} else {
		softmig_uncharge(softmig_gpu_by_index(entry.gpu), SOFTMIG_LEDGER_TRACKED, entry.bytes);
	}
}

void softmig_allocation_elsewhere(uint64_t allocation)
{
	softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, 0, ELSEWHERE, &(struct softmig_track_entry){0});
}

void softmig_allocation_export(uint64_t allocation, int fd, struct softmig_ended *ended)
{
	struct softmig_track_entry entry;

	softmig_allocation_elsewhere(allocation);
	if (!softmig_track_find(SOFTMIG_TRACK_ALLOCATION, allocation, &entry) || (entry.more & IMPORTED))
		return;
	if (softmig_track_mark(SOFTMIG_TRACK_ALLOCATION, allocation, EXPORTED, true, &entry)) { // one thread, once
		struct softmig_track_entry originals = {.kind = SOFTMIG_TRACK_ORIGINALS, .key = allocation, .count = entry.count, .gpu = entry.gpu};
		softmig_track_add(&originals);
		uint64_t since_ns = softmig_exported(entry.bytes);
		softmig_track_adjust(SOFTMIG_TRACK_ALLOCATION, allocation, 0, EXPORTED | since_ns / SINCE_NS << SINCE_SHIFT, &entry);
	}
	struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu);
	softmig_gpu_enter(gpu);
	if (fd >= 0 && softmig_allocation_hold(allocation, true, &entry) && !softmig_descriptor_add(fd, allocation))
		softmig_allocation_let_go(allocation, true, ended);
	softmig_gpu_leave(gpu);
}

// A descriptor that stood for the allocation was closed. NVML knows the memory again where an import does.
static void closed(uint64_t allocation, struct softmig_ended *ended)
{
	struct softmig_track_entry entry;

	if (!softmig_track_find(SOFTMIG_TRACK_ALLOCATION, allocation, &entry))
		return;
	struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu);
	softmig_gpu_enter(gpu);
	if (entry.count > 1 && !softmig_descriptor_is_open(allocation))
		set_unseen(allocation, false);
	softmig_allocation_let_go(allocation, true, ended);
	softmig_gpu_leave(gpu);
}

void softmig_allocations_reissued(int fd, struct softmig_ended *ended)
{
	uint64_t former;

	while ((former = softmig_descriptor_reissued(fd)) != 0)
		closed(former, ended);
}

void softmig_allocations_look(struct softmig_ended *ended)
{
	uint64_t allocation;

	while (ended->exports && (allocation = softmig_descriptor_closed()) != 0)
		closed(allocation, ended);
}

void softmig_descriptors_look(void)
{
	struct softmig_ended ended = {.exports = true};

	softmig_allocations_look(&ended);
	softmig_allocations_finish(&ended);
	softmig_pool_exports_look();
}

void softmig_allocations_finish_some(const struct softmig_ended *ended)
{
	for (int i = 0; i < ended->imports; i++)
		softmig_import_ended();
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		if (ended->exported_bytes[i] != 0)
			softmig_export_ended(softmig_gpu_by_index(i), ended->exported_bytes[i], ended->since_ns);
		if (ended->gpus & 1u << i)
			softmig_hand_over(softmig_gpu_by_index(i), ended->bytes[i]);
	}
}
