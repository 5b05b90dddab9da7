// SPDX-License-Identifier: Apache-2.0
// Fills (memset): kernels of the whole GPU, as on the hardware; the host does not wait for them.
#include <string.h>
#include <sys/mman.h>

#include "sim.h"

#define FILL_BYTES_PER_US 1500000ull
#define FILL_REALLY (256 * SIM_MIB) // beyond, only the ends are written: a test machine has no 100 GiB
#define FILL_ENDS (32 * SIM_MIB)

static void write_row(char *at, unsigned value, unsigned element_bytes, uint64_t elements)
{
	if (element_bytes == 1) {
		memset(at, (int)value, elements);
		return;
	}
	for (uint64_t i = 0; i < elements; i++)
		memcpy(at + i * element_bytes, &value, element_bytes); // little-endian, as the GPU
}

static void fill_row(char *at, unsigned value, unsigned element_bytes, uint64_t elements)
{
	uint64_t bytes = elements * element_bytes;
	if (bytes <= FILL_REALLY) {
		write_row(at, value, element_bytes, elements);
		return;
	}
	uint64_t inner_from = sim_round_up((uint64_t)(uintptr_t)at + FILL_ENDS, 4096);
	uint64_t inner_to = ((uint64_t)(uintptr_t)at + bytes - FILL_ENDS) / 4096 * 4096;
	if (value == 0)
		madvise((void *)(uintptr_t)inner_from, inner_to - inner_from,
			MADV_REMOVE); // gives the pages back: they read as zero
	write_row(at, value, element_bytes, (inner_from - (uint64_t)(uintptr_t)at) / element_bytes);
	write_row((char *)(uintptr_t)inner_to, value, element_bytes,
		((uint64_t)(uintptr_t)at + bytes - inner_to) / element_bytes);
}

CUresult sim_fill(uint64_t address, uint64_t pitch, unsigned value, unsigned element_bytes, uint64_t width,
	uint64_t height, uint64_t *ns)
{
	*ns = 2000;
	if (width == 0 || height == 0)
		return CUDA_SUCCESS;
	if (address % element_bytes != 0 || (height > 1 && pitch < width * element_bytes))
		return CUDA_ERROR_INVALID_VALUE;
	if (!sim_is_device(address) || !sim_accessible(address, (height - 1) * pitch + width * element_bytes))
		return CUDA_ERROR_INVALID_VALUE;
	for (uint64_t y = 0; y < height; y++)
		fill_row((char *)(uintptr_t)(address + y * pitch), value, element_bytes, width);
	*ns = 2000 + width * height * element_bytes * 1000 / FILL_BYTES_PER_US;
	return CUDA_SUCCESS;
}

static CUresult fill_on(CUstream handle, uint64_t address, uint64_t pitch, unsigned value, unsigned element_bytes,
	uint64_t width, uint64_t height)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream)) {
		CUDA_MEMSET_NODE_PARAMS fill = {.dst = address,
			.pitch = pitch,
			.value = value,
			.elementSize = element_bytes,
			.width = width,
			.height = height};
		return sim_capture_fill(stream, &fill);
	}
	uint64_t ns;
	result = sim_fill(address, pitch, value, element_bytes, width, height, &ns);
	return result != CUDA_SUCCESS ? result : sim_stream_submit(stream, SIM_KERNEL, ns, SIM_FULL_WIDTH);
}

// The four forms of one fill: at once or on a stream, for the legacy default stream or the per-thread one.
#define FILL(bits, type, bytes) \
	CUresult cuMemsetD##bits##_v2(CUdeviceptr d, type v, size_t n) \
	{ \
		return fill_on(NULL, d, 0, v, bytes, n, 1); \
	} \
	CUresult cuMemsetD##bits##_v2_ptds(CUdeviceptr d, type v, size_t n) \
	{ \
		return fill_on(CU_STREAM_PER_THREAD, d, 0, v, bytes, n, 1); \
	} \
	CUresult cuMemsetD##bits##Async(CUdeviceptr d, type v, size_t n, CUstream s) \
	{ \
		return fill_on(s, d, 0, v, bytes, n, 1); \
	} \
	CUresult cuMemsetD##bits##Async_ptsz(CUdeviceptr d, type v, size_t n, CUstream s) \
	{ \
		return fill_on(s != NULL ? s : CU_STREAM_PER_THREAD, d, 0, v, bytes, n, 1); \
	} \
	CUresult cuMemsetD2D##bits##_v2(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h) \
	{ \
		return fill_on(NULL, d, pitch, v, bytes, w, h); \
	} \
	CUresult cuMemsetD2D##bits##_v2_ptds(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h) \
	{ \
		return fill_on(CU_STREAM_PER_THREAD, d, pitch, v, bytes, w, h); \
	} \
	CUresult cuMemsetD2D##bits##Async(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h, CUstream s) \
	{ \
		return fill_on(s, d, pitch, v, bytes, w, h); \
	} \
	CUresult cuMemsetD2D##bits##Async_ptsz(CUdeviceptr d, size_t pitch, type v, size_t w, size_t h, CUstream s) \
	{ \
		return fill_on(s != NULL ? s : CU_STREAM_PER_THREAD, d, pitch, v, bytes, w, h); \
	}

FILL(8, unsigned char, 1)
FILL(16, unsigned short, 2)
FILL(32, unsigned, 4)
