#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2034,SC2154 # the single-quoted scripts are for the shell inside the container
# Slices in containers, as docs/containers.md says they work: by LD_PRELOAD alone, by three binds, in PID and user namespaces.
load ../harmless/lib

job=77
image=/mnt/tmp/image

# An image of few files: a shell, two programs, the driver's libraries; none of SoftMig.
make_image() {
  local file
  mkdir -p $image/{bin,etc,proc,dev,sys,tmp,run/softmig,var/lib/shared,mnt/run,mnt/tmp,mnt/driver,lib64,home,root}
  ln -s /run $image/var/run
  for file in /bin/sh "$PROGRAMS/touch_driver" "$PROGRAMS/probe"; do cp "$file" $image/bin/; done
  ldd /bin/sh "$PROGRAMS/touch_driver" /mnt/driver/*.so.1 | grep -o '/[^ ]*' | grep -v : | sort -u | while read -r file; do
    [ -e "$image$file" ] || install -D "$(realpath "$file")" "$image$file"
  done
  cp /mnt/driver/*.so.1 $image/mnt/driver/
  touch $image/etc/ld.so.preload $image/etc/{passwd,group,hosts,resolv.conf}
}

setup() {
  needs bwrap
  mkdir -p /mnt/tmp/job # what SLURM_TMPDIR is to a job
  chmod 777 /mnt/tmp/job
  printf 'CUDA_DEVICE_MEMORY_LIMIT=2G\n' >/run/softmig/$job.conf
  [ -d $image ] || make_image
  echo /var/lib/shared/libsoftmig.so >/mnt/tmp/preload
  ln -sf libsoftmig.so /mnt/lib/libvgpu.so
}

teardown() { echo "output: $output"; rm -rf /mnt/tmp/job/* /mnt/tmp/held /mnt/tmp/fake; }

# box OPTIONS... -- COMMAND...: in a container of that image; the simulated GPU's state is its /dev/nvidia*
box() { bwrap --ro-bind $image / --proc /proc --dev /dev --tmpfs /tmp --bind /mnt/run /mnt/run --bind /mnt/tmp /mnt/tmp --setenv LD_LIBRARY_PATH /mnt/driver --die-with-parent "$@"; }

# of_job OPTIONS...: the same with the three binds
of_job() {
  box --ro-bind /mnt/lib /var/lib/shared --ro-bind /mnt/tmp/preload /etc/ld.so.preload --bind /run/softmig /run/softmig \
    --setenv SLURM_JOB_ID $job --setenv SLURM_TMPDIR /mnt/tmp/job "$@"
}

@test "without anything of ours, a container shows the whole GPU" {
  run box touch_driver
  [ "$output" = "code 0, 45452 MiB, privileged 0" ]
}

@test "LD_PRELOAD alone, by the library's second name" {
  run box --ro-bind /mnt/lib /tmp/slice --setenv LD_PRELOAD /tmp/slice/libvgpu.so --setenv CUDA_DEVICE_MEMORY_LIMIT 1g --setenv CUDA_DEVICE_SM_LIMIT 50 touch_driver
  [ "$output" = "code 0, 1024 MiB, privileged 0" ]
}

@test "the three binds: root's limit holds, whatever the variables say" {
  run of_job --setenv CUDA_DEVICE_MEMORY_LIMIT 40G touch_driver 1000
  [ "${lines[0]}" = "code 0, 2048 MiB, privileged 0" ]
  [ "${lines[1]}" = "took 1000 MiB: 0, 612 MiB free" ]
  run of_job touch_driver 1700
  [[ "${lines[1]}" == "took 1700 MiB: 2, "* ]]
}

@test "a program of the container that never touches the GPU is as without" {
  run box probe
  without=$output
  run of_job --unsetenv SLURM_JOB_ID --unsetenv SLURM_TMPDIR probe
  diff <(echo "$without") <(echo "$output")
}

# Waits until the text stands in the file.
wait_for() {
  local try
  for try in $(seq 600); do
    grep -q "$1" "$2" && return
    sleep 0.05
  done
  cat "$2"
  return 1
}

outside() { env SLURM_JOB_ID=$job SLURM_TMPDIR=/mnt/tmp/job LD_PRELOAD="$LIBRARY" "$PROGRAMS/touch_driver" "$@"; }

@test "PID namespaces: processes of one container share the slice, and the dead give theirs back" {
  : >/mnt/tmp/held
  of_job --unshare-pid sh -c 'touch_driver 700 /mnt/tmp/held >/mnt/tmp/first & victim=$!
    until { read -r line && read -r line; } </mnt/tmp/first 2>/dev/null; do :; done; touch_driver 700; touch_driver 300; kill -9 $victim; wait $victim 2>/dev/null; touch_driver 1500' >/mnt/tmp/out 2>/dev/null
  grep took /mnt/tmp/out >/mnt/tmp/took
  diff <(sed 's/,.*//' /mnt/tmp/took) <(printf '%s\n' 'took 700 MiB: 2' 'took 300 MiB: 0' 'took 1500 MiB: 0')
}

@test "PID namespaces: containers of one job share one slice" {
  : >/mnt/tmp/held
  of_job --unshare-pid touch_driver 700 /mnt/tmp/held >/mnt/tmp/first &
  local first=$!
  wait_for 'took 700 MiB: 0' /mnt/tmp/first
  run of_job --unshare-pid touch_driver 700
  [[ "${lines[1]}" == "took 700 MiB: 2, "* ]] # the first one's 700 and two contexts: no room
  rm /mnt/tmp/held
  wait $first
}

@test "PID namespaces: what a killed container held is free when a process outside asks" {
  : >/mnt/tmp/held
  of_job --unshare-pid touch_driver 1200 /mnt/tmp/held >/mnt/tmp/first &
  local first=$! try
  wait_for 'took 1200 MiB: 0' /mnt/tmp/first
  kill -9 $first # --die-with-parent takes the rest with it
  wait $first || true
  for try in $(seq 200); do # the kernel ends the namespace in its own time
    run outside 1500
    [[ "${lines[1]}" == "took 1500 MiB: 0, "* ]] && break
    sleep 0.05
  done
  [[ "${lines[1]}" == "took 1500 MiB: 0, "* ]]
}

@test "user namespaces: root's file still counts, and a user who is root in there cannot forge one" {
  chmod 755 $image
  chown nobody /mnt/tmp/job
  export SOFTMIG_SIM_STATE=/mnt/run/sim-nobody
  rootless() { su -s /bin/bash nobody -c "$(declare -f box of_job); job=$job image=$image; $1"; }
  run rootless 'of_job --unshare-user touch_driver'
  [ "$output" = "code 0, 2048 MiB, privileged 0" ]
  run rootless 'of_job --unshare-user --uid 0 --gid 0 touch_driver'
  [ "$output" = "code 0, 2048 MiB, privileged 0" ]
  mkdir /mnt/tmp/fake
  printf 'CUDA_DEVICE_MEMORY_LIMIT=40G\n' >/mnt/tmp/fake/$job.conf
  chown -R nobody /mnt/tmp/fake
  run rootless 'of_job --unshare-user --uid 0 --gid 0 --bind /mnt/tmp/fake /run/softmig touch_driver'
  [ "$output" = "code 100, 0 MiB, privileged 0" ] # no usable GPU, and the log says why
}

@test "Charliecloud" {
  needs ch-run
  chmod -R a+rX $image
  chown nobody /mnt/tmp/job
  export SOFTMIG_SIM_STATE=/mnt/run/sim-nobody
  charlie() {
    su -s /bin/bash nobody -c "USER=nobody HOME=/tmp ch-run --private-tmp -b /mnt/run:/mnt/run -b /mnt/tmp:/mnt/tmp -b /mnt/lib:/var/lib/shared \
      -b /mnt/tmp/preload:/etc/ld.so.preload -b /run/softmig:/run/softmig --set-env=LD_LIBRARY_PATH=/mnt/driver --set-env=SLURM_JOB_ID=$job \
      --set-env=SLURM_TMPDIR=/mnt/tmp/job --set-env=PATH=/bin --set-env=SOFTMIG_SIM_STATE=/mnt/run/sim-nobody $image -- touch_driver $1"
  }
  run charlie 300
  [ "${lines[0]}" = "code 0, 2048 MiB, privileged 0" ]
  [[ "${lines[1]}" == "took 300 MiB: 0, "* ]]
}
