// SPDX-License-Identifier: Apache-2.0
// Copies and fills: bytes really move. Asynchronous ones move at once (the simulated kernels compute nothing that could
// come before them) and take their time on the timeline afterwards; synchronous ones wait first.
#include <string.h>

#include "sim.h"

#define PCIE_BYTES_PER_US 25000ull
#define MEMORY_BYTES_PER_US 1500000ull

bool sim_is_device(uint64_t address)
{
	sim_enter();
	const struct sim_range *range = sim_range_find(address);
	bool device = range != NULL && range->device >= 0;
	sim_leave();
	return device;
}

bool sim_accessible(uint64_t address, uint64_t bytes)
{
	bool ok;
	sim_enter();
	struct sim_range *range = sim_range_find(address);
	if (range == NULL)
		ok = true; // plain host memory: the program's own business
	else if (range->kind == SIM_RANGE_RESERVED)
		ok = sim_vmm_accessible(range, address, bytes);
	else
		ok = bytes <= range->bytes - (address - range->base);
	if (ok && range != NULL && range->kind == SIM_RANGE_MANAGED)
		sim_managed_touch(range, address - range->base + bytes);
	sim_leave();
	return ok;
}

uint64_t sim_copy_ns(uint64_t dst, uint64_t src, uint64_t bytes)
{
	uint64_t rate = sim_is_device(dst) && sim_is_device(src) ? MEMORY_BYTES_PER_US : PCIE_BYTES_PER_US;
	return 1000 + bytes * 1000 / rate;
}

void sim_copy_1d(CUDA_MEMCPY3D *copy, uint64_t dst, uint64_t src, size_t bytes)
{
	*copy = (CUDA_MEMCPY3D){.srcMemoryType = CU_MEMORYTYPE_UNIFIED,
		.srcDevice = src,
		.dstMemoryType = CU_MEMORYTYPE_UNIFIED,
		.dstDevice = dst,
		.WidthInBytes = bytes,
		.Height = 1,
		.Depth = 1};
}

// One end of a copy: row y of layer z starts at address + z * layer + y * pitch.
struct end {
	uint64_t address, pitch, layer;
	const struct CUarray_st *array;
};

static CUresult find_end(struct end *end, const CUDA_MEMCPY3D *copy, bool dst)
{
	CUmemorytype type = dst ? copy->dstMemoryType : copy->srcMemoryType;
	CUarray array = dst ? copy->dstArray : copy->srcArray;
	uint64_t x = dst ? copy->dstXInBytes : copy->srcXInBytes, y = dst ? copy->dstY : copy->srcY,
			 z = dst ? copy->dstZ : copy->srcZ;
	end->pitch = dst ? copy->dstPitch : copy->srcPitch;
	end->array = NULL;
	uint64_t rows = dst ? copy->dstHeight : copy->srcHeight, base;
	switch (type) {
	case CU_MEMORYTYPE_HOST: base = (uint64_t)(uintptr_t)(dst ? copy->dstHost : copy->srcHost); break;
	case CU_MEMORYTYPE_DEVICE:
		base = dst ? copy->dstDevice : copy->srcDevice;
		if (!sim_is_device(base))
			return CUDA_ERROR_INVALID_VALUE;
		break;
	case CU_MEMORYTYPE_UNIFIED: base = dst ? copy->dstDevice : copy->srcDevice; break;
	case CU_MEMORYTYPE_ARRAY:
		if (array == NULL || !array->alive || array->address == 0)
			return CUDA_ERROR_INVALID_VALUE;
		end->array = array;
		base = array->address;
		end->pitch = array->pitch;
		rows = array->rows;
		if (x + copy->WidthInBytes > array->pitch || y + copy->Height > array->rows || z + copy->Depth > array->layers)
			return CUDA_ERROR_INVALID_VALUE;
		break;
	default: return CUDA_ERROR_INVALID_VALUE;
	}
	if (base == 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (end->pitch == 0)
		end->pitch = copy->WidthInBytes + x;
	if (end->pitch < copy->WidthInBytes)
		return CUDA_ERROR_INVALID_VALUE;
	if (rows == 0)
		rows = copy->Height + y;
	end->layer = end->pitch * rows;
	end->address = base + z * end->layer + y * end->pitch + x;
	uint64_t reach = (copy->Depth - 1) * end->layer + (copy->Height - 1) * end->pitch + copy->WidthInBytes;
	return end->array != NULL || sim_accessible(end->address, reach) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

static bool empty(const CUDA_MEMCPY3D *copy)
{
	return copy->WidthInBytes == 0 || copy->Height == 0 || copy->Depth == 0;
}

CUresult sim_copy_3d_check(const CUDA_MEMCPY3D *copy)
{
	struct end end;
	if (empty(copy))
		return CUDA_SUCCESS;
	CUresult result = find_end(&end, copy, true);
	return result != CUDA_SUCCESS ? result : find_end(&end, copy, false);
}

CUresult sim_copy_3d(const CUDA_MEMCPY3D *copy, uint64_t *ns)
{
	struct end dst, src;
	*ns = 1000;
	if (empty(copy))
		return CUDA_SUCCESS;
	CUresult result = find_end(&dst, copy, true);
	if (result == CUDA_SUCCESS)
		result = find_end(&src, copy, false);
	if (result != CUDA_SUCCESS)
		return result;
	for (uint64_t z = 0; z < copy->Depth; z++)
		for (uint64_t y = 0; y < copy->Height; y++)
			memmove((void *)(uintptr_t)(dst.address + z * dst.layer + y * dst.pitch),
				(const void *)(uintptr_t)(src.address + z * src.layer + y * src.pitch), copy->WidthInBytes);
	uint64_t bytes = copy->WidthInBytes * copy->Height * copy->Depth;
	bool inside =
		(dst.array != NULL || sim_is_device(dst.address)) && (src.array != NULL || sim_is_device(src.address));
	*ns = 1000 + bytes * 1000 / (inside ? MEMORY_BYTES_PER_US : PCIE_BYTES_PER_US);
	return CUDA_SUCCESS;
}

static CUresult copy_on(CUstream handle, const CUDA_MEMCPY3D *copy, bool wait)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result == CUDA_SUCCESS && wait)
		result = sim_capture_forbid_sync(stream);
	if (result == CUDA_SUCCESS && wait)
		result = sim_capture_forbid(stream->context);
	if (result == CUDA_SUCCESS)
		result = sim_copy_3d_check(copy);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream))
		return sim_capture_copy(stream, copy);
	uint64_t ns;
	if (!wait) {
		result = sim_copy_3d(copy, &ns);
		return result != CUDA_SUCCESS ? result : sim_stream_submit(stream, SIM_COPY, ns, 0);
	}
	result = sim_stream_submit(stream, SIM_COPY, 1000, 0);
	if (result == CUDA_SUCCESS)
		result = sim_stream_wait_idle(stream->context, stream->queue);
	if (result == CUDA_SUCCESS)
		result = sim_copy_3d(copy, &ns);
	if (result == CUDA_SUCCESS)
		result = sim_stream_submit(stream, SIM_COPY, ns, 0);
	return result != CUDA_SUCCESS ? result : sim_stream_wait_idle(stream->context, stream->queue);
}

static CUresult copy_bytes(
	CUstream handle, uint64_t dst, uint64_t src, size_t bytes, bool dst_device, bool src_device, bool wait)
{
	CUDA_MEMCPY3D copy;
	sim_copy_1d(&copy, dst, src, bytes);
	if (dst_device)
		copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
	if (src_device)
		copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
	return copy_on(handle, &copy, wait);
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)
#define HOST(pointer) ((uint64_t)(uintptr_t)(pointer))

// name, its parameters, and copy_bytes' view of them: once for the legacy default stream and once for the per-thread
// one.
#define COPY_SYNC(name, parameters, dst, src, bytes, dst_device, src_device) \
	CUresult name parameters \
	{ \
		return copy_bytes(NULL, dst, src, bytes, dst_device, src_device, true); \
	} \
	CUresult name##_ptds parameters \
	{ \
		return copy_bytes(CU_STREAM_PER_THREAD, dst, src, bytes, dst_device, src_device, true); \
	}
#define UNWRAP(...) __VA_ARGS__
#define COPY_ASYNC(name, parameters, dst, src, bytes, dst_device, src_device) \
	CUresult name(UNWRAP parameters, CUstream hStream) \
	{ \
		return copy_bytes(hStream, dst, src, bytes, dst_device, src_device, false); \
	} \
	CUresult name##_ptsz(UNWRAP parameters, CUstream hStream) \
	{ \
		return copy_bytes(THREADED(hStream), dst, src, bytes, dst_device, src_device, false); \
	}

COPY_SYNC(cuMemcpy, (CUdeviceptr d, CUdeviceptr s, size_t n), d, s, n, false, false)
COPY_ASYNC(cuMemcpyAsync, (CUdeviceptr d, CUdeviceptr s, size_t n), d, s, n, false, false)
COPY_SYNC(cuMemcpyHtoD_v2, (CUdeviceptr d, const void *s, size_t n), d, HOST(s), n, true, false)
COPY_ASYNC(cuMemcpyHtoDAsync_v2, (CUdeviceptr d, const void *s, size_t n), d, HOST(s), n, true, false)
COPY_SYNC(cuMemcpyDtoH_v2, (void *d, CUdeviceptr s, size_t n), HOST(d), s, n, false, true)
COPY_ASYNC(cuMemcpyDtoHAsync_v2, (void *d, CUdeviceptr s, size_t n), HOST(d), s, n, false, true)
COPY_SYNC(cuMemcpyDtoD_v2, (CUdeviceptr d, CUdeviceptr s, size_t n), d, s, n, true, true)
COPY_ASYNC(cuMemcpyDtoDAsync_v2, (CUdeviceptr d, CUdeviceptr s, size_t n), d, s, n, true, true)

// Between contexts and devices: one address space, so the addresses say it all.
#define PEER(body) \
	CUresult error_ = sim_context_check(dc); \
	if (error_ == CUDA_SUCCESS) \
		error_ = sim_context_check(sc); \
	return error_ != CUDA_SUCCESS ? error_ : body

CUresult cuMemcpyPeer(CUdeviceptr d, CUcontext dc, CUdeviceptr s, CUcontext sc, size_t n)
{
	PEER(copy_bytes(NULL, d, s, n, true, true, true));
}

CUresult cuMemcpyPeer_ptds(CUdeviceptr d, CUcontext dc, CUdeviceptr s, CUcontext sc, size_t n)
{
	PEER(copy_bytes(CU_STREAM_PER_THREAD, d, s, n, true, true, true));
}

CUresult cuMemcpyPeerAsync(CUdeviceptr d, CUcontext dc, CUdeviceptr s, CUcontext sc, size_t n, CUstream hStream)
{
	PEER(copy_bytes(hStream, d, s, n, true, true, false));
}

CUresult cuMemcpyPeerAsync_ptsz(CUdeviceptr d, CUcontext dc, CUdeviceptr s, CUcontext sc, size_t n, CUstream hStream)
{
	PEER(copy_bytes(THREADED(hStream), d, s, n, true, true, false));
}

// --- rows and boxes

static CUresult copy_2d(CUstream handle, const CUDA_MEMCPY2D *two, bool wait)
{
	if (two == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_MEMCPY3D copy = {.srcXInBytes = two->srcXInBytes,
		.srcY = two->srcY,
		.srcMemoryType = two->srcMemoryType,
		.srcHost = two->srcHost,
		.srcDevice = two->srcDevice,
		.srcArray = two->srcArray,
		.srcPitch = two->srcPitch,
		.dstXInBytes = two->dstXInBytes,
		.dstY = two->dstY,
		.dstMemoryType = two->dstMemoryType,
		.dstHost = two->dstHost,
		.dstDevice = two->dstDevice,
		.dstArray = two->dstArray,
		.dstPitch = two->dstPitch,
		.WidthInBytes = two->WidthInBytes,
		.Height = two->Height,
		.Depth = 1};
	return copy_on(handle, &copy, wait);
}

CUresult cuMemcpy2D_v2(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(NULL, pCopy, true);
}

CUresult cuMemcpy2D_v2_ptds(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(CU_STREAM_PER_THREAD, pCopy, true);
}

CUresult cuMemcpy2DUnaligned_v2(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(NULL, pCopy, true);
}

CUresult cuMemcpy2DUnaligned_v2_ptds(const CUDA_MEMCPY2D *pCopy)
{
	return copy_2d(CU_STREAM_PER_THREAD, pCopy, true);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
	return copy_2d(hStream, pCopy, false);
}

CUresult cuMemcpy2DAsync_v2_ptsz(const CUDA_MEMCPY2D *pCopy, CUstream hStream)
{
	return copy_2d(THREADED(hStream), pCopy, false);
}

CUresult cuMemcpy3D_v2(const CUDA_MEMCPY3D *pCopy)
{
	return pCopy == NULL ? CUDA_ERROR_INVALID_VALUE : copy_on(NULL, pCopy, true);
}

CUresult cuMemcpy3D_v2_ptds(const CUDA_MEMCPY3D *pCopy)
{
	return pCopy == NULL ? CUDA_ERROR_INVALID_VALUE : copy_on(CU_STREAM_PER_THREAD, pCopy, true);
}

CUresult cuMemcpy3DAsync_v2(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
	return pCopy == NULL ? CUDA_ERROR_INVALID_VALUE : copy_on(hStream, pCopy, false);
}

CUresult cuMemcpy3DAsync_v2_ptsz(const CUDA_MEMCPY3D *pCopy, CUstream hStream)
{
	return pCopy == NULL ? CUDA_ERROR_INVALID_VALUE : copy_on(THREADED(hStream), pCopy, false);
}

// --- arrays as rows of bytes

static CUresult copy_array(
	CUstream handle, CUarray dst, uint64_t dst_at, CUarray src, uint64_t src_at, size_t bytes, bool wait)
{
	CUDA_MEMCPY3D copy;
	sim_copy_1d(&copy, dst_at, src_at, bytes);
	if (dst != NULL) {
		copy.dstMemoryType = CU_MEMORYTYPE_ARRAY;
		copy.dstArray = dst;
		copy.dstXInBytes = dst_at;
	}
	if (src != NULL) {
		copy.srcMemoryType = CU_MEMORYTYPE_ARRAY;
		copy.srcArray = src;
		copy.srcXInBytes = src_at;
	}
	return copy_on(handle, &copy, wait);
}

CUresult cuMemcpyHtoA_v2(CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount)
{
	return copy_array(NULL, dstArray, dstOffset, NULL, HOST(srcHost), ByteCount, true);
}

CUresult cuMemcpyAtoH_v2(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return copy_array(NULL, NULL, HOST(dstHost), srcArray, srcOffset, ByteCount, true);
}

CUresult cuMemcpyDtoA_v2(CUarray dstArray, size_t dstOffset, CUdeviceptr srcDevice, size_t ByteCount)
{
	return copy_array(NULL, dstArray, dstOffset, NULL, srcDevice, ByteCount, true);
}

CUresult cuMemcpyAtoD_v2(CUdeviceptr dstDevice, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return copy_array(NULL, NULL, dstDevice, srcArray, srcOffset, ByteCount, true);
}

CUresult cuMemcpyAtoA_v2(CUarray dstArray, size_t dstOffset, CUarray srcArray, size_t srcOffset, size_t ByteCount)
{
	return copy_array(NULL, dstArray, dstOffset, srcArray, srcOffset, ByteCount, true);
}

CUresult cuMemcpyHtoAAsync_v2(
	CUarray dstArray, size_t dstOffset, const void *srcHost, size_t ByteCount, CUstream hStream)
{
	return copy_array(hStream, dstArray, dstOffset, NULL, HOST(srcHost), ByteCount, false);
}

CUresult cuMemcpyAtoHAsync_v2(void *dstHost, CUarray srcArray, size_t srcOffset, size_t ByteCount, CUstream hStream)
{
	return copy_array(hStream, NULL, HOST(dstHost), srcArray, srcOffset, ByteCount, false);
}
