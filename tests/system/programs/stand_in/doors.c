// SPDX-License-Identifier: Apache-2.0
// doors: the MiB of GPU 0 by every door to the driver that a program has beside a library in the driver's place: the function that
// comes next (the driver's own), the one it is linked with (and one launch that comes to nothing), the one that it gets by opening
// the driver, and the next one again. "doors close PATH": opens the driver by the library at PATH, and closes both.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "preload/abi/cuda_types.h"
// after the types
#include "preload/abi/cuda_functions.h"

static void say(const char *door, void *function)
{
	size_t bytes = 0;
	CUresult result = function != NULL ? ((__typeof__(&cuDeviceTotalMem_v2))function)(&bytes, 0) : CUDA_ERROR_NOT_FOUND;
	printf("%s %d %zu\n", door, result, bytes >> 20);
}

int main(int argc, char **argv)
{
	void *closed = NULL, *(*open_driver)(const char *, int) = dlopen;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 3 && strcmp(argv[1], "close") == 0) {
		closed = dlopen(argv[2], RTLD_NOW);
		open_driver = (void *(*)(const char *, int))dlsym(closed, "dlopen");
	}
	if (((__typeof__(&cuInit))dlsym(RTLD_NEXT, "cuInit"))(0) != CUDA_SUCCESS || open_driver == NULL)
		return 1;
	say("next", dlsym(RTLD_NEXT, "cuDeviceTotalMem_v2"));
	say("linked", (void *)cuDeviceTotalMem_v2);
	cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL);
	void *cuda = open_driver("libcuda.so.1", RTLD_NOW);
	say("opened", dlsym(cuda, "cuDeviceTotalMem_v2"));
	if (closed != NULL) {
		dlclose(cuda);
		dlclose(closed);
		printf("closed %d\n", dlopen(argv[2], RTLD_NOW | RTLD_NOLOAD) == NULL);
	}
	say("next", dlsym(RTLD_NEXT, "cuDeviceTotalMem_v2"));
	return 0;
}
