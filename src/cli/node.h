// SPDX-License-Identifier: Apache-2.0
// An installation on a node: its paths, its entry in /etc/ld.so.preload. Owns: what install, enable, disable, update and
// uninstall share. Must never: change anything without the node's lock.
#ifndef SOFTMIG_CLI_NODE_H
#define SOFTMIG_CLI_NODE_H
#include <limits.h>
#include <stdbool.h>

#include "cli/cli.h"
#include "cli/files.h"

struct softmig_node {
	char root[PATH_MAX];         // "" for this system, else the scratch root without a slash at the end
	char entry[PATH_MAX];        // the library as programs of the node name it
	char directory[PATH_MAX];    // the library's, seen from here (so are all below)
	char installed[PATH_MAX];    // the library itself
	char second_name[PATH_MAX];
	char preload[PATH_MAX];
	char state[PATH_MAX];
	char log[PATH_MAX];
	char disabled[PATH_MAX];     // where this file exists, root's, the library is passive
	char source[PATH_MAX];       // --library: where install and update take the library from; "" not given
	int etc;                     // the directory that the lock is in, and the lock itself; -1: none
	int lock;
};

// Can the loader name a library in this directory? False: it has been said.
bool softmig_node_good_directory(const struct softmig_verb *verb, const char *directory);
// The paths below root ("": this system) for a library in directory.
void softmig_node_at(struct softmig_node *node, const char *root, const char *directory);

// A verb from its options to its exit status: --root and --directory, with_source also --library; then act, under the lock that keeps
// two softmigs apart. Returns act's status, or that of help, of wrong usage, of a caller who is not root.
int softmig_node_command(const struct softmig_verb *verb, int argc, char **argv, bool with_source, int (*act)(struct softmig_node *node));

// The source to install: --library, else the one that came with this softmig. NULL: there is none, and it has been said.
const char *softmig_node_source(const struct softmig_verb *verb, struct softmig_node *node);
// Copies the source beside the library, tries it, and puts it in the library's place. 0, else it has been said why not.
int softmig_node_place(const struct softmig_verb *verb, const struct softmig_node *node, const char *source);
// Makes the library's second name where nothing has that name. 0, else it has been said why not.
int softmig_node_name_again(const struct softmig_verb *verb, const struct softmig_node *node);

// How many limit files there are: jobs that live in slices now.
int softmig_node_slices(const struct softmig_node *node);

// ---- node_entry.c: the entry in /etc/ld.so.preload

// Is this entry the node's library, under this or another name?
bool softmig_node_is_ours(const struct softmig_node *node, const char *entry);
// /etc/ld.so.preload, read and found editable. 0, else it has been said why not.
int softmig_node_read_preload(const struct softmig_verb *verb, const struct softmig_node *node, struct softmig_file *file);
// An entry of the text that is another library of the same names, and so takes over the same functions. False: none.
bool softmig_node_has_rival(const struct softmig_node *node, const struct softmig_file *file, char entry[PATH_MAX]);
// Has the text an entry that is ours?
bool softmig_node_is_enabled(const struct softmig_node *node, const struct softmig_file *file);
// Takes every entry of ours out. 0, else it has been said why not. *was_enabled: there was one.
int softmig_node_disable(const struct softmig_verb *verb, const struct softmig_node *node, bool *was_enabled);
// The lines of help that the options of softmig_node_command need.
#define SOFTMIG_NODE_HELP \
	"  --root DIR        work on the system below DIR instead of this one (to prepare an image)\n" \
	"  --directory DIR   where the library lives on the node (default " SOFTMIG_LIBRARY_DIR ")\n"
#endif
