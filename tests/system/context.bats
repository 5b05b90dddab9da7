#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Contexts in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "a reset of the primary context gives back all that hung on it" {
	in_slice 4G context primary_reset
}

@test "the last release of the primary context gives back all that hung on it" {
	in_slice 4G context primary_released
}

@test "a context is charged while it lives, with all that hangs on it" {
	in_slice 4G context made_and_destroyed
}

@test "no context is made where none fits, and the code says out of memory" {
	in_slice 256M context refused
}

@test "a second context is refused where it does not fit" {
	in_slice 4G context second_refused
}

@test "contexts that the driver fails are charged to nobody" {
	in_slice 4G context failed
}

@test "a green context keeps the primary context charged" {
	run in_slice 4G context green
	[ "$status" -ne 77 ] || skip "the driver has no green contexts"
	echo "$output"
	[ "$status" -eq 0 ]
}

@test "a process is found among more than NVML lists at once" {
	export SOFTMIG_SIM_CONTEXT=32M
	"$BUILD/programs/context" crowd 150 env CUDA_DEVICE_MEMORY_LIMIT=4G LD_PRELOAD="$BUILD/libsoftmig.so" "$BUILD/programs/context" primary_reset
}

@test "threads that retain the primary context at once get one, where there is room for one" {
	in_slice 800M context retained_by_threads
}

@test "a primary context that is let go and taken up by two threads is charged while it lives" {
	in_slice 800M context retained_while_released
}
