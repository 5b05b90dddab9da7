// SPDX-License-Identifier: Apache-2.0
// The limit file on disk: finding it, and every reason not to believe it. See limits.h. Everything is judged by fstat
// of the descriptor that is then used, so nothing can be exchanged between the look and the use.
#include "slice/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "slice/format.h"
#include "slice/limits_parser.h"
#include "slice/owner.h"
#include "slice/sys.h"

static const char *reason(int number) {
	switch (number) {
	case EACCES: return "permission denied";
	case EPERM: return "not permitted";
	case EMFILE:
	case ENFILE: return "too many open files";
	case ENAMETOOLONG: return "the name is too long";
	case ENXIO:
	case ENODEV: return "it is a device or socket";
	case EIO: return "input/output error";
	default: return "unexpected error";
	}
}

// Opens the directory for look-ups. Returns the descriptor, or -1 with *status ABSENT or BAD.
static int open_directory(const char *path, uid_t owner, struct softmig_limits_error *error,
                          enum softmig_limits_status *status) {
	*status = SOFTMIG_LIMITS_BAD;
	// Without O_DIRECTORY, so that a link is opened as such and named as the fault.
	int descriptor = softmig_sys_open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	if (descriptor < 0) {
		if (errno == ENOENT)
			*status = SOFTMIG_LIMITS_ABSENT;
		else
			softmig_limits_refuse(error, 0, "its directory cannot be opened: %s", reason(errno));
		return -1;
	}
	struct stat status_of;
	if (softmig_sys_fstat(descriptor, &status_of) != 0)
		softmig_limits_refuse(error, 0, "its directory cannot be examined: %s", reason(errno));
	else if (S_ISLNK(status_of.st_mode))
		softmig_limits_refuse(error, 0, "its directory is a symbolic link");
	else if (!S_ISDIR(status_of.st_mode))
		softmig_limits_refuse(error, 0, "its directory is not a directory");
	else if (status_of.st_uid != owner)
		softmig_limits_refuse(error, 0, "its directory belongs to uid %u, not to %u", status_of.st_uid, owner);
	else if ((status_of.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		softmig_limits_refuse(error, 0, "its directory may be written by group or others (mode %x%x%x)",
		                      status_of.st_mode >> 6 & 7, status_of.st_mode >> 3 & 7, status_of.st_mode & 7);
	else
		return descriptor;
	softmig_sys_close(descriptor);
	return -1;
}

static enum softmig_limits_status check_file(const struct stat *file, uid_t owner, struct softmig_limits_error *error) {
	if (!S_ISREG(file->st_mode))
		return softmig_limits_refuse(error, 0, "is not a regular file");
	if (file->st_uid != owner)
		return softmig_limits_refuse(error, 0, "belongs to uid %u, not to %u", file->st_uid, owner);
	if ((file->st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return softmig_limits_refuse(error, 0, "may be written by group or others (mode %x%x%x)",
		                             file->st_mode >> 6 & 7, file->st_mode >> 3 & 7, file->st_mode & 7);
	if (file->st_size > SOFTMIG_LIMITS_FILE_BYTES)
		return softmig_limits_refuse(error, 0, "is larger than %d KiB", SOFTMIG_LIMITS_FILE_BYTES / 1024);
	return SOFTMIG_LIMITS_OK;
}

static enum softmig_limits_status read_file(int descriptor, uid_t owner, struct softmig_limits *limits,
                                            struct softmig_limits_error *error) {
	struct stat file;
	if (softmig_sys_fstat(descriptor, &file) != 0)
		return softmig_limits_refuse(error, 0, "cannot be examined: %s", reason(errno));
	if (check_file(&file, owner, error) != SOFTMIG_LIMITS_OK)
		return SOFTMIG_LIMITS_BAD;
	struct softmig_limits_parser parser;
	softmig_limits_parser_begin(&parser, limits, error);
	char buffer[2048];
	ssize_t got;
	do {
		got = softmig_sys_read(descriptor, buffer, sizeof(buffer));
		if (got > 0 && !softmig_limits_parser_feed(&parser, buffer, (size_t)got))
			break;
	} while (got > 0 || (got < 0 && errno == EINTR));
	int read_errno = errno;
	enum softmig_limits_status status = softmig_limits_parser_end(&parser);
	if (got < 0) {
		softmig_limits_init(limits);
		return softmig_limits_refuse(error, 0, "cannot be read: %s", reason(read_errno));
	}
	return status;
}

static enum softmig_limits_status load_at(int directory, const char *name, uid_t owner, struct softmig_limits *limits,
                                          struct softmig_limits_error *error) {
	// O_NONBLOCK: a FIFO must not stop the program. O_NOFOLLOW: a link is refused, not obeyed.
	int descriptor = softmig_sys_openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (descriptor < 0 && errno == ENOENT)
		return SOFTMIG_LIMITS_ABSENT;
	if (descriptor < 0 && errno == ELOOP)
		return softmig_limits_refuse(error, 0, "is a symbolic link");
	if (descriptor < 0)
		return softmig_limits_refuse(error, 0, "cannot be opened: %s", reason(errno));
	enum softmig_limits_status status = read_file(descriptor, owner, limits, error);
	softmig_sys_close(descriptor);
	return status;
}

// As the kernel writes it; glibc's wrapper is newer than the symbols that may be used.
struct entry {
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

// Is name "{job}_{digits}.conf"?
static bool is_array_name(const char *name, const char *prefix) {
	size_t length = strlen(name), prefix_length = strlen(prefix), ending = sizeof(".conf") - 1;
	if (length <= prefix_length + ending || memcmp(name, prefix, prefix_length) != 0 ||
	    memcmp(name + length - ending, ".conf", ending) != 0)
		return false;
	for (size_t i = prefix_length; i < length - ending; i++) {
		if (name[i] < '0' || name[i] > '9')
			return false;
	}
	return true;
}

// Looks for the one {job}_{digits}.conf. Slurm's raw job id is an array element's own, so whatever digits follow it,
// the file is this job's; no variable is needed to find it.
static enum softmig_limits_status find_array_name(int directory, uint64_t job, char name[NAME_MAX + 1],
                                                  struct softmig_limits_error *error) {
	char prefix[24];
	softmig_format(prefix, sizeof(prefix), "%llu_", (unsigned long long)job);
	// The first descriptor only names the directory; this one can be read.
	int descriptor = softmig_sys_openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (descriptor < 0)
		return softmig_limits_refuse(error, 0, "its directory cannot be listed: %s", reason(errno));
	_Alignas(struct entry) char buffer[4096];
	enum softmig_limits_status status = SOFTMIG_LIMITS_ABSENT;
	long got;
	while (status != SOFTMIG_LIMITS_BAD && (got = syscall(SYS_getdents64, descriptor, buffer, sizeof(buffer))) != 0) {
		if (got < 0) {
			status = softmig_limits_refuse(error, 0, "its directory cannot be listed: %s", reason(errno));
			break;
		}
		for (long at = 0; at < got && status != SOFTMIG_LIMITS_BAD;) {
			const struct entry *entry = (const struct entry *)(buffer + at);
			at += entry->length;
			if (!is_array_name(entry->name, prefix))
				continue;
			if (status == SOFTMIG_LIMITS_OK && strcmp(entry->name, name) != 0) {
				status = softmig_limits_refuse(error, 0, "has a rival, %s: one job has one limit file", entry->name);
				break;
			}
			softmig_format(name, NAME_MAX + 1, "%s", entry->name);
			status = SOFTMIG_LIMITS_OK;
		}
	}
	softmig_sys_close(descriptor);
	return status;
}

static void tell_path(char *path, size_t path_size, const char *directory, const char *name) {
	if (path != NULL)
		softmig_format(path, path_size, "%s/%s", directory, name);
}

enum softmig_limits_status softmig_limits_load(const char *state_dir, uint64_t job, uid_t owner_uid,
                                               struct softmig_limits *limits, struct softmig_limits_error *error,
                                               char *path, size_t path_size) {
	int saved_errno = errno;
	char name[NAME_MAX + 1];
	enum softmig_limits_status status;
	softmig_limits_init(limits);
	if (job == 0)
		return SOFTMIG_LIMITS_ABSENT;
	softmig_format(name, sizeof(name), "%llu.conf", (unsigned long long)job);
	tell_path(path, path_size, state_dir, name);
	uid_t owner = softmig_owner_here(owner_uid);
	int directory = open_directory(state_dir, owner, error, &status);
	if (directory >= 0) {
		status = load_at(directory, name, owner, limits, error);
		if (status == SOFTMIG_LIMITS_ABSENT) {
			status = find_array_name(directory, job, name, error);
			if (status != SOFTMIG_LIMITS_ABSENT)
				tell_path(path, path_size, state_dir, name);
			if (status == SOFTMIG_LIMITS_OK)
				status = load_at(directory, name, owner, limits, error);
		}
		softmig_sys_close(directory);
	}
	errno = saved_errno;
	return status;
}

enum softmig_limits_status softmig_limits_load_path(const char *path, uid_t owner_uid, struct softmig_limits *limits,
                                                    struct softmig_limits_error *error) {
	int saved_errno = errno;
	char directory_path[PATH_MAX];
	enum softmig_limits_status status = SOFTMIG_LIMITS_BAD;
	softmig_limits_init(limits);
	const char *slash = strrchr(path, '/');
	size_t length = slash == NULL ? 0 : (size_t)(slash - path);
	if (length >= sizeof(directory_path))
		return softmig_limits_refuse(error, 0, "the name is too long");
	if (slash == NULL)
		softmig_format(directory_path, sizeof(directory_path), ".");
	else
		softmig_format(directory_path, sizeof(directory_path), "%.*s", length == 0 ? 1 : (int)length, path);
	uid_t owner = softmig_owner_here(owner_uid);
	int directory = open_directory(directory_path, owner, error, &status);
	if (directory >= 0) {
		status = load_at(directory, slash == NULL ? path : slash + 1, owner, limits, error);
		softmig_sys_close(directory);
	}
	errno = saved_errno;
	return status;
}
