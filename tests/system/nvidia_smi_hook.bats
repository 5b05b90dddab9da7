#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# nvidia-smi-hook.sh in a Slurm job: only the job's own process rows, in every form that the tool prints them. NVIDIA's tool is
# played by a script that prints what driver 580.159 printed on an H200, with two processes: one of the job, one of another.

setup() {
	[ "$(id -u)" -eq 0 ] || skip "needs root to play another user in a mount namespace"
	DIR=$(mktemp -d)
	chmod 755 "$DIR"
	cp "$SOURCE/src/smi/nvidia-smi-hook.sh" "$DIR/nvidia-smi"
	chmod 755 "$DIR/nvidia-smi"
	sleep 60 & OWN=$!
	sleep 60 & OTHER=$!
	cat >"$DIR/nvidia-smi.real" <<REAL
#!/bin/sh
case "\$*" in
--query-compute-apps=pid,*noheader*) echo "$OWN, 518 MiB, python, $OWN"; echo "$OTHER, 600 MiB, other, a, $OTHER" ;;
--query-compute-apps=pid,*) echo "pid, used_gpu_memory [MiB], process_name, pid"; echo "$OWN, 518 MiB, python, $OWN"; echo "$OTHER, 600 MiB, other, $OTHER" ;;
pmon*DT*) printf '#Date        Time         gpu         pid   type     sm    command \n#YYYYMMDD    HH:MM:SS     Idx           #    C/G      %%    name \n 20261121    10:07:25       0       $OWN     C      9    python3\n 20261121    10:07:25       0       $OTHER     C      9    other\n' ;;
pmon*) printf '# gpu         pid   type     sm    command \n# Idx           #    C/G      %%    name \n    0       $OWN     C      9    python3\n    0       $OTHER     C      9    other\n    1          -     -      -    -\n' ;;
"-q -x") printf '\t\t<processes>\n\t\t\t<process_info>\n\t\t\t\t<pid>$OWN</pid>\n\t\t\t</process_info>\n\t\t\t<process_info>\n\t\t\t\t<pid>$OTHER</pid>\n\t\t\t</process_info>\n\t\t</processes>\n' ;;
-q) printf 'Driver\n    Processes\n        GPU instance ID                   : N/A\n        Process ID                        : $OWN\n            Name                          : python3\n        GPU instance ID                   : N/A\n        Process ID                        : $OTHER\n            Name                          : other\n    Capabilities\n' ;;
"-q only other") printf 'Driver\n    Processes\n        GPU instance ID                   : N/A\n        Process ID                        : $OTHER\n            Name                          : other\n    Capabilities\n' ;;
fail) echo oops >&2; exit 6 ;;
other) printf '| Processes:   |\n|==============|\n|    0   N/A  N/A            $OTHER      C   other     600MiB |\n+--------------+\n' ;;
*) printf '+--------------+\n| Processes:   |\n|==============|\n|    0   N/A  N/A            $OWN      C   python3   518MiB |\n|    0   N/A  N/A            $OTHER      C   other     600MiB |\n+--------------+\n' ;;
esac
REAL
	chmod 755 "$DIR/nvidia-smi.real"
	# What the hook reads of cgroups is played by files bound over /proc/PID/cgroup in a mount namespace of its own.
	echo '0::/system.slice/slurmstepd.scope/job_41/step_0/user' >"$DIR/own"
	echo '0::/system.slice/slurmstepd.scope/job_42/step_0/user' >"$DIR/other"
}

teardown() {
	kill "$OWN" "$OTHER" 2>/dev/null || true
	rm -rf "$DIR"
}

# As user nobody in job 41: nvidia-smi ARGS
smi() {
	sed "s#/proc/self/cgroup#$DIR/own#" "$DIR/nvidia-smi" >"$DIR/nvidia-smi-in-job"
	unshare -m --propagation private sh -c '
		mount --bind "$1/own" "/proc/$2/cgroup" && mount --bind "$1/other" "/proc/$3/cgroup" || exit 99
		shift 3
		exec setpriv --reuid=65534 --regid=65534 --clear-groups bash "$0" "$@"
	' "$DIR/nvidia-smi-in-job" "$DIR" "$OWN" "$OTHER" "$@"
}

@test "the table shows the job's own processes" {
	run smi
	[ "$status" -eq 0 ]
	[[ "$output" == *"$OWN      C   python3"* ]]
	[[ "$output" != *"$OTHER"* ]]
	[ "${#lines[@]}" -eq 5 ]
}

@test "a table without own processes says so, as the tool does" {
	run smi other
	[ "${lines[2]}" = "|  No running processes found  |" ] || [[ "${lines[2]}" == "|  No running processes found"*"|" ]]
	[[ "$output" != *"$OTHER"* ]]
}

@test "--query-compute-apps in any column order, with and without header" {
	run smi --query-compute-apps=used_memory,name,pid --format=csv
	[ "${lines[0]}" = "used_gpu_memory [MiB], process_name, pid" ]
	[ "${lines[1]}" = "518 MiB, python, $OWN" ]
	[ "${#lines[@]}" -eq 2 ]
	run smi --query-compute-apps=used_memory,name,pid --format=csv,noheader
	[ "$output" = "518 MiB, python, $OWN" ]
	run smi --query-compute-apps used_memory,name,pid --format=csv,noheader
	[ "$output" = "518 MiB, python, $OWN" ]
}

@test "pmon, also with date and time, keeps idle GPUs' lines" {
	run smi pmon -c 1
	[[ "$output" == *"$OWN     C"* ]]
	[[ "$output" != *"$OTHER"* ]]
	[[ "$output" == *"1          -     -"* ]]
	run smi pmon -c 1 -o DT
	[[ "$output" == *"$OWN     C"* ]]
	[[ "$output" != *"$OTHER"* ]]
}

@test "-q in text and XML, and None where nothing is left" {
	run smi -q
	[[ "$output" == *"Process ID                        : $OWN"* ]]
	[[ "$output" != *"$OTHER"* ]]
	[[ "$output" == *"Capabilities"* ]]
	run smi -q only other
	[ "${lines[1]}" = "    Processes                         : None" ]
	[ "${lines[2]}" = "    Capabilities" ]
	run smi -q -x
	[[ "$output" == *"<pid>$OWN</pid>"* ]]
	[[ "$output" != *"$OTHER"* ]]
	[[ "$output" == *"</processes>"* ]]
}

@test "exit status and stderr are the tool's own; -f writes the filtered output" {
	run smi fail
	[ "$status" -eq 6 ]
	[[ "$output" == *oops* ]]
	touch "$DIR/out"
	chmod 666 "$DIR/out"
	run smi -f "$DIR/out"
	[ "$status" -eq 0 ]
	[ -z "$output" ]
	grep -q "$OWN" "$DIR/out"
	! grep -q "$OTHER" "$DIR/out"
}

@test "root sees all" {
	run "$DIR/nvidia-smi"
	[[ "$output" == *"$OWN"* ]]
	[[ "$output" == *"$OTHER"* ]]
}
