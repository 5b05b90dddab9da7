// SPDX-License-Identifier: Apache-2.0
// The list of pools and their charges: see pool.h.
#include "preload/pool.h"

#include "preload/hook.h"
#include "preload/stream.h"
#include "slice/log.h"

struct softmig_private softmig_private_pools;

struct softmig_pool *softmig_pool_find(struct softmig_pools *pools, CUmemoryPool handle)
{
	uint32_t used = pools == NULL ? 0 : atomic_load_explicit(&pools->used, memory_order_acquire);
	for (uint32_t i = 0; i < used; i++)
		if (atomic_load_explicit(&pools->pool[i].handle, memory_order_acquire) == handle)
			return &pools->pool[i];
	return NULL;
}

struct softmig_pool *softmig_pool_enlist(struct softmig_pools *pools, CUmemoryPool handle, int gpu, bool unseen)
{
	struct softmig_pool *found = softmig_pool_find(pools, handle);

	if (found != NULL || pools == NULL)
		return found;
	softmig_pool_lock(&pools->lock);
	found = softmig_pool_find(pools, handle);
	for (uint32_t i = 0; i < SOFTMIG_MAX_POOLS && found == NULL; i++) {
		if (atomic_load(&pools->pool[i].handle) != NULL)
			continue;
		found = &pools->pool[i];
		atomic_store(&found->gpu, gpu);
		atomic_store(&found->unseen, unseen);
		atomic_store(&found->imported, false);
		atomic_store(&found->export, NULL);
		atomic_store(&found->import, NULL);
		atomic_store(&found->largest_bytes, 0);
		atomic_store_explicit(&found->handle, handle, memory_order_release); // last: whoever finds it finds the rest
		if (atomic_load(&pools->used) < i + 1)
			atomic_store_explicit(&pools->used, i + 1, memory_order_release);
	}
	softmig_pool_unlock(&pools->lock);
	if (found == NULL)
		softmig_log(SOFTMIG_LOG_ERROR, "more than %d memory pools: the last ones are charged by NVML alone", SOFTMIG_MAX_POOLS);
	return found;
}

uint64_t softmig_pool_attribute(CUmemoryPool handle, CUmemPool_attribute which, uint64_t unknown)
{
	int mode = softmig_stream_relax();
	cuuint64_t value = 0;

	if (DRIVER(cuMemPoolGetAttribute)(handle, which, &value) != CUDA_SUCCESS)
		value = unknown;
	softmig_stream_restore(mode);
	return value;
}

bool softmig_pool_may_fit(CUmemoryPool handle, uint64_t bytes, unsigned times)
{
	uint64_t has = softmig_pool_attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, 0);
	uint64_t used = softmig_pool_attribute(handle, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, 0);
	return has > used && (has - used) / times >= bytes;
}

static void trim_all(CUmemoryPool handle)
{
	int mode = softmig_stream_relax();

	DRIVER(cuMemPoolTrimTo)(handle, 0);
	softmig_stream_restore(mode);
}

uint64_t softmig_pool_reserved(struct softmig_pool *pool)
{
	uint64_t charged = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);
	struct softmig_pool_export *export = softmig_pool_export_of(pool);
	return export == NULL ? charged : charged - softmig_pool_export_kept(export);
}

// Of a pool that has exported something, what stays is charged beside what it has reserved, now_bytes: returns both.
static uint64_t with_kept(struct softmig_pool *pool, uint64_t now)
{
	struct softmig_pool_export *export = softmig_pool_export_of(pool);
	uint64_t before = softmig_pool_reserved(pool);

	if (export == NULL)
		return now;
	softmig_pool_export_gave_back(export, now < before ? before - now : 0, now);
	return now + softmig_pool_export_kept(export);
}

void softmig_pool_set_charge(struct softmig_pool *pool, struct softmig_gpu *gpu, uint64_t now, uint64_t held_bytes)
{
	now = with_kept(pool, now);
	uint64_t before = softmig_charge_follow(gpu, &pool->charged_bytes, now, held_bytes);

	if (atomic_load(&pool->unseen)) {
		atomic_fetch_add(&gpu->unseen_bytes, now - before); // never more than is charged: see settle()
		if (now < before)
			softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, before - now);
	} else if (now < before) {
		softmig_uncharge_measured(gpu, before - now);
	}
}

bool softmig_pool_refresh(struct softmig_pool *pool, CUmemoryPool handle, struct softmig_gpu *gpu, uint64_t held_bytes, bool trim)
{
	bool changed = false;

	softmig_pool_lock(&pool->lock);
	if (atomic_load(&pool->handle) == handle) {
		if (trim)
			trim_all(handle);
		// Not to be had: as it was.
		uint64_t before = softmig_pool_reserved(pool), now = softmig_pool_attribute(handle, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, before);
		softmig_pool_set_charge(pool, gpu, now, held_bytes);
		changed = now != before;
	} else {
		softmig_uncharge(gpu, SOFTMIG_LEDGER_TRACKED, held_bytes);
	}
	softmig_pool_unlock(&pool->lock);
	return changed;
}

// The i-th pool, if it is one to charge (to gpu, NULL: any).
static bool is_ours(struct softmig_pool *pool, const struct softmig_gpu *gpu, CUmemoryPool *handle)
{
	*handle = atomic_load_explicit(&pool->handle, memory_order_acquire);
	int32_t index = atomic_load(&pool->gpu);
	return *handle != NULL && *handle != SOFTMIG_POOL_BUSY && index >= 0 && (gpu == NULL || index == gpu->ledger);
}

void softmig_pools_trim(struct softmig_gpu *gpu)
{
	struct softmig_pools *pools = softmig_pools_all();
	CUmemoryPool handle;
	uint64_t begun = softmig_pool_calls_begin();

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++)
		if (is_ours(&pools->pool[i], gpu, &handle))
			softmig_pool_refresh(&pools->pool[i], handle, gpu, 0, true);
	softmig_pool_calls_end(begun);
}

static bool is_idle(struct softmig_pool *pool, CUmemoryPool handle)
{
	softmig_pool_lock(&pool->lock);
	bool idle = atomic_load(&pool->handle) == handle && softmig_pool_may_fit(handle, 1, 1);
	softmig_pool_unlock(&pool->lock);
	return idle;
}

bool softmig_pools_idle(struct softmig_gpu *gpu)
{
	struct softmig_pools *pools = softmig_pools_all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++)
		if (is_ours(&pools->pool[i], gpu, &handle) && is_idle(&pools->pool[i], handle))
			return true;
	return false;
}

bool softmig_pools_changed(struct softmig_gpu *gpu)
{
	struct softmig_pools *pools = softmig_pools_all();
	CUmemoryPool handle;
	bool changed = false;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		if (is_ours(&pools->pool[i], gpu, &handle))
			changed |= softmig_pool_refresh(&pools->pool[i], handle, gpu, 0, false);
	}
	return changed;
}

void softmig_pools_forget(struct softmig_gpu *gpu)
{
	struct softmig_pools *pools = softmig_pools_all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		struct softmig_pool *pool = &pools->pool[i];
		if (!is_ours(pool, gpu, &handle))
			continue;
		softmig_pool_lock(&pool->lock);
		if (atomic_compare_exchange_strong(&pool->handle, &handle, SOFTMIG_POOL_BUSY)) {
			struct softmig_pool_export *export = softmig_pool_export_of(pool);
			if (export != NULL)
				softmig_pool_export_emptied(export); // whether what stays is gone as well is not known
			softmig_pool_set_charge(pool, gpu, 0, 0);
			atomic_store(&pool->charged_bytes, 0);
			atomic_store(&pool->handle, NULL);
		}
		softmig_pool_unlock(&pool->lock);
	}
}

void softmig_pools_refresh(void)
{
	struct softmig_pools *pools = softmig_pools_all();
	CUmemoryPool handle;

	for (uint32_t i = 0; pools != NULL && i < atomic_load(&pools->used); i++) {
		if (!is_ours(&pools->pool[i], NULL, &handle))
			continue;
		struct softmig_gpu *gpu = softmig_gpu_by_index(atomic_load(&pools->pool[i].gpu));
		softmig_gpu_enter(gpu);
		softmig_pool_refresh(&pools->pool[i], handle, gpu, 0, false);
		softmig_gpu_leave(gpu);
	}
}
