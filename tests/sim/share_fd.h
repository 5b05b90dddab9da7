// SPDX-License-Identifier: Apache-2.0
// What processes hand each other: files whose name tells what they stand for, and mappings of another process's memory.
#ifndef SOFTMIG_SIM_SHARE_FD_H
#define SOFTMIG_SIM_SHARE_FD_H
#include "sim.h"

// What a file stands for, if it is of this kind: see sim_shared_path.
bool sim_share_read(int fd, const char *kind, uint64_t *id, int *gpu, uint64_t *bytes);
// Maps what lies in another process's (or this one's) file; the range is of kind SIM_RANGE_IPC. NULL: it cannot be
// reached. sim_enter held.
struct sim_range *sim_share_map(int pid, int fd, uint64_t offset, uint64_t bytes);
#endif
