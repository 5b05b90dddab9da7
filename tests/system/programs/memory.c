// SPDX-License-Identifier: Apache-2.0
// memory TEST: plain allocations, judged from within the slice and from without. See tests/system/memory.bats.
#include <pthread.h>

#include "slice.h"

static void sizes(void)
{
	use_device(0);
	mark(0);
	static const struct {
		size_t asked, taken;
	} seen[] = {{1, 2 * MIB}, {MIB, 2 * MIB}, {MIB + 1, 2 * MIB}, {2 * MIB, 2 * MIB}, {2 * MIB + 1, 4 * MIB}, {100 * MIB, 100 * MIB}};
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
		CUdeviceptr pointer = allocate_plain(seen[i].asked);
		GREW(seen[i].taken);
		release_plain(pointer);
		GREW(0);
	}
}

static void small_ones_share_blocks(void)
{
	CUdeviceptr pointer[300];
	use_device(0);
	mark(0);
	for (int i = 0; i < 300; i++) {
		pointer[i] = allocate_plain(100 * KIB);
		EXPECT(inside_bytes() - mark_inside, outside_bytes(0) - mark_outside);
	}
	GREW(30 * MIB); // 20 in each block
	for (int i = 0; i < 300; i += 2)
		release_plain(pointer[i]);
	GREW(30 * MIB);
	for (int i = 299; i > 0; i -= 2) {
		release_plain(pointer[i]);
		EXPECT(inside_bytes() - mark_inside, outside_bytes(0) - mark_outside);
	}
	GREW(0);
}

static void pitched(void)
{
	CUdeviceptr pointer;
	size_t pitch;
	use_device(0);
	mark(0);
	OK(CU(cuMemAllocPitch_v2)(&pointer, &pitch, 1000, 10000, 4));
	EXPECT(pitch, 1024);
	GREW(10 * MIB);
	release_plain(pointer);
	// Odd sizes of elements are the driver's to judge.
	for (unsigned size = 0; size <= 20; size++) {
		CUresult result = CU(cuMemAllocPitch_v2)(&pointer, &pitch, 1000, 1000, size);
		if (size == 4 || size == 8 || size == 16)
			OK(result);
		else
			EXPECT(result == CUDA_SUCCESS || result == CUDA_ERROR_INVALID_VALUE, 1);
		if (result == CUDA_SUCCESS)
			release_plain(pointer);
	}
	REFUSED(CU(cuMemAllocPitch_v2)(&pointer, &pitch, limit_bytes(), 2, 4));
	REFUSED(CU(cuMemAllocPitch_v2)(&pointer, &pitch, (size_t)1 << 62, (size_t)1 << 62, 4));
	GREW(0);
}

// Managed memory counts as if it were on the GPU, where it may be at any time.
static void managed(void)
{
	CUdeviceptr pointer, none;
	use_device(0);
	mark(0);
	OK(CU(cuMemAllocManaged)(&pointer, 64 * MIB, CU_MEM_ATTACH_GLOBAL));
	EXPECT(inside_bytes() - mark_inside, 64 * MIB);
	EXPECT(outside_bytes(0) - mark_outside, 0);
	REFUSED(CU(cuMemAllocManaged)(&none, limit_bytes(), CU_MEM_ATTACH_GLOBAL));
	CUdeviceptr plain = allocate_plain(32 * MIB);
	usleep(600000); // past the next measurement of the overhead
	CUdeviceptr other = allocate_plain(32 * MIB);
	EXPECT(inside_bytes() - mark_inside, 128 * MIB);
	release_plain(plain);
	release_plain(other);
	release_plain(pointer);
	GREW(0);
	plain = allocate_plain(32 * MIB);
	usleep(600000);
	other = allocate_plain(32 * MIB);
	GREW(64 * MIB);
	release_plain(plain);
	release_plain(other);
	unsigned is_managed = 7;
	OK(CU(cuMemAllocManaged)(&pointer, MIB, CU_MEM_ATTACH_GLOBAL));
	OK(CU(cuPointerGetAttribute)(&is_managed, CU_POINTER_ATTRIBUTE_IS_MANAGED, pointer));
	EXPECT(is_managed, 1);
}

static void refused_and_recovered(void)
{
	CUdeviceptr pointer, none;
	use_device(0);
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	REFUSED(CU(cuMemAlloc_v2)(&pointer, left + 1));
	REFUSED(CU(cuMemAlloc_v2)(&pointer, (size_t)-1));
	GREW(0);
	pointer = allocate_plain(left); // to the last byte
	GREW(left);
	REFUSED(CU(cuMemAlloc_v2)(&none, 1));
	REFUSED(CU(cuMemAllocManaged)(&none, 1, CU_MEM_ATTACH_GLOBAL));
	release_plain(pointer);
	for (int i = 0; i < 100; i++)
		release_plain(allocate_plain(left));
	GREW(0);
}

// Pointers that were never seen, and calls that the driver fails.
static void failures(void)
{
	CUdeviceptr pointer;
	use_device(0);
	mark(0);
	EXPECT(CU(cuMemFree_v2)(0x7f1234500000), CUDA_ERROR_INVALID_VALUE);
	OK(CU(cuMemFree_v2)(0));
	EXPECT(CU(cuMemAlloc_v2)(&pointer, 0), CUDA_ERROR_INVALID_VALUE);
	EXPECT(CU(cuMemAlloc_v2)(NULL, MIB), CUDA_ERROR_INVALID_VALUE);
	pointer = allocate_plain(8 * MIB);
	EXPECT(CU(cuMemFree_v2)(pointer + MIB), CUDA_ERROR_INVALID_VALUE);
	GREW(8 * MIB);
	release_plain(pointer);
	EXPECT(CU(cuMemFree_v2)(pointer), CUDA_ERROR_INVALID_VALUE);
	GREW(0);
}

static void freed_from_another_gpu(void)
{
	CUcontext first = use_device(0), second;
	mark(0);
	CUdeviceptr pointer = allocate_plain(64 * MIB);
	GREW(64 * MIB);
	second = use_device(1);
	uint64_t there = inside_bytes();
	EXPECT(there, outside_bytes(1));
	release_plain(pointer);
	EXPECT(inside_bytes(), there);
	OK(CU(cuCtxSetCurrent)(first));
	GREW(0);
	(void)second;
}

// Two processes of one slice: one sum.
static void two_processes(void)
{
	int ready[2], go[2];
	char byte = 0;
	OK(pipe(ready) == 0 && pipe(go) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	pid_t child = fork();
	if (child == 0) {
		use_device(0);
		allocate_plain(512 * MIB);
		_exit(write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1 ? 0 : 1);
	}
	OK(read(ready[0], &byte, 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	CUdeviceptr pointer;
	use_device(0);
	uint64_t theirs = outside_bytes_of(child, 0), mine = outside_bytes(0);
	EXPECT(slice_bytes(), theirs + mine + 2 * HEADROOM);
	EXPECT(theirs - mine, 512 * MIB);
	REFUSED(CU(cuMemAlloc_v2)(&pointer, limit_bytes() - theirs - mine - 2 * HEADROOM + 1));
	pointer = allocate_plain(limit_bytes() - theirs - mine - 2 * HEADROOM);
	EXPECT(outside_bytes_of(child, 0) + outside_bytes(0), limit_bytes() - 2 * HEADROOM);
	release_plain(pointer);
	int status;
	OK(write(go[1], &byte, 1) == 1 && waitpid(child, &status, 0) == child && status == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	pointer = allocate_plain(limit_bytes() - mine - HEADROOM); // the dead give back at once
	EXPECT(outside_bytes(0), limit_bytes() - HEADROOM);
}

static CUcontext shared_context;

static void *take_and_give(void *granted)
{
	CUdeviceptr pointer[4];
	OK(CU(cuCtxSetCurrent)(shared_context));
	for (int i = 0; i < 300; i++) {
		int count = 0;
		while (count < 4 && CU(cuMemAlloc_v2)(&pointer[count], (size_t)(i % 7 + 1) * 50 * MIB / 7) == CUDA_SUCCESS)
			count++;
		if (count > 0)
			++*(int *)granted;
		while (count > 0)
			release_plain(pointer[--count]);
	}
	return NULL;
}

static void many_threads(void)
{
	pthread_t thread[4];
	int granted[4] = {0};
	shared_context = use_device(0);
	mark(0);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, take_and_give, &granted[i]);
	for (int i = 0; i < 4; i++) {
		pthread_join(thread[i], NULL);
		EXPECT(granted[i] > 0, 1);
	}
	GREW(0);
}

// Small ones that come and go in blocks which all threads share, beside what makes NVML be asked.
static void *churn_small(void *number)
{
	CUdeviceptr pointer[16] = {0};
	unsigned seed = (unsigned)(uintptr_t)number;
	OK(CU(cuCtxSetCurrent)(shared_context));
	for (int i = 0; i < 6000; i++) {
		CUdeviceptr *one = &pointer[rand_r(&seed) % 16];
		if (*one != 0)
			release_plain(*one);
		*one = rand_r(&seed) % 3 == 0 ? 0 : allocate_plain((unsigned)rand_r(&seed) % (MIB / 2) + 1);
		if (i % 500 == 0) // settles: the whole slice does not fit beside it
			REFUSED(CU(cuMemAlloc_v2)(&(CUdeviceptr){0}, 4 * GIB));
	}
	for (int i = 0; i < 16; i++)
		if (pointer[i] != 0)
			release_plain(pointer[i]);
	return NULL;
}

static void small_ones_of_many_threads(void)
{
	pthread_t thread[4];
	shared_context = use_device(0);
	mark(0);
	CUdeviceptr first = allocate_plain(1), second;
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, churn_small, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	GREW(2 * MIB);
	second = allocate_plain(MIB);
	release_plain(first);
	GREW(2 * MIB);
	release_plain(second);
	GREW(0);
}

// What the process holds ready for its next small allocation is its neighbour's when that needs it.
static void small_ones_leave_room(void)
{
	int ready[2], go[2];
	char byte = 0;
	OK(pipe(ready) == 0 && pipe(go) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	pid_t child = fork();
	if (child == 0) {
		use_device(0);
		CUdeviceptr pointer = allocate_plain(4 * KIB);
		for (int i = 0; i < 100; i++)
			release_plain(allocate_plain(4 * KIB));
		int failed = write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1;
		REFUSED(CU(cuMemAlloc_v2)(&(CUdeviceptr){0}, 2 * MIB));
		release_plain(pointer);
		allocate_plain(2 * MIB);
		_exit(failed || write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1);
	}
	OK(read(ready[0], &byte, 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	use_device(0);
	allocate_plain(4 * KIB);
	for (int i = 0; i < 100; i++)
		release_plain(allocate_plain(4 * KIB));
	uint64_t theirs = outside_bytes_of(child, 0), mine = outside_bytes(0);
	EXPECT(slice_bytes(), theirs + mine + 2 * HEADROOM);
	allocate_plain(limit_bytes() - theirs - mine - 2 * HEADROOM);
	EXPECT(outside_bytes_of(child, 0) + outside_bytes(0), limit_bytes() - 2 * HEADROOM);
	OK(write(go[1], &byte, 1) == 1 && read(ready[0], &byte, 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	EXPECT(outside_bytes_of(child, 0) + outside_bytes(0), limit_bytes() - 2 * HEADROOM);
	int status;
	OK(write(go[1], &byte, 1) == 1 && waitpid(child, &status, 0) == child && status == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

// NVML is asked while the driver has freed a block and not said so yet (fault free:late): what is then taken for shrunk overhead is no
// longer missing when the block is given back.
static void *release_late(void *pointer)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	release_plain(*(CUdeviceptr *)pointer);
	return NULL;
}

static void small_one_freed_while_settling(void)
{
	pthread_t thread;
	shared_context = use_device(0);
	mark(0);
	CUdeviceptr first = allocate_plain(4 * KIB), second = allocate_plain(4 * KIB); // its release is not told by where it lies
	release_plain(first);
	GREW(2 * MIB);
	uint64_t before = outside_bytes(0);
	pthread_create(&thread, NULL, release_late, &second);
	while (outside_bytes(0) == before)
		;
	for (int i = 0; i < 3; i++)
		REFUSED(CU(cuMemAlloc_v2)(&first, limit_bytes())); // settles
	pthread_join(thread, NULL);
	GREW(0);
}

// Managed memory may begin anywhere, also where only small allocations do otherwise.
static void small_ones_beside_managed_ones(void)
{
	CUdeviceptr managed[8], small[8];
	use_device(0);
	mark(0);
	for (int i = 0; i < 8; i++) {
		OK(CU(cuMemAllocManaged)(&managed[i], 64 * KIB, CU_MEM_ATTACH_GLOBAL));
		small[i] = allocate_plain(64 * KIB);
	}
	EXPECT(inside_bytes() - mark_inside, 4 * MIB); // a block of each kind
	for (int i = 0; i < 8; i++)
		release_plain(managed[i]);
	GREW(2 * MIB);
	for (int i = 0; i < 8; i++)
		release_plain(small[i]);
	GREW(0);
}

// A forked child has no driver; what it tries must neither hang nor disturb the parent's figures.
static void after_fork(void)
{
	CUdeviceptr pointer;
	int status;
	use_device(0);
	mark(0);
	pointer = allocate_plain(64 * MIB);
	pid_t child = fork();
	if (child == 0) {
		size_t bytes;
		int failed = CU(cuMemFree_v2)(pointer) != CUDA_SUCCESS && CU(cuMemAlloc_v2)(&pointer, MIB) != CUDA_SUCCESS &&
		             CU(cuMemGetInfo_v2)(&bytes, &bytes) != CUDA_SUCCESS && CU(cuCtxSynchronize)() != CUDA_SUCCESS;
		_exit(failed ? 0 : 1);
	}
	waitpid(child, &status, 0);
	EXPECT(status, 0);
	GREW(64 * MIB);
	release_plain(pointer);
	GREW(0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"sizes", sizes}, {"small_ones_share_blocks", small_ones_share_blocks}, {"pitched", pitched}, {"managed", managed},
		{"refused_and_recovered", refused_and_recovered}, {"failures", failures}, {"freed_from_another_gpu", freed_from_another_gpu},
		{"two_processes", two_processes}, {"many_threads", many_threads}, {"after_fork", after_fork},
		{"small_ones_of_many_threads", small_ones_of_many_threads}, {"small_ones_leave_room", small_ones_leave_room},
		{"small_ones_beside_managed_ones", small_ones_beside_managed_ones},
		{"small_one_freed_while_settling", small_one_freed_while_settling}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
