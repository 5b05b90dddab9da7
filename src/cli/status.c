// SPDX-License-Identifier: Apache-2.0
// softmig status: one screen about one slice.
#include "cli/cli.h"
#include "cli/library.h"
#include "cli/view_print.h"
#include "slice/format.h"
#include "slice/job.h"

#include <inttypes.h>
#include <string.h>

static const struct softmig_verb *const self = &softmig_verb_status;

struct request {
	uint64_t job;
	uint64_t pid;
	bool json;
};

static int parse(int argc, char **argv, struct request *request, bool *help)
{
	static const struct option options[] = {
		{ "job", required_argument, NULL, 'J' },
		{ "pid", required_argument, NULL, 'p' },
		{ "json", no_argument, NULL, 'j' },
		{ 0 },
	};
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		switch (option) {
		case 'J':
			request->job = softmig_job_parse_id(optarg, strlen(optarg));
			if (!request->job)
				return softmig_cli_usage(self, "--job needs a job's number, not '%s'", optarg);
			break;
		case 'p':
			if (!softmig_parse_decimal(optarg, strlen(optarg), INT32_MAX, &request->pid) || !request->pid)
				return softmig_cli_usage(self, "--pid needs a process's number, not '%s'", optarg);
			break;
		case 'j':
			request->json = true;
			break;
		case 'h':
			*help = true;
			return SOFTMIG_EXIT_OK;
		default:
			return SOFTMIG_EXIT_USAGE;
		}
	}
	if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	if (request->job && request->pid)
		return softmig_cli_usage(self, "--job and --pid exclude each other");
	return SOFTMIG_EXIT_OK;
}

static int say_none(const struct request *request)
{
	if (request->job)
		return softmig_cli_fail(self, "job %" PRIu64 " has no slice on this node", request->job);
	if (request->pid)
		return softmig_cli_fail(self, "process %" PRIu64 " is in no slice", request->pid);
	return softmig_cli_fail(self, "this process is in no slice; softmig list shows those of this machine");
}

static int run(int argc, char **argv)
{
	struct request request = { 0 };
	bool help = false;
	int usage = parse(argc, argv, &request, &help);
	if (usage != SOFTMIG_EXIT_OK || help)
		return usage;
	struct softmig_view view;
	enum softmig_view_status status = request.job ? softmig_view_job(&view, request.job) : softmig_view_process(&view, (pid_t)request.pid);
	if (request.json && status != SOFTMIG_VIEW_NONE)
		softmig_view_json(&(struct softmig_json){ .out = stdout }, NULL, status, &view);
	else if (status == SOFTMIG_VIEW_OK)
		softmig_view_print(stdout, &view);
	if (status == SOFTMIG_VIEW_OK && softmig_library_is_disabled(SOFTMIG_DISABLED_PATH))
		softmig_cli_warn(self, SOFTMIG_DISABLED_PATH " exists, so programs that start now are not limited");
	int result = SOFTMIG_EXIT_OK;
	if (status == SOFTMIG_VIEW_NONE)
		result = say_none(&request);
	else if (status == SOFTMIG_VIEW_FAILED)
		result = softmig_cli_fail(self, "%s", view.why);
	softmig_view_free(&view);
	return result;
}

const struct softmig_verb softmig_verb_status = {
	.name = "status",
	.arguments = "[--job ID | --pid PID] [--json]",
	.summary = "Show the slice: its limits, what is used and left, and by which processes",
	.help = "Options:\n"
	        "  --job ID    the slice of this Slurm job on this node (its owner and root)\n"
	        "  --pid PID   the slice of this process\n"
	        "  --json      for scripts\n"
	        "  --help      this text\n\n"
	        "Without --job and --pid: the slice that this command itself is in.\n",
	.run = run,
};
