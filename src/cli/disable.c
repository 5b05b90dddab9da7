// SPDX-License-Identifier: Apache-2.0
// softmig disable: takes the entry out of /etc/ld.so.preload. The library stays installed.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/node.h"

static const struct softmig_verb *const self = &softmig_verb_disable;

static int disable(struct softmig_node *node)
{
	bool was_enabled;
	if (softmig_node_disable(self, node, &was_enabled) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	if (!was_enabled) {
		printf("%s has no entry of ours.\n", node->preload);
		return SOFTMIG_EXIT_OK;
	}
	printf("Disabled: programs that start from now on do not load %s.\n", node->entry);
	int slices = softmig_node_slices(node);
	if (slices > 0)
		softmig_cli_warn(self, "%d job%s on this node %s in a slice; what %s from now on sees the whole GPU", slices,
		                 slices == 1 ? "" : "s", slices == 1 ? "is" : "are", slices == 1 ? "it starts" : "they start");
	return SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	return softmig_node_command(self, argc, argv, false, disable);
}

const struct softmig_verb softmig_verb_disable = {
	.name = "disable",
	.arguments = "[--root DIR] [--directory DIR]",
	.summary = "Take the library out of /etc/ld.so.preload",
	.help = "Options:\n" SOFTMIG_NODE_HELP
	        "  --help            this text\n\n"
	        "For root. Running programs keep the library and their limits. To make them passive as well, create\n"
	        SOFTMIG_DISABLED_PATH " instead.\n",
	.run = run,
};
