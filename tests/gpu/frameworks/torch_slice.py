# SPDX-License-Identifier: Apache-2.0
"""PyTorch in a slice: torch_slice.py LIMIT_MIB [graphs] [compile]. Sees the slice, is refused by its own exception, recovers, computes."""
import gc
import os
import sys

import torch

from checks import MIB, check, finish, part

limit = int(sys.argv[1]) * MIB
extras = sys.argv[2:]
backend = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "") or os.environ.get("PYTORCH_ALLOC_CONF", "")
piece = 128 * MIB


def clear():
    gc.collect()
    torch.cuda.empty_cache()


def fill():
    """Takes pieces until refused; returns how many, and the exception."""
    held = []
    try:
        while len(held) * piece <= 2 * limit:
            held.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
    except RuntimeError as error:
        return held, type(error).__module__ + "." + type(error).__name__
    return held, "no refusal"


with part("totals"):
    check("get_device_properties: total_memory", limit, torch.cuda.get_device_properties(0).total_memory)
    free, total = torch.cuda.mem_get_info()
    check("mem_get_info: total", limit, total)
    check("mem_get_info: free", f"below {limit}", free, 0 < free < limit)

with part("results"):
    torch.manual_seed(1)
    a, b = torch.randn(512, 700, dtype=torch.float64), torch.randn(700, 300, dtype=torch.float64)
    wrong = (torch.matmul(a.cuda(), b.cuda()).cpu() - torch.matmul(a, b)).abs().max().item()
    check("matmul in float64 against the CPU", "< 1e-10", wrong, wrong < 1e-10)
    x, w = torch.randn(8, 16, 64, 64), torch.randn(32, 16, 3, 3)
    torch.backends.cudnn.allow_tf32 = False
    wrong = (torch.nn.functional.conv2d(x.cuda(), w.cuda()).cpu() - torch.nn.functional.conv2d(x, w)).abs().max().item()
    check("convolution against the CPU", "< 1e-3", wrong, wrong < 1e-3)
    del a, b, x, w
    clear()

with part("limit and recovery"):
    counts = []
    # kernels are loaded when they are first used, and a full slice has no room for their code, nor has a full GPU
    float(torch.empty(MIB, dtype=torch.uint8, device="cuda").fill_(7)[::4096].sum(dtype=torch.int64).item())
    for cycle in range(3):
        clear()
        free, _ = torch.cuda.mem_get_info()
        held, refusal = fill()
        counts.append(len(held))
        if cycle == 0:
            check("refused with", "torch.OutOfMemoryError", refusal)
            # PyTorch takes segments of its own size: at most two pieces may not fit
            check(f"pieces of {piece // MIB} MiB granted", f"{free // piece - 2} to {free // piece}", len(held),
                  free // piece - 2 <= len(held) <= free // piece)
            left, _ = torch.cuda.mem_get_info()
            check("free when full", f"< {3 * piece}", left, left < 3 * piece)
        value = float(held[-1].fill_(7)[::4096].sum(dtype=torch.int64).item()) if held else 0
        check(f"cycle {cycle + 1}: the last piece holds what was written", 7.0 * (piece // 4096), value)
        del held
    clear()
    check("the same number in each cycle", [counts[0]] * 3, counts)
    held, _ = fill()
    kept = len(held)
    held = held[: kept // 2]
    gc.collect()
    more = torch.empty(piece, dtype=torch.uint8, device="cuda")  # from what was freed, without emptying the cache
    check("after the refusal, freeing half makes room", piece, more.numel())
    del held, more
    clear()
    free_again, _ = torch.cuda.mem_get_info()
    check("free after it all", f">= {free - 64 * MIB}", free_again, free_again >= free - 64 * MIB)

if "graphs" in extras:
    with part("CUDA graphs"):
        x = torch.arange(1 << 20, device="cuda", dtype=torch.float32)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                y = (x * 2 + 1).sqrt()
        torch.cuda.current_stream().wait_stream(side)
        graphs = []
        for _ in range(2):  # each with a private pool
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                scratch = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda").zero_()
                y = (x * 2 + 1).sqrt() + scratch[0]
            graphs.append((graph, y))
        x.add_(5)
        for graph, _ in graphs:
            graph.replay()
        torch.cuda.synchronize()
        expected = ((torch.arange(1 << 20, dtype=torch.float32) + 5) * 2 + 1).sqrt()
        wrong = max((y.cpu() - expected).abs().max().item() for _, y in graphs)
        check("graphs with private pools replay to the CPU's result", "< 1e-3", wrong, wrong < 1e-3)
        held, refusal = fill()
        check("beside their pools refused with", "torch.OutOfMemoryError", refusal)
        del held
        torch.cuda.synchronize()  # what was freed in stream order is free from here on, for a graph's own memory too
        clear()
        for graph, _ in graphs:
            graph.replay()
        torch.cuda.synchronize()
        wrong = max((y.cpu() - expected).abs().max().item() for _, y in graphs)
        check("and they replay after the refusal", "< 1e-3", wrong, wrong < 1e-3)
        if "cudaMallocAsync" not in backend:  # there a capture takes no memory, its first launch does
            with part("capture that does not fit"):
                graph = torch.cuda.CUDAGraph()
                refusal = "no refusal"
                try:
                    with torch.cuda.graph(graph):
                        torch.empty(2 * limit, dtype=torch.uint8, device="cuda")
                except RuntimeError as error:
                    refusal = type(error).__name__
                check("a capture past the limit is refused with", "OutOfMemoryError", refusal)
        del graphs, graph
        clear()

if "compile" in extras:
    with part("torch.compile"):
        def model(v):
            return torch.nn.functional.gelu(v @ v.T).softmax(dim=-1).sum(dim=0)
        v = torch.randn(256, 128)
        seen = torch.compile(model)(v.cuda()).cpu()
        wrong = (seen - model(v)).abs().max().item()
        check("torch.compile against the CPU", "< 1e-2", wrong, wrong < 1e-2)

check("allocator under test", backend or "default", backend or "default")
finish()
