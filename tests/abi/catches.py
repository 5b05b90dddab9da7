# SPDX-License-Identifier: Apache-2.0
"""Shows that abi.py fails when a declaration of ours is wrong: usage catches.py SOURCE BUILD.

Each plant changes one declaration in a copy of our headers; the comparison must fail and name what was planted.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PLANTS = [
    ("a member too many in a struct", "nvml_types.h", "unsigned long long total, reserved, free, used;", "unsigned long long total, reserved, firmware, free, used;",
     "offsetof(nvmlMemory_v2_t, free)"),
    ("two members exchanged", "cuda_types.h", "size_t srcXInBytes, srcY;", "size_t srcY, srcXInBytes;", "offsetof(CUDA_MEMCPY2D_v2, srcY)"),
    ("a member too narrow", "cuda_types.h", "size_t accessDescCount, bytesize;", "unsigned int accessDescCount, bytesize;", "sizeof(((CUDA_MEM_ALLOC_NODE_PARAMS_v1 *)0)->bytesize)"),
    ("an error code renumbered", "cuda_types.h", "CUDA_ERROR_OUT_OF_MEMORY = 2,", "CUDA_ERROR_OUT_OF_MEMORY = 3,", "CUDA_ERROR_OUT_OF_MEMORY"),
    ("the old version's type in a new version", "cuda_functions.h", "cuMemAlloc_v2(CUdeviceptr *dptr", "cuMemAlloc_v2(CUdeviceptr_v1 *dptr", "cuMemAlloc_v2"),
    ("the new version's type in an old version", "nvml_functions.h", "nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount,\n\tnvmlProcessInfo_v1_t",
     "nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount,\n\tnvmlProcessInfo_v2_t", "nvmlDeviceGetComputeRunningProcesses"),
    ("an argument forgotten", "cuda_functions.h", "CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream);", "CUresult cuGraphLaunch_ptsz(CUgraphExec hGraphExec);", "cuGraphLaunch_ptsz"),
    ("a function that NVIDIA does not have", "cuda_functions.h", "CUresult cuMemFree(", "CUresult cuMemPlanted(int value);\nCUresult cuMemFree(", "cuMemPlanted"),
]


def main(source, build):
    failed = 0
    for what, name, right, wrong, told in PLANTS:
        with tempfile.TemporaryDirectory() as copy:
            folder = pathlib.Path(copy) / "src/preload/abi"
            shutil.copytree(pathlib.Path(source) / "src/preload/abi", folder)
            text = (folder / name).read_text()
            if right not in text:
                sys.exit(f"cannot plant {what}: {name} no longer has {right!r}")
            (folder / name).write_text(text.replace(right, wrong, 1))
            result = subprocess.run([sys.executable, HERE / "abi.py", copy, build, copy], check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            caught = result.returncode == 1 and told in result.stdout
            failed += not caught
            print(f"{'caught' if caught else 'MISSED'}: {what} ({told})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
