# SPDX-License-Identifier: Apache-2.0
# A node to break: this machine's whole file system as it is, every change kept in memory and gone with the last process.
# For bats files: load node; on_a_node COMMAND...

# on_a_node COMMAND...: runs it as root in namespaces of its own (mounts, pids), with / an overlay of this machine's. The
# build, the sources and $work are what they are outside, /run and /tmp are empty, /proc is right. What has been changed of /
# is in /tmp/changes, where a character device stands for what was removed.
# shellcheck disable=SC2016
on_a_node() {
	unshare --mount --pid --fork --kill-child bash -c '
		set -euo pipefail
		node=$1
		shift
		mount -t tmpfs -o mode=0755 none "$node"
		mkdir "$node/changes" "$node/work" "$node/root"
		root=$node/root
		mount -t overlay -o "lowerdir=/,upperdir=$node/changes,workdir=$node/work" none "$root"
		mount -t proc none "$root/proc"
		mount --rbind /dev "$root/dev"
		mount -t tmpfs -o mode=0755 none "$root/run"
		mount -t tmpfs -o mode=1777 none "$root/tmp"
		for path in "$BUILD" "$SOURCE" "$work"; do
			mkdir -p "$root$path"
			mount --bind "$path" "$root$path"
		done
		mkdir "$root/tmp/changes" "$root/tmp/before"
		mount --bind "$node/changes" "$root/tmp/changes"
		mount --bind -o ro / "$root/tmp/before"
		rm -rf "$root/etc/softmig" "$root/var/log/softmig" "$root/var/lib/shared" "$root/etc/ld.so.preload" # a fresh node has none
		sed -i /man-db/d "$root/var/lib/dpkg/triggers/File" 2>/dev/null || : # or dpkg indexes all manual pages again each time
		cd /
		exec chroot "$root" "$@"' on_a_node "$node" "$@"
}

# node_setup: makes $work, unless the test has one, and the place for nodes, or skips the test where there is no way to have one.
node_setup() {
	[ -d "${work:-}" ] || work=$(mktemp -d /tmp/softmig-node.XXXXXX)
	node=$work/node
	export work
	mkdir "$node"
	unset LD_PRELOAD "${!SLURM_@}" "${!CUDA_DEVICE_@}" "${!SOFTMIG_@}"
	[ "$(id -u)" -eq 0 ] || skip "needs root for namespaces"
	on_a_node /bin/true 2>/dev/null || skip "needs mount namespaces and overlayfs"
}

node_teardown() {
	rm -rf "$work"
}

# library NAME 'C TEXT': compiles $work/NAME.so
library() {
	printf '%s\n' "$2" | gcc -shared -fPIC -x c - -o "$work/$1.so"
}

# The three libraries that the tests install: one that harms nothing, another version of it, one that talks.
library_set() {
	library good 'int softmig_stand_in = 1;'
	library newer 'int softmig_stand_in = 2;'
	library noisy '#include <unistd.h>
		__attribute__((constructor)) static void talk(void) { if (write(2, "hello\n", 6) < 0) _exit(1); }'
	library deadly '#include <stdlib.h>
		__attribute__((constructor)) static void die(void) { abort(); }'
	library unwell '#include <unistd.h>
		__attribute__((constructor)) static void nobody_only(void) { if (getuid() != 0) _exit(3); }'
	echo "not a library" >"$work/text.so"
}

# left_behind: on a node, the files that are not as on this machine, the package managers' own books apart.
left_behind() {
	(cd /tmp/changes && find . \( -path ./var/lib/dpkg -o -path ./var/lib/rpm -o -path ./usr/lib/sysimage -o -path ./var/cache \
		-o -path ./var/log/dpkg.log -o -path ./tmp -o -path ./run -o -path ./proc -o -path ./dev -o -path ./var/lib/systemd -o -path ./root/.rpmdb \) -prune \
		-o ! -type d -print -o -type d -empty -print) | while read -r path; do
		case $BUILD/$SOURCE/$work/ in */"${path#./}"/*) continue ;; esac # where these are mounted
		if [ ! -e "/$path" ] && [[ $path =~ ^./(etc/softmig|var/log/softmig|var/lib/shared|etc/ld.so.preload)$ ]]; then continue; fi
		if [ -d "/tmp/changes/$path" ] && [ -d "/tmp/before/$path" ]; then continue; fi
		cmp -s "/tmp/changes/$path" "/tmp/before/$path" 2>/dev/null || echo "$path"
	done
}
export -f left_behind
