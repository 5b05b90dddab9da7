// SPDX-License-Identifier: Apache-2.0
// softmig install: library and directories on a node, and nothing more: no program loads it until softmig enable.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/node.h"

#include <string.h>
#include <unistd.h>

static const struct softmig_verb *const self = &softmig_verb_install;

static int make_directories(const struct softmig_node *node)
{
	const char *const paths[] = { node->directory, node->state, node->log };
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		int error = softmig_directory_make(paths[i], 0755);
		if (error)
			return softmig_cli_fail(self, "the directory %s cannot be made: %s", paths[i], strerror(error));
	}
	return SOFTMIG_EXIT_OK;
}

static int install(struct softmig_node *node)
{
	const char *source = softmig_node_source(self, node);
	if (!source)
		return SOFTMIG_EXIT_FAILED;
	bool present = access(node->installed, F_OK) == 0;
	if (present && !softmig_file_equal(source, node->installed))
		return softmig_cli_fail(self, "%s is another version; softmig update replaces it", node->installed);
	if (make_directories(node) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	if (!present && softmig_node_place(self, node, source) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	if (softmig_node_name_again(self, node) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	printf(present ? "%s is installed already.\n" : "Installed %s. No program loads it yet; softmig enable does that.\n",
	       node->installed);
	return SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	return softmig_node_command(self, argc, argv, true, install);
}

const struct softmig_verb softmig_verb_install = {
	.name = "install",
	.arguments = "[--library FILE] [--root DIR] [--directory DIR]",
	.summary = "Put the library and its directories on this node, without enabling it",
	.help = "Options:\n"
	        "  --library FILE    the library to install (default: the one that came with this softmig)\n" SOFTMIG_NODE_HELP
	        "  --help            this text\n\n"
	        "For root. Doing it twice is doing it once. The library is tried in scratch programs first; when it\n"
	        "fails there, nothing is changed.\n",
	.run = run,
};
