#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# dma-bufs keep memory on the GPU that the program has freed, and the driver shows it to nobody.

bats_require_minimum_version 1.5.0
load gpu_slice

setup() { witness_setup 2G; }
teardown() { witness_teardown; }

@test "memory that a dma-buf keeps is charged until the last one is closed" {
	in_slice 2G dma_buf freed
}

@test "a dma-buf that was closed keeps nothing, whatever has its number or address later" {
	in_slice 2G dma_buf closed_first
}

@test "a dma-buf of a small allocation is charged a block" {
	in_slice 2G dma_buf small
}

@test "a dma-buf of a pool's memory is charged before the pool gives it back" {
	in_slice 2G dma_buf pooled
}

@test "a dma-buf holds memory of cuMemCreate as a mapping does" {
	in_slice 2G dma_buf mapped
}

@test "what a dma-buf keeps is charged after the context has gone" {
	in_slice 2G dma_buf context_reset
}

@test "as much fits into a slice by dma-bufs as without" {
	in_slice 2G dma_buf as_many_as_fit
}

@test "the driver says which ranges can be dma-bufs" {
	in_slice 2G dma_buf refused
}
