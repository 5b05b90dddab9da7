#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# PyTorch's calls with backend:cudaMallocAsync and CUDA graphs, at a limit that binds, one that does not, beside a compute share.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "graphs over stream-ordered allocations, replayed once, in a small slice" {
	in_slice 1G torch_async once
}

@test "replayed many times, in a small slice" {
	in_slice 1G torch_async many_times
}

@test "in a large slice" {
	in_slice 12G torch_async many_times
}

@test "in a slice with a compute share" {
	CUDA_DEVICE_SM_LIMIT=50 in_slice 1G torch_async many_times
}

@test "on one GPU of one, where the driver has nothing else to tell" {
	SOFTMIG_SIM_GPUS=1xL40S:46068M in_slice 1G torch_async many_times
}

@test "without a slice, as the driver has it" {
	SOFTMIG_SIM_GPUS=1xL40S:8G "$BUILD/programs/torch_async" many_times
}
