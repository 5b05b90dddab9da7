// SPDX-License-Identifier: Apache-2.0
// The text of /etc/ld.so.preload, as glibc's loader reads it: words apart by space, tab, colon or newline, '#' begins a
// comment anywhere, also inside a word. Owns: finding, adding and removing an entry without changing anything else.
// Must never: touch a file (files.h does), reorder, reformat or drop what others wrote.
#ifndef SOFTMIG_CLI_PRELOAD_TEXT_H
#define SOFTMIG_CLI_PRELOAD_TEXT_H
#include <stdbool.h>
#include <stddef.h>

// Steps through the entries in force. *position starts at 0. False: no more; else [*start, *end) is the next entry.
bool softmig_preload_next(const char *text, size_t length, size_t *position, size_t *start, size_t *end);

bool softmig_preload_has(const char *text, size_t length, const char *entry);

// May the text be edited at all? The loader stops at a NUL byte, so such a file is not what it seems.
bool softmig_preload_is_sane(const char *text, size_t length);
// May this be an entry? An absolute path without separators, '#' and control characters.
bool softmig_preload_can_enter(const char *entry);

// The text with the entry on a line of its own at the end; unchanged when it is there already. Removing it again gives
// exactly the text from before. Malloc'ed, *new_length bytes and a NUL; NULL when out of memory.
char *softmig_preload_add(const char *text, size_t length, const char *entry, size_t *new_length);
// The text without the entry, each time it occurs. A line that held nothing else goes with it.
char *softmig_preload_remove(const char *text, size_t length, const char *entry, size_t *new_length);
#endif
