// SPDX-License-Identifier: Apache-2.0
// softmig doctor: is this installation right, and what to do where it is not. Owns: the order of the checks, the report.
#include "cli/doctor.h"
#include "cli/library.h"

#include <stdarg.h>
#include <string.h>

static const struct softmig_verb *const self = &softmig_verb_doctor;

static const char *const words[] = { "ok", "skipped", "warning", "fault" };

static void print_finding(enum softmig_finding finding, const char *about, const char *advice, const char *message)
{
	static const enum softmig_style styles[] = { SOFTMIG_STYLE_GOOD, SOFTMIG_STYLE_DIM, SOFTMIG_STYLE_WARN, SOFTMIG_STYLE_BAD };
	printf("%s%-8s%s %-12s %s\n", softmig_cli_style(styles[finding]), words[finding], softmig_cli_style(SOFTMIG_STYLE_PLAIN), about, message);
	if (advice)
		printf("%21s -> %s\n", "", advice);
}

void softmig_doctor_tell(struct softmig_doctor *doctor, enum softmig_finding finding, const char *about, const char *advice,
                         const char *format, ...)
{
	char message[1024];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(message, sizeof message, format, arguments);
	va_end(arguments);
	doctor->faults += finding == SOFTMIG_FINDING_FAULT;
	doctor->warnings += finding == SOFTMIG_FINDING_WARNING;
	if (!doctor->json) {
		print_finding(finding, about, advice, message);
		fflush(stdout); // the next check may take a while
		return;
	}
	softmig_json_open(doctor->json, NULL, '{');
	softmig_json_string(doctor->json, "check", about);
	softmig_json_string(doctor->json, "status", words[finding]);
	softmig_json_string(doctor->json, "message", message);
	softmig_json_string(doctor->json, "advice", advice);
	softmig_json_close(doctor->json, '}');
}

static void check_all(struct softmig_doctor *doctor)
{
	softmig_doctor_library(doctor);
	softmig_doctor_entry(doctor);
	softmig_doctor_directories(doctor);
	softmig_doctor_limit_files(doctor);
	softmig_doctor_trial(doctor);
	softmig_doctor_driver(doctor);
	softmig_doctor_cgroup(doctor);
	softmig_doctor_slurm(doctor);
	softmig_doctor_containers(doctor);
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "directory", required_argument, NULL, 'd' },
		{ "probe", no_argument, NULL, 'p' }, // for the scratch process alone
		{ 0 },
	};
	struct softmig_json json = { .out = stdout };
	struct softmig_doctor doctor = { 0 };
	const char *directory = SOFTMIG_LIBRARY_DIR;
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		switch (option) {
		case 'j':
			doctor.json = &json;
			break;
		case 'd':
			directory = optarg;
			break;
		case 'p':
			return softmig_doctor_probe();
		case 'h':
			return SOFTMIG_EXIT_OK;
		default:
			return SOFTMIG_EXIT_USAGE;
		}
	}
	if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	if (!softmig_node_good_directory(self, directory))
		return SOFTMIG_EXIT_USAGE;
	softmig_node_at(&doctor.node, "", directory);
	if (doctor.json) {
		softmig_json_open(&json, NULL, '{');
		softmig_json_open(&json, "findings", '[');
	}
	check_all(&doctor);
	if (doctor.json) {
		softmig_json_close(&json, ']');
		softmig_json_number(&json, "faults", (uint64_t)doctor.faults);
		softmig_json_number(&json, "warnings", (uint64_t)doctor.warnings);
		softmig_json_close(&json, '}');
	} else {
		printf("\n%d fault%s, %d warning%s.\n", doctor.faults, doctor.faults == 1 ? "" : "s", doctor.warnings, doctor.warnings == 1 ? "" : "s");
	}
	return doctor.faults ? SOFTMIG_EXIT_FAILED : SOFTMIG_EXIT_OK;
}

const struct softmig_verb softmig_verb_doctor = {
	.name = "doctor",
	.arguments = "[--json] [--directory DIR]",
	.summary = "Check the installation on this node and say what to do about each fault",
	.help = "Options:\n"
	        "  --json            for scripts\n"
	        "  --directory DIR   where the library lives (default " SOFTMIG_LIBRARY_DIR ")\n"
	        "  --help            this text\n\n"
	        "Changes nothing. As root it sees everything. Status 1 if there is a fault; warnings alone give 0.\n",
	.run = run,
};
