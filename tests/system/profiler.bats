#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# A profiler that gives programs a library of its own for the driver, as Nsight Compute does: the slice holds, and the profiler sees
# all that it would see. On the simulated driver; the real one: tests/gpu/run profilers.

setup() {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	work=$(mktemp -d /tmp/softmig-profiler.XXXXXX)
	unset LD_PRELOAD "${!SLURM_@}" "${!CUDA_@}" "${!SOFTMIG_@}" "${!LIBCUDA_@}"
	export LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=$work/sim SOFTMIG_SIM_GPUS=1xH200:143771M STAND_IN_SAYS=1
	stand_in=$BUILD/programs/libcuda-injection.so
}
teardown() { [ -z "${work:-}" ] || rm -rf "$work"; }

in_slice() { # with the profiler's library in front of everything
	# shellcheck disable=SC2016 # a script for another shell
	"$BUILD/softmig" run --memory 4G --sm 50 -- sh -c 'LD_PRELOAD="$0:$LD_PRELOAD" exec "$@"' "$stand_in" "$@"
}
in_front() { # with ours in front of it
	# shellcheck disable=SC2016 # a script for another shell
	"$BUILD/softmig" run --memory 4G --sm 50 -- sh -c 'LD_PRELOAD="$LD_PRELOAD:$0" exec "$@"' "$stand_in" "$@"
}

@test "the limits hold under a profiler, through both doors" {
	for asks in "" STAND_IN_ASKS=1; do # however the profiler itself finds the driver's functions
		for door in "" proc; do
			# shellcheck disable=SC2086 # none or one word each
			run in_slice timeout 30 env $asks "$BUILD/programs/steps" $door init total:0
			echo "$output"
			[ "${lines[1]}" = "total:0: 0 4096" ]
		done
	done
}

@test "the share holds under a profiler, and the profiler sees every launch" {
	in_slice "$BUILD/bench/share_work" plain 500 3 >"$work/out" 2>"$work/seen"
	cat "$work/out" "$work/seen"
	awk '$1 == "window" && $2 > 0 { sum += $3; n++ } END { exit !(n == 2 && sum / n > 420000 && sum / n < 580000) }' "$work/out"
	awk 'NR == FNR && $1 == "total" { done = $2 / 500 } /^stand-in:/ { exit !($2 >= done && $2 < done + 100) }' "$work/out" "$work/seen"
}

@test "without limits a program gets the profiler's own functions" {
	LD_PRELOAD=$stand_in:$BUILD/libsoftmig.so run "$BUILD/programs/steps" init own
	[ "${lines[1]}" = "own: libcuda-injection.so libcuda-injection.so libcuda-injection.so" ]
}

@test "a library in the driver's place opens no way round: the driver's own functions are held beside it" {
	for asks in "" STAND_IN_ASKS=1; do
		for idle in "" STAND_IN_IDLE=1; do # whether it lets programs have the driver
			# shellcheck disable=SC2086 # none or one word each
			run in_slice timeout 30 env $asks $idle STAND_IN_EARLY=1 "$BUILD/programs/doors"
			echo "$output"
			[ "${lines[0]}" = "next 0 4096" ]
			[ "${lines[2]}" = "opened 0 4096" ]
			[ "${lines[3]}" = "next 0 4096" ]
		done
	done
}

@test "a program linked with the driver is held and seen where the profiler's library comes after ours" {
	run in_front env STAND_IN_EARLY=1 "$BUILD/programs/doors"
	echo "$output"
	[ "${lines[1]}" = "linked 0 4096" ]
	[ "${lines[4]}" = "stand-in: 1 launches" ]
}

@test "a library in the driver's place may be closed again" {
	run env -u STAND_IN_SAYS "$BUILD/softmig" run --memory 4G --sm 50 -- "$BUILD/programs/doors" close "$stand_in"
	echo "$output"
	[ "$status" -eq 0 ]
	[ "${lines[2]}" = "opened 0 4096" ]
	[ "${lines[3]}" = "closed 1" ]
	[ "${lines[4]}" = "next 0 4096" ]
}
