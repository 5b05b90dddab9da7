// SPDX-License-Identifier: Apache-2.0
// Virtual memory management, arrays: what they hold and for how long. GPUs: an L40S and an H200.
#include "check.h"

static CUmemAllocationProp on(int device, CUmemAllocationHandleType types)
{
	return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED, .requestedHandleTypes = types,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device}};
}

static void physical_memory_needs_no_context_and_is_its_devices(void)
{
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp prop = on(1, CU_MEM_HANDLE_TYPE_NONE);
	size_t granularity;
	OK(cuInit(0));
	OK(cuMemGetAllocationGranularity(&granularity, &prop, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
	EQUAL(granularity, 2 * MIB);
	EQUAL(cuMemCreate(&handle, MIB, &prop, 0), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemCreate(&handle, 64 * MIB, &prop, 0));
	EQUAL(process_bytes(1, getpid()), 64 * MIB);
	EQUAL(process_bytes(0, getpid()), 0);
	OK(cuMemRelease(handle));
	EQUAL(process_bytes(1, getpid()), 0);
	EQUAL(cuMemRelease(handle + 1), CUDA_ERROR_INVALID_VALUE);
}

static void it_lives_until_released_and_unmapped(void)
{
	CUmemGenericAllocationHandle handle, again;
	CUmemAllocationProp prop = on(0, CU_MEM_HANDLE_TYPE_NONE);
	CUmemAccessDesc access = {.location = prop.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr at;
	start(0);
	size_t before = free_bytes();
	OK(cuMemAddressReserve(&at, 64 * MIB, 0, 0, 0));
	EQUAL(free_bytes(), before);
	OK(cuMemCreate(&handle, 4 * MIB, &prop, 0));
	OK(cuMemMap(at + 2 * MIB, 4 * MIB, 0, handle, 0));
	EQUAL(cuMemMap(at, 4 * MIB, 0, handle, 0), CUDA_ERROR_INVALID_VALUE); // something is mapped there
	EQUAL(cuMemsetD8_v2(at + 2 * MIB, 1, 10), CUDA_ERROR_INVALID_VALUE);  // no access yet
	OK(cuMemSetAccess(at + 2 * MIB, 4 * MIB, &access, 1));
	OK(cuMemsetD8_v2(at + 2 * MIB, 9, 4 * MIB));
	EQUAL(cuMemsetD8_v2(at + 2 * MIB, 9, 4 * MIB + 1), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemRelease(handle));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(at + 3 * MIB)));
	EQUAL(again, handle);
	OK(cuMemUnmap(at + 2 * MIB, 4 * MIB));
	EQUAL(before - free_bytes(), 4 * MIB);
	OK(cuMemMap(at, 4 * MIB, 0, again, 0));
	OK(cuMemSetAccess(at, 4 * MIB, &access, 1));
	char byte;
	OK(cuMemcpyDtoH_v2(&byte, at + 4 * MIB - 1, 1));
	EQUAL(byte, 9);
	EQUAL(cuMemAddressFree(at, 64 * MIB), CUDA_ERROR_INVALID_VALUE);
	EQUAL(cuMemUnmap(at, 2 * MIB), CUDA_ERROR_INVALID_VALUE);
	OK(cuMemUnmap(at, 4 * MIB));
	OK(cuMemRelease(again));
	EQUAL(before - free_bytes(), 0);
	OK(cuMemAddressFree(at, 64 * MIB));
}

static void arrays_hold_memory_and_bytes(void)
{
	size_t before = free_bytes();
	CUarray array, level;
	CUDA_ARRAY_DESCRIPTOR flat = {.Width = 1024, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 4};
	OK(cuArrayCreate_v2(&array, &flat));
	EQUAL(before - free_bytes(), 16 * MIB);
	static float in[64 * 4], out[64 * 4];
	for (int i = 0; i < 256; i++)
		in[i] = (float)i;
	CUDA_MEMCPY2D there = {.srcMemoryType = CU_MEMORYTYPE_HOST,
		.srcHost = in,
		.srcPitch = 256,
		.dstMemoryType = CU_MEMORYTYPE_ARRAY,
		.dstArray = array,
		.dstXInBytes = 16,
		.dstY = 1000,
		.WidthInBytes = 256,
		.Height = 4};
	CUDA_MEMCPY2D back = {.srcMemoryType = CU_MEMORYTYPE_ARRAY, .srcArray = array, .srcXInBytes = 16, .srcY = 1000,
		.dstMemoryType = CU_MEMORYTYPE_HOST, .dstHost = out, .dstPitch = 256, .WidthInBytes = 256, .Height = 4};
	OK(cuMemcpy2D_v2(&there));
	OK(cuMemcpy2D_v2(&back));
	EQUAL(memcmp(in, out, sizeof(in)), 0);
	there.dstY = 1023;
	EQUAL(cuMemcpy2D_v2(&there), CUDA_ERROR_INVALID_VALUE);
	OK(cuArrayDestroy(array));
	EQUAL(cuArrayDestroy(array), CUDA_ERROR_INVALID_HANDLE);
	EQUAL(free_bytes(), before);
	// as measured (docs/driver-facts.md)
	static const struct {
		size_t width, height, mib;
	} floats[] = {{1000, 1000, 4}, {4096, 4096, 64}, {4097, 4097, 68}, {100000, 1, 4}, {100, 100, 2}};
	for (size_t i = 0; i < sizeof(floats) / sizeof(floats[0]); i++) {
		CUDA_ARRAY_DESCRIPTOR one = {
			.Width = floats[i].width, .Height = floats[i].height, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
		OK(cuArrayCreate_v2(&array, &one));
		EQUAL(before - free_bytes(), floats[i].mib * MIB);
		OK(cuArrayDestroy(array));
	}
	CUarray small[4];
	flat.Width = flat.Height = 100;
	for (int i = 0; i < 4; i++)
		OK(cuArrayCreate_v2(&small[i], &flat));
	EQUAL(before - free_bytes(), 2 * MIB); // small arrays share a block
	for (int i = 0; i < 4; i++)
		OK(cuArrayDestroy(small[i]));
	CUDA_ARRAY3D_DESCRIPTOR twin = {.Width = 1000, .Height = 1000, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1,
		.Flags = CUDA_ARRAY3D_DEFERRED_MAPPING};
	CUDA_ARRAY_MEMORY_REQUIREMENTS needs;
	OK(cuArray3DCreate_v2(&array, &twin));
	EQUAL(free_bytes(), before);
	OK(cuArrayGetMemoryRequirements(&needs, array, 0));
	EQUAL(needs.size, 4032 * 1024);
	OK(cuArrayDestroy(array));
	CUmipmappedArray levels;
	CUDA_ARRAY3D_DESCRIPTOR square = {.Width = 2048, .Height = 2048, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	OK(cuMipmappedArrayCreate(&levels, &square, 12));
	EQUAL(before - free_bytes(), 22 * MIB);
	OK(cuMipmappedArrayDestroy(levels));
	CUDA_ARRAY3D_DESCRIPTOR solid = {
		.Width = 256, .Height = 256, .Depth = 256, .Format = CU_AD_FORMAT_UNSIGNED_INT8, .NumChannels = 4};
	CUmipmappedArray mipmap;
	OK(cuMipmappedArrayCreate(&mipmap, &solid, 3));
	EQUAL(before - free_bytes(), (64 + 8 + 2) * MIB); // 64, 8 and 1 MiB, in whole granules
	OK(cuMipmappedArrayGetLevel(&level, mipmap, 2));
	OK(cuArray3DGetDescriptor_v2(&solid, level));
	EQUAL(solid.Width, 64);
	EQUAL(cuMipmappedArrayGetLevel(&level, mipmap, 3), CUDA_ERROR_INVALID_VALUE);
	OK(cuMipmappedArrayDestroy(mipmap));
	EQUAL(free_bytes(), before);
	flat.Format = 0x7f;
	EQUAL(cuArrayCreate_v2(&array, &flat), CUDA_ERROR_INVALID_VALUE);
}

static void external_memory_is_another_view_of_what_is_there(void)
{
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp prop = on(0, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	CUexternalMemory memory;
	CUdeviceptr at;
	int fd;
	size_t before = free_bytes();
	OK(cuMemCreate(&handle, 8 * MIB, &prop, 0));
	OK(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	CUDA_EXTERNAL_MEMORY_HANDLE_DESC desc = {
		.type = CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD, .handle.fd = fd, .size = 8 * MIB};
	CUDA_EXTERNAL_MEMORY_BUFFER_DESC buffer = {.offset = 2 * MIB, .size = 4 * MIB};
	OK(cuImportExternalMemory(&memory, &desc));
	OK(cuExternalMemoryGetMappedBuffer(&at, memory, &buffer));
	OK(cuMemsetD8_v2(at, 1, 4 * MIB));
	EQUAL(before - free_bytes(), 8 * MIB);
	OK(cuMemRelease(handle));
	EQUAL(before - free_bytes(), 8 * MIB); // the importer holds it
	OK(cuMemFree_v2(at));
	OK(cuDestroyExternalMemory(memory));
	EQUAL(cuDestroyExternalMemory(memory), CUDA_ERROR_INVALID_HANDLE);
	EQUAL(free_bytes(), before);
}

int main(void)
{
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	physical_memory_needs_no_context_and_is_its_devices();
	it_lives_until_released_and_unmapped();
	arrays_hold_memory_and_bytes();
	external_memory_is_another_view_of_what_is_there();
	return 0;
}
