#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154 # work is of gpu_slice
# Managed memory in a slice: small allocations are charged by the 2 MiB blocks that their addresses reveal, as on a GPU that is smaller.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "2000 allocations of 4 KiB take 8 MiB, and the last of each block gives it back" {
	export SOFTMIG_SIM_CONTEXT=518M
	in_slice "$((518 + 4 + 64))M" managed many_small_ones
}

@test "managed memory of all sizes is charged by the blocks of its addresses" {
	in_slice 4G managed of_all_sizes
}

@test "what NVML does not show is never taken for what it shows" {
	in_slice 4G managed beside_plain_ones
}

@test "a full slice grants what fits into a block that is there, and refuses a new one without a trace" {
	in_slice 2G managed in_a_full_slice
}

@test "of two contexts on one GPU each gives back what it alone had" {
	in_slice 4G managed of_two_contexts
	export SOFTMIG_SIM_STATE=$work/together
	TOGETHER=1 SOFTMIG_SIM_FAULT=managed:together in_slice 4G managed of_two_contexts
}

@test "a block that two GPUs share is charged to each while it has something there" {
	in_slice 4G managed of_two_gpus
	export SOFTMIG_SIM_STATE=$work/together
	TOGETHER=1 SOFTMIG_SIM_FAULT=managed:together in_slice 4G managed of_two_gpus
}

@test "a reset of the primary context gives back its managed memory" {
	in_slice 4G managed with_a_reset_context
}

@test "calls that the driver fails and pointers that are none change nothing" {
	SOFTMIG_SIM_FAULT=alloc:3 in_slice 4G managed failures
}

@test "threads that share blocks are never refused what fits, and leave nothing behind" {
	export SOFTMIG_SIM_CONTEXT=518M
	in_slice "$((518 + 4 + 80))M" managed of_many_threads
}

@test "a block that two threads begin at once is charged once" {
	SOFTMIG_SIM_FAULT=managed:meet:2 in_slice 2G managed begun_by_two_threads
}

@test "a forked child, which has no driver, changes nothing" {
	in_slice 4G managed after_fork
}
