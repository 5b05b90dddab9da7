// SPDX-License-Identifier: Apache-2.0
// outside: answers questions about processes' GPU memory as NVML shows it to a process without a slice. Each line of input is "PID GPU" (GPU -1:
// on all together; PID 0: in use on the GPU, whoever has them); each answer is a line with its bytes.
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "preload/abi/nvml_types.h"

#include "preload/abi/nvml_functions.h"

#define NVML(name) ((__typeof__(&name))(uintptr_t)dlsym(library, #name))

enum { PROCESSES = 1024 };

static void *library;

static unsigned long long bytes_of(unsigned pid, unsigned gpu)
{
	static nvmlProcessInfo_t list[PROCESSES];
	unsigned count = PROCESSES;
	nvmlDevice_t device;
	nvmlMemory_v2_t memory = {.version = nvmlMemory_v2};
	if (pid == 0)
		return NVML(nvmlDeviceGetHandleByIndex_v2)(gpu, &device) == NVML_SUCCESS && NVML(nvmlDeviceGetMemoryInfo_v2)(device, &memory) == NVML_SUCCESS ?
			memory.used : 0;
	if (NVML(nvmlDeviceGetHandleByIndex_v2)(gpu, &device) != NVML_SUCCESS ||
	    NVML(nvmlDeviceGetComputeRunningProcesses_v3)(device, &count, list) != NVML_SUCCESS)
		return 0;
	for (unsigned i = 0; i < count; i++)
		if (list[i].pid == pid)
			return list[i].usedGpuMemory;
	return 0;
}

int main(void)
{
	unsigned pid, gpus = 0;
	int gpu;
	library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	if (library == NULL || NVML(nvmlInit_v2)() != NVML_SUCCESS || NVML(nvmlDeviceGetCount_v2)(&gpus) != NVML_SUCCESS)
		return 1;
	while (scanf("%u %d", &pid, &gpu) == 2) {
		unsigned long long bytes = 0;
		for (unsigned i = 0; i < gpus; i++)
			bytes += gpu == -1 || gpu == (int)i ? bytes_of(pid, i) : 0;
		printf("%llu\n", bytes);
		fflush(stdout);
	}
	return 0;
}
