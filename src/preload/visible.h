// SPDX-License-Identifier: Apache-2.0
// Which number CUDA gives a GPU of the node, found without CUDA (nvidia-smi in a slice never starts it). Owns: reading
// CUDA_VISIBLE_DEVICES as CUDA does (CUDA C++ Programming Guide, "CUDA Environment Variables").
#ifndef SOFTMIG_PRELOAD_VISIBLE_H
#define SOFTMIG_PRELOAD_VISIBLE_H

// visible: the variable's value, NULL when unset. index: NVML's index; uuid: "GPU-..." or "MIG-...". Returns CUDA's number, -1: not visible.
int softmig_visible_number(const char *visible, unsigned int index, const char *uuid);
#endif
