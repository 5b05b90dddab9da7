# SPDX-License-Identifier: Apache-2.0
# What the tests on a cluster share: starting the laboratory once per file, submitting, waiting, reading what a job saw.
# shellcheck shell=bash disable=SC2034,SC2046
: "${BUILD:?}" "${SOURCE:?}"
number=$(cksum <<<"$BUILD" | cut -d' ' -f1) # builds beside each other do not meet
LAB=/tmp/softmig-slurm-$number
export LAB LAB_BIN=$BUILD LAB_PRELOAD=$BUILD/libsoftmig.so LAB_LIBRARIES=${LAB_LIBRARIES:-$BUILD/sim} LAB_SLURM=$SOURCE/src/slurm LAB_LIFETIME=400 LAB_PORT=$((20000 + number % 1000 * 10))
lab=$SOURCE/tests/slurm/lab
probe=$BUILD/programs/slurm-probe
USER1=nobody USER2=games # of the system, not root, no login
export SLURM_CONF=$LAB/etc/slurm.conf

lab_start() { # lab_start [VARIABLE=VALUE...]: or skip the file, saying why
  [ "$(id -u)" = 0 ] || skip "needs root for mount namespaces and the uids of jobs"
  command -v slurmctld >/dev/null || skip "needs Slurm (Debian: slurmctld slurmd)"
  unshare -m true 2>/dev/null || skip "needs mount namespaces"
  [ -e "$LAB_LIBRARIES/libcuda.so.1" ] || skip "needs the simulated driver"
  timeout 30 "$lab" stop
  timeout 330 env "$@" "$lab" start >/dev/null
}
lab_stop() { timeout 60 "$lab" stop; }

# as the first user, on the login node, from a folder that every user may be in; 40 s at most
as() { (cd /tmp && timeout 40 "$lab" as "$USER1" "$@"); }
root() { timeout 20 "$lab" run "$@"; }
on() { timeout 20 "$lab" on "$@"; }

# submit OPTIONS... -- COMMAND: a batch job of one line; prints its id. Its output is output ID.
submit() {
  local options=()
  while [ "$1" != -- ]; do options+=("$1") && shift; done
  shift
  as sbatch --parsable -o "$LAB/out/%A.%a" "${options[@]}" --wrap="$*"
}
output() { cat "$LAB/out/$1.${2:-4294967294}"; }

state() { root squeue -h -t all -j "$1" -o %T 2>/dev/null | sort -u | paste -sd,; }
# wait_for STATES ID: until all of the job's parts are in one of these states, "A|B"
wait_for() {
  local now
  for _ in $(seq 400); do
    now=$(state "$2")
    if [ -n "$now" ] && ! tr , '\n' <<<"$now" | grep -qvxE "$1"; then return 0; fi
    sleep 0.1
  done
  echo "job $2 is $now, not $1" >&2
  root scontrol show job -d "$2" >&2
  return 1
}
done_job() { wait_for 'COMPLETED|FAILED|CANCELLED|TIMEOUT' "$1"; }
# batch OPTIONS... -- COMMAND: submit, wait, show the output
batch() {
  local id
  id=$(submit "$@") || return 1
  done_job "$id" && output "$id"
}

until_true() { # until_true COMMAND...: within 30 s
  for _ in $(seq 300); do "$@" 2>/dev/null && return 0; sleep 0.1; done
  echo "never became true: $*" >&2
  return 1
}
no_state() { # nothing of any job on NODE
  local left
  left=$(on "$1" find /run/softmig -mindepth 1 ! -name '.*')
  [ -z "$left" ]
}
cancel_all() { # what an earlier test left
  root sinfo -h -R -o %n | grep -q . && resume
  [ -z "$(root squeue -h)" ] || { root scancel -u "$USER1" && root scancel -u "$USER2" && until_true idle; }
}
idle() { [ -z "$(root squeue -h)" ]; }
nothing_left() {
  local node
  for node in n1 n2 n3; do until_true no_state $node || { on "$node" ls -la /run/softmig && return 1; }; done
}
resume() { # after a drained node
  local node
  for node in n1 n2 n3; do root scontrol update nodename=$node state=resume 2>/dev/null || true; done
  timeout 20 "$lab" wait-idle
}
uuid_of() { # uuid_of NODE MINOR: as the simulated driver has it
  on "$1" env $(cat "$LAB/nodes/$1/sim.env") "$BUILD/programs/slurm-probe" | awk -v i="$2" '$1 == "gpu" && $2 == i { print $3 }'
}
logs_say() { on "$1" sh -c "grep -hq '$2' /var/log/softmig/*.log"; } # logs_say NODE TEXT
sliced() { until_true on "$1" test -e "/run/softmig/$2.conf"; } # sliced NODE ID: its prolog has made the slice
limit_file() { on "$1" cat "/run/softmig/$2.conf"; }
