#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154 # work is of gpu_slice
# Plain allocations in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "allocations are charged as the driver takes them" {
	in_slice 4G memory sizes
}

@test "small allocations share blocks" {
	in_slice 4G memory small_ones_share_blocks
	export SOFTMIG_SIM_GPUS=L40S:46068M SOFTMIG_SIM_STATE=$work/alone # where there is but one GPU, nobody asks which it is
	in_slice 4G memory small_ones_share_blocks
}

@test "small allocations of many threads leave nothing behind" {
	in_slice 3G memory small_ones_of_many_threads
	export SOFTMIG_SIM_GPUS=L40S:46068M SOFTMIG_SIM_STATE=$work/alone
	in_slice 3G memory small_ones_of_many_threads
}

@test "what is held ready for small allocations is in nobody's way" {
	in_slice 2G memory small_ones_leave_room
}

@test "a block that is freed while NVML is asked is neither missed nor counted twice" {
	SOFTMIG_SIM_FAULT=free:late:500 in_slice 4G memory small_one_freed_while_settling
}

@test "small allocations and managed ones are told apart wherever they begin" {
	in_slice 4G memory small_ones_beside_managed_ones
}

@test "pitched allocations are charged with their padding, and odd element sizes are the driver's to judge" {
	in_slice 4G memory pitched
}

@test "managed memory is charged as if it were on the GPU, and said to be managed" {
	in_slice 4G memory managed
}

@test "a refusal is the driver's own, leaves nothing charged, and what fits is granted to the last byte" {
	in_slice 4G memory refused_and_recovered
}

@test "unknown pointers and calls that the driver fails change nothing" {
	in_slice 4G memory failures
}

@test "memory is given back to the GPU where it lies" {
	in_slice 4G memory freed_from_another_gpu
}

@test "two processes have one sum, and the dead give back at once" {
	in_slice 4G memory two_processes
}

@test "threads that fill the slice together leave nothing behind" {
	in_slice 2G memory many_threads
}

@test "a forked child, which has no driver, changes nothing and does not hang" {
	in_slice 4G memory after_fork
}
