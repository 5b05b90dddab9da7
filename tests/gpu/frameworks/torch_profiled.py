# SPDX-License-Identifier: Apache-2.0
"""CUPTI attached to a program with a compute share: torch_profiled.py SHARE_PCT (100: none). Every kernel is recorded, once, with a
sane time; results are right, graphs too; and the share holds while it is recorded."""
import statistics
import sys
import time

import torch
from torch.profiler import ProfilerActivity, profile

from checks import check, finish, part

share = int(sys.argv[1])


def kernels_of(profiled, name):
    """(begin, end) in us of each kernel whose name contains this, as CUPTI tells them."""
    return sorted((event.time_range.start, event.time_range.end) for event in profiled.events()
                  if event.device_type == torch.autograd.DeviceType.CUDA and name in event.name)


def spin_cycles(milliseconds):
    """How many cycles torch's spinning kernel needs."""
    cycles = 2_000_000
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        torch.cuda._sleep(cycles)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return int(cycles * milliseconds / min(times))


with part("CUPTI"):
    torch.manual_seed(1)
    a = torch.randn(512, 512, device="cuda", dtype=torch.float64)
    expected = (a.cpu() @ a.cpu())
    float((a @ a).sum().item())
    cycles = spin_cycles(1.0)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        launched, began = 0, time.monotonic()
        while time.monotonic() - began < 3:
            for _ in range(20):
                torch.cuda._sleep(cycles)
            launched += 20
            torch.cuda.synchronize()
        product = a @ a
        torch.cuda.synchronize()
    spins = kernels_of(profiled, "spin_kernel")
    check("kernels recorded", launched, len(spins))
    lengths = [end - begin for begin, end in spins] or [0]
    check("their time in us, median", "900 to 1100", f"{statistics.median(lengths):.0f}", 900 <= statistics.median(lengths) <= 1100)
    check("and the longest", "< 2000", f"{max(lengths):.0f}", max(lengths) < 2000)
    check("one after the other", 0, sum(later[0] < earlier[1] - 1 for earlier, later in zip(spins, spins[1:])))
    wrong = (product.cpu() - expected).abs().max().item()
    check("a product beside it against the CPU", "< 1e-9", wrong, wrong < 1e-9)
    if spins:
        first, last = spins[0][0] + 1e6, spins[0][0] + 2.9e6  # from the second second on, as anywhere
        busy = sum(min(end, last) - max(begin, first) for begin, end in spins if end > first and begin < last)
        used = 100 * busy / (last - first)
        check("GPU time used while CUPTI looks on, %", f"{share} +- 2" if share < 100 else "> 90", f"{used:.2f}", abs(used - share) <= 2 if share < 100 else used > 90)

with part("CUPTI and graphs"):
    x = torch.zeros(1 << 20, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x.add_(1)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(20):
            x.add_(1)
    x.zero_()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        for _ in range(200):
            graph.replay()
        torch.cuda.synchronize()
    check("the graphs' result", 4000.0, x.max().item())
    check("kernels of graphs recorded", 4000, len(kernels_of(profiled, "elementwise_kernel")))
finish()
