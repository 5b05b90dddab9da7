// SPDX-License-Identifier: Apache-2.0
// Memory that something else keeps alive: bound to a multicast object, mapped into a sparse array. GPUs: two H200.
#include "check.h"

static CUmemGenericAllocationHandle memory(int device, size_t bytes)
{
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp prop = {
		.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
	OK(cuMemCreate(&handle, bytes, &prop, 0));
	return handle;
}

static void bound_memory_lives_until_it_is_unbound(void)
{
	CUmemGenericAllocationHandle object, a = memory(0, 4 * MIB), b = memory(1, 4 * MIB);
	CUmulticastObjectProp prop = {.numDevices = 2, .size = 8 * MIB};
	CUdeviceptr at;
	OK(cuMulticastCreate(&object, &prop));
	OK(cuMulticastAddDevice(object, 0));
	EQUAL(cuMulticastBindMem(object, 0, a, 0, 4 * MIB, 0), CUDA_ERROR_INVALID_VALUE); // a device is still missing
	OK(cuMulticastAddDevice(object, 1));
	EQUAL(cuMulticastAddDevice(object, 1), CUDA_ERROR_INVALID_VALUE);
	OK(cuMulticastBindMem(object, 0, a, 0, 4 * MIB, 0));
	OK(cuMulticastBindMem(object, 0, b, 0, 4 * MIB, 0));
	EQUAL(cuMulticastBindMem(object, 2 * MIB, a, 0, 2 * MIB, 0), CUDA_ERROR_INVALID_VALUE); // taken
	EQUAL(process_bytes(0, getpid()), 4 * MIB);
	OK(cuMemRelease(a));
	OK(cuMemRelease(b));
	EQUAL(process_bytes(0, getpid()), 4 * MIB);
	OK(cuMulticastUnbind(object, 0, 0, 8 * MIB));
	EQUAL(process_bytes(0, getpid()), 0);
	EQUAL(process_bytes(1, getpid()), 4 * MIB);
	OK(cuMemAddressReserve(&at, 8 * MIB, 0, 0, 0));
	OK(cuMemMap(at, 8 * MIB, 0, object, 0));
	OK(cuMemRelease(object));
	EQUAL(process_bytes(1, getpid()), 4 * MIB);
	OK(cuMemUnmap(at, 8 * MIB)); // the last that held the object, which held the memory
	EQUAL(process_bytes(1, getpid()), 0);
	OK(cuMemAddressFree(at, 8 * MIB));
}

static void memory_mapped_into_an_array_lives_as_long(void)
{
	CUarray array;
	CUDA_ARRAY3D_DESCRIPTOR sparse = {
		.Width = 4096, .Height = 4096, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1, .Flags = CUDA_ARRAY3D_SPARSE};
	start(0);
	size_t before = free_bytes();
	OK(cuArray3DCreate_v2(&array, &sparse));
	EQUAL(free_bytes(), before);
	CUmemGenericAllocationHandle tile = memory(0, 2 * MIB);
	CUarrayMapInfo info = {.resourceType = CU_RESOURCE_TYPE_ARRAY,
		.resource.array = array,
		.memOperationType = CU_MEM_OPERATION_TYPE_MAP,
		.memHandle.memHandle = tile,
		.deviceBitMask = 1};
	OK(cuMemMapArrayAsync(&info, 1, NULL));
	OK(cuMemRelease(tile));
	EQUAL(before - free_bytes(), 2 * MIB);
	info.memHandle.memHandle = memory(0, 4 * MIB);
	OK(cuMemMapArrayAsync(&info, 1, NULL)); // in the place of the first, which nothing holds now
	OK(cuMemRelease(info.memHandle.memHandle));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuArrayDestroy(array));
	EQUAL(free_bytes(), before);
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	OK(cuInit(0));
	bound_memory_lives_until_it_is_unbound();
	memory_mapped_into_an_array_lives_as_long();
	return 0;
}
