// SPDX-License-Identifier: Apache-2.0
// Memory mapped into sparse and deferred arrays: it lives until it is unmapped there or the array is destroyed. Its
// texels are not simulated: copies to and from such arrays are refused.
#include <stdlib.h>

#include "vmm.h"

// One tile region or mip tail of an array, and what is mapped there.
struct tile {
	struct tile *next;
	const void *array; // or mipmapped array
	CUarrayMapInfo where;
	struct sim_vmm *memory;
};

static struct tile *tiles;

static bool same_place(const CUarrayMapInfo *a, const CUarrayMapInfo *b)
{
	if (a->subresourceType != b->subresourceType)
		return false;
	if (a->subresourceType == CU_ARRAY_SPARSE_SUBRESOURCE_TYPE_MIPTAIL)
		return a->subresource.miptail.layer == b->subresource.miptail.layer
			&& a->subresource.miptail.offset == b->subresource.miptail.offset;
	return a->subresource.sparseLevel.level == b->subresource.sparseLevel.level
		&& a->subresource.sparseLevel.layer == b->subresource.sparseLevel.layer
		&& a->subresource.sparseLevel.offsetX == b->subresource.sparseLevel.offsetX
		&& a->subresource.sparseLevel.offsetY == b->subresource.sparseLevel.offsetY
		&& a->subresource.sparseLevel.offsetZ == b->subresource.sparseLevel.offsetZ;
}

static void remove_tile(struct tile **link)
{
	struct tile *tile = *link;
	*link = tile->next;
	tile->memory->mappings--;
	sim_vmm_let_go(tile->memory);
	free(tile);
}

static const void *resource_of(const CUarrayMapInfo *info)
{
	return info->resourceType == CU_RESOURCE_TYPE_ARRAY ? (const void *)info->resource.array
		: (const void *)info->resource.mipmap;
}

static CUresult check(const CUarrayMapInfo *info)
{
	if (resource_of(info) == NULL || info->memHandleType != CU_MEM_HANDLE_TYPE_GENERIC || info->flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (info->memOperationType == CU_MEM_OPERATION_TYPE_UNMAP)
		return CUDA_SUCCESS;
	const struct sim_vmm *memory = sim_vmm_of(info->memHandle.memHandle);
	if (info->memOperationType != CU_MEM_OPERATION_TYPE_MAP || memory == NULL || memory->references == 0
		|| info->offset >= memory->bytes)
		return CUDA_ERROR_INVALID_VALUE;
	return CUDA_SUCCESS;
}

static CUresult apply(const CUarrayMapInfo *info)
{
	const void *array = resource_of(info);
	struct tile *made = NULL;
	if (info->memOperationType == CU_MEM_OPERATION_TYPE_MAP) {
		made = calloc(1, sizeof(*made));
		if (made == NULL)
			return CUDA_ERROR_OUT_OF_MEMORY;
		*made = (struct tile){.array = array, .where = *info, .memory = sim_vmm_of(info->memHandle.memHandle)};
		made->memory->mappings++;
	}
	for (struct tile **link = &tiles; *link != NULL;) {
		if ((*link)->array == array && same_place(&(*link)->where, info))
			remove_tile(link);
		else
			link = &(*link)->next;
	}
	if (made != NULL) {
		made->next = tiles;
		tiles = made;
	}
	return CUDA_SUCCESS;
}

void sim_sparse_drop(const void *array)
{
	for (struct tile **link = &tiles; *link != NULL;) {
		if ((*link)->array == array)
			remove_tile(link);
		else
			link = &(*link)->next;
	}
}

static CUresult map(const CUarrayMapInfo *list, unsigned count, CUstream handle)
{
	SIM_STREAM(stream, handle);
	if (list == NULL || count == 0)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = CUDA_SUCCESS;
	sim_enter();
	for (unsigned i = 0; i < count && result == CUDA_SUCCESS; i++)
		result = check(&list[i]);
	for (unsigned i = 0; i < count && result == CUDA_SUCCESS; i++)
		result = apply(&list[i]);
	sim_leave();
	return result != CUDA_SUCCESS ? result : sim_stream_submit(stream, SIM_COPY, 2000, 0);
}

CUresult cuMemMapArrayAsync(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return map(mapInfoList, count, hStream);
}

CUresult cuMemMapArrayAsync_ptsz(CUarrayMapInfo *mapInfoList, unsigned int count, CUstream hStream)
{
	return map(mapInfoList, count, hStream != NULL ? hStream : CU_STREAM_PER_THREAD);
}
