// SPDX-License-Identifier: Apache-2.0
// Places that a test may soil: a folder of its own, and, as root, a mount namespace in which /var/run, /var/log and
// /proc can be covered without touching the machine's.
#ifndef SOFTMIG_TESTS_SCRATCH_H
#define SOFTMIG_TESTS_SCRATCH_H
#include <fcntl.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

// Moves this process into a mount namespace of its own. False without the privilege.
static inline bool scratch_namespace(void) {
	return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
}

// Covers directory (made if missing) by an empty tmpfs. Only after scratch_namespace.
static inline bool scratch_cover(const char *directory) {
	return (mkdir(directory, 0755) == 0 || access(directory, F_OK) == 0) &&
	       mount("none", directory, "tmpfs", 0, "mode=755,size=64m") == 0;
}

// A new folder; its name is static.
static inline const char *scratch_folder(void) {
	static char name[64];
	strcpy(name, "/tmp/softmig-test-XXXXXX");
	return mkdtemp(name);
}

static inline void scratch_remove(const char *folder) {
	pid_t child = fork();
	if (child == 0) {
		execlp("rm", "rm", "-rf", "--", folder, (char *)NULL);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

static inline bool scratch_write(const char *path, const void *text, size_t length) {
	int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	bool written = descriptor >= 0 && write(descriptor, text, length) == (ssize_t)length;
	if (descriptor >= 0)
		close(descriptor);
	return written;
}

// The whole of a file, terminated; "" where there is none. Static, valid until the next call.
static inline const char *scratch_read(const char *path) {
	static char text[1 << 16];
	int descriptor = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = descriptor >= 0 ? read(descriptor, text, sizeof(text) - 1) : 0;
	if (descriptor >= 0)
		close(descriptor);
	text[length > 0 ? length : 0] = '\0';
	return text;
}

// How many descriptors this process holds.
static inline int scratch_descriptors(void) {
	int count = 0;
	for (int descriptor = 0; descriptor < 256; descriptor++)
		count += fcntl(descriptor, F_GETFD) >= 0;
	return count;
}
#endif
