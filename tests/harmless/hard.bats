#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154,SC2314 # the single-quoted scripts are for the shell under test
# Odd programs and hard circumstances: as without the library.
load lib

build() { # build NAME FLAGS... <<<source
  cat >"$1.c"
  gcc -O1 -o "$1" "$1.c" "${@:2}"
}

@test "closed standard descriptors" {
  same "$PROGRAMS/probe >&- ; exit \$?" 7
  same "exec 0<&- 2>&-; $PROGRAMS/probe" 7
  same "exec 0<&- 1>&- 2>&-; $PROGRAMS/probe" 7
}

@test "limits of address space, descriptors, stack and processes" {
  same "ulimit -v 40000; $PROGRAMS/probe | grep -v '^limit 9'; ls / >/dev/null && echo listed"
  same "ulimit -n 4; exec $PROGRAMS/probe" 7
  same "exec 0<&-; ulimit -n 3; exec $PROGRAMS/probe" 7 # with 0 to 2 open, the loader cannot even open libc
  same "ulimit -s 64; $PROGRAMS/probe" 7
  same "cp $PROGRAMS/probe /mnt/tmp/p; su -s /bin/bash nobody -c 'ulimit -u 1; exec /mnt/tmp/p' | grep -E 'descriptor|Threads'"
  same "ulimit -c 0; (ulimit -f 0; exec $PROGRAMS/probe) | tail -n 4"
}

@test "seccomp's strict mode" {
  same "$PROGRAMS/seccomp_strict" 5
  [ "$(cat "$BATS_TEST_TMPDIR/on.out")" = found ]
}

@test "a root without /proc" {
  mkdir -p root/lib64 root/lib/x86_64-linux-gnu root/bin root/etc root/mnt/lib
  ldd "$PROGRAMS/probe" /bin/ls /bin/sh | grep -o '/[^ ]*' | grep -v : | sort -u | while read -r file; do install -D "$(realpath "$file")" "root$file"; done
  cp "$PROGRAMS/probe" /bin/ls /bin/sh root/bin/
  cp "$LIBRARY" root/mnt/lib/
  echo "$LIBRARY" >root/etc/ld.so.preload
  chroot root /bin/probe >with 2>with.err || [ $? -eq 7 ]
  chroot root /bin/sh -c 'ls /; exit 3' >>with 2>>with.err || [ $? -eq 3 ]
  rm root/etc/ld.so.preload
  chroot root /bin/probe >without 2>without.err || [ $? -eq 7 ]
  chroot root /bin/sh -c 'ls /; exit 3' >>without 2>>without.err || [ $? -eq 3 ]
  diff without with
  diff without.err with.err
}

@test "a read-only root" {
  local readonly='unshare -m --propagation private sh -c'
  same "$readonly 'mount --rbind / /mnt/tmp/root && for m in /mnt/tmp/root /mnt/tmp/root/mnt /mnt/tmp/root/etc /mnt/tmp/root/run /mnt/tmp/root/tmp; do mount -o remount,ro,bind \$m 2>/dev/null; done
    chroot /mnt/tmp/root sh -c \"touch /x /mnt/x /run/x; $PROGRAMS/probe; python3 -c \\\"import os; print(os.access(chr(47), os.W_OK))\\\"; exit 7\"'" 7
  [ "$(grep -c 'Read-only file system' "$BATS_TEST_TMPDIR/on.err")" -eq 3 ]
  grep -q '^False' "$BATS_TEST_TMPDIR/on.out"
}

@test "a read-only folder and a full disk" {
  same "unshare -m --propagation private sh -c 'mount -o remount,ro,bind /mnt/tmp 2>/dev/null || mount --bind /mnt/tmp /mnt/tmp && mount -o remount,ro,bind /mnt/tmp; $PROGRAMS/probe; touch /mnt/tmp/x'" 1
  same "mkdir -p full; mount -t tmpfs -o size=4k full full; (yes | head -c 9000 >full/f) 2>&1; cd full; $PROGRAMS/probe | tail -n 3 >g; wc -c <g; cd ..; umount full"
}

@test "odd locales and an empty environment" {
  same "LC_ALL=tr_TR.UTF-8 LANG=xx_YY.latin1 $PROGRAMS/probe" 7
  same "env -i $PROGRAMS/probe" 7
  same "env -i 'SOFTMIG_LOG_LEVEL=4' 'CUDA_DEVICE_MEMORY_LIMIT=1G' 'SOFTMIG_LOG_FILE=/mnt/tmp/no-log' $PROGRAMS/probe" 7
  [ ! -e /mnt/tmp/no-log ] # nothing reached the driver, so nothing was read, opened or written
}

@test "static programs" {
  needs gcc
  build static_program -static <<<'#include <stdio.h>
int main(void){return printf("static\n") - 2;}'
  same ./static_program 5
  if command -v busybox >/dev/null; then same 'busybox sh -c "busybox ls / | busybox wc -l; exit 3"' 3; fi
}

@test "32-bit programs: with \$LIB in the entry and an empty library for them, as without" {
  needs gcc
  [ -e /lib/ld-linux.so.2 ] || [ -e /lib32/ld-linux.so.2 ] || skip "no 32-bit libc here"
  printf '.globl _start\n_start: movl $1, %%eax\n movl $5, %%ebx\n int $0x80\n' >tiny.s
  gcc -m32 -nostdlib -shared -o libempty.so -x c /dev/null || skip "this compiler knows no 32-bit code"
  gcc -m32 -nostdlib -o tiny tiny.s -Wl,--dynamic-linker=/lib/ld-linux.so.2 -Wl,--no-as-needed -L/lib32 -L/lib/i386-linux-gnu -l:libc.so.6 ||
    gcc -m32 -nostdlib -pie -o tiny tiny.s -Wl,--dynamic-linker=/lib/ld-linux.so.2
  run ./tiny
  [ "$status" -eq 5 ] || skip "32-bit programs do not run here"
  local directory
  for directory in lib/x86_64-linux-gnu lib64; do mkdir -p "/mnt/lib/$directory"; ln -sf "$LIBRARY" "/mnt/lib/$directory/libsoftmig.so"; done
  for directory in lib/i386-linux-gnu lib32 lib; do mkdir -p "/mnt/lib/$directory"; cp libempty.so "/mnt/lib/$directory/libsoftmig.so"; done
  enable_library '/mnt/lib/$LIB/libsoftmig.so'
  run ./tiny
  [ "$status" -eq 5 ]
  [ -z "$output" ]
  "$PROGRAMS/probe" loaded
}

@test "setuid programs" {
  cp "$PROGRAMS/probe" /mnt/bin/probe-setuid
  chmod 4755 /mnt/bin/probe-setuid
  same "su -s /bin/sh nobody -c '/mnt/bin/probe-setuid | grep -vE \"^limit|^SUDO\"'"
  grep -q '^Uid:.*65534.*0' "$BATS_TEST_TMPDIR/on.out"
}

@test "setcap programs" {
  needs setcap
  cp "$PROGRAMS/probe" /mnt/bin/probe-setcap
  setcap cap_net_raw+ep /mnt/bin/probe-setcap || skip "no file capabilities on this file system"
  same "su -s /bin/sh nobody -c '/mnt/bin/probe-setcap | grep -vE \"^limit|^SUDO\"'"
  grep -q '^CapEff:.*2000' "$BATS_TEST_TMPDIR/on.out"
}

@test "a program with functions of its own called dlsym and cuMemAlloc_v2" {
  same "$PROGRAMS/own_dlsym"
  grep -q 'asked 2, own 1, libc.s 1, cuMemAlloc 7' "$BATS_TEST_TMPDIR/on.out"
}

@test "LD_PRELOAD of another allocator" {
  local jemalloc
  jemalloc=$(ls /usr/lib/*/libjemalloc.so.2 2>/dev/null | head -1)
  [ -n "$jemalloc" ] || skip "no jemalloc here"
  same "LD_PRELOAD=$jemalloc $PROGRAMS/probe" 7
  same "LD_PRELOAD=$jemalloc python3 -c 'print(sum(len(str(i)) for i in range(99999)))'"
}

@test "LD_AUDIT" {
  same "LD_AUDIT=$PROGRAMS/audit.so $PROGRAMS/probe 2>&1 | grep -E 'bound|descriptor|Threads|absent'"
  grep -q 'bound getrlimit' "$BATS_TEST_TMPDIR/on.out"
  same "LD_BIND_NOW=1 $PROGRAMS/probe" 7
  same "LD_DEBUG=statistics $PROGRAMS/probe >/dev/null 2>&1" 7
}

@test "AddressSanitizer: static runtime as without; the shared one with its own option" {
  needs gcc
  local source='#include <stdlib.h>
#include <stdio.h>
int main(int c, char **v){ char *p = malloc(8); p[c * 8 - 1 + (c > 1)] = 1; printf("%d\n", p[7]); free(p); return c > 1 ? 0 : 3; (void)v; }'
  build asan_static -fsanitize=address -static-libasan <<<"$source" || skip "no AddressSanitizer here"
  same ./asan_static 3
  same "./asan_static more 2>&1 | grep -c heap-buffer-overflow"
  # The shared runtime insists on being the first library of the process, which no library in /etc/ld.so.preload can grant.
  build asan_shared -fsanitize=address <<<"$source"
  same "ASAN_OPTIONS=verify_asan_link_order=0 ./asan_shared" 3
  same "LD_PRELOAD=$(gcc -print-file-name=libasan.so) ./asan_shared" 3
}

@test "ThreadSanitizer and UndefinedBehaviorSanitizer" {
  needs gcc
  build tsan -fsanitize=thread -pthread <<<'#include <pthread.h>
#include <stdio.h>
static void *f(void *p){ return p; }
int main(void){ pthread_t t; pthread_create(&t, 0, f, 0); pthread_join(t, 0); puts("joined"); return 3; }' || skip "no ThreadSanitizer here"
  same "setarch -R ./tsan" 3
  build ubsan -fsanitize=undefined <<<'int main(int c, char **v){ (void)v; return (c << 1) + 1; }'
  same ./ubsan 3
}

@test "valgrind, gdb and strace see the program they see without" {
  needs valgrind gdb strace
  same "valgrind -q --error-exitcode=9 $PROGRAMS/own_dlsym"
  same "gdb -batch -nx -ex 'break getrlimit' -ex run -ex 'info threads' -ex kill $PROGRAMS/probe 2>&1 | grep -cE 'Breakpoint 1, |\\* 1 '"
  [ "$(cat "$BATS_TEST_TMPDIR/on.out")" = 2 ]
  same "strace -f -o /mnt/tmp/trace -e trace=clone,clone3,fork,vfork,rt_sigaction,kill $PROGRAMS/probe quiet; cat /mnt/tmp/trace | sed 's/^[0-9]* //'"
}
