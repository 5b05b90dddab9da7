#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Roots of other releases, older and newer: the same library loads there, finds that libc's dlsym (up to 2.33 it lives in
# libdl), and changes nothing. What is older than Debian's packages provide is held by the gate on symbol versions
# (silent.bats). The packages come from Debian's mirror, kept in the build tree; without network these tests are skipped.
load lib

# root_of SUITE: $root, a root of that release with its libc, busybox and perl
root_of() {
  local cache=$BUILD/tests/harmless/debian-$1 package apt
  root=/mnt/tmp/$1
  needs apt-get dpkg-deb
  mkdir -p "$cache/lists/partial" "$cache/archives/partial"
  cd "$cache" || return
  if [ ! -e complete ]; then
    echo "deb http://deb.debian.org/debian $1 main" >sources.list
    apt=(timeout 40 apt-get -qq "-oDir::Etc::SourceList=$PWD/sources.list" -oDir::Etc::SourceParts=/dev/null "-oDir::State::Lists=$PWD/lists"
      "-oDir::Cache=$PWD" -oDir::State::status=/dev/null -oAcquire::Languages=none -oAcquire::Retries=0 -oAPT::Sandbox::User=root)
    "${apt[@]}" update && "${apt[@]}" download libc6 libcrypt1 busybox perl-base || skip "Debian's mirror gives no packages of $1 now"
    rm -rf lists archives
    touch complete
  fi
  mkdir -p "$root/mnt/lib" "$root/etc" "$root/dev" "$root/tmp"
  for package in *.deb; do dpkg-deb --fsys-tarfile "$package" | tar -C "$root" -xf - --exclude=./usr/share --keep-directory-symlink; done
  cp "$LIBRARY" "$root/mnt/lib/"
  local directory
  for directory in lib lib64 bin; do # merged into /usr from Debian 12 on
    [ -e "$root/$directory" ] || [ ! -e "$root/usr/$directory" ] || ln -s "usr/$directory" "$root/$directory"
  done
  cd /mnt/tmp || return
}

check_root() {
  local loader busybox
  busybox=$(cd "$root" && ls usr/bin/busybox bin/busybox 2>/dev/null | head -1)
  loader=$(cd "$root" && ls lib64/ld-linux-x86-64.so.2 usr/lib64/ld-linux-x86-64.so.2 lib/ld-linux-aarch64.so.1 2>/dev/null | head -1)
  [ -n "$busybox" ] && [ -n "$loader" ]
  cat >"$root/tmp/life.pl" <<'END'
require DynaLoader;
my $libc = DynaLoader::dl_load_file("libc.so.6") or die "libc: " . DynaLoader::dl_error();
print DynaLoader::dl_find_symbol($libc, "getpid") ? "found\n" : "lost\n";
print DynaLoader::dl_find_symbol($libc, "cuInit", 1) ? "found\n" : "absent: " . DynaLoader::dl_error() . "\n";
open(my $maps, "<", "/proc/self/maps") or die "maps";
my $mapped = 0;
while (<$maps>) { $mapped = 1 if /libsoftmig/ }
print "mapped: $mapped\n";
if (fork() == 0) { exit 4 } wait; print $? >> 8, "\n";
exit 5;
END
  mkdir -p "$root/proc"
  mount -t proc proc "$root/proc"
  rm -f "$root/etc/ld.so.preload"
  chroot "$root" "/$busybox" sh -c 'echo shell; exit 3' >without 2>&1 || [ $? -eq 3 ]
  LC_ALL=C chroot "$root" /usr/bin/perl -I/nowhere /tmp/life.pl >>without 2>&1 || [ $? -eq 5 ]
  echo /mnt/lib/libsoftmig.so >"$root/etc/ld.so.preload"
  chroot "$root" "/$busybox" sh -c 'echo shell; exit 3' >with 2>&1 || [ $? -eq 3 ]
  LC_ALL=C chroot "$root" /usr/bin/perl -I/nowhere /tmp/life.pl >>with 2>&1 || [ $? -eq 5 ]
  umount "$root/proc"
  cat with
  grep -q 'mapped: 1' with
  grep -q '^found$' with
  diff <(sed 's/mapped: 1/mapped: 0/' with) without
}

@test "Debian 11: glibc 2.31, where dlsym lives in libdl" {
  root_of bullseye
  check_root
}

@test "Debian 13: glibc 2.41" {
  root_of trixie
  check_root
}
