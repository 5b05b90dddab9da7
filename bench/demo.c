// SPDX-License-Identifier: Apache-2.0
// An ordinary GPU program, for build.sh demo: demo look says what GPU it sees; demo use also allocates up to the end of it,
// is refused, frees, and goes on. It knows nothing of slices.
#include <stdbool.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceTotalMem_v2) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuMemGetInfo_v2) \
	X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuGetErrorName)
#include "../tests/gpu/programs/driver.h"

#define PIECE (512 * MIB)
#define PIECES 512

static unsigned long long free_mib(void)
{
	size_t free_bytes = 0, total = 0;
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	return free_bytes / MIB;
}

static const char *error_name(CUresult code)
{
	const char *name = "an unknown error";
	CU(cuGetErrorName)(code, &name);
	return name;
}

// Allocates pieces until refused; returns how many.
static int use_all(CUdeviceptr *pieces)
{
	int count = 0;
	CUresult code;
	while ((code = CU(cuMemAlloc_v2)(&pieces[count], PIECE)) == CUDA_SUCCESS && ++count < PIECES)
		printf("  allocate 512 MiB: granted, %llu MiB in use by this program\n", (unsigned)count * PIECE / MIB);
	printf("  allocate 512 MiB: refused with %s (%d), %llu MiB free\n", error_name(code), (int)code, free_mib());
	return count;
}

int main(int argc, char **argv)
{
	CUdevice device;
	CUcontext context;
	char name[128];
	size_t total = 0;
	static CUdeviceptr pieces[PIECES];
	bool use = argc > 1 && strcmp(argv[1], "use") == 0;
	driver_open();
	CUresult code = CU(cuInit)(0);
	if (code != CUDA_SUCCESS || CU(cuDeviceGet)(&device, 0) != CUDA_SUCCESS)
		return fprintf(stderr, "demo: the GPU cannot be used: %s\n", error_name(code)), 1;
	CU(cuDeviceGetName)(name, sizeof name, device);
	CU(cuDeviceTotalMem_v2)(&total, device);
	printf("  GPU 0: %s, %llu MiB in total\n", name, total / MIB);
	if (!use)
		return 0;
	if ((code = CU(cuDevicePrimaryCtxRetain)(&context, device)) != CUDA_SUCCESS)
		return fprintf(stderr, "demo: no context: %s\n", error_name(code)), 1;
	CU(cuCtxSetCurrent)(context);
	printf("  %llu MiB free beside the program's own context\n", free_mib());
	int first = use_all(pieces);
	printf("  free all of it\n");
	for (int i = 0; i < first; i++)
		CU(cuMemFree_v2)(pieces[i]);
	printf("  %llu MiB free\n", free_mib());
	int again = use_all(pieces);
	bool recovered = first > 0 && again == first;
	printf("  recovered: %s\n", recovered ? "yes, the same memory was granted again" : "no");
	return recovered ? 0 : 1;
}
