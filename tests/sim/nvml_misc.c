// SPDX-License-Identifier: Apache-2.0
// NVML: what nvidia-smi asks besides: modes, temperatures, power, errors, partitions.
#include "nvml.h"

// A question with one answer of one type.
#define ANSWER(name, type, value) \
	nvmlReturn_t name(nvmlDevice_t device, type *answer) \
	{ \
		NVML_DEVICE(device); \
		if (answer == NULL) \
			return NVML_ERROR_INVALID_ARGUMENT; \
		*answer = (value); \
		return NVML_SUCCESS; \
	}

ANSWER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, (nvmlComputeMode_t)gpu->compute_mode)
ANSWER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
ANSWER(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
ANSWER(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t, NVML_GPU_VIRTUALIZATION_MODE_NONE)
ANSWER(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
ANSWER(nvmlDeviceGetPowerUsage, unsigned int, 76000)
ANSWER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, 700000)
ANSWER(nvmlDeviceGetMaxMigDeviceCount, unsigned int, 0)
ANSWER(nvmlDeviceIsMigDeviceHandle, unsigned int, 0)

nvmlReturn_t nvmlDeviceSetComputeMode(nvmlDevice_t device, nvmlComputeMode_t mode)
{
	NVML_DEVICE(device);
	if ((unsigned)mode >= NVML_COMPUTEMODE_COUNT)
		return NVML_ERROR_INVALID_ARGUMENT;
	gpu->compute_mode = mode;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
	NVML_DEVICE(device);
	if (current == NULL || pending == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*current = *pending = NVML_FEATURE_ENABLED;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *currentMode, unsigned int *pendingMode)
{
	NVML_DEVICE(device);
	if (currentMode == NULL || pendingMode == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*currentMode = *pendingMode = NVML_DEVICE_MIG_DISABLE;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int number, nvmlDevice_t *migDevice)
{
	NVML_DEVICE(device);
	(void)number, (void)migDevice;
	return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
	NVML_DEVICE(device);
	if (temperature == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (temperature->version != nvmlTemperature_v1)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	temperature->temperature = 34;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
	nvmlEccCounterType_t counterType, unsigned long long *eccCounts)
{
	NVML_DEVICE(device);
	(void)errorType, (void)counterType;
	if (eccCounts == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*eccCounts = 0;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
	NVML_DEVICE(device);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFanSpeed(nvmlDevice_t device, unsigned int *speed)
{
	NVML_DEVICE(device);
	(void)speed;
	return NVML_ERROR_NOT_SUPPORTED; // a data-centre card has none
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
	static char token;
	nvmlReturn_t ready = sim_nvml_ready();
	if (ready != NVML_SUCCESS || set == NULL)
		return ready != NVML_SUCCESS ? ready : NVML_ERROR_INVALID_ARGUMENT;
	*set = (nvmlEventSet_t)(void *)&token; // nothing is ever registered in it
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
	return set != NULL ? sim_nvml_ready() : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlInternalGetExportTable(const void **ppExportTable, const void *pExportTableId)
{
	if (ppExportTable == NULL || pExportTableId == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*ppExportTable = NULL;
	return NVML_ERROR_NOT_FOUND;
}
