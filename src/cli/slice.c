// SPDX-License-Identifier: Apache-2.0
// softmig slice: the one place where shards become limits. Owns: the arguments of create, resize and delete, the arithmetic of
// shares, what is refused. Must never: take a figure of the GPU from anything but the driver, leave half a slice behind.
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/library.h"
#include "cli/slice_gpus.h"
#include "cli/slice_log.h"
#include "cli/slice_state.h"
#include "cli/slice_sum.h"
#include "cli/summary.h"
#include "slice/log.h"

enum { MIB = 1 << 20, SHARDS_MAX = 100 };

// "GPU=SHARDS/TOTAL" of the command line.
struct request {
	bool by_uuid;
	uint8_t uuid[16];
	int minor;
	unsigned shards, total;
};

struct arguments {
	uint64_t job;
	bool has_job, has_uid, has_gid, replace;
	uid_t uid;
	gid_t gid;
	int requests;
	struct request request[SOFTMIG_MAX_GPUS];
	uint64_t memory_bytes; // 0: not given
	uint8_t sm_pct;        // 0: not given
	int oom_killer;        // -1: not given
	int share_mode;        // -1: not given
	int log_level;         // -1: not given
	uint64_t het_job;      // 0: not given
	int64_t array_task;    // -1: the job is no element of an array
};

static int run(int argc, char **argv);

const struct softmig_verb softmig_verb_slice = {
	.name = "slice",
	.arguments = "create|resize|delete --job ID [options]",
	.summary = "Make, change and remove the slice of a Slurm job (prolog and epilog call it)",
	.help = "softmig slice create --job ID --uid UID [--gid GID] --gpu GPU=SHARDS/TOTAL [--gpu ...]\n"
		"                     [--array-task N] [--het-job ID] [--replace]\n"
		"softmig slice resize --job ID [--gpu GPU=SHARDS/TOTAL ...] [--memory SIZE] [--sm PERCENT]\n"
		"softmig slice delete --job ID [--het-job ID]\n"
		"softmig slice fail   --job ID REASON\n\n"
		"create gives the job SHARDS of TOTAL shards of each named GPU: that part of its memory and of its compute time.\n"
		"resize changes a running job within a second: what it gains it can use at once; where it already holds more than\n"
		"it is left, it gets nothing new until it has given enough back. delete removes all that belongs to the job, and\n"
		"succeeds when there is nothing. fail notes in the log why a job could not be given its slice.\n\n"
		"  --job ID             the job's raw id (SLURM_JOB_ID)\n"
		"  --uid UID, --gid GID the job's user, who will own its accounting\n"
		"  --array-task N       of an array's element: its log is JOB_N.log\n"
		"  --het-job ID         of a component: the first component's id, which all its processes bear\n"
		"  --gpu GPU=S/T        GPU: its UUID (GPU-...) or N of /dev/nvidiaN\n"
		"  --replace            a slice that the job already has is replaced (and kept if it is the same)\n"
		"  --memory SIZE        on each GPU of the job: 12G, 6144M, ...\n"
		"  --sm PERCENT         of each GPU's compute time: 1 to 100\n"
		"  --share-mode MODE    cap: never more than the share; borrow: also what neighbours leave idle\n"
		"  --oom-killer 0|1     kill the job's processes on a GPU where an allocation was refused\n"
		"  --log-level 0..4     of the job's programs\n"
		"  --help               this text\n",
	.run = run,
};
static const struct softmig_verb *const verb = &softmig_verb_slice;

static bool parse_number(const char *text, uint64_t most, uint64_t *number) {
	if (*text < '0' || *text > '9')
		return false;
	char *end;
	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || value > most)
		return false;
	*number = value;
	return true;
}

static bool parse_request(const char *text, struct request *request) {
	char gpu[64], shards[8];
	const char *equals = strchr(text, '='), *slash = equals != NULL ? strchr(equals, '/') : NULL;
	if (slash == NULL || equals == text || equals - text >= (ptrdiff_t)sizeof(gpu) || slash - equals > (ptrdiff_t)sizeof(shards))
		return false;
	snprintf(gpu, sizeof(gpu), "%.*s", (int)(equals - text), text);
	snprintf(shards, sizeof(shards), "%.*s", (int)(slash - equals - 1), equals + 1);
	uint64_t part, total, minor;
	if (!parse_number(shards, SHARDS_MAX, &part) || !parse_number(slash + 1, SHARDS_MAX, &total) || part < 1 || total < 1)
		return false;
	request->shards = (unsigned)part;
	request->total = (unsigned)total;
	request->by_uuid = softmig_limits_parse_uuid(gpu, strlen(gpu), request->uuid);
	if (request->by_uuid)
		return true;
	if (!parse_number(gpu, 255, &minor))
		return false;
	request->minor = (int)minor;
	return true;
}

// Reads options into arguments. 0, or the exit status to return + 1.
static int parse(int argc, char **argv, struct arguments *arguments) {
	static const struct option options[] = {
		{ "job", required_argument, NULL, 'j' },        { "uid", required_argument, NULL, 'u' },
		{ "gid", required_argument, NULL, 'g' },        { "gpu", required_argument, NULL, 'G' },
		{ "replace", no_argument, NULL, 'r' },          { "memory", required_argument, NULL, 'm' },
		{ "sm", required_argument, NULL, 's' },         { "share-mode", required_argument, NULL, 'S' },
		{ "oom-killer", required_argument, NULL, 'o' }, { "log-level", required_argument, NULL, 'l' },
		{ "array-task", required_argument, NULL, 'a' }, { "het-job", required_argument, NULL, 'H' },
		{ 0 },
	};
	memset(arguments, 0, sizeof(*arguments));
	arguments->oom_killer = arguments->share_mode = arguments->log_level = -1;
	arguments->array_task = -1;
	uint64_t number = 0;
	int option;
	while ((option = softmig_cli_option(verb, argc, argv, options)) != -1) {
		bool good = true;
		switch (option) {
		case 'j':
			good = arguments->has_job = parse_number(optarg, UINT32_MAX, &arguments->job) && arguments->job > 0;
			break;
		case 'u':
			good = arguments->has_uid = parse_number(optarg, UINT32_MAX - 1, &number);
			arguments->uid = (uid_t)number;
			break;
		case 'g':
			good = arguments->has_gid = parse_number(optarg, UINT32_MAX - 1, &number);
			arguments->gid = (gid_t)number;
			break;
		case 'G':
			if (arguments->requests == SOFTMIG_MAX_GPUS)
				return 1 + softmig_cli_usage(verb, "a slice has at most %d GPUs", SOFTMIG_MAX_GPUS);
			if (!parse_request(optarg, &arguments->request[arguments->requests++]))
				return 1 + softmig_cli_usage(verb, "--gpu expects GPU=SHARDS/TOTAL, for example 0=1/4, not '%s'", optarg);
			break;
		case 'r':
			arguments->replace = true;
			break;
		case 'm':
			good = softmig_limits_parse_bytes(optarg, strlen(optarg), &arguments->memory_bytes);
			break;
		case 's':
			good = softmig_limits_parse_pct(optarg, strlen(optarg), &arguments->sm_pct);
			break;
		case 'S':
			arguments->share_mode = strcmp(optarg, "borrow") == 0 ? SOFTMIG_SHARE_BORROW : SOFTMIG_SHARE_CAP;
			good = arguments->share_mode == SOFTMIG_SHARE_BORROW || strcmp(optarg, "cap") == 0;
			break;
		case 'o':
			good = parse_number(optarg, 1, &number);
			arguments->oom_killer = (int)number;
			break;
		case 'l':
			good = parse_number(optarg, 4, &number);
			arguments->log_level = (int)number;
			break;
		case 'a':
			good = parse_number(optarg, UINT32_MAX, &number);
			arguments->array_task = (int64_t)number;
			break;
		case 'H':
			good = parse_number(optarg, UINT32_MAX, &arguments->het_job) && arguments->het_job > 0;
			break;
		case 'h':
			return 1 + SOFTMIG_EXIT_OK;
		default:
			return 1 + SOFTMIG_EXIT_USAGE;
		}
		if (!good)
			return 1 + softmig_cli_usage(verb, "'%s' is not a value for this option; see softmig slice --help", optarg);
	}
	if (!arguments->has_job)
		return 1 + softmig_cli_usage(verb, "--job is missing");
	return 0;
}

// A failure is for whoever called, for the job's log and for the system's: a prolog's own output is seen by nobody.
static int __attribute__((format(printf, 2, 3))) fail(const struct arguments *arguments, const char *format, ...) {
	char message[512];
	va_list list;
	va_start(list, format);
	vsnprintf(message, sizeof(message), format, list);
	va_end(list);
	softmig_log_init(arguments->job, SOFTMIG_LOG_ERROR);
	softmig_log(SOFTMIG_LOG_ERROR, "%s", message);
	openlog("softmig", LOG_PID, LOG_DAEMON);
	syslog(LOG_ERR, "job %" PRIu64 ": %s", arguments->job, message);
	closelog();
	return softmig_cli_fail(verb, "job %" PRIu64 ": %s", arguments->job, message);
}

static const struct softmig_node_gpu *find_gpu(const struct softmig_node_gpu *gpus, int count, const struct request *request) {
	for (int i = 0; i < count; i++)
		if (request->by_uuid ? memcmp(gpus[i].uuid, request->uuid, 16) == 0 : gpus[i].minor == request->minor)
			return &gpus[i];
	return NULL;
}

static void name_of(const struct request *request, char text[SOFTMIG_UUID_TEXT]) {
	if (request->by_uuid)
		softmig_uuid_text(request->uuid, text);
	else
		snprintf(text, SOFTMIG_UUID_TEXT, "/dev/nvidia%d", request->minor);
}

// Turns the requests into entries of limits, in the order given. 0 or the exit status + 1.
static int measure(const struct arguments *arguments, struct softmig_limits *entries) {
	struct softmig_node_gpu gpus[SOFTMIG_NODE_GPUS];
	char why[256], name[SOFTMIG_UUID_TEXT];
	softmig_limits_init(entries);
	int count = softmig_node_gpus(gpus, why, sizeof(why));
	if (count < 0)
		return 1 + fail(arguments, "%s", why);
	for (int i = 0; i < arguments->requests; i++) {
		const struct request *request = &arguments->request[i];
		const struct softmig_node_gpu *gpu = find_gpu(gpus, count, request);
		name_of(request, name);
		if (gpu == NULL)
			return 1 + fail(arguments, "this node has no GPU %s", name);
		if (request->shards > request->total)
			return 1 + fail(arguments, "%u shards of GPU %s, which has %u", request->shards, name, request->total);
		for (int j = 0; j < i; j++)
			if (memcmp(entries->uuid[j], gpu->uuid, 16) == 0)
				return 1 + fail(arguments, "GPU %s is named twice", name);
		entries->has_uuid[i] = true;
		memcpy(entries->uuid[i], gpu->uuid, 16);
		// Whole MiB, rounded down, so that the shards of a GPU never add up to more than it has.
		uint64_t bytes = (uint64_t)((unsigned __int128)gpu->memory_bytes * request->shards / request->total);
		entries->memory_bytes[i] = bytes - bytes % MIB;
		unsigned pct = request->shards * 100 / request->total;
		entries->sm_pct[i] = (uint8_t)(pct > 0 ? pct : 1);
	}
	entries->has_memory = entries->has_sm = true;
	return 0;
}

static void apply_modes(const struct arguments *arguments, struct softmig_limits *limits) {
	if (arguments->oom_killer >= 0)
		limits->oom_killer = arguments->oom_killer == 1;
	if (arguments->share_mode >= 0)
		limits->share_mode = (enum softmig_share_mode)arguments->share_mode;
	if (arguments->log_level >= 0)
		limits->log_level = arguments->log_level;
}

static bool same(const struct softmig_limits *a, const struct softmig_limits *b) {
	return memcmp(a->memory_bytes, b->memory_bytes, sizeof(a->memory_bytes)) == 0 &&
	       memcmp(a->sm_pct, b->sm_pct, sizeof(a->sm_pct)) == 0 && memcmp(a->has_uuid, b->has_uuid, sizeof(a->has_uuid)) == 0 &&
	       memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 && a->oom_killer == b->oom_killer &&
	       a->log_level == b->log_level && a->share_mode == b->share_mode;
}

static enum softmig_limits_status load(uint64_t job, struct softmig_limits *limits, struct softmig_limits_error *error) {
	char path[sizeof(SOFTMIG_STATE_DIR) + 32];
	snprintf(path, sizeof(path), SOFTMIG_STATE_DIR "/%" PRIu64 ".conf", job);
	return softmig_limits_load_path(path, 0, limits, error);
}

// Makes or enlarges what is in force for job. 0 or -1 with why.
static int establish(int directory, const struct arguments *arguments, uint64_t job, const struct softmig_limits *limits,
                     char *why, size_t why_size) {
	gid_t gid = arguments->has_gid ? arguments->gid : 0;
	softmig_slice_log_make(SOFTMIG_LOG_DIR, job, arguments->array_task, arguments->uid, gid); // a job can do without
	// The limit file last: it is what makes the slice.
	if (softmig_state_create_shared(job, arguments->uid, gid, limits, why, why_size) != 0)
		return -1;
	return softmig_state_write(directory, job, limits, why, why_size);
}

// Adds a component's slice to what is in force for its job's first component.
static int add_component(int directory, const struct arguments *arguments, const struct softmig_limits *part, char *why,
                         size_t why_size) {
	struct softmig_limits sum;
	struct softmig_limits_error error;
	if (load(arguments->het_job, &sum, &error) != SOFTMIG_LIMITS_OK) {
		sum = *part;
	} else if (!softmig_slice_add(&sum, part)) {
		snprintf(why, why_size, "its job has more than %d GPUs on this node", SOFTMIG_MAX_GPUS);
		return -1;
	}
	return establish(directory, arguments, arguments->het_job, &sum, why, why_size);
}

static int create(const struct arguments *arguments) {
	if (!arguments->has_uid || arguments->requests == 0)
		return softmig_cli_usage(verb, "create needs --uid and at least one --gpu");
	struct softmig_limits limits, present;
	struct softmig_limits_error error;
	char why[256], ignored[256];
	int status = measure(arguments, &limits);
	if (status != 0)
		return status - 1;
	apply_modes(arguments, &limits);
	int directory = softmig_state_open(why, sizeof(why));
	if (directory < 0)
		return fail(arguments, "%s", why);
	int result = SOFTMIG_EXIT_FAILED;
	bool first = arguments->het_job == arguments->job, keep = false;
	if (softmig_state_has_limits(directory, arguments->job)) {
		if (!arguments->replace) {
			fail(arguments, "it already has a slice; softmig slice resize changes it");
			goto out;
		}
		// slurmd restarted: the job's processes may be running on this very ledger.
		if (load(arguments->job, &present, &error) == SOFTMIG_LIMITS_OK &&
		    softmig_state_shared_fits(directory, arguments->job, arguments->uid)) {
			if (same(&present, &limits) || (first && softmig_slice_covers(&present, &limits))) {
				result = SOFTMIG_EXIT_OK;
				goto out;
			}
			keep = first && softmig_slice_add(&limits, &present); // another component was here before
		}
	}
	if (!keep && softmig_state_remove(directory, arguments->job, why, sizeof(why)) != 0) {
		fail(arguments, "%s", why);
		goto out;
	}
	if (establish(directory, arguments, arguments->job, &limits, why, sizeof(why)) != 0 ||
	    (arguments->het_job > 0 && !first && add_component(directory, arguments, &limits, why, sizeof(why)) != 0)) {
		if (!keep)
			softmig_state_remove(directory, arguments->job, ignored, sizeof(ignored));
		fail(arguments, "%s", why);
		goto out;
	}
	result = SOFTMIG_EXIT_OK;
out:
	close(directory);
	return result;
}

static int resize(const struct arguments *arguments) {
	if (arguments->requests == 0 && arguments->memory_bytes == 0 && arguments->sm_pct == 0 && arguments->oom_killer < 0 &&
	    arguments->share_mode < 0 && arguments->log_level < 0)
		return softmig_cli_usage(verb, "resize needs --gpu, --memory, --sm or a mode to change");
	struct softmig_limits limits, entries;
	struct softmig_limits_error error;
	char why[256], name[SOFTMIG_UUID_TEXT];
	int gpus = 0, status = arguments->requests > 0 ? measure(arguments, &entries) : 0;
	if (status != 0)
		return status - 1;
	int directory = softmig_state_open(why, sizeof(why));
	if (directory < 0)
		return fail(arguments, "%s", why);
	int result = SOFTMIG_EXIT_FAILED;
	switch (load(arguments->job, &limits, &error)) {
	case SOFTMIG_LIMITS_ABSENT:
		fail(arguments, "it has no slice on this node");
		goto out;
	case SOFTMIG_LIMITS_BAD:
		fail(arguments, "its limit file, line %d: %s", error.line, error.message);
		goto out;
	case SOFTMIG_LIMITS_OK:
		break;
	}
	gpus = softmig_slice_entries(&limits);
	if (gpus == 0) {
		fail(arguments, "its limit file was not written by softmig slice: change the file itself");
		goto out;
	}
	for (int i = 0; i < arguments->requests; i++) {
		int entry = softmig_slice_entry(&limits, entries.uuid[i]);
		if (entry < 0) {
			softmig_uuid_text(entries.uuid[i], name);
			fail(arguments, "it has no slice of GPU %s", name);
			goto out;
		}
		limits.memory_bytes[entry] = entries.memory_bytes[i];
		limits.sm_pct[entry] = entries.sm_pct[i];
	}
	for (int i = 0; i < gpus; i++) {
		if (arguments->memory_bytes > 0)
			limits.memory_bytes[i] = arguments->memory_bytes;
		if (arguments->sm_pct > 0)
			limits.sm_pct[i] = arguments->sm_pct;
	}
	apply_modes(arguments, &limits);
	if (softmig_state_write(directory, arguments->job, &limits, why, sizeof(why)) != 0)
		fail(arguments, "%s", why);
	else
		result = SOFTMIG_EXIT_OK;
out:
	close(directory);
	return result;
}

// Takes a component's slice out of what is in force for its job's first component.
static int remove_component(int directory, const struct arguments *arguments, char *why, size_t why_size) {
	struct softmig_limits sum, part;
	struct softmig_limits_error error;
	if (load(arguments->het_job, &sum, &error) != SOFTMIG_LIMITS_OK || load(arguments->job, &part, &error) != SOFTMIG_LIMITS_OK)
		return 0;
	softmig_slice_subtract(&sum, &part);
	if (softmig_slice_entries(&sum) > 0)
		return softmig_state_write(directory, arguments->het_job, &sum, why, why_size);
	softmig_summary_keep(SOFTMIG_LOG_DIR, arguments->het_job);
	int failed = softmig_state_remove(directory, arguments->het_job, why, why_size);
	softmig_slice_log_tidy(SOFTMIG_LOG_DIR, arguments->het_job);
	return failed;
}

static int delete(const struct arguments *arguments) {
	char why[256];
	int directory = softmig_state_open(why, sizeof(why)), failed = 0;
	if (directory < 0)
		return fail(arguments, "%s", why);
	softmig_summary_keep(SOFTMIG_LOG_DIR, arguments->job); // for softmig report; a job's end waits for nothing
	if (arguments->het_job > 0 && arguments->het_job != arguments->job)
		failed = remove_component(directory, arguments, why, sizeof(why));
	failed |= softmig_state_remove(directory, arguments->job, why, sizeof(why));
	close(directory);
	softmig_slice_log_tidy(SOFTMIG_LOG_DIR, arguments->job);
	return failed ? fail(arguments, "%s", why) : SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv) {
	static const struct option none[] = { { 0 } };
	struct arguments arguments;
	int option = softmig_cli_option(verb, argc, argv, none);
	if (option != -1)
		return option == 'h' ? SOFTMIG_EXIT_OK : SOFTMIG_EXIT_USAGE;
	if (optind >= argc)
		return softmig_cli_usage(verb, "create, resize or delete is missing; see softmig slice --help");
	const char *what = argv[optind];
	argc -= optind;
	argv += optind;
	optind = 1;
	bool creates = strcmp(what, "create") == 0, resizes = strcmp(what, "resize") == 0;
	bool deletes = strcmp(what, "delete") == 0, fails = strcmp(what, "fail") == 0;
	if (!creates && !resizes && !deletes && !fails)
		return softmig_cli_usage(verb, "'%s' is neither create, resize nor delete", what);
	int status = parse(argc, argv, &arguments);
	if (status != 0)
		return status - 1;
	if (argc - optind != (fails ? 1 : 0))
		return softmig_cli_usage(verb, fails ? "fail needs one reason" : "'%s' is not expected here", argv[optind]);
	if (geteuid() != 0)
		return softmig_cli_fail(verb, "only root may do this");
	umask(022);
	if (creates)
		return create(&arguments);
	if (resizes)
		return resize(&arguments);
	return deletes ? delete(&arguments) : fail(&arguments, "%s", argv[optind]);
}
