// SPDX-License-Identifier: Apache-2.0
// What the files of the simulated NVML share.
#ifndef SOFTMIG_SIM_NVML_H
#define SOFTMIG_SIM_NVML_H
#include "preload/abi/nvml_types.h"
// after the types
#include "preload/abi/nvml_functions.h"

#include "gpus.h"
#include "state.h"

// NVML_SUCCESS where nvmlInit was called; sleeps first where the fault "nvml:slow" asks for it.
nvmlReturn_t sim_nvml_ready(void);
// The index behind a handle, -1: none.
int sim_nvml_index(nvmlDevice_t device);

// Asks for initialisation and for a valid handle; `name` is then the GPU, `index` its number.
#define NVML_DEVICE(handle) \
	nvmlReturn_t ready_ = sim_nvml_ready(); \
	if (ready_ != NVML_SUCCESS) \
		return ready_; \
	int index = sim_nvml_index(handle); \
	if (index < 0) \
		return NVML_ERROR_INVALID_ARGUMENT; \
	struct sim_gpu *gpu = &sim_state->gpu[index]; \
	(void)gpu
#endif
