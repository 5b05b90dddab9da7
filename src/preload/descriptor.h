// SPDX-License-Identifier: Apache-2.0
// File descriptors that stand for memory which this process has exported. As long as one is open anywhere and the exporter has let go of the memory,
// the driver shows it in no process's figure (docs/driver-facts.md), though it is there, and can be imported again. Nothing tells that a descriptor was
// closed, so they are looked at. Owns: which are open, and for which allocation. Must never: keep one open, take one off the program.
#ifndef SOFTMIG_PRELOAD_DESCRIPTOR_H
#define SOFTMIG_PRELOAD_DESCRIPTOR_H
#include <stdbool.h>
#include <stdint.h>

// fd stands for the allocation (a number of allocation.c's, or pool_export.c's) from now on, perhaps for others, too. False: it did already, or there is no memory to note it in.
bool softmig_descriptor_add(int fd, uint64_t allocation);
// fd has just been opened: forgets one that it stood for before, and returns it, as it was closed meanwhile. 0: none (any more).
uint64_t softmig_descriptor_reissued(int fd);
// The allocation that it stands for, one of them, if it has not been closed since, as far as can be told. 0: none of ours.
uint64_t softmig_descriptor_of(int fd);
// Is one open that stands for the allocation?
bool softmig_descriptor_is_open(uint64_t allocation);
// Tells files apart that are open at the same time, as far as can be told. 0: fd is closed.
uint64_t softmig_descriptor_identity(int fd);
// Forgets one that was closed; returns the allocation it stood for. 0: none.
uint64_t softmig_descriptor_closed(void);
#endif
