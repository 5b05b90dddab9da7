// SPDX-License-Identifier: Apache-2.0
// softmig metrics: every slice of the node as Prometheus text, for the node exporter's textfile collector.
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/units.h"
#include "cli/view.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct softmig_verb *const self = &softmig_verb_metrics;

// The format wants all samples of one metric together, so each metric walks over what was gathered first.
struct sample {
	uint64_t job;
	char user[48];
	struct softmig_view_gpu gpu;
	int processes;
};

struct gathered {
	struct sample *sample;
	size_t count;
	size_t failed;
	bool short_of_memory;
};

static void gather(void *context, enum softmig_view_status status, const struct softmig_view *view)
{
	struct gathered *all = context;
	if (status != SOFTMIG_VIEW_OK) {
		all->failed++;
		return;
	}
	for (int i = 0; i < view->gpus; i++) {
		struct sample *more = realloc(all->sample, (all->count + 1) * sizeof *more);
		if (!more) {
			all->short_of_memory = true;
			return;
		}
		all->sample = more;
		struct sample *sample = &all->sample[all->count++];
		*sample = (struct sample){ .job = view->job, .gpu = view->gpu[i] };
		snprintf(sample->user, sizeof sample->user, "%s", softmig_text_user(view->uid).text);
		int cursor = 0;
		struct softmig_view_process process;
		while (softmig_view_next_process(view, &cursor, &process))
			sample->processes += sample->gpu.ledger >= 0 && process.in_ledger.used_bytes[sample->gpu.ledger] > 0;
	}
}

enum metric { MEMORY_LIMIT, MEMORY_USED, MEMORY_PEAK, REFUSALS, SM_LIMIT, SM_USED, BUSY, THROTTLED, PROCESSES, METRICS };

static const struct description {
	const char *name;
	const char *type;
	const char *help;
} descriptions[METRICS] = {
	[MEMORY_LIMIT] = { "softmig_memory_limit_bytes", "gauge", "Memory of the slice on this GPU, absent without a limit" },
	[MEMORY_USED] = { "softmig_memory_used_bytes", "gauge", "Memory that the slice's processes hold on this GPU" },
	[MEMORY_PEAK] = { "softmig_memory_peak_bytes", "gauge", "The most memory that the slice has held on this GPU" },
	[REFUSALS] = { "softmig_memory_refusals_total", "counter", "Requests for memory that the limit refused" },
	[SM_LIMIT] = { "softmig_compute_limit_ratio", "gauge", "Share of this GPU's compute time that the slice may use" },
	[SM_USED] = { "softmig_compute_used_ratio", "gauge", "Share of this GPU's compute time used over the last seconds" },
	[BUSY] = { "softmig_compute_busy_seconds_total", "counter", "GPU time used" },
	[THROTTLED] = { "softmig_compute_throttled_seconds_total", "counter", "Time that launches waited for the slice's share" },
	[PROCESSES] = { "softmig_processes", "gauge", "Processes of the slice that hold memory on this GPU" },
};

// False: this sample has no such value.
static bool format_value(const struct sample *sample, enum metric metric, char value[32])
{
	const struct softmig_view_gpu *gpu = &sample->gpu;
	uint64_t whole = 0;
	double fraction = -1;
	switch (metric) {
	case MEMORY_LIMIT:
		if (!gpu->limit_known || gpu->limit_bytes == 0)
			return false;
		whole = gpu->limit_bytes;
		break;
	case MEMORY_USED:
		whole = gpu->used_bytes;
		break;
	case MEMORY_PEAK:
		whole = gpu->peak_bytes;
		break;
	case REFUSALS:
		whole = gpu->refusals;
		break;
	case SM_LIMIT:
		if (!gpu->limit_known)
			return false;
		fraction = gpu->sm_pct / 100.0;
		break;
	case SM_USED:
		fraction = gpu->used_permille / 1000.0;
		break;
	case BUSY:
		fraction = (double)gpu->busy_ns / 1e9;
		break;
	case THROTTLED:
		fraction = (double)gpu->throttled_ns / 1e9;
		break;
	case PROCESSES:
		whole = (uint64_t)sample->processes;
		break;
	case METRICS:
		return false;
	}
	if (fraction < 0)
		snprintf(value, 32, "%" PRIu64, whole);
	else
		snprintf(value, 32, "%.3f", fraction);
	return true;
}

// A user's name may hold anything but a colon and a newline; the format knows three escapes.
static void print_label(FILE *out, const char *value)
{
	for (; *value; value++) {
		if (*value == '"' || *value == '\\')
			putc('\\', out);
		putc(*value == '\n' ? ' ' : *value, out);
	}
}

static void print_metric(FILE *out, const struct gathered *all, enum metric metric)
{
	char value[32];
	const struct description *about = &descriptions[metric];
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", about->name, about->help, about->name, about->type);
	for (size_t i = 0; i < all->count; i++) {
		const struct sample *sample = &all->sample[i];
		if (sample->job == 0 || !format_value(sample, metric, value)) // runs have no name that is the same next time
			continue;
		fprintf(out, "%s{job=\"%" PRIu64 "\",user=\"", about->name, sample->job);
		print_label(out, sample->user);
		fprintf(out, "\",uuid=\"%s\"} %s\n", softmig_text_uuid(sample->gpu.uuid).text, value);
	}
}

static void print(FILE *out, const struct gathered *all)
{
	for (enum metric metric = 0; metric < METRICS; metric++)
		print_metric(out, all, metric);
	fprintf(out,
	        "# HELP softmig_slices_unreadable Slices whose limits or ledger could not be read\n"
	        "# TYPE softmig_slices_unreadable gauge\nsoftmig_slices_unreadable %zu\n",
	        all->failed);
}

// The collector may read at any moment: it gets the old file or the new one.
static int write_file(const struct gathered *all, const char *path)
{
	char *text = NULL;
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	if (out) {
		print(out, all);
		fclose(out);
	}
	struct softmig_file anew = { .exists = false };
	int error = out ? softmig_file_replace(path, text, length, &anew) : ENOMEM;
	free(text);
	return error ? softmig_cli_fail(self, "%s cannot be written: %s", path, softmig_file_why(error)) : SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = { { "output", required_argument, NULL, 'o' }, { 0 } };
	const char *path = NULL;
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		if (option == 'h')
			return SOFTMIG_EXIT_OK;
		if (option != 'o')
			return SOFTMIG_EXIT_USAGE;
		path = optarg;
	}
	if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	struct gathered all = { 0 };
	softmig_view_all(gather, &all);
	int status = SOFTMIG_EXIT_OK;
	if (all.short_of_memory)
		status = softmig_cli_fail(self, "memory is short");
	else if (path)
		status = write_file(&all, path);
	else
		print(stdout, &all);
	free(all.sample);
	return status;
}

const struct softmig_verb softmig_verb_metrics = {
	.name = "metrics",
	.arguments = "[--output FILE]",
	.summary = "Write the node's slices as Prometheus metrics",
	.help = "Options:\n"
	        "  --output FILE   write to FILE by a rename, for the node exporter's textfile collector\n"
	        "  --help          this text\n\n"
	        "One sample per job and GPU. For root, from a timer, once or a few times a minute.\n",
	.run = run,
};
