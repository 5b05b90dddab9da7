# SPDX-License-Identifier: Apache-2.0
"""Shows that surface.py finds what is wrong: each plant changes one thing of the surface, and exactly that must be told."""
import pathlib
import subprocess
import sys
import tempfile

import surface


def plant(what, change, told):
    planted = surface.Surface()
    change(planted)
    problems = planted.problems()
    caught = any(told in problem for problem in problems)
    print(f"{'caught' if caught else 'MISSED'}: {what} ({problems[0] if problems else 'no problem found'})")
    return caught


def change_line(table, name, **fields):
    lines = table.tables["libcuda"]
    index = next(index for index, line in enumerate(lines) if line.name == name)
    lines[index] = lines[index]._replace(**fields)


def remove(planted, name):
    planted.tables["libcuda"] = [line for line in planted.tables["libcuda"] if line.name != name]


def library_with_an_unknown_function():
    """A shared library that exports one function nobody classified beside a known one."""
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / "libcuda.so.1"
        subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)], input="int cuInit; int cuMemPlanted; int custom;", text=True, check=True)
        problems = surface.compare_libraries(surface.Surface(), [library])
    return len(problems) == 1 and "cuMemPlanted" in problems[0]


def main():
    passed = [
        plant("an export without a line", lambda it: remove(it, "cuMemCreate"), "cuMemCreate is exported by libcuda.so.1 and not classified"),
        plant("a line without an export", lambda it: it.exports["libcuda"].remove("cuMemCreate"), "cuMemCreate is in libcuda.tsv and not exported"),
        plant("a function with two lines", lambda it: it.newer.append(it.tables["libcuda"][0]), "is classified 2 times"),
        plant("a hook that the table does not know", lambda it: it.hooks.update(cuMemPlanted="SLICE"), "cuMemPlanted is in hooks.def, but its line says nothing"),
        plant("a hook that the table says passes", lambda it: it.hooks.update(cuMemcpy="SLICE"), "cuMemcpy is in hooks.def, but its line says passes"),
        plant("a hook of an unknown group", lambda it: it.hooks.update(cuInit="PLANTED"), "unknown group PLANTED"),
        plant("a hook taken out of hooks.def", lambda it: it.hooks.pop("cuMemAlloc_v2"), "cuMemAlloc_v2 is marked hooked, but hooks.def does not have it"),
        plant("a hook without a prototype", lambda it: it.prototypes.discard("cuMemAlloc_v2"), "cuMemAlloc_v2 has a hook or a call, but no prototype"),
        plant("a called function nobody classified", lambda it: it.calls.add("cuMemPlanted"), "cuMemPlanted is called by hooks.def and not classified"),
        plant("a class that does not exist", lambda it: change_line(it, "cuMemcpy", classes="copies"), "unknown class"),
        plant("an allocation that passes without a reason", lambda it: change_line(it, "cuFuncLoad", remark=""), "cuFuncLoad allocates and passes"),
        "cuMemPlanted" in surface.Surface().unclassified(["cuInit", "cuMemPlanted"]),
        library_with_an_unknown_function(),
        surface.compare_own(surface.Surface(), [*surface.Surface().hooks, "dlsym"]) == ["our library does not export dlvsym"],
        surface.compare_own(surface.Surface(), [*surface.Surface().hooks, "dlsym", "dlvsym", "memcpy"]) == ["our library exports memcpy, which is no hook"],
        not surface.Surface().problems(),
    ]
    print(f"{sum(passed)} of {len(passed)}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
