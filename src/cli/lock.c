// SPDX-License-Identifier: Apache-2.0
// See lock.h.
#include "cli/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static bool wait_for(int lock)
{
	while (flock(lock, LOCK_EX) != 0)
		if (errno != EINTR)
			return false;
	return true;
}

// Is the file that we have locked still the one of that name? Who had it before us has removed it.
static bool is_current(int directory, const char *name, int lock)
{
	struct stat ours, named;
	return fstat(lock, &ours) == 0 && fstatat(directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 && ours.st_dev == named.st_dev &&
	       ours.st_ino == named.st_ino;
}

static bool is_ours_alone(int lock)
{
	struct stat status;
	return fstat(lock, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 077) == 0;
}

int softmig_lock_take(int directory, const char *name)
{
	for (;;) {
		int lock = openat(directory, name, O_RDONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
		if (lock < 0)
			return -1;
		bool ours = is_ours_alone(lock), locked = ours && wait_for(lock);
		if (locked && is_current(directory, name, lock))
			return lock;
		int error = ours ? errno : EPERM;
		close(lock);
		if (!locked) {
			errno = error;
			return -1;
		}
	}
}

void softmig_lock_give_back(int directory, const char *name, int lock)
{
	unlinkat(directory, name, 0);
	close(lock);
}
