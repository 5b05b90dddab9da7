// SPDX-License-Identifier: Apache-2.0
// How functions are reached: all exports there and distinct, cuGetProcAddress by version and stream kind.
#include "check.h"

#include <dlfcn.h>

static void *ask(const char *name, int version, uint64_t flags, int status)
{
	void *address = (void *)1;
	CUdriverProcAddressQueryResult got;
	OK(cuGetProcAddress_v2(name, &address, version, flags, &got));
	EQUAL(got, status);
	return address;
}

static void every_export_is_there_with_an_address_of_its_own(const char *library, const char *list, int count)
{
	static void *seen[1024];
	void *handle = dlopen(library, RTLD_NOW);
	CHECK(handle != NULL);
	FILE *file = fopen(list, "re");
	CHECK(file != NULL);
	char name[128];
	int found = 0;
	while (fscanf(file, "%127s", name) == 1) {
		void *address = dlsym(handle, name);
		CHECK(address != NULL);
		for (int i = 0; i < found; i++)
			CHECK(seen[i] != address);
		seen[found++] = address;
	}
	fclose(file);
	EQUAL(found, count);
}

int main(int argc, char **argv)
{
	CHECK(argc == 3);
	every_export_is_there_with_an_address_of_its_own("libcuda.so.1", argv[1], 682);
	every_export_is_there_with_an_address_of_its_own("libnvidia-ml.so.1", argv[2], 404);
	if (getenv("SOFTMIG_SIM_DRIVER_VERSION") != NULL) {
		int version;
		OK(cuDriverGetVersion(&version));
		EQUAL(version, 11040);
		CHECK(ask("cuMemAllocAsync", 11020, 0, 0) == (void *)&cuMemAllocAsync);
		CHECK(ask("cuLaunchKernelEx", 11040, 0, 1) == NULL); // CUDA 11.8's
		void *address;
		EQUAL(cuGetProcAddress("cuLaunchKernelEx", &address, 11040, 0), CUDA_ERROR_NOT_FOUND);
		return 0;
	}
	CHECK(ask("cuMemAlloc", 2000, 0, 0) == (void *)&cuMemAlloc);
	CHECK(ask("cuMemAlloc", 12000, 0, 0) == (void *)&cuMemAlloc_v2);
	CHECK(ask("cuMemAlloc", 1000, 0, 2) == NULL);
	CHECK(ask("cuNoSuchThing", 12000, 0, 1) == NULL);
	CHECK(ask("cuCtxCreate", 12000, 0, 0) == (void *)&cuCtxCreate_v3);
	CHECK(ask("cuCtxCreate", 13000, 0, 0) == (void *)&cuCtxCreate_v4);
	CHECK(ask("cuMemAdvise", 13000, 0, 0) == (void *)&cuMemAdvise_v2);
	CHECK(ask("cuLaunchKernel", 7000, CU_GET_PROC_ADDRESS_LEGACY_STREAM, 0) == (void *)&cuLaunchKernel);
	CHECK(
		ask("cuLaunchKernel", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, 0) == (void *)&cuLaunchKernel_ptsz);
	CHECK(ask("cuMemcpyDtoH", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, 0) == (void *)&cuMemcpyDtoH_v2_ptds);
	CHECK(ask("cuMemAlloc", 7000, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM, 0) == (void *)&cuMemAlloc_v2);
	CHECK(ask("cuGetProcAddress", 12000, 0, 0) == (void *)&cuGetProcAddress_v2);
	void *address;
	EQUAL(cuGetProcAddress_v2("cuInit", &address, 99000, 0, NULL), CUDA_ERROR_INVALID_VALUE);
	return 0;
}
