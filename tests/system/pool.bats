#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Stream-ordered pools in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "a pool is charged by what it holds, in steps of 32 MiB" {
	in_slice 1G pool charged_by_what_the_pool_holds
}

@test "every kind of synchronisation gives back what the pool gives back" {
	in_slice 1G pool every_synchronisation_gives_back
}

@test "a pool of one's own is charged, also after it is destroyed with memory still out" {
	in_slice 1G pool own_pool
}

@test "the device's current pool is the one that is charged" {
	in_slice 1G pool current_pool
}

@test "every call is refused with the driver's own code, leaves nothing charged, and recovers" {
	in_slice 1G pool refused_and_recovered
}

@test "idle memory of pools is given back before anything is refused" {
	in_slice 1G pool idle_memory_is_given_back
}

@test "a full slice keeps allocating from what its pool has" {
	in_slice 1G pool within_a_full_pool
}

@test "a pool is charged to its own GPU, whichever is current" {
	in_slice 1G pool on_the_second_gpu
}

@test "pools of host memory are not charged" {
	run in_slice 1G pool host_pool_is_free
	[ "$status" -ne 77 ] || skip "the driver has no such pool"
	echo "$output"
	[ "$status" -eq 0 ]
}

@test "what a pool gives back when plain memory is freed is told at once" {
	in_slice 1G pool freeing_synchronises
}

@test "an allocation that is captured is not charged" {
	in_slice 1G pool captured_is_not_charged
}

@test "threads that make and destroy pools while others are refused leave nothing behind" {
	in_slice 1G pool many_threads
}

@test "pools' memory goes with the primary context" {
	in_slice 1G pool after_reset
}

@test "what is no pool is the driver's to refuse, and is charged to nobody" {
	in_slice 1G pool no_such_pool
}
