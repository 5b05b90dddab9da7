// SPDX-License-Identifier: Apache-2.0
// NVML's process lists show the slice's own processes. Each version has its own record, and some drivers wrote longer records in _v3
// than their header says (preload/abi/nvml_types.h), so a record's length is found from what the driver writes.
// Owns: filtering lists of records that begin with, or contain, a pid.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/hook.h"
#include "preload/own.h"

enum { MAX_RECORDS = 4096, MAX_RECORD_BYTES = 64, POISON = 0xa5 };

static void *scratch(size_t bytes)
{
	int kept = errno;
	void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	errno = kept;
	return memory == MAP_FAILED ? NULL : memory;
}

static void give_up(void *memory, size_t bytes)
{
	int kept = errno;
	munmap(memory, bytes);
	errno = kept;
}

// How long the driver's records are: up to the last byte that it wrote, rounded to the alignment of their 64-bit members.
static size_t record_bytes(const unsigned char *records, unsigned int count)
{
	size_t end = (size_t)MAX_RECORDS * MAX_RECORD_BYTES;
	while (end > 0 && records[end - 1] == POISON)
		end--;
	return count == 0 ? 0 : (end + count - 1) / count / 8 * 8 + ((end + count - 1) / count % 8 ? 8 : 0);
}

// Keeps the records whose pid (at offset) belongs to the slice; returns how many.
static unsigned int keep_own(unsigned char *records, unsigned int count, size_t bytes, size_t offset)
{
	unsigned int kept = 0;

	for (unsigned int i = 0; i < count; i++) {
		unsigned int pid;
		memcpy(&pid, records + i * bytes + offset, sizeof(pid));
		if (!softmig_own_process((pid_t)pid))
			continue;
		if (kept != i)
			memmove(records + kept * bytes, records + i * bytes, bytes);
		kept++;
	}
	return kept;
}

typedef nvmlReturn_t (*list_function)(nvmlDevice_t, unsigned int *, void *);

// A list call: *count is the room in records, then the number (NVML API reference, nvmlDeviceGetComputeRunningProcesses).
static nvmlReturn_t list(list_function driver, nvmlDevice_t device, unsigned int *count, void *records)
{
	size_t room = (size_t)MAX_RECORDS * MAX_RECORD_BYTES;
	unsigned int all = MAX_RECORDS;

	if (count == NULL)
		return driver(device, count, records);
	unsigned char *mine = scratch(room);
	if (mine == NULL)
		return NVML_ERROR_MEMORY;
	memset(mine, POISON, room);
	nvmlReturn_t result = driver(device, &all, mine);
	if (result != NVML_SUCCESS) {
		give_up(mine, room);
		return result;
	}
	size_t bytes = record_bytes(mine, all);
	unsigned int own = keep_own(mine, all, bytes, 0);
	if (own > *count)
		result = NVML_ERROR_INSUFFICIENT_SIZE;
	else if (own > 0 && records == NULL)
		result = NVML_ERROR_INVALID_ARGUMENT;
	else if (own > 0)
		memcpy(records, mine, own * bytes);
	*count = own;
	give_up(mine, room);
	return result;
}

#define LIST(name, type) \
	nvmlReturn_t hook_##name(nvmlDevice_t device, unsigned int *infoCount, type *infos) \
	{ \
		return list((list_function)DRIVER(name), device, infoCount, infos); \
	}

LIST(nvmlDeviceGetComputeRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetComputeRunningProcesses_v3, nvmlProcessInfo_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetGraphicsRunningProcesses_v3, nvmlProcessInfo_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses, nvmlProcessInfo_v1_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v2, nvmlProcessInfo_v2_t)
LIST(nvmlDeviceGetMPSComputeRunningProcesses_v3, nvmlProcessInfo_t)

// Filtered in the caller's own array, after a call that succeeded: what is left over is blanked.
static unsigned int filter(void *records, unsigned int count, size_t bytes, size_t offset)
{
	unsigned int own = keep_own(records, count, bytes, offset);
	memset((unsigned char *)records + own * bytes, 0, (count - own) * bytes);
	return own;
}

nvmlReturn_t hook_nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
                                                  unsigned int *processSamplesCount, unsigned long long lastSeenTimeStamp)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetProcessUtilization)(device, utilization, processSamplesCount, lastSeenTimeStamp);
	if (result == NVML_SUCCESS && utilization != NULL)
		*processSamplesCount = filter(utilization, *processSamplesCount, sizeof(*utilization),
		                              offsetof(nvmlProcessUtilizationSample_t, pid));
	return result;
}

nvmlReturn_t hook_nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *procesesUtilInfo)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetProcessesUtilizationInfo)(device, procesesUtilInfo);
	if (result == NVML_SUCCESS && procesesUtilInfo->procUtilArray != NULL)
		procesesUtilInfo->processSamplesCount =
			filter(procesesUtilInfo->procUtilArray, procesesUtilInfo->processSamplesCount,
			       sizeof(*procesesUtilInfo->procUtilArray), offsetof(nvmlProcessUtilizationInfo_v1_t, pid));
	return result;
}

nvmlReturn_t hook_nvmlDeviceGetRunningProcessDetailList(nvmlDevice_t device, nvmlProcessDetailList_t *plist)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetRunningProcessDetailList)(device, plist);
	if (result == NVML_SUCCESS && plist->procArray != NULL)
		plist->numProcArrayEntries = filter(plist->procArray, plist->numProcArrayEntries, sizeof(*plist->procArray),
		                                    offsetof(nvmlProcessDetail_v1_t, pid));
	return result;
}

nvmlReturn_t hook_nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
	nvmlReturn_t result = DRIVER(nvmlDeviceGetAccountingPids)(device, count, pids);
	if (result == NVML_SUCCESS && pids != NULL)
		*count = filter(pids, *count, sizeof(*pids), 0);
	return result;
}

nvmlReturn_t hook_nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats)
{
	if (!softmig_own_process((pid_t)pid))
		return NVML_ERROR_NOT_FOUND;
	return DRIVER(nvmlDeviceGetAccountingStats)(device, pid, stats);
}

nvmlReturn_t hook_nvmlDeviceGetAccountingStats_v2(nvmlDevice_t device, nvmlAccountingStats_v2_t *stats)
{
	if (stats != NULL && !softmig_own_process((pid_t)stats->pid))
		return NVML_ERROR_NOT_FOUND;
	return DRIVER(nvmlDeviceGetAccountingStats_v2)(device, stats);
}
