#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2030,SC2031,SC2034,SC2154 # work and steps are of job.bash, cgroup is for it; bats runs tests in subshells
# Passive, sliced or refused: which limits a process gets, and that nobody but root changes that. On the simulated driver.

load job
setup() {
	job_setup
	whole=$("$steps" init total:0 | sed -n "s/^total:0: 0 //p") # as the driver has it
}
teardown() { job_teardown; }

total() { # what the process sees of GPU 0, MiB
	in_job "$@" "$steps" init total:0 | sed -n 's/^total:0: 0 //p'
}

@test "without limits every lookup gives the driver's own addresses, and nothing is made" {
	run in_job "$steps" init total:0 own
	[ "${lines[1]}" = "total:0: 0 $whole" ]
	[ "${lines[2]}" = "own: libcuda.so.1 libcuda.so.1 libcuda.so.1" ]
	run in_job "$steps" proc init own
	[ "${lines[1]}" = "own: libcuda.so.1 libcuda.so.1 libcuda.so.1" ]
	[ -z "$(find "$work/log" "$work/tmp" -type f)" ]
}

@test "root's limit file rules; the user's variables change nothing" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	[ "$(total env)" = 6144 ]
	[ "$(total env CUDA_DEVICE_MEMORY_LIMIT=20G)" = 6144 ]
	[ "$(total env -u SLURM_TMPDIR SLURM_TMPDIR="$work/tmp")" = 6144 ]
	[ "$(total env SLURM_JOB_ID=1)" = 6144 ] # the cgroup says which job, not a variable
	[ "$(total env CUDA_DEVICE_MEMORY_SHARED_CACHE="$work/mine")" = 6144 ]
	[ ! -e "$work/mine" ]
	[ -e "$work/tmp/cudevshr.cache.77" ]
}

@test "SLURM_JOB_ID counts only where no cgroup names a job" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	cgroup=/user.slice/session-1.scope
	[ "$(total env SLURM_JOB_ID=77)" = 6144 ]
	[ "$(total env SLURM_JOB_ID=78)" = "$whole" ]
}

@test "an array element's file is found by its raw job id" {
	echo CUDA_DEVICE_MEMORY_LIMIT=5G >"$work/state/77_3.conf"
	[ "$(total env)" = 5120 ]
	rm "$work/state/77_3.conf"
	echo CUDA_DEVICE_MEMORY_LIMIT=5G >"$work/state/771.conf"
	[ "$(total env)" = "$whole" ]
}

@test "limits in the environment hold where root gave none" {
	cgroup=/user.slice
	run in_job env -u SLURM_TMPDIR CUDA_DEVICE_MEMORY_LIMIT=1g CUDA_DEVICE_MEMORY_SHARED_CACHE="$work/mine" "$steps" init total:0 total:1 own
	[ "${lines[1]}" = "total:0: 0 1024" ]
	[ "${lines[2]}" = "total:1: 0 1024" ]
	[ "${lines[3]}" = "own: libsoftmig.so libsoftmig.so libcuda.so.1" ]
	[ -e "$work/mine" ]
	[ "$(stat -c %a "$work/mine")" = 600 ]
}

@test "limits per GPU" {
	limit_file <<-'X'
		CUDA_DEVICE_MEMORY_LIMIT=6G
		CUDA_DEVICE_MEMORY_LIMIT_1=2G
	X
	run in_job "$steps" init total:0 total:1
	[ "${lines[1]}" = "total:0: 0 6144" ]
	[ "${lines[2]}" = "total:1: 0 2048" ]
}

@test "a limit bound to a UUID follows the GPU, and no other GPU can be used" {
	uuid=$("$BUILD/sim/sim-smi" | sed -n 's/^GPU 1: .*(\(GPU-[^)]*\)).*/\1/p')
	[ -n "$uuid" ]
	printf 'CUDA_DEVICE_MEMORY_LIMIT_0=3G\nSOFTMIG_GPU_UUID_0=%s\n' "$uuid" | limit_file
	run in_job "$steps" init total:1 ctx:1 info ctx:0
	[ "${lines[1]}" = "total:1: 0 3072" ]
	[ "${lines[2]}" = "ctx:1: 0" ]
	[[ "${lines[3]}" == "info: 0 "*" 3072, null 0 0 0" ]]
	[ "${lines[4]}" = "ctx:0: 46" ] # CUDA_ERROR_DEVICE_UNAVAILABLE
	run in_job env CUDA_VISIBLE_DEVICES=1,0 "$steps" init total:0 ctx:1
	[ "${lines[1]}" = "total:0: 0 3072" ]
	[ "${lines[2]}" = "ctx:1: 46" ]
	run in_job env CUDA_VISIBLE_DEVICES="$uuid" "$steps" init count total:0
	[ "${lines[2]}" = "total:0: 0 3072" ]
}

refused() { # LOG PATTERN: no usable GPU, and the log says why
	run in_job "$steps" init count
	[ "${lines[0]}" = "init: 100" ] # CUDA_ERROR_NO_DEVICE
	[ "${#lines[@]}" -eq 2 ]        # and nothing on stderr
	log | grep -q "$1"
}

@test "a limit file that cannot be understood closes the GPU and names the line" {
	printf 'CUDA_DEVICE_MEMORY_LIMIT=6G\nCUDA_DEVICE_SM_LIMIT=101\n' | limit_file
	refused 'line 2'
	for value in 0 0m -1 4X 99999999999999999999G '' '4 G x'; do
		rm -f "$work/log/77.log"
		echo "CUDA_DEVICE_MEMORY_LIMIT=$value" | limit_file
		refused 'line 1'
	done
}

@test "a limit file that is not root's, writable by others, or a link is refused" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	chown 12345 "$work/state/77.conf"
	refused 77.conf
	chown 0 "$work/state/77.conf"
	chmod 666 "$work/state/77.conf"
	refused 77.conf
	mv "$work/state/77.conf" "$work/real.conf"
	chmod 644 "$work/real.conf"
	ln -s "$work/real.conf" "$work/state/77.conf"
	refused 77.conf
	rm "$work/state/77.conf"
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	chmod 777 "$work/state"
	refused 77.conf
}

@test "limits in the environment that cannot be understood close the GPU too" {
	cgroup=/user.slice
	run in_job env -u SLURM_TMPDIR CUDA_DEVICE_MEMORY_LIMIT=0m "$steps" init
	[ "$output" = "init: 100" ]
}

@test "a job without a place for its ledger gets no GPU rather than no limit" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	run in_job env -u SLURM_TMPDIR "$steps" init
	[ "$output" = "init: 100" ]
	log | grep -q ledger
	ln -s "$work/elsewhere" "$work/tmp/cudevshr.cache.77"
	run in_job "$steps" init
	[ "$output" = "init: 100" ]
	[ ! -e "$work/elsewhere" ]
}

@test "a ledger of another version closes the GPU, is left as it is, and the log says what to remove" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	in_job "$steps" init
	truncate -s 1122304 "$work/tmp/cudevshr.cache.77" # as it was before it told what had been passed on
	printf '\x00\x20\x11\x00' | dd of="$work/tmp/cudevshr.cache.77" bs=1 seek=12 conv=notrunc status=none
	cp "$work/tmp/cudevshr.cache.77" "$work/old"
	run in_job "$steps" init
	[ "$output" = "init: 100" ]
	log | grep -q "$work/tmp/cudevshr.cache.77 is no ledger of this version of SoftMig: remove it"
	cmp "$work/tmp/cudevshr.cache.77" "$work/old"
}

@test "a changed limit file rules within a second; one gone or broken changes nothing" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	mkfifo "$work/go"
	in_job "$steps" init total:0 wait total:0 wait total:0 wait total:0 <"$work/go" >"$work/out" &
	exec 8>"$work/go"
	until grep -q 'total:0' "$work/out"; do sleep 0.05; done
	echo CUDA_DEVICE_MEMORY_LIMIT=9G >"$work/state/new" && mv "$work/state/new" "$work/state/77.conf"
	sleep 1
	echo >&8
	until [ "$(grep -c 'total:0' "$work/out")" -eq 2 ]; do sleep 0.05; done
	echo garbage >"$work/state/77.conf"
	sleep 1
	echo >&8
	until [ "$(grep -c 'total:0' "$work/out")" -eq 3 ]; do sleep 0.05; done
	rm "$work/state/77.conf"
	sleep 1
	echo >&8
	exec 8>&-
	wait
	[ "$(sed -n 's/^total:0: 0 //p' "$work/out" | tr '\n' ' ')" = "6144 9216 9216 9216 " ]
	log | grep -q 'line 1'
}

@test "a lowered limit holds at once, for small allocations too" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	mkfifo "$work/go"
	in_job "$steps" init ctx alloc:64k alloc:1k wait alloc:1M alloc:1M alloc:1M <"$work/go" >"$work/out" &
	exec 8>"$work/go"
	until grep -q 'alloc:1k' "$work/out"; do sleep 0.05; done
	echo CUDA_DEVICE_MEMORY_LIMIT=100M >"$work/state/new" && mv "$work/state/new" "$work/state/77.conf"
	sleep 1
	echo >&8
	exec 8>&-
	wait
	[ "$(grep -c '^alloc:1M: 0' "$work/out")" -eq 1 ] # in the block that is there
	[ "$(grep -c '^alloc:1M: 2' "$work/out")" -eq 2 ] # CUDA_ERROR_OUT_OF_MEMORY
}

@test "root's switch makes every process passive" {
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
	touch "$work/etc/disabled"
	[ "$(total env)" = "$whole" ]
	chown 12345 "$work/etc/disabled"
	[ "$(total env)" = 6144 ]
}

@test "silence: nothing on stderr below log level 3, and the log gets what its level says" {
	printf 'CUDA_DEVICE_MEMORY_LIMIT=2G\n' | limit_file
	in_job "$steps" init ctx alloc:3G 2>"$work/err" >/dev/null
	[ ! -s "$work/err" ]
	[ -z "$(log)" ]
	in_job env SOFTMIG_LOG_LEVEL=1 "$steps" init ctx alloc:3G 2>"$work/err" >/dev/null
	[ ! -s "$work/err" ]
	log | grep -q 'refused: cuMemAlloc of 3221225472 bytes on GPU 0'
	log | grep -q 'holds .* bytes on GPU 0'
	in_job env LIBCUDA_LOG_LEVEL=3 "$steps" init 2>"$work/err" >/dev/null
	grep -q 'slice from /var/run/softmig/77.conf' "$work/err"
}
