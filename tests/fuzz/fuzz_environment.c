// SPDX-License-Identifier: Apache-2.0
// The environment's form: one variable a line of the input. What is accepted there is accepted in a file of the same
// lines, unless the file is stricter by rule (twice, unknown, environment only, blanks and comments).
#include <string.h>

#include "fuzz.h"
#include "slice/limits.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char *variables[64], *text = malloc(size + 1);
	CHECK(text != NULL);
	if (size > 0)
		memcpy(text, data, size);
	text[size] = '\0';
	size_t count = 0;
	for (char *at = text; at < text + size && count < 63; at += strlen(at) + 1) {
		at[strcspn(at, "\n")] = '\0';
		variables[count++] = at;
	}
	variables[count] = NULL;
	struct softmig_limits limits;
	struct softmig_limits_error error = {0};
	enum softmig_limits_status status = softmig_limits_from_environment(variables, &limits, &error);
	int named = 0;
	for (size_t i = 0; i < count; i++) {
		named |= strncmp(variables[i], "CUDA_DEVICE_MEMORY_LIMIT", 24) == 0 && strpbrk(variables[i], "=") != NULL;
		named |= strncmp(variables[i], "CUDA_DEVICE_SM_LIMIT", 20) == 0 && strpbrk(variables[i], "=") != NULL;
	}
	if (status != SOFTMIG_LIMITS_ABSENT)
		CHECK(named);
	if (status == SOFTMIG_LIMITS_OK)
		CHECK(limits.has_memory || limits.has_sm);
	if (status == SOFTMIG_LIMITS_BAD)
		CHECK(error.line == 0 && error.message[0] != '\0');
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++)
		CHECK(limits.sm_pct[gpu] >= 1 && limits.sm_pct[gpu] <= 100 && limits.memory_bytes[gpu] <= INT64_MAX);
	free(text);
	return 0;
}
