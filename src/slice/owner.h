// SPDX-License-Identifier: Apache-2.0
// Whose is a file, seen from inside a user namespace? Owns: telling the host's root from the namespace's. Must never: allocate,
// keep a descriptor, change errno.
#ifndef SOFTMIG_SLICE_OWNER_H
#define SOFTMIG_SLICE_OWNER_H
#include <sys/types.h>

// The uid that stat() gives in this process for files of the host's uid. For 0 in a user namespace that is the overflow uid
// (65534), since the host's root has no name there: what bears uid 0 there belongs to the user who made the namespace.
uid_t softmig_owner_here(uid_t uid);
#endif
