// SPDX-License-Identifier: Apache-2.0
// Launches noted down: what a thread launches into one stream in quick succession is written down without the meter's lock and without asking the
// system for the time, and reckoned up by whoever takes the lock next. Owns: the notes, one page of them for each thread, of which one is open at a time.
// Must never: be written but by its own thread, let through more than the gate has allowed.
#ifndef SOFTMIG_PRELOAD_NOTE_H
#define SOFTMIG_PRELOAD_NOTE_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/lane.h"

enum { SOFTMIG_NOTES = 64, SOFTMIG_NOTE_PAGES = 32 };

// What each launch touches fits one cache line and its note.
struct softmig_note_page {
	_Alignas(64) _Atomic uint64_t writer; // the thread that may note, as softmig_meter_self() says; 0: none
	CUstream stream;
	CUcontext context; // of a default stream, else NULL
	struct softmig_lane *lane;
	uint32_t left_ns; // of the work that may be noted
	uint32_t gap_ticks;
	uint64_t until_ticks;
	_Atomic uint64_t last_ticks;
	_Atomic uint32_t written, read; // notes, counted without end
	struct { struct softmig_estimate *estimate; uint64_t estimate_ns; } note[SOFTMIG_NOTES];
	uint64_t owner; // the thread whose page it is for good
};

extern struct softmig_note_page softmig_note_pages[SOFTMIG_NOTE_PAGES]; // by thread
// The one that is open, or was last; NULL: none ever was.
extern struct softmig_note_page *_Atomic softmig_note_open;

// A clock of the processor's, which is read in a quarter of the system's time; 0: there is none.
static inline uint64_t softmig_note_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t ticks;
	__asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
	return ticks;
#else
	return 0;
#endif
}

static inline struct softmig_note_page *softmig_note_page_of(uint64_t thread)
{
	return &softmig_note_pages[thread * 0x9e3779b97f4a7c15ull >> 59];
}

// Notes a launch. The lane that it counts for; NULL: it must be admitted. No lock.
static inline struct softmig_lane *softmig_note(uint64_t thread, CUstream stream, CUcontext context, struct softmig_estimate *estimate, uint64_t estimate_ns)
{
	struct softmig_note_page *page = softmig_note_page_of(thread);
	if (atomic_load_explicit(&page->writer, memory_order_relaxed) != thread || page->stream != stream || page->context != context || estimate_ns > page->left_ns)
		return NULL;
	uint64_t ticks = softmig_note_ticks(), last_ticks = atomic_load_explicit(&page->last_ticks, memory_order_relaxed);
	uint32_t written = atomic_load_explicit(&page->written, memory_order_relaxed);
	if (ticks - last_ticks > page->gap_ticks || ticks > page->until_ticks || written - atomic_load_explicit(&page->read, memory_order_acquire) == SOFTMIG_NOTES)
		return NULL;
	page->left_ns -= (uint32_t)estimate_ns;
	page->note[written % SOFTMIG_NOTES].estimate = estimate;
	page->note[written % SOFTMIG_NOTES].estimate_ns = estimate_ns;
	atomic_store_explicit(&page->last_ticks, ticks, memory_order_relaxed);
	atomic_store_explicit(&page->written, written + 1, memory_order_release);
	return page->lane;
}

// From now on this thread may note launches into this stream, of so much work in all and for so long. The meter's lock is held.
void softmig_notes_begin(uint64_t thread, CUstream stream, CUcontext context, struct softmig_lane *lane, uint32_t work_ns, uint64_t valid_ns, uint64_t now_ns);
// No more is noted. Was anything that has not been reckoned up? The meter's lock is held for this and the next.
static inline bool softmig_notes_end(void)
{
	struct softmig_note_page *page = atomic_load_explicit(&softmig_note_open, memory_order_relaxed);
	if (page == NULL)
		return false;
	if (atomic_load_explicit(&page->writer, memory_order_relaxed) != 0)
		atomic_store_explicit(&page->writer, 0, memory_order_relaxed);
	return atomic_load_explicit(&page->written, memory_order_relaxed) != atomic_load_explicit(&page->read, memory_order_relaxed);
}
// What was noted is the lane's. Returns how much work; *lane: whose.
uint64_t softmig_notes_reckon(struct softmig_lane **lane, uint64_t now_ns);
#endif
