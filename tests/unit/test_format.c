// SPDX-License-Identifier: Apache-2.0
// The formatter says what printf says, within its buffer.
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "cmocka_all.h"
#include "slice/format.h"

#define ASSERT_SAME(...)                                                                                               \
	do {                                                                                                               \
		char ours[256], libc[256];                                                                                     \
		size_t length = softmig_format(ours, sizeof(ours), __VA_ARGS__);                                               \
		int expected = snprintf(libc, sizeof(libc), __VA_ARGS__);                                                      \
		assert_string_equal(ours, libc);                                                                               \
		assert_int_equal(length, expected);                                                                            \
	} while (0)

static void it_formats_like_printf(void **state) {
	(void)state;
	ASSERT_SAME("plain");
	ASSERT_SAME("%s|%s", "one", "");
	ASSERT_SAME("%.3s|%.*s|%.0s|%.9s", "abcdef", 2, "abcdef", "abc", "abc");
	ASSERT_SAME("%6s|%-6s|%*s", "ab", "ab", 4, "x");
	ASSERT_SAME("%d|%i|%d|%d", 0, -1, INT_MAX, INT_MIN);
	ASSERT_SAME("%05d|%05d|%5d|%-5d|%03d", 42, -42, -42, 42, 12345);
	ASSERT_SAME("%u|%x|%X|%08x", UINT_MAX, 0xdeadbeefu, 0xdeadbeefu, 0xbeefu);
	ASSERT_SAME("%ld|%lu|%lld|%llu", LONG_MIN, ULONG_MAX, LLONG_MIN, ULLONG_MAX);
	ASSERT_SAME("%zu|%zd|%jd|%ju|%td", SIZE_MAX, (ssize_t)-5, INTMAX_MIN, UINTMAX_MAX, (ptrdiff_t)-3);
	ASSERT_SAME("%hd|%hu|%hhd|%hhu", (short)-3, (unsigned short)65535, (signed char)-7, (unsigned char)255);
	ASSERT_SAME("%c%c|%%|%3c", 'a', 'b', 'c');
	ASSERT_SAME("%p", (void *)0x1234);
}

static void it_never_writes_past_the_buffer(void **state) {
	(void)state;
	char buffer[8];
	memset(buffer, '#', sizeof(buffer));
	assert_int_equal(softmig_format(buffer, 4, "%s", "abcdef"), 3);
	assert_memory_equal(buffer, "abc\0####", 8);
	assert_int_equal(softmig_format(buffer, 1, "%d", 7), 0);
	assert_int_equal(buffer[0], '\0');
	buffer[0] = '#';
	assert_int_equal(softmig_format(buffer, 0, "x"), 0);
	assert_int_equal(buffer[0], '#');
	assert_int_equal(softmig_format(buffer, sizeof(buffer), "%050d", 7), 7);
	assert_string_equal(buffer, "0000000");
}

static void it_survives_null_and_what_it_does_not_know(void **state) {
	(void)state;
	char buffer[32];
	const char *volatile none = NULL;
	softmig_format(buffer, sizeof(buffer), "<%s>", none);
	assert_string_equal(buffer, "<(null)>");
	softmig_format(buffer, sizeof(buffer), "a %f b %s", 1.0, "c");
	assert_string_equal(buffer, "a %?");
	volatile int wide = INT_MAX;
	softmig_format(buffer, sizeof(buffer), "%*s|", wide, "x");
	assert_int_equal(strlen(buffer), sizeof(buffer) - 1);
}

static void it_leaves_errno_alone(void **state) {
	(void)state;
	char buffer[32];
	errno = 77;
	softmig_format(buffer, sizeof(buffer), "%s %d", "x", 1);
	assert_int_equal(errno, 77);
}

static void decimals_are_digits_within_the_maximum_and_nothing_else(void **state) {
	(void)state;
	uint64_t value = 99;
	assert_true(softmig_parse_decimal("0", 1, 0, &value));
	assert_int_equal(value, 0);
	assert_true(softmig_parse_decimal("18446744073709551615", 20, UINT64_MAX, &value));
	assert_true(value == UINT64_MAX);
	assert_true(softmig_parse_decimal("0012345", 4, 100, &value)); // the first four characters
	assert_int_equal(value, 12);
	value = 99;
	static const char *const refused[] = {
		"", "-1", "+1", " 1", "1 ", "0x1", "1.0", "18446744073709551616", "99999999999999999999999999"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		assert_false(softmig_parse_decimal(refused[i], strlen(refused[i]), UINT64_MAX, &value));
	assert_false(softmig_parse_decimal("9", 1, 5, &value));
	assert_false(softmig_parse_decimal("101", 3, 100, &value));
	assert_int_equal(value, 99);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_formats_like_printf),
		cmocka_unit_test(it_never_writes_past_the_buffer),
		cmocka_unit_test(it_survives_null_and_what_it_does_not_know),
		cmocka_unit_test(it_leaves_errno_alone),
		cmocka_unit_test(decimals_are_digits_within_the_maximum_and_nothing_else),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
