#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The library is replaced under a busy node: nobody dies, nobody runs without.
load lib

node=/mnt/node # where the library lives; /etc, /run and /var/log are this namespace's own

softmig() { "$BUILD/softmig" "$@"; }

another_version() { # another_version N: the library with another note in it, so another file
  echo "version $1" >note
  objcopy --add-section .note.harmless=note "$BUILD/libsoftmig.so" "version$1.so"
}

@test "1,000 processes running and starting while softmig update replaces it ten times: none dies, none runs without" {
  needs objcopy
  another_version 1
  another_version 2
  mkdir -m 755 $node
  softmig install --directory $node --library version2.so
  softmig enable --directory $node
  grep -q "$node/libsoftmig.so" /etc/ld.so.preload

  touch running
  local pids=() pid n
  for n in $(seq 200); do
    "$PROGRAMS/probe" hold "$PWD/running" &
    pids+=($!)
  done
  # shellcheck disable=SC2086
  seq 800 | xargs -P 3 -I{} sh -c "echo {} >>started; $PROGRAMS/probe loaded || echo {} >>lost" &
  local starter=$! begun=0
  touch started
  for n in 1 2 1 2 1 2 1 2 1 2; do
    while [ "$(wc -l <started)" -lt $begun ]; do sleep 0.01; done # spread over all the starts
    begun=$((begun + 80))
    softmig update --directory $node --library "version$n.so"
    cmp "version$n.so" $node/libsoftmig.so
  done
  wait $starter
  rm running
  [ "$(wc -l <started)" -eq 800 ]
  local died=0
  for pid in "${pids[@]}"; do wait "$pid" || died=$((died + 1)); done
  [ "$died" -eq 0 ]
  [ ! -e lost ] # one line for each process that failed to start or ran without the library
}

@test "replaced by a file that harms: refused, the old one stays and nobody notices" {
  mkdir -m 755 $node
  softmig install --directory $node
  softmig enable --directory $node
  echo 'garbage' >bad.so
  run softmig update --directory $node --library bad.so
  [ "$status" -eq 1 ]
  cmp "$BUILD/libsoftmig.so" $node/libsoftmig.so
  run "$PROGRAMS/probe" loaded
  [ "$status" -eq 0 ]
  [ -z "$output" ]
}

@test "switched off, the node is as before" {
  cp -a /etc before
  mkdir -m 755 $node
  softmig install --directory $node
  softmig enable --directory $node
  softmig disable --directory $node
  softmig uninstall --directory $node
  diff -r --no-dereference before /etc
  [ ! -e $node/libsoftmig.so ]
}

teardown() {
  rm -f running
  disable_library
  rm -rf $node ./*.so lost started before
}
