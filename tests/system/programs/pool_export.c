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

// One that has been imported, as every pointer of it that is exported will be.
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

enum { MOST = 64 };

// All there is room for at once, each exported. Returns how many.
static int take_all(CUmemoryPool pool, size_t bytes, CUdeviceptr pointer[MOST])
{
	int count = 0;
	while (count < MOST && CU(cuMemAllocFromPoolAsync)(&pointer[count], bytes, pool, NULL) == CUDA_SUCCESS)
		export(pointer[count++]);
	return count;
}

static void release_all(CUdeviceptr pointer[MOST], int count)
{
	while (count > 0)
		release(pointer[--count]);
}

static void refused_at_the_limit(void)
{
	CUdeviceptr pointer[MOST], none;
	cuuint64_t all = UINT64_MAX;
	use_device(0);
	mark_all();
	int fit = (int)((limit_bytes() - slice_bytes()) / SIZE);
	for (int way = 0; way < 2; way++) {
		CUmemoryPool pool = imported_pool();
		if (way == 1)
			OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
		for (int count = 1; way == 1 && count <= fit; count++) { // kept by the pool, and used again
			CUdeviceptr again = allocate(pool, SIZE);
			export(again);
			release(again);
			STANDS(SIZE, SIZE);
		}
		if (way == 1) {
			OK(CU(cuMemPoolTrimTo)(pool, 0));
			STANDS(SIZE, 0);
		} else {
			EXPECT(take_all(pool, SIZE, pointer), fit);
			release_all(pointer, fit);
			STANDS((uint64_t)fit * SIZE, 0);
			REFUSED(CU(cuMemAllocFromPoolAsync)(&none, SIZE, pool, NULL));
			REFUSED(CU(cuMemAlloc_v2)(&none, SIZE));
		}
		destroy_import();
		OK(CU(cuMemPoolDestroy)(pool));
		all_can_be_had_again();
	}
}

// The pool's next allocation lies where the last one lay, and what was kept of that is let go of when it is exported.
static void at_one_place(void)
{
	CUdeviceptr none;
	use_device(0);
	mark_all();
	int fit = (int)((limit_bytes() - slice_bytes()) / SIZE);
	for (int imported = 0; imported < 2; imported++) {
		CUmemoryPool pool = imported ? imported_pool() : closed_pool();
		for (int count = 0; count < 5 * fit; count++) {
			CUdeviceptr pointer = allocate(pool, SIZE);
			STANDS(count == 0 ? SIZE : 2 * SIZE, SIZE);
			export(pointer);
			STANDS(SIZE, SIZE);
			release(pointer);
			STANDS(SIZE, 0);
			if (count % 3 == 2) { // one that is not exported
				release(allocate(pool, SIZE));
				STANDS(SIZE, 0);
			}
		}
		OK(CU(cuMemPoolTrimTo)(pool, 0));
		REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
		STANDS(SIZE, 0);
		if (imported)
			destroy_import();
		OK(CU(cuMemPoolDestroy)(pool));
		all_can_be_had_again();
	}
}

static void at_four_places(void)
{
	CUdeviceptr pointer[4];
	use_device(0);
	mark_all();
	CUmemoryPool pool = imported_pool();
	release(allocate(pool, 5 * SIZE)); // the pool's chunks may be as large as that, then
	for (int round = 0; round < 12; round++) {
		for (int i = 0; i < 4; i++)
			export(pointer[i] = allocate(pool, SIZE));
		STANDS(4 * SIZE, 4 * SIZE);
		for (int i = 0; i < 4; i++) {
			release(pointer[(i + round) % 4]);
			STANDS(4 * SIZE, (3 - (uint64_t)i) * SIZE);
		}
		export(pointer[0] = allocate(pool, SIZE));
		STANDS(4 * SIZE, SIZE);
		release(pointer[0]);
		STANDS(4 * SIZE, 0);
	}
	destroy_import();
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// What the pool has kept for itself and handed out again is not what it gives back.
static void used_again(void)
{
	cuuint64_t all = UINT64_MAX;
	CUdeviceptr pointer = 0;
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
	for (int i = 0; i < 5; i++) {
		if (pointer != 0)
			release(pointer);
		export(pointer = allocate(pool, SIZE));
	}
	CUdeviceptr other = allocate(pool, 3 * SIZE);
	STANDS(4 * SIZE, 4 * SIZE);
	release(other);
	OK(CU(cuMemPoolTrimTo)(pool, 0));
	STANDS(SIZE, SIZE);
	release(pointer);
	OK(CU(cuMemPoolTrimTo)(pool, 0));
	STANDS(SIZE, 0);
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// A place is let go of in parts.
static void parts_of_a_place(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	for (int round = 0; round < 3; round++) {
		leave(pool, 2 * SIZE);
		STANDS(2 * SIZE, 0);
		CUdeviceptr first = allocate(pool, SIZE), second = allocate(pool, SIZE);
		STANDS(4 * SIZE, 2 * SIZE);
		export(round == 0 ? second : first);
		STANDS(3 * SIZE, 2 * SIZE);
		export(round == 0 ? first : second);
		STANDS(2 * SIZE, 2 * SIZE);
		release(first);
		STANDS(2 * SIZE, SIZE);
		release(second);
		STANDS(2 * SIZE, 0);
	}
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// In any order and size, as a program that passes tensors on would: charged what the GPU has, or more as long as part of a chunk is exported anew, and never
// more than so many chunks as the pool ever had in use at once.
static void any_sizes(void)
{
	enum { LIVE = 8 };
	CUdeviceptr pointer[LIVE] = {0};
	unsigned seed = 7;
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	for (int step = 0; step < 1500; step++) {
		int which = rand_r(&seed) % LIVE;
		if (pointer[which] != 0) {
			release(pointer[which]);
			pointer[which] = 0;
		} else {
			pointer[which] = allocate(pool, (size_t)1 << (10 + rand_r(&seed) % 17));
			if (rand_r(&seed) % 4 != 0)
				export(pointer[which]);
		}
		uint64_t charged = inside_bytes() - mark_inside, has = outside_bytes_of(0, 0) - marked_gpu;
		EXPECT(charged < has, 0);
		EXPECT(charged > 2 * LIVE * SIZE, 0);
	}
	OK(CU(cuMemPoolDestroy)(pool));
	for (int i = 0; i < LIVE; i++)
		if (pointer[i] != 0)
			release(pointer[i]);
	CUdeviceptr none;
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
	all_can_be_had_again();
}

// What the process itself has imported of the place may be what the driver keeps then: it stays charged.
static void imported_and_not_freed(void)
{
	CUmemPoolPtrExportData data;
	CUdeviceptr pointer, imported[4];
	int fd;
	use_device(0);
	mark_all();
	CUmemoryPool pool = new_pool(&fd), again = import(fd);
	close(fd);
	for (int i = 0; i < 4; i++) {
		pointer = allocate(pool, SIZE);
		OK(CU(cuMemPoolExportPointer)(&data, pointer));
		EXPECT(inside_bytes() - mark_inside >= outside_bytes_of(0, 0) - marked_gpu, 1);
		OK(CU(cuMemPoolImportPointer)(&imported[i], again, &data));
		release(pointer);
		EXPECT(inside_bytes() - mark_inside >= outside_bytes_of(0, 0) - marked_gpu, 1);
	}
	for (int i = 0; i < 4; i++)
		release(imported[i]);
	OK(CU(cuMemPoolDestroy)(again));
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
	CUdeviceptr other = allocate(pool, SIZE);
	export(other);
	OK(CU(cuMemFree_v2)(other));
	STANDS(2 * SIZE, SIZE); // once, though a chunk may be as large as the largest
	export(other = allocate(pool, SIZE));
	STANDS(2 * SIZE, 2 * SIZE);
	release(exported);
	STANDS(2 * SIZE, SIZE);
	release(other);
	STANDS(2 * SIZE, 0);
	destroy_import();
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

static void small_ones_keep_their_chunk(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = imported_pool();
	for (int i = 0; i < 4; i++) {
		CUdeviceptr some[3];
		for (int j = 0; j < 3; j++) {
			some[j] = allocate(pool, MIB);
			export(some[j]);
		}
		STANDS(32 * MIB, 32 * MIB);
		for (int j = 0; j < 3; j++)
			release(some[j]);
		STANDS(32 * MIB, 0);
	}
	destroy_import();
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// Which of its chunks a pool gives back is not seen: for what comes first, the one chunk of all that was exported is charged, not one for each.
static void small_ones_count_as_their_chunk(void)
{
	CUdeviceptr some[3];
	use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	CUdeviceptr beside = allocate(pool, MIB);
	for (int j = 0; j < 3; j++)
		export(some[j] = allocate(pool, MIB));
	CUdeviceptr other = allocate(pool, SIZE);
	STANDS(3 * 32 * MIB, 3 * 32 * MIB);
	for (int j = 0; j < 3; j++)
		release(some[j]);
	STANDS(3 * 32 * MIB, 3 * 32 * MIB);
	release(other);
	EXPECT(outside_bytes_of(0, 0) - marked_gpu, 32 * MIB);
	EXPECT(inside_bytes() - mark_inside, 2 * 32 * MIB);
	release(beside);
	STANDS(32 * MIB, 0);
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

// Something begins in the free end of one chunk and reaches across the next into a third.
static void what_lies_across_chunks_keeps_all_of_them(void)
{
	use_device(0);
	mark_all();
	CUmemoryPool pool = imported_pool();
	for (int i = 0; i < 4; i++) {
		CUdeviceptr first = allocate(pool, 31 * MIB), across = allocate(pool, 34 * MIB);
		export(across);
		STANDS(96 * MIB, 96 * MIB);
		release(first);
		release(across);
		STANDS(96 * MIB, 0);
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
	CUdeviceptr left[3];
	for (int i = 0; i < 3; i++)
		export(left[i] = allocate(pool, SIZE));
	CUdeviceptr one = allocate(pool, SIZE), two = allocate(pool, SIZE / 2 + 100);
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
	unsigned seed = 1;
	shared_context = use_device(0);
	mark_all();
	CUmemoryPool pool = closed_pool();
	pthread_create(&thread, NULL, synchronise_always, NULL);
	for (int round = 0; round < 200; round++) {
		CUdeviceptr live[MOST];
		int count = 0;
		while (count < MOST && CU(cuMemAllocFromPoolAsync)(&pointer, 32 * MIB, pool, NULL) == CUDA_SUCCESS) {
			export(pointer);
			if (rand_r(&seed) % 2 == 0) // the next one may lie there
				OK(CU(cuMemFreeAsync)(pointer, NULL));
			else
				live[count++] = pointer;
		}
		EXPECT(count > 0, 1);
		EXPECT(outside_bytes_of(0, 0) <= limit_bytes(), 1);
		while (count > 0)
			OK(CU(cuMemFreeAsync)(live[--count], NULL));
		OK(CU(cuMemPoolDestroy)(pool));
		pool = closed_pool();
	}
	over = true;
	pthread_join(thread, NULL);
	OK(CU(cuMemPoolDestroy)(pool));
	all_can_be_had_again();
}

static CUmemoryPool shared_pool;

static void *take_and_give(void *argument)
{
	enum { LIVE = 4 };
	CUdeviceptr pointer[LIVE] = {0};
	unsigned thread_seed = (unsigned)(uintptr_t)argument;
	OK(CU(cuCtxSetCurrent)(shared_context));
	for (int step = 0; step < 1500; step++) {
		CUdeviceptr *one = &pointer[rand_r(&thread_seed) % LIVE];
		if (*one != 0) {
			release(*one);
			*one = 0;
		} else if (CU(cuMemAllocFromPoolAsync)(one, ((size_t)rand_r(&thread_seed) % 64 + 1) * MIB, shared_pool, NULL) == CUDA_SUCCESS) {
			if (rand_r(&thread_seed) % 4 != 0)
				export(*one);
		} else {
			*one = 0;
		}
	}
	for (int i = 0; i < LIVE; i++)
		if (pointer[i] != 0)
			release(pointer[i]);
	return NULL;
}

// Threads share a pool: the witness judges.
static void by_several_threads(void)
{
	pthread_t thread[4];
	CUdeviceptr none;
	shared_context = use_device(0);
	mark_all();
	shared_pool = closed_pool();
	for (uintptr_t i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, take_and_give, (void *)(i + 1));
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
	EXPECT(inside_bytes() - mark_inside < outside_bytes_of(0, 0) - marked_gpu, 0);
	OK(CU(cuMemPoolDestroy)(shared_pool));
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
	                                {"at_one_place", at_one_place},
	                                {"at_four_places", at_four_places},
	                                {"used_again", used_again},
	                                {"parts_of_a_place", parts_of_a_place},
	                                {"any_sizes", any_sizes},
	                                {"imported_and_not_freed", imported_and_not_freed},
	                                {"kept_by_its_descriptor", kept_by_its_descriptor},
	                                {"kept_by_its_import", kept_by_its_import},
	                                {"the_rest_is_given_back", the_rest_is_given_back},
	                                {"small_ones_keep_their_chunk", small_ones_keep_their_chunk},
	                                {"small_ones_count_as_their_chunk", small_ones_count_as_their_chunk},
	                                {"what_lies_across_chunks_keeps_all_of_them", what_lies_across_chunks_keeps_all_of_them},
	                                {"destroyed_with_a_pointer_out", destroyed_with_a_pointer_out},
	                                {"destroyed_with_other_memory_out", destroyed_with_other_memory_out},
	                                {"import_destroyed_with_a_pointer_out", import_destroyed_with_a_pointer_out},
	                                {"many_descriptors", many_descriptors},
	                                {"beside_a_synchronising_thread", beside_a_synchronising_thread},
	                                {"by_several_threads", by_several_threads},
	                                {"after_reset", after_reset},
	                                {NULL, NULL}};
	return run_test(argc, argv, tests);
}
