// SPDX-License-Identifier: Apache-2.0
// See run_directory.h. The command is executed in softmig's own process, so that its pid, its parent, its terminal, its
// signals and its exit status are untouched by us; hence somebody else has to tidy up: a small keeper, detached from the
// command, which waits for it to end. It holds a lock on the directory: a directory without a lock and without a process
// that names it is a leftover (the keeper was killed, the machine lost power).
#include "cli/run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "slice/job.h"

#define PREFIX "softmig-run."
enum { POLL_OLD_KERNEL_MS = 200, POLL_DESCENDANTS_MS = 1000 };

// A directory of this user's, and nobody else can put names into it.
static bool is_private(const struct stat *status)
{
	return S_ISDIR(status->st_mode) && status->st_uid == geteuid() && (status->st_mode & 077) == 0;
}

// Where runs of this user live. Regular /tmp is not for jobs: their private place goes away with them. NULL: a job without one.
static const char *base_directory(void)
{
	bool in_job = softmig_job_find(0, true).source != SOFTMIG_JOB_NONE;
	const char *job = getenv("SLURM_TMPDIR");
	if (in_job && job && *job == '/')
		return job;
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	struct stat status;
	if (runtime && *runtime == '/' && stat(runtime, &status) == 0 && is_private(&status))
		return runtime;
	return in_job ? NULL : "/tmp";
}

// Does the environment of process pid name the directory? A process that may not be looked at is not this user's.
static bool process_names(const char *pid, const char *path)
{
	char name[300];
	snprintf(name, sizeof name, "/proc/%s/environ", pid);
	FILE *file = fopen(name, "re");
	if (!file)
		return false;
	char *entry = NULL;
	size_t size = 0;
	size_t length = strlen(path);
	bool found = false;
	while (!found && getdelim(&entry, &size, '\0', file) > 0) {
		const char *value = strchr(entry, '=');
		found = value && strncmp(value + 1, path, length) == 0 && (value[1 + length] == '/' || value[1 + length] == '\0');
	}
	free(entry);
	fclose(file);
	return found;
}

static bool in_use(const char *path)
{
	DIR *processes = opendir("/proc");
	if (!processes)
		return true; // nothing can be said, so nothing is removed
	bool used = false;
	for (struct dirent *entry; !used && (entry = readdir(processes));)
		used = *entry->d_name >= '1' && *entry->d_name <= '9' && process_names(entry->d_name, path);
	closedir(processes);
	return used;
}

// Removes the files in it, then the directory. No subdirectory is ever made there, so none is removed.
static void remove_directory(int descriptor, const char *path)
{
	int copy = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *files = copy < 0 ? NULL : fdopendir(copy);
	if (!files) {
		if (copy >= 0)
			close(copy);
		return;
	}
	for (struct dirent *entry; (entry = readdir(files));)
		unlinkat(descriptor, entry->d_name, 0);
	closedir(files);
	rmdir(path);
}

static void remove_if_stale(int base, const char *base_path, const char *name)
{
	int descriptor = openat(base, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (descriptor < 0)
		return;
	char path[PATH_MAX];
	struct stat status;
	if (fstat(descriptor, &status) == 0 && is_private(&status) && flock(descriptor, LOCK_EX | LOCK_NB) == 0 &&
	    snprintf(path, sizeof path, "%s/%s", base_path, name) < (int)sizeof path && !in_use(path))
		remove_directory(descriptor, path);
	close(descriptor);
}

static void remove_stale(const char *base_path)
{
	DIR *base = opendir(base_path);
	if (!base)
		return;
	for (struct dirent *entry; (entry = readdir(base));)
		if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
			remove_if_stale(dirfd(base), base_path, entry->d_name);
	closedir(base);
}

// One attempt: 0; EAGAIN when another run's tidying took the new directory before it was locked.
static int make_once(struct softmig_run_directory *directory, const char *base)
{
	if (snprintf(directory->path, sizeof directory->path, "%s/" PREFIX "XXXXXX", base) >= (int)sizeof directory->path)
		return ENAMETOOLONG;
	if (!mkdtemp(directory->path)) {
		int error = errno;
		snprintf(directory->path, sizeof directory->path, "%s", base);
		return error;
	}
	directory->lock = open(directory->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory->lock < 0)
		return errno == ENOENT ? EAGAIN : errno;
	struct stat status;
	if (flock(directory->lock, LOCK_EX | LOCK_NB) == 0 && fstat(directory->lock, &status) == 0 && status.st_nlink > 0 &&
	    access(directory->path, F_OK) == 0)
		return 0;
	close(directory->lock);
	return EAGAIN;
}

int softmig_run_directory_make(struct softmig_run_directory *directory)
{
	const char *base = base_directory();
	directory->path[0] = '\0';
	if (!base)
		return ENOENT;
	remove_stale(base);
	int error = EAGAIN;
	for (int i = 0; error == EAGAIN && i < 10; i++)
		error = make_once(directory, base);
	return error;
}

void softmig_run_directory_remove(const struct softmig_run_directory *directory)
{
	remove_directory(directory->lock, directory->path);
	close(directory->lock);
}

// A pidfd where the kernel has them (5.3); -1: the keeper asks now and then instead.
static int process_descriptor(pid_t pid)
{
#ifdef SYS_pidfd_open
	return (int)syscall(SYS_pidfd_open, pid, 0);
#else
	(void)pid;
	errno = ENOSYS;
	return -1;
#endif
}

// Everything the caller may wait on (a pipe's end, a terminal) is let go; only the lock and the pidfd stay.
static void let_go(int lock, int process)
{
	DIR *own = opendir("/proc/self/fd");
	for (struct dirent *entry; own && (entry = readdir(own));) {
		int descriptor = (int)strtol(entry->d_name, NULL, 10);
		if (*entry->d_name != '.' && descriptor != lock && descriptor != process && descriptor != dirfd(own))
			close(descriptor);
	}
	if (own)
		closedir(own);
	for (int descriptor = 0; descriptor >= 0 && descriptor < STDERR_FILENO;) // 0 to 2 lead nowhere
		descriptor = open("/dev/null", O_RDWR | O_CLOEXEC);
}

static void keep(const struct softmig_run_directory *directory, pid_t command, int process)
{
	setsid();
	prctl(PR_SET_NAME, "softmig-keeper");
	if (chdir("/") != 0) // so that no mount stays busy because of the keeper
		_exit(1);
	let_go(directory->lock, process);
	struct pollfd ended = { .fd = process, .events = POLLIN };
	if (process >= 0)
		while (poll(&ended, 1, -1) < 0 && errno == EINTR)
			continue;
	else
		while (kill(command, 0) == 0 || errno == EPERM)
			poll(NULL, 0, POLL_OLD_KERNEL_MS);
	// What the command left running in the background is in the slice as well.
	while (access("/proc/self", F_OK) == 0 && in_use(directory->path))
		poll(NULL, 0, POLL_DESCENDANTS_MS);
	remove_directory(directory->lock, directory->path);
	_exit(0);
}

int softmig_run_directory_leave(const struct softmig_run_directory *directory)
{
	pid_t command = getpid();
	int process = process_descriptor(command);
	pid_t middle = fork();
	if (middle < 0)
		return errno;
	if (middle == 0) { // the one between makes the keeper nobody's child: the command must not find it by wait()
		pid_t keeper = fork();
		if (keeper == 0)
			keep(directory, command, process);
		_exit(keeper < 0 ? errno : 0);
	}
	int status = 0;
	while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
		continue;
	if (process >= 0)
		close(process);
	return WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
}
