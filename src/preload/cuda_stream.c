// SPDX-License-Identifier: Apache-2.0
// Streams cost memory: the driver makes a channel and its buffers for each, four from a piece of 2 MiB, and now and then takes two pieces
// at once (docs/driver-facts.md). Owns: the hooks of their
// creation and end.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/stream.h"

#define MOST_BYTES (2 * SOFTMIG_GRANULE_BYTES)

#define CREATE(call) \
	do { \
		struct softmig_unasked unasked; \
		if (!softmig_unasked_begin(&unasked, softmig_gpu_current(), MOST_BYTES, "stream")) \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		CUresult result = (call); \
		softmig_unasked_end(&unasked); \
		return result; \
	} while (0)

CUresult hook_cuStreamCreate(CUstream *phStream, unsigned int Flags)
{
	CREATE(DRIVER(cuStreamCreate)(phStream, Flags));
}

CUresult hook_cuStreamCreateWithPriority(CUstream *phStream, unsigned int flags, int priority)
{
	CREATE(DRIVER(cuStreamCreateWithPriority)(phStream, flags, priority));
}

CUresult hook_cuGreenCtxStreamCreate(CUstream *phStream, CUgreenCtx greenCtx, unsigned int flags, int priority)
{
	CREATE(DRIVER(cuGreenCtxStreamCreate)(phStream, greenCtx, flags, priority));
}

#define DESTROY(stream, call) \
	do { \
		struct softmig_gpu *gpu = softmig_gpu_of_stream((stream), false); \
		softmig_meter_stream_gone(stream); \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS && gpu != NULL) { \
			softmig_graph_memory_stream_gone(gpu, (stream)); \
			softmig_settle(gpu); \
		} \
		return result; \
	} while (0)

CUresult hook_cuStreamDestroy(CUstream hStream)
{
	DESTROY(hStream, DRIVER(cuStreamDestroy)(hStream));
}

CUresult hook_cuStreamDestroy_v2(CUstream hStream)
{
	DESTROY(hStream, DRIVER(cuStreamDestroy_v2)(hStream));
}
