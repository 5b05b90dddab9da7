// SPDX-License-Identifier: Apache-2.0
// The smaller GPU, as CUDA tells it: total and free memory are the slice's. The CUDA runtime's device properties come from here too.
#include "preload/gpu.h"
#include "preload/hook.h"

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

CUresult hook_cuDeviceTotalMem_v2(size_t *bytes, CUdevice dev)
{
	CUresult result = DRIVER(cuDeviceTotalMem_v2)(bytes, dev);
	struct softmig_gpu *gpu = result == CUDA_SUCCESS ? softmig_gpu_of_device(dev) : NULL;

	if (gpu != NULL)
		*bytes = smaller(*bytes, softmig_gpu_limit_bytes(gpu));
	return result;
}

CUresult hook_cuDeviceTotalMem(unsigned int *bytes, CUdevice dev)
{
	CUresult result = DRIVER(cuDeviceTotalMem)(bytes, dev);
	struct softmig_gpu *gpu = result == CUDA_SUCCESS ? softmig_gpu_of_device(dev) : NULL;

	if (gpu != NULL)
		*bytes = (unsigned int)smaller(*bytes, softmig_gpu_limit_bytes(gpu));
	return result;
}

// Free is what the slice has left, but never more than the GPU has; nothing, not a huge number, when more is used than a limit
// that was lowered allows.
static void clip(const struct softmig_gpu *gpu, uint64_t *free_bytes, uint64_t *total_bytes)
{
	softmig_descriptors_look();
	uint64_t limit = softmig_gpu_limit_bytes(gpu);

	if (limit >= *total_bytes)
		limit = *total_bytes;
	uint64_t used = softmig_gpu_used_bytes(gpu);
	*free_bytes = smaller(*free_bytes, limit > used ? limit - used : 0);
	*total_bytes = limit;
}

CUresult hook_cuMemGetInfo_v2(size_t *free, size_t *total)
{
	size_t free_bytes, total_bytes;
	CUresult result = DRIVER(cuMemGetInfo_v2)(&free_bytes, &total_bytes);

	if (result != CUDA_SUCCESS)
		return result;
	struct softmig_gpu *gpu = softmig_gpu_current();
	uint64_t sliced_free = free_bytes, sliced_total = total_bytes;
	if (gpu != NULL)
		clip(gpu, &sliced_free, &sliced_total);
	if (free != NULL)
		*free = sliced_free;
	if (total != NULL)
		*total = sliced_total;
	return result;
}

CUresult hook_cuMemGetInfo(unsigned int *free, unsigned int *total)
{
	unsigned int free_bytes, total_bytes;
	CUresult result = DRIVER(cuMemGetInfo)(&free_bytes, &total_bytes);

	if (result != CUDA_SUCCESS)
		return result;
	struct softmig_gpu *gpu = softmig_gpu_current();
	uint64_t sliced_free = free_bytes, sliced_total = total_bytes;
	if (gpu != NULL)
		clip(gpu, &sliced_free, &sliced_total);
	if (free != NULL)
		*free = (unsigned int)sliced_free;
	if (total != NULL)
		*total = (unsigned int)sliced_total;
	return result;
}
