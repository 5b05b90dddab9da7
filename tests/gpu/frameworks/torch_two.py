# SPDX-License-Identifier: Apache-2.0
"""Two PyTorch processes in one slice: torch_two.py LIMIT_MIB. Each takes what it can; together they never pass the slice."""
import sys

import torch
import torch.multiprocessing as mp

from checks import MIB, check, finish, part


def take(limit, start, full, results):
    free, total = torch.cuda.mem_get_info()
    start.wait()
    held = []
    try:
        while len(held) < 4096:
            held.append(torch.empty(64 * MIB, dtype=torch.uint8, device="cuda").fill_(1))
    except torch.OutOfMemoryError:
        pass
    torch.cuda.synchronize()
    full.wait()
    left = torch.cuda.mem_get_info()[0]
    results.put((total, len(held) * 64 * MIB, left))
    full.wait()


if __name__ == "__main__":
    limit = int(sys.argv[1]) * MIB
    with part("two processes"):
        context = mp.get_context("spawn")
        start, full, results = context.Barrier(2), context.Barrier(2), context.Queue()
        workers = [context.Process(target=take, args=(limit, start, full, results)) for _ in range(2)]
        for worker in workers:
            worker.start()
        seen = [results.get(timeout=60) for _ in workers]
        for worker in workers:
            worker.join(30)
        check("both see the slice's total", [limit, limit], [s[0] for s in seen])
        together = sum(s[1] for s in seen)
        check("both got memory, together below the slice", f"< {limit}", [s[1] // MIB for s in seen], all(s[1] for s in seen) and together < limit)
        check("and left little", "< 160 MiB", seen[0][2] // MIB, seen[0][2] < 160 * MIB)
        free = torch.cuda.mem_get_info()[0]
        check("all is free again after their end", f"> {limit // 2}", free, free > limit // 2)
    finish()
