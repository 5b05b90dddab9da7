// SPDX-License-Identifier: Apache-2.0
// What has to be known of streams: whether any is being captured, and what is recorded in them. Owns: the hooks. While nothing is
// captured, launches need not ask the driver whether their stream is; until anything was, our own calls need no relaxed mode.
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/stream.h"

// Counted before the driver begins, so that no launch in between takes the stream for an ordinary one.
#define BEGIN(call) \
	do { \
		softmig_stream_capture_begins(); \
		bool held = softmig_meter_hold(); \
		softmig_meter_capture(1); \
		CUresult result = (call); \
		if (result != CUDA_SUCCESS) \
			softmig_meter_capture(-1); \
		softmig_meter_release(held); \
		return result; \
	} while (0)

// A capture that was invalidated also ends here; one that ends with its stream is counted for ever, which costs launches 13 ns.
#define END(call) \
	do { \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS || result == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED) \
			softmig_meter_capture(-1); \
		return result; \
	} while (0)

CUresult hook_cuStreamBeginCapture(CUstream hStream)
{
	BEGIN(DRIVER(cuStreamBeginCapture)(hStream));
}

CUresult hook_cuStreamBeginCapture_ptsz(CUstream hStream)
{
	BEGIN(DRIVER(cuStreamBeginCapture_ptsz)(hStream));
}

CUresult hook_cuStreamBeginCapture_v2(CUstream hStream, CUstreamCaptureMode mode)
{
	BEGIN(DRIVER(cuStreamBeginCapture_v2)(hStream, mode));
}

CUresult hook_cuStreamBeginCapture_v2_ptsz(CUstream hStream, CUstreamCaptureMode mode)
{
	BEGIN(DRIVER(cuStreamBeginCapture_v2_ptsz)(hStream, mode));
}

CUresult hook_cuStreamBeginCaptureToGraph(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	BEGIN(DRIVER(cuStreamBeginCaptureToGraph)(hStream, hGraph, dependencies, dependencyData, numDependencies, mode));
}

CUresult hook_cuStreamBeginCaptureToGraph_ptsz(CUstream hStream, CUgraph hGraph, const CUgraphNode *dependencies,
	const CUgraphEdgeData *dependencyData, size_t numDependencies, CUstreamCaptureMode mode)
{
	BEGIN(DRIVER(cuStreamBeginCaptureToGraph_ptsz)(hStream, hGraph, dependencies, dependencyData, numDependencies, mode));
}

CUresult hook_cuStreamEndCapture(CUstream hStream, CUgraph *phGraph)
{
	END(DRIVER(cuStreamEndCapture)(hStream, phGraph));
}

CUresult hook_cuStreamEndCapture_ptsz(CUstream hStream, CUgraph *phGraph)
{
	END(DRIVER(cuStreamEndCapture_ptsz)(hStream, phGraph));
}

CUresult hook_cuEventRecord(CUevent hEvent, CUstream hStream)
{
	CUresult result = DRIVER(cuEventRecord)(hEvent, hStream);
	softmig_meter_event(hStream, false);
	return result;
}

CUresult hook_cuEventRecord_ptsz(CUevent hEvent, CUstream hStream)
{
	CUresult result = DRIVER(cuEventRecord_ptsz)(hEvent, hStream);
	softmig_meter_event(hStream, true);
	return result;
}
