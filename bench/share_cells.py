# SPDX-License-Identifier: Apache-2.0
"""What bench/share measures: the cells of its table, what each needs and when it is right (issue 4's figures).

A cell runs on one lane (a GPU, or two) and gives rows. Cells of one group run on one GPU, one after the other, because they share
native figures. Must never: judge where there is no bar (ok is None), or leave out a row because a figure is missing."""
import importlib.util
import os
import statistics
import sys

from share_bad import meddlers
from share_runner import HERE, NATIVE_SECONDS, START, Clocks

TORCH_START = 8  # s, estimated: PyTorch's import, the model, 2 x 40 steps
COMPILE = 20  # s more, the first time
SECTIONS = {}


class Row:
    def __init__(self, *cells, ok=None, point=None):
        self.cells, self.ok, self.point = cells, ok, point


class Cell:
    def __init__(self, name, group, seconds, run, natives=(), gpus=1, quiet=False):
        self.name, self.group, self.seconds, self.run = name, group, seconds, run
        self.natives, self.gpus, self.quiet = natives, gpus, quiet
        self.rows, self.took = None, 0.0


def section(title, *columns):
    def wrap(function):
        SECTIONS[function.__name__] = title, columns, function
        return function
    return wrap


def name_of(length_us):
    return f"{length_us / 1000:g} ms" if length_us >= 1000 else f"{length_us:g} us"


def takes(seconds, count=1):
    """Estimate for programs that measure so long."""
    return seconds + START + 0.15 * count


def share_cell(name, kind, length, options, share, tolerance, deviation_limit, count=1, group=None, command_us=None):
    """Work in the slice over work alone, for one or several processes of one job."""
    # 100 ms kernels: so few of them that only a longer time tells
    seconds = options.seconds * (3 if length >= 100000 else 1) + 1

    def run(lane):
        job = lane.job()
        before = lane.alone(kind, length, count)
        results = lane.together([(lane.work(kind, length, seconds), share, job)] * count, seconds)
        # where half a point counts: what the GPU does alone differs by as much from one minute to the next
        native = (before + lane.alone_now(kind, length, count)) / 2 if tolerance < 1 else before
        windows = [100 * sum(values) / native for values in zip(*(result.counted() for result in results))]
        if not windows:
            skipped = results[0].status == 77
            return [Row(name, share, results[0].errors or "no figure", "", "", "", ok="skip" if skipped else False)]
        mean, deviation = statistics.mean(windows), statistics.pstdev(windows)
        # one command more or less in the time that was measured cannot be told from an error
        bound = (command_us or length) / 1e6 * (1 - share / 100) * 100
        shown = (f"{bound / len(windows):.2f}", f"{bound:.2f}") if length >= 5000 else ("", "")
        ok = abs(mean - share) <= max(tolerance, bound / len(windows) if length >= 20000 else 0) and (deviation_limit is None or deviation <= deviation_limit)
        intact = [result.values["intact"][0] == "1" for result in results if "intact" in result.values]
        label = name + ("" if not intact else ", results right" if all(intact) else ", RESULTS WRONG")
        return [Row(label, share, f"{mean:.2f}", f"{deviation:.2f}", *shown, ok=ok and all(intact), point=(name, share, mean))]
    after = takes(min(NATIVE_SECONDS, options.seconds + 1)) if tolerance < 1 else 0
    return Cell(f"{name} at {share} %", group or f"{kind} {length} {count}", takes(seconds, count) + after, run, natives=[(kind, length, count)])


# [H200] The gaps between kernels of 10 us differ from process to process, natively too: 85.9 to 87.7 % of the GPU in seven runs. So several are compared.
SHORT_US, SHORT_RUNS = 20, 4


def short_cell(name, length, options, share, tolerance, deviation_limit):
    """The same for kernels so short that two processes' differ by more than the tolerance: natively and in the slice by turns."""
    each = max(2, round(options.seconds / SHORT_RUNS + 0.4)) + 1

    def run(lane):
        natives, sliced = [], []
        for _ in range(SHORT_RUNS):
            natives.append(lane.together([(lane.work("plain", length, 3), None, 0)], 3)[0].mean())
            sliced.append(lane.together([(lane.work("plain", length, each), share, lane.job())], each)[0])
        native = statistics.mean(natives) or 1e-9
        if not all(result.windows for result in sliced):
            return [Row(name, share, next((result.errors for result in sliced if result.errors), "no figure"), "", "", "", ok=False)]
        mean = 100 * statistics.mean(result.mean() for result in sliced) / native
        deviation = max(statistics.pstdev(100 * value / native for value in result.counted()) for result in sliced)
        label = f"{name}, {SHORT_RUNS} runs; natively {100 * min(natives) / native:.1f} to {100 * max(natives) / native:.1f}"
        return [Row(label, share, f"{mean:.2f}", f"{deviation:.2f}", "", "", ok=abs(mean - share) <= tolerance and deviation <= deviation_limit, point=(name, share, mean))]
    return Cell(f"{name} at {share} %", f"plain {length}", SHORT_RUNS * (takes(3) + takes(each)), run)


SHARE_COLUMNS = ("work", "share", "work, % of alone", "deviation of 1 s", "L(1-p)/T in all", "in 1 s")


@section("Alone on the GPU", *SHARE_COLUMNS)
def alone(options):
    for length in options.lengths:
        tolerance, limit = (0.5, 0.5) if length <= 5000 else (1, None) if length <= 20000 else (1.5, None)
        for share in options.shares:
            if length <= SHORT_US:
                yield short_cell(f"kernels of {name_of(length)}", length, options, share, tolerance, limit)
            else:
                yield share_cell(f"kernels of {name_of(length)}", "plain", length, options, share, tolerance, limit)


@section("Other work", *SHARE_COLUMNS)
def kinds(options):
    for name, kind, length, count in (("mix of 10 us to 5 ms", "mix", 100, 1), ("graph of 20 x 100 us", "graph", 100, 1), ("8 streams, 100 us", "streams", 100, 1),
                                      ("8 streams, of which 4 have work at a time, 100 us", "streams-few", 100, 1),
                                      ("cooperative, 100 us", "coop", 100, 1), ("4 processes, 1 ms", "plain", 1000, 4)):
        for share in options.kind_shares:
            yield share_cell(name, kind, length, options, share, 1, None, count)
    for name, kind, length in (("dependent launches in pieces of 2 ms, 100 us", "pdl", 100), ("nothing but dependent launches, 100 us", "pdl-all", 100),
                               ("nothing but dependent launches, 10 us", "pdl-all", 10)):
        yield share_cell(name, kind, length, options, 50, 1, None, group="pdl")


@section("Inference: requests of 4 x 500 us with pauses of 2 to 4 ms", "share", "native, % of GPU", "in the slice", "of native", "a request, native, median and 99th percentile us",
         "in the slice")
def infer(options):
    seconds = options.seconds + 1

    def native_of(lane):
        return lane.once(("infer",), lambda: lane.together([(lane.work("infer", 500, seconds), None, 0)], seconds)[0])

    def cell(share):
        def run(lane):
            native, sliced = native_of(lane), lane.together([(lane.work("infer", 500, seconds), share, lane.job())], seconds)[0]
            ratio = sliced.mean() / (native.mean() or 1e-9)
            # what it needs if the share has room for it, the share if not
            ok = ratio >= 0.99 if share > native.mean() + 1 else abs(sliced.mean() - share) <= 1
            times = [f"{result.latency[0]:.0f}, {result.latency[1]:.0f}" if result.latency else "" for result in (native, sliced)]
            return [Row(share, f"{native.mean():.2f}", f"{sliced.mean():.2f}", f"{ratio:.4f}", *times, ok=ok, point=("inference with pauses", share, sliced.mean()) if share < 40 else None)]
        return Cell(f"inference at {share} %", "infer", takes(seconds) * (2 if share == 50 else 1), run, quiet=True)
    for share in (50, 75, 25, 10):
        yield cell(share)


def pair_row(name, shares, results, natives, judged):
    """Neighbours' works in percent of one alone, each one's part, and the sum."""
    works = [100 * result.mean() / native for result, native in zip(results, natives)]
    total = sum(works) or 1e-9
    parts = [100 * work / total for work in works]
    fair = [100 - sum(share for share in shares if share not in (100, None)) if share in (100, None) else share for share in shares]
    ok = None
    if judged:
        ok = all(abs(part - 100 * share / sum(fair)) <= 1 for part, share in zip(parts, fair))
        ok = ok and (len(shares) > 4 or 100 in shares or total >= (97 if len(shares) == 2 else 95))
    shown = "/".join("no SoftMig" if share is None else str(share) for share in shares)
    return Row(name, shown, " ".join(f"{work:.1f}" for work in works), " ".join(f"{part:.2f}" for part in parts), f"{total:.1f}", ok=ok)


@section("Neighbours", "kernels", "shares", "each, % of alone", "each one's part of the work", "together")
def neighbours(options):
    seconds = options.seconds + 1

    def cell(length, shares):
        plain = shares[0] == 0

        def run(lane):
            results = lane.together([(lane.work("plain", length, seconds), None if plain else share, lane.job()) for share in shares], seconds)
            native = lane.alone("plain", length)
            if plain:
                works = [100 * result.mean() / native for result in results]
                return [Row(name_of(length), f"{len(shares)}, plain time-slicing", " ".join(f"{work:.1f}" for work in works), "", f"{sum(works):.1f}")]
            # long kernels cannot be cut: so much of the time that was measured is one kernel more or less
            bound = length / 1e6 * (1 - min(share or 100 for share in shares) / 100) / options.seconds * 100
            label = name_of(length) + (f" (L(1-p)/T {bound:.2f})" if length >= 20000 else "")
            return [pair_row(label, shares, results, [native] * len(shares), length <= 5000 and None not in shares)]
        name = f"{len(shares)} neighbours, {name_of(length)}, " + ("plain" if plain else "/".join(map(str, shares)))
        return Cell(name, f"neighbours {length}", takes(seconds, len(shares)), run, natives=[("plain", length, 1)])

    for length in options.neighbour_lengths:
        for shares in ((0, 0), (50, 50), (30, 70), (10, 90), (0,) * 4, (25,) * 4):
            yield cell(length, shares)
        if length == 1000:
            for shares in ((0,) * 8, (12,) * 8, (30, 100), (30, None)):
                yield cell(length, shares)


@section("A 100 us kernel every 50 ms beside a busy neighbour (1 ms kernels)", "", "median us", "99th percentile us", "kernels")
def latency(options):
    seconds = max(options.seconds * 2, 5)

    def measure(lane, share, other):
        programs = [(lane.work("small", 100, seconds), share, lane.job()), (lane.work("plain", 1000, seconds + 0.5), other, lane.job())]
        return lane.together(programs, seconds)[0].latency or (0, 0, 0)

    def cell(name, share, other):
        def run(lane):
            plain = lane.once(("small beside busy",), lambda: measure(lane, None, None))
            median, late, count = plain if share is None else measure(lane, share, other)
            return [Row(name, f"{median:.0f}", f"{late:.0f}", count, ok=None if share is None else 0 < late <= plain[1] * 1.02 + 20)]
        return Cell(f"latency, {name}", "latency", takes(seconds, 2), run, quiet=True)
    yield cell("plain time-slicing", None, None)
    yield cell("shares 50/50", 50, 50)
    yield cell("shares 50/100", 50, 100)


@section("A bad neighbour (both 50 %, 1 ms kernels)", "neighbour", "with plain time-slicing", "with turns")
def bad(options):
    seconds = options.seconds + 1

    def plain(lane, length):
        programs = [(lane.work("plain", us, seconds), None, 0) for us in (1000, length)]
        return lane.once(("bad", length), lambda: 100 * lane.together(programs, seconds)[0].mean() / lane.alone("plain", 1000))

    def cell(name, length, meddler, has_all, first):
        def run(lane):
            expected = 50 if has_all else plain(lane, length)
            other = lane.job()
            programs = [(lane.work("plain", 1000, seconds), 50, lane.job()), (lane.work("plain", length, seconds), 50, other)]
            results = lane.together(programs, seconds, meddler(lane, other, seconds) if meddler else None)
            got = 100 * results[0].mean() / lane.alone("plain", 1000)
            return [Row(name, "all, of which 50 are its share" if has_all else f"{expected:.1f}", f"{got:.1f}", ok=got >= 0.95 * min(expected, 50))]
        return Cell(f"a neighbour that {name}", "bad", takes(seconds, 2) * (2 if first else 1), run, natives=[("plain", 1000, 1)])
    yield cell("is stopped", 1000, meddlers["stop"], True, False)
    yield cell("is killed", 1000, meddlers["kill"], True, False)
    yield cell("says it holds for ever", 1000, meddlers["hold"], False, True)
    yield cell("says it had nothing", 1000, meddlers["nothing"], False, False)
    yield cell("runs 500 ms kernels", 500000, None, False, True)


@section("The share is changed under load (limit file, kernels of 1 ms)", "share", "work, % of alone, seconds after the change's own", "deviation of 1 s")
def live(options):
    third = max(2, round(options.seconds / 3))
    steps, seconds = (25, 75, 10), 1 + 3 * third

    def run(lane):
        if os.geteuid() != 0:
            return [Row("", "needs root for a mount namespace", "", ok="skip")]
        job = 900000 + lane.job()
        with meddlers["limit file"](lane, job, steps, third) as changes:
            changes.write(steps[0])
            result = lane.together([(changes.command(lane.work("plain", 1000, seconds)), None, job, changes.environment)], seconds, changes.meddle)[0]
        if not result.windows:
            return [Row("", result.errors or "no figure", "", ok="skip" if result.status == 99 else False)]
        rows, native = [], lane.alone("plain", 1000)
        for i, share in enumerate(steps):
            windows = [100 * value / native for value in result.windows[1 + i * third + (i > 0):1 + (i + 1) * third]]
            mean = statistics.mean(windows) if windows else 0
            rows.append(Row(share, f"{mean:.2f}", f"{statistics.pstdev(windows):.2f}" if windows else "", ok=abs(mean - share) <= 1))
        return rows
    yield Cell("live change", "live", takes(seconds), run, natives=[("plain", 1000, 1)])


@section("Borrowing (kernels of 1 ms)", "", "work, % of alone")
def borrow(options):
    third = max(2, round(options.seconds / 3))
    seconds, mode = 1 + 3 * third, {"SOFTMIG_SHARE_MODE": "borrow"}

    def run(lane):
        programs = [(lane.work("plain", 1000, seconds), 25, lane.job(), mode), (lane.work("plain", 1000, third), 75, lane.job())]
        mine, other = lane.together(programs, seconds, delays=(0, 1 + third))
        native = lane.alone("plain", 1000)

        def part(values):
            return 100 * statistics.mean(values) / native if values else 0
        before, during, after = part(mine.windows[1:1 + third]), part(mine.windows[2 + third:1 + 2 * third]), part(mine.windows[2 + 2 * third:])
        beside = part(other.windows[1:])
        return [Row("25 % that borrows, alone", f"{before:.1f}", ok=before >= 97),
                Row("beside a busy neighbour of 75 %: each", f"{during:.1f}, {beside:.1f}", ok=abs(during - 25) <= 2 and beside >= 70),
                Row("when that has ended", f"{after:.1f}", ok=after >= 97)]
    yield Cell("borrow", "live", takes(seconds, 2), run, natives=[("plain", 1000, 1)])


@section("What it costs when the limit does not bind", "work", "native", "in the slice", "ratio or more")
def cost(options):
    seconds = options.seconds + 1

    def part(lane):
        native, sliced = (lane.together([(lane.work("part", 500, seconds), share, lane.job())], seconds)[0].mean() for share in (None, 50))
        return [Row("30 % of the GPU under a share of 50 %", f"{native:.2f} %", f"{sliced:.2f} %", f"{sliced / (native or 1e-9):.4f}", ok=sliced >= 0.99 * native > 0)]
    yield Cell("not binding", "part", 2 * takes(seconds), part, quiet=True)

    def loader(lane):
        native, sliced = (lane.together([(lane.work("loader", 500, seconds), share, lane.job())], seconds)[0].mean() for share in (None, 50))
        return [Row("500 us kernels behind copies in another stream, under a share of 50 %", f"{native:.2f} %", f"{sliced:.2f} %", f"{sliced / (native or 1e-9):.4f}",
                    ok=sliced >= 0.99 * min(native, 50) > 0)]
    yield Cell("not binding, behind copies", "loader", 2 * takes(seconds), loader, quiet=True)

    # [H200] Natively 228 000 to 287 000 a second, from one second to the next and from one process to the next: so by turns, and several pairs.
    pairs, turns = max(1, round(options.seconds)), 4

    def launches(lane):
        def rates():
            programs = [(lane.work("launch", 2, turns), share, lane.job(), {"SHARE_WORK_SLOT_MS": "500", "SHARE_WORK_PHASE": str(phase)}) for phase, share in enumerate((None, 90))]
            totals = [result.values.get("total", [0, 1]) for result in lane.together(programs, turns)]
            return [float(work) / 2 / (float(seconds) or 1) for work, seconds in totals]
        measured = [rates() for _ in range(pairs)]
        native, sliced = (statistics.mean(values) for values in zip(*measured))
        ratios = sorted(mine / (base or 1e-9) for base, mine in measured)
        ratio = sliced / (native or 1e-9)
        return [Row(f"launches of 2 us kernels a second, under 90 %; {pairs} pairs, by turns of half a second", f"{native:.0f}", f"{sliced:.0f}",
                    f"{ratio:.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f}), of what 90 % allows {ratio / 0.9:.3f}", ok=ratio >= 0.97 * 0.9)]
    yield Cell("launch-bound", "launch", pairs * takes(turns, 2), launches, quiet=True)

    both = 2 * max(2, options.seconds)

    def single(lane):
        # by turns of one second, so that whatever the host does besides befalls both
        programs = [(lane.work("single", 10, both), share, lane.job(), {"SHARE_WORK_SLOT_MS": "1000", "SHARE_WORK_PHASE": str(phase)}) for phase, share in enumerate((None, 50))]
        native, sliced = lane.together(programs, both)
        if not native.latency or not sliced.latency:
            return [Row("one 10 us kernel and a pause", native.errors, sliced.errors, "no figure", ok=False)]

        def shown(result):
            median, late, count = result.latency
            lates = [one for _, one, _ in result.rounds]
            return f"{median:.1f} us, {late:.1f} us of {count} (rounds' 99th: {min(lates):.1f} to {max(lates):.1f})"
        more = sliced.latency[1] - native.latency[1]
        return [Row("one 10 us kernel and a pause: median, 99th percentile", shown(native), shown(sliced), f"median {sliced.latency[0] - native.latency[0]:+.1f} us, 99th {more:+.1f} us",
                    ok=more <= 50)]
    yield Cell("single launches", "single", takes(both, 2), single, quiet=True)


@section("One job on two GPUs, 30 % each", "work", "GPU", "work, % of alone", "deviation of 1 s")
def gpus(options):
    seconds = options.seconds + 1

    def two(lane):
        job = lane.job()
        results = lane.together([(lane.work("plain", 1000, seconds), 30, job, {"CUDA_VISIBLE_DEVICES": part.uuids[0], "SHARE_WORK_STEPS_PER_NS": part.rate}) for part in lane.parts], seconds)
        rows = []
        for number, (part, result) in enumerate(zip(lane.parts, results)):
            windows = [100 * value / part.alone("plain", 1000) for value in result.counted()]
            mean = statistics.mean(windows) if windows else 0
            rows.append(Row("kernels of 1 ms, a process each", number, f"{mean:.2f}", f"{statistics.pstdev(windows) if windows else 0:.2f}", ok=abs(mean - 30) <= 2))
        return rows
    yield Cell("two GPUs", "gpus", takes(seconds, 2) + 2 * takes(NATIVE_SECONDS), two, gpus=2)

    def nccl(kind):
        def run(lane):
            if options.sim or not importlib_has("torch"):
                return [Row(kind, "", "needs PyTorch and a GPU", "", ok="skip")]

            def measure(share):
                meet = os.path.join(lane.directory, f"nccl.{lane.job()}")
                job = lane.job()
                argv = [[sys.executable, os.path.join(HERE, "share_nccl.py"), kind, str(rank), meet, f"{seconds:g}"] for rank in range(2)]
                return lane.together([(words, share, job) for words in argv], seconds, patience=120)
            before, sliced, after = measure(None), measure(30), measure(None)  # ranks wait for each other: whatever holds up one of them befalls both
            rows = []
            for rank in range(2):
                natives = [result[rank].mean() for result in (before, after)]
                base = statistics.mean(natives)
                windows = [100 * value / base for value in sliced[rank].counted()] if base else []
                mean = statistics.mean(windows) if windows else 0
                right = all(result[rank].values.get("right") == ["1"] for result in (before, sliced, after))
                faults = sliced[rank].errors or before[rank].errors or after[rank].errors
                note = ", sums right" if right else f", SUMS WRONG {faults}"
                rows.append(Row(f"NCCL, {kind}{note} (natively {natives[0] * 1e4:.0f} a second before, {natives[1] * 1e4:.0f} after)", rank, f"{mean:.2f}",
                                f"{statistics.pstdev(windows) if windows else 0:.2f}", ok=abs(mean - 30) <= 2 and right))
            return rows
        return Cell(f"NCCL {kind}", "gpus", 3 * (seconds + TORCH_START), run, gpus=2)
    for kind in options.nccl_kinds:
        yield nccl(kind)


def importlib_has(name):
    return importlib.util.find_spec(name) is not None


def torch_program(lane, kind, seconds):
    return [sys.executable, os.path.join(HERE, "share_torch.py"), kind, f"{seconds:g}"]


def torch_environment(lane):
    """What one run compiles, the next finds: on each GPU its own, so that what is tuned by timing is tuned once."""
    return {"TORCHINDUCTOR_CACHE_DIR": os.path.join(lane.directory, f"inductor.{lane.number}"), "TRITON_CACHE_DIR": os.path.join(lane.directory, f"triton.{lane.number}")}


def torch_run(lane, kind, seconds, share):
    clocks = Clocks(lane.uuids[0] if lane.uuids else None, lane.directory)
    result = lane.together([(torch_program(lane, kind, seconds), share, lane.job(), torch_environment(lane))], seconds, patience=150)[0]
    result.clocks = clocks.stop(seconds)
    return result


def torch_native(lane, kind, seconds):
    return lane.once(("torch", kind), lambda: torch_run(lane, kind, seconds, None))


@section("PyTorch training", "step", "share", "native steps/s", "in the slice", "% of native", "deviation of 1 s", "SM clock MHz and W, native; in the slice", "losses")
def torch(options):
    seconds = options.seconds + 1

    def cell(kind, share, first):
        def run(lane):
            if options.sim or not importlib_has("torch"):
                return [Row(kind, share, "needs PyTorch and a GPU", "", "", "", "", "", ok="skip")]
            native, sliced = torch_native(lane, kind, seconds), torch_run(lane, kind, seconds, share)
            if not native.mean() or not sliced.mean():
                return [Row(kind, share, native.errors, sliced.errors, "no figure", "", "", "", ok=False)]
            windows = [100 * value / native.mean() for value in sliced.counted()]
            mean = statistics.mean(windows)
            losses, sliced_losses, again = native.values.get("losses"), sliced.values.get("losses"), native.values.get("again")
            equal = losses is not None and losses == sliced_losses
            deterministic = losses == again
            said = f"all {len(losses or [])} bit-equal" if equal else "differ" if deterministic else "differ, natively too from run to run"
            clocks = "; ".join(f"{result.clocks[0]:.0f}, {result.clocks[1]:.0f}" if result.clocks else "?" for result in (native, sliced))
            power_bound = kind == "matmul"  # shown for the clock's sake: no bar
            return [Row(kind, share, f"{native.mean() * 1e4:.2f}", f"{sliced.mean() * 1e4:.2f}", f"{mean:.2f}", f"{statistics.pstdev(windows):.2f}", clocks, said,
                        ok=None if power_bound and equal else abs(mean - share) <= 2 and (equal or not deterministic),
                        point=(f"PyTorch {kind}", share, mean))]
        return Cell(f"PyTorch {kind} at {share} %", f"torch {kind}", (seconds + TORCH_START) * (2 if first else 1) + (COMPILE if first and kind == "compile" else 0), run, quiet=True)
    for kind in options.torch_kinds:
        for number, share in enumerate(options.torch_shares if kind == "eager" else [50]):
            yield cell(kind, share, number == 0)


@section("A pair of PyTorch trainings", "step", "shares", "each, % of alone", "each one's part of the work", "together")
def torchpair(options):
    seconds = options.seconds + 1

    def cell(shares, first):
        def run(lane):
            if options.sim or not importlib_has("torch"):
                return [Row("eager", "/".join(map(str, shares)), "needs PyTorch and a GPU", "", "", ok="skip")]
            native = torch_native(lane, "eager", seconds).mean() or 1e-9
            plain = shares[0] == 0
            programs = [(torch_program(lane, "eager", seconds), None if plain else share, lane.job(), torch_environment(lane)) for share in shares]
            results = lane.together(programs, seconds, patience=150)
            if plain:
                works = [100 * result.mean() / native for result in results]
                return [Row("eager", f"{len(shares)}, plain time-slicing", " ".join(f"{work:.1f}" for work in works), "", f"{sum(works):.1f}")]
            return [pair_row("eager", shares, results, [native] * 2, False)]
        return Cell("PyTorch pair " + "/".join(map(str, shares)), "torchpair", (seconds + TORCH_START) * (2 if first else 1), run, quiet=True)
    for number, shares in enumerate(((0, 0), (50, 50), (30, 70))):
        yield cell(shares, number == 0)


