# SPDX-License-Identifier: Apache-2.0
"""What bench/share does to programs while they run: stops and kills them, scribbles into their pages, changes their limit file.

Owns: the layout of a page and of a ledger's head as seen from outside (src/slice/turn.h, src/slice/ledger.h). Must never: touch
a process or file that the bench did not make."""
import mmap
import os
import signal
import struct
import threading
import time

from share_runner import LIBRARY


def now_ns():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def sleep_until(moment_ns):
    time.sleep(max(0, (moment_ns - now_ns()) / 1e9))


def page_of(lane, job):
    """The page file of a job of this user: named after the moment its ledger was made."""
    with open(lane.ledger(job), "rb") as ledger:
        created = struct.unpack_from("<Q", ledger.read(24), 16)[0]
    for directory, _, names in os.walk(f"/tmp/softmig-turns.{os.geteuid()}"):
        if f"{created:x}" in names:
            return os.path.join(directory, f"{created:x}")
    raise FileNotFoundError(f"no page {created:x} in /tmp/softmig-turns.{os.geteuid()}")


def lie(lane, job, until_ns, forever):
    """Writes into a job's page, a thousand times a second, that it holds the GPU for ever, or that it never had any."""
    with open(page_of(lane, job), "r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        turns = 0
        while (now := now_ns()) < until_ns:
            struct.pack_into("<Q", page, 48, 0)  # virtual_ns
            if forever:
                turns += 1
                struct.pack_into("<QQQ", page, 24, now + 10**7, now, now + 2 * 10**7)  # want_until, hold_since, hold_until
                struct.pack_into("<Q", page, 56, turns)
            time.sleep(0.001)


def send(what):
    def meddler(lane, job, seconds):
        def meddle(processes, start_ns):
            sleep_until(start_ns + 500_000_000)
            os.kill(processes[1].pid, what)
            if what == signal.SIGSTOP:
                sleep_until(start_ns + int((seconds + 0.5) * 1e9))
                os.kill(processes[1].pid, signal.SIGKILL)
        return meddle
    return meddler


def liar(forever):
    def meddler(lane, job, seconds):
        def meddle(_, start_ns):
            sleep_until(start_ns)
            try:
                lie(lane, job, start_ns + int(seconds * 1e9), forever)
            except (OSError, struct.error) as error:
                lane.faults.append(f"lying in a page: {error}")
        return meddle
    return meddler


class LimitFile:
    """A limit file of a Slurm job that is none, in a mount namespace of the program's own: nothing outside sees it."""

    def __init__(self, lane, job, shares, seconds_each):
        self.job, self.shares, self.seconds_each = job, shares, seconds_each
        self.state = os.path.join(lane.directory, f"state.{job}")
        self.environment = {"SLURM_JOB_ID": str(job), "SLURM_TMPDIR": lane.directory, "CUDA_DEVICE_SM_LIMIT": None}
        self.timer = None

    def __enter__(self):
        os.makedirs(self.state, mode=0o755, exist_ok=True)
        return self

    def __exit__(self, *_):
        if self.timer:
            self.timer.join()

    def write(self, share):
        path = os.path.join(self.state, f"{self.job}.conf")
        with open(path + ".new", "w", encoding="utf-8") as file:
            file.write(f"CUDA_DEVICE_SM_LIMIT={share}\n")
        os.chmod(path + ".new", 0o644)
        os.replace(path + ".new", path)

    def command(self, argv):
        inside = ('echo "0::/system.slice/slurmstepd.scope/job_$3/step_0/user/task_0" >"$2/cgroup" && mount -t tmpfs none /run && mkdir -p /run/softmig && mount --bind "$2" /run/softmig &&'
                  ' mount --bind "$2/cgroup" "/proc/$$/cgroup" || exit 99; export LD_PRELOAD="$1"; shift 3; exec "$@"')
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", inside, "sh", LIBRARY, self.state, str(self.job), *argv]

    def meddle(self, _, start_ns):
        def change():
            for number, share in enumerate(self.shares[1:], 1):
                sleep_until(start_ns + int((1 + number * self.seconds_each) * 1e9))
                self.write(share)
        self.timer = threading.Thread(target=change)
        self.timer.start()


meddlers = {"stop": send(signal.SIGSTOP), "kill": send(signal.SIGKILL), "hold": liar(True), "nothing": liar(False), "limit file": LimitFile}
