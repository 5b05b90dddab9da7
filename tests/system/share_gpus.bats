#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154,SC2030,SC2031 # work is of job.bash; bats runs tests in subshells, and cells run in some of their own
# The compute share of a job with several GPUs, on the simulated driver in real time: kernels that wait for each other, as NCCL's do.
# How exact it is, the unit tests say, in simulated time; here bounds are wide, because the machine may be busy with other things.
# Cells are jobs of their own, each with its own GPUs, side by side.

load job

setup() { results=$(mktemp -d /tmp/softmig-gpus.XXXXXX); }
teardown() {
	rm -rf "$results"
	job_teardown
}

# collectives KIND US SECONDS RANKS [COMMAND...]: "gpu DEVICE KERNELS_PER_SECOND" for each rank, in order
collectives() {
	local kind=$1 us=$2 seconds=$3 ranks=$4 device
	shift 4
	if [ "$kind" = processes ]; then
		rm -rf "$work/place"
		mkdir -m 777 "$work/place"
		for ((device = 0; device < ranks; device++)); do
			"$@" "$BUILD/programs/collective" process "$us" "$seconds" "$ranks" "$device" "$work/place" >"$work/out$device" &
		done
		wait
		cat "$work"/out?
	else
		"$@" "$BUILD/programs/collective" "$kind" "$us" "$seconds" "$ranks"
	fi
}

# cell KIND US RANKS: "KIND US RANKS gpu DEVICE NATIVE SLICED PERCENT_OF_GPU PERCENT_OF_NATIVE" in a file of results
cell() (
	job_setup
	trap job_teardown EXIT
	export SOFTMIG_SIM_GPUS=$3xH200:143771M
	collectives "$1" "$2" 0.6 "$3" >"$work/native"
	limit_file <<<"CUDA_DEVICE_SM_LIMIT=30"
	collectives "$1" "$2" "$(($2 < 5000 ? 2 : 3))" "$3" in_job >"$work/sliced"
	join -j 2 -o 1.2,1.3,2.3 "$work/native" "$work/sliced" | while read -r device native sliced; do
		echo "$1 $2 $3 gpu $device $native $sliced $(awk "BEGIN { print int($sliced * $2 / 1e4 + 0.5), int(100 * $sliced / $native + 0.5) }")"
	done >"$results/$1-$2-$3"
)

# Of the GPU's time: natively they use 70 (0.3 ms) to 98 % (5 ms) of it, the rest is the way to the host and back at each synchronisation.
# All kinds side by side for kernels of US microseconds.
near_30_pct() {
	local kind ranks lines
	for ranks in 2 4; do
		for kind in processes threads turns; do cell "$kind" "$1" "$ranks" & done
	done
	wait
	cat "$results"/*
	lines=$(cat "$results"/* | wc -l)
	[ "$lines" -eq 18 ] # (2 + 4) ranks of three kinds
	awk '$8 < 22 || $8 > 38 { bad = 1 } END { exit bad }' "$results"/*
}

@test "collectives of 0.3 ms on 2 and 4 GPUs get the share, in processes, in threads, in one thread" { near_30_pct 300; }
@test "collectives of 1 ms on 2 and 4 GPUs get the share, in processes, in threads, in one thread" { near_30_pct 1000; }
@test "collectives of 5 ms on 2 and 4 GPUs get the share, in processes, in threads, in one thread" { near_30_pct 5000; }

@test "GPUs of one job that have nothing to do with each other each get what is theirs" {
	job_setup
	export SOFTMIG_SIM_GPUS=2xH200:143771M
	"$BUILD/programs/collective" apart 1000 1 >"$work/native"
	limit_file <<<"CUDA_DEVICE_SM_LIMIT=30"
	in_job "$BUILD/programs/collective" apart 1000 3 >"$work/sliced"
	cat "$work/native" "$work/sliced"
	# the first gets its 30 %, the second is not slowed
	awk '{ kernels[FILENAME, $2] = $3 }
		END { exit !(kernels[ARGV[2], 0] > 220 && kernels[ARGV[2], 0] < 360 && kernels[ARGV[2], 1] > 0.9 * kernels[ARGV[1], 1]) }' "$work/native" "$work/sliced"
}

@test "a rank that was away for a second does not part the others from their share" {
	job_setup
	export SOFTMIG_SIM_GPUS=2xH200:143771M COLLECTIVE_AWAY_MS=1000
	limit_file <<<"CUDA_DEVICE_SM_LIMIT=30"
	in_job "$BUILD/programs/collective" threads 1000 8 2 >"$work/sliced"
	cat "$work/sliced"
	awk '$3 < 150 { bad = 1 } END { exit bad }' "$work/sliced" # 300, less the second and what it cost
}
