// SPDX-License-Identifier: Apache-2.0
// See library.h.
#include "cli/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/files.h"
#include "slice/limits.h"
#include "slice/owner.h"

static bool beside_program(const char *relative, char path[PATH_MAX])
{
	char candidate[2 * PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", candidate, PATH_MAX - 1);
	candidate[length > 0 ? length : 0] = '\0';
	char *slash = strrchr(candidate, '/');
	if (!slash)
		return false;
	strcpy(slash, relative);
	return access(candidate, R_OK) == 0 && realpath(candidate, path);
}

static bool in_build_tree(char path[PATH_MAX])
{
	return beside_program("/" SOFTMIG_LIBRARY_NAME, path);
}

static bool in_package(char path[PATH_MAX])
{
	return beside_program("/../lib/softmig/" SOFTMIG_LIBRARY_NAME, path);
}

bool softmig_library_came_with(char path[PATH_MAX])
{
	return in_build_tree(path) || in_package(path);
}

bool softmig_library_find(char path[PATH_MAX])
{
	return in_build_tree(path) || (access(SOFTMIG_LIBRARY_PATH, R_OK) == 0 && realpath(SOFTMIG_LIBRARY_PATH, path)) ||
	       in_package(path);
}

bool softmig_library_is_disabled(const char *path)
{
	struct stat status;
	return lstat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == softmig_owner_here(0);
}

void softmig_library_drop_limits(void)
{
	static const char *const names[] = { "CUDA_DEVICE_MEMORY_LIMIT", "CUDA_DEVICE_SM_LIMIT" };
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		unsetenv(names[i]);
		for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
			char name[64];
			snprintf(name, sizeof name, "%s_%d", names[i], gpu);
			unsetenv(name);
		}
	}
}

char *softmig_library_preload(const char *library, const char *present)
{
	if (!present)
		present = "";
	char *list = malloc(strlen(library) + strlen(present) + 2);
	char *words = strdup(present);
	if (!list || !words) {
		free(list);
		free(words);
		return NULL;
	}
	strcpy(list, library);
	char *rest = words;
	for (char *word; (word = strsep(&rest, ": "));) // the two separators that ld.so(8) knows
		if (*word && !softmig_file_is_same(word, library)) {
			strcat(list, ":");
			strcat(list, word);
		}
	free(words);
	return list;
}
