// SPDX-License-Identifier: Apache-2.0
// The GPUs of this node, for root's tools. Owns: asking NVML, loaded at run time. Must never: need the driver to start, or
// guess a figure that NVML did not give.
#ifndef SOFTMIG_CLI_SLICE_GPUS_H
#define SOFTMIG_CLI_SLICE_GPUS_H
#include <stddef.h>
#include <stdint.h>

struct softmig_node_gpu {
	uint8_t uuid[16];
	int minor; // N of /dev/nvidiaN
	uint64_t memory_bytes; // that programs can have: NVML's total less what the driver reserves for itself
};

enum { SOFTMIG_NODE_GPUS = 64 };

// Fills gpus (at most SOFTMIG_NODE_GPUS) and returns how many. -1: failed, and why (one sentence without a full stop) says it.
int softmig_node_gpus(struct softmig_node_gpu *gpus, char *why, size_t why_size);
#endif
