// SPDX-License-Identifier: Apache-2.0
// Collectives: kernels that wait for those of other GPUs, as NCCL's do. A communicator is a number, one rank of it a
// context; a context's k-th kernel in it belongs to the k-th of all others. Such a kernel gets on only while enough ranks'
// run on different GPUs at the same time, each in its context's slice; until then it spins, and its GPU is busy. All
// functions: lock held.
#ifndef SOFTMIG_SIM_COLLECTIVE_H
#define SOFTMIG_SIM_COLLECTIVE_H
#include "state.h"

// The number of the context's next kernel in a communicator, which is thereby given away. False: no room for another one.
bool sim_collective_number(struct sim_context_queue *queue, uint64_t communicator, uint64_t *number);
// The context has done its part of this one.
void sim_collective_finish(struct sim_context_queue *queue, const struct sim_command *command);
// Finds out which of the running kernels get on at this moment: sets their `met`.
void sim_collective_meet(void);
#endif
