// SPDX-License-Identifier: Apache-2.0
// NVML: memory of a GPU and of its processes, as the driver accounts it.
#include <string.h>
#include <stdlib.h>

#include "nvml.h"

static uint64_t used_now(int index)
{
	sim_lock();
	sim_reap();
	uint64_t used = sim_gpu_used(index);
	sim_unlock();
	return used;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	NVML_DEVICE(device);
	if (memory == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	uint64_t used = used_now(index) + gpu->reserved_bytes; // the first version counts what is reserved as used
	memory->total = gpu->total_bytes;
	memory->used = used;
	memory->free = gpu->total_bytes - used;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	NVML_DEVICE(device);
	if (memory == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (memory->version != nvmlMemory_v2)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	uint64_t used = used_now(index);
	memory->total = gpu->total_bytes;
	memory->reserved = gpu->reserved_bytes;
	memory->used = used;
	memory->free = gpu->total_bytes - gpu->reserved_bytes - used;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory)
{
	NVML_DEVICE(device);
	if (bar1Memory == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	bar1Memory->bar1Total = gpu->total_bytes;
	bar1Memory->bar1Used = SIM_MIB;
	bar1Memory->bar1Free = gpu->total_bytes - SIM_MIB;
	return NVML_SUCCESS;
}

// --- processes

struct seen {
	unsigned pid;
	uint64_t bytes;
};

// The processes with a context on this GPU, or memory of it; returns how many.
static unsigned look(int index, struct seen seen[SIM_PROCESSES])
{
	unsigned count = 0;
	sim_lock();
	sim_reap();
	for (int slot = 0; slot < SIM_PROCESSES; slot++) {
		const struct sim_process *process = &sim_state->process[slot];
		if (process->pid == 0 || (process->contexts[index] == 0 && process->used_bytes[index] == 0))
			continue;
		int pid = sim_process_pid(slot);
		if (pid == 0)
			continue; // of a PID namespace that the host has not looked into: the driver reports nothing of it
		seen[count].pid = (unsigned)pid;
		seen[count].bytes = process->used_bytes[index];
		count++;
	}
	sim_unlock();
	return count;
}

static bool faulty(const char *what)
{
	const char *faults = getenv("SOFTMIG_SIM_FAULT");
	return faults != NULL && strstr(faults, what) != NULL;
}

static bool no_processes(void)
{
	return faulty("nvml:noprocs");
}

// Each version has records of its own size; none of a later version may be written into an earlier caller's array.
static nvmlReturn_t compute_processes(nvmlDevice_t device, unsigned *count, void *infos, int version)
{
	NVML_DEVICE(device);
	if (count == NULL || (*count > 0 && infos == NULL))
		return NVML_ERROR_INVALID_ARGUMENT;
	if (faulty("nvml:unsupported"))
		return NVML_ERROR_NOT_SUPPORTED;
	struct seen seen[SIM_PROCESSES];
	unsigned there = no_processes() ? 0 : look(index, seen), room = *count;
	*count = there;
	if (there > room)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < there; i++) {
		if (version == 1)
			((nvmlProcessInfo_v1_t *)infos)[i] =
				(nvmlProcessInfo_v1_t){.pid = seen[i].pid, .usedGpuMemory = seen[i].bytes};
		else
			((nvmlProcessInfo_v2_t *)infos)[i] = (nvmlProcessInfo_v2_t){.pid = seen[i].pid,
				.usedGpuMemory = seen[i].bytes,
				.gpuInstanceId = 0xffffffffu,
				.computeInstanceId = 0xffffffffu};
	}
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(
	nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
	return compute_processes(device, infoCount, infos, 1);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(
	nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
	return compute_processes(device, infoCount, infos, 2);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(
	nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
	return compute_processes(device, infoCount, infos, 3);
}

static nvmlReturn_t nobody(nvmlDevice_t device, unsigned *count)
{
	NVML_DEVICE(device);
	if (count == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*count = 0;
	return NVML_SUCCESS;
}

#define NOBODY(name, type) \
	nvmlReturn_t name(nvmlDevice_t device, unsigned int *infoCount, type *infos) \
	{ \
		(void)infos; \
		return nobody(device, infoCount); \
	}
NOBODY(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
NOBODY(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

nvmlReturn_t nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *plist)
{
	NVML_DEVICE(device);
	if (plist == NULL || plist->mode > 2)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (plist->version != nvmlProcessDetailList_v1)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	struct seen seen[SIM_PROCESSES];
	unsigned there = plist->mode == 0 && !no_processes() ? look(index, seen) : 0, room = plist->numProcArrayEntries;
	plist->numProcArrayEntries = there;
	if (there > room || (there > 0 && plist->procArray == NULL))
		return NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < there; i++)
		plist->procArray[i] = (nvmlProcessDetail_v1_t){.pid = seen[i].pid,
			.usedGpuMemory = seen[i].bytes,
			.gpuInstanceId = 0xffffffffu,
			.computeInstanceId = 0xffffffffu,
			.usedGpuCcProtectedMemory = 0};
	return NVML_SUCCESS;
}
