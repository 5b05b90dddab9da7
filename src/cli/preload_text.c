// SPDX-License-Identifier: Apache-2.0
// See preload_text.h. The grammar is that of do_preload's caller in glibc's elf/rtld.c, 2.17 to 2.40.
#include "cli/preload_text.h"

#include <stdlib.h>
#include <string.h>

static bool is_separator(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == ':';
}

bool softmig_preload_next(const char *text, size_t length, size_t *position, size_t *start, size_t *end)
{
	size_t at = *position;
	while (at < length && (is_separator(text[at]) || text[at] == '#')) {
		if (text[at] == '#')
			while (at < length && text[at] != '\n')
				at++;
		else
			at++;
	}
	*start = at;
	while (at < length && !is_separator(text[at]) && text[at] != '#')
		at++;
	*position = *end = at;
	return *end > *start;
}

static bool find(const char *text, size_t length, const char *entry, size_t *start, size_t *end)
{
	size_t position = 0;
	while (softmig_preload_next(text, length, &position, start, end))
		if (*end - *start == strlen(entry) && memcmp(text + *start, entry, *end - *start) == 0)
			return true;
	return false;
}

bool softmig_preload_has(const char *text, size_t length, const char *entry)
{
	size_t start, end;
	return find(text, length, entry, &start, &end);
}

bool softmig_preload_is_sane(const char *text, size_t length)
{
	return length == 0 || memchr(text, '\0', length) == NULL;
}

bool softmig_preload_can_enter(const char *entry)
{
	if (*entry != '/')
		return false;
	for (; *entry; entry++)
		if (is_separator(*entry) || *entry == '#' || (unsigned char)*entry < ' ' || *entry == 0x7f)
			return false;
	return true;
}

static char *copy(const char *text, size_t length, size_t more)
{
	char *result = malloc(length + more + 1);
	if (result) {
		if (length)
			memcpy(result, text, length);
		result[length] = '\0';
	}
	return result;
}

// A text that ends without a newline gets a last line without one as well: so the two cases stay apart for remove.
char *softmig_preload_add(const char *text, size_t length, const char *entry, size_t *new_length)
{
	char *result = copy(text, length, strlen(entry) + 1);
	*new_length = length;
	if (!result || softmig_preload_has(text, length, entry))
		return result;
	bool ended = length > 0 && text[length - 1] == '\n';
	if (length > 0 && !ended)
		strcat(result, "\n");
	strcat(result, entry);
	if (ended)
		strcat(result, "\n");
	*new_length = strlen(result);
	return result;
}

// What has to go with the entry at [*start, *end): the rest of its line when that is blank, else one separator.
static void widen(const char *text, size_t length, size_t *start, size_t *end)
{
	size_t before = *start;
	size_t after = *end;
	while (before > 0 && is_separator(text[before - 1]) && text[before - 1] != '\n')
		before--;
	while (after < length && is_separator(text[after]) && text[after] != '\n')
		after++;
	bool line_begins = before == 0 || text[before - 1] == '\n';
	bool line_ends = after == length || text[after] == '\n';
	if (line_begins && line_ends) {
		*start = before;
		*end = after;
		if (after < length)
			(*end)++; // with its newline
		else if (before > 0)
			(*start)--; // the last line has none: with the one before it
	} else if (!line_ends && text[*end] != '#') {
		(*end)++;
	} else if (*start > 0 && text[*start - 1] != '\n') {
		(*start)--;
	}
}

char *softmig_preload_remove(const char *text, size_t length, const char *entry, size_t *new_length)
{
	char *result = copy(text, length, 0);
	size_t start, end;
	while (result && find(result, length, entry, &start, &end)) {
		widen(result, length, &start, &end);
		memmove(result + start, result + end, length - end + 1);
		length -= end - start;
	}
	*new_length = length;
	return result;
}
