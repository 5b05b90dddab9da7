// SPDX-License-Identifier: Apache-2.0
// What Nsight Compute does to a program, as far as a slice is concerned: whoever opens libcuda.so.1 gets this library, which has
// every function of it and passes each call on, counting launches. Preloaded in front of everything else, as there.
// STAND_IN_SAYS=1: at the end, the number of launches that came by, on standard error. STAND_IN_ASKS=1: it finds the driver's functions by the
// dlsym that everybody uses; else by libc's own, past whoever stands before that. STAND_IN_EARLY=1: it finds them at once, for programs
// that are linked with the driver. STAND_IN_IDLE=1: whoever opens the driver gets the driver.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload/abi/cuda_types.h"
// after the types
#include "preload/abi/cuda_functions.h"

#if defined(__x86_64__)
#define PASS_ON(name) \
	__asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n\tjmp *stand_in_real_" #name "(%rip)\n");
#elif defined(__aarch64__)
#define PASS_ON(name) \
	__asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ":\n\tadrp x16, stand_in_real_" #name \
	        "\n\tldr x16, [x16, #:lo12:stand_in_real_" #name "]\n\tbr x16\n");
#endif
#define X(name) \
	void *stand_in_real_##name __attribute__((visibility("hidden"))); \
	PASS_ON(name)
#include "stand_in_names.def"
#undef X

// Those that are more than a jump; the rest of libcuda's exports are in the generated list.
#define OWN(X) X(cuLaunchKernel) X(cuGetProcAddress) X(cuGetProcAddress_v2)
#define X(name) static void *stand_in_real_##name;
OWN(X)
#undef X

static void *self;
static atomic_ulong launches;
static struct {
	const char *name;
	void **real;
} functions[] = {
#define X(name) {#name, &stand_in_real_##name},
	OWN(X)
#include "stand_in_names.def"
#undef X
};
#define FUNCTIONS (sizeof functions / sizeof functions[0])

static void say(void)
{
	fprintf(stderr, "stand-in: %lu launches\n", (unsigned long)launches);
}

void *dlopen(const char *name, int flags)
{
	static void *(*next)(const char *, int);
	if (next == NULL)
		next = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
	if (name == NULL || strstr(name, "libcuda.so") == NULL)
		return next(name, flags);
	if (self == NULL) {
		Dl_info info;
		void *real = next(name, flags);
		if (real == NULL || dladdr((void *)functions, &info) == 0)
			return NULL;
		void *(*find)(void *, const char *) = dlsym;
		if (getenv("STAND_IN_ASKS") == NULL)
			find = (void *(*)(void *, const char *))dlsym(next("libc.so.6", RTLD_NOW), "dlsym");
		for (size_t i = 0; find != NULL && i < FUNCTIONS; i++)
			*functions[i].real = find(real, functions[i].name);
		self = next(info.dli_fname, RTLD_NOW);
		if (getenv("STAND_IN_SAYS") != NULL)
			atexit(say);
	}
	return getenv("STAND_IN_IDLE") != NULL ? next(name, flags) : self;
}

__attribute__((constructor)) static void early(void)
{
	if (getenv("STAND_IN_EARLY") != NULL)
		dlopen("libcuda.so.1", RTLD_NOW);
}

CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream,
                        void **params, void **extra)
{
	launches++;
	return ((__typeof__(&cuLaunchKernel))stand_in_real_cuLaunchKernel)(f, gx, gy, gz, bx, by, bz, shared, stream, params, extra);
}

// The driver's answer, wrapped.
static void wrap(void **answer)
{
	for (size_t i = 0; i < FUNCTIONS; i++)
		if (*answer != NULL && *functions[i].real == *answer) {
			*answer = dlsym(self, functions[i].name);
			return;
		}
}

CUresult cuGetProcAddress(const char *symbol, void **answer, int version, cuuint64_t flags)
{
	CUresult result = ((__typeof__(&cuGetProcAddress))stand_in_real_cuGetProcAddress)(symbol, answer, version, flags);
	if (result == CUDA_SUCCESS)
		wrap(answer);
	return result;
}

CUresult cuGetProcAddress_v2(const char *symbol, void **answer, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status)
{
	CUresult result = ((__typeof__(&cuGetProcAddress_v2))stand_in_real_cuGetProcAddress_v2)(symbol, answer, version, flags, status);
	if (result == CUDA_SUCCESS)
		wrap(answer);
	return result;
}
