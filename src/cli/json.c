// SPDX-License-Identifier: Apache-2.0
// See json.h.
#include "cli/json.h"

#include <inttypes.h>
#include <string.h>

// Length of the UTF-8 character at text (RFC 3629: no overlong form, no surrogate, nothing above U+10FFFF), 0: not one.
static int character(const unsigned char *text)
{
	if (text[0] < 0x80)
		return 1;
	int length = text[0] >= 0xf0 ? 4 : text[0] >= 0xe0 ? 3 : 2;
	static const unsigned smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	unsigned code = text[0] & (0xffu >> (length + 1));
	for (int i = 1; i < length; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		code = code << 6 | (text[i] & 0x3fu);
	}
	bool good = text[0] >= 0xc2 && text[0] <= 0xf4 && code >= smallest[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
	return good ? length : 0;
}

static void quote(FILE *out, const char *value)
{
	const unsigned char *text = (const unsigned char *)value;
	putc('"', out);
	while (*text) {
		int length = character(text);
		if (length == 0)
			fputs("\\ufffd", out);
		else if (*text == '"' || *text == '\\')
			fprintf(out, "\\%c", *text);
		else if (*text < 0x20 || *text == 0x7f)
			fprintf(out, "\\u%04x", *text);
		else
			fwrite(text, 1, (size_t)length, out);
		text += length ? length : 1;
	}
	putc('"', out);
}

static void begin(struct softmig_json *json, const char *key)
{
	if (json->depth > 0) {
		fputs(json->filled[json->depth] ? ",\n" : "\n", json->out);
		json->filled[json->depth] = true;
	}
	fprintf(json->out, "%*s", 2 * json->depth, "");
	if (key) {
		quote(json->out, key);
		fputs(": ", json->out);
	}
}

void softmig_json_open(struct softmig_json *json, const char *key, char bracket)
{
	begin(json, key);
	putc(bracket, json->out);
	if (json->depth < SOFTMIG_JSON_DEPTH - 1)
		json->depth++;
	json->filled[json->depth] = false;
}

void softmig_json_close(struct softmig_json *json, char bracket)
{
	bool filled = json->filled[json->depth];
	json->depth--;
	if (filled)
		fprintf(json->out, "\n%*s", 2 * json->depth, "");
	putc(bracket, json->out);
	if (json->depth == 0)
		putc('\n', json->out);
}

void softmig_json_string(struct softmig_json *json, const char *key, const char *value)
{
	if (!value) {
		softmig_json_null(json, key);
		return;
	}
	begin(json, key);
	quote(json->out, value);
}

void softmig_json_number(struct softmig_json *json, const char *key, uint64_t value)
{
	begin(json, key);
	fprintf(json->out, "%" PRIu64, value);
}

void softmig_json_decimal(struct softmig_json *json, const char *key, double value)
{
	begin(json, key);
	fprintf(json->out, "%.3f", value);
}

void softmig_json_bool(struct softmig_json *json, const char *key, bool value)
{
	begin(json, key);
	fputs(value ? "true" : "false", json->out);
}

void softmig_json_null(struct softmig_json *json, const char *key)
{
	begin(json, key);
	fputs("null", json->out);
}
