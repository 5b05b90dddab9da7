// SPDX-License-Identifier: Apache-2.0
// Own copies of the few string functions that the library uses, hidden in it. A program may bring its own strcmp or memcpy
// (every sanitizer does) and ask dlsym for libc's before its own can run: what answers that question must not call them.
// Compiled so that the compiler does not turn these loops into calls of themselves (CMakeLists.txt).
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name): libc's headers say __s and __n

void *memcpy(void *restrict to, const void *restrict from, size_t size)
{
	unsigned char *out = to;
	const unsigned char *in = from;
	while (size-- > 0)
		*out++ = *in++;
	return to;
}

void *memmove(void *to, const void *from, size_t size)
{
	unsigned char *out = to;
	const unsigned char *in = from;
	if ((uintptr_t)out <= (uintptr_t)in)
		return memcpy(to, from, size);
	while (size-- > 0)
		out[size] = in[size];
	return to;
}

void *memset(void *to, int value, size_t size)
{
	unsigned char *out = to;
	while (size-- > 0)
		*out++ = (unsigned char)value;
	return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const unsigned char *x = a, *y = b;
	for (; size > 0; size--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

void *memchr(const void *text, int value, size_t size)
{
	for (const unsigned char *c = text; size > 0; size--, c++)
		if (*c == (unsigned char)value)
			return (void *)c;
	return NULL;
}

size_t strlen(const char *text)
{
	const char *end = text;
	while (*end != '\0')
		end++;
	return (size_t)(end - text);
}

int strncmp(const char *a, const char *b, size_t size)
{
	for (; size > 0; size--, a++, b++)
		if (*a != *b || *a == '\0')
			return (unsigned char)*a - (unsigned char)*b;
	return 0;
}

int strcmp(const char *a, const char *b)
{
	return strncmp(a, b, SIZE_MAX);
}

static int lower(char c)
{
	return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : (unsigned char)c;
}

int strncasecmp(const char *a, const char *b, size_t size)
{
	for (; size > 0; size--, a++, b++)
		if (lower(*a) != lower(*b) || *a == '\0')
			return lower(*a) - lower(*b);
	return 0;
}

char *strchr(const char *text, int value)
{
	for (;; text++) {
		if (*text == (char)value)
			return (char *)text;
		if (*text == '\0')
			return NULL;
	}
}

char *strrchr(const char *text, int value)
{
	const char *last = NULL;
	for (;; text++) {
		if (*text == (char)value)
			last = text;
		if (*text == '\0')
			return (char *)last;
	}
}

size_t strspn(const char *text, const char *set)
{
	size_t length = 0;
	while (text[length] != '\0' && strchr(set, text[length]) != NULL)
		length++;
	return length;
}

size_t strcspn(const char *text, const char *set)
{
	size_t length = 0;
	while (text[length] != '\0' && strchr(set, text[length]) == NULL)
		length++;
	return length;
}

char *strstr(const char *text, const char *part)
{
	size_t length = strlen(part);
	for (;; text++) {
		if (strncmp(text, part, length) == 0)
			return (char *)text;
		if (*text == '\0')
			return NULL;
	}
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
