// SPDX-License-Identifier: Apache-2.0
// The judge: runs outside every slice and asks NVML, as fast as it can, how many bytes each process holds on each GPU.
// Sums them by process session (each slice under test is started in one of its own) and prints, when its standard input
// ends, one line per session and GPU: "@peak SESSION GPU BYTES SAMPLES WHO". With a ceiling, also each look that found a session above it
// when the look before had not: "@over SESSION GPU BYTES BEFORE_NS NOW_NS PID:CHANGE ..." (CLOCK_MONOTONIC). watcher [PAUSE_US [CEILING_MIB [UNLISTED_MIB]]].
//
// The driver shows some memory to no process (docs/driver-facts.md), so there is a second figure: "@whole SESSION GPU BYTES", a session's sum and what the
// GPU has in use beyond all processes' figures, beyond what it had when this began and UNLISTED_MIB for each process, which is what a
// context takes in nobody's figure. Of each quarter of a second the least counts, and of these the most.
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
#define QUARTER_NS 250000000ull

struct session {
	int id;
	unsigned long long sum[MAX_GPUS], peak[MAX_GPUS];
	unsigned long long least[MAX_GPUS], whole[MAX_GPUS]; // of this quarter of a second, of the whole
	bool over[MAX_GPUS];
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

struct look {
	unsigned count;
	nvmlProcessInfo_t process[MAX_PROCESSES];
	unsigned long long at_ns;
};
static struct look looks[MAX_GPUS][2]; // this one and the one before, in turn

static unsigned long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec;
}

static unsigned long long bytes_of(const struct look *look, unsigned pid)
{
	for (unsigned i = 0; i < look->count; i++)
		if (look->process[i].pid == pid)
			return look->process[i].usedGpuMemory;
	return 0;
}

// What the GPU has in use, apart from what the driver reserves.
static long long in_use(nvmlDevice_t device, __typeof__(&nvmlDeviceGetMemoryInfo_v2) ask)
{
	nvmlMemory_v2_t memory = { .version = (unsigned)sizeof memory | 2u << 24 };
	return ask != NULL && ask(device, &memory) == NVML_SUCCESS ? (long long)memory.used : -1;
}

// A look is over: unlisted bytes beyond what contexts take.
static void count_whole(unsigned gpu, long long hidden, bool quarter_ends)
{
	for (int s = 0; s < session_count; s++) {
		struct session *session = &sessions[s];
		unsigned long long level = session->sum[gpu] == 0 ? 0 : session->sum[gpu] + (unsigned long long)(hidden > 0 ? hidden : 0);
		if (level < session->least[gpu] || session->least[gpu] == 0)
			session->least[gpu] = level;
		if (quarter_ends) {
			session->whole[gpu] = session->least[gpu] > session->whole[gpu] ? session->least[gpu] : session->whole[gpu];
			session->least[gpu] = level;
		}
	}
}

static void tell_over(const struct session *session, unsigned gpu, const struct look *before, const struct look *look)
{
	static int told;
	if (told++ >= 40)
		return;
	printf("@over %d %u %llu %llu %llu", session->id, gpu, session->sum[gpu], before->at_ns, look->at_ns);
	for (unsigned i = 0; i < look->count; i++) {
		unsigned pid = look->process[i].pid;
		long long change = (long long)look->process[i].usedGpuMemory - (long long)bytes_of(before, pid);
		if (session_of(pid) == session && change != 0)
			printf(" %u:%lld", pid, change);
	}
	putchar('\n');
}

int main(int argc, char **argv)
{
	const unsigned pause_us = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
	const unsigned long long ceiling = argc > 2 && atoll(argv[2]) > 0 ? (unsigned long long)atoll(argv[2]) << 20 : ~0ull;
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	if (library == NULL)
		return fprintf(stderr, "no NVML: %s\n", dlerror()), 1;
#define NVML(name) __typeof__(&name) name##_ = (__typeof__(&name))dlsym(library, #name)
	NVML(nvmlInit_v2);
	NVML(nvmlDeviceGetCount_v2);
	NVML(nvmlDeviceGetHandleByIndex_v2);
	NVML(nvmlDeviceGetComputeRunningProcesses_v3);
	NVML(nvmlDeviceGetMemoryInfo_v2);
	const long long context_unlisted = (argc > 3 ? atoll(argv[3]) : 0) << 20;
	long long unlisted_before[MAX_GPUS];
	unsigned count = 0;
	nvmlDevice_t device[MAX_GPUS];
	if (nvmlInit_v2_() != NVML_SUCCESS || nvmlDeviceGetCount_v2_(&count) != NVML_SUCCESS)
		return fprintf(stderr, "NVML does not answer\n"), 1;
	count = count > MAX_GPUS ? MAX_GPUS : count;
	for (unsigned g = 0; g < count; g++)
		nvmlDeviceGetHandleByIndex_v2_(g, &device[g]), unlisted_before[g] = -1;
	puts("@watching");
	fflush(stdout);
	unsigned long samples = 0;
	for (struct pollfd input = { .fd = 0, .events = POLLIN }; poll(&input, 1, 0) == 0; samples++) {
		for (unsigned g = 0; g < count; g++) {
			struct look *look = &looks[g][samples % 2], *before = &looks[g][(samples + 1) % 2];
			nvmlProcessInfo_t *process = look->process;
			unsigned n = MAX_PROCESSES;
			long long used_before = in_use(device[g], nvmlDeviceGetMemoryInfo_v2_);
			nvmlReturn_t seen = nvmlDeviceGetComputeRunningProcesses_v3_(device[g], &n, process);
			long long used = in_use(device[g], nvmlDeviceGetMemoryInfo_v2_), listed = 0;
			used = used_before < used ? used_before : used; // who takes or gives between two of these is not taken for hidden
			look->at_ns = now_ns();
			look->count = seen == NVML_SUCCESS ? n : 0;
			if (seen != NVML_SUCCESS)
				continue;
			for (int s = 0; s < session_count; s++)
				sessions[s].sum[g] = 0;
			for (unsigned i = 0; i < n; i++)
				if (process[i].usedGpuMemory != ~0ull) {
					session_of(process[i].pid)->sum[g] += process[i].usedGpuMemory;
					listed += (long long)process[i].usedGpuMemory;
				}
			if (unlisted_before[g] < 0)
				unlisted_before[g] = used - listed - (long long)n * context_unlisted;
			static unsigned long long quarter[MAX_GPUS];
			count_whole(g, used < 0 ? 0 : used - listed - unlisted_before[g] - (long long)n * context_unlisted, look->at_ns / QUARTER_NS != quarter[g]);
			quarter[g] = look->at_ns / QUARTER_NS;
			for (int s = 0; s < session_count; s++) {
				bool over = sessions[s].sum[g] > ceiling;
				if (over && !sessions[s].over[g])
					tell_over(&sessions[s], g, before, look);
				sessions[s].over[g] = over;
			}
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
				printf("@peak %d %u %llu %lu %s\n@whole %d %u %llu\n", sessions[s].id, g, sessions[s].peak[g], samples, sessions[s].who[g], sessions[s].id, g,
				       sessions[s].whole[g]);
	return 0;
}
