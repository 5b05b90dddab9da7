// SPDX-License-Identifier: Apache-2.0
// What a stream handle stands for: see stream.h.
#include "preload/stream.h"

#include <errno.h>

#include "preload/track.h"
#include "slice/sys.h"

// Our own calls take microseconds.
enum { UNDER_WAY_NS = 200000 };

_Atomic bool softmig_stream_captures;
_Atomic int softmig_stream_captures_open;

void softmig_stream_capture_begins(void)
{
	int kept = errno;

	if (atomic_load_explicit(&softmig_stream_captures, memory_order_relaxed))
		return;
	atomic_store(&softmig_stream_captures, true);
	softmig_sys_sleep_ns(UNDER_WAY_NS);
	errno = kept;
}

struct softmig_gpu *softmig_gpu_of_context(CUcontext context)
{
	struct softmig_track_entry entry;
	CUcontext current = NULL;

	for (int i = 0; context != NULL && i < SOFTMIG_MAX_GPUS; i++) // first, as that asks nobody
		if (atomic_load_explicit(&softmig_gpu_by_index(i)->primary, memory_order_acquire) == context)
			return softmig_gpu_by_index(i);
	if (DRIVER(cuCtxGetCurrent)(&current) == CUDA_SUCCESS && current == context)
		return softmig_gpu_current();
	if (softmig_track_find(SOFTMIG_TRACK_CONTEXT, (uint64_t)(uintptr_t)context, &entry))
		return softmig_gpu_by_index(entry.gpu);
	return NULL;
}

struct softmig_gpu *softmig_gpu_of_stream(CUstream stream, bool per_thread)
{
	struct softmig_gpu *only = atomic_load_explicit(&softmig_hot.only_gpu, memory_order_acquire);
	CUcontext context = NULL;
	CUresult (*get)(CUstream, CUcontext *) = per_thread ? DRIVER(cuStreamGetCtx_ptsz) : DRIVER(cuStreamGetCtx);

	if (only != NULL)
		return only;
	if (softmig_stream_is_special(stream) || get == NULL || get(stream, &context) != CUDA_SUCCESS)
		return softmig_gpu_current_or_only();
	return softmig_gpu_of_context(context);
}
