# SPDX-License-Identifier: Apache-2.0
"""What has become of a node (node.bash), to the byte: manifest.py record FILE, later manifest.py compare FILE [EXEMPT...].

compare prints each path whose kind, mode, owner, group, content, link or list of names is not what it was at record. Only what the overlay
holds as changed can differ, so only that is looked at; what was unchanged at record is taken from /tmp/before. EXEMPT: paths that may differ."""
import hashlib
import json
import os
import stat
import sys

ELSEWHERE = ["/tmp", "/run", "/proc", "/dev", "/sys", os.environ["BUILD"], os.environ["SOURCE"], os.environ["work"]]


def elsewhere(path):
    return any(path == other or path.startswith(other + "/") for other in ELSEWHERE)


def mounts(path):
    """The names in a directory that lead to other file systems: /tmp/before need not have them."""
    below = path.rstrip("/") + "/"
    return {other[len(below):].split("/")[0] for other in ELSEWHERE if other.startswith(below)}


def of(root, path):
    """What path below root is; None: nothing."""
    full = root + path
    try:
        status = os.lstat(full)
    except FileNotFoundError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    what = [stat.S_IFMT(status.st_mode), mode, status.st_uid, status.st_gid]
    if stat.S_ISREG(status.st_mode):
        with open(full, "rb") as file:
            what.append(hashlib.sha256(file.read()).hexdigest())
    elif stat.S_ISLNK(status.st_mode):
        what.append(os.readlink(full))
    elif stat.S_ISDIR(status.st_mode):
        what.append(sorted(set(os.listdir(full)) | mounts(path)))
    return what


def changed():
    """The paths that the overlay holds."""
    for folder, folders, files in os.walk("/tmp/changes"):
        here = folder[len("/tmp/changes"):] or "/"
        folders[:] = [name for name in folders if not elsewhere(os.path.join(here, name))]
        yield here
        for name in files:
            yield os.path.join(here, name)


def main():
    verb, path, exempt = sys.argv[1], sys.argv[2], sys.argv[3:]
    if verb == "record":
        with open(path, "w", encoding="utf-8") as file:
            json.dump({name: of("", name) for name in changed()}, file)
        return 0
    with open(path, encoding="utf-8") as file:
        before = json.load(file)
    differ = 0
    for name in sorted(set(before) | set(changed())):
        was, now = before[name] if name in before else of("/tmp/before", name), of("", name)
        if was != now and name not in exempt:
            print(f"{name}: {was} before, {now} now")
            differ += 1
    return 1 if differ else 0


sys.exit(main())
