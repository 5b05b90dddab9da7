// SPDX-License-Identifier: Apache-2.0
// JSON as the tools write it, with names that are any bytes: one value comes out, and a strict reading of it finds its
// end.
#include <string.h>

#include "cli/json.h"
#include "fuzz.h"

static const char *at, *end;

static void blanks(void) {
	while (at < end && strchr(" \n\t\r", *at) != NULL && *at != '\0')
		at++;
}

static void expect(char character) {
	CHECK(at < end && *at == character);
	at++;
}

// The code point at the cursor; ends the run on anything that is no UTF-8.
static void character(void) {
	unsigned char first = (unsigned char)*at;
	int more = first < 0x80                    ? 0
	           : first >= 0xc2 && first < 0xe0 ? 1
	           : first >= 0xe0 && first < 0xf0 ? 2
	           : first >= 0xf0 && first < 0xf5 ? 3
	                                           : -1;
	CHECK(more >= 0 && end - at > more);
	uint32_t point = more == 0 ? first : more == 1 ? first & 0x1fu : more == 2 ? first & 0x0fu : first & 0x07u;
	for (int i = 1; i <= more; i++) {
		CHECK(((unsigned char)at[i] & 0xc0) == 0x80);
		point = point << 6 | ((unsigned char)at[i] & 0x3fu);
	}
	CHECK(point >= 0x20 && point <= 0x10ffff && (point < 0xd800 || point > 0xdfff));
	CHECK(more < 2 || point >= (more == 2 ? 0x800u : 0x10000u));
	at += more + 1;
}

static void string(void) {
	expect('"');
	while (at < end && *at != '"') {
		if (*at != '\\') {
			character();
			continue;
		}
		at++;
		CHECK(at < end && *at != '\0' && strchr("\"\\/bfnrtu", *at) != NULL);
		if (*at++ == 'u') {
			for (int i = 0; i < 4; i++, at++)
				CHECK(at < end && *at != '\0' && strchr("0123456789abcdefABCDEF", *at) != NULL);
		}
	}
	expect('"');
}

static void value(int depth) {
	CHECK(depth < 32);
	blanks();
	CHECK(at < end);
	if (*at == '{' || *at == '[') {
		char close = *at == '{' ? '}' : ']';
		at++;
		blanks();
		for (int members = 0; at < end && *at != close; members++) {
			if (members > 0)
				expect(',');
			blanks();
			if (close == '}') {
				string();
				blanks();
				expect(':');
			}
			value(depth + 1);
			blanks();
		}
		expect(close);
	} else if (*at == '"') {
		string();
	} else {
		size_t length = strspn(at, "-+.0123456789eEtruefalsn");
		CHECK(length > 0);
		CHECK(strncmp(at, "true", 4) == 0 || strncmp(at, "false", 5) == 0 || strncmp(at, "null", 4) == 0 ||
		      *at == '-' || (*at >= '0' && *at <= '9'));
		at += length;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char *text = NULL, name[64];
	size_t length = 0, used = 0;
	struct softmig_json json = {.out = open_memstream(&text, &length)};
	char brackets[SOFTMIG_JSON_DEPTH];
	int depth = 0;
	CHECK(json.out != NULL);
	softmig_json_open(&json, NULL, '{');
	brackets[depth++] = '{';
	while (used < size && used < 2000) {
		unsigned choice = data[used++];
		size_t take = used < size ? data[used] % sizeof(name) : 0;
		take = take < size - used ? take : size - used;
		memcpy(name, data + used, take);
		name[take < sizeof(name) ? take : sizeof(name) - 1] = '\0';
		used += take;
		const char *key = brackets[depth - 1] == '{' ? name : NULL;
		switch (choice % 8) {
		case 0:
		case 1:
			if (depth < SOFTMIG_JSON_DEPTH - 1) {
				brackets[depth] = choice % 8 == 0 ? '{' : '[';
				softmig_json_open(&json, key, brackets[depth++]);
			}
			break;
		case 2:
			if (depth > 1) {
				depth--;
				softmig_json_close(&json, brackets[depth] == '{' ? '}' : ']');
			}
			break;
		case 3: softmig_json_string(&json, key, name); break;
		case 4: softmig_json_number(&json, key, (uint64_t)choice << (choice % 57)); break;
		case 5: softmig_json_decimal(&json, key, (double)choice / 7 * (choice % 2 == 0 ? 1e9 : -1)); break;
		case 6: softmig_json_bool(&json, key, choice > 100); break;
		default: softmig_json_string(&json, key, NULL); break;
		}
	}
	while (depth > 0) {
		depth--;
		softmig_json_close(&json, brackets[depth] == '{' ? '}' : ']');
	}
	CHECK(fclose(json.out) == 0);
	at = text;
	end = text + length;
	value(0);
	blanks();
	CHECK(at == end);
	free(text);
	return 0;
}
