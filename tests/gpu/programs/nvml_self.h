// SPDX-License-Identifier: Apache-2.0
// NVML's figure for the calling process, on the first GPU that it sees. Owns: that question.
#ifndef SOFTMIG_TESTS_GPU_NVML_SELF_H
#define SOFTMIG_TESTS_GPU_NVML_SELF_H
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload/abi/nvml_types.h"

// NVML's bytes for this process, 0 if it does not know it.
static inline unsigned long long nvml_bytes(void)
{
	static nvmlReturn_t (*list)(nvmlDevice_t, unsigned int *, nvmlProcessInfo_v2_t *);
	static nvmlDevice_t device;
	nvmlProcessInfo_v2_t processes[64];
	unsigned int count = 64;
	if (list == NULL) {
		void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
		nvmlReturn_t (*init)(void) = nvml ? (nvmlReturn_t (*)(void))dlsym(nvml, "nvmlInit_v2") : NULL;
		nvmlReturn_t (*find)(unsigned int, nvmlDevice_t *) =
			nvml ? (nvmlReturn_t (*)(unsigned int, nvmlDevice_t *))dlsym(nvml, "nvmlDeviceGetHandleByIndex_v2") : NULL;
		nvmlReturn_t (*by_uuid)(const char *, nvmlDevice_t *) =
			nvml ? (nvmlReturn_t (*)(const char *, nvmlDevice_t *))dlsym(nvml, "nvmlDeviceGetHandleByUUID") : NULL;
		const char *visible = getenv("CUDA_VISIBLE_DEVICES"); // NVML's numbers are not CUDA's where this is set
		if (init == NULL || find == NULL || by_uuid == NULL || init() != NVML_SUCCESS)
			return 0;
		if ((visible != NULL && strncmp(visible, "GPU-", 4) == 0 ? by_uuid(visible, &device) : find(0, &device)) != NVML_SUCCESS)
			return 0;
		list = (__typeof__(list))dlsym(nvml, "nvmlDeviceGetComputeRunningProcesses_v2");
	}
	if (list == NULL || list(device, &count, processes) != NVML_SUCCESS)
		return 0;
	for (unsigned int i = 0; i < count; i++)
		if (processes[i].pid == (unsigned)getpid())
			return processes[i].usedGpuMemory;
	return 0;
}
#endif
