// SPDX-License-Identifier: Apache-2.0
// vmm TEST: memory without an address, judged from within the slice and from without. See tests/system/vmm.bats.
#include "slice.h"

static const size_t SIZE = 64 * MIB;

static CUmemGenericAllocationHandle create_on(CUdevice device, size_t bytes)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
	                            .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	CUmemGenericAllocationHandle handle;
	OK(CU(cuMemCreate)(&handle, bytes, &prop, 0));
	return handle;
}

static CUresult try_create(CUdevice device, size_t bytes, CUmemGenericAllocationHandle *handle)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	return CU(cuMemCreate)(handle, bytes, &prop, 0);
}

static CUdeviceptr reserve(size_t bytes)
{
	CUdeviceptr address;
	OK(CU(cuMemAddressReserve)(&address, bytes, 0, 0, 0));
	return address;
}

static void map(CUdeviceptr address, size_t bytes, CUmemGenericAllocationHandle handle)
{
	OK(CU(cuMemMap)(address, bytes, 0, handle, 0));
}

static void release(CUmemGenericAllocationHandle handle)
{
	OK(CU(cuMemRelease)(handle));
}

static void unmap(CUdeviceptr address, size_t bytes)
{
	OK(CU(cuMemUnmap)(address, bytes));
}

static void released_while_mapped(void)
{
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	GREW(SIZE);
	CUdeviceptr address = reserve(SIZE);
	GREW(SIZE);
	map(address, SIZE, handle);
	GREW(SIZE);
	release(handle);
	GREW(SIZE);
	unmap(address, SIZE);
	GREW(0);
}

static void unmapped_before_release(void)
{
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	CUdeviceptr address = reserve(SIZE);
	map(address, SIZE, handle);
	unmap(address, SIZE);
	GREW(SIZE);
	release(handle);
	GREW(0);
}

static void mapped_many_times(void)
{
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE), other = create_on(0, SIZE);
	CUdeviceptr address = reserve(40 * SIZE);
	for (CUdeviceptr i = 0; i < 30; i++)
		map(address + i * SIZE, SIZE, handle);
	for (CUdeviceptr i = 30; i < 40; i++)
		map(address + i * SIZE, SIZE, other);
	release(handle);
	release(other);
	GREW(2 * SIZE);
	unmap(address, SIZE);
	unmap(address + 39 * SIZE, SIZE);
	GREW(2 * SIZE);
	unmap(address + 1 * SIZE, 29 * SIZE); // one call, many mappings: the first one's last
	GREW(SIZE);
	unmap(address + 30 * SIZE, 9 * SIZE);
	GREW(0);
}

static void range_over_both(void)
{
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE), other = create_on(0, 2 * SIZE);
	CUdeviceptr address = reserve(3 * SIZE);
	map(address, SIZE, handle);
	map(address + SIZE, 2 * SIZE, other);
	release(handle);
	release(other);
	GREW(3 * SIZE);
	unmap(address, 3 * SIZE);
	GREW(0);
}

static void retained(void)
{
	CUmemGenericAllocationHandle again;
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	CUdeviceptr address = reserve(SIZE);
	map(address, SIZE, handle);
	OK(CU(cuMemRetainAllocationHandle)(&again, (void *)(uintptr_t)(address + 5 * MIB)));
	release(handle);
	unmap(address, SIZE);
	GREW(SIZE);
	release(again);
	GREW(0);
}

static void retained_after_release(void)
{
	CUmemGenericAllocationHandle again;
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	CUdeviceptr address = reserve(SIZE);
	map(address, SIZE, handle);
	release(handle);
	OK(CU(cuMemRetainAllocationHandle)(&again, (void *)(uintptr_t)(address + SIZE - 1)));
	unmap(address, SIZE);
	GREW(SIZE);
	release(again);
	GREW(0);
}

// Handles' values are the driver's to use again: the old memory and the new must not be taken for each other.
static void values_used_again(void)
{
	CUmemGenericAllocationHandle handle = 0;
	CUdeviceptr address[8];
	use_device(0);
	mark(0);
	for (size_t i = 0; i < 8; i++) {
		handle = create_on(0, (i + 1) * 2 * MIB);
		address[i] = reserve((i + 1) * 2 * MIB);
		map(address[i], (i + 1) * 2 * MIB, handle);
		release(handle);
	}
	GREW(72 * MIB);
	for (size_t i = 0; i < 8; i++)
		unmap(address[i], (i + 1) * 2 * MIB);
	GREW(0);
}

static void without_a_context(void)
{
	OK(CU(cuInit)(0));
	CUmemGenericAllocationHandle handle = create_on(0, SIZE), none;
	use_device(0);
	uint64_t with = inside_bytes();
	EXPECT(outside_bytes(0), with);
	REFUSED(try_create(0, limit_bytes() - with + 2 * MIB, &none));
	release(handle);
	EXPECT(with - inside_bytes(), SIZE);
	EXPECT(outside_bytes(0), with - SIZE);
}

// The allocation says where it lies; what is current does not matter.
static void on_the_second_gpu(void)
{
	CUcontext first = use_device(0), second = use_device(1);
	CUmemGenericAllocationHandle none;
	uint64_t second_bytes = inside_bytes(), limit = limit_bytes();
	OK(CU(cuCtxSetCurrent)(first));
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(1, SIZE);
	GREW(0);
	OK(CU(cuCtxSetCurrent)(second));
	EXPECT(inside_bytes(), second_bytes + SIZE);
	EXPECT(outside_bytes(1), second_bytes + SIZE);
	OK(CU(cuCtxSetCurrent)(first));
	REFUSED(try_create(1, limit - second_bytes - HEADROOM - SIZE + 2 * MIB, &none));
	OK(try_create(1, limit - second_bytes - HEADROOM - SIZE, &none)); // to the last byte
	release(none);
	release(handle);
	OK(CU(cuCtxSetCurrent)(second));
	EXPECT(inside_bytes(), second_bytes);
}

static void refused_and_recovered(void)
{
	CUmemGenericAllocationHandle handle;
	use_device(0);
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	REFUSED(try_create(0, left + 2 * MIB, &handle));
	REFUSED(try_create(0, (size_t)-1 & ~(2 * MIB - 1), &handle));
	GREW(0);
	OK(try_create(0, left, &handle));
	GREW(left);
	CUdeviceptr pointer;
	REFUSED(CU(cuMemAlloc_v2)(&pointer, 4));
	release(handle);
	OK(CU(cuMemAlloc_v2)(&pointer, left));
	GREW(left);
}

static void host_memory_is_free(void)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_HOST_NUMA, .id = 0}};
	CUmemGenericAllocationHandle handle;
	use_device(0);
	mark(0);
	CUresult result = CU(cuMemCreate)(&handle, SIZE, &prop, 0);
	if (result != CUDA_ERROR_NOT_SUPPORTED)
		OK(result);
	GREW(0);
}

// The driver's no takes nothing away and leaves nothing behind.
static void failures(void)
{
	CUmemGenericAllocationHandle handle;
	use_device(0);
	mark(0);
	EXPECT(CU(cuMemUnmap)(0x7f0000000000, SIZE) != CUDA_SUCCESS, 1);
	EXPECT(try_create(99, SIZE, &handle) != CUDA_SUCCESS, 1);
	EXPECT(try_create(0, SIZE + 1, &handle) != CUDA_SUCCESS, 1);
	GREW(0);
	handle = create_on(0, SIZE);
	CUdeviceptr address = reserve(2 * SIZE);
	EXPECT(CU(cuMemMap)(address, 2 * SIZE, 0, handle, 0) != CUDA_SUCCESS, 1); // larger than the allocation
	map(address, SIZE, handle);
	EXPECT(CU(cuMemMap)(address, SIZE, 0, handle, 0) != CUDA_SUCCESS, 1); // there already
	EXPECT(CU(cuMemUnmap)(address, SIZE / 2) != CUDA_SUCCESS, 1);         // half a mapping
	release(handle);
	GREW(SIZE);
	unmap(address, SIZE);
	GREW(0);
}

static void outlives_the_context(void)
{
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	use_device(0);
	GREW(SIZE);
	release(handle);
	GREW(0);
}

// A process that imports its own export holds its own memory, by another handle.
static void imported_by_itself(void)
{
	CUmemGenericAllocationHandle again;
	int fd;
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	OK(CU(cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	OK(CU(cuMemImportFromShareableHandle)(&again, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	close(fd);
	GREW(SIZE);
	release(handle);
	GREW(SIZE);
	release(again);
	GREW(0);
}

static void exported_and_released(void)
{
	int fd;
	use_device(0);
	mark(0);
	CUmemGenericAllocationHandle handle = create_on(0, SIZE);
	OK(CU(cuMemExportToShareableHandle)(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	close(fd);
	release(handle);
	GREW(0);
}

static void in_many_threads_body(void)
{
	for (int i = 0; i < 200; i++) {
		CUmemGenericAllocationHandle handle;
		if (try_create(0, 4 * MIB, &handle) != CUDA_SUCCESS)
			continue;
		CUdeviceptr address = reserve(4 * MIB);
		map(address, 4 * MIB, handle);
		release(handle);
		unmap(address, 4 * MIB);
		OK(CU(cuMemAddressFree)(address, 4 * MIB));
	}
}

#include <pthread.h>
static CUcontext shared_context;
static void *thread_body(void *unused)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	in_many_threads_body();
	return unused;
}

static void in_many_threads(void)
{
	pthread_t thread[4];
	shared_context = use_device(0);
	mark(0);
	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, thread_body, NULL);
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	GREW(0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {
		{"released_while_mapped", released_while_mapped}, {"unmapped_before_release", unmapped_before_release},
		{"mapped_many_times", mapped_many_times},         {"range_over_both", range_over_both},
		{"retained", retained},                           {"retained_after_release", retained_after_release},
		{"values_used_again", values_used_again},         {"without_a_context", without_a_context},
		{"on_the_second_gpu", on_the_second_gpu},         {"refused_and_recovered", refused_and_recovered},
		{"host_memory_is_free", host_memory_is_free},     {"failures", failures},
		{"outlives_the_context", outlives_the_context},   {"imported_by_itself", imported_by_itself},
		{"exported_and_released", exported_and_released}, {"in_many_threads", in_many_threads},
		{NULL, NULL}};
	return run_test(argc, argv, tests);
}
