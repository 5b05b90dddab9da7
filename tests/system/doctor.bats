#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154 # scripts for the shell on the node, work is of node.bash
# softmig doctor: a right installation has no fault, and each thing that is wrong is told with what to do about it.

bats_require_minimum_version 1.5.0
load node

setup() {
	node_setup
	library_set
}

teardown() {
	node_teardown
}

# A healthy node (the simulated driver where there is one), then the script, then doctor.
examine() { # examine SCRIPT [options of doctor]
	on_a_node bash -c '
		export softmig=$BUILD/softmig SOFTMIG_SIM_STATE=/tmp/sim SOFTMIG_SIM_GPUS=1xL40S:46068M
		if [ -e "$BUILD/sim/libcuda.so.1" ]; then export LD_LIBRARY_PATH=$BUILD/sim; fi
		install -d -m 0755 /run/softmig && mount -t tmpfs -o mode=0755,size=8m none /run/softmig
		if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then mkdir -p /sys/fs/cgroup; mount -t tmpfs none /sys; mkdir -p /sys/fs/cgroup/freezer; fi
		rm -f /lib/ld-linux.so.2 # what runs 32-bit programs
		"$softmig" install >/dev/null && "$softmig" enable >/dev/null || exit 9
		eval "$1"
		shift
		"$softmig" doctor "$@"
		echo "status $?"' _ "$@" </dev/null
}

fault_with_advice() { # fault_with_advice CHECK WORDS ADVICE in $output
	grep -A1 -E "^fault +$1 .*$2" <<<"$output" | tail -1 | grep -qF -- "-> $3" || { echo "$output"; return 1; }
	[[ "$output" == *"status 1" ]]
}

warning_with_advice() {
	grep -A1 -E "^warning +$1 .*$2" <<<"$output" | tail -1 | grep -qF -- "-> $3" || { echo "$output"; return 1; }
}

@test "a healthy node has no fault, and a program in a slice of 1 GiB sees 1 GiB" {
	run examine ''
	echo "$output"
	[[ "$output" == *"0 faults, 0 warnings."*"status 0" ]]
	[[ "$output" == *"needs libc alone, glibc 2."*" at most"* ]]
	[ ! -e "$BUILD/sim/libcuda.so.1" ] || [[ "$output" == *"a program in a slice of 1G sees 1.0 GiB of the GPU's 4"* ]]
}

@test "the JSON holds the same findings" {
	run examine 'rm -r /var/log/softmig' --json
	python3 - "$output" <<'PYTHON'
import json, sys
text = sys.argv[1].rsplit("status", 1)[0]
report = json.loads(text)
assert report["faults"] == 1, report
[fault] = [f for f in report["findings"] if f["status"] == "fault"]
assert fault["check"] == "directories" and "/var/log/softmig" in fault["message"] and "softmig install" in fault["advice"], fault
assert {f["check"] for f in report["findings"]} >= {"library", "entry", "directories", "limit files", "programs", "driver", "slurm"}
PYTHON
}

@test "it changes nothing" {
	run examine 'left_behind | sort >"$work/before"; trap "left_behind | sort >\"$work/after\"" EXIT'
	[ -s "$work/before" ]
	diff "$work/before" "$work/after"
}

@test "a node without the library, or with it not enabled" {
	run examine '"$softmig" uninstall >/dev/null'
	fault_with_advice library "No such file" "softmig install"
	fault_with_advice entry "does not name" "softmig enable"
	run examine '"$softmig" disable >/dev/null'
	fault_with_advice entry "so no program of a job is limited" "softmig enable"
}

@test "a library or a directory that others than root can change" {
	run examine 'chmod 0666 /var/lib/shared/libsoftmig.so'
	fault_with_advice library "libsoftmig.so can be changed by others" "chown root and chmod go-w"
	run examine 'chown nobody /var/lib/shared'
	fault_with_advice library "/var/lib/shared can be changed by others" "chown root and chmod go-w"
	run examine 'chmod 0777 /run/softmig'
	fault_with_advice directories "/var/run/softmig can be changed by others" "chown root and chmod 0755"
}

@test "a library that cannot be read, is no library, takes over nothing, or is another version" {
	run examine 'chmod 0600 /var/lib/shared/libsoftmig.so'
	fault_with_advice library "cannot be read by everybody" "chmod 0644"
	run examine '"$softmig" disable >/dev/null; cp "$work/text.so" /var/lib/shared/libsoftmig.so'
	fault_with_advice library "is no shared library" "install a library that was built for this machine"
	fault_with_advice programs "with the library /bin/true said" "do not enable it"
	run examine '"$softmig" disable >/dev/null; cp "$work/good.so" /var/lib/shared/libsoftmig.so'
	fault_with_advice library "takes over nothing: its functions are hidden" "install a library"
	warning_with_advice library "is not the version that came with this softmig" "softmig update"
}

@test "an entry for a library that is not there, one of another name, a file that not everybody can read" {
	run examine 'echo /no/such.so >>/etc/ld.so.preload' 2>/dev/null
	fault_with_advice entry "names /no/such.so, which is not there" "remove the entry"
	run examine 'cp "$work/good.so" /opt/libvgpu.so; echo /opt/libvgpu.so >>/etc/ld.so.preload'
	warning_with_advice entry "also names /opt/libvgpu.so" "keep one of them"
	run examine 'chmod 0600 /etc/ld.so.preload'
	fault_with_advice entry "cannot be read by everybody" "chmod 0644"
}

@test "32-bit programs are told to be beyond reach" {
	run examine 'touch /lib/ld-linux.so.2'
	warning_with_advice entry "32-bit programs can run here" "nothing, if no job runs them; else an entry with \$LIB"
}

@test "an entry with \$LIB is known as this library, by doctor, enable and disable" {
	run examine '
		mkdir -p /opt/softmig/lib/x86_64-linux-gnu /opt/softmig/lib/aarch64-linux-gnu /opt/softmig/lib64
		for d in lib/x86_64-linux-gnu lib/aarch64-linux-gnu lib64; do ln /var/lib/shared/libsoftmig.so /opt/softmig/$d/libsoftmig.so; done
		echo "/opt/softmig/\$LIB/libsoftmig.so" >/etc/ld.so.preload
		touch /lib/ld-linux.so.2
		grep -c /opt/softmig/lib /proc/self/maps
		"$softmig" enable
		cp /etc/ld.so.preload "$work/preload"'
	echo "$output"
	[[ "$output" == *"has the entry already"*"ok       entry        /etc/ld.so.preload names"*"0 faults, 0 warnings."* ]]
	[ "$(cat "$work/preload")" = '/opt/softmig/$LIB/libsoftmig.so' ]
	run examine 'ln /var/lib/shared/libsoftmig.so /opt/libsoftmig.so; echo "/opt/../opt/libsoftmig.so" >/etc/ld.so.preload; "$softmig" disable; ls /etc/ld.so.preload'
	[[ "$output" == *"cannot access '/etc/ld.so.preload'"* ]]
}

@test "the admin's switch is told" {
	run examine 'mkdir -p /etc/softmig; touch /etc/softmig/disabled'
	warning_with_advice entry "/etc/softmig/disabled exists" "remove the file"
	[[ "$output" == *"0 faults, 1 warning."* ]] # that a slice has no effect then is no second one
}

@test "in a job, and with any limits in the environment, nothing healthy is a fault" {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	run examine 'export CUDA_DEVICE_SM_LIMIT_3=lots ACTIVE_OOM_KILLER=maybe SOFTMIG_SHARE_MODE=x CUDA_DEVICE_MEMORY_LIMIT_0=5G SOFTMIG_GPU_UUID_0=none'
	[[ "$output" == *"0 faults, 0 warnings."* ]]
	run examine '"$softmig" slice create --job 17 --uid 0 --gpu 0=1/4; export SLURM_JOB_ID=17 SLURM_TMPDIR=/tmp'
	echo "$output"
	[[ "$output" == *"0 faults, 0 warnings."* ]]
	[[ "$output" == *"a program in a slice of 1G sees 1.0 GiB of the GPU's 44."* ]]
	cgroup='0::/system.slice/slurmstepd.scope/job_17/step_0/user/task_0'
	run examine '"$softmig" slice create --job 17 --uid 0 --gpu 0=1/4; echo '"$cgroup"' >/tmp/cgroup; mount --bind /tmp/cgroup /proc/$$/cgroup
		softmig() { :; }; set -- "$@"; exec "$softmig" doctor'
	echo "$output"
	[[ "$output" == *"0 faults, 0 warnings."* ]]
	[[ "$output" == *"skipped  slice        this shell is in job 17, whose slice every program here is in"* ]]
}

@test "a directory that the loader could not name is wrong usage, as for install" {
	for directory in relative "/two words" ''; do
		run "$BUILD/softmig" doctor --directory "$directory"
		[ "$status" -eq 2 ]
		[[ "$output" == "softmig doctor: --directory needs an absolute path without spaces, colons and '#', not '$directory'" ]]
	done
}

@test "a place for the scratch slice that cannot be had is told as that" {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	run examine 'export SOFTMIG_SIM_STATE=/run/sim; mount -o remount,ro /tmp'
	fault_with_advice slice "/tmp cannot be written: Read-only file system" "make room in /tmp"
}

@test "a limit file that cannot be understood is told with its line" {
	run examine 'printf "# x\nCUDA_DEVICE_MEMORY_LIMIT=lots\n" >/var/run/softmig/17.conf; echo CUDA_DEVICE_SM_LIMIT=5 >/var/run/softmig/18.conf'
	fault_with_advice "limit files" "17.conf line 2:" "correct the file"
	[[ "$output" != *18.conf* ]]
}

@test "the state directory on the file system of /run, or full" {
	run examine 'umount /run/softmig'
	warning_with_advice directories "is on the file system of /run" "mount a small one there: tmpfs /var/run/softmig"
	run examine 'head -c 8M /dev/zero >/run/softmig/filling 2>/dev/null'
	fault_with_advice directories "the file system of /var/run/softmig is full" "free some space"
}

@test "a driver that cannot be loaded or used" {
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	run examine 'mkdir /tmp/none; export LD_LIBRARY_PATH=/tmp/none'
	[[ "$output" == *"this machine has no NVIDIA driver"* ]] || [[ "$output" == *"libcuda.so.1 cannot be loaded"* ]] || [[ "$output" == *"the driver sees no GPU"* ]]
	library fake 'int cuInit(unsigned f) { return f ? 1 : 999; } int cuDeviceGetCount(int *n) { return *n = 0; }
		int cuDeviceGet(int *d, int n) { return *d = n; } int cuDeviceTotalMem_v2(unsigned long *b, int d) { *b = 0; return d; }'
	run examine 'mkdir /tmp/fake; cp "$work/fake.so" /tmp/fake/libcuda.so.1; export LD_LIBRARY_PATH=/tmp/fake'
	fault_with_advice driver "it came to 'init' and said 999" "look at dmesg"
}

slurm() { # slurm 'LINES of slurm.conf' ['LINES of softmig.conf']: examines a node with this configuration
	mkdir -p "$work/slurm"
	printf '%b' "$1" >"$work/slurm/slurm.conf"
	printf '%b' "${2-l40s 4\\n}" >"$work/slurm/softmig.conf"
	run examine 'export SLURM_CONF=$work/slurm/slurm.conf'
}

right='GresTypes=gpu,shard\nJobSubmitPlugins=lua\nCliFilterPlugins=lua\nPrologFlags=Alloc\nProctrackType=proctrack/cgroup\n'
right+="Prolog=$SOURCE/src/slurm/softmig-prolog\nEpilog=$SOURCE/src/slurm/softmig-epilog\n"
nodes='NodeName=n[1-4] Gres=gpu:l40s:4,shard:l40s:16\n'

@test "a right Slurm configuration has no fault" {
	slurm "$right$nodes"
	echo "$output"
	[[ "$output" == *"0 faults, 0 warnings."* ]]
	[[ "$output" == *"the nodes' shards are those of softmig.conf"* ]]
}

@test "shards that do not fit the table, and no table" {
	slurm "${right}NodeName=n[1-4] Gres=gpu:l40s:4,shard:l40s:8\n"
	fault_with_advice slurm "has 4 GPUs of type l40s and 8 shards; with 4 shards per GPU it needs shard:l40s:16" "make softmig.conf, slurm.conf and gres.conf agree"
	slurm "$right$nodes" 'l40s four\n'
	fault_with_advice slurm "softmig.conf line 1 is not understood" "write TYPE and the shards"
	slurm "$right$nodes" 'h200 4\nl40s 4\nL40S 4\n'
	fault_with_advice slurm "softmig.conf line 3 is not understood" "write TYPE and the shards of one GPU, 1 to 100, once for each type"
	rm "$work/slurm/softmig.conf"
	run examine 'export SLURM_CONF=$work/slurm/slurm.conf; mkdir -p /etc/slurm; echo "l40s 4" >/etc/slurm/softmig.conf'
	[[ "$output" == *"0 faults, 0 warnings."* ]] # where prolog and plugins look as well
	run examine 'export SLURM_CONF=$work/slurm/slurm.conf'
	fault_with_advice slurm "softmig.conf, the table of shards: No such file" "copy /usr/share/softmig/slurm/examples/softmig.conf"
}

@test "each part of Slurm that is not set up" {
	slurm "$nodes"
	fault_with_advice slurm "GresTypes= lacks gpu or shard" "GresTypes=gpu,shard"
	fault_with_advice slurm "JobSubmitPlugins= lacks lua" "JobSubmitPlugins=lua"
	fault_with_advice slurm "PrologFlags= lacks Alloc" "PrologFlags=Alloc"
	fault_with_advice slurm "Prolog= does not call softmig: jobs get no limits" "set Prolog="
	warning_with_advice slurm "Epilog= does not call softmig" "set Epilog="
	warning_with_advice slurm "CliFilterPlugins= lacks lua" "CliFilterPlugins=lua"
	slurm "${right}${nodes}ProctrackType=proctrack/linuxproc\n"
	warning_with_advice slurm "recognised by SLURM_JOB_ID alone" "ProctrackType=proctrack/cgroup"
}

@test "a container runtime that does not bring the library in" {
	run examine 'mkdir -p /etc/apptainer; echo "# nothing" >/etc/apptainer/apptainer.conf'
	warning_with_advice containers "Apptainer does not bring the library in" "in it: bind path = /var/lib/shared"
	run examine 'mkdir -p /etc/enroot/mounts.d; touch /etc/enroot/enroot.conf; echo "/var/lib/shared/libsoftmig.so /var/lib/shared/libsoftmig.so none bind" >/etc/enroot/mounts.d/50.fstab'
	[[ "$output" == *"Enroot brings the library in"* ]]
}
