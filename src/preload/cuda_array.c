// SPDX-License-Identifier: Apache-2.0
// Arrays and mipmapped arrays. Owns: what they take. Their layout is the driver's secret, so the driver is asked: a twin that is created
// with deferred mapping takes nothing and tells its size (3 us, against 42 us for creating an array). Where it cannot be
// asked, an upper bound from the layout that was seen (docs/driver-facts.md).
// Above 1 MiB an array has granules of its own. Smaller ones share blocks that only NVML knows.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/stream.h"
#include "preload/track.h"

#define TILE_BYTES (64ull << 10)
// No memory at creation: it is mapped in later (cuda_vmm.c).
#define LATER (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)
// Any real array is smaller; keeps the arithmetic from overflowing.
#define LONGEST (1ull << 20)
// More levels than there can be mean as many as there can be (cuMipmappedArrayCreate in the driver API reference).
enum { MOST_LEVELS = 21 };

// Bits of one element of all channels together, at most.
static uint64_t element_bits(CUarray_format format, unsigned int channels)
{
	uint64_t count = channels == 0 || channels > 4 ? 4 : channels;

	switch (format) {
	case CU_AD_FORMAT_UNSIGNED_INT8: case CU_AD_FORMAT_SIGNED_INT8: return 8 * count;
	case CU_AD_FORMAT_UNSIGNED_INT16: case CU_AD_FORMAT_SIGNED_INT16: case CU_AD_FORMAT_HALF: return 16 * count;
	case CU_AD_FORMAT_UNSIGNED_INT32: case CU_AD_FORMAT_SIGNED_INT32: case CU_AD_FORMAT_FLOAT: return 32 * count;
	case CU_AD_FORMAT_UNORM_INT8X1: case CU_AD_FORMAT_SNORM_INT8X1: return 8;
	case CU_AD_FORMAT_UNORM_INT8X2: case CU_AD_FORMAT_SNORM_INT8X2: return 16;
	case CU_AD_FORMAT_UNORM_INT8X4: case CU_AD_FORMAT_SNORM_INT8X4: return 32;
	case CU_AD_FORMAT_UNORM_INT16X1: case CU_AD_FORMAT_SNORM_INT16X1: return 16;
	case CU_AD_FORMAT_UNORM_INT16X2: case CU_AD_FORMAT_SNORM_INT16X2: return 32;
	case CU_AD_FORMAT_UNORM_INT16X4: case CU_AD_FORMAT_SNORM_INT16X4: return 64;
	case CU_AD_FORMAT_UNORM_INT_101010_2: return 32;
	// Blocks of 4 x 4 elements in 8 or 16 bytes.
	case CU_AD_FORMAT_BC1_UNORM: case CU_AD_FORMAT_BC1_UNORM_SRGB: case CU_AD_FORMAT_BC4_UNORM: case CU_AD_FORMAT_BC4_SNORM:
	case CU_AD_FORMAT_BC2_UNORM: case CU_AD_FORMAT_BC2_UNORM_SRGB: case CU_AD_FORMAT_BC3_UNORM: case CU_AD_FORMAT_BC3_UNORM_SRGB:
	case CU_AD_FORMAT_BC5_UNORM: case CU_AD_FORMAT_BC5_SNORM: case CU_AD_FORMAT_BC6H_UF16: case CU_AD_FORMAT_BC6H_SF16:
	case CU_AD_FORMAT_BC7_UNORM: case CU_AD_FORMAT_BC7_UNORM_SRGB: return 8;
	// Video, several planes together.
	case CU_AD_FORMAT_NV12: case CU_AD_FORMAT_UINT8_SEMIPLANAR_420: case CU_AD_FORMAT_UINT8_PLANAR_420: return 12;
	case CU_AD_FORMAT_NV16: case CU_AD_FORMAT_YUY2: case CU_AD_FORMAT_UINT8_PACKED_422: case CU_AD_FORMAT_UINT8_SEMIPLANAR_422:
	case CU_AD_FORMAT_UINT8_PLANAR_422: return 16;
	case CU_AD_FORMAT_P010: case CU_AD_FORMAT_P016: case CU_AD_FORMAT_UINT16_SEMIPLANAR_420: case CU_AD_FORMAT_UINT16_PLANAR_420:
	case CU_AD_FORMAT_Y444_PLANAR8: case CU_AD_FORMAT_YUV444_8bit_SemiPlanar: case CU_AD_FORMAT_UINT8_SEMIPLANAR_444:
	case CU_AD_FORMAT_UINT8_PLANAR_444: return 24;
	case CU_AD_FORMAT_P210: case CU_AD_FORMAT_P216: case CU_AD_FORMAT_Y210: case CU_AD_FORMAT_Y216: case CU_AD_FORMAT_AYUV:
	case CU_AD_FORMAT_Y410: case CU_AD_FORMAT_UINT8_PACKED_444: case CU_AD_FORMAT_UINT16_SEMIPLANAR_422:
	case CU_AD_FORMAT_UINT16_PLANAR_422: return 32;
	case CU_AD_FORMAT_Y444_PLANAR10: case CU_AD_FORMAT_YUV444_16bit_SemiPlanar: case CU_AD_FORMAT_UINT16_SEMIPLANAR_444:
	case CU_AD_FORMAT_UINT16_PLANAR_444: return 48;
	case CU_AD_FORMAT_Y416: return 64;
	}
	return 128; // none has more
}

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

// The least power of two from value on, but no more than most.
static uint64_t power_up(uint64_t value, uint64_t most)
{
	uint64_t power = 1;
	while (power < value && power < most)
		power *= 2;
	return power;
}

// Rows are padded to 64 bytes, heights to blocks of up to 128 rows, depths to blocks of up to 32 slices, all in whole tiles.
static uint64_t bound_bytes(const CUDA_ARRAY3D_DESCRIPTOR *array, unsigned int levels)
{
	bool layered = (array->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP)) != 0;
	uint64_t bits = element_bits(array->Format, array->NumChannels), bytes = 0;
	uint64_t width = array->Width, height = array->Height == 0 ? 1 : array->Height, depth = array->Depth == 0 ? 1 : array->Depth;

	if (width > LONGEST || height > LONGEST || depth > LONGEST)
		return UINT64_MAX / 2;
	for (unsigned int level = 0; level < levels && level < MOST_LEVELS; level++) {
		uint64_t rows = round_up(height, 8 * power_up((height + 7) / 8, 16));
		uint64_t slices = layered ? depth : round_up(depth, power_up(depth, 32)), level_bytes;
		if (__builtin_mul_overflow(round_up((width * bits + 7) / 8, 64) * rows, slices, &level_bytes) ||
		    __builtin_add_overflow(bytes, level_bytes, &bytes))
			return UINT64_MAX / 2;
		width = width > 1 ? width / 2 : 1;
		height = height > 1 ? height / 2 : 1;
		depth = depth > 1 && !layered ? depth / 2 : depth;
	}
	uint64_t tail = layered ? depth * TILE_BYTES : TILE_BYTES; // each layer begins on a tile
	return bytes > UINT64_MAX / 2 - tail ? UINT64_MAX / 2 : round_up(bytes, TILE_BYTES) + (layered ? tail : 0);
}

// What a twin without memory says that it needs; 0: it does not.
static uint64_t array_twin_bytes(const struct softmig_gpu *gpu, const CUDA_ARRAY3D_DESCRIPTOR *twin)
{
	CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {0};
	CUarray handle;

	if (!SOFTMIG_HAS(cuArrayGetMemoryRequirements) || DRIVER(cuArray3DCreate_v2)(&handle, twin) != CUDA_SUCCESS)
		return 0;
	CUresult result = DRIVER(cuArrayGetMemoryRequirements)(&needs, handle, gpu->device);
	DRIVER(cuArrayDestroy)(handle);
	return result == CUDA_SUCCESS ? needs.size : 0;
}

static uint64_t mipmap_twin_bytes(const struct softmig_gpu *gpu, const CUDA_ARRAY3D_DESCRIPTOR *twin, unsigned int levels)
{
	CUDA_ARRAY_MEMORY_REQUIREMENTS needs = {0};
	CUmipmappedArray handle;

	if (!SOFTMIG_HAS(cuMipmappedArrayGetMemoryRequirements) ||
	    DRIVER(cuMipmappedArrayCreate)(&handle, twin, levels) != CUDA_SUCCESS)
		return 0;
	CUresult result = DRIVER(cuMipmappedArrayGetMemoryRequirements)(&needs, handle, gpu->device);
	DRIVER(cuMipmappedArrayDestroy)(handle);
	return result == CUDA_SUCCESS ? needs.size : 0;
}

// What an array (levels 0) or a mipmapped one will take. Twins are our own affair: beside a capture the program's call alone is the driver's to refuse.
static uint64_t needed_bytes(const struct softmig_gpu *gpu, const CUDA_ARRAY3D_DESCRIPTOR *array, unsigned int levels)
{
	CUDA_ARRAY3D_DESCRIPTOR twin = *array;
	int mode = softmig_stream_relax();

	twin.Flags |= CUDA_ARRAY3D_DEFERRED_MAPPING;
	uint64_t bytes = levels == 0 ? array_twin_bytes(gpu, &twin) : mipmap_twin_bytes(gpu, &twin, levels);
	softmig_stream_restore(mode);
	return bytes != 0 ? bytes : bound_bytes(array, levels == 0 ? 1 : levels);
}

// What an array is charged: for itself, and a block as overhead until NVML has told what the blocks really take.
struct cost {
	uint64_t own_bytes, block_bytes;
};

static struct cost cost_of(uint64_t bytes)
{
	if (bytes > SOFTMIG_SMALL_BYTES)
		return (struct cost){softmig_granules(bytes), 0};
	return (struct cost){round_up(bytes, TILE_BYTES), SOFTMIG_GRANULE_BYTES};
}

static bool ask(struct softmig_gpu *gpu, const struct cost *cost, const char *what)
{
	if (cost->block_bytes != 0)
		return softmig_charge(gpu, SOFTMIG_LEDGER_OVERHEAD, cost->block_bytes, what);
	return softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, cost->own_bytes, what);
}

// After the driver's answer, what was asked for a small array stays until it is settled, but what it failed for.
static void tell(struct softmig_gpu *gpu, const struct cost *cost, bool created)
{
	if (created && cost->block_bytes != 0)
		softmig_ledger_reserve(softmig_ledger_now(), gpu->ledger, SOFTMIG_LEDGER_TRACKED, cost->own_bytes, 0);
	if (!created && cost->block_bytes == 0)
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, cost->own_bytes);
}

static bool record(struct softmig_gpu *gpu, enum softmig_track_kind kind, uint64_t handle, uint64_t bytes)
{
	CUcontext context = NULL;
	struct softmig_track_entry old;

	DRIVER(cuCtxGetCurrent)(&context);
	struct softmig_track_entry entry = {
		.kind = (uint8_t)kind, .key = handle, .bytes = bytes, .context = (uint64_t)(uintptr_t)context, .gpu = (uint8_t)gpu->ledger};
	if (!softmig_track_swap(&entry, &old))
		return false;
	if (old.kind != SOFTMIG_TRACK_FREE)
		softmig_uncharge_entry(&old);
	return true;
}

// The three moves. array: the descriptor, or NULL where the program gave none; bytes_: what it takes; undo: destroys it.
#define CREATE(kind, array, bytes_, what, handle, call, undo) \
	do { \
		struct softmig_gpu *gpu = softmig_gpu_current(); \
		if (gpu == NULL || (array) == NULL || (handle) == NULL) \
			return (call); \
		struct cost cost = {0, 0}; \
		if (!((array)->Flags & LATER)) \
			cost = cost_of(bytes_); \
		if (cost.block_bytes != 0) \
			atomic_store_explicit(&gpu->shares_blocks, true, memory_order_relaxed); \
		softmig_settle_if_due(gpu); \
		softmig_gpu_enter(gpu); \
		if (!ask(gpu, &cost, what)) { \
			softmig_gpu_leave(gpu); \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		} \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS && !record(gpu, kind, (uint64_t)(uintptr_t)*(handle), cost.own_bytes)) { \
			(undo); \
			result = CUDA_ERROR_OUT_OF_MEMORY; \
		} \
		tell(gpu, &cost, result == CUDA_SUCCESS); \
		softmig_gpu_leave(gpu); \
		if (cost.block_bytes != 0) \
			softmig_settle_reserved(gpu, cost.block_bytes); \
		return result; \
	} while (0)

#define CREATE_ARRAY(array, name) \
	CREATE(SOFTMIG_TRACK_ARRAY, array, needed_bytes(gpu, array, 0), #name, pHandle, DRIVER(name)(pHandle, pAllocateArray), \
	       DRIVER(cuArrayDestroy)(*pHandle))

CUresult hook_cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
	const CUDA_ARRAY_DESCRIPTOR *given = pAllocateArray;
	CUDA_ARRAY3D_DESCRIPTOR array = {0}, *wide = given == NULL ? NULL : &array;
	if (given != NULL)
		array = (CUDA_ARRAY3D_DESCRIPTOR){given->Width, given->Height, 0, given->Format, given->NumChannels, 0};
	CREATE_ARRAY(wide, cuArrayCreate_v2);
}

CUresult hook_cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *pAllocateArray)
{
	const CUDA_ARRAY_DESCRIPTOR_v1 *given = pAllocateArray;
	CUDA_ARRAY3D_DESCRIPTOR array = {0}, *wide = given == NULL ? NULL : &array;
	if (given != NULL)
		array = (CUDA_ARRAY3D_DESCRIPTOR){given->Width, given->Height, 0, given->Format, given->NumChannels, 0};
	CREATE_ARRAY(wide, cuArrayCreate);
}

CUresult hook_cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
	CREATE_ARRAY(pAllocateArray, cuArray3DCreate_v2);
}

CUresult hook_cuArray3DCreate(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1 *pAllocateArray)
{
	const CUDA_ARRAY3D_DESCRIPTOR_v1 *given = pAllocateArray;
	CUDA_ARRAY3D_DESCRIPTOR array = {0}, *wide = given == NULL ? NULL : &array;
	if (given != NULL)
		array = (CUDA_ARRAY3D_DESCRIPTOR){given->Width, given->Height, given->Depth, given->Format, given->NumChannels, given->Flags};
	CREATE_ARRAY(wide, cuArray3DCreate);
}

CUresult hook_cuMipmappedArrayCreate(CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pMipmappedArrayDesc,
                                     unsigned int numMipmapLevels)
{
	CREATE(SOFTMIG_TRACK_MIPMAP, pMipmappedArrayDesc, needed_bytes(gpu, pMipmappedArrayDesc, numMipmapLevels),
	       "cuMipmappedArrayCreate", pHandle, DRIVER(cuMipmappedArrayCreate)(pHandle, pMipmappedArrayDesc, numMipmapLevels),
	       DRIVER(cuMipmappedArrayDestroy)(*pHandle));
}

// Taken out before the driver frees it, since another thread may be given the same handle at once; put back if it was not freed.
#define DESTROY(kind, handle, call) \
	do { \
		struct softmig_track_entry entry; \
		if (!softmig_track_remove(kind, (uint64_t)(uintptr_t)(handle), &entry)) \
			return (call); \
		struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu); \
		softmig_gpu_enter(gpu); \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS) \
			softmig_uncharge_measured(gpu, entry.bytes); \
		else \
			softmig_track_add(&entry); \
		softmig_gpu_leave(gpu); \
		return result; \
	} while (0)

CUresult hook_cuArrayDestroy(CUarray hArray)
{
	DESTROY(SOFTMIG_TRACK_ARRAY, hArray, DRIVER(cuArrayDestroy)(hArray));
}

CUresult hook_cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
	DESTROY(SOFTMIG_TRACK_MIPMAP, hMipmappedArray, DRIVER(cuMipmappedArrayDestroy)(hMipmappedArray));
}
