// SPDX-License-Identifier: Apache-2.0
// softmig list: every slice on this node, by GPU.
#include "cli/cli.h"
#include "cli/units.h"
#include "cli/view_print.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const struct softmig_verb *const self = &softmig_verb_list;

// One slice on one GPU.
struct row {
	uint64_t job;
	uid_t uid;
	struct softmig_view_gpu gpu; // without a uuid: no process has used a GPU yet
	int processes;
	char *why; // not NULL: the slice cannot be shown
};

struct table {
	struct row *row;
	size_t count;
	bool short_of_memory;
};

static void add_row(struct table *table, const struct row *row)
{
	struct row *more = realloc(table->row, (table->count + 1) * sizeof *more);
	if (!more) {
		free(row->why);
		table->short_of_memory = true;
		return;
	}
	table->row = more;
	table->row[table->count++] = *row;
}

static int count_processes(const struct softmig_view *view, int gpu)
{
	int cursor = 0, count = 0;
	struct softmig_view_process process;
	while (softmig_view_next_process(view, &cursor, &process))
		count += gpu >= 0 && process.in_ledger.used_bytes[gpu] > 0;
	return count;
}

static void add_slice(void *context, enum softmig_view_status status, const struct softmig_view *view)
{
	struct table *table = context;
	struct row row = { .job = view->job, .uid = view->uid };
	if (status == SOFTMIG_VIEW_FAILED) {
		row.why = strdup(view->why);
		add_row(table, &row);
		return;
	}
	for (int i = 0; i < view->gpus; i++) {
		row.gpu = view->gpu[i];
		row.processes = count_processes(view, row.gpu.ledger);
		add_row(table, &row);
	}
	if (view->gpus == 0) {
		row.gpu = (struct softmig_view_gpu){ .ledger = -1, .limit_known = true };
		row.gpu.limit_bytes = view->limits.memory_bytes[0];
		row.gpu.sm_pct = view->limits.sm_pct[0];
		add_row(table, &row);
	}
}

// By GPU; slices without one after those, slices that cannot be shown last.
static int compare(const void *a, const void *b)
{
	const struct row *first = a, *second = b;
	if (!first->why != !second->why)
		return first->why ? 1 : -1;
	if (first->gpu.has_uuid != second->gpu.has_uuid)
		return first->gpu.has_uuid ? -1 : 1;
	int order = memcmp(first->gpu.uuid, second->gpu.uuid, sizeof first->gpu.uuid);
	return order ? order : (first->job > second->job) - (first->job < second->job);
}

static bool same_group(const struct row *a, const struct row *b)
{
	return !a->why == !b->why && a->gpu.has_uuid == b->gpu.has_uuid && memcmp(a->gpu.uuid, b->gpu.uuid, sizeof a->gpu.uuid) == 0;
}

static void print_heading(FILE *out, const struct row *row, size_t count)
{
	uint64_t memory_bytes = 0;
	unsigned sm_pct = 0;
	for (size_t i = 0; i < count; i++) {
		memory_bytes += row[i].gpu.limit_bytes;
		sm_pct += row[i].gpu.sm_pct;
	}
	fputs(softmig_cli_style(SOFTMIG_STYLE_BOLD), out);
	if (row->why)
		fputs("Slices that cannot be shown", out);
	else if (row->gpu.has_uuid)
		fprintf(out, "%s: %zu slice%s, limits of %s and %u %% in all", softmig_text_uuid(row->gpu.uuid).text, count, count == 1 ? "" : "s",
		       softmig_text_bytes(memory_bytes).text, sm_pct);
	else
		fputs("No GPU used yet", out);
	fprintf(out, "%s\n", softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	if (!row->why)
		fprintf(out, "  %10s  %-12s %11s %11s %11s %9s %8s %8s %10s\n", "JOB", "USER", "MEMORY", "LIMIT", "PEAK", "COMPUTE", "LIMIT",
		       "REFUSED", "PROCESSES");
}

static void print_row(FILE *out, const struct row *row)
{
	char job[24] = "-", limit[48] = "?", sm[8] = "?";
	if (row->job)
		snprintf(job, sizeof job, "%" PRIu64, row->job);
	if (row->why) {
		fprintf(out, "  %10s  %s\n", job, row->why);
		return;
	}
	if (row->gpu.limit_known) {
		snprintf(limit, sizeof limit, "%s", row->gpu.limit_bytes ? softmig_text_bytes(row->gpu.limit_bytes).text : "none");
		snprintf(sm, sizeof sm, "%u %%", row->gpu.sm_pct % 1000);
	}
	fprintf(out, "  %10s  %-12.12s %11s %11s %11s %9s %8s %8" PRIu64 " %10d\n", job, softmig_text_user(row->uid).text,
	       softmig_text_bytes(row->gpu.used_bytes).text, limit, softmig_text_bytes(row->gpu.peak_bytes).text,
	       softmig_text_permille(row->gpu.used_permille).text, sm, row->gpu.refusals, row->processes);
}

int softmig_list_print(FILE *out)
{
	struct table table = { 0 };
	if (softmig_view_all(add_slice, &table) == 0)
		fputs("No slices on this machine.\n", out);
	if (table.count > 0)
		qsort(table.row, table.count, sizeof *table.row, compare);
	for (size_t i = 0; i < table.count;) {
		size_t end = i + 1;
		while (end < table.count && same_group(&table.row[i], &table.row[end]))
			end++;
		if (i > 0)
			putc('\n', out);
		print_heading(out, &table.row[i], end - i);
		for (; i < end; i++) {
			print_row(out, &table.row[i]);
			free(table.row[i].why);
		}
	}
	free(table.row);
	return table.short_of_memory ? ENOMEM : 0;
}

static void add_json(void *context, enum softmig_view_status status, const struct softmig_view *view)
{
	softmig_view_json(context, NULL, status, view);
}

static int print_json(void)
{
	struct softmig_json json = { .out = stdout };
	softmig_json_open(&json, NULL, '{');
	softmig_json_open(&json, "slices", '[');
	softmig_view_all(add_json, &json);
	softmig_json_close(&json, ']');
	softmig_json_close(&json, '}');
	return SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { 0 } };
	bool as_json = false;
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		if (option == 'h')
			return SOFTMIG_EXIT_OK;
		if (option != 'j')
			return SOFTMIG_EXIT_USAGE;
		as_json = true;
	}
	if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	if (as_json)
		return print_json();
	return softmig_list_print(stdout) == 0 ? SOFTMIG_EXIT_OK : softmig_cli_fail(self, "memory is short, so slices are missing here");
}

const struct softmig_verb softmig_verb_list = {
	.name = "list",
	.arguments = "[--json]",
	.summary = "Show every slice on this machine by GPU",
	.help = "Options:\n"
	        "  --json      for scripts\n"
	        "  --help      this text\n\n"
	        "Root sees all slices: those of jobs, and those of softmig run and of LD_PRELOAD with limits in the environment.\n"
	        "Others see their own, and of other users' jobs that they exist.\n",
	.run = run,
};
