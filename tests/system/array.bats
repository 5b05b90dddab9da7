#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Arrays in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "arrays are charged as the driver lays them out" {
	in_slice 1G array sizes
}

@test "every call that makes an array is charged, and refused with the driver's own code" {
	in_slice 1G array every_call
}

@test "small arrays share blocks, and the blocks are charged" {
	in_slice 1G array small_ones_share_blocks
}

@test "a refusal leaves nothing charged, and what fits is granted" {
	in_slice 1G array refused_and_recovered
}

@test "arrays without memory of their own cost nothing" {
	in_slice 1G array later_means_later
}

@test "arrays go with their context" {
	in_slice 2G array gone_with_the_context
}

@test "calls that the driver fails change nothing" {
	in_slice 1G array failures
}

@test "an array is charged to the GPU where it was made, wherever it is destroyed" {
	in_slice 1G array on_the_current_gpu
}
