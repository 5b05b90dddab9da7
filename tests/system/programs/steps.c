// SPDX-License-Identifier: Apache-2.0
// steps STEP...: does one driver step after another and prints one line "STEP: figures" for each. What the system tests run in
// slices. Driver API by dlopen; first argument "proc" takes the functions from cuGetProcAddress instead of dlsym.
//   init count device:N ctx total:N info alloc:BYTES[k|M|G] managed:SIZE pitch:WIDTHxHEIGHTxELEMENT free:N freeall reset
//   nvml:N (memory v1 and v2 of NVML device N) pids:N (compute processes, v1 v2 v3) wait (a line on stdin) sleep:MS
//   fork (a child that asks the driver) own (are the pointers the driver's own?) uuid:N
#include <dlfcn.h>
#include <link.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "preload/abi/cuda_types.h"
#include "preload/abi/nvml_types.h"

#include "preload/abi/cuda_functions.h"
#include "preload/abi/nvml_functions.h"

static void *cuda, *nvml;
static bool by_proc_address;

static void *find(const char *name)
{
	CUresult (*get)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *) =
		(__typeof__(get))dlsym(cuda, "cuGetProcAddress_v2");
	CUdriverProcAddressQueryResult status;
	char base[64];
	void *found = NULL;

	if (!by_proc_address)
		return dlsym(cuda, name);
	snprintf(base, sizeof(base), "%s", name);
	if (strlen(base) > 3 && strcmp(base + strlen(base) - 3, "_v2") == 0)
		base[strlen(base) - 3] = '\0';
	return get(base, &found, 12000, 0, &status) == CUDA_SUCCESS ? found : NULL;
}

#define CU(name) ((__typeof__(&name))find(#name))
#define NV(name) ((__typeof__(&name))dlsym(nvml, #name))

static size_t size_of(const char *text)
{
	char *end;
	size_t value = strtoull(text, &end, 10);
	return *end == 'k' ? value << 10 : *end == 'M' ? value << 20 : *end == 'G' ? value << 30 : value;
}

static CUdeviceptr held[4096];
static int held_count;

static void keep(CUresult result, CUdeviceptr pointer)
{
	if (result == CUDA_SUCCESS && held_count < 4096)
		held[held_count++] = pointer;
	printf("%d\n", result);
}

static bool nvml_open(int index, nvmlDevice_t *device)
{
	if (nvml == NULL)
		nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	return nvml != NULL && NV(nvmlInit_v2)() == NVML_SUCCESS &&
	       NV(nvmlDeviceGetHandleByIndex_v2)((unsigned int)index, device) == NVML_SUCCESS;
}

static void nvml_memory(int index)
{
	nvmlDevice_t device;
	nvmlMemory_t one;
	nvmlMemory_v2_t two = {.version = nvmlMemory_v2};

	if (!nvml_open(index, &device) || NV(nvmlDeviceGetMemoryInfo)(device, &one) != NVML_SUCCESS ||
	    NV(nvmlDeviceGetMemoryInfo_v2)(device, &two) != NVML_SUCCESS) {
		printf("failed\n");
		return;
	}
	printf("%llu %llu %llu, %llu %llu %llu\n", one.total >> 20, one.used >> 20, one.free >> 20, two.total >> 20,
	       two.used >> 20, two.free >> 20);
}

static void nvml_pids(int index)
{
	nvmlDevice_t device;
	nvmlProcessInfo_v1_t one[64];
	nvmlProcessInfo_t two[64], three[64];
	unsigned int n1 = 64, n2 = 64, n3 = 64, none = 0;

	if (!nvml_open(index, &device)) {
		printf("failed\n");
		return;
	}
	nvmlReturn_t query = NV(nvmlDeviceGetComputeRunningProcesses_v3)(device, &none, NULL);
	NV(nvmlDeviceGetComputeRunningProcesses)(device, &n1, one);
	NV(nvmlDeviceGetComputeRunningProcesses_v2)(device, &n2, two);
	NV(nvmlDeviceGetComputeRunningProcesses_v3)(device, &n3, three);
	printf("size %d %u, v1", query, none);
	for (unsigned int i = 0; i < n1; i++)
		printf(" %u=%llu", one[i].pid, one[i].usedGpuMemory >> 20);
	printf(", v2");
	for (unsigned int i = 0; i < n2; i++)
		printf(" %u=%llu", two[i].pid, two[i].usedGpuMemory >> 20);
	printf(", v3");
	for (unsigned int i = 0; i < n3; i++)
		printf(" %u=%llu", three[i].pid, three[i].usedGpuMemory >> 20);
	printf("\n");
}

static const char *owner(void *address)
{
	Dl_info info;
	const char *name = address != NULL && dladdr(address, &info) != 0 ? strrchr(info.dli_fname, '/') : NULL;
	return name == NULL ? "nobody" : name + 1;
}

static void step(const char *name, const char *argument)
{
	CUcontext context;
	CUdeviceptr pointer = 0;
	size_t a = 0, b = 0;
	CUresult result;
	int number = atoi(argument);

	if (strcmp(name, "init") == 0) {
		printf("%d\n", CU(cuInit)(0));
	} else if (strcmp(name, "count") == 0) {
		result = CU(cuDeviceGetCount)(&number);
		printf("%d %d\n", result, number);
	} else if (strcmp(name, "ctx") == 0) {
		result = CU(cuDevicePrimaryCtxRetain)(&context, number);
		printf("%d\n", result == CUDA_SUCCESS ? CU(cuCtxSetCurrent)(context) : result);
	} else if (strcmp(name, "newctx") == 0) {
		printf("%d\n", CU(cuCtxCreate_v2)(&context, 0, number));
	} else if (strcmp(name, "reset") == 0) {
		printf("%d\n", CU(cuDevicePrimaryCtxReset_v2)(number));
	} else if (strcmp(name, "release") == 0) {
		printf("%d\n", CU(cuDevicePrimaryCtxRelease_v2)(number));
	} else if (strcmp(name, "total") == 0) {
		result = CU(cuDeviceTotalMem_v2)(&a, number);
		printf("%d %zu\n", result, a >> 20);
	} else if (strcmp(name, "info") == 0) {
		result = CU(cuMemGetInfo_v2)(&a, &b);
		printf("%d %zu %zu, null %d %d %d\n", result, a >> 20, b >> 20, CU(cuMemGetInfo_v2)(NULL, &b),
		       CU(cuMemGetInfo_v2)(&a, NULL), CU(cuMemGetInfo_v2)(NULL, NULL));
	} else if (strcmp(name, "alloc") == 0) {
		result = CU(cuMemAlloc_v2)(&pointer, size_of(argument));
		keep(result, pointer);
	} else if (strcmp(name, "managed") == 0) {
		result = CU(cuMemAllocManaged)(&pointer, size_of(argument), 1);
		keep(result, pointer);
	} else if (strcmp(name, "pitch") == 0) {
		unsigned int width, height, element;
		sscanf(argument, "%ux%ux%u", &width, &height, &element);
		result = CU(cuMemAllocPitch_v2)(&pointer, &a, width, height, element);
		keep(result, pointer);
	} else if (strcmp(name, "free") == 0) {
		printf("%d\n", CU(cuMemFree_v2)(held[number]));
		held[number] = 0;
	} else if (strcmp(name, "freeunknown") == 0) {
		printf("%d\n", CU(cuMemFree_v2)(0x1234500));
	} else if (strcmp(name, "freeall") == 0) {
		for (number = 0, result = CUDA_SUCCESS; number < held_count && result == CUDA_SUCCESS; number++)
			result = held[number] == 0 ? CUDA_SUCCESS : CU(cuMemFree_v2)(held[number]);
		held_count = 0;
		printf("%d\n", result);
	} else if (strcmp(name, "nvml") == 0) {
		nvml_memory(number);
	} else if (strcmp(name, "pids") == 0) {
		nvml_pids(number);
	} else if (strcmp(name, "own") == 0) {
		printf("%s %s %s\n", owner(dlsym(cuda, "cuMemAlloc_v2")), owner(CU(cuMemAlloc_v2)), owner(CU(cuLaunchKernel)));
	} else if (strcmp(name, "fork") == 0) {
		fflush(stdout);
		pid_t child = fork();
		if (child == 0) {
			int code = (int)CU(cuMemAlloc_v2)(&pointer, 4096);
			_exit(code > 100 ? 100 : code);
		}
		waitpid(child, &number, 0);
		printf("%d\n", WEXITSTATUS(number));
	} else if (strcmp(name, "wait") == 0) {
		char line[16];
		printf("%s\n", fgets(line, sizeof(line), stdin) != NULL ? "went on" : "end of input");
	} else if (strcmp(name, "sleep") == 0) {
		usleep((useconds_t)number * 1000);
		printf("slept\n");
	} else {
		printf("unknown step\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	int first = 1;

	if (argc > 1 && strcmp(argv[1], "proc") == 0) {
		by_proc_address = true;
		first = 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	cuda = dlopen("libcuda.so.1", RTLD_NOW);
	if (cuda == NULL) {
		fprintf(stderr, "%s\n", dlerror());
		return 77;
	}
	for (int i = first; i < argc; i++) {
		char name[32] = "";
		const char *colon = strchr(argv[i], ':');
		snprintf(name, sizeof(name), "%.*s", (int)(colon ? colon - argv[i] : (long)strlen(argv[i])), argv[i]);
		printf("%s: ", argv[i]);
		step(name, colon ? colon + 1 : "0");
	}
	return 0;
}
