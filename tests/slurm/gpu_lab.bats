#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# The laboratory for GPU machines (gpu-lab) and its judge, without a GPU: on the simulated driver with a stand-in for PyTorch.
bats_require_minimum_version 1.5.0

setup() { . "$BATS_TEST_DIRNAME/helpers.bash"; }
teardown() { [ ! -d "$LAB" ] || lab_stop; }

judge() { python3 "$SOURCE/tests/slurm/gpu_job.py" report "$BATS_TEST_TMPDIR" "a GPU" "$1"; }

# ran NAME KERNELS PRODUCTS [MIB PID BEGIN]: what a job reports that did so many of each per second, saw so much memory, multiplied from BEGIN
ran() {
  printf '{"name": "%s", "pid": %d, "total_mib": %d, "free_mib": %d, "most_mib": %d, "refused": "OutOfMemoryError", "device": "", "torch": "2",
    "spin": {"rate": %s, "from": 10, "to": 20, "metered_pct": 25.0}, "products": {"rate": %s, "from": %d, "to": %d, "metered_pct": 25.0}}' \
    "$1" "${5:-7}" "${4:-35788}" "${4:-35788}" "$((${4:-35788} - 518))" "$2" "$3" "${6:-20}" "$((${6:-20} + 10))" >"$BATS_TEST_TMPDIR/$1.json"
  printf 'CUDA_DEVICE_MEMORY_LIMIT_0=35788M\nCUDA_DEVICE_SM_LIMIT_0=25\n' >"$BATS_TEST_TMPDIR/$1.limits"
}
all_ran() { # all_ran: alone, and four quarters that were held
  local job pid=100
  ran alone 1000 1400 143155
  for job in first second third fourth; do
    pid=$((pid + 1))
    ran $job 250 350 35788 $pid
    echo "$pid, 35782" >>"$BATS_TEST_TMPDIR/outside"
  done
}

@test "a job held in time is held, although it multiplies more matrices: the clock explains it" {
  all_ran
  ran first 250.4 420 35788 101 30
  ran second 249 420 35788 102 30
  # alone at the power limit with 1400 MHz, the two quarters with 1680
  for i in $(seq 100 199); do echo "$((i / 10)).$((i % 10)) 1980 300 0"; done >"$BATS_TEST_TMPDIR/clocks"
  for i in $(seq 200 299); do echo "$((i / 10)).$((i % 10)) 1400 700 4"; done >>"$BATS_TEST_TMPDIR/clocks"
  for i in $(seq 300 399); do echo "$((i / 10)).$((i % 10)) 1680 600 0"; done >>"$BATS_TEST_TMPDIR/clocks"
  run -0 judge ""
  [[ $output == *"| first | 25 % | 250.4 | 25.04 % | 25.00 % | yes | 420.0 | 30.00 % |"* ]]
  [[ $output == *"| matrix products, alone | 1400 MHz | 700 W | 100 % of the time | 1400, 1.00 x |"* ]]
  [[ $output == *"| matrix products, two quarters | 1680 MHz | 600 W | 0 % of the time | 1680, 1.20 x |"* ]]
}

@test "too much or too little time is not held, and neither is too little memory or anything left behind" {
  all_ran
  run -0 judge ""
  run -1 judge "/run/softmig/turns"
  for rate in 261 239; do
    ran second $rate 350 35788 102
    run -1 judge ""
    [[ $output == *"| second | 25 % | $rate.0 | 2"*" | NO | 350.0 |"* ]]
  done
  all_ran
  for used in 35768 35789; do # a segment less than there is; more than there is
    sed -i "s/^104, .*/104, $used/" "$BATS_TEST_TMPDIR/outside"
    run -1 judge ""
    [[ $output == *"| fourth | 35788 MiB | 35788 MiB | 35270 MiB | $used MiB | OutOfMemoryError | NO |"* ]]
  done
  sed -i "s/^104, .*/104, 35769/" "$BATS_TEST_TMPDIR/outside"
  run -0 judge ""
}

@test "four jobs fill, two compute, and all of it is in the table" {
  [ "$(id -u)" = 0 ] || skip "needs root"
  command -v slurmctld >/dev/null || skip "needs Slurm (Debian: slurmctld slurmd)"
  unshare -m true 2>/dev/null || skip "needs mount namespaces"
  # the share of so short a time on a busy machine is not judged here
  PYTHONPATH=$SOURCE/tests/slurm/stand-in PYTHONDONTWRITEBYTECODE=1 LAB_HARDWARE=sim LAB_TYPE=l40s \
    timeout 120 "$SOURCE/tests/slurm/gpu-lab" --seconds 1 --out "$BATS_TEST_TMPDIR/table.md" 3>&- || true
  for job in first second third fourth; do
    grep -qx "| $job | 11363 MiB | 11363 MiB | 10926 MiB | n/a | OutOfMemoryError | yes |" "$BATS_TEST_TMPDIR/table.md"
  done
  grep -qE '^\| first \| 25 % \| [0-9.]+ \| [0-9.]+ % \| [0-9.]+ % \|' "$BATS_TEST_TMPDIR/table.md"
  grep -qE '^\| second \| 25 % \| [0-9.]+ \| [0-9.]+ % \| [0-9.]+ % \|' "$BATS_TEST_TMPDIR/table.md"
  grep -qx 'Left after the jobs in /run/softmig: nothing.' "$BATS_TEST_TMPDIR/table.md"
}
