#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Memory of pools that was exported by its pointer: the driver keeps it when it is free, and shows it to nobody. It is charged for as long; the
# simulated driver tells if a slice ever stands above its limit.

bats_require_minimum_version 1.5.0
load gpu_slice

setup() { witness_setup 2G; }
teardown() { witness_teardown; }

@test "exported and free again and again: refused at the limit, and there again with the pool" {
	in_slice 2G pool_export refused_at_the_limit
}

@test "what nobody has imported the driver uses again, and it is charged each time" {
	in_slice 2G pool_export imported_by_nobody
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
	for seed in 1 2 3 4 5 6; do
		echo "seed $seed"
		in_slice 2G pool_peers "$seed" 600
	done
}
