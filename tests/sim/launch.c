// SPDX-License-Identifier: Apache-2.0
// Launches of every kind, and what can be asked of functions.
#include <string.h>

#include "module.h"

static bool is_kernel(CUfunction handle)
{
	return ((const struct CUkern_st *)(const void *)handle)->magic == SIM_KERNEL_HANDLE;
}

static unsigned blocks_per_processor(const unsigned block[3])
{
	unsigned threads = block[0] * block[1] * block[2];
	unsigned blocks = threads == 0 ? 32 : 2048 / threads;
	return blocks > 32 ? 32 : blocks < 1 ? 1 : blocks;
}

static uint64_t room_for_blocks(const struct sim_launch *launch)
{
	int gpu = launch->function->module->context->gpu;
	return (uint64_t)sim_state->gpu[gpu].processors * blocks_per_processor(launch->block);
}

uint32_t sim_launch_width(const struct sim_launch *launch)
{
	uint64_t blocks = (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2], room = room_for_blocks(launch);
	uint64_t width = blocks >= room ? SIM_FULL_WIDTH : blocks * SIM_FULL_WIDTH / room;
	return width > 0 ? (uint32_t)width : 1;
}

CUresult sim_launch_submit(const struct sim_launch *launch, struct CUstream_st *stream)
{
	const struct CUfunc_st *function = launch->function;
	if (function->ranks > 0)
		return sim_stream_submit_collective(stream, function->ns, sim_launch_width(launch), function->ranks, function->communicator);
	return sim_stream_submit(stream, SIM_KERNEL, function->ns, sim_launch_width(launch));
}

CUresult sim_launch_check(struct sim_launch *launch, CUfunction handle, struct CUctx_st *context)
{
	if (handle == NULL)
		return CUDA_ERROR_INVALID_HANDLE;
	CUresult result = CUDA_SUCCESS;
	if (is_kernel(handle))
		result = sim_kernel_function((struct CUkern_st *)(void *)handle, context, &launch->function);
	else if (handle->magic == SIM_FUNCTION)
		launch->function = handle;
	else
		return CUDA_ERROR_INVALID_HANDLE;
	if (result != CUDA_SUCCESS)
		return result;
	if (launch->function->module->context != context)
		return CUDA_ERROR_INVALID_HANDLE;
	for (int i = 0; i < 3; i++)
		if (launch->grid[i] == 0 || launch->block[i] == 0)
			return CUDA_ERROR_INVALID_VALUE;
	if ((uint64_t)launch->block[0] * launch->block[1] * launch->block[2] > 1024 || launch->block[2] > 64)
		return CUDA_ERROR_INVALID_VALUE;
	if (launch->shared_bytes > 232448)
		return CUDA_ERROR_INVALID_VALUE;
	if (launch->cooperative && (uint64_t)launch->grid[0] * launch->grid[1] * launch->grid[2] > room_for_blocks(launch))
		return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
	return CUDA_SUCCESS;
}

static CUresult launch_on(CUstream handle, CUfunction function, struct sim_launch *launch, CUevent after)
{
	SIM_STREAM(stream, handle);
	CUresult result = sim_capture_forbid_legacy(stream);
	if (result == CUDA_SUCCESS)
		result = sim_launch_check(launch, function, stream->context);
	if (result != CUDA_SUCCESS)
		return result;
	if (sim_capturing(stream))
		return sim_capture_kernel(stream, launch);
	result = sim_context_need(
		stream->context, launch->function->local_bytes, launch->function->heap, launch->function->printf_buffer);
	if (result != CUDA_SUCCESS)
		return result;
	result = sim_launch_submit(launch, stream);
	if (result == CUDA_SUCCESS && after != NULL)
		result = sim_event_record(after, stream);
	return result;
}

static CUresult launch_kernel(CUstream stream, CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
	unsigned by, unsigned bz, unsigned shared_bytes, bool cooperative)
{
	struct sim_launch launch = {
		.grid = {gx, gy, gz}, .block = {bx, by, bz}, .shared_bytes = shared_bytes, .cooperative = cooperative};
	return launch_on(stream, f, &launch, NULL);
}

#define THREADED(stream) ((stream) != NULL ? (stream) : CU_STREAM_PER_THREAD)

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
	unsigned shared, CUstream hStream, void **kernelParams, void **extra)
{
	(void)kernelParams, (void)extra;
	return launch_kernel(hStream, f, gx, gy, gz, bx, by, bz, shared, false);
}

CUresult cuLaunchKernel_ptsz(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
	unsigned shared, CUstream hStream, void **kernelParams, void **extra)
{
	(void)kernelParams, (void)extra;
	return launch_kernel(THREADED(hStream), f, gx, gy, gz, bx, by, bz, shared, false);
}

CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
	unsigned bz, unsigned shared, CUstream hStream, void **kernelParams)
{
	(void)kernelParams;
	return launch_kernel(hStream, f, gx, gy, gz, bx, by, bz, shared, true);
}

CUresult cuLaunchCooperativeKernel_ptsz(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
	unsigned bz, unsigned shared, CUstream hStream, void **kernelParams)
{
	(void)kernelParams;
	return launch_kernel(THREADED(hStream), f, gx, gy, gz, bx, by, bz, shared, true);
}

CUresult cuLaunchCooperativeKernelMultiDevice(CUDA_LAUNCH_PARAMS *list, unsigned int numDevices, unsigned int flags)
{
	SIM_READY();
	if (list == NULL || numDevices == 0 || flags > 3)
		return CUDA_ERROR_INVALID_VALUE;
	for (unsigned i = 0; i < numDevices; i++)
		if (list[i].hStream == NULL || list[i].hStream == CU_STREAM_LEGACY || list[i].hStream == CU_STREAM_PER_THREAD)
			return CUDA_ERROR_INVALID_VALUE;
	for (unsigned i = 0; i < numDevices; i++) {
		const CUDA_LAUNCH_PARAMS *one = &list[i];
		CUresult result = launch_kernel(one->hStream, one->function, one->gridDimX, one->gridDimY, one->gridDimZ,
			one->blockDimX, one->blockDimY, one->blockDimZ, one->sharedMemBytes, true);
		if (result != CUDA_SUCCESS)
			return result;
	}
	return CUDA_SUCCESS;
}

static CUresult launch_ex(const CUlaunchConfig *config, CUfunction f, CUstream stream)
{
	struct sim_launch launch = {.grid = {config->gridDimX, config->gridDimY, config->gridDimZ},
		.block = {config->blockDimX, config->blockDimY, config->blockDimZ}, .shared_bytes = config->sharedMemBytes};
	CUevent after = NULL;
	for (unsigned i = 0; config->attrs != NULL && i < config->numAttrs; i++) {
		const CUlaunchAttribute *attribute = &config->attrs[i];
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_COOPERATIVE)
			launch.cooperative = attribute->value.cooperative != 0;
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_LAUNCH_COMPLETION_EVENT)
			after = attribute->value.launchCompletionEvent.event;
		if (attribute->id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT)
			after = attribute->value.programmaticEvent.event;
	}
	return launch_on(stream, f, &launch, after);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	(void)kernelParams, (void)extra;
	return config == NULL ? CUDA_ERROR_INVALID_VALUE : launch_ex(config, f, config->hStream);
}

CUresult cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **kernelParams, void **extra)
{
	(void)kernelParams, (void)extra;
	return config == NULL ? CUDA_ERROR_INVALID_VALUE : launch_ex(config, f, THREADED(config->hStream));
}

// --- the oldest launches: block shape and parameters set beforehand

#define FUNCTION(handle) \
	SIM_READY(); \
	if ((handle) == NULL || (handle)->magic != SIM_FUNCTION) \
		return CUDA_ERROR_INVALID_HANDLE

CUresult cuFuncSetBlockShape(CUfunction hfunc, int x, int y, int z)
{
	FUNCTION(hfunc);
	if (x <= 0 || y <= 0 || z <= 0)
		return CUDA_ERROR_INVALID_VALUE;
	hfunc->block[0] = x;
	hfunc->block[1] = y;
	hfunc->block[2] = z;
	return CUDA_SUCCESS;
}

CUresult cuLaunchGridAsync(CUfunction f, int grid_width, int grid_height, CUstream hStream)
{
	FUNCTION(f);
	if (grid_width <= 0 || grid_height <= 0)
		return CUDA_ERROR_INVALID_VALUE;
	return launch_kernel(hStream, f, (unsigned)grid_width, (unsigned)grid_height, 1, (unsigned)f->block[0],
		(unsigned)f->block[1], (unsigned)f->block[2], 0, false);
}

CUresult cuLaunchGrid(CUfunction f, int grid_width, int grid_height)
{
	return cuLaunchGridAsync(f, grid_width, grid_height, NULL);
}

CUresult cuLaunch(CUfunction f)
{
	return cuLaunchGridAsync(f, 1, 1, NULL);
}

CUresult cuParamSetSize(CUfunction hfunc, unsigned int numbytes)
{
	FUNCTION(hfunc);
	(void)numbytes;
	return CUDA_SUCCESS;
}

CUresult cuParamSeti(CUfunction hfunc, int offset, unsigned int value)
{
	FUNCTION(hfunc);
	(void)offset, (void)value;
	return CUDA_SUCCESS;
}

CUresult cuParamSetf(CUfunction hfunc, int offset, float value)
{
	FUNCTION(hfunc);
	(void)offset, (void)value;
	return CUDA_SUCCESS;
}

CUresult cuParamSetv(CUfunction hfunc, int offset, void *ptr, unsigned int numbytes)
{
	FUNCTION(hfunc);
	(void)offset, (void)ptr, (void)numbytes;
	return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedSize(CUfunction hfunc, unsigned int bytes)
{
	FUNCTION(hfunc);
	(void)bytes;
	return CUDA_SUCCESS;
}

// --- what a function is

CUresult cuFuncGetAttribute(int *pi, CUfunction_attribute attrib, CUfunction hfunc)
{
	FUNCTION(hfunc);
	if (pi == NULL || (unsigned)attrib >= 32)
		return CUDA_ERROR_INVALID_VALUE;
	switch ((int)attrib) {
	case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *pi = 1024; break;
	case CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES: *pi = (int)hfunc->local_bytes; break;
	case CU_FUNC_ATTRIBUTE_NUM_REGS: *pi = 32; break;
	case CU_FUNC_ATTRIBUTE_PTX_VERSION:
	case CU_FUNC_ATTRIBUTE_BINARY_VERSION: *pi = sim_state->gpu[hfunc->module->context->gpu].capability; break;
	default: *pi = hfunc->attribute[attrib];
	}
	return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction hfunc, CUfunction_attribute attrib, int value)
{
	FUNCTION(hfunc);
	if ((unsigned)attrib >= 32)
		return CUDA_ERROR_INVALID_VALUE;
	hfunc->attribute[attrib] = value;
	return CUDA_SUCCESS;
}

CUresult cuFuncSetCacheConfig(CUfunction hfunc, CUfunc_cache config)
{
	FUNCTION(hfunc);
	(void)config;
	return CUDA_SUCCESS;
}

CUresult cuFuncSetSharedMemConfig(CUfunction hfunc, CUsharedconfig config)
{
	FUNCTION(hfunc);
	(void)config;
	return CUDA_SUCCESS;
}

CUresult cuFuncGetModule(CUmodule *hmod, CUfunction hfunc)
{
	FUNCTION(hfunc);
	if (hmod == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*hmod = hfunc->module;
	return CUDA_SUCCESS;
}

CUresult cuFuncGetName(const char **name, CUfunction hfunc)
{
	FUNCTION(hfunc);
	if (name == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*name = hfunc->name;
	return CUDA_SUCCESS;
}

CUresult cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function)
{
	FUNCTION(function);
	if (state == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*state = CU_FUNCTION_LOADING_STATE_LOADED;
	return CUDA_SUCCESS;
}

CUresult cuFuncLoad(CUfunction function)
{
	FUNCTION(function);
	return CUDA_SUCCESS;
}

CUresult cuKernelGetAttribute(int *pi, CUfunction_attribute attrib, CUkernel kernel, CUdevice dev)
{
	SIM_READY();
	(void)dev;
	if (pi == NULL || kernel == NULL || kernel->magic != SIM_KERNEL_HANDLE)
		return CUDA_ERROR_INVALID_HANDLE;
	*pi = attrib == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0;
	return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
	int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize, unsigned flags)
{
	SIM_READY();
	(void)dynamicSMemSize, (void)flags;
	if (numBlocks == NULL || func == NULL || blockSize <= 0 || blockSize > 1024)
		return CUDA_ERROR_INVALID_VALUE;
	const unsigned block[3] = {(unsigned)blockSize, 1, 1};
	*numBlocks = (int)blocks_per_processor(block);
	return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(
	int *numBlocks, CUfunction func, int blockSize, size_t dynamicSMemSize)
{
	return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(numBlocks, func, blockSize, dynamicSMemSize, 0);
}

CUresult cuOccupancyMaxPotentialBlockSizeWithFlags(int *minGridSize, int *blockSize, CUfunction func,
	CUoccupancyB2DSize sharedOf, size_t dynamicSMemSize, int blockSizeLimit, unsigned int flags)
{
	SIM_CURRENT(context);
	(void)sharedOf, (void)dynamicSMemSize, (void)flags;
	if (minGridSize == NULL || blockSize == NULL || func == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*blockSize = blockSizeLimit > 0 && blockSizeLimit < 1024 ? blockSizeLimit : 1024;
	const unsigned block[3] = {(unsigned)*blockSize, 1, 1};
	*minGridSize = sim_state->gpu[context->gpu].processors * (int)blocks_per_processor(block);
	return CUDA_SUCCESS;
}

CUresult cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
	CUoccupancyB2DSize sharedOf, size_t dynamicSMemSize, int blockSizeLimit)
{
	return cuOccupancyMaxPotentialBlockSizeWithFlags(
		minGridSize, blockSize, func, sharedOf, dynamicSMemSize, blockSizeLimit, 0);
}
