#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# What users may ask for, in every way Slurm lets them ask, and what a process of the job then sees. No cgroups.
bats_require_minimum_version 1.5.0

setup_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_start; }
teardown_file() { . "$BATS_TEST_DIRNAME/helpers.bash" && lab_stop; }
setup() { . "$BATS_TEST_DIRNAME/helpers.bash" && cancel_all; }

# see KIND OPTIONS...: what a process of such a job sees; KIND is sbatch, salloc or srun
see() {
  local kind=$1 look="$probe; cat /var/run/softmig/\$SLURM_JOB_ID.conf 2>/dev/null; true"
  shift
  case $kind in
    sbatch) batch "$@" -- "$look" ;;
    srun) as srun -Q "$@" sh -c "$look" ;;
    salloc) as salloc -Q "$@" srun -Q sh -c "$look" ;;
  esac
}

# is_slice MIB SM: the output in $output is that of one GPU of MIB, entitled to SM percent
is_slice() {
  [[ $output =~ ^gpus\ 1$'\n'gpu\ 0\ (GPU-[0-9a-f-]{36})\ $1\ ([0-9]+)$'\n' ]] || { echo "not a slice of $1 MiB: $output" && return 1; }
  local uuid=${BASH_REMATCH[1]} free=${BASH_REMATCH[2]}
  [ "$free" -le "$1" ] && [ "$free" -gt $(($1 - 1024)) ] || { echo "free: $free of $1" && return 1; }
  grep -qx "CUDA_DEVICE_MEMORY_LIMIT_0=$1M" <<<"$output" && grep -qx "CUDA_DEVICE_SM_LIMIT_0=$2" <<<"$output" &&
    grep -qx "SOFTMIG_GPU_UUID_0=$uuid" <<<"$output" || { echo "limits differ from what is seen: $output" && return 1; }
}

every_way() { # every_way TYPE MIB SM; salloc polls for seconds, so those run beside each other
  local kind option i
  local options=("--gres=gpu:$1:1" "--gres=gpu:$1" "--gpus=$1:1" "--gpus-per-node=$1:1" "--gpus-per-task=$1:1 -n1"
    "--gpus-per-socket=$1:1 --sockets-per-node=1")
  for i in "${!options[@]}"; do
    # shellcheck disable=SC2086
    see salloc ${options[i]} >"$BATS_TEST_TMPDIR/salloc.$i" 2>&1 3>&- &
  done
  for kind in sbatch srun; do
    for option in "${options[@]}"; do
      # shellcheck disable=SC2086
      output=$(see $kind $option 2>&1) || { echo "$kind $option: $output" && return 1; }
      is_slice "$2" "$3" || { echo "($kind $option)" && return 1; }
    done
  done
  wait
  for i in "${!options[@]}"; do
    output=$(<"$BATS_TEST_TMPDIR/salloc.$i")
    is_slice "$2" "$3" || { echo "(salloc ${options[i]})" && return 1; }
  done
  nothing_left
}

@test "half of an L40S, through every option of sbatch, salloc and srun" { every_way l40s.2 22726 50; }
@test "a quarter of an L40S, through every option of sbatch, salloc and srun" { every_way l40s.4 11363 25; }
@test "a quarter of an H200, through every option of sbatch, salloc and srun" { every_way h200.4 35788 25; }

@test "shards asked for directly give the same slice" {
  output=$(see srun --gres=shard:l40s:1)
  is_slice 11363 25
  output=$(see srun -w n3 --gres=shard:h200:3)
  is_slice 107366 75
  output=$(see srun -w n2 --gres=shard:2)
  is_slice 22726 50
  # all of a GPU by shards: the driver keeps some of its memory for itself
  output=$(see srun -w n2 --gres=shard:4)
  [[ $output =~ ^gpus\ 1$'\n'gpu\ 0\ GPU-[0-9a-f-]{36}\ 45452\  ]]
  grep -qx CUDA_DEVICE_MEMORY_LIMIT_0=45452M <<<"$output"
  grep -qx CUDA_DEVICE_SM_LIMIT_0=100 <<<"$output"
}

@test "an inner srun stays in the job's slice, whichever option the job was asked with" {
  for option in --gres=gpu:l40s.2:1 --gpus=l40s.2:1 --gpus-per-node=l40s.2:1 "--gpus-per-task=l40s.2:1 -n1"; do
    # shellcheck disable=SC2086
    output=$(batch $option -- "srun $probe; cat /var/run/softmig/\$SLURM_JOB_ID.conf")
    is_slice 22726 50
  done
}

@test "a whole GPU is untouched and passive" {
  for option in --gres=gpu:l40s:1 --gpus=l40s:1 --gpus-per-node=l40s:1; do
    output=$(see srun "$option")
    [[ $output =~ ^gpus\ 1$'\n'gpu\ 0\ GPU-[0-9a-f-]{36}\ 45452\ [0-9]+$ ]]
  done
  output=$(as srun -Q --gres=gpu:l40s:2 "$probe")
  [[ $output =~ ^gpus\ 2 ]]
  output=$(as srun -Q --gres=gpu:l40s:1 sh -c 'ls /var/run/softmig /var/log/softmig | grep "^$SLURM_JOB_ID[._]" || echo none')
  [ "$output" = none ]
}

@test "a job without a GPU gets no files" {
  output=$(as srun -Q sh -c 'find /var/run/softmig /var/log/softmig -name "$SLURM_JOB_ID*"')
  [ -z "$output" ]
}

@test "four quarters fill a GPU and the fifth waits" {
  local ids=() id
  for _ in 1 2 3 4 5; do ids+=("$(submit -w n2 --gres=gpu:l40s.4:1 -- "until [ -e $LAB/out/go ]; do sleep 0.1; done")"); done
  for id in "${ids[@]:0:4}"; do wait_for RUNNING "$id"; done
  [ "$(state "${ids[4]}")" = PENDING ]
  [ "$(on n2 sh -c 'grep -h UUID /run/softmig/*.conf | sort -u | wc -l')" = 1 ]
  [ "$(on n2 sh -c 'ls /run/softmig/*.conf | wc -l')" = 4 ]
  as touch "$LAB/out/go"
  for id in "${ids[@]}"; do wait_for COMPLETED "$id"; done
  nothing_left
}

@test "four quarters hold all of their memory at once" {
  local ids=() id
  rm -f "$LAB/out/go4"
  # each all that its slice has left beside its context, in the driver's granules of 2 MiB
  for _ in 1 2 3 4; do
    ids+=("$(submit -w n2 --gres=gpu:l40s.4:1 -- "$probe hold \$($probe | awk '{ m = \$5 } END { print m - m % 2 }') $LAB/out/go4")")
  done
  for id in "${ids[@]}"; do until_true grep -qs . "$LAB/out/$id.4294967294"; done
  as touch "$LAB/out/go4"
  [ "$(for id in "${ids[@]}"; do output "$id"; done)" = "held
held
held
held" ]
  for id in "${ids[@]}"; do wait_for COMPLETED "$id"; done
}

@test "slices and whole GPUs never share a GPU" {
  local slice whole
  slice=$(submit -w n3 --gres=gpu:h200.2:1 -- "until [ -e $LAB/out/go2 ]; do sleep 0.1; done")
  wait_for RUNNING "$slice"
  # CUDA_VISIBLE_DEVICES is all that keeps a job without cgroups on its GPU
  output=$(as srun -Q -w n3 --gres=gpu:h200:1 "$probe")
  [[ $output == "gpus 1"* && $output != *"$(limit_file n3 "$slice" | sed -n 's/SOFTMIG_GPU_UUID_0=//p')"* ]]
  whole=$(submit -w n3 --gres=gpu:h200:2 -- true)
  sleep 0.5
  [ "$(state "$whole")" = PENDING ]
  as touch "$LAB/out/go2"
  wait_for COMPLETED "$whole"
}

# refused MESSAGE OPTIONS...: by sbatch, salloc and srun, with this message and status 1; nothing queued
refused() {
  local message=$1 kind
  shift
  for kind in "sbatch --wrap=true" "salloc true" "srun true"; do
    # shellcheck disable=SC2086
    run as ${kind%% *} "$@" ${kind#* }
    [ "$status" = 1 ] && [[ $output == *"softmig: "*"$message"* ]] || { echo "$kind $*: $status: $output" && return 1; }
  done
  [ -z "$(root squeue -h)" ]
}

@test "what cannot be is refused in one sentence and nothing is queued" {
  refused "ask for gpu:l40s.2:1, not gpu:l40s.2:2" --gres=gpu:l40s.2:2
  refused "gpu:l40s.3 is not offered; slices of this type: gpu:l40s.2, gpu:l40s.4" --gres=gpu:l40s.3:1
  refused "is not offered" --gpus=l40s.8:1
  refused "is a whole GPU: ask for gpu:l40s:1" --gpus-per-node=l40s.1:1
  refused "GPU type 'nosuch' is not offered in slices; types offered: l40s, h200" --gpus-per-task=nosuch.2:1 -n1
  refused "a l40s has 4 shards" --gres=shard:l40s:5
  refused "a GPU has 4 shards" --gres=shard:5
  refused "cannot be mixed" --gres=gpu:l40s.2:1,gpu:l40s:1
  refused "cannot be mixed" --gres=gpu:l40s.2:1 --gpus=h200:1
  refused "use --gpus-per-node" --gpus=l40s.2:1 -N2
  refused "needs --ntasks-per-node=1" --gpus-per-task=l40s.2:1 -n2
  refused "use --cpus-per-task" --gres=gpu:l40s.2:1 --cpus-per-gpu=2
}

@test "status tells the slice from inside the job" {
  json=$(as srun -Q --gres=gpu:l40s.2:1 "$LAB/bin/softmig" status --json)
  [ "$(jq -c '.gpus | map([.memory_limit_bytes, .sm_limit_pct])' <<<"$json")" = "[[$((22726 << 20)),50]]" ]
}

@test "the controller refuses the same when the client's filter is off" {
  sed '/^CliFilter/d' "$LAB/etc/slurm.conf" >"$LAB/etc/slurm-nofilter.conf"
  export SLURM_CONF=$LAB/etc/slurm-nofilter.conf
  plain() { (cd /tmp && SLURM_CONF=$LAB/etc/slurm-nofilter.conf timeout 20 nsenter -m -t "$(cat "$LAB/run/login.pid")" -- \
    setpriv --reuid "$USER1" --regid nogroup --clear-groups "$@"); }
  for request in --gres=gpu:l40s.3:1 --gpus=l40s.3:1 --gpus-per-node=l40s.2:2 --gres=shard:9; do
    run plain sbatch "$request" --wrap=true
    [ "$status" = 1 ]
    [[ $output == *"softmig: "* ]]
    run plain salloc "$request" true
    [ "$status" = 1 ]
    [[ $output == *"softmig: "* ]]
  done
  [ -z "$(root squeue -h)" ]
  for option in --gres=gpu:l40s.2:1 --gpus=l40s.2:1 "--gpus-per-node=l40s.2:1" "--gpus-per-task=l40s.2:1 -n1"; do
    # shellcheck disable=SC2086
    id=$(plain sbatch --parsable -o "$LAB/out/%A.%a" $option --wrap="srun $probe; cat /var/run/softmig/\$SLURM_JOB_ID.conf")
    done_job "$id"
    output=$(output "$id")
    is_slice 22726 50
  done
}

@test "a pending job is changed by the same rules" {
  id=$(submit -H --gres=gpu:l40s.2:1 -- "$probe; cat /var/run/softmig/\$SLURM_JOB_ID.conf")
  run as scontrol update job="$id" gres=gpu:l40s.3:1
  [ "$status" = 1 ]
  # scontrol 22.05 does not show the user why; the controller's log does
  grep -q "softmig: gpu:l40s.3 is not offered" "$LAB/log/slurmctld.log"
  run as scontrol update job="$id" gres=gpu:l40s.4:1,gpu:l40s:1
  [ "$status" = 1 ]
  run as scontrol update job="$id" gres=shard:l40s:7
  [ "$status" = 1 ]
  run as scontrol update job="$id" gres=gpu:l40s.4:1
  [ "$status" = 0 ]
  run as scontrol update job="$id" timelimit=5
  [ "$status" = 0 ]
  as scontrol release "$id"
  done_job "$id"
  output=$(output "$id")
  is_slice 11363 25
}

@test "an error in the plugin refuses jobs instead of accepting them" {
  sleep 1 # the plugin is read again when its time, in seconds, is another
  sed 's/^local function apply(job_desc, job)/&\n\terror("broken on purpose")/' "$SOURCE/src/slurm/job_submit_softmig.lua" >"$LAB/etc/job_submit.lua"
  run as sbatch --wrap=true
  [ "$status" = 1 ]
  [[ $output == *"softmig: this request could not be checked and was refused"* ]]
  grep -q "broken on purpose" "$LAB/log/slurmctld.log"
  sleep 1
  cp "$SOURCE/src/slurm/job_submit_softmig.lua" "$LAB/etc/job_submit.lua"
  run as sbatch -o /dev/null --wrap=true
  [ "$status" = 0 ]
}

@test "a site's own plugin that includes ours works as the example shows" {
  sleep 1
  mkdir -p "$LAB/share"
  cp "$SOURCE"/src/slurm/*.lua "$LAB/share/"
  sed "s|/usr/share/softmig/slurm|$LAB/share|" "$SOURCE/src/slurm/examples/job_submit.lua" >"$LAB/etc/job_submit.lua"
  output=$(see srun --gres=gpu:l40s.4:1)
  is_slice 11363 25
  run as env SLURM_CONF="$LAB/etc/slurm-nofilter.conf" sbatch --gres=gpu:l40s.3:1 --wrap=true
  [ "$status" = 1 ]
  [[ $output == *"not offered"* ]]
}
