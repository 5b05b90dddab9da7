#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154,SC2314 # the single-quoted scripts are for the shell under test
# A process that never touches the driver: once the loader is done, the library does nothing at all.
load lib

setup() { needs strace; }

trace() { # trace NAME COMMAND...: the system calls, one a line, in NAME
  strace -f -o "$1" "${@:2}" >/dev/null
}

after_mark() { sed -n '/write(1, "mark/,$p' "$1" | sed 's/^[0-9]* *//'; }

before_mark() { sed '/write(1, "mark/,$d' "$1" | sed 's/^[0-9]* *//; s/(.*//'; }

calls_of() { sed -n 's/^[0-9]* *\([a-z0-9_]*\)(.*/\1/p' "$1" | sort | uniq -c; }

@test "after loading: no call that would not be there without" {
  trace off.trace "$PROGRAMS/probe" quiet
  enable_library
  trace on.trace "$PROGRAMS/probe" quiet
  disable_library
  grep -q libsoftmig on.trace
  diff <(after_mark off.trace) <(after_mark on.trace)
}

@test "while loading: only the loader's own calls to map one library" {
  trace off.trace "$PROGRAMS/probe" quiet
  enable_library
  trace on.trace "$PROGRAMS/probe" quiet
  disable_library
  run diff <(before_mark off.trace | sort) <(before_mark on.trace | sort)
  more=$(grep -c '^>' <<<"$output" || true)
  odd=$(grep '^>' <<<"$output" | grep -vE '^> (open|openat|read|pread64|fstat|newfstatat|stat|mmap|munmap|mprotect|close|access|faccessat|brk)$' || true)
  echo "$more more: $output"
  [ -z "$odd" ]
  [ "$more" -le 20 ]
}

@test "no thread, no signal handler, no descriptor, no fork of ours in a longer life" {
  cat >life.py <<'END'
import ctypes, os, subprocess, threading
libc = ctypes.CDLL(None)
for name in ("cuInit_", "curl_easy_init", "nvml_of_nobody"):
    try:
        getattr(libc, name)
    except AttributeError:
        pass
t = threading.Thread(target=lambda: None); t.start(); t.join()
subprocess.run(["true"])
END
  local calls='trace=clone,clone3,fork,vfork,rt_sigaction,socket,pipe2,eventfd2,timer_create,inotify_init1,userfaultfd,memfd_create'
  strace -f -o off.trace -e "$calls" python3 -S life.py
  enable_library
  strace -f -o on.trace -e "$calls" python3 -S life.py
  disable_library
  diff <(calls_of off.trace) <(calls_of on.trace)
}

@test "it needs libc alone, and nothing newer than GLIBC_2.17" {
  needs readelf
  run bash -c "readelf -dW '$LIBRARY' | grep NEEDED | grep -v 'libc.so.6'"
  [ -z "$output" ]
  run bash -c "readelf -VW '$LIBRARY' | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1"
  [ "$(printf '%s\nGLIBC_2.17\n' "$output" | sort -V | tail -1)" = GLIBC_2.17 ]
}

@test "it has no constructor, no destructor of its own and no writable and executable page" {
  needs readelf objdump
  run bash -c "readelf -lW '$LIBRARY' | grep -E 'GNU_STACK|LOAD' | grep -E 'RWE'"
  [ -z "$output" ]
  # crtstuff's frame_dummy and __do_global_dtors_aux are the compiler's, one each
  run bash -c "readelf -SW '$LIBRARY' | grep -E '\.(init|fini)_array' | awk '{for(i=1;i<=NF;i++) if (\$i ~ /array\$/) print \$(i+4)}' | grep -v '^000008\$'"
  [ -z "$output" ]
}
