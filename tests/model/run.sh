#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the models with spin: what must hold in every order of steps, and that each known mistake is found.
# run.sh MODEL [all] (all: also the configurations that take minutes and gigabytes)
# shellcheck disable=SC2034,SC2317 # extent and check are used by the sourced MODEL.checks
set -euo pipefail
model=$1
extent=${2:-quick}
source=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

check() { # check holds|fails NAME spin's -D options, "progress" among them for the fair liveness check
  local expected=$1 name=$2 verdict
  shift 2
  local options=() compile=(-DSAFETY -DNOCLAIM) run=()
  for option in "$@"; do
    options+=("-D$option")
    [ "$option" != PROGRESS ] || { compile=(-DNFAIR=3) run=(-a -f); }
  done
  local optimise=-O1 # -O2 takes twice as long to compile, and the model runs no faster
  [ "$expected" = holds ] || optimise=-O0 # a mistake is found at once
  (cd "$work" && rm -f pan* && spin -a "${options[@]}" "$source/$model.pml" >spin.log &&
    gcc "$optimise" -w -DVECTORSZ=2048 -DCOLLAPSE -DMEMLIM=6000 "${compile[@]}" -o pan pan.c &&
    ./pan -m1000000 -w22 "${run[@]}" >pan.log 2>&1) || true
  if grep -q 'errors: 0' "$work/pan.log" && ! grep -qE 'pan: (error|reached)|max search depth too small' "$work/pan.log"; then
    verdict=holds
  elif grep -qE '^pan:1: (assertion violated|acceptance cycle|invalid end state)' "$work/pan.log"; then
    verdict=fails
  else
    verdict="unfinished: $(tail -n 3 "$work/spin.log" "$work/pan.log" 2>/dev/null | tr '\n' ' ')"
  fi
  if [ "$verdict" = "$expected" ]; then
    echo "ok: $name: $verdict, $(sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' "$work/pan.log" | head -1) states, $(sed -n 's/^pan: elapsed time //p' "$work/pan.log")"
  else
    echo "NOT OK: $name: expected $expected, got $verdict"
    grep '^pan:1' "$work/pan.log" || true
    failures=$((failures + 1))
  fi
}

# shellcheck source=/dev/null
. "$source/$model.checks"
exit "$((failures > 0))"
