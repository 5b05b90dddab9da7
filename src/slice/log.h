// SPDX-License-Identifier: Apache-2.0
// The log: silent towards the user. Owns: level, destination, one write per message. Must never: allocate, keep a
// descriptor, change errno, follow a link, block, raise a signal, obey the environment in a setuid program, write to
// stderr below level 3.
#ifndef SOFTMIG_SLICE_LOG_H
#define SOFTMIG_SLICE_LOG_H
#include <stdint.h>

// What a message is; the level at which the log file gets it (0: errors only .. 4: everything).
enum softmig_log_kind {
	SOFTMIG_LOG_ERROR = 0,
	SOFTMIG_LOG_WARN = 1,
	SOFTMIG_LOG_DEBUG = 2,
	SOFTMIG_LOG_INFO = 3,
	SOFTMIG_LOG_TRACE = 4
};

#define SOFTMIG_LOG_DIR        "/var/log/softmig"
#define SOFTMIG_LOG_FILE_BYTES (16u << 20) // a log grows no further: /var/log is everybody's
#define SOFTMIG_LOG_LINE_BYTES 1024u       // a longer message is cut and ends in "..."

// Chooses the destination: /var/log/softmig/{job}.log (array element, by SLURM_ARRAY_TASK_ID: {job}_{task}.log),
// outside Slurm (job 0) pid{pid}.log; where that cannot be written $SLURM_TMPDIR/softmig_{job}.log, in a job only;
// SOFTMIG_LOG_FILE instead of all that. A setuid program (AT_SECURE) obeys no variable. level: from the limits, -1:
// SOFTMIG_LOG_LEVEL, else LIBCUDA_LOG_LEVEL, else 0. Creates no file. Until it is called, messages go nowhere. Not to
// be called while another thread logs.
void softmig_log_init(uint64_t job, int level);
// level -1: as the environment said at init.
void softmig_log_set_level(int level);
int softmig_log_level(void);

// One line: UTC time, pid, kind, message; control characters and bytes over 126 as \xHH. At level 3 and 4 the same to
// stderr. Opens, writes once, closes; a file that is a link, has a second one, is not regular, or (but for
// SOFTMIG_LOG_FILE) neither the caller's nor root's is refused; new ones get mode 0600. Safe in any thread, after fork,
// and in signal handlers; formats are softmig_format's.
void softmig_log(enum softmig_log_kind kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
#endif
