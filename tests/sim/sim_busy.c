// SPDX-License-Identifier: Apache-2.0
// sim-busy: the time that each simulated GPU has worked so far, exactly, in ns, a line each. It reads the shared state named by
// SOFTMIG_SIM_STATE, which a driver must have made. What is under way counts up to the moment when somebody last looked at the GPU.
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "state.h"

int main(void)
{
	const char *path = getenv("SOFTMIG_SIM_STATE");
	int fd = path != NULL ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	const struct sim_state *state = fd >= 0 ? mmap(NULL, sizeof(*state), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
	if (state == MAP_FAILED) {
		fprintf(stderr, "sim-busy: no simulated GPUs in SOFTMIG_SIM_STATE=%s\n", path != NULL ? path : "");
		return 1;
	}
	for (int gpu = 0; gpu < state->gpu_count; gpu++)
		printf("%" PRIu64 "\n", state->gpu[gpu].busy_ns);
	return 0;
}
