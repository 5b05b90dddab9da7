// SPDX-License-Identifier: Apache-2.0
// See library.h.
#include "cli/library.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool softmig_library_find(char path[PATH_MAX])
{
	static const char *const beside[] = { "/" SOFTMIG_LIBRARY_NAME, "/../lib/softmig/" SOFTMIG_LIBRARY_NAME };
	char directory[PATH_MAX];
	ssize_t length = readlink("/proc/self/exe", directory, sizeof directory - 1);
	directory[length > 0 ? length : 0] = '\0';
	char *slash = strrchr(directory, '/');
	if (slash)
		*slash = '\0';
	for (size_t i = 0; slash && i < sizeof beside / sizeof beside[0]; i++) {
		char candidate[2 * PATH_MAX];
		snprintf(candidate, sizeof candidate, "%s%s", directory, beside[i]);
		if (access(candidate, R_OK) == 0 && realpath(candidate, path))
			return true;
	}
	return access(SOFTMIG_LIBRARY_PATH, R_OK) == 0 && realpath(SOFTMIG_LIBRARY_PATH, path);
}

static bool same_file(const char *a, const char *b)
{
	struct stat first, second;
	return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev && first.st_ino == second.st_ino;
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
		if (*word && !same_file(word, library)) {
			strcat(list, ":");
			strcat(list, word);
		}
	free(words);
	return list;
}
