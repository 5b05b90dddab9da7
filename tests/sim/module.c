// SPDX-License-Identifier: Apache-2.0
// Modules, libraries, functions. A kernel's name says what it does: "spin_250us" lasts that long, "..._local4096" needs
// that much local memory per thread, one with "malloc" or "printf" in its name the heap or the buffer, "missing..."
// does not exist. "collective_300us_of4" waits for those of three other GPUs, "..._comm7" of communicator 7; else it is 0. Any image is accepted; what it weighs is a word "code=3M" in its text, or PTX's arrays of bytes.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gpus.h"
#include "module.h"

static struct CUmod_st *modules;
static struct CUlib_st *libraries;

// The number that follows key in a kernel's name: "spin_250us_local4096", key "_local" -> 4096. 0: not there.
static uint64_t number_after(const char *name, const char *key)
{
	const char *at = strstr(name, key);
	return at != NULL ? strtoull(at + strlen(key), NULL, 10) : 0;
}

static uint64_t duration_ns(const char *name)
{
	for (const char *at = strchr(name, '_'); at != NULL; at = strchr(at + 1, '_')) {
		char *unit;
		double value = strtod(at + 1, &unit);
		if (unit == at + 1)
			continue;
		if (strncmp(unit, "us", 2) == 0)
			return (uint64_t)(value * 1e3);
		if (strncmp(unit, "ms", 2) == 0)
			return (uint64_t)(value * 1e6);
		if (strncmp(unit, "ns", 2) == 0)
			return (uint64_t)value;
		if (unit[0] == 's' && (unit[1] == '\0' || unit[1] == '_'))
			return (uint64_t)(value * 1e9);
	}
	return 5000;
}

struct CUfunc_st *sim_function(struct CUmod_st *module, const char *name)
{
	for (struct CUfunc_st *function = module->functions; function != NULL; function = function->next)
		if (strcmp(function->name, name) == 0)
			return function;
	struct CUfunc_st *function = calloc(1, sizeof(*function));
	if (function == NULL)
		return NULL;
	function->magic = SIM_FUNCTION;
	function->module = module;
	snprintf(function->name, sizeof(function->name), "%s", name);
	function->ns = duration_ns(name);
	if (strncmp(name, "collective_", 11) == 0) {
		function->ranks = (uint32_t)number_after(name, "_of");
		function->communicator = number_after(name, "_comm");
	}
	function->local_bytes = number_after(name, "_local");
	function->heap = strstr(name, "malloc") != NULL;
	function->printf_buffer = strstr(name, "printf") != NULL;
	function->block[0] = function->block[1] = function->block[2] = 1;
	function->next = module->functions;
	module->functions = function;
	return function;
}

static uint64_t code_bytes(const void *image)
{
	const char *text = image;
	if (strncmp(text, ".version", 8) == 0) { // PTX: its arrays of bytes
		uint64_t bytes = 65536;
		for (const char *at = strstr(text, ".b8 "); at != NULL; at = strstr(at + 1, ".b8 "))
			bytes += number_after(at, "[");
		return bytes;
	}
	if (strncmp(text, "softmig-sim-module", 18) != 0)
		return 65536; // a real image, of which we understand nothing
	const char *code = strstr(text, "code=");
	return code != NULL ? sim_gpus_bytes(code + 5, NULL) : 65536;
}

static CUresult load(struct CUctx_st *context, uint64_t bytes, struct CUlib_st *library, CUmodule *out)
{
	struct CUmod_st *module = calloc(1, sizeof(*module));
	if (module == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	sim_enter();
	CUresult result;
	if (bytes < SIM_GRANULE)
		result = sim_small_alloc(context, &context->code, bytes, &module->block, &module->address);
	else
		result = sim_context_charge(context, sim_round_up(bytes, SIM_GRANULE));
	if (result == CUDA_SUCCESS) {
		module->magic = SIM_MODULE;
		module->context = context;
		module->library = library;
		module->bytes = bytes;
		module->next = modules;
		modules = module;
		*out = module;
	} else {
		free(module);
	}
	sim_leave();
	return result;
}

static void release_code(struct CUmod_st *module)
{
	if (module->block != NULL)
		sim_small_free(module->context, &module->context->code, module->block, module->address, module->bytes);
	else
		sim_context_uncharge(module->context, sim_round_up(module->bytes, SIM_GRANULE));
	for (int i = 0; i < module->global_count; i++) {
		struct sim_range *range = sim_range_find(module->global[i].address);
		if (range != NULL)
			sim_free(range);
	}
	module->magic = 0;
	while (module->functions != NULL) {
		struct CUfunc_st *function = module->functions;
		module->functions = function->next;
		function->magic = 0;
		free(function);
	}
}

static void unload(struct CUmod_st *module)
{
	struct CUmod_st **link = &modules;
	while (*link != NULL && *link != module)
		link = &(*link)->next;
	if (*link == NULL)
		return;
	*link = module->next;
	release_code(module);
	free(module);
}

void sim_module_drop_context(struct CUctx_st *context)
{
	for (struct CUmod_st *module = modules, *next; module != NULL; module = next) {
		next = module->next;
		if (module->context == context)
			unload(module);
	}
}

CUresult cuModuleLoadDataEx(
	CUmodule *module, const void *image, unsigned int numOptions, CUjit_option *options, void **optionValues)
{
	SIM_CURRENT(context);
	(void)numOptions, (void)options, (void)optionValues;
	if (module == NULL || image == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	CUresult result = sim_capture_forbid(context);
	return result != CUDA_SUCCESS ? result : load(context, code_bytes(image), NULL, module);
}

CUresult cuModuleLoadData(CUmodule *module, const void *image)
{
	return cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

CUresult cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
	return cuModuleLoadDataEx(module, fatCubin, 0, NULL, NULL);
}

// The first bytes of a file, as a text. NULL: there is none.
static char *read_image(const char *path)
{
	static __thread char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	if (length < 0)
		return NULL;
	text[length] = '\0';
	return text;
}

CUresult cuModuleLoad(CUmodule *module, const char *fname)
{
	SIM_READY();
	if (fname == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	const char *image = read_image(fname);
	return image == NULL ? CUDA_ERROR_FILE_NOT_FOUND : cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

CUresult cuModuleUnload(CUmodule hmod)
{
	SIM_READY();
	if (hmod == NULL || hmod->magic != SIM_MODULE)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_stream_wait_idle(hmod->context, -1);
	sim_enter();
	unload(hmod);
	sim_leave();
	return CUDA_SUCCESS;
}

static bool exists(const char *name)
{
	return name != NULL && name[0] != '\0' && strncmp(name, "missing", 7) != 0;
}

CUresult cuModuleGetFunction(CUfunction *hfunc, CUmodule hmod, const char *name)
{
	SIM_READY();
	if (hfunc == NULL || hmod == NULL || name == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (hmod->magic != SIM_MODULE)
		return CUDA_ERROR_INVALID_HANDLE;
	if (!exists(name))
		return CUDA_ERROR_NOT_FOUND;
	sim_enter();
	*hfunc = sim_function(hmod, name);
	sim_leave();
	return *hfunc != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult cuModuleGetFunctionCount(unsigned int *count, CUmodule mod)
{
	SIM_READY();
	if (count == NULL || mod == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*count = 0;
	for (const struct CUfunc_st *function = mod->functions; function != NULL; function = function->next)
		++*count;
	return CUDA_SUCCESS;
}

// A variable "name_4096" has that many bytes, any other 256.
static CUresult global(struct CUmod_st *module, CUdeviceptr *address, size_t *bytes, const char *name)
{
	if (!exists(name))
		return CUDA_ERROR_NOT_FOUND;
	int index = 0;
	while (index < module->global_count && strcmp(module->global[index].name, name) != 0)
		index++;
	if (index == module->global_count) {
		if (index == SIM_MODULE_GLOBALS)
			return CUDA_ERROR_OUT_OF_MEMORY;
		const char *size = strrchr(name, '_');
		uint64_t wanted = size != NULL ? sim_gpus_bytes(size + 1, NULL) : 0;
		if (wanted == 0)
			wanted = 256;
		CUdeviceptr at;
		CUresult result = sim_alloc(module->context, wanted, SIM_RANGE_DEVICE, &at);
		if (result != CUDA_SUCCESS)
			return result;
		snprintf(module->global[index].name, sizeof(module->global[index].name), "%s", name);
		module->global[index].address = at;
		module->global[index].bytes = wanted;
		module->global_count++;
	}
	if (address != NULL)
		*address = module->global[index].address;
	if (bytes != NULL)
		*bytes = module->global[index].bytes;
	return CUDA_SUCCESS;
}

CUresult cuModuleGetGlobal_v2(CUdeviceptr *dptr, size_t *bytes, CUmodule hmod, const char *name)
{
	SIM_READY();
	if (hmod == NULL || name == NULL || (dptr == NULL && bytes == NULL))
		return CUDA_ERROR_INVALID_VALUE;
	sim_enter();
	CUresult result = global(hmod, dptr, bytes, name);
	sim_leave();
	return result;
}

CUresult cuModuleGetLoadingMode(CUmoduleLoadingMode *mode)
{
	SIM_READY();
	if (mode == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*mode = CU_MODULE_EAGER_LOADING;
	return CUDA_SUCCESS;
}

// --- libraries: modules that are loaded into a context when they are first used there

CUresult cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jitOptions, void **jitOptionsValues,
	unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
	unsigned int numLibraryOptions)
{
	SIM_READY();
	(void)jitOptions, (void)jitOptionsValues, (void)numJitOptions, (void)libraryOptions, (void)libraryOptionValues,
		(void)numLibraryOptions;
	if (library == NULL || code == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	struct CUlib_st *its = calloc(1, sizeof(*its));
	if (its == NULL)
		return CUDA_ERROR_OUT_OF_MEMORY;
	its->magic = SIM_LIBRARY;
	its->bytes = code_bytes(code);
	sim_enter();
	its->next = libraries;
	libraries = its;
	sim_leave();
	*library = its;
	return CUDA_SUCCESS;
}

CUresult cuLibraryLoadFromFile(CUlibrary *library, const char *fileName, CUjit_option *jitOptions,
	void **jitOptionsValues, unsigned int numJitOptions, CUlibraryOption *libraryOptions, void **libraryOptionValues,
	unsigned int numLibraryOptions)
{
	SIM_READY();
	if (fileName == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	const char *image = read_image(fileName);
	if (image == NULL)
		return CUDA_ERROR_FILE_NOT_FOUND;
	return cuLibraryLoadData(library, image, jitOptions, jitOptionsValues, numJitOptions, libraryOptions,
		libraryOptionValues, numLibraryOptions);
}

CUresult cuLibraryUnload(CUlibrary library)
{
	SIM_READY();
	if (library == NULL || library->magic != SIM_LIBRARY)
		return CUDA_ERROR_INVALID_HANDLE;
	sim_enter();
	for (struct CUmod_st *module = modules, *next; module != NULL; module = next) {
		next = module->next;
		if (module->library == library)
			unload(module);
	}
	struct CUlib_st **link = &libraries;
	while (*link != NULL && *link != library)
		link = &(*link)->next;
	if (*link != NULL)
		*link = library->next;
	library->magic = 0;
	sim_leave();
	return CUDA_SUCCESS;
}

// The library's module in the current context.
static CUresult module_here(struct CUlib_st *library, struct CUctx_st *context, CUmodule *out)
{
	for (struct CUmod_st *module = modules; module != NULL; module = module->next) {
		if (module->library == library && module->context == context) {
			*out = module;
			return CUDA_SUCCESS;
		}
	}
	return load(context, library->bytes, library, out);
}

CUresult cuLibraryGetModule(CUmodule *pMod, CUlibrary library)
{
	SIM_CURRENT(context);
	if (pMod == NULL || library == NULL || library->magic != SIM_LIBRARY)
		return CUDA_ERROR_INVALID_HANDLE;
	return module_here(library, context, pMod);
}

CUresult cuLibraryGetKernel(CUkernel *pKernel, CUlibrary library, const char *name)
{
	SIM_READY();
	if (pKernel == NULL || name == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	if (library == NULL || library->magic != SIM_LIBRARY)
		return CUDA_ERROR_INVALID_HANDLE;
	if (!exists(name))
		return CUDA_ERROR_NOT_FOUND;
	sim_enter();
	struct CUkern_st *kernel = library->kernels;
	while (kernel != NULL && strcmp(kernel->name, name) != 0)
		kernel = kernel->next;
	if (kernel == NULL && (kernel = calloc(1, sizeof(*kernel))) != NULL) {
		kernel->magic = SIM_KERNEL_HANDLE;
		kernel->library = library;
		snprintf(kernel->name, sizeof(kernel->name), "%s", name);
		kernel->next = library->kernels;
		library->kernels = kernel;
	}
	*pKernel = kernel;
	sim_leave();
	return kernel != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult sim_kernel_function(struct CUkern_st *kernel, struct CUctx_st *context, struct CUfunc_st **out)
{
	CUmodule module;
	sim_enter();
	CUresult result = module_here(kernel->library, context, &module);
	if (result == CUDA_SUCCESS && (*out = sim_function(module, kernel->name)) == NULL)
		result = CUDA_ERROR_OUT_OF_MEMORY;
	sim_leave();
	return result;
}

CUresult cuKernelGetFunction(CUfunction *pFunc, CUkernel kernel)
{
	SIM_CURRENT(context);
	if (pFunc == NULL || kernel == NULL || kernel->magic != SIM_KERNEL_HANDLE)
		return CUDA_ERROR_INVALID_HANDLE;
	return sim_kernel_function(kernel, context, pFunc);
}

CUresult cuKernelGetLibrary(CUlibrary *pLib, CUkernel kernel)
{
	SIM_READY();
	if (pLib == NULL || kernel == NULL || kernel->magic != SIM_KERNEL_HANDLE)
		return CUDA_ERROR_INVALID_HANDLE;
	*pLib = kernel->library;
	return CUDA_SUCCESS;
}

CUresult cuKernelGetName(const char **name, CUkernel hfunc)
{
	SIM_READY();
	if (name == NULL || hfunc == NULL || hfunc->magic != SIM_KERNEL_HANDLE)
		return CUDA_ERROR_INVALID_HANDLE;
	*name = hfunc->name;
	return CUDA_SUCCESS;
}

CUresult cuLibraryGetGlobal(CUdeviceptr *dptr, size_t *bytes, CUlibrary library, const char *name)
{
	CUmodule module = NULL;
	CUresult result = cuLibraryGetModule(&module, library);
	if (result != CUDA_SUCCESS || module == NULL)
		return result;
	sim_enter();
	result = global(module, dptr, bytes, name);
	sim_leave();
	return result;
}
