#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Memory that processes of a slice share: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "memory that is opened by its handle is charged once, with its maker" {
	in_slice 4G ipc memory
}

@test "an allocation that is imported is charged once, with its exporter" {
	in_slice 4G ipc allocation
}

@test "an allocation that both have let go of is charged to nobody, also if neither allocates again" {
	in_slice 4G ipc let_go
}

@test "memory whose maker has died stays charged while another process has it open" {
	in_slice 4G ipc outlive
}

@test "an allocation that its exporter has released stays charged while another process has it mapped" {
	in_slice 4G ipc keep
}

@test "memory that an open descriptor keeps is charged, though the driver shows it to nobody" {
	in_slice 4G ipc descriptor
}

@test "a pool that is imported is charged once, with its exporter" {
	in_slice 4G ipc pool
}
