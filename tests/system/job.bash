# SPDX-License-Identifier: Apache-2.0
# A Slurm job as the library sees one, without Slurm. For bats files: load job; job_setup; in_job COMMAND...
# shellcheck disable=SC2016,SC2034 # steps is for the tests; a script for another shell

# A place for state, the simulated driver, no variable of the caller's.
job_setup() {
	[ "$(id -u)" -eq 0 ] || skip "needs root for a mount namespace"
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	steps=$BUILD/programs/steps
	work=$(mktemp -d /tmp/softmig-job.XXXXXX)
	chmod 755 "$work"
	mkdir "$work/state" "$work/log" "$work/tmp" "$work/etc" "$work/gpu"
	chmod 1777 "$work/tmp" "$work/gpu"
	unset LD_PRELOAD "${!SLURM_@}" "${!CUDA_@}" "${!SOFTMIG_@}" "${!LIBCUDA_@}"
	export LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=$work/gpu/sim SOFTMIG_SIM_GPUS=1xH200:143771M,1xL40S:46068M
	export SLURM_TMPDIR=$work/tmp
}

job_teardown() {
	[ -z "${work:-}" ] || rm -rf "$work"
}

# The limit file of job 77, from standard input.
limit_file() { cat >"$work/state/77.conf"; chmod 644 "$work/state/77.conf"; }

# in_job COMMAND...: with $work/state as /var/run/softmig and $work/log as /var/log/softmig; in a process whose cgroup names job 77,
# with the library preloaded. cgroup= in the environment: another cgroup path.
in_job() {
	local own # no two of these at once may share a cgroup's file or an overlay
	own=$(mktemp -d "$work/call.XXXXXX")
	mkdir "$own/etc-upper" "$own/etc-work"
	echo "0::${cgroup-/system.slice/slurmstepd.scope/job_77/step_0/user/task_0}" >"$own/cgroup"
	chmod 755 "$own"
	unshare -m --propagation private sh -c '
		mount -t tmpfs none /run && mount -t tmpfs none /var/log || exit 99
		mount -t overlay -o "lowerdir=/etc,upperdir=$2/etc-upper,workdir=$2/etc-work" none /etc || exit 99
		mkdir -p /run/softmig /var/log/softmig /etc/softmig
		mount --bind "$1/state" /run/softmig && mount --bind "$1/log" /var/log/softmig && mount --bind "$1/etc" /etc/softmig || exit 99
		mount --bind "$2/cgroup" "/proc/$$/cgroup" || exit 99
		shift 2
		export LD_PRELOAD=$0
		exec "$@"' "$BUILD/libsoftmig.so" "$work" "$own" "$@"
}

log() { cat "$work/log/77.log" 2>/dev/null; }
