#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# bench/share and bench/run measure on the simulated driver: the table is whole, and its figures are about right. How exact the share is,
# and what a slice costs, a GPU says.

bats_require_minimum_version 1.5.0

setup() {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	work=$(mktemp -d /tmp/softmig-bench-test.XXXXXX)
	unset LD_PRELOAD "${!SLURM_@}" "${!CUDA_@}" "${!SOFTMIG_@}"
	# Outside Slurm, all jobs of a user on one GPU are neighbours: these have GPUs that nobody else on this machine has, each test its own.
	export SOFTMIG_SIM_STATE=$work/sim SOFTMIG_SIM_GPUS=6xbench$$:143771M
}
teardown() { [ -z "${work:-}" ] || rm -rf "$work"; }

share() { timeout 100 "$SOURCE/bench/share" --sim --seconds 1 --out "$work/table.md" --plot "$work/picture.svg" "$@" >"$work/log" 2>&1; }

# column NUMBER PATTERN: of the row that matches
column() { awk -F ' *[|] *' -v n="$1" -v pattern="$2" '$0 ~ pattern { print $(n + 1); exit }' "$work/table.md"; }

between() { # VALUE LOW HIGH
	echo "$1 is to be between $2 and $3"
	cat "$work/table.md" "$work/log"
	awk -v v="$1" -v low="$2" -v high="$3" 'BEGIN { exit !(v != "" && v + 0 >= low && v + 0 <= high) }'
}

@test "cells are spread over the GPUs named, and each has its figure" {
	share --gpus 0,1 --lengths 1000 --shares 25,50 --only '1 ms at|two GPUs' alone gpus || [ $? -eq 1 ] # a busy machine may miss a bar
	between "$(column 3 '^[|] kernels of 1 ms [|] 25')" 20 30
	between "$(column 3 '^[|] kernels of 1 ms [|] 50')" 42 58
	between "$(column 3 '^[|] kernels of 1 ms, a process each [|] 0')" 24 36
	between "$(column 3 '^[|] kernels of 1 ms, a process each [|] 1')" 24 36
	grep -q 'on 2 GPUs' "$work/table.md"
	run ! grep -qE 'A program failed|Not measured|Error' "$work/table.md"
	grep -q '<circle' "$work/picture.svg"
	python3 -c 'import sys, xml.dom.minidom as m; m.parse(sys.argv[1])' "$work/picture.svg"
}

@test "dependent launches are measured, and inference with pauses gets what it needs" {
	share --gpus 2,3 --only 'pieces|graph of 20 x 100 us at 25|inference at 50|inference at 25' kinds infer || [ $? -eq 1 ]
	between "$(column 3 "^[|] dependent launches in pieces")" 42 58
	between "$(column 3 "^[|] graph of 20")" 20 30
	# with pauses, a busy machine takes from native and sliced alike: what must not be is more than the share
	between "$(column 2 '^[|] 50 [|]')" 10 45
	between "$(column 3 '^[|] 50 [|]')" 10 45
	between "$(column 3 '^[|] 25 [|]')" 8 28
}

@test "the share is changed under load" {
	[ "$(id -u)" -eq 0 ] || skip "needs root for a mount namespace"
	share --gpus 4 --only 'live' live || [ $? -eq 1 ]
	between "$(column 2 '^[|] 25 [|]')" 20 30
	between "$(column 2 '^[|] 75 [|]')" 60 80
	between "$(column 2 '^[|] 10 [|]')" 6 15
}

@test "a run that would not end in time ends before, and says what it did not measure" {
	share --gpus 5 --deadline 4 --lengths 1000 --shares 50,75 alone && false
	grep -q 'Not measured: .*kernels of 1 ms at 75 %' "$work/table.md"
}

@test "a plan names the cells and the time, and measures nothing" {
	run -0 "$SOURCE/bench/share" --plan --seconds 10 --gpus 0,1,2,3 alone gpus
	[[ $output == *"two GPUs"* && $output == *"32 cells on 4 GPUs: about "* ]]
	run -2 "$SOURCE/bench/share" nonsense
}

@test "the costs of a slice are measured by turns, with their spread, and name the version" {
	timeout 100 "$SOURCE/bench/run" --sim --rounds 4 --processes 4 --many-seconds 1 --out "$work/table.md" alloc first many >"$work/log" 2>&1
	between "$(column 4 'cuMemAlloc.cuMemFree 64 MiB')" 0.5 50
	grep -qE '^\| cuMemAlloc\+cuMemFree 4 KiB, held block \|[^|]*\|[^|]*\| [0-9.]+ \| [0-9.]+ \([0-9.]+ to [0-9.]+\) \|' "$work/table.md"
	grep -qE '^\| primary context \|' "$work/table.md"
	grep -qE '^\| 4 processes at once to a context \([1-5] times\)' "$work/table.md"
	grep -qE 'SoftMig at .*src [0-9a-f]{12}, library [0-9a-f]{12}' "$work/table.md"
}
