#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2143,SC2154 # a plain ! does not fail a test; scripts for the shell on the node, work is of node.bash
# The packages: what is in them, and that installing, upgrading and removing them on a node does what the admin expects.

bats_require_minimum_version 1.5.0
load node

setup_file() {
	command -v dpkg-deb >/dev/null || skip "needs dpkg-deb"
	export PACKAGES=$BATS_FILE_TMPDIR/packages
	cpack --config "$BUILD/CPackConfig.cmake" -B "$PACKAGES" >"$BATS_FILE_TMPDIR/cpack.log" 2>&1 || {
		cat "$BATS_FILE_TMPDIR/cpack.log"
		return 1
	}
	DEB=$(echo "$PACKAGES"/*.deb)
	RPM=$(echo "$PACKAGES"/*.rpm)
	export DEB RPM
	# a later version of the same: a script of the maintainer's would not be run for the same one
	mkdir "$BATS_FILE_TMPDIR/later"
	dpkg-deb -R "$DEB" "$BATS_FILE_TMPDIR/later"
	sed -i 's/^Version: .*/Version: 99.0/' "$BATS_FILE_TMPDIR/later/DEBIAN/control"
	printf '\0' >>"$BATS_FILE_TMPDIR/later/usr/lib/softmig/libsoftmig.so"
	export LATER=$BATS_FILE_TMPDIR/later.deb
	dpkg-deb --root-owner-group -b "$BATS_FILE_TMPDIR/later" "$LATER" >/dev/null
	echo 'not a library' >"$BATS_FILE_TMPDIR/later/usr/lib/softmig/libsoftmig.so"
	sed -i 's/^Version: .*/Version: 99.1/' "$BATS_FILE_TMPDIR/later/DEBIAN/control"
	export BROKEN=$BATS_FILE_TMPDIR/broken.deb
	dpkg-deb --root-owner-group -b "$BATS_FILE_TMPDIR/later" "$BROKEN" >/dev/null
}

setup() {
	node_setup
	cp "$DEB" "$work/softmig.deb"
	cp "$LATER" "$work/later.deb"
	cp "$BROKEN" "$work/broken.deb"
	if [ -e "$RPM" ]; then cp "$RPM" "$work/softmig.rpm"; fi
}

teardown() {
	node_teardown
}

@test "the package holds command, library, manual pages, completion, Slurm parts, and only root's files" {
	run dpkg-deb -c "$DEB"
	for path in usr/bin/softmig usr/lib/softmig/libsoftmig.so usr/share/man/man1/softmig.1.gz usr/share/man/man8/softmig-enable.8.gz \
		usr/share/bash-completion/completions/softmig usr/lib/tmpfiles.d/softmig.conf etc/logrotate.d/softmig \
		usr/share/softmig/slurm/job_submit_softmig.lua; do
		[[ "$output" == *" ./$path"* ]] || { echo "$path is missing"; return 1; }
	done
	[[ "$output" != *ld.so.preload* ]]
	[[ "$output" != *CMakeLists* ]]
	[ -z "$(dpkg-deb -c "$DEB" | grep -v ' root/root ')" ]
	[ -z "$(dpkg-deb -c "$DEB" | grep -E '^.{5}w|^.{8}w|^-..[sS]' | grep -v '^l')" ] # nothing writable for others, nothing setuid
	[ -z "$(dpkg-deb -f "$DEB" Depends | tr ',' '\n' | grep -v 'libc6')" ]
}

@test "lintian has no complaint" {
	command -v lintian >/dev/null || skip "needs lintian"
	run lintian --allow-root --fail-on error,warning "$DEB"
	echo "$output"
	[ "$status" -eq 0 ]
}

@test "installing the package enables nothing, removing it leaves no trace" {
	run on_a_node bash -c '
		set -e
		dpkg -i "$work/softmig.deb" >/dev/null
		[ ! -e /etc/ld.so.preload ]
		softmig --version
		cmp /usr/lib/softmig/libsoftmig.so /var/lib/shared/libsoftmig.so
		[ "$(stat -c "%a %u" /var/run/softmig /var/log/softmig /var/lib/shared | sort -u)" = "755 0" ]
		dpkg -r softmig >/dev/null
		[ ! -e /var/lib/shared/libsoftmig.so ] && [ ! -e /usr/bin/softmig ]
		dpkg -P softmig >/dev/null
		left_behind
		echo complete'
	echo "$output"
	[[ "${lines[0]}" =~ ^softmig\ [0-9] ]]
	[ "${lines[1]}" = complete ]
}

@test "from package to enabled to sliced program to removed, and every byte is as before" {
	run on_a_node bash -c '
		set -e
		printf "# the site'\''s own\n/lib/x86_64-linux-gnu/libm.so.6:" >/etc/ld.so.preload
		cp /etc/ld.so.preload /tmp/preload
		dpkg -i "$work/softmig.deb" >/dev/null
		softmig enable
		grep -q libsoftmig /proc/self/maps
		mkdir /tmp/job
		printf "CUDA_DEVICE_MEMORY_LIMIT=4G\nCUDA_DEVICE_SM_LIMIT=25\n" >/var/run/softmig/17.conf
		export SLURM_JOB_ID=17 SLURM_TMPDIR=/tmp/job
		softmig status
		status=0; softmig run --memory 1G -- /bin/true || status=$?
		[ $status -eq 1 ]
		unset SLURM_JOB_ID SLURM_TMPDIR
		softmig run --memory 1G -- sh -c "[ \$(grep -o /[^\ ]*libsoftmig.so /proc/self/maps | sort -u | wc -l) = 1 ] && softmig status"
		rm -r /var/run/softmig/17.conf /tmp/job
		dpkg -P softmig >/dev/null
		cmp /etc/ld.so.preload /tmp/preload
		if grep -q libsoftmig /proc/self/maps; then exit 1; fi
		rm /etc/ld.so.preload
		left_behind
		echo complete'
	echo "$output"
	[[ "$output" == *"Slice of job 17"*"memory 4.0 GiB, compute 25 %"* ]]
	[[ "$output" == *"limits come from /var/run/softmig/17.conf alone"* ]]
	[[ "$output" == *"memory 1.0 GiB, compute without limit"* ]]
	[ "${lines[-1]}" = complete ]
	[[ "${lines[-2]}" == *"compute without limit."* ]]
}

@test "the commands of docs/install.md, one after the other, work and leave every byte as before" {
	awk '/^```sh$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$SOURCE/docs/install.md" >"$work/commands"
	[ "$(wc -l <"$work/commands")" -ge 9 ]
	mv "$work/softmig.deb" "$work/softmig_1.deb"
	rm -f "$work/softmig.rpm" "$work/later.deb" "$work/broken.deb"
	run on_a_node bash -c '
		if [ ! -e /sys/fs/cgroup/cgroup.controllers ]; then mount -t tmpfs none /sys; mkdir -p /sys/fs/cgroup/freezer; fi
		cp /var/lib/dpkg/status /tmp/status
		python3 "$SOURCE/tests/system/manifest.py" record /tmp/manifest
		cd "$work" && bash -ex ./commands || echo "status $?"
		cd / && left_behind
		cmp /tmp/status /var/lib/dpkg/status
		python3 "$SOURCE/tests/system/manifest.py" compare /tmp/manifest /var/log/dpkg.log /var/lib/dpkg/status-old
		echo complete' </dev/null
	echo "$output"
	[[ "$output" == *"Enabled: programs that start from now on load"* ]]
	[[ "$output" == *" 0 faults, "* || "$output" == *$'\n'"0 faults, "* ]]
	[[ "$output" == *"memory 4.0 GiB, compute 50 %"* ]]
	[[ "$output" != *"status "[1-9]* ]]
	[ "${lines[-1]}" = complete ]
	[[ "${lines[-2]}" == Purging* ]] # nothing is left behind, or differs
}

@test "the commands of docs/install.md for nvidia-smi put the hook in its place, through an update of the driver, and take it away again" {
	awk '/^```bash$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$SOURCE/docs/install.md" >"$work/commands"
	[ "$(wc -l <"$work/commands")" -eq 4 ]
	run on_a_node bash -c '
		set -e
		[ ! -e /usr/bin/nvidia-smi ] || exit 77
		tool() { # tool VERSION: a package with a tool of that name, as the driver is one
			mkdir -p /tmp/tool/DEBIAN /tmp/tool/usr/bin
			printf "Package: nvidia-smi-stand-in\nVersion: %s\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n" "$1" >/tmp/tool/DEBIAN/control
			printf "#!/bin/sh\necho tool %s\n" "$1" >/tmp/tool/usr/bin/nvidia-smi
			chmod 755 /tmp/tool/usr/bin/nvidia-smi
			dpkg-deb --root-owner-group -b /tmp/tool /tmp/tool.deb >/dev/null && dpkg -i /tmp/tool.deb >/dev/null
		}
		dpkg -i "$work/softmig.deb" >/dev/null
		tool 1
		bash -e <(head -2 "$work/commands") >/dev/null
		tool 2
		cmp /usr/bin/nvidia-smi /usr/share/softmig/nvidia-smi-hook.sh
		ln -s /usr/bin/nvidia-smi /usr/local/bin/smi
		nvidia-smi; (cd /tmp && smi)
		bash -e <(tail -2 "$work/commands") >/dev/null
		[ ! -e /usr/bin/nvidia-smi.real ]
		/usr/bin/nvidia-smi
		echo complete'
	[ "$status" -ne 77 ] || skip "this machine has a tool of that name"
	echo "$output"
	[ "$output" = "tool 2
tool 2
tool 2
complete" ]
}

@test "an upgrade replaces the library by a new file under running programs and keeps it enabled" {
	run on_a_node bash -c '
		set -e
		dpkg -i "$work/softmig.deb" >/dev/null
		softmig enable >/dev/null
		before=$(stat -c %i /var/lib/shared/libsoftmig.so)
		sleep 60 & running=$!
		dpkg -i "$work/later.deb" >/dev/null
		[ "$(stat -c %i /var/lib/shared/libsoftmig.so)" -ne "$before" ]
		cmp /usr/lib/softmig/libsoftmig.so /var/lib/shared/libsoftmig.so
		kill -0 $running
		grep -q /var/lib/shared/libsoftmig.so /proc/self/maps
		cat /etc/ld.so.preload
		kill $running
		dpkg -r softmig >/dev/null
		[ ! -e /etc/ld.so.preload ]
		/bin/true && echo complete'
	echo "$output"
	[ "$output" = "/var/lib/shared/libsoftmig.so
complete" ]
}

@test "an upgrade to a library that fails its trial says so and leaves the old one in force" {
	run on_a_node bash -c '
		dpkg -i "$work/softmig.deb" >/dev/null && softmig enable >/dev/null || exit 1
		cp /var/lib/shared/libsoftmig.so /tmp/old
		dpkg -i "$work/broken.deb"; echo "status $?"
		cmp /tmp/old /var/lib/shared/libsoftmig.so && /bin/true && echo "still the old one"
		dpkg -r softmig >/dev/null && [ ! -e /etc/ld.so.preload ] && echo complete'
	echo "$output"
	[[ "$output" == *"failed its trial"*"status 1"*"still the old one"*complete ]]
}

@test "the admin's switch survives upgrades and removal, and goes with the purge" {
	run on_a_node bash -c '
		set -e
		dpkg -i "$work/softmig.deb" >/dev/null
		mkdir /etc/softmig && touch /etc/softmig/disabled
		softmig enable 2>&1 | grep "does nothing until"
		dpkg -i "$work/later.deb" >/dev/null
		dpkg -r softmig >/dev/null
		[ -e /etc/softmig/disabled ]
		dpkg -P softmig >/dev/null
		[ ! -e /etc/softmig ]
		echo complete'
	echo "$output"
	[[ "$output" == *"/etc/softmig/disabled exists"*complete ]]
}

@test "the rpm installs, upgrades and removes the same way" {
	[ -e "$work/softmig.rpm" ] || skip "needs rpmbuild"
	run on_a_node bash -c '
		set -e
		exec 2> >(grep -v ^rpm: >&2) # Debian'\''s rpm says at each call that it is not dpkg
		rpm -i --nodeps "$work/softmig.rpm"
		[ ! -e /etc/ld.so.preload ]
		softmig enable
		rpm -U --force --nodeps "$work/softmig.rpm"
		cat /etc/ld.so.preload
		rpm -V --nodeps softmig
		rpm -e softmig
		[ ! -e /etc/ld.so.preload ] && [ ! -e /var/lib/shared/libsoftmig.so ]
		left_behind
		echo complete'
	echo "$output"
	[ "${lines[0]}" = "Enabled: programs that start from now on load /var/lib/shared/libsoftmig.so." ]
	[ "${lines[1]}" = /var/lib/shared/libsoftmig.so ]
	[ "${lines[2]}" = complete ]
}
