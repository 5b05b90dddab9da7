// SPDX-License-Identifier: Apache-2.0
// The GPUs of this node: see slice_gpus.h.
#include "cli/slice_gpus.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "preload/abi/nvml_types.h"

#include "preload/abi/nvml_functions.h"
#include "slice/limits.h"

struct nvml {
	__typeof__(&nvmlInit_v2) init;
	__typeof__(&nvmlShutdown) shutdown;
	__typeof__(&nvmlErrorString) error;
	__typeof__(&nvmlDeviceGetCount_v2) count;
	__typeof__(&nvmlDeviceGetHandleByIndex_v2) handle;
	__typeof__(&nvmlDeviceGetUUID) uuid;
	__typeof__(&nvmlDeviceGetMinorNumber) minor;
	__typeof__(&nvmlDeviceGetMemoryInfo) memory;
	__typeof__(&nvmlDeviceGetMemoryInfo_v2) memory_v2; // NULL: the driver is older than 510
};

static int load(void *library, struct nvml *nvml) {
	nvml->memory_v2 = (__typeof__(nvml->memory_v2))dlsym(library, "nvmlDeviceGetMemoryInfo_v2");
	return (nvml->init = (__typeof__(nvml->init))dlsym(library, "nvmlInit_v2")) &&
	       (nvml->shutdown = (__typeof__(nvml->shutdown))dlsym(library, "nvmlShutdown")) &&
	       (nvml->error = (__typeof__(nvml->error))dlsym(library, "nvmlErrorString")) &&
	       (nvml->count = (__typeof__(nvml->count))dlsym(library, "nvmlDeviceGetCount_v2")) &&
	       (nvml->handle = (__typeof__(nvml->handle))dlsym(library, "nvmlDeviceGetHandleByIndex_v2")) &&
	       (nvml->uuid = (__typeof__(nvml->uuid))dlsym(library, "nvmlDeviceGetUUID")) &&
	       (nvml->minor = (__typeof__(nvml->minor))dlsym(library, "nvmlDeviceGetMinorNumber")) &&
	       (nvml->memory = (__typeof__(nvml->memory))dlsym(library, "nvmlDeviceGetMemoryInfo"));
}

// What programs can have of a GPU: its memory less what the driver keeps for itself, which is what CUDA calls the total. 0: not known.
static uint64_t programs_bytes(const struct nvml *nvml, nvmlDevice_t device) {
	nvmlMemory_v2_t memory = { .version = nvmlMemory_v2 };
	if (nvml->memory_v2 != NULL && nvml->memory_v2(device, &memory) == NVML_SUCCESS)
		return memory.total > memory.reserved ? memory.total - memory.reserved : 0;
	nvmlMemory_t whole = { 0 }; // does not tell the two apart
	return nvml->memory(device, &whole) == NVML_SUCCESS ? whole.total : 0;
}

static int ask(const struct nvml *nvml, struct softmig_node_gpu *gpus, char *why, size_t why_size) {
	unsigned int count = 0;
	nvmlReturn_t error = nvml->count(&count);
	if (error != NVML_SUCCESS) {
		snprintf(why, why_size, "NVML cannot count the GPUs: %s", nvml->error(error));
		return -1;
	}
	int found = 0;
	for (unsigned int i = 0; i < count && found < SOFTMIG_NODE_GPUS; i++) {
		struct softmig_node_gpu *gpu = &gpus[found];
		nvmlDevice_t device;
		unsigned int minor;
		char uuid[96] = "";
		// A GPU that fell off the bus must not take the others' jobs with it: it is left out, and whoever asks for it is told.
		if (nvml->handle(i, &device) != NVML_SUCCESS || nvml->uuid(device, uuid, sizeof(uuid)) != NVML_SUCCESS ||
		    nvml->minor(device, &minor) != NVML_SUCCESS)
			continue;
		gpu->memory_bytes = programs_bytes(nvml, device);
		if (gpu->memory_bytes == 0 || !softmig_limits_parse_uuid(uuid, strlen(uuid), gpu->uuid))
			continue;
		gpu->minor = (int)minor;
		found++;
	}
	return found;
}

int softmig_node_gpus(struct softmig_node_gpu *gpus, char *why, size_t why_size) {
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
	if (library == NULL) {
		const char *error = dlerror();
		snprintf(why, why_size, "the driver's management library cannot be loaded: %s", error != NULL ? error : "libnvidia-ml.so.1");
		return -1;
	}
	struct nvml nvml;
	int found = -1;
	if (!load(library, &nvml)) {
		snprintf(why, why_size, "libnvidia-ml.so.1 lacks a function that every supported driver has");
	} else {
		nvmlReturn_t error = nvml.init();
		if (error != NVML_SUCCESS) {
			snprintf(why, why_size, "NVML does not start: %s", nvml.error(error));
		} else {
			found = ask(&nvml, gpus, why, why_size);
			nvml.shutdown();
		}
	}
	dlclose(library);
	return found;
}
