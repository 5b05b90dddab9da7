# SPDX-License-Identifier: Apache-2.0
"""JAX in a slice: jax_slice.py LIMIT_MIB preallocate|platform. Its pool fits the slice, refusal is RESOURCE_EXHAUSTED, it recovers, computes."""
import gc
import os
import sys

os.environ["XLA_PYTHON_CLIENT_ALLOCATOR"] = "platform" if sys.argv[2] == "platform" else "default"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax
import jax.numpy as jnp
import numpy as np

from checks import MIB, check, finish, part

limit = int(sys.argv[1]) * MIB
platform = sys.argv[2] == "platform"
piece = 128 * MIB


def fill():
    held = []
    try:
        while len(held) * piece <= 2 * limit:
            block = jax.device_put(np.zeros(piece, dtype=np.uint8))
            block.block_until_ready()
            held.append(block)
    except Exception as error:  # noqa: BLE001
        return held, type(error).__name__, str(error)
    return held, "no refusal", ""


with part("totals"):
    check("the device is a GPU", "gpu", jax.devices()[0].platform)
    x = jnp.ones(8)
    x.block_until_ready()
    if not platform:
        seen = jax.devices()[0].memory_stats()["bytes_limit"]
        # XLA takes three quarters of the memory that it sees
        check("the preallocated pool", f"{limit * 3 // 4} (75 % of the slice)", seen, abs(seen - limit * 3 // 4) <= 64 * MIB)

with part("results"):
    a, b = np.random.default_rng(1).standard_normal((400, 300)), np.random.default_rng(2).standard_normal((300, 200))
    seen = np.asarray(jax.jit(lambda p, q: jnp.sin(p @ q))(a.astype(np.float32), b.astype(np.float32)))
    with jax.default_matmul_precision("highest"):
        seen = np.asarray(jax.jit(lambda p, q: p @ q)(a.astype(np.float32), b.astype(np.float32)))
    wrong = float(np.abs(seen - a @ b).max())
    check("a jitted matmul against the CPU", "< 1e-3", wrong, wrong < 1e-3)

with part("limit and recovery"):
    counts = []
    for cycle in range(3):
        held, kind, text = fill()
        counts.append(len(held))
        if cycle == 0:
            check("refused with RESOURCE_EXHAUSTED", "XlaRuntimeError RESOURCE_EXHAUSTED", f"{kind}: {text[:60]}",
                  "RESOURCE_EXHAUSTED" in text and kind in ("XlaRuntimeError", "JaxRuntimeError"))
            least = limit // piece // 4 if platform else limit * 3 // 4 // piece - 6
            check(f"pieces of {piece // MIB} MiB granted", f"{least} to {limit // piece}", len(held), least <= len(held) < limit // piece)
        if held:
            check(f"cycle {cycle + 1}: the last piece is zero", 0, int(np.asarray(held[-1]).max()))
        del held
        gc.collect()
    check("about the same number in each cycle", f"{counts[0]} +- 2", counts, max(counts) - min(counts) <= 2)
    value = float(jnp.arange(1000.0).sum())
    check("and it goes on computing", 499500.0, value)
finish()
