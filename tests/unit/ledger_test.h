// SPDX-License-Identifier: Apache-2.0
// What the ledger's tests share: a scratch directory, child processes that answer in their exit status, a pipe to wait at.
#ifndef LEDGER_TEST_H
#define LEDGER_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "slice/ledger.h"

#define MIB (1024ull * 1024)
#define GIB (1024ull * MIB)

static char directory[64];
static char path[128];

static inline int make_directory(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/softmig-ledger.XXXXXX");
	if (mkdtemp(directory) == NULL)
		return -1;
	snprintf(path, sizeof path, "%s/ledger", directory);
	return 0;
}

static inline int remove_directory(void **state)
{
	(void)state;
	char command[128];
	snprintf(command, sizeof command, "rm -rf '%s'", directory);
	return system(command);
}

static inline struct softmig_ledger open_ledger(void)
{
	struct softmig_ledger ledger;
	assert_int_equal(softmig_ledger_open(&ledger, path, geteuid(), true), 0);
	return ledger;
}

// The child's exit status; -signal when it was killed.
static inline int wait_for(pid_t pid)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Sum of the owned slots' raw figures, without looking for the dead: what an outsider sees in the file.
static inline uint64_t raw_sum(const struct softmig_ledger_file *file, int gpu)
{
	uint64_t sum = 0;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS; i++)
		if (softmig_ledger_slot_pid(&file->slot[i]) != 0)
			sum += atomic_load(&file->slot[i].use[gpu].tracked_bytes) + atomic_load(&file->slot[i].use[gpu].overhead_bytes);
	return sum;
}

static inline int owned_slots(const struct softmig_ledger_file *file)
{
	int count = 0;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS; i++)
		count += softmig_ledger_slot_pid(&file->slot[i]) != 0;
	return count;
}
#endif
