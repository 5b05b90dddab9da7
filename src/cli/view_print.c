// SPDX-License-Identifier: Apache-2.0
// See view_print.h.
#include "cli/view_print.h"

#include <inttypes.h>
#include <sys/types.h>

#include "cli/cli.h"
#include "cli/units.h"

static uint64_t left_bytes(const struct softmig_view_gpu *gpu)
{
	return gpu->used_bytes < gpu->limit_bytes ? gpu->limit_bytes - gpu->used_bytes : 0;
}

static bool has_processes(const struct softmig_view *view)
{
	int cursor = 0;
	struct softmig_view_process process;
	return softmig_view_next_process(view, &cursor, &process);
}

// ---- For people

static void print_title(FILE *out, const struct softmig_view *view)
{
	fputs(softmig_cli_style(SOFTMIG_STYLE_BOLD), out);
	if (view->job)
		fprintf(out, "Slice of job %" PRIu64, view->job);
	else
		fprintf(out, "Slice");
	fprintf(out, ", user %s%s\n", softmig_text_user(view->uid).text, softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	fprintf(out, "Limits from %s%s%s\n\n", view->from_file ? view->source : *view->source ? "the environment, " : "the environment",
	        view->from_file ? "" : view->source, view->limits.share_mode == SOFTMIG_SHARE_BORROW ? "; borrows what neighbours leave idle" : "");
}

static void print_memory(FILE *out, const struct softmig_view_gpu *gpu)
{
	fprintf(out, "  memory   %s", softmig_text_bytes(gpu->used_bytes).text);
	if (!gpu->limit_known)
		fputs(" used, the limit differs from GPU to GPU", out);
	else if (gpu->limit_bytes == 0)
		fputs(" used, no limit", out);
	else
		fprintf(out, " of %s used, %s%s left%s", softmig_text_bytes(gpu->limit_bytes).text,
		        softmig_cli_style(left_bytes(gpu) < gpu->limit_bytes / 20 ? SOFTMIG_STYLE_WARN : SOFTMIG_STYLE_PLAIN),
		        softmig_text_bytes(left_bytes(gpu)).text, softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	fprintf(out, "; peak %s, %" PRIu64 " request%s refused\n", softmig_text_bytes(gpu->peak_bytes).text, gpu->refusals,
	        gpu->refusals == 1 ? "" : "s");
}

static void print_compute(FILE *out, const struct softmig_view_gpu *gpu)
{
	fprintf(out, "  compute  %s used", softmig_text_permille(gpu->used_permille).text);
	if (gpu->limit_known && gpu->sm_pct < 100)
		fprintf(out, " of %u %%", gpu->sm_pct);
	else if (gpu->limit_known)
		fputs(", no limit", out);
	fprintf(out, "; GPU time %s, throttled %s\n", softmig_text_duration(gpu->busy_ns).text, softmig_text_duration(gpu->throttled_ns).text);
}

static void print_processes(FILE *out, const struct softmig_view *view)
{
	int cursor = 0;
	struct softmig_view_process process;
	fprintf(out, "\n%s%9s  %-16s %4s %11s %11s %12s %12s%s\n", softmig_cli_style(SOFTMIG_STYLE_BOLD), "PID", "PROCESS", "GPU", "MEMORY",
	        "OVERHEAD", "GPU TIME", "THROTTLED", softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	while (softmig_view_next_process(view, &cursor, &process)) {
		const struct softmig_ledger_process *figures = &process.in_ledger;
		for (int i = 0; i < view->gpus; i++) {
			int gpu = view->gpu[i].ledger;
			if (gpu < 0 || (figures->used_bytes[gpu] == 0 && figures->busy_ns[gpu] == 0 && view->gpus > 1))
				continue;
			fprintf(out, "%9d  %-16.16s %4d %11s %11s %12s %12s\n", (int)figures->pid, process.name, i,
			        softmig_text_bytes(figures->used_bytes[gpu]).text, softmig_text_bytes(figures->overhead_bytes[gpu]).text,
			        softmig_text_duration(figures->busy_ns[gpu]).text, softmig_text_duration(figures->throttled_ns[gpu]).text);
		}
	}
}

static void print_plain_limits(FILE *out, const struct softmig_limits *limits)
{
	fprintf(out, "No process of this slice has used a GPU yet. Each GPU: memory %s, compute ",
	        limits->memory_bytes[0] ? softmig_text_bytes(limits->memory_bytes[0]).text : "without limit");
	if (limits->sm_pct[0] < 100)
		fprintf(out, "%u %%.\n", limits->sm_pct[0]);
	else
		fputs("without limit.\n", out);
}

void softmig_view_print(FILE *out, const struct softmig_view *view)
{
	print_title(out, view);
	if (view->gpus == 0)
		print_plain_limits(out, &view->limits);
	for (int i = 0; i < view->gpus; i++) {
		fprintf(out, "GPU %d, %s\n", i, softmig_text_uuid(view->gpu[i].uuid).text);
		print_memory(out, &view->gpu[i]);
		print_compute(out, &view->gpu[i]);
	}
	if (has_processes(view))
		print_processes(out, view);
	else if (view->gpus > 0)
		fputs("\nNo process of this slice uses a GPU now.\n", out);
}

// ---- For scripts

static double seconds(uint64_t ns)
{
	return (double)ns / 1e9;
}

static void gpu_json(struct softmig_json *json, const struct softmig_view_gpu *gpu)
{
	softmig_json_open(json, NULL, '{');
	softmig_json_string(json, "uuid", softmig_text_uuid(gpu->uuid).text);
	if (gpu->limit_known && gpu->limit_bytes > 0) {
		softmig_json_number(json, "memory_limit_bytes", gpu->limit_bytes);
		softmig_json_number(json, "memory_left_bytes", left_bytes(gpu));
	} else {
		softmig_json_null(json, "memory_limit_bytes");
		softmig_json_null(json, "memory_left_bytes");
	}
	softmig_json_number(json, "memory_used_bytes", gpu->used_bytes);
	softmig_json_number(json, "memory_peak_bytes", gpu->peak_bytes);
	softmig_json_number(json, "refusals", gpu->refusals);
	if (gpu->limit_known)
		softmig_json_number(json, "sm_limit_pct", gpu->sm_pct);
	else
		softmig_json_null(json, "sm_limit_pct");
	softmig_json_decimal(json, "sm_used_pct", gpu->used_permille / 10.0);
	softmig_json_decimal(json, "busy_seconds", seconds(gpu->busy_ns));
	softmig_json_decimal(json, "throttled_seconds", seconds(gpu->throttled_ns));
	softmig_json_close(json, '}');
}

static void process_json(struct softmig_json *json, const struct softmig_view *view, const struct softmig_view_process *process)
{
	softmig_json_open(json, NULL, '{');
	softmig_json_number(json, "pid", (uint64_t)process->in_ledger.pid);
	softmig_json_string(json, "name", process->name);
	softmig_json_open(json, "gpus", '[');
	for (int i = 0; i < view->gpus; i++) {
		int gpu = view->gpu[i].ledger;
		if (gpu < 0)
			continue;
		softmig_json_open(json, NULL, '{');
		softmig_json_string(json, "uuid", softmig_text_uuid(view->gpu[i].uuid).text);
		softmig_json_number(json, "memory_used_bytes", process->in_ledger.used_bytes[gpu]);
		softmig_json_number(json, "memory_overhead_bytes", process->in_ledger.overhead_bytes[gpu]);
		softmig_json_number(json, "memory_peak_bytes", process->in_ledger.peak_bytes[gpu]);
		softmig_json_decimal(json, "busy_seconds", seconds(process->in_ledger.busy_ns[gpu]));
		softmig_json_decimal(json, "throttled_seconds", seconds(process->in_ledger.throttled_ns[gpu]));
		softmig_json_close(json, '}');
	}
	softmig_json_close(json, ']');
	softmig_json_close(json, '}');
}

static void figures_json(struct softmig_json *json, const struct softmig_view *view)
{
	softmig_json_string(json, "share_mode", view->limits.share_mode == SOFTMIG_SHARE_BORROW ? "borrow" : "cap");
	softmig_json_bool(json, "oom_killer", view->limits.oom_killer);
	softmig_json_open(json, "gpus", '[');
	for (int i = 0; i < view->gpus; i++)
		gpu_json(json, &view->gpu[i]);
	softmig_json_close(json, ']');
	softmig_json_open(json, "processes", '[');
	int cursor = 0;
	struct softmig_view_process process;
	while (softmig_view_next_process(view, &cursor, &process))
		process_json(json, view, &process);
	softmig_json_close(json, ']');
}

void softmig_view_json(struct softmig_json *json, const char *key, enum softmig_view_status status, const struct softmig_view *view)
{
	softmig_json_open(json, key, '{');
	if (view->job)
		softmig_json_number(json, "job", view->job);
	else
		softmig_json_null(json, "job");
	softmig_json_string(json, "limits_from", view->from_file ? "file" : "environment");
	softmig_json_string(json, "limits_path", *view->source ? view->source : NULL);
	softmig_json_string(json, "ledger_path", *view->ledger_path ? view->ledger_path : NULL);
	if (view->uid == (uid_t)-1) {
		softmig_json_null(json, "uid");
		softmig_json_null(json, "user");
	} else {
		softmig_json_number(json, "uid", view->uid);
		softmig_json_string(json, "user", softmig_text_user(view->uid).text);
	}
	softmig_json_string(json, "error", status == SOFTMIG_VIEW_OK ? NULL : view->why);
	if (status == SOFTMIG_VIEW_OK)
		figures_json(json, view);
	softmig_json_close(json, '}');
}
