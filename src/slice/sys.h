// SPDX-License-Identifier: Apache-2.0
// System calls without libc's wrappers. Owns: reaching the kernel from inside other people's programs. The wrappers are thread
// cancellation points, can be interposed on by other preloaded libraries, and some (fstat) bear a symbol newer than GLIBC_2.17.
// Must never: do anything else. All set errno as the wrappers do; callers of the public functions save and restore it.
#ifndef SOFTMIG_SLICE_SYS_H
#define SOFTMIG_SLICE_SYS_H
#include <fcntl.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

static inline int softmig_sys_open(const char *path, int flags, mode_t mode)
{
	return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static inline int softmig_sys_openat(int directory, const char *path, int flags)
{
	return (int)syscall(SYS_openat, directory, path, flags, 0);
}

static inline int softmig_sys_close(int fd)
{
	return (int)syscall(SYS_close, fd);
}

static inline ssize_t softmig_sys_read(int fd, void *buffer, size_t size)
{
	return syscall(SYS_read, fd, buffer, size);
}

static inline ssize_t softmig_sys_pread(int fd, void *buffer, size_t size, off_t offset)
{
	return syscall(SYS_pread64, fd, buffer, size, offset);
}

static inline ssize_t softmig_sys_write(int fd, const void *buffer, size_t size)
{
	return syscall(SYS_write, fd, buffer, size);
}

static inline int softmig_sys_fstat(int fd, struct stat *status)
{
	return (int)syscall(SYS_fstat, fd, status);
}

static inline int softmig_sys_stat(const char *path, struct stat *status)
{
	return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

// The file itself, not what a link points to.
static inline int softmig_sys_lstat(const char *path, struct stat *status)
{
	return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

static inline ssize_t softmig_sys_readlink(const char *path, char *buffer, size_t size)
{
	return syscall(SYS_readlinkat, AT_FDCWD, path, buffer, size);
}

static inline pid_t softmig_sys_getpid(void)
{
	return (pid_t)syscall(SYS_getpid);
}

static inline void softmig_sys_sleep_ns(long ns)
{
	struct timespec time = {0, ns};
	syscall(SYS_nanosleep, &time, NULL);
}
#endif
