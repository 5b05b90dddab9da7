// SPDX-License-Identifier: Apache-2.0
// Code and what it needs: modules and libraries, lazily loaded kernels, local memory, the context's limits. Owns: their place
// in the slice. None of it is known before the driver has taken it, so: reserve what it may take, load, settle by NVML; if the
// slice cannot hold even a little, or does not hold it afterwards, it is out of memory, as on a smaller GPU.
//
// Kernels are loaded at their first launch by default (lazy loading), and launches are not ours in a slice without a compute share.
// A program asks for a kernel's handle just before it launches it, so the kernel is loaded there, under a reservation.
// Local memory is the driver's at the first launch: the largest of the stack limit and of any kernel's need, for every thread that the
// GPU can hold. It is promised when the kernel is found and charged from then on.
#include "preload/gpu.h"
#include "preload/hook.h"
#include "preload/image.h"
#include "preload/local.h"
#include "preload/stream.h"
#include "preload/mode.h"
#include "slice/log.h"

// What an image says bounds what it takes: that is reserved, and refused where there is no room for it. Of what says nothing (a compressed
// fat binary, a kernel by its handle), loading was seen to take 2 to 92 MiB (PyTorch's modules, cuBLAS). What little is left is then
// tried in halves, and a granule may come out of the headroom: a kernel of a full slice mostly needs a granule or nothing, and refusing
// it would end programs that a GPU of this size would run. One that needs more than was left then stands above the limit until the program frees something: it is told
// so by the error.
#define LOAD_MOST_BYTES (128ull << 20)

static bool reserve_load(struct softmig_gpu *gpu, struct softmig_image image, uint64_t *reserved_bytes)
{
	// Variables of more than a block have pieces of their own, beside a block for the code.
	uint64_t least = SOFTMIG_GRANULE_BYTES + (image.bytes <= SOFTMIG_SMALL_BYTES ? 0 : softmig_granules(image.bytes));

	for (uint64_t bytes = LOAD_MOST_BYTES; !image.bound && bytes > least; bytes /= 2) {
		if (softmig_charge_if_room(gpu, SOFTMIG_LEDGER_OVERHEAD, bytes)) {
			*reserved_bytes = bytes;
			return true;
		}
	}
	return softmig_charge_unasked(gpu, least, "code", reserved_bytes);
}

#define UNKNOWN ((struct softmig_image){0, false})

static bool within_limit(struct softmig_gpu *gpu)
{
	return softmig_gpu_used_bytes(gpu) <= softmig_gpu_limit_bytes(gpu);
}

// The three moves for a call that loads code into the current context; image: what is known of it; undo for when the slice does not
// hold it.
#define LOAD(image, call, undo) \
	do { \
		struct softmig_gpu *gpu = softmig_gpu_current(); \
		uint64_t reserved; \
		if (gpu == NULL) \
			return (call); \
		softmig_gpu_enter(gpu); \
		if (!reserve_load(gpu, (image), &reserved)) { \
			softmig_gpu_leave(gpu); \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		} \
		CUresult result = (call); \
		softmig_gpu_leave(gpu); \
		uint64_t holds = softmig_settle_reserved(gpu, reserved); \
		softmig_log(SOFTMIG_LOG_TRACE, "%s: the process holds %llu bytes", __func__, (unsigned long long)holds); \
		if (result == CUDA_SUCCESS && !within_limit(gpu)) { \
			softmig_log(SOFTMIG_LOG_WARN, "refused: code that does not fit on GPU %d", gpu->number); \
			undo; \
			softmig_settle(gpu); \
			return CUDA_ERROR_OUT_OF_MEMORY; \
		} \
		return result; \
	} while (0)

CUresult hook_cuModuleLoad(CUmodule *module, const char *fname)
{
	LOAD(softmig_image_measure_file(fname), DRIVER(cuModuleLoad)(module, fname), DRIVER(cuModuleUnload)(*module));
}

CUresult hook_cuModuleLoadData(CUmodule *module, const void *image)
{
	LOAD(softmig_image_measure(image), DRIVER(cuModuleLoadData)(module, image), DRIVER(cuModuleUnload)(*module));
}

CUresult hook_cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options,
                                 void **optionValues)
{
	LOAD(softmig_image_measure(image), DRIVER(cuModuleLoadDataEx)(module, image, numOptions, options, optionValues),
	     DRIVER(cuModuleUnload)(*module));
}

CUresult hook_cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
	LOAD(softmig_image_measure(fatCubin), DRIVER(cuModuleLoadFatBinary)(module, fatCubin), DRIVER(cuModuleUnload)(*module));
}

CUresult hook_cuModuleUnload(CUmodule hmod)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	CUresult result = DRIVER(cuModuleUnload)(hmod);
	if (gpu != NULL && result == CUDA_SUCCESS)
		softmig_settle(gpu);
	return result;
}

CUresult hook_cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions, void **jitOptionsValues,
                                unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
                                unsigned int numLibraryOptions)
{
	LOAD(UNKNOWN, DRIVER(cuLibraryLoadData)(library, code, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
	                               libraryOptionValues, numLibraryOptions),
	     DRIVER(cuLibraryUnload)(*library));
}

CUresult hook_cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
                                    void **jitOptionsValues, unsigned int numJitOptions, CUlibraryOption *libraryOptions,
                                    void **libraryOptionValues, unsigned int numLibraryOptions)
{
	LOAD(UNKNOWN, DRIVER(cuLibraryLoadFromFile)(library, fileName, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
	                                   libraryOptionValues, numLibraryOptions),
	     DRIVER(cuLibraryUnload)(*library));
}

CUresult hook_cuLibraryUnload(CUlibrary library)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	CUresult result = DRIVER(cuLibraryUnload)(library);
	if (gpu != NULL && result == CUDA_SUCCESS)
		softmig_settle(gpu);
	return result;
}

// With lazy loading these three bring the library into the context: its code, its globals.
CUresult hook_cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
	LOAD(UNKNOWN, DRIVER(cuLibraryGetModule)(pMod, library), (void)0);
}

CUresult hook_cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
	LOAD(UNKNOWN, DRIVER(cuLibraryGetGlobal)(dptr, bytes, library, name), (void)0);
}

CUresult hook_cuLibraryGetManaged(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
	LOAD(UNKNOWN, DRIVER(cuLibraryGetManaged)(dptr, bytes, library, name), (void)0);
}

// Loads the function, which its first launch would do, and tells its local memory. Our own affair: kernels are looked up in captures too.
static CUresult load_now(CUfunction function, int *local_bytes)
{
	int mode = softmig_stream_relax();
	CUresult result = SOFTMIG_HAS(cuFuncLoad) ? DRIVER(cuFuncLoad)(function) : CUDA_SUCCESS;

	if (result != CUDA_SUCCESS || DRIVER(cuFuncGetAttribute)(local_bytes, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, function) != CUDA_SUCCESS)
		*local_bytes = 0;
	softmig_stream_restore(mode);
	return result;
}

// Finds the kernel's function in the current context and loads it; promises its local memory.
// find: the driver's way from handle to function, which loads its module.
static CUresult load_function(CUfunction *function, CUresult (*find)(CUfunction *, void *), void *handle)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	uint64_t reserved;
	int local_bytes = 0;

	if (gpu == NULL)
		return find(function, handle);
	softmig_gpu_enter(gpu);
	if (!reserve_load(gpu, UNKNOWN, &reserved)) {
		softmig_gpu_leave(gpu);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	CUresult result = find(function, handle);
	if (result == CUDA_SUCCESS)
		result = load_now(*function, &local_bytes);
	softmig_gpu_leave(gpu);
	uint64_t holds = softmig_settle_reserved(gpu, reserved);
	softmig_log(SOFTMIG_LOG_TRACE, "a kernel was found and loaded; the process holds %llu bytes", (unsigned long long)holds);
	if (result != CUDA_SUCCESS)
		return result;
	if (!within_limit(gpu)) {
		softmig_log(SOFTMIG_LOG_WARN, "refused: a kernel whose code does not fit on GPU %d", gpu->number);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	return local_bytes <= 0 || softmig_local_kernel(gpu, (uint64_t)local_bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

struct name_in_module {
	CUmodule module;
	const char *name;
};

static CUresult find_in_module(CUfunction *function, void *handle)
{
	const struct name_in_module *wanted = handle;
	return DRIVER(cuModuleGetFunction)(function, wanted->module, wanted->name);
}

static CUresult find_of_kernel(CUfunction *function, void *handle)
{
	int mode = softmig_stream_relax();
	CUresult result = DRIVER(cuKernelGetFunction)(function, handle);
	softmig_stream_restore(mode);
	return result;
}

CUresult hook_cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
	struct name_in_module wanted = {hmod, name};
	return load_function(hfunc, find_in_module, &wanted);
}

CUresult hook_cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
	return load_function(pFunc, find_of_kernel, kernel);
}

// A kernel handle is good for every context; where one is current, that is where it will be launched. What cannot be had there is
// said at the launch, as without us, but for memory.
CUresult hook_cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
	CUresult result = DRIVER(cuLibraryGetKernel)(pKernel, library, name);
	CUfunction function;

	if (result == CUDA_SUCCESS && SOFTMIG_HAS(cuKernelGetFunction) && softmig_gpu_current() != NULL &&
	    load_function(&function, find_of_kernel, *pKernel) == CUDA_ERROR_OUT_OF_MEMORY)
		return CUDA_ERROR_OUT_OF_MEMORY;
	return result;
}

// A larger stack is taken at once.
static CUresult set_stack(struct softmig_gpu *gpu, size_t value)
{
	CUresult result = CUDA_ERROR_OUT_OF_MEMORY;

	softmig_local_stack_begin(gpu);
	uint64_t growth = softmig_local_stack_growth(gpu, value);
	softmig_gpu_enter(gpu);
	bool granted = growth == 0 || softmig_charge(gpu, SOFTMIG_LEDGER_OVERHEAD, growth, "stack");
	if (granted)
		result = DRIVER(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, value);
	if (result == CUDA_SUCCESS)
		softmig_local_stack_is(gpu, value);
	softmig_gpu_leave(gpu);
	if (granted)
		softmig_settle_reserved(gpu, growth);
	softmig_local_stack_end(gpu);
	return result;
}

// The buffers of printf and malloc are taken when a kernel first needs them.
CUresult hook_cuCtxSetLimit(CUlimit limit, size_t value)
{
	struct softmig_gpu *gpu = softmig_gpu_current();
	size_t before = 0;

	if (gpu != NULL && limit == CU_LIMIT_STACK_SIZE)
		return set_stack(gpu, value);
	if (gpu == NULL || (limit != CU_LIMIT_PRINTF_FIFO_SIZE && limit != CU_LIMIT_MALLOC_HEAP_SIZE) ||
	    DRIVER(cuCtxGetLimit)(&before, limit) != CUDA_SUCCESS)
		return DRIVER(cuCtxSetLimit)(limit, value);
	if (!softmig_local_buffer_before(gpu, before, value))
		return CUDA_ERROR_OUT_OF_MEMORY;
	CUresult result = DRIVER(cuCtxSetLimit)(limit, value);
	softmig_local_buffer_after(gpu, before, value, result == CUDA_SUCCESS);
	return result;
}
