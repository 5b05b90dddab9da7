// SPDX-License-Identifier: Apache-2.0
// Files of the system, changed so that whoever looks sees the old or the new one, whole, whatever happens in between.
// Owns: temporary file, sync, rename, sync of the directory. Must never: write into a file that is in place, follow a link.
#ifndef SOFTMIG_CLI_FILES_H
#define SOFTMIG_CLI_FILES_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>

// A small file as it was found.
struct softmig_file {
	bool exists;
	char *text;         // malloc'ed, ends with a NUL that does not count; never NULL after a read that returned 0
	size_t length;
	struct stat status; // meaningful when it exists
};

// Reads a regular file of at most 1 MiB. An absent file is no error. 0, or ELOOP (a link), EINVAL (not regular), EFBIG ...
int softmig_file_read(const char *path, struct softmig_file *file);
void softmig_file_free(struct softmig_file *file);
// Why reading or replacing failed, as the end of a sentence.
const char *softmig_file_why(int error);

// Puts text in the place of path. model: whose owner, mode and labels (SELinux) the new file gets; where model does not
// exist: ours and 0644. 0 or errno (ELOOP: path is a link, EINVAL: it is no regular file); path is untouched unless 0,
// but where the directory alone could not be synced: then the new file is there, and a crash may take it away.
int softmig_file_replace(const char *path, const char *text, size_t length, const struct softmig_file *model);
// Removes path durably; an absent one is no error. 0 or errno.
int softmig_file_remove(const char *path);
// Removes the temporary files beside path that a crash has left, however young; for whoever knows that nobody else is at work there.
void softmig_file_tidy(const char *path);

// Copies from into a new file beside path, synced, of this mode, and writes its name. 0 or errno.
int softmig_file_stage(const char *from, const char *path, mode_t mode, char staged[PATH_MAX]);
// Puts the staged file in the place of path; on failure the staged file is removed. 0 or errno.
int softmig_file_commit(const char *staged, const char *path);
// Makes a symbolic link where nothing is. 0 or errno (EEXIST).
int softmig_file_link(const char *target, const char *path);

// Do both names lead to one file?
bool softmig_file_is_same(const char *a, const char *b);
// Do both exist with the same bytes?
bool softmig_file_equal(const char *a, const char *b);

// Makes path a directory of this mode, its parents 0755; one that exists keeps its mode. 0 or errno (ENOTDIR).
int softmig_directory_make(const char *path, mode_t mode);
#endif
