# SPDX-License-Identifier: Apache-2.0
"""The job of gpu-lab: gpu_job.py FOLDER NAME SECONDS fills its GPU until refused, then multiplies matrices for SECONDS together with
the others. gpu_job.py report FOLDER GPU LEFT prints the table."""
import json
import os
import re
import sys
import time

MIB = 1 << 20


def fill(torch):
    """Takes memory until refused. Returns the MiB that PyTorch reserved and the exception's name."""
    blocks, piece, refused = [], 256 * MIB, ""
    while piece >= 2 * MIB:
        try:
            blocks.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError as error:
            refused = type(error).__name__
            piece //= 2
    most = torch.cuda.memory_reserved() // MIB
    time.sleep(1)  # for those who look from outside
    blocks.clear()
    torch.cuda.empty_cache()
    return most, refused


def work(torch, seconds):
    """Matrix products of about a millisecond, for so many seconds; returns how many per second."""
    a = torch.randn(6144, 6144, dtype=torch.float16, device="cuda")
    b = torch.randn(6144, 6144, dtype=torch.float16, device="cuda")
    c = torch.empty_like(a)
    for _ in range(20):
        torch.matmul(a, b, out=c)
    torch.cuda.synchronize()
    count, start = 0, time.monotonic()
    while time.monotonic() - start < seconds:
        for _ in range(10):
            torch.matmul(a, b, out=c)
        torch.cuda.synchronize()
        count += 10
    return count / (time.monotonic() - start)


def job(folder, name, seconds):
    import torch

    path = os.path.join(folder, name)
    free, total = torch.cuda.mem_get_info()
    with open(path + ".ready", "w", encoding="utf-8"):
        pass
    while not os.path.exists(path + ".go"):
        time.sleep(0.05)
    most, refused = fill(torch)
    # both jobs fill and then work: whoever is first waits a little for the other
    time.sleep(3)
    rate = work(torch, seconds)
    result = {"name": name, "pid": os.getpid(), "total_mib": total // MIB, "free_mib": free // MIB, "most_mib": most,
              "refused": refused, "rate": rate, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    with open(path + ".json.new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.rename(path + ".json.new", path + ".json")


def read(folder, name):
    with open(os.path.join(folder, name), encoding="utf-8") as file:
        return file.read()


def limits_of(folder, name):
    text = read(folder, name + ".limits")
    memory = int(re.search(r"^CUDA_DEVICE_MEMORY_LIMIT_0=(\d+)M$", text, re.M).group(1))
    return memory, int(re.search(r"^CUDA_DEVICE_SM_LIMIT_0=(\d+)$", text, re.M).group(1))


def outside(folder):
    """The most that the driver charged to each process, as nvidia-smi saw it from outside the jobs."""
    most = {}
    try:
        for line in read(folder, "outside").splitlines():
            pid, used = line.split(",")
            if used.strip().isdigit():
                most[int(pid)] = max(most.get(int(pid), 0), int(used))
    except (OSError, ValueError):
        pass
    return most


def report(folder, gpu, left):
    alone = json.loads(read(folder, "alone.json"))
    seen, good = outside(folder), True
    print(f"# Two quarters of a GPU through Slurm\n\n{gpu}, PyTorch {alone['torch']}; Slurm's slurmctld and slurmd, the job_submit plugin, prolog and "
          f"epilog, the library in the nodes' ld.so.preload. The whole GPU alone: {alone['total_mib']} MiB, {alone['rate']:.1f} matrix products per second.\n")
    print("| job | memory limit | total seen by PyTorch | most it got | seen from outside | refused with | share asked | share got | held |")
    print("|---|---|---|---|---|---|---|---|---|")
    pids = set()
    for name in ("first", "second"):
        result, (memory, share) = json.loads(read(folder, name + ".json")), limits_of(folder, name)
        got = 100 * result["rate"] / alone["rate"]
        used = seen.get(result["pid"])
        pids.add(result["pid"])
        held = (result["total_mib"] == memory and 0.9 * memory < result["most_mib"] <= memory and "OutOfMemory" in result["refused"]
                and (used is None or used <= memory) and abs(got - share) <= 2)
        good = good and held
        print(f"| {name} | {memory} MiB | {result['total_mib']} MiB | {result['most_mib']} MiB | {'n/a' if used is None else f'{used} MiB'} | "
              f"{result['refused']} | {share} % | {got:.1f} % | {'yes' if held else 'NO'} |")
    print(f"\nSeen from outside: the most that nvidia-smi charged to the process (n/a: it shows no such pid here; pids seen: "
          f"{', '.join(f'{pid}: {used} MiB' for pid, used in sorted(seen.items())) or 'none'}).")
    print("Left after the jobs in /run/softmig: " + (left if left else "nothing") + ".")
    return 0 if good and not left else 1


if sys.argv[1] == "report":
    sys.exit(report(*sys.argv[2:5]))
else:
    job(sys.argv[1], sys.argv[2], float(sys.argv[3]))
