// SPDX-License-Identifier: Apache-2.0
// Green contexts: parts of a primary context, which each keeps alive. Owns: what they add to it, which nobody knows before, so what is
// left is reserved, up to the cost of a whole context, and NVML tells afterwards.
#include "preload/context.h"
#include "preload/hook.h"
#include "slice/log.h"

static uint64_t reserve_left(struct softmig_gpu *gpu)
{
	for (uint64_t bytes = softmig_context_cost_bytes(gpu); bytes >= SOFTMIG_GRANULE_BYTES; bytes = bytes / 2 & ~(SOFTMIG_GRANULE_BYTES - 1))
		if (softmig_charge_if_room(gpu, SOFTMIG_LEDGER_OVERHEAD, bytes))
			return bytes;
	return 0;
}

CUresult hook_cuGreenCtxCreate(CUgreenCtx *phCtx, CUdevResourceDesc desc, CUdevice dev, unsigned int flags)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(dev);
	CUcontext primary;

	if (gpu == NULL)
		return DRIVER(cuGreenCtxCreate)(phCtx, desc, dev, flags);
	// The primary context first, by its own hook: it is charged as ever where it was not active yet.
	CUresult result = hook_cuDevicePrimaryCtxRetain(&primary, dev);
	if (result != CUDA_SUCCESS)
		return result;
	softmig_gpu_enter(gpu);
	uint64_t reserved_bytes = reserve_left(gpu);
	result = DRIVER(cuGreenCtxCreate)(phCtx, desc, dev, flags);
	softmig_gpu_leave(gpu);
	softmig_settle_reserved(gpu, reserved_bytes);
	if (result == CUDA_SUCCESS && softmig_gpu_used_bytes(gpu) > softmig_gpu_limit_bytes(gpu)) {
		softmig_log(SOFTMIG_LOG_WARN, "refused: a green context that does not fit on GPU %d", gpu->number);
		DRIVER(cuGreenCtxDestroy)(*phCtx);
		softmig_settle(gpu);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	hook_cuDevicePrimaryCtxRelease_v2(dev);
	return result;
}

// Which GPU it was on is not kept: the last one of a GPU ends a primary context that nobody else holds.
CUresult hook_cuGreenCtxDestroy(CUgreenCtx hCtx)
{
	CUresult result = DRIVER(cuGreenCtxDestroy)(hCtx);

	for (int i = 0; i < SOFTMIG_MAX_GPUS && result == CUDA_SUCCESS; i++) {
		struct softmig_gpu *gpu = softmig_gpu_by_index(i);
		if (atomic_load(&gpu->primary) == NULL)
			continue;
		softmig_gpu_enter(gpu);
		softmig_context_primary_ended(gpu);
		softmig_gpu_leave(gpu);
		softmig_settle(gpu);
	}
	return result;
}
