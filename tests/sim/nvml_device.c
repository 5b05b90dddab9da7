// SPDX-License-Identifier: Apache-2.0
// NVML: start and end, finding GPUs, what they are.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "nvml.h"

static _Atomic int references;
static char handles[SIM_GPUS]; // a handle is the address of its GPU's element

nvmlReturn_t sim_nvml_ready(void)
{
	if (references <= 0 || sim_state == NULL)
		return NVML_ERROR_UNINITIALIZED;
	const char *slow = getenv("SOFTMIG_SIM_FAULT");
	slow = slow != NULL ? strstr(slow, "nvml:slow:") : NULL;
	if (slow != NULL) {
		long ms = strtol(slow + 10, NULL, 10);
		struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
		nanosleep(&time, NULL);
	}
	return NVML_SUCCESS;
}

int sim_nvml_index(nvmlDevice_t device)
{
	const char *at = (const char *)device;
	return at >= handles && at < handles + sim_state->gpu_count ? (int)(at - handles) : -1;
}

static nvmlReturn_t start(void)
{
	if (sim_fault("nodriver") >= 0)
		return NVML_ERROR_DRIVER_NOT_LOADED;
	if (sim_state_open() != 0)
		return NVML_ERROR_OPERATING_SYSTEM;
	references++;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlInit(void)
{
	return start();
}

nvmlReturn_t nvmlInit_v2(void)
{
	return start();
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
	return flags > 3 ? NVML_ERROR_INVALID_ARGUMENT : start();
}

nvmlReturn_t nvmlShutdown(void)
{
	if (references <= 0)
		return NVML_ERROR_UNINITIALIZED;
	references--;
	return NVML_SUCCESS;
}

const char *nvmlErrorString(nvmlReturn_t result)
{
	switch ((int)result) {
	case NVML_SUCCESS: return "Success";
	case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
	case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
	case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
	case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
	case NVML_ERROR_NOT_FOUND: return "Not Found";
	case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
	case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
	case NVML_ERROR_OPERATING_SYSTEM: return "Operating System error";
	case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
	default: return "Unknown Error";
	}
}

static nvmlReturn_t text(char *to, unsigned length, const char *from)
{
	if (to == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (strlen(from) + 1 > length)
		return NVML_ERROR_INSUFFICIENT_SIZE;
	memcpy(to, from, strlen(from) + 1);
	return NVML_SUCCESS;
}

#define READY() \
	nvmlReturn_t ready_ = sim_nvml_ready(); \
	if (ready_ != NVML_SUCCESS) \
		return ready_

static nvmlReturn_t cuda_version(int *version)
{
	if (version == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*version = (int)sim_env_number("SOFTMIG_SIM_DRIVER_VERSION", 13000);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *cudaDriverVersion)
{
	return cuda_version(cudaDriverVersion);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *cudaDriverVersion)
{
	return cuda_version(cudaDriverVersion);
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
	READY();
	return text(version, length, "580.159.04");
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
	return text(version, length, "13.580.159.04");
}

nvmlReturn_t nvmlSystemGetDriverBranch(nvmlSystemDriverBranchInfo_t *branchInfo, unsigned int length)
{
	READY();
	if (branchInfo == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	return text(
		branchInfo->branch, length < sizeof(branchInfo->branch) ? length : sizeof(branchInfo->branch), "r580_00");
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
	READY();
	if (name == NULL || length == 0)
		return NVML_ERROR_INVALID_ARGUMENT;
	char path[32], command[256];
	snprintf(path, sizeof(path), "/proc/%u/cmdline", pid);
	FILE *file = fopen(path, "re");
	size_t count = file != NULL ? fread(command, 1, sizeof(command) - 1, file) : 0;
	if (file != NULL)
		fclose(file);
	if (file == NULL)
		return NVML_ERROR_NOT_FOUND;
	command[count] = '\0';
	snprintf(name, length, "%s", command);
	return NVML_SUCCESS;
}

// --- finding one

static nvmlReturn_t count_devices(unsigned *count)
{
	READY();
	if (count == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*count = (unsigned)sim_state->gpu_count;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *deviceCount)
{
	return count_devices(deviceCount);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *deviceCount)
{
	return count_devices(deviceCount);
}

static nvmlReturn_t give(int index, nvmlDevice_t *device)
{
	if (index < 0 || index >= sim_state->gpu_count)
		return NVML_ERROR_NOT_FOUND;
	*device = (nvmlDevice_t)(void *)&handles[index];
	return NVML_SUCCESS;
}

static nvmlReturn_t by_index(unsigned number, nvmlDevice_t *device)
{
	READY();
	if (device == NULL || number >= (unsigned)sim_state->gpu_count)
		return NVML_ERROR_INVALID_ARGUMENT;
	return give((int)number, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int number, nvmlDevice_t *device)
{
	return by_index(number, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int number, nvmlDevice_t *device)
{
	return by_index(number, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
	READY();
	if (uuid == NULL || device == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (int index = 0; index < sim_state->gpu_count; index++) {
		char own[41];
		sim_gpus_uuid_text(sim_state->gpu[index].uuid, own);
		if (strcasecmp(own, uuid) == 0)
			return give(index, device);
	}
	return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
	READY();
	if (uuid == NULL || device == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (uuid->version != nvmlUUID_v1)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (uuid->type == 1) // as text
		return nvmlDeviceGetHandleByUUID(uuid->value.str, device);
	for (int index = 0; index < sim_state->gpu_count; index++)
		if (memcmp(sim_state->gpu[index].uuid, uuid->value.bytes, 16) == 0)
			return give(index, device);
	return NVML_ERROR_NOT_FOUND;
}

static nvmlReturn_t by_bus(const char *bus_id, nvmlDevice_t *device)
{
	READY();
	unsigned domain, bus, number;
	if (bus_id == NULL || device == NULL || sscanf(bus_id, "%x:%x:%x", &domain, &bus, &number) != 3)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (int index = 0; index < sim_state->gpu_count; index++)
		if (domain == 0 && number == 0 && bus == sim_gpus_bus(index))
			return give(index, device);
	return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pciBusId, nvmlDevice_t *device)
{
	return by_bus(pciBusId, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pciBusId, nvmlDevice_t *device)
{
	return by_bus(pciBusId, device);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
	READY();
	if (serial == NULL || device == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (int index = 0; index < sim_state->gpu_count; index++) {
		char own[32];
		snprintf(own, sizeof(own), "%013d", 1650000000 + index);
		if (strcmp(own, serial) == 0)
			return give(index, device);
	}
	return NVML_ERROR_NOT_FOUND;
}

// --- what it is

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *number)
{
	NVML_DEVICE(device);
	if (number == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*number = (unsigned)index;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minorNumber)
{
	return nvmlDeviceGetIndex(device, minorNumber);
}

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
	NVML_DEVICE(device);
	return text(name, length, gpu->name);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
	NVML_DEVICE(device);
	char own[41];
	sim_gpus_uuid_text(gpu->uuid, own);
	return text(uuid, length, own);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
	NVML_DEVICE(device);
	char own[32];
	snprintf(own, sizeof(own), "%013d", 1650000000 + index);
	return text(serial, length, own);
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *boardId)
{
	NVML_DEVICE(device);
	if (boardId == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*boardId = sim_gpus_bus(index) << 8;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *type)
{
	NVML_DEVICE(device);
	if (type == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*type = NVML_BRAND_NVIDIA;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *arch)
{
	NVML_DEVICE(device);
	if (arch == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	static const int of[] = {60, 4, 70, 5, 75, 6, 80, 7, 86, 7, 89, 8, 90, 9, 100, 10};
	*arch = 0xffffffffu;
	for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i += 2)
		if (of[i] == gpu->capability)
			*arch = (unsigned)of[i + 1];
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
	NVML_DEVICE(device);
	if (major == NULL || minor == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*major = gpu->capability / 10;
	*minor = gpu->capability % 10;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetNumGpuCores(nvmlDevice_t device, unsigned int *numCores)
{
	NVML_DEVICE(device);
	if (numCores == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*numCores = (unsigned)gpu->processors * 128;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryBusWidth(nvmlDevice_t device, unsigned int *busWidth)
{
	NVML_DEVICE(device);
	if (busWidth == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*busWidth = 6144;
	return NVML_SUCCESS;
}

static nvmlReturn_t pci_info(nvmlDevice_t device, nvmlPciInfo_t *pci, bool third)
{
	NVML_DEVICE(device);
	if (pci == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	// A caller of the first version has a struct that ends before the last two fields.
	memset(pci, 0, third ? sizeof(*pci) : offsetof(nvmlPciInfo_t, pciSubSystemId));
	snprintf(pci->busIdLegacy, sizeof(pci->busIdLegacy), "0000:%02X:00.0", sim_gpus_bus(index));
	pci->bus = sim_gpus_bus(index);
	pci->pciDeviceId = 0x233510deu;
	if (third) {
		pci->pciSubSystemId = 0x18be10deu;
		snprintf(pci->busId, sizeof(pci->busId), "00000000:%02X:00.0", sim_gpus_bus(index));
	}
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return pci_info(device, pci, true);
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return pci_info(device, pci, false);
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
	return pci_info(device, pci, false);
}
