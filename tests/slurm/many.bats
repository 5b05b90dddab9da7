#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# 200 short sliced jobs through the cluster, and what the prolog and the epilog cost each.
bats_require_minimum_version 1.5.0

setup_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_start; }
teardown_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_stop; }
setup() { . "$BATS_TEST_DIRNAME/helpers.bash"; }

@test "200 short jobs: none without its slice, none leaves anything" {
  for what in prolog epilog; do
    cat >"$LAB/etc/$what.hook" <<EOF
begin=\${EPOCHREALTIME/./}
$LAB/etc/softmig-$what
status=\$?
echo \$((\${EPOCHREALTIME/./} - begin)) >>$LAB/out/$what.us
exit \$status
EOF
  done
  begin=$EPOCHSECONDS
  l40s=$(submit --array=1-120 --gres=gpu:l40s.4:1 -- "$probe")
  h200=$(submit --array=1-80 --gpus=h200.4:1 -- "$probe")
  for _ in $(seq 700); do
    [ -n "$(root squeue -h -o x)" ] || break
    sleep 0.2
  done
  [ -z "$(root squeue -h)" ]
  seconds=$((EPOCHSECONDS - begin))
  [ "$(cat "$LAB/out/$l40s".* | grep -c ' 11363 ')" = 120 ]
  [ "$(cat "$LAB/out/$h200".* | grep -c ' 35788 ')" = 80 ]
  [ "$(cat "$LAB/out/$l40s".* "$LAB/out/$h200".* | grep -vcE '^gpus 1$| 11363 | 35788 ')" = 0 ]
  nothing_left
  for node in n1 n2 n3; do [ -z "$(on "$node" find /var/log/softmig -name '*.log')" ]; done
  [ -z "$(root sinfo -h -R)" ]
  echo "# 200 jobs in $seconds s on $(nproc) cores" >&3
  for what in prolog epilog; do
    [ "$(wc -l <"$LAB/out/$what.us")" = 200 ]
    sort -n "$LAB/out/$what.us" | awk -v what=$what '{ v[NR] = $1 / 1000 }
      END { printf "# %s: median %.0f ms, 95 %% within %.0f ms, on a busy machine\n", what, v[int((NR + 1) / 2)], v[int(NR * 0.95)] }' >&3
  done
}

eleven() { [ "$(wc -l <"$LAB/out/epilog.us")" = 11 ]; }

@test "what one prolog and one epilog cost on an idle machine" {
  rm -f "$LAB/out"/*.us
  for _ in 1 2 3 4 5 6 7 8 9 10 11; do as srun -Q -w n2 --gres=gpu:l40s.4:1 true; done
  until_true eleven
  for what in prolog epilog; do
    sort -n "$LAB/out/$what.us" | awk -v what=$what '{ v[NR] = $1 / 1000 } END { printf "# %s: median of 11 jobs %.0f ms\n", what, v[6] }' >&3
  done
}
