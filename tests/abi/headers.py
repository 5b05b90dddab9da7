# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's own headers, to compare ours with: those of a toolkit on this machine, and pinned ones from PyPI.

Owns: finding, downloading and caching them, and reading a header's declarations. Must never: be imported by anything but the
tests of this folder, or skip: a major version that neither a toolkit nor PyPI gives is an error.
Run as a program it fetches what is missing and prints what the tests will use.
"""
import fcntl
import os
import pathlib
import re
import subprocess
import sys
import zipfile

# One per major version, the oldest and the newest minor of those that matter (driver 525 is CUDA 12.0).
PINNED = [
    ("cuda", "nvidia-cuda-runtime-cu11", "11.8.89"),
    ("cuda", "nvidia-cuda-runtime-cu12", "12.0.146"),
    ("cuda", "nvidia-cuda-runtime-cu12", "12.9.79"),
    ("cuda", "nvidia-cuda-runtime", "13.5.37"),
    ("nvml", "nvidia-nvml-dev-cu12", "12.0.140"),
    ("nvml", "nvidia-nvml-dev-cu12", "12.9.79"),
    ("nvml", "nvidia-nvml-dev", "13.5.37"),
]
# What makes the headers declare the functions under their exported names instead of renaming them to the newest version.
EXACT_NAMES = {"cuda": ["-D__CUDA_API_VERSION_INTERNAL"], "nvml": ["-D__NVML_API_VERSION_INTERNAL", "-DNVML_NO_UNVERSIONED_FUNC_DEFS"]}
COMPILER = os.environ.get("CC", "cc")


class Header:
    def __init__(self, stem, include, source, version=None):
        self.stem, self.include, self.source = stem, pathlib.Path(include), source
        self.path = self.include / f"{stem}.h"
        self.version = version or self.told_version()  # 12090 is 12.9
        self.major = self.version // 1000

    def told_version(self):
        """nvml.h tells only its major version; the cuda.h beside it tells more."""
        for name, macro, factor in (("cuda.h", "CUDA_VERSION", 1), ("nvml.h", "NVML_API_VERSION", 1000)):
            path = self.include / name
            number = re.search(rf"^#define\s+{macro}\s+(\d+)", path.read_text(errors="replace"), re.M) if path.exists() else None
            if number:
                return int(number[1]) * factor
        return 0

    def __str__(self):
        return f"{self.path} ({self.source})"

    def preprocessed(self, *options):
        return preprocess(f"#include <{self.stem}.h>\n", "-I", str(self.include), *EXACT_NAMES[self.stem], *options)

    def declarations(self):
        """The header as C without includes' content, comments and macros."""
        text = re.sub(r"__attribute__\s*\(\((?:[^()]|\([^()]*\))*\)\)", "", self.preprocessed("-P"))
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))

    def words(self):
        """Every identifier that the header declares or defines as a macro."""
        return set(re.findall(r"\b[A-Za-z_]\w*", self.preprocessed("-dD", "-P")))

    def functions(self):
        """The names of the functions that it declares, old versions and per-thread forms too, and those of its GL, EGL and VDPAU companions."""
        names = declared(self.declarations())
        if self.stem == "cuda":
            for companion in self.include.glob("cuda*.h"):
                if companion.name in ("cudaGL.h", "cudaEGL.h", "cudaVDPAU.h", "cudaProfiler.h"):
                    names |= set(re.findall(r"\bCUDAAPI\s+(cu\w+)\s*\(", companion.read_text(errors="replace")))
        return names


def preprocess(text, *options):
    return subprocess.run([COMPILER, "-E", "-x", "c", "-", *options], input=text, text=True, check=True, stdout=subprocess.PIPE).stdout


def declared(text):
    return set(re.findall(r"\b((?:cu[A-Z]|nvml)\w+)\s*\((?!\*)", re.sub(r"\{[^{}]*\}", "", text)))


def toolkits():
    """Include folders of toolkits on this machine, each once."""
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda", "/opt/cuda", "/usr"]
    places += sorted(str(path) for path in pathlib.Path("/usr/local").glob("cuda-*"))
    seen = []
    for place in filter(None, places):
        folder = (pathlib.Path(place) / "include").resolve()
        if folder.is_dir() and folder not in seen:
            seen.append(folder)
    return seen


def download(library, package, version, cache):
    """The include folder of a pinned package, from the cache or PyPI; None when PyPI cannot be reached."""
    folder = cache / f"{package}-{version}"
    done = folder / "done"
    if not done.exists():
        wheels = folder / "wheel"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary", ":all:", "--dest", str(wheels), f"{package}=={version}"]
        if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
            return None
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if "/include/" in name])
            wheel.unlink()
        done.touch()
    return next(folder.glob(f"**/{library}.h")).parent


def headers(build):
    """All headers to compare with. Exits with a message when a major version is to be had nowhere."""
    cache = pathlib.Path(build).resolve() / "nvidia-headers"
    cache.mkdir(parents=True, exist_ok=True)
    found = []
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for include in toolkits():
            found += [Header(library, include, "toolkit") for library in ("cuda", "nvml") if (include / f"{library}.h").exists()]
        missing = []
        for library, package, version in PINNED:
            include = download(library, package, version, cache)
            if include:
                major, minor = version.split(".")[:2]
                found.append(Header(library, include, f"{package} {version}", int(major) * 1000 + int(minor) * 10))
            else:
                missing.append((library, int(version.split(".")[0]), package, version))
    for library, major, package, version in missing:
        if not any(header.stem == library and header.major == major for header in found):
            sys.exit(f"{library}.h of version {major} is nowhere to be had: no toolkit here, and pip cannot download {package}=={version}")
        print(f"warning: {package}=={version} cannot be downloaded; comparing with a toolkit's instead")
    return found


if __name__ == "__main__":
    for one in headers(sys.argv[1]):
        print(f"{one.stem} {one.version}: {one}")
