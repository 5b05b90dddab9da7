// SPDX-License-Identifier: Apache-2.0
// A plain driver-API program in a slice: first LIMIT_MIB. Sees the slice as a smaller GPU, is refused at its end with the
// driver's own code, frees, goes on, and computes what the CPU computes. Built three times, once per door (driver.h).
#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDeviceTotalMem_v2) X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease_v2) X(cuCtxSetCurrent) \
	X(cuMemGetInfo_v2) X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemAllocPitch_v2) X(cuMemcpyHtoD_v2) X(cuMemcpyDtoH_v2) \
	X(cuModuleLoadData) X(cuModuleGetFunction) X(cuModuleUnload) X(cuLaunchKernel) X(cuCtxSynchronize)
#include "check.h"
#include "driver.h"

#define CHUNK (256 * MIB)
#define CHUNKS 1024
#define NUMBERS (1 << 20)

static const char kernel_ptx[] =
	".version 6.0\n.target sm_60\n.address_size 64\n"
	".visible .entry scale_add(.param .u64 p_x, .param .u64 p_y, .param .u32 p_n) {\n"
	".reg .pred %p; .reg .b32 %r<6>; .reg .b64 %d<6>; .reg .f32 %f<4>;\n"
	"ld.param.u64 %d0, [p_x]; ld.param.u64 %d1, [p_y]; ld.param.u32 %r0, [p_n];\n"
	"mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %tid.x; mad.lo.s32 %r4, %r1, %r2, %r3;\n"
	"setp.ge.u32 %p, %r4, %r0; @%p ret;\n"
	"mul.wide.u32 %d2, %r4, 4; add.s64 %d3, %d0, %d2; add.s64 %d4, %d1, %d2;\n"
	"ld.global.f32 %f0, [%d3]; ld.global.f32 %f1, [%d4]; fma.rn.f32 %f2, %f0, 0f40400000, %f1; st.global.f32 [%d4], %f2; ret; }\n";

static int fill(CUdeviceptr *chunks, CUresult *refusal)
{
	int count = 0;
	while (count < CHUNKS && (*refusal = CU(cuMemAlloc_v2)(&chunks[count], CHUNK)) == CUDA_SUCCESS)
		count++;
	return count;
}

static void compute(void)
{
	static float x[NUMBERS], y[NUMBERS], expected[NUMBERS];
	for (int i = 0; i < NUMBERS; i++) {
		x[i] = (float)i / 7.0f;
		y[i] = (float)(i % 1000);
		expected[i] = (float)((double)x[i] * 3.0 + (double)y[i]);
	}
	CUdeviceptr dx = 0, dy = 0;
	CUmodule module;
	CUfunction function;
	int n = NUMBERS;
	void *parameters[] = { &dx, &dy, &n };
	bool ran = CU(cuMemAlloc_v2)(&dx, sizeof x) == CUDA_SUCCESS && CU(cuMemAlloc_v2)(&dy, sizeof y) == CUDA_SUCCESS &&
	           CU(cuMemcpyHtoD_v2)(dx, x, sizeof x) == CUDA_SUCCESS && CU(cuMemcpyHtoD_v2)(dy, y, sizeof y) == CUDA_SUCCESS &&
	           CU(cuModuleLoadData)(&module, kernel_ptx) == CUDA_SUCCESS &&
	           CU(cuModuleGetFunction)(&function, module, "scale_add") == CUDA_SUCCESS &&
	           CU(cuLaunchKernel)(function, NUMBERS / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL) == CUDA_SUCCESS &&
	           CU(cuCtxSynchronize)() == CUDA_SUCCESS && CU(cuMemcpyDtoH_v2)(y, dy, sizeof y) == CUDA_SUCCESS;
	int wrong = 0;
	for (int i = 0; i < NUMBERS; i++)
		wrong += y[i] != expected[i];
	check(ran && wrong == 0, "a kernel's results are the CPU's", "0 of %d wrong\t%s, %d wrong", NUMBERS, ran ? "ran" : "did not run", wrong);
	CU(cuMemFree_v2)(dx);
	CU(cuMemFree_v2)(dy);
	if (ran)
		CU(cuModuleUnload)(module);
}

int main(int argc, char **argv)
{
	const unsigned long long limit = strtoull(argc > 1 ? argv[1] : "4096", NULL, 10) * MIB;
	static CUdeviceptr chunks[CHUNKS];
	CUdevice device;
	CUcontext context;
	size_t total = 0, free_bytes = 0, alone = 0;
	driver_open();
	if (!check_number("cuInit", CUDA_SUCCESS, CU(cuInit)(0)) || CU(cuDeviceGet)(&device, 0) != CUDA_SUCCESS)
		return 1;
	CU(cuDeviceTotalMem_v2)(&total, device);
	check_number("cuDeviceTotalMem", limit, total);
	if (!check_number("a context", CUDA_SUCCESS, CU(cuDevicePrimaryCtxRetain)(&context, device)))
		return 1;
	CU(cuCtxSetCurrent)(context);
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	check_number("cuMemGetInfo: total", limit, total);
	check(free_bytes < total && free_bytes > total / 2, "cuMemGetInfo: free, the context charged", "(%llu, %llu)\t%zu", limit / 2, limit, free_bytes);
	check_number("cuMemGetInfo without total", CUDA_SUCCESS, CU(cuMemGetInfo_v2)(&alone, NULL));
	check_number("cuMemGetInfo without free", CUDA_SUCCESS, CU(cuMemGetInfo_v2)(NULL, &alone));
	check_number("and its total", limit, alone);

	CUresult refusal = CUDA_SUCCESS;
	int fits = (int)(free_bytes / CHUNK);
	for (int cycle = 1; cycle <= 5; cycle++) {
		char name[64];
		int count = fill(chunks, &refusal);
		snprintf(name, sizeof name, "cycle %d: chunks of 256 MiB granted, all that fit", cycle);
		check_number(name, (unsigned)fits, (unsigned)count);
		if (cycle == 1)
			check_number("refused with CUDA_ERROR_OUT_OF_MEMORY", CUDA_ERROR_OUT_OF_MEMORY, refusal);
		size_t left = 0;
		CU(cuMemGetInfo_v2)(&left, &total);
		if (cycle == 1)
			check(left < CHUNK, "free when full", "< %llu\t%zu", CHUNK, left);
		for (int i = 0; i < count; i++)
			if (CU(cuMemFree_v2)(chunks[i]) != CUDA_SUCCESS)
				check(false, "cuMemFree", "0\terror");
	}
	size_t after = 0;
	CU(cuMemGetInfo_v2)(&after, &total);
	check(after + 4 * MIB >= free_bytes, "free after the cycles", ">= %llu\t%zu", free_bytes - 4 * MIB, after);
	CUdeviceptr pointer = 0;
	check_number("one byte more than the slice", CUDA_ERROR_OUT_OF_MEMORY, CU(cuMemAlloc_v2)(&pointer, limit + 1));
	check_number("nothing at all: the driver's own answer", CUDA_ERROR_INVALID_VALUE, CU(cuMemAlloc_v2)(&pointer, 0));
	size_t pitch = 0;
	check_number("pitched with an odd element size: the driver's own answer", CUDA_ERROR_INVALID_VALUE,
	             CU(cuMemAllocPitch_v2)(&pointer, &pitch, 100, 100, 3));
	check_number("freeing what nobody allocated: the driver's own answer", CUDA_ERROR_INVALID_VALUE, CU(cuMemFree_v2)((CUdeviceptr)0x1234));
	if (getenv("SOFTMIG_TEST_SIM"))
		check_skip("a kernel's results are the CPU's", "the simulated GPU computes nothing");
	else
		compute();
	CU(cuDevicePrimaryCtxRelease_v2)(device);
	return check_failures != 0;
}
