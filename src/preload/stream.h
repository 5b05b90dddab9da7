// SPDX-License-Identifier: Apache-2.0
// What a stream handle stands for. Owns: that question. A NULL handle and the two special ones mean the current context; any other
// stream belongs to the context it was made in, whichever is current. per_thread: the caller came through a _ptsz function.
#ifndef SOFTMIG_PRELOAD_STREAM_H
#define SOFTMIG_PRELOAD_STREAM_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "preload/gpu.h"
#include "preload/hook.h"

static inline bool softmig_stream_is_special(CUstream stream)
{
	return (uintptr_t)stream <= 2; // NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
}

// Has this process ever begun a capture?
extern _Atomic bool softmig_stream_captures;
// Captures under way, as far as was seen.
extern _Atomic int softmig_stream_captures_open;

// Is the stream capturing into a graph? The legacy stream never can. The driver is asked only in a process that ever began a capture.
static inline bool softmig_stream_is_capturing(CUstream stream, bool per_thread)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
	if (!atomic_load_explicit(&softmig_stream_captures, memory_order_acquire) || ((uintptr_t)stream <= 1 && !(per_thread && stream == NULL)))
		return false;
	CUresult (*query)(CUstream, CUstreamCaptureStatus *) =
		per_thread ? DRIVER(cuStreamIsCapturing_ptsz) : DRIVER(cuStreamIsCapturing);
	return query != NULL && query(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// May our own calls neither ask about the stream nor set events in it? Whoever asks about one that is capturing ends the capture, and about the legacy
// stream that of any blocking stream.
static inline bool softmig_stream_is_off_limits(CUstream stream)
{
	return atomic_load_explicit(&softmig_stream_captures_open, memory_order_acquire) > 0 && (stream == NULL || softmig_stream_is_capturing(stream, false));
}

// This process is about to begin a capture. Before the first one it waits until no call of ours is under way that was made without relaxing.
void softmig_stream_capture_begins(void);

// Around driver calls of our own: they are none of a capture's business, whichever thread is capturing in whatever mode. Otherwise one that the
// driver calls unsafe would end the program's capture, or be refused.
// Costs nothing in a process that never captured. Returns what softmig_stream_restore needs.
static inline int softmig_stream_relax(void)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	if (!atomic_load_explicit(&softmig_stream_captures, memory_order_acquire) || !SOFTMIG_HAS(cuThreadExchangeStreamCaptureMode) ||
	    DRIVER(cuThreadExchangeStreamCaptureMode)(&mode) != CUDA_SUCCESS)
		return -1;
	return (int)mode;
}

static inline void softmig_stream_restore(int before)
{
	CUstreamCaptureMode mode = (CUstreamCaptureMode)before;
	if (before >= 0)
		DRIVER(cuThreadExchangeStreamCaptureMode)(&mode);
}

// The stream's GPU, NULL: none of the slice's, or no context.
struct softmig_gpu *softmig_gpu_of_stream(CUstream stream, bool per_thread);
// The GPU that a context is on, found without making it current. NULL: not known here.
struct softmig_gpu *softmig_gpu_of_context(CUcontext context);
#endif
