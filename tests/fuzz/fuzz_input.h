// SPDX-License-Identifier: Apache-2.0
// For targets that act by their input: its bytes one after the other, zeros when they are used up.
#ifndef SOFTMIG_FUZZ_INPUT_H
#define SOFTMIG_FUZZ_INPUT_H
#include <stddef.h>
#include <stdint.h>

static const uint8_t *input;
static size_t left;

static inline unsigned next(void) {
	if (left == 0)
		return 0;
	left--;
	return *input++;
}

static inline uint64_t next_word(void) {
	uint64_t word = 0;
	for (int i = 0; i < 8; i++)
		word = word << 8 | next();
	return word;
}
#endif
