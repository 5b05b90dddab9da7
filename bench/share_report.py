# SPDX-License-Identifier: Apache-2.0
"""What bench/share writes: a table in Markdown and a picture in SVG. Owns: the words about machine, driver and version."""
import hashlib
import os
import platform
import re
import subprocess
import sys

from share_runner import BUILD, HERE, LIBRARY

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0", "#222222", "#b5446e", "#00798c", "#d1a110")


def run(*argv):
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def version():
    """The version that the build calls itself, the commit where it is known, and the library's checksum, which is always."""
    commit = os.environ.get("SOFTMIG_COMMIT") or run("git", "-C", HERE, "rev-parse", "--short", "HEAD")
    with open(LIBRARY, "rb") as file:
        checksum = hashlib.sha256(file.read()).hexdigest()[:12]
    return f"{run(os.path.join(BUILD, 'softmig'), '--version') or 'softmig'}{', commit ' + commit if commit else ''}, libsoftmig.so sha256 {checksum}"


def machine(options):
    gpus = run("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader").splitlines() if not options.sim else []
    kinds = "; ".join(f"{gpus.count(kind)} x {kind.replace(', ', ', driver ', 1)}" for kind in dict.fromkeys(gpus))
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        processor = re.search(r"model name\s*: (.*)", file.read())
    return f"{kinds or 'the simulated driver'}; Linux {platform.release()}, {os.cpu_count()} cores, {processor.group(1) if processor else platform.machine()}"


def verdict(ok):
    return {None: "", True: "ok", False: "**missed**"}.get(ok, ok)


def line(row):
    return "| " + " | ".join(str(cell).replace("|", "/").replace("\n", " ") for cell in (*row.cells, verdict(row.ok))) + " |"


def table(options, sections, cells, lanes, faults, began, took):
    rows = [row for cell in cells for row in cell.rows or []]
    missed, judged = sum(row.ok is False for row in rows), sum(row.ok in (True, False) for row in rows)
    waiting = [cell.name for cell in cells if cell.rows is None]
    out = ["<!-- SPDX-License-Identifier: Apache-2.0 -->", f"# The compute share on {'the simulated driver' if options.sim else machine(options).split(';')[0]}", "",
           f"{machine(options)}. {version()}.", "",
           f"`{os.path.relpath(sys.argv[0], os.path.dirname(HERE))} {' '.join(sys.argv[1:])}`, {began}, {took:.0f} s. Cells run side by side on {len(lanes)} GPU{'s' * (len(lanes) > 1)}, one cell on each at a time;"
           " the cells of what it costs at the end, beside each other at most.",
           "Figures are work done after a second of run-in, in percent of what the same program does alone on the same GPU without SoftMig (where half a",
           "point counts: before and after)."]
    for title, columns, mine in sections:
        out += ["", f"## {title}", "", "| " + " | ".join((*columns, "")) + " |", "|" + "---|" * (len(columns) + 1)]
        out += [line(row) for cell in mine for row in cell.rows or []]
    out += ["", f"{judged - missed} of {judged} judged rows within their bars, {missed} missed."]
    if waiting:
        out += [f"Not measured: {'; '.join(waiting)}."]
    out += [f"A program failed: {fault}" for fault in [*faults, *(fault for lane in lanes for fault in lane.faults)]]
    return "\n".join(out) + "\n"


def plot(cells, path):
    """Left the measured shares against the promised ones, right by how much they miss, in points."""
    points = [row.point for cell in cells for row in cell.rows or [] if row.point]
    names = list(dict.fromkeys(name for name, _, _ in points))
    size, margin, reach = 480, 50, 2.0
    inner = size - 2 * margin
    height = max(size, margin + 16 * len(names) + 20)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * size + 240}" height="{height}" font-family="sans-serif" font-size="11">',
           "<!-- SPDX-License-Identifier: Apache-2.0 -->", f'<rect width="{2 * size + 240}" height="{height}" fill="white"/>',
           f'<line x1="{margin}" y1="{size - margin}" x2="{size - margin}" y2="{margin}" stroke="#bbb"/>']
    for tick in (0, 10, 25, 50, 75, 90, 100):
        x, y = margin + tick * inner / 100, size - margin - tick * inner / 100
        out += [f'<text x="{left + x:.0f}" y="{size - margin + 16}" text-anchor="middle">{tick}</text>' for left in (0, size)]
        out += [f'<text x="{margin - 6}" y="{y + 4:.0f}" text-anchor="end">{tick}</text>']

    def high(error):
        return size / 2 - max(-reach, min(reach, error)) * inner / 2 / reach
    for error in (-2, -1, -0.5, 0, 0.5, 1, 2):
        out += [f'<line x1="{size + margin}" y1="{high(error):.1f}" x2="{2 * size - margin}" y2="{high(error):.1f}" stroke="{"#888" if error == 0 else "#ddd"}"/>',
                f'<text x="{size + margin - 6}" y="{high(error) + 4:.1f}" text-anchor="end">{error:+g}</text>']
    for name, share, mean in points:
        colour, shift = COLOURS[names.index(name) % len(COLOURS)], (names.index(name) - len(names) / 2) * 1.6
        out.append(f'<circle cx="{margin + share * inner / 100:.1f}" cy="{size - margin - mean * inner / 100:.1f}" r="4" fill="{colour}" fill-opacity="0.7"/>')
        out.append(f'<circle cx="{size + margin + share * inner / 100 + shift:.1f}" cy="{high(mean - share):.1f}" r="3.5" fill="{colour}" fill-opacity="0.8"/>')
    for i, name in enumerate(names):
        out += [f'<circle cx="{2 * size - 20}" cy="{margin + 16 * i}" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>', f'<text x="{2 * size - 10}" y="{margin + 16 * i + 4}">{name}</text>']
    for left, words in ((0, "work done, % of alone"), (size, "off by, points (cut at 2)")):
        out += [f'<text x="{left + size / 2:.0f}" y="{size - 12}" text-anchor="middle">share, %</text>',
                f'<text x="{left + 14}" y="{size / 2:.0f}" transform="rotate(-90 {left + 14} {size / 2:.0f})" text-anchor="middle">{words}</text>']
    write(path, "\n".join([*out, "</svg>"]) + "\n")


def write(path, text):
    """Whole or not at all: a run that is cut off leaves its last table."""
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)
