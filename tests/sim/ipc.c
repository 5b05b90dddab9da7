// SPDX-License-Identifier: Apache-2.0
// Memory of another process: IPC handles, and the files that stand for shareable objects. Charged once, with the
// exporter; where the exporter goes first, with the next holder.
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "share_fd.h"

bool sim_share_read(int fd, const char *kind, uint64_t *id, int *gpu, uint64_t *bytes)
{
	char path[48], name[PATH_MAX + 96], pattern[96];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t length = readlink(path, name, sizeof(name) - 1);
	if (length <= 0)
		return false;
	name[length] = '\0';
	snprintf(pattern, sizeof(pattern), "softmig-sim-%s-", kind);
	const char *last = strrchr(name, '/'); // a file's directory may be called anything
	const char *found = last != NULL ? strstr(last, pattern) : NULL;
	if (found == NULL)
		return false;
	char *rest;
	*id = strtoull(found + strlen(pattern), &rest, 10);
	if (*rest != '-')
		return false;
	*gpu = (int)strtol(rest + 1, &rest, 10);
	if (*rest != '-')
		return false;
	*bytes = strtoull(rest + 1, NULL, 10);
	return true;
}

struct sim_range *sim_share_map(int pid, int fd, uint64_t offset, uint64_t bytes)
{
	int own = pid == getpid() ? dup(fd) : sim_backing_open(pid, fd);
	uint64_t from = offset / 4096 * 4096, length = sim_round_up(offset + bytes, 4096) - from;
	uint64_t address = own >= 0 ? sim_backing_reserve(length, SIM_GRANULE, 0) : 0;
	struct sim_range *range = NULL;
	if (address != 0
		&& mmap((void *)(uintptr_t)address, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, own,
			   (off_t)from)
			!= MAP_FAILED)
		range = sim_range_add(address + (offset - from), bytes, SIM_RANGE_IPC);
	if (range != NULL)
		range->backing = (struct sim_backing){.address = address, .bytes = length, .fd = -1};
	else if (address != 0)
		munmap((void *)(uintptr_t)address, length);
	if (own >= 0)
		close(own);
	return range;
}

struct ipc_handle {
	uint32_t magic;
	int32_t pid, fd, gpu;
	uint64_t offset, bytes; // of the allocation in the exporter's file
	uint64_t block;         // shared block, 0: a small allocation, which is not counted by holders
};
_Static_assert(sizeof(struct ipc_handle) <= sizeof(CUipcMemHandle), "fits");
#define IPC_MAGIC 0x53494d49u

CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
	SIM_CURRENT(context);
	(void)context;
	if (pHandle == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = CUDA_ERROR_INVALID_VALUE;
	struct ipc_handle handle = {.magic = IPC_MAGIC, .pid = getpid()};
	sim_enter();
	struct sim_range *range = sim_range_find(dptr);
	if (range != NULL && range->kind == SIM_RANGE_SMALL) {
		const struct sim_backing *backing = &range->block->backing;
		handle.fd = backing->fd;
		handle.offset = backing->offset + (range->base - backing->address);
		result = CUDA_SUCCESS;
	} else if (range != NULL && range->kind == SIM_RANGE_DEVICE) {
		if (range->shared_block < 0)
			range->shared_block =
				sim_shared_create(range->context->gpu, range->charged_bytes, range->backing.fd, range->backing.offset);
		if (range->shared_block >= 0) {
			handle.fd = range->backing.fd;
			handle.offset = range->backing.offset;
			handle.block = sim_state->block[range->shared_block].id;
			result = CUDA_SUCCESS;
		}
	}
	if (result == CUDA_SUCCESS) {
		handle.gpu = range->context->gpu;
		handle.bytes = range->bytes;
	}
	sim_leave();
	if (result == CUDA_SUCCESS) {
		memset(pHandle, 0, sizeof(*pHandle));
		memcpy(pHandle, &handle, sizeof(handle));
	}
	return result;
}

struct wanted {
	uint64_t block;
	struct sim_range *found;
};

static void find_open(struct sim_range *range, void *argument)
{
	struct wanted *wanted = argument;
	if (range->kind == SIM_RANGE_IPC && range->shared_block >= 0
		&& sim_state->block[range->shared_block].id == wanted->block)
		wanted->found = range;
}

static CUresult open_handle(CUdeviceptr *address, const CUipcMemHandle *from, unsigned flags)
{
	SIM_CURRENT(context);
	struct ipc_handle handle;
	memcpy(&handle, from, sizeof(handle));
	if (address == NULL || flags > CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || handle.magic != IPC_MAGIC)
		return CUDA_ERROR_INVALID_VALUE;
	if (handle.pid == getpid())
		return CUDA_ERROR_INVALID_CONTEXT; // not in the process that exported it
	sim_enter();
	struct wanted wanted = {.block = handle.block};
	if (handle.block != 0)
		sim_range_each(find_open, &wanted);
	struct sim_range *range = wanted.found;
	CUresult result = CUDA_SUCCESS;
	if (range != NULL) {
		range->flags++; // opened once more
	} else {
		int block = handle.block != 0 ? sim_shared_find(handle.block) : -1;
		bool held = block >= 0 && sim_shared_hold(block);
		range = handle.block == 0 || held ? sim_share_map(handle.pid, handle.fd, handle.offset, handle.bytes) : NULL;
		if (range == NULL) {
			if (held)
				sim_shared_release(block, false);
			result = CUDA_ERROR_MAP_FAILED;
		} else {
			range->context = context;
			range->device = context->device;
			range->shared_block = block;
			range->flags = 1;
		}
	}
	if (range != NULL)
		*address = range->base;
	sim_leave();
	return result;
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
	return open_handle(pdptr, &handle, Flags);
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
	return open_handle(pdptr, &handle, Flags);
}

CUresult cuIpcCloseMemHandle(CUdeviceptr dptr)
{
	SIM_READY();
	sim_enter();
	struct sim_range *range = sim_range_find(dptr);
	bool found = range != NULL && range->base == dptr && range->kind == SIM_RANGE_IPC;
	if (found && --range->flags == 0)
		sim_free(range);
	sim_leave();
	return found ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
