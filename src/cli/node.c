// SPDX-License-Identifier: Apache-2.0
// See node.h.
#include "cli/node.h"
#include "cli/library.h"
#include "cli/lock.h"
#include "cli/preload_text.h"
#include "cli/root_path.h"
#include "cli/trial.h"
#include "slice/limits.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void join(char path[PATH_MAX], const char *a, const char *b)
{
	int length = snprintf(path, PATH_MAX, "%s%s", a, b);
	if (length < 0 || length >= PATH_MAX) // cannot be opened, so whatever is tried fails with a message
		path[0] = '\0';
}

void softmig_node_at(struct softmig_node *node, const char *root, const char *directory)
{
	char etc[PATH_MAX];
	*node = (struct softmig_node){ .etc = -1, .lock = -1 };
	join(node->root, root, "");
	for (size_t length = strlen(node->root); length > 0 && node->root[length - 1] == '/'; length--)
		node->root[length - 1] = '\0';
	join(node->entry, directory, "/" SOFTMIG_LIBRARY_NAME);
	softmig_root_path(node->root, directory, node->directory);
	join(node->installed, node->directory, "/" SOFTMIG_LIBRARY_NAME);
	join(node->second_name, node->directory, "/" SOFTMIG_LIBRARY_SECOND_NAME);
	softmig_root_path(node->root, "/etc", etc);
	join(node->preload, etc, "/ld.so.preload");
	softmig_root_path(node->root, SOFTMIG_STATE_DIR, node->state);
	softmig_root_path(node->root, SOFTMIG_LOG_DIR, node->log);
	softmig_root_path(node->root, SOFTMIG_DISABLED_PATH, node->disabled);
}

#define LOCK_NAME ".softmig.lock"

// Where /etc cannot be written, nothing in it can change; where it is full, the entry can still be taken out. Where it has no locks, two softmigs
// at once are the admin's to avoid.
static bool goes_without_lock(int error)
{
	return error == EROFS || error == ENOSPC || error == EDQUOT || error == ENOLCK || error == ENOSYS || error == EOPNOTSUPP;
}

static int take_lock(const struct softmig_verb *verb, struct softmig_node *node)
{
	char directory[PATH_MAX];
	softmig_root_path(node->root, "/etc", directory);
	int error = *node->root ? softmig_directory_make(directory, 0755) : 0;
	if (error)
		return softmig_cli_fail(verb, "%s cannot be made: %s", directory, strerror(error));
	node->etc = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (node->etc < 0)
		return softmig_cli_fail(verb, "%s cannot be opened: %s", directory, strerror(errno));
	node->lock = softmig_lock_take(node->etc, LOCK_NAME);
	if (node->lock >= 0 || goes_without_lock(errno))
		return -1;
	error = errno;
	close(node->etc);
	return softmig_cli_fail(verb, "%s/" LOCK_NAME " cannot be locked: %s", directory, strerror(error));
}

bool softmig_node_good_directory(const struct softmig_verb *verb, const char *directory)
{
	if (softmig_preload_can_enter(directory))
		return true;
	softmig_cli_usage(verb, "--directory needs an absolute path without spaces, colons and '#', not '%s'", directory);
	return false;
}

// -1 to go on, else the exit status to return now.
static int begin(const struct softmig_verb *verb, int argc, char **argv, bool with_source, struct softmig_node *node)
{
	const struct option options[] = {
		{ "root", required_argument, NULL, 'r' },
		{ "directory", required_argument, NULL, 'd' },
		{ with_source ? "library" : NULL, required_argument, NULL, 'l' },
		{ 0 },
	};
	const char *root = NULL, *directory = SOFTMIG_LIBRARY_DIR, *source = NULL;
	for (int option; (option = softmig_cli_option(verb, argc, argv, options)) != -1;) {
		switch (option) {
		case 'r':
			root = optarg;
			break;
		case 'd':
			directory = optarg;
			break;
		case 'l':
			source = optarg;
			break;
		case 'h':
			return SOFTMIG_EXIT_OK;
		default:
			return SOFTMIG_EXIT_USAGE;
		}
	}
	if (argv[optind])
		return softmig_cli_usage(verb, "'%s' is one word too many", argv[optind]);
	if (root && *root != '/') // an unset variable of a script must not mean this system
		return softmig_cli_usage(verb, "--root needs an absolute path, not '%s'", root);
	if (source && !*source)
		return softmig_cli_usage(verb, "--library needs a file, not ''");
	if (!softmig_node_good_directory(verb, directory))
		return SOFTMIG_EXIT_USAGE;
	softmig_node_at(node, root ? root : "", directory);
	join(node->source, source ? source : "", "");
	struct stat status;
	if (*node->root && (stat(node->root, &status) != 0 || !S_ISDIR(status.st_mode)))
		return softmig_cli_fail(verb, "there is no directory %s", node->root);
	if (!*node->root && geteuid() != 0)
		return softmig_cli_fail(verb, "only root can do this; use sudo");
	return take_lock(verb, node);
}

static void end(struct softmig_node *node)
{
	if (node->lock >= 0)
		softmig_lock_give_back(node->etc, LOCK_NAME, node->lock);
	close(node->etc);
	node->etc = node->lock = -1;
}

int softmig_node_command(const struct softmig_verb *verb, int argc, char **argv, bool with_source, int (*act)(struct softmig_node *node))
{
	struct softmig_node node;
	int status = begin(verb, argc, argv, with_source, &node);
	if (status >= 0)
		return status;
	status = act(&node);
	end(&node);
	return status;
}

const char *softmig_node_source(const struct softmig_verb *verb, struct softmig_node *node)
{
	if (!*node->source && !softmig_library_came_with(node->source)) {
		softmig_cli_fail(verb, SOFTMIG_LIBRARY_NAME " did not come with this softmig; name it with --library");
		return NULL;
	}
	if (access(node->source, R_OK) == 0)
		return node->source;
	softmig_cli_fail(verb, "the library '%s' cannot be read: %s", node->source, strerror(errno));
	return NULL;
}

int softmig_node_place(const struct softmig_verb *verb, const struct softmig_node *node, const char *source)
{
	char staged[PATH_MAX], why[512];
	int error = softmig_file_stage(source, node->installed, 0644, staged);
	if (error)
		return softmig_cli_fail(verb, "%s cannot be copied to %s: %s", source, node->directory, strerror(error));
	if (!softmig_trial(staged, !*node->root, why, sizeof why)) {
		unlink(staged);
		return softmig_cli_fail(verb, "nothing was changed, because the library %s failed its trial: %s", source, why);
	}
	error = softmig_file_commit(staged, node->installed);
	return error ? softmig_cli_fail(verb, "%s cannot be written: %s", node->installed, strerror(error)) : SOFTMIG_EXIT_OK;
}

int softmig_node_name_again(const struct softmig_verb *verb, const struct softmig_node *node)
{
	struct stat other;
	if (lstat(node->second_name, &other) == 0) // it may be somebody else's
		return SOFTMIG_EXIT_OK;
	int error = softmig_file_link(SOFTMIG_LIBRARY_NAME, node->second_name);
	return error ? softmig_cli_fail(verb, "%s cannot be made: %s", node->second_name, strerror(error)) : SOFTMIG_EXIT_OK;
}

int softmig_node_slices(const struct softmig_node *node)
{
	DIR *files = opendir(node->state);
	int count = 0;
	if (!files)
		return 0;
	for (struct dirent *entry; (entry = readdir(files));) {
		const char *suffix = strrchr(entry->d_name, '.');
		count += suffix && strcmp(suffix, ".conf") == 0;
	}
	closedir(files);
	return count;
}
