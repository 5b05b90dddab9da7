// SPDX-License-Identifier: Apache-2.0
// See slice_arguments.h.
#include "cli/slice_arguments.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "slice/format.h"

enum { SHARDS_MAX = 100 };

static const struct softmig_verb *const self = &softmig_verb_slice;

static const struct {
	const char *name;
	enum softmig_slice_act act;
} acts[] = {
	{ "create", SOFTMIG_SLICE_CREATE },
	{ "resize", SOFTMIG_SLICE_RESIZE },
	{ "delete", SOFTMIG_SLICE_DELETE },
	{ "fail", SOFTMIG_SLICE_FAIL },
};

static const struct option options[] = {
	{ "job", required_argument, NULL, 'j' },        { "uid", required_argument, NULL, 'u' },
	{ "gid", required_argument, NULL, 'g' },        { "gpu", required_argument, NULL, 'G' },
	{ "replace", no_argument, NULL, 'r' },          { "memory", required_argument, NULL, 'm' },
	{ "sm", required_argument, NULL, 's' },         { "share-mode", required_argument, NULL, 'S' },
	{ "oom-killer", required_argument, NULL, 'o' }, { "log-level", required_argument, NULL, 'l' },
	{ "array-task", required_argument, NULL, 'a' }, { "het-job", required_argument, NULL, 'H' },
	{ 0 },
};

static const char *name_of(int option)
{
	const struct option *at = options;
	while (at->name && at->val != option)
		at++;
	return at->name;
}

// What an option means to one verb it would not mean to another, so it must not pass there in silence.
static int is_for(int option)
{
	switch (option) {
	case 'j':
		return SOFTMIG_SLICE_CREATE | SOFTMIG_SLICE_RESIZE | SOFTMIG_SLICE_DELETE | SOFTMIG_SLICE_FAIL;
	case 'G':
	case 'S':
	case 'o':
	case 'l':
		return SOFTMIG_SLICE_CREATE | SOFTMIG_SLICE_RESIZE;
	case 'm':
	case 's':
		return SOFTMIG_SLICE_RESIZE;
	default:
		return SOFTMIG_SLICE_CREATE;
	}
}

static bool parse_number(const char *text, uint64_t most, uint64_t *number)
{
	return softmig_parse_decimal(text, strlen(text), most, number);
}

static bool parse_request(const char *text, struct softmig_slice_request *request)
{
	const char *equals = strchr(text, '='), *slash = equals ? strchr(equals, '/') : NULL;
	uint64_t shards, total, minor = 0;
	if (!slash || !softmig_parse_decimal(equals + 1, (size_t)(slash - equals - 1), SHARDS_MAX, &shards) ||
	    !parse_number(slash + 1, SHARDS_MAX, &total) || shards < 1 || total < 1)
		return false;
	size_t length = (size_t)(equals - text);
	request->by_uuid = softmig_limits_parse_uuid(text, length, request->uuid);
	if (!request->by_uuid && !softmig_parse_decimal(text, length, UINT8_MAX, &minor))
		return false;
	request->minor = (int)minor;
	request->shards = (unsigned)shards;
	request->total = (unsigned)total;
	return true;
}

// False: the value is none for this option.
static bool take(int option, const char *value, struct softmig_slice_arguments *arguments)
{
	uint64_t number = 0;
	bool good = true;
	switch (option) {
	case 'j':
		return parse_number(value, UINT32_MAX, &arguments->job) && arguments->job > 0;
	case 'H':
		return parse_number(value, UINT32_MAX, &arguments->het_job) && arguments->het_job > 0;
	case 'u':
		good = arguments->has_uid = parse_number(value, UINT32_MAX - 1, &number);
		arguments->uid = (uid_t)number;
		return good;
	case 'g':
		good = parse_number(value, UINT32_MAX - 1, &number);
		arguments->gid = (gid_t)number;
		return good;
	case 'a':
		good = parse_number(value, UINT32_MAX, &number);
		arguments->array_task = (int64_t)number;
		return good;
	case 'r':
		return arguments->replace = true;
	case 'm':
		return softmig_limits_parse_bytes(value, strlen(value), &arguments->memory_bytes);
	case 's': // 0 would be no limit, which is not to be had by a slip of the finger
		return strcmp(value, "0") != 0 && softmig_limits_parse_pct(value, strlen(value), &arguments->sm_pct);
	case 'S':
		arguments->share_mode = strcmp(value, "borrow") == 0 ? SOFTMIG_SHARE_BORROW : SOFTMIG_SHARE_CAP;
		return arguments->share_mode == SOFTMIG_SHARE_BORROW || strcmp(value, "cap") == 0;
	case 'o':
		good = parse_number(value, 1, &number);
		arguments->oom_killer = (int)number;
		return good;
	default: // 'l'
		good = parse_number(value, 4, &number);
		arguments->log_level = (int)number;
		return good;
	}
}

static int parse_options(int argc, char **argv, struct softmig_slice_arguments *arguments)
{
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		if (option == 'h')
			return SOFTMIG_EXIT_OK;
		if (option == '?')
			return SOFTMIG_EXIT_USAGE;
		if (!(is_for(option) & (int)arguments->act))
			return softmig_cli_usage(self, "--%s is not for %s; see softmig slice --help", name_of(option), argv[0]);
		if (option == 'G' && arguments->requests == SOFTMIG_MAX_GPUS)
			return softmig_cli_usage(self, "a slice has at most %d GPUs", SOFTMIG_MAX_GPUS);
		if (option == 'G' && !parse_request(optarg, &arguments->request[arguments->requests++]))
			return softmig_cli_usage(self, "--gpu expects GPU=SHARDS/TOTAL, for example 0=1/4, not '%s'", optarg);
		if (option != 'G' && !take(option, optarg, arguments))
			return softmig_cli_usage(self, "'%s' is not a value for --%s; see softmig slice --help", optarg, name_of(option));
	}
	return -1;
}

static bool changes_something(const struct softmig_slice_arguments *arguments)
{
	return arguments->requests > 0 || arguments->memory_bytes > 0 || arguments->sm_pct > 0 || arguments->oom_killer >= 0 ||
	       arguments->share_mode >= 0 || arguments->log_level >= 0;
}

// -1 to go on, else the exit status to return.
static int check(int argc, char **argv, struct softmig_slice_arguments *arguments)
{
	bool fails = arguments->act == SOFTMIG_SLICE_FAIL;
	if (arguments->job == 0)
		return softmig_cli_usage(self, "--job is missing");
	if (fails && argc - optind != 1)
		return softmig_cli_usage(self, "fail needs one reason");
	if (fails)
		arguments->reason = argv[optind];
	else if (argv[optind])
		return softmig_cli_usage(self, "'%s' is one word too many", argv[optind]);
	if (arguments->act == SOFTMIG_SLICE_CREATE && (!arguments->has_uid || arguments->requests == 0))
		return softmig_cli_usage(self, "create needs --uid and at least one --gpu");
	if (arguments->act == SOFTMIG_SLICE_RESIZE && !changes_something(arguments))
		return softmig_cli_usage(self, "resize needs --gpu, --memory, --sm or a mode to change");
	return -1;
}

bool softmig_slice_parse(int argc, char **argv, struct softmig_slice_arguments *arguments, int *status)
{
	static const struct option none[] = { { 0 } };
	*arguments = (struct softmig_slice_arguments){ .oom_killer = -1, .share_mode = -1, .log_level = -1, .array_task = -1 };
	int option = softmig_cli_option(self, argc, argv, none);
	*status = option == 'h' ? SOFTMIG_EXIT_OK : SOFTMIG_EXIT_USAGE;
	if (option != -1)
		return false;
	argc -= optind;
	argv += optind;
	if (argc == 0) {
		softmig_cli_usage(self, "create, resize or delete is missing; see softmig slice --help");
		return false;
	}
	for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++)
		if (strcmp(argv[0], acts[i].name) == 0)
			arguments->act = acts[i].act;
	if (!arguments->act) {
		softmig_cli_usage(self, "'%s' is neither create, resize nor delete", argv[0]);
		return false;
	}
	optind = 1;
	*status = parse_options(argc, argv, arguments);
	if (*status < 0)
		*status = check(argc, argv, arguments);
	return *status < 0;
}
