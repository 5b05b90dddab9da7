// SPDX-License-Identifier: Apache-2.0
// What single driver calls cost this process: costs [section...] prints "name <tab> nanoseconds" for each, the median over batches.
// --rounds: the same, shorter, for each line on stdin, with a line "." after it, so that a native process and one in a slice can be
// measured by turns of a fraction of a second. Knows nothing of slices: bench/run starts it in both ways and compares.
#include <stdbool.h>
#include <time.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuMemGetInfo_v2) X(cuMemAlloc_v2) \
	X(cuMemFree_v2) X(cuMemAllocAsync) X(cuMemFreeAsync) X(cuStreamCreate) X(cuStreamSynchronize) X(cuMemCreate) X(cuMemRelease) \
	X(cuModuleLoadData) X(cuModuleGetFunction) X(cuLaunchKernel) X(cuDeviceGetDefaultMemPool) X(cuMemPoolSetAttribute)
#include "../tests/gpu/programs/driver.h"

#define MAX_BATCHES 200

static CUdevice device;
static CUcontext context;
static CUfunction kernel;
static CUstream stream;
static double init_ns, context_ns;
static int shorter = 1; // so many times fewer batches

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

// Calls step per_batch times in each batch and prints the median over batches of one call's time. settle follows each
// batch, untimed.
static void measure(const char *name, int most_batches, int per_batch, bool (*step)(void), void (*settle)(void))
{
	static double batch_ns[MAX_BATCHES];
	int batches = most_batches / shorter;
	if (batches < 1)
		batches = 1;
	for (int warm = 0; warm < 3; warm++)
		step();
	if (settle != NULL)
		settle();
	for (int b = 0; b < batches; b++) {
		double start = now_ns();
		for (int i = 0; i < per_batch; i++)
			if (!step()) {
				printf("%s\tfailed\n", name);
				return;
			}
		batch_ns[b] = (now_ns() - start) / per_batch;
		if (settle != NULL)
			settle();
	}
	qsort(batch_ns, (size_t)batches, sizeof *batch_ns, by_value);
	printf("%s\t%.1f\n", name, batch_ns[batches / 2]);
	fflush(stdout);
}

static bool launch(void)
{
	return CU(cuLaunchKernel)(kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL) == CUDA_SUCCESS;
}

static void synchronize(void)
{
	CU(cuCtxSynchronize)();
}

static size_t size;

static bool allocate_free(void)
{
	CUdeviceptr pointer;
	return CU(cuMemAlloc_v2)(&pointer, size) == CUDA_SUCCESS && CU(cuMemFree_v2)(pointer) == CUDA_SUCCESS;
}

static bool pool_allocate_free(void)
{
	CUdeviceptr pointer;
	return CU(cuMemAllocAsync)(&pointer, size, stream) == CUDA_SUCCESS && CU(cuMemFreeAsync)(pointer, stream) == CUDA_SUCCESS;
}

static void synchronize_stream(void)
{
	CU(cuStreamSynchronize)(stream);
}

static bool create_release(void)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	CUmemGenericAllocationHandle handle;
	properties.location.id = device;
	return CU(cuMemCreate)(&handle, size, &properties, 0) == CUDA_SUCCESS && CU(cuMemRelease)(handle) == CUDA_SUCCESS;
}

static bool refused(void)
{
	CUdeviceptr pointer;
	return CU(cuMemAlloc_v2)(&pointer, 1ull << 42) == CUDA_ERROR_OUT_OF_MEMORY;
}

static bool memory_info(void)
{
	size_t free_bytes, total;
	return CU(cuMemGetInfo_v2)(&free_bytes, &total) == CUDA_SUCCESS;
}

static void with_size(const char *name, size_t bytes, int batches, int per_batch, bool (*step)(void), void (*settle)(void))
{
	size = bytes;
	measure(name, batches, per_batch, step, settle);
}

// alone: a context and nothing else.
static bool open_gpu(bool alone)
{
	static const char empty[] = ".version 6.0\n.target sm_60\n.address_size 64\n.visible .entry empty() { ret; }\n";
	CUmodule module;
	CUmemoryPool pool;
	cuuint64_t keep = ~0ull;
	driver_open();
	double start = now_ns();
	if (CU(cuInit)(0) != CUDA_SUCCESS)
		return false;
	double initialised = now_ns();
	bool open = CU(cuDeviceGet)(&device, 0) == CUDA_SUCCESS && CU(cuDevicePrimaryCtxRetain)(&context, device) == CUDA_SUCCESS;
	init_ns = initialised - start;
	context_ns = now_ns() - initialised;
	if (alone)
		return open;
	return open && CU(cuCtxSetCurrent)(context) == CUDA_SUCCESS && CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS &&
	       CU(cuModuleLoadData)(&module, empty) == CUDA_SUCCESS && CU(cuModuleGetFunction)(&kernel, module, "empty") == CUDA_SUCCESS &&
	       CU(cuDeviceGetDefaultMemPool)(&pool, device) == CUDA_SUCCESS &&
	       CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep) == CUDA_SUCCESS;
}

static bool wanted(int argc, char **argv, const char *name)
{
	bool found = argc <= 1;
	for (int i = 1; i < argc; i++)
		found |= strcmp(argv[i], name) == 0;
	return found;
}

// Each size from a fresh block, or a block that another allocation holds.
static void measure_allocations(void)
{
	CUdeviceptr held;
	with_size("cuMemAlloc+cuMemFree 4 KiB, fresh block", 4096, 100, 10, allocate_free, NULL);
	with_size("cuMemAlloc+cuMemFree 1 MiB, fresh block", MIB, 100, 10, allocate_free, NULL);
	with_size("cuMemAlloc+cuMemFree 64 MiB", 64 * MIB, 100, 5, allocate_free, NULL);
	with_size("cuMemAlloc+cuMemFree 1 GiB", 1024 * MIB, 50, 2, allocate_free, NULL);
	if (CU(cuMemAlloc_v2)(&held, 64 * 1024) != CUDA_SUCCESS)
		return;
	with_size("cuMemAlloc+cuMemFree 4 KiB, held block", 4096, 200, 200, allocate_free, NULL);
	with_size("cuMemAlloc+cuMemFree 1 MiB, held block", MIB, 200, 200, allocate_free, NULL);
	CU(cuMemFree_v2)(held);
}

static void measure_all(int argc, char **argv)
{
	if (wanted(argc, argv, "launch"))
		measure("launch of an empty kernel", 200, 256, launch, synchronize);
	if (wanted(argc, argv, "alloc"))
		measure_allocations();
	if (wanted(argc, argv, "pool")) {
		with_size("cuMemAllocAsync+cuMemFreeAsync 1 MiB, warm", MIB, 200, 200, pool_allocate_free, synchronize_stream);
		with_size("cuMemAllocAsync+cuMemFreeAsync 64 MiB, warm", 64 * MIB, 200, 200, pool_allocate_free, synchronize_stream);
	}
	if (wanted(argc, argv, "vmm")) {
		with_size("cuMemCreate+cuMemRelease 2 MiB", 2 * MIB, 100, 10, create_release, NULL);
		with_size("cuMemCreate+cuMemRelease 64 MiB", 64 * MIB, 100, 5, create_release, NULL);
	}
	if (wanted(argc, argv, "refusal"))
		measure("a refusal", 30, 3, refused, NULL);
	if (wanted(argc, argv, "info"))
		measure("cuMemGetInfo", 100, 100, memory_info, NULL);
}

int main(int argc, char **argv)
{
	bool rounds = argc > 1 && strcmp(argv[1], "--rounds") == 0;
	if (!open_gpu(argc == 2 && strcmp(argv[1], "first") == 0))
		return fputs("costs: the GPU cannot be used\n", stderr), 1;
	if (!rounds) {
		if (wanted(argc, argv, "first"))
			printf("cuInit\t%.0f\nprimary context\t%.0f\n", init_ns, context_ns);
		if (argc != 2 || strcmp(argv[1], "first") != 0)
			measure_all(argc, argv);
		return 0;
	}
	shorter = 10;
	for (int c; (c = getchar()) != EOF;) {
		if (c != '\n')
			continue;
		measure_all(argc - 1, argv + 1);
		puts(".");
		fflush(stdout);
	}
	return 0;
}
