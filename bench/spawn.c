// SPDX-License-Identifier: Apache-2.0
// What starting a process costs with the library and without: spawn COUNT LIBRARY COMMAND... starts COMMAND by turns without
// and with LD_PRELOAD=LIBRARY, COUNT times each, and prints the medians: "plain <tab> ns", "preloaded <tab> ns", and the
// median of the differences within each pair.
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double one(char **command, char **environment)
{
	pid_t pid;
	int status = 0;
	double start = now_ns();
	if (posix_spawn(&pid, command[0], NULL, NULL, command, environment) != 0 || waitpid(pid, &status, 0) != pid || status != 0) {
		fprintf(stderr, "spawn: %s failed\n", command[0]);
		exit(1);
	}
	return now_ns() - start;
}

static double median(double *values, size_t count)
{
	qsort(values, count, sizeof *values, by_value);
	return values[count / 2];
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return fputs("usage: spawn COUNT LIBRARY COMMAND...\n", stderr), 2;
	size_t count = strtoull(argv[1], NULL, 10);
	double *plain = calloc(count, sizeof *plain), *preloaded = calloc(count, sizeof *preloaded), *more = calloc(count, sizeof *more);
	static char preload[4200];
	char *with[] = { preload, (char *)"PATH=/usr/bin:/bin", NULL }, *without[] = { (char *)"SOME_NAME=of-about-the-same-length-of-text", (char *)"PATH=/usr/bin:/bin", NULL };
	snprintf(preload, sizeof preload, "LD_PRELOAD=%s", argv[2]);
	for (int warm = 0; warm < 10; warm++)
		one(argv + 3, warm % 2 ? with : without);
	for (size_t i = 0; i < count; i++) {
		if (i % 2 == 0) // who goes first changes, so that neither always follows the other
			plain[i] = one(argv + 3, without);
		preloaded[i] = one(argv + 3, with);
		if (i % 2 == 1)
			plain[i] = one(argv + 3, without);
		more[i] = preloaded[i] - plain[i];
	}
	printf("plain\t%.0f\npreloaded\t%.0f\nmore\t%.0f\n", median(plain, count), median(preloaded, count), median(more, count));
	return 0;
}
