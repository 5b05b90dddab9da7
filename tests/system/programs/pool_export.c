// SPDX-License-Identifier: Apache-2.0
// pool_export TEST: memory of pools that was exported by its pointer, which the driver keeps when it is free and shows to nobody. See
// tests/system/pool_export.bats.
#include <pthread.h>
#include <stdbool.h>

#include "slice.h"

static const size_t SIZE = 64 * MIB;

static CUmemoryPool new_pool(int *fd)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                        .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemoryPool pool;
	OK(CU(cuMemPoolCreate)(&pool, &props));
	OK(CU(cuMemPoolExportToShareableHandle)(fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	return pool;
}

static CUmemoryPool closed_pool(void)
{
	int fd;
	CUmemoryPool pool = new_pool(&fd);
	close(fd);
	return pool;
}

static CUmemoryPool import(int fd)
{
	CUmemoryPool pool;
	OK(CU(cuMemPoolImportFromShareableHandle)(&pool, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	return pool;
}

// One that has been imported, as every pointer of it that is exported will be: what it has given back it does not use again.
static CUmemoryPool imported_again;

static CUmemoryPool imported_pool(void)
{
	int fd;
	CUmemoryPool pool = new_pool(&fd);
	imported_again = import(fd);
	close(fd);
	return pool;
}

static void destroy_import(void)
{
	OK(CU(cuMemPoolDestroy)(imported_again));
	imported_again = NULL;
}

static CUdeviceptr allocate(CUmemoryPool pool, size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, bytes, pool, NULL));
	return pointer;
}

static void release(CUdeviceptr pointer)
{
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
}

static void export(CUdeviceptr pointer)
{
	CUmemPoolPtrExportData data;
	CUdeviceptr imported;
	OK(CU(cuMemPoolExportPointer)(&data, pointer));
	if (imported_again == NULL)
		return;
	OK(CU(cuMemPoolImportPointer)(&imported, imported_again, &data));
	release(imported);
}

// What was exported and is free now.
static void leave(CUmemoryPool pool, size_t bytes)
{
	CUdeviceptr pointer = allocate(pool, bytes);
	export(pointer);
	release(pointer);
}

static uint64_t marked_gpu;

static void mark_all(void)
{
	mark(0);
	marked_gpu = outside_bytes_of(0, 0);
}

// Since the mark, the slice is charged bytes more, the GPU has them, and the process has some of them, as NVML shows it.
#define STANDS(bytes, shown) \
	do { \
		EXPECT(inside_bytes() - mark_inside, (bytes)); \
		EXPECT(outside_bytes(0) - mark_outside, (shown)); \
		EXPECT(outside_bytes_of(0, 0) - marked_gpu, (bytes)); \
	} while (0)

static void all_can_be_had_again(void)
{
	CUdeviceptr pointer;
	STANDS(0, 0);
	OK(CU(cuMemAlloc_v2)(&pointer, limit_bytes() - slice_bytes()));
	OK(CU(cuMemFree_v2)(pointer));
	STANDS(0, 0);
}

static uint64_t leave_until_refused(CUmemoryPool pool, size_t bytes)
{
	uint64_t count = 0;
	CUdeviceptr pointer;
	while (CU(cuMemAllocFromPoolAsync)(&pointer, bytes, pool, NULL) == CUDA_SUCCESS) {
		export(pointer);
		release(pointer);
		count++;
		STANDS(count * bytes, 0);
	}
	return count;
}

static void refused_at_the_limit(void)
{
	cuuint64_t all = UINT64_MAX;
	use_device(0);
	mark_all();
	uint64_t fit = (limit_bytes() - slice_bytes()) / SIZE;
	for (int way = 0; way < 2; way++) {
		CUmemoryPool pool = imported_pool();
		if (way == 1)
			OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
		for (uint64_t count = 1; way == 1 && count <= fit; count++) { // kept by the pool, and used again
			CUdeviceptr pointer = allocate(pool, SIZE);
			export(pointer);
			release(pointer);
			STANDS(SIZE, SIZE);
		}
		if (way == 1) {
			OK(CU(cuMemPoolTrimTo)(pool, 0));
			STANDS(SIZE, 0);
		} else {
			EXPECT(leave_until_refused(pool, SIZE), fit);
		}
		destroy_import();
		OK(CU(cuMemPoolDestroy)(pool));
		all_can_be_had_again();
	}
}

// The driver uses it again, but who has imported the pool is not known: charged too much, until the pool is destroyed.
static void imported_by_nobody(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	for (unsigned count = 1; count <= 3; count++) {
		leave(pool, SIZE);
		EXPECT(inside_bytes() - mark_inside, count * SIZE);
		EXPECT(outside_bytes_of(0, 0) - marked_gpu, SIZE);
	}
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

static void kept_by_its_descriptor(void)
{
	CUdeviceptr none;
	int fd;
	use_device(0);
	mark_all();
	CUmemoryPool pool = new_pool(&fd);
	leave(pool, SIZE);
	OK(CU(cuMemPoolDestroy)(pool));
	STANDS(SIZE, 0);
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
	STANDS(SIZE, 0);
	close(fd);
	all_can_be_had_again();
}

static void kept_by_its_import(void)
{
	CUmemPoolPtrExportData data;
	CUdeviceptr pointer, imported;
	int fd;
	use_device(0);
	mark_all();
	for (int original_first = 0; original_first < 2; original_first++) {
		CUmemoryPool pool = new_pool(&fd), again = import(fd);
		close(fd);
		pointer = allocate(pool, SIZE);
		OK(CU(cuMemPoolExportPointer)(&data, pointer));
		OK(CU(cuMemPoolImportPointer)(&imported, again, &data));
		STANDS(SIZE, SIZE); // once
		release(pointer);
		STANDS(SIZE, 0);
		release(imported);
		STANDS(SIZE, 0);
		OK(CU(cuMemPoolDestroy)(original_first ? pool : again));
		STANDS(SIZE, 0);
		OK(CU(cuMemPoolDestroy)(original_first ? again : pool));
		all_can_be_had_again();
	}
}

// Of what was not exported nothing stays, whatever else the pool has exported.
static void the_rest_is_given_back(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = imported_pool();
	CUdeviceptr exported = allocate(pool, SIZE);
	export(exported);
	export(exported); // once
	for (int i = 0; i < 5; i++) {
		CUdeviceptr other = allocate(pool, 3 * SIZE);
		STANDS(4 * SIZE, 4 * SIZE);
		release(other);
		STANDS(SIZE, SIZE);
	}
	release(exported);
	CUdeviceptr other = allocate(pool, SIZE);
	export(other);
	OK(CU(cuMemFree_v2)(other));
	EXPECT(inside_bytes() - mark_inside >= 2 * SIZE, 1); // a chunk may be as large as the largest
	EXPECT(outside_bytes_of(0, 0) - marked_gpu, 2 * SIZE);
	destroy_import();
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

static void small_ones_keep_their_chunk(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = imported_pool();
	for (unsigned i = 1; i <= 3; i++) {
		CUdeviceptr some[3];
		for (int j = 0; j < 3; j++) {
			some[j] = allocate(pool, MIB);
			export(some[j]);
		}
		STANDS(i * 32 * MIB, 32 * MIB);
		for (int j = 0; j < 3; j++)
			release(some[j]);
		STANDS(i * 32 * MIB, 0);
	}
	destroy_import();
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

static void destroyed_with_a_pointer_out(void)
{
	CUdeviceptr none;
	int fd;
	use_device(0);
	mark_all();
	CUmemoryPool pool = new_pool(&fd);
	CUdeviceptr pointer = allocate(pool, SIZE);
	export(pointer);
	OK(CU(cuMemPoolDestroy)(pool));
	STANDS(SIZE, SIZE);
	release(pointer);
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
	STANDS(SIZE, 0);
	close(fd);
	all_can_be_had_again();
}

// What is out of a destroyed pool holds the pool, and so what it keeps.
static void destroyed_with_other_memory_out(void)
{
	CUdeviceptr none;
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	CUdeviceptr one = allocate(pool, SIZE), two = allocate(pool, SIZE / 2 + 100), left[3];
	for (int i = 0; i < 3; i++)
		export(left[i] = allocate(pool, SIZE));
	for (int i = 0; i < 3; i++)
		release(left[i]);
	STANDS(4 * SIZE + SIZE, 2 * SIZE);
	OK(CU(cuMemPoolDestroy)(pool));
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
	STANDS(4 * SIZE + SIZE, 2 * SIZE);
	release(one);
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
	EXPECT(inside_bytes() - mark_inside, outside_bytes_of(0, 0) - marked_gpu);
	EXPECT(inside_bytes() - mark_inside >= 3 * SIZE, 1);
	OK(CU(cuMemFree_v2)(two));
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
	all_can_be_had_again();
}

// So does what was imported of a destroyed import.
static void import_destroyed_with_a_pointer_out(void)
{
	CUmemPoolPtrExportData data;
	CUdeviceptr pointer, imported;
	int fd;
	use_device(0);
	mark_all();
	CUmemoryPool pool = new_pool(&fd), again = import(fd);
	close(fd);
	pointer = allocate(pool, SIZE);
	OK(CU(cuMemPoolExportPointer)(&data, pointer));
	OK(CU(cuMemPoolImportPointer)(&imported, again, &data));
	OK(CU(cuMemPoolDestroy)(again));
	release(pointer);
	OK(CU(cuMemPoolDestroy)(pool));
	STANDS(SIZE, 0);
	release(imported);
	all_can_be_had_again();
}

static void many_descriptors(void)
{
	use_device(0);
	mark_all();
	for (int i = 0; i < 1500; i++) { // pools come and go, their numbers and descriptors too
		int fd;
		CUmemoryPool pool = new_pool(&fd);
		if (i % 100 == 0)
			leave(pool, SIZE);
		OK(CU(cuMemPoolDestroy)(pool));
		close(fd);
	}
	all_can_be_had_again();
}

static CUcontext shared_context;
static _Atomic bool over;

static void *synchronise_always(void *unused)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	while (!over)
		OK(CU(cuCtxSynchronize)());
	return unused;
}

// What another thread's synchronisation gives back while this one allocates is not lost: the witness judges.
static void beside_a_synchronising_thread(void)
{
	pthread_t thread;
	CUdeviceptr pointer;
	shared_context = use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	pthread_create(&thread, NULL, synchronise_always, NULL);
	for (int round = 0; round < 300; round++) {
		int count = 0;
		while (CU(cuMemAllocFromPoolAsync)(&pointer, 32 * MIB, pool, NULL) == CUDA_SUCCESS) {
			export(pointer);
			OK(CU(cuMemFreeAsync)(pointer, NULL));
			count++;
		}
		EXPECT(count > 0, 1);
		EXPECT(outside_bytes_of(0, 0) <= limit_bytes(), 1);
		OK(CU(cuMemPoolDestroy)(pool));
		pool = closed_pool();
	}
	over = true;
	pthread_join(thread, NULL);
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// Whether it goes with the context is not known: it stays charged, and is there again when the pool is destroyed.
static void after_reset(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	leave(pool, SIZE);
	allocate(pool, SIZE);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	use_device(0);
	STANDS(SIZE, 0);
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"refused_at_the_limit", refused_at_the_limit},
		{"imported_by_nobody", imported_by_nobody},
	                                    {"kept_by_its_descriptor", kept_by_its_descriptor},
	                                    {"kept_by_its_import", kept_by_its_import},
	                                    {"the_rest_is_given_back", the_rest_is_given_back},
	                                    {"small_ones_keep_their_chunk", small_ones_keep_their_chunk},
	                                    {"destroyed_with_a_pointer_out", destroyed_with_a_pointer_out},
	                                    {"destroyed_with_other_memory_out", destroyed_with_other_memory_out},
	                                    {"import_destroyed_with_a_pointer_out", import_destroyed_with_a_pointer_out},
	                                    {"many_descriptors", many_descriptors},
	                                    {"beside_a_synchronising_thread", beside_a_synchronising_thread},
	                                    {"after_reset", after_reset},
	                                    {NULL, NULL}};
	return run_test(argc, argv, tests);
}
