// SPDX-License-Identifier: Apache-2.0
// What a stream handle stands for. Owns: that question. A NULL handle and the two special ones mean the current context; any other
// stream belongs to the context it was made in, whichever is current. per_thread: the caller came through a _ptsz function.
#ifndef SOFTMIG_PRELOAD_STREAM_H
#define SOFTMIG_PRELOAD_STREAM_H
#include <stdbool.h>
#include <stdint.h>

#include "preload/gpu.h"
#include "preload/hook.h"

static inline bool softmig_stream_is_special(CUstream stream)
{
	return (uintptr_t)stream <= 2; // NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD
}

// Is the stream capturing into a graph? The legacy stream never can.
static inline bool softmig_stream_is_capturing(CUstream stream, bool per_thread)
{
	CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
	if ((uintptr_t)stream <= 1 && !(per_thread && stream == NULL))
		return false;
	CUresult (*query)(CUstream, CUstreamCaptureStatus *) =
		per_thread ? DRIVER(cuStreamIsCapturing_ptsz) : DRIVER(cuStreamIsCapturing);
	return query != NULL && query(stream, &status) == CUDA_SUCCESS && status != CU_STREAM_CAPTURE_STATUS_NONE;
}

// Around driver calls of our own: they are none of a capture's business, whichever thread is capturing in whatever mode. Otherwise one that the
// driver calls unsafe would end the program's capture, or be refused.
static inline CUstreamCaptureMode softmig_stream_relax(void)
{
	CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
	if (SOFTMIG_HAS(cuThreadExchangeStreamCaptureMode))
		DRIVER(cuThreadExchangeStreamCaptureMode)(&mode);
	return mode;
}

static inline void softmig_stream_restore(CUstreamCaptureMode mode)
{
	if (SOFTMIG_HAS(cuThreadExchangeStreamCaptureMode))
		DRIVER(cuThreadExchangeStreamCaptureMode)(&mode);
}

// The stream's GPU, NULL: none of the slice's, or no context.
struct softmig_gpu *softmig_gpu_of_stream(CUstream stream, bool per_thread);
// The GPU that a context is on, found without making it current. NULL: not known here.
struct softmig_gpu *softmig_gpu_of_context(CUcontext context);
#endif
