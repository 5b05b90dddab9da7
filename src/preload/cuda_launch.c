// SPDX-License-Identifier: Apache-2.0
// Every way to launch a kernel, from CUDA 2 on. Owns: the hooks; each asks the meter, calls the driver, tells the meter.
#include "preload/hook.h"
#include "preload/meter.h"
#include "slice/limits.h"

// What a kernel is known by: its function and the size of its grid, to half an octave. Another size takes another time.
static uint64_t key_of(CUfunction f, uint64_t blocks, uint64_t threads)
{
	uint64_t size = blocks * threads | 2;
	unsigned octave = 63 - (unsigned)__builtin_clzll(size);
	return (uint64_t)(uintptr_t)f * 64 * 0x9e3779b97f4a7c15ull ^ ((uint64_t)octave << 2 | (size >> (octave - 1) & 1) << 1);
}

#define LAUNCH(stream, per_thread, key, dependent, call) \
	do { \
		struct softmig_meter_launch launch; \
		softmig_meter_before(&launch, (stream), (per_thread), (key), (dependent)); \
		return softmig_meter_after(&launch, (call)); \
	} while (0)
#define SIZE(gx, gy, gz, bx, by, bz) (uint64_t)(gx) * (gy) * (gz), (uint64_t)(bx) * (by) * (bz)

CUresult hook_cuLaunchKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams, void **extra)
{
	LAUNCH(hStream, false, key_of(f, SIZE(gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ)), false,
	       DRIVER(cuLaunchKernel)(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes, hStream,
	                              kernelParams, extra));
}

CUresult hook_cuLaunchKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams, void **extra)
{
	LAUNCH(hStream, true, key_of(f, SIZE(gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ)), false,
	       DRIVER(cuLaunchKernel_ptsz)(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes, hStream,
	                                   kernelParams, extra));
}

// Launches that may begin before the one before them has ended: nothing may come between.
static bool is_dependent(const CUlaunchConfig *config)
{
	for (unsigned int i = 0; i < config->numAttrs && config->attrs != NULL; i++) {
		const CUlaunchAttribute *attribute = &config->attrs[i];
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT ||
		    (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
		     attribute->value.programmaticStreamSerializationAllowed != 0))
			return true;
	}
	return false;
}

#define LAUNCH_EX(name, per_thread) \
	do { \
		if (config == NULL) /* the driver says what is wrong */ \
			return DRIVER(name)(config, f, kernelParams, extra); \
		LAUNCH(config->hStream, (per_thread), \
		       key_of(f, SIZE(config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX, config->blockDimY, \
		                      config->blockDimZ)), \
		       is_dependent(config), DRIVER(name)(config, f, kernelParams, extra)); \
	} while (0)

CUresult hook_cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	LAUNCH_EX(cuLaunchKernelEx, false);
}

CUresult hook_cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	LAUNCH_EX(cuLaunchKernelEx_ptsz, true);
}

CUresult hook_cuLaunchCooperativeKernel(CUfunction f, unsigned int gridDimX, unsigned int gridDimY, unsigned int gridDimZ,
	unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ, unsigned int sharedMemBytes,
	CUstream hStream, void **kernelParams)
{
	LAUNCH(hStream, false, key_of(f, SIZE(gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ)), false,
	       DRIVER(cuLaunchCooperativeKernel)(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes,
	                                         hStream, kernelParams));
}

CUresult hook_cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned int gridDimX, unsigned int gridDimY,
	unsigned int gridDimZ, unsigned int blockDimX, unsigned int blockDimY, unsigned int blockDimZ,
	unsigned int sharedMemBytes, CUstream hStream, void **kernelParams)
{
	LAUNCH(hStream, true, key_of(f, SIZE(gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ)), false,
	       DRIVER(cuLaunchCooperativeKernel_ptsz)(f, gridDimX, gridDimY, gridDimZ, blockDimX, blockDimY, blockDimZ, sharedMemBytes,
	                                              hStream, kernelParams));
}

// One kernel on several GPUs at once: all must have room before any is launched.
CUresult hook_cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *launchParamsList, unsigned int numDevices,
	unsigned int flags)
{
	struct softmig_meter_launch launch[SOFTMIG_MAX_GPUS];
	unsigned int count = launchParamsList == NULL ? 0 : numDevices < SOFTMIG_MAX_GPUS ? numDevices : SOFTMIG_MAX_GPUS;
	for (unsigned int i = 0; i < count; i++) {
		const CUDA_LAUNCH_PARAMS *params = &launchParamsList[i];
		softmig_meter_before(&launch[i], params->hStream, false,
		                     key_of(params->function, SIZE(params->gridDimX, params->gridDimY, params->gridDimZ,
		                                                   params->blockDimX, params->blockDimY, params->blockDimZ)), false);
	}
	CUresult result = DRIVER(cuLaunchCooperativeKernelMultiDevice)(launchParamsList, numDevices, flags);
	for (unsigned int i = 0; i < count; i++)
		softmig_meter_after(&launch[i], result);
	return result;
}

CUresult hook_cuLaunch(CUfunction f)
{
	LAUNCH(NULL, false, key_of(f, 1, 1), false, DRIVER(cuLaunch)(f));
}

CUresult hook_cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
	LAUNCH(NULL, false, key_of(f, (uint64_t)(unsigned)grid_width * (unsigned)grid_height, 1), false,
	       DRIVER(cuLaunchGrid)(f, grid_width, grid_height));
}

CUresult hook_cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream)
{
	LAUNCH(hStream, false, key_of(f, (uint64_t)(unsigned)grid_width * (unsigned)grid_height, 1), false,
	       DRIVER(cuLaunchGridAsync)(f, grid_width, grid_height, hStream));
}
