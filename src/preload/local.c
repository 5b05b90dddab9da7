// SPDX-License-Identifier: Apache-2.0
// Local memory: see local.h. Measured: a context of an H200 with an 8 KiB stack grows at the first launch of a kernel with 16 KiB of
// local memory by (16 - 8) KiB x 2048 threads x 132 multiprocessors, to the byte.
#include "preload/local.h"

#include "preload/hook.h"
#include "preload/mode.h"

struct local {
	_Atomic uint64_t per_thread;  // the largest promised or taken, 0: not asked yet
	_Atomic uint64_t promised;    // not yet seen in NVML's figure
	_Atomic uint64_t seen_before; // the overhead that NVML showed when it was promised
};

static struct local locals[SOFTMIG_MAX_GPUS];

static uint64_t threads_of(const struct softmig_gpu *gpu)
{
	int multiprocessors = 0, threads = 0;
	DRIVER(cuDeviceGetAttribute)(&multiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, gpu->device);
	DRIVER(cuDeviceGetAttribute)(&threads, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, gpu->device);
	return (uint64_t)multiprocessors * (uint64_t)threads;
}

bool softmig_local_promise(struct softmig_gpu *gpu, uint64_t bytes_per_thread)
{
	struct local *local = &locals[gpu->ledger];
	uint64_t now = atomic_load(&local->per_thread);

	if (now == 0) {
		size_t stack = 1024; // the default
		DRIVER(cuCtxGetLimit)(&stack, CU_LIMIT_STACK_SIZE);
		atomic_compare_exchange_strong(&local->per_thread, &now, stack);
		now = atomic_load(&local->per_thread);
	}
	if (bytes_per_thread <= now)
		return true;
	uint64_t growth;
	if (__builtin_mul_overflow(bytes_per_thread - now, threads_of(gpu), &growth))
		return false;
	growth = softmig_granules(growth);
	softmig_gpu_enter(gpu);
	bool granted = softmig_charge(gpu, SOFTMIG_LEDGER_OVERHEAD, growth, "local memory");
	if (granted) {
		if (atomic_compare_exchange_strong(&local->per_thread, &now, bytes_per_thread)) {
			if (atomic_load(&local->promised) == 0)
				atomic_store(&local->seen_before, softmig_gpu_overhead_bytes(gpu) - growth);
			atomic_fetch_add(&local->promised, growth);
		} else {
			softmig_uncharge(gpu, SOFTMIG_LEDGER_OVERHEAD, growth); // another thread's promise came first: look again
		}
	}
	softmig_gpu_leave(gpu);
	return granted && atomic_load(&local->per_thread) < bytes_per_thread ? softmig_local_promise(gpu, bytes_per_thread) : granted;
}

void softmig_local_kept(struct softmig_gpu *gpu)
{
	atomic_store(&locals[gpu->ledger].promised, 0);
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
}
