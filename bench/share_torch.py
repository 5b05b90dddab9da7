# SPDX-License-Identifier: Apache-2.0
"""A training step in PyTorch, for bench/share: share_torch.py eager|compile|graph SECONDS. Prints "loss" after 50 steps (the bits
of a float, the same in every run) and "rate", steps a second over SECONDS."""
import os
import struct
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
import torch  # noqa: E402

kind, seconds = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)
model = torch.nn.Sequential(*[layer for _ in range(6) for layer in (torch.nn.Linear(4096, 4096), torch.nn.GELU())], torch.nn.Linear(4096, 16)).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
data, target = torch.randn(2048, 4096, device="cuda"), torch.randn(2048, 16, device="cuda")
forward = torch.compile(model) if kind == "compile" else model


def step():
    optimizer.zero_grad(set_to_none=False)
    loss = torch.nn.functional.mse_loss(forward(data), target)
    loss.backward()
    optimizer.step()
    return loss


if kind == "graph":
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()

    def run():
        graph.replay()
        return captured
else:
    run = step

for _ in range(50):
    last = run()
print("loss", struct.pack(">f", last.item()).hex())
torch.cuda.synchronize()
began, steps = time.monotonic(), 0
while time.monotonic() - began < seconds:
    for _ in range(5):
        run()
    torch.cuda.synchronize()
    steps += 5
print("rate", steps / (time.monotonic() - began))
