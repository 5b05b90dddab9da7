// SPDX-License-Identifier: Apache-2.0
// What comes between the kernels of a stream and is no work of the GPU's: copies from and to the host (the copy engines do them, so they are
// neither limited nor billed), functions of the host, waits for other streams. Owns: the hooks that tell the meter where in a stream they are.
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/stream.h"

// A copy of so much takes longer than the events around it, some 20 us.
#define COPY_BYTES (1u << 20)

#define COPY(stream, per_thread, bytes, call) \
	do { \
		if ((bytes) >= COPY_BYTES) \
			softmig_meter_interrupt((stream), (per_thread)); \
		return (call); \
	} while (0)

CUresult hook_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	COPY(hStream, false, ByteCount, DRIVER(cuMemcpyHtoDAsync_v2)(dstDevice, srcHost, ByteCount, hStream));
}

CUresult hook_cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	COPY(hStream, true, ByteCount, DRIVER(cuMemcpyHtoDAsync_v2_ptsz)(dstDevice, srcHost, ByteCount, hStream));
}

CUresult hook_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	COPY(hStream, false, ByteCount, DRIVER(cuMemcpyDtoHAsync_v2)(dstHost, srcDevice, ByteCount, hStream));
}

CUresult hook_cuMemcpyDtoHAsync_v2_ptsz(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	COPY(hStream, true, ByteCount, DRIVER(cuMemcpyDtoHAsync_v2_ptsz)(dstHost, srcDevice, ByteCount, hStream));
}

// A stream that waits for another one's event joins its capture.
#define WAIT(stream, per_thread, event, call) \
	do { \
		softmig_meter_wait((stream), (per_thread), (event)); \
		bool held = atomic_load_explicit(&softmig_stream_captures_open, memory_order_acquire) > 0 && softmig_meter_hold(); \
		CUresult result = (call); \
		softmig_meter_release(held); \
		return result; \
	} while (0)

CUresult hook_cuStreamWaitEvent(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	WAIT(hStream, false, hEvent, DRIVER(cuStreamWaitEvent)(hStream, hEvent, Flags));
}

CUresult hook_cuStreamWaitEvent_ptsz(CUstream hStream, CUevent hEvent, unsigned int Flags)
{
	WAIT(hStream, true, hEvent, DRIVER(cuStreamWaitEvent_ptsz)(hStream, hEvent, Flags));
}

CUresult hook_cuLaunchHostFunc(CUstream hStream, CUhostFn fn, void *userData)
{
	softmig_meter_interrupt(hStream, false);
	return DRIVER(cuLaunchHostFunc)(hStream, fn, userData);
}

CUresult hook_cuLaunchHostFunc_ptsz(CUstream hStream, CUhostFn fn, void *userData)
{
	softmig_meter_interrupt(hStream, true);
	return DRIVER(cuLaunchHostFunc_ptsz)(hStream, fn, userData);
}

CUresult hook_cuStreamAddCallback(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
	softmig_meter_interrupt(hStream, false);
	return DRIVER(cuStreamAddCallback)(hStream, callback, userData, flags);
}

CUresult hook_cuStreamAddCallback_ptsz(CUstream hStream, CUstreamCallback callback, void *userData, unsigned int flags)
{
	softmig_meter_interrupt(hStream, true);
	return DRIVER(cuStreamAddCallback_ptsz)(hStream, callback, userData, flags);
}
