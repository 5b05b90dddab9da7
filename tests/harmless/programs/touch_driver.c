// SPDX-License-Identifier: Apache-2.0
// Reaches the driver and says how much memory the GPU shows, or that there is no driver: the one program of these tests in
// which the library has work to do. Made setuid, it must obey no variable.
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
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
	return 0;
}
