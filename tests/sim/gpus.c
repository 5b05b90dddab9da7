// SPDX-License-Identifier: Apache-2.0
// What each model of GPU is like, as far as programs can tell. See gpus.h.
#include "gpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// A bare context of the H200 was measured (docs/driver-facts.md); the others are of the size that such GPUs show.
static const struct model {
	const char *model, *name;
	int processors, capability;
	uint64_t memory_mib, context_mib;
} models[] = {
	{"H200", "NVIDIA H200", 132, 90, 143771, 518},
	{"H100", "NVIDIA H100 80GB HBM3", 132, 90, 81559, 518},
	{"A100", "NVIDIA A100-SXM4-40GB", 108, 80, 40960, 414},
	{"L40S", "NVIDIA L40S", 142, 89, 46068, 432},
	{"L4", "NVIDIA L4", 58, 89, 23034, 228},
	{"V100", "Tesla V100-SXM2-16GB", 80, 70, 16384, 306},
	{"P100", "Tesla P100-PCIE-16GB", 56, 60, 16384, 250},
	{"B200", "NVIDIA B200", 148, 100, 183359, 640},
};

uint64_t sim_gpus_bytes(const char *text, const char **end)
{
	char *rest;
	uint64_t value = strtoull(text, &rest, 10);
	switch (*rest) {
	case 'T':
	case 't': value <<= 10; // fall through
	case 'G':
	case 'g': value <<= 10; // fall through
	case 'M':
	case 'm': value <<= 10; // fall through
	case 'K':
	case 'k': value <<= 10; rest++; break;
	default: break;
	}
	if (end != NULL)
		*end = rest;
	return value;
}

static void describe(struct sim_gpu *gpu, int index, const char *model, uint64_t memory_bytes)
{
	const struct model *known = NULL;
	for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++)
		if (strcasecmp(models[i].model, model) == 0)
			known = &models[i];
	memset(gpu, 0, sizeof(*gpu));
	snprintf(gpu->model, sizeof(gpu->model), "%s", model);
	if (known != NULL)
		snprintf(gpu->name, sizeof(gpu->name), "%s", known->name);
	else
		snprintf(gpu->name, sizeof(gpu->name), "NVIDIA %s", gpu->model);
	gpu->processors = known != NULL ? known->processors : 100;
	gpu->capability = known != NULL ? known->capability : 80;
	if (memory_bytes == 0)
		memory_bytes = (known != NULL ? known->memory_mib : 16384) * SIM_MIB;
	gpu->total_bytes = memory_bytes;
	uint64_t reserved_mib = memory_bytes / 64 / SIM_MIB;
	gpu->reserved_bytes = (reserved_mib < 616 ? reserved_mib : 616) * SIM_MIB;
	uint64_t context_bytes = (known != NULL ? known->context_mib : 400) * SIM_MIB;
	gpu->context_bytes = sim_env_bytes("SOFTMIG_SIM_CONTEXT", context_bytes);
	uint32_t hash = 2166136261u;
	for (const char *c = model; *c != '\0'; c++)
		hash = (hash ^ (uint8_t)*c) * 16777619u;
	const uint8_t uuid[16] = {0x5f, 0x73, 0x69, 0x6d, (uint8_t)(hash >> 24), (uint8_t)(hash >> 16),
		(uint8_t)(0x40 | (hash >> 8 & 15)), (uint8_t)hash, 0x80, (uint8_t)index, 0x73, 0x6f, 0x66, 0x74, 0x6d,
		(uint8_t)(0x10 + index)};
	memcpy(gpu->uuid, uuid, sizeof(uuid));
}

int sim_gpus_parse(const char *text, struct sim_gpu gpu[SIM_GPUS])
{
	int count = 0;
	while (*text != '\0' && count < SIM_GPUS) {
		char *rest;
		long many = strtol(text, &rest, 10);
		if (rest != text && (*rest == 'x' || *rest == 'X'))
			text = rest + 1;
		else
			many = 1;
		char model[32];
		size_t length = strcspn(text, ":,");
		snprintf(model, sizeof(model), "%.*s", (int)(length < 31 ? length : 31), text);
		text += length;
		uint64_t memory_bytes = 0;
		if (*text == ':')
			memory_bytes = sim_gpus_bytes(text + 1, &text);
		for (; many > 0 && count < SIM_GPUS; many--, count++)
			describe(&gpu[count], count, model, memory_bytes);
		text += strcspn(text, ",");
		if (*text == ',')
			text++;
	}
	return count;
}

void sim_gpus_uuid_text(const uint8_t uuid[16], char text[41])
{
	snprintf(text, 41, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", uuid[0], uuid[1],
		uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9], uuid[10], uuid[11], uuid[12], uuid[13],
		uuid[14], uuid[15]);
}

unsigned sim_gpus_bus(int gpu)
{
	return 0x18u + 0x11u * (unsigned)gpu;
}
