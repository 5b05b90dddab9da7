#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154,SC2314 # the single-quoted scripts are for the shell under test
# Programs of every day behave with the library in /etc/ld.so.preload as they do without it.
load lib

@test "the library is in every process with the entry, and in none without" {
  run "$PROGRAMS/probe" loaded
  [ "$status" -eq 1 ]
  enable_library
  run "$PROGRAMS/probe" loaded
  [ "$status" -eq 0 ]
}

@test "a process finds itself the same: descriptors, threads, signals, umask, limits, errno, variables" {
  same "$PROGRAMS/probe" 7
  grep -q '^Threads:.*1$' "$BATS_TEST_TMPDIR/on.out"
  same "umask 027; trap '' USR1 HUP; exec 5</etc/passwd; exec $PROGRAMS/probe" 7
  grep -q 'signal 10: ignored' "$BATS_TEST_TMPDIR/on.out"
  grep -q 'Umask:.*0027' "$BATS_TEST_TMPDIR/on.out"
}

@test "bash: pipes, job control, traps, arrays, here-documents" {
  same 'set -e; a=(3 1 2); printf "%s\n" "${a[@]}" | sort | tr "\n" " "; (sleep 0.05; exit 3) & wait $! || echo "child $?"
        trap "echo trapped" USR1; kill -USR1 $$; cat <<<"here"; diff <(seq 3) <(seq 4) || true; exit 9' 9
}

@test "coreutils, findutils, grep, sed, awk, tar, gzip" {
  same 'set -e; d=$(mktemp -d); cd $d; seq 1000 | shuf --random-source=/etc/passwd >a; sort -n a | md5sum; ls -1 /etc/ssl | wc -l
        cp a b; ln -s a c; stat -c "%a %F" a c; tar cf - a b c | tar tf -; gzip -n <a | gunzip | cmp - a; dd if=/dev/zero bs=1k count=9 status=none | sha256sum
        awk "{s+=\$1} END {print s}" a; sed -n 5p a; find . -type f | sort; du --apparent-size -b a; id; env -i /usr/bin/env; timeout 0.1 sleep 5 || echo $?; nproc; rm -r $d; ls /does-not-exist' 2
}

@test "python: threads, subprocesses, ctypes, json" {
  needs python3
  same 'python3 -c "
import ctypes, json, subprocess, sys, threading, os, errno
out = []
ts = [threading.Thread(target=lambda i=i: out.append(i)) for i in range(8)]
[t.start() for t in ts]; [t.join() for t in ts]
print(sorted(out), threading.active_count(), len(os.listdir(\"/proc/self/fd\")))
libc = ctypes.CDLL(None, use_errno=True)
print(libc.close(-1), errno.errorcode[ctypes.get_errno()], ctypes.CDLL(\"libm.so.6\").abs(-4))
print(subprocess.run([\"sh\", \"-c\", \"echo child; exit 4\"], capture_output=True))
try: ctypes.CDLL(None).cuda_function_of_nobody
except AttributeError as e: print(str(e))
print(json.dumps({\"k\": [1, 2.5]})); sys.exit(3)"' 3
}

@test "perl" {
  needs perl
  same 'perl -e "fork or exit 3; wait; print \$? >> 8, \"\n\"; print join(\",\", sort { \$a <=> \$b } (3, 20, 1)), \"\n\"; exit 5"' 5
}

@test "node" {
  needs node
  same "node -e \"const w = require('worker_threads'); console.log(process.argv.length, require('child_process').execSync('echo child').toString()); process.exitCode = 6\"" 6
}

@test "java" {
  needs java javac
  echo 'class Hello { public static void main(String[] a) throws Exception { Thread t = new Thread(() -> System.out.println("thread")); t.start(); t.join(); System.exit(8); } }' >Hello.java
  javac -d . Hello.java
  same "java -Xshare:auto -cp $PWD Hello" 8
}

# What a program gives to its children says what it has become itself: descriptors left open, signals ignored or blocked, umask, limits,
# variables, and that nothing was printed on the way.
@test "what programs hand on to their children: descriptors, signals, umask, limits, variables" {
  cp "$PROGRAMS/probe" /mnt/tmp/p
  echo 'all: ; @/mnt/tmp/p || true' >makefile
  mkdir -p from to
  echo x >from/f
  local ways=(
    'sh -c "trap \"\" USR1; /mnt/tmp/p; exit \$?"' 'bash -c "umask 077; exec 7</etc/passwd; /mnt/tmp/p; exit \$?"' 'env -u HOME /mnt/tmp/p'
    'timeout 20 /mnt/tmp/p' 'nice -n 3 /mnt/tmp/p' 'nohup /mnt/tmp/p' 'setsid -w /mnt/tmp/p' 'echo | xargs /mnt/tmp/p; exit 7' 'find /mnt/tmp/p -exec {} ";" -quit; exit 7'
  )
  local more=(
    'perl|perl -e "exit(system(\"/mnt/tmp/p\") >> 8)"' 'python3|python3 -c "import subprocess, sys; sys.exit(subprocess.run([\"/mnt/tmp/p\"]).returncode)"'
    'node|node -e "process.exitCode = require(\"child_process\").spawnSync(\"/mnt/tmp/p\", {stdio: \"inherit\"}).status"'
    'git|git -c alias.look="!/mnt/tmp/p" look' 'make|make -s; exit 7' 'su|su -s /bin/sh nobody -c /mnt/tmp/p' 'sudo|sudo -n /mnt/tmp/p | grep -v "^SUDO_"; exit 7'
    'strace|strace -o /dev/null /mnt/tmp/p' 'tar|tar cf - from | tar xf - -C to --to-command="/mnt/tmp/p | grep -v ^TAR_"; exit 7'
    'rsync|printf "#!/bin/sh\n/mnt/tmp/p >/mnt/tmp/seen\nshift; exec \"\$@\"\n" >rsh; chmod 755 rsh; rsync -a -e ./rsh from/ here:/mnt/tmp/to/; cat seen; exit 7'
  )
  local way count=0
  for way in "${more[@]}"; do
    if command -v "${way%%|*}" >/dev/null; then ways+=("${way#*|}"); fi
  done
  for way in "${ways[@]}"; do
    same "$way" 7
    grep -q '^Threads:' "$BATS_TEST_TMPDIR/on.out"
    grep -q '^descriptor' "$BATS_TEST_TMPDIR/on.out"
    count=$((count + 1))
  done
  [ "$count" -ge 14 ]
}

# About a process that runs: threads, signals pending, blocked, ignored and caught, umask, privileges, and which descriptors it has.
look_at='grep -E "^(Umask|Threads|Sig[PBIC]|ShdPnd|NoNewPrivs|Seccomp|Uid|Gid|Cap)" /proc/$pid/status; for fd in /proc/$pid/fd/*; do echo "${fd##*/} $(readlink $fd | sed "s/[0-9][0-9]*/N/g")"; done'

@test "what daemons and interpreters are while they run: threads, signals, umask, privileges, descriptors" {
  mkdir -p keys
  mkfifo rest # nothing ever comes: what reads it sleeps
  [ -e keys/host ] || ! command -v ssh-keygen >/dev/null || ssh-keygen -q -t ed25519 -N '' -f keys/host
  printf '%s\n' 'Port 2298' 'ListenAddress 127.0.0.1' "HostKey $PWD/keys/host" 'PidFile none' 'LogLevel ERROR' >keys/sshd_waiting
  echo 'class Wait { public static void main(String[] a) throws Exception { System.out.println("ready"); Thread.sleep(60000); } }' >Wait.java
  ! command -v javac >/dev/null || javac -d . Wait.java
  local lives=(
    'sleep|sleep 60' 'bash|bash -c "trap : USR1; echo ready; read -t 60 <>rest"' 'perl|perl -e "\$SIG{HUP} = sub {}; sleep 60"'
    'python3|python3 -c "import threading, time; [threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(3)]; time.sleep(60)"'
    'node|node -e "setTimeout(() => {}, 60000)"' 'java|java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:CICompilerCount=1 -Xint -cp . Wait'
    'sshd|/usr/sbin/sshd -D -f keys/sshd_waiting' 'cron|cron -f'
  )
  local life count=0
  for life in "${lives[@]}"; do
    command -v "${life%%|*}" >/dev/null || continue
    # it rests when four looks in a row are the same
    same "rm -f /run/crond.pid; ${life#*|} >/dev/null 2>&1 & pid=\$!; before= alike=0; for try in \$(seq 100); do sleep 0.15; now=\$($look_at)
      if [ \"\$now\" = \"\$before\" ]; then alike=\$((alike + 1)); else alike=0; fi; [ \$alike -lt 3 ] || break; before=\$now; done
      echo \"\$now\"; kill \$pid; wait \$pid 2>/dev/null; true"
    grep -q '^Threads:' "$BATS_TEST_TMPDIR/on.out"
    grep -q '^0 ' "$BATS_TEST_TMPDIR/on.out"
    count=$((count + 1))
  done
  [ "$count" -ge 5 ]
}

@test "git: a repository, commits, a clone" {
  needs git
  same 'set -e; d=$(mktemp -d); cd $d; export GIT_AUTHOR_DATE="2026-01-01T00:00:00Z" GIT_COMMITTER_DATE="2026-01-01T00:00:00Z" GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
        git init -q -b main r; cd r; seq 100 >f; git add f; git commit -qm one; seq 200 >f; git commit -qam two; git log --stat --format=%H; cd ..; git clone -q r c; git -C c diff HEAD~1 | md5sum; rm -r $d'
}

@test "a compiler and what it builds" {
  needs gcc
  same 'set -e; d=$(mktemp -d); cd $d; printf "#include <stdio.h>\nint main(void){return puts(\"built\") < 0;}\n" >a.c; gcc -O2 a.c -o a; ./a; rm -r $d'
}

@test "rsync" {
  needs rsync
  same 'set -e; d=$(mktemp -d); cd $d; mkdir a; seq 100 >a/f; ln -s f a/l; rsync -a --out-format="%n" a/ b/; rsync -a --out-format="%n" a/ b/; diff -r a b; rm -r $d'
}

@test "ssh: a login on the loopback, its output and exit status" {
  needs ssh sshd ssh-keygen
  mkdir -p keys
  [ -e keys/host ] || ssh-keygen -q -t ed25519 -N '' -f keys/host
  [ -e keys/user ] || ssh-keygen -q -t ed25519 -N '' -f keys/user
  cp keys/user.pub keys/authorized
  chmod 600 keys/authorized
  printf '%s\n' 'Port 2297' 'ListenAddress 127.0.0.1' "HostKey $PWD/keys/host" "AuthorizedKeysFile $PWD/keys/authorized" 'StrictModes no' 'UsePAM yes' \
    'PermitRootLogin yes' 'PasswordAuthentication no' "PidFile none" 'LogLevel ERROR' >keys/sshd_config
  printf 'Host here\n HostName 127.0.0.1\n Port 2297\n User root\n IdentityFile %s\n IdentitiesOnly yes\n StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n' "$PWD/keys/user" >keys/ssh_config
  # each login starts its own daemon, in the same world, for one connection
  same "/usr/sbin/sshd -D -f $PWD/keys/sshd_config & server=\$!; for try in \$(seq 80); do sleep 0.1; ssh -F $PWD/keys/ssh_config here 'echo logged in; id -un; $PROGRAMS/probe | grep -E \"descriptor|signal|Umask|Threads\"; exit 5' && break; s=\$?; [ \$s = 255 ] || break; done; kill \$server; exit \$s" 5
  grep -q 'logged in' "$BATS_TEST_TMPDIR/on.out"
}

@test "sudo and su" {
  needs sudo su
  echo 'nobody ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/harmless
  chmod 440 /etc/sudoers.d/harmless
  same 'su -s /bin/sh nobody -c "id -un; exit 4"' 4
  same 'su -s /bin/sh nobody -c "sudo -n id -u; sudo -n sh -c \"exit 6\""' 6
  same 'sudo -n -u nobody id -un'
}

@test "cron runs a job" {
  needs cron
  same 'rm -f /run/crond.reboot /run/crond.pid /mnt/tmp/ran; echo "@reboot root (id -un; umask; '"$PROGRAMS"'/probe | grep -E \"descriptor|signal|Threads\") >/mnt/tmp/ran 2>&1" >/etc/cron.d/harmless
        cron -f & daemon=$!; for try in $(seq 300); do sleep 0.1; grep -qs Threads /mnt/tmp/ran && break; done; kill $daemon; rm /etc/cron.d/harmless; cat /mnt/tmp/ran'
}

@test "a daemon in systemd's style: a socket handed over, readiness told, double fork" {
  needs python3
  same 'python3 - <<"END"
import os, socket, subprocess
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); notify.bind("\0harmless-notify"); notify.settimeout(10)
listening = socket.socket(); listening.bind(("127.0.0.1", 0)); listening.listen(1)
def hand_over():
    os.dup2(listening.fileno(), 3, inheritable=True)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), NOTIFY_SOCKET="@harmless-notify")
    os.execvp("python3", ["python3", "-c", """
import os, socket
s = socket.socket(fileno=3)
n = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); n.connect(chr(0) + os.environ["NOTIFY_SOCKET"][1:])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        n.send(b"READY=1")
        c, _ = s.accept(); c.send(b"served by a daemon"); os._exit(0)
    os._exit(0)
os.wait()
"""])
if os.fork() == 0:
    hand_over()
print(notify.recv(100))
c = socket.create_connection(listening.getsockname()); print(c.recv(100)); os.wait()
END'
}
