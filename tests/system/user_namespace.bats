#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154 # work and steps are of job.bash
# A user who makes himself "root" of a user namespace is a user still: root's files rule in there, and his own are not taken for root's.

load job
setup() {
	job_setup
	setpriv --reuid 12345 --regid 12345 --clear-groups unshare --user --map-root-user --mount true 2>/dev/null ||
		skip "users may not make user namespaces here"
	limit_file <<<"CUDA_DEVICE_MEMORY_LIMIT=6G"
}
teardown() { job_teardown; }

# A program of the job as "root" of the user's namespaces, after SCRIPT has been run there. The pid, and so the cgroup, stays.
as_pretended_root() { # SCRIPT STEP...
	in_job setpriv --reuid 12345 --regid 12345 --clear-groups unshare --user --map-root-user --mount --propagation private \
		sh -c "[ \$(id -u) = 0 ] || exit 98; $1 exec \"\$@\"" sh "$steps" "${@:2}"
}

@test "root's limit file rules in there" {
	run as_pretended_root "" init total:0
	[ "${lines[1]}" = "total:0: 0 6144" ]
}

@test "a limit file of the user's own, laid over root's directory, closes the GPU" {
	run as_pretended_root "mount -t tmpfs none /run/softmig && echo CUDA_DEVICE_MEMORY_LIMIT=40G >/run/softmig/77.conf &&" init total:0
	[ "${lines[0]}" = "init: 100" ] # CUDA_ERROR_NO_DEVICE
	run as_pretended_root "mount -t tmpfs none /run/softmig &&" init total:0
	[ "${lines[0]}" = "init: 100" ]
}

@test "a limit file of the user's own, laid over root's file, closes the GPU" {
	run as_pretended_root "echo CUDA_DEVICE_MEMORY_LIMIT=40G >$work/tmp/mine && mount --bind $work/tmp/mine /run/softmig/77.conf &&" init total:0
	[ "${lines[0]}" = "init: 100" ]
}

@test "the switch that makes every process passive is root's alone" {
	run as_pretended_root "mount -t tmpfs none /etc/softmig && touch /etc/softmig/disabled &&" init total:0
	[ "${lines[1]}" = "total:0: 0 6144" ]
	touch "$work/etc/disabled" # and root's own works in there
	run as_pretended_root "" init total:0
	[ "${lines[1]}" != "total:0: 0 6144" ]
	[ "${lines[0]}" = "init: 0" ]
}
