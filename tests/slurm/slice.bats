#!/usr/bin/env bats
# SPDX-License-Identifier: Apache-2.0
# shellcheck disable=SC2016 # scripts for other shells
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
  unshare -m bash -c "mount -t tmpfs -o mode=755 softmig /run && mount -t tmpfs -o mode=755 softmig /var/log && mkdir -m 755 \$s || exit 99
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
2|'0' is not a value for --memory|resize --job 1 --memory 0
2|'0' is not a value for --sm|resize --job 1 --sm 0
2|'101' is not a value for --sm|resize --job 1 --sm 101
2|'lend' is not a value for --share-mode|create --job 1 --uid 1 --gpu 0=1/4 --share-mode lend
2|--memory is not for create|create --job 1 --uid 1 --gpu 0=1/4 --memory 4G
2|--sm is not for create|create --job 1 --uid 1 --gpu 0=1/4 --sm 10
2|--replace is not for resize|resize --job 1 --sm 10 --replace
2|--uid is not for delete|delete --job 1 --uid 1
2|--gpu is not for delete|delete --job 1 --gpu 0=1/4
2|'all' is one word too many|delete --job 1 all
2|fail needs one reason|fail --job 1
2|create, resize or delete is missing|
2|--job needs a value|delete --job
2|a slice has at most 16 GPUs|create --job 1 --uid 1 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4 --gpu 0=1/4
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

@test "resize gives no more memory than the GPU has" {
  run -1 own 'slice create --job 1 --uid 1 --gpu 2=1/4; slice resize --job 1 --memory 45453M'
  [[ $output == *"job 1: GPU GPU-"*" does not have that much memory" ]]
  run -0 own 'slice create --job 1 --uid 1 --gpu 2=1/4; slice resize --job 1 --memory 45452M; grep MEMORY $s/1.conf'
  [ "$output" = CUDA_DEVICE_MEMORY_LIMIT_0=45452M ]
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
  for size in 4k 64k 1220k 1224k; do # at 1224k the ledger fits and the limit file does not
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

@test "a user who may look into the state directory can hold up nothing" {
  run -0 own 'setpriv --reuid 65534 --clear-groups flock --no-fork $s sleep 20 & until ! flock -n $s true; do :; done
    timeout 5 "$softmig" slice create --job 1 --uid 1 --gpu 0=1/4 && ls -A $s; timeout 5 "$softmig" slice delete --job 1 && ls -A $s; kill %1'
  [ "$output" = "1.conf
1.ledger
turns" ]
}

@test "no umask, no locale, no PATH and no environment changes a byte" {
  script='slice create --job 1 --uid 65534 --gid 65534 --gpu 0=1/4 --array-task 3; cat $s/1.conf; find $s $log -printf "%p %U %G %m %s\n" | sort; slice delete --job 1; find $s $log | sort'
  expected=$(own "$script")
  [[ $expected == *"/var/log/softmig/1_3.log 65534 65534 600 0"* ]]
  [ "$(own "umask 0; $script")" = "$expected" ]
  [ "$(own "umask 0777; $script")" = "$expected" ]
  [ "$(own "export LC_ALL=tr_TR.UTF-8 LANG=de_DE.UTF-8 TZ=Nowhere/Else; $script")" = "$expected" ]
  [ "$(own "slice() { env -i LD_LIBRARY_PATH=\$LD_LIBRARY_PATH SOFTMIG_SIM_STATE=\$SOFTMIG_SIM_STATE SOFTMIG_SIM_GPUS=\$SOFTMIG_SIM_GPUS \$softmig slice \"\$@\"; }; $script")" = "$expected" ]
  [ "$(own "slice() { \$softmig slice \"\$@\" <&- >&- 2>&-; }; $script")" = "$expected" ]
}

# Kills softmig slice at each call of each system call that changes something, from a state that BEFORE makes: a limit file is whole, and is
# not there without its ledger (but while it is being deleted); and the same command again leaves what it leaves when nothing happens.
# In strace's counting each system call is counted by itself.
killed_anywhere() { # killed_anywhere BEFORE ARGUMENTS
  export before=$1 arguments=$2
  run own '
    state() { (cd $s && find . -printf "%p %U %G %m %s\n" | sort && cat *.conf *.part 2>/dev/null); true; }
    empty() { rm -rf $s/* $s/.lock; }
    eval "$before; slice $arguments"; complete=$(state); kills=0
    for call in mkdir mkdirat openat flock write pwrite64 fallocate ftruncate fchmod chmod fchown rename renameat link linkat unlink unlinkat rmdir; do
      for n in $(seq 90); do
        empty; eval "$before"
        status=0
        strace -qq -o /dev/null -e trace="?$call" -e signal=none -e "inject=?$call:signal=KILL:when=$n" "$softmig" slice $arguments >/dev/null 2>&1 || status=$?
        [ $status != 0 ] || break
        kills=$((kills + 1))
        for file in $s/*.conf; do
          [ -e "$file" ] || continue
          tail -n 1 "$file" | grep -q "^SOFTMIG_GPU_UUID_[0-9]*=GPU-.\{36\}$" || { echo "$call $n: $file is not whole"; exit 1; }
          [ -e "${file%.conf}.ledger" ] || [[ $arguments == delete* ]] || { echo "$call $n: $file without a ledger"; exit 1; }
        done
        slice $arguments 2>&1 || { echo "$call $n, and again: fails"; exit 1; }
        [ "$(state)" = "$complete" ] || { echo "$call $n, and again: $(diff <(echo "$complete") <(state))"; exit 1; }
      done
      [ $status = 0 ] || { echo "$call never came to an end"; exit 1; }
    done 2>/dev/null
    echo "$kills kills"'
  echo "$output"
  [[ $output =~ ^([0-9]+)\ kills$ ]] && [ "${BASH_REMATCH[1]}" -gt 30 ]
}

@test "create killed anywhere" {
  killed_anywhere : 'create --replace --job 6 --uid 65534 --gpu 0=1/4 --gpu 2=2/4'
}
@test "resize killed anywhere" {
  killed_anywhere 'slice create --job 6 --uid 65534 --gpu 0=1/4' 'resize --job 6 --gpu 0=3/4'
}
@test "delete killed anywhere" {
  killed_anywhere 'slice create --job 6 --uid 65534 --gpu 0=1/4 --gpu 2=1/4; slice create --job 7 --uid 1 --gpu 0=1/4' 'delete --job 6'
}
@test "the slice of a component killed anywhere: made, changed, removed" {
  first='slice create --job 5 --uid 65534 --gpu 0=1/4 --het-job 5'
  second='slice create --job 6 --uid 65534 --gpu 0=2/4 --gpu 2=1/4 --het-job 5'
  killed_anywhere "$first" 'create --replace --job 6 --uid 65534 --gpu 0=2/4 --gpu 2=1/4 --het-job 5'
  killed_anywhere "$second" 'create --replace --job 5 --uid 65534 --gpu 0=1/4 --het-job 5'
  killed_anywhere "$first; $second" 'resize --job 6 --sm 7'
  killed_anywhere "$first; $second" 'delete --job 6'
  killed_anywhere "$first; $second" 'delete --job 5'
  killed_anywhere "$second" 'delete --job 6'
}

# The same with calls that fail: a command that says so, in one sentence, leaves what was there before it; else all is done in spite of it.
failing_anywhere() { # failing_anywhere BEFORE ARGUMENTS
  export before=$1 arguments=$2
  run own '
    state() { rm -f $s/.lock; (cd $s && find . -printf "%p %U %G %m %s\n" | sort && cat *.conf *.part 2>/dev/null); true; }
    empty() { rm -rf $s/* $s/.lock; }
    eval "$before"; old=$(state); slice $arguments; complete=$(state); failures=0
    for call in mkdir mkdirat openat flock write pwrite64 fallocate fchmod fchown renameat linkat unlinkat; do
      empty; eval "$before"
      strace -qq -o /tmp/trace.$$ -e trace="?$call" -e signal=none "$softmig" slice $arguments
      grep "^$call" /tmp/trace.$$ >/tmp/calls.$$
      n=0
      while read -r line; do
        n=$((n + 1))
        [[ "$call $line" != "openat "* || $line == *softmig* || $line == *\"[0-9]* ]] || continue # of the loader and the driver
        [[ $line != *ENOENT* ]] || continue
        empty; eval "$before"
        status=0
        strace -qq -o /dev/null -e trace="?$call" -e signal=none -e "inject=?$call:error=EIO:when=$n" "$softmig" slice $arguments 2>/tmp/said.$$ || status=$?
        failures=$((failures + 1))
        now=$(state)
        [ $status = 0 ] && [ "$now" = "$complete" ] && continue
        if [ $status != 1 ] || [ "$(grep -c ^softmig /tmp/said.$$)" != 1 ]; then echo "$call $n ($line): status $status, $(cat /tmp/said.$$) $(diff <(echo "$complete") <(echo "$now"))"; exit 1; fi
        # a page of turns of the number that other components bear stays until they go: nobody is on it
        besides=nothing; [[ $arguments != *het-job* ]] || besides=turns
        [ "$(grep -v $besides <<<"$now")" = "$(grep -v $besides <<<"$old")" ] || [[ $arguments == delete* ]] || { echo "$call $n ($line) failed: $(cat /tmp/said.$$) $(diff <(echo "$old") <(echo "$now"))"; exit 1; }
        slice $arguments || exit 1
        [ "$(state)" = "$complete" ] || { echo "$call $n failed, and again: $(diff <(echo "$complete") <(state))"; exit 1; }
      done </tmp/calls.$$
    done
    rm -f /tmp/*.$$
    echo "$failures failures"'
  echo "$output"
  [[ $output =~ ^([0-9]+)\ failures$ ]] && [ "${BASH_REMATCH[1]}" -gt 5 ]
}

@test "calls that fail anywhere leave what was there: create" { failing_anywhere : 'create --replace --job 6 --uid 65534 --gpu 0=1/4 --gpu 2=2/4'; }
@test "calls that fail anywhere leave what was there: resize" { failing_anywhere 'slice create --job 6 --uid 65534 --gpu 0=1/4' 'resize --job 6 --gpu 0=3/4'; }
@test "calls that fail anywhere leave what was there, or what the next delete removes: delete" {
  failing_anywhere 'slice create --job 6 --uid 65534 --gpu 0=1/4 --gpu 2=1/4; slice create --job 7 --uid 1 --gpu 0=1/4' 'delete --job 6'
}
@test "calls that fail anywhere leave what was there: a component" {
  failing_anywhere 'slice create --job 5 --uid 65534 --gpu 0=1/4 --het-job 5' 'create --replace --job 6 --uid 65534 --gpu 0=2/4 --gpu 2=1/4 --het-job 5'
}

@test "the number of a first component bears the sum of the parts on this node, for as long as one is there" {
  run -0 own 'sum() { grep -hs LIMIT $s/5.conf | paste -sd" "; LC_ALL=C ls $s | grep -v turns | paste -sd" "; }
    slice create --replace --job 6 --uid 1 --gpu 0=1/4 --het-job 5; sum # the first one may be on another node
    slice create --replace --job 5 --uid 1 --gpu 0=1/4 --het-job 5; sum
    i=$(stat -c %i $s/5.ledger)
    slice create --replace --job 7 --uid 1 --gpu 2=2/4 --het-job 5; sum
    for job in 5 6 7; do u=$(sed -n s/SOFTMIG_GPU_UUID_0=//p $s/$job.conf); slice create --replace --job $job --uid 1 --gpu $u=$([ $job = 7 ] && echo 2 || echo 1)/4 --het-job 5; done; sum
    slice resize --job 6 --sm 5; slice resize --job 5 --memory 1G; sum
    [ $i = $(stat -c %i $s/5.ledger) ] && echo same ledger
    slice delete --job 5; sum
    slice delete --job 5; slice delete --job 6; sum
    slice delete --job 7; sum'
  echo "$output"
  [ "$output" = "CUDA_DEVICE_MEMORY_LIMIT_0=35788M CUDA_DEVICE_SM_LIMIT_0=25
5+6.part 5.conf 5.ledger 6.conf 6.ledger
CUDA_DEVICE_MEMORY_LIMIT_0=71576M CUDA_DEVICE_SM_LIMIT_0=50
5+5.part 5+6.part 5.conf 5.ledger 6.conf 6.ledger
CUDA_DEVICE_MEMORY_LIMIT_0=71576M CUDA_DEVICE_SM_LIMIT_0=50 CUDA_DEVICE_MEMORY_LIMIT_1=22726M CUDA_DEVICE_SM_LIMIT_1=50
5+5.part 5+6.part 5+7.part 5.conf 5.ledger 6.conf 6.ledger 7.conf 7.ledger
CUDA_DEVICE_MEMORY_LIMIT_0=71576M CUDA_DEVICE_SM_LIMIT_0=50 CUDA_DEVICE_MEMORY_LIMIT_1=22726M CUDA_DEVICE_SM_LIMIT_1=50
5+5.part 5+6.part 5+7.part 5.conf 5.ledger 6.conf 6.ledger 7.conf 7.ledger
CUDA_DEVICE_MEMORY_LIMIT_0=36812M CUDA_DEVICE_SM_LIMIT_0=30 CUDA_DEVICE_MEMORY_LIMIT_1=22726M CUDA_DEVICE_SM_LIMIT_1=50
5+5.part 5+6.part 5+7.part 5.conf 5.ledger 6.conf 6.ledger 7.conf 7.ledger
same ledger
CUDA_DEVICE_MEMORY_LIMIT_0=35788M CUDA_DEVICE_SM_LIMIT_0=5 CUDA_DEVICE_MEMORY_LIMIT_1=22726M CUDA_DEVICE_SM_LIMIT_1=50
5+6.part 5+7.part 5.conf 5.ledger 6.conf 6.ledger 7.conf 7.ledger
CUDA_DEVICE_MEMORY_LIMIT_0=22726M CUDA_DEVICE_SM_LIMIT_0=50
5+7.part 5.conf 5.ledger 7.conf 7.ledger" ]
}
