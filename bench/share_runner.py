# SPDX-License-Identifier: Apache-2.0
"""Runs the programs that bench/share measures, each on its GPU, in and out of slices.

Owns: environments, starting several at one moment, time limits, what their output says, and per GPU what is measured once
(calibration, native figures). Must never: leave a process behind, or let one program's fault end the others' measuring."""
import os
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("BUILD", os.path.join(os.path.dirname(HERE), "build"))
WORK = os.path.join(BUILD, "bench", "share_work")
LIBRARY = os.path.join(BUILD, "libsoftmig.so")
NATIVE_SECONDS = 4  # of measuring what a program does alone without a slice
START = 0.6  # s, from the start of a program to "ready", for estimates; Python with PyTorch takes longer


def clean_environment(options, directory):
    """The caller's environment without slices, on the simulated driver if so asked. NCCL's and CUDA's own variables stay."""
    env = {name: value for name, value in os.environ.items()
           if not name.startswith(("CUDA_DEVICE_MEMORY", "CUDA_DEVICE_SM", "SOFTMIG_LOG", "SOFTMIG_SHARE", "SLURM_", "LD_PRELOAD", "SHARE_WORK_"))}
    if options.sim:
        env["LD_LIBRARY_PATH"] = os.path.join(BUILD, "sim")
        env.setdefault("SOFTMIG_SIM_STATE", os.path.join(directory, "sim"))
        env.setdefault("SOFTMIG_SIM_GPUS", f"{max(2, len(options.gpus or ''))}xH200:143771M")
    return env


def gpu_uuids(env):
    """As NVML numbers them, asked in a process of its own; none: no NVML."""
    code = ("import ctypes as c\nn=c.CDLL('libnvidia-ml.so.1'); k=c.c_uint(0); n.nvmlInit_v2(); n.nvmlDeviceGetCount_v2(c.byref(k))\n"
            "for i in range(k.value):\n h=c.c_void_p(); b=c.create_string_buffer(96); n.nvmlDeviceGetHandleByIndex_v2(i,c.byref(h));"
            " n.nvmlDeviceGetUUID(h,b,96); print(b.value.decode())")
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False).stdout.split()


def visible_uuids(env):
    """The UUIDs of the GPUs that CUDA programs see, in CUDA's order where that is by bus, as it is among equal GPUs."""
    uuids, visible = gpu_uuids(env), env.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return uuids
    seen = []
    for name in visible.split(","):
        matching = [uuids[int(name)]] if name.isdigit() and int(name) < len(uuids) else [uuid for uuid in uuids if name and uuid.startswith(name)]
        if len(matching) != 1:
            break  # CUDA, too, stops at the first that means nothing
        seen += matching
    return seen


class Result:
    """What a program printed."""

    def __init__(self, output, errors="", status=0):
        self.windows, self.latency, self.rounds, self.values, self.status = [], None, [], {}, status
        self.errors = (errors.strip().splitlines() or [""])[-1][-160:]
        for line in output.splitlines():
            words = line.split()
            try:
                if not words:
                    continue
                if words[0] == "window":
                    self.windows.append(float(words[2]) / 1e4)  # percent of a second, where the unit is us
                elif words[0] == "latency":
                    self.latency = float(words[1]) / 1e3, float(words[2]) / 1e3, int(words[3])
                elif words[0] == "round":
                    self.rounds.append((float(words[2]) / 1e3, float(words[3]) / 1e3, int(words[4])))
                else:
                    self.values[words[0]] = words[1:]
            except (IndexError, ValueError):
                self.errors = self.errors or f"not understood: {line[:80]}"

    def counted(self):
        """The seconds after the first, in percent of the GPU as calibrated."""
        return self.windows[1:]

    def mean(self):
        return statistics.mean(self.counted()) if self.counted() else 0.0


class Clocks:
    """SM clock and power while a program runs, as nvidia-smi shows them: work per time follows the clock, whatever the share."""

    def __init__(self, uuid, directory):
        self.process, self.path = None, os.path.join(directory, f"clocks.{threading.get_ident()}")
        if uuid and os.path.exists("/proc/driver/nvidia"):
            try:
                with open(self.path, "w", encoding="utf-8") as file:
                    self.process = subprocess.Popen(["nvidia-smi", "-i", uuid, "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-lms", "200"],
                                                    stdout=file, stderr=subprocess.DEVNULL)
            except OSError:
                pass

    def stop(self, seconds):
        """(MHz, W) over the last seconds, less half a second of the program's end; None if not to be had."""
        if self.process is None:
            return None
        self.process.terminate()
        self.process.wait()
        rows = []
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                try:
                    clock, power = line.split(",")
                    rows.append((float(clock), float(power)))
                except ValueError:
                    pass
        rows = rows[-int(seconds * 5):-3] or rows
        return (statistics.mean(clock for clock, _ in rows), statistics.mean(power for _, power in rows)) if rows else None


class Lane:
    """One GPU, or several for jobs that span them, and the programs on it."""
    names = threading.Lock()
    jobs = 0

    def __init__(self, options, directory, uuids, number):
        self.options, self.directory, self.uuids, self.number = options, directory, uuids, number
        self.rate, self.measured, self.faults = None, {}, []

    def job(self):
        """A name for a new job: its ledger's."""
        with Lane.names:
            Lane.jobs += 1
            return Lane.jobs

    def environment(self, share, job, extra=None):
        env = clean_environment(self.options, self.directory)
        if self.uuids:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(self.uuids)
        if self.rate:
            env["SHARE_WORK_STEPS_PER_NS"] = self.rate
        if share is not None:
            env.update(LD_PRELOAD=LIBRARY, CUDA_DEVICE_SM_LIMIT=str(share), CUDA_DEVICE_MEMORY_SHARED_CACHE=self.ledger(job))
        env.update(extra or {})
        return {name: value for name, value in env.items() if value is not None}

    def ledger(self, job):
        return os.path.join(self.directory, f"ledger.{job}")

    def start(self, argv, share, job, extra=None):
        """A program that says "ready" and waits to be told when to begin."""
        process = subprocess.Popen(argv, env=self.environment(share, job, extra), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   text=True, errors="replace", start_new_session=True)
        process.softmig_argv = argv
        return process

    def finish(self, process, limit):
        try:
            output, errors = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            kill(process)
            output, errors = process.communicate()
            errors += f"\nno end within {limit:.0f} s"
        output = "".join(process.softmig_said) + output
        result = Result(output, errors, process.returncode)
        if process.returncode not in (0, 77, -signal.SIGKILL) or "no end within" in errors:
            self.faults.append(f"{' '.join(os.path.basename(word) for word in process.softmig_argv[:3])}: status {process.returncode}: {result.errors}")
        return result

    def together(self, programs, seconds, meddle=None, patience=60, delays=None):
        """programs: (argv, share or None, job[, environment]) each. All begin at one moment, when the last is ready, or
        delays seconds later."""
        processes = [self.start(*program) for program in programs]
        try:
            for process in processes:
                process.softmig_said = until_ready(process, patience)
            start_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 50_000_000
            for process, delay in zip(processes, delays or [0] * len(processes)):
                try:
                    process.stdin.write(f"{start_ns + int(delay * 1e9)}\n")
                    process.stdin.flush()
                except OSError:
                    pass  # it has ended: finish() tells why
            if meddle:
                meddle(processes, start_ns)
            return [self.finish(process, seconds * 3 + 60) for process in processes]
        finally:
            for process in processes:
                kill(process)

    def work(self, kind, length_us, seconds):
        return [WORK, kind, str(length_us), f"{seconds:g}", "-"]

    def once(self, key, measure):
        if key not in self.measured:
            self.measured[key] = measure()
        return self.measured[key]

    def calibrate(self):
        """The same work for all programs of this GPU: so many steps a nanosecond."""
        self.rate = self.together([(self.work("plain", 100, 0.2), None, 0)], 1)[0].values.get("steps_per_ns", [None])[0]

    def alone(self, kind, length, count=1):
        """What it does without SoftMig, per cent of the GPU as calibrated; measured once."""
        return self.once((kind, length, count), lambda: self.alone_now(kind, length, count))

    def alone_now(self, kind, length, count=1):
        """The same, measured anew."""
        results = self.together([(self.work(kind, length, min(NATIVE_SECONDS, self.options.seconds + 1)), None, 0)] * count, NATIVE_SECONDS)
        self.measured[kind, length, count] = sum(result.mean() for result in results) or 1e-9
        return self.measured[kind, length, count]


def until_ready(process, patience):
    """What it said up to "ready"; if that does not come it is ended."""
    said, timer = [], threading.Timer(patience, kill, [process])
    timer.start()
    try:
        while True:
            line = process.stdout.readline()
            if line in ("", "ready\n"):
                return said
            said.append(line)
    finally:
        timer.cancel()


def kill(process):
    if process.returncode is None and process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
