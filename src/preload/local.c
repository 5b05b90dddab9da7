// SPDX-License-Identifier: Apache-2.0
// What a context will take later: see local.h. Measured: a context of an H200 with an 8 KiB stack grows at the first launch of a kernel
// with 16 KiB of local memory by (16 - 8) KiB x 2048 threads x 132 multiprocessors, to the byte; it shrinks when the stack limit does.
#include "preload/local.h"

#include "preload/hook.h"
#include "preload/private.h"
#include "preload/stream.h"

struct local {
	_Atomic uint64_t per_thread;  // what the context has or will have per thread, 0: not asked yet
	_Atomic uint64_t kernel;      // the largest need of a kernel
	_Atomic uint64_t promised;    // charged, and not yet seen in NVML's figure
	_Atomic uint64_t seen_before; // the overhead that NVML showed when the first of it was promised
};

static struct local locals[SOFTMIG_MAX_GPUS];
static struct softmig_private private_locks; // of stack limits

static uint64_t threads_of(const struct softmig_gpu *gpu)
{
	int multiprocessors = 0, threads = 0;
	DRIVER(cuDeviceGetAttribute)(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, gpu->device);
	DRIVER(cuDeviceGetAttribute)(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, gpu->device);
	return (uint64_t)multiprocessors * (uint64_t)threads;
}

static uint64_t per_thread_of(struct local *local)
{
	uint64_t now = atomic_load(&local->per_thread);
	size_t stack = 1024; // the default

	if (now != 0)
		return now;
	int mode = softmig_stream_relax();
	DRIVER(cuCtxGetLimit)(&stack, CU_LIMIT_STACK_SIZE);
	softmig_stream_restore(mode);
	return atomic_compare_exchange_strong(&local->per_thread, &now, stack) ? stack : now;
}

static void raise(_Atomic uint64_t *value, uint64_t to)
{
	uint64_t now = atomic_load(value);
	while (now < to && !atomic_compare_exchange_weak(value, &now, to))
		;
}

static bool promise(struct softmig_gpu *gpu, uint64_t bytes, const char *what)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t seen = softmig_gpu_overhead_bytes(gpu);

	softmig_gpu_enter(gpu);
	bool granted = softmig_charge(gpu, SOFTMIG_LEDGER_OVERHEAD, bytes, what);
	if (granted && atomic_fetch_add(&local->promised, bytes) == 0)
		atomic_store(&local->seen_before, seen);
	softmig_gpu_leave(gpu);
	return granted;
}

static void withdraw(struct softmig_gpu *gpu, uint64_t bytes)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t promised = atomic_load(&local->promised);

	softmig_gpu_enter(gpu); // first: who settles takes what is not promised any more for free
	while (!atomic_compare_exchange_weak(&local->promised, &promised, promised > bytes ? promised - bytes : 0))
		;
	softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD, promised < bytes ? promised : bytes);
	softmig_gpu_leave(gpu);
}

// Two threads that find the same kernel at once both charge it; the next settling puts that right.
static uint64_t growth(struct softmig_gpu *gpu, uint64_t now, uint64_t bytes_per_thread)
{
	uint64_t bytes;
	if (bytes_per_thread <= now)
		return 0;
	return __builtin_mul_overflow(bytes_per_thread - now, threads_of(gpu), &bytes) ? UINT64_MAX / 2 : softmig_granules(bytes);
}

bool softmig_local_kernel(struct softmig_gpu *gpu, uint64_t bytes_per_thread)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t bytes = growth(gpu, per_thread_of(local), bytes_per_thread);

	if (bytes != 0 && !promise(gpu, bytes, "local memory"))
		return false;
	raise(&local->kernel, bytes_per_thread);
	raise(&local->per_thread, bytes_per_thread);
	return true;
}

void softmig_local_stack_begin(struct softmig_gpu *gpu)
{
	softmig_private_lock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger);
}

void softmig_local_stack_end(struct softmig_gpu *gpu)
{
	softmig_private_unlock(&private_locks, SOFTMIG_MAX_GPUS, gpu->ledger);
}

uint64_t softmig_local_stack_growth(struct softmig_gpu *gpu, uint64_t bytes_per_thread)
{
	return growth(gpu, per_thread_of(&locals[gpu->ledger]), bytes_per_thread);
}

void softmig_local_stack_is(struct softmig_gpu *gpu, uint64_t bytes_per_thread)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t kernel = atomic_load(&local->kernel);

	atomic_store(&local->per_thread, bytes_per_thread > kernel ? bytes_per_thread : kernel);
}

bool softmig_local_buffer_before(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes)
{
	return to_bytes <= from_bytes || promise(gpu, softmig_granules(to_bytes - from_bytes), "printf or malloc buffer");
}

void softmig_local_buffer_after(struct softmig_gpu *gpu, uint64_t from_bytes, uint64_t to_bytes, bool ok)
{
	if (ok && to_bytes < from_bytes)
		withdraw(gpu, softmig_granules(from_bytes - to_bytes));
	else if (!ok && to_bytes > from_bytes)
		withdraw(gpu, softmig_granules(to_bytes - from_bytes));
}

uint64_t softmig_local_outstanding(struct softmig_gpu *gpu, uint64_t overhead_bytes)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t promised = atomic_load(&local->promised);

	if (promised == 0)
		return 0;
	// A jump of nearly that size is the launch that took it.
	if (overhead_bytes >= atomic_load(&local->seen_before) + promised / 10 * 9) {
		atomic_store(&local->promised, 0);
		return 0;
	}
	return promised;
}

void softmig_local_forget(struct softmig_gpu *gpu)
{
	atomic_store(&locals[gpu->ledger].promised, 0);
	atomic_store(&locals[gpu->ledger].per_thread, 0);
	atomic_store(&locals[gpu->ledger].kernel, 0);
}
