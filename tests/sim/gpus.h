// SPDX-License-Identifier: Apache-2.0
// The models of GPU that can be simulated, and the grammar of SOFTMIG_SIM_GPUS.
#ifndef SOFTMIG_SIM_GPUS_H
#define SOFTMIG_SIM_GPUS_H
#include "state.h"

// "2xL40S:46068M,H200:143771M" into gpu[]; returns how many.
int sim_gpus_parse(const char *text, struct sim_gpu gpu[SIM_GPUS]);
// "46068M", "4G", "1024": bytes; *end (where not NULL) is left behind the number.
uint64_t sim_gpus_bytes(const char *text, const char **end);
// "GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx" and "00000000:xx:00.0".
void sim_gpus_uuid_text(const uint8_t uuid[16], char text[41]);
unsigned sim_gpus_bus(int gpu);
#endif
