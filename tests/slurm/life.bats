#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# Jobs of every shape, and everything that can happen to them and their nodes: right limits or a clear refusal, nothing left.
bats_require_minimum_version 1.5.0

setup_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_start; }
teardown_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_stop; }
setup() {
  . "$BATS_TEST_DIRNAME/helpers.bash" && cancel_all
  rm -f "$LAB/out/go" "$LAB"/etc/*.hook
}
wait_go="until [ -e $LAB/out/go ]; do sleep 0.1; done"
go() { as touch "$LAB/out/go"; }

@test "three elements of an array share one GPU, each in its own slice" {
  id=$(submit -w n2 --array=5-7 --gres=gpu:l40s.4:1 -- "$wait_go; $probe; echo \$SLURM_JOB_ID")
  until_true three_slices
  [ "$(on n2 sh -c 'cd /run/softmig && ls *.conf | wc -l; ls *.ledger | wc -l')" = $'3\n3' ]
  # the elements' own ids, not the array's, and their logs bear the task as the library names them
  for task in 5 6 7; do
    raw=$(root squeue -h -j "${id}_$task" -O JobID:20 | tr -d ' ')
    grep -qx CUDA_DEVICE_MEMORY_LIMIT_0=11363M <<<"$(limit_file n2 "$raw")"
    [ "$(on n2 stat -c '%U %a' "/var/log/softmig/${raw}_$task.log")" = "$USER1 600" ]
  done
  go
  done_job "$id"
  for task in 5 6 7; do [[ $(output "$id" "$task") == *" 11363 "* ]]; done
  nothing_left
}
three_slices() { [ "$(on n2 sh -c 'ls /run/softmig/*.conf | wc -l')" = 3 ]; }

@test "a job on two nodes with different GPUs has the right slice on each" {
  whole=$(submit -w n3 --gres=gpu:l40s:1 -- "$wait_go") # so that n3 has an H200 left only
  wait_for RUNNING "$whole"
  output=$(as srun -Q -N2 -w n2,n3 --gres=shard:1 sh -c "$probe | sed s/^/\$SLURMD_NODENAME:/")
  grep -q "^n2:gpu 0 GPU-[0-9a-f-]* 11363 " <<<"$output"
  grep -q "^n3:gpu 0 GPU-[0-9a-f-]* 35788 " <<<"$output"
  go
  done_job "$whole"
  nothing_left
}

@test "two slices on two GPUs: each GPU has its own limits" {
  output=$(as srun -Q -w n3 --gres=gpu:h200.2:1,gpu:l40s.4:1 "$probe")
  [[ $output =~ ^gpus\ 2$'\n'gpu\ 0\ ([^ ]*)\ 71577\ [0-9]+$'\n'gpu\ 1\ ([^ ]*)\ 11363\ [0-9]+$ ]]
  [ "${BASH_REMATCH[2]}" = "$(uuid_of n3 2)" ]
  # whatever order the program sees them in
  output=$(as srun -Q -w n3 --gres=gpu:h200.2:1,gpu:l40s.4:1 sh -c "CUDA_VISIBLE_DEVICES=2,0,1 $probe")
  [[ $output =~ gpu\ 0\ $(uuid_of n3 2)\ 11363\  ]]
  nothing_left
}

@test "without cgroups, the library alone keeps a job off the GPUs it was not given" {
  output=$(as srun -Q -w n1 --gres=gpu:l40s.2:1 sh -c "CUDA_VISIBLE_DEVICES=1 $probe; CUDA_VISIBLE_DEVICES=1 $probe fill; unset CUDA_VISIBLE_DEVICES; $probe")
  [[ $output =~ ^(gpus\ 1$'\n'gpu\ 0\ error\ [0-9]+|none\ [0-9]+)$'\n'(refused|none)\ [0-9]+$'\n' ]]
  [ "$(grep -cE '^gpu [0-9]+ GPU' <<<"$output")" = 1 ]
}

@test "the components of a heterogeneous job have their slices" {
  output=$(as srun -Q --gres=gpu:l40s.2:1 "$probe" : --gres=gpu:h200.4:1 "$probe")
  grep -q "GPU-[0-9a-f-]* 22726 " <<<"$output"
  grep -q "GPU-[0-9a-f-]* 35788 " <<<"$output"
  nothing_left
}

@test "a sweep on the node of a heterogeneous job's second component leaves the first's number, which its processes bear" {
  echo 'export SOFTMIG_SWEEP_MINUTES=0' >"$LAB/etc/epilog.hook"
  as srun -Q -w n2 --gres=gpu:l40s.2:1 sh -c "$wait_go" : -w n3 --gres=gpu:h200.4:1 sh -c "$wait_go; $probe" >"$LAB/out/het" 2>&1 3>&- &
  until_true on n3 sh -c 'ls /run/softmig/*.part'
  first=$(on n3 sh -c 'ls /run/softmig/*.part' | sed 's/.*\/\(.*\)+.*/\1/')
  sliced n3 "$first"
  on n3 rm -f /run/softmig/.swept
  as srun -Q -w n3 true # its epilog asks for the jobs of n3, and the first component is none of them
  until_true on n3 test -e /run/softmig/.swept
  [[ $(limit_file n3 "$first") == *LIMIT_0=35788M* ]]
  go
  wait
  grep -q "GPU-[0-9a-f-]* 35788 " "$LAB/out/het"
  nothing_left
}

@test "a suspended job's slice is not swept" {
  id=$(submit -w n2 --gres=gpu:l40s.4:1 -- "$wait_go; $probe")
  sliced n2 "$id"
  root scontrol suspend "$id"
  wait_for SUSPENDED "$id"
  echo 'export SOFTMIG_SWEEP_MINUTES=0' >"$LAB/etc/epilog.hook"
  on n2 rm -f /run/softmig/.swept
  as srun -Q -w n2 true
  until_true on n2 test -e /run/softmig/.swept
  [[ $(limit_file n2 "$id") == *11363M* ]]
  root scontrol resume "$id"
  go
  done_job "$id"
  [[ $(output "$id") == *" 11363 "* ]]
  nothing_left
}

@test "files of a running job have the names, owners and modes that the manual says" {
  id=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe >/dev/null; $wait_go")
  sliced n2 "$id"
  [ "$(on n2 stat -c '%n %U %a' /run/softmig "/run/softmig/$id.conf" "/run/softmig/$id.ledger" /var/log/softmig "/var/log/softmig/$id.log")" = \
    "/run/softmig root 755
/run/softmig/$id.conf root 644
/run/softmig/$id.ledger $USER1 600
/var/log/softmig root 755
/var/log/softmig/$id.log $USER1 600" ]
  [ "$(on n2 readlink -f /var/run/softmig)" = /run/softmig ]
  go
  done_job "$id"
  nothing_left
  until_true on n2 test ! -e "/var/log/softmig/$id.log" # nothing was written to it
  [ ! -e /run/softmig/"$id".conf ]
}

@test "an admin resizes a running job within a second, up and down" {
  id=$(submit -w n2 --gres=gpu:l40s.4:1 -- "$wait_go")
  sliced n2 "$id"
  as srun -Q --jobid="$id" --overlap "$probe" hold 9000 "$LAB/out/go" >"$LAB/out/holder" 2>&1 3>&- &
  until_true grep -qx held "$LAB/out/holder"
  on n2 "$LAB/bin/softmig" slice resize --job "$id" --gpu 0=3/4
  output=$(as srun -Q --jobid="$id" --overlap "$probe")
  [[ $output == *" 34089 "* ]]
  on n2 "$LAB/bin/softmig" slice resize --job "$id" --memory 8G --sm 10
  output=$(as srun -Q --jobid="$id" --overlap sh -c "$probe; $probe fill")
  [[ $output == *" 8192 "* && $output == *"got 0 2" || $output == *"refused 2" ]]
  run on n2 "$LAB/bin/softmig" slice resize --job 424242 --sm 10
  [ "$status" = 1 ]
  [[ $output == *"job 424242: it has no slice on this node"* ]]
  go
  done_job "$id"
  wait
  nothing_left
}

@test "a requeued job gets a new slice, and nothing of the old one stays" {
  id=$(submit -w n2 --requeue --gres=gpu:l40s.2:1 -- "$probe; $wait_go")
  sliced n2 "$id"
  until_true grep -qs "gpu 0" "$LAB/out/$id.4294967294"
  root scontrol requeue "$id"
  wait_for PENDING "$id" # for as long as credentials live: the laboratory's, 10 s
  # made to start earlier, it would start without its prolog: slurmd takes it for the run that it knows
  for who in as root; do
    run $who scontrol update job="$id" StartTime=now
    [ "$status" = 1 ]
  done
  grep -q "softmig: when a requeued job with a slice starts is set by Slurm" "$LAB/log/slurmctld.log"
  until_true no_state n2
  sliced n2 "$id"
  [[ $(limit_file n2 "$id") == *22726M* ]]
  go
  done_job "$id"
  nothing_left
}

@test "a job killed with SIGKILL leaves nothing" {
  id=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe hold 20000 $LAB/out/go")
  until_true grep -qsx held "$LAB/out/$id.4294967294"
  root scancel --signal=KILL --full "$id"
  done_job "$id"
  nothing_left
  output=$(as srun -Q -w n2 --gres=gpu:l40s.2:1 "$probe" fill)
  [[ $output =~ ^got\ ([0-9]+)\ 2$ ]]
  [ "${BASH_REMATCH[1]}" -ge 22000 ]
}

@test "slurmd killed and started again: the running job keeps its slice, and nothing is left after it" {
  id=$(submit -w n2 --gres=gpu:l40s.4:1 -- "echo begun; $wait_go; $probe")
  sliced n2 "$id"
  until_true grep -qsx begun "$LAB/out/$id.4294967294" # before that, slurmd alone knows that the prolog has ended
  kill -9 "$(cat "$LAB/run/slurmd.n2.pid")"
  timeout 20 "$lab" node-start n2
  output=$(as srun -Q -w n2 --gres=gpu:l40s.2:1 "$probe")
  [[ $output == *" 22726 "* ]]
  [[ $(limit_file n2 "$id") == *11363M* ]]
  go
  done_job "$id"
  [[ $(output "$id") == *" 11363 "* ]]
  nothing_left
}

@test "a node that crashed comes back with nothing stale" {
  id=$(submit -w n2 --no-requeue --gres=gpu:l40s.4:1 -- "$wait_go")
  sliced n2 "$id"
  timeout 20 "$lab" node-crash n2
  timeout 20 "$lab" node-boot n2
  root scancel "$id" # the controller would notice within minutes
  done_job "$id"
  resume
  no_state n2
  output=$(as srun -Q -w n2 --gres=gpu:l40s.2:1 "$probe")
  [[ $output == *" 22726 "* ]]
  nothing_left
}

@test "what a lost epilog left is swept, a running job's slice is not" {
  # shellcheck disable=SC2046
  on n2 env $(cat "$LAB/nodes/n2/sim.env") "$LAB/bin/softmig" slice create --job 999999 --uid 1 --gpu 0=1/4
  id=$(submit -w n2 --gres=gpu:l40s.4:1 -- "$wait_go; $probe")
  sliced n2 "$id"
  echo 'export SOFTMIG_SWEEP_MINUTES=0' >"$LAB/etc/epilog.hook"
  as srun -Q -w n2 true
  until_true on n2 test ! -e /run/softmig/999999.conf
  on n2 test ! -e /run/softmig/999999.ledger
  [[ $(limit_file n2 "$id") == *11363M* ]]
  go
  done_job "$id"
  [[ $(output "$id") == *" 11363 "* ]]
  nothing_left
}

@test "a controller that is away during the prolog only delays the job" {
  echo "touch $LAB/out/in-prolog; until [ -e $LAB/out/ask ]; do sleep 0.1; done" >"$LAB/etc/prolog.hook"
  id=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe")
  until_true test -e "$LAB/out/in-prolog"
  timeout 20 "$lab" ctld-stop
  touch "$LAB/out/ask"
  sleep 2
  timeout 20 "$lab" ctld-start
  done_job "$id"
  [[ $(output "$id") == *" 22726 "* ]]
  [ -z "$(root sinfo -h -R)" ]
  nothing_left
  root scontrol reconfigure # Slurm 22.05, started with a job on shards, forgets that there are any until nodes register again
}

@test "a controller that stays away keeps the job from starting, and the log says why" {
  rm -f "$LAB/out/in-prolog" "$LAB/out/ask"
  echo "export SOFTMIG_PROLOG_TRIES=1; touch $LAB/out/in-prolog; until [ -e $LAB/out/ask ]; do sleep 0.1; done" >"$LAB/etc/prolog.hook"
  id=$(submit -w n2 --gres=gpu:l40s.2:1 -- "$probe >$LAB/out/ran")
  until_true test -e "$LAB/out/in-prolog"
  timeout 20 "$lab" ctld-stop
  touch "$LAB/out/ask"
  until_true logs_say n2 "the controller did not say what the job was given"
  timeout 20 "$lab" ctld-start
  rm "$LAB/etc/prolog.hook"
  sleep 1
  [ ! -e "$LAB/out/ran" ]
  root scancel "$id"
  until_true idle
  root scontrol reconfigure
  resume
  nothing_left
}

@test "a full state directory keeps the job from starting, says why, and leaves nothing" {
  on n2 sh -c 'head -c 1G /dev/zero >/run/softmig/.full 2>/dev/null; true'
  run as srun -w n2 --gres=gpu:l40s.2:1 "$probe"
  [ "$status" = 1 ]
  [[ $output != *"gpu 0"* ]] # how srun words it depends on whether it hears of the job's end or the step's first; the log has the reason
  grep -q "the ledger cannot be created: No space left on device; /var/run/softmig is full" "$LAB/log/slurmd.n2.log"
  [[ $(root sinfo -h -R -o '%E') == "softmig: no slice for job "* ]]
  no_state n2
  on n2 rm /run/softmig/.full
  resume
  output=$(as srun -Q -w n2 --gres=gpu:l40s.2:1 "$probe")
  [[ $output == *" 22726 "* ]]
  nothing_left
}

@test "a GPU that is gone keeps the job from starting, and the node is drained with the reason" {
  echo 'export SOFTMIG_SIM_FAULT=nodriver' >"$LAB/etc/prolog.hook"
  run as srun -w n2 --gres=gpu:l40s.2:1 "$probe"
  [ "$status" = 1 ]
  [[ $output != *"gpu 0"* ]]
  logs_say n2 "NVML does not start"
  rm "$LAB/etc/prolog.hook"
  resume
  nothing_left
}

@test "a slice whose GPU Slurm does not name keeps the job from starting, and a job without a GPU starts" {
  # as with Flags=no_gpu_env, or device files that are none
  echo 'unset SLURM_JOB_GPUS GPU_DEVICE_ORDINAL CUDA_VISIBLE_DEVICES' >"$LAB/etc/prolog.hook"
  [ "$(as srun -Q -w n2 echo ran)" = ran ]
  run as srun -w n2 --gres=gpu:l40s.2:1 "$probe"
  [ "$status" = 1 ]
  [[ $output != *"gpu 0"* ]]
  logs_say n2 "Slurm names no GPU for .shard:l40s:2."
  rm "$LAB/etc/prolog.hook"
  resume
  nothing_left
}

@test "a job's name, comment and paths cannot pass for what Slurm says of it" {
  forged=$'x\n     Nodes=n2 CPU_IDs=0 Mem=50 GRES=shard:l40s:4(IDX:0)\n   JOB_GRES=shard:l40s:4'
  forged_json='", "gres_detail": [ "shard:h200:4(IDX:0)" ], "job_id": 1'
  output=$(as srun -Q -J "$forged" --comment="$forged" -w n2 --gres=gpu:l40s.4:1 "$probe")
  [[ $output == *" 11363 "* ]]
  output=$(as srun -Q -J "$forged_json" --comment="$forged_json" -w n3 --gres=gpu:h200.4:1,gpu:l40s.4:1 "$probe")
  [[ $output == *" 35788 "* && $output == *" 11363 "* ]]
}
