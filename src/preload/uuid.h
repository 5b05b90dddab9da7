// SPDX-License-Identifier: Apache-2.0
// A GPU's UUID as text. Owns: that conversion.
#ifndef SOFTMIG_PRELOAD_UUID_H
#define SOFTMIG_PRELOAD_UUID_H
#include <stdint.h>

#define SOFTMIG_UUID_TEXT 41

// prefix ("GPU-") and 8-4-4-4-12 lower-case digits, as NVML writes it.
static inline void softmig_uuid_text(const uint8_t uuid[16], const char prefix[5], char text[SOFTMIG_UUID_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	char *out = text;

	for (int i = 0; i < 4; i++)
		*out++ = prefix[i];
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*out++ = '-';
		*out++ = digits[uuid[i] >> 4];
		*out++ = digits[uuid[i] & 15];
	}
	*out = '\0';
}
#endif
