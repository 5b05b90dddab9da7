// SPDX-License-Identifier: Apache-2.0
// Which GPUs a program sees: CUDA_VISIBLE_DEVICES in all its forms, the same GPU by CUDA and by NVML. GPUs: 2 L40S and
// an H200.
#include "check.h"

static char uuids[3][80];

static void order(const char *visible, const char *expected)
{
	setenv("CUDA_VISIBLE_DEVICES", visible, 1);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		char seen[16] = "";
		int count = 0;
		CUresult result = cuInit(0);
		if (result == CUDA_SUCCESS)
			OK(cuDeviceGetCount(&count));
		else
			EQUAL(result, CUDA_ERROR_NO_DEVICE);
		for (int ordinal = 0; ordinal < count; ordinal++) {
			char bus[16];
			OK(cuDeviceGetPCIBusId(bus, sizeof(bus), ordinal));
			nvmlDevice_t device;
			unsigned index;
			EQUAL(nvmlDeviceGetHandleByPciBusId_v2(bus, &device), NVML_SUCCESS);
			EQUAL(nvmlDeviceGetIndex(device, &index), NVML_SUCCESS);
			seen[ordinal] = (char)('0' + index);
		}
		if (strcmp(seen, expected) != 0) {
			fprintf(stderr, "CUDA_VISIBLE_DEVICES=%s shows '%s', not '%s'\n", visible, seen, expected);
			_exit(1);
		}
		_exit(0);
	}
	int status;
	waitpid(pid, &status, 0);
	EQUAL(status, 0);
}

int main(void)
{
	nvmlDevice_t device;
	unsigned count;
	EQUAL(nvmlDeviceGetCount_v2(&count), NVML_ERROR_UNINITIALIZED);
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetCount_v2(&count), NVML_SUCCESS);
	EQUAL(count, 3);
	for (unsigned i = 0; i < 3; i++) {
		EQUAL(nvmlDeviceGetHandleByIndex_v2(i, &device), NVML_SUCCESS);
		EQUAL(nvmlDeviceGetUUID(device, uuids[i], 80), NVML_SUCCESS);
		EQUAL(strncmp(uuids[i], "GPU-5f73696d-", 13), 0);
		EQUAL(strlen(uuids[i]), 40);
	}
	CHECK(strcmp(uuids[0], uuids[1]) != 0);
	order("0,1,2", "012");
	order("2,0", "20");
	order("1", "1");
	order("", "");
	order("0,7,1", "0");
	order("-1,0", "");
	order("0,0", "");
	char list[200];
	snprintf(list, sizeof(list), "%s,%s", uuids[2], uuids[0]);
	order(list, "20");
	snprintf(list, sizeof(list), "%.14s,0", uuids[2]);
	order(list, "20");
	snprintf(list, sizeof(list), "%.12s,0", uuids[2]); // three GPUs begin so
	order(list, "");
	unsetenv("CUDA_VISIBLE_DEVICES");
	OK(cuInit(0));
	CUuuid uuid;
	OK(cuDeviceGetUuid_v2(&uuid, 2));
	EQUAL((unsigned char)uuid.bytes[0], 0x5f);
	int major;
	OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 2));
	EQUAL(major, 9);
	EQUAL(cuDeviceGet(&major, 3), CUDA_ERROR_INVALID_DEVICE);
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	EQUAL(nvmlShutdown(), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetCount_v2(&count), NVML_SUCCESS);
	EQUAL(nvmlShutdown(), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetCount_v2(&count), NVML_ERROR_UNINITIALIZED);
	EQUAL(nvmlShutdown(), NVML_ERROR_UNINITIALIZED);
	return 0;
}
