// SPDX-License-Identifier: Apache-2.0
// Stands in the place of a program of aarch64 and runs it under qemu-aarch64, so that tests written for this machine run there
// unchanged. It is static: what the tests preload is for the emulated program alone.
// The program is $SOFTMIG_AARCH64/programs/NAME, NAME being the one that this is called by.
#define _GNU_SOURCE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OWN_ARGUMENTS = 16 };

// The variable goes to the emulated program, not to the emulator.
static char **hand_over(char **next, const char *name)
{
	const char *value = getenv(name);
	char *assignment;
	if (value == NULL || asprintf(&assignment, "%s=%s", name, value) < 0)
		return next;
	unsetenv(name);
	*next++ = (char *)"-E";
	*next++ = assignment;
	return next;
}

int main(int argc, char **argv)
{
	char self[PATH_MAX] = "", program[2 * PATH_MAX];
	const char *build = getenv("SOFTMIG_AARCH64");
	char **arguments = calloc((size_t)argc + OWN_ARGUMENTS, sizeof(*arguments)), **next = arguments;
	if (build == NULL || arguments == NULL || readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 126;
	snprintf(program, sizeof(program), "%s/programs/%s", build, strrchr(self, '/') + 1);
	const char *const emulator[] = { "qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-0", argv[0] };
	for (size_t i = 0; i < sizeof(emulator) / sizeof(*emulator); i++)
		*next++ = (char *)emulator[i];
	next = hand_over(next, "LD_PRELOAD");
	next = hand_over(next, "LD_LIBRARY_PATH");
	*next++ = program;
	memcpy(next, argv + 1, ((size_t)argc - 1) * sizeof(*argv));
	execvp(arguments[0], arguments);
	return 127;
}
