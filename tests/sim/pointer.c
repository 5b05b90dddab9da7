// SPDX-License-Identifier: Apache-2.0
// What a pointer is: cuPointerGetAttribute(s).
#include <string.h>

#include "sim.h"

static CUmemorytype memory_type(const struct sim_range *range)
{
	return range->device >= 0 ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
}

// Answers for range, NULL: an address that the driver does not know. Values of unknown addresses as CUDA 11 and later
// give them.
static CUresult answer(const struct sim_range *range, CUdeviceptr ptr, CUpointer_attribute attribute, void *data)
{
	switch ((int)attribute) {
	case CU_POINTER_ATTRIBUTE_CONTEXT:
		if (range == NULL || range->context == NULL)
			return range == NULL ? CUDA_ERROR_INVALID_VALUE : (*(CUcontext *)data = NULL, CUDA_SUCCESS);
		*(CUcontext *)data = range->context;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(unsigned *)data = (unsigned)memory_type(range);
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(CUdeviceptr *)data = ptr;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_HOST_POINTER:
		if (range == NULL || (range->device >= 0 && range->kind != SIM_RANGE_MANAGED))
			return CUDA_ERROR_INVALID_VALUE;
		*(void **)data = (void *)(uintptr_t)ptr;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
		*(unsigned *)data = 0;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_BUFFER_ID:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(unsigned long long *)data = range->id;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_IS_MANAGED:
		*(unsigned *)data = range != NULL && range->kind == SIM_RANGE_MANAGED;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(int *)data = range->device >= 0 ? range->device : range->context != NULL ? range->context->device : -2;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
		*(unsigned *)data = range != NULL && (range->kind == SIM_RANGE_DEVICE || range->kind == SIM_RANGE_SMALL);
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
	case CU_POINTER_ATTRIBUTE_MAPPING_BASE_ADDR:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(CUdeviceptr *)data = range->base;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
	case CU_POINTER_ATTRIBUTE_MAPPING_SIZE:
		if (range == NULL)
			return CUDA_ERROR_INVALID_VALUE;
		*(size_t *)data = range->bytes;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MAPPED:
		*(unsigned *)data = range != NULL;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_ALLOWED_HANDLE_TYPES:
		*(unsigned long long *)data =
			range != NULL && range->kind == SIM_RANGE_RESERVED ? CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR : 0;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
		*(unsigned *)data = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
		*(CUmemoryPool *)data = range != NULL && range->kind == SIM_RANGE_POOL ? range->owner : NULL;
		return CUDA_SUCCESS;
	case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE:
		*(unsigned *)data = 0;
		return CUDA_SUCCESS;
	default: return CUDA_ERROR_NOT_SUPPORTED;
	}
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	SIM_READY();
	if (data == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	CUresult result = answer(sim_range_find(ptr), ptr, attribute, data);
	sim_leave();
	return result;
}

static size_t width(CUpointer_attribute attribute)
{
	switch ((int)attribute) {
	case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
	case CU_POINTER_ATTRIBUTE_SYNC_MEMOPS:
	case CU_POINTER_ATTRIBUTE_IS_MANAGED:
	case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
	case CU_POINTER_ATTRIBUTE_IS_LEGACY_CUDA_IPC_CAPABLE:
	case CU_POINTER_ATTRIBUTE_MAPPED:
	case CU_POINTER_ATTRIBUTE_ACCESS_FLAGS:
	case CU_POINTER_ATTRIBUTE_IS_GPU_DIRECT_RDMA_CAPABLE: return 4;
	default: return 8;
	}
}

CUresult cuPointerGetAttributes(
	unsigned int numAttributes, CUpointer_attribute *attributes, void **data, CUdeviceptr ptr)
{
	SIM_READY();
	if (numAttributes == 0 || attributes == NULL || data == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	const struct sim_range *range = sim_range_find(ptr);
	for (unsigned i = 0; i < numAttributes; i++) {
		// Unlike the single form, an unknown address is no error here: the answer is then zero.
		if (answer(range, ptr, attributes[i], data[i]) != CUDA_SUCCESS) {
			memset(data[i], 0, width(attributes[i]));
			if (attributes[i] == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL)
				*(int *)data[i] = -2;
		}
	}
	sim_leave();
	return CUDA_SUCCESS;
}

CUresult cuPointerSetAttribute(const void *value, CUpointer_attribute attribute, CUdeviceptr ptr)
{
	SIM_READY();
	if (value == NULL || attribute != CU_POINTER_ATTRIBUTE_SYNC_MEMOPS || !sim_is_device(ptr))
		return CUDA_ERROR_INVALID_VALUE;
	return CUDA_SUCCESS;
}
