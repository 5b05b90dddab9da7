// SPDX-License-Identifier: Apache-2.0
// Copies between host and GPU. The copy engines do them, so they are neither limited nor billed; but kernels of the same stream wait for them.
// Owns: the hooks that tell the meter where in a stream they are.
#include "preload/hook.h"
#include "preload/meter.h"

CUresult hook_cuMemcpyHtoDAsync_v2(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	softmig_meter_copy(hStream, false, ByteCount);
	return DRIVER(cuMemcpyHtoDAsync_v2)(dstDevice, srcHost, ByteCount, hStream);
}

CUresult hook_cuMemcpyHtoDAsync_v2_ptsz(CUdeviceptr dstDevice, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	softmig_meter_copy(hStream, true, ByteCount);
	return DRIVER(cuMemcpyHtoDAsync_v2_ptsz)(dstDevice, srcHost, ByteCount, hStream);
}

CUresult hook_cuMemcpyDtoHAsync_v2(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	softmig_meter_copy(hStream, false, ByteCount);
	return DRIVER(cuMemcpyDtoHAsync_v2)(dstHost, srcDevice, ByteCount, hStream);
}

CUresult hook_cuMemcpyDtoHAsync_v2_ptsz(void *dstHost, CUdeviceptr srcDevice, size_t ByteCount, CUstream hStream)
{
	softmig_meter_copy(hStream, true, ByteCount);
	return DRIVER(cuMemcpyDtoHAsync_v2_ptsz)(dstHost, srcDevice, ByteCount, hStream);
}
