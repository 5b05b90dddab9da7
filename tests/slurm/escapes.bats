#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Ways in which a job might leave its slice, each tried inside a job on nodes that confine jobs by cgroups.
bats_require_minimum_version 1.5.0

setup_file() {
  . "$BATS_TEST_DIRNAME/helpers.bash"
  [ -d /sys/fs/cgroup/devices ] && [ -d /sys/fs/cgroup/freezer ] || skip "needs cgroup v1 (devices, freezer)"
  lab_start LAB_CGROUP=1
}
teardown_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_stop; }
setup() {
  . "$BATS_TEST_DIRNAME/helpers.bash" && cancel_all
  rm -f "$LAB/out/go"
}

# tried COMMAND: what a process of a job with half an L40S sees that runs it
tried() { as srun -Q -w n1 --gres=gpu:l40s.2:1 bash -c "$1"; }
# stays: $output is what such a process sees when it has not escaped
stays() { [[ $output =~ ^gpus\ 1$'\n'gpu\ 0\ GPU-[0-9a-f-]{36}\ 22726\ [0-9]+$ ]] || { echo "escaped: $output" && return 1; }; }

@test "unset and forged Slurm variables change nothing" {
  for forged in "unset SLURM_JOB_ID SLURM_JOBID" "export SLURM_JOB_ID=999999" "export SLURM_JOB_ID=" "export SLURM_JOB_ID=1 SLURM_ARRAY_TASK_ID=7" \
    "unset SLURM_TMPDIR" "export SLURM_TMPDIR=/tmp/elsewhere" "export SLURM_TMPDIR=/proc"; do
    output=$(tried "$forged; $probe")
    stays || { echo "($forged)" && return 1; }
  done
}

@test "limits in the environment change nothing" {
  output=$(tried "export CUDA_DEVICE_MEMORY_LIMIT=40G CUDA_DEVICE_MEMORY_LIMIT_0=40G CUDA_DEVICE_SM_LIMIT=100 CUDA_DEVICE_SM_LIMIT_0=0; $probe")
  stays
  output=$(tried "export CUDA_DEVICE_MEMORY_LIMIT=nonsense SOFTMIG_SHARE_MODE=nonsense; $probe")
  stays
}

@test "paths of shared files in the environment change nothing" {
  output=$(tried "export CUDA_DEVICE_MEMORY_SHARED_CACHE=/tmp/mine.\$\$ SOFTMIG_LOCK_FILE=/tmp/lock.\$\$; $probe; ls /tmp/mine.\$\$ /tmp/lock.\$\$ 2>/dev/null; true")
  stays
}

@test "an environment with nothing in it changes nothing" {
  output=$(tried "exec env -i \$(cat $LAB/nodes/n1/sim.env) $probe")
  stays
}

@test "CUDA_VISIBLE_DEVICES does not lead to a neighbour's GPU" {
  output=$(tried "unset CUDA_VISIBLE_DEVICES; $probe")
  stays
  output=$(tried "CUDA_VISIBLE_DEVICES=0,1,2,3 $probe")
  stays
  output=$(tried "CUDA_VISIBLE_DEVICES=2 $probe")
  [ "$output" = "none 100" ]
  output=$(tried "CUDA_VISIBLE_DEVICES=$(uuid_of n1 3) $probe")
  [ "$output" = "none 100" ]
}

@test "a user may not write, remove or replace what root keeps of the job" {
  output=$(tried "cd /var/run/softmig; for f in \$SLURM_JOB_ID.conf \$SLURM_JOB_ID.ledger; do rm -f \$f 2>/dev/null && echo removed \$f; mv \$f x 2>/dev/null && echo moved \$f; done
    echo CUDA_DEVICE_MEMORY_LIMIT=40G 2>/dev/null >\$SLURM_JOB_ID.conf && echo written; touch x 2>/dev/null && echo made; $probe")
  stays
}

@test "scribbling on the ledger frees nothing and kills nobody" {
  output=$(tried "head -c 100000 /dev/urandom | dd of=/var/run/softmig/\$SLURM_JOB_ID.ledger conv=notrunc status=none; $probe fill")
  [[ $output =~ ^(got\ ([0-9]+)\ 2|none\ 100|refused\ [0-9]+)$ ]]
  [ "${BASH_REMATCH[2]:-0}" -le 22726 ]
}

@test "all processes of the job together hold no more than the slice" {
  output=$(tried "$probe hold 20000 $LAB/out/go >$LAB/out/held & until [ -s $LAB/out/held ]; do sleep 0.05; done; cat $LAB/out/held
    env -i \$(cat $LAB/nodes/n1/sim.env) SLURM_JOB_ID=999999 $probe fill; touch $LAB/out/go; wait")
  [[ $output =~ ^held$'\n'got\ ([0-9]+)\ 2$ ]]
  [ "${BASH_REMATCH[1]}" -gt 1000 ]
  [ "${BASH_REMATCH[1]}" -le $((22726 - 20000)) ]
}

@test "a step, an adopted process and a detached process stay in the slice" {
  id=$(submit -w n1 --gres=gpu:l40s.2:1 -- "setsid env -i \$(cat $LAB/nodes/n1/sim.env) sh -c 'until [ -e $LAB/out/look ]; do sleep 0.05; done; $probe >$LAB/out/detached' >/dev/null 2>&1 &
    until [ -e $LAB/out/go ]; do sleep 0.1; done")
  wait_for RUNNING "$id"
  output=$(as srun -Q --jobid="$id" "$probe")
  stays
  # what pam_slurm_adopt does with a login by ssh: the process goes into the job's external step, and has none of its variables
  output=$(on n1 sh -c "for c in freezer devices; do g=/sys/fs/cgroup/\$c/slurm_n1/uid_$(id -u "$USER1")/job_$id/step_extern; echo \$\$ >\$g/cgroup.procs; done
    exec setpriv --reuid $USER1 --regid $(id -g "$USER1") --clear-groups env -i \$(cat $LAB/nodes/n1/sim.env) $probe")
  stays
  as touch "$LAB/out/look"
  until_true test -s "$LAB/out/detached"
  output=$(cat "$LAB/out/detached")
  stays
  as touch "$LAB/out/go"
  done_job "$id"
  nothing_left
}

@test "being root in a user namespace changes nothing" {
  output=$(tried "unshare -Ur true 2>/dev/null || echo none")
  [ -z "$output" ] || skip "no user namespaces for users here"
  output=$(tried "exec unshare -Ur $probe")
  [ "$output" = "none 100" ] || stays
}

@test "another user's slice is neither seen nor touched" {
  id=$(submit -w n1 --gres=gpu:l40s.4:1 -- "until [ -e $LAB/out/go ]; do sleep 0.1; done")
  wait_for RUNNING "$id"
  run timeout 20 bash -c "cd /tmp && $lab as $USER2 srun -Q -w n1 --gres=gpu:l40s.4:1 sh -c 'cat /var/run/softmig/$id.ledger; cat /var/log/softmig/$id.log; SLURM_JOB_ID=$id $probe'"
  [[ $output == *"$id.ledger: Permission denied"* && $output == *"$id.log: Permission denied"* && $output == *" 11363 "* ]]
  as touch "$LAB/out/go"
  done_job "$id"
}

@test "two slices on one GPU: each sees its own, and both fit" {
  first=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe hold 22000 $LAB/out/go")
  second=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe hold 22000 $LAB/out/go")
  for id in "$first" "$second"; do
    wait_for RUNNING "$id"
    until_true grep -q . "$LAB/out/$id.4294967294"
  done
  [ "$(output "$first") $(output "$second")" = "held held" ]
  as touch "$LAB/out/go"
  done_job "$first"
  done_job "$second"
  nothing_left
}

@test "the components of a heterogeneous job have a slice each, told apart by their cgroups" {
  output=$(as srun -Q -w n1 --gres=gpu:l40s.4:1 sh -c "$probe | sed s/^/a:/" : -w n2 --gres=gpu:l40s.2:1 sh -c "$probe | sed s/^/b:/; ls /var/run/softmig")
  grep -q "^a:gpu 0 GPU-[0-9a-f-]* 11363 " <<<"$output"
  grep -q "^b:gpu 0 GPU-[0-9a-f-]* 22726 " <<<"$output"
  [ "$(grep -c '\.conf$' <<<"$output")" = 1 ] # the first one's number is not in use on the second's node
  nothing_left
}
