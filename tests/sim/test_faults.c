// SPDX-License-Identifier: Apache-2.0
// Faults that a test can order, and callers in another PID namespace.
#include "check.h"

#include <sched.h>
#include <sys/mount.h>

static int in_namespace(void (*body)(int to_parent, int from_parent), pid_t *outside)
{
	struct child child = spawn(body);
	if (outside != NULL)
		*outside = child.pid;
	return finish(child);
}

static void see_pids(int to_parent, int from_parent)
{
	(void)to_parent, (void)from_parent;
	EQUAL(getpid(), 1);
	nvmlDevice_t device;
	nvmlProcessInfo_t infos[8];
	unsigned count = 8;
	start(0);
	CUdeviceptr at;
	OK(cuMemAlloc_v2(&at, 10 * MIB));
	EQUAL(nvmlDeviceGetHandleByIndex_v2(0, &device), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, infos), NVML_SUCCESS);
	EQUAL(count, 1);
	EQUAL(infos[0].pid, 1);
	EQUAL(infos[0].usedGpuMemory, 528 * MIB);
	EQUAL(used_bytes(0), 528 * MIB);
	setenv("SOFTMIG_SIM_FAULT", "nvml:hostpids", 1);
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, infos), NVML_SUCCESS);
	EQUAL(count, 1); // the host's /proc is mounted here, so it is known
	CHECK(infos[0].pid != 1);
}

static void a_pid_namespace_has_its_own_pids(void)
{
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (unshare(CLONE_NEWPID) != 0) {
			fprintf(stderr, "skipped: PID namespaces need root\n");
			_exit(0);
		}
		_exit(in_namespace(see_pids, NULL));
	}
	int status;
	waitpid(pid, &status, 0);
	EQUAL(status, 0);
	EQUAL(used_bytes(0), 0);
}

static void faults_come_when_ordered(void)
{
	CUdeviceptr at;
	nvmlDevice_t device;
	nvmlProcessInfo_t infos[8];
	unsigned count = 8;
	start(0);
	setenv("SOFTMIG_SIM_FAULT", "alloc:3,nvml:noprocs", 1);
	for (int i = 1; i <= 9; i++)
		EQUAL(cuMemAlloc_v2(&at, MIB), i % 3 == 0 ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS);
	EQUAL(nvmlDeviceGetHandleByIndex_v2(0, &device), NVML_SUCCESS);
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, infos), NVML_SUCCESS);
	EQUAL(count, 0);
	setenv("SOFTMIG_SIM_FAULT", "nvml:unsupported", 1);
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, infos), NVML_ERROR_NOT_SUPPORTED);
	setenv("SOFTMIG_SIM_FAULT", "nvml:slow:20", 1);
	double began = seconds();
	EQUAL(nvmlDeviceGetIndex(device, &count), NVML_SUCCESS);
	WITHIN(seconds() - began, 0.02, 1);
	unsetenv("SOFTMIG_SIM_FAULT");
	count = 0;
	EQUAL(nvmlDeviceGetComputeRunningProcesses_v3(device, &count, NULL), NVML_ERROR_INSUFFICIENT_SIZE);
	EQUAL(count, 1);
	nvmlProcessInfo_v1_t old[2] = {{0}, {.pid = 0x5a5a5a5a}};
	EQUAL(nvmlDeviceGetComputeRunningProcesses(device, &count, old), NVML_SUCCESS);
	EQUAL(old[0].pid, getpid());
	EQUAL(old[1].pid, 0x5a5a5a5a); // a record of the first version, no more
}

static void no_driver(int to_parent, int from_parent)
{
	(void)to_parent, (void)from_parent;
	setenv("SOFTMIG_SIM_FAULT", "nodriver", 1);
	EQUAL(cuInit(0), CUDA_ERROR_NO_DEVICE);
	EQUAL(nvmlInitWithFlags(0), NVML_ERROR_DRIVER_NOT_LOADED);
}

int main(void)
{
	EQUAL(in_namespace(no_driver, NULL), 0);
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	a_pid_namespace_has_its_own_pids();
	faults_come_when_ordered();
	return 0;
}
