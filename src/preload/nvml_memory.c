// SPDX-License-Identifier: Apache-2.0
// The smaller GPU, as NVML tells it (nvidia-smi's memory column is nvmlDeviceGetMemoryInfo_v2): total is the slice's, used the
// job's. Each version has its own record.
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/visible.h"
#include "slice/limits.h"

// The slice's total and used memory on an NVML device. False: the device is no part of the slice, or has no memory limit.
static bool sliced(nvmlDevice_t device, uint64_t *total_bytes, uint64_t *used_bytes)
{
	char name[NVML_DEVICE_UUID_V2_BUFFER_SIZE];
	uint8_t uuid[16];
	unsigned int index;
	int entry;

	if (!SOFTMIG_HAS(nvmlDeviceGetUUID) || DRIVER(nvmlDeviceGetUUID)(device, name, sizeof(name)) != NVML_SUCCESS)
		return false;
	if (!softmig_limits_parse_uuid(name, strlen(name), uuid))
		return false;
	if (!SOFTMIG_HAS(nvmlDeviceGetIndex) || DRIVER(nvmlDeviceGetIndex)(device, &index) != NVML_SUCCESS)
		return false;
	const char *visible = getauxval(AT_SECURE) ? NULL : getenv("CUDA_VISIBLE_DEVICES");
	uint64_t limit = softmig_gpu_limit_of(uuid, softmig_visible_number(visible, index, name), &entry);
	if (entry < 0 || limit == UINT64_MAX)
		return false;
	softmig_descriptors_look();
	int ledger = softmig_ledger_gpu(softmig_ledger_now(), uuid);
	*total_bytes = limit;
	*used_bytes = ledger < 0 ? 0 : softmig_ledger_used(softmig_ledger_now(), ledger);
	if (*used_bytes > limit)
		*used_bytes = limit; // a limit lowered below what is used: NVML's records have no room for less than nothing free
	return true;
}

nvmlReturn_t hook_nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetMemoryInfo)(device, memory);
	uint64_t total, used;

	if (result == NVML_SUCCESS && sliced(device, &total, &used) && total < memory->total) {
		memory->free = memory->free < total - used ? memory->free : total - used;
		memory->total = total;
		memory->used = used;
	}
	return result;
}

nvmlReturn_t hook_nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetMemoryInfo_v2)(device, memory);
	uint64_t total, used;

	if (result == NVML_SUCCESS && sliced(device, &total, &used) && total < memory->total) {
		memory->free = memory->free < total - used ? memory->free : total - used;
		memory->total = total;
		memory->used = used;
		memory->reserved = 0; // the driver's own reserve is outside the slice
	}
	return result;
}
