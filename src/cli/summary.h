// SPDX-License-Identifier: Apache-2.0
// What a job did with its slice, kept after the slice is gone. Owns: the figures and the file SOFTMIG_LOG_DIR/JOB.report (KEY=VALUE
// lines, the job's user's, mode 0600, in root's directory). Must never: stop a slice from being deleted.
#ifndef SOFTMIG_CLI_SUMMARY_H
#define SOFTMIG_CLI_SUMMARY_H
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "cli/view.h"
#include "slice/series.h"

struct softmig_summary_gpu {
	uint8_t uuid[16];
	bool used;            // some process used it
	uint64_t limit_bytes; // 0: none
	uint64_t peak_bytes;
	uint64_t refusals;
	unsigned sm_pct;      // 100: none
	uint64_t busy_ns;
	uint64_t throttled_ns;
};

struct softmig_summary {
	uint64_t job;
	uint64_t uid;
	uint64_t began_s, ended_s; // CLOCK_REALTIME; ended_s is now while the job runs
	bool running;
	int gpus;
	struct softmig_summary_gpu gpu[SOFTMIG_MAX_GPUS];
	int points;                // of its course in time, the last one of ended_s
	struct softmig_series_point point[SOFTMIG_SERIES_READ];
};

// Of a slice that there is.
void softmig_summary_of(const struct softmig_view *view, struct softmig_summary *summary);
// Before the slice of job is removed: writes its report into directory. 0 (also when there is nothing to tell) or errno.
int softmig_summary_keep(const char *directory, uint64_t job);
// 0, ENOENT: there is none, EINVAL: it cannot be understood, ...
int softmig_summary_read(const char *directory, uint64_t job, struct softmig_summary *summary);

// The mean share of the GPU's time in thousandths, from began_s to ended_s.
unsigned softmig_summary_mean_permille(const struct softmig_summary *summary, int gpu);
// One sentence for the user's next request, without a full stop.
const char *softmig_summary_suggestion(const struct softmig_summary *summary);
#endif
