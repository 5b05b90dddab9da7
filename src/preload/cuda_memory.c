// SPDX-License-Identifier: Apache-2.0
// Plain allocations: cuMemAlloc, pitch, managed, free. Charged as the driver takes them (docs/driver-facts.md): large ones
// rounded to granules; small ones by the blocks they fall into, told by their address. Owns: that rule.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/track.h"

static uint64_t current_context(void)
{
	CUcontext context = NULL;
	DRIVER(cuCtxGetCurrent)(&context);
	return (uint64_t)(uintptr_t)context;
}

// Managed memory has no place in the blocks, and NVML does not count it.
enum kind { DEVICE, MANAGED };

static uint64_t charge_of(uint64_t bytes)
{
	return bytes <= SOFTMIG_SMALL_BYTES ? SOFTMIG_GRANULE_BYTES : softmig_granules(bytes);
}

static struct softmig_track_entry block_of(uint64_t pointer, const struct softmig_gpu *gpu, uint64_t context)
{
	return (struct softmig_track_entry){.kind = SOFTMIG_TRACK_BLOCK,
	                                    .key = pointer / SOFTMIG_GRANULE_BYTES,
	                                    .bytes = SOFTMIG_GRANULE_BYTES,
	                                    .context = context,
	                                    .gpu = (uint8_t)gpu->ledger};
}

// After the driver freed what entry stood for. A block that is empty of allocations may still hold small arrays.
static void forget(const struct softmig_track_entry *entry)
{
	struct softmig_gpu *gpu = softmig_gpu_by_index(entry->gpu);

	if (entry->bytes != 0) {
		softmig_uncharge_entry(entry);
		return;
	}
	struct softmig_track_entry block = block_of(entry->key, gpu, entry->context);
	if (softmig_track_count(&block, -1) != 0)
		return;
	if (atomic_load_explicit(&gpu->shares_blocks, memory_order_relaxed))
		softmig_uncharge_measured(gpu, SOFTMIG_GRANULE_BYTES);
	else
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES);
}

// After the driver granted pointer for charge_of(bytes): records it, and gives back what the driver did not need, because the
// block was there already. False: no memory to record it in.
static bool record(struct softmig_gpu *gpu, enum kind kind, uint64_t pointer, uint64_t bytes)
{
	uint64_t context = current_context();
	bool small = kind == DEVICE && bytes <= SOFTMIG_SMALL_BYTES;
	struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_POINTER,
	                                    .key = pointer,
	                                    .bytes = small ? 0 : softmig_granules(bytes),
	                                    .context = context,
	                                    .unseen = kind == MANAGED,
	                                    .gpu = (uint8_t)gpu->ledger};

	struct softmig_track_entry old;
	if (!softmig_track_swap(&entry, &old))
		return false;
	if (old.kind != SOFTMIG_TRACK_FREE)
		forget(&old);
	if (kind == MANAGED)
		atomic_fetch_add(&gpu->unseen_bytes, entry.bytes);
	if (!small)
		return true;
	struct softmig_track_entry block = block_of(pointer, gpu, context);
	int64_t count = softmig_track_count(&block, 1);
	if (count < 0) {
		softmig_track_remove(SOFTMIG_TRACK_POINTER, pointer, &entry);
		return false;
	}
	if (count > 1)
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES);
	return true;
}

// The three moves, for one allocating call whose result lies at *pointer; bytes is what is asked of the driver.
#define ALLOCATE(kind, bytes_, what, pointer, call) \
	do { \
		struct softmig_gpu *gpu = softmig_gpu_current(); \
		uint64_t asked = (bytes_); \
		if (gpu == NULL || asked == 0 || (pointer) == NULL) \
			return (call); \
		softmig_settle_if_due(gpu); \
		softmig_gpu_enter(gpu); \
		CUresult result = CUDA_ERROR_OUT_OF_MEMORY; \
		if (softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, charge_of(asked), what)) { \
			result = (call); \
			if (result != CUDA_SUCCESS) { \
				softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, charge_of(asked)); \
			} else if (!record(gpu, kind, *(pointer), asked)) { \
				DRIVER(cuMemFree_v2)(*(pointer)); \
				softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, charge_of(asked)); \
				result = CUDA_ERROR_OUT_OF_MEMORY; \
			} \
		} \
		softmig_gpu_leave(gpu); \
		return result; \
	} while (0)

CUresult hook_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
	ALLOCATE(DEVICE, bytesize, "cuMemAlloc", dptr, DRIVER(cuMemAlloc_v2)(dptr, bytesize));
}

CUresult hook_cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize)
{
	ALLOCATE(DEVICE, bytesize, "cuMemAlloc", dptr, DRIVER(cuMemAlloc)(dptr, bytesize));
}

// Managed memory counts as if it were on the GPU: it may be there at any time (NVML does not show it, so NVML cannot settle it).
CUresult hook_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	ALLOCATE(MANAGED, bytesize, "cuMemAllocManaged", dptr, DRIVER(cuMemAllocManaged)(dptr, bytesize, flags));
}

// The driver pads each row to the texture pitch alignment, 512 bytes on all GPUs so far.
static uint64_t pitched_bytes(uint64_t width, uint64_t height)
{
	uint64_t pitch = (width + 511) & ~511ull, bytes;
	return pitch < width || __builtin_mul_overflow(pitch, height, &bytes) ? UINT64_MAX / 2 : bytes;
}

CUresult hook_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                 unsigned int ElementSizeBytes)
{
	ALLOCATE(DEVICE, pitched_bytes(WidthInBytes, Height), "cuMemAllocPitch", dptr,
	         DRIVER(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

CUresult hook_cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes, unsigned int Height,
                              unsigned int ElementSizeBytes)
{
	ALLOCATE(DEVICE, pitched_bytes(WidthInBytes, Height), "cuMemAllocPitch", dptr,
	         DRIVER(cuMemAllocPitch)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

// Taken out before the driver frees it, since another thread may be given the same address at once; put back if it was not freed.
#define FREE(pointer, call) \
	do { \
		struct softmig_track_entry entry; \
		if (!softmig_track_remove(SOFTMIG_TRACK_POINTER, (pointer), &entry)) { \
			softmig_pools_freed(); /* a pool's, or never seen here: the driver knows what to do with it */ \
			CUresult result = (call); \
			softmig_pools_synchronised(); \
			return result; \
		} \
		struct softmig_gpu *gpu = softmig_gpu_by_index(entry.gpu); \
		softmig_gpu_enter(gpu); \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS) \
			forget(&entry); \
		else \
			softmig_track_add(&entry); \
		softmig_gpu_leave(gpu); \
		softmig_pools_synchronised(); /* it waited for the device */ \
		return result; \
	} while (0)

CUresult hook_cuMemFree_v2(CUdeviceptr dptr)
{
	FREE(dptr, DRIVER(cuMemFree_v2)(dptr));
}

CUresult hook_cuMemFree(CUdeviceptr_v1 dptr)
{
	FREE(dptr, DRIVER(cuMemFree)(dptr));
}
