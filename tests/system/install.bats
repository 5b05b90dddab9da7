#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2059,SC2154 # scripts for the shell on the node, texts as printf formats, work is of node.bash
# softmig install, enable, disable, update, uninstall: in scratch roots, and on a node whose every process feels it.

bats_require_minimum_version 1.5.0
load node

setup() {
	node_setup
	library_set
	softmig=$BUILD/softmig
	root=$work/root
	mkdir -p "$root/etc"
	preload=$root/etc/ld.so.preload
	installed=$root/var/lib/shared/libsoftmig.so
}

teardown() {
	node_teardown
}

export ours=/var/lib/shared/libsoftmig.so

in_root() { # in_root VERB [options]
	local verb=$1
	shift
	"$softmig" "$verb" --root "$root" "$@"
}

snapshot() { # everything below the root: names, modes, owners, contents
	(cd "$root" && find . -printf '%p %M %U %G %l\n' | sort && find . -type f -print0 | sort -z | xargs -0r md5sum)
}

@test "install puts library, second name and directories in place and enables nothing" {
	run in_root install --library "$work/good.so"
	[ "$status" -eq 0 ]
	[[ "$output" == *"No program loads it yet"* ]]
	cmp "$work/good.so" "$installed"
	[ "$(stat -c %a "$installed")" = 644 ]
	[ "$(readlink "$root/var/lib/shared/libvgpu.so")" = libsoftmig.so ]
	for directory in var/lib/shared var/run/softmig var/log/softmig; do
		[ "$(stat -c '%a %u' "$root/$directory")" = "755 $(id -u)" ]
	done
	[ ! -e "$preload" ]
}

@test "the umask changes no mode" {
	(umask 0077 && in_root install --library "$work/good.so" && in_root enable)
	[ "$(stat -c %a "$installed" "$root/var/lib" "$root/var/lib/shared" "$root/var/log/softmig" "$preload" | xargs)" = "644 755 755 755 644" ]
}

@test "every verb twice is every verb once" {
	for verb in install enable disable uninstall; do
		option=()
		[ $verb = install ] && option=(--library "$work/good.so")
		in_root $verb "${option[@]}"
		first=$(snapshot)
		run in_root $verb "${option[@]}"
		[ "$status" -eq 0 ]
		[ "$(snapshot)" = "$first" ]
	done
}

@test "install, enable, disable, uninstall leave every byte as it was" {
	mkdir -p "$root/var/lib" "$root/var/run" "$root/var/log"
	for text in '/usr/lib/other.so\n' '/usr/lib/other.so' '# ours to keep\n/a.so:/b.so /c.so\n\n' '' '\n'; do
		printf "$text" >"$preload"
		chmod 0600 "$preload"
		before=$(snapshot)
		in_root install --library "$work/good.so"
		in_root enable
		grep -qx "$ours" "$preload"
		[ "$(stat -c %a "$preload")" = 600 ]
		in_root disable
		in_root enable
		in_root uninstall
		[ "$(snapshot)" = "$before" ]
	done
	rm "$preload"
	before=$(snapshot)
	in_root install --library "$work/good.so"
	in_root enable
	[ "$(cat "$preload")" = "$ours" ]
	in_root uninstall
	[ "$(snapshot)" = "$before" ]
}

@test "no entry is ever made for a library that is not there" {
	run in_root enable
	[ "$status" -eq 1 ]
	[[ "$output" == *"run softmig install first"* ]]
	[ ! -e "$preload" ]
	in_root install --library "$work/good.so"
	in_root enable
	in_root uninstall
	[ ! -e "$installed" ] && [ ! -e "$preload" ]
}

@test "a library that harms a program is neither installed nor enabled" {
	for bad in noisy deadly text; do
		run in_root install --library "$work/$bad.so"
		[ "$status" -eq 1 ]
		[[ "$output" == *"failed its trial"* ]]
		[ ! -e "$installed" ]
		[ -z "$(find "$root/var/lib/shared" -name '.*softmig*')" ]
	done
	run in_root install --library "$work/noisy.so"
	[[ "$output" == *"/bin/true said: hello" ]]
	run in_root install --library "$work/deadly.so"
	[[ "$output" == *"/bin/true was killed by signal 6" ]]
	in_root install --library "$work/good.so"
	cp "$work/deadly.so" "$installed" # as if an admin had copied it by hand
	run in_root enable
	[ "$status" -eq 1 ]
	[ ! -e "$preload" ]
}

@test "a library that harms only other users is not installed on a node" {
	run on_a_node bash -c '"$BUILD/softmig" install --library "$work/unwell.so"; echo "status $?"; ls /var/lib/shared/libsoftmig.so'
	[[ "$output" == *"failed its trial: a shell of user nobody ended with status 3"*"status 1"*"No such file"* ]]
}

@test "a library that others can write, or in a directory that others can write, is not enabled" {
	in_root install --library "$work/good.so"
	chmod 0664 "$installed"
	run in_root enable
	[ "$status" -eq 1 ]
	[[ "$output" == *"must belong to root and be writable by nobody else"* ]]
	chmod 0644 "$installed"
	chmod 0777 "$root/var/lib/shared"
	run in_root enable
	[ "$status" -eq 1 ]
	[ ! -e "$preload" ]
}

@test "update replaces the library by a new file and refuses a bad one" {
	run in_root update --library "$work/newer.so"
	[ "$status" -eq 1 ]
	[[ "$output" == *"run softmig install first"* ]]
	in_root install --library "$work/good.so"
	exec 9<"$installed" # a program that has it mapped
	inode=$(stat -c %i "$installed")
	run in_root install --library "$work/newer.so"
	[ "$status" -eq 1 ]
	[[ "$output" == *"softmig update replaces it"* ]]
	run in_root update --library "$work/deadly.so"
	[ "$status" -eq 1 ]
	cmp "$work/good.so" "$installed"
	in_root update --library "$work/newer.so"
	cmp "$work/newer.so" "$installed"
	[ "$(stat -c %i "$installed")" -ne "$inode" ]
	cmp "$work/good.so" /dev/fd/9 # the old file still has every byte
	exec 9<&-
	run in_root update --library "$work/newer.so"
	[[ "$output" == *"is this version already"* ]]
}

@test "somebody else's libvgpu.so in the directory is neither replaced nor removed" {
	mkdir -p "$root/var/lib/shared"
	echo theirs >"$root/var/lib/shared/libvgpu.so"
	in_root install --library "$work/good.so"
	in_root uninstall
	[ "$(cat "$root/var/lib/shared/libvgpu.so")" = theirs ]
}

@test "a second name that an interrupted install did not come to is made by the next install or update" {
	in_root install --library "$work/good.so"
	for verb in install update; do
		rm "$root/var/lib/shared/libvgpu.so"
		in_root $verb --library "$work/good.so"
		[ "$(readlink "$root/var/lib/shared/libvgpu.so")" = libsoftmig.so ]
	done
	rm "$installed"
	in_root uninstall
	[ ! -e "$root/var/lib/shared" ]
}

@test "links in an image lead to places in the image, not to this system's" {
	mkdir -p "$root/var" "$root/run" "$root/srv/shared" "$work/host/softmig" "$work/host/shared"
	ln -s "$work/host" "$root/var/run"      # as an image's /var/run -> /run, which is this system's /run when it is followed from here
	mkdir "$root/var/lib" && ln -s /srv/../../srv/shared "$root/var/lib/shared"
	echo CUDA_DEVICE_MEMORY_LIMIT=1G >"$work/host/softmig/1.conf"
	in_root install --library "$work/good.so"
	cmp "$work/good.so" "$root/srv/shared/libsoftmig.so"
	[ -d "$root$work/host/softmig" ]
	in_root enable
	[ "$(cat "$preload")" = "$ours" ]
	run in_root uninstall
	[ "$status" -eq 0 ]
	[[ "$output" != *"holds the limits"* ]] # this system's jobs are not the image's
	[ -e "$work/host/softmig/1.conf" ]
	[ ! -e "$root/srv/shared" ]
	ln -sfn round "$root/etc/round"
	rm -r "${root:?}/etc" && ln -s etc "$root/etc"
	run in_root enable
	[ "$status" -eq 1 ]
	[ "${#lines[@]}" -eq 1 ]
}

@test "what an interrupted install has left goes with uninstall" {
	in_root install --library "$work/good.so"
	touch "$root/var/lib/shared/.libsoftmig.so.softmig-AbCdEf" "$root/etc/.ld.so.preload.softmig-AbCdEf" "$root/etc/.softmig.lock"
	chmod 600 "$root/etc/.softmig.lock"
	in_root uninstall
	[ ! -e "$root/var/lib/shared" ]
	[ -z "$(ls -A "$root/etc")" ]
}

@test "a user who may read /etc can hold up nothing" {
	in_root install --library "$work/good.so"
	chmod 755 "$work" "$root" "$root/etc"
	setpriv --reuid 65534 --regid 65534 --clear-groups flock "$root/etc" sleep 20 3>&- &
	until ! flock -n "$root/etc" true; do :; done
	run timeout 10 "$softmig" enable --root "$root"
	kill "$(pgrep -P $!)"
	[ "$status" -eq 0 ]
	touch "$root/etc/.softmig.lock" # not one that a softmig would make
	chmod 666 "$root/etc/.softmig.lock"
	run in_root disable
	[ "$status" -eq 1 ]
	[[ "$output" == "softmig disable: $root/etc/.softmig.lock cannot be locked: Operation not permitted" ]]
}

@test "closed descriptors 0 to 2 make no difference to what is written" {
	(in_root install --library "$work/good.so" <&- >&- 2>&-) || :
	cmp "$work/good.so" "$installed"
	(in_root enable <&- >&- 2>&-) || :
	[ "$(cat "$preload")" = "$ours" ]
	(in_root disable <&- >&- 2>&-) || :
	[ ! -e "$preload" ]
}

@test "a read-only system is refused in one sentence, and an install works where only /etc is read-only" {
	in_root install --library "$work/good.so"
	read_only() { # read_only DIRECTORY VERB...
		local where=$1
		shift
		unshare -m bash -c 'where=$1; shift; mount --bind "$where" "$where" && mount -o remount,bind,ro "$where" && exec "$@"' _ "$where" \
			"$softmig" "$1" --root "$root" "${@:2}"
	}
	for verb in enable update uninstall; do
		[ $verb != uninstall ] || in_root enable
		option=()
		[ $verb = update ] && option=(--library "$work/newer.so")
		before=$(snapshot)
		run read_only "$root" $verb "${option[@]}"
		[ "$status" -eq 1 ]
		[ "${#lines[@]}" -eq 1 ]
		[[ "$output" == "softmig $verb: "*"Read-only file system"* ]]
		[ "$(snapshot)" = "$before" ]
	done
	run read_only "$root/etc" update --library "$work/newer.so"
	[ "$status" -eq 0 ]
	cmp "$work/newer.so" "$installed"
}

@test "disable takes every entry that is this library, whatever it is called" {
	in_root install --library "$work/good.so"
	printf '%s\n' "/a.so:/var/lib/shared/libvgpu.so # by hand" "$ours" /b.so >"$preload"
	in_root disable
	[ "$(cat "$preload")" = "/a.so:# by hand
/b.so" ]
}

@test "a second library of the same kind is not enabled beside the first" {
	in_root install --library "$work/good.so"
	in_root install --library "$work/good.so" --directory /opt/softmig
	in_root enable --directory /opt/softmig
	run in_root enable
	[ "$status" -eq 1 ]
	[ "$output" = "softmig enable: $preload names /opt/softmig/libsoftmig.so already, which takes over the same functions; take that entry out first" ]
	[ "$(cat "$preload")" = /opt/softmig/libsoftmig.so ]
	in_root disable --directory /opt/softmig
	in_root enable
	[ "$(cat "$preload")" = "$ours" ]
}

@test "a preload file that is a link, or holds a NUL byte, is not edited" {
	in_root install --library "$work/good.so"
	touch "$work/elsewhere"
	ln -s "$work/elsewhere" "$preload"
	run in_root enable
	[ "$status" -eq 1 ]
	[[ "$output" == *"is a symbolic link"* ]]
	[ ! -s "$work/elsewhere" ]
	rm "$preload"
	printf '/a.so\0/b.so' >"$preload"
	run in_root enable
	[ "$status" -eq 1 ]
	[[ "$output" == *"NUL byte"* ]]
	[ "$(stat -c %s "$preload")" -eq 11 ]
}

@test "another directory works the same" {
	in_root install --library "$work/good.so" --directory /opt/softmig
	in_root enable --directory /opt/softmig
	[ "$(cat "$preload")" = /opt/softmig/libsoftmig.so ]
	run in_root install --library "$work/good.so" --directory "/opt/two words"
	[ "$status" -eq 2 ]
	in_root uninstall --directory /opt/softmig
	[ ! -e "$preload" ] && [ ! -e "$root/opt/softmig" ]
}

@test "logs and the limits of running jobs survive uninstall, which warns" {
	in_root install --library "$work/good.so"
	in_root enable
	echo error >"$root/var/log/softmig/17.log"
	echo CUDA_DEVICE_MEMORY_LIMIT=1G >"$root/var/run/softmig/17.conf"
	run in_root uninstall
	[ "$status" -eq 0 ]
	[[ "$output" == *"holds the limits of 1 job; what it starts from now on sees the whole GPU"* ]]
	[ -s "$root/var/log/softmig/17.log" ] && [ -s "$root/var/run/softmig/17.conf" ]
}

@test "a root that is not given, not absolute or not there is refused by every verb, and nothing is made" {
	run on_a_node bash -c '
		for verb in install enable disable update uninstall; do
			for wrong in "" relative "$work/imgae"; do "$BUILD/softmig" $verb --root "$wrong"; echo "status $?"; done
		done
		ls -d "$work/imgae" /var/lib/shared 2>/dev/null'
	for verb in install enable disable update uninstall; do
		printf '%s\n' "softmig $verb: --root needs an absolute path, not ''" "status 2" "softmig $verb: --root needs an absolute path, not 'relative'" \
			"status 2" "softmig $verb: there is no directory $work/imgae" "status 1"
	done >"$work/expected"
	diff "$work/expected" - <<<"$output"
	run in_root install --library ""
	[ "$status" -eq 2 ]
	[ "$output" = "softmig install: --library needs a file, not ''" ]
}

@test "without root these verbs refuse on the system itself" {
	for verb in install enable disable update uninstall; do
		run setpriv --reuid 65534 --regid 65534 --clear-groups "$softmig" $verb
		[ "$status" -eq 1 ]
		[[ "$output" == "softmig $verb: only root can do this; use sudo" ]]
	done
}

@test "a full disk leaves the preload file as it was" {
	in_root install --library "$work/good.so"
	head -c 3000 /dev/zero | tr '\0' '#' >"$work/long"
	run unshare -m bash -c '
		mount -t tmpfs -o size=4k none "$1/etc" && cp "$work/long" "$1/etc/ld.so.preload"
		"$2" enable --root "$1"; echo "status $?"
		cmp "$work/long" "$1/etc/ld.so.preload" && ls -A "$1/etc"' _ "$root" "$softmig"
	[[ "$output" == *"No space left on device"*"status 1"*"ld.so.preload" ]]
	[[ "$output" != *".ld.so.preload"* ]]
}

@test "on a disk without room for one more file, disable takes the entry out all the same" {
	in_root install --library "$work/good.so"
	run unshare -m bash -c '
		mount -t tmpfs -o nr_inodes=2 none "$1/etc" && echo "$ours" >"$1/etc/ld.so.preload"
		touch "$1/etc/another" && exit 9
		"$2" disable --root "$1"; echo "status $?"; ls -A "$1/etc"' _ "$root" "$softmig"
	echo "$output"
	[[ "$output" == *"No space left"*"Disabled: "*"status 0" ]]
}

again() { rm -rf "$root" && cp -a "$work/before" "$root"; } # as it was before
undisturbed() { # undisturbed VERB [options]: what it is when nothing disturbs the verb
	again
	"$softmig" "$1" --root "$root" "${@:2}" >/dev/null
	snapshot >"$work/complete"
}

# Kills the verb at its N-th call of each system call that changes something, for every N there is (strace counts each by itself): the
# preload file and the library are the old or the new one, whole, and the entry is never there without the library. Doing it again
# completes it, to the last byte.
calls="mkdir chmod openat flock write fsync fchmod rename unlink unlinkat symlink rmdir"
killed_anywhere() { # killed_anywhere VERB OLD-PRELOAD NEW-PRELOAD [options]
	local verb=$1 old=$2 new=$3 call n kills=0
	shift 3
	undisturbed "$verb" "$@"
	for call in $calls; do
		for n in $(seq 60); do
			again
			status=0
			strace -qq -o /dev/null -e trace="$call" -e signal=none -e "inject=$call:signal=KILL:when=$n" \
				"$softmig" "$verb" --root "$root" "$@" >/dev/null 2>&1 || status=$?
			[ "$status" -ne 0 ] || break
			kills=$((kills + 1))
			text=$(cat "$preload" 2>/dev/null || echo absent)
			[ "$text" = "$old" ] || [ "$text" = "$new" ] || { echo "killed at $call $n: $text"; return 1; }
			[ ! -e "$installed" ] || cmp "$installed" "$work/good.so" || cmp "$installed" "$work/newer.so"
			if [ "$text" != absent ] && grep -qx "$ours" "$preload"; then [ -e "$installed" ]; fi
			"$softmig" "$verb" --root "$root" "$@" >/dev/null
			find "$root" -name '.*.softmig-??????' -delete # young: it may be another machine's on a shared file system
			snapshot | diff "$work/complete" - || { echo "killed at $call $n and done again"; return 1; }
		done
		[ "$status" -eq 0 ]
	done
	[ "$kills" -gt 15 ]
}

@test "install killed anywhere leaves no library or the whole one" {
	command -v strace >/dev/null || skip "needs strace"
	cp -a "$root" "$work/before"
	killed_anywhere install absent absent --library "$work/good.so"
}

@test "enable killed anywhere leaves the old file or the new one" {
	command -v strace >/dev/null || skip "needs strace"
	in_root install --library "$work/good.so"
	echo /other.so >"$preload"
	cp -a "$root" "$work/before"
	killed_anywhere enable /other.so "/other.so
$ours"
}

@test "disable killed anywhere leaves the old file or the new one" {
	command -v strace >/dev/null || skip "needs strace"
	in_root install --library "$work/good.so"
	in_root enable
	cp -a "$root" "$work/before"
	killed_anywhere disable "$ours" absent
}

@test "update killed anywhere leaves the old library or the new one" {
	command -v strace >/dev/null || skip "needs strace"
	in_root install --library "$work/good.so"
	in_root enable
	cp -a "$root" "$work/before"
	killed_anywhere update "$ours" "$ours" --library "$work/newer.so"
}

@test "uninstall killed anywhere never leaves an entry without a library" {
	command -v strace >/dev/null || skip "needs strace"
	in_root install --library "$work/good.so"
	in_root enable
	cp -a "$root" "$work/before"
	killed_anywhere uninstall "$ours" absent
}

# The same with calls that fail: either the command says so, in one sentence and with status 1, or all is done in spite of it.
failing_anywhere() { # failing_anywhere VERB OLD-PRELOAD NEW-PRELOAD [options]
	local verb=$1 old=$2 new=$3 call n calls_made fine
	shift 3
	undisturbed "$verb" "$@"
	for call in $calls; do
		again
		strace -qq -o "$work/trace" -e trace="$call" -e signal=none "$softmig" "$verb" --root "$root" "$@" >/dev/null
		calls_made=$(grep -c "^$call" "$work/trace") || continue
		for n in $(seq "$calls_made"); do
			case $call:$(sed -n "${n}p" "$work/trace") in
			openat:*"$root"*) ;;
			openat:*) continue ;; # the loader's
			"write:write(1,"*) continue ;; # what is done has been done
			esac
			again
			status=0
			strace -qq -o /dev/null -e trace="$call" -e signal=none -e "inject=$call:error=EIO:when=$n" \
				"$softmig" "$verb" --root "$root" "$@" >/dev/null 2>"$work/said" || status=$?
			text=$(cat "$preload" 2>/dev/null || echo absent)
			rm -f "$root/etc/.softmig.lock" # the next one's, if it could not be removed
			fine=
			if [ "$status" -eq 0 ]; then
				if [ "$call" = rmdir ] || snapshot | diff "$work/complete" -; then fine=yes; fi # directories go if they can
			elif [ "$status" -eq 1 ] && [ "$(wc -l <"$work/said")" -eq 1 ] && grep -q "^softmig $verb: .*" "$work/said"; then
				[ "$text" != "$old" ] || fine=yes
				[ "$verb:$call:$text" != "disable:fsync:$new" ] || fine=yes # it is done, and may not survive a crash
				[ "$verb" != uninstall ] || fine=yes # its steps are several; what is left of it is told, and another run goes on
			fi
			[ "$fine" = yes ] || { echo "$call $n failed: status $status, $(cat "$work/said"), $text"; return 1; }
			"$softmig" "$verb" --root "$root" "$@" >/dev/null
			find "$root" -name '.*.softmig-??????' -delete
			snapshot | diff "$work/complete" - || { echo "$call $n failed and done again"; return 1; }
		done
	done
}

@test "calls that fail anywhere are told, and leave the old state" {
	command -v strace >/dev/null || skip "needs strace"
	cp -a "$root" "$work/before"
	failing_anywhere install absent absent --library "$work/good.so"
	in_root install --library "$work/good.so"
	rm -rf "$work/before" && cp -a "$root" "$work/before"
	failing_anywhere update absent absent --library "$work/newer.so"
	failing_anywhere enable absent "$ours"
	in_root enable
	rm -rf "$work/before" && cp -a "$root" "$work/before"
	failing_anywhere disable "$ours" absent
	failing_anywhere uninstall "$ours" absent
}

@test "many at once end in a whole file and leave nothing beside it" {
	in_root install --library "$work/good.so"
	printf '# mine\n/a.so /b.so\n' >"$preload"
	cp "$preload" "$work/preload"
	for _ in $(seq 8); do
		in_root enable >/dev/null 3>&- &
		in_root disable >/dev/null 3>&- &
	done
	wait
	in_root disable
	cmp "$preload" "$work/preload"
	[ "$(ls -A "$root/etc")" = ld.so.preload ]
}

@test "temporary files of a crash long ago are removed, young ones are left alone" {
	in_root install --library "$work/good.so"
	touch -d '1 hour ago' "$root/etc/.ld.so.preload.softmig-AbCdEf"
	touch "$root/etc/.ld.so.preload.softmig-GhIjKl"
	touch -d '1 hour ago' "$root/etc/.ld.so.preload.softmig-notes"
	in_root enable
	[ ! -e "$root/etc/.ld.so.preload.softmig-AbCdEf" ]
	[ -e "$root/etc/.ld.so.preload.softmig-GhIjKl" ]
	[ -e "$root/etc/.ld.so.preload.softmig-notes" ]
}

@test "on a node, after enable every program has the library, after disable none, and running ones keep it" {
	run on_a_node bash -ec '
		"$BUILD/softmig" install --library "$work/good.so"
		! grep -q libsoftmig /proc/self/maps
		"$BUILD/softmig" enable
		sleep 60 & old=$!
		for _ in $(seq 100); do grep -q libsoftmig "/proc/$old/maps" && break; sleep 0.1; done # until it has been loaded
		grep -q libsoftmig "/proc/$old/maps"
		setpriv --reuid 65534 --regid 65534 --clear-groups grep -c libsoftmig /proc/self/maps
		"$BUILD/softmig" update --library "$work/newer.so"
		grep -q "libsoftmig.so (deleted)" "/proc/$old/maps" || grep -q libsoftmig "/proc/$old/maps"
		kill -0 "$old"
		"$BUILD/softmig" disable
		grep -q libsoftmig "/proc/$old/maps"
		if grep -q libsoftmig /proc/self/maps; then exit 1; fi
		"$BUILD/softmig" uninstall
		kill "$old"
		[ ! -e /etc/ld.so.preload ] && [ ! -e /var/lib/shared/libsoftmig.so ]
		echo complete'
	echo "$output"
	[ "$status" -eq 0 ]
	[[ "$output" == *complete ]]
	[ ! -e /etc/ld.so.preload ]
}

@test "on a node, a library that only fails under the preload file itself is taken out again at once" {
	library secret '#include <stdlib.h>
		__attribute__((constructor)) static void die(void) { if (!getenv("LD_PRELOAD")) abort(); }'
	run on_a_node bash -c '
		echo "# mine" >/etc/ld.so.preload
		"$BUILD/softmig" install --library "$work/secret.so"
		"$BUILD/softmig" enable
		echo "status $?"
		cat /etc/ld.so.preload; /bin/true && echo alive'
	echo "$output"
	[[ "$output" == *"was put back as it was, because with the new entry /bin/true was killed by signal 6"*"status 1"*"# mine"*alive ]]
}

@test "on a node, programs that start by the hundred during ten updates all start, and all with the library" {
	run on_a_node bash -c '
		"$BUILD/softmig" install --library "$work/good.so" && "$BUILD/softmig" enable || exit 1
		(for i in $(seq 300); do /bin/grep -q libsoftmig /proc/self/maps || echo "program $i: status $?"; done) >"$work/programs" 2>&1 &
		for i in $(seq 5); do
			"$BUILD/softmig" update --library "$work/newer.so" && "$BUILD/softmig" update --library "$work/good.so" || exit 1
		done
		wait && echo complete'
	echo "$output"
	[[ "$output" == *complete ]]
	[ ! -s "$work/programs" ]
}
