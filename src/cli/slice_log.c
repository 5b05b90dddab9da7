// SPDX-License-Identifier: Apache-2.0
// See slice_log.h.
#include "cli/slice_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"

static bool is_roots_alone(int directory)
{
	struct stat status;
	return fstat(directory, &status) == 0 && status.st_uid == 0 && (status.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

static int give(int file, uid_t uid, gid_t gid)
{
	return fchown(file, uid, gid) == 0 && fchmod(file, 0600) == 0 ? 0 : errno;
}

int softmig_slice_log_make(const char *directory_path, uint64_t job, int64_t array_task, uid_t uid, gid_t gid)
{
	char name[64];
	struct stat status;
	int error = softmig_directory_make(directory_path, 0755);
	if (error)
		return error;
	int directory = open(directory_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return errno;
	if (array_task < 0)
		snprintf(name, sizeof name, "%" PRIu64 ".log", job);
	else
		snprintf(name, sizeof name, "%" PRIu64 "_%" PRId64 ".log", job, array_task);
	if (!is_roots_alone(directory))
		error = EPERM;
	else if (fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
	         (!S_ISREG(status.st_mode) || status.st_nlink != 1 || (status.st_uid != 0 && status.st_uid != uid)))
		error = unlinkat(directory, name, 0) == 0 ? 0 : errno;
	int file = error ? -1 : openat(directory, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (!error)
		error = file < 0 ? errno : give(file, uid, gid);
	if (file >= 0)
		close(file);
	close(directory);
	return error;
}

// Is it JOB.log or JOB_TASK.log?
static bool is_of(const char *name, uint64_t job)
{
	char start[32];
	size_t length = (size_t)snprintf(start, sizeof start, "%" PRIu64, job);
	if (strncmp(name, start, length) != 0)
		return false;
	name += length;
	if (*name == '_')
		name += 1 + strspn(name + 1, "0123456789");
	return strcmp(name, ".log") == 0;
}

void softmig_slice_log_tidy(const char *directory_path, uint64_t job)
{
	DIR *directory = opendir(directory_path);
	if (!directory)
		return;
	struct dirent *entry;
	struct stat status;
	while ((entry = readdir(directory)))
		if (is_of(entry->d_name, job) && fstatat(dirfd(directory), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
		    S_ISREG(status.st_mode) && status.st_size == 0)
			unlinkat(dirfd(directory), entry->d_name, 0);
	closedir(directory);
}
