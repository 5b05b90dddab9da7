// SPDX-License-Identifier: Apache-2.0
// The report that is kept of a job: its user may write anything into it, and root reads it.
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/summary.h"
#include "fuzz.h"

static char folder[64], path[96];

static void remove_files(void) {
	unlink(path);
	rmdir(folder);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
	(void)count;
	(void)arguments;
	snprintf(folder, sizeof(folder), "%s/softmig-fuzz-report.%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
	         (int)getpid());
	CHECK(mkdir(folder, 0700) == 0);
	snprintf(path, sizeof(path), "%s/7.report", folder);
	atexit(remove_files);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	FILE *file = fopen(path, "w");
	CHECK(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
	struct softmig_summary summary;
	int error = softmig_summary_read(folder, 7, &summary);
	if (error != 0)
		return 0;
	CHECK(summary.job == 7 && summary.gpus >= 0 && summary.gpus <= SOFTMIG_MAX_GPUS);
	CHECK(summary.began_s <= summary.ended_s);
	for (int gpu = 0; gpu < summary.gpus; gpu++) {
		CHECK(summary.gpu[gpu].sm_pct >= 1 && summary.gpu[gpu].sm_pct <= 100);
		CHECK(softmig_summary_mean_permille(&summary, gpu) <= 1000);
	}
	CHECK(summary.points >= 0 && summary.points <= SOFTMIG_SERIES_READ);
	for (int i = 1; i < summary.points; i++)
		CHECK(softmig_series_follows(&summary.point[i - 1], &summary.point[i]));
	const char *suggestion = softmig_summary_suggestion(&summary);
	CHECK(suggestion != NULL && suggestion[0] != '\0');
	return 0;
}
