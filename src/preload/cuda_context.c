// SPDX-License-Identifier: Apache-2.0
// Contexts and what they cost. A context takes hundreds of MiB before the first allocation. Its cost is reserved before it is
// made (learned from the first one on this GPU, shared through the ledger) and settled by NVML afterwards; with it go all
// allocations that hang on it. Owns: contexts' charges.
#include <errno.h>
#include <time.h>

#include "preload/block.h"
#include "preload/context.h"
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/local.h"
#include "preload/meter.h"
#include "preload/mode.h"
#include "preload/private.h"
#include "preload/sharing.h"
#include "preload/track.h"
#include "slice/log.h"

// While nobody knows a context's cost, one process reserves all that is left, up to this, and the others wait for its figure.
#define UNKNOWN_COST_BYTES (1ull << 30)
// A context that NVML cannot attribute and whose cost cannot be measured: what a large GPU's takes (docs/driver-facts.md).
#define BLIND_COST_BYTES (518ull << 20)

struct creation {
	struct softmig_gpu *gpu; // NULL: nothing to account
	uint64_t reserved_bytes;
};

static _Atomic uint64_t *learned_cost(const struct softmig_gpu *gpu)
{
	return &softmig_ledger_now()->file->gpu[gpu->ledger].context_bytes;
}

// The cost to reserve; 0 < cost. The figure in the ledger is another process's word: a nonsensical one counts as unknown.
uint64_t softmig_context_cost_bytes(const struct softmig_gpu *gpu)
{
	uint64_t bytes = atomic_load_explicit(learned_cost(gpu), memory_order_acquire);
	return bytes <= 16 * UNKNOWN_COST_BYTES ? softmig_granules(bytes) : 0;
}

// A process's first context brings its headroom. 0: nobody knows.
static uint64_t cost_to_reserve(const struct softmig_gpu *gpu)
{
	uint64_t bytes = softmig_context_cost_bytes(gpu);
	return bytes == 0 || atomic_load(&gpu->contexts) != 0 ? bytes : bytes + SOFTMIG_HEADROOM_BYTES;
}

static CUresult reserve_known(struct creation *creation, uint64_t cost_bytes)
{
	if (!softmig_charge(creation->gpu, SOFTMIG_LEDGER_OVERHEAD, cost_bytes, "context"))
		return CUDA_ERROR_OUT_OF_MEMORY;
	creation->reserved_bytes = cost_bytes;
	return CUDA_SUCCESS;
}

static CUresult reserve(struct creation *creation)
{
	struct timespec pause = {.tv_nsec = 5000000};

	for (int i = 0; i < 2000; i++) {
		uint64_t cost = cost_to_reserve(creation->gpu);
		if (cost != 0)
			return reserve_known(creation, cost);
		uint64_t limit = softmig_gpu_limit_bytes(creation->gpu), used = softmig_gpu_used_bytes(creation->gpu);
		uint64_t bytes = limit > used && limit - used < UNKNOWN_COST_BYTES ? limit - used : UNKNOWN_COST_BYTES;
		if (softmig_ledger_reserve(softmig_ledger_now(), creation->gpu->ledger, SOFTMIG_LEDGER_OVERHEAD, bytes,
		                           limit == UINT64_MAX ? 0 : limit)) {
			creation->reserved_bytes = bytes;
			return CUDA_SUCCESS;
		}
		int kept = errno;
		nanosleep(&pause, NULL);
		errno = kept;
	}
	return CUDA_ERROR_OUT_OF_MEMORY;
}

static CUresult begin(struct creation *creation, CUdevice device)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(device);

	*creation = (struct creation){.gpu = gpu};
	if (gpu == NULL)
		return CUDA_SUCCESS;
	if (softmig_gpu_forbidden(gpu)) {
		softmig_log(SOFTMIG_LOG_ERROR, "CUDA device %d is not part of this slice", device);
		return CUDA_ERROR_DEVICE_UNAVAILABLE;
	}
	softmig_gpu_enter(gpu);
	CUresult result = reserve(creation);
	if (result != CUDA_SUCCESS)
		softmig_gpu_leave(gpu);
	return result;
}

static void learn_cost(struct softmig_gpu *gpu, uint64_t bytes)
{
	uint64_t unknown = 0;
	atomic_compare_exchange_strong(learned_cost(gpu), &unknown, softmig_granules(bytes));
}

// After the driver's answer. False: the slice does not hold the context after all; the caller undoes it.
static bool end(struct creation *creation, CUresult result, CUcontext context)
{
	struct softmig_gpu *gpu = creation->gpu;
	uint64_t bytes;

	if (gpu == NULL)
		return true;
	if (result != CUDA_SUCCESS) {
		softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD, creation->reserved_bytes);
		softmig_gpu_leave(gpu);
		return true;
	}
	bool first = atomic_fetch_add(&gpu->contexts, 1) == 0;
	if (context != NULL) {
		struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_CONTEXT,
		                                    .key = (uint64_t)(uintptr_t)context,
		                                    .gpu = (uint8_t)gpu->ledger};
		softmig_track_add(&entry);
	}
	softmig_gpu_leave(gpu);
	bytes = softmig_settle(gpu);
	if (bytes != 0 && first)
		learn_cost(gpu, bytes);
	if (bytes == 0) {
		// NVML does not show this process: what was reserved stands for the context, made plausible if nobody knew better.
		if (softmig_context_cost_bytes(gpu) == 0) {
			learn_cost(gpu, BLIND_COST_BYTES);
			if (creation->reserved_bytes > BLIND_COST_BYTES + SOFTMIG_HEADROOM_BYTES)
				softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD,
				                 creation->reserved_bytes - BLIND_COST_BYTES - SOFTMIG_HEADROOM_BYTES);
		}
		return true;
	}
	return softmig_gpu_used_bytes(gpu) <= softmig_gpu_limit_bytes(gpu);
}

// A context is gone, and all that hung on it. Green contexts have
// handles of their own, and go with the primary context: with the last context nothing is left.
static void gone(struct softmig_gpu *gpu, CUcontext context)
{
	struct softmig_track_entry entry;
	uint32_t count = atomic_load(&gpu->contexts);
	uint64_t cursor = 0;

	softmig_meter_context_gone(context);
	while (count > 0 && !atomic_compare_exchange_weak(&gpu->contexts, &count, count - 1))
		;
	while (softmig_track_remove_any(gpu->ledger, count <= 1 ? 0 : (uint64_t)(uintptr_t)context, &cursor, &entry))
		softmig_uncharge_entry(&entry);
	unsigned exported;
	uint64_t blocks = softmig_block_forget(gpu->ledger, count <= 1 ? 0 : (uint64_t)(uintptr_t)context, &exported);
	softmig_export_ended(gpu, exported * SOFTMIG_GRANULE_BYTES, 0);
	softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, blocks * SOFTMIG_GRANULE_BYTES);
	softmig_local_forget(gpu);
	if (atomic_load(&gpu->nvml_blind))
		softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD,
		                 softmig_context_cost_bytes(gpu) + (count <= 1 ? SOFTMIG_HEADROOM_BYTES : 0));
}

#define CREATE(device, pctx, call) \
	do { \
		struct creation creation; \
		CUresult result = begin(&creation, (device)); \
		if (result != CUDA_SUCCESS) \
			return result; \
		result = (call); \
		if (!end(&creation, result, result == CUDA_SUCCESS ? *(pctx) : NULL)) { \
			hook_cuCtxDestroy_v2(*(pctx)); \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		} \
		return result; \
	} while (0)

CUresult hook_cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	CREATE(dev, pctx, DRIVER(cuCtxCreate)(pctx, flags, dev));
}

CUresult hook_cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	CREATE(dev, pctx, DRIVER(cuCtxCreate_v2)(pctx, flags, dev));
}

CUresult hook_cuCtxCreate_v3(CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags, CUdevice dev)
{
	CREATE(dev, pctx, DRIVER(cuCtxCreate_v3)(pctx, paramsArray, numParams, flags, dev));
}

CUresult hook_cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev)
{
	CREATE(dev, pctx, DRIVER(cuCtxCreate_v4)(pctx, ctxCreateParams, flags, dev));
}

CUresult hook_cuGLCtxCreate(CUcontext *pCtx, unsigned int Flags, CUdevice device)
{
	CREATE(device, pCtx, DRIVER(cuGLCtxCreate)(pCtx, Flags, device));
}

CUresult hook_cuGLCtxCreate_v2(CUcontext *pCtx, unsigned int Flags, CUdevice device)
{
	CREATE(device, pCtx, DRIVER(cuGLCtxCreate_v2)(pCtx, Flags, device));
}

CUresult hook_cuVDPAUCtxCreate(CUcontext *pCtx, unsigned int flags, CUdevice device, uint32_t vdpDevice,
                                  void *vdpGetProcAddress)
{
	CREATE(device, pCtx, DRIVER(cuVDPAUCtxCreate)(pCtx, flags, device, vdpDevice, vdpGetProcAddress));
}

CUresult hook_cuVDPAUCtxCreate_v2(CUcontext *pCtx, unsigned int flags, CUdevice device, uint32_t vdpDevice,
                                  void *vdpGetProcAddress)
{
	CREATE(device, pCtx, DRIVER(cuVDPAUCtxCreate_v2)(pCtx, flags, device, vdpDevice, vdpGetProcAddress));
}

#define DESTROY(ctx, call) \
	do { \
		struct softmig_track_entry entry; \
		if (!softmig_track_find(SOFTMIG_TRACK_CONTEXT, (uint64_t)(uintptr_t)(ctx), &entry)) \
			return (call); \
		struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu); \
		softmig_gpu_enter(gpu); \
		CUresult result = (call); \
		bool last = result == CUDA_SUCCESS; \
		if (last) { \
			softmig_track_remove(SOFTMIG_TRACK_CONTEXT, entry.key, &entry); \
			gone(gpu, (ctx)); \
		} \
		softmig_gpu_leave(gpu); \
		if (last) \
			softmig_settle(gpu); \
		return result; \
	} while (0)

CUresult hook_cuCtxDestroy(CUcontext ctx)
{
	DESTROY(ctx, DRIVER(cuCtxDestroy)(ctx));
}

CUresult hook_cuCtxDestroy_v2(CUcontext ctx)
{
	DESTROY(ctx, DRIVER(cuCtxDestroy_v2)(ctx));
}

// cuCtxDetach drops a reference; in practice the only one, since cuCtxAttach has been deprecated since CUDA 4.
CUresult hook_cuCtxDetach(CUcontext ctx)
{
	DESTROY(ctx, DRIVER(cuCtxDetach)(ctx));
}

static bool primary_active(CUdevice device)
{
	unsigned int flags;
	int active = 0;
	return SOFTMIG_HAS(cuDevicePrimaryCtxGetState) &&
	       DRIVER(cuDevicePrimaryCtxGetState)(device, &flags, &active) == CUDA_SUCCESS && active;
}

bool softmig_context_primary_ended(struct softmig_gpu *gpu)
{
	CUcontext primary = NULL;

	if (!primary_active(gpu->device))
		primary = atomic_exchange(&gpu->primary, NULL);
	if (primary == NULL)
		return false;
	gone(gpu, primary);
	softmig_pools_forget(gpu);
	softmig_graph_memory_forget(gpu);
	return true;
}

// Retaining, releasing and resetting: one thread after another, or one that finds the context there takes up, uncharged, what another one lets go,
// and several that find none ask for several.
static struct softmig_private private_locks;

// Released or reset: when it is no longer active, it and all that hung on it are gone. A reset leaves it inactive until used again.
static CUresult end_primary(struct softmig_gpu *gpu, CUdevice device, CUresult (*call)(CUdevice))
{
	softmig_gpu_enter(gpu);
	CUresult result = call(device);
	bool ended = result == CUDA_SUCCESS && softmig_context_primary_ended(gpu);
	softmig_gpu_leave(gpu);
	if (ended)
		softmig_settle(gpu);
	return result;
}

static CUresult retain_primary(struct softmig_gpu *gpu, CUdevice device, CUcontext *context)
{
	struct creation creation;

	// Only the retain that activates it costs anything.
	if (atomic_load(&gpu->primary) != NULL && primary_active(device))
		return DRIVER(cuDevicePrimaryCtxRetain)(context, device);
	softmig_gpu_enter(gpu);
	softmig_context_primary_ended(gpu); // with its last green context, just now
	softmig_gpu_leave(gpu);
	CUresult result = begin(&creation, device);
	if (result != CUDA_SUCCESS)
		return result;
	result = DRIVER(cuDevicePrimaryCtxRetain)(context, device);
	if (result == CUDA_SUCCESS)
		atomic_store(&gpu->primary, *context);
	if (end(&creation, result, NULL))
		return result;
	end_primary(gpu, device, SOFTMIG_HAS(cuDevicePrimaryCtxRelease_v2) ? DRIVER(cuDevicePrimaryCtxRelease_v2) :
	                                                                    DRIVER(cuDevicePrimaryCtxRelease));
	return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult hook_cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	struct softmig_gpu *gpu = softmig_gpu_of_device(dev);

	if (gpu == NULL)
		return DRIVER(cuDevicePrimaryCtxRetain)(pctx, dev);
	softmig_private_lock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger);
	CUresult result = retain_primary(gpu, dev, pctx);
	softmig_private_unlock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger);
	return result;
}

#define END_PRIMARY(device, call) \
	do { \
		struct softmig_gpu *gpu = softmig_gpu_of_device(device); \
		if (gpu == NULL) \
			return (call)(device); \
		softmig_private_lock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger); \
		CUresult result = end_primary(gpu, (device), (call)); \
		softmig_private_unlock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger); \
		return result; \
	} while (0)

CUresult hook_cuDevicePrimaryCtxRelease(CUdevice dev)
{
	END_PRIMARY(dev, DRIVER(cuDevicePrimaryCtxRelease));
}

CUresult hook_cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
	END_PRIMARY(dev, DRIVER(cuDevicePrimaryCtxRelease_v2));
}

CUresult hook_cuDevicePrimaryCtxReset(CUdevice dev)
{
	END_PRIMARY(dev, DRIVER(cuDevicePrimaryCtxReset));
}

CUresult hook_cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
	END_PRIMARY(dev, DRIVER(cuDevicePrimaryCtxReset_v2));
}
