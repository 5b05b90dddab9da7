// SPDX-License-Identifier: Apache-2.0
// Where libsoftmig.so and its files are. Owns: the places the library is looked for, the LD_PRELOAD list. Must never: load it.
#ifndef SOFTMIG_CLI_LIBRARY_H
#define SOFTMIG_CLI_LIBRARY_H
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#define SOFTMIG_LIBRARY_NAME "libsoftmig.so"
#define SOFTMIG_LIBRARY_DIR "/var/lib/shared"
#define SOFTMIG_LIBRARY_SECOND_NAME "libvgpu.so" // what existing container set-ups preload
#define SOFTMIG_LIBRARY_PATH SOFTMIG_LIBRARY_DIR "/" SOFTMIG_LIBRARY_NAME
#define SOFTMIG_LOG_DIR "/var/log/softmig"
#define SOFTMIG_DISABLED_PATH "/etc/softmig/disabled"

// The library that came with this softmig: beside the program (a build tree) or in ../lib/softmig of it (a package). Writes its
// absolute path; false: in neither place.
bool softmig_library_came_with(char path[PATH_MAX]);
// The library to run programs with: a build tree's own; else the installed one, which may be in every process already; else
// the package's. False: none.
bool softmig_library_find(char path[PATH_MAX]);

// Is the library switched off by this file (SOFTMIG_DISABLED_PATH, or where that is below another root)? preload/mode.c decides so.
bool softmig_library_is_disabled(const char *path);

// Takes every limit of memory and compute time out of this process's environment.
void softmig_library_drop_limits(void);

// LD_PRELOAD with library in front of what is there already (NULL: nothing), in it once: an entry that is the same file is
// dropped. Returns malloc'ed text, NULL when out of memory.
char *softmig_library_preload(const char *library, const char *present);
#endif
