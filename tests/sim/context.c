// SPDX-License-Identifier: Apache-2.0
// Contexts: what each costs, which is current in a thread, how it ends.
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "sim.h"

#define STACK_ROOM 64
static __thread struct CUctx_st *stack[STACK_ROOM];
static __thread int depth;
static struct CUctx_st *contexts; // all alive in this process

static const size_t default_limit[SIM_LIMITS] = {
	[CU_LIMIT_STACK_SIZE] = 1024, [CU_LIMIT_PRINTF_FIFO_SIZE] = 1048576, [CU_LIMIT_MALLOC_HEAP_SIZE] = 8388608,
	[CU_LIMIT_DEV_RUNTIME_SYNC_DEPTH] = 2, [CU_LIMIT_DEV_RUNTIME_PENDING_LAUNCH_COUNT] = 2048,
	[CU_LIMIT_MAX_L2_FETCH_GRANULARITY] = 64, [CU_LIMIT_SHMEM_SIZE] = 0,
};

struct CUctx_st *sim_context_current(CUresult *error)
{
	struct CUctx_st *context = depth > 0 ? stack[depth - 1] : NULL;
	if (context == NULL)
		*error = CUDA_ERROR_INVALID_CONTEXT;
	else if (!context->alive)
		*error = CUDA_ERROR_CONTEXT_IS_DESTROYED;
	else
		return context;
	return NULL;
}

CUresult sim_context_check(struct CUctx_st *context)
{
	if (context == NULL)
		return CUDA_ERROR_INVALID_CONTEXT;
	return context->alive ? CUDA_SUCCESS : CUDA_ERROR_CONTEXT_IS_DESTROYED;
}

struct CUctx_st *sim_context_first(void)
{
	return contexts;
}

struct CUctx_st *sim_context_of_device(int ordinal)
{
	if (sim_device[ordinal].primary.alive)
		return &sim_device[ordinal].primary;
	for (struct CUctx_st *context = contexts; context != NULL; context = context->next)
		if (context->device == ordinal)
			return context;
	return NULL;
}

static CUresult charge(int gpu, int ordinal, uint64_t bytes, bool graphs_too)
{
	for (int pass = 0; pass < 2; pass++) {
		sim_lock();
		if (sim_slot < 0)
			sim_slot = sim_process_claim();
		bool granted = sim_slot >= 0 && sim_charge(sim_slot, gpu, bytes);
		if (granted)
			sim_witness(gpu, bytes);
		sim_unlock();
		if (granted)
			return CUDA_SUCCESS;
		if (pass == 0 && sim_pool_give_back(ordinal, graphs_too) == 0)
			break;
	}
	return CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_gpu_charge(int gpu, int ordinal, uint64_t bytes)
{
	return charge(gpu, ordinal, bytes, true);
}

CUresult sim_gpu_charge_stream_ordered(int gpu, int ordinal, uint64_t bytes)
{
	return charge(gpu, ordinal, bytes, false);
}

CUresult sim_context_charge(struct CUctx_st *context, uint64_t bytes)
{
	return sim_gpu_charge(context->gpu, context->device, bytes);
}

void sim_gpu_uncharge(int gpu, uint64_t bytes)
{
	sim_lock();
	sim_uncharge(sim_slot, gpu, bytes);
	sim_unlock();
}

void sim_context_uncharge(struct CUctx_st *context, uint64_t bytes)
{
	sim_gpu_uncharge(context->gpu, bytes);
}

// What this context's limits and its kernels cost beyond what a bare context has: local memory for every thread that
// the GPU can hold; the printf buffer and the heap once a kernel needs them.
static uint64_t extra_bytes(const struct CUctx_st *context)
{
	uint64_t threads = (uint64_t)2048 * (uint64_t)(unsigned)sim_state->gpu[context->gpu].processors;
	uint64_t local = context->limit[CU_LIMIT_STACK_SIZE] > context->local_bytes ? context->limit[CU_LIMIT_STACK_SIZE]
		: context->local_bytes;
	uint64_t bytes = local > 1024 ? (local - 1024) * threads : 0;
	for (int limit = CU_LIMIT_PRINTF_FIFO_SIZE; limit <= CU_LIMIT_MALLOC_HEAP_SIZE; limit++)
		if (context->needed[limit] && context->limit[limit] > default_limit[limit])
			bytes += context->limit[limit] - default_limit[limit];
	return sim_round_up(bytes, SIM_GRANULE);
}

static CUresult settle_extra(struct CUctx_st *context)
{
	uint64_t wanted = extra_bytes(context);
	CUresult result = CUDA_SUCCESS;
	if (wanted > context->limit_bytes)
		result = sim_context_charge(context, wanted - context->limit_bytes);
	else
		sim_context_uncharge(context, context->limit_bytes - wanted);
	if (result == CUDA_SUCCESS)
		context->limit_bytes = wanted;
	return result;
}

CUresult sim_context_need(struct CUctx_st *context, uint64_t local_bytes, bool heap, bool printf_buffer)
{
	bool known = local_bytes <= context->local_bytes && (!heap || context->needed[CU_LIMIT_MALLOC_HEAP_SIZE])
		&& (!printf_buffer || context->needed[CU_LIMIT_PRINTF_FIFO_SIZE]);
	if (known)
		return CUDA_SUCCESS;
	sim_enter();
	const struct CUctx_st before = *context;
	context->local_bytes = local_bytes > context->local_bytes ? local_bytes : context->local_bytes;
	context->needed[CU_LIMIT_MALLOC_HEAP_SIZE] |= heap;
	context->needed[CU_LIMIT_PRINTF_FIFO_SIZE] |= printf_buffer;
	CUresult result = settle_extra(context);
	if (result != CUDA_SUCCESS) {
		context->local_bytes = before.local_bytes;
		memcpy(context->needed, before.needed, sizeof(before.needed));
	}
	sim_leave();
	return result;
}

static CUresult bring_up(struct CUctx_st *context, unsigned flags, unsigned version)
{
	int ordinal = context->device, gpu = context->gpu;
	sim_lock();
	if (sim_slot < 0)
		sim_slot = sim_process_claim();
	sim_unlock();
	uint64_t bytes = sim_state->gpu[gpu].context_bytes;
	CUresult result = sim_gpu_charge(gpu, ordinal, bytes);
	if (result != CUDA_SUCCESS)
		return result;
	sim_lock();
	int queue = sim_timeline_open(gpu, sim_slot);
	if (queue >= 0)
		sim_state->process[sim_slot].contexts[gpu]++;
	sim_unlock();
	if (queue < 0) {
		sim_gpu_uncharge(gpu, bytes);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	unsigned retained = context->retained;
	bool primary = context->primary;
	memset(context, 0, sizeof(*context));
	context->primary = primary;
	context->retained = retained;
	context->device = ordinal;
	context->gpu = gpu;
	context->queue = queue;
	context->flags = flags;
	context->api_version = version;
	context->base_bytes = bytes;
	context->id = sim_next_id();
	memcpy(context->limit, default_limit, sizeof(default_limit));
	context->alive = true;
	context->next = contexts;
	contexts = context;
	return CUDA_SUCCESS;
}

static void take_down(struct CUctx_st *context)
{
	sim_stream_wait_idle(context, -1);
	sim_enter();
	sim_event_drop_context(context);
	sim_stream_drop_context(context);
	sim_module_drop_context(context);
	sim_graph_drop_context(context);
	sim_range_drop_context(context);
	sim_array_drop_context(context);
	sim_small_drop(context);
	context->alive = false;
	struct CUctx_st **link = &contexts;
	while (*link != NULL && *link != context)
		link = &(*link)->next;
	if (*link != NULL)
		*link = context->next;
	bool last = sim_context_of_device(context->device) == NULL;
	if (last)
		sim_pool_drop_device(context->device); // pools are emptied with the process's last context there
	sim_lock();
	sim_timeline_advance(context->gpu, sim_now_ns());
	sim_timeline_close(context->queue);
	sim_state->process[sim_slot].contexts[context->gpu]--;
	sim_uncharge(sim_slot, context->gpu, context->base_bytes + context->limit_bytes);
	sim_unlock();
	sim_leave();
}

// --- created contexts

static CUresult create(CUcontext *pctx, unsigned flags, CUdevice dev, unsigned version)
{
	SIM_READY();
	if (pctx == NULL || (flags & ~(unsigned)CU_CTX_FLAGS_MASK) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if (depth == STACK_ROOM)
		return CUDA_ERROR_OUT_OF_MEMORY;
	struct CUctx_st *context = calloc(1, sizeof(*context));
	if (context == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	context->device = dev;
	context->gpu = sim_device[dev].gpu;
	sim_enter();
	CUresult result = bring_up(context, flags, version);
	sim_leave();
	if (result != CUDA_SUCCESS) {
		free(context);
		return result;
	}
	context->attached = 1;
	stack[depth++] = context;
	*pctx = context;
	return CUDA_SUCCESS;
}

CUresult cuCtxCreate(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	return create(pctx, flags, dev, 3010);
}

CUresult cuCtxCreate_v2(CUcontext *pctx, unsigned int flags, CUdevice dev)
{
	return create(pctx, flags, dev, 3020);
}

CUresult cuCtxCreate_v3(
	CUcontext *pctx, CUexecAffinityParam *paramsArray, int numParams, unsigned int flags, CUdevice dev)
{
	if (numParams > 0 && paramsArray != NULL)
		return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY; // only under MPS
	return create(pctx, flags, dev, 3020);
}

CUresult cuCtxCreate_v4(CUcontext *pctx, CUctxCreateParams *ctxCreateParams, unsigned int flags, CUdevice dev)
{
	if (ctxCreateParams != NULL && ctxCreateParams->numExecAffinityParams > 0)
		return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
	if (ctxCreateParams != NULL && ctxCreateParams->cigParams != NULL)
		return CUDA_ERROR_NOT_SUPPORTED;
	return create(pctx, flags, dev, 3020);
}

static CUresult destroy(CUcontext ctx)
{
	SIM_READY();
	if (ctx == NULL || ctx->primary)
		return CUDA_ERROR_INVALID_CONTEXT;
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS)
		return result;
	take_down(ctx);
	if (depth > 0 && stack[depth - 1] == ctx)
		depth--;
	return CUDA_SUCCESS; // its handle's memory stays: other threads may have it current
}

CUresult cuCtxDestroy_v2(CUcontext ctx)
{
	return destroy(ctx);
}

CUresult cuCtxDestroy(CUcontext ctx)
{
	return destroy(ctx);
}

CUresult cuCtxAttach(CUcontext *pctx, unsigned int flags)
{
	SIM_CURRENT(context);
	if (pctx == NULL || flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	context->attached++;
	*pctx = context;
	return CUDA_SUCCESS;
}

CUresult cuCtxDetach(CUcontext ctx)
{
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS)
		return result;
	return --ctx->attached == 0 ? destroy(ctx) : CUDA_SUCCESS;
}

// --- primary contexts

CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev)
{
	SIM_READY();
	if (pctx == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	struct CUctx_st *primary = &sim_device[dev].primary;
	sim_enter();
	CUresult result = primary->alive ? CUDA_SUCCESS : bring_up(primary, primary->flags, 3020);
	if (result == CUDA_SUCCESS)
		primary->retained++;
	sim_leave();
	if (result == CUDA_SUCCESS)
		*pctx = primary;
	return result;
}

static CUresult release(CUdevice dev)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	struct CUctx_st *primary = &sim_device[dev].primary;
	sim_enter();
	bool held = primary->retained > 0;
	bool last = held && --primary->retained == 0 && primary->alive;
	sim_leave();
	if (last)
		take_down(primary);
	return held ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice dev)
{
	return release(dev);
}

CUresult cuDevicePrimaryCtxRelease(CUdevice dev)
{
	return release(dev);
}

static CUresult reset(CUdevice dev)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if (sim_device[dev].primary.alive)
		take_down(&sim_device[dev].primary);
	sim_device[dev].primary.flags = 0;
	return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxReset_v2(CUdevice dev)
{
	return reset(dev);
}

CUresult cuDevicePrimaryCtxReset(CUdevice dev)
{
	return reset(dev);
}

static CUresult set_primary_flags(CUdevice dev, unsigned flags)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if ((flags & ~(unsigned)CU_CTX_FLAGS_MASK) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	sim_device[dev].primary.flags = flags; // since CUDA 11 also while it is active
	return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice dev, unsigned int flags)
{
	return set_primary_flags(dev, flags);
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
	return set_primary_flags(dev, flags);
}

CUresult cuDevicePrimaryCtxGetState(CUdevice dev, unsigned int *flags, int *active)
{
	SIM_READY();
	if (dev < 0 || dev >= sim_device_count)
		return CUDA_ERROR_INVALID_DEVICE;
	if (flags == NULL || active == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = sim_device[dev].primary.flags;
	*active = sim_device[dev].primary.alive;
	return CUDA_SUCCESS;
}

// --- the current one

CUresult cuCtxGetCurrent(CUcontext *pctx)
{
	SIM_READY();
	if (pctx == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*pctx = depth > 0 ? stack[depth - 1] : NULL;
	return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext ctx)
{
	SIM_READY();
	if (ctx == NULL) {
		if (depth > 0)
			depth--;
		return CUDA_SUCCESS;
	}
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS)
		return result;
	if (depth == 0)
		depth = 1;
	stack[depth - 1] = ctx;
	return CUDA_SUCCESS;
}

static CUresult push(CUcontext ctx)
{
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS)
		return result;
	if (depth == STACK_ROOM)
		return CUDA_ERROR_INVALID_VALUE;
	stack[depth++] = ctx;
	return CUDA_SUCCESS;
}

CUresult cuCtxPushCurrent_v2(CUcontext ctx)
{
	return push(ctx);
}

CUresult cuCtxPushCurrent(CUcontext ctx)
{
	return push(ctx);
}

static CUresult pop(CUcontext *pctx)
{
	SIM_READY();
	if (depth == 0)
		return CUDA_ERROR_INVALID_CONTEXT;
	depth--;
	if (pctx != NULL)
		*pctx = stack[depth];
	return CUDA_SUCCESS;
}

CUresult cuCtxPopCurrent_v2(CUcontext *pctx)
{
	return pop(pctx);
}

CUresult cuCtxPopCurrent(CUcontext *pctx)
{
	return pop(pctx);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
	SIM_CURRENT(context);
	if (device == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*device = context->device;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice_v2(CUdevice *device, CUcontext ctx)
{
	if (ctx == NULL) {
		SIM_CURRENT(context);
		ctx = context;
	}
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS || device == NULL)
		return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_VALUE;
	*device = ctx->device;
	return CUDA_SUCCESS;
}

CUresult sim_context_synchronize(struct CUctx_st *context)
{
	CUresult result = sim_stream_wait_idle(context, -1);
	sim_pool_trim_idle(context->device);
	return result;
}

static CUresult synchronize(struct CUctx_st *context)
{
	if (context->captures > 0) {
		sim_capture_invalidate_context(context);
		return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
	}
	CUresult result = sim_capture_forbid(context);
	return result != CUDA_SUCCESS ? result : sim_context_synchronize(context);
}

CUresult cuCtxSynchronize(void)
{
	SIM_CURRENT(context);
	return synchronize(context);
}

CUresult cuCtxSynchronize_v2(CUcontext ctx)
{
	if (ctx == NULL)
		return cuCtxSynchronize();
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	return result != CUDA_SUCCESS ? result : synchronize(ctx);
}

// --- what a context is set to

// Whether it is unsafe during a capture is not documented and was not measured: here it is, so that nothing depends on it.
CUresult cuCtxGetLimit(size_t *pvalue, CUlimit limit)
{
	SIM_CURRENT(context);
	if (pvalue == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult forbidden = sim_capture_forbid(context);
	if (forbidden != CUDA_SUCCESS)
		return forbidden;
	if ((unsigned)limit >= SIM_LIMITS || limit >= CU_LIMIT_CIG_ENABLED)
		return CUDA_ERROR_UNSUPPORTED_LIMIT;
	*pvalue = context->limit[limit];
	return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value)
{
	SIM_CURRENT(context);
	if ((unsigned)limit >= SIM_LIMITS || limit >= CU_LIMIT_SHMEM_SIZE)
		return CUDA_ERROR_UNSUPPORTED_LIMIT;
	if ((limit == CU_LIMIT_STACK_SIZE && value > 512 * 1024)
		|| (limit == CU_LIMIT_MAX_L2_FETCH_GRANULARITY && value > 128))
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	size_t before = context->limit[limit];
	if (limit == CU_LIMIT_STACK_SIZE)
		context->local_bytes = 0; // it shrinks with the stack; the next launch that needs more grows it again
	context->limit[limit] = limit == CU_LIMIT_STACK_SIZE ? sim_round_up(value, 16) : value;
	CUresult result = settle_extra(context);
	if (result != CUDA_SUCCESS)
		context->limit[limit] = before;
	sim_leave();
	return result;
}

CUresult cuCtxGetFlags(unsigned int *flags)
{
	SIM_CURRENT(context);
	if (flags == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*flags = context->flags;
	return CUDA_SUCCESS;
}

CUresult cuCtxSetFlags(unsigned int flags)
{
	SIM_CURRENT(context);
	if ((flags & ~(unsigned)CU_CTX_FLAGS_MASK) != 0)
		return CUDA_ERROR_INVALID_VALUE;
	context->flags = flags;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetApiVersion(CUcontext ctx, unsigned int *version)
{
	if (ctx == NULL) {
		SIM_CURRENT(context);
		ctx = context;
	}
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS || version == NULL)
		return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_VALUE;
	*version = ctx->api_version;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetId(CUcontext ctx, unsigned long long *ctxId)
{
	if (ctx == NULL) {
		SIM_CURRENT(context);
		ctx = context;
	}
	SIM_READY();
	CUresult result = sim_context_check(ctx);
	if (result != CUDA_SUCCESS || ctxId == NULL)
		return result != CUDA_SUCCESS ? result : CUDA_ERROR_INVALID_VALUE;
	*ctxId = ctx->id;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetStreamPriorityRange(int *leastPriority, int *greatestPriority)
{
	SIM_CURRENT(context);
	(void)context;
	if (leastPriority != NULL)
		*leastPriority = 0;
	if (greatestPriority != NULL)
		*greatestPriority = -5;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *pconfig)
{
	SIM_CURRENT(context);
	if (pconfig == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*pconfig = context->cache_config;
	return CUDA_SUCCESS;
}

CUresult cuCtxSetCacheConfig(CUfunc_cache config)
{
	SIM_CURRENT(context);
	context->cache_config = config;
	return CUDA_SUCCESS;
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *pConfig)
{
	SIM_CURRENT(context);
	if (pConfig == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*pConfig = context->shared_config;
	return CUDA_SUCCESS;
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig config)
{
	SIM_CURRENT(context);
	context->shared_config = config;
	return CUDA_SUCCESS;
}

CUresult cuCtxResetPersistingL2Cache(void)
{
	SIM_CURRENT(context);
	(void)context;
	return CUDA_SUCCESS;
}

CUresult cuCtxEnablePeerAccess(CUcontext peerContext, unsigned int Flags)
{
	SIM_CURRENT(context);
	CUresult result = sim_context_check(peerContext);
	if (result != CUDA_SUCCESS)
		return result;
	if (Flags != 0 || peerContext->device == context->device)
		return Flags != 0 ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_CONTEXT;
	if (context->peers & 1u << peerContext->device)
		return CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
	context->peers |= 1u << peerContext->device;
	return CUDA_SUCCESS;
}

CUresult cuCtxDisablePeerAccess(CUcontext peerContext)
{
	SIM_CURRENT(context);
	CUresult result = sim_context_check(peerContext);
	if (result != CUDA_SUCCESS)
		return result;
	if (!(context->peers & 1u << peerContext->device))
		return CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
	context->peers &= ~(1u << peerContext->device);
	return CUDA_SUCCESS;
}
