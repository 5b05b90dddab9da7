// SPDX-License-Identifier: Apache-2.0
// A lock that keeps two runs of softmig apart and that no other user can hold: a file that its owner alone can open, there as long
// as somebody has the lock. A directory would not do: whoever may read one may lock it, and stop every job of the node.
#ifndef SOFTMIG_CLI_LOCK_H
#define SOFTMIG_CLI_LOCK_H

// Takes the lock called name in directory, waiting for whoever has it. A descriptor, or -1 with errno (EPERM: the file that is
// there is not ours alone).
int softmig_lock_take(int directory, const char *name);
// Gives it back; the file goes. What a killed softmig leaves is the next one's.
void softmig_lock_give_back(int directory, const char *name, int lock);
#endif
