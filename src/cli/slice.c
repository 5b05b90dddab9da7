// SPDX-License-Identifier: Apache-2.0
// softmig slice: the one place where shards become limits. Owns: create, resize and delete, the arithmetic of shares,
// what is refused. Must never: take a figure of the GPU from anything but the driver, leave half a slice behind.
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <syslog.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/library.h"
#include "cli/slice_arguments.h"
#include "cli/slice_gpus.h"
#include "cli/slice_log.h"
#include "cli/slice_parts.h"
#include "cli/slice_sum.h"
#include "cli/summary.h"
#include "cli/units.h"
#include "slice/log.h"

enum { MIB = 1 << 20 };

static int run(int argc, char **argv);

const struct softmig_verb softmig_verb_slice = {
	.name = "slice",
	.arguments = "create|resize|delete --job ID [options]",
	.summary = "Make, change and remove the slice of a Slurm job (prolog and epilog call it)",
	.help = "softmig slice create --job ID --uid UID [--gid GID] --gpu GPU=SHARDS/TOTAL [--gpu ...]\n"
		"                     [--array-task N] [--het-job ID] [--replace]\n"
		"softmig slice resize --job ID [--gpu GPU=SHARDS/TOTAL ...] [--memory SIZE] [--sm PERCENT]\n"
		"softmig slice delete --job ID\n"
		"softmig slice fail   --job ID REASON\n\n"
		"create gives the job SHARDS of TOTAL shards of each named GPU: that part of its memory and of its compute time.\n"
		"resize changes a running job within a second: what it gains it can use at once; where it already holds more than\n"
		"it is left, it gets nothing new until it has given enough back. delete removes all that belongs to the job, and\n"
		"succeeds when there is nothing. fail notes in the log why a job could not be given its slice.\n\n"
		"  --job ID             the job's raw id (SLURM_JOB_ID)\n"
		"  --uid UID, --gid GID the job's user, who will own its accounting\n"
		"  --array-task N       of an array's element: its log is JOB_N.log\n"
		"  --het-job ID         of a component: the first one's id, where no cgroup tells their processes apart\n"
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

// A failure is for whoever called, for the job's log and for the system's: a prolog's own output is seen by nobody.
static int __attribute__((format(printf, 2, 3))) fail(const struct softmig_slice_arguments *arguments, const char *format, ...) {
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

// What the driver says, asked before anything is locked: it may be long about it.
struct node {
	struct softmig_node_gpu gpu[SOFTMIG_NODE_GPUS];
	int count;
};

static const struct softmig_node_gpu *find_gpu(const struct node *node, const struct softmig_slice_request *request) {
	for (int i = 0; i < node->count; i++)
		if (request->by_uuid ? memcmp(node->gpu[i].uuid, request->uuid, 16) == 0 : node->gpu[i].minor == request->minor)
			return &node->gpu[i];
	return NULL;
}

static struct softmig_text name_of(const struct softmig_slice_request *request) {
	struct softmig_text text;
	if (request->by_uuid)
		return softmig_text_uuid(request->uuid);
	snprintf(text.text, sizeof(text.text), "/dev/nvidia%d", request->minor);
	return text;
}

// Turns the requests into entries of limits, in the order given. 0 or the exit status + 1.
static int measure(const struct softmig_slice_arguments *arguments, const struct node *node, struct softmig_limits *entries) {
	softmig_limits_init(entries);
	for (int i = 0; i < arguments->requests; i++) {
		const struct softmig_slice_request *request = &arguments->request[i];
		const struct softmig_node_gpu *gpu = find_gpu(node, request);
		if (gpu == NULL)
			return 1 + fail(arguments, "this node has no GPU %s", name_of(request).text);
		if (request->shards > request->total)
			return 1 + fail(arguments, "%u shards of GPU %s, which has %u", request->shards, name_of(request).text, request->total);
		for (int j = 0; j < i; j++)
			if (memcmp(entries->uuid[j], gpu->uuid, 16) == 0)
				return 1 + fail(arguments, "GPU %s is named twice", name_of(request).text);
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

static void apply_modes(const struct softmig_slice_arguments *arguments, struct softmig_limits *limits) {
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

// Puts limits in force for job, unless they are already. keeps: other processes than this component's bear the number, so that its
// ledger stays whatever changes. 0 or -1 with why.
static int establish(const struct softmig_state *state, const struct softmig_slice_arguments *arguments, uint64_t job,
                     const struct softmig_limits *limits, bool keeps, char *why, size_t why_size) {
	struct softmig_limits present;
	struct softmig_limits_error error;
	// slurmd restarted: the job's processes may be running on this very ledger.
	bool fits = softmig_state_load(job, &present, &error) == SOFTMIG_LIMITS_OK && softmig_state_shared_fits(state, job, arguments->uid);
	if (fits && same(&present, limits))
		return 0;
	if (!(fits && keeps) && softmig_state_remove(state, job, why, why_size) != 0)
		return -1;
	softmig_slice_log_make(SOFTMIG_LOG_DIR, job, arguments->array_task, arguments->uid, arguments->gid); // a job can do without
	// The limit file last: it is what makes the slice.
	if (softmig_state_create_shared(job, arguments->uid, arguments->gid, limits, why, why_size) != 0)
		return -1;
	return softmig_state_write(state, job, limits, why, why_size);
}

// Puts the sum of a heterogeneous job's parts in force for its first component's number. 0 or -1 with why.
static int establish_sum(const struct softmig_state *state, const struct softmig_slice_arguments *arguments, uint64_t first, char *why,
                         size_t why_size) {
	struct softmig_limits sum;
	int parts = softmig_parts_sum(state, first, 0, &sum, why, why_size);
	return parts < 0 ? -1 : establish(state, arguments, first, &sum, parts > 1, why, why_size);
}

static int create_all(const struct softmig_state *state, const struct softmig_slice_arguments *arguments,
                      const struct softmig_limits *limits, char *why, size_t why_size) {
	uint64_t job = arguments->job, first = arguments->het_job;
	if (first > 0 && softmig_parts_write(state, first, job, limits, why, why_size) != 0)
		return -1;
	if (first != job && establish(state, arguments, job, limits, false, why, why_size) != 0)
		return -1;
	return first > 0 ? establish_sum(state, arguments, first, why, why_size) : 0;
}

static void undo_create(const struct softmig_state *state, const struct softmig_slice_arguments *arguments) {
	uint64_t job = arguments->job, first = arguments->het_job;
	struct softmig_limits sum;
	char ignored[256];
	if (first > 0)
		softmig_parts_remove(state, first, job, ignored, sizeof(ignored));
	if (first != job)
		softmig_state_remove(state, job, ignored, sizeof(ignored));
	if (first > 0 && softmig_parts_sum(state, first, 0, &sum, ignored, sizeof(ignored)) == 0)
		softmig_state_remove(state, first, ignored, sizeof(ignored));
}

static int create(const struct softmig_state *state, const struct softmig_slice_arguments *arguments, struct softmig_limits *limits) {
	char why[256];
	apply_modes(arguments, limits);
	if (!arguments->replace && softmig_state_has_limits(state, arguments->job))
		return fail(arguments, "it already has a slice; softmig slice resize changes it");
	if (create_all(state, arguments, limits, why, sizeof(why)) == 0)
		return SOFTMIG_EXIT_OK;
	undo_create(state, arguments);
	return fail(arguments, "%s", why);
}

static bool has_memory(const struct node *node, const uint8_t uuid[16], uint64_t bytes) {
	struct softmig_slice_request request = { .by_uuid = true };
	memcpy(request.uuid, uuid, 16);
	const struct softmig_node_gpu *gpu = find_gpu(node, &request);
	return gpu == NULL || bytes <= gpu->memory_bytes;
}

// Changes what limits say as the arguments ask; entries: their requests, measured. 0 or the exit status + 1.
static int change(const struct softmig_slice_arguments *arguments, const struct node *node, const struct softmig_limits *entries,
                  struct softmig_limits *limits) {
	int gpus = softmig_slice_entries(limits);
	if (gpus == 0)
		return 1 + fail(arguments, "its limit file was not written by softmig slice: change the file itself");
	for (int i = 0; i < arguments->requests; i++) {
		int entry = softmig_slice_entry(limits, entries->uuid[i]);
		if (entry < 0)
			return 1 + fail(arguments, "it has no slice of GPU %s", softmig_text_uuid(entries->uuid[i]).text);
		limits->memory_bytes[entry] = entries->memory_bytes[i];
		limits->sm_pct[entry] = entries->sm_pct[i];
	}
	for (int i = 0; i < gpus; i++) {
		if (!has_memory(node, limits->uuid[i], arguments->memory_bytes))
			return 1 + fail(arguments, "GPU %s does not have that much memory", softmig_text_uuid(limits->uuid[i]).text);
		if (arguments->memory_bytes > 0)
			limits->memory_bytes[i] = arguments->memory_bytes;
		if (arguments->sm_pct > 0)
			limits->sm_pct[i] = arguments->sm_pct;
	}
	apply_modes(arguments, limits);
	return 0;
}

static int resize(const struct softmig_state *state, const struct softmig_slice_arguments *arguments, const struct node *node,
                  const struct softmig_limits *entries) {
	struct softmig_limits limits, sum;
	struct softmig_limits_error error;
	char why[256];
	uint64_t job = arguments->job, first = softmig_parts_first(state, job);
	// The limit file of a first component holds the sum; its own part lies beside it.
	switch (first == job ? softmig_parts_load(first, job, &limits, &error) : softmig_state_load(job, &limits, &error)) {
	case SOFTMIG_LIMITS_ABSENT:
		return fail(arguments, "it has no slice on this node");
	case SOFTMIG_LIMITS_BAD:
		return fail(arguments, "its limit file, line %d: %s", error.line, error.message);
	case SOFTMIG_LIMITS_OK:
		break;
	}
	int status = change(arguments, node, entries, &limits);
	if (status != 0)
		return status - 1;
	if (first > 0 && softmig_parts_write(state, first, job, &limits, why, sizeof(why)) != 0)
		return fail(arguments, "%s", why);
	if (first != job && softmig_state_write(state, job, &limits, why, sizeof(why)) != 0)
		return fail(arguments, "%s", why);
	if (first > 0 && (softmig_parts_sum(state, first, 0, &sum, why, sizeof(why)) < 0 ||
	                  softmig_state_write(state, first, &sum, why, sizeof(why)) != 0))
		return fail(arguments, "%s", why);
	return SOFTMIG_EXIT_OK;
}

// Ends what is in force for job: for softmig report its figures are kept; a job's end waits for nothing. 0 or -1 with why.
static int end(const struct softmig_state *state, uint64_t job, char *why, size_t why_size) {
	softmig_summary_keep(SOFTMIG_LOG_DIR, job);
	int failed = softmig_state_remove(state, job, why, why_size);
	softmig_slice_log_tidy(SOFTMIG_LOG_DIR, job);
	return failed;
}

static int delete(const struct softmig_state *state, const struct softmig_slice_arguments *arguments) {
	struct softmig_limits sum;
	char why[256];
	uint64_t job = arguments->job, first = softmig_parts_first(state, job);
	int others = first > 0 ? softmig_parts_sum(state, first, job, &sum, why, sizeof(why)) : 0, failed = 0;
	if (others < 0)
		return fail(arguments, "%s", why);
	// The sum without this part first: done again after an interruption, it is the same.
	if (others > 0)
		failed = softmig_state_write(state, first, &sum, why, sizeof(why));
	else if (first > 0 && first != job)
		failed = end(state, first, why, sizeof(why));
	if (first > 0)
		failed |= softmig_parts_remove(state, first, job, why, sizeof(why));
	if (first != job || others == 0) // else its number is still the other components'
		failed |= end(state, job, why, sizeof(why));
	return failed ? fail(arguments, "%s", why) : SOFTMIG_EXIT_OK;
}

static int run(int argc, char **argv) {
	struct softmig_slice_arguments arguments;
	struct softmig_state state;
	struct softmig_limits entries;
	struct node node = { .count = 0 };
	char why[256];
	int status;
	if (!softmig_slice_parse(argc, argv, &arguments, &status))
		return status;
	if (geteuid() != 0)
		return softmig_cli_fail(verb, "only root may do this");
	umask(022);
	if (arguments.act == SOFTMIG_SLICE_FAIL)
		return fail(&arguments, "%s", arguments.reason);
	if (arguments.requests > 0 || arguments.memory_bytes > 0)
		node.count = softmig_node_gpus(node.gpu, why, sizeof(why));
	if (node.count < 0)
		return fail(&arguments, "%s", why);
	status = measure(&arguments, &node, &entries);
	if (status != 0)
		return status - 1;
	if (!softmig_state_open(&state, why, sizeof(why)))
		return fail(&arguments, "%s", why);
	if (arguments.act == SOFTMIG_SLICE_CREATE)
		status = create(&state, &arguments, &entries);
	else if (arguments.act == SOFTMIG_SLICE_RESIZE)
		status = resize(&state, &arguments, &node, &entries);
	else
		status = delete(&state, &arguments);
	softmig_state_close(&state);
	return status;
}
