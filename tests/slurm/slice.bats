#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# softmig slice by itself: what it writes, what it refuses, that it leaves nothing half-made. In a mount namespace of its own.
bats_require_minimum_version 1.5.0

setup() {
  [ "$(id -u)" = 0 ] || skip "needs root"
  unshare -m true 2>/dev/null || skip "needs mount namespaces"
  export softmig=$BUILD/softmig LD_LIBRARY_PATH=$BUILD/sim SOFTMIG_SIM_STATE=$BATS_TEST_TMPDIR/state SOFTMIG_SIM_GPUS=2xH200:143771M,L40S:46068M
  export s=/run/softmig log=/var/log/softmig
  umask 022
}

# own SCRIPT: in a namespace with /run and /var/log of its own; "$@" of the script is softmig slice
own() {
  unshare -m bash -c "mount -t tmpfs -o mode=755 softmig /run && mount -t tmpfs -o mode=755 softmig /var/log && mkdir -m 755 \$s
    slice() { \"\$softmig\" slice \"\$@\"; }
    $1"
}

@test "create writes limits, ledger and a page of turns for each GPU" {
  run -0 own 'slice create --job 5 --uid 65534 --gid 65534 --gpu 0=1/4 --gpu 2=2/4; cat $s/5.conf; cd $s; find . -type f -printf "%f %U %m\n" | sort; ls turns/* | grep -c "^5$"'
  [[ $output =~ ^"# Job 5, written by softmig slice"$'\n'CUDA_DEVICE_MEMORY_LIMIT_0=35788M$'\n'CUDA_DEVICE_SM_LIMIT_0=25$'\n'SOFTMIG_GPU_UUID_0=(GPU-[0-9a-f-]{36})$'\n'CUDA_DEVICE_MEMORY_LIMIT_1=22726M$'\n'CUDA_DEVICE_SM_LIMIT_1=50$'\n'SOFTMIG_GPU_UUID_1=(GPU-[0-9a-f-]{36})$'\n' ]]
  [ "${BASH_REMATCH[1]}" != "${BASH_REMATCH[2]}" ]
  [[ $output == *$'\n5 65534 644\n5 65534 644\n5.conf 0 644\n5.ledger 65534 600\n2' ]]
}

@test "the shards of a GPU never add up to more than it has, and an eighth is 12 percent" {
  run -0 own 'for job in 1 2 3 4 5 6 7 8; do slice create --job $job --uid 1 --gpu 0=1/8; done; grep -h LIMIT_0 $s/*.conf | sort | uniq -c'
  [[ $output =~ 8\ CUDA_DEVICE_MEMORY_LIMIT_0=17894M ]]
  [[ $output =~ 8\ CUDA_DEVICE_SM_LIMIT_0=12 ]]
}

@test "the shards of a GPU together are what the driver gives to programs, to the MiB" {
  # NVML's 143771 and 46068 MiB less the 616 that the driver reserves for itself
  run -0 own 'for gpu in 0 2; do for job in 1 2 3 4; do slice create --replace --job $job --uid 1 --gpu $gpu=1/4; done; cat $s/?.conf | sed -n "s/.*MEMORY_LIMIT_0=\(.*\)M/\1/p" | awk "{ sum += \$1 } END { print sum }"; done
    slice create --replace --job 1 --uid 1 --gpu 0=4/4; grep MEMORY $s/1.conf'
  [ "$output" = "143152
45452
CUDA_DEVICE_MEMORY_LIMIT_0=143155M" ]
}

@test "a GPU may be named by its UUID" {
  run -0 own 'slice create --job 1 --uid 1 --gpu 2=1/4; u=$(sed -n s/SOFTMIG_GPU_UUID_0=//p $s/1.conf); slice create --job 2 --uid 1 --gpu $u=1/4; cmp <(grep -v Job $s/1.conf) <(grep -v Job $s/2.conf)'
}

@test "nonsense is refused in one sentence, status 1 or 2, and leaves nothing" {
  while IFS='|' read -r expected message arguments; do
    run "-$expected" own "slice $arguments; status=\$?; find \$s -mindepth 1 | grep . && exit 99; exit \$status"
    [[ $output == *"$message"* ]] && [ "${#lines[@]}" = 1 ] || { echo "$arguments: $output" && return 1; }
  done <<'EOF'
1|5 shards of GPU /dev/nvidia0, which has 4|create --job 1 --uid 1 --gpu 0=5/4
1|this node has no GPU /dev/nvidia7|create --job 1 --uid 1 --gpu 7=1/4
1|this node has no GPU GPU-00000000|create --job 1 --uid 1 --gpu GPU-00000000-0000-0000-0000-000000000000=1/4
1|is named twice|create --job 1 --uid 1 --gpu 0=1/4 --gpu 0=1/4
1|it has no slice on this node|resize --job 1 --sm 10
2|GPU=SHARDS/TOTAL|create --job 1 --uid 1 --gpu 0=0/4
2|GPU=SHARDS/TOTAL|create --job 1 --uid 1 --gpu 0=1
2|GPU=SHARDS/TOTAL|create --job 1 --uid 1 --gpu ../x=1/4
2|needs --uid and at least one --gpu|create --job 1 --gpu 0=1/4
2|needs --uid and at least one --gpu|create --job 1 --uid 1
2|'0' is not a value|create --job 0 --uid 1 --gpu 0=1/4
2|'1/../2' is not a value|delete --job 1/../2
2|'-1' is not a value|create --job -1 --uid 1 --gpu 0=1/4
2|--job is missing|delete
2|is neither create, resize nor delete|shrink --job 1
2|resize needs|resize --job 1
2|'0' is not a value|resize --job 1 --memory 0
EOF
}

@test "a job that has a slice is not given another, unless it is to be replaced" {
  run -1 own 'slice create --job 1 --uid 1 --gpu 0=1/4; slice create --job 1 --uid 1 --gpu 0=2/4'
  [[ $output == *"it already has a slice"* ]]
  run -0 own 'slice create --job 1 --uid 1 --gpu 0=1/4; i=$(stat -c %i $s/1.ledger); slice create --replace --job 1 --uid 1 --gpu 0=1/4; [ $i = $(stat -c %i $s/1.ledger) ] || exit 3
    slice create --replace --job 1 --uid 2 --gpu 0=1/4; [ $(stat -c %u $s/1.ledger) = 2 ] || exit 4; slice create --replace --job 1 --uid 2 --gpu 0=2/4; grep -c 71577M $s/1.conf'
  [ "$output" = 1 ]
}

@test "resize changes what is named and nothing else" {
  run -0 own 'slice create --job 1 --uid 1 --gpu 0=1/4 --gpu 1=1/4 --share-mode borrow; slice resize --job 1 --gpu 1=3/4; slice resize --job 1 --sm 40 --oom-killer 1; grep -v UUID $s/1.conf'
  [ "$output" = "# Job 1, written by softmig slice
CUDA_DEVICE_MEMORY_LIMIT_0=35788M
CUDA_DEVICE_SM_LIMIT_0=40
CUDA_DEVICE_MEMORY_LIMIT_1=107366M
CUDA_DEVICE_SM_LIMIT_1=40
ACTIVE_OOM_KILLER=1
SOFTMIG_SHARE_MODE=borrow" ]
  run -1 own 'slice create --job 1 --uid 1 --gpu 0=1/4; slice resize --job 1 --gpu 1=3/4'
  [[ $output == *"it has no slice of GPU GPU-"* ]]
}

@test "delete removes all of the job, nothing of another, and succeeds when there is nothing" {
  run -0 own 'for job in 1 12 123; do slice create --job $job --uid 1 --gpu 0=1/4; done; slice delete --job 12; slice delete --job 12; slice delete --job 77; find $s -type f -printf "%f\n" | sort'
  [ "$output" = "1
1.conf
1.ledger
123
123.conf
123.ledger" ]
}

@test "on a full file system create refuses, says what to do, and leaves nothing, wherever it runs out" {
  for size in 4k 64k 1092k 1096k; do # at 1096k the ledger fits and the limit file does not
    run -1 own "mount -t tmpfs -o mode=755,size=$size softmig \$s; slice create --job 1 --uid 1 --gpu 0=1/4; status=\$?; find \$s -mindepth 1; exit \$status"
    [[ ${#lines[@]} = 1 && $output == *"is full: enlarge its file system"* ]] || { echo "$size: $output" && return 1; }
  done
}

@test "a state directory that is not root's alone is not used" {
  run -1 own 'chmod 777 $s; slice create --job 1 --uid 1 --gpu 0=1/4'
  [[ $output == *"must belong to root and be writable by root alone"* ]]
  run -1 own 'rmdir $s; mkdir /run/x; ln -s /run/x $s; slice create --job 1 --uid 1 --gpu 0=1/4'
  [[ $output == *"cannot be opened"* ]]
}

@test "twenty at once on one node: all there, all gone" {
  run -0 own 'for job in $(seq 20); do slice create --job $job --uid $job --gpu 0=1/4 & done; wait; ls $s/*.conf | wc -l; for job in $(seq 20); do slice delete --job $job & done; wait; find $s -mindepth 1 | wc -l'
  [ "$output" = "20
0" ]
}

@test "only root may" {
  run -1 setpriv --reuid 65534 --clear-groups "$BUILD/softmig" slice delete --job 1
  [[ $output == *"only root may do this"* ]] || [ "$status" = 126 ]
}
