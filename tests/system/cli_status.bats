#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2143,SC2154 # scripts for the shell on the node; a plain ! fails no test; work is of node.bash
# softmig status, list and metrics, on the simulated driver: the figures are those that the programs in the slices cause.

bats_require_minimum_version 1.5.0
load node

setup() {
	softmig=$BUILD/softmig
	hold=$BUILD/programs/gpu_hold
	[ -e "$BUILD/sim/libcuda.so.1" ] || skip "needs the simulated driver"
	work=$(mktemp -d /tmp/cli-status.XXXXXX)
	export LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=$work/sim SOFTMIG_SIM_GPUS=1xL40S:46068M XDG_RUNTIME_DIR=$work/runtime
	mkdir -m 0700 "$XDG_RUNTIME_DIR"
	unset "${!CUDA_DEVICE_@}" "${!SLURM_@}" LD_PRELOAD
}

teardown() {
	node_teardown
}

figure() { # figure 'EXPRESSION of s' <JSON: what python makes of it
	python3 -c 'import json, sys; s = json.load(sys.stdin); print(eval(sys.argv[1]))' "$1"
}

@test "status in a slice shows limit, use, what is left, the peak and the refusals" {
	"$softmig" run --memory 2G --sm 25 -- "$hold" 300,4096,200 -- "$softmig" status --json >"$work/out"
	[ "$(head -1 "$work/out")" = "0 2 0 " ] # the second was refused
	tail -n +2 "$work/out" >"$work/json"
	[ "$(figure 's["limits_from"], s["job"], len(s["gpus"]), len(s["processes"])' <"$work/json")" = "('environment', None, 1, 1)" ]
	[ "$(figure 's["gpus"][0]["memory_limit_bytes"]' <"$work/json")" -eq $((2 << 30)) ]
	[ "$(figure 's["gpus"][0]["sm_limit_pct"]' <"$work/json")" -eq 25 ]
	[ "$(figure 's["gpus"][0]["refusals"] >= 1' <"$work/json")" = True ]
	used=$(figure 's["gpus"][0]["memory_used_bytes"]' <"$work/json")
	overhead=$(figure 's["processes"][0]["gpus"][0]["memory_overhead_bytes"]' <"$work/json")
	[ $((used - overhead)) -eq $((500 << 20)) ]
	[ "$overhead" -gt $((100 << 20)) ] # a context costs hundreds of MiB
	[ "$(figure 's["gpus"][0]["memory_left_bytes"]' <"$work/json")" -eq $(((2 << 30) - used)) ]
	[ "$(figure 's["gpus"][0]["memory_peak_bytes"]' <"$work/json")" -ge "$used" ]
	[ "$(figure 's["processes"][0]["name"]' <"$work/json")" = gpu_hold ]
}

@test "status fits a screen and names the process" {
	run "$softmig" run --memory 2G -- "$hold" 300 -- "$softmig" status
	echo "$output"
	[ "${#lines[@]}" -le 24 ]
	[[ "$output" == *"of 2.0 GiB used"*"gpu_hold"* ]]
	[[ "$output" != *$'\033'* ]] # no colours where there is no terminal
	for line in "${lines[@]}"; do [ "${#line}" -le 120 ]; done
}

@test "status of a slice that no process has used a GPU in shows its limits" {
	run "$softmig" run --memory 2G --sm 40 -- "$softmig" status
	[ "$status" -eq 0 ]
	[[ "$output" == *"has used a GPU yet. Each GPU: memory 2.0 GiB, compute 40 %."* ]]
}

@test "status outside of slices, of a job without one and of no process says so" {
	run "$softmig" status
	[ "$status" -eq 1 ]
	[[ "$output" == "softmig status: this process is in no slice; softmig list shows those of this machine" ]]
	run "$softmig" status --job 4711
	[ "$status" -eq 1 ]
	[[ "$output" == *"job 4711 has no slice on this node" ]]
	run "$softmig" status --pid $$
	[ "$status" -eq 1 ]
	[[ "$output" == *"process $$ is in no slice" ]]
	for wrong in "--job 0" "--job x" "--pid -1" "--job 1 --pid 1" "more"; do
		# shellcheck disable=SC2086 # words
		run "$softmig" status $wrong
		[ "$status" -eq 2 ]
	done
}

@test "limits that are refused are told by status, with status 1 and an error in the JSON" {
	CUDA_DEVICE_MEMORY_LIMIT=lots run --separate-stderr "$softmig" status --json
	[ "$status" -eq 1 ]
	[[ "$(figure 's["error"]' <<<"$output")" == *refused* ]]
	[[ "$stderr" == *refused* ]]
}

@test "two processes of one slice add up, and a dead one is gone" {
	run "$softmig" run --memory 4G -- "$hold" 300 -- "$hold" 500 -- "$softmig" status --json
	json=$(tail -n +3 <<<"$output")
	[ "$(figure 'len(s["processes"])' <<<"$json")" -eq 2 ]
	used=$(figure 's["gpus"][0]["memory_used_bytes"]' <<<"$json")
	[ "$used" -eq "$(figure 'sum(p["gpus"][0]["memory_used_bytes"] for p in s["processes"])' <<<"$json")" ]
	run "$softmig" run --memory 4G -- sh -c '"$1" 300 -- true >/dev/null; "$2" status --json' _ "$hold" "$softmig"
	[ "$(figure 'len(s["processes"]), s["gpus"][0]["memory_used_bytes"]' <<<"$output")" = "(0, 0)" ]
	[ "$(figure 's["gpus"][0]["memory_peak_bytes"] >= 300 << 20' <<<"$output")" = True ]
}

@test "status shows the share of compute that is used, the GPU time, and the time throttled" {
	[ -x "$BUILD/bench/share_work" ] || skip "needs bench/share_work"
	SOFTMIG_SIM_GPUS=1xH200:143771M run "$softmig" run --sm 25 -- \
		sh -c '"$1" plain 1000 5 >/dev/null; "$2" status --json' _ "$BUILD/bench/share_work" "$softmig"
	echo "$output"
	# wide: the machine may be busy with other things
	[ "$(figure '10 <= s["gpus"][0]["sm_used_pct"] <= 30' <<<"$output")" = True ]
	[ "$(figure '0.4 <= s["gpus"][0]["busy_seconds"] <= 2' <<<"$output")" = True ]
	[ "$(figure 's["gpus"][0]["throttled_seconds"] > 1' <<<"$output")" = True ]
}

@test "from outside, list and status --pid show a run" {
	"$softmig" run --memory 3G -- "$hold" 300 -- sh -c 'echo ready; exec sleep 60' >"$work/out" 3>&- &
	pid=$!
	for _ in $(seq 600); do grep -q ready "$work/out" && break || sleep 0.05; done
	run "$softmig" status --json --pid "$pid"
	[ "$(figure 's["gpus"][0]["memory_limit_bytes"]' <<<"$output")" -eq $((3 << 30)) ]
	[ "$(figure 's["processes"][0]["pid"]' <<<"$output")" -eq "$pid" ]
	run "$softmig" list --json
	[[ "$(figure '[p["pid"] for l in s["slices"] for p in l.get("processes", [])]' <<<"$output")" == *"$pid"* ]]
	run "$softmig" list
	[[ "$output" == *"GPU-"*"JOB"*"$(id -un)"*"3.0 GiB"* ]]
	kill "$(pgrep -P "$pid")"
	wait "$pid" || true
}

@test "a ledger full of garbage gives figures, no crash" {
	"$softmig" run --memory 2G -- sh -c '
		"$1" 100 -- true >/dev/null
		for i in 1 2 3 4 5; do
			dd if=/dev/urandom of="$CUDA_DEVICE_MEMORY_SHARED_CACHE" bs=4096 seek=1 count=200 conv=notrunc status=none
			"$2" status >/dev/null; echo $?
			"$2" status --json | python3 -m json.tool >/dev/null; echo $?
		done
		truncate -s 100 "$CUDA_DEVICE_MEMORY_SHARED_CACHE"
		"$2" status; echo $?' _ "$hold" "$softmig" >"$work/out" 2>"$work/err"
	[ "$(grep -c '^0$' "$work/out")" -eq 10 ]
	[ "$(tail -1 "$work/out")" -eq 1 ]
	grep -q "no ledger" "$work/err"
}

on_a_terminal() { # on_a_terminal KEYS COMMAND...: runs it on a terminal, types KEYS once it has drawn; prints what it drew and its end
	timeout 30 python3 - "$@" <<'PYTHON'
import fcntl, os, pty, signal, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 80, 0, 0))
    os.environ["TERM"] = "xterm"
    os.execv(sys.argv[2], sys.argv[2:])
before = termios.tcgetattr(terminal)
seen = b""
try:
    while True:
        seen += os.read(terminal, 10000)
        if seen.count(b"q quits") == 1 and sys.argv[1]:
            keys, sys.argv[1] = sys.argv[1], ""
            if keys == "TERM":
                os.kill(pid, signal.SIGTERM)
            else:
                os.write(terminal, keys.encode().decode("unicode_escape").encode())
except OSError:
    pass
status = os.waitpid(pid, 0)[1]
print(seen.decode(errors="replace"))
print("exit", os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status))
PYTHON
}

@test "top shows the slice on a terminal, leaves it as it was, and ends by q, by the interrupt key and by a signal" {
	run on_a_terminal q "$softmig" run --memory 2G -- "$hold" 300 -- "$softmig" top
	[[ "$output" == *$'\033[?1049h'*$'\033[1m'*"of 2.0 GiB used"*"gpu_hold"*$'\033[?25h\033[?1049l'*"exit 0" ]]
	run on_a_terminal '\x03' "$softmig" run --memory 2G -- "$softmig" top
	[[ "$output" == *$'\033[?25h\033[?1049l'*"exit 0" ]]
	run on_a_terminal TERM "$softmig" run --memory 2G -- "$softmig" top
	[[ "$output" == *$'\033[?25h\033[?1049l'*"exit -15" ]]
	run on_a_terminal q "$softmig" top
	[[ "$output" == *"exit 0" ]]
	run "$softmig" top
	[ "$status" -eq 1 ]
	[[ "$output" == "softmig top: this needs a terminal; use softmig status or softmig list" ]]
}

# Two jobs of two users on one GPU of a node.
jobs_on_a_node() { # jobs_on_a_node SCRIPT: runs it while both jobs hold memory
	node_setup
	on_a_node bash -c '
		set -e
		export LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=/tmp/sim SOFTMIG_SIM_GPUS=1xL40S:46068M
		export softmig=$BUILD/softmig hold=$BUILD/programs/gpu_hold
		"$softmig" slice create --job 17 --uid 0 --gpu 0=1/4
		"$softmig" slice create --job 9 --uid 65534 --gpu 0=2/4
		mkdir /tmp/17 /tmp/9
		export LD_PRELOAD=$BUILD/libsoftmig.so
		SLURM_JOB_ID=17 SLURM_TMPDIR=/tmp/17 "$hold" 1000 -- sleep 60 >/tmp/17/out &
		SLURM_JOB_ID=9 SLURM_TMPDIR=/tmp/9 "$hold" 2000 -- sleep 60 >/tmp/9/out &
		for _ in $(seq 600); do [ -s /tmp/17/out ] && [ -s /tmp/9/out ] && break || sleep 0.05; done
		unset LD_PRELOAD
		eval "$1"
		echo complete' _ "$1"
}

@test "list shows root every job by GPU, in order, with user, limit and use" {
	run jobs_on_a_node '"$softmig" list; "$softmig" list --json >/tmp/json
		python3 -c "
import json
for s in json.load(open(\"/tmp/json\"))[\"slices\"]:
    print(s[\"job\"], s[\"user\"], s[\"gpus\"][0][\"memory_limit_bytes\"] >> 20, s[\"gpus\"][0][\"sm_limit_pct\"], s[\"gpus\"][0][\"memory_used_bytes\"] > 1000 << 20)"'
	echo "$output"
	[[ "${lines[0]}" == "GPU-"*": 2 slices, limits of "*" and 75 % in all" ]]
	[[ "${lines[2]}" == *" 9  nobody "*"50 %"* ]]
	[[ "${lines[3]}" == *" 17  root "*"25 %"* ]]
	[[ "${lines[4]}" =~ ^9\ nobody\ 2[23][0-9]{3}\ 50\ True$ ]]
	[[ "${lines[5]}" =~ ^17\ root\ 11[0-9]{3}\ 25\ True$ ]]
	[ "${lines[6]}" = complete ]
}

@test "a user sees the job of another user in list, but not its figures" {
	run jobs_on_a_node '
		as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
		as_nobody "$softmig" list || echo "status $?"
		as_nobody "$softmig" status --job 9 || echo "status $?"
		as_nobody "$softmig" status --job 17 || echo "status $?"'
	echo "$output"
	[[ "$output" == *"Slices that cannot be shown"*"17"*"only its owner and root may look at it"* ]]
	[[ "$output" == *"Slice of job 9, user nobody"* ]]
	[[ "$output" == *"softmig status: /var/run/softmig/17.ledger: only its owner and root may look at it
status 1"* ]]
}

@test "metrics has every metric once, each sample in its place, and replaces its file whole" {
	run jobs_on_a_node '
		"$softmig" metrics --output /tmp/softmig.prom
		stat -c %a /tmp/softmig.prom
		cat /tmp/softmig.prom'
	echo "$output"
	[ "${lines[0]}" = 644 ]
	[ "$(grep -c '^# TYPE' <<<"$output")" -eq 10 ]
	[ "$(grep -c '^softmig_memory_used_bytes{' <<<"$output")" -eq 2 ]
	grep -qE '^softmig_compute_limit_ratio\{job="9",user="nobody",uuid="GPU-[0-9a-f-]{36}"\} 0.500$' <<<"$output"
	grep -qE '^softmig_processes\{job="17",user="root",uuid="GPU-[0-9a-f-]{36}"\} 1$' <<<"$output"
	grep -qx 'softmig_slices_unreadable 0' <<<"$output"
	[ -z "$(grep -vE '^(# (HELP|TYPE) softmig_[a-z_]+ .+|softmig_[a-z_]+(\{job="[0-9]+",user="[a-z]+",uuid="GPU-[0-9a-f-]+"\})? [0-9.]+|644|complete)$' <<<"$output")" ]
}

@test "status says that limits are switched off where they are" {
	run jobs_on_a_node '
		"$softmig" status --job 17 2>&1 >/dev/null
		mkdir -p /etc/softmig && touch /etc/softmig/disabled
		"$softmig" status --job 17 2>&1 >/dev/null'
	[ "$output" = "softmig status: /etc/softmig/disabled exists, so programs that start now are not limited
complete" ]
}

@test "what is no regular file is never replaced by metrics" {
	mknod "$work/null" c 1 3 || skip "needs device files"
	ln -s null "$work/link"
	mkdir "$work/directory"
	for path in null link directory; do
		run "$softmig" metrics --output "$work/$path"
		[ "$status" -eq 1 ]
		[[ "$output" == "softmig metrics: $work/$path cannot be written: it is "* ]]
	done
	[ "$(stat -c %F "$work/null" "$work/link" "$work/directory")" = "character special file
symbolic link
directory" ]
}

@test "a limit file that cannot be understood is told by list, status and metrics" {
	run jobs_on_a_node 'echo CUDA_DEVICE_MEMORY_LIMIT=lots >/var/run/softmig/17.conf
		"$softmig" list
		"$softmig" status --job 17 || echo "status $?"
		"$softmig" metrics | grep unreadable'
	echo "$output"
	[[ "$output" == *"Slices that cannot be shown"*"17  the limits are refused, so the job has no GPU: /var/run/softmig/17.conf line 1:"* ]]
	[[ "$output" == *"status 1"*"softmig_slices_unreadable 1"* ]]
}

@test "report tells what a job did, while it runs and after its end, to its user and root" {
	run jobs_on_a_node '
		as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
		"$softmig" report 17 | head -2
		"$softmig" slice create --job 3 --uid 65534 --gpu 0=1/4
		export SLURM_JOB_ID=3 SLURM_TMPDIR=/tmp/3; mkdir /tmp/3
		LD_PRELOAD=$BUILD/libsoftmig.so "$hold" 1000,20000 -- true
		unset SLURM_JOB_ID
		for job in 3 9; do "$softmig" slice delete --job $job; done
		as_nobody "$softmig" report 3
		as_nobody "$softmig" report --json 3 | python3 -m json.tool >/dev/null && echo "good JSON"
		stat -c "%a %U" /var/log/softmig/3.report
		"$softmig" slice create --job 5 --uid 0 --gpu 0=1/4
		"$softmig" slice delete --job 5
		"$softmig" report 5 | tail -1
		as_nobody "$softmig" report 5 || echo "status $?"
		"$softmig" report 6 || echo "status $?"
		echo "job=3" >/var/log/softmig/3.report
		"$softmig" report 3 || echo "status $?"'
	echo "$output"
	[[ "$output" == *"Job 17, user root"*"running for"* ]]
	[[ "$output" == *"Job 3, user nobody"*"peak "*" of 11."*"request"*"refused"*"Suggestion: memory was refused: request a larger slice"* ]]
	[[ "$output" == *"good JSON"*"600 nobody"*"Suggestion: the job never used its GPU: request none."* ]]
	[[ "$output" == *"the report of job 5 is for its owner and root"*"status 1"*"job 6 has had no slice on this node"*"status 1"*"damaged"*"status 1"* ]]
	run "$softmig" report
	[ "$status" -eq 2 ]
	run "$softmig" report x
	[ "$status" -eq 2 ]
}

# The JSON forms are what scripts are written against: these names, in these types, are there and no others, whatever the slice holds.
@test "the JSON of status, list and report has these members, and a limit that does not exist is null" {
	printf '%s\n' "job,limits_from,limits_path,ledger_path,uid,user,error,share_mode,oom_killer,gpus,processes" \
		"uuid,memory_limit_bytes,memory_left_bytes,memory_used_bytes,memory_peak_bytes,refusals,sm_limit_pct,sm_used_pct,busy_seconds,throttled_seconds" \
		"pid,name,gpus" "uuid,memory_used_bytes,memory_overhead_bytes,memory_peak_bytes,busy_seconds,throttled_seconds" >"$work/expected"
	run jobs_on_a_node '
		"$softmig" status --json --job 17 >/tmp/status; "$softmig" list --json >/tmp/list; "$softmig" report --json 17 >/tmp/report
		printf "CUDA_DEVICE_SM_LIMIT=5\n" >/run/softmig/9.conf; "$softmig" status --json --job 9 >/tmp/unlimited; "$softmig" report 9 --json >/tmp/unlimited_report
		python3 - <<END
import json
names = lambda o: ",".join(o)
load = lambda n: json.load(open("/tmp/" + n))
s = load("status")
print(names(s), names(s["gpus"][0]), names(s["processes"][0]), names(s["processes"][0]["gpus"][0]), sep="\n")
assert all(names(x) == names(s) for x in load("list")["slices"]), "list"
r = load("report")
print(names(r), names(r["gpus"][0]), sep="\n")
print(load("unlimited")["gpus"][0]["memory_limit_bytes"], load("unlimited_report")["gpus"][0]["memory_limit_bytes"])
END'
	echo "$output"
	[ "$(head -4 <<<"$output")" = "$(cat "$work/expected")" ]
	[ "${lines[4]}" = "job,uid,user,running,began,ended,gpus,suggestion" ]
	[ "${lines[5]}" = "uuid,memory_limit_bytes,memory_peak_bytes,refusals,sm_limit_pct,sm_mean_pct,busy_seconds,throttled_seconds" ]
	[ "${lines[6]}" = "None None" ]
}

@test "report --plot draws a job's course, while it runs and after its end" {
	command -v gnuplot >/dev/null || skip "no gnuplot here"
	run jobs_on_a_node '
		is_png() { file=$1; [ "$(head -c 8 "$file" | od -An -tx1 | tr -d " ")" = 89504e470d0a1a0a ] && [ "$(wc -c <"$file")" -gt 5000 ]; }
		"$softmig" slice create --job 3 --uid 0 --gpu 0=1/4
		export SLURM_JOB_ID=3 SLURM_TMPDIR=/tmp/3; mkdir /tmp/3
		LD_PRELOAD=$BUILD/libsoftmig.so "$hold" 1000 -- sh -c "sleep 2; unset LD_PRELOAD SLURM_JOB_ID; $softmig report --plot /tmp/3/running.png 3 >/dev/null && echo drawn"
		unset SLURM_JOB_ID
		is_png /tmp/3/running.png && echo "a picture of a running job"
		"$softmig" slice delete --job 3
		grep "^point=" /var/log/softmig/3.report
		"$softmig" report --plot "/tmp/3/it'"'\''"'s over.png" 3 | head -1
		is_png "/tmp/3/it'"'\''"'s over.png" && echo "a picture of its end"
		"$softmig" report 3 --plot /nowhere/x.png >/dev/null || echo "status $?"
		mkdir /tmp/empty
		PATH=/tmp/empty "$softmig" report --plot /tmp/3/none.png 3 >/dev/null || echo "status $?"
		[ ! -e /tmp/3/none.png ] && echo "nothing left"'
	echo "$output"
	[[ "$output" == *"drawn"*"a picture of a running job"* ]]
	# what the context and 1000 MiB take, from the first second to the last sample; nothing at the end
	[[ "$output" =~ point=[0-9]+\ (1[0-9]{3})\ 0\ 0.*point=[0-9]+\ 0\ 0\ 0 ]]
	[[ "$output" == *"Job 3, user root"*"a picture of its end"* ]]
	[[ "$output" == *"/nowhere/x.png cannot be written: No such file or directory"*"status 1"* ]]
	[[ "$output" == *"gnuplot is not installed; on Debian, apt install gnuplot-nox"*"status 1"*"nothing left"* ]]
}
