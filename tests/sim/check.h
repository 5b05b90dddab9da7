// SPDX-License-Identifier: Apache-2.0
// The simulator's own tests need a C compiler and nothing else: CHECK, and children to be killed.
#ifndef SOFTMIG_SIM_CHECK_H
#define SOFTMIG_SIM_CHECK_H
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "preload/abi/cuda_types.h"
#include "preload/abi/nvml_types.h"
// after the types
#include "preload/abi/cuda_functions.h"
#include "preload/abi/nvml_functions.h"

#define MIB ((size_t)1048576)

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)
#define EQUAL(actual, expected) \
	do { \
		long long actual_ = (long long)(actual), expected_ = (long long)(expected); \
		if (actual_ != expected_) { \
			fprintf(stderr, "%s:%d: %s is %lld, not %lld (%s)\n", __FILE__, __LINE__, #actual, actual_, expected_, \
				#expected); \
			exit(1); \
		} \
	} while (0)
#define WITHIN(actual, low, high) \
	do { \
		double actual_ = (double)(actual); \
		if (actual_ < (low) || actual_ > (high)) { \
			fprintf(stderr, "%s:%d: %s is %g, not in %g..%g\n", __FILE__, __LINE__, #actual, actual_, (double)(low), \
				(double)(high)); \
			exit(1); \
		} \
	} while (0)
#define OK(call) EQUAL(call, CUDA_SUCCESS)

static inline CUcontext start(int device)
{
	CUcontext context;
	OK(cuInit(0));
	OK(cuDevicePrimaryCtxRetain(&context, device));
	OK(cuCtxSetCurrent(context));
	return context;
}

static inline size_t free_bytes(void)
{
	size_t free, total;
	OK(cuMemGetInfo_v2(&free, &total));
	return free;
}

// Bytes that NVML has on the GPU for pid; 0: pid is not there.
static inline unsigned long long process_bytes(unsigned gpu, pid_t pid)
{
	nvmlDevice_t device;
	nvmlProcessInfo_t infos[512];
	unsigned count = 512;
	EQUAL(nvmlDeviceGetHandleByIndex_v2(gpu, &device), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, infos), NVML_SUCCESS);
	for (unsigned i = 0; i < count; i++)
		if ((pid_t)infos[i].pid == pid)
			return infos[i].usedGpuMemory;
	return 0;
}

static inline unsigned long long used_bytes(unsigned gpu)
{
	nvmlDevice_t device;
	nvmlMemory_v2_t memory = {.version = nvmlMemory_v2};
	EQUAL(nvmlDeviceGetHandleByIndex_v2(gpu, &device), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetMemoryInfo_v2(device, &memory), NVML_SUCCESS);
	return memory.used;
}

static inline double seconds(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

// Runs body in a child that tells, by its exit status, whether all was well; "ready" and "go" are pipes between the
// two.
struct child {
	pid_t pid;
	int from, to;
};

static inline struct child spawn(void (*body)(int to_parent, int from_parent))
{
	int up[2], down[2];
	CHECK(pipe(up) == 0 && pipe(down) == 0);
	struct child child = {.pid = fork(), .from = up[0], .to = down[1]};
	CHECK(child.pid >= 0);
	if (child.pid == 0) {
		close(up[0]);
		close(down[1]);
		body(up[1], down[0]);
		_exit(0);
	}
	close(up[1]);
	close(down[0]);
	return child;
}

static inline void say(int to)
{
	CHECK(write(to, "x", 1) == 1);
}

static inline void hear(int from)
{
	char c;
	CHECK(read(from, &c, 1) == 1);
}

static inline int finish(struct child child)
{
	int status;
	CHECK(waitpid(child.pid, &status, 0) == child.pid);
	close(child.from);
	close(child.to);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
#endif
