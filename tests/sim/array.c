// SPDX-License-Identifier: Apache-2.0
// Arrays and mipmapped arrays: device memory in the hardware's layout, reached through copies only.
#include <stdlib.h>
#include <string.h>

#include "sim.h"

#define ARRAY_KNOWN_FLAGS 0x1ffu
#define ARRAY_UNIT (64 * 1024ull) // sizes are multiples of it

struct CUmipmappedArray_st {
	bool alive;
	struct CUctx_st *context;
	CUDA_ARRAY3D_DESCRIPTOR descriptor;
	struct sim_backing backing;
	uint64_t charged_bytes;
	struct sim_small_block *block;
	uint64_t bytes;
	unsigned levels;
	struct CUarray_st level[16];
	struct CUmipmappedArray_st *next;
};

static struct CUarray_st *arrays;
static struct CUmipmappedArray_st *mipmaps;
// Destroyed ones are kept, so that an old handle is recognised.
static struct CUarray_st *gone_arrays;
static struct CUmipmappedArray_st *gone_mipmaps;

static unsigned format_bytes(CUarray_format format)
{
	switch ((int)format) {
	case CU_AD_FORMAT_UNSIGNED_INT8:
	case CU_AD_FORMAT_SIGNED_INT8: return 1;
	case CU_AD_FORMAT_UNSIGNED_INT16:
	case CU_AD_FORMAT_SIGNED_INT16:
	case CU_AD_FORMAT_HALF: return 2;
	case CU_AD_FORMAT_UNSIGNED_INT32:
	case CU_AD_FORMAT_SIGNED_INT32:
	case CU_AD_FORMAT_FLOAT: return 4;
	default: return 0; // planar and compressed ones are not simulated
	}
}

static CUresult check(const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
	if (format_bytes(descriptor->Format) == 0
		|| (descriptor->NumChannels != 1 && descriptor->NumChannels != 2 && descriptor->NumChannels != 4))
		return CUDA_ERROR_INVALID_VALUE;
	if (descriptor->Width == 0 || (descriptor->Flags & ~ARRAY_KNOWN_FLAGS) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (descriptor->Width > 131072 || descriptor->Height > 65536 || descriptor->Depth > 16384)
		return CUDA_ERROR_INVALID_VALUE;
	return CUDA_SUCCESS;
}

// The least power of two from value on, but no more than most.
static uint64_t power_up(uint64_t value, uint64_t most)
{
	uint64_t power = 1;
	while (power < value && power < most)
		power *= 2;
	return power;
}

// Fills in the layout of one level, as the hardware pads it (docs/driver-facts.md); returns its bytes.
static uint64_t lay_out(struct CUarray_st *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
	array->descriptor = *descriptor;
	array->texel_bytes = (uint64_t)format_bytes(descriptor->Format) * descriptor->NumChannels;
	array->pitch = sim_round_up(descriptor->Width * array->texel_bytes, 64);
	array->rows =
		sim_round_up(descriptor->Height > 0 ? descriptor->Height : 1, 8 * power_up((descriptor->Height + 7) / 8, 16));
	array->layers = descriptor->Depth > 0 ? descriptor->Depth : 1;
	return array->pitch * array->rows * array->layers;
}

// Large ones have granules of their own, small ones a place in a block, as small allocations do.
static CUresult back(struct CUctx_st *context, uint64_t bytes, struct sim_backing *backing, uint64_t *charged_bytes,
	struct sim_small_block **block)
{
	uint64_t whole = sim_round_up(bytes, SIM_GRANULE), small = sim_round_up(bytes, ARRAY_UNIT);
	CUresult result;
	if (small <= SIM_MIB) {
		result = sim_small_alloc(context, &context->small, small, block, &backing->address);
		backing->bytes = small;
		return result;
	}
	result = sim_context_charge(context, whole);
	if (result == CUDA_SUCCESS && !sim_backing_map(backing, whole, true)) {
		sim_context_uncharge(context, whole);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (result == CUDA_SUCCESS)
		*charged_bytes = whole;
	return result;
}

static void unback(
	struct CUctx_st *context, struct sim_backing *backing, uint64_t charged_bytes, struct sim_small_block *block)
{
	if (block != NULL) {
		sim_small_free(context, &context->small, block, backing->address, backing->bytes);
	} else {
		sim_backing_unmap(backing);
		sim_context_uncharge(context, charged_bytes);
	}
}

// Nothing is allocated for these: the program maps memory into them itself.
static bool unbacked(const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
	return (descriptor->Flags & (CUDA_ARRAY3D_SPARSE | CUDA_ARRAY3D_DEFERRED_MAPPING)) != 0;
}

static CUresult create(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *descriptor)
{
	SIM_CURRENT(context);
	if (out == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = check(descriptor);
	if (result == CUDA_SUCCESS)
		result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	struct CUarray_st *array = calloc(1, sizeof(*array));
	if (array == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	uint64_t bytes = lay_out(array, descriptor);
	sim_enter();
	result = unbacked(descriptor) ? CUDA_SUCCESS
		: back(context, bytes, &array->backing, &array->charged_bytes, &array->block);
	if (result == CUDA_SUCCESS) {
		array->address = array->backing.address;
		array->context = context;
		array->alive = true;
		array->next = arrays;
		arrays = array;
		*out = array;
	} else {
		free(array);
	}
	sim_leave();
	return result;
}

CUresult cuArray3DCreate_v2(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *pAllocateArray)
{
	return pAllocateArray == NULL ? CUDA_ERROR_INVALID_VALUE : create(pHandle, pAllocateArray);
}

CUresult cuArrayCreate_v2(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR *pAllocateArray)
{
	if (pAllocateArray == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = pAllocateArray->Width,
		.Height = pAllocateArray->Height,
		.Format = pAllocateArray->Format,
		.NumChannels = pAllocateArray->NumChannels};
	return create(pHandle, &descriptor);
}

CUresult cuArray3DCreate(CUarray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR_v1 *a)
{
	if (a == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = a->Width,
		.Height = a->Height,
		.Depth = a->Depth,
		.Format = a->Format,
		.NumChannels = a->NumChannels,
		.Flags = a->Flags};
	return create(pHandle, &descriptor);
}

CUresult cuArrayCreate(CUarray *pHandle, const CUDA_ARRAY_DESCRIPTOR_v1 *a)
{
	if (a == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUDA_ARRAY3D_DESCRIPTOR descriptor = {
		.Width = a->Width, .Height = a->Height, .Format = a->Format, .NumChannels = a->NumChannels};
	return create(pHandle, &descriptor);
}

static void drop(struct CUarray_st *array)
{
	struct CUarray_st **link = &arrays;
	while (*link != NULL && *link != array)
		link = &(*link)->next;
	if (*link == NULL)
		return;
	*link = array->next;
	sim_sparse_drop(array);
	unback(array->context, &array->backing, array->charged_bytes, array->block);
	array->alive = false;
	array->next = gone_arrays;
	gone_arrays = array;
}

CUresult cuArrayDestroy(CUarray hArray)
{
	SIM_READY();
	if (hArray == NULL || !hArray->alive || hArray->part)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_stream_wait_idle(hArray->context, -1);
	sim_enter();
	drop(hArray);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
	SIM_READY();
	if (pArrayDescriptor == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (hArray == NULL || !hArray->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	*pArrayDescriptor = hArray->descriptor;
	return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *pArrayDescriptor, CUarray hArray)
{
	SIM_READY();
	if (pArrayDescriptor == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (hArray == NULL || !hArray->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	*pArrayDescriptor = (CUDA_ARRAY_DESCRIPTOR){.Width = hArray->descriptor.Width, .Height = hArray->descriptor.Height,
		.Format = hArray->descriptor.Format, .NumChannels = hArray->descriptor.NumChannels};
	return CUDA_SUCCESS;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *requirements, CUarray array, CUdevice device)
{
	SIM_READY();
	if (device < 0 || device >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if (requirements == NULL || array == NULL || !array->alive
		|| !(array->descriptor.Flags & CUDA_ARRAY3D_DEFERRED_MAPPING))
		return CUDA_ERROR_INVALID_VALUE;
	*requirements = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
		.size = sim_round_up(array->pitch * array->rows * array->layers, ARRAY_UNIT), .alignment = ARRAY_UNIT};
	return CUDA_SUCCESS;
}

// --- mipmaps

CUresult cuMipmappedArrayCreate(
	CUmipmappedArray *pHandle, const CUDA_ARRAY3D_DESCRIPTOR *descriptor, unsigned int numMipmapLevels)
{
	SIM_CURRENT(context);
	if (pHandle == NULL || descriptor == NULL || numMipmapLevels == 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = check(descriptor);
	if (result == CUDA_SUCCESS)
		result = sim_capture_forbid(context);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_alloc_fault())
		return CUDA_ERROR_OUT_OF_MEMORY;
	struct CUmipmappedArray_st *mipmap = calloc(1, sizeof(*mipmap));
	if (mipmap == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	CUDA_ARRAY3D_DESCRIPTOR level = *descriptor;
	uint64_t offset[16] = {0}, bytes = 0;
	while (mipmap->levels < numMipmapLevels && mipmap->levels < 16) {
		struct CUarray_st *array = &mipmap->level[mipmap->levels];
		offset[mipmap->levels++] = bytes;
		bytes += sim_round_up(lay_out(array, &level), 512);
		array->part = array->alive = true;
		array->context = context;
		bool layered = (level.Flags & CUDA_ARRAY3D_LAYERED) != 0;
		if (level.Width <= 1 && level.Height <= 1 && (layered || level.Depth <= 1))
			break;
		level.Width = level.Width > 1 ? level.Width / 2 : 1;
		level.Height = level.Height > 1 ? level.Height / 2 : level.Height;
		if (!layered)
			level.Depth = level.Depth > 1 ? level.Depth / 2 : level.Depth;
	}
	mipmap->bytes = bytes;
	sim_enter();
	result = unbacked(descriptor) ? CUDA_SUCCESS
		: back(context, bytes, &mipmap->backing, &mipmap->charged_bytes, &mipmap->block);
	if (result == CUDA_SUCCESS) {
		for (unsigned i = 0; i < mipmap->levels && mipmap->backing.address != 0; i++)
			mipmap->level[i].address = mipmap->backing.address + offset[i];
		mipmap->descriptor = *descriptor;
		mipmap->context = context;
		mipmap->alive = true;
		mipmap->next = mipmaps;
		mipmaps = mipmap;
		*pHandle = mipmap;
	} else {
		free(mipmap);
	}
	sim_leave();
	return result;
}

static void drop_mipmap(struct CUmipmappedArray_st *mipmap)
{
	struct CUmipmappedArray_st **link = &mipmaps;
	while (*link != NULL && *link != mipmap)
		link = &(*link)->next;
	if (*link == NULL)
		return;
	*link = mipmap->next;
	sim_sparse_drop(mipmap);
	unback(mipmap->context, &mipmap->backing, mipmap->charged_bytes, mipmap->block);
	mipmap->alive = false;
	mipmap->next = gone_mipmaps;
	gone_mipmaps = mipmap;
	for (unsigned i = 0; i < mipmap->levels; i++)
		mipmap->level[i].alive = false;
}

CUresult cuMipmappedArrayDestroy(CUmipmappedArray hMipmappedArray)
{
	SIM_READY();
	if (hMipmappedArray == NULL || !hMipmappedArray->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_stream_wait_idle(hMipmappedArray->context, -1);
	sim_enter();
	drop_mipmap(hMipmappedArray);
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayGetMemoryRequirements(
	CUDA_ARRAY_MEMORY_REQUIREMENTS *requirements, CUmipmappedArray mipmap, CUdevice device)
{
	SIM_READY();
	if (device < 0 || device >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if (requirements == NULL || mipmap == NULL || !mipmap->alive
		|| !(mipmap->descriptor.Flags & CUDA_ARRAY3D_DEFERRED_MAPPING))
		return CUDA_ERROR_INVALID_VALUE;
	*requirements =
		(CUDA_ARRAY_MEMORY_REQUIREMENTS){.size = sim_round_up(mipmap->bytes, ARRAY_UNIT), .alignment = ARRAY_UNIT};
	return CUDA_SUCCESS;
}

CUresult cuMipmappedArrayGetLevel(CUarray *pLevelArray, CUmipmappedArray hMipmappedArray, unsigned int level)
{
	SIM_READY();
	if (hMipmappedArray == NULL || !hMipmappedArray->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	if (pLevelArray == NULL || level >= hMipmappedArray->levels)
		return CUDA_ERROR_INVALID_VALUE;
	*pLevelArray = &hMipmappedArray->level[level];
	return CUDA_SUCCESS;
}

void sim_array_drop_context(struct CUctx_st *context)
{
	for (struct CUarray_st *array = arrays, *next; array != NULL; array = next) {
		next = array->next;
		if (array->context == context)
			drop(array);
	}
	for (struct CUmipmappedArray_st *mipmap = mipmaps, *next; mipmap != NULL; mipmap = next) {
		next = mipmap->next;
		if (mipmap->context == context)
			drop_mipmap(mipmap);
	}
}
