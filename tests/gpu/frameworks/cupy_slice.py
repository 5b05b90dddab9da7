# SPDX-License-Identifier: Apache-2.0
"""CuPy in a slice: cupy_slice.py LIMIT_MIB. Its own pool and the stream-ordered pool: refusal, recovery, results."""
import gc
import sys

import cupy
import numpy as np

from checks import MIB, check, finish, part

limit = int(sys.argv[1]) * MIB
piece = 128 * MIB


def fill():
    held = []
    try:
        while len(held) * piece <= 2 * limit:
            held.append(cupy.zeros(piece, dtype=cupy.uint8))
        return held, "no refusal"
    except Exception as error:  # noqa: BLE001
        return held, type(error).__module__ + "." + type(error).__name__


def cycle(name, release):
    counts = []
    for number in range(3):
        gc.collect()
        release()
        free, _ = cupy.cuda.runtime.memGetInfo()
        held, refusal = fill()
        counts.append(len(held))
        if number == 0:
            check(f"{name}: refused with", "cupy.cuda.memory.OutOfMemoryError", refusal)
            check(f"{name}: pieces of 128 MiB granted", f"{free // piece - 1} to {free // piece}", len(held), free // piece - 1 <= len(held) <= free // piece)
        del held
    gc.collect()
    release()
    check(f"{name}: the same number in each cycle", [counts[0]] * 3, counts)


with part("totals"):
    free, total = cupy.cuda.runtime.memGetInfo()
    check("memGetInfo: total", limit, total)
    check("memGetInfo: free", f"below {limit}", free, 0 < free < limit)
    check("getDeviceProperties: totalGlobalMem", limit, cupy.cuda.runtime.getDeviceProperties(0)["totalGlobalMem"])

with part("results"):
    x = np.random.default_rng(1).standard_normal((500, 400))
    seen = cupy.asnumpy((cupy.asarray(x) @ cupy.asarray(x).T) ** 2)
    wrong = float(np.abs(seen - (x @ x.T) ** 2).max())
    check("matmul in float64 against the CPU", "< 1e-6", wrong, wrong < 1e-6)
    kernel = cupy.ElementwiseKernel("float64 a", "float64 b", "b = a * a + 1", "square_plus_one")
    check("an own kernel against the CPU", True, bool(np.allclose(cupy.asnumpy(kernel(cupy.asarray(x))), x * x + 1)))
    del seen

with part("pool"):
    cycle("pool", cupy.get_default_memory_pool().free_all_blocks)

with part("async pool"):
    cupy.get_default_memory_pool().free_all_blocks()
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)

    def release():
        cupy.cuda.Stream.null.synchronize()
        cupy.cuda.runtime.memPoolTrimTo(cupy.cuda.runtime.deviceGetDefaultMemPool(0), 0)

    cycle("async pool", release)
    check("async pool: results", 499999500000, int(cupy.arange(1000000).sum()))
finish()
