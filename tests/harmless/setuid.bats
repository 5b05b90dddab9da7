#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154,SC2314 # the single-quoted scripts are for the shell under test
# In a setuid program no variable of the user changes anything: not the limit, not the log, not the ledger; root's file does.
load lib

setup() {
  cp "$PROGRAMS/touch_driver" /mnt/bin/touch_setuid
  chmod 4755 /mnt/bin/touch_setuid
  chmod 777 /mnt/run
  enable_library
}

as_nobody() { su -s /bin/bash nobody -c "$1"; }

@test "without root the variables make a slice" {
  run as_nobody 'CUDA_DEVICE_MEMORY_LIMIT=1G /mnt/bin/touch_driver'
  [[ "$output" == *"code 0, 1024 MiB, privileged 0"* ]]
}

@test "in a setuid program they do nothing: whole GPU, no log, no ledger, nothing said" {
  run as_nobody 'CUDA_DEVICE_MEMORY_LIMIT=1G CUDA_DEVICE_SM_LIMIT=10 SOFTMIG_LOG_LEVEL=4 LIBCUDA_LOG_LEVEL=4 SOFTMIG_LOG_FILE=/mnt/tmp/from-setuid.log \
    CUDA_DEVICE_MEMORY_SHARED_CACHE=/mnt/tmp/from-setuid.ledger SOFTMIG_LOCK_FILE=/mnt/tmp/from-setuid.lock SLURM_TMPDIR=/mnt/tmp ACTIVE_OOM_KILLER=1 /mnt/bin/touch_setuid'
  [ "$output" = "code 0, 45452 MiB, privileged 1" ]
  [ ! -e /mnt/tmp/from-setuid.log ]
  [ ! -e /mnt/tmp/from-setuid.ledger ]
  [ ! -e /mnt/tmp/from-setuid.lock ]
  [ ! -e /mnt/tmp/cudevshr.cache.0 ]
}

@test "a job number from the environment does not count in it either" {
  printf 'CUDA_DEVICE_MEMORY_LIMIT=2G\n' >/run/softmig/4711.conf
  run as_nobody 'SLURM_TMPDIR=/mnt/tmp SLURM_JOB_ID=4711 /mnt/bin/touch_driver'
  [[ "$output" == *"2048 MiB"* ]]
  run as_nobody 'SLURM_TMPDIR=/mnt/tmp SLURM_JOB_ID=4711 /mnt/bin/touch_setuid'
  [ "$output" = "code 0, 45452 MiB, privileged 1" ]
}

@test "switched off by root, the library is passive everywhere at once" {
  mkdir -p /etc/softmig
  : >/etc/softmig/disabled
  run as_nobody 'CUDA_DEVICE_MEMORY_LIMIT=1G /mnt/bin/touch_driver'
  [[ "$output" == *"code 0, 45452 MiB"* ]]
  rm /etc/softmig/disabled
  run as_nobody 'CUDA_DEVICE_MEMORY_LIMIT=1G /mnt/bin/touch_driver'
  [[ "$output" == *"code 0, 1024 MiB"* ]]
}

@test "a user's file of the same name does not switch it off" {
  mkdir -p /etc/softmig
  : >/etc/softmig/disabled
  chown nobody /etc/softmig/disabled
  run as_nobody 'CUDA_DEVICE_MEMORY_LIMIT=1G /mnt/bin/touch_driver'
  [[ "$output" == *"code 0, 1024 MiB"* ]]
  rm /etc/softmig/disabled
}
