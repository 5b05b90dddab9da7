// SPDX-License-Identifier: Apache-2.0
// See summary.h.
#include "cli/summary.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/files.h"
#include "cli/units.h"
#include "slice/format.h"

static uint32_t clipped(uint64_t value)
{
	return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

// The samples, and how things stand now.
static void add_course(const struct softmig_view *view, struct softmig_summary *summary)
{
	uint64_t used_bytes = 0, busy_ns = 0, throttled_ns = 0;
	for (int i = 0; i < view->gpus; i++) {
		used_bytes += view->gpu[i].used_bytes;
		busy_ns += view->gpu[i].busy_ns;
		throttled_ns += view->gpu[i].throttled_ns;
	}
	struct softmig_series_point now = { .second = clipped(summary->ended_s - summary->began_s), .used_mib = clipped(used_bytes >> 20),
		                                .busy_ms = clipped(busy_ns / 1000000), .throttled_ms = clipped(throttled_ns / 1000000) };
	struct timespec clock;
	clock_gettime(CLOCK_MONOTONIC, &clock);
	summary->points = softmig_series_read(view->ledger, &now, (uint64_t)clock.tv_sec * 1000000000 + (uint64_t)clock.tv_nsec, summary->point);
}

void softmig_summary_of(const struct softmig_view *view, struct softmig_summary *summary)
{
	*summary = (struct softmig_summary){ .job = view->job, .uid = view->uid, .running = true, .gpus = view->gpus };
	summary->ended_s = (uint64_t)time(NULL);
	uint64_t created_ns = view->has_ledger ? atomic_load_explicit(&view->ledger->created_ns, memory_order_relaxed) : 0;
	// The ledger is its user's to scribble in.
	summary->began_s = created_ns && created_ns / 1000000000 <= summary->ended_s ? created_ns / 1000000000 : summary->ended_s;
	for (int i = 0; i < view->gpus; i++) {
		const struct softmig_view_gpu *from = &view->gpu[i];
		struct softmig_summary_gpu *to = &summary->gpu[i];
		*to = (struct softmig_summary_gpu){ .used = from->ledger >= 0, .limit_bytes = from->limit_bytes, .peak_bytes = from->peak_bytes,
			                            .refusals = from->refusals, .sm_pct = from->sm_pct, .busy_ns = from->busy_ns,
			                            .throttled_ns = from->throttled_ns };
		memcpy(to->uuid, from->uuid, sizeof to->uuid);
	}
	if (view->has_ledger)
		add_course(view, summary);
}

// ---- The file. A user's own figures in a user's own file: reading trusts none of it.

struct field {
	const char *name;
	uint64_t *value;
};

// Both directions go over the same lists, so that what is written is what is read.
enum { JOB_FIELDS = 5, GPU_FIELDS = 7 };

static void job_fields(struct softmig_summary *summary, uint64_t *gpus, struct field fields[JOB_FIELDS])
{
	const struct field list[JOB_FIELDS] = {
		{ "job", &summary->job }, { "uid", &summary->uid }, { "began_s", &summary->began_s }, { "ended_s", &summary->ended_s }, { "gpus", gpus },
	};
	memcpy(fields, list, sizeof list);
}

static void gpu_fields(struct softmig_summary_gpu *gpu, uint64_t *used, uint64_t *sm_pct, struct field fields[GPU_FIELDS])
{
	const struct field list[GPU_FIELDS] = {
		{ "used", used },         { "limit_bytes", &gpu->limit_bytes }, { "peak_bytes", &gpu->peak_bytes }, { "refusals", &gpu->refusals },
		{ "sm_pct", sm_pct },     { "busy_ns", &gpu->busy_ns },         { "throttled_ns", &gpu->throttled_ns },
	};
	memcpy(fields, list, sizeof list);
}

static void print(FILE *out, struct softmig_summary *summary)
{
	struct field fields[GPU_FIELDS > JOB_FIELDS ? GPU_FIELDS : JOB_FIELDS];
	uint64_t gpus = (uint64_t)summary->gpus;
	job_fields(summary, &gpus, fields);
	for (int i = 0; i < JOB_FIELDS; i++)
		fprintf(out, "%s=%" PRIu64 "\n", fields[i].name, *fields[i].value);
	for (int gpu = 0; gpu < summary->gpus; gpu++) {
		uint64_t used = summary->gpu[gpu].used, sm_pct = summary->gpu[gpu].sm_pct;
		gpu_fields(&summary->gpu[gpu], &used, &sm_pct, fields);
		fprintf(out, "gpu%d_uuid=%s\n", gpu, softmig_text_uuid(summary->gpu[gpu].uuid).text);
		for (int i = 0; i < GPU_FIELDS; i++)
			fprintf(out, "gpu%d_%s=%" PRIu64 "\n", gpu, fields[i].name, *fields[i].value);
	}
	for (int i = 0; i < summary->points; i++)
		fprintf(out, "point=%" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "\n", summary->point[i].second, summary->point[i].used_mib,
		        summary->point[i].busy_ms, summary->point[i].throttled_ms);
}

static bool path_of(const char *directory, uint64_t job, char path[PATH_MAX])
{
	return snprintf(path, PATH_MAX, "%s/%" PRIu64 ".report", directory, job) < PATH_MAX;
}

int softmig_summary_keep(const char *directory, uint64_t job)
{
	struct softmig_view view;
	struct softmig_summary summary;
	char path[PATH_MAX], *text = NULL;
	size_t length = 0;
	enum softmig_view_status status = softmig_view_job(&view, job);
	bool worth = status == SOFTMIG_VIEW_OK && view.has_ledger;
	if (worth)
		softmig_summary_of(&view, &summary);
	softmig_view_free(&view);
	if (!worth)
		return 0;
	FILE *out = open_memstream(&text, &length);
	int error = out ? 0 : ENOMEM;
	if (out) {
		print(out, &summary);
		error = fclose(out) == 0 ? 0 : errno;
	}
	struct softmig_file model = { .exists = true };
	model.status.st_uid = (uid_t)summary.uid;
	model.status.st_gid = getegid();
	model.status.st_mode = 0600;
	if (!error)
		error = softmig_directory_make(directory, 0755);
	if (!error)
		error = path_of(directory, job, path) ? softmig_file_replace(path, text, length, &model) : ENAMETOOLONG;
	free(text);
	return error;
}

// The value of KEY=, digits alone. False: not there.
static bool find(const char *text, const char *key, uint64_t *value)
{
	size_t length = strlen(key);
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
		if (strncmp(line, key, length) == 0 && line[length] == '=')
			return softmig_parse_decimal(line + length + 1, strcspn(line + length + 1, "\n"), UINT64_MAX, value);
	return false;
}

static bool find_uuid(const char *text, int gpu, uint8_t uuid[16])
{
	char key[32];
	int length = snprintf(key, sizeof key, "gpu%d_uuid=", gpu);
	const char *line = strstr(text, key);
	return line && softmig_limits_parse_uuid(line + length, strcspn(line + length, "\n"), uuid);
}

static bool parse_gpu(const char *text, int gpu, struct softmig_summary_gpu *to)
{
	struct field fields[GPU_FIELDS];
	uint64_t used = 0, sm_pct = 0;
	bool good = find_uuid(text, gpu, to->uuid);
	gpu_fields(to, &used, &sm_pct, fields);
	for (int i = 0; good && i < GPU_FIELDS; i++) {
		char key[48];
		snprintf(key, sizeof key, "gpu%d_%s", gpu, fields[i].name);
		good = find(text, key, fields[i].value);
	}
	to->used = used != 0;
	to->sm_pct = (unsigned)sm_pct;
	return good && sm_pct >= 1 && sm_pct <= 100;
}

static bool parse_point(const char *text, struct softmig_series_point *point)
{
	uint32_t *const values[] = { &point->second, &point->used_mib, &point->busy_ms, &point->throttled_ms };
	for (int i = 0; i < 4; i++) {
		uint64_t value;
		size_t length = strcspn(text, " \n");
		if (text[length] != (i < 3 ? ' ' : '\n') || !softmig_parse_decimal(text, length, UINT32_MAX, &value))
			return false;
		*values[i] = (uint32_t)value;
		text += length + 1;
	}
	return true;
}

// Lines point=SECOND MIB BUSY_MS THROTTLED_MS; reports of before have none.
static bool parse_course(const char *text, struct softmig_summary *summary)
{
	for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		if (strncmp(line, "point=", 6) != 0)
			continue;
		int at = summary->points;
		if (at == SOFTMIG_SERIES_READ || !parse_point(line + 6, &summary->point[at]) ||
		    (at > 0 && !softmig_series_follows(&summary->point[at - 1], &summary->point[at])))
			return false;
		summary->points++;
	}
	return true;
}

static bool parse(const char *text, struct softmig_summary *summary)
{
	struct field fields[JOB_FIELDS];
	uint64_t gpus = 0;
	bool good = true;
	job_fields(summary, &gpus, fields);
	for (int i = 0; good && i < JOB_FIELDS; i++)
		good = find(text, fields[i].name, fields[i].value);
	good = good && gpus <= SOFTMIG_MAX_GPUS && summary->began_s <= summary->ended_s;
	summary->gpus = good ? (int)gpus : 0;
	for (int gpu = 0; good && gpu < summary->gpus; gpu++)
		good = parse_gpu(text, gpu, &summary->gpu[gpu]);
	return good && parse_course(text, summary);
}

int softmig_summary_read(const char *directory, uint64_t job, struct softmig_summary *summary)
{
	char path[PATH_MAX];
	struct softmig_file file;
	*summary = (struct softmig_summary){ 0 };
	int error = path_of(directory, job, path) ? softmig_file_read(path, &file) : ENAMETOOLONG;
	if (error)
		return error;
	if (!file.exists)
		error = ENOENT;
	else if (!parse(file.text, summary) || summary->job != job)
		error = EINVAL;
	softmig_file_free(&file);
	return error;
}

// ---- What to make of it

unsigned softmig_summary_mean_permille(const struct softmig_summary *summary, int gpu)
{
	uint64_t seconds = summary->ended_s - summary->began_s;
	double share = seconds ? (double)summary->gpu[gpu].busy_ns / ((double)seconds * 1e9) : 0;
	return share >= 1 ? 1000 : (unsigned)(share * 1000 + 0.5);
}

// What speaks loudest first: a job that failed for lack of memory, then one that waited, then one that wasted.
const char *softmig_summary_suggestion(const struct softmig_summary *summary)
{
	bool used = false, refused = false, waited = false, small_memory = true, small_share = true;
	uint64_t seconds = summary->ended_s - summary->began_s;
	for (int i = 0; i < summary->gpus; i++) {
		const struct softmig_summary_gpu *gpu = &summary->gpu[i];
		used |= gpu->used && gpu->peak_bytes > 0;
		refused |= gpu->refusals > 0;
		// Busy for nearly all of its share, and kept waiting: it would have gone faster with more.
		waited |= gpu->sm_pct < 100 && softmig_summary_mean_permille(summary, i) >= gpu->sm_pct * 8 && gpu->throttled_ns / 1000000000 > seconds / 10;
		small_memory &= gpu->limit_bytes > 0 && gpu->peak_bytes < gpu->limit_bytes / 10 * 4;
		small_share &= softmig_summary_mean_permille(summary, i) < gpu->sm_pct * 4;
	}
	if (!used)
		return "the job never used its GPU: request none";
	if (refused)
		return "memory was refused: request a larger slice, or smaller batches if the job coped";
	if (waited)
		return "compute time was the limit: a larger slice would have been faster";
	if (small_memory && small_share)
		return "a slice of half the size would have been enough";
	return "the slice fitted the job";
}
