// SPDX-License-Identifier: Apache-2.0
// For the programs of tests/system that judge a slice from within and from without. CU(name) is the driver's function, or the hook, as a
// program would find it; outside_bytes asks NVML in another process, which has no slice. All figures are bytes.
#ifndef SOFTMIG_TESTS_SLICE_H
#define SOFTMIG_TESTS_SLICE_H
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/abi/cuda_types.h"

#include "preload/abi/cuda_functions.h"
#include "preload/gpu.h"

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static void *driver_function(const char *name)
{
	static void *driver;
	if (driver == NULL)
		driver = dlopen("libcuda.so.1", RTLD_NOW);
	void *function = driver == NULL ? NULL : dlsym(driver, name);
	if (function == NULL) {
		fprintf(stderr, "no %s in the driver\n", name);
		exit(99);
	}
	return function;
}

#define CU(name) ((__typeof__(&name))(uintptr_t)driver_function(#name))

// What each check compares, so that a failure says both.
#define EXPECT(got, wanted) expect(#got, (unsigned long long)(got), (unsigned long long)(wanted), __FILE__, __LINE__)
#define OK(call) expect(#call, (unsigned long long)(call), CUDA_SUCCESS, __FILE__, __LINE__)
#define REFUSED(call) expect(#call, (unsigned long long)(call), CUDA_ERROR_OUT_OF_MEMORY, __FILE__, __LINE__)

static void expect(const char *what, unsigned long long got, unsigned long long wanted, const char *file, int line)
{
	if (got == wanted)
		return;
	fprintf(stderr, "%s:%d: %s is %llu (%.3f MiB), not %llu (%.3f MiB)\n", file, line, what, got, (double)got / (double)MIB, wanted,
	        (double)wanted / (double)MIB);
	exit(1);
}

// The observer: programs/outside, started without the slice before the driver is touched.
static FILE *to_observer, *from_observer;

static void start_observer(const char *self)
{
	int request[2], answer[2];
	char path[4096];
	if (pipe(request) != 0 || pipe(answer) != 0)
		exit(98);
	snprintf(path, sizeof(path), "%.*s/outside", (int)(strrchr(self, '/') - self), self);
	if (fork() == 0) {
		dup2(request[0], 0);
		dup2(answer[1], 1);
		close(request[1]);
		close(answer[0]);
		unsetenv("LD_PRELOAD");
		execl(path, path, (char *)NULL);
		_exit(127);
	}
	close(request[0]);
	close(answer[1]);
	to_observer = fdopen(request[1], "w");
	from_observer = fdopen(answer[0], "r");
}

// NVML's bytes for a process on NVML's GPU of that number, as seen from outside the slice; 0: it is not in the list.
static uint64_t outside_bytes_of(pid_t pid, int gpu)
{
	unsigned long long bytes = 0;
	fprintf(to_observer, "%d %d\n", (int)pid, gpu);
	fflush(to_observer);
	if (fscanf(from_observer, "%llu", &bytes) != 1) {
		fprintf(stderr, "the observer does not answer\n");
		exit(98);
	}
	return bytes;
}

static inline uint64_t outside_bytes(int gpu)
{
	return outside_bytes_of(getpid(), gpu);
}

// What the driver takes for itself for the first streams and graphs of a context: one block.
#define FIRST_STREAM (2 * MIB)
// What a process with a context is charged beyond what NVML shows.
#define HEADROOM SOFTMIG_HEADROOM_BYTES

// What the slice says is used on the current context's GPU.
static inline uint64_t slice_bytes(void)
{
	size_t free_bytes, total_bytes;
	OK(CU(cuMemGetInfo_v2)(&free_bytes, &total_bytes));
	return total_bytes - free_bytes;
}

// The same without the headroom of this process, which nobody else shares the slice with.
static inline uint64_t inside_bytes(void)
{
	return slice_bytes() - HEADROOM;
}

static inline uint64_t limit_bytes(void)
{
	size_t total_bytes;
	OK(CU(cuMemGetInfo_v2)(NULL, &total_bytes));
	return total_bytes;
}

// A primary context on a device, made current.
static inline CUcontext use_device(CUdevice device)
{
	CUcontext context;
	OK(CU(cuInit)(0));
	OK(CU(cuDevicePrimaryCtxRetain)(&context, device));
	OK(CU(cuCtxSetCurrent)(context));
	return context;
}

static inline CUdeviceptr allocate_plain(size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAlloc_v2)(&pointer, bytes));
	return pointer;
}

static inline void release_plain(CUdeviceptr pointer)
{
	OK(CU(cuMemFree_v2)(pointer));
}

// How things stand: then the difference from there, within and without.
static uint64_t mark_inside, mark_outside;
static int mark_gpu;

static inline void mark(int gpu)
{
	mark_gpu = gpu;
	mark_inside = inside_bytes();
	mark_outside = outside_bytes(gpu);
}

// Since the mark, the slice is charged bytes more, and the driver holds bytes more.
#define GREW(bytes) \
	do { \
		EXPECT(inside_bytes() - mark_inside, (bytes)); \
		EXPECT(outside_bytes(mark_gpu) - mark_outside, (bytes)); \
	} while (0)

// The tests of a program: main runs the one that is named.
struct test {
	const char *name;
	void (*run)(void);
};

static inline int run_test(int argc, char **argv, const struct test *tests)
{
	for (; argc >= 2 && tests->name != NULL; tests++) {
		if (strcmp(tests->name, argv[1]) == 0) {
			start_observer(argv[0]);
			tests->run();
			return 0;
		}
	}
	fprintf(stderr, "no such test\n");
	return 2;
}
#endif
