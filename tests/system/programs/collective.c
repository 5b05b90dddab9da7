// SPDX-License-Identifier: Apache-2.0
// Ranks whose kernels wait for each other, as NCCL's do, with a synchronisation after every eight (the simulated driver's
// kernels: tests/sim/README.md). After half a second of warming up, counts for SECONDS, then ends without waiting.
//
//   collective process US SECONDS RANKS DEVICE PLACE   one rank of several processes, on this device; they meet in the
//                                                directory PLACE before they begin, as NCCL's do
//   collective threads US SECONDS RANKS          a thread for each GPU
//   collective turns US SECONDS RANKS            one thread that launches to each GPU in turn, and waits for each in turn
//   collective apart US SECONDS                  nothing in common: GPU 0 all it can, GPU 1 eight kernels every 40 ms
//
// COLLECTIVE_AWAY_MS: so long the rank on GPU 1 is away, once, after its first synchronisation.
// Output: "gpu DEVICE KERNELS_PER_SECOND" for each, between its first synchronisation and its last: no eight is cut in two.
#include <pthread.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuModuleLoadData) X(cuModuleGetFunction) \
	X(cuLaunchKernel) X(cuStreamCreate) X(cuStreamSynchronize)
#include "../../gpu/programs/driver.h"

#define WARM_UP_S 0.5
enum { GPUS = 8, TOGETHER = 8 };

struct rank {
	int device;
	CUcontext context;
	CUfunction kernel;
	CUstream stream;
	double pause_s, begin_s;
	pthread_mutex_t lock;
	double first_s, last_s; // synchronisations counted
	long kernels;           // done between them
};

static struct rank ranks[GPUS];
static int count;

static double clock_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void sleep_s(double seconds)
{
	struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
	while (nanosleep(&time, &time) != 0)
		;
}

static void add_rank(int number, const char *kernel)
{
	struct rank *rank = &ranks[count++];
	CUdevice device;
	CUmodule module;
	rank->device = number;
	pthread_mutex_init(&rank->lock, NULL);
	CHECK(CU(cuDeviceGet)(&device, number));
	CHECK(CU(cuDevicePrimaryCtxRetain)(&rank->context, device));
	CHECK(CU(cuCtxSetCurrent)(rank->context));
	CHECK(CU(cuModuleLoadData)(&module, "image"));
	CHECK(CU(cuModuleGetFunction)(&rank->kernel, module, kernel));
	CHECK(CU(cuStreamCreate)(&rank->stream, CU_STREAM_NON_BLOCKING));
}

static void launch(struct rank *rank)
{
	CHECK(CU(cuCtxSetCurrent)(rank->context));
	CHECK(CU(cuLaunchKernel)(rank->kernel, 264, 1, 1, 1024, 1, 1, 0, rank->stream, NULL, NULL));
}

static void synchronize(struct rank *rank)
{
	CHECK(CU(cuCtxSetCurrent)(rank->context));
	CHECK(CU(cuStreamSynchronize)(rank->stream));
	double now_s = clock_s();
	pthread_mutex_lock(&rank->lock);
	if (rank->begin_s == 0)
		rank->begin_s = now_s + WARM_UP_S;
	if (rank->first_s != 0) {
		rank->kernels += TOGETHER;
		rank->last_s = now_s;
	} else if (now_s >= rank->begin_s) {
		rank->first_s = now_s;
	}
	pthread_mutex_unlock(&rank->lock);
}

static void meet(const char *place, int own, int wanted)
{
	char path[512];
	snprintf(path, sizeof path, "%s/%d", place, own);
	FILE *file = fopen(path, "w");
	if (file == NULL || fclose(file) != 0) {
		perror(path);
		exit(1);
	}
	for (int i = 0; i < wanted; i++) {
		snprintf(path, sizeof path, "%s/%d", place, i);
		while (access(path, F_OK) != 0)
			sleep_s(0.001);
	}
}

static void *run_thread(void *argument)
{
	struct rank *rank = argument;
	const char *text = getenv("COLLECTIVE_AWAY_MS");
	double away_s = text != NULL && rank->device == 1 ? atof(text) / 1000 : 0;
	for (;;) {
		for (int i = 0; i < TOGETHER; i++)
			launch(rank);
		synchronize(rank);
		if (away_s > 0)
			sleep_s(away_s);
		away_s = 0;
		if (rank->pause_s > 0)
			sleep_s(rank->pause_s);
	}
	return NULL;
}

static void *run_turns(void *unused)
{
	(void)unused;
	for (;;) {
		for (int i = 0; i < TOGETHER; i++)
			for (int r = 0; r < count; r++)
				launch(&ranks[r]);
		for (int r = 0; r < count; r++)
			synchronize(&ranks[r]);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "";
	bool apart = strcmp(kind, "apart") == 0, process = strcmp(kind, "process") == 0, turns = strcmp(kind, "turns") == 0;
	if (argc < (process ? 7 : apart ? 4 : 5)) {
		fprintf(stderr, "usage: collective process|threads|turns|apart US SECONDS [RANKS [DEVICE PLACE]]\n");
		return 2;
	}
	int wanted = apart ? 2 : atoi(argv[4]);
	char kernel[64];
	if (apart)
		snprintf(kernel, sizeof kernel, "spin_%sus", argv[2]);
	else
		snprintf(kernel, sizeof kernel, "collective_%sus_of%d", argv[2], wanted);
	driver_open();
	CHECK(CU(cuInit)(0));
	if (process) {
		add_rank(atoi(argv[5]), kernel);
		meet(argv[6], atoi(argv[5]), wanted);
	}
	for (int i = 0; i < wanted && i < GPUS && !process; i++)
		add_rank(i, kernel);
	if (apart)
		ranks[1].pause_s = 0.04;
	pthread_t thread;
	for (int r = 0; r < (turns ? 1 : count); r++)
		if (pthread_create(&thread, NULL, turns ? run_turns : run_thread, &ranks[r]) != 0)
			return 1;
	sleep_s(atof(argv[3]) + WARM_UP_S);
	for (int r = 0; r < count; r++) {
		pthread_mutex_lock(&ranks[r].lock);
		double counted_s = ranks[r].last_s - ranks[r].first_s;
		printf("gpu %d %.1f\n", ranks[r].device, ranks[r].kernels > 0 ? (double)ranks[r].kernels / counted_s : 0.0);
	}
	fflush(stdout);
	_Exit(0); // the others' kernels may wait for ours
}
