// SPDX-License-Identifier: Apache-2.0
// Passive or sliced: decided once per process, at its first use of the driver. Owns: that decision, the limits in force and
// the ledger. Must never: do anything before the driver is reached; let a variable of the user override root's limit file.
#ifndef SOFTMIG_PRELOAD_MODE_H
#define SOFTMIG_PRELOAD_MODE_H
#include <stdbool.h>
#include <stdint.h>

#include "slice/ledger.h"
#include "slice/limits.h"

enum softmig_mode {
	SOFTMIG_MODE_PASSIVE, // no limits: the library is out of the picture
	SOFTMIG_MODE_SLICE,
	SOFTMIG_MODE_REFUSED, // there are limits, but not to be understood or kept: no usable GPU
};

// Root's switch for a whole node: while this file exists and is root's, every process that starts is passive.
#define SOFTMIG_DISABLED_FILE "/etc/softmig/disabled"

// Decides at the first call. Thread-safe.
enum softmig_mode softmig_mode(void);
// Already decided, and passive? Never decides.
bool softmig_mode_known_passive(void);
// Does the slice name a compute share, so that launches are hooked?
bool softmig_mode_has_share(void);
// The limits in force, a changed limit file picked up within a second. Valid for at least a second. Only in a slice.
const struct softmig_limits *softmig_limits_now(void);
// The job's ledger. Only in a slice, where it is always open.
extern struct softmig_ledger softmig_the_ledger;
static inline struct softmig_ledger *softmig_ledger_now(void)
{
	return &softmig_the_ledger;
}
// The Slurm job, 0 outside.
uint64_t softmig_mode_job(void);
// Do the limits come from root's file?
bool softmig_mode_from_file(void);
#endif
