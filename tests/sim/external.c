// SPDX-License-Identifier: Apache-2.0
// External memory: what another interface allocated and handed over as a file descriptor. Only files that stand for
// exported physical memory (cuMemExportToShareableHandle) are known here; it stays charged to whoever made it.
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "share_fd.h"

struct CUextMemory_st {
	bool alive;
	int fd, device, shared_block;
	uint64_t bytes;
	struct CUextMemory_st *next;
};

static struct CUextMemory_st *memories; // the destroyed ones too, so that an old handle is recognised

CUresult cuImportExternalMemory(CUexternalMemory *out, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *desc)
{
	SIM_CURRENT(context);
	uint64_t id, bytes;
	int gpu;
	if (out == NULL || desc == NULL || desc->size == 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (desc->type != CU_EXTERNAL_MEMORY_HANDLE_TYPE_OPAQUE_FD)
		return CUDA_ERROR_NOT_SUPPORTED;
	if (!sim_share_read(desc->handle.fd, "vmm", &id, &gpu, &bytes) || gpu != context->gpu || desc->size > bytes)
		return CUDA_ERROR_INVALID_VALUE;
	struct CUextMemory_st *memory = calloc(1, sizeof(*memory));
	if (memory == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	memory->shared_block = sim_shared_find(id);
	bool held = memory->shared_block >= 0 && sim_shared_hold(memory->shared_block);
	if (held) {
		memory->alive = true;
		// It is ours from now on, as the interface says: no longer a descriptor that a program has open.
		int fd = sim_shared_reopen(desc->handle.fd, O_CLOEXEC);
		if (fd >= 0) {
			dup3(fd, desc->handle.fd, O_CLOEXEC);
			close(fd);
		}
		memory->fd = desc->handle.fd;
		memory->device = context->device;
		memory->bytes = desc->size;
		memory->next = memories;
		memories = memory;
		*out = memory;
	}
	sim_leave();
	if (!held)
		free(memory);
	return held ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuExternalMemoryGetMappedBuffer(
	CUdeviceptr *devPtr, CUexternalMemory extMem, const CUDA_EXTERNAL_MEMORY_BUFFER_DESC *bufferDesc)
{
	SIM_CURRENT(context);
	if (extMem == NULL || !extMem->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	if (devPtr == NULL || bufferDesc == NULL || bufferDesc->size == 0 || bufferDesc->offset > extMem->bytes
			|| bufferDesc->size > extMem->bytes - bufferDesc->offset)
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	struct sim_range *range = sim_share_map(getpid(), extMem->fd, bufferDesc->offset, bufferDesc->size);
	if (range != NULL) {
		range->kind = SIM_RANGE_EXTERNAL;
		range->context = context;
		range->device = context->device;
		*devPtr = range->base;
	}
	sim_leave();
	return range != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuDestroyExternalMemory(CUexternalMemory extMem)
{
	SIM_READY();
	if (extMem == NULL || !extMem->alive)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_enter();
	extMem->alive = false;
	close(extMem->fd);
	sim_shared_release(extMem->shared_block, false);
	sim_leave();
	return CUDA_SUCCESS;
}
