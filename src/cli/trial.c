// SPDX-License-Identifier: Apache-2.0
// See trial.h.
#include "cli/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 10000, NOBODY = 65534 };

enum condition { PLAIN, CLOSED_DESCRIPTORS, AS_NOBODY, FEW_DESCRIPTORS };

static const struct trial {
	const char *what;
	enum condition condition;
	const char *command[4];
	const char *output; // NULL: the memory map, which must name the library
} trials[] = {
	{ "/bin/true", PLAIN, { "/bin/true" }, "" },
	{ "a shell", PLAIN, { "/bin/sh", "-c", "echo one; echo two | cat" }, "one\ntwo\n" },
	{ "a program that lists its libraries", PLAIN, { "/bin/cat", "/proc/self/maps" }, NULL },
	{ "a shell with descriptors 0 to 2 closed", CLOSED_DESCRIPTORS, { "/bin/sh", "-c", "/bin/true" }, "" },
	{ "a shell of user nobody", AS_NOBODY, { "/bin/sh", "-c", "/bin/true; echo done" }, "done\n" },
	{ "a program of user nobody that lists its libraries", AS_NOBODY, { "/bin/cat", "/proc/self/maps" }, NULL },
	{ "a program with 4 descriptors at most", FEW_DESCRIPTORS, { "/bin/true" }, "" },
};

struct outcome {
	int status;
	bool late;
	char output[65536];
	char errors[1024];
};

static void become(const struct trial *trial, const char *library, const int output[2], const int errors[2])
{
	char preload[PATH_MAX + 16];
	char *environment[] = { (char[]){ "PATH=/usr/bin:/bin" }, (char[]){ "LC_ALL=C" }, library ? preload : NULL, NULL };
	if (library)
		snprintf(preload, sizeof preload, "LD_PRELOAD=%s", library);
	int nothing = open("/dev/null", O_RDONLY);
	if (dup2(nothing, 0) < 0 || dup2(output[1], 1) < 0 || dup2(errors[1], 2) < 0 || chdir("/") != 0)
		_exit(120);
	for (int descriptor = 3; descriptor < 64; descriptor++)
		close(descriptor);
	if (trial->condition == CLOSED_DESCRIPTORS)
		for (int descriptor = 0; descriptor < 3; descriptor++)
			close(descriptor);
	if (trial->condition == FEW_DESCRIPTORS && setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 4, 4 }) != 0)
		_exit(121);
	if (trial->condition == AS_NOBODY && geteuid() == 0 &&
	    (setgroups(0, NULL) != 0 || setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
		_exit(122);
	execve(trial->command[0], (char *const *)(uintptr_t)trial->command, environment);
	_exit(123);
}

static long long now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000ll + now.tv_nsec / 1000000;
}

// Appends what is there to read; false at the end.
static bool collect(int descriptor, char *text, size_t size)
{
	char spill[4096];
	size_t used = strlen(text);
	bool full = used + 1 >= size;
	ssize_t count = read(descriptor, full ? spill : text + used, full ? sizeof spill : size - 1 - used);
	if (count > 0 && !full)
		text[used + (size_t)count] = '\0';
	return count > 0 || (count < 0 && errno == EINTR);
}

static bool execute(const struct trial *trial, const char *library, struct outcome *outcome)
{
	int output[2], errors[2];
	*outcome = (struct outcome){ 0 };
	if (pipe2(output, O_CLOEXEC) != 0)
		return false;
	if (pipe2(errors, O_CLOEXEC) != 0) {
		close(output[0]);
		close(output[1]);
		return false;
	}
	pid_t pid = fork();
	if (pid == 0)
		become(trial, library, output, errors);
	close(output[1]);
	close(errors[1]);
	struct pollfd ends[2] = { { .fd = output[0], .events = POLLIN }, { .fd = errors[0], .events = POLLIN } };
	long long deadline = now_ms() + PATIENCE_MS;
	while (pid > 0 && (ends[0].fd >= 0 || ends[1].fd >= 0) && !outcome->late) {
		long long left = deadline - now_ms();
		outcome->late = left <= 0 || poll(ends, 2, (int)left) == 0;
		if (!outcome->late && ends[0].revents && !collect(output[0], outcome->output, sizeof outcome->output))
			ends[0].fd = -1;
		if (!outcome->late && ends[1].revents && !collect(errors[0], outcome->errors, sizeof outcome->errors))
			ends[1].fd = -1;
	}
	while (pid > 0 && !outcome->late && waitpid(pid, &outcome->status, WNOHANG) == 0) {
		poll(NULL, 0, 1);
		outcome->late = now_ms() > deadline;
	}
	if (outcome->late) {
		kill(pid, SIGKILL);
		waitpid(pid, &outcome->status, 0);
	}
	close(output[0]);
	close(errors[0]);
	return pid > 0;
}

// Also the name a library is mapped by after its file was renamed away counts.
static bool maps_name(const char *maps, const char *library)
{
	char real[PATH_MAX];
	return strstr(maps, realpath(library, real) ? real : library) != NULL;
}

static bool judge(const struct trial *trial, const char *library, struct outcome *outcome, char *why, size_t why_size)
{
	outcome->errors[strcspn(outcome->errors, "\n")] = '\0';
	if (outcome->late)
		snprintf(why, why_size, "%s did not end within %d s", trial->what, PATIENCE_MS / 1000);
	else if (WIFSIGNALED(outcome->status))
		snprintf(why, why_size, "%s was killed by signal %d", trial->what, WTERMSIG(outcome->status));
	else if (*outcome->errors)
		snprintf(why, why_size, "%s said: %s", trial->what, outcome->errors);
	else if (WEXITSTATUS(outcome->status) != 0)
		snprintf(why, why_size, "%s ended with status %d", trial->what, WEXITSTATUS(outcome->status));
	else if (trial->output && strcmp(outcome->output, trial->output) != 0)
		snprintf(why, why_size, "%s wrote something else than it should", trial->what);
	else if (!trial->output && library && !maps_name(outcome->output, library))
		snprintf(why, why_size, "the library was not loaded into %s", trial->what);
	else
		return true;
	return false;
}

bool softmig_trial(const char *library, bool everybody, char *why, size_t why_size)
{
	struct outcome *outcome = malloc(sizeof *outcome);
	bool good = outcome != NULL;
	if (!good)
		snprintf(why, why_size, "memory is short");
	for (size_t i = 0; good && i < sizeof trials / sizeof trials[0]; i++) {
		if (trials[i].condition == AS_NOBODY && !everybody)
			continue;
		good = execute(&trials[i], library, outcome);
		if (!good)
			snprintf(why, why_size, "%s could not be started: %s", trials[i].what, strerror(errno));
		else
			good = judge(&trials[i], library, outcome, why, why_size);
	}
	free(outcome);
	return good;
}
