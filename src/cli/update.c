// SPDX-License-Identifier: Apache-2.0
// softmig update: another version of the library, under running programs. The new file takes the name by rename: what runs
// keeps the old file mapped, what starts gets the new one, and nothing ever sees half a file.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/node.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const struct softmig_verb *const self = &softmig_verb_update;

static int update(struct softmig_node *node)
{
	const char *source = softmig_node_source(self, node);
	if (!source)
		return SOFTMIG_EXIT_FAILED;
	if (access(node->installed, F_OK) != 0)
		return softmig_cli_fail(self, "%s: %s; run softmig install first", node->installed, strerror(errno));
	bool same = softmig_file_equal(source, node->installed);
	if (!same && softmig_node_place(self, node, source) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	if (softmig_node_name_again(self, node) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	printf(same ? "%s is this version already.\n" : "Updated %s. Running programs keep the version they started with.\n",
	       node->installed);
	return SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	return softmig_node_command(self, argc, argv, true, update);
}

const struct softmig_verb softmig_verb_update = {
	.name = "update",
	.arguments = "[--library FILE] [--root DIR] [--directory DIR]",
	.summary = "Replace the installed library under running programs",
	.help = "Options:\n"
	        "  --library FILE    the new library (default: the one that came with this softmig)\n" SOFTMIG_NODE_HELP
	        "  --help            this text\n\n"
	        "For root. The new library is tried in scratch programs first; when it fails there, the old one stays.\n",
	.run = run,
};
