#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Memory nodes of graphs in a slice: what is charged within is what the driver holds without, to the byte.

bats_require_minimum_version 1.5.0
load gpu_slice

@test "a graph's memory is charged from its first launch until it is trimmed" {
	in_slice 4G graph_memory by_launch
}

@test "a graph's memory is charged from its upload, asked for with the instantiation or by itself" {
	in_slice 4G graph_memory by_upload
}

@test "captured allocations are charged at the launch" {
	in_slice 4G graph_memory captured
}

@test "memory nodes of child graphs are found" {
	in_slice 4G graph_memory in_a_child_graph
}

@test "a launch without room is refused as the driver does, leaves nothing charged, and works when there is room" {
	in_slice 4G graph_memory refused
}

@test "memory that graphs keep idle is given back before anything is refused" {
	in_slice 4G graph_memory idle_memory_is_given_back
}

@test "a full slice runs the graphs that have their memory already" {
	in_slice 4G graph_memory again_in_a_full_slice
}

@test "memory that a graph leaves to the program is charged until that frees it" {
	in_slice 4G graph_memory freed_outside
}

@test "a graph that is launched into a capture takes memory with the graph that it becomes part of" {
	in_slice 4G graph_memory launched_into_a_capture
}

@test "a kernel is looked up in the midst of a capture" {
	in_slice 4G graph_memory looked_up_in_a_capture
}

@test "graphs' memory goes with the context" {
	in_slice 4G graph_memory gone_with_the_context
}

@test "a graph that leaves memory to the program is launched again in a full slice" {
	in_slice 4G graph_memory kept_in_a_full_slice
}

@test "several such graphs are launched by turns in a full slice" {
	in_slice 4G graph_memory kept_by_turns_in_a_full_slice
}

@test "a graph whose memory another one has kept asks for it anew" {
	in_slice 4G graph_memory taken_from_another
}

@test "a graph that frees another one's memory keeps its own" {
	in_slice 4G graph_memory freed_by_another_graph
}

@test "an instantiation that is refused says so in its parameters" {
	in_slice 4G graph_memory refused_instantiation
}

@test "graphs are launched again after stream-ordered allocations were refused" {
	in_slice 4G graph_memory beside_stream_ordered
}

@test "threads that launch graphs in a slice too small for all of them never stand above it" {
	# shellcheck disable=SC2154 # work is of gpu_slice.bash
	SOFTMIG_SIM_WITNESS=$work/witness SOFTMIG_SIM_CEILING=1100M in_slice 1100M graph_memory many_threads
	[ -e "$work/witness" ] && [ ! -s "$work/witness" ]
}
