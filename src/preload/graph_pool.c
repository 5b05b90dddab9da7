// SPDX-License-Identifier: Apache-2.0
// The pool of graphs' memory: see graph_pool.h. A launch reserves all that its graph can take, calls, reads what the pool really has (20 ns), gives
// back the rest. Where the slice is nearly full, what is there already is not asked for twice. Graphs of one stream share what they
// free; graphs of several streams may run at once; what a graph does not free itself is not there for others. So a launch makes the pool
// grow at most by
//   the graph's own chunks + what other graphs keep + the most that each other stream's graphs had - what the pool has,
// whoever frees what, and when: what is kept too long only makes this larger.
#include "preload/graph_pool.h"

#include <errno.h>
#include <sched.h>

#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/private.h"
#include "preload/stream.h"

enum { STREAMS = 16, PATIENCE = 10000 };

// A device's pool. All zero: nothing charged, and what a forked child finds. What follows the charge is the lock's.
struct pool {
	_Atomic int lock; // for reading the driver's figure and settling the charge as one step
	_Atomic uint64_t charged_bytes;
	uint64_t kept_bytes;      // that graphs launched so far may have left allocated, each counted once in an era
	uint64_t elsewhere_bytes; // the most that graphs had in streams not listed any more
	uint32_t era;             // ends when the driver has less than kept_bytes: it is not known whose is gone
	uint32_t under_way;       // launches
	uint32_t relying;         // those that were not granted all their chunks, since the pool has some
	struct {
		uint64_t stream, most_bytes; // what graphs launched in this stream have had
	} had[STREAMS];
};

static struct softmig_private private_pools;
static _Atomic bool any;

void softmig_graph_pool_used(void)
{
	atomic_store(&any, true);
}

bool softmig_graph_pool_is_used(void)
{
	return atomic_load_explicit(&any, memory_order_relaxed);
}

static struct pool *pool_of(const struct softmig_gpu *gpu)
{
	struct pool *pools = softmig_private_get(&private_pools, SOFTMIG_MAX_GPUS * sizeof(*pools));
	return pools == NULL ? NULL : &pools[gpu->ledger];
}

// unknown: the answer where the driver does not say.
static uint64_t attribute(const struct softmig_gpu *gpu, CUgraphMem_attribute which, uint64_t unknown)
{
	int mode = softmig_stream_relax();
	cuuint64_t value = 0;

	if (!SOFTMIG_HAS(cuDeviceGetGraphMemAttribute) ||
	    DRIVER(cuDeviceGetGraphMemAttribute)(gpu->device, which, &value) != CUDA_SUCCESS)
		value = unknown;
	softmig_stream_restore(mode);
	return value;
}

static uint64_t reserved_bytes(const struct softmig_gpu *gpu, uint64_t unknown)
{
	return attribute(gpu, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, unknown);
}

static void lock(struct pool *pool)
{
	while (atomic_exchange_explicit(&pool->lock, 1, memory_order_acquire) != 0)
		sched_yield();
}

static void unlock(struct pool *pool)
{
	atomic_store_explicit(&pool->lock, 0, memory_order_release);
}

// The pool has now_bytes and no more, all of it in use or kept: nothing in it is there for another launch. Under the lock.
static void trimmed(struct pool *pool, uint64_t now_bytes)
{
	for (int i = 0; i < STREAMS && pool->under_way == 0; i++)
		pool->had[i].most_bytes = 0;
	if (pool->kept_bytes > now_bytes) {
		pool->kept_bytes = now_bytes;
		pool->era++;
	}
	pool->elsewhere_bytes = now_bytes - pool->kept_bytes;
}

// Brings the pool's charge to what the driver has; held_bytes are reserved already for its growth. Under the lock.
static void charge(struct softmig_gpu *gpu, struct pool *pool, uint64_t now, uint64_t held_bytes)
{
	uint64_t before = softmig_charge_follow(gpu, &pool->charged_bytes, now, held_bytes);

	if (now < before)
		softmig_uncharge_measured(gpu, before - now);
}

static void refresh(struct softmig_gpu *gpu, struct pool *pool, uint64_t held_bytes)
{
	lock(pool);
	charge(gpu, pool, reserved_bytes(gpu, atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed)), held_bytes);
	unlock(pool);
}

// Under the lock, which keeps launches from relying on what is being given back.
static CUresult trim(struct softmig_gpu *gpu, struct pool *pool)
{
	CUresult result = DRIVER(cuDeviceGraphMemTrim)(gpu->device);
	uint64_t now = reserved_bytes(gpu, atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed));

	if (result == CUDA_SUCCESS)
		trimmed(pool, now);
	charge(gpu, pool, now, 0);
	return result;
}

bool softmig_graph_memory_idle(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	return pool != NULL && attribute(gpu, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, 0) > attribute(gpu, CU_GRAPH_MEM_ATTR_USED_MEM_CURRENT, 0);
}

// Launches under way that rely on the pool are left alone: what is refused because of it is as much theirs.
void softmig_graph_memory_trim(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL || !SOFTMIG_HAS(cuDeviceGraphMemTrim))
		return;
	lock(pool);
	if (pool->relying == 0 && reserved_bytes(gpu, 0) != 0) {
		int mode = softmig_stream_relax();
		trim(gpu, pool);
		softmig_stream_restore(mode);
	}
	unlock(pool);
}

// What the program asks for is done, but not in the midst of launches that rely on the pool, unless these take very long.
CUresult softmig_graph_pool_trim(struct softmig_gpu *gpu)
{
	struct pool *pool = pool_of(gpu);

	if (pool == NULL)
		return DRIVER(cuDeviceGraphMemTrim)(gpu->device);
	lock(pool);
	for (int i = 0; i < PATIENCE && pool->relying > 0; i++) {
		unlock(pool);
		sched_yield();
		lock(pool);
	}
	CUresult result = trim(gpu, pool);
	unlock(pool);
	return result;
}

bool softmig_graph_memory_changed(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL)
		return false;
	uint64_t before = atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed);
	refresh(gpu, pool, 0);
	return atomic_load_explicit(&pool->charged_bytes, memory_order_relaxed) != before;
}

void softmig_graph_memory_forget(struct softmig_gpu *gpu)
{
	struct pool *pool = atomic_load(&any) ? pool_of(gpu) : NULL;

	if (pool == NULL)
		return;
	lock(pool);
	trimmed(pool, 0);
	charge(gpu, pool, 0, 0);
	unlock(pool);
}

// --- Launches.

// What tells streams apart. The per-thread stream is another one in each thread, as errno is.
uint64_t softmig_graph_stream(CUstream stream, bool per_thread)
{
	bool thread = stream == CU_STREAM_PER_THREAD || (stream == NULL && per_thread);
	return ((thread ? (uint64_t)(uintptr_t)&errno : (uint64_t)(uintptr_t)stream) + 1) * 0x9e3779b97f4a7c15ull;
}

// Lists what a graph needs in its stream, and returns the most that all other streams' graphs had. Under the lock.
static uint64_t note_stream(struct pool *pool, uint64_t stream, uint64_t bytes)
{
	uint64_t others = pool->elsewhere_bytes;
	int own = -1, free_place = -1;

	for (int i = 0; i < STREAMS; i++) {
		if (pool->had[i].most_bytes == 0)
			free_place = i;
		else if (pool->had[i].stream == stream)
			own = i;
		else
			others += pool->had[i].most_bytes;
	}
	if (own < 0) {
		own = free_place >= 0 ? free_place : 0;
		pool->elsewhere_bytes += pool->had[own].most_bytes; // of the one that it takes the place of, which others has already
		pool->had[own].stream = stream;
		pool->had[own].most_bytes = 0;
	}
	if (pool->had[own].most_bytes < bytes)
		pool->had[own].most_bytes = bytes;
	return others;
}

// A launch is under way, and relies on what the pool has. Returns the most that it can make the pool grow by: see above.
static uint64_t rely(const struct softmig_gpu *gpu, struct pool *pool, struct softmig_graph_launch *launch)
{
	lock(pool);
	bool counted = launch->counted == pool->era + 1;
	uint64_t has = reserved_bytes(gpu, 0);
	uint64_t needed = launch->bytes + note_stream(pool, launch->stream, launch->bytes) + pool->kept_bytes - (counted ? launch->kept_bytes : 0);
	if (!counted)
		pool->kept_bytes += launch->kept_bytes;
	launch->counted = pool->era + 1;
	pool->under_way++;
	pool->relying++;
	unlock(pool);
	return needed <= has ? 0 : needed - has < launch->bytes ? needed - has : launch->bytes;
}

static void rely_no_more(struct pool *pool, uint32_t under_way, uint32_t relying)
{
	lock(pool);
	pool->under_way -= under_way;
	pool->relying -= relying;
	unlock(pool);
}

// It is not to be launched as things are, and keeps nothing that it did not keep before (counted: as it was then).
static void withdraw(struct pool *pool, struct softmig_graph_launch *launch, uint32_t counted)
{
	lock(pool);
	pool->under_way--;
	pool->relying--;
	if (launch->counted != counted && launch->counted == pool->era + 1) {
		pool->kept_bytes -= launch->kept_bytes;
		launch->counted = counted;
	}
	unlock(pool);
}

// All that the graph takes, or else what is not there already.
bool softmig_graph_pool_begin(struct softmig_gpu *gpu, struct softmig_graph_launch *launch)
{
	struct pool *pool = pool_of(gpu);
	uint32_t counted = launch->counted;

	if (pool == NULL)
		return false;
	uint64_t least = rely(gpu, pool, launch);
	launch->held_bytes = launch->bytes;
	if (softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, launch->held_bytes)) {
		rely_no_more(pool, 0, 1);
		return true;
	}
	launch->held_bytes = least;
	if (least < launch->bytes && softmig_charge_if_room(gpu, SOFTMIG_LEDGER_TRACKED, launch->held_bytes))
		return true;
	withdraw(pool, launch, counted); // so that the pool can be trimmed
	launch->held_bytes = launch->bytes;
	if (!softmig_charge(gpu, SOFTMIG_LEDGER_TRACKED, launch->held_bytes, "graph memory"))
		return false;
	rely(gpu, pool, launch);
	rely_no_more(pool, 0, 1);
	return true;
}

void softmig_graph_pool_end(struct softmig_gpu *gpu, const struct softmig_graph_launch *launch)
{
	struct pool *pool = pool_of(gpu);

	refresh(gpu, pool, launch->held_bytes);
	rely_no_more(pool, 1, launch->held_bytes < launch->bytes);
}

// A stream is gone, and its handle may be another's. What its graphs had may still be in use.
void softmig_graph_memory_stream_gone(struct softmig_gpu *gpu, CUstream stream)
{
	struct pool *pool = atomic_load_explicit(&any, memory_order_relaxed) ? pool_of(gpu) : NULL;
	uint64_t number = softmig_graph_stream(stream, false);

	if (pool == NULL)
		return;
	lock(pool);
	for (int i = 0; i < STREAMS; i++) {
		if (pool->had[i].stream == number) {
			pool->elsewhere_bytes += pool->had[i].most_bytes;
			pool->had[i].most_bytes = 0;
		}
	}
	unlock(pool);
}
