// SPDX-License-Identifier: Apache-2.0
// Reaches the driver and says how much memory the GPU shows, or that there is no driver: the one program of these tests in
// which the library has work to do. Made setuid, it must obey no variable.
// touch_driver MIB [FILE]: also takes so much and says what is free beside it; then waits until FILE is gone and says it again.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *library;

static size_t free_mib(void)
{
	int (*info)(size_t *, size_t *) = (__typeof__(info))dlsym(library, "cuMemGetInfo_v2");
	size_t free_bytes = 0;
	info(&free_bytes, NULL);
	return free_bytes >> 20;
}

static int hold(int device, size_t mib, const char *file)
{
	int (*retain)(void **, int) = (__typeof__(retain))dlsym(library, "cuDevicePrimaryCtxRetain");
	int (*current)(void *) = (__typeof__(current))dlsym(library, "cuCtxSetCurrent");
	int (*allocate)(unsigned long long *, size_t) = (__typeof__(allocate))dlsym(library, "cuMemAlloc_v2");
	unsigned long long pointer = 0;
	void *context = NULL;
	int code = retain(&context, device);
	code = code ? code : current(context);
	code = code ? code : allocate(&pointer, mib << 20);
	printf("took %zu MiB: %d, %zu MiB free\n", mib, code, free_mib());
	fflush(stdout);
	while (file != NULL && access(file, F_OK) == 0)
		usleep(20000);
	if (file != NULL)
		printf("%zu MiB free\n", free_mib());
	return 0;
}

int main(int argc, char **argv)
{
	library = dlopen("libcuda.so.1", RTLD_NOW);
	if (library == NULL)
		return printf("no driver\n"), 0;
	int (*init)(unsigned) = (__typeof__(init))dlsym(library, "cuInit");
	int (*get)(int *, int) = (__typeof__(get))dlsym(library, "cuDeviceGet");
	int (*total)(size_t *, int) = (__typeof__(total))dlsym(library, "cuDeviceTotalMem_v2");
	int device = -1;
	size_t bytes = 0;
	int code = init(0);
	code = code ? code : get(&device, 0);
	code = code ? code : total(&bytes, device);
	printf("code %d, %zu MiB, privileged %d\n", code, bytes >> 20, geteuid() != getuid());
	return argc > 1 && code == 0 ? hold(device, strtoul(argv[1], NULL, 10), argc > 2 ? argv[2] : NULL) : 0;
}
