// SPDX-License-Identifier: Apache-2.0
// Sizes, percentages and UUIDs against a second reading of the same grammar, written with other means.
#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "fuzz.h"
#include "slice/job.h"
#include "slice/limits.h"

// A copy of exact size, so that a byte read too many is found.
static char *exact_copy(const uint8_t *data, size_t size) {
	char *copy = malloc(size > 0 ? size : 1);
	CHECK(copy != NULL);
	if (size > 0)
		memcpy(copy, data, size);
	return copy;
}

static int only_digits(const char *text) {
	return text[0] != '\0' && strspn(text, "0123456789") == strlen(text);
}

static void check_bytes(const char *data, size_t size) {
	static const char *const units[] = {"", "k", "kb", "kib", "m", "mb", "mib", "g", "gb", "gib", "t", "tb", "tib"};
	uint64_t bytes = 4711;
	int accepted = softmig_limits_parse_bytes(data, size, &bytes);
	char text[64] = "";
	int expected = 0;
	long double value = 0;
	if (size < sizeof(text) && memchr(data, '\0', size) == NULL) {
		memcpy(text, data, size);
		size_t digits = strspn(text, "0123456789");
		for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
			if (digits > 0 && strcasecmp(text + digits, units[i]) == 0) {
				value = 0;
				for (size_t j = 0; j < digits; j++)
					value = value * 10 + (text[j] - '0');
				for (size_t j = 0; j < (i + 2) / 3; j++)
					value *= 1024;
				expected = value >= 1 && value <= 9223372036854775807.0L;
			}
		}
		CHECK(accepted == expected);
	}
	CHECK(accepted ? bytes > 0 && bytes <= INT64_MAX : bytes == 4711);
	if (accepted && expected)
		CHECK((long double)bytes == value);
}

static void check_pct(const char *data, size_t size) {
	uint8_t pct = 47;
	char text[64] = "";
	int accepted = softmig_limits_parse_pct(data, size, &pct), expected = 0;
	if (size < sizeof(text) && memchr(data, '\0', size) == NULL) {
		memcpy(text, data, size);
		expected = only_digits(text) && strtoull(text, NULL, 10) <= 100;
		CHECK(accepted == expected);
	}
	CHECK(accepted ? pct >= 1 && pct <= 100 : pct == 47);
	if (accepted && expected)
		CHECK(pct == (strtoull(text, NULL, 10) == 0 ? 100 : strtoull(text, NULL, 10)));
}

static void check_uuid(const char *data, size_t size) {
	uint8_t uuid[16], untouched[16];
	memset(uuid, 0x5a, sizeof(uuid));
	memset(untouched, 0x5a, sizeof(untouched));
	if (!softmig_limits_parse_uuid(data, size, uuid)) {
		CHECK(memcmp(uuid, untouched, sizeof(uuid)) == 0);
		return;
	}
	char text[41];
	snprintf(text, sizeof(text), "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", uuid[0],
	         uuid[1], uuid[2], uuid[3], uuid[4], uuid[5], uuid[6], uuid[7], uuid[8], uuid[9], uuid[10], uuid[11],
	         uuid[12], uuid[13], uuid[14], uuid[15]);
	CHECK(size == 40 && strncasecmp(text, data, 40) == 0);
}

static void check_job(const char *data, size_t size) {
	uint64_t id = softmig_job_parse_id(data, size);
	char text[32];
	if (id == 0)
		return;
	int length = snprintf(text, sizeof(text), "%llu", (unsigned long long)id);
	CHECK(size >= (size_t)length && memcmp(data + size - length, text, (size_t)length) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	char *copy = exact_copy(data, size);
	check_bytes(copy, size);
	check_pct(copy, size);
	check_uuid(copy, size);
	check_job(copy, size);
	free(copy);
	return 0;
}
