#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# dlsym stays dlsym: what RTLD_NEXT, RTLD_DEFAULT and dlvsym find depends on the library that asks, and it is never taken to be ours.
load lookup

setup_file() { lookup_build gcc "$BATS_FILE_TMPDIR"; }

@test "callers find the same without the library" {
  lookup_judge "$BATS_FILE_TMPDIR/lookup" "$BATS_FILE_TMPDIR/liblocal.so"
}

@test "callers in several libraries find with it what they find without" {
  lookup_judge env LD_PRELOAD="$BUILD/libsoftmig.so" "$BATS_FILE_TMPDIR/lookup" "$BATS_FILE_TMPDIR/liblocal.so"
}
