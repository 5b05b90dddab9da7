// SPDX-License-Identifier: Apache-2.0
// How a test program reports: one line per check, which the caller (tests/gpu/harness.py, or a ctest by the exit status)
// turns into a table. Must never: stop at a failed check, so that one failure hides no other.
#ifndef SOFTMIG_TESTS_GPU_CHECK_H
#define SOFTMIG_TESTS_GPU_CHECK_H
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

static int check_failures;

// "@check <tab> name <tab> expected <tab> seen <tab> ok|FAIL". expected_seen is a format for "expected <tab> seen".
__attribute__((format(printf, 3, 4))) static inline bool check(bool ok, const char *name, const char *expected_seen, ...)
{
	char text[512];
	va_list arguments;
	va_start(arguments, expected_seen);
	vsnprintf(text, sizeof text, expected_seen, arguments);
	va_end(arguments);
	printf("@check\t%s\t%s\t%s\n", name, text, ok ? "ok" : "FAIL");
	fflush(stdout);
	check_failures += !ok;
	return ok;
}

static inline bool check_number(const char *name, unsigned long long expected, unsigned long long seen)
{
	return check(expected == seen, name, "%llu\t%llu", expected, seen);
}

static inline bool check_true(bool ok, const char *name)
{
	return check(ok, name, "yes\t%s", ok ? "yes" : "no");
}

// The check cannot be made here; says why.
static inline void check_skip(const char *name, const char *why)
{
	printf("@check\t%s\t\t%s\tskip\n", name, why);
}
#endif
