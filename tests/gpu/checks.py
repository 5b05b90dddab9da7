# SPDX-License-Identifier: Apache-2.0
"""How a Python program under test reports: the same "@check" lines as programs/check.h, and no failure hides another."""
import contextlib
import sys
import traceback

MIB = 1 << 20
failures = 0


def check(name, expected, seen, ok=None):
    global failures
    ok = (expected == seen) if ok is None else bool(ok)
    failures += not ok
    clean = [str(part).replace("\t", " ").replace("\n", " ")[:200] for part in (name, expected, seen)]
    print("@check", *clean, "ok" if ok else "FAIL", sep="\t", flush=True)
    return ok


def skip(name, why):
    print("@check", name, "", why, "skip", sep="\t", flush=True)


@contextlib.contextmanager
def part(name):
    """A part of the test: an unexpected exception in it is a failed check, and the parts after it still run."""
    try:
        yield
    except BaseException as error:  # noqa: BLE001
        if isinstance(error, KeyboardInterrupt):
            raise
        traceback.print_exc()
        check(f"{name}: no unexpected exception", "none", f"{type(error).__name__}: {error}", False)


def finish():
    sys.stdout.flush()
    sys.exit(1 if failures else 0)
