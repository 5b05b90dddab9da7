// SPDX-License-Identifier: Apache-2.0
// softmig report: what a job did with its slice, while it runs and after it.
#include "cli/cli.h"
#include "cli/json.h"
#include "cli/library.h"
#include "cli/plot.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "slice/job.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

static const struct softmig_verb *const self = &softmig_verb_report;

static void print_text(const struct softmig_summary *summary)
{
	char began[32] = "?";
	time_t seconds = (time_t)summary->began_s;
	struct tm local;
	if (localtime_r(&seconds, &local))
		strftime(began, sizeof began, "%Y-%m-%d %H:%M:%S", &local);
	printf("%sJob %" PRIu64 ", user %s%s\n", softmig_cli_style(SOFTMIG_STYLE_BOLD), summary->job, softmig_text_user((uid_t)summary->uid).text,
	       softmig_cli_style(SOFTMIG_STYLE_PLAIN));
	printf("From %s, %s %s\n\n", began, summary->running ? "running for" : "for",
	       softmig_text_duration((summary->ended_s - summary->began_s) * 1000000000u).text);
	for (int i = 0; i < summary->gpus; i++) {
		const struct softmig_summary_gpu *gpu = &summary->gpu[i];
		printf("GPU %d, %s\n", i, softmig_text_uuid(gpu->uuid).text);
		printf("  memory   peak %s of %s; %" PRIu64 " request%s refused\n", softmig_text_bytes(gpu->peak_bytes).text,
		       gpu->limit_bytes ? softmig_text_bytes(gpu->limit_bytes).text : "an unlimited slice", gpu->refusals, gpu->refusals == 1 ? "" : "s");
		printf("  compute  mean %s of %u %%; GPU time %s, throttled %s\n", softmig_text_permille(softmig_summary_mean_permille(summary, i)).text,
		       gpu->sm_pct, softmig_text_duration(gpu->busy_ns).text, softmig_text_duration(gpu->throttled_ns).text);
	}
	printf("\nSuggestion: %s.\n", softmig_summary_suggestion(summary));
}

static void print_json(const struct softmig_summary *summary)
{
	struct softmig_json json = { .out = stdout };
	softmig_json_open(&json, NULL, '{');
	softmig_json_number(&json, "job", summary->job);
	softmig_json_number(&json, "uid", summary->uid);
	softmig_json_string(&json, "user", softmig_text_user((uid_t)summary->uid).text);
	softmig_json_bool(&json, "running", summary->running);
	softmig_json_number(&json, "began", summary->began_s);
	softmig_json_number(&json, "ended", summary->ended_s);
	softmig_json_open(&json, "gpus", '[');
	for (int i = 0; i < summary->gpus; i++) {
		const struct softmig_summary_gpu *gpu = &summary->gpu[i];
		softmig_json_open(&json, NULL, '{');
		softmig_json_string(&json, "uuid", softmig_text_uuid(gpu->uuid).text);
		if (gpu->limit_bytes)
			softmig_json_number(&json, "memory_limit_bytes", gpu->limit_bytes);
		else
			softmig_json_null(&json, "memory_limit_bytes");
		softmig_json_number(&json, "memory_peak_bytes", gpu->peak_bytes);
		softmig_json_number(&json, "refusals", gpu->refusals);
		softmig_json_number(&json, "sm_limit_pct", gpu->sm_pct);
		softmig_json_decimal(&json, "sm_mean_pct", softmig_summary_mean_permille(summary, i) / 10.0);
		softmig_json_decimal(&json, "busy_seconds", (double)gpu->busy_ns / 1e9);
		softmig_json_decimal(&json, "throttled_seconds", (double)gpu->throttled_ns / 1e9);
		softmig_json_close(&json, '}');
	}
	softmig_json_close(&json, ']');
	softmig_json_string(&json, "suggestion", softmig_summary_suggestion(summary));
	softmig_json_close(&json, '}');
}

// Of the slice if the job still has it, else of the file that its end has left.
static int find(uint64_t job, struct softmig_summary *summary)
{
	struct softmig_view view;
	enum softmig_view_status status = softmig_view_job(&view, job);
	int result = SOFTMIG_EXIT_OK;
	if (status == SOFTMIG_VIEW_OK)
		softmig_summary_of(&view, summary);
	else if (status == SOFTMIG_VIEW_FAILED)
		result = softmig_cli_fail(self, "%s", view.why);
	softmig_view_free(&view);
	if (status != SOFTMIG_VIEW_NONE)
		return result;
	int error = softmig_summary_read(SOFTMIG_LOG_DIR, job, summary);
	if (error == ENOENT)
		return softmig_cli_fail(self, "job %" PRIu64 " has had no slice on this node, or its report has been removed", job);
	if (error == EACCES)
		return softmig_cli_fail(self, "the report of job %" PRIu64 " is for its owner and root", job);
	if (error)
		return softmig_cli_fail(self, "the report of job %" PRIu64 " in " SOFTMIG_LOG_DIR " cannot be read: %s", job,
		                        error == EINVAL ? "it has been damaged" : strerror(error));
	return SOFTMIG_EXIT_OK;
}

struct request {
	const char *job; // as it was written; NULL: not given
	bool as_json;
	const char *picture;
};

// The options may stand on either side of the job. -1 to go on, else the exit status to return.
static int parse(int argc, char **argv, struct request *request)
{
	static const struct option options[] = { { "json", no_argument, NULL, 'j' }, { "plot", required_argument, NULL, 'p' }, { 0 } };
	for (;;) {
		int option = softmig_cli_option(self, argc, argv, options);
		if (option == 'h')
			return SOFTMIG_EXIT_OK;
		if (option == '?')
			return SOFTMIG_EXIT_USAGE;
		if (option == 'j')
			request->as_json = true;
		else if (option == 'p')
			request->picture = optarg;
		else if (!argv[optind])
			return -1;
		else if (request->job)
			return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
		else
			request->job = argv[optind++];
	}
}

static int run(int argc, char **argv)
{
	struct request request = { 0 };
	int usage = parse(argc, argv, &request);
	if (usage >= 0)
		return usage;
	if (!request.job)
		return softmig_cli_usage(self, "a job's number is needed, as in softmig report 4711");
	uint64_t job = softmig_job_parse_id(request.job, strlen(request.job));
	if (!job)
		return softmig_cli_usage(self, "'%s' is not a job's number; an element of an array has its own, SLURM_JOB_ID", request.job);
	struct softmig_summary summary = { 0 };
	int status = find(job, &summary);
	if (status != SOFTMIG_EXIT_OK)
		return status;
	if (request.as_json)
		print_json(&summary);
	else
		print_text(&summary);
	char why[512];
	if (request.picture && softmig_plot(&summary, request.picture, why, sizeof why) != 0)
		return softmig_cli_fail(self, "%s", why);
	return SOFTMIG_EXIT_OK;
}

const struct softmig_verb softmig_verb_report = {
	.name = "report",
	.arguments = "JOB [--json] [--plot FILE.png]",
	.summary = "Tell what a job did with its slice, and what to request next time",
	.help = "Options:\n"
	        "  --json           for scripts\n"
	        "  --plot FILE.png  also draw memory and compute over time (needs gnuplot)\n"
	        "  --help           this text\n\n"
	        "On the node where the job ran, while it runs and for 30 days after. For the job's user and root.\n",
	.run = run,
};
