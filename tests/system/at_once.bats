#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Several who need a pool's idle memory at the same moment are each granted what fits, as by the driver of a smaller GPU.

bats_require_minimum_version 1.5.0
load gpu_slice

setup() { witness_setup 2G; }
teardown() { witness_teardown; }

# In a few seconds, or it hangs.
at_once() {
	CUDA_DEVICE_MEMORY_LIMIT=2G LD_PRELOAD=$BUILD/libsoftmig.so timeout 60 "$BUILD/programs/at_once" "$1"
}

@test "two threads share what an idle pool gives back" {
	at_once threads_plain
}

@test "two threads' stream-ordered allocations share what an idle pool gives back" {
	at_once threads_stream_ordered
}

@test "plain and stream-ordered allocations of three threads share what an idle pool gives back" {
	at_once threads_of_both_kinds
}

@test "of four threads as many are granted as there is room for" {
	at_once threads_that_do_not_fit
}

@test "an idle pool's memory is found free beside threads that always have a call under way" {
	at_once beside_busy_threads
}

@test "what other threads reserve for an instant and do not take is there" {
	at_once beside_reservations
}

@test "what is being released is not taken for free before the call has ended" {
	at_once beside_a_slow_release
}

@test "what a larger stack took stays charged while another thread's release is under way" {
	at_once a_stack_beside_a_slow_release
}

@test "what one process has given back is there for another" {
	at_once processes_plain
}

@test "what one process has given back is there for another's stream-ordered allocation" {
	at_once processes_stream_ordered
}
