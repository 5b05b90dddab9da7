// SPDX-License-Identifier: Apache-2.0
// sim-smi: the simulated GPUs seen through NVML, as nvidia-smi sees real ones. Usage: sim-smi [--json]
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "preload/abi/nvml_types.h"
// after the types
#include "preload/abi/nvml_functions.h"

#define MAX_PROCESSES 512
#define MIB 1048576.0

static int fail(const char *what, nvmlReturn_t result)
{
	fprintf(stderr, "sim-smi: %s: %s\n", what, nvmlErrorString(result));
	return 1;
}

struct view {
	char name[96], uuid[80];
	nvmlMemory_v2_t memory;
	nvmlUtilization_t use;
	unsigned count;
	nvmlProcessInfo_v2_t process[MAX_PROCESSES];
};

static nvmlReturn_t look(unsigned index, struct view *view)
{
	nvmlDevice_t device;
	nvmlReturn_t result = nvmlDeviceGetHandleByIndex_v2(index, &device);
	if (result == NVML_SUCCESS)
		result = nvmlDeviceGetName(device, view->name, sizeof(view->name));
	if (result == NVML_SUCCESS)
		result = nvmlDeviceGetUUID(device, view->uuid, sizeof(view->uuid));
	view->memory.version = nvmlMemory_v2;
	if (result == NVML_SUCCESS)
		result = nvmlDeviceGetMemoryInfo_v2(device, &view->memory);
	if (result == NVML_SUCCESS)
		result = nvmlDeviceGetUtilizationRates(device, &view->use);
	view->count = MAX_PROCESSES;
	if (result == NVML_SUCCESS)
		result = nvmlDeviceGetComputeRunningProcesses_v3(device, &view->count, view->process);
	return result;
}

static void print_json(unsigned index, const struct view *view)
{
	printf("%s\n  {\"index\": %u, \"name\": \"%s\", \"uuid\": \"%s\", \"total_bytes\": %llu, \"used_bytes\": %llu, "
		   "\"free_bytes\": %llu,"
		   " \"reserved_bytes\": %llu, \"utilization_pct\": %u, \"processes\": [",
		index > 0 ? "," : "", index, view->name, view->uuid, view->memory.total, view->memory.used, view->memory.free,
		view->memory.reserved, view->use.gpu);
	for (unsigned i = 0; i < view->count; i++)
		printf("%s{\"pid\": %u, \"used_bytes\": %llu}", i > 0 ? ", " : "", view->process[i].pid,
			view->process[i].usedGpuMemory);
	printf("]}");
}

static void print_text(unsigned index, const struct view *view)
{
	printf("GPU %u: %s (%s)\n", index, view->name, view->uuid);
	printf("  memory %.0f / %.0f MiB, utilization %u %%\n", (double)view->memory.used / MIB,
		(double)view->memory.total / MIB, view->use.gpu);
	for (unsigned i = 0; i < view->count; i++) {
		char name[64] = "-";
		nvmlSystemGetProcessName(view->process[i].pid, name, sizeof(name));
		printf("  pid %u: %.0f MiB  %s\n", view->process[i].pid, (double)view->process[i].usedGpuMemory / MIB, name);
	}
}

int main(int argc, char **argv)
{
	bool json = argc == 2 && strcmp(argv[1], "--json") == 0;
	if (argc > 1 && !json) {
		fprintf(stderr, "sim-smi: unknown argument '%s'; usage: sim-smi [--json]\n", argv[1]);
		return 2;
	}
	nvmlReturn_t result = nvmlInit_v2();
	if (result != NVML_SUCCESS)
		return fail("nvmlInit_v2", result);
	unsigned count = 0;
	result = nvmlDeviceGetCount_v2(&count);
	if (json)
		printf("{\"gpus\": [");
	for (unsigned index = 0; result == NVML_SUCCESS && index < count; index++) {
		static struct view view;
		result = look(index, &view);
		if (result != NVML_SUCCESS)
			break;
		if (json)
			print_json(index, &view);
		else
			print_text(index, &view);
	}
	if (json)
		printf("\n]}\n");
	nvmlShutdown();
	return result == NVML_SUCCESS ? 0 : fail("asking a GPU", result);
}
