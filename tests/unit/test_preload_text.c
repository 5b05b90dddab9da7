// SPDX-License-Identifier: Apache-2.0
// Editing /etc/ld.so.preload: what counts as an entry, and that nothing but ours ever changes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/preload_text.h"

#define OURS "/var/lib/shared/libsoftmig.so"

static void adding(const char *before, const char *after)
{
	size_t length;
	char *result = softmig_preload_add(before, strlen(before), OURS, &length);
	assert_string_equal(result, after);
	assert_int_equal(length, strlen(after));
	assert_true(softmig_preload_has(result, length, OURS));
	free(result);
}

static void removing(const char *before, const char *after)
{
	size_t length;
	char *result = softmig_preload_remove(before, strlen(before), OURS, &length);
	assert_string_equal(result, after);
	assert_int_equal(length, strlen(after));
	assert_false(softmig_preload_has(result, length, OURS));
	free(result);
}

// The entries in force, joined by '|'.
static void entries(const char *text, const char *expected)
{
	char joined[512] = "";
	size_t position = 0, start, end;
	while (softmig_preload_next(text, strlen(text), &position, &start, &end)) {
		if (*joined)
			strcat(joined, "|");
		strncat(joined, text + start, end - start);
	}
	assert_string_equal(joined, expected);
}

static void test_entries_are_apart_by_space_tab_colon_and_newline(void **state)
{
	(void)state;
	entries("", "");
	entries("a", "a");
	entries("a\n", "a");
	entries("a b", "a|b");
	entries("a\tb", "a|b");
	entries("a:b", "a|b");
	entries("a\nb\n", "a|b");
	entries(" : \t\n a : :b \n\n", "a|b");
}

static void test_a_comment_begins_anywhere_and_ends_with_the_line(void **state)
{
	(void)state;
	entries("# a", "");
	entries("#a\nb", "b");
	entries("a # b\nc", "a|c");
	entries("a#b\nc", "a|c");
	entries("## a # b\n# c", "");
	entries("a:#b:c\n:d", "a|d");
}

static void test_has_means_the_whole_entry_in_force(void **state)
{
	(void)state;
	assert_true(softmig_preload_has(OURS, strlen(OURS), OURS));
	assert_false(softmig_preload_has("", 0, OURS));
	assert_false(softmig_preload_has("# " OURS, strlen("# " OURS), OURS));
	assert_false(softmig_preload_has(OURS ".old", strlen(OURS ".old"), OURS));
	assert_false(softmig_preload_has("/x" OURS, strlen("/x" OURS), OURS));
	assert_true(softmig_preload_has("/x" OURS ":" OURS "#", strlen("/x" OURS ":" OURS "#"), OURS));
	assert_false(softmig_preload_has(OURS, strlen(OURS) - 1, OURS)); // length counts, not the NUL
}

static void test_adding_appends_a_line(void **state)
{
	(void)state;
	adding("/lib/a.so\n", "/lib/a.so\n" OURS "\n");
	adding("/lib/a.so /lib/b.so\n", "/lib/a.so /lib/b.so\n" OURS "\n");
	adding("/lib/a.so:/lib/b.so\n\n", "/lib/a.so:/lib/b.so\n\n" OURS "\n");
	adding("\n", "\n" OURS "\n");
	adding("# by the site\n", "# by the site\n" OURS "\n");
}

static void test_adding_to_a_text_without_a_last_newline_never_joins_words(void **state)
{
	(void)state;
	adding("", OURS);
	adding("/lib/a.so", "/lib/a.so\n" OURS);
	adding("# comment", "# comment\n" OURS);
	adding("/lib/a.so:", "/lib/a.so:\n" OURS);
}

static void test_adding_twice_is_adding_once(void **state)
{
	(void)state;
	adding(OURS "\n", OURS "\n");
	adding("/lib/a.so:" OURS, "/lib/a.so:" OURS);
	adding(OURS "#x", OURS "#x");
}

static void test_an_entry_in_a_comment_or_within_another_is_not_ours(void **state)
{
	(void)state;
	adding("#" OURS "\n", "#" OURS "\n" OURS "\n");
	adding("/lib/a.so # " OURS "\n", "/lib/a.so # " OURS "\n" OURS "\n");
	adding(OURS ".bak\n", OURS ".bak\n" OURS "\n");
	removing("#" OURS "\n", "#" OURS "\n");
	removing(OURS ".bak\n", OURS ".bak\n");
	removing("/alt" OURS "\n", "/alt" OURS "\n");
}

static void test_removing_takes_the_line_that_held_nothing_else(void **state)
{
	(void)state;
	removing(OURS, "");
	removing(OURS "\n", "");
	removing("  " OURS "\t \n", "");
	removing("/lib/a.so\n" OURS "\n", "/lib/a.so\n");
	removing(OURS "\n/lib/a.so\n", "/lib/a.so\n");
	removing("/lib/a.so\n" OURS "\n/lib/b.so\n", "/lib/a.so\n/lib/b.so\n");
	removing("/lib/a.so\n" OURS, "/lib/a.so");
	removing("\n\n" OURS "\n\n", "\n\n\n");
}

static void test_removing_from_a_shared_line_takes_one_separator(void **state)
{
	(void)state;
	removing("/a " OURS " /b\n", "/a /b\n");
	removing("/a:" OURS ":/b\n", "/a:/b\n");
	removing("/a:" OURS " /b\n", "/a:/b\n");
	removing(OURS " /b\n", "/b\n");
	removing(OURS ":/b", "/b");
	removing("/a " OURS "\n", "/a\n");
	removing("/a:" OURS, "/a");
	removing("/a\t" OURS "\n/b\n", "/a\n/b\n");
	removing("/a  " OURS "  /b\n", "/a   /b\n");
}

static void test_removing_keeps_the_comment_of_the_line(void **state)
{
	(void)state;
	removing(OURS " # why\n", "# why\n");
	removing(OURS "# why\n", "# why\n");
	removing("/a " OURS "# why\n", "/a# why\n");
	removing("/a " OURS " # why\n/b", "/a # why\n/b");
	removing("# before\n" OURS "\n# after", "# before\n# after");
}

static void test_removing_takes_every_occurrence(void **state)
{
	(void)state;
	removing(OURS " " OURS, "");
	removing(OURS "\n" OURS "\n", "");
	removing(OURS ":/a:" OURS "\n" OURS "\n", "/a\n");
	removing("# " OURS "\n" OURS "\n", "# " OURS "\n");
}

static void test_removing_what_is_not_there_changes_nothing(void **state)
{
	(void)state;
	removing("", "");
	removing("/a /b:/c\n# d\n\n", "/a /b:/c\n# d\n\n");
	removing("/a", "/a");
	removing(" \t:\n", " \t:\n");
}

// Every text of up to 6 characters of the grammar's alphabet, and ours in it: the round trip gives the same bytes, and the
// other entries stay what they were.
static void test_adding_and_removing_gives_back_every_byte(void **state)
{
	(void)state;
	static const char alphabet[] = "a:# \n";
	for (uint32_t number = 0; number < 6 * 6 * 6 * 6 * 6 * 6; number++) {
		char text[8];
		size_t length = 0;
		for (uint32_t rest = number; rest; rest /= 6)
			if (rest % 6)
				text[length++] = alphabet[rest % 6 - 1];
		text[length] = '\0';
		size_t added_length, removed_length;
		char *added = softmig_preload_add(text, length, OURS, &added_length);
		char *removed = softmig_preload_remove(added, added_length, OURS, &removed_length);
		assert_int_equal(removed_length, length);
		assert_memory_equal(removed, text, length);
		free(added);
		free(removed);
	}
}

static void count_entries(const char *text, size_t length, int *ours, int *others)
{
	size_t position = 0, start, end;
	*ours = *others = 0;
	while (softmig_preload_next(text, length, &position, &start, &end))
		*(end - start == strlen(OURS) && memcmp(text + start, OURS, end - start) == 0 ? ours : others) += 1;
}

static void test_removing_ours_leaves_all_others_in_force(void **state)
{
	(void)state;
	static const char *const parts[] = { "a", ":", "# ", " ", "\n", OURS };
	for (uint32_t number = 0; number < 6 * 6 * 6 * 6 * 6 * 6; number++) {
		char text[8 * sizeof OURS] = "";
		for (uint32_t rest = number, i = 0; i < 6; i++, rest /= 6)
			strcat(text, parts[rest % 6]);
		int ours, others, ours_after, others_after;
		count_entries(text, strlen(text), &ours, &others);
		size_t length;
		char *removed = softmig_preload_remove(text, strlen(text), OURS, &length);
		count_entries(removed, length, &ours_after, &others_after);
		assert_int_equal(ours_after, 0);
		assert_int_equal(others_after, others);
		assert_true(ours > 0 || length == strlen(text));
		free(removed);
	}
}

static void test_a_text_with_a_nul_byte_is_not_edited(void **state)
{
	(void)state;
	assert_true(softmig_preload_is_sane("", 0));
	assert_true(softmig_preload_is_sane("/a\n", 3));
	assert_false(softmig_preload_is_sane("/a\0/b", 5));
}

static void test_only_a_plain_absolute_path_can_be_an_entry(void **state)
{
	(void)state;
	assert_true(softmig_preload_can_enter(OURS));
	assert_true(softmig_preload_can_enter("/opt/$LIB/libsoftmig.so"));
	assert_false(softmig_preload_can_enter(""));
	assert_false(softmig_preload_can_enter("libsoftmig.so"));
	assert_false(softmig_preload_can_enter("/with space/libsoftmig.so"));
	assert_false(softmig_preload_can_enter("/with:colon"));
	assert_false(softmig_preload_can_enter("/with#hash"));
	assert_false(softmig_preload_can_enter("/with\ttab"));
	assert_false(softmig_preload_can_enter("/with\nnewline"));
	assert_false(softmig_preload_can_enter("/with\x01"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entries_are_apart_by_space_tab_colon_and_newline),
		cmocka_unit_test(test_a_comment_begins_anywhere_and_ends_with_the_line),
		cmocka_unit_test(test_has_means_the_whole_entry_in_force),
		cmocka_unit_test(test_adding_appends_a_line),
		cmocka_unit_test(test_adding_to_a_text_without_a_last_newline_never_joins_words),
		cmocka_unit_test(test_adding_twice_is_adding_once),
		cmocka_unit_test(test_an_entry_in_a_comment_or_within_another_is_not_ours),
		cmocka_unit_test(test_removing_takes_the_line_that_held_nothing_else),
		cmocka_unit_test(test_removing_from_a_shared_line_takes_one_separator),
		cmocka_unit_test(test_removing_keeps_the_comment_of_the_line),
		cmocka_unit_test(test_removing_takes_every_occurrence),
		cmocka_unit_test(test_removing_what_is_not_there_changes_nothing),
		cmocka_unit_test(test_adding_and_removing_gives_back_every_byte),
		cmocka_unit_test(test_removing_ours_leaves_all_others_in_force),
		cmocka_unit_test(test_a_text_with_a_nul_byte_is_not_edited),
		cmocka_unit_test(test_only_a_plain_absolute_path_can_be_an_entry),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
