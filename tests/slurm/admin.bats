#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016,SC2154 # scripts for the shell on the node, work is of node.bash
# The commands of docs/admin.md, on a node that is a whole Slurm site of its own: controller, login host and GPU node in one.
bats_require_minimum_version 1.5.0
load ../system/node

setup() {
  command -v slurmctld >/dev/null || skip "needs Slurm (Debian: slurmctld slurmd)"
  node_setup && export node
  cpack --config "$BUILD/CPackConfig.cmake" -G DEB -B "$work/packages" >"$work/cpack.log" 2>&1 || { cat "$work/cpack.log" && return 1; }
  mv "$work"/packages/*.deb "$work/softmig_1.deb"
  awk '/^```sh$/ { inside = 1; next } /^```/ { inside = 0 } inside' "$SOURCE/docs/admin.md" >"$work/commands"
}

teardown() { node_teardown; }

# A site before SoftMig: Slurm with four GPUs, which the simulated driver stands in for. What runs on it lies in /run, which is not the
# node's disk.
site() {
  mount -t tmpfs -o mode=755 none /dev
  mkdir /dev/pts /dev/shm && chmod 1777 /dev/shm && ln -s /proc/self/fd /dev/fd
  local i device host
  for i in 0 1 2 3; do mknod -m 666 "/dev/nvidia$i" c 195 "$i"; done
  for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "/dev/${device%:*}" c 1 "${device#*:}"; done
  [ -e /sys/fs/cgroup/cgroup.controllers ] || { mount -t tmpfs none /sys && mkdir -p /sys/fs/cgroup/freezer; }
  echo "$BUILD/sim" >/etc/ld.so.conf.d/00-driver.conf && ldconfig -X
  mkdir -p /etc/slurm /run/slurm/spool
  host=$(hostname -s)
  cat >/etc/slurm/slurm.conf <<END
ClusterName=site
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation=/run/slurm/state
SlurmdSpoolDir=/run/slurm/spool
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/run/slurm/slurmctld.log
SlurmdLogFile=/run/slurm/slurmd.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=gpu01 NodeHostname=$host NodeAddr=127.0.0.1 Port=26818 CPUs=4 RealMemory=1000 Gres=gpu:l40s:4 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES
END
  echo 'NodeName=gpu01 Name=gpu Type=l40s File=/dev/nvidia[0-3]' >/etc/slurm/gres.conf
  printf 'CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n' >/etc/slurm/cgroup.conf
  # what systemd would do, and it waits until the node is there
  mkdir /tmp/bin
  cat >/tmp/bin/systemctl <<'END'
#!/bin/bash
[ "$1" = restart ] || exit 2
for daemon in slurmd slurmctld; do
  pid=$(cat /run/slurm/$daemon.pid 2>/dev/null) || continue
  kill "$pid"
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.05; done
done
slurmctld && slurmd -N gpu01
for _ in $(seq 200); do [ "$(sinfo -h -N -o %T 2>/dev/null)" != idle ] || exit 0; sleep 0.05; done
tail -n 20 /run/slurm/*.log
exit 1
END
  chmod 755 /tmp/bin/systemctl
  PATH=/tmp/bin:$PATH
}
export -f site

@test "the commands of docs/admin.md take a fresh node to its first sliced job and back, and every byte is as before" {
  [ "$(grep -c . "$work/commands")" -ge 30 ]
  run timeout 120 bash -c '. "$SOURCE/tests/system/node.bash"; on_a_node "$@"' _ bash -c '
    set -e
    site
    systemctl restart slurmctld slurmd
    srun --gres=gpu:l40s:1 "$BUILD/programs/slurm-probe" # a whole one, before
    cp -p /var/lib/dpkg/status /tmp/status
    python3 "$SOURCE/tests/system/manifest.py" record /tmp/manifest
    # the books that dpkg keeps of what it did
    books="/var/log/dpkg.log /var/lib/dpkg/status-old"
    (cd "$work" && bash -ex ./commands) || echo "status $?"
    srun --gres=gpu:l40s:1 "$BUILD/programs/slurm-probe" # and after
    cmp /tmp/status /var/lib/dpkg/status
    python3 "$SOURCE/tests/system/manifest.py" compare /tmp/manifest $books && echo "as before"
    kill "$(cat /run/slurm/slurmd.pid)" "$(cat /run/slurm/slurmctld.pid)"' </dev/null
  echo "$output"
  [[ $output != *"status "[1-9]* ]]
  [[ $output == *"Slice of job "*" of 11.1 GiB used"*" used of 25 %"* ]]
  [[ $output == *": 1 slice, limits of 11.1 GiB and 25 % in all"* || $output == *"o slice"* ]] # its epilog may have been quicker
  [[ $output == *" 0 faults, "* || $output == *$'\n'"0 faults, "* ]]
  [ "$(grep -c '^gpu 0 GPU-[0-9a-f-]* 45452 ' <<<"$output")" = 2 ]
  [ "${lines[-1]}" = "as before" ]
}
