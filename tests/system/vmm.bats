#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Virtual memory management in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "memory is charged while it is mapped, after its handle is released" {
	in_slice 4G vmm released_while_mapped
}

@test "memory is charged while it has a handle, after it is unmapped" {
	in_slice 4G vmm unmapped_before_release
}

@test "memory that is mapped many times is charged once, until the last mapping is gone" {
	in_slice 4G vmm mapped_many_times
}

@test "one call may unmap several allocations" {
	in_slice 4G vmm range_over_both
}

@test "a retained handle holds memory, while the first one lives and after it" {
	in_slice 4G vmm retained
	in_slice 4G vmm retained_after_release
}

@test "a handle's value that the driver uses again is not taken for the old memory" {
	in_slice 4G vmm values_used_again
}

@test "memory is charged where no context is" {
	in_slice 4G vmm without_a_context
}

@test "memory is charged to the GPU where it lies, whichever is current" {
	in_slice 4G vmm on_the_second_gpu
}

@test "limits are those of each GPU" {
	export CUDA_DEVICE_MEMORY_LIMIT_1=2G
	in_slice 8G vmm on_the_second_gpu
}

@test "a refusal is the driver's own, leaves nothing charged, and what fits is granted to the last byte" {
	in_slice 4G vmm refused_and_recovered
}

@test "host memory is not charged" {
	in_slice 4G vmm host_memory_is_free
}

@test "calls that the driver fails change nothing" {
	in_slice 4G vmm failures
}

@test "memory outlives the context that was current" {
	in_slice 4G vmm outlives_the_context
}

@test "a process that imports its own export is charged once, until the last handle is gone" {
	in_slice 4G vmm imported_by_itself
}

@test "exported memory is charged no longer than the driver holds it" {
	in_slice 4G vmm exported_and_released
}

@test "threads that map and release at once leave nothing behind" {
	in_slice 4G vmm in_many_threads
}
