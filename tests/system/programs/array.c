// SPDX-License-Identifier: Apache-2.0
// array TEST: arrays and mipmapped arrays, judged from within the slice and from without. See tests/system/array.bats.
#include "slice.h"

static CUDA_ARRAY3D_DESCRIPTOR floats(size_t width, size_t height, size_t depth, unsigned flags)
{
	return (CUDA_ARRAY3D_DESCRIPTOR){.Width = width, .Height = height, .Depth = depth, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1, .Flags = flags};
}

static CUresult try_create(size_t width, size_t height, size_t depth, unsigned flags, CUarray *array)
{
	CUDA_ARRAY3D_DESCRIPTOR descriptor = floats(width, height, depth, flags);
	return CU(cuArray3DCreate_v2)(array, &descriptor);
}

static CUarray create(size_t width, size_t height, size_t depth)
{
	CUarray array;
	OK(try_create(width, height, depth, 0, &array));
	return array;
}

static void destroy(CUarray array)
{
	OK(CU(cuArrayDestroy)(array));
}

// Within equals without, whatever the sum is.
static void agrees(void)
{
	EXPECT(inside_bytes() - mark_inside, outside_bytes(mark_gpu) - mark_outside);
}

// As measured on an H200.
static void sizes(void)
{
	static const struct {
		size_t width, height, depth, bytes;
	} seen[] = {{1000, 1000, 0, 4 * MIB}, {4096, 4096, 0, 64 * MIB}, {4097, 4097, 0, 68 * MIB}, {128, 128, 128, 8 * MIB}, {100000, 0, 0, 4 * MIB}};
	use_device(0);
	mark(0);
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
		CUarray array = create(seen[i].width, seen[i].height, seen[i].depth);
		GREW(seen[i].bytes);
		destroy(array);
		GREW(0);
	}
}

static void every_call(void)
{
	CUDA_ARRAY_DESCRIPTOR plain = {.Width = 4096, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	CUDA_ARRAY_DESCRIPTOR_v1 plain_v1 = {.Width = 4096, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	CUDA_ARRAY3D_DESCRIPTOR_v1 deep_v1 = {.Width = 4096, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1};
	CUDA_ARRAY3D_DESCRIPTOR mip = floats(2048, 2048, 0, 0);
	CUmipmappedArray mipmap;
	CUarray array[3];
	use_device(0);
	mark(0);
	OK(CU(cuArrayCreate_v2)(&array[0], &plain));
	GREW(16 * MIB);
	OK(CU(cuArrayCreate)(&array[1], &plain_v1));
	GREW(32 * MIB);
	OK(CU(cuArray3DCreate)(&array[2], &deep_v1));
	GREW(48 * MIB);
	OK(CU(cuMipmappedArrayCreate)(&mipmap, &mip, 12));
	GREW(70 * MIB);
	for (int i = 0; i < 3; i++)
		destroy(array[i]);
	GREW(22 * MIB);
	OK(CU(cuMipmappedArrayDestroy)(mipmap));
	GREW(0);
	size_t left = limit_bytes() - slice_bytes(); // each is refused by its own call
	plain.Width = plain_v1.Width = deep_v1.Width = 16384;
	plain.Height = plain_v1.Height = deep_v1.Height = 16384;
	EXPECT(left < 16384ull * 16384 * 4, 1);
	REFUSED(CU(cuArrayCreate_v2)(&array[0], &plain));
	REFUSED(CU(cuArrayCreate)(&array[1], &plain_v1));
	REFUSED(CU(cuArray3DCreate)(&array[2], &deep_v1));
	mip.Width = mip.Height = 16384;
	REFUSED(CU(cuMipmappedArrayCreate)(&mipmap, &mip, 2));
	GREW(0);
}

static void small_ones_share_blocks(void)
{
	CUarray array[200];
	use_device(0);
	mark(0);
	for (int i = 0; i < 200; i++) {
		array[i] = create(64, 64, 0);
		agrees();
	}
	GREW(14 * MIB); // 64 KiB each
	for (int i = 0; i < 200; i++) {
		destroy(array[i]);
		agrees();
	}
	GREW(0);
}

static void refused_and_recovered(void)
{
	CUarray array, one[4];
	CUdeviceptr pointer;
	use_device(0);
	mark(0);
	uint64_t left = limit_bytes() - slice_bytes();
	OK(CU(cuMemAlloc_v2)(&pointer, left - 128 * MIB));
	one[0] = create(4096, 4096, 0);
	one[1] = create(4096, 4096, 0);
	GREW(left);
	REFUSED(try_create(4096, 4096, 0, 0, &array));
	REFUSED(try_create(64, 64, 0, 0, &array)); // not even a small one
	GREW(left);
	destroy(one[0]);
	OK(try_create(4096, 4096, 0, 0, &one[0]));
	GREW(left);
	OK(CU(cuMemFree_v2)(pointer));
	GREW(128 * MIB);
}

static void later_means_later(void)
{
	CUarray array;
	use_device(0);
	mark(0);
	OK(try_create(4096, 4096, 0, CUDA_ARRAY3D_DEFERRED_MAPPING, &array));
	GREW(0);
	destroy(array);
	CUresult result = try_create(4096, 4096, 0, CUDA_ARRAY3D_SPARSE, &array);
	if (result == CUDA_SUCCESS) {
		GREW(0);
		destroy(array);
	}
	GREW(0);
}

static void gone_with_the_context(void)
{
	CUcontext first = use_device(0), second;
	mark(0);
	OK(CU(cuCtxCreate_v2)(&second, 0, 0));
	uint64_t with = outside_bytes(0);
	create(4096, 4096, 0);
	create(64, 64, 0);
	CUmipmappedArray mipmap;
	CUDA_ARRAY3D_DESCRIPTOR mip = floats(2048, 2048, 0, 0);
	OK(CU(cuMipmappedArrayCreate)(&mipmap, &mip, 12));
	EXPECT(outside_bytes(0) - with, 64 * MIB + 2 * MIB + 22 * MIB);
	OK(CU(cuCtxDestroy_v2)(second));
	OK(CU(cuCtxSetCurrent)(first));
	GREW(0);
}

// What the driver fails, or does not know, changes nothing.
static void failures(void)
{
	CUarray array;
	CUDA_ARRAY3D_DESCRIPTOR odd = floats(64, 64, 0, 0);
	use_device(0);
	mark(0);
	EXPECT(try_create(0, 0, 0, 0, &array) != CUDA_SUCCESS, 1);
	EXPECT(try_create((size_t)-1, (size_t)-1, (size_t)-1, 0, &array) != CUDA_SUCCESS, 1);
	odd.Format = (CUarray_format)0x7fffffff;
	EXPECT(CU(cuArray3DCreate_v2)(&array, &odd) != CUDA_SUCCESS, 1);
	odd = floats(64, 64, 0, 0);
	odd.NumChannels = 3;
	EXPECT(CU(cuArray3DCreate_v2)(&array, &odd) != CUDA_SUCCESS, 1);
	EXPECT(CU(cuArray3DCreate_v2)(&array, NULL) != CUDA_SUCCESS, 1);
	GREW(0);
}

static void on_the_current_gpu(void)
{
	CUcontext first = use_device(0);
	use_device(1);
	mark(1);
	CUarray array = create(4096, 4096, 0);
	GREW(64 * MIB);
	OK(CU(cuCtxSetCurrent)(first));
	uint64_t here = inside_bytes();
	EXPECT(here, outside_bytes(0));
	destroy(array); // from another context
	EXPECT(inside_bytes(), here);
	use_device(1);
	GREW(0);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"sizes", sizes}, {"every_call", every_call}, {"small_ones_share_blocks", small_ones_share_blocks},
	                                    {"refused_and_recovered", refused_and_recovered}, {"later_means_later", later_means_later},
	                                    {"gone_with_the_context", gone_with_the_context}, {"failures", failures},
	                                    {"on_the_current_gpu", on_the_current_gpu}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
