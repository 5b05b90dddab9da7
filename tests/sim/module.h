// SPDX-License-Identifier: Apache-2.0
// Modules, libraries and functions as the simulated driver keeps them.
#ifndef SOFTMIG_SIM_MODULE_H
#define SOFTMIG_SIM_MODULE_H
#include "sim.h"

enum { SIM_MODULE = 0x4d4f4430, SIM_FUNCTION, SIM_LIBRARY, SIM_KERNEL_HANDLE };
#define SIM_MODULE_GLOBALS 32

struct CUfunc_st {
	int magic;
	struct CUmod_st *module;
	char name[128];
	uint64_t ns, local_bytes;
	uint32_t ranks; // it is a collective of so many; 0: it is none
	uint64_t communicator;
	bool heap, printf_buffer;
	int attribute[32];
	int block[3]; // of the oldest launch calls
	struct CUfunc_st *next;
};

struct CUmod_st {
	int magic;
	struct CUctx_st *context;
	struct CUlib_st *library; // NULL: loaded by itself
	uint64_t bytes, address;
	struct sim_small_block *block; // NULL: in granules of its own
	struct CUfunc_st *functions;
	int global_count;
	struct {
		char name[64];
		uint64_t address, bytes;
	} global[SIM_MODULE_GLOBALS];
	struct CUmod_st *next;
};

struct CUkern_st {
	int magic;
	struct CUlib_st *library;
	char name[128];
	struct CUkern_st *next;
};

struct CUlib_st {
	int magic;
	uint64_t bytes;
	struct CUkern_st *kernels;
	struct CUlib_st *next;
};

struct CUfunc_st *sim_function(struct CUmod_st *module, const char *name);
CUresult sim_kernel_function(struct CUkern_st *kernel, struct CUctx_st *context, struct CUfunc_st **out);

// A kernel's launch: how long, and which part of the GPU it fills.
struct sim_launch {
	struct CUfunc_st *function;
	unsigned grid[3], block[3];
	unsigned shared_bytes;
	bool cooperative;
};
// Resolves the handle (function or kernel) for context and checks the launch's figures.
CUresult sim_launch_check(struct sim_launch *launch, CUfunction handle, struct CUctx_st *context);
uint32_t sim_launch_width(const struct sim_launch *launch);
CUresult sim_launch_submit(const struct sim_launch *launch, struct CUstream_st *stream);
CUresult sim_capture_kernel(struct CUstream_st *stream, const struct sim_launch *launch);
#endif
