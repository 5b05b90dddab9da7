// SPDX-License-Identifier: Apache-2.0
// The meter: what the hooks that submit work or wait for it ask and tell. Owns: the gates of this process's GPUs, measuring, billing
// and sleeping. Three moves: softmig_meter_before (ask: it may sleep), the driver's function (call), softmig_meter_after (tell).
// Must never: sleep with its lock held, change errno, disturb a capture, allocate.
#ifndef SOFTMIG_PRELOAD_METER_H
#define SOFTMIG_PRELOAD_METER_H
#include <stdbool.h>
#include <stdint.h>

#include "preload/estimate.h"
#include "preload/hook.h"

struct softmig_lane;

struct softmig_meter_launch {
	struct softmig_lane *lane; // NULL: not metered (captured, no GPU of the slice)
	struct softmig_estimate *estimate;
	uint64_t estimate_ns;
	bool due;   // an event follows
	bool looks; // neighbours' pages are read when it is submitted
};

// One command for stream; per_thread: the caller came through a _ptsz function. key names what it is (estimate.h); dependent: it
// depends programmatically on the launch before.
void softmig_meter_before(struct softmig_meter_launch *launch, CUstream stream, bool per_thread, uint64_t key, bool dependent);
// Returns result.
CUresult softmig_meter_after(struct softmig_meter_launch *launch, CUresult result);

// Around a wait of the program: what was submitted gets its end, and while neighbours want the GPU it is polled for, so that the turn
// passes on as soon as it can. Both do nothing in a slice without a compute share.
void softmig_meter_sync_stream(CUstream stream, bool per_thread);
void softmig_meter_sync_event(CUevent event);
void softmig_meter_sync_context(void);
void softmig_meter_synced(void);
// The program set an event of its own in a stream: what it submitted there is complete for now.
void softmig_meter_event(CUstream stream, bool per_thread);
// Something that is no work of the GPU's is about to come into the stream: what was submitted there is complete, and what follows begins when that is done.
void softmig_meter_interrupt(CUstream stream, bool per_thread);
// The same of a wait for an event, unless that has happened. Where there are very many of them some are passed over.
void softmig_meter_wait(CUstream stream, bool per_thread, CUevent event);

// Around calls by which a stream begins to capture: nothing of ours asks about any meanwhile. What _hold returns, _release needs.
bool softmig_meter_hold(void);
void softmig_meter_release(bool held);
// A capture began or ended; a stream is about to be destroyed; a context is gone.
void softmig_meter_capture(int change);
void softmig_meter_stream_gone(CUstream stream);
void softmig_meter_context_gone(CUcontext context);
#endif
