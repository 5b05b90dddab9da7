// SPDX-License-Identifier: Apache-2.0
// many_streams SEED SECONDS: work in streams that wait for each other, for copies and for the host, at random: short kernels and long ones,
// alone and in rows. What it does depends on SEED alone, but not when.
// many_streams behind-copies SECONDS: in one stream a short kernel, in another a longer copy and a kernel behind it, which is launched while the
// first one runs, and begins when nothing else does.
// many_streams behind-waits SECONDS: copies in one stream and a kernel behind each in another, as a loader of data has it.
// many_streams behind-host SECONDS: kernels with functions of the host between them. See tests/system/share.bats.
#include <time.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuModuleLoadData) X(cuModuleGetFunction) \
	X(cuLaunchKernel) X(cuStreamCreate) X(cuStreamSynchronize) X(cuStreamWaitEvent) X(cuEventCreate) X(cuEventRecord) X(cuEventSynchronize) \
	X(cuMemAlloc_v2) X(cuMemHostAlloc) X(cuMemcpyHtoDAsync_v2) X(cuLaunchHostFunc)
#include "../../gpu/programs/driver.h"

enum { STREAMS = 6, EVENTS = 8, COPY = 32 << 20 };

static unsigned seed;
static CUfunction kernel[4];
static CUstream stream[STREAMS];
static CUevent event[EVENTS];
static CUdeviceptr there;
static void *here;

static int random_below(int n)
{
	return (int)((unsigned)rand_r(&seed) % (unsigned)n);
}

static double clock_s(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void pause_us(int us)
{
	nanosleep(&(struct timespec){0, us * 1000L}, NULL);
}

static void row_of_kernels(CUstream on)
{
	CUfunction chosen = kernel[random_below(4)];
	for (int i = 1 + random_below(12); i > 0; i--)
		CHECK(CU(cuLaunchKernel)(chosen, 16, 1, 1, 128, 1, 1, 0, on, NULL, NULL));
}

static void step(void)
{
	CUstream on = stream[random_below(STREAMS)];
	int which = random_below(EVENTS);
	switch (random_below(12)) {
	case 0: CHECK(CU(cuEventRecord)(event[which], on)); break;
	case 1: CHECK(CU(cuStreamWaitEvent)(on, event[which], 0)); break;
	case 2: CHECK(CU(cuMemcpyHtoDAsync_v2)(there, here, (size_t)(1 + random_below(COPY)), on)); break;
	case 3: CHECK(CU(cuEventSynchronize)(event[which])); break;
	case 4: CHECK(CU(cuStreamSynchronize)(on)); break;
	case 5: pause_us(random_below(random_below(8) == 0 ? 4000 : 300)); break;
	case 6:
		if (random_below(8) == 0)
			CHECK(CU(cuCtxSynchronize)());
		break;
	default: row_of_kernels(on); break;
	}
}

static void behind_a_copy(void)
{
	CHECK(CU(cuLaunchKernel)(kernel[2], 16, 1, 1, 128, 1, 1, 0, stream[1], NULL, NULL));
	CHECK(CU(cuEventRecord)(event[0], stream[1]));
	CHECK(CU(cuMemcpyHtoDAsync_v2)(there, here, COPY, stream[2]));
	CHECK(CU(cuLaunchKernel)(kernel[1], 16, 1, 1, 128, 1, 1, 0, stream[2], NULL, NULL));
	CHECK(CU(cuStreamSynchronize)(stream[2]));
	CHECK(CU(cuStreamSynchronize)(stream[1]));
}

// The program waits for every eighth only.
static void wait_now_and_then(CUstream on)
{
	static unsigned count;
	if (++count % EVENTS == 0)
		CHECK(CU(cuStreamSynchronize)(on));
}

static void behind_a_wait(void)
{
	static unsigned count;
	CUevent copied = event[count++ % EVENTS];
	CHECK(CU(cuMemcpyHtoDAsync_v2)(there, here, COPY, stream[2]));
	CHECK(CU(cuEventRecord)(copied, stream[2]));
	CHECK(CU(cuStreamWaitEvent)(stream[1], copied, 0));
	CHECK(CU(cuLaunchKernel)(kernel[2], 16, 1, 1, 128, 1, 1, 0, stream[1], NULL, NULL));
	wait_now_and_then(stream[1]);
}

static void sleep_a_little(void *unused)
{
	(void)unused;
	pause_us(2000);
}

static void behind_the_host(void)
{
	CHECK(CU(cuLaunchHostFunc)(stream[1], sleep_a_little, NULL));
	CHECK(CU(cuLaunchKernel)(kernel[2], 16, 1, 1, 128, 1, 1, 0, stream[1], NULL, NULL));
	wait_now_and_then(stream[1]);
}

// What is done over and over.
static void (*work(const char *name))(void)
{
	if (strcmp(name, "behind-copies") == 0)
		return behind_a_copy;
	if (strcmp(name, "behind-waits") == 0)
		return behind_a_wait;
	return strcmp(name, "behind-host") == 0 ? behind_the_host : step;
}

int main(int argc, char **argv)
{
	static const char *const names[4] = {"spin_10us", "spin_50us", "spin_200us", "spin_1ms"};
	CUcontext context;
	CUmodule module;
	if (argc != 3)
		return 2;
	void (*again)(void) = work(argv[1]);
	seed = (unsigned)atoi(argv[1]);
	START(context, module);
	for (int i = 0; i < 4; i++)
		CHECK(CU(cuModuleGetFunction)(&kernel[i], module, names[i]));
	for (int i = 0; i < STREAMS; i++)
		CHECK(CU(cuStreamCreate)(&stream[i], i % 3 == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
	for (int i = 0; i < EVENTS; i++)
		CHECK(CU(cuEventCreate)(&event[i], i % 2 == 0 ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING));
	CHECK(CU(cuMemAlloc_v2)(&there, COPY));
	CHECK(CU(cuMemHostAlloc)(&here, COPY, 0));
	for (double end_s = clock_s() + atof(argv[2]); clock_s() < end_s;)
		again();
	CHECK(CU(cuCtxSynchronize)());
	CHECK(CU(cuCtxSynchronize)()); // the meter looks once more
	return 0;
}
