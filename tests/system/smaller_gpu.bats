#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # work and steps are of job.bash, cgroup is for it; bats runs tests in subshells
# The slice is a smaller GPU: totals, free memory, refusals and recovery, NVML, several processes, fork, the OOM killer. On the
# simulated driver, whose own tool (sim-smi, without the library) is the judge from outside.

load job
setup() { job_setup; }
teardown() { job_teardown; }

# MiB that a process with a context is charged: the context's (measured on an H200), and its headroom (src/preload/gpu.h).
context=$((518 + 4))

slice() { limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=$1"; }

outside() { # MiB in use on GPU 0, seen from outside
	"$BUILD/sim/sim-smi" | sed -nE '2s#.*memory ([0-9]+) / .*#\1#p'
}

@test "memory is granted up to the limit, refused beyond with the driver's own code, and granted again" {
	slice 4G
	run in_job "$steps" init ctx info alloc:3500M alloc:128M alloc:64M info freeall alloc:3500M freeall info
	[ "${lines[2]}" = "info: 0 $((4096 - context)) 4096, null 0 0 0" ]
	[ "${lines[3]}" = "alloc:3500M: 0" ]
	[ "${lines[4]}" = "alloc:128M: 2" ]
	[ "${lines[5]}" = "alloc:64M: 0" ]
	[ "${lines[6]}" = "info: 0 $((4096 - context - 3564)) 4096, null 0 0 0" ]
	[ "${lines[8]}" = "alloc:3500M: 0" ]
	[ "${lines[10]}" = "info: 0 $((4096 - context)) 4096, null 0 0 0" ]
}

@test "small allocations share the driver's blocks and are charged by the block" {
	slice 1G
	run in_job "$steps" init ctx info alloc:1 info alloc:1k info alloc:1M info alloc:1M info free:0 free:1 info free:2 free:3 info
	[ "${lines[2]}" = "info: 0 $((1024 - context)) 1024, null 0 0 0" ]
	[ "${lines[4]}" = "info: 0 $((1024 - context - 2)) 1024, null 0 0 0" ]
	[ "${lines[6]}" = "info: 0 $((1024 - context - 2)) 1024, null 0 0 0" ]
	[ "${lines[8]}" = "info: 0 $((1024 - context - 2)) 1024, null 0 0 0" ]
	[ "${lines[10]}" = "info: 0 $((1024 - context - 4)) 1024, null 0 0 0" ]
	[ "${lines[16]}" = "info: 0 $((1024 - context)) 1024, null 0 0 0" ]
}

@test "pitched and managed memory count, odd element sizes are the driver's to refuse" {
	slice 2G
	run in_job "$steps" init ctx info pitch:1000x1048576x4 info pitch:1000x10x3 managed:256M info freeall info
	[ "${lines[3]}" = "pitch:1000x1048576x4: 0" ]
	[ "${lines[4]}" = "info: 0 $((2048 - context - 1024)) 2048, null 0 0 0" ]
	[ "${lines[5]}" = "pitch:1000x10x3: 1" ]
	[ "${lines[6]}" = "managed:256M: 0" ]
	[ "${lines[7]}" = "info: 0 $((2048 - context - 1024 - 256)) 2048, null 0 0 0" ]
	[ "${lines[9]}" = "info: 0 $((2048 - context)) 2048, null 0 0 0" ]
}

@test "what the library never saw allocated is the driver's to free" {
	slice 2G
	run in_job "$steps" init ctx freeunknown info
	[ "${lines[2]}" = "freeunknown: 1" ]
	[ "${lines[3]}" = "info: 0 $((2048 - context)) 2048, null 0 0 0" ]
}

@test "NVML shows the slice in every version, for GPUs inside it" {
	slice 4G
	run in_job "$steps" init ctx alloc:1G nvml:0
	[ "${lines[3]}" = "nvml:0: 4096 $((context + 1024)) $((4096 - context - 1024)), 4096 $((context + 1024)) $((4096 - context - 1024))" ]
}

@test "NVML's process lists show the slice's processes, each version with its own records" {
	slice 4G
	"$steps" init ctx alloc:700M wait >/dev/null < <(sleep 5) &
	other=$!
	until [ "$(outside)" -ge 1200 ]; do sleep 0.05; done
	run in_job "$steps" init ctx pids:0
	kill $other
	[[ "${lines[2]}" =~ ^pids:0:\ size\ 7\ 1,\ v1\ ([0-9]+)=518,\ v2\ ([0-9]+)=518,\ v3\ ([0-9]+)=518$ ]]
	[ "${BASH_REMATCH[1]}" != "$other" ]
	[ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[3]}" ]
}

@test "two processes share one slice and together never pass it" {
	slice 3G
	mkfifo "$work/go"
	in_job "$steps" init ctx alloc:1200M wait <"$work/go" >"$work/first" &
	exec 8>"$work/go"
	until grep -q alloc "$work/first" 2>/dev/null; do sleep 0.05; done
	run in_job "$steps" init ctx info alloc:1G alloc:512M
	[ "${lines[2]}" = "info: 0 $((3072 - context - 1200 - context)) 3072, null 0 0 0" ]
	[ "${lines[3]}" = "alloc:1G: 2" ]
	[ "${lines[4]}" = "alloc:512M: 0" ]
	[ "$(outside)" -le 3072 ]
	echo >&8
	exec 8>&-
	wait
}

@test "a killed process gives its share back at once" {
	slice 3G
	in_job "$steps" init ctx alloc:2G wait >"$work/first" < <(sleep 20) &
	until grep -q '^alloc' "$work/first" 2>/dev/null; do sleep 0.05; done
	victim=$(pgrep -f "^$steps init ctx alloc:2G")
	kill -9 "$victim"
	until [ ! -e "/proc/$victim" ] || grep -qs '^State:.*Z' "/proc/$victim/status"; do sleep 0.01; done # dead, reaped or not
	run in_job "$steps" init ctx alloc:2G info
	[ "${lines[2]}" = "alloc:2G: 0" ]
	[ "${lines[3]}" = "info: 0 $((3072 - context - 2048)) 3072, null 0 0 0" ]
}

@test "a context that does not fit is out of memory, and costs nothing" {
	slice 400M
	run in_job "$steps" init ctx
	[ "${lines[1]}" = "ctx: 2" ]
	run in_job "$steps" init ctx
	[ "${lines[1]}" = "ctx: 2" ]
	[ "$(outside)" -eq 0 ]
}

@test "a reset primary context gives back all that hung on it" {
	slice 3G
	run in_job "$steps" init ctx alloc:1G reset ctx info
	[ "${lines[3]}" = "reset: 0" ]
	[ "${lines[5]}" = "info: 0 $((3072 - context)) 3072, null 0 0 0" ]
}

@test "each GPU has its own limit and account" {
	limit_file <<-'X'
		CUDA_DEVICE_MEMORY_LIMIT_0=2G
		CUDA_DEVICE_MEMORY_LIMIT_1=1G
	X
	run in_job "$steps" init ctx:0 alloc:1G info ctx:1 info alloc:1G alloc:256M info
	[ "${lines[3]}" = "info: 0 $((2048 - context - 1024)) 2048, null 0 0 0" ]
	[[ "${lines[5]}" == "info: 0 "*" 1024, null 0 0 0" ]]
	[ "${lines[6]}" = "alloc:1G: 2" ]
	[ "${lines[7]}" = "alloc:256M: 0" ]
}

@test "a forked child gets the driver's answer, and takes nothing of its parent's" {
	slice 3G
	run in_job "$steps" init ctx alloc:1G fork info
	[ "${lines[3]}" = "fork: 3" ] # CUDA_ERROR_NOT_INITIALIZED
	[ "${lines[4]}" = "info: 0 $((3072 - context - 1024)) 3072, null 0 0 0" ]
}

@test "where NVML knows no processes a context stays charged at its cost" {
	slice 2G
	export SOFTMIG_SIM_FAULT=nvml:noprocs
	run in_job "$steps" init ctx info alloc:1G info
	[ "${lines[1]}" = "ctx: 0" ]
	[ "${lines[2]}" = "info: 0 $((2048 - context)) 2048, null 0 0 0" ]
	[ "${lines[4]}" = "info: 0 $((2048 - context - 1024)) 2048, null 0 0 0" ]
}

@test "memory of a slice without a limit is not limited" {
	slice 4G
	printf 'CUDA_DEVICE_SM_LIMIT=100\n' | limit_file
	run in_job "$steps" init ctx alloc:20G total:0
	[ "${lines[2]}" = "alloc:20G: 0" ]
}

@test "without ACTIVE_OOM_KILLER a refusal kills nobody; with it the job's processes on the GPU, and only those" {
	slice 2G
	run in_job setpriv --reuid=54321 --regid=54321 --clear-groups "$steps" init ctx alloc:3G info
	[ "${lines[2]}" = "alloc:3G: 2" ]
	[ "${#lines[@]}" -eq 4 ]
	printf 'CUDA_DEVICE_MEMORY_LIMIT=2G\nACTIVE_OOM_KILLER=1\n' | limit_file
	in_job setpriv --reuid=54321 --regid=54321 --clear-groups "$steps" init ctx wait >"$work/first" < <(sleep 20) &
	first=$!
	setpriv --reuid=54321 --regid=54321 --clear-groups sleep 20 & # the same user's, but none of the job's
	bystander=$!
	until grep -q '^ctx' "$work/first" 2>/dev/null; do sleep 0.05; done
	run in_job setpriv --reuid=54321 --regid=54321 --clear-groups "$steps" init ctx alloc:3G
	[ "$status" -eq 137 ]
	ended=0
	wait $first || ended=$?
	[ "$ended" -eq 137 ]
	kill -0 $bystander
	kill $bystander
	[ -z "$(pgrep -u 54321 -x steps)" ]
}
