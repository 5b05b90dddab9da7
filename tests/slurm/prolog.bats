#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016 # scripts for other shells
# The prolog alone, on what Slurm 22.05 and 24.11 said when they were asked (recorded on running clusters).
bats_require_minimum_version 1.5.0

setup() {
  [ "$(id -u)" = 0 ] || skip "needs root"
  unshare -m true 2>/dev/null || skip "needs mount namespaces"
  bin=$BATS_TEST_TMPDIR/bin
  mkdir "$bin" "$BATS_TEST_TMPDIR/sbin" "$BATS_TEST_TMPDIR/etc"
  cp "$(command -v bash)" "$BATS_TEST_TMPDIR/sbin/slurmd-stand-in" # the prolog finds Slurm's commands beside its parent
  printf 'l40s 4\nh200 4\n' >"$BATS_TEST_TMPDIR/etc/softmig.conf"
  : >"$BATS_TEST_TMPDIR/etc/slurm.conf"
  says squeue 'case "$*" in *--json*) cat "$answers/json" ;; *) cat "$answers/squeue" ;; esac'
  says scontrol '[ "$1 $2" != "show config" ] || exec cat "$answers/config"; [ "$1 $2" = "show hostnames" ] || exit 0; eval "printf \"%s\\n\" $(sed "s/\[\([0-9]\)-\([0-9]\)\]/{\1..\2}/" <<<"$3")"'
  says slurmd 'cat "$answers/slurmd"'
  says softmig 'echo "softmig $*"; [ "$2" != fail ]'
  export answers=$BATS_TEST_TMPDIR SOFTMIG_PROLOG_TRIES=1
}

says() { # says COMMAND SCRIPT
  printf '#!/bin/bash\n%s\n' "$2" >"$bin/$1"
  chmod 755 "$bin/$1"
}

# prolog [VARIABLE=VALUE...]: as slurmd would run it for job 1 on node n3, which has a /run of its own
prolog() {
  run unshare -m sh -c 'mount -t tmpfs none /run && mkdir /run/softmig && cp "$answers/cache" /run/softmig/.gpus 2>/dev/null; exec "$@"' _ env -i answers="$answers" SOFTMIG_PROLOG_TRIES=1 SOFTMIG_COMMAND="$bin/softmig" SLURM_CONF="$BATS_TEST_TMPDIR/etc/slurm.conf" SLURMD_NODENAME=n3 \
    SLURM_NODELIST=n3 SLURM_JOB_ID=1 SLURM_JOB_UID=65534 SLURM_JOB_GID=65534 "$@" \
    "$BATS_TEST_TMPDIR/sbin/slurmd-stand-in" -c "$SOURCE/src/slurm/softmig-prolog; exit \$?"
}

requests() { printf '%-24s%-24s%-60s%-60s%-60s%-60s\n' 1 N/A "$1" N/A N/A N/A >"$answers/squeue"; }
newer_slurmd() {
  cat >"$answers/slurmd" <<'END'
slurmd: error: The option "CgroupAutomount" is defunct, please remove it from cgroup.conf.
slurmd: Gres Name=shard Type=h200 Count=4 Index=0 ID=1918986455 File=/dev/nvidia0 Links=(null) Flags=HAS_FILE,HAS_TYPE,SHARED
slurmd: Gres Name=gpu Type=h200 Count=1 Index=0 ID=7696487 File=/dev/nvidia0 Links=(null) Flags=HAS_FILE,HAS_TYPE,ENV_NVML,ENV_RSMI,ENV_ONEAPI,ENV_OPENCL,ENV_DEFAULT
slurmd: Gres Name=gpu Type=h200 Count=1 Index=1 ID=7696487 File=/dev/nvidia1 Links=(null) Flags=HAS_FILE,HAS_TYPE,ENV_NVML,ENV_RSMI,ENV_ONEAPI,ENV_OPENCL,ENV_DEFAULT
slurmd: Gres Name=gpu Type=l40s Count=1 Index=2 ID=7696487 File=/dev/nvidia2 Links=(null) Flags=HAS_FILE,HAS_TYPE,ENV_NVML,ENV_RSMI,ENV_ONEAPI,ENV_OPENCL,ENV_DEFAULT
END
}
config() { printf 'Configuration data as of 2026-11-21T15:00:00\nProctrackType           = %s\nTaskPlugin              = %s\n' "$1" "$2" >"$answers/config"; }
older_slurmd() {
  cat >"$answers/slurmd" <<'END'
slurmd-n3: Gres Name=gpu Type=h200 Count=1 Index=0 ID=7696487 File=/dev/nvidia0 (null)
slurmd-n3: Gres Name=gpu Type=h200 Count=1 Index=1 ID=7696487 File=/dev/nvidia1 (null)
slurmd-n3: Gres Name=gpu Type=l40s Count=1 Index=2 ID=7696487 File=/dev/nvidia2 (null)
END
}
json() { printf '  "jobs": [\n    {\n      "comment": "",\n      "gres_detail": [\n        "%s"\n      ],\n      "job_id": 1,\n      "name": "true"\n    }\n  ]\n' "$1" >"$answers/json"; }
created() { [ "$output" = "softmig slice create --replace --job 1 --uid 65534 --gid 65534 $1" ]; }

@test "Slurm 22.05: one type, two types" {
  older_slurmd
  requests gres:shard:l40s:1
  prolog SLURM_JOB_GPUS=2
  created "--gpu 2=1/4"
  requests gres:shard:h200:2,gres:shard:l40s:1
  json 'shard:h200:2(IDX:1),shard:l40s:1(IDX:2)'
  prolog SLURM_JOB_GPUS=2
  created "--gpu 1=2/4 --gpu 2=1/4"
}

@test "Slurm 24.11: one type, two types" {
  newer_slurmd
  requests gres/shard:l40s:1
  prolog SLURM_JOB_GPUS=2
  created "--gpu 2=1/4"
  requests gres/shard:h200:2,gres/shard:l40s:1
  json 'shard:h200:2(0\\/4,2\\/4,0\\/4),shard:l40s:1(0\\/4,0\\/4,1\\/4)'
  prolog SLURM_JOB_GPUS=2
  created "--gpu 1=2/4 --gpu 2=1/4"
}

@test "what was learned of the GPUs is kept, but not for a job that contradicts it" {
  : >"$answers/slurmd"
  touch -d '1 minute ago' "$BATS_TEST_TMPDIR/etc/slurm.conf"
  requests gres/shard:l40s:1
  echo 'l40s /dev/nvidia[5-6]' >"$answers/cache"
  prolog SLURM_JOB_GPUS=1
  created "--gpu 6=1/4"
  # none was seen, when the driver was not there yet perhaps
  newer_slurmd
  sed -i 's/nvidia2/nvidia7/' "$answers/slurmd"
  echo - >"$answers/cache"
  prolog SLURM_JOB_GPUS=2
  created "--gpu 7=1/4"
  prolog
  [ "$status" = 0 ]
  [ -z "$output" ]
  # nor when the configuration is newer
  touch -d 'tomorrow' "$BATS_TEST_TMPDIR/etc/slurm.conf"
  prolog
  [ "$status" = 1 ]
  [[ $output == "softmig slice fail --job 1 Slurm names no GPU"* ]]
}

@test "shards on two GPUs are no slice, in either's words" {
  newer_slurmd
  requests gres/shard:h200:2,gres/shard:l40s:1
  for given in 'shard:h200:2(1\\/4,1\\/4,0\\/4)' 'shard:h200:2(IDX:0,1)' 'shard:h200:2(IDX:0-1)' 'shard:h200:2(0\\/4,0\\/4,0\\/4)' 'shard:h200:2()'; do
    json "$given,shard:l40s:1(0\\\\/4,0\\\\/4,1\\\\/4)"
    prolog SLURM_JOB_GPUS=2
    [ "$status" = 1 ]
    [[ $output == "softmig slice fail --job 1 Slurm gave "*"a slice is part of one GPU" ]] || { echo "$given: $output" && return 1; }
  done
}

@test "a job without a GPU asks nothing where there is none, and is asked for where there are some" {
  : >"$answers/slurmd"
  rm -f "$answers/squeue"
  prolog
  [ "$status" = 0 ]
  [ -z "$output" ]
  newer_slurmd
  prolog
  [ "$status" = 1 ]
  [[ $output == "softmig slice fail --job 1 the controller did not say what the job was given"* ]]
  requests N/A
  prolog
  [ "$status" = 0 ]
  requests gres/shard:l40s:1
  prolog
  [ "$status" = 1 ]
  [[ $output == "softmig slice fail --job 1 Slurm names no GPU for 'shard:l40s:1'"* ]]
}

@test "a component of a heterogeneous job shares the first one's number where no cgroup tells their processes apart, and only there" {
  newer_slurmd
  requests gres/shard:l40s:1
  config proctrack/linuxproc task/none
  prolog SLURM_JOB_GPUS=2 SLURM_HET_JOB_ID=7
  created "--het-job 7 --gpu 2=1/4"
  for plugins in "proctrack/cgroup task/none" "proctrack/linuxproc task/affinity,task/cgroup"; do
    # shellcheck disable=SC2086
    config $plugins
    prolog SLURM_JOB_GPUS=2 SLURM_HET_JOB_ID=7
    created "--gpu 2=1/4"
  done
  : >"$answers/config"
  prolog SLURM_JOB_GPUS=2 SLURM_HET_JOB_ID=7
  [ "$status" = 1 ]
}

@test "a controller that is away for a moment, at whichever question, only delays the job" {
  older_slurmd
  requests gres:shard:h200:2,gres:shard:l40s:1
  json 'shard:h200:2(IDX:1),shard:l40s:1(IDX:2)'
  config proctrack/linuxproc task/none
  away='file=$answers/asked.$(cksum <<<"$*" | cut -d" " -f1); [ -e "$file" ] || { : >"$file"; echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1; }; '
  says squeue "$away"'case "$*" in *--json*) cat "$answers/json" ;; *) cat "$answers/squeue" ;; esac'
  says slurmd "$away"'cat "$answers/slurmd"'
  says scontrol '[ "$2" != config ] || { '"$away"'cat "$answers/config"; exit; }; [ "$1 $2" = "show hostnames" ] && echo "$3"'
  prolog SLURM_JOB_GPUS=2 SLURM_HET_JOB_ID=7 SOFTMIG_PROLOG_TRIES=2
  created "--het-job 7 --gpu 1=2/4 --gpu 2=1/4"
  [ "$(ls "$answers"/asked.* | wc -l)" = 5 ] # slurmd's own reading of gres.conf is asked for with and without the node's name
}

@test "a device that slurmd does not name is not guessed" {
  older_slurmd
  requests gres:shard:l40s:1
  sed -i /nvidia2/d "$answers/slurmd"
  prolog SLURM_JOB_GPUS=2
  [ "$status" = 1 ]
  [[ $output == "softmig slice fail --job 1 slurmd -G does not say which device GPU 2 is" ]]
  says slurmd 'exit 1'
  prolog SLURM_JOB_GPUS=2
  [ "$status" = 1 ]
  [[ $output == "softmig slice fail --job 1 slurmd -G did not say which GPUs this node has" ]]
}

@test "the table is read as the plugins read it, and a line that they would not understand gives no slice" {
  newer_slurmd
  requests gres/shard:l40s:1
  for line in 'L40S 8' 'l40s 8 # eighths' 'l40s 8#' $'l40s\t8\r'; do
    printf 'h200 4\n%s' "$line" >"$BATS_TEST_TMPDIR/etc/softmig.conf"
    prolog SLURM_JOB_GPUS=2
    created "--gpu 2=1/8" || { echo "$line" && return 1; }
  done
  for line in '# l40s 8' 'l40s' 'l40s 4x' 'l40s 0' 'l40s x4' 'l40'; do
    printf '%s\n' "$line" >"$BATS_TEST_TMPDIR/etc/softmig.conf"
    prolog SLURM_JOB_GPUS=2
    [ "$status" = 1 ]
    [[ $output == "softmig slice fail --job 1 GPU type 'l40s' has no line with its shards in softmig.conf" ]] || { echo "$line: $output" && return 1; }
  done
}

@test "what prolog and epilog write is root's alone, whatever slurmd's umask" {
  newer_slurmd
  requests gres/shard:l40s:1
  says softmig 'stat -c "%n %a" /run/softmig/.gpus /run/softmig/.swept 2>/dev/null; true'
  run unshare -m sh -c 'umask 0; mount -t tmpfs none /run && mkdir -m 755 /run/softmig; "$@"; "$SOURCE/src/slurm/softmig-epilog"; stat -c "%n %a" /run/softmig/.[gs]*' _ \
    env -i answers="$answers" SOFTMIG_COMMAND="$bin/softmig" SLURM_CONF="$BATS_TEST_TMPDIR/etc/slurm.conf" SLURMD_NODENAME=n3 SLURM_NODELIST=n3 SLURM_JOB_ID=1 \
    SLURM_JOB_GPUS=2 SLURM_JOB_UID=65534 SLURM_JOB_GID=65534 "$BATS_TEST_TMPDIR/sbin/slurmd-stand-in" -c "$SOURCE/src/slurm/softmig-prolog; exit \$?"
  [[ $output == *"/run/softmig/.gpus 644"*"/run/softmig/.swept 644" ]]
}

# epilog JOBS FILE...: the epilog's sweep on a node where these files lie, when the controller knows these jobs there; prints its deletions
epilog() {
  local jobs=$1
  shift
  says squeue "[[ \"\$*\" == *'-t all'*'-w n3'* ]] || exit 1; printf '%s\\n' $jobs"
  says softmig 'echo "$*"'
  run unshare -m sh -c 'mount -t tmpfs none /run && mkdir /run/softmig && cd /run/softmig && touch "$@" && exec env -i SOFTMIG_COMMAND="$SOFTMIG_COMMAND" PATH="$PATH" \
      SLURM_JOB_ID=1 SLURMD_NODENAME=n3 "$slurmd" -c "$SOURCE/src/slurm/softmig-epilog; exit \$?"' _ "$@"
  [ "$status" = 0 ]
}

@test "the epilog sweeps what belongs to no job that the controller knows, parts too, and nothing else" {
  export SOFTMIG_COMMAND=$bin/softmig slurmd=$BATS_TEST_TMPDIR/sbin/slurmd-stand-in
  epilog "7 88" 7.conf 7.ledger 8.conf 88.ledger 9.ledger 10+11.part 10.conf .gpus 12.conf.new notes.conf
  [ "$output" = "slice delete --job 1
slice delete --job 10
slice delete --job 11
slice delete --job 8
slice delete --job 9" ]
}

@test "the example of a TaskProlog gives a folder of the user alone, and none that somebody else has put there" {
  taskprolog=$(<"$SOURCE/src/slurm/examples/taskprolog") # the checkout may lie in /tmp itself
  export taskprolog
  task() { SLURM_JOB_ID=$1 SLURM_JOB_UID=0 bash -c "$taskprolog"; }
  run unshare -m bash -c "mount -t tmpfs -o mode=1777 none /tmp; $(declare -f task)"$'\n''task 1; task 1; stat -c "%a %u" /tmp/slurm.1.0
    ln -s /var /tmp/slurm.2.0; task 2; mkdir /tmp/slurm.3.0; chown nobody /tmp/slurm.3.0; task 3'
  [ "$output" = "export SLURM_TMPDIR=/tmp/slurm.1.0
export SLURM_TMPDIR=/tmp/slurm.1.0
700 0" ]
}
