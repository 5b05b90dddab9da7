# SPDX-License-Identifier: Apache-2.0
"""NCCL between two GPUs in a slice, one process each: nccl_slice.py LIMIT_MIB. The sum is right, each GPU has its own limit."""
import os
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from checks import MIB, check, finish, part


def rank_main(rank, limit, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29577")
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", rank=rank, world_size=2)
    x = torch.full((8 * MIB,), float(rank + 1), device="cuda")
    dist.all_reduce(x)
    torch.cuda.synchronize()
    right = bool((x == 3.0).all().item())
    total = torch.cuda.mem_get_info()[1]
    refusal = "no refusal"
    held = []
    try:
        while len(held) < 4096:
            held.append(torch.empty(64 * MIB, dtype=torch.uint8, device="cuda"))
    except torch.OutOfMemoryError:
        refusal = "OutOfMemoryError"
    granted = len(held) * 64 * MIB
    del held
    torch.cuda.empty_cache()
    dist.all_reduce(x)
    again = bool((x == 6.0).all().item())
    dist.destroy_process_group()
    results.put((right, again, total, refusal, granted))


if __name__ == "__main__":
    limit = int(sys.argv[1]) * MIB
    with part("NCCL"):
        context = mp.get_context("spawn")
        results = context.Queue()
        ranks = [context.Process(target=rank_main, args=(rank, limit, results)) for rank in range(2)]
        for rank in ranks:
            rank.start()
        seen = [results.get(timeout=100) for _ in ranks]
        for rank in ranks:
            rank.join(20)
        check("all-reduce over two GPUs", [True, True], [s[0] for s in seen])
        check("again after a refusal on each", [True, True], [s[1] for s in seen])
        check("each sees its slice", [limit, limit], [s[2] for s in seen])
        check("each is refused with", ["OutOfMemoryError"] * 2, [s[3] for s in seen])
        check("each got more than a third of its slice", f"> {limit // 3}", [s[4] for s in seen], all(s[4] > limit // 3 for s in seen))
    finish()
