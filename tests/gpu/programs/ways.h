// SPDX-License-Identifier: Apache-2.0
// Every way of getting GPU memory from the driver, each as take and give. Must never: keep memory after a failed take,
// or hide an error other than out of memory.
#ifndef SOFTMIG_TESTS_GPU_WAYS_H
#define SOFTMIG_TESTS_GPU_WAYS_H
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxGetCurrent) X(cuMemGetInfo_v2) \
	X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemAllocPitch_v2) X(cuMemAllocManaged) X(cuMemsetD8_v2) X(cuMemsetD32_v2) X(cuMemcpyDtoH_v2) \
	X(cuMemAllocAsync) X(cuMemFreeAsync) X(cuStreamSynchronize) X(cuStreamCreate) X(cuStreamDestroy_v2) \
	X(cuMemPoolCreate) X(cuMemPoolDestroy) X(cuMemAllocFromPoolAsync) X(cuMemPoolTrimTo) X(cuDeviceGetDefaultMemPool) \
	X(cuMemPoolSetAttribute) X(cuMemPoolExportToShareableHandle) X(cuMemPoolExportPointer) X(cuMemPoolImportPointer) \
	X(cuMemCreate) X(cuMemRelease) X(cuMemAddressReserve) X(cuMemAddressFree) X(cuMemMap) X(cuMemUnmap) X(cuMemSetAccess) \
	X(cuMemRetainAllocationHandle) X(cuMemExportToShareableHandle) X(cuMemImportFromShareableHandle) X(cuMemGetAllocationGranularity) \
	X(cuArrayCreate_v2) X(cuArray3DCreate_v2) X(cuArrayDestroy) X(cuMipmappedArrayCreate) X(cuMipmappedArrayDestroy) \
	X(cuGraphCreate) X(cuGraphDestroy) X(cuGraphAddMemAllocNode) X(cuGraphAddMemFreeNode) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) \
	X(cuGraphExecDestroy) X(cuDeviceGraphMemTrim) X(cuStreamBeginCapture_v2) X(cuStreamEndCapture) \
	X(cuIpcGetMemHandle) X(cuIpcOpenMemHandle_v2) X(cuIpcCloseMemHandle) X(cuModuleLoadData) X(cuModuleUnload) X(cuCtxSetLimit) \
	X(cuCtxGetLimit) X(cuMemGetHandleForAddressRange) X(cuMemPoolImportFromShareableHandle)
#include "driver.h"

// A take that found nothing to do (nothing offered, no second context): no fault, no memory.
#define WAY_IDLE ((CUresult)10001)

// Where processes offer each other memory: IPC handles, and descriptors to be fetched from the offering process.
#define STALLS 16
struct stall {
	_Atomic int state; // 0 empty, 1 being written or read, 2 offered
	CUipcMemHandle handle;
	int pid, descriptor;
	size_t bytes;
};
struct bazaar {
	struct stall ipc[STALLS], share[STALLS];
};

struct thing {
	int way;
	unsigned seed;
	CUdevice device;
	size_t bytes;          // asked
	CUdeviceptr pointer;   // readable and writable memory of at least bytes, 0: none (arrays, modules)
	CUdeviceptr reserved;  // address range
	CUmemGenericAllocationHandle handle;
	bool handle_held;
	void *object;          // array, pool, graph, module
	void *exec;
	CUstream stream;
	int descriptor;
	struct bazaar *bazaar;
};

// Writes the thing's own mark to both ends of its memory.
static inline void thing_mark(struct thing *t)
{
	if (t->pointer == 0 || t->bytes < 4)
		return;
	CU(cuMemsetD32_v2)(t->pointer, t->seed, 1);
	CU(cuMemsetD32_v2)(t->pointer + (t->bytes / 4 - 1) * 4, t->seed, 1);
}

static inline bool thing_intact(struct thing *t)
{
	unsigned first = t->seed, last = t->seed;
	if (t->pointer == 0 || t->bytes < 4)
		return true;
	if (CU(cuMemcpyDtoH_v2)(&first, t->pointer, 4) != CUDA_SUCCESS || CU(cuMemcpyDtoH_v2)(&last, t->pointer + (t->bytes / 4 - 1) * 4, 4) != CUDA_SUCCESS)
		return false;
	return first == t->seed && last == t->seed;
}

static CUresult take_plain(struct thing *t)
{
	return CU(cuMemAlloc_v2)(&t->pointer, t->bytes);
}

static void give_plain(struct thing *t)
{
	CU(cuMemFree_v2)(t->pointer);
}

static CUresult take_pitch(struct thing *t)
{
	size_t pitch = 0, height = t->bytes / 4096 + 1;
	CUresult code = CU(cuMemAllocPitch_v2)(&t->pointer, &pitch, 4000, height, 4);
	if (code == CUDA_SUCCESS)
		t->bytes = pitch * height;
	return code;
}

// Small, and touched by the GPU so that it lies there: asking for more managed memory than a GPU has can hang it.
static CUresult take_managed(struct thing *t)
{
	t->bytes = t->bytes % (4 * MIB) + 4;
	CUresult code = CU(cuMemAllocManaged)(&t->pointer, t->bytes, CU_MEM_ATTACH_GLOBAL);
	if (code == CUDA_SUCCESS)
		CU(cuMemsetD8_v2)(t->pointer, 1, t->bytes);
	return code;
}

static CUresult take_async(struct thing *t)
{
	CUresult code = CU(cuStreamCreate)(&t->stream, CU_STREAM_NON_BLOCKING);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuMemAllocAsync)(&t->pointer, t->bytes, t->stream);
	CUresult done = CU(cuStreamSynchronize)(t->stream);
	if (code == CUDA_SUCCESS && done != CUDA_SUCCESS)
		code = done;
	if (code != CUDA_SUCCESS)
		CU(cuStreamDestroy_v2)(t->stream);
	return code;
}

static void give_async(struct thing *t)
{
	CUmemoryPool pool;
	cuuint64_t keep = t->seed % 3 == 0 ? 64 * MIB : 0; // sometimes the pool keeps what is freed
	if (CU(cuDeviceGetDefaultMemPool)(&pool, t->device) == CUDA_SUCCESS)
		CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
	if (t->seed % 5 == 0)
		CU(cuMemFree_v2)(t->pointer);
	else
		CU(cuMemFreeAsync)(t->pointer, t->stream);
	CU(cuStreamSynchronize)(t->stream);
	CU(cuStreamDestroy_v2)(t->stream);
}

static CUresult take_own_pool(struct thing *t)
{
	CUmemPoolProps properties = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	properties.location.id = t->device;
	CUresult code = CU(cuStreamCreate)(&t->stream, CU_STREAM_NON_BLOCKING);
	if (code != CUDA_SUCCESS)
		return code;
	CUmemoryPool pool = NULL;
	code = CU(cuMemPoolCreate)(&pool, &properties);
	if (code == CUDA_SUCCESS) {
		cuuint64_t keep = t->seed % 2 == 0 ? ~0ull : 0;
		CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &keep);
		code = CU(cuMemAllocFromPoolAsync)(&t->pointer, t->bytes, pool, t->stream);
		CUresult done = CU(cuStreamSynchronize)(t->stream);
		if (code == CUDA_SUCCESS)
			code = done;
		if (code != CUDA_SUCCESS)
			CU(cuMemPoolDestroy)(pool);
	}
	if (code != CUDA_SUCCESS)
		CU(cuStreamDestroy_v2)(t->stream);
	t->object = pool;
	return code;
}

static void give_own_pool(struct thing *t)
{
	if (t->seed % 3 == 0) // a pool may be destroyed first: its memory stays until the last piece is freed
		CU(cuMemPoolDestroy)(t->object);
	CU(cuMemFreeAsync)(t->pointer, t->stream);
	CU(cuStreamSynchronize)(t->stream);
	if (t->seed % 3 == 1)
		CU(cuMemPoolTrimTo)(t->object, 0);
	if (t->seed % 3 != 0)
		CU(cuMemPoolDestroy)(t->object);
	CU(cuStreamDestroy_v2)(t->stream);
}

static CUmemAllocationProp vmm_properties(const struct thing *t)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	properties.location.id = t->device;
	properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	return properties;
}

// Maps t->handle, which it then owns or, by the seed, releases at once: mapped memory outlives its handle.
static CUresult vmm_map(struct thing *t)
{
	CUmemAccessDesc access = { .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE }, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE };
	access.location.id = t->device;
	t->handle_held = true;
	CUresult code = CU(cuMemAddressReserve)(&t->reserved, t->bytes, 0, 0, 0);
	if (code == CUDA_SUCCESS && (code = CU(cuMemMap)(t->reserved, t->bytes, 0, t->handle, 0)) != CUDA_SUCCESS)
		CU(cuMemAddressFree)(t->reserved, t->bytes);
	if (code == CUDA_SUCCESS && (code = CU(cuMemSetAccess)(t->reserved, t->bytes, &access, 1)) != CUDA_SUCCESS) {
		CU(cuMemUnmap)(t->reserved, t->bytes);
		CU(cuMemAddressFree)(t->reserved, t->bytes);
	}
	if (code != CUDA_SUCCESS || t->seed % 2 == 0) {
		CU(cuMemRelease)(t->handle);
		t->handle_held = false;
	}
	if (code == CUDA_SUCCESS)
		t->pointer = t->reserved;
	return code;
}

static CUresult take_vmm(struct thing *t)
{
	CUmemAllocationProp properties = vmm_properties(t);
	t->bytes = (t->bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
	CUresult code = CU(cuMemCreate)(&t->handle, t->bytes, &properties, 0);
	return code == CUDA_SUCCESS ? vmm_map(t) : code;
}

static void give_vmm(struct thing *t)
{
	CUmemGenericAllocationHandle again;
	bool retained = t->seed % 3 == 0 && CU(cuMemRetainAllocationHandle)(&again, (void *)(uintptr_t)t->reserved) == CUDA_SUCCESS;
	if (t->handle_held && t->seed % 4 == 1)
		CU(cuMemRelease)(t->handle);
	CU(cuMemUnmap)(t->reserved, t->bytes);
	CU(cuMemAddressFree)(t->reserved, t->bytes);
	if (t->handle_held && t->seed % 4 != 1)
		CU(cuMemRelease)(t->handle);
	if (retained)
		CU(cuMemRelease)(again);
}

static CUresult take_array(struct thing *t)
{
	size_t texels = t->bytes / 4, width = 1024, height = texels / width + 1;
	if (t->seed % 2 == 0) {
		CUDA_ARRAY_DESCRIPTOR flat = { .Width = width, .Height = height > 32768 ? 32768 : height, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1 };
		return CU(cuArrayCreate_v2)((CUarray *)&t->object, &flat);
	}
	CUDA_ARRAY3D_DESCRIPTOR solid = { .Width = 256, .Height = 256, .Depth = texels / 65536 + 1, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 1 };
	return CU(cuArray3DCreate_v2)((CUarray *)&t->object, &solid);
}

static void give_array(struct thing *t)
{
	CU(cuArrayDestroy)(t->object);
}

static CUresult take_mipmap(struct thing *t)
{
	size_t height = t->bytes / 16 / 1024 + 1;
	CUDA_ARRAY3D_DESCRIPTOR shape = { .Width = 1024, .Height = height > 16384 ? 16384 : height, .Format = CU_AD_FORMAT_FLOAT, .NumChannels = 4 };
	return CU(cuMipmappedArrayCreate)((CUmipmappedArray *)&t->object, &shape, 4);
}

static void give_mipmap(struct thing *t)
{
	CU(cuMipmappedArrayDestroy)(t->object);
}

// Instantiates and launches t->object; on failure destroys it.
static CUresult graph_launch(struct thing *t, CUgraph graph)
{
	CUgraphExec exec = NULL;
	CUresult code = CU(cuGraphInstantiateWithFlags)(&exec, graph, 0);
	if (code == CUDA_SUCCESS) {
		code = CU(cuGraphLaunch)(exec, t->stream);
		CUresult done = CU(cuStreamSynchronize)(t->stream);
		if (code == CUDA_SUCCESS)
			code = done;
	}
	if (code != CUDA_SUCCESS) {
		if (exec != NULL)
			CU(cuGraphExecDestroy)(exec);
		CU(cuGraphDestroy)(graph);
	}
	t->exec = exec;
	t->object = graph;
	return code;
}

static CUresult take_graph(struct thing *t)
{
	CUgraph graph = NULL;
	CUgraphNode node, free_node;
	CUDA_MEM_ALLOC_NODE_PARAMS parameters = { .bytesize = t->bytes };
	parameters.poolProps.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
	parameters.poolProps.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	parameters.poolProps.location.id = t->device;
	bool freed_inside = t->seed % 2 == 0;
	CUresult code = CU(cuStreamCreate)(&t->stream, CU_STREAM_NON_BLOCKING);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuGraphCreate)(&graph, 0);
	if (code == CUDA_SUCCESS) {
		code = CU(cuGraphAddMemAllocNode)(&node, graph, NULL, 0, &parameters);
		if (code == CUDA_SUCCESS && freed_inside)
			code = CU(cuGraphAddMemFreeNode)(&free_node, graph, &node, 1, parameters.dptr);
		if (code != CUDA_SUCCESS)
			CU(cuGraphDestroy)(graph);
		else
			code = graph_launch(t, graph);
	}
	if (code == CUDA_SUCCESS && !freed_inside)
		t->pointer = parameters.dptr;
	if (code != CUDA_SUCCESS) {
		CU(cuStreamDestroy_v2)(t->stream);
		CU(cuDeviceGraphMemTrim)(t->device);
	}
	return code;
}

static void give_graph(struct thing *t)
{
	if (t->pointer != 0)
		CU(cuMemFreeAsync)(t->pointer, t->stream);
	CU(cuStreamSynchronize)(t->stream);
	CU(cuGraphExecDestroy)(t->exec);
	CU(cuGraphDestroy)(t->object);
	if (t->seed % 4 != 0)
		CU(cuDeviceGraphMemTrim)(t->device);
	CU(cuStreamDestroy_v2)(t->stream);
}

static CUresult take_capture(struct thing *t)
{
	CUgraph graph = NULL;
	CUdeviceptr inside = 0;
	CUresult code = CU(cuStreamCreate)(&t->stream, CU_STREAM_NON_BLOCKING);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuStreamBeginCapture_v2)(t->stream, CU_STREAM_CAPTURE_MODE_RELAXED);
	if (code == CUDA_SUCCESS) {
		code = CU(cuMemAllocAsync)(&inside, t->bytes, t->stream);
		if (code == CUDA_SUCCESS)
			code = CU(cuMemFreeAsync)(inside, t->stream);
		CUresult ended = CU(cuStreamEndCapture)(t->stream, &graph);
		if (code == CUDA_SUCCESS)
			code = ended;
		if (code == CUDA_SUCCESS)
			code = graph_launch(t, graph);
		else if (graph != NULL)
			CU(cuGraphDestroy)(graph);
	}
	if (code != CUDA_SUCCESS) {
		CU(cuStreamDestroy_v2)(t->stream);
		CU(cuDeviceGraphMemTrim)(t->device);
	}
	return code;
}

static void give_nothing(struct thing *t)
{
	(void)t;
}

// Memory that other processes open.
static CUresult take_export(struct thing *t)
{
	CUresult code = CU(cuMemAlloc_v2)(&t->pointer, t->bytes);
	if (code != CUDA_SUCCESS)
		return code;
	struct stall *stall = &t->bazaar->ipc[t->seed % STALLS];
	int empty = atomic_load(&stall->state);
	CUipcMemHandle handle;
	if (empty != 1 && CU(cuIpcGetMemHandle)(&handle, t->pointer) == CUDA_SUCCESS && atomic_compare_exchange_strong(&stall->state, &empty, 1)) {
		stall->handle = handle;
		stall->pid = getpid();
		atomic_store(&stall->state, 2);
	}
	return CUDA_SUCCESS;
}

// Another process's memory: charged to nobody twice. Its owner may have freed it or died, which is no fault. It is let go at once: what
// outlives its owner in another's hands is looked at on its own (fighter outlive), for it is nobody's in the ledger.
static CUresult take_open(struct thing *t)
{
	struct stall *stall = &t->bazaar->ipc[t->seed % STALLS];
	int offered = 2;
	if (!atomic_compare_exchange_strong(&stall->state, &offered, 1))
		return WAY_IDLE;
	CUipcMemHandle handle = stall->handle;
	bool own = stall->pid == getpid();
	atomic_store(&stall->state, own ? 2 : 0);
	t->bytes = 0;
	if (own)
		return WAY_IDLE;
	CUresult code = CU(cuIpcOpenMemHandle_v2)(&t->reserved, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	if (code == CUDA_SUCCESS)
		CU(cuIpcCloseMemHandle)(t->reserved);
	return code == CUDA_SUCCESS || code == CUDA_ERROR_OUT_OF_MEMORY ? code : WAY_IDLE;
}

// A handle's descriptor, imported again here and fetched by other processes.
static CUresult take_share(struct thing *t)
{
	CUmemAllocationProp properties = vmm_properties(t);
	t->bytes = (t->bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
	CUmemGenericAllocationHandle original;
	CUresult code = CU(cuMemCreate)(&original, t->bytes, &properties, 0);
	if (code != CUDA_SUCCESS)
		return code;
	t->descriptor = -1;
	code = CU(cuMemExportToShareableHandle)(&t->descriptor, original, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuMemImportFromShareableHandle)(&t->handle, (void *)(intptr_t)t->descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	CU(cuMemRelease)(original);
	if (code == CUDA_SUCCESS)
		code = vmm_map(t);
	if (code != CUDA_SUCCESS) {
		if (t->descriptor >= 0)
			close(t->descriptor);
		return code;
	}
	struct stall *stall = &t->bazaar->share[t->seed % STALLS];
	int empty = atomic_load(&stall->state);
	if (empty != 1 && atomic_compare_exchange_strong(&stall->state, &empty, 1)) {
		stall->pid = getpid();
		stall->descriptor = t->descriptor;
		stall->bytes = t->bytes;
		atomic_store(&stall->state, 2);
	}
	return code;
}

static void give_share(struct thing *t)
{
	give_vmm(t);
	struct stall *stall = &t->bazaar->share[t->seed % STALLS];
	int offered = 2;
	if (stall->pid == getpid() && stall->descriptor == t->descriptor)
		atomic_compare_exchange_strong(&stall->state, &offered, 0);
	close(t->descriptor);
}

// Freed at once: the dma-buf alone keeps it.
static CUresult take_dma_buf(struct thing *t)
{
	CUdeviceptr pointer;
	t->bytes = (t->bytes + 2 * MIB - 1) / (2 * MIB) * (2 * MIB);
	CUresult code = CU(cuMemAlloc_v2)(&pointer, t->bytes);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuMemGetHandleForAddressRange)(&t->descriptor, pointer, t->bytes, CU_MEM_RANGE_HANDLE_TYPE_DMA_BUF_FD, 0);
	CU(cuMemFree_v2)(pointer);
	return code;
}

static void give_dma_buf(struct thing *t)
{
	close(t->descriptor);
}

// An exportable pool and a descriptor of it.
static CUresult exported_pool(CUdevice device, CUmemoryPool *pool, int *descriptor)
{
	CUmemPoolProps properties = { .allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		                      .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device } };
	CUresult code = CU(cuMemPoolCreate)(pool, &properties);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuMemPoolExportToShareableHandle)(descriptor, *pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
	if (code != CUDA_SUCCESS)
		CU(cuMemPoolDestroy)(*pool);
	return code;
}

// Takes a piece of the pool, exports its pointer, shows that to another process where there is one, and frees it.
static CUresult leave_in_pool(CUmemoryPool pool, size_t bytes, CUresult (*show)(int peer, const CUmemPoolPtrExportData *data), int peer)
{
	CUmemPoolPtrExportData data;
	CUdeviceptr pointer;
	CUresult code = CU(cuMemAllocFromPoolAsync)(&pointer, bytes, pool, NULL);
	if (code != CUDA_SUCCESS)
		return code;
	code = CU(cuMemPoolExportPointer)(&data, pointer);
	if (code == CUDA_SUCCESS && show != NULL)
		code = show(peer, &data);
	CU(cuMemFreeAsync)(pointer, NULL);
	CU(cuStreamSynchronize)(NULL);
	return code;
}

// The pool keeps it, and when that is gone its descriptor.
static CUresult take_left_in_pool(struct thing *t)
{
	CUmemoryPool pool;
	CUresult code = exported_pool(t->device, &pool, &t->descriptor);
	if (code != CUDA_SUCCESS)
		return code;
	t->object = pool;
	code = leave_in_pool(pool, t->bytes, NULL, -1);
	for (unsigned again = t->seed / 3 % 3; code == CUDA_SUCCESS && again > 0; again--) // at the same place: the last one stays
		code = leave_in_pool(pool, t->bytes, NULL, -1);
	if (code != CUDA_SUCCESS || t->seed % 3 == 0)
		CU(cuMemPoolDestroy)(pool);
	if (code != CUDA_SUCCESS || t->seed % 3 == 1)
		close(t->descriptor);
	return code;
}

static void give_left_in_pool(struct thing *t)
{
	if (t->seed % 3 != 0)
		CU(cuMemPoolDestroy)(t->object);
	if (t->seed % 3 != 1)
		close(t->descriptor);
}

static CUresult take_fetch(struct thing *t)
{
	struct stall *stall = &t->bazaar->share[t->seed % STALLS];
	int offered = 2;
	if (!atomic_compare_exchange_strong(&stall->state, &offered, 1))
		return WAY_IDLE;
	int pid = stall->pid, theirs = stall->descriptor;
	t->bytes = stall->bytes;
	atomic_store(&stall->state, pid == getpid() ? 2 : 0);
	if (pid == getpid())
		return WAY_IDLE;
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	int descriptor = pidfd < 0 ? -1 : (int)syscall(SYS_pidfd_getfd, pidfd, theirs, 0);
	if (pidfd >= 0)
		close(pidfd);
	if (descriptor < 0)
		return WAY_IDLE;
	// The descriptor may by now be another file of theirs, or shorter memory: the driver says so, and that is no fault.
	CUresult code = CU(cuMemImportFromShareableHandle)(&t->handle, (void *)(intptr_t)descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	close(descriptor);
	if (code == CUDA_SUCCESS && (code = vmm_map(t)) == CUDA_SUCCESS)
		give_vmm(t);
	t->pointer = 0;
	return code == CUDA_SUCCESS || code == CUDA_ERROR_OUT_OF_MEMORY ? code : WAY_IDLE;
}

static CUresult take_module(struct thing *t)
{
	char ptx[256];
	snprintf(ptx, sizeof ptx, ".version 6.0\n.target sm_60\n.address_size 64\n.visible .global .align 16 .b8 field[%llu];\n.visible .entry idle() { ret; }\n",
	         t->bytes % (64 * MIB) + 16);
	return CU(cuModuleLoadData)((CUmodule *)&t->object, ptx);
}

static void give_module(struct thing *t)
{
	CU(cuModuleUnload)(t->object);
}

static CUresult take_limit(struct thing *t)
{
	static const CUlimit which[] = { CU_LIMIT_STACK_SIZE, CU_LIMIT_PRINTF_FIFO_SIZE, CU_LIMIT_MALLOC_HEAP_SIZE };
	const size_t value[] = { t->bytes % 2048 + 1024, t->bytes % (32 * MIB) + MIB, t->bytes % (64 * MIB) + 8 * MIB };
	CUresult code = CU(cuCtxSetLimit)(which[t->seed % 3], value[t->seed % 3]);
	// Printf buffer and heap are fixed once a module that uses them is there: the driver's own answer, no fault.
	return code == CUDA_ERROR_INVALID_VALUE ? WAY_IDLE : code;
}

static const struct {
	const char *name;
	CUresult (*take)(struct thing *);
	void (*give)(struct thing *);
} ways[] = { // others choose by their numbers (FIGHT_WAYS): new ones to the end
	{ "cuMemAlloc", take_plain, give_plain },
	{ "cuMemAllocPitch", take_pitch, give_plain },
	{ "cuMemAllocManaged", take_managed, give_plain },
	{ "cuMemAllocAsync, default pool", take_async, give_async },
	{ "cuMemAllocFromPoolAsync, own pool", take_own_pool, give_own_pool },
	{ "cuMemCreate, mapped", take_vmm, give_vmm },
	{ "cuMemCreate, exported and imported", take_share, give_share },
	{ "memory fetched from another process by descriptor", take_fetch, give_nothing },
	{ "arrays", take_array, give_array },
	{ "mipmapped arrays", take_mipmap, give_mipmap },
	{ "graph memory nodes", take_graph, give_graph },
	{ "captured graphs", take_capture, give_graph },
	{ "IPC, exported", take_export, give_plain },
	{ "IPC, opened", take_open, give_nothing },
	{ "modules", take_module, give_module },
	{ "context limits", take_limit, give_nothing },
	{ "cuMemAlloc, kept by a dma-buf", take_dma_buf, give_dma_buf },
	{ "a pool's, exported by its pointer and freed", take_left_in_pool, give_left_in_pool },
};
#define WAYS ((int)(sizeof ways / sizeof *ways))
#endif
