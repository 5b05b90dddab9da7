// SPDX-License-Identifier: Apache-2.0
// A kernel that runs for four seconds, as one that waits for another would, and small launches into another stream beside it.
// Prints how many of these were made in the first two seconds and the longest that one took: "launches 6 longest_ms 312".
#include <time.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuModuleLoadData) X(cuModuleGetFunction) \
	X(cuLaunchKernel) X(cuStreamCreate)
#include "../../gpu/programs/driver.h"

static double clock_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

int main(void)
{
	CUcontext context;
	CUmodule module;
	CUfunction longest, small;
	CUstream one, two;
	START(context, module);
	CHECK(CU(cuModuleGetFunction)(&longest, module, "spin_4000ms"));
	CHECK(CU(cuModuleGetFunction)(&small, module, "spin_10us"));
	CHECK(CU(cuStreamCreate)(&one, CU_STREAM_NON_BLOCKING));
	CHECK(CU(cuStreamCreate)(&two, CU_STREAM_NON_BLOCKING));
	CHECK(CU(cuLaunchKernel)(longest, 1, 1, 1, 32, 1, 1, 0, one, NULL, NULL));
	double begin_ms = clock_ms(), longest_ms = 0;
	int launches = 0;
	while (clock_ms() < begin_ms + 2000) {
		double from_ms = clock_ms();
		CHECK(CU(cuLaunchKernel)(small, 1, 1, 1, 32, 1, 1, 0, two, NULL, NULL));
		double took_ms = clock_ms() - from_ms;
		longest_ms = took_ms > longest_ms ? took_ms : longest_ms;
		launches++;
		nanosleep(&(struct timespec){0, 10000000}, NULL);
	}
	printf("launches %d longest_ms %.0f\n", launches, longest_ms);
	fflush(stdout);
	_Exit(0); // without waiting for the long one
}
