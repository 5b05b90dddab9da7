// SPDX-License-Identifier: Apache-2.0
// The entry of an installation in /etc/ld.so.preload: see node.h. Owns: telling ours from others', and taking it out.
#include "cli/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/library.h"
#include "cli/preload_text.h"
#include "cli/root_path.h"

// The loader puts the name of the architecture's directory in the place of $LIB: ld.so(8). Which that is, is the loader's secret.
static bool is_ours_by_lib(const struct softmig_node *node, const char *entry)
{
	static const char *const values[] = { "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64", "lib" };
	const char *token = strstr(entry, "$LIB");
	for (size_t i = 0; token && i < sizeof values / sizeof values[0]; i++) {
		char path[2 * PATH_MAX];
		snprintf(path, sizeof path, "%s%.*s%s%s", node->root, (int)(token - entry), entry, values[i], token + strlen("$LIB"));
		if (softmig_file_is_same(path, node->installed))
			return true;
	}
	return false;
}

bool softmig_node_is_ours(const struct softmig_node *node, const char *entry)
{
	char path[PATH_MAX];
	softmig_root_path(node->root, entry, path);
	return strcmp(entry, node->entry) == 0 || softmig_file_is_same(path, node->installed) || is_ours_by_lib(node, entry);
}

int softmig_node_read_preload(const struct softmig_verb *verb, const struct softmig_node *node, struct softmig_file *file)
{
	int error = softmig_file_read(node->preload, file);
	if (error == ELOOP)
		return softmig_cli_fail(verb, "%s is a symbolic link; edit the file that it points to, or make it a plain file", node->preload);
	if (error)
		return softmig_cli_fail(verb, "%s cannot be read: %s", node->preload, softmig_file_why(error));
	if (softmig_preload_is_sane(file->text, file->length))
		return SOFTMIG_EXIT_OK;
	softmig_file_free(file);
	return softmig_cli_fail(verb, "%s holds a NUL byte, where the loader stops reading; repair it first", node->preload);
}

static bool is_rival(const struct softmig_node *node, const char *entry)
{
	const char *name = strrchr(entry, '/');
	name = name ? name + 1 : entry;
	return (strcmp(name, SOFTMIG_LIBRARY_NAME) == 0 || strcmp(name, SOFTMIG_LIBRARY_SECOND_NAME) == 0) && !softmig_node_is_ours(node, entry);
}

// The first entry that is so.
static bool find_entry(const struct softmig_node *node, const char *text, size_t length, bool (*is_so)(const struct softmig_node *, const char *),
                       char entry[PATH_MAX])
{
	size_t position = 0, start, end;
	while (softmig_preload_next(text, length, &position, &start, &end)) {
		if (end - start >= PATH_MAX)
			continue;
		memcpy(entry, text + start, end - start);
		entry[end - start] = '\0';
		if (is_so(node, entry))
			return true;
	}
	return false;
}

bool softmig_node_has_rival(const struct softmig_node *node, const struct softmig_file *file, char entry[PATH_MAX])
{
	return find_entry(node, file->text, file->length, is_rival, entry);
}

bool softmig_node_is_enabled(const struct softmig_node *node, const struct softmig_file *file)
{
	char entry[PATH_MAX];
	return find_entry(node, file->text, file->length, softmig_node_is_ours, entry);
}

// The file that enable made where none was goes again; one that was there, even empty, stays (see softmig_preload_add).
static int write_without(const struct softmig_node *node, const struct softmig_file *file, const char *text, size_t length)
{
	bool made_by_enable = length == 0 && file->length > 0 && file->text[file->length - 1] == '\n';
	return made_by_enable ? softmig_file_remove(node->preload) : softmig_file_replace(node->preload, text, length, file);
}

int softmig_node_disable(const struct softmig_verb *verb, const struct softmig_node *node, bool *was_enabled)
{
	struct softmig_file file;
	if (softmig_node_read_preload(verb, node, &file) != SOFTMIG_EXIT_OK)
		return SOFTMIG_EXIT_FAILED;
	char entry[PATH_MAX];
	size_t length = file.length;
	char *text = strdup(file.text);
	*was_enabled = false;
	while (text && find_entry(node, text, length, softmig_node_is_ours, entry)) {
		char *shorter = softmig_preload_remove(text, length, entry, &length);
		free(text);
		text = shorter;
		*was_enabled = true;
	}
	int error = !text ? ENOMEM : *was_enabled ? write_without(node, &file, text, length) : 0;
	free(text);
	softmig_file_free(&file);
	return error ? softmig_cli_fail(verb, "%s cannot be written: %s", node->preload, strerror(error)) : SOFTMIG_EXIT_OK;
}
