// SPDX-License-Identifier: Apache-2.0
// managed TEST: managed memory below 2 MiB is charged by the blocks that its addresses reveal. NVML never shows any of it, so the addresses
// are the judge. See tests/system/managed.bats.
#include <pthread.h>

#include "slice.h"

enum { BLOCK = 2 * 1024 * 1024 };

static CUdeviceptr allocate(size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAllocManaged)(&pointer, bytes, CU_MEM_ATTACH_GLOBAL));
	return pointer;
}

static CUdeviceptr plain(size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAlloc_v2)(&pointer, bytes));
	return pointer;
}

static void release(CUdeviceptr pointer)
{
	OK(CU(cuMemFree_v2)(pointer));
}

// Makes the library compare its figures with NVML's: the whole slice never fits beside a context.
static void settle(void)
{
	CUdeviceptr none;
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
}

// Since the mark: bytes of managed memory, which the slice alone counts, and plain_bytes of what NVML shows too.
#define HOLDS(managed_bytes, plain_bytes) \
	do { \
		EXPECT(inside_bytes() - mark_inside, (managed_bytes) + (plain_bytes)); \
		EXPECT(outside_bytes(mark_gpu) - mark_outside, (plain_bytes)); \
	} while (0)

// In a slice of 64 MiB beside the context and its headroom.
static void many_small_ones(void)
{
	static CUdeviceptr pointer[4096];
	use_device(0);
	mark(0);
	EXPECT(limit_bytes() - slice_bytes(), 64 * MIB);
	for (int i = 0; i < 2000; i++)
		pointer[i] = allocate(4 * KIB);
	HOLDS(8 * MIB, 0);
	for (int i = 2000; i < 4096; i++)
		pointer[i] = allocate(4 * KIB);
	HOLDS(16 * MIB, 0);
	settle();
	HOLDS(16 * MIB, 0);
	for (int i = 0; i < 511; i++)
		release(pointer[i]);
	HOLDS(16 * MIB, 0);
	release(pointer[511]); // the last of its block
	HOLDS(14 * MIB, 0);
	for (int i = 512; i < 4096; i++)
		release(pointer[i]);
	HOLDS(0, 0);
	settle();
	HOLDS(0, 0);
}

enum { MIXED = 200 };
struct mixed {
	CUdeviceptr pointer[MIXED];
	size_t bytes[MIXED];
};

// The rule, written down once more: a block for each 2 MiB in which a small one lies, whole blocks for the others.
static uint64_t charge_of(const struct mixed *mixed)
{
	uint64_t bytes = 0;
	for (int i = 0; i < MIXED; i++) {
		bool counted = mixed->pointer[i] == 0;
		for (int k = 0; k < i && !counted; k++)
			counted = mixed->bytes[i] < BLOCK && mixed->bytes[k] < BLOCK && mixed->pointer[k] / BLOCK == mixed->pointer[i] / BLOCK;
		if (!counted)
			bytes += (mixed->bytes[i] + BLOCK - 1) / BLOCK * BLOCK;
	}
	return bytes;
}

static void of_all_sizes(void)
{
	static const size_t sizes[] = {1, 512, 4 * KIB, 5000, 64 * KIB, 300 * KIB, MIB, 2 * MIB - 4 * KIB, 2 * MIB - 1, 2 * MIB, 3 * MIB, 5 * MIB};
	static struct mixed mixed;
	unsigned seed = 7;
	use_device(0);
	mark(0);
	for (int i = 0; i < 3000; i++) {
		int at = rand_r(&seed) % MIXED;
		if (mixed.pointer[at] != 0) {
			release(mixed.pointer[at]);
			mixed.pointer[at] = 0;
		} else {
			mixed.bytes[at] = sizes[(unsigned)rand_r(&seed) % (sizeof(sizes) / sizeof(sizes[0]))];
			mixed.pointer[at] = allocate(mixed.bytes[at]);
		}
		EXPECT(inside_bytes() - mark_inside, charge_of(&mixed));
		if (i % 500 == 0)
			settle();
	}
	EXPECT(charge_of(&mixed) > 20 * MIB, 1);
	HOLDS(charge_of(&mixed), 0);
	for (int i = 0; i < MIXED; i++)
		if (mixed.pointer[i] != 0)
			release(mixed.pointer[i]);
	HOLDS(0, 0);
}

// What NVML shows and what it does not are told apart, whatever comes and goes between two looks.
static void beside_plain_ones(void)
{
	CUdeviceptr managed[600], small[600];
	use_device(0);
	mark(0);
	for (int i = 0; i < 600; i++) {
		managed[i] = allocate(4 * KIB);
		small[i] = plain(4 * KIB);
	}
	HOLDS(4 * MIB, 4 * MIB);
	settle();
	HOLDS(4 * MIB, 4 * MIB);
	for (int i = 0; i < 600; i++)
		release(small[i]);
	HOLDS(4 * MIB, 0);
	settle();
	HOLDS(4 * MIB, 0);
	for (int i = 0; i < 600; i++)
		small[i] = plain(4 * KIB);
	for (int i = 0; i < 600; i++)
		release(managed[i]);
	HOLDS(0, 4 * MIB);
	settle();
	HOLDS(0, 4 * MIB);
	for (int i = 0; i < 600; i++)
		release(small[i]);
	HOLDS(0, 0);
}

// A block that is there takes nothing, so what fits into it is granted though nothing else is; a new one is not.
static void in_a_full_slice(void)
{
	CUdeviceptr pointer[512], none = 7;
	use_device(0);
	mark(0);
	pointer[0] = allocate(4 * KIB);
	uint64_t left = limit_bytes() - slice_bytes();
	CUdeviceptr rest = plain(left);
	HOLDS(2 * MIB, left);
	for (int i = 1; i < 512; i++)
		pointer[i] = allocate(4 * KIB);
	for (int i = 0; i < 3; i++) {
		REFUSED(CU(cuMemAllocManaged)(&none, 4 * KIB, CU_MEM_ATTACH_GLOBAL));
		EXPECT(none, 7); // untouched
		REFUSED(CU(cuMemAllocManaged)(&none, 4 * MIB, CU_MEM_ATTACH_GLOBAL));
		HOLDS(2 * MIB, left);
	}
	release(pointer[100]);
	pointer[100] = allocate(4 * KIB);
	release(rest);
	for (int i = 0; i < 512; i++)
		release(pointer[i]);
	HOLDS(0, 0);
	EXPECT(limit_bytes() - slice_bytes(), left + 2 * MIB);
}

// Two contexts of one GPU; where the driver gives both the same blocks, one charge stands while either has something in it.
static void of_two_contexts(void)
{
	CUcontext first = use_device(0), second;
	CUdeviceptr pointer[2][10];
	OK(CU(cuCtxCreate_v2)(&second, 0, 0));
	mark(0);
	for (int i = 0; i < 10; i++) {
		OK(CU(cuCtxSetCurrent)(first));
		pointer[0][i] = allocate(4 * KIB);
		OK(CU(cuCtxSetCurrent)(second));
		pointer[1][i] = allocate(4 * KIB);
	}
	bool together = pointer[0][0] / BLOCK == pointer[1][0] / BLOCK;
	EXPECT(together, getenv("TOGETHER") != NULL);
	HOLDS(together ? 2 * MIB : 4 * MIB, 0);
	OK(CU(cuCtxDestroy_v2)(second));
	OK(CU(cuCtxSetCurrent)(first));
	mark_inside -= mark_outside - outside_bytes(0); // the second context's own
	mark_outside = outside_bytes(0);
	HOLDS(2 * MIB, 0);
	for (int i = 0; i < 10; i++)
		release(pointer[0][i]);
	HOLDS(0, 0);
	OK(CU(cuCtxCreate_v2)(&second, 0, 0)); // the other way round: who made the block goes first
	OK(CU(cuCtxSetCurrent)(second));
	pointer[1][0] = allocate(4 * KIB);
	OK(CU(cuCtxSetCurrent)(first));
	pointer[0][0] = allocate(4 * KIB);
	OK(CU(cuCtxDestroy_v2)(second));
	HOLDS(2 * MIB, 0);
	settle();
	HOLDS(2 * MIB, 0);
	release(pointer[0][0]);
	HOLDS(0, 0);
}

// Each GPU is charged for the blocks in which it was current; whoever frees, and whichever goes first.
static void of_two_gpus(void)
{
	CUcontext context[2] = {use_device(0), use_device(1)};
	CUdeviceptr pointer[2][10];
	uint64_t bare[2];
	for (int gpu = 0; gpu < 2; gpu++) {
		OK(CU(cuCtxSetCurrent)(context[gpu]));
		bare[gpu] = inside_bytes();
	}
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 10; i++)
			for (int gpu = 0; gpu < 2; gpu++) {
				OK(CU(cuCtxSetCurrent)(context[gpu]));
				pointer[gpu][i] = allocate(4 * KIB);
				EXPECT(inside_bytes() - bare[gpu], 2 * MIB);
			}
		EXPECT(pointer[0][0] / BLOCK == pointer[1][0] / BLOCK, getenv("TOGETHER") != NULL);
		for (int i = 0; i < 10 && round == 0; i++) {
			release(pointer[0][i]); // GPU 1 is current
			EXPECT(inside_bytes() - bare[1], 2 * MIB);
		}
		if (round == 1)
			OK(CU(cuDevicePrimaryCtxReset_v2)(0));
		context[0] = use_device(0);
		EXPECT(inside_bytes(), bare[0]);
		for (int i = 0; i < 10; i++)
			release(pointer[1][i]);
		EXPECT(inside_bytes(), bare[0]);
		OK(CU(cuCtxSetCurrent)(context[1]));
		EXPECT(inside_bytes(), bare[1]);
	}
}

static void with_a_reset_context(void)
{
	use_device(0);
	mark(0);
	for (int i = 0; i < 3; i++) {
		CUdeviceptr pointer = 0;
		for (int k = 0; k < 1000; k++)
			pointer = allocate(4 * KIB);
		allocate(5 * MIB);
		HOLDS(10 * MIB, 0);
		OK(CU(cuDevicePrimaryCtxReset_v2)(0));
		use_device(0);
		HOLDS(0, 0);
		EXPECT(CU(cuMemFree_v2)(pointer), CUDA_ERROR_INVALID_VALUE);
		HOLDS(0, 0);
	}
}

// Calls that the driver fails (fault alloc:3), and pointers that are none.
static void failures(void)
{
	CUdeviceptr pointer[90];
	int granted = 0;
	use_device(0);
	mark(0);
	for (int i = 0; i < 90; i++)
		granted += CU(cuMemAllocManaged)(&pointer[granted], 64 * KIB, CU_MEM_ATTACH_GLOBAL) == CUDA_SUCCESS;
	EXPECT(granted, 60);
	HOLDS(4 * MIB, 0);
	EXPECT(CU(cuMemAllocManaged)(&pointer[60], 0, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_INVALID_VALUE);
	EXPECT(CU(cuMemAllocManaged)(NULL, 1, CU_MEM_ATTACH_GLOBAL), CUDA_ERROR_INVALID_VALUE);
	EXPECT(CU(cuMemFree_v2)(pointer[0] + 4 * KIB), CUDA_ERROR_INVALID_VALUE);
	HOLDS(4 * MIB, 0);
	for (int i = 0; i < granted; i++)
		release(pointer[i]);
	EXPECT(CU(cuMemFree_v2)(pointer[0]), CUDA_ERROR_INVALID_VALUE);
	HOLDS(0, 0);
}

static CUcontext shared_context;

// In blocks that all threads share, in a slice with room for what they may hold at most, so none may be refused; beside what makes NVML be asked.
static void *churn(void *number)
{
	CUdeviceptr managed[16] = {0};
	unsigned seed = (unsigned)(uintptr_t)number;
	OK(CU(cuCtxSetCurrent)(shared_context));
	for (int i = 0; i < 3000; i++) {
		CUdeviceptr *one = &managed[rand_r(&seed) % 16];
		if (*one != 0)
			release(*one);
		*one = rand_r(&seed) % 3 == 0 ? 0 : allocate((unsigned)rand_r(&seed) % (MIB / 2) + 1);
		if (i % 4 == 0)
			release(plain(64 * KIB));
		if (i % 300 == 0)
			settle();
	}
	for (int i = 0; i < 16; i++)
		if (managed[i] != 0)
			release(managed[i]);
	return NULL;
}

static void of_many_threads(void)
{
	pthread_t thread[4];
	shared_context = use_device(0);
	mark(0);
	CUdeviceptr first = allocate(1);
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, churn, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	HOLDS(2 * MIB, 0);
	release(first);
	HOLDS(0, 0);
}

// Two that are answered at one moment (fault managed:meet) find no block, and both charge for it: one charge stays.
enum { ROUNDS = 1000 };
static pthread_barrier_t barrier;
static CUdeviceptr of_thread[2];

static void *begin_blocks(void *pointer)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	for (int i = 0; i < ROUNDS; i++) {
		*(CUdeviceptr *)pointer = allocate(4 * KIB);
		pthread_barrier_wait(&barrier);
		pthread_barrier_wait(&barrier);
	}
	return NULL;
}

static void begun_by_two_threads(void)
{
	pthread_t thread[2];
	shared_context = use_device(0);
	mark(0);
	pthread_barrier_init(&barrier, NULL, 3);
	for (int i = 0; i < 2; i++)
		pthread_create(&thread[i], NULL, begin_blocks, &of_thread[i]);
	for (int i = 0; i < ROUNDS; i++) {
		pthread_barrier_wait(&barrier);
		EXPECT(inside_bytes() - mark_inside, 2 * MIB);
		release(of_thread[0]);
		release(of_thread[1]);
		EXPECT(inside_bytes(), mark_inside);
		pthread_barrier_wait(&barrier);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
	HOLDS(0, 0);
}

static void after_fork(void)
{
	CUdeviceptr pointer[2];
	int status;
	use_device(0);
	mark(0);
	pointer[0] = allocate(4 * KIB);
	pointer[1] = allocate(4 * KIB);
	pid_t child = fork();
	if (child == 0) {
		CUdeviceptr none;
		int failed = CU(cuMemFree_v2)(pointer[0]) != CUDA_SUCCESS && CU(cuMemAllocManaged)(&none, 4 * KIB, CU_MEM_ATTACH_GLOBAL) != CUDA_SUCCESS;
		_exit(failed ? 0 : 1);
	}
	waitpid(child, &status, 0);
	EXPECT(status, 0);
	HOLDS(2 * MIB, 0);
	release(pointer[0]);
	HOLDS(2 * MIB, 0);
	release(pointer[1]);
	HOLDS(0, 0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"many_small_ones", many_small_ones}, {"of_all_sizes", of_all_sizes}, {"beside_plain_ones", beside_plain_ones},
		{"in_a_full_slice", in_a_full_slice}, {"of_two_contexts", of_two_contexts}, {"of_two_gpus", of_two_gpus},
		{"with_a_reset_context", with_a_reset_context}, {"failures", failures}, {"of_many_threads", of_many_threads},
		{"begun_by_two_threads", begun_by_two_threads},
		{"after_fork", after_fork}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
