#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2154 # status and output are of bats
# The same on aarch64, built by Debian's cross compiler and run under qemu-user: lookups, unit tests, a slice on the simulated driver.
# What binary.bats says of the library as a file, it says of this one too. Two things are not shown here: the emulated processor orders
# memory as this one does, and a process does not see the start of another one as that one does, so tests of several processes stay native.

setup_file() {
  export ARM=$BATS_FILE_TMPDIR/arm SOFTMIG_AARCH64=$BATS_FILE_TMPDIR/arm
  command -v aarch64-linux-gnu-gcc >/dev/null || skip "no gcc-aarch64-linux-gnu here"
  command -v qemu-aarch64 >/dev/null || skip "no qemu-user here"
  [ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] || skip "no libc6-dev-arm64-cross here"
  local options=() program
  if arm64_cmocka; then
    export PKG_CONFIG_SYSROOT_DIR=$CMOCKA PKG_CONFIG_LIBDIR=$CMOCKA/usr/lib/aarch64-linux-gnu/pkgconfig
    options=(-DSOFTMIG_TESTS=ON)
  fi
  cmake -S "$SOURCE" -B "$ARM" -DCMAKE_TOOLCHAIN_FILE="$SOURCE/packaging/aarch64-linux-gnu.cmake" -DSOFTMIG_WERROR=ON \
    -DCMAKE_BUILD_TYPE=Release "${options[@]}" >"$BATS_FILE_TMPDIR/configure" || { cat "$BATS_FILE_TMPDIR/configure"; return 1; }
  local targets=(softmig_preload softmig sim_cuda sim_nvml sim-smi)
  [ ${#options[@]} -eq 0 ] || targets+=(unit_tests)
  for program in "$SOURCE"/tests/system/programs/*.c; do
    program=${program##*/}
    targets+=("program_${program%.c}")
  done
  cmake --build "$ARM" -j 2 --target "${targets[@]}" >"$BATS_FILE_TMPDIR/built" 2>&1 || { cat "$BATS_FILE_TMPDIR/built"; return 1; }
  # A build folder whose programs of tests/system are emulated.
  export EMULATED=$BATS_FILE_TMPDIR/emulated
  mkdir -p "$EMULATED/programs"
  ln -s "$ARM/sim" "$ARM/libsoftmig.so" "$EMULATED/"
  for program in "$ARM"/programs/*; do
    gcc -O1 -static -o "$EMULATED/programs/${program##*/}" "$SOURCE/tests/system/programs/aarch64/emulated.c"
  done
}

# cmocka of arm64 from Debian's mirror into $CMOCKA, kept in the build folder. False: the mirror does not give it.
arm64_cmocka() {
  local release apt
  export CMOCKA=$BUILD/tests/system/arm64-cmocka
  [ ! -e "$CMOCKA/complete" ] || return 0
  release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null && [ -n "$release" ] || return 1
  mkdir -p "$CMOCKA/lists/partial" "$CMOCKA/archives/partial"
  : >"$CMOCKA/status"
  echo "deb http://deb.debian.org/debian $release main" >"$CMOCKA/sources.list"
  apt=(timeout 40 apt-get -qq -oAPT::Architecture=arm64 -oAPT::Architectures=arm64 "-oDir::Etc::SourceList=$CMOCKA/sources.list"
    -oDir::Etc::SourceParts=/dev/null "-oDir::State::Lists=$CMOCKA/lists" "-oDir::Cache=$CMOCKA" "-oDir::State::status=$CMOCKA/status"
    -oAcquire::Languages=none -oAcquire::Retries=0 -oAPT::Sandbox::User=root)
  (cd "$CMOCKA" && "${apt[@]}" update && "${apt[@]}" download libcmocka0 libcmocka-dev &&
    for package in *.deb; do dpkg-deb -x "$package" .; done) >"$BATS_FILE_TMPDIR/cmocka" 2>&1 || return 1
  rm -rf "$CMOCKA/lists" "$CMOCKA/archives"
  touch "$CMOCKA/complete"
}

emulate() { timeout 60 qemu-aarch64 -L /usr/aarch64-linux-gnu "$@"; }

@test "callers in several libraries find with the library what they find without" {
  load lookup
  lookup_build aarch64-linux-gnu-gcc "$BATS_TEST_TMPDIR"
  lookup_judge emulate "$BATS_TEST_TMPDIR/lookup" "$BATS_TEST_TMPDIR/liblocal.so"
  lookup_judge emulate -E LD_PRELOAD="$ARM/libsoftmig.so" "$BATS_TEST_TMPDIR/lookup" "$BATS_TEST_TMPDIR/liblocal.so"
}

@test "the command runs" {
  run emulate "$ARM/softmig" --version
  [ "$status" -eq 0 ]
  [[ "$output" == *"$(sed -n 's/^project(softmig VERSION \([0-9.]*\).*/\1/p' "$SOURCE/CMakeLists.txt")"* ]]
}

# What qemu-user 7 does not have: pages wiped at fork, the names and start times of other processes, setuid. These fail for that reason alone:
beyond_the_emulator='a_forked_child_starts_with_nothing_and_its_threads_agree a_forked_child_starts_with_nothing a_setuid_program_obeys_no_variable
  test_a_process_is_told_with_its_name_and_its_overhead cover_in_use_counts_as_used_for_whoever_waits_long'

@test "the unit tests of one process pass" {
  [ -e "$CMOCKA/complete" ] || skip "Debian's mirror gives no cmocka of arm64 now"
  local test name failed count=0
  for test in "$ARM"/tests/unit/test_*; do
    [ -x "$test" ] && [ -f "$test" ] || continue
    name=${test##*/}
    case $name in test_ledger_hammer | test_ledger_heirs | test_ledger_processes | test_ledger_steps) continue ;; esac
    emulate -E LD_LIBRARY_PATH="$CMOCKA/usr/lib/aarch64-linux-gnu" "$test" >"$BATS_TEST_TMPDIR/said" 2>&1 3>&- || true
    grep -q '^\[==========\] [1-9][0-9]* test(s) run\.' "$BATS_TEST_TMPDIR/said" || { cat "$BATS_TEST_TMPDIR/said"; return 1; }
    failed=$(sed -n 's/^\[  FAILED  \] \([a-z_]*\)$/\1/p' "$BATS_TEST_TMPDIR/said" | sort -u | grep -vxF "$(tr -s ' \n' '\n' <<<"$beyond_the_emulator")" || true)
    [ -z "$failed" ] || { cat "$BATS_TEST_TMPDIR/said"; return 1; }
    count=$((count + 1))
  done
  [ "$count" -eq $(($(find "$SOURCE/tests/unit" -name 'test_*.c' | wc -l) - 4)) ]
}

@test "a slice holds: memory, virtual memory, pools, arrays, graphs, contexts" {
  local suite
  export SOFTMIG_SIM_POOL_ROOM=2G # or each pool costs the emulator hundreds of megabytes
  for suite in vmm pool array graph_memory context; do
    BUILD=$EMULATED bats "$SOURCE/tests/system/$suite.bats"
  done
  BUILD=$EMULATED bats -f 'charged|refusal|unknown pointers|given back to the GPU|threads|forked' "$SOURCE/tests/system/memory.bats"
}
