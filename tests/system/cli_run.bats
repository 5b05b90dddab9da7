#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016 # the single-quoted scripts are for the shell inside the slice
# softmig run: what it sets, what it refuses, and that the command cannot tell that softmig was there.

bats_require_minimum_version 1.5.0

setup() {
	softmig=$BUILD/softmig
	as_nobody=()
	[ "$(id -u)" -ne 0 ] || as_nobody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	# Any shared library will do where the test is about softmig run and not about the library.
	stand_in=$(ldconfig -p | awk '/libm\.so\.6/ { print $NF; exit }')
	stand_in=$(readlink -f "$stand_in")
	work=$(mktemp -d /tmp/cli-run.XXXXXX)
	unset LD_PRELOAD SLURM_JOB_ID SLURM_TMPDIR NO_COLOR
	export XDG_RUNTIME_DIR=$work/runtime
	mkdir -m 0700 "$XDG_RUNTIME_DIR"
	unset "${!CUDA_DEVICE_@}"
}

teardown() {
	rm -rf "$work"
}

slice() { # slice [options] -- CMD: softmig run with the stand-in library
	"$softmig" run --library "$stand_in" "$@"
}

# The run's directory goes when its last process has gone; nobody waits for that, so the test must.
directories_gone() {
	for _ in $(seq 600); do
		[ -z "$(ls -A "$XDG_RUNTIME_DIR")" ] && return 0
		sleep 0.05
	done
	ls -lA "$XDG_RUNTIME_DIR"
	return 1
}

usage_error() { # usage_error WORD ARGUMENT...: status 2, nothing on stdout, one line on stderr that names WORD
	local word=$1 status=0
	shift
	# as nobody, so that a verb which errs in what it takes for wrong usage changes nothing of this machine
	"${as_nobody[@]}" "$softmig" "$@" >"$work/out" 2>"$work/err" || status=$?
	cat "$work/err"
	[ "$status" -eq 2 ] && [ ! -s "$work/out" ] && [ "$(wc -l <"$work/err")" -eq 1 ] && grep -qF -- "$word" "$work/err"
}

@test "softmig --help lists every verb, --version names a version, both on stdout" {
	run "$softmig" --help
	[ "$status" -eq 0 ]
	[[ "$output" == *"Verbs:"*"run "* ]]
	run "$softmig" --version
	[ "$status" -eq 0 ]
	[[ "$output" =~ ^softmig\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
}

@test "every verb has --help, on stdout, with status 0" {
	for verb in $("$softmig" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
		run --separate-stderr "$softmig" "$verb" --help
		[ "$status" -eq 0 ]
		[[ "$output" == "Usage: softmig $verb"* ]]
		[ -z "$stderr" ]
	done
}

@test "wrong usage is one sentence on stderr and status 2" {
	usage_error "a verb is missing"
	usage_error "'fly' is not a verb" fly
	usage_error "a limit is missing" run -- true
	usage_error "a command is missing" run --memory 4G
	usage_error "a command is missing" run --memory 4G --
	usage_error "'--nonsense'" run --nonsense
	usage_error "--memory needs a value" run --memory
	usage_error "'4X'" run --memory 4X -- true
	usage_error "'0'" run --memory 0 -- true
	usage_error "''" run --memory '' -- true
	usage_error "'101'" run --sm 101 -- true
	usage_error "'half'" run --sm half -- true
	usage_error "'1'" run --device 1 -- true
	usage_error "'16:sm=5'" run --device 16:sm=5 -- true
	usage_error "'-1:sm=5'" run --device -1:sm=5 -- true
	usage_error "'colour=red'" run --device 0:colour=red -- true
	usage_error "--device memory needs a size" run --device 0:memory=lots -- true
	usage_error "--device sm needs a percentage" run --device 0:memory=1G,sm=-1 -- true
	usage_error "'/etc/passwd' is no library" run --memory 4G --library /etc/passwd -- true
	usage_error "'/tmp' is no library" run --memory 4G --library /tmp -- true
	usage_error "'17_3' is not a job's number" report 17_3
	usage_error "'-y'" status -y
	usage_error "'-yx'" status --json -yx
	usage_error "'--json=yes'" status --json=yes
	usage_error "'--j'" status --j
	usage_error "/no/such.so" run --memory 4G --library /no/such.so -- true
}

@test "every verb takes an unknown option, a missing value and a word too many for wrong usage, in one sentence that names it" {
	for verb in $("$softmig" --help | sed -n 's/^  \([a-z]*\) .*/\1/p'); do
		usage_error "softmig $verb: option '--nonsense' is not understood; see softmig $verb --help" "$verb" --nonsense
		words=()
		[ "$verb" != slice ] || words=(delete --job 1)
		[ "$verb" != report ] || words=(1)
		[ "$verb" = run ] || usage_error "softmig $verb: 'surplus' is one word too many" "$verb" "${words[@]}" surplus
		[ "$verb" != slice ] || words=(create)
		for option in $("$softmig" "$verb" --help | grep -oE -- '--[a-z-]+ [A-Z]+' | cut -d' ' -f1 | sort -u); do
			[ "$verb" != slice ] || [[ "$option" != --memory && "$option" != --sm ]] || continue # resize's
			usage_error "softmig $verb: option $option needs a value" "$verb" "${words[@]}" "$option"
			[[ "$option" =~ ^--(root|directory|library|job|pid|interval|uid|gid|array-task|het-job|memory|sm|device|gpu)$ ]] || continue
			[ "$verb" != run ] || [ "$option" = --library ] || words=(--library "$stand_in")
			usage_error "''" "$verb" "${words[@]}" "$option" ''
		done
	done
}

@test "output that cannot be written is a failure" {
	run bash -c '"$0" --help >/dev/full' "$softmig"
	[ "$status" -eq 1 ]
	[[ "$output" == *"could not be written"* ]]
}

@test "the command finds its limits, its own ledger and the library in its environment" {
	slice --memory 4G --sm 50 --device 1:memory=8G,sm=25 --device 2:sm=10 -- env >"$work/env"
	grep -qx CUDA_DEVICE_MEMORY_LIMIT=4G "$work/env"
	grep -qx CUDA_DEVICE_SM_LIMIT=50 "$work/env"
	grep -qx CUDA_DEVICE_MEMORY_LIMIT_1=8G "$work/env"
	grep -qx CUDA_DEVICE_SM_LIMIT_1=25 "$work/env"
	grep -qx CUDA_DEVICE_SM_LIMIT_2=10 "$work/env"
	[ "$(grep -c CUDA_DEVICE_MEMORY_LIMIT "$work/env")" -eq 2 ]
	grep -qx "CUDA_DEVICE_MEMORY_SHARED_CACHE=$XDG_RUNTIME_DIR/softmig-run\......./ledger" "$work/env"
	grep -qx "LD_PRELOAD=$stand_in" "$work/env"
}

@test "limits that the caller's environment holds do not mix with those asked for" {
	CUDA_DEVICE_MEMORY_LIMIT=1G CUDA_DEVICE_SM_LIMIT_3=10 run slice --sm 20 -- env
	[[ "$output" == *CUDA_DEVICE_SM_LIMIT=20* ]]
	[[ "$output" != *CUDA_DEVICE_MEMORY_LIMIT* ]]
	[[ "$output" != *CUDA_DEVICE_SM_LIMIT_3* ]]
}

@test "an LD_PRELOAD that is there stays, and the library is in it once" {
	other=$(readlink -f "$(ldconfig -p | awk '/libdl\.so\.2/ { print $NF; exit }')")
	LD_PRELOAD="$other:$stand_in" run slice --sm 20 -- printenv LD_PRELOAD
	[ "$output" = "$stand_in:$other" ]
	ln -s "$stand_in" "$work/alias.so"
	LD_PRELOAD="$work/alias.so $other" run slice --sm 20 -- printenv LD_PRELOAD
	[ "$output" = "$stand_in:$other" ]
}

@test "a library whose path has a space or a colon is loaded all the same" {
	mkdir "$work/with space:colon"
	cp "$stand_in" "$work/with space:colon/libsoftmig.so"
	run "$softmig" run --sm 20 --library "$work/with space:colon/libsoftmig.so" -- \
		bash -c 'grep -c "with space:colon/libsoftmig.so" /proc/self/maps'
	[ "$status" -eq 0 ]
	[ "$output" -ge 1 ]
}

@test "the exit status is the command's own" {
	run slice --memory 1G -- sh -c 'exit 0'
	[ "$status" -eq 0 ]
	run slice --memory 1G -- sh -c 'exit 42'
	[ "$status" -eq 42 ]
	run slice --memory 1G sh -c 'exit 43' # without the two dashes
	[ "$status" -eq 43 ]
}

@test "a command that is not found gives 127, one that cannot be executed 126" {
	run -127 slice --memory 1G -- softmig-no-such-command
	[[ "$output" == "softmig run: 'softmig-no-such-command' cannot be run: No such file or directory" ]]
	touch "$work/plain"
	run slice --memory 1G -- "$work/plain"
	[ "$status" -eq 126 ]
	directories_gone
}

@test "the command is softmig's own process: its pid and its death by a signal" {
	"$softmig" run --library "$stand_in" --memory 1G -- sh -c 'echo $$; exec sleep 60' >"$work/pid" 3>&- &
	pid=$!
	for _ in $(seq 600); do [ -s "$work/pid" ] && break || sleep 0.05; done
	[ "$(cat "$work/pid")" -eq "$pid" ]
	kill -USR1 "$pid"
	status=0
	wait "$pid" || status=$?
	[ "$status" -eq $((128 + 10)) ]
	directories_gone
}

@test "the command has the descriptors, the signals and the children of a command run without softmig" {
	state='ls -l /proc/self/fd | sed -n "s/.* \([0-9]* -> .*\)/\1/p" | grep -v /proc/; grep -E "^Sig(Blk|Ign|Cgt)" /proc/self/status'
	state="$state; umask; ulimit -a; cat /proc/\$\$/task/\$\$/children"
	bash -c "$state" <"$BUILD/CMakeCache.txt" >"$work/without" 2>/dev/null
	slice --memory 1G -- bash -c "$state" <"$BUILD/CMakeCache.txt" >"$work/with" 2>/dev/null
	# pids and the pipe's number differ from run to run
	sed -i -E 's/pipe:\[[0-9]+\]/pipe/; s/^[0-9]+ $/PID/; s/without$/with/' "$work/without" "$work/with"
	diff "$work/without" "$work/with"
}

@test "stdin reaches the command and stdout is its alone" {
	run bash -c 'echo words | "$@"' _ "$softmig" run --library "$stand_in" --memory 1G -- cat
	[ "$output" = words ]
}

@test "a closed stdin, stdout and stderr harm nothing" {
	run bash -c '"$@" <&- >&- 2>&-' _ "$softmig" run --library "$stand_in" --memory 1G -- sh -c 'exit 7'
	[ "$status" -eq 7 ]
	directories_gone
}

@test "a pipe from the command ends when the command ends" {
	# the keeper of the directory must not hold the pipe open while a background process lives
	run timeout 10 bash -c '"$@" | cat' _ "$softmig" run --library "$stand_in" --memory 1G -- \
		sh -c 'sleep 3 >/dev/null 2>&1 & echo done'
	[ "$status" -eq 0 ]
	[ "$output" = "done" ]
}

@test "the run's directory is private to the user and gone after the command, however it ends" {
	run slice --memory 1G -- sh -c 'd=$(dirname $CUDA_DEVICE_MEMORY_SHARED_CACHE); stat -c "%a %u" "$d"; touch "$d/ledger"'
	[ "$output" = "700 $(id -u)" ]
	directories_gone
	run slice --memory 1G -- sh -c 'kill -KILL $$'
	[ "$status" -eq $((128 + 9)) ]
	directories_gone
}

@test "the run's directory stays while a process in the background uses it" {
	slice --memory 1G -- sh -c 'sleep 30 >/dev/null 2>&1 3>&- & echo $!' >"$work/pid"
	background=$(cat "$work/pid")
	slice --memory 1G -- true # tidying by another run does not take it either
	[ "$(find "$XDG_RUNTIME_DIR" -name 'softmig-run.*' | wc -l)" -ge 1 ]
	path=$(tr '\0' '\n' <"/proc/$background/environ" | sed -n 's/^CUDA_DEVICE_MEMORY_SHARED_CACHE=//p')
	[ -d "$(dirname "$path")" ]
	kill "$background"
	directories_gone
}

@test "a run whose keeper was killed keeps its directory while it lives, and the next run removes it after" {
	slice --memory 1G -- sh -c 'echo "$CUDA_DEVICE_MEMORY_SHARED_CACHE"; exec sleep 60' >"$work/ledger" 3>&- &
	for _ in $(seq 600); do [ -s "$work/ledger" ] && break || sleep 0.05; done
	directory=$(dirname "$(cat "$work/ledger")")
	for keeper in $(pgrep -x softmig-keeper); do # other runs of this machine are left alone
		if [ "$(readlink "/proc/$keeper/fd/"* | grep -cxF "$directory")" -gt 0 ]; then kill -KILL "$keeper"; fi
	done
	slice --memory 1G -- true
	[ -d "$directory" ]
	for pid in $(pgrep -x sleep); do
		if grep -qzxF "CUDA_DEVICE_MEMORY_SHARED_CACHE=$(cat "$work/ledger")" "/proc/$pid/environ" 2>/dev/null; then kill "$pid"; fi
	done
	wait
	slice --memory 1G -- true
	[ ! -e "$directory" ]
}

@test "what a crashed run left is removed by the next run, what others own is not" {
	mkdir -m 0700 "$XDG_RUNTIME_DIR/softmig-run.stale1"
	touch "$XDG_RUNTIME_DIR/softmig-run.stale1/ledger"
	mkdir -m 0755 "$XDG_RUNTIME_DIR/softmig-run.open00" # not private: not ours
	mkdir "$work/elsewhere"
	touch "$work/elsewhere/precious"
	ln -s "$work/elsewhere" "$XDG_RUNTIME_DIR/softmig-run.linked"
	slice --memory 1G -- true
	[ ! -e "$XDG_RUNTIME_DIR/softmig-run.stale1" ]
	[ -d "$XDG_RUNTIME_DIR/softmig-run.open00" ]
	[ -e "$work/elsewhere/precious" ]
	[ -L "$XDG_RUNTIME_DIR/softmig-run.linked" ]
}

@test "runs have ledgers of their own" {
	a=$(slice --memory 1G -- printenv CUDA_DEVICE_MEMORY_SHARED_CACHE)
	b=$(slice --memory 1G -- printenv CUDA_DEVICE_MEMORY_SHARED_CACHE)
	[ -n "$a" ] && [ "$a" != "$b" ]
}

@test "in a job the run's directory is in the job's own temporary directory, never in /tmp" {
	mkdir "$work/job"
	SLURM_JOB_ID=4711 SLURM_TMPDIR=$work/job run slice --memory 1G -- printenv CUDA_DEVICE_MEMORY_SHARED_CACHE
	[[ "$output" == "$work/job/softmig-run."* ]]
	unset XDG_RUNTIME_DIR
	SLURM_JOB_ID=4711 run slice --memory 1G -- echo ran
	[ "$status" -eq 1 ]
	[[ "$output" == "softmig run: in a job the run's ledger needs a directory of the job's own; set SLURM_TMPDIR to one" ]]
}

@test "a library for another machine is refused: the loader would pass over it" {
	printf '%b' '\x7fELF\x01' | cat - <(tail -c +6 "$stand_in") >"$work/32.so"
	run "$softmig" run --library "$work/32.so" --memory 1G -- echo ran
	[ "$status" -eq 2 ]
	[[ "$output" == "softmig run: '$work/32.so' is no library that programs of this machine can load" ]]
}

@test "where limits are switched off softmig run refuses instead of running without any" {
	[ "$(id -u)" -eq 0 ] || skip "needs root to put a file into a private /etc/softmig"
	run unshare -m bash -c '
		mkdir -p "$1/etc" "$1/work" && mount -t overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" none /etc || exit 9
		mkdir -p /etc/softmig && touch /etc/softmig/disabled
		"${@:2}"; chown 65534 /etc/softmig/disabled; "${@:2}"' _ "$work" "$softmig" run --library "$stand_in" --memory 1G -- echo ran
	echo "$output"
	[ "$status" -ne 9 ] || skip "needs overlayfs"
	[[ "$output" == "softmig run: limits are switched off on this machine by /etc/softmig/disabled; run the command without softmig run
ran" ]]
}

@test "without a runtime directory the run's directory is in /tmp" {
	unset XDG_RUNTIME_DIR
	run slice --memory 1G -- printenv CUDA_DEVICE_MEMORY_SHARED_CACHE
	[[ "$output" == /tmp/softmig-run.* ]]
	export XDG_RUNTIME_DIR=$work/runtime
	chmod 0755 "$XDG_RUNTIME_DIR" # others could look in: not taken
	run slice --memory 1G -- printenv CUDA_DEVICE_MEMORY_SHARED_CACHE
	[[ "$output" == /tmp/softmig-run.* ]]
}

@test "no place for the directory is one sentence and status 1" {
	SLURM_JOB_ID=4711 SLURM_TMPDIR=$work/nowhere run slice --memory 1G -- true
	[ "$status" -eq 1 ]
	[[ "$output" == "softmig run: no directory for the run's ledger can be made in $work/nowhere: No such file or directory" ]]
}

@test "in a job with a limit file softmig run refuses and names the file" {
	[ "$(id -u)" -eq 0 ] || skip "needs root to put a limit file into a private /var/run/softmig"
	run unshare -m bash -c '
		mount -t tmpfs -o mode=0755 none /run && mkdir -m 0755 /run/softmig
		echo CUDA_DEVICE_MEMORY_LIMIT=2G >/run/softmig/4711.conf
		SLURM_JOB_ID=4711 "$@"' _ "$softmig" run --library "$stand_in" --memory 1G -- echo ran
	[ "$status" -eq 1 ]
	[[ "$output" == *"job 4711 is in a slice already"*"/var/run/softmig/4711.conf"* ]]
	[[ "$output" != *ran* ]]
}

@test "the terminal's interrupt key reaches the command" {
	run timeout 30 python3 - "$softmig" "$stand_in" <<'PYTHON'
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    command = ["--", "sh", "-c", "stty -a | head -1; echo ready; exec sleep 60"]
    os.execv(sys.argv[1], [sys.argv[1], "run", "--library", sys.argv[2], "--memory", "1G", *command])
seen = b""
while b"ready" not in seen:
    seen += os.read(terminal, 100)
os.write(terminal, b"\x03")
print("killed by", os.WTERMSIG(os.waitpid(pid, 0)[1]))
PYTHON
	[ "$status" -eq 0 ]
	[ "$output" = "killed by 2" ]
}
