// SPDX-License-Identifier: Apache-2.0
// JSON as output, written while it is put together. Owns: commas, indentation, escaping. Must never: write invalid JSON, whatever
// the strings hold (names of processes and paths are any bytes; what is no UTF-8 becomes U+FFFD).
#ifndef SOFTMIG_CLI_JSON_H
#define SOFTMIG_CLI_JSON_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { SOFTMIG_JSON_DEPTH = 12 };

struct softmig_json {
	FILE *out;
	int depth;
	bool filled[SOFTMIG_JSON_DEPTH]; // has this level a member already
};

// key is NULL for the outermost value and for the elements of an array.
void softmig_json_open(struct softmig_json *json, const char *key, char bracket); // '{' or '['
void softmig_json_close(struct softmig_json *json, char bracket);                 // '}' or ']'; after the outermost a newline
void softmig_json_string(struct softmig_json *json, const char *key, const char *value); // NULL: null
void softmig_json_number(struct softmig_json *json, const char *key, uint64_t value);
void softmig_json_decimal(struct softmig_json *json, const char *key, double value); // three decimals
void softmig_json_bool(struct softmig_json *json, const char *key, bool value);
void softmig_json_null(struct softmig_json *json, const char *key);
#endif
