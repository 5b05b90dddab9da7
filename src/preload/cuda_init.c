// SPDX-License-Identifier: Apache-2.0
// The doors: cuInit, and cuGetProcAddress, which the CUDA runtime asks for everything. The driver answers first: it alone knows
// versions, flags and per-thread-stream forms; then an answer whose address is in the hooks' table is replaced.
#include "preload/hook.h"
#include "preload/mode.h"

CUresult hook_cuInit(unsigned int Flags)
{
	// Limits that cannot be understood or kept: no usable GPU, and the log says why.
	if (softmig_mode() == SOFTMIG_MODE_REFUSED)
		return CUDA_ERROR_NO_DEVICE;
	return DRIVER(cuInit)(Flags);
}

CUresult hook_cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	CUresult result = DRIVER(cuGetProcAddress)(symbol, pfn, cudaVersion, flags);
	if (result == CUDA_SUCCESS && pfn != NULL)
		*pfn = softmig_driver_replace(*pfn, NULL);
	return result;
}

CUresult hook_cuGetProcAddress_v2(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags,
                                  CUdriverProcAddressQueryResult *symbolStatus)
{
	CUresult result = DRIVER(cuGetProcAddress_v2)(symbol, pfn, cudaVersion, flags, symbolStatus);
	if (result == CUDA_SUCCESS && pfn != NULL)
		*pfn = softmig_driver_replace(*pfn, NULL);
	return result;
}
