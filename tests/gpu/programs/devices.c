// SPDX-License-Identifier: Apache-2.0
// Several GPUs: devices LIMIT_MIB[,LIMIT_MIB...] [UUID...]: each GPU that this program sees has its own limit, by the number
// that the program gives it, wherever memory is asked for from; NVML shows the same of each, found by its UUID.
#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDeviceGetCount) X(cuDeviceTotalMem_v2) X(cuDeviceGetUuid_v2) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) \
	X(cuMemGetInfo_v2) X(cuMemAlloc_v2) X(cuMemFree_v2) X(cuMemCreate) X(cuMemRelease) X(cuDeviceCanAccessPeer) X(cuCtxEnablePeerAccess) \
	X(cuMemcpyPeer) X(cuMemcpyDtoH_v2) X(cuMemsetD32_v2) X(cuCtxSynchronize)
#include "check.h"
#include "driver.h"

#include "preload/abi/nvml_types.h"
#include "preload/abi/nvml_functions.h"

#define MAX_GPUS 16
#define PIECE (128 * MIB)

static CUcontext context[MAX_GPUS];

static size_t free_on(int gpu)
{
	size_t free_bytes = 0, total = 0;
	CU(cuCtxSetCurrent)(context[gpu]);
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	return free_bytes;
}

static void uuid_text(const CUuuid *uuid, char text[64])
{
	const unsigned char *b = (const unsigned char *)uuid->bytes;
	snprintf(text, 64, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7],
	         b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}

static void check_nvml(const char *uuid, unsigned long long limit, int gpu)
{
	char name[64];
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	nvmlReturn_t (*init)(void) = (__typeof__(init))dlsym(library, "nvmlInit_v2");
	nvmlReturn_t (*find)(const char *, nvmlDevice_t *) = (__typeof__(find))dlsym(library, "nvmlDeviceGetHandleByUUID");
	nvmlReturn_t (*memory_info)(nvmlDevice_t, nvmlMemory_t *) = (__typeof__(memory_info))dlsym(library, "nvmlDeviceGetMemoryInfo");
	nvmlDevice_t device;
	nvmlMemory_t memory = { 0 };
	snprintf(name, sizeof name, "GPU %d: NVML's total, found by UUID", gpu);
	bool found = init() == NVML_SUCCESS && find(uuid, &device) == NVML_SUCCESS && memory_info(device, &memory) == NVML_SUCCESS;
	check(found && memory.total == limit, name, "%llu\t%llu", limit, (unsigned long long)memory.total);
}

// Takes pieces of plain memory on GPU gpu (or, where != gpu, with VMM from another GPU's context) until refused.
static int fill(int gpu, int where, CUdeviceptr *pieces, CUresult *refusal)
{
	CUmemAllocationProp properties = { .type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = { .type = CU_MEM_LOCATION_TYPE_DEVICE } };
	properties.location.id = gpu;
	int count = 0;
	CU(cuCtxSetCurrent)(context[where]);
	for (*refusal = CUDA_SUCCESS; count < 1024; count++) {
		*refusal = where == gpu ? CU(cuMemAlloc_v2)(&pieces[count], PIECE) :
		                          CU(cuMemCreate)((CUmemGenericAllocationHandle *)&pieces[count], PIECE, &properties, 0);
		if (*refusal != CUDA_SUCCESS)
			break;
	}
	return count;
}

static void check_peers(void)
{
	int can = 0;
	CUdeviceptr here = 0, there = 0;
	unsigned seen = 0;
	CU(cuDeviceCanAccessPeer)(&can, 0, 1);
	CU(cuCtxSetCurrent)(context[0]);
	if (can)
		check_number("peer access", CUDA_SUCCESS, CU(cuCtxEnablePeerAccess)(context[1], 0));
	CU(cuMemAlloc_v2)(&here, MIB);
	CU(cuMemsetD32_v2)(here, 0xabcd1234, MIB / 4);
	CU(cuCtxSetCurrent)(context[1]);
	CU(cuMemAlloc_v2)(&there, MIB);
	CU(cuMemcpyPeer)(there, context[1], here, context[0], MIB);
	CU(cuCtxSynchronize)();
	CU(cuMemcpyDtoH_v2)(&seen, there + MIB - 4, 4);
	check_number("a copy between the GPUs arrives", 0xabcd1234, seen);
	CU(cuMemFree_v2)(there);
	CU(cuCtxSetCurrent)(context[0]);
	CU(cuMemFree_v2)(here);
}

int main(int argc, char **argv)
{
	unsigned long long limit[MAX_GPUS] = { 0 };
	static CUdeviceptr pieces[MAX_GPUS][1024];
	char name[96], *text = argc > 1 ? argv[1] : (char *)"4096";
	int expected = 0, count = 0, held[MAX_GPUS];
	for (char *part; (part = strsep(&text, ",")) != NULL && expected < MAX_GPUS;)
		limit[expected++] = strtoull(part, NULL, 10) * MIB;
	driver_open();
	CU(cuInit)(0);
	CU(cuDeviceGetCount)(&count);
	if (!check_number("GPUs seen", (unsigned)expected, (unsigned)count))
		return 1;
	for (int i = 0; i < count; i++) {
		CUdevice device;
		CUuuid uuid;
		char own[64];
		size_t total = 0;
		CU(cuDeviceGet)(&device, i);
		CU(cuDeviceTotalMem_v2)(&total, device);
		snprintf(name, sizeof name, "GPU %d: total", i);
		check_number(name, limit[i], total);
		CU(cuDeviceGetUuid_v2)(&uuid, device);
		uuid_text(&uuid, own);
		if (argc > 2 + i) {
			snprintf(name, sizeof name, "GPU %d: is the one that was meant", i);
			check(strcmp(own, argv[2 + i]) == 0, name, "%s\t%s", argv[2 + i], own);
		}
		check_nvml(own, limit[i], i);
		if (CU(cuDevicePrimaryCtxRetain)(&context[i], device) != CUDA_SUCCESS)
			return check_true(false, "a context"), 1;
	}
	for (int i = 0; i < count; i++) {
		CUresult refusal;
		size_t fits = free_on(i) / PIECE;
		int where = i > 0 ? 0 : i; // the others are filled from the first one's context
		held[i] = fill(i, where, pieces[i], &refusal);
		if (refusal == CUDA_ERROR_NOT_SUPPORTED) {
			check_skip("cuMemCreate", "the driver does not do it here");
			continue;
		}
		snprintf(name, sizeof name, "GPU %d: pieces of 128 MiB%s, all that fit", i, where == i ? "" : " by cuMemCreate from GPU 0's context");
		check_number(name, fits, (unsigned)held[i]);
		snprintf(name, sizeof name, "GPU %d: then refused", i);
		check_number(name, CUDA_ERROR_OUT_OF_MEMORY, refusal);
	}
	for (int i = 0; i < count; i++) {
		CU(cuCtxSetCurrent)(context[i]);
		for (int k = 0; k < held[i]; k++) {
			if (i > 0)
				CU(cuMemRelease)(pieces[i][k]);
			else
				CU(cuMemFree_v2)(pieces[i][k]);
		}
		snprintf(name, sizeof name, "GPU %d: free again", i);
		size_t free_bytes = free_on(i);
		check(free_bytes > (unsigned)held[i] * PIECE, name, "> %llu\t%zu", (unsigned)held[i] * PIECE, free_bytes);
	}
	if (count > 1)
		check_peers();
	return check_failures != 0;
}
