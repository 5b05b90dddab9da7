#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the tables of src/preload/surface against all that knows the driver's functions.

surface.py --tables BUILD    every export of driver 580 and every function of NVIDIA's headers is classified exactly once; hooked is
                             what hooks.def has, and nothing else; what has or needs a hook has a prototype in src/preload/abi
surface.py --library [PATH]  the same against real libraries, those of this machine unless named; exit status 77 if there are none
surface.py --own PATH        our library exports the hooks, dlsym and dlvsym, and nothing else
surface.py --mark            turns owed into hooked where hooks.def has the function now
"""
import argparse
import collections
import pathlib
import re
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parents[2]
LIBRARIES = {"libcuda": "libcuda.so.1", "libnvidia-ml": "libnvidia-ml.so.1"}
CLASSES = {"allocates", "frees", "submits", "reports-memory", "reports-processes", "reports-use", "door", "none"}
GROUPS = {"DOOR", "SLICE", "SHARE"}
SKIPPED = 77

Line = collections.namedtuple("Line", "place name classes handling remark")


def read_table(path):
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if text and not text.startswith("#"):
            fields = text.split("\t") + [""] * 4
            lines.append(Line(f"{path.name}:{number}", fields[0], fields[1], fields[2], fields[3]))
    return lines


def read_hooks(path):
    """{name: group} of HOOK lines and the names of CALL lines."""
    text = path.read_text()
    return dict(re.findall(r"^HOOK\((\w+), *(\w+)\)", text, re.M)), set(re.findall(r"^CALL\((\w+)\)", text, re.M))


class Surface:
    """All that is compared, read from the tree; a test may change any of it."""

    def __init__(self, source=SOURCE):
        folder = source / "src/preload/surface"
        self.tables = {stem: read_table(folder / f"{stem}.tsv") for stem in LIBRARIES}
        self.newer = read_table(folder / "newer.tsv")
        self.exports = {stem: (folder / f"driver-580/{stem}.exports").read_text().split() for stem in LIBRARIES}
        self.hooks, self.calls = read_hooks(source / "src/preload/hooks.def")
        self.prototypes = set()
        for name in ("cuda_functions.h", "nvml_functions.h"):
            self.prototypes |= set(re.findall(r"\b((?:cu|nvml)\w+)\(", (source / "src/preload/abi" / name).read_text()))

    def lines(self):
        return [line for table in self.tables.values() for line in table] + self.newer

    def problems(self):
        """One sentence for each thing that is wrong."""
        found = []
        for line in self.lines():
            if not re.fullmatch(r"(cu|nvml)\w+", line.name):
                found.append(f"{line.place}: {line.name!r} is no function's name")
            if not set(line.classes.split("+")) <= CLASSES:
                found.append(f"{line.place}: {line.name} has the unknown class {line.classes!r}")
            if not re.fullmatch(r"hooked|passes|owed:\d+", line.handling):
                found.append(f"{line.place}: {line.name} has the unknown handling {line.handling!r}")
            if line.handling == "passes" and line.classes != "none" and not line.remark:
                found.append(f"{line.place}: {line.name} {line.classes} and passes, but the remark does not say why")
            if line.handling != "passes" and line.classes == "none":
                found.append(f"{line.place}: {line.name} is {line.handling} for no reason: its class is none")
        times = collections.Counter(line.name for line in self.lines())
        found += [f"{name} is classified {count} times" for name, count in times.items() if count > 1]
        for stem, exports in self.exports.items():
            classified = {line.name for line in self.tables[stem]}
            found += [f"{name} is exported by {LIBRARIES[stem]} and not classified in {stem}.tsv" for name in exports if name not in classified]
            found += [f"{name} is in {stem}.tsv and not exported by {LIBRARIES[stem]}" for name in sorted(classified - set(exports))]
        handling = {line.name: line.handling for line in self.lines()}
        for name, group in self.hooks.items():
            if handling.get(name) != "hooked":
                found.append(f"{name} is in hooks.def, but its line says {handling.get(name, 'nothing')} (surface.py --mark)")
            if group not in GROUPS:
                found.append(f"{name} is in hooks.def with the unknown group {group}")
        for name in sorted(self.calls):
            if name not in handling:
                found.append(f"{name} is called by hooks.def and not classified")
            if name in self.hooks:
                found.append(f"{name} is in hooks.def twice, as HOOK and as CALL")
        found += [f"{name} is marked hooked, but hooks.def does not have it" for name, value in handling.items() if value == "hooked" and name not in self.hooks]
        needed = {name for name, value in handling.items() if value == "hooked"} | self.calls
        found += [f"{name} has a hook or a call, but no prototype in src/preload/abi" for name in sorted(needed - self.prototypes)]
        return found

    def unclassified(self, names):
        return sorted(set(names) - {line.name for line in self.lines()})


def exported(library):
    """What a shared library exports."""
    told = subprocess.run(["nm", "-D", "--defined-only", str(library)], text=True, check=True, stdout=subprocess.PIPE).stdout
    return [words[-1].split("@")[0] for words in map(str.split, told.splitlines()) if words]


def installed():
    """The driver's libraries on this machine."""
    told = subprocess.run(["/sbin/ldconfig", "-p"], text=True, check=False, stdout=subprocess.PIPE).stdout
    wanted = "|".join(re.escape(name) for name in LIBRARIES.values())
    return sorted({pathlib.Path(path).resolve() for path in re.findall(rf"^\s*(?:{wanted}) .*=> (\S+)$", told, re.M)})


def compare_headers(surface, build):
    import headers  # needs a compiler and perhaps the network, which the other uses do not

    found = []
    for header in headers.headers(build):
        functions = header.functions()
        print(f"{header}: declares {len(functions)} functions")
        found += [f"{name} is declared by {header} and not classified" for name in surface.unclassified(functions)]
    return found


def compare_libraries(surface, libraries):
    found = []
    for library in libraries:
        names = [name for name in exported(library) if re.match(r"(cu[A-Z]|cudbg|nvml[A-Z])", name)]
        print(f"{library}: exports {len(names)} functions")
        if not names:
            found.append(f"{library} exports nothing of the driver's")
        found += [f"{name} is exported by {library} and not classified" for name in surface.unclassified(names)]
    return found


def compare_own(surface, names):
    wanted = set(surface.hooks) | {"dlsym", "dlvsym"}
    return ([f"our library does not export {name}" for name in sorted(wanted - set(names))] +
            [f"our library exports {name}, which is no hook" for name in sorted(set(names) - wanted)])


def mark():
    hooks, _ = read_hooks(SOURCE / "src/preload/hooks.def")
    for path in sorted((SOURCE / "src/preload/surface").glob("*.tsv")):
        old = path.read_text()
        new = re.sub(r"^(\w+)(\t[^\t\n]+\t)owed:\d+", lambda line: f"{line[1]}{line[2]}hooked" if line[1] in hooks else line[0], old, flags=re.M)
        if new != old:
            path.write_text(new)
            print(f"{path}: marked")


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tables", metavar="BUILD")
    options.add_argument("--library", dest="libraries", metavar="PATH", nargs="*")
    options.add_argument("--own", metavar="PATH")
    options.add_argument("--mark", action="store_true")
    chosen = options.parse_args()
    if chosen.mark:
        mark()
        return 0
    surface, found = Surface(), []
    if chosen.tables:
        found += surface.problems() + compare_headers(surface, chosen.tables)
        owed = collections.Counter(line.handling for line in surface.lines() if line.handling.startswith("owed"))
        print(f"{len(surface.lines())} functions, {len(surface.hooks)} hooked" + "".join(f", {count} {what}" for what, count in sorted(owed.items())))
    if chosen.libraries is not None:
        libraries = chosen.libraries or installed()
        if not libraries:
            print("skipped: this machine has neither libcuda.so.1 nor libnvidia-ml.so.1")
            return SKIPPED
        found += compare_libraries(surface, libraries)
    if chosen.own:
        found += compare_own(surface, exported(chosen.own))
    print("\n".join(found) if found else "nothing is missing")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
