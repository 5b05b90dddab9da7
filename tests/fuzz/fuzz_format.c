// SPDX-License-Identifier: Apache-2.0
// The formatter against libc's: the input chooses conversions, widths and values, and both must say the same.
#include <string.h>

#include "fuzz.h"
#include "fuzz_input.h"
#include "slice/format.h"

#pragma clang diagnostic ignored "-Wformat-nonliteral"
#pragma clang diagnostic ignored "-Wformat-security"

static uint64_t next_number(void) {
	uint64_t number = 0;
	for (unsigned i = next() % 9; i > 0; i--)
		number = number << 8 | next();
	return next() % 2 == 0 ? number : ~number;
}

#define SAME(...)                                                                                                      \
	do {                                                                                                               \
		size_t length = softmig_format(ours, room, __VA_ARGS__);                                                       \
		int whole = snprintf(libc, room, __VA_ARGS__);                                                                 \
		CHECK(whole >= 0 && strcmp(ours, libc) == 0);                                                                  \
		CHECK(length == ((size_t)whole < room ? (size_t)whole : room - 1));                                            \
		CHECK(guard[room] == 0x5a);                                                                                    \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	input = data;
	left = size;
	while (left > 0) {
		char guard[301], libc[300], format[64], flags[8] = "", width[24] = "", text[64];
		char *ours = guard;
		size_t room = 1 + next() % 300;
		memset(guard, 0x5a, sizeof(guard));
		unsigned choice = next();
		if (choice & 1)
			strcat(flags, "-");
		else if (choice & 2)
			strcat(flags, "0");
		if (choice & 4)
			snprintf(width, sizeof(width), "%u", next() % 40 + 1);
		for (size_t i = 0; i < sizeof(text); i++)
			text[i] = (char)(next() % 26 + 'a');
		text[next() % sizeof(text)] = '\0';
		text[sizeof(text) - 1] = '\0';
		uint64_t number = next_number();
		switch (next() % 8) {
		case 0:
			snprintf(format, sizeof(format), "a%%%s%sd|%%s", flags, width);
			SAME(format, (int)number, text);
			break;
		case 1:
			snprintf(format, sizeof(format), "%%%s%slld|%%u", flags, width);
			SAME(format, (long long)number, (unsigned)number);
			break;
		case 2:
			snprintf(format, sizeof(format), "%%%s%slx|%%c", flags, width);
			SAME(format, (unsigned long)number, text[0]);
			break;
		case 3:
			snprintf(format, sizeof(format), "%%%s%szu|%%%%", flags, width);
			SAME(format, (size_t)number);
			break;
		case 4:
			snprintf(format, sizeof(format), "%%%s%ss|%%.*s", strcmp(flags, "-") == 0 ? flags : "", width);
			SAME(format, text, (int)(number % 70), text);
			break;
		case 5:
			snprintf(format, sizeof(format), "%%%s%shhd|%%hu", flags, width);
			SAME(format, (signed char)number, (unsigned short)number);
			break;
		case 6:
			snprintf(format, sizeof(format), "%%%s%sX|%%5.3s", flags, width);
			SAME(format, (unsigned)number, text);
			break;
		default: SAME("%s|%jd|%i", text, (intmax_t)number, (int)number); break;
		}
	}
	// Any text as a format without arguments to take: it ends, and within the buffer.
	char buffer[64], any[256];
	size_t length = size < sizeof(any) ? size : sizeof(any) - 1, kept = 0;
	for (size_t i = 0; i < length; i++) {
		if (strchr("sdiuxXpc*", data[i]) == NULL) // these would take one
			any[kept++] = (char)data[i];
	}
	any[kept] = '\0';
	CHECK(softmig_format(buffer, sizeof(buffer), any) == strlen(buffer));
	return 0;
}
