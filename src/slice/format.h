// SPDX-License-Identifier: Apache-2.0
// Text into a fixed buffer. Owns: the one formatter of code that runs inside other people's processes. Must never:
// allocate, consult the locale, touch errno, take a lock, write past the buffer (which is why it is not snprintf).
#ifndef SOFTMIG_SLICE_FORMAT_H
#define SOFTMIG_SLICE_FORMAT_H
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes at most size - 1 characters and a terminating NUL (nothing at all if size is 0). Returns the length written,
// so a result of size - 1 may have been cut. Knows %s %c %d %i %u %x %X %p %%, the lengths hh h l ll z j t, a width
// with or without leading 0 or -, and a precision (also *) for %s; any other conversion ends the text with "%?".
size_t softmig_format(char *buffer, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
size_t softmig_format_list(char *buffer, size_t size, const char *format, va_list list)
	__attribute__((format(printf, 3, 0)));

// Reads the decimal digits text[0..length) and nothing else: no sign, no blank, no overflow over maximum. Leaves *value
// alone when it returns false.
bool softmig_parse_decimal(const char *text, size_t length, uint64_t maximum, uint64_t *value);
#endif
