// SPDX-License-Identifier: Apache-2.0
// softmig enable: an entry in /etc/ld.so.preload, so that every program that starts from now on loads the library.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/node.h"
#include "cli/preload_text.h"
#include "cli/trial.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct softmig_verb *const self = &softmig_verb_enable;

// What is in every process of root must be root's alone, up to the last directory.
static int check_library(const struct softmig_node *node)
{
	const char *const paths[] = { node->installed, node->directory };
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) {
		struct stat status;
		if (stat(paths[i], &status) != 0)
			return softmig_cli_fail(self, "%s: %s; run softmig install first", paths[i], strerror(errno));
		if (status.st_uid != geteuid() || (status.st_mode & (S_IWGRP | S_IWOTH)))
			return softmig_cli_fail(self, "%s must belong to root and be writable by nobody else; use chown and chmod", paths[i]);
	}
	char why[512];
	if (!softmig_trial(node->installed, !*node->root, why, sizeof why))
		return softmig_cli_fail(self, "nothing was changed, because the library failed its trial: %s", why);
	return SOFTMIG_EXIT_OK;
}

static int put_back(const struct softmig_node *node, const struct softmig_file *file)
{
	return file->exists ? softmig_file_replace(node->preload, file->text, file->length, file) : softmig_file_remove(node->preload);
}

static int add_entry(const struct softmig_node *node, const struct softmig_file *file)
{
	const char *before = file->exists ? file->text : "\n"; // a new file's only line has its newline
	size_t length;
	char *text = softmig_preload_add(before, strlen(before), node->entry, &length);
	int error = !text ? ENOMEM : softmig_file_replace(node->preload, text + !file->exists, length - !file->exists, file);
	free(text);
	if (error) {
		struct softmig_file now; // the entry may be there, without having been tried
		if (softmig_file_read(node->preload, &now) == 0 && softmig_node_is_enabled(node, &now))
			(void)!put_back(node, file);
		softmig_file_free(&now);
		return softmig_cli_fail(self, "%s cannot be written: %s", node->preload, strerror(error));
	}
	char why[512];
	if (*node->root || softmig_trial(NULL, true, why, sizeof why))
		return SOFTMIG_EXIT_OK;
	error = put_back(node, file);
	return softmig_cli_fail(self, "%s %s, because with the new entry %s", node->preload,
	                        error ? "could NOT be put back; remove the entry by hand" : "was put back as it was", why);
}

static int enable(struct softmig_node *node)
{
	struct softmig_file file;
	if (check_library(node) != SOFTMIG_EXIT_OK || softmig_node_read_preload(self, node, &file) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	char rival[PATH_MAX];
	bool already = softmig_node_is_enabled(node, &file);
	int status = SOFTMIG_EXIT_OK;
	if (!already && softmig_node_has_rival(node, &file, rival))
		status = softmig_cli_fail(self, "%s names %s already, which takes over the same functions; take that entry out first", node->preload, rival);
	else if (!already)
		status = add_entry(node, &file);
	softmig_file_free(&file);
	if (status != SOFTMIG_EXIT_OK)
		return status;
	if (already)
		printf("%s has the entry already.\n", node->preload);
	else
		printf("Enabled: programs that start from now on load %s.\n", node->entry);
	if (softmig_library_is_disabled(node->disabled))
		softmig_cli_warn(self, "%s exists, so the library does nothing until that file is removed", node->disabled);
	return status;
}

static int run(int argc, char **argv)
{
	return softmig_node_command(self, argc, argv, false, enable);
}

const struct softmig_verb softmig_verb_enable = {
	.name = "enable",
	.arguments = "[--root DIR] [--directory DIR]",
	.summary = "Enter the library into /etc/ld.so.preload",
	.help = "Options:\n" SOFTMIG_NODE_HELP
	        "  --help            this text\n\n"
	        "For root. Other entries, comments and separators stay as they are. The library is tried in scratch\n"
	        "programs before and after; when one of them fails, the file is as it was. Running programs are not\n"
	        "touched: restart slurmd, or wait for the next job.\n",
	.run = run,
};
