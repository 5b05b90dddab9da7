# SPDX-License-Identifier: Apache-2.0
"""One of two ranks that add up 256 MiB over and over, for bench/share: share_nccl.py all-reduce|step RANK FILE SECONDS.

step: half a millisecond of a kernel of its own before each. FILE: where the ranks meet. Prints "ready" when the first sums are right, waits
for the moment to begin, then "window I COUNT" for each second, and "right 1" if the last sum is right."""
import datetime
import os
import sys
import time

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # multicast needs what not every machine lends
import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402

kind, rank, meet, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
torch.cuda.set_device(rank)
dist.init_process_group("nccl", init_method=f"file://{meet}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=90))
x = torch.full((64 << 20,), float(rank + 1), device="cuda")
enough = torch.zeros(1, device="cuda")  # both ranks must stop after the same number


def one():
    if kind == "step":
        torch.cuda._sleep(900_000)
    dist.all_reduce(x, op=dist.ReduceOp.AVG)


for _ in range(20):
    one()
torch.cuda.synchronize()
right = bool((x == 1.5).all().item())
print("ready", flush=True)
start_ns = int(sys.stdin.readline())
time.sleep(max(0, (start_ns - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) / 1e9))
windows = [0.0] * (int(seconds) + 2)
began, last, number = time.monotonic(), 0.0, 0
while enough.item() == 0:
    for _ in range(8):
        one()
    number += 1
    if number % 8 == 0 or number == 1:
        enough.fill_(float(time.monotonic() - began >= seconds))
        dist.all_reduce(enough)
    torch.cuda.synchronize()
    at = time.monotonic() - began
    low = last
    while low < min(at, int(seconds)):
        high = min(at, int(low) + 1)
        windows[int(low)] += 8 * (high - low) / (at - last)
        low = high
    last = at
right = right and bool((x == 1.5).all().item())
for i in range(int(seconds)):
    print("window", i, f"{windows[i]:.4f}")
print("right", int(right), flush=True)
dist.destroy_process_group()
