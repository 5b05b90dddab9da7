// SPDX-License-Identifier: Apache-2.0
// The log: silent towards the user. Owns: level, destination, one write per message. Must never: allocate, keep a
// descriptor, change errno, follow a link, obey the environment in a setuid program, write to stderr below level 3.
#ifndef SOFTMIG_SLICE_LOG_H
#define SOFTMIG_SLICE_LOG_H
#include <stdint.h>

// What a message is; the level at which the log file gets it (0: errors only .. 4: everything).
enum softmig_log_kind { SOFTMIG_LOG_ERROR = 0, SOFTMIG_LOG_WARN = 1, SOFTMIG_LOG_DEBUG = 2, SOFTMIG_LOG_INFO = 3, SOFTMIG_LOG_TRACE = 4 };

// Chooses the destination once: /var/log/softmig/{job}.log, outside Slurm pid{pid}.log; not writable: $SLURM_TMPDIR/softmig_{job}.log;
// SOFTMIG_LOG_FILE wins in either case (never in a setuid program). level: from the limits, -1: from the environment.
// Until it is called, messages go nowhere.
void softmig_log_init(uint64_t job, int level);
void softmig_log_set_level(int level);
int softmig_log_level(void);

// One line: time, pid, level, message. Opens, writes, closes. Async-signal-safe apart from its formatting (no %f, no locale).
void softmig_log(enum softmig_log_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif
