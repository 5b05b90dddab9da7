# SPDX-License-Identifier: Apache-2.0
"""A training step in PyTorch, for bench/share: share_torch.py eager|compile|graph|matmul SECONDS.

Residual blocks of LayerNorm and two bf16 layers over 65,536 rows, trained by SGD: kernels of some 100 us, most of them bound by memory, so
that the GPU is busy without running into its power limit, where the clock would follow the share, and also where the host is slow: with half the
rows one with 16 cores gave an H200 work for four fifths of the time. matmul: one layer of
8192 x 8192 instead, which does run into it.
Prints "losses", the bits of the first 40 steps' losses, and "again", the same after a reset, to tell whether they are the same in every
run; then "ready", waits for the moment to begin (CLOCK_MONOTONIC in ns, on standard input), and prints "window I STEPS" for each second."""
import os
import struct
import sys
import time

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
import torch  # noqa: E402

STEPS = 40  # whose losses are compared
kind, seconds = sys.argv[1], float(sys.argv[2])
torch.manual_seed(0)
torch.use_deterministic_algorithms(True)


class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = torch.nn.LayerNorm(width), torch.nn.Linear(width, 2 * width), torch.nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


WIDTH, ROWS = (8192, 8192) if kind == "matmul" else (512, 65536)
model = torch.nn.Sequential(*([torch.nn.Linear(WIDTH, WIDTH)] if kind == "matmul" else [Block(WIDTH) for _ in range(6)])).cuda()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
data, target = torch.randn(ROWS, WIDTH, device="cuda"), torch.randn(ROWS, WIDTH, device="cuda")
initial = [parameter.detach().clone() for parameter in model.parameters()]
forward = torch.compile(model) if kind == "compile" else model


def step():
    optimizer.zero_grad(set_to_none=False)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = forward(data)
    loss = torch.nn.functional.mse_loss(output.float(), target)
    loss.backward()
    optimizer.step()
    return loss.detach()


def reset():
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), initial):
            parameter.copy_(value)


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
    for _ in range(3):
        step()
    run = step


def losses():
    reset()
    return " ".join(struct.pack(">f", value).hex() for value in torch.stack([run().clone() for _ in range(STEPS)]).tolist())


print("losses", losses())
print("again", losses())
torch.cuda.synchronize()
print("ready", flush=True)
start_ns = int(sys.stdin.readline())
time.sleep(max(0, (start_ns - time.clock_gettime_ns(time.CLOCK_MONOTONIC)) / 1e9))
# Events after every second step tell when work was done; four of them in flight keep the GPU busy.
windows, ring, base = [0.0] * (int(seconds) + 1), [], torch.cuda.Event(enable_timing=True)
base.record()
base.synchronize()
began, last = time.monotonic(), 0.0
while True:
    over = time.monotonic() - began >= seconds
    if len(ring) == 4 or (over and ring):
        ring[0].synchronize()
        at = base.elapsed_time(ring.pop(0)) / 1000
        low = last
        while low < min(at, int(seconds)):  # spread evenly over the seconds it lies in
            high = min(at, int(low) + 1)
            windows[int(low)] += 2 * (high - low) / (at - last)
            low = high
        last = at
        continue
    if over:
        break
    run()
    run()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    ring.append(event)
for number in range(int(seconds)):
    print("window", number, f"{windows[number]:.4f}")
