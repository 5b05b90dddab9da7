# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2120,SC2119
# What every file of these tests needs: the library in /etc/ld.so.preload or not, and the same command in both worlds.
# /etc is the namespace's own copy (see ./run).

if [ "${HARMLESS_NAMESPACE:-}" != "$(readlink /proc/self/ns/mnt)" ]; then
  echo "these tests write /etc/ld.so.preload: run tests/harmless/run FILE.bats, which gives them an /etc of their own" >&2
  exit 1
fi

enable_library() { echo "${1:-$LIBRARY}" >/etc/ld.so.preload; }
disable_library() { rm -f /etc/ld.so.preload; }
teardown() { disable_library; }

# in_world off|on COMMAND: output, errors and status into $BATS_TEST_TMPDIR/off.* or on.*
in_world() {
  local world=$1 status=0
  if [ "$world" = on ]; then enable_library; else disable_library; fi
  timeout 60 bash -c "$2" </dev/null >"$BATS_TEST_TMPDIR/$world.out" 2>"$BATS_TEST_TMPDIR/$world.err" 3>&- 4>&- 5>&- 6>&- || status=$?
  echo "$status" >"$BATS_TEST_TMPDIR/$world.status"
  disable_library
}

# same COMMAND [STATUS]: prints, complains and ends alike with and without the library, with STATUS (default 0).
same() {
  local part
  in_world off "$1"
  in_world on "$1"
  for part in out err status; do
    if ! diff -u "$BATS_TEST_TMPDIR/off.$part" "$BATS_TEST_TMPDIR/on.$part" >"$BATS_TEST_TMPDIR/difference"; then
      echo "$part differs: $1"
      cat "$BATS_TEST_TMPDIR/difference"
      return 1
    fi
  done
  if [ "$(cat "$BATS_TEST_TMPDIR/on.status")" != "${2:-0}" ]; then
    echo "ends with $(cat "$BATS_TEST_TMPDIR/on.status") in both worlds, expected ${2:-0}: $1"
    tail -n 5 "$BATS_TEST_TMPDIR/on.out" "$BATS_TEST_TMPDIR/on.err"
    return 1
  fi
}

needs() { # needs COMMAND...: skip where it is not installed
  local command
  for command; do command -v "$command" >/dev/null || skip "$command is not installed here"; done
}
