// SPDX-License-Identifier: Apache-2.0
// The judge: runs outside every slice and asks NVML, as fast as it can, how many bytes each process holds on each GPU.
// Sums them by process session (each slice under test is started in one of its own) and prints, when its standard input
// ends, one line per session and GPU: "@peak SESSION GPU BYTES SAMPLES WHO". watcher [PAUSE_US].
#include <dlfcn.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "preload/abi/nvml_types.h"
#include "preload/abi/nvml_functions.h"

#define MAX_GPUS 16
#define MAX_PROCESSES 512
#define MAX_SESSIONS 256

struct session {
	int id;
	unsigned long long sum[MAX_GPUS], peak[MAX_GPUS];
	char who[MAX_GPUS][400]; // the processes at the peak
};

static struct session sessions[MAX_SESSIONS];
static int session_count;

static struct session *session_of(unsigned pid)
{
	static struct { unsigned pid; int session; } known[4096]; // a pid's session does not change, and outlives it here
	char path[64], text[512];
	int id = -1;
	snprintf(path, sizeof path, "/proc/%u/stat", pid);
	FILE *file = fopen(path, "re");
	if (file != NULL && fgets(text, sizeof text, file) != NULL && strrchr(text, ')') != NULL)
		sscanf(strrchr(text, ')') + 1, " %*c %*d %*d %d", &id);
	if (file != NULL)
		fclose(file);
	if (id < 0 && known[pid % 4096].pid == pid)
		id = known[pid % 4096].session;
	known[pid % 4096].pid = pid;
	known[pid % 4096].session = id;
	for (int i = 0; i < session_count; i++)
		if (sessions[i].id == id)
			return &sessions[i];
	if (session_count == MAX_SESSIONS)
		return &sessions[0];
	sessions[session_count].id = id;
	return &sessions[session_count++];
}

int main(int argc, char **argv)
{
	const unsigned pause_us = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	if (library == NULL)
		return fprintf(stderr, "no NVML: %s\n", dlerror()), 1;
#define NVML(name) __typeof__(&name) name##_ = (__typeof__(&name))dlsym(library, #name)
	NVML(nvmlInit_v2);
	NVML(nvmlDeviceGetCount_v2);
	NVML(nvmlDeviceGetHandleByIndex_v2);
	NVML(nvmlDeviceGetComputeRunningProcesses_v3);
	unsigned count = 0;
	nvmlDevice_t device[MAX_GPUS];
	if (nvmlInit_v2_() != NVML_SUCCESS || nvmlDeviceGetCount_v2_(&count) != NVML_SUCCESS)
		return fprintf(stderr, "NVML does not answer\n"), 1;
	count = count > MAX_GPUS ? MAX_GPUS : count;
	for (unsigned g = 0; g < count; g++)
		nvmlDeviceGetHandleByIndex_v2_(g, &device[g]);
	puts("@watching");
	fflush(stdout);
	unsigned long samples = 0;
	for (struct pollfd input = { .fd = 0, .events = POLLIN }; poll(&input, 1, 0) == 0; samples++) {
		for (unsigned g = 0; g < count; g++) {
			nvmlProcessInfo_t process[MAX_PROCESSES];
			unsigned n = MAX_PROCESSES;
			if (nvmlDeviceGetComputeRunningProcesses_v3_(device[g], &n, process) != NVML_SUCCESS)
				continue;
			for (int s = 0; s < session_count; s++)
				sessions[s].sum[g] = 0;
			for (unsigned i = 0; i < n; i++)
				if (process[i].usedGpuMemory != ~0ull)
					session_of(process[i].pid)->sum[g] += process[i].usedGpuMemory;
			for (int s = 0; s < session_count; s++) {
				if (sessions[s].sum[g] <= sessions[s].peak[g])
					continue;
				sessions[s].peak[g] = sessions[s].sum[g];
				size_t at = 0;
				for (unsigned i = 0; i < n && at < sizeof sessions[s].who[g] - 40; i++)
					if (session_of(process[i].pid) == &sessions[s])
						at += (size_t)sprintf(sessions[s].who[g] + at, "%u:%lluM ", process[i].pid, process[i].usedGpuMemory >> 20);
			}
		}
		if (pause_us > 0)
			usleep(pause_us);
	}
	for (int s = 0; s < session_count; s++)
		for (unsigned g = 0; g < count; g++)
			if (sessions[s].peak[g] > 0)
				printf("@peak %d %u %llu %lu %s\n", sessions[s].id, g, sessions[s].peak[g], samples, sessions[s].who[g]);
	return 0;
}
