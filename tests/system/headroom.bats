#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What the driver takes for itself, unasked, comes out of what was granted before: a slice never stands above its limit by it.

bats_require_minimum_version 1.5.0
load gpu_slice

setup() { witness_setup 2G; }
teardown() { witness_teardown; }

@test "the witness tells of who steps above" {
	run env -u CUDA_DEVICE_MEMORY_LIMIT "$BUILD/programs/at_once" threads_plain # no slice: takes all of the GPU
	# shellcheck disable=SC2154 # work is of gpu_slice.bash
	grep -q above "$work/witness"
	: >"$work/witness"
}

@test "streams are out of memory where a slice has none for their channels" {
	in_slice 2G headroom streams
}

@test "graphs are out of memory where a slice has none for their nodes" {
	in_slice 2G headroom graphs
}

@test "kernels that are there are found in a full slice, and small code comes out of the headroom" {
	in_slice 1G headroom code
}

@test "a driver that takes blocks for itself stays within the slice, and what is freed feeds the process again" {
	SOFTMIG_SIM_FAULT=own:20 in_slice 2G headroom starved
}

@test "headroom comes with the first context on a GPU and goes with the last" {
	in_slice 2G headroom with_the_context
}

@test "a context fits to the byte beside the headroom of its process" {
	in_slice 2G headroom context_fits
}

@test "a pool that gave memory back on its own is charged when it grows again" {
	SOFTMIG_SIM_POOL_KEEP=32M in_slice 2G headroom pool_grows_again
}

@test "a block is charged once for a larger allocation and what shares it" {
	in_slice 2G headroom shared_with_larger_ones
}
