// SPDX-License-Identifier: Apache-2.0
// softmig uninstall: the entry first, the library after it, so that no program ever looks for a file that is gone.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/node.h"

#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct softmig_verb *const self = &softmig_verb_uninstall;

// A libvgpu.so of somebody else's in the same directory is none of our business.
static bool second_name_is_ours(const struct softmig_node *node)
{
	char target[sizeof SOFTMIG_LIBRARY_NAME] = "";
	ssize_t length = readlink(node->second_name, target, sizeof target);
	bool names_ours = length == sizeof target - 1 && memcmp(target, SOFTMIG_LIBRARY_NAME, sizeof target - 1) == 0;
	return names_ours || softmig_file_is_same(node->second_name, node->installed);
}

static int remove_files(const struct softmig_node *node)
{
	const char *failed = node->second_name;
	int error = second_name_is_ours(node) ? softmig_file_remove(node->second_name) : 0;
	if (!error) {
		failed = node->installed;
		error = softmig_file_remove(node->installed);
	}
	if (error)
		return softmig_cli_fail(self, "%s cannot be removed: %s", failed, strerror(error));
	softmig_file_tidy(node->installed);
	softmig_file_tidy(node->preload);
	// Directories go when they are empty: logs and the state of jobs that still run stay.
	rmdir(node->directory);
	rmdir(node->state);
	rmdir(node->log);
	return SOFTMIG_EXIT_OK;
}

static int uninstall(struct softmig_node *node)
{
	bool was_enabled;
	bool was_installed = access(node->installed, F_OK) == 0;
	if (softmig_node_disable(self, node, &was_enabled) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	if (was_enabled && !*node->root) // a program that has read the entry a moment ago has yet to open the library
		nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
	if (remove_files(node) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	int slices = softmig_node_slices(node);
	if (slices > 0 && was_enabled)
		softmig_cli_warn(self, "%s holds the limits of %d job%s; what %s from now on sees the whole GPU", node->state, slices,
		                 slices == 1 ? "" : "s", slices == 1 ? "it starts" : "they start");
	printf(was_installed || was_enabled ? "Uninstalled %s.\n" : "%s is not installed.\n", node->entry);
	return SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	return softmig_node_command(self, argc, argv, false, uninstall);
}

const struct softmig_verb softmig_verb_uninstall = {
	.name = "uninstall",
	.arguments = "[--root DIR] [--directory DIR]",
	.summary = "Disable the library and remove it",
	.help = "Options:\n" SOFTMIG_NODE_HELP
	        "  --help            this text\n\n"
	        "For root. Running programs keep the library they have loaded. Logs stay.\n",
	.run = run,
};
