// SPDX-License-Identifier: Apache-2.0
// See slice_log.h.
#include "cli/slice_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
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

int softmig_slice_log_make(const char *directory_path, uint64_t job, uid_t uid, gid_t gid)
{
	char name[32];
	struct stat status;
	int error = softmig_directory_make(directory_path, 0755);
	if (error)
		return error;
	int directory = open(directory_path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (directory < 0)
		return errno;
	snprintf(name, sizeof name, "%" PRIu64 ".log", job);
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
