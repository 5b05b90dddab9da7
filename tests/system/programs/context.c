// SPDX-License-Identifier: Apache-2.0
// context TEST: contexts, judged from within the slice and from without. See tests/system/context.bats.
#include <pthread.h>

#include "slice.h"

static void fill(void)
{
	allocate_plain(100 * MIB);
	allocate_plain(1000);
	CUdeviceptr managed;
	OK(CU(cuMemAllocManaged)(&managed, 10 * MIB, CU_MEM_ATTACH_GLOBAL));
}

static void primary_reset(void)
{
	use_device(0);
	uint64_t bare = inside_bytes();
	EXPECT(bare, outside_bytes(0));
	EXPECT(bare > 0, 1);
	for (int i = 0; i < 3; i++) {
		fill();
		EXPECT(inside_bytes() - bare, 112 * MIB);
		OK(i == 0 ? CU(cuDevicePrimaryCtxReset_v2)(0) : CU(cuDevicePrimaryCtxReset)(0));
		EXPECT(outside_bytes(0), 0);
		use_device(0);
		EXPECT(inside_bytes(), bare);
		EXPECT(outside_bytes(0), bare);
	}
}

static void primary_released(void)
{
	CUcontext context;
	use_device(0);
	uint64_t bare = inside_bytes();
	fill();
	OK(CU(cuDevicePrimaryCtxRetain)(&context, 0));
	OK(CU(cuDevicePrimaryCtxRelease_v2)(0)); // not the last
	EXPECT(inside_bytes() - bare, 112 * MIB);
	OK(CU(cuDevicePrimaryCtxRelease_v2)(0));
	EXPECT(outside_bytes(0), 0);
	use_device(0);
	EXPECT(inside_bytes(), bare);
	EXPECT(outside_bytes(0), bare);
}

static void made_and_destroyed(void)
{
	CUcontext first = use_device(0), second;
	mark(0);
	OK(CU(cuCtxCreate_v2)(&second, 0, 0));
	EXPECT(inside_bytes(), outside_bytes(0));
	EXPECT(inside_bytes() > mark_inside, 1);
	uint64_t both = inside_bytes();
	fill();
	EXPECT(inside_bytes() - both, 112 * MIB);
	OK(CU(cuCtxDestroy_v2)(second));
	OK(CU(cuCtxSetCurrent)(first));
	GREW(0);
}

// Each context is refused where it does not fit, and there is none then.
static void refused(void)
{
	CUcontext context = NULL;
	OK(CU(cuInit)(0));
	REFUSED(CU(cuDevicePrimaryCtxRetain)(&context, 0));
	REFUSED(CU(cuCtxCreate_v2)(&context, 0, 0));
	REFUSED(CU(cuCtxCreate_v3)(&context, NULL, 0, 0, 0));
	REFUSED(CU(cuCtxCreate_v4)(&context, NULL, 0, 0));
	EXPECT(outside_bytes(0), 0);
	unsigned flags;
	int active = 1;
	OK(CU(cuDevicePrimaryCtxGetState)(0, &flags, &active));
	EXPECT(active, 0);
}

static void second_refused(void)
{
	CUcontext first = use_device(0), context;
	mark(0);
	allocate_plain(limit_bytes() - slice_bytes() - 16 * MIB);
	mark(0);
	REFUSED(CU(cuCtxCreate_v2)(&context, 0, 0));
	OK(CU(cuCtxSetCurrent)(first));
	GREW(0);
	allocate_plain(16 * MIB);
	GREW(16 * MIB);
}

enum { THREADS = 8 };
static pthread_barrier_t together;

static void *retain(void *unused)
{
	CUcontext context;
	pthread_barrier_wait(&together);
	OK(CU(cuDevicePrimaryCtxRetain)(&context, 0));
	return unused;
}

// Threads that retain at once get one context, for which there is room.
static void retained_by_threads(void)
{
	pthread_t thread[THREADS];
	OK(CU(cuInit)(0));
	pthread_barrier_init(&together, NULL, THREADS);
	for (int round = 0; round < 50; round++) {
		for (int i = 0; i < THREADS; i++)
			pthread_create(&thread[i], NULL, retain, NULL);
		for (int i = 0; i < THREADS; i++)
			pthread_join(thread[i], NULL);
		use_device(0);
		EXPECT(inside_bytes(), outside_bytes(0));
		for (int i = 0; i <= THREADS; i++)
			OK(CU(cuDevicePrimaryCtxRelease_v2)(0));
		EXPECT(outside_bytes(0), 0);
	}
}

static CUcontext race_context;

static void *retain_and_release(void *unused)
{
	for (int i = 0; i < 300; i++) {
		CUcontext context;
		OK(CU(cuDevicePrimaryCtxRetain)(&context, 0));
		OK(CU(cuDevicePrimaryCtxRelease_v2)(0));
	}
	return unused;
}

// A context that one thread lets go while another takes it up is charged while it lives.
static void retained_while_released(void)
{
	pthread_t thread[2];
	OK(CU(cuInit)(0));
	use_device(0);
	mark(0);
	OK(CU(cuDevicePrimaryCtxRelease_v2)(0));
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < 2; i++)
			pthread_create(&thread[i], NULL, retain_and_release, NULL);
		for (int i = 0; i < 2; i++)
			pthread_join(thread[i], NULL);
		EXPECT(outside_bytes(0), 0);
		OK(CU(cuDevicePrimaryCtxRetain)(&race_context, 0));
		OK(CU(cuCtxSetCurrent)(race_context));
		GREW(0);
		OK(CU(cuDevicePrimaryCtxRelease_v2)(0));
	}
}

// What the driver fails is charged to nobody.
static void failed(void)
{
	CUcontext context, first = use_device(0);
	mark(0);
	EXPECT(CU(cuCtxCreate_v2)(&context, 0, 99) != CUDA_SUCCESS, 1);
	EXPECT(CU(cuCtxCreate_v2)(&context, 0xffffffff, 0) != CUDA_SUCCESS, 1);
	EXPECT(CU(cuDevicePrimaryCtxRetain)(&context, 99) != CUDA_SUCCESS, 1);
	EXPECT(CU(cuDevicePrimaryCtxRelease_v2)(1) != CUDA_SUCCESS, 1);
	OK(CU(cuCtxSetCurrent)(first));
	GREW(0);
}

static void green(void)
{
	CUdevResource resource;
	CUdevResourceDesc descriptor;
	CUgreenCtx context;
	OK(CU(cuInit)(0));
	CUresult result = CU(cuDeviceGetDevResource)(0, &resource, CU_DEV_RESOURCE_TYPE_SM);
	if (result == CUDA_ERROR_NOT_SUPPORTED)
		exit(77); // the simulated driver has none
	OK(result);
	OK(CU(cuDevResourceGenerateDesc)(&descriptor, &resource, 1));
	OK(CU(cuGreenCtxCreate)(&context, descriptor, 0, CU_GREEN_CTX_DEFAULT_STREAM));
	unsigned flags;
	int active = 0;
	OK(CU(cuDevicePrimaryCtxGetState)(0, &flags, &active));
	EXPECT(active, 1);
	CUcontext current;
	OK(CU(cuCtxFromGreenCtx)(&current, context));
	OK(CU(cuCtxSetCurrent)(current));
	uint64_t bare = inside_bytes();
	EXPECT(bare, outside_bytes(0));
	allocate_plain(64 * MIB);
	EXPECT(inside_bytes() - bare, 64 * MIB);
	OK(CU(cuGreenCtxDestroy)(context));
	use_device(0);
	OK(CU(cuDevicePrimaryCtxReset_v2)(0));
	use_device(0);
	EXPECT(inside_bytes(), outside_bytes(0));
	EXPECT(inside_bytes() <= bare, 1);
}

// crowd COUNT COMMAND...: runs it while so many other processes have a context.
static int crowd(int count, char **command)
{
	int ready[2], end[2], status = 1;
	char byte = 0;
	OK(pipe(ready) == 0 && pipe(end) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	for (int i = 0; i < count; i++) {
		if (fork() == 0) {
			close(end[1]);
			use_device(0);
			_exit(write(ready[1], &byte, 1) == 1 && read(end[0], &byte, 1) == 0 ? 0 : 1);
		}
	}
	for (int i = 0; i < count; i++)
		OK(read(ready[0], &byte, 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	pid_t child = fork();
	if (child == 0) {
		close(end[1]);
		execvp(command[0], command);
		_exit(127);
	}
	waitpid(child, &status, 0);
	close(end[1]);
	while (wait(NULL) > 0)
		;
	return status == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	if (argc >= 4 && strcmp(argv[1], "crowd") == 0)
		return crowd(atoi(argv[2]), argv + 3);
	static const struct test tests[] = {{"primary_reset", primary_reset}, {"primary_released", primary_released},
	                                    {"made_and_destroyed", made_and_destroyed}, {"refused", refused},
	                                    {"second_refused", second_refused}, {"retained_by_threads", retained_by_threads}, {"retained_while_released", retained_while_released}, {"failed", failed}, {"green", green}, {NULL, NULL}};
	return run_test(argc, argv, tests);
}
