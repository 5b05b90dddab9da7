# SPDX-License-Identifier: Apache-2.0
"""Runs programs in and out of slices, beside a watcher that asks NVML from outside, and writes one table.

Owns: starting, time limits, gathering of "@check" lines, the judgement of what NVML saw. Must never: let one failure hide
another, leave a process behind, or run longer than its time limits allow."""
import concurrent.futures
import hashlib
import os
import re
import signal
import subprocess
import sys
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(SOURCE, "build"))
PROGRAMS = os.path.join(BUILD, "tests", "gpu")
MIB = 1 << 20
SIM = False  # set by run --sim
CONTEXT_UNLISTED = 40  # MiB that a context takes of an H200 and that are in no process's figure; 27 to 35 were seen
BESIDE = False  # other programs use the GPU; set by run --beside
GPU = None  # the GPU of this run, as NVML numbers it; set by run --gpu
UUID = None  # the same by its name, which means the same to CUDA and to NVML


def tree_of(folder):
    """Git's name for a folder: what `git rev-parse COMMIT:src` says, also where there is no repository to ask. As long as nothing lies there
    that is not in the repository."""
    def hash_of(kind, data):
        return hashlib.sha1(b"%s %d\0" % (kind, len(data)) + data).digest()

    entries = []
    for entry in os.scandir(folder):
        if entry.is_symlink():
            entries.append((entry.name.encode(), b"120000", hash_of(b"blob", os.readlink(entry.path).encode())))
        elif entry.is_dir():
            entries.append((entry.name.encode() + b"/", b"40000", tree_of(entry.path)))
        else:
            with open(entry.path, "rb") as file:
                entries.append((entry.name.encode(), b"100755" if os.access(entry.path, os.X_OK) and entry.stat().st_mode & 0o111 else b"100644", hash_of(b"blob", file.read())))
    return hash_of(b"tree", b"".join(mode + b" " + name.rstrip(b"/") + b"\0" + value for name, mode, value in sorted(entries)))


def version():
    """Which SoftMig this is, for the head of a result: the commit where it is known, always the tree of src (to be compared
    with `git rev-parse COMMIT:src`) and the library's build id."""
    commit = os.environ.get("SOFTMIG_COMMIT") or subprocess.run(["git", "-C", SOURCE, "describe", "--always", "--dirty"], capture_output=True, text=True,
                                                                check=False).stdout.strip()
    notes = subprocess.run(["readelf", "-n", os.path.join(BUILD, "libsoftmig.so")], capture_output=True, text=True, check=False).stdout
    build = re.search(r"Build ID: (\w+)", notes)
    return f"SoftMig at {commit + ', ' if commit else ''}src {tree_of(os.path.join(SOURCE, 'src')).hex()[:12]}, library {build.group(1)[:12] if build else 'unknown'}"


def environment(extra=None):
    env = dict(os.environ)
    for name in list(env):
        if name.startswith(("CUDA_DEVICE_", "SOFTMIG_LOG", "LIBCUDA_LOG")) or name in ("LD_PRELOAD", "ACTIVE_OOM_KILLER"):
            del env[name]
    if SIM:
        env["LD_LIBRARY_PATH"] = os.path.join(BUILD, "sim") + ":" + env.get("LD_LIBRARY_PATH", "")
        env["SOFTMIG_TEST_SIM"] = "1"
        env["SOFTMIG_SIM_STATE"] = f"/dev/shm/softmig-gpu-test.{os.getpid()}"
        env["SOFTMIG_SIM_GPUS"] = "2xH200:143771M"
        env["SOFTMIG_SIM_POOL_KEEP"] = "32M"
    if UUID:
        env["CUDA_VISIBLE_DEVICES"] = UUID
    env["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__)) + ":" + env.get("PYTHONPATH", "")
    env.update(extra or {})
    return env


class Job:
    """One process group in a session of its own: in a slice (memory, sm, options), passive, or native."""

    def __init__(self, name, argv, memory=None, sm=None, options=(), env=None, timeout=60, passive=False, quiet=True, needs_gpus=1, context=True,
                 fills=False):
        self.name, self.argv, self.memory, self.timeout, self.quiet = name, argv, memory, timeout, quiet
        self.limits = memory if isinstance(memory, dict) else None  # per GPU, for the judge
        self.context = context  # does it make one, so that NVML must see it?
        self.fills = fills  # must it be seen to have nearly all of it, in whoever's figure?
        self.env = environment(env)
        slice_options = []
        if isinstance(memory, (int, float)):
            slice_options += ["--memory", f"{int(memory)}M"]
        if sm is not None:
            slice_options += ["--sm", str(sm)]
        slice_options += list(options)
        self.command = list(argv)
        if slice_options:
            self.command = [os.path.join(BUILD, "softmig"), "run", *slice_options, "--", *argv]
        elif passive:
            self.env["LD_PRELOAD"] = os.path.join(BUILD, "libsoftmig.so")
        self.needs_gpus = needs_gpus
        self.session = None
        self.output = self.errors = ""
        self.status = None
        self.seconds = 0.0

    def run(self):
        start = time.monotonic()
        try:
            process = subprocess.Popen(self.command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                       start_new_session=True, text=True, errors="replace", cwd=SOURCE)
        except OSError as error:
            self.errors, self.status = str(error), "not started"
            return self
        self.session = process.pid
        try:
            self.output, self.errors = process.communicate(timeout=self.timeout)
            self.status = process.returncode
        except subprocess.TimeoutExpired:
            self.status = f"no end within {self.timeout} s"
        if self.status != 0:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # whatever it left behind
            except ProcessLookupError:
                pass
        if isinstance(self.status, str):
            try:
                self.output, self.errors = process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                pass
        self.seconds = time.monotonic() - start
        return self


class Watcher:
    """The judge outside: highest sum of bytes per session and GPU that NVML showed."""

    def __init__(self, ceiling=0):
        self.ceiling = ceiling  # MiB; above it, each look is told of

    def __enter__(self):
        self.peaks, self.samples, self.who, self.overs, self.wholes = {}, 0, {}, [], {}
        self.started = time.monotonic()
        self.process = None
        try:
            self.process = subprocess.Popen([os.path.join(PROGRAMS, "watcher"), "500" if SIM else "0", str(self.ceiling), "0" if SIM else str(CONTEXT_UNLISTED)], env=environment(), stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
            self.process.stdout.readline()
        except OSError as error:
            print(f"no watcher: {error}", file=sys.stderr)
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self.started
        if self.process is None:
            return
        try:
            output, _ = self.process.communicate("\n", timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            output = ""
        for line in output.splitlines():
            match = re.match(r"@peak (-?\d+) (\d+) (\d+) (\d+) ?(.*)", line)
            if match:
                session, gpu, peak, samples = (int(n) for n in match.groups()[:4])
                self.peaks.setdefault(session, {})[gpu] = peak
                self.who[session, gpu] = match.group(5)
                self.samples = samples
            match = re.match(r"@whole (-?\d+) (\d+) (\d+)", line)
            if match:
                session, gpu, whole = (int(n) for n in match.groups())
                self.wholes.setdefault(session, {})[gpu] = whole
            match = re.match(r"@over (-?\d+) (\d+) (\d+) (\d+) (\d+)(.*)", line)
            if match:
                changes = {int(pid): int(change) for pid, change in (pair.split(":") for pair in match.group(6).split())}
                self.overs.append({"session": int(match.group(1)), "bytes": int(match.group(3)), "before_ns": int(match.group(4)), "now_ns": int(match.group(5)), "changes": changes})


class Report:
    def __init__(self):
        self.lines, self.passed, self.failed, self.skipped = [], 0, 0, 0
        self.brief = []  # what the terminal shows: failures, skips, counts

    def text(self, line):
        self.lines.append(line)
        self.brief.append(line)

    def section(self, title):
        self.brief += ["", f"## {title}"]
        self.lines += ["", f"## {title}", "", "| check | expected | seen | ok |", "|---|---|---|---|"]

    def row(self, name, expected, seen, ok):
        verdict = ok if isinstance(ok, str) else ("ok" if ok else "**FAIL**")
        if verdict == "skip":
            self.skipped += 1
        elif verdict == "ok":
            self.passed += 1
        else:
            verdict = "**FAIL**"
            self.failed += 1
        cells = [str(cell).replace("|", "/").replace("\n", " ")[:300] for cell in (name, expected, seen)]
        self.lines.append(f"| {cells[0]} | {cells[1]} | {cells[2]} | {verdict} |")
        if verdict != "ok" or "NVML" in cells[0]:
            self.brief.append(f"{verdict}: {cells[0]}: expected {cells[1] or '-'}, seen {cells[2]}")

    def job(self, job, watcher=None):
        """The rows of one job: its own checks, its end, and what NVML saw of it."""
        checks = 0
        for line in job.output.splitlines():
            if not line.startswith("@check\t"):
                continue
            fields = line.split("\t") + [""] * 4
            checks += 1
            self.row(f"{job.name}: {fields[1]}", fields[2], fields[3], {"ok": True, "skip": "skip"}.get(fields[4], False))
        lines = job.errors.strip().splitlines()
        telling = [line.strip() for line in lines if re.search(r"[Ee]rror|what\(\)|terminate", line)]  # a C++ exception's trace comes after what it is
        last = " / ".join(telling[:3])[:300] if telling else (lines or [""])[-1]
        if job.status == 77:
            self.row(f"{job.name}: can run here", "", last, "skip")
            return
        fine = job.status == 0 or (job.status == 1 and "FAIL" in job.output)  # a program with a failed check ends with 1
        if not fine or checks == 0:
            self.row(f"{job.name}: ends", "0, with checks", f"{job.status}, {checks} checks: {last}", False)
        if job.quiet and fine:
            self.row(f"{job.name}: nothing on stderr", "", job.errors.strip()[:120], job.errors.strip() == "")
        if watcher and job.memory is not None and job.session is not None:
            peaks = watcher.peaks.get(job.session, {})
            if not peaks and job.context and not SIM:  # simulated programs may live shorter than one look
                self.row(f"{job.name}: seen by NVML", "yes", f"never, in {watcher.samples} samples", False)
            for gpu, peak in sorted(peaks.items()):
                limit = job.memory.get(gpu) if isinstance(job.memory, dict) else job.memory
                if limit is None:
                    continue
                over = peak > limit * MIB
                self.row(f"{job.name}: NVML outside, GPU {gpu}, highest sum", f"<= {limit} MiB",
                         f"{peak / MIB:.0f} MiB" + (f": {watcher.who[job.session, gpu]}" if over else ""), not over)
                whole = watcher.wholes.get(job.session, {}).get(gpu, 0)
                if watcher.ceiling:
                    least = int(0.9 * limit) if job.fills else 0
                    self.row(f"{job.name}: GPU {gpu}, with what the driver shows to no process, for a quarter of a second",
                             (f">= {least} MiB, " if least else "") + f"<= {limit} MiB", f"{whole / MIB:.0f} MiB" + (", with that of others on the GPU" if BESIDE else ""),
                             "skip" if BESIDE else least * MIB <= whole <= limit * MIB)

    def finish(self, out):
        for name in ("", ".live"):
            if SIM and os.path.exists(f"/dev/shm/softmig-gpu-test.{os.getpid()}{name}"):
                os.unlink(f"/dev/shm/softmig-gpu-test.{os.getpid()}{name}")
        last = f"{self.passed} passed, {self.failed} failed" + (f", {self.skipped} skipped" if self.skipped else "")
        text = "\n".join(self.lines + ["", last]) + "\n"
        if out:
            with open(out, "w", encoding="utf-8") as file:
                file.write(text)
        print(text if not out else "\n".join(self.brief + ["", last]))
        return 1 if self.failed or not self.passed else 0


def run_jobs(report, jobs, at_once, watch=True, ceiling=0):
    """Runs jobs, several at a time, beside one watcher, and reports them in order. ceiling: MiB that one of them alone must not exceed."""
    with Watcher(ceiling) as watcher:
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            list(pool.map(Job.run, jobs))
        time.sleep(0.1)
    for job in jobs:
        report.job(job, watcher if watch else None)
    if watch and watcher.samples:
        report.row("NVML samples taken outside, mean distance", "> 0", f"{watcher.samples}, {1e6 * watcher.seconds / watcher.samples:.0f} us", True)
    return watcher


def gpu_uuids():
    """The GPUs that NVML shows, asked in a process of its own so that the harness never loads a driver."""
    code = ("import ctypes as c; n=c.CDLL('libnvidia-ml.so.1'); n.nvmlInit_v2(); k=c.c_uint(0); n.nvmlDeviceGetCount_v2(c.byref(k))\n"
            "for i in range(k.value):\n h=c.c_void_p(); b=c.create_string_buffer(96); n.nvmlDeviceGetHandleByIndex_v2(i,c.byref(h));"
            " n.nvmlDeviceGetUUID(h,b,96); print(b.value.decode())")
    return subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False).stdout.split()


def use_gpu(number):
    """Every job from here on runs on this GPU alone, unless it says otherwise. NVML's number: CUDA's may be another."""
    global GPU, UUID
    uuids = gpu_uuids()
    if number >= len(uuids):
        sys.exit(f"tests/gpu/run: no GPU {number}: NVML shows {len(uuids)}")
    GPU, UUID = number, uuids[number]


def have_module(name):
    return subprocess.run([sys.executable, "-c", f"import importlib.util,sys; sys.exit(importlib.util.find_spec('{name}') is None)"],
                          env=environment(), check=False).returncode == 0
