// SPDX-License-Identifier: Apache-2.0
// Where libsoftmig.so is. Owns: the places it is looked for, the LD_PRELOAD list. Must never: load it.
#ifndef SOFTMIG_CLI_LIBRARY_H
#define SOFTMIG_CLI_LIBRARY_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#define SOFTMIG_LIBRARY_NAME "libsoftmig.so"
#define SOFTMIG_LIBRARY_DIR "/var/lib/shared"
#define SOFTMIG_LIBRARY_PATH SOFTMIG_LIBRARY_DIR "/" SOFTMIG_LIBRARY_NAME

// The library that belongs to this softmig: beside the program (a build tree), in ../lib/softmig of it, or where it is
// installed. Writes its absolute path; false: in none of these places.
bool softmig_library_find(char path[PATH_MAX]);

// LD_PRELOAD with library in front of what is there already (NULL: nothing), in it once: an entry that is the same file is
// dropped. Returns malloc'ed text, NULL when out of memory.
char *softmig_library_preload(const char *library, const char *present);
#endif
