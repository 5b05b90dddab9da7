// SPDX-License-Identifier: Apache-2.0
// Stream-ordered pools.
#include "preload/gpu.h"

void softmig_pools_trim(struct softmig_gpu *gpu)
{
	(void)gpu;
}
