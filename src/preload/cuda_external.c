// SPDX-License-Identifier: Apache-2.0
// Memory of other interfaces (Vulkan, NvSci). It exists before it is imported, and whether this process is charged for it is the
// driver's to tell, and may be told when another process lets go of it. Owns: that it is asked.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/sharing.h"

static CUresult settled(CUresult result)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	if (result == CUDA_SUCCESS && gpu != NULL)
		softmig_settle(gpu);
	return result;
}

CUresult hook_cuImportExternalMemory(CUexternalMemory *extMem_out, const CUDA_EXTERNAL_MEMORY_HANDLE_DESC *memHandleDesc)
{
	softmig_import_begins();
	CUresult result = DRIVER(cuImportExternalMemory)(extMem_out, memHandleDesc);
	if (result != CUDA_SUCCESS)
		softmig_import_ended();
	return settled(result);
}

CUresult hook_cuDestroyExternalMemory(CUexternalMemory extMem)
{
	CUresult result = DRIVER(cuDestroyExternalMemory)(extMem);
	if (result == CUDA_SUCCESS)
		softmig_import_ended();
	return settled(result);
}
