// SPDX-License-Identifier: Apache-2.0
// The grammar of limits, fed piece by piece, for limits.c and limits_file.c only: a file of 64 KiB does not fit on the
// stack of other people's threads. Owns: lines, keys, values. Must never: know where the text comes from.
#ifndef SOFTMIG_SLICE_LIMITS_PARSER_H
#define SOFTMIG_SLICE_LIMITS_PARSER_H
#include "slice/limits.h"

// Every key once, the numbered ones once per GPU: the index of softmig_limits_parser.seen.
enum softmig_limits_key {
	SOFTMIG_KEY_MEMORY,
	SOFTMIG_KEY_MEMORY_OF,
	SOFTMIG_KEY_SM = SOFTMIG_KEY_MEMORY_OF + SOFTMIG_MAX_GPUS,
	SOFTMIG_KEY_SM_OF,
	SOFTMIG_KEY_UUID_OF = SOFTMIG_KEY_SM_OF + SOFTMIG_MAX_GPUS,
	SOFTMIG_KEY_OOM_KILLER = SOFTMIG_KEY_UUID_OF + SOFTMIG_MAX_GPUS,
	SOFTMIG_KEY_LOG_LEVEL,
	SOFTMIG_KEY_OLD_LOG_LEVEL,
	SOFTMIG_KEY_SHARE_MODE,
	SOFTMIG_KEY_COUNT
};

struct softmig_limits_parser {
	struct softmig_limits *limits;
	struct softmig_limits_error *error;
	uint64_t memory_bytes; // for GPUs without a key of their own
	uint8_t sm_pct;
	int old_log_level;
	int seen[SOFTMIG_KEY_COUNT]; // the line that gave it, 0: none
	int line;
	size_t total_bytes;
	size_t line_length;
	char text[SOFTMIG_LIMITS_LINE_BYTES];
	bool failed;
};

void softmig_limits_parser_begin(struct softmig_limits_parser *parser, struct softmig_limits *limits,
                                 struct softmig_limits_error *error);
// False: the text is refused and error says why; what follows is ignored.
bool softmig_limits_parser_feed(struct softmig_limits_parser *parser, const char *text, size_t length);
enum softmig_limits_status softmig_limits_parser_end(struct softmig_limits_parser *parser);

// Fills error (if there is one); returns SOFTMIG_LIMITS_BAD.
enum softmig_limits_status softmig_limits_refuse(struct softmig_limits_error *error, int line, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
#endif
