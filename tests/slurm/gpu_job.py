# SPDX-License-Identifier: Apache-2.0
"""The jobs of gpu-lab and their judge.

gpu_job.py job FOLDER NAME SECONDS [fill]   in a job: fills its GPU until refused, holds that; then (without "fill") keeps the GPU busy for
                                            SECONDS with kernels of fixed length, and for SECONDS with matrix products. Before each step it
                                            leaves FOLDER/NAME.STEP and waits for FOLDER/NAME.STEP.go.
gpu_job.py clocks FILE                      outside the jobs: the GPU's clock and power, 50 times a second, until FILE.stop exists
gpu_job.py report FOLDER GPU LEFT           the table. Judged is what SoftMig promises: memory and busy time. Kernels of fixed length measure busy
                                            time: they use little power, so the clock stays where it is. Matrix products do not: a whole GPU that
                                            does nothing else runs into its power limit and slows down, half a GPU does not. They are shown, with
                                            the clock that explains them.
"""
import ctypes
import json
import os
import re
import statistics
import subprocess
import sys
import time

MIB = 1 << 20
LONGEST_S = 120  # that a job waits for the others
SEGMENT_MIB = 20  # PyTorch's allocator asks for so much where a piece of 1 to 10 MiB is wanted
POWER_CAP = 0x4  # of NVML's reasons for a lower clock
# As in bench/share_work.c: a loop of a number of steps, which being preempted does not shorten, in one small block per processor.
PTX = b""".version 6.0
.target sm_60
.address_size 64
.visible .entry work(.param .u64 steps)
{
.reg .u64 %n; .reg .u32 %x; .reg .pred %p;
ld.param.u64 %n, [steps]; mov.u32 %x, %tid.x;
again:
mad.lo.u32 %x, %x, 1664525, 1013904223; mad.lo.u32 %x, %x, 1664525, 1013904223;
mad.lo.u32 %x, %x, 1664525, 1013904223; mad.lo.u32 %x, %x, 1664525, 1013904223;
sub.u64 %n, %n, 1; setp.ne.u64 %p, %n, 0; @%p bra again;
setp.ne.u32 %p, %x, 12345; @%p bra done; trap;
done: ret;
}
"""


def meet(path, step):
    """Says that this job is ready for a step, and waits until it may begin."""
    with open(f"{path}.{step}", "w", encoding="utf-8"):
        pass
    until = time.monotonic() + LONGEST_S
    while not os.path.exists(f"{path}.{step}.go"):
        if time.monotonic() > until:
            sys.exit(f"nobody said go for {path}.{step}")
        time.sleep(0.01)


def fill(torch):
    """Takes memory until refused. Returns the blocks and the exception's name."""
    blocks, piece, refused = [], 256 * MIB, ""
    while piece >= 2 * MIB:
        try:
            blocks.append(torch.empty(piece, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError as error:
            refused = type(error).__name__
            piece //= 2
    return blocks, refused


class Spin:
    """Kernels of about a millisecond, the same number of steps in every job."""

    def __init__(self, torch, steps):
        self.torch, self.driver, self.steps = torch, ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64(steps or 10000)
        self.module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        torch.cuda.synchronize()  # PyTorch's context is there and current
        self.check(self.driver.cuModuleLoadData(ctypes.byref(self.module), PTX))
        self.simulated = self.driver.cuModuleGetFunction(ctypes.byref(self.function), self.module, b"spin_1ms") == 0  # not in it above
        if not self.simulated:
            self.check(self.driver.cuModuleGetFunction(ctypes.byref(self.function), self.module, b"work"))
        self.blocks = torch.cuda.get_device_properties(0).multi_processor_count * (16 if self.simulated else 1)
        self.parameters = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(self.steps), ctypes.c_void_p))
        for _ in range(0 if steps or self.simulated else 5):  # the first ones warm up the clocks
            start = time.monotonic()
            self.batch()
            torch.cuda.synchronize()
            self.steps.value = int(self.steps.value * 0.02 / (time.monotonic() - start))

    @staticmethod
    def check(code):
        if code != 0:
            sys.exit(f"the driver answered {code}")

    def batch(self):
        for _ in range(20):
            self.check(self.driver.cuLaunchKernel(self.function, self.blocks, 1, 1, 128, 1, 1, 0, None, None if self.simulated else self.parameters, None))
        return 20


class Products:
    """Matrix products of somewhat less than a millisecond."""

    def __init__(self, torch):
        self.torch = torch
        self.a, self.b = (torch.randn(6144, 6144, dtype=torch.float16, device="cuda") for _ in range(2))
        self.c = torch.empty_like(self.a)

    def batch(self):
        for _ in range(20):
            self.torch.matmul(self.a, self.b, out=self.c)
        return 20


def metered(folder):
    """Seconds of GPU time that SoftMig has counted for this job; None in a job without a slice."""
    shown = subprocess.run([os.path.join(folder, "..", "bin", "softmig"), "status", "--json"], capture_output=True, text=True, check=False).stdout
    try:
        return json.loads(shown)["gpus"][0]["busy_seconds"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None


def measure(folder, work, seconds):
    """Keeps the GPU busy with work for so long."""
    cuda = work.torch.cuda
    for _ in range(3):
        work.batch()
    cuda.synchronize()
    before, count, start, last = metered(folder), 0, time.monotonic(), None
    while time.monotonic() - start < seconds:  # always a batch in hand, so that the GPU has no pause but those of the share
        count += work.batch()
        now = cuda.Event()
        now.record()
        if last is not None:
            last.synchronize()
        last = now
    cuda.synchronize()
    end, after = time.monotonic(), metered(folder)
    busy = None if before is None or after is None else 100 * (after - before) / (end - start)
    return {"rate": count / (end - start), "from": start, "to": end, "metered_pct": busy}


def job(folder, name, seconds, only_fill):
    import torch

    path = os.path.join(folder, name)
    free, total = torch.cuda.mem_get_info()
    meet(path, "fill")
    blocks, refused = fill(torch)
    result = {"name": name, "pid": os.getpid(), "total_mib": total // MIB, "free_mib": free // MIB, "most_mib": torch.cuda.memory_reserved() // MIB,
              "refused": refused, "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    meet(path, "hold")
    blocks.clear()
    torch.cuda.empty_cache()
    if not only_fill:
        steps = os.path.join(folder, "steps")
        spin = Spin(torch, int(read(folder, "steps")) if os.path.exists(steps) else 0)
        meet(path, "spin")
        result["spin"] = measure(folder, spin, seconds)
        products = Products(torch)
        meet(path, "products")
        result["products"] = measure(folder, products, seconds)
        if not os.path.exists(steps):
            with open(steps, "w", encoding="utf-8") as file:
                file.write(str(spin.steps.value))
    with open(path + ".json.new", "w", encoding="utf-8") as file:
        json.dump(result, file)
    os.rename(path + ".json.new", path + ".json")


def clocks(path):
    """One line per sample: seconds, MHz, watts, reasons for a lower clock. Nothing where NVML does not tell."""
    nvml, device = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
    mhz, milliwatts, reasons = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_ulonglong()
    if nvml.nvmlInit_v2() != 0 or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) != 0:
        return
    until = time.monotonic() + 5 * LONGEST_S
    with open(path, "w", encoding="utf-8") as file:
        while not os.path.exists(path + ".stop") and time.monotonic() < until:
            if (nvml.nvmlDeviceGetClockInfo(device, 1, ctypes.byref(mhz)) == 0 and nvml.nvmlDeviceGetPowerUsage(device, ctypes.byref(milliwatts)) == 0
                    and nvml.nvmlDeviceGetCurrentClocksThrottleReasons(device, ctypes.byref(reasons)) == 0):
                file.write(f"{time.monotonic():.3f} {mhz.value} {milliwatts.value / 1000:.1f} {reasons.value}\n")
                file.flush()
            time.sleep(0.02)


# ---- the judge

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


class Clock:
    """What the GPU's clock and power were while work went on."""

    def __init__(self, folder, works):
        try:
            samples = [[float(word) for word in line.split()] for line in read(folder, "clocks").splitlines()]
        except OSError:
            samples = []
        begin, end = max(work["from"] for work in works), min(work["to"] for work in works)
        inside = [sample for sample in samples if len(sample) == 4 and begin + 0.5 < sample[0] < end]  # the clock takes a moment to settle
        self.mhz = statistics.mean(sample[1] for sample in inside) if inside else None
        self.watts = statistics.mean(sample[2] for sample in inside) if inside else None
        self.capped = 100 * statistics.mean(bool(int(sample[3]) & POWER_CAP) for sample in inside) if inside else None


def shown(value, pattern):
    return "n/a" if value is None else pattern.format(value)


def memory_table(folder, names):
    seen, good = outside(folder), True
    print("## Memory: all four at once\n\n| job | memory limit | total seen by PyTorch | most it got | seen from outside | refused with | held |\n|---|---|---|---|---|---|---|")
    for name in names:
        result, (memory, _) = json.loads(read(folder, name + ".json")), limits_of(folder, name)
        used = seen.get(result["pid"])
        # All of it but what is less than one of PyTorch's segments, where the driver tells; else what a context and its libraries leave.
        enough = memory - SEGMENT_MIB < used <= memory if used is not None else result["most_mib"] > 0.9 * memory
        held = result["total_mib"] == memory and result["most_mib"] <= memory and enough and "OutOfMemory" in result["refused"]
        good = good and held
        print(f"| {name} | {memory} MiB | {result['total_mib']} MiB | {result['most_mib']} MiB | {shown(used, '{} MiB')} | {result['refused']} | {'yes' if held else 'NO'} |")
    print("\nSeen from outside: the most that nvidia-smi charged to the process (n/a: it shows no such pid here; pids seen: "
          f"{', '.join(f'{pid}: {used} MiB' for pid, used in sorted(seen.items())) or 'none'}).\n")
    return good


def share_table(folder, names, alone):
    good, results = True, {name: json.loads(read(folder, name + ".json")) for name in names}
    print("## Compute: two at once\n\n| job | share asked | kernels of fixed length per second | busy: share of alone | by SoftMig's meter | held | matrix products per second | of alone | "
          "busy meanwhile, by the meter |\n|---|---|---|---|---|---|---|---|---|")
    print(f"| alone, whole GPU | | {alone['spin']['rate']:.1f} | | | | {alone['products']['rate']:.1f} | | |")
    for name, result in results.items():
        share = limits_of(folder, name)[1]
        got = 100 * result["spin"]["rate"] / alone["spin"]["rate"]
        held = abs(got - share) <= 1
        good = good and held
        print(f"| {name} | {share} % | {result['spin']['rate']:.1f} | {got:.2f} % | {shown(result['spin']['metered_pct'], '{:.2f} %')} | {'yes' if held else 'NO'} | "
              f"{result['products']['rate']:.1f} | {100 * result['products']['rate'] / alone['products']['rate']:.2f} % | {shown(result['products']['metered_pct'], '{:.2f} %')} |")
    print("\nJudged is the busy time, by kernels of a fixed number of steps that hardly use power. Matrix products depend on the clock, which the power "
          "limit lowers:\n\n| work | SM clock | power | at the power limit | products per second of busy time |\n|---|---|---|---|---|")
    whole = alone["products"]["rate"]
    for kind, title in (("spin", "kernels of fixed length"), ("products", "matrix products")):
        for who, works in (("alone", [alone[kind]]), ("two quarters", [result[kind] for result in results.values()])):
            clock, busy = Clock(folder, works), None
            if kind == "products":
                parts = [100 if who == "alone" else work["metered_pct"] for work in works]
                busy = None if None in parts else 100 * sum(work["rate"] for work in works) / sum(parts)
            print(f"| {title}, {who} | {shown(clock.mhz, '{:.0f} MHz')} | {shown(clock.watts, '{:.0f} W')} | {shown(clock.capped, '{:.0f} % of the time')} | "
                  f"{'' if busy is None else f'{busy:.0f}, {busy / whole:.2f} x'} |")
    print("\nClock and power are means over all the time, the pauses between turns and those of the share included, in which the clock is highest.")
    return good


def report(folder, gpu, left):
    alone = json.loads(read(folder, "alone.json"))
    print(f"# Quarters of a GPU through Slurm\n\n{gpu}, PyTorch {alone['torch']}; Slurm's slurmctld and slurmd, the job_submit plugin, prolog and "
          f"epilog, the library in the nodes' ld.so.preload. The whole GPU alone: {alone['total_mib']} MiB.\n")
    good = memory_table(folder, ("first", "second", "third", "fourth"))
    good = share_table(folder, ("first", "second"), alone) and good
    print("\nLeft after the jobs in /run/softmig: " + (left if left else "nothing") + ".")
    return 0 if good and not left else 1


if __name__ == "__main__":
    if sys.argv[1] == "report":
        sys.exit(report(*sys.argv[2:5]))
    elif sys.argv[1] == "clocks":
        clocks(sys.argv[2])
    else:
        job(sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5:] == ["fill"])
