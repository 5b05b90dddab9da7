// SPDX-License-Identifier: Apache-2.0
// What the driver takes for itself: each kind of call many times in a process of its own, and NVML asked after each. Prints where the
// process grew by more than what the calls asked for, judges nothing (run it natively; docs/driver-facts.md has what came out).
// "@growth KIND: CALLS calls, OWN KiB in all; at CALL: +KiB, ...". growth [KIND...]
#include <pthread.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) X(cuCtxCreate_v2) X(cuCtxDestroy_v2) \
	X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemAllocPitch_v2) X(cuMemAllocManaged) X(cuMemAllocHost_v2) X(cuMemsetD8_v2) X(cuMemsetD32_v2) \
	X(cuMemsetD32Async) X(cuMemcpyDtoH_v2) X(cuMemcpyHtoD_v2) X(cuMemcpyHtoDAsync_v2) X(cuMemAllocAsync) X(cuMemFreeAsync) \
	X(cuStreamCreate) X(cuStreamDestroy_v2) X(cuStreamSynchronize) X(cuEventCreate) X(cuEventRecord) X(cuEventDestroy_v2) \
	X(cuMemPoolCreate) X(cuMemPoolDestroy) X(cuMemAllocFromPoolAsync) X(cuMemPoolGetAttribute) X(cuMemCreate) X(cuMemRelease) \
	X(cuMemAddressReserve) X(cuMemMap) X(cuMemSetAccess) X(cuMemUnmap) X(cuMemExportToShareableHandle) \
	X(cuArrayCreate_v2) X(cuArrayDestroy) X(cuMipmappedArrayCreate) X(cuGraphCreate) X(cuGraphDestroy) \
	X(cuGraphAddMemAllocNode) X(cuGraphAddMemFreeNode) X(cuGraphAddMemsetNode) X(cuGraphAddKernelNode_v2) X(cuGraphInstantiateWithFlags) \
	X(cuGraphUpload) X(cuGraphLaunch) X(cuGraphExecDestroy) X(cuDeviceGraphMemTrim) X(cuDeviceGetGraphMemAttribute) X(cuIpcGetMemHandle) \
	X(cuModuleLoadData) X(cuModuleUnload) X(cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchHostFunc) X(cuStreamWaitEvent) X(cuCtxGetLimit) X(cuCtxSetLimit)
#include "driver.h"
#include "nvml_self.h"

#define MOST 4096
static CUcontext context;
static CUstream streams[MOST];
static CUdeviceptr pointers[MOST];
static CUmemoryPool pools[MOST];
static CUfunction kernel;
static unsigned char host[1 << 16];

static const char ptx[] = ".version 6.0\n.target sm_60\n.address_size 64\n.visible .entry idle() { ret; }\n";

// One call of a kind; *asked: bytes that the driver must take for it, above what it takes for itself.
struct kind {
	const char *name;
	int calls;
	CUresult (*call)(int index, long long *asked);
};

static CUresult nothing(int index, long long *asked)
{
	(void)index, (void)asked;
	return CUDA_SUCCESS;
}

static CUresult make_stream(int index, long long *asked)
{
	(void)asked;
	return CU(cuStreamCreate)(&streams[index], CU_STREAM_NON_BLOCKING);
}

static CUresult make_and_end_stream(int index, long long *asked)
{
	CUresult code = make_stream(index, asked);
	return code == CUDA_SUCCESS ? CU(cuStreamDestroy_v2)(streams[index]) : code;
}

static CUresult use_stream(int index, long long *asked)
{
	CUresult code = make_stream(index, asked);
	if (index == 0 && CU(cuMemAlloc_v2)(&pointers[0], 4096) == CUDA_SUCCESS)
		*asked = 2 << 20;
	return code == CUDA_SUCCESS ? CU(cuMemsetD32Async)(pointers[0], 1, 1024, streams[index]) : code;
}

static CUresult make_event(int index, long long *asked)
{
	CUevent event;
	(void)index, (void)asked;
	CUresult code = CU(cuEventCreate)(&event, index % 2 == 0 ? CU_EVENT_DEFAULT : CU_EVENT_DISABLE_TIMING);
	return code == CUDA_SUCCESS ? CU(cuEventRecord)(event, NULL) : code;
}

// Blocks of small allocations are counted by their addresses.
static long long new_block(int index)
{
	for (int i = 0; i < index; i++)
		if (pointers[i] >> 21 == pointers[index] >> 21)
			return 0;
	return 2 << 20;
}

static CUresult small(int index, long long *asked)
{
	CUresult code = CU(cuMemAlloc_v2)(&pointers[index], (size_t)(index % 64 + 1) * 1024);
	*asked = code == CUDA_SUCCESS ? new_block(index) : 0;
	return code;
}

static CUresult pitch(int index, long long *asked)
{
	size_t row = 0, height = (size_t)(index % 16 + 1) * 16;
	CUresult code = CU(cuMemAllocPitch_v2)(&pointers[index], &row, 4000, height, 4);
	*asked = code == CUDA_SUCCESS ? new_block(index) : 0;
	return code;
}

static CUresult large(int index, long long *asked)
{
	*asked = 2ll << 20 << index % 4;
	return CU(cuMemAlloc_v2)(&pointers[index], (size_t)*asked);
}

static CUresult large_and_free(int index, long long *asked)
{
	CUresult code = CU(cuMemAlloc_v2)(&pointers[index], 2ull << 20 << index % 4);
	(void)asked;
	return code == CUDA_SUCCESS ? CU(cuMemFree_v2)(pointers[index]) : code;
}

static CUresult managed(int index, long long *asked)
{
	(void)asked;
	CUresult code = CU(cuMemAllocManaged)(&pointers[index], 1 << 20, CU_MEM_ATTACH_GLOBAL);
	return code == CUDA_SUCCESS ? CU(cuMemsetD8_v2)(pointers[index], 1, 1 << 20) : code;
}

static CUresult pinned(int index, long long *asked)
{
	void *at;
	(void)index, (void)asked;
	return CU(cuMemAllocHost_v2)(&at, 65536);
}

static CUresult fill(int index, long long *asked)
{
	if (index == 0 && CU(cuMemAlloc_v2)(&pointers[0], 4 << 20) == CUDA_SUCCESS)
		*asked = 4 << 20;
	return index % 2 == 0 ? CU(cuMemsetD8_v2)(pointers[0], 1, 100000) : CU(cuMemsetD32_v2)(pointers[0], 1, 1 << 20);
}

static CUresult copy(int index, long long *asked)
{
	if (index == 0 && CU(cuMemAlloc_v2)(&pointers[0], 4 << 20) == CUDA_SUCCESS)
		*asked = 4 << 20;
	return index % 2 == 0 ? CU(cuMemcpyDtoH_v2)(host, pointers[0], sizeof host) : CU(cuMemcpyHtoD_v2)(pointers[0], host, sizeof host);
}

static CUresult pool_memory(CUmemoryPool pool, cuuint64_t *bytes)
{
	*bytes = 0;
	return CU(cuMemPoolGetAttribute)(pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, bytes);
}

static CUresult make_pool(int index, long long *asked)
{
	CUmemPoolProps properties = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	cuuint64_t bytes = 0;
	CUresult code = CU(cuMemPoolCreate)(&pools[index], &properties);
	if (code == CUDA_SUCCESS)
		code = CU(cuMemAllocFromPoolAsync)(&pointers[index], 1 << 20, pools[index], NULL);
	if (code == CUDA_SUCCESS)
		code = CU(cuStreamSynchronize)(NULL);
	if (code == CUDA_SUCCESS)
		code = pool_memory(pools[index], &bytes);
	*asked = (long long)bytes;
	return code;
}

static CUresult make_and_end_pool(int index, long long *asked)
{
	CUresult code = make_pool(index, asked);
	*asked = 0;
	if (code == CUDA_SUCCESS)
		code = CU(cuMemFreeAsync)(pointers[index], NULL);
	if (code == CUDA_SUCCESS)
		code = CU(cuStreamSynchronize)(NULL);
	return code == CUDA_SUCCESS ? CU(cuMemPoolDestroy)(pools[index]) : code;
}

static CUresult map(int index, long long *asked)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	CUmemAccessDesc access = { .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE }, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
	CUmemGenericAllocationHandle handle;
	properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	*asked = 2 << 20;
	CUresult code = CU(cuMemCreate)(&handle, 2 << 20, &properties, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuMemAddressReserve)(&pointers[index], 2 << 20, 0, 0, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuMemMap)(pointers[index], 2 << 20, 0, handle, 0);
	int descriptor = -1;
	if (index % 4 == 0 && code == CUDA_SUCCESS && CU(cuMemExportToShareableHandle)(&descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) == CUDA_SUCCESS)
		close(descriptor);
	return code == CUDA_SUCCESS ? CU(cuMemSetAccess)(pointers[index], 2 << 20, &access, 1) : code;
}

static CUresult array(int index, long long *asked)
{
	CUDA_ARRAY_DESCRIPTOR flat = { .Width = 1024, .Height = 1024, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1 };
	CUarray made;
	(void)index;
	*asked = 4 << 20;
	return CU(cuArrayCreate_v2)(&made, &flat);
}

static CUresult ipc(int index, long long *asked)
{
	CUipcMemHandle handle;
	CUresult code = CU(cuMemAlloc_v2)(&pointers[index], 2 << 20);
	*asked = 2 << 20;
	return code == CUDA_SUCCESS ? CU(cuIpcGetMemHandle)(&handle, pointers[index]) : code;
}

static CUresult module(int index, long long *asked)
{
	CUmodule made;
	(void)asked;
	CUresult code = CU(cuModuleLoadData)(&made, ptx);
	return code == CUDA_SUCCESS && index == 0 ? CU(cuModuleGetFunction)(&kernel, made, "idle") : code;
}

static CUresult launch(int index, long long *asked)
{
	if (index == 0 && module(0, asked) != CUDA_SUCCESS)
		return CUDA_ERROR_NOT_FOUND;
	for (int i = 0; i < 100; i++)
		CU(cuLaunchKernel)(kernel, 1 + (unsigned)index, 1, 1, 32, 1, 1, 0, NULL, NULL, NULL);
	return index % 16 == 0 ? CU(cuCtxSynchronize)() : CUDA_SUCCESS;
}

static CUresult launch_in_streams(int index, long long *asked)
{
	CUresult code = make_stream(index, asked);
	if (index == 0 && module(0, asked) != CUDA_SUCCESS)
		return CUDA_ERROR_NOT_FOUND;
	return code == CUDA_SUCCESS ? CU(cuLaunchKernel)(kernel, 1, 1, 1, 32, 1, 1, 0, streams[index], NULL, NULL) : code;
}

// A graph of so many kernels, instantiated, launched twice, kept.
static CUresult kernels_graph(int count, int index, long long *asked)
{
	CUgraph graph;
	CUgraphNode node = NULL;
	CUgraphExec exec;
	if (index == 0 && module(0, asked) != CUDA_SUCCESS)
		return CUDA_ERROR_NOT_FOUND;
	CUDA_KERNEL_NODE_PARAMS parameters = { .func = kernel, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1 };
	CUresult code = CU(cuGraphCreate)(&graph, 0);
	for (int i = 0; i < count && code == CUDA_SUCCESS; i++)
		code = CU(cuGraphAddKernelNode_v2)(&node, graph, node == NULL ? NULL : &node, node != NULL, &parameters);
	if (code == CUDA_SUCCESS)
		code = CU(cuGraphInstantiateWithFlags)(&exec, graph, 0);
	for (int i = 0; i < 2 && code == CUDA_SUCCESS; i++)
		code = CU(cuGraphLaunch)(exec, NULL);
	return code == CUDA_SUCCESS ? CU(cuCtxSynchronize)() : code;
}

static CUresult small_graph(int index, long long *asked)
{
	return kernels_graph(1, index, asked);
}

static CUresult graph(int index, long long *asked)
{
	return kernels_graph(100, index, asked);
}

static CUresult big_graph(int index, long long *asked)
{
	return kernels_graph(3000, index, asked);
}

static unsigned long long graph_reserved(void)
{
	cuuint64_t bytes = 0;
	CU(cuDeviceGetGraphMemAttribute)(0, CU_GRAPH_MEM_ATTR_RESERVED_MEM_CURRENT, &bytes);
	return bytes;
}

// A graph that takes memory and leaves it allocated; every fourth piece of memory is freed, and the rest given back.
static CUresult memory_graph(int index, long long *asked)
{
	CUgraph graph;
	CUgraphNode node;
	CUgraphExec exec;
	unsigned long long before = graph_reserved();
	CUDA_MEM_ALLOC_NODE_PARAMS parameters = { .bytesize = (size_t)(index % 7 + 1) * 3 << 20 };
	parameters.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
	parameters.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	CUresult code = make_stream(index, asked);
	if (code == CUDA_SUCCESS)
		code = CU(cuGraphCreate)(&graph, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &parameters);
	if (code == CUDA_SUCCESS)
		code = CU(cuGraphInstantiateWithFlags)(&exec, graph, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuGraphLaunch)(exec, streams[index]);
	if (code == CUDA_SUCCESS)
		code = CU(cuStreamSynchronize)(streams[index]);
	unsigned long long launched = graph_reserved();
	if (code == CUDA_SUCCESS && index % 4 == 0) {
		CU(cuMemFreeAsync)(parameters.dptr, streams[index]);
		CU(cuStreamSynchronize)(streams[index]);
		CU(cuGraphExecDestroy)(exec);
		CU(cuGraphDestroy)(graph);
	}
	if (index % 2 == 0)
		CU(cuDeviceGraphMemTrim)(0);
	unsigned long long trimmed = graph_reserved();
	if (index < 24)
		printf("  graph %d of %zu MiB at %llx: reserved %llu -> %llu KiB, then %llu\n", index, parameters.bytesize >> 20, (unsigned long long)parameters.dptr,
		       before >> 10, launched >> 10, trimmed >> 10);
	*asked = (long long)trimmed - (long long)before;
	return code;
}

// Even calls instantiate, odd ones launch for the first time.
static CUresult graph_in_steps(int index, long long *asked)
{
	static CUgraphExec exec;
	CUgraph graph;
	CUgraphNode node = NULL;
	if (index == 0 && module(0, asked) != CUDA_SUCCESS)
		return CUDA_ERROR_NOT_FOUND;
	if (index % 2 != 0) {
		CUresult code = CU(cuGraphLaunch)(exec, NULL);
		return code == CUDA_SUCCESS ? CU(cuCtxSynchronize)() : code;
	}
	CUDA_KERNEL_NODE_PARAMS parameters = { .func = kernel, .gridDimX = 1, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 32, .blockDimY = 1, .blockDimZ = 1 };
	CUresult code = CU(cuGraphCreate)(&graph, 0);
	for (int i = 0; i < 1000 && code == CUDA_SUCCESS; i++)
		code = CU(cuGraphAddKernelNode_v2)(&node, graph, node == NULL ? NULL : &node, node != NULL, &parameters);
	return code == CUDA_SUCCESS ? CU(cuGraphInstantiateWithFlags)(&exec, graph, 0) : code;
}

// Up and down. What it takes is known: see docs/driver-facts.md; when it is taken is the question.
static CUresult stack_limit(int index, long long *asked)
{
	(void)asked;
	return CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 1024 + (size_t)(index * 7 % 5) * 256);
}

static CUresult buffers(int index, long long *asked)
{
	(void)asked;
	return CU(cuCtxSetLimit)(index % 2 == 0 ? CU_LIMIT_PRINTF_FIFO_SIZE : CU_LIMIT_MALLOC_HEAP_SIZE, (size_t)(index % 7 + 8) << 20);
}

// PTX whose variables and code are larger and larger.
static CUresult large_module(int index, long long *asked)
{
	static char text[4096];
	CUmodule made;
	size_t bytes = (size_t)(index * 977 + 1) << 10;
	snprintf(text, sizeof text, ".version 6.0\n.target sm_60\n.address_size 64\n.visible .global .align 16 .b8 field[%zu];\n.visible .entry idle() { ret; }\n", bytes);
	*asked = bytes <= 1 << 20 ? 0 : (long long)((bytes + (2 << 20) - 1) >> 21 << 21);
	return CU(cuModuleLoadData)(&made, text);
}

static void *use_own_stream(void *unused)
{
	(void)unused;
	CU(cuCtxSetCurrent)(context);
	CU(cuMemsetD32Async)(pointers[0], 1, 1024, CU_STREAM_PER_THREAD);
	CU(cuStreamSynchronize)(CU_STREAM_PER_THREAD);
	sleep(5);
	return NULL;
}

static CUresult thread_stream(int index, long long *asked)
{
	pthread_t thread;
	if (index == 0 && CU(cuMemAlloc_v2)(&pointers[0], 4096) == CUDA_SUCCESS)
		*asked = 2 << 20;
	pthread_create(&thread, NULL, use_own_stream, NULL);
	usleep(10000);
	return CUDA_SUCCESS;
}

static CUresult second_context(int index, long long *asked)
{
	CUcontext made;
	(void)index, (void)asked;
	CUresult code = CU(cuCtxCreate_v2)(&made, 0, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuCtxDestroy_v2)(made);
	CU(cuCtxSetCurrent)(context);
	return code;
}

static const struct kind kinds[] = {
	{ "nothing", 20, nothing },
	{ "stream", 1000, make_stream },
	{ "stream, ended at once", 1000, make_and_end_stream },
	{ "stream with a fill in it", 300, use_stream },
	{ "event, recorded", 2000, make_event },
	{ "cuMemAlloc, small", 2000, small },
	{ "cuMemAlloc, large", 1000, large },
	{ "cuMemAlloc, large, freed at once", 500, large_and_free },
	{ "cuMemAllocPitch, small", 1000, pitch },
	{ "cuMemAllocManaged, filled", 200, managed },
	{ "pinned memory", 300, pinned },
	{ "fill", 200, fill },
	{ "copy", 200, copy },
	{ "pool with 1 MiB", 100, make_pool },
	{ "pool with 1 MiB, ended at once", 100, make_and_end_pool },
	{ "cuMemCreate, mapped", 1000, map },
	{ "array of 4 MiB", 300, array },
	{ "cuMemAlloc and cuIpcGetMemHandle", 300, ipc },
	{ "module", 300, module },
	{ "100 launches", 200, launch },
	{ "launch in a new stream", 200, launch_in_streams },
	{ "graph of a kernel", 500, small_graph },
	{ "graph of 100 kernels", 50, graph },
	{ "graph of 3000 kernels", 5, big_graph },
	{ "graph with memory", 100, memory_graph },
	{ "graph of 1000 kernels, made, then launched", 20, graph_in_steps },
	{ "stack limit", 20, stack_limit },
	{ "printf and heap limits", 20, buffers },
	{ "module with variables", 40, large_module },
	{ "stream of a thread", 40, thread_stream },
	{ "second context, ended at once", 5, second_context },
};

static void measure(const struct kind *kind)
{
	CUdevice device;
	driver_open();
	if (CU(cuInit)(0) != CUDA_SUCCESS || CU(cuDeviceGet)(&device, 0) != CUDA_SUCCESS ||
	    CU(cuDevicePrimaryCtxRetain)(&context, device) != CUDA_SUCCESS || CU(cuCtxSetCurrent)(context) != CUDA_SUCCESS) {
		printf("@growth %s: no context\n", kind->name);
		return;
	}
	long long first = (long long)nvml_bytes(), expected = first, own = 0;
	char text[600] = "";
	size_t at = 0;
	int i = 0;
	CUresult code = CUDA_SUCCESS;
	for (; i < kind->calls && code == CUDA_SUCCESS; i++) {
		long long asked = 0;
		code = kind->call(i, &asked);
		expected += asked;
		long long more = (long long)nvml_bytes() - expected;
		if (more != own && at < sizeof text - 40)
			at += (size_t)snprintf(text + at, sizeof text - at, " %d:%+lld", i, (more - own) >> 10);
		own = more;
	}
	printf("@growth %s: %d calls (last answer %d), context %lld KiB, own %lld KiB; at call: KiB:%s\n", kind->name, i, (int)code, first >> 10, own >> 10, text);
}

int main(int argc, char **argv)
{
	for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
		bool wanted = argc < 2;
		for (int i = 1; i < argc; i++)
			wanted |= strcmp(argv[i], kinds[k].name) == 0;
		fflush(stdout);
		if (wanted && fork() == 0) {
			measure(&kinds[k]);
			fflush(stdout);
			_exit(0);
		}
		wait(NULL);
	}
	return 0;
}
