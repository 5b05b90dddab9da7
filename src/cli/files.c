// SPDX-License-Identifier: Apache-2.0
// See files.h.
#include "cli/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define MARK ".softmig-" // temporary files are .NAME.softmig-XXXXXX
enum { SMALL_MAX_BYTES = 1 << 20, LEFTOVER_AGE_S = 600 };

int softmig_file_read(const char *path, struct softmig_file *file)
{
	*file = (struct softmig_file){ 0 };
	int descriptor = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (descriptor < 0 && errno != ENOENT)
		return errno;
	int error = 0;
	if (descriptor >= 0) {
		file->exists = true;
		if (fstat(descriptor, &file->status) != 0)
			error = errno;
		else if (!S_ISREG(file->status.st_mode))
			error = EINVAL;
		else if (file->status.st_size > SMALL_MAX_BYTES)
			error = EFBIG;
	}
	size_t room = file->exists && !error ? (size_t)file->status.st_size : 0;
	if (!error && !(file->text = calloc(1, room + 1)))
		error = ENOMEM;
	while (!error && file->length < room) {
		ssize_t count = read(descriptor, file->text + file->length, room - file->length);
		if (count > 0)
			file->length += (size_t)count;
		else if (count == 0)
			break;
		else if (errno != EINTR)
			error = errno;
	}
	if (descriptor >= 0)
		close(descriptor);
	if (error)
		softmig_file_free(file);
	return error;
}

void softmig_file_free(struct softmig_file *file)
{
	free(file->text);
	file->text = NULL;
}

const char *softmig_file_why(int error)
{
	switch (error) {
	case ELOOP:
		return "it is a symbolic link";
	case EINVAL:
		return "it is no regular file";
	case EFBIG:
		return "it is far too long";
	default:
		return strerror(error);
	}
}

static void directory_of(const char *path, char directory[PATH_MAX])
{
	snprintf(directory, PATH_MAX, "%s", path);
	char *slash = strrchr(directory, '/');
	if (!slash)
		strcpy(directory, ".");
	else
		slash[slash == directory] = '\0';
}

static const char *name_of(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

// The directory of path, opened before anything in it is changed: what fails here has changed nothing.
static int open_directory(const char *path)
{
	char directory[PATH_MAX];
	directory_of(path, directory);
	return open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static int sync_and_close(int directory)
{
	int error = fsync(directory) == 0 || errno == EINVAL ? 0 : errno; // EINVAL: this file system has no need of it
	close(directory);
	return error;
}

// Temporary files of path that a crash left; young ones may be another machine's on a shared file system.
static void remove_leftovers(const char *path, time_t age_s)
{
	char directory[PATH_MAX], prefix[NAME_MAX + 1];
	directory_of(path, directory);
	snprintf(prefix, sizeof prefix, ".%s" MARK, name_of(path));
	DIR *files = opendir(directory);
	if (!files)
		return;
	for (struct dirent *entry; (entry = readdir(files));) {
		struct stat status;
		if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && strlen(entry->d_name) == strlen(prefix) + 6 &&
		    fstatat(dirfd(files), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(status.st_mode) &&
		    (age_s == 0 || status.st_mtime + age_s < time(NULL)))
			unlinkat(dirfd(files), entry->d_name, 0);
	}
	closedir(files);
}

void softmig_file_tidy(const char *path)
{
	remove_leftovers(path, 0);
}

static bool temporary_name(const char *path, char name[PATH_MAX])
{
	char directory[PATH_MAX];
	directory_of(path, directory);
	return snprintf(name, PATH_MAX, "%s/.%s" MARK "XXXXXX", directory, name_of(path)) < PATH_MAX;
}

static int make_temporary(const char *path, char name[PATH_MAX], int *descriptor)
{
	remove_leftovers(path, LEFTOVER_AGE_S);
	if (!temporary_name(path, name))
		return ENAMETOOLONG;
	*descriptor = mkostemp(name, O_CLOEXEC);
	return *descriptor < 0 ? errno : 0;
}

static int write_all(int descriptor, const char *text, size_t length)
{
	while (length > 0) {
		ssize_t count = write(descriptor, text, length);
		if (count < 0 && errno != EINTR)
			return errno;
		if (count > 0) {
			text += count;
			length -= (size_t)count;
		}
	}
	return 0;
}

static void copy_label(const char *path, int descriptor)
{
	char label[256];
	ssize_t length = getxattr(path, "security.selinux", label, sizeof label);
	if (length > 0)
		(void)!fsetxattr(descriptor, "security.selinux", label, (size_t)length, 0);
}

int softmig_file_replace(const char *path, const char *text, size_t length, const struct softmig_file *model)
{
	char name[PATH_MAX];
	int descriptor;
	struct stat present;
	if (lstat(path, &present) == 0 && !S_ISREG(present.st_mode)) // a rename would take /dev/null itself away
		return S_ISLNK(present.st_mode) ? ELOOP : EINVAL;
	int error = make_temporary(path, name, &descriptor);
	if (error)
		return error;
	bool owned = !model->exists || (model->status.st_uid == geteuid() && model->status.st_gid == getegid());
	if (fchmod(descriptor, model->exists ? model->status.st_mode & 07777 : 0644) != 0 ||
	    (!owned && fchown(descriptor, model->status.st_uid, model->status.st_gid) != 0))
		error = errno;
	if (model->exists)
		copy_label(path, descriptor);
	if (!error)
		error = write_all(descriptor, text, length);
	if (!error && fsync(descriptor) != 0)
		error = errno;
	close(descriptor);
	if (!error)
		return softmig_file_commit(name, path);
	unlink(name);
	return error;
}

int softmig_file_remove(const char *path)
{
	int directory = open_directory(path);
	if (directory < 0)
		return errno == ENOENT ? 0 : errno;
	if (unlink(path) == 0)
		return sync_and_close(directory);
	int error = errno;
	close(directory);
	return error == ENOENT ? 0 : error;
}

static int copy_bytes(int from, int to)
{
	char buffer[65536];
	for (;;) {
		ssize_t count = read(from, buffer, sizeof buffer);
		if (count == 0)
			return 0;
		if (count < 0 && errno == EINTR)
			continue;
		int error = count < 0 ? errno : write_all(to, buffer, (size_t)count);
		if (error)
			return error;
	}
}

int softmig_file_stage(const char *from, const char *path, mode_t mode, char staged[PATH_MAX])
{
	int source = open(from, O_RDONLY | O_CLOEXEC);
	if (source < 0)
		return errno;
	int target;
	int error = make_temporary(path, staged, &target);
	if (!error) {
		error = copy_bytes(source, target);
		if (!error && (fchmod(target, mode) != 0 || fsync(target) != 0))
			error = errno;
		close(target);
		if (error)
			unlink(staged);
	}
	close(source);
	return error;
}

int softmig_file_commit(const char *staged, const char *path)
{
	int directory = open_directory(path);
	if (directory >= 0 && rename(staged, path) == 0)
		return sync_and_close(directory);
	int error = errno;
	unlink(staged);
	if (directory >= 0)
		close(directory);
	return error;
}

int softmig_file_link(const char *target, const char *path)
{
	int directory = open_directory(path);
	if (directory >= 0 && symlink(target, path) == 0)
		return sync_and_close(directory);
	int error = errno;
	if (directory >= 0)
		close(directory);
	return error;
}

bool softmig_file_is_same(const char *a, const char *b)
{
	struct stat first, second;
	return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

bool softmig_file_equal(const char *a, const char *b)
{
	FILE *first = fopen(a, "re");
	FILE *second = fopen(b, "re");
	bool equal = first && second;
	while (equal) {
		char one[65536], two[65536];
		size_t length = fread(one, 1, sizeof one, first);
		equal = fread(two, 1, sizeof two, second) == length && memcmp(one, two, length) == 0;
		if (length < sizeof one)
			break;
	}
	equal = equal && !ferror(first) && !ferror(second);
	if (first)
		fclose(first);
	if (second)
		fclose(second);
	return equal;
}

int softmig_directory_make(const char *path, mode_t mode)
{
	char part[PATH_MAX];
	if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
		return ENAMETOOLONG;
	for (char *slash = part; (slash = strchr(slash + 1, '/'));) {
		*slash = '\0';
		if (mkdir(part, 0755) == 0)
			(void)!chmod(part, 0755); // whatever the umask
		*slash = '/';
	}
	if (mkdir(path, mode) == 0) {
		int parent = chmod(path, mode) == 0 ? open_directory(path) : -1;
		return parent >= 0 ? sync_and_close(parent) : errno;
	}
	struct stat status;
	if (errno != EEXIST)
		return errno;
	return stat(path, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? 0 : ENOTDIR;
}
