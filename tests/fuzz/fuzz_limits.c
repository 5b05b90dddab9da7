// SPDX-License-Identifier: Apache-2.0
// The text of a limit file: whatever it is, it is understood within the ranges or refused with a printable reason, and
// it does not matter in which pieces it comes.
#include <string.h>

#include "fuzz.h"
#include "slice/limits_parser.h"

static void check(enum softmig_limits_status status, const struct softmig_limits *limits,
                  const struct softmig_limits_error *error) {
	if (status == SOFTMIG_LIMITS_OK) {
		for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
			CHECK(limits->memory_bytes[gpu] <= INT64_MAX);
			CHECK(limits->sm_pct[gpu] >= 1 && limits->sm_pct[gpu] <= 100);
			CHECK(limits->memory_bytes[gpu] == 0 || limits->has_memory);
			CHECK(limits->sm_pct[gpu] == 100 || limits->has_sm);
		}
		CHECK(limits->log_level >= -1 && limits->log_level <= 4);
		CHECK(limits->share_mode == SOFTMIG_SHARE_CAP || limits->share_mode == SOFTMIG_SHARE_BORROW);
		return;
	}
	CHECK(status == SOFTMIG_LIMITS_BAD);
	struct softmig_limits none;
	softmig_limits_init(&none);
	CHECK(memcmp(limits, &none, sizeof(none)) == 0);
	size_t length = strnlen(error->message, sizeof(error->message));
	CHECK(length > 0 && length < sizeof(error->message));
	for (size_t i = 0; i < length; i++)
		CHECK(error->message[i] >= ' ' && error->message[i] <= '~');
	CHECK(error->line >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct softmig_limits whole, pieces;
	struct softmig_limits_error error = {0}, error_of_pieces = {0};
	enum softmig_limits_status status = softmig_limits_parse((const char *)data, size, &whole, &error);
	check(status, &whole, &error);
	struct softmig_limits_parser parser;
	softmig_limits_parser_begin(&parser, &pieces, &error_of_pieces);
	for (size_t at = 0, step = 1; at < size; at += step, step = step % 7 + 1)
		softmig_limits_parser_feed(&parser, (const char *)data + at, size - at < step ? size - at : step);
	CHECK(softmig_limits_parser_end(&parser) == status);
	CHECK(memcmp(&whole, &pieces, sizeof(whole)) == 0);
	CHECK(strcmp(error.message, error_of_pieces.message) == 0 && error.line == error_of_pieces.line);
	return 0;
}
