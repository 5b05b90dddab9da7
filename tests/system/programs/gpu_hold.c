// SPDX-License-Identifier: Apache-2.0
// gpu_hold MIB[,MIB...] -- CMD [ARGUMENT]...: holds memory on the first GPU, one allocation per figure, while CMD runs. Prints the
// driver's answer to each allocation, in a line. Ends with CMD's status, 100 if the driver cannot be used at all.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *driver;

static int call_device(const char *name, int *device)
{
	int (*function)(int *, int) = (int (*)(int *, int))(uintptr_t)dlsym(driver, name);
	return function ? function(device, 0) : 999;
}

static int make_context(void)
{
	int device = 0;
	void *context = NULL;
	int (*init)(unsigned) = (int (*)(unsigned))(uintptr_t)dlsym(driver, "cuInit");
	int (*retain)(void **, int) = (int (*)(void **, int))(uintptr_t)dlsym(driver, "cuDevicePrimaryCtxRetain");
	int (*set_current)(void *) = (int (*)(void *))(uintptr_t)dlsym(driver, "cuCtxSetCurrent");
	if (!init || !retain || !set_current)
		return 999;
	int answer = init(0);
	if (answer == 0)
		answer = call_device("cuDeviceGet", &device);
	if (answer == 0)
		answer = retain(&context, device);
	return answer == 0 ? set_current(context) : answer;
}

int main(int argc, char **argv)
{
	if (argc < 4 || strcmp(argv[2], "--") != 0)
		return 2;
	driver = dlopen("libcuda.so.1", RTLD_NOW);
	int (*allocate)(uint64_t *, size_t) = driver ? (int (*)(uint64_t *, size_t))(uintptr_t)dlsym(driver, "cuMemAlloc_v2") : NULL;
	int answer = allocate ? make_context() : 999;
	if (answer != 0) {
		fprintf(stderr, "gpu_hold: no GPU, the driver says %d\n", answer);
		return 100;
	}
	for (char *figure = strtok(argv[1], ","); figure; figure = strtok(NULL, ",")) {
		uint64_t address;
		printf("%d ", allocate(&address, (size_t)strtoul(figure, NULL, 10) << 20));
	}
	putchar('\n');
	fflush(stdout);
	int status = 0;
	pid_t pid = fork();
	if (pid == 0) {
		execvp(argv[3], argv + 3);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
