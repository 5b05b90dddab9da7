// SPDX-License-Identifier: Apache-2.0
// A lane is one stream of the application as the meter sees it: what was submitted to it, in batches between driver events,
// and when that ran. Owns: lanes, the events (pooled per context), the mapping of the GPU's clock to CLOCK_MONOTONIC.
// Must never: record into a capturing stream, between programmatically dependent launches, or into the legacy default stream
// for another stream's work; allocate; be used without the meter's lock.
#ifndef SOFTMIG_PRELOAD_LANE_H
#define SOFTMIG_PRELOAD_LANE_H
#include <stdbool.h>
#include <stdint.h>

#include "preload/estimate.h"
#include "preload/hook.h"

// A stream without work for less than this counts as busy: the gaps of launch-bound work are nobody else's.
#define SOFTMIG_LANE_GAP_NS 20000u
enum { SOFTMIG_LANES = 128, SOFTMIG_LANE_BATCHES = 12, SOFTMIG_LANE_PARTS = 6, SOFTMIG_LANE_EVENTS = 64 };

// A context's events and clock.
struct softmig_lane_context {
	CUcontext context; // NULL: a free place
	int gpu;           // ledger's index
	uint64_t sequence; // launches seen in it
	CUevent free[SOFTMIG_LANE_EVENTS];
	int free_count, made;
	CUevent anchor;       // the GPU's time is reckoned from it
	uint64_t low_ns, high_ns; // CLOCK_MONOTONIC at the anchor lies between
	uint64_t sampled_ns;  // when that was last narrowed
};

// Commands between two events of a stream.
struct softmig_lane_batch {
	CUevent begin, end;            // begin NULL: it follows the batch before, or began_ns says more
	uint64_t begin_record_ns, end_record_ns;
	uint64_t began_ns;             // 0: not known yet
	bool covered;                  // it began while others were at work, at about this time
	uint64_t estimate_ns;
	uint32_t count;
	uint32_t parts;                // more than SOFTMIG_LANE_PARTS: the rest is not told apart
	bool disturbed;                // it shared the GPU: no estimate grows by it
	bool brief;                    // known to be short, after a long pause: the host's clock tells its beginning,
	bool awaited;                  //   and its end, since the program waits for it alone
	struct { struct softmig_estimate *estimate; uint32_t count; uint64_t estimate_ns; } part[SOFTMIG_LANE_PARTS];
};

struct softmig_lane {
	struct softmig_lane_context *home; // NULL: a free place
	CUstream stream;          // NULL: the legacy default stream; CU_STREAM_PER_THREAD: that of thread
	uint64_t thread;          // of a per-thread default stream, else 0
	bool gone;                // the stream was destroyed
	bool dependent;           // launches here depend on each other programmatically
	bool close_later;         // such a batch is long enough; it ends before the next launch that does not depend
	int pauses;               // the program paused lately without saying so: events are set more often
	bool rested;              // the program waited for it: what comes next begins anew
	int covered;              // so many batches began so since one was measured
	bool anew;                // the program has put something there that is no work of the GPU's: what comes next begins when that is done
	uint64_t next_wait_ns;    // when its next wait for another stream may be told apart from its work
	int wary;                 // a burst took far longer than it should have, perhaps behind a copy: so many of the next are measured
	bool guessed;             // when its work was done had to be guessed: the next launch gets an event
	uint64_t sequence;        // of its home's launches, the last one here
	uint64_t used_ns;         // when something was launched here
	uint64_t drains_ns;       // estimate of when all of it will be done
	uint64_t ended_ns;        // when the last completed batch ended
	uint64_t recorded_ns;     // when an event was last set
	struct softmig_lane_batch batch[SOFTMIG_LANE_BATCHES]; // a ring: closed ones, the oldest first
	unsigned first, closed;
	struct softmig_lane_batch open;                        // count 0: there is none
};

// What looking needs to know, and finds out, about the GPU as a whole.
struct softmig_lane_scene {
	int sharers;                 // other jobs that work on it: spans are not this job's alone
	uint64_t crowd_ns;           // when two lanes were last seen busy at once: then spans overlap, and estimates are
	uint64_t crowd_permille;     //   corrected by what all of them took together, as against what was estimated
	uint64_t longest_ns;         // the largest estimate of a batch that is not done
	uint64_t completions;        // counts batches found done
	uint64_t estimated_ns;       // adds up the estimates of what was found done
};

// A stretch of time in which a lane was busy.
struct softmig_lane_span {
	uint64_t from_ns, to_ns;
};

// The lane of a stream in a context, made if new. NULL: no place, or the driver failed. thread: see above.
struct softmig_lane *softmig_lane_find(CUcontext context, int gpu, CUstream stream, uint64_t thread, uint64_t now_ns);
// Before a launch. thread: the calling one. dependent: it depends programmatically on the one before. alone: it was measured before
// (the estimate is worth something), and nothing else is on the GPU. covered: other lanes are at work, this one may be covered, and is empty.
void softmig_lane_launch(struct softmig_lane *lane, uint64_t thread, struct softmig_estimate *estimate, uint64_t estimate_ns,
                         bool dependent, bool alone, bool covered, uint64_t now_ns);
// One more launch in quick succession after the last one, for which there was room.
void softmig_lane_more(struct softmig_lane *lane, struct softmig_estimate *estimate, uint64_t estimate_ns, uint64_t now_ns);
// How much more work may be launched so before anything else is to be done here; 0: nothing, every launch must be looked at.
uint32_t softmig_lane_room(const struct softmig_lane *lane);
// A batch begins with the next launch. If other lanes are at work, and the stream is empty, it need not be measured when.
bool softmig_lane_may_be_covered(const struct softmig_lane *lane);
// Asks the driver whether nothing is left in the stream, not even a copy. False: perhaps there is.
bool softmig_lane_is_empty(const struct softmig_lane *lane, uint64_t thread);
// The program is about to wait for it, and nothing else of the job is on the GPU. True: no event is needed.
bool softmig_lane_await(struct softmig_lane *lane);
// The launch failed.
void softmig_lane_unlaunch(struct softmig_lane *lane, uint64_t estimate_ns);
// Should an event follow this launch now?
bool softmig_lane_is_due(const struct softmig_lane *lane, bool known, uint64_t now_ns);
// Its work may have been done some time before now: look before the next launch. waited: the program has waited for something since the last look.
bool softmig_lane_may_have_paused(const struct softmig_lane *lane, bool waited, uint64_t now_ns);
// Sets the event that ends the open batch, if this thread may do so now. after_launch: directly after a launch into it.
void softmig_lane_close(struct softmig_lane *lane, uint64_t thread, bool after_launch, bool disturbed, uint64_t now_ns);

// Looks what is done. Adds spans of busy time, up to now, at most room of them; returns how many.
int softmig_lane_look(struct softmig_lane *lane, uint64_t thread, struct softmig_lane_span *span, int room,
                      struct softmig_lane_scene *scene, uint64_t now_ns);
// Has it work on the GPU, as far as is known?
bool softmig_lane_busy(const struct softmig_lane *lane);
// Asks the driver, where an event can tell, whether it is at work at this moment. False: perhaps not.
bool softmig_lane_works(const struct softmig_lane *lane, uint64_t now_ns);

// The i-th lane, and which one this is.
struct softmig_lane *softmig_lane_at(int i);
int softmig_lane_index(const struct softmig_lane *lane);
// The stream is about to be destroyed; the context is gone, and its events with it.
void softmig_lane_stream_gone(struct softmig_lane *lane, bool capturing, uint64_t now_ns);
void softmig_lane_context_gone(CUcontext context);
#endif
