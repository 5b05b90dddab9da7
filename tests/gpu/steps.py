# SPDX-License-Identifier: Apache-2.0
"""Who did it: lays what the watcher saw above the limit beside what the fighters did at that time (programs/steps.h)."""
import os
import struct

KINDS = ("take", "give", "mark", "read", "context")
RECORD = struct.Struct("<QQIIIIQi20x")
HEADER = 64
KILLED_NS = 1e9


def read(path, ways):
    """All steps of a fight's file, as (begin_ns, end_ns, pid, thread, text)."""
    steps = []
    with open(path, "rb") as file:
        count = struct.unpack("<Q", file.read(8))[0]
        file.seek(HEADER)
        for _ in range(count):
            data = file.read(RECORD.size)
            if len(data) < RECORD.size:
                break
            begin, end, pid, thread, kind, way, size, code = RECORD.unpack(data)
            what = KINDS[kind] if KINDS[kind] == "context" else f"{KINDS[kind]} {ways[way]} of {size} bytes"
            steps.append((begin, end or float("inf"), pid, thread, f"{what}: {code if end else 'killed in it'}"))
    return steps


def suspects(steps, over):
    """For one look that found too much: the steps in progress between the look before and this one, those of processes that grew first."""
    from_ns, to_ns, changes = over["before_ns"], over["now_ns"], over["changes"]
    # Who was killed in a step is gone soon after.
    during = [step for step in steps if step[0] <= to_ns and step[1] >= from_ns and (step[1] != float("inf") or step[0] > from_ns - KILLED_NS)]
    during.sort(key=lambda step: (changes.get(step[2], 0) <= 0, step[0]))
    return [f"process {pid} ({changes.get(pid, 0) / (1 << 20):+.0f} MiB), thread {thread}: {text}, began {(to_ns - begin) / 1000:.0f} us before the look"
            + ("" if end == float("inf") else f", took {(end - begin) / 1000:.0f} us") for begin, end, pid, thread, text in during]


def tell(report, path, ways, overs, most=8):
    """Adds what is known about each look above the limit to the report."""
    if not overs or not os.path.exists(path):
        return
    steps = read(path, ways)
    for over in overs[:most]:
        grown = sum(change for change in over["changes"].values() if change > 0)
        report.text(f"- above the limit, at {over['bytes'] / (1 << 20):.0f} MiB, {(over['now_ns'] - over['before_ns']) / 1000:.0f} us after the look before; "
                    f"grown by {grown / (1 << 20):.0f} MiB in {sum(change > 0 for change in over['changes'].values())} processes")
        for line in suspects(steps, over)[:14]:
            report.text(f"  - {line}")
