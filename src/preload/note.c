// SPDX-License-Identifier: Apache-2.0
// Notes; see note.h. A page's thread writes all of it but read, and writer when nobody is that any more.
#include "preload/note.h"

// How fast the processor's clock runs is told by the system's, over so long at least.
#define COMPARE_NS 10000000u

struct softmig_note_page softmig_note_pages[SOFTMIG_NOTE_PAGES];
struct softmig_note_page *_Atomic softmig_note_open;

static uint64_t compared_ns, compared_ticks, ticks_per_us; // 0: not known yet

static void compare(uint64_t now_ns, uint64_t now_ticks)
{
	if (compared_ns == 0 || now_ticks < compared_ticks || now_ns < compared_ns) {
		compared_ns = now_ns;
		compared_ticks = now_ticks;
	} else if (now_ns - compared_ns >= COMPARE_NS) {
		ticks_per_us = (now_ticks - compared_ticks) / ((now_ns - compared_ns) / 1000);
		compared_ns = now_ns;
		compared_ticks = now_ticks;
	}
}

static uint64_t ticks_in(uint64_t ns)
{
	return ns * ticks_per_us / 1000;
}

void softmig_notes_begin(uint64_t thread, CUstream stream, CUcontext context, struct softmig_lane *lane, uint32_t work_ns, uint64_t valid_ns, uint64_t now_ns)
{
	struct softmig_note_page *page = softmig_note_page_of(thread);
	uint64_t now_ticks = softmig_note_ticks();
	compare(now_ns, now_ticks);
	if (ticks_per_us == 0 || (page->owner != 0 && page->owner != thread))
		return;
	page->owner = thread;
	if (page->lane != lane) // what slipped in after the end was another stream's: it is too little to matter
		atomic_store_explicit(&page->read, atomic_load_explicit(&page->written, memory_order_relaxed), memory_order_relaxed);
	page->stream = stream;
	page->context = context;
	page->lane = lane;
	page->left_ns = work_ns;
	page->until_ticks = now_ticks + ticks_in(valid_ns);
	page->gap_ticks = (uint32_t)ticks_in(SOFTMIG_LANE_GAP_NS);
	atomic_store_explicit(&page->last_ticks, now_ticks, memory_order_relaxed);
	atomic_store_explicit(&page->writer, thread, memory_order_relaxed);
	atomic_store_explicit(&softmig_note_open, page, memory_order_relaxed);
}

uint64_t softmig_notes_reckon(struct softmig_lane **lane, uint64_t now_ns)
{
	struct softmig_note_page *page = atomic_load_explicit(&softmig_note_open, memory_order_relaxed);
	uint32_t read = atomic_load_explicit(&page->read, memory_order_relaxed), count = atomic_load_explicit(&page->written, memory_order_acquire) - read;
	uint64_t work_ns = 0, from_ns = page->lane->used_ns, ticks_ago = softmig_note_ticks() - atomic_load_explicit(&page->last_ticks, memory_order_relaxed);
	uint64_t ago_ns = ticks_per_us != 0 ? ticks_ago / ticks_per_us * 1000 : 0;
	*lane = page->lane;
	if (page->lane->home == NULL) // its context is gone
		count = 0;
	// The last was noted so long ago, the others between that and the launch before the first.
	uint64_t to_ns = now_ns > ago_ns && now_ns - ago_ns > from_ns ? now_ns - ago_ns : from_ns;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t estimate_ns = page->note[(read + i) % SOFTMIG_NOTES].estimate_ns;
		softmig_lane_more(page->lane, page->note[(read + i) % SOFTMIG_NOTES].estimate, estimate_ns, from_ns + (to_ns - from_ns) * (i + 1) / count);
		work_ns += estimate_ns;
	}
	atomic_store_explicit(&page->read, count != 0 ? read + count : atomic_load_explicit(&page->written, memory_order_relaxed), memory_order_release);
	return work_ns;
}
