// SPDX-License-Identifier: Apache-2.0
// What holds memory of cuMemCreate in ways that neither the simulated driver nor a test on a GPU can be asked for: multicast objects, sparse
// arrays, logical endpoints. The hooks on a driver that says yes (or no) to everything; charges are counted here.
#include "cmocka_all.h"

#include <fcntl.h>
#include <unistd.h>

// The library's own files, which are part of no library to link with.
#include "../../src/preload/private.c"
#include "../../src/preload/track.c"
#include "../../src/preload/descriptor.c"
// after the table, whose static functions have the shorter names
#include "../../src/preload/allocation.c"
#include "../../src/preload/cuda_vmm.c"

#define MIB (1024ull * 1024)

static CUresult answer;
static unsigned long long next_handle;
static struct softmig_gpu gpus[SOFTMIG_MAX_GPUS];
static int64_t charged[2], handed_over[2];
static int settled[2];

struct softmig_gpu *softmig_gpu_of_device(CUdevice device)
{
	return device >= 0 && device < 2 ? &gpus[device] : NULL;
}

struct softmig_gpu *softmig_gpu_by_index(int ledger)
{
	return &gpus[ledger];
}

struct softmig_gpu *softmig_gpu_current(void)
{
	return &gpus[0];
}

void softmig_gpu_enter(struct softmig_gpu *gpu)
{
	atomic_fetch_add(&gpu->activity, 1);
}

void softmig_gpu_leave(struct softmig_gpu *gpu)
{
	assert_true(atomic_fetch_sub(&gpu->activity, 1) > 0);
}

bool softmig_charge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes, const char *what)
{
	(void)kind;
	(void)what;
	charged[gpu->ledger] += (int64_t)bytes;
	return true;
}

void softmig_uncharge(struct softmig_gpu *gpu, enum softmig_ledger_kind kind, uint64_t bytes)
{
	(void)kind;
	charged[gpu->ledger] -= (int64_t)bytes;
}

void softmig_hand_over(struct softmig_gpu *gpu, uint64_t bytes)
{
	assert_int_equal(gpu->activity, 0); // outside enter and leave
	charged[gpu->ledger] -= (int64_t)bytes;
	handed_over[gpu->ledger] += (int64_t)bytes;
}

uint64_t softmig_settle(struct softmig_gpu *gpu)
{
	assert_int_equal(gpu->activity, 0);
	settled[gpu->ledger]++;
	return 0;
}

static uint64_t exported_bytes, clock_ns, passed_since_ns;
static int64_t passed_on;
static int imports;

uint64_t softmig_exported(uint64_t bytes)
{
	exported_bytes += bytes;
	return clock_ns;
}

void softmig_export_ended(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns)
{
	assert_true(charged[gpu->ledger] >= (int64_t)bytes); // not given back before it is passed on
	exported_bytes -= bytes;
	passed_on += (int64_t)bytes;
	passed_since_ns = since_ns;
}

void softmig_import_begins(void)
{
	imports++;
}

void softmig_import_ended(void)
{
	imports--;
}

void softmig_pool_exports_look(void)
{
}

void softmig_settle_if_due(struct softmig_gpu *gpu)
{
	(void)gpu;
}

// The driver: a new handle for each creation, else the answer that a test sets.
static CUresult driver_create(CUmemGenericAllocationHandle *handle, size_t size, const CUmemAllocationProp *prop, unsigned long long flags)
{
	(void)size, (void)prop, (void)flags;
	*handle = ++next_handle;
	return CUDA_SUCCESS;
}

static CUresult says(void)
{
	return answer;
}

#define DRIVER_IS(which, answers) struct softmig_hook softmig_hook_##which = {.driver = (void *)(answers)};
DRIVER_IS(cuMemCreate, driver_create)
DRIVER_IS(cuMemRelease, says)
DRIVER_IS(cuMemMap, says)
DRIVER_IS(cuMemUnmap, says)
DRIVER_IS(cuMemImportFromShareableHandle, says)
DRIVER_IS(cuMemExportToShareableHandle, says)
DRIVER_IS(cuMemGetAllocationPropertiesFromHandle, NULL)
DRIVER_IS(cuMemRetainAllocationHandle, says)
DRIVER_IS(cuMemMapArrayAsync, says)
DRIVER_IS(cuMemMapArrayAsync_ptsz, says)
DRIVER_IS(cuMulticastBindMem, says)
DRIVER_IS(cuMulticastBindMem_v2, says)
DRIVER_IS(cuMulticastBindAddr, says)
DRIVER_IS(cuMulticastBindAddr_v2, says)
DRIVER_IS(cuMulticastUnbind, says)
DRIVER_IS(cuLogicalEndpointBindMem, says)
DRIVER_IS(cuLogicalEndpointBindAddr, says)
DRIVER_IS(cuLogicalEndpointUnbind, says)
DRIVER_IS(cuLogicalEndpointDestroy, says)

static int fresh(void **state)
{
	(void)state;
	gpus[1].ledger = 1;
	answer = CUDA_SUCCESS;
	exported_bytes = 0;
	passed_on = imports = 0;
	for (int i = 0; i < 2; i++)
		charged[i] = handed_over[i] = settled[i] = 0;
	return 0;
}

static CUmemGenericAllocationHandle create(CUdevice device)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	CUmemGenericAllocationHandle handle;
	assert_int_equal(hook_cuMemCreate(&handle, 2 * MIB, &prop, 0), CUDA_SUCCESS);
	return handle;
}

// Released by the program, but held by what cannot be followed: NVML has the last word. Else simply given back.
static void ends(CUmemGenericAllocationHandle handle, int gpu, bool held)
{
	int64_t before = handed_over[gpu];
	assert_int_equal(hook_cuMemRelease(handle), CUDA_SUCCESS);
	assert_int_equal(charged[gpu], 0);
	assert_int_equal(handed_over[gpu] - before, held ? 2 * MIB : 0);
}

static void what_is_bound_by_handle_is_left_to_nvml(void **state)
{
	CUmemGenericAllocationHandle handle = create(1);
	(void)state;
	ends(handle, 1, false);
	handle = create(1);
	assert_int_equal(hook_cuMulticastBindMem(77, 0, handle, 0, 2 * MIB, 0), CUDA_SUCCESS);
	assert_int_equal(charged[1], 2 * MIB);
	ends(handle, 1, true);
	handle = create(1);
	assert_int_equal(hook_cuMulticastBindMem_v2(77, 1, 0, handle, 0, 2 * MIB, 0), CUDA_SUCCESS);
	ends(handle, 1, true);
	handle = create(1);
	assert_int_equal(hook_cuLogicalEndpointBindMem(7, 1, 0, handle, 0, 2 * MIB, 0), CUDA_SUCCESS);
	ends(handle, 1, true);
	assert_int_equal(charged[0] | handed_over[0], 0);
}

static void what_is_bound_by_address_is_left_to_nvml_all_of_it(void **state)
{
	CUmemGenericAllocationHandle a = create(0), b = create(0), c = create(0);
	(void)state;
	assert_int_equal(hook_cuMemMap(0x10000000, 2 * MIB, 0, a, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(0x10000000 + 2 * MIB, 2 * MIB, 0, b, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(0x10000000 + 4 * MIB, 2 * MIB, 0, c, 0), CUDA_SUCCESS);
	// From the middle of the first to the end of the second.
	assert_int_equal(hook_cuMulticastBindAddr(77, 0, 0x10000000 + MIB, 3 * MIB, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(b), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(c), CUDA_SUCCESS);
	assert_int_equal(charged[0], 6 * MIB);
	assert_int_equal(hook_cuMemUnmap(0x10000000, 6 * MIB), CUDA_SUCCESS);
	assert_int_equal(charged[0], 0);
	assert_int_equal(handed_over[0], 4 * MIB);
}

static void every_call_that_binds_an_address_counts(void **state)
{
	(void)state;
	for (int way = 0; way < 2; way++) {
		CUmemGenericAllocationHandle handle = create(0);
		assert_int_equal(hook_cuMemMap(0x20000000, 2 * MIB, 0, handle, 0), CUDA_SUCCESS);
		assert_int_equal(way == 0 ? hook_cuMulticastBindAddr_v2(77, 0, 0, 0x20000000, 2 * MIB, 0)
		                          : hook_cuLogicalEndpointBindAddr(7, 0, 0, (void *)0x20000000, 2 * MIB, 0), CUDA_SUCCESS);
		assert_int_equal(hook_cuMemUnmap(0x20000000, 2 * MIB), CUDA_SUCCESS);
		ends(handle, 0, true);
	}
}

static void a_binding_that_the_driver_fails_holds_nothing(void **state)
{
	CUmemGenericAllocationHandle handle = create(0);
	(void)state;
	answer = CUDA_ERROR_NOT_SUPPORTED;
	assert_int_equal(hook_cuMulticastBindMem(77, 0, handle, 0, 2 * MIB, 0), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(hook_cuMulticastBindAddr(77, 0, 0x30000000, 2 * MIB, 0), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(hook_cuLogicalEndpointBindMem(7, 0, 0, handle, 0, 2 * MIB, 0), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(hook_cuMemMap(0x30000000, 2 * MIB, 0, handle, 0), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(hook_cuMemRelease(handle), CUDA_ERROR_NOT_SUPPORTED);
	assert_int_equal(charged[0], 2 * MIB); // still held
	answer = CUDA_SUCCESS;
	ends(handle, 0, false);
}

static void unbinding_asks_nvml(void **state)
{
	(void)state;
	assert_int_equal(hook_cuMulticastUnbind(77, 1, 0, 2 * MIB), CUDA_SUCCESS);
	assert_int_equal(settled[1], 1);
	assert_int_equal(hook_cuLogicalEndpointUnbind(7, 1, 0, 2 * MIB), CUDA_SUCCESS);
	assert_int_equal(settled[1], 2);
	assert_int_equal(settled[0], 0);
	assert_int_equal(hook_cuLogicalEndpointDestroy(7), CUDA_SUCCESS); // of all its devices
	assert_int_equal(settled[0], 1);
	assert_int_equal(settled[1], 3);
}

static void tiles_of_sparse_arrays_hold_memory(void **state)
{
	CUmemGenericAllocationHandle a = create(0), b = create(0);
	CUarrayMapInfo list[2] = {{.memOperationType = CU_MEM_OPERATION_TYPE_MAP, .memHandle = {.memHandle = a}},
	                          {.memOperationType = CU_MEM_OPERATION_TYPE_UNMAP}};
	(void)state;
	assert_int_equal(hook_cuMemMapArrayAsync(list, 1, NULL), CUDA_SUCCESS);
	assert_int_equal(settled[0], 0);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(handed_over[0], 2 * MIB);
	list[0].memHandle.memHandle = b;
	assert_int_equal(hook_cuMemMapArrayAsync_ptsz(list, 2, NULL), CUDA_SUCCESS);
	assert_int_equal(settled[0], 1); // something was unmapped
	ends(b, 0, true);
}

static void what_was_exported_is_passed_on_once_before_it_is_given_back(void **state)
{
	CUmemGenericAllocationHandle a = create(0), b = create(0);
	int fd = -1;
	(void)state;
	clock_ns = 5 * SINCE_NS + 1;
	assert_int_equal(hook_cuMemExportToShareableHandle(&fd, a, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0), CUDA_SUCCESS);
	clock_ns = 9 * SINCE_NS;
	assert_int_equal(hook_cuMemExportToShareableHandle(&fd, a, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0), CUDA_SUCCESS);
	assert_int_equal(exported_bytes, 2 * MIB);
	assert_int_equal(hook_cuMemRelease(b), CUDA_SUCCESS);
	assert_int_equal(passed_on, 0);
	ends(a, 0, true);
	assert_int_equal(passed_on, 2 * MIB);
	assert_int_equal(passed_since_ns, 5 * SINCE_NS); // the first time, rounded down: who imported since may have it
}

// Exported by an open descriptor.
static int export_by_descriptor(CUmemGenericAllocationHandle handle)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(hook_cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0), CUDA_SUCCESS);
	return fd;
}

static void an_open_descriptor_holds_what_nvml_shows_to_nobody(void **state)
{
	CUmemGenericAllocationHandle a = create(0), again = 55;
	int fd = export_by_descriptor(a);
	(void)state;
	assert_int_equal(gpus[0].unseen_bytes, 0);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(charged[0], 2 * MIB);
	assert_int_equal(gpus[0].unseen_bytes, 2 * MIB);
	assert_int_equal(hook_cuMemImportFromShareableHandle(&again, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(64 * MIB, 2 * MIB, 0, again, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(again), CUDA_SUCCESS);
	assert_int_equal(charged[0], 2 * MIB); // once
	assert_int_equal(imports, 0);
	assert_int_equal(gpus[0].unseen_bytes, 2 * MIB);
	close(fd);
	softmig_descriptors_look();
	assert_int_equal(charged[0], 2 * MIB);
	assert_int_equal(gpus[0].unseen_bytes, 0); // now it is the importer's
	assert_int_equal(hook_cuMemUnmap(64 * MIB, 2 * MIB), CUDA_SUCCESS);
	assert_int_equal(charged[0], 0);
	assert_int_equal(handed_over[0], 2 * MIB);
	assert_int_equal(passed_on, 2 * MIB);
}

static void a_descriptor_that_was_closed_holds_nothing(void **state)
{
	CUmemGenericAllocationHandle a = create(0), b = create(1);
	int fd = export_by_descriptor(a);
	(void)state;
	close(fd);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(charged[0], 0);
	assert_int_equal(gpus[0].unseen_bytes, 0);
	a = create(0);
	fd = export_by_descriptor(a);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(charged[0], 2 * MIB);
	close(fd);
	assert_int_equal(export_by_descriptor(b), fd); // its number stands for another's memory now
	assert_int_equal(charged[0], 0);
	assert_int_equal(charged[1], 2 * MIB);
	close(fd);
	assert_int_equal(hook_cuMemRelease(b), CUDA_SUCCESS);
	assert_int_equal(charged[1], 0);
}

static void a_mapping_of_the_original_is_seen_by_nvml(void **state)
{
	CUmemGenericAllocationHandle a = create(0);
	int fd = export_by_descriptor(a);
	(void)state;
	assert_int_equal(hook_cuMemMap(64 * MIB, 2 * MIB, 0, a, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(gpus[0].unseen_bytes, 0);
	assert_int_equal(hook_cuMemUnmap(64 * MIB, 2 * MIB), CUDA_SUCCESS);
	assert_int_equal(charged[0], 2 * MIB);
	assert_int_equal(gpus[0].unseen_bytes, 2 * MIB); // held by the descriptor alone
	close(fd);
	softmig_descriptors_look();
	assert_int_equal(charged[0], 0);
	assert_int_equal(gpus[0].unseen_bytes, 0);
}

// Of one piece mapped twice, and of another.
static void a_descriptor_over_several_mappings_holds_each_of_them_once(void **state)
{
	CUmemGenericAllocationHandle a = create(0), b = create(0), c = create(0);
	struct softmig_ended ended = {0};
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	(void)state;
	assert_int_equal(hook_cuMemMap(64 * MIB, 2 * MIB, 0, a, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(66 * MIB, 2 * MIB, 0, a, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(68 * MIB, 2 * MIB, 0, b, 0), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemMap(70 * MIB, 2 * MIB, 0, c, 0), CUDA_SUCCESS);
	assert_true(softmig_vmm_is_mapped(65 * MIB));
	assert_false(softmig_vmm_is_mapped(72 * MIB));
	softmig_vmm_export_range(65 * MIB, 5 * MIB, fd, &ended);
	assert_int_equal(hook_cuMemUnmap(64 * MIB, 8 * MIB), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(a), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(b), CUDA_SUCCESS);
	assert_int_equal(hook_cuMemRelease(c), CUDA_SUCCESS);
	assert_int_equal(charged[0], 4 * MIB);
	assert_int_equal(gpus[0].unseen_bytes, 4 * MIB);
	close(fd);
	softmig_descriptors_look();
	assert_int_equal(charged[0], 0);
	assert_int_equal(gpus[0].unseen_bytes, 0);
}

static void imports_are_counted_while_they_last(void **state)
{
	CUmemGenericAllocationHandle handle = 77;
	(void)state;
	answer = CUDA_ERROR_INVALID_VALUE;
	assert_int_equal(hook_cuMemImportFromShareableHandle(&handle, NULL, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), CUDA_ERROR_INVALID_VALUE);
	assert_int_equal(imports, 0);
	answer = CUDA_SUCCESS; // what the driver does not describe is held from now on
	assert_int_equal(hook_cuMemImportFromShareableHandle(&handle, NULL, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR), CUDA_SUCCESS);
	assert_int_equal(imports, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(what_is_bound_by_handle_is_left_to_nvml, fresh),
		cmocka_unit_test_setup(what_is_bound_by_address_is_left_to_nvml_all_of_it, fresh),
		cmocka_unit_test_setup(every_call_that_binds_an_address_counts, fresh),
		cmocka_unit_test_setup(a_binding_that_the_driver_fails_holds_nothing, fresh),
		cmocka_unit_test_setup(unbinding_asks_nvml, fresh),
		cmocka_unit_test_setup(tiles_of_sparse_arrays_hold_memory, fresh),
		cmocka_unit_test_setup(what_was_exported_is_passed_on_once_before_it_is_given_back, fresh),
		cmocka_unit_test_setup(an_open_descriptor_holds_what_nvml_shows_to_nobody, fresh),
		cmocka_unit_test_setup(a_descriptor_that_was_closed_holds_nothing, fresh),
		cmocka_unit_test_setup(a_mapping_of_the_original_is_seen_by_nvml, fresh),
		cmocka_unit_test_setup(a_descriptor_over_several_mappings_holds_each_of_them_once, fresh),
		cmocka_unit_test_setup(imports_are_counted_while_they_last, fresh),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
