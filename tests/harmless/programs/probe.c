// SPDX-License-Identifier: Apache-2.0
// What a process finds itself to be: descriptors, threads, signal dispositions and masks, umask, limits, errno, variables.
// Prints nothing that differs from one start to the next, so that two worlds can be compared text by text.
// probe: all of that. probe loaded: 0 if libsoftmig.so is mapped. probe hold FILE: waits until FILE is gone, then looks up
// symbols (touching the library's pages again) and ends with 0. probe quiet: one write, nothing else (for strace).
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

static void print_descriptors(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		char link[64], target[256];
		struct stat status;
		if (fstat(fd, &status) != 0)
			continue;
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t length = readlink(link, target, sizeof target - 1);
		target[length < 0 ? 0 : length] = '\0';
		// pipes and sockets bear numbers of their own
		printf("descriptor %d: %.*s mode %o\n", fd, (int)strcspn(target, "["), fd < 3 ? "standard" : target, (unsigned)(status.st_mode & S_IFMT));
	}
}

static void print_signals(void)
{
	for (int signal_number = 1; signal_number < 65; signal_number++) {
		struct sigaction action;
		if (sigaction(signal_number, NULL, &action) == 0 && (action.sa_handler != SIG_DFL || action.sa_flags != 0))
			printf("signal %d: %s\n", signal_number, action.sa_handler == SIG_IGN ? "ignored" : "handled");
	}
}

static void print_status(void)
{
	static const char *const lines[] = { "Umask:", "Threads:", "SigPnd:", "SigBlk:", "SigIgn:", "SigCgt:", "NoNewPrivs:", "Seccomp:", "Uid:", "Gid:", "CapEff:" };
	char line[256];
	FILE *file = fopen("/proc/self/status", "re");
	while (file != NULL && fgets(line, sizeof line, file) != NULL)
		for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
			if (strncmp(line, lines[i], strlen(lines[i])) == 0)
				fputs(line, stdout);
	if (file != NULL)
		fclose(file);
}

static bool loaded(void)
{
	char line[512];
	bool found = false;
	FILE *maps = fopen("/proc/self/maps", "re");
	while (maps != NULL && fgets(line, sizeof line, maps) != NULL)
		found |= strstr(line, "libsoftmig.so") != NULL;
	if (maps != NULL)
		fclose(maps);
	return found;
}

int main(int argc, char **argv)
{
	int first_errno = errno;
	if (argc > 1 && strcmp(argv[1], "quiet") == 0)
		return write(1, "mark\n", 5) != 5;
	if (argc > 1 && strcmp(argv[1], "loaded") == 0)
		return !loaded();
	if (argc > 2 && strcmp(argv[1], "hold") == 0) {
		bool before = loaded();
		while (access(argv[2], F_OK) == 0)
			usleep(20000);
		bool found = dlsym(RTLD_DEFAULT, "printf") != NULL && dlsym(RTLD_DEFAULT, "cuInit_of_nobody") == NULL &&
		             dlvsym(RTLD_DEFAULT, "memcpy", "GLIBC_2.14") != NULL && dlsym(RTLD_NEXT, "malloc") != NULL;
		return !(before && found);
	}
	print_descriptors();
	print_signals();
	print_status();
	for (int which = 0; which < RLIM_NLIMITS; which++) {
		struct rlimit limit;
		if (getrlimit((__rlimit_resource_t)which, &limit) == 0)
			printf("limit %d: %ld %ld\n", which, (long)limit.rlim_cur, (long)limit.rlim_max);
	}
	for (char **variable = environ; *variable != NULL; variable++)
		if (strncmp(*variable, "_=", 2) != 0)
			puts(*variable);
	printf("errno %d, dumpable %d\n", first_errno, prctl(PR_GET_DUMPABLE));
	errno = 42;
	bool found = dlsym(RTLD_DEFAULT, "printf") != NULL;
	printf("errno after a look-up that succeeds: %d %d\n", found, errno);
	errno = 42;
	bool absent = dlsym(RTLD_DEFAULT, "curl_easy_init") == NULL && dlsym(RTLD_NEXT, "cuInit") == NULL;
	printf("absent %d: %s\n", absent, dlerror() ? "with an error" : "without");
	printf("the loader's error for no library: %d %s\n", dlopen("libdoes-not-exist.so", RTLD_NOW) == NULL, dlerror());
	return 7;
}
