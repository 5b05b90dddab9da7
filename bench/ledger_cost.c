// SPDX-License-Identifier: Apache-2.0
// What the ledger costs, in ns: reserve and release together, used, a refusal, and the first claim, with 1, 8 and 64 slots in use.
// The medians of many short rounds, so that a busy machine matters little. Makes a scratch ledger in /dev/shm or /tmp.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "slice/ledger.h"

#define ROUNDS 201

static double now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

static const uint64_t mib = 1 << 20, limit = 4096ull << 20;

static void reserve_release(struct softmig_ledger *ledger)
{
	softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, mib, limit);
	softmig_ledger_release(ledger, 0, SOFTMIG_LEDGER_TRACKED, mib);
}

static void ask_used(struct softmig_ledger *ledger)
{
	softmig_ledger_used(ledger, 0);
}

static void be_refused(struct softmig_ledger *ledger)
{
	softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, limit + 1, limit);
}

static double median_ns(struct softmig_ledger *ledger, void (*operation)(struct softmig_ledger *), int count)
{
	double rounds[ROUNDS];
	for (int round = 0; round < ROUNDS; round++) {
		double before = now_ns();
		for (int i = 0; i < count; i++)
			operation(ledger);
		rounds[round] = (now_ns() - before) / count;
	}
	qsort(rounds, ROUNDS, sizeof rounds[0], by_value);
	return rounds[ROUNDS / 2];
}

static pid_t start_neighbour(struct softmig_ledger *ledger)
{
	int ready[2];
	char byte;
	if (pipe(ready) != 0)
		exit(1);
	pid_t pid = fork();
	if (pid == 0) {
		softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, mib, limit);
		(void)!write(ready[1], "x", 1);
		alarm(120);
		for (;;)
			pause();
	}
	(void)!read(ready[0], &byte, 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

int main(void)
{
	static const int sizes[] = {1, 8, 64};
	char path[64];
	pid_t neighbours[64];
	struct softmig_ledger ledger;
	int started = 0;
	snprintf(path, sizeof path, "%s/softmig-ledger-cost.%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
	int error = softmig_ledger_open(&ledger, path, geteuid(), true);
	if (error != 0) {
		fprintf(stderr, "ledger_cost: no ledger at %s: %s\n", path, strerror(error));
		return 1;
	}
	double before = now_ns();
	softmig_ledger_self(&ledger);
	printf("first claim            %8.0f ns\n", now_ns() - before);
	for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
		while (started < sizes[i] - 1)
			neighbours[started++] = start_neighbour(&ledger);
		printf("%2d slots: reserve+release %6.1f ns, used %6.1f ns, refusal %8.0f ns\n", sizes[i],
		       median_ns(&ledger, reserve_release, 2000), median_ns(&ledger, ask_used, 2000), median_ns(&ledger, be_refused, 5));
	}
	for (int i = 0; i < started; i++) {
		kill(neighbours[i], SIGKILL);
		waitpid(neighbours[i], NULL, 0);
	}
	unlink(path);
	return 0;
}
