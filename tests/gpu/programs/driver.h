// SPDX-License-Identifier: Apache-2.0
// How a test program reaches the driver: one of the three doors that programs use. Owns: looking up the functions that
// the program lists. DOOR_LINK: linked with -lcuda; DOOR_PROC: cuGetProcAddress; otherwise dlopen and dlsym.
// A program defines DRIVER_FUNCTIONS(X) with X(exact exported name) for each, then calls CU(name)(...).
#ifndef SOFTMIG_TESTS_GPU_DRIVER_H
#define SOFTMIG_TESTS_GPU_DRIVER_H
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload/abi/cuda_types.h"
#include "preload/abi/cuda_functions.h"

#define MIB (1024ull * 1024)

// Device 0 with its primary context, and a module of the simulated driver's kernels.
#define START(context, module) \
	do { \
		CUdevice device_; \
		driver_open(); \
		CHECK(CU(cuInit)(0)); \
		CHECK(CU(cuDeviceGet)(&device_, 0)); \
		CHECK(CU(cuDevicePrimaryCtxRetain)(&(context), device_)); \
		CHECK(CU(cuCtxSetCurrent)(context)); \
		CHECK(CU(cuModuleLoadData)(&(module), "image")); \
	} while (0)

// For programs that end at the driver's first error.
#define CHECK(call) \
	do { \
		CUresult code_ = (call); \
		if (code_ != CUDA_SUCCESS) { \
			fprintf(stderr, "%s: %d\n", #call, (int)code_); \
			exit(1); \
		} \
	} while (0)

#ifdef DOOR_LINK
#define CU(name) name
static inline void driver_open(void)
{
}
#else
#define CU(name) (*driver_##name)
#define X(name) static __typeof__(&name) driver_##name;
DRIVER_FUNCTIONS(X)
#undef X

#ifdef DOOR_PROC
// cuGetProcAddress takes the name without its version and finds the version that CUDA 12.0 means by it.
static inline void *driver_find(void *library, const char *name)
{
	CUresult (*get_v2)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) =
		(__typeof__(get_v2))dlsym(library, "cuGetProcAddress_v2");
	char base[128];
	snprintf(base, sizeof base, "%s", name);
	size_t length = strlen(base);
	if (length > 3 && base[length - 3] == '_' && base[length - 2] == 'v')
		base[length - 3] = '\0';
	void *function = NULL;
	CUdriverProcAddressQueryResult status;
	if (get_v2 == NULL || get_v2(base, &function, 12000, 0, &status) != CUDA_SUCCESS)
		return NULL;
	return function;
}
#else
static inline void *driver_find(void *library, const char *name)
{
	return dlsym(library, name);
}
#endif

static inline void driver_open(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	if (library == NULL) {
		fprintf(stderr, "no driver: %s\n", dlerror());
		exit(77);
	}
#define X(name) \
	driver_##name = (__typeof__(driver_##name))driver_find(library, #name); \
	if (driver_##name == NULL) \
		fprintf(stderr, "the driver has no %s\n", #name), exit(77);
	DRIVER_FUNCTIONS(X)
#undef X
}
#endif
#endif
