#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The one door: ./build.sh build | demo | test | gpu-test | bench | package
set -euo pipefail
cd "$(dirname "$0")"
root=$PWD
jobs=$(nproc)

build() { # build [cmake options]: the library, the tools and the simulated driver; a C compiler and CMake suffice
  cmake -S "$root" -B "$root/build" "$@" >/dev/null
  cmake --build "$root/build" -j "$jobs"
}

install_packages() { # Debian packages that the tests lack; asks the registry only when something is missing
  command -v dpkg-query >/dev/null || return 0
  local missing=() package
  while read -r package; do
    case "$package" in '' | '#'*) continue ;; esac
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done <tests/debian-packages
  if [ ${#missing[@]} -gt 0 ]; then
    echo "build.sh: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

case "${1:-build}" in
  build) build ;;
  demo) build && exec "$root/bench/demo.sh" ;;
  test)
    install_packages
    build -DSOFTMIG_WERROR=ON -DSOFTMIG_TESTS=ON
    ctest --test-dir "$root/build" --output-on-failure -j "$jobs" "${@:2}"
    ;;
  gpu-test) build && exec "$root/tests/gpu/run" "${@:2}" ;;
  bench) build && exec "$root/bench/run" "${@:2}" ;;
  package) build && (cd "$root/build" && cpack) ;;
  *)
    echo "build.sh: unknown verb '$1'; use build, demo, test, gpu-test, bench or package" >&2
    exit 2
    ;;
esac
