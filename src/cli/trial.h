// SPDX-License-Identifier: Apache-2.0
// Does a library do harm when it is in every process? Owns: trying it in scratch processes. Must never: leave one behind,
// print, change anything.
#ifndef SOFTMIG_CLI_TRIAL_H
#define SOFTMIG_CLI_TRIAL_H
#include <stdbool.h>
#include <stddef.h>

// Runs plain programs with the library in LD_PRELOAD (NULL: with whatever /etc/ld.so.preload gives them): output, exit status
// and the map of libraries must be right and stderr empty; also with closed descriptors, with few
// of them and, where everybody is set, as user nobody (who may have no way into a scratch root).
// False: why holds one sentence without a full stop about the first fault. Takes well under a second, at most 10 per program.
bool softmig_trial(const char *library, bool everybody, char *why, size_t why_size);
#endif
