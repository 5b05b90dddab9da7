// SPDX-License-Identifier: Apache-2.0
// A path of a system that lies below a directory of this one (an image that is being prepared). Owns: following its links as that
// system will: an absolute one (/var/run -> /run) leads to a place below the directory, not to this system's own.
#ifndef SOFTMIG_CLI_ROOT_PATH_H
#define SOFTMIG_CLI_ROOT_PATH_H
#include <limits.h>

// Writes where path lies, seen from here; what is not there yet is taken as it is written. root "" is this system: path itself. Empty
// where that is too long or the links go round: it cannot be opened, so whatever is tried fails with a message.
void softmig_root_path(const char *root, const char *path, char result[PATH_MAX]);
#endif
