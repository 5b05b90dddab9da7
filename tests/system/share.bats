#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154 # work is of job.bash; bats runs tests in subshells
# The compute share, from the launch to the GPU, on the simulated driver in real time. How exact it is, the unit tests say, in
# simulated time; here bounds are wide, because the machine may be busy with other things.

load job
setup() { job_setup; export SOFTMIG_SIM_GPUS=1xH200:143771M; }
teardown() { job_teardown; }

share() { limit_file <<<"CUDA_DEVICE_SM_LIMIT=$1"; }

# done_by FILE SECONDS: percent of the GPU's time, the first second left out
done_by() { awk '/^window/ && $2 > 0 { sum += $3; n++ } END { printf "%d\n", n ? sum / n / 10000 + 0.5 : 0 }' "$1"; }

between() { # VALUE LOW HIGH
	echo "$1 is to be between $2 and $3"
	[ "$1" -ge "$2" ] && [ "$1" -le "$3" ]
}

run_in_job() { in_job "$BUILD/bench/share_work" "$@"; }

@test "a quarter of the GPU is a quarter, for short and for long kernels" {
	share 25
	for length in 100 5000; do
		run_in_job plain "$length" 3 >"$work/out"
		between "$(done_by "$work/out")" 21 27
	done
}

@test "eight streams, mixed kernels and cooperative launches get one share" {
	share 30
	for kind in streams streams-few mix coop; do
		run_in_job "$kind" 100 3 >"$work/out"
		between "$(done_by "$work/out")" 25 33
	done
}

@test "a graph is work like any other" {
	share 30
	run_in_job graph 100 3 >"$work/out" 2>"$work/err" || { grep -q "cuStreamBeginCapture_v2.*801" "$work/err" && skip "the simulated driver has no graphs"; cat "$work/err"; false; }
	between "$(done_by "$work/out")" 25 33
}

@test "three processes of a job get one share together" {
	share 30
	for i in 1 2 3; do run_in_job plain 500 4 >"$work/out$i" & done
	wait
	cat "$work"/out? >"$work/out"
	awk '/^window/ && $2 > 0 { sum += $3 } END { printf "%d\n", sum / 3 / 10000 + 0.5 }' "$work/out" >"$work/sum"
	between "$(cat "$work/sum")" 22 33
}

@test "a changed limit holds for the running job, within a second or so" {
	share 20
	run_in_job plain 200 5 >"$work/out" &
	pid=$!
	sleep 2.2
	limit_file <<<"CUDA_DEVICE_SM_LIMIT=70"
	wait "$pid"
	first=$(awk '$1 == "window" && $2 == 1 { print int($3 / 10000) }' "$work/out")
	last=$(awk '$1 == "window" && $2 == 4 { print int($3 / 10000) }' "$work/out")
	between "$first" 15 25
	between "$last" 50 75
}

@test "work that needs less than its share is not slowed" {
	"$BUILD/bench/share_work" part 500 3 >"$work/native"
	share 60
	run_in_job part 500 3 >"$work/out"
	between "$(done_by "$work/out")" "$(($(done_by "$work/native") * 8 / 10))" 40
}

@test "a job killed in the middle leaves the next one its whole share" {
	share 30
	in_job timeout -s KILL 1.5 "$BUILD/bench/share_work" plain 20000 10 >/dev/null 2>&1 || true
	run_in_job plain 200 3 >"$work/out"
	between "$(done_by "$work/out")" 25 33
}

@test "two jobs of one user take turns outside Slurm, and each gets its part" {
	start=$(($(awk '{ printf "%d", $1 * 1000 }' /proc/uptime) * 1000000 + 1500000000))
	# A GPU that nobody else on this machine has: outside Slurm, all jobs of a user on one GPU are neighbours.
	export cgroup=/ SOFTMIG_SIM_GPUS=1xturns$$:143771M
	for share in 30 70; do
		CUDA_DEVICE_MEMORY_SHARED_CACHE=$work/tmp/ledger.$share CUDA_DEVICE_SM_LIMIT=$share run_in_job plain 1000 3 "$start" >"$work/out$share" &
	done
	wait
	small=$(done_by "$work/out30") large=$(done_by "$work/out70")
	between "$small" 22 34
	between "$large" 48 75
}

@test "status counts what was used and how long launches waited" {
	share 25
	run_in_job plain 100 2 >"$work/out"
	# the ledger's words: GPU 0 at 4096, share_words 64 bytes into it: bucket, billed until, busy, throttled
	ledger=$(find "$work" -name 'cudevshr.cache.77')
	busy=$(od -A n -t u8 -j $((4096 + 64 + 16)) -N 8 "$ledger") throttled=$(od -A n -t u8 -j $((4096 + 64 + 24)) -N 8 "$ledger")
	between $((busy / 1000000)) 400 700
	between $((throttled / 1000000)) 800 2200
}

# billed_of_worked PROGRAM...: what the job is billed, in permille of the time that the GPU worked
billed_of_worked() {
	in_job "$@" || return 1
	ledger=$(find "$work" -name 'cudevshr.cache.77')
	worked=$("$BUILD/sim/sim-busy")
	billed=$(od -A n -t u8 -j $((4096 + 64 + 16)) -N 8 "$ledger")
	echo "billed $billed ns, the GPU worked for $worked" >&2
	echo $((billed * 1000 / worked))
}

@test "streams that wait for each other, for copies and for the host are billed what the GPU worked" {
	share 60
	between "$(billed_of_worked "$BUILD/programs/many_streams" 1 3)" 950 1050
}

@test "kernels behind copies, behind waits for copies and behind the host's functions are billed, what they wait for is not" {
	share 90
	for way in behind-copies behind-waits behind-host; do
		rm -f "$SOFTMIG_SIM_STATE" "$(find "$work" -name 'cudevshr.cache.77')"
		between "$(billed_of_worked "$BUILD/programs/many_streams" "$way" 2)" 900 1150
	done
}

@test "a capture in the strictest mode is not disturbed by what the meter does in other threads and streams" {
	for how in "" blocking legacy; do
		run "$BUILD/programs/capture_beside" $how # as it is without the library
		[ "$status" -eq 0 ]
		native=$output
		share 20
		run in_job "$BUILD/programs/capture_beside" $how
		echo "$how: $output, without the library $native"
		[ "$status" -eq 0 ]
		[ "$output" = "$native" ]
		[[ $output = "nodes 7 captured 40 failed "* ]]
	done
}

@test "a launch that running work may wait for is not held back for ever, however deep the debt" {
	share 5
	run in_job "$BUILD/programs/held_back"
	echo "$output"
	[ "$status" -eq 0 ]
	[[ $output =~ ^launches\ ([0-9]+)\ longest_ms\ ([0-9]+)$ ]]
	between "${BASH_REMATCH[1]}" 4 40 # some at once, then one in 0.3 s; without a limit about 190
	between "${BASH_REMATCH[2]}" 250 900
}
