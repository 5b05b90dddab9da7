// SPDX-License-Identifier: Apache-2.0
// JSON that any parser takes, whatever the strings hold; figures for people.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/json.h"
#include "cli/units.h"

static char *text;
static size_t length;

static struct softmig_json begin(void)
{
	return (struct softmig_json){ .out = open_memstream(&text, &length) };
}

static void gives(struct softmig_json *json, const char *expected)
{
	fclose(json->out);
	assert_string_equal(text, expected);
	free(text);
}

static void quotes(const char *value, const char *expected)
{
	struct softmig_json json = begin();
	softmig_json_string(&json, NULL, value);
	gives(&json, expected);
}

static void test_objects_and_arrays_nest_with_commas_where_they_belong(void **state)
{
	(void)state;
	struct softmig_json json = begin();
	softmig_json_open(&json, NULL, '{');
	softmig_json_number(&json, "bytes", UINT64_MAX);
	softmig_json_open(&json, "list", '[');
	softmig_json_bool(&json, NULL, true);
	softmig_json_open(&json, NULL, '{');
	softmig_json_null(&json, "nothing");
	softmig_json_close(&json, '}');
	softmig_json_close(&json, ']');
	softmig_json_open(&json, "empty", '[');
	softmig_json_close(&json, ']');
	softmig_json_decimal(&json, "share", 24.9);
	softmig_json_close(&json, '}');
	gives(&json, "{\n  \"bytes\": 18446744073709551615,\n  \"list\": [\n    true,\n    {\n      \"nothing\": null\n    }\n  ],\n"
	             "  \"empty\": [],\n  \"share\": 24.900\n}\n");
}

static void test_strings_are_escaped(void **state)
{
	(void)state;
	quotes("", "\"\"");
	quotes("plain", "\"plain\"");
	quotes("a\"b\\c", "\"a\\\"b\\\\c\"");
	quotes("\033[31m\n\x7f", "\"\\u001b[31m\\u000a\\u007f\"");
	quotes(NULL, "null");
}

static void test_utf8_passes_and_what_is_none_is_replaced(void **state)
{
	(void)state;
	quotes("\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\"");
	quotes("\xff", "\"\\ufffd\"");
	quotes("\x80z", "\"\\ufffdz\"");
	quotes("a\xc3", "\"a\\ufffd\"");                      // cut off
	quotes("\xc0\xaf", "\"\\ufffd\\ufffd\"");             // overlong
	quotes("\xe0\x80\xaf", "\"\\ufffd\\ufffd\\ufffd\"");  // overlong
	quotes("\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\"");  // surrogate
	quotes("\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); // above U+10FFFF
}

static void test_deep_nesting_stays_within_bounds(void **state)
{
	(void)state;
	struct softmig_json json = begin();
	for (int i = 0; i < 3 * SOFTMIG_JSON_DEPTH; i++)
		softmig_json_open(&json, NULL, '[');
	assert_in_range(json.depth, 0, SOFTMIG_JSON_DEPTH - 1);
	fclose(json.out);
	free(text);
}

static void test_sizes_for_people(void **state)
{
	(void)state;
	assert_string_equal(softmig_text_bytes(0).text, "0 B");
	assert_string_equal(softmig_text_bytes(1023).text, "1023 B");
	assert_string_equal(softmig_text_bytes(1024).text, "1.0 KiB");
	assert_string_equal(softmig_text_bytes(1024 * 1024 - 1).text, "1.0 MiB");
	assert_string_equal(softmig_text_bytes(12ull << 30).text, "12.0 GiB");
	assert_string_equal(softmig_text_bytes((12ull << 30) + (1ull << 29)).text, "12.5 GiB");
	assert_string_equal(softmig_text_bytes(UINT64_MAX).text, "16.0 EiB");
}

static void test_times_for_people(void **state)
{
	(void)state;
	assert_string_equal(softmig_text_duration(0).text, "0.0 s");
	assert_string_equal(softmig_text_duration(12340000000ull).text, "12.3 s");
	assert_string_equal(softmig_text_duration(59960000000ull).text, "1 min 00 s");
	assert_string_equal(softmig_text_duration(245000000000ull).text, "4 min 05 s");
	assert_string_equal(softmig_text_duration(11220000000000ull).text, "3 h 07 min");
}

static void test_shares_and_gpus_for_people(void **state)
{
	(void)state;
	static const uint8_t uuid[16] = { 0x1d, 0x2f, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0xff };
	assert_string_equal(softmig_text_permille(249).text, "24.9 %");
	assert_string_equal(softmig_text_permille(1000).text, "100.0 %");
	assert_string_equal(softmig_text_uuid(uuid).text, "GPU-1d2f0001-0203-0405-0607-08090a0b0cff");
	assert_string_equal(softmig_text_user(0).text, "root");
	assert_string_equal(softmig_text_user(4000000000u).text, "4000000000");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_objects_and_arrays_nest_with_commas_where_they_belong),
		cmocka_unit_test(test_strings_are_escaped),
		cmocka_unit_test(test_utf8_passes_and_what_is_none_is_replaced),
		cmocka_unit_test(test_deep_nesting_stays_within_bounds),
		cmocka_unit_test(test_sizes_for_people),
		cmocka_unit_test(test_times_for_people),
		cmocka_unit_test(test_shares_and_gpus_for_people),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
