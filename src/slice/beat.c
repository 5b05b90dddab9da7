// SPDX-License-Identifier: Apache-2.0
// Beats; see beat.h.
#include "slice/beat.h"

static uint64_t since(uint64_t now_ns, uint64_t phase_ns, int64_t beat_ns)
{
	return (now_ns + phase_ns) % (uint64_t)beat_ns;
}

uint64_t softmig_beat_next(uint64_t from_ns, uint64_t phase_ns, int64_t beat_ns)
{
	return from_ns + (uint64_t)beat_ns - since(from_ns, phase_ns, beat_ns);
}

int64_t softmig_beat_part(int64_t length_ns, unsigned pct)
{
	return length_ns * (int64_t)pct / 100;
}

int64_t softmig_beat_floor(uint64_t now_ns, uint64_t phase_ns, int64_t beat_ns, unsigned pct)
{
	int64_t part_ns = softmig_beat_part(beat_ns, pct);
	return softmig_beat_part((int64_t)since(now_ns, phase_ns, beat_ns), pct) - softmig_beat_part(part_ns, pct);
}

int64_t softmig_beat_begin(int64_t beat_ns, unsigned pct)
{
	int64_t part_ns = softmig_beat_part(beat_ns, pct);
	return part_ns - softmig_beat_part(part_ns, pct);
}
