// SPDX-License-Identifier: Apache-2.0
// Plain allocations: cuMemAlloc, pitch, managed, free. Charged as the driver takes them (docs/driver-facts.md): large ones
// rounded to granules; small ones by the blocks they fall into, told by their address. Owns: that rule.
//
// Whether a small allocation takes a block the driver alone knows, and only afterwards. So it is made under cover (ledger.h): a block's
// bytes, announced, which most such allocations leave as they were, for the next one. A pair of them then costs two
// steps that other threads or processes can see and the notes of their addresses: 3 % of what the driver takes, where it has a block already.
//
// Managed memory takes nothing of the GPU before it is used. So a small managed allocation is made first and its block charged then, if it is
// not charged yet. Contexts may share such a block, as far as is known, so each allocation is counted in it as its own context's; once for
// each GPU.
#include "preload/block.h"
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/sharing.h"
#include "preload/mode.h"
#include "preload/pool_export.h"
#include "preload/pool_import.h"
#include "preload/track.h"

_Static_assert(SOFTMIG_BLOCK_BYTES == SOFTMIG_GRANULE_BYTES, "a block is a granule");

enum { SETTLE_AFTER = 64 }; // small allocations that took nothing, until the clock is looked at

static uint64_t current_context(void)
{
	CUcontext context = NULL;
	DRIVER(cuCtxGetCurrent)(&context);
	return (uint64_t)(uintptr_t)context;
}

// Managed memory, which NVML does not count, lies apart: its blocks are not those of device memory.
enum kind { DEVICE, MANAGED };

static uint64_t charge_of(uint64_t bytes)
{
	return bytes <= SOFTMIG_SMALL_BYTES ? SOFTMIG_GRANULE_BYTES : softmig_granules(bytes);
}

// A block of the GPU has come to an end in the driver. It may still hold small arrays.
static void block_ended(struct softmig_gpu *gpu, bool certain)
{
	if (!certain || atomic_load_explicit(&gpu->shares_blocks, memory_order_relaxed))
		softmig_uncharge_measured(gpu, SOFTMIG_GRANULE_BYTES);
	else
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES);
}

// False: no memory to record it in.
static bool record_pointer(const struct softmig_track_entry *entry)
{
	struct softmig_track_entry old;

	if (entry->key % SOFTMIG_GRANULE_BYTES != 0) // from now on, where a pointer lies no longer tells a small one
		atomic_store_explicit(&softmig_hot.uneven_pointers, true, memory_order_relaxed);
	if (!softmig_track_swap(entry, &old))
		return false;
	if (old.kind != SOFTMIG_TRACK_FREE)
		softmig_uncharge_entry(&old);
	return true;
}

// After the driver granted pointer for charge_of(bytes): records it, and gives back what the driver did not need, because the
// block was there already. False: no memory to record it in.
static bool record(struct softmig_gpu *gpu, enum kind kind, uint64_t pointer, uint64_t bytes)
{
	uint64_t context = current_context();

	if (kind == DEVICE && bytes <= SOFTMIG_SMALL_BYTES) {
		enum softmig_block told = softmig_block_make(pointer, gpu->ledger, context);
		if (told == SOFTMIG_BLOCK_HELD)
			softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES);
		return told != SOFTMIG_BLOCK_NONE;
	}
	struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_POINTER,
	                                    .key = pointer,
	                                    .bytes = softmig_granules(bytes),
	                                    .context = context,
	                                    .unseen = kind == MANAGED,
	                                    .gpu = (uint8_t)gpu->ledger};
	if (!record_pointer(&entry))
		return false;
	if (kind == MANAGED)
		atomic_fetch_add(&gpu->unseen_bytes, entry.bytes);
	return true;
}

static __attribute__((noinline)) struct softmig_ledger_use *new_cover(struct softmig_gpu *gpu)
{
	softmig_settle_if_due(gpu);
	uint64_t limit = softmig_gpu_limit_bytes(gpu);
	if (limit == 0 || softmig_gpu_starved(gpu))
		return NULL;
	struct softmig_ledger_use *use = softmig_ledger_cover(softmig_ledger_now(), gpu->ledger, SOFTMIG_GRANULE_BYTES, limit == UINT64_MAX ? 0 : limit);
	if (use != NULL)
		atomic_store_explicit(&gpu->cover_limit_bytes, limit, memory_order_relaxed);
	return use;
}

// Cover for a small allocation. NULL: another thread has it, or there is no room as things are.
static inline struct softmig_ledger_use *cover(struct softmig_gpu *gpu)
{
	struct softmig_ledger_use *use = softmig_ledger_cover_kept(softmig_ledger_now(), gpu->ledger, SOFTMIG_GRANULE_BYTES);
	return __builtin_expect(use != NULL, 1) ? use : new_cover(gpu);
}

static inline void keep_cover(struct softmig_gpu *gpu, struct softmig_ledger_use *use)
{
	softmig_ledger_cover_keep(use, SOFTMIG_GRANULE_BYTES);
	uint32_t kept = atomic_load_explicit(&softmig_hot.kept_covers, memory_order_relaxed) + 1;
	atomic_store_explicit(&softmig_hot.kept_covers, kept, memory_order_relaxed); // a count that another thread spoils now and then will do
	if (kept % SETTLE_AFTER == 0)
		softmig_settle_if_due(gpu);
}

// After the driver granted pointer, which does not lie in a block known so far: the cover is spent. False: there is no
// memory to record it in, or the limit was lowered since the cover was looked for; then the pointer is freed and the cover gone.
static __attribute__((noinline)) bool spend_cover(struct softmig_gpu *gpu, struct softmig_ledger_use *use, uint64_t pointer)
{
	uint64_t limit = softmig_gpu_limit_bytes(gpu);
	bool fits = limit >= atomic_load_explicit(&gpu->cover_limit_bytes, memory_order_relaxed) ||
	            softmig_gpu_used_bytes(gpu) + SOFTMIG_GRANULE_BYTES <= limit;
	enum softmig_block told = fits ? softmig_block_make(pointer, gpu->ledger, current_context()) : SOFTMIG_BLOCK_NONE;

	if (told == SOFTMIG_BLOCK_HELD) {
		keep_cover(gpu, use);
	} else if (told == SOFTMIG_BLOCK_ENDS) {
		softmig_gpu_enter(gpu);
		softmig_ledger_cover_spend(softmig_ledger_now(), gpu->ledger, use, SOFTMIG_GRANULE_BYTES);
		softmig_gpu_leave(gpu);
	} else {
		DRIVER(cuMemFree_v2)(pointer);
		softmig_ledger_cover_drop(use);
		return false;
	}
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

// The same under cover, where it is small and there is cover to be had, else charged. The first is what must be fast.
#define ALLOCATE_DEVICE(bytes_, pointer, call, charged) \
	do { \
		struct softmig_gpu *gpu; \
		struct softmig_ledger_use *use; \
		if ((bytes_) - 1 >= SOFTMIG_SMALL_BYTES || (pointer) == NULL || (gpu = softmig_gpu_current_or_only()) == NULL || \
		    (use = cover(gpu)) == NULL) \
			return (charged); \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS && softmig_block_join(*(pointer)) != SOFTMIG_BLOCK_HELD) \
			return spend_cover(gpu, use, *(pointer)) ? result : (charged); \
		keep_cover(gpu, use); \
		return result; \
	} while (0)

// What is hot lies together (so do the functions it calls).
#define HOT __attribute__((hot))
#define CHARGED static __attribute__((noinline)) CUresult

CHARGED charged_v2(CUdeviceptr *dptr, uint64_t bytesize)
{
	ALLOCATE(DEVICE, bytesize, "cuMemAlloc", dptr, DRIVER(cuMemAlloc_v2)(dptr, bytesize));
}

HOT CUresult hook_cuMemAlloc_v2(CUdeviceptr *dptr, size_t bytesize)
{
	ALLOCATE_DEVICE((uint64_t)bytesize, dptr, DRIVER(cuMemAlloc_v2)(dptr, bytesize), charged_v2(dptr, bytesize));
}

CHARGED charged_v1(CUdeviceptr_v1 *dptr, unsigned int bytesize)
{
	ALLOCATE(DEVICE, bytesize, "cuMemAlloc", dptr, DRIVER(cuMemAlloc)(dptr, bytesize));
}

CUresult hook_cuMemAlloc(CUdeviceptr_v1 *dptr, unsigned int bytesize)
{
	ALLOCATE_DEVICE((uint64_t)bytesize, dptr, DRIVER(cuMemAlloc)(dptr, bytesize), charged_v1(dptr, bytesize));
}

// After the driver granted pointer, a small managed allocation: charges its block, if it is the first in it on this GPU, and records it.
// False: refused, or no memory to record it in.
static bool charge_managed_block(struct softmig_gpu *gpu, uint64_t pointer)
{
	struct softmig_track_entry there, block = {.kind = SOFTMIG_TRACK_MANAGED_BLOCK,
	                                           .key = pointer / SOFTMIG_GRANULE_BYTES * SOFTMIG_MAX_GPUS + (unsigned)gpu->ledger,
	                                           .bytes = SOFTMIG_GRANULE_BYTES,
	                                           .unseen = true,
	                                           .gpu = (uint8_t)gpu->ledger};
	struct softmig_track_entry entry = {.kind = SOFTMIG_TRACK_POINTER,
	                                    .key = pointer,
	                                    .context = current_context(),
	                                    .more = block.key,
	                                    .gpu = (uint8_t)gpu->ledger};

	if (!softmig_track_adjust(SOFTMIG_TRACK_MANAGED_BLOCK, block.key, 1, 0, &there)) {
		if (!softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES, "cuMemAllocManaged"))
			return false;
		int64_t count = softmig_track_count(&block, 1);
		if (count == 1)
			atomic_fetch_add(&gpu->unseen_bytes, SOFTMIG_GRANULE_BYTES);
		else // another thread was first, or there is no memory to record it in
			softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, SOFTMIG_GRANULE_BYTES);
		if (count < 0)
			return false;
	}
	if (record_pointer(&entry))
		return true;
	softmig_uncharge_entry(&entry);
	return false;
}

static CUresult small_managed(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	CUdeviceptr pointer;

	if (gpu == NULL || dptr == NULL || bytesize == 0)
		return DRIVER(cuMemAllocManaged)(dptr, bytesize, flags);
	softmig_settle_if_due(gpu);
	softmig_gpu_enter(gpu);
	CUresult result = DRIVER(cuMemAllocManaged)(&pointer, bytesize, flags);
	if (result == CUDA_SUCCESS && !charge_managed_block(gpu, pointer)) {
		DRIVER(cuMemFree_v2)(pointer);
		result = CUDA_ERROR_OUT_OF_MEMORY;
	}
	if (result == CUDA_SUCCESS)
		*dptr = pointer;
	softmig_gpu_leave(gpu);
	return result;
}

// Managed memory counts as if it were on the GPU: it may be there at any time (NVML does not show it, so NVML cannot settle it).
CUresult hook_cuMemAllocManaged(CUdeviceptr *dptr, size_t bytesize, unsigned int flags)
{
	if (bytesize <= SOFTMIG_SMALL_BYTES)
		return small_managed(dptr, bytesize, flags);
	ALLOCATE(MANAGED, bytesize, "cuMemAllocManaged", dptr, DRIVER(cuMemAllocManaged)(dptr, bytesize, flags));
}

// The driver pads each row to the texture pitch alignment, 512 bytes on all GPUs so far.
static uint64_t pitched_bytes(uint64_t width, uint64_t height)
{
	uint64_t pitch = (width + 511) & ~511ull, bytes;
	return pitch < width || __builtin_mul_overflow(pitch, height, &bytes) ? UINT64_MAX / 2 : bytes;
}

CHARGED charged_pitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height, unsigned int ElementSizeBytes)
{
	ALLOCATE(DEVICE, pitched_bytes(WidthInBytes, Height), "cuMemAllocPitch", dptr,
	         DRIVER(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

CUresult hook_cuMemAllocPitch_v2(CUdeviceptr *dptr, size_t *pPitch, size_t WidthInBytes, size_t Height,
                                 unsigned int ElementSizeBytes)
{
	ALLOCATE_DEVICE(pitched_bytes(WidthInBytes, Height), dptr,
	                DRIVER(cuMemAllocPitch_v2)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes),
	                charged_pitch_v2(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

CHARGED charged_pitch_v1(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes, unsigned int Height,
                         unsigned int ElementSizeBytes)
{
	ALLOCATE(DEVICE, pitched_bytes(WidthInBytes, Height), "cuMemAllocPitch", dptr,
	         DRIVER(cuMemAllocPitch)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

CUresult hook_cuMemAllocPitch(CUdeviceptr_v1 *dptr, unsigned int *pPitch, unsigned int WidthInBytes, unsigned int Height,
                              unsigned int ElementSizeBytes)
{
	ALLOCATE_DEVICE(pitched_bytes(WidthInBytes, Height), dptr,
	                DRIVER(cuMemAllocPitch)(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes),
	                charged_pitch_v1(dptr, pPitch, WidthInBytes, Height, ElementSizeBytes));
}

// Is it a small allocation? Whoever frees it knows that it is alive, so the answer stays true.
static bool is_in_block(uint64_t pointer)
{
	return (pointer % SOFTMIG_GRANULE_BYTES != 0 && !atomic_load_explicit(&softmig_hot.uneven_pointers, memory_order_relaxed)) ||
	       softmig_block_has(pointer);
}

// The driver freed the last allocation of a block, or what was none of a block's. seen: softmig_lowerings() before it did.
static __attribute__((noinline)) void left_for_good(enum softmig_block told, int index, uint64_t seen)
{
	if (told == SOFTMIG_BLOCK_NONE) {
		softmig_pools_freed(); // a pool's after all
		return;
	}
	struct softmig_gpu *gpu = softmig_gpu_by_index(index & ~SOFTMIG_BLOCK_EXPORTED);
	softmig_gpu_enter(gpu);
	if (index & SOFTMIG_BLOCK_EXPORTED)
		softmig_export_ended(gpu, SOFTMIG_GRANULE_BYTES, 0);
	block_ended(gpu, softmig_lowerings() == seen);
	softmig_gpu_leave(gpu);
}

// Large ones are taken out before the driver frees them, since another thread may be given the same address at once; put back if it
// was not freed.
#define FREE_TRACKED(pointer, call) \
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
			softmig_uncharge_entry(&entry); \
		else \
			softmig_track_add(&entry); \
		softmig_gpu_leave(gpu); \
		softmig_pools_synchronised(); /* it waited for the device */ \
		return result; \
	} while (0)

#define FREE(pointer, call, tracked) \
	do { \
		int index = 0; \
		if (!is_in_block(pointer)) \
			return (tracked); \
		uint64_t seen = softmig_lowerings(); \
		CUresult result = (call); \
		if (result == CUDA_SUCCESS) { \
			enum softmig_block told = softmig_block_leave((pointer), &index); \
			if (told != SOFTMIG_BLOCK_HELD) \
				left_for_good(told, index, seen); \
		} \
		softmig_pools_synchronised(); \
		return result; \
	} while (0)

CHARGED free_tracked_v2(CUdeviceptr dptr)
{
	FREE_TRACKED(dptr, DRIVER(cuMemFree_v2)(dptr));
}

static inline __attribute__((always_inline)) CUresult free_v2(CUdeviceptr dptr)
{
	FREE(dptr, DRIVER(cuMemFree_v2)(dptr), free_tracked_v2(dptr));
}

// While pointers of pools are exported: it may be one of them, and the driver waits for the device, where pools give back.
#define FREE_BESIDE_EXPORTS(pointer, call) \
	do { \
		struct softmig_track_entry imported; \
		softmig_pool_export_frees(pointer); \
		bool was_imported = softmig_pool_import_frees((pointer), &imported); \
		uint64_t begun = softmig_pool_calls_begin(); \
		CUresult result = (call); \
		softmig_pool_calls_end(begun); \
		if (was_imported) \
			softmig_pool_import_freed(&imported, result == CUDA_SUCCESS); \
		return result; \
	} while (0)

CHARGED free_beside_exports_v2(CUdeviceptr dptr)
{
	FREE_BESIDE_EXPORTS(dptr, free_v2(dptr));
}

HOT CUresult hook_cuMemFree_v2(CUdeviceptr dptr)
{
	if (softmig_pool_exports_any())
		return free_beside_exports_v2(dptr);
	return free_v2(dptr);
}

CHARGED free_tracked_v1(CUdeviceptr_v1 dptr)
{
	FREE_TRACKED(dptr, DRIVER(cuMemFree)(dptr));
}

static CUresult free_v1(CUdeviceptr_v1 dptr)
{
	FREE(dptr, DRIVER(cuMemFree)(dptr), free_tracked_v1(dptr));
}

CUresult hook_cuMemFree(CUdeviceptr_v1 dptr)
{
	if (softmig_pool_exports_any())
		FREE_BESIDE_EXPORTS(dptr, free_v1(dptr));
	return free_v1(dptr);
}
