// SPDX-License-Identifier: Apache-2.0
// See root_path.h.
#include "cli/root_path.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINKS_MAX = 40 };

struct walk {
	const char *root;
	char done[PATH_MAX]; // below root, no link in it
	char rest[PATH_MAX]; // still to be followed
	int links;
};

static void go_up(struct walk *walk)
{
	char *slash = strrchr(walk->done, '/');
	if (slash)
		*slash = '\0';
}

// If the next name is a link, puts its target in front of the rest. False: too long, or too many of them.
static bool go_down(struct walk *walk, const char *name)
{
	char here[2 * PATH_MAX], target[PATH_MAX], rest[2 * PATH_MAX];
	snprintf(here, sizeof here, "%s%s/%s", walk->root, walk->done, name);
	ssize_t length = strlen(here) < PATH_MAX ? readlink(here, target, sizeof target - 1) : -1;
	if (length < 0) {
		size_t used = strlen(walk->done);
		return snprintf(walk->done + used, sizeof walk->done - used, "/%s", name) < (int)(sizeof walk->done - used);
	}
	target[length] = '\0';
	if (*target == '/')
		walk->done[0] = '\0';
	if (++walk->links > LINKS_MAX || snprintf(rest, sizeof rest, "%s/%s", target, walk->rest) >= (int)sizeof walk->rest)
		return false;
	strcpy(walk->rest, rest);
	return true;
}

static bool step(struct walk *walk)
{
	char name[NAME_MAX + 1];
	size_t length = strcspn(walk->rest, "/");
	if (length > NAME_MAX)
		return false;
	memcpy(name, walk->rest, length);
	name[length] = '\0';
	memmove(walk->rest, walk->rest + length, strlen(walk->rest + length) + 1);
	if (length == 0 || strcmp(name, ".") == 0)
		return true;
	if (strcmp(name, "..") != 0)
		return go_down(walk, name);
	go_up(walk);
	return true;
}

void softmig_root_path(const char *root, const char *path, char result[PATH_MAX])
{
	struct walk walk = { .root = root };
	bool good = snprintf(walk.rest, sizeof walk.rest, "%s", path) < PATH_MAX;
	while (good && *root && *walk.rest) {
		size_t slashes = strspn(walk.rest, "/");
		memmove(walk.rest, walk.rest + slashes, strlen(walk.rest + slashes) + 1);
		good = step(&walk);
	}
	if (!good || snprintf(result, PATH_MAX, "%s%s", root, *root ? walk.done : path) >= PATH_MAX)
		result[0] = '\0';
}
