#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# A slice beside stream captures: what it asks the driver on its own account ends none, and what the driver refuses is the driver's to refuse.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "what the capturing thread does on another stream leaves the capture alone" {
	in_slice 4G capture same_thread
}

@test "what another thread does leaves the capture alone" {
	in_slice 4G capture other_thread
}

@test "a program that asked for it has every kind of memory in the midst of a capture, charged as ever" {
	in_slice 4G capture relaxed_by_the_program
}

@test "what is unsafe beside a capture is refused with the driver's code and charged to nobody" {
	in_slice 4G capture unsafe_calls_are_the_drivers_to_refuse
}
