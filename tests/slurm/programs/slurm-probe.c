// SPDX-License-Identifier: Apache-2.0
// What a process of a job sees of the GPUs, through the driver's own names.
//   slurm-probe              "gpus N", then a line "gpu I UUID TOTAL_MIB FREE_MIB" for each; "none ERROR" where there are none
//   slurm-probe fill         takes memory of GPU 0 in pieces of 64 MiB until refused: "got MIB ERROR"
//   slurm-probe hold MIB FILE  takes MIB of GPU 0 ("held" or "refused ERROR"), stays until FILE exists, then ends
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload/abi/cuda_types.h"

#include "preload/abi/cuda_functions.h"

#define DRIVER(name) ((__typeof__(&name))find(#name))

static void *driver;

static void *find(const char *name)
{
	void *function = dlsym(driver, name);
	if (function == NULL) {
		printf("none %s\n", name);
		exit(1);
	}
	return function;
}

static int see(void)
{
	int count = 0;
	CUresult error = DRIVER(cuDeviceGetCount)(&count);
	if (error != CUDA_SUCCESS || count == 0) {
		printf("none %d\n", (int)error);
		return 0;
	}
	printf("gpus %d\n", count);
	for (int i = 0; i < count; i++) {
		CUdevice device;
		CUuuid uuid;
		CUcontext context;
		size_t total = 0, size = 0, free_bytes = 0;
		if ((error = DRIVER(cuDeviceGet)(&device, i)) != CUDA_SUCCESS ||
		    (error = DRIVER(cuDeviceGetUuid)(&uuid, device)) != CUDA_SUCCESS ||
		    (error = DRIVER(cuDeviceTotalMem_v2)(&size, device)) != CUDA_SUCCESS ||
		    (error = DRIVER(cuDevicePrimaryCtxRetain)(&context, device)) != CUDA_SUCCESS ||
		    (error = DRIVER(cuCtxSetCurrent)(context)) != CUDA_SUCCESS ||
		    (error = DRIVER(cuMemGetInfo_v2)(&free_bytes, &total)) != CUDA_SUCCESS) {
			printf("gpu %d error %d\n", i, (int)error);
			continue;
		}
		printf("gpu %d GPU-", i);
		for (int byte = 0; byte < 16; byte++)
			printf("%s%02x", byte == 4 || byte == 6 || byte == 8 || byte == 10 ? "-" : "", (unsigned char)uuid.bytes[byte]);
		printf(" %zu %zu%s\n", size >> 20, free_bytes >> 20, size == total ? "" : " (cuMemGetInfo disagrees)");
	}
	return 0;
}

static void begin(void)
{
	CUcontext context;
	CUresult error = DRIVER(cuDevicePrimaryCtxRetain)(&context, 0);
	if (error == CUDA_SUCCESS)
		error = DRIVER(cuCtxSetCurrent)(context);
	if (error != CUDA_SUCCESS) {
		printf("refused %d\n", (int)error);
		exit(0);
	}
}

static int fill(void)
{
	size_t got = 0;
	CUdeviceptr pointer;
	CUresult error;
	begin();
	while ((error = DRIVER(cuMemAlloc_v2)(&pointer, (size_t)64 << 20)) == CUDA_SUCCESS)
		got += 64;
	printf("got %zu %d\n", got, (int)error);
	return 0;
}

static int hold(size_t mib, const char *until)
{
	CUdeviceptr pointer;
	begin();
	CUresult error = DRIVER(cuMemAlloc_v2)(&pointer, mib << 20);
	if (error == CUDA_SUCCESS)
		printf("held\n");
	else
		printf("refused %d\n", (int)error);
	fflush(stdout);
	for (int tenths = 0; tenths < 600 && access(until, F_OK) != 0; tenths++)
		usleep(100000);
	return 0;
}

int main(int argc, char **argv)
{
	driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
	if (driver == NULL) {
		printf("none %s\n", dlerror());
		return 1;
	}
	CUresult error = DRIVER(cuInit)(0);
	if (error != CUDA_SUCCESS) {
		printf("none %d\n", (int)error);
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "fill") == 0)
		return fill();
	if (argc == 4 && strcmp(argv[1], "hold") == 0)
		return hold(strtoul(argv[2], NULL, 10), argv[3]);
	return see();
}
