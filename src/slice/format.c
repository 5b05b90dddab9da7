// SPDX-License-Identifier: Apache-2.0
// Text into a fixed buffer: see format.h.
#include "slice/format.h"

#include <sys/types.h>

struct out {
	char *buffer;
	size_t size; // room for characters, the terminator not counted
	size_t length;
};

static void put(struct out *out, char character) {
	if (out->length < out->size)
		out->buffer[out->length++] = character;
}

// Puts text of length characters into a field of at least width.
static void put_field(struct out *out, const char *text, size_t length, size_t width, char fill, bool left) {
	for (size_t i = length; i < width && !left; i++)
		put(out, fill);
	for (size_t i = 0; i < length; i++)
		put(out, text[i]);
	for (size_t i = length; i < width && left; i++)
		put(out, ' ');
}

static void put_number(struct out *out, uintmax_t value, bool negative, unsigned base, bool upper, size_t width,
                       char fill, bool left) {
	const char *digits = upper ? "0123456789ABCDEF" : "0123456789abcdef";
	char text[3 * sizeof(value) + 1];
	size_t at = sizeof(text);
	do {
		text[--at] = digits[value % base];
		value /= base;
	} while (value > 0);
	if (negative && fill == '0' && width > 0) { // the sign goes before the zeros
		put(out, '-');
		width--;
	} else if (negative) {
		text[--at] = '-';
	}
	put_field(out, text + at, sizeof(text) - at, width, fill, left);
}

enum length {
	LENGTH_INT,
	LENGTH_CHAR,
	LENGTH_SHORT,
	LENGTH_LONG,
	LENGTH_LONGLONG,
	LENGTH_SIZE,
	LENGTH_MAX,
	LENGTH_POINTER
};

static enum length read_length(const char **format) {
	switch (**format) {
	case 'h':
		if (*++*format != 'h')
			return LENGTH_SHORT;
		++*format;
		return LENGTH_CHAR;
	case 'l':
		if (*++*format != 'l')
			return LENGTH_LONG;
		++*format;
		return LENGTH_LONGLONG;
	case 'z': ++*format; return LENGTH_SIZE;
	case 'j': ++*format; return LENGTH_MAX;
	case 't': ++*format; return LENGTH_POINTER;
	default: return LENGTH_INT;
	}
}

// va_list may be an array type, so it travels in a struct.
struct arguments {
	va_list list;
};

static intmax_t take_signed(struct arguments *arguments, enum length length) {
	switch (length) {
	case LENGTH_CHAR: return (signed char)va_arg(arguments->list, int);
	case LENGTH_SHORT: return (short)va_arg(arguments->list, int);
	case LENGTH_LONG: return va_arg(arguments->list, long);
	case LENGTH_LONGLONG: return va_arg(arguments->list, long long);
	case LENGTH_SIZE: return va_arg(arguments->list, ssize_t);
	case LENGTH_MAX: return va_arg(arguments->list, intmax_t);
	case LENGTH_POINTER: return va_arg(arguments->list, ptrdiff_t);
	default: return va_arg(arguments->list, int);
	}
}

static uintmax_t take_unsigned(struct arguments *arguments, enum length length) {
	switch (length) {
	case LENGTH_CHAR: return (unsigned char)va_arg(arguments->list, unsigned);
	case LENGTH_SHORT: return (unsigned short)va_arg(arguments->list, unsigned);
	case LENGTH_LONG: return va_arg(arguments->list, unsigned long);
	case LENGTH_LONGLONG: return va_arg(arguments->list, unsigned long long);
	case LENGTH_SIZE: return va_arg(arguments->list, size_t);
	case LENGTH_MAX: return va_arg(arguments->list, uintmax_t);
	case LENGTH_POINTER: return (uintmax_t)va_arg(arguments->list, ptrdiff_t);
	default: return va_arg(arguments->list, unsigned);
	}
}

// A width or precision: digits, or the next int argument for '*'. Bounded, so that no format can ask for long loops.
static size_t read_size(const char **format, struct arguments *arguments) {
	size_t value = 0;
	if (**format == '*') {
		++*format;
		int given = va_arg(arguments->list, int);
		value = given > 0 ? (size_t)given : 0;
		return value < 100000 ? value : 100000;
	}
	while (**format >= '0' && **format <= '9' && value < 100000)
		value = value * 10 + (size_t)(*(*format)++ - '0');
	return value;
}

static size_t bounded_length(const char *text, size_t maximum) {
	size_t length = 0;
	while (length < maximum && text[length] != '\0')
		length++;
	return length;
}

// One conversion, format pointing behind its '%'. False: not one of ours; its argument's type is unknown, so no further
// argument can be taken.
static bool convert(struct out *out, const char **format, struct arguments *arguments) {
	bool left = false;
	char fill = ' ';
	for (; **format == '-' || **format == '0'; ++*format) {
		left |= **format == '-';
		fill = **format == '0' ? '0' : fill;
	}
	if (left)
		fill = ' ';
	size_t width = read_size(format, arguments), precision = SIZE_MAX;
	if (**format == '.') {
		++*format;
		precision = read_size(format, arguments);
	}
	enum length length = read_length(format);
	char conversion = **format;
	switch (conversion) {
	case 'd':
	case 'i': {
		intmax_t value = take_signed(arguments, length);
		uintmax_t magnitude = value < 0 ? 0 - (uintmax_t)value : (uintmax_t)value;
		put_number(out, magnitude, value < 0, 10, false, width, fill, left);
		break;
	}
	case 'u': put_number(out, take_unsigned(arguments, length), false, 10, false, width, fill, left); break;
	case 'x':
	case 'X': put_number(out, take_unsigned(arguments, length), false, 16, conversion == 'X', width, fill, left); break;
	case 'p':
		put(out, '0');
		put(out, 'x');
		put_number(out, (uintptr_t)va_arg(arguments->list, void *), false, 16, false, 0, ' ', false);
		break;
	case 'c': {
		char character = (char)va_arg(arguments->list, int);
		put_field(out, &character, 1, width, ' ', left);
		break;
	}
	case 's': {
		const char *text = va_arg(arguments->list, const char *);
		if (text == NULL)
			text = "(null)";
		put_field(out, text, bounded_length(text, precision), width, ' ', left);
		break;
	}
	case '%': put(out, '%'); break;
	default: return false;
	}
	++*format;
	return true;
}

// NOLINTNEXTLINE(readability-non-const-parameter): it is written to through out
size_t softmig_format_list(char *buffer, size_t size, const char *format, va_list list) {
	if (size == 0)
		return 0;
	struct out out = {.buffer = buffer, .size = size - 1, .length = 0};
	struct arguments arguments;
	va_copy(arguments.list, list);
	while (*format != '\0') {
		if (*format != '%') {
			put(&out, *format++);
			continue;
		}
		format++;
		if (!convert(&out, &format, &arguments)) {
			put(&out, '%');
			put(&out, '?');
			break;
		}
	}
	va_end(arguments.list);
	out.buffer[out.length] = '\0';
	return out.length;
}

size_t softmig_format(char *buffer, size_t size, const char *format, ...) {
	va_list list;
	va_start(list, format);
	size_t length = softmig_format_list(buffer, size, format, list);
	va_end(list);
	return length;
}

bool softmig_parse_decimal(const char *text, size_t length, uint64_t maximum, uint64_t *value) {
	uint64_t result = 0;
	if (length == 0)
		return false;
	for (size_t i = 0; i < length; i++) {
		if (text[i] < '0' || text[i] > '9')
			return false;
		uint64_t digit = (uint64_t)(text[i] - '0');
		if (digit > maximum || result > (maximum - digit) / 10)
			return false;
		result = result * 10 + digit;
	}
	*value = result;
	return true;
}
