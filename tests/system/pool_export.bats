#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Memory of pools that was exported by its pointer: the driver keeps it when it is free, and shows it to nobody. It is charged for as long; the
# simulated driver tells if a slice ever stands above its limit.

bats_require_minimum_version 1.5.0
load gpu_slice

setup() { witness_setup 2G; }
teardown() { witness_teardown; }

@test "exported and free: refused at the limit, and there again with the pool" {
	in_slice 2G pool_export refused_at_the_limit
}

@test "what is exported and freed at one place again and again is charged once" {
	in_slice 2G pool_export at_one_place
}

@test "at four places, four times" {
	in_slice 2G pool_export at_four_places
}

@test "what a pool keeps for itself and hands out again is not charged twice" {
	in_slice 2G pool_export used_again
}

@test "what is exported anew in parts is given back in parts" {
	in_slice 2G pool_export parts_of_a_place
}

@test "in any size and order it is charged at least what the GPU has, and not without end" {
	in_slice 2G pool_export any_sizes
}

@test "what the process has imported itself and not freed stays charged" {
	in_slice 2G pool_export imported_and_not_freed
}

@test "a descriptor of a pool keeps it, also when the pool is destroyed" {
	in_slice 2G pool_export kept_by_its_descriptor
}

@test "so does an import of the process itself" {
	in_slice 2G pool_export kept_by_its_import
}

@test "what was not exported is given back as ever" {
	in_slice 2G pool_export the_rest_is_given_back
}

@test "small allocations keep the chunk that they lie in, once" {
	in_slice 2G pool_export small_ones_keep_their_chunk
}

@test "several small allocations count as the one chunk that they lie in" {
	in_slice 2G pool_export small_ones_count_as_their_chunk
}

@test "what lies across several chunks keeps all of them" {
	in_slice 2G pool_export what_lies_across_chunks_keeps_all_of_them
}

@test "what is exported and freed when the pool is gone is charged, too" {
	in_slice 2G pool_export destroyed_with_a_pointer_out
}

@test "what is out of a destroyed pool holds what it keeps" {
	in_slice 2G pool_export destroyed_with_other_memory_out
}

@test "so does an imported pointer of a destroyed import" {
	in_slice 2G pool_export import_destroyed_with_a_pointer_out
}

@test "pools that come and go with their descriptors leave nothing behind" {
	in_slice 2G pool_export many_descriptors
}

@test "what a thread's synchronisation gives back while another one allocates is not lost" {
	in_slice 2G pool_export beside_a_synchronising_thread
}

@test "threads that share a pool take no more than the limit, and lose nothing" {
	SOFTMIG_SIM_CEILING=1G in_slice 1G pool_export by_several_threads
}

@test "what stays is charged until the pool is destroyed, whatever became of its context" {
	in_slice 2G pool_export after_reset
}

@test "a pool whose maker has destroyed it is charged to the process that has imported it" {
	in_slice 2G ipc pool_keep
}

@test "a pool whose maker has died is charged to the process that has imported it" {
	in_slice 2G ipc pool_outlive
}

@test "processes that share pools in any order, and are killed, are never charged less than the GPU has" {
	local seed
	for seed in 1 2 3 4 5 6 7 8 9 10 11 12; do
		echo "seed $seed"
		in_slice 2G pool_peers "$seed" 400
	done
}

@test "what is passed on to others at one place, freed there and here, goes on for ever and is charged once" {
	in_slice 1600M pool_pass 2 60 frees
}

@test "others who have imported the pool and do nothing keep nobody from that" {
	in_slice 1600M pool_pass 2 60 rests
}

@test "others who never free their pointers get no memory beyond the limit, and are charged what they hold" {
	in_slice 1600M pool_pass 2 60 keeps
	in_slice 2G pool_pass 1 30 one_each
	in_slice 2G pool_pass 2 60 in_turn
}
