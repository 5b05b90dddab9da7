// SPDX-License-Identifier: Apache-2.0
// See slice_sum.h.
#include "cli/slice_sum.h"

#include <string.h>

int softmig_slice_entries(const struct softmig_limits *limits)
{
	int count = 0;
	while (count < SOFTMIG_MAX_GPUS && limits->has_uuid[count])
		count++;
	return count;
}

int softmig_slice_entry(const struct softmig_limits *limits, const uint8_t uuid[16])
{
	for (int i = 0; i < softmig_slice_entries(limits); i++)
		if (memcmp(limits->uuid[i], uuid, 16) == 0)
			return i;
	return -1;
}

bool softmig_slice_add(struct softmig_limits *sum, const struct softmig_limits *part)
{
	for (int i = 0; i < softmig_slice_entries(part); i++) {
		int at = softmig_slice_entry(sum, part->uuid[i]);
		if (at < 0) {
			at = softmig_slice_entries(sum);
			if (at == SOFTMIG_MAX_GPUS)
				return false;
			sum->has_uuid[at] = true;
			memcpy(sum->uuid[at], part->uuid[i], 16);
			sum->memory_bytes[at] = sum->sm_pct[at] = 0;
		}
		unsigned pct = (unsigned)sum->sm_pct[at] + part->sm_pct[i];
		sum->memory_bytes[at] += part->memory_bytes[i];
		sum->sm_pct[at] = (uint8_t)(pct < 100 ? pct : 100);
	}
	sum->has_memory = sum->has_sm = true;
	return true;
}
