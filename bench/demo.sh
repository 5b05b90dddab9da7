#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# build.sh demo: one program, once as it is and once in a slice of 4 GiB; on the GPU if there is one, else on the simulated one.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
build=${BUILD:-$root/build}
demo=$build/bench/demo

if [ -e /proc/driver/nvidia/version ] || [ -e /dev/nvidiactl ]; then
  echo "This machine has an NVIDIA GPU: the demo runs on it."
  smi=$(command -v nvidia-smi || true)
else
  echo "This machine has no NVIDIA GPU: the demo runs on SoftMig's simulated one ($build/sim)."
  export LD_LIBRARY_PATH=$build/sim${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  smi=
fi

memory() { "$smi" --query-gpu=name,memory.total --format=csv,noheader | sed 's/^/  nvidia-smi: /'; }

echo
echo "Seen from outside:"
"$demo" look
if [ -n "$smi" ]; then memory; fi

echo
echo "The same program in a slice: softmig run --memory 4G -- demo"
"$build/softmig" run --memory 4G -- "$demo" use
if [ -n "$smi" ]; then
  echo
  echo "And NVIDIA's own tool in such a slice:"
  "$build/softmig" run --memory 4G -- "$smi" --query-gpu=name,memory.total --format=csv,noheader | sed 's/^/  nvidia-smi: /'
fi
