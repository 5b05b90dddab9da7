// SPDX-License-Identifier: Apache-2.0
// See view.h.
#include "cli/view.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "slice/job.h"
#include "slice/share.h"

extern char **environ;

enum { ENVIRONMENT_MAX_BYTES = 1 << 20 };

// The environment of a process as it was started with; one block, freed by free().
static char **read_environment(pid_t pid)
{
	char path[64];
	snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
	FILE *file = fopen(path, "re");
	if (!file)
		return NULL;
	size_t pointers = ENVIRONMENT_MAX_BYTES / 64;
	char **block = malloc(pointers * sizeof *block + ENVIRONMENT_MAX_BYTES + 1);
	if (block) {
		char *text = (char *)(block + pointers);
		size_t length = fread(text, 1, ENVIRONMENT_MAX_BYTES, file);
		text[length] = '\0';
		size_t count = 0;
		for (char *entry = text; entry < text + length && count < pointers - 1; entry += strlen(entry) + 1)
			block[count++] = entry;
		block[count] = NULL;
	}
	fclose(file);
	return block;
}

static const char *variable(char *const *environment, const char *name)
{
	size_t length = strlen(name);
	for (; *environment; environment++)
		if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
			return *environment + length + 1;
	return NULL;
}

// Where the library keeps the ledger of a process with this environment (preload/mode.c decides; this must say the same).
static bool ledger_of_environment(char *const *environment, uint64_t job, uid_t uid, bool from_file, char path[PATH_MAX])
{
	const char *named = from_file ? NULL : variable(environment, "CUDA_DEVICE_MEMORY_SHARED_CACHE");
	const char *directory = variable(environment, "SLURM_TMPDIR");
	const char *array = variable(environment, "SLURM_ARRAY_TASK_ID");
	int length;
	if (named && *named == '/')
		length = snprintf(path, PATH_MAX, "%s", named);
	else if (job == 0)
		length = snprintf(path, PATH_MAX, "/tmp/cudevshr.cache.%u", (unsigned)uid);
	else if (!directory || *directory != '/')
		return false;
	else if (array && *array && strspn(array, "0123456789") == strlen(array))
		length = snprintf(path, PATH_MAX, "%s/cudevshr.cache.%" PRIu64 ".%s", directory, job, array);
	else
		length = snprintf(path, PATH_MAX, "%s/cudevshr.cache.%" PRIu64, directory, job);
	return length < PATH_MAX;
}

// ---- What the ledger says

static bool all_equal(const struct softmig_limits *limits)
{
	for (int i = 1; i < SOFTMIG_MAX_GPUS; i++)
		if (limits->memory_bytes[i] != limits->memory_bytes[0] || limits->sm_pct[i] != limits->sm_pct[0])
			return false;
	return true;
}

static int entry_of(const struct softmig_limits *limits, const uint8_t uuid[16])
{
	bool by_uuid = false;
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		by_uuid |= limits->has_uuid[i];
		if (limits->has_uuid[i] && memcmp(limits->uuid[i], uuid, 16) == 0)
			return i;
	}
	return !by_uuid && all_equal(limits) ? 0 : -1;
}

static void set_limits(struct softmig_view_gpu *gpu, const struct softmig_limits *limits, int entry)
{
	gpu->entry = entry;
	gpu->limit_known = entry >= 0;
	gpu->limit_bytes = entry >= 0 ? limits->memory_bytes[entry] : 0;
	gpu->sm_pct = entry >= 0 ? limits->sm_pct[entry] : 100;
}

static void add_from_ledger(struct softmig_view *view, int index, uint64_t now_ns)
{
	uint8_t uuid[16];
	if (!softmig_ledger_gpu_uuid(view->ledger, index, uuid))
		return;
	const struct softmig_ledger_gpu *in_ledger = &view->ledger->gpu[index];
	struct softmig_view_gpu *gpu = &view->gpu[view->gpus++];
	*gpu = (struct softmig_view_gpu){ .ledger = index, .has_uuid = true };
	memcpy(gpu->uuid, uuid, sizeof uuid);
	set_limits(gpu, &view->limits, entry_of(&view->limits, uuid));
	gpu->peak_bytes = atomic_load_explicit(&in_ledger->peak_bytes, memory_order_relaxed);
	gpu->refusals = atomic_load_explicit(&in_ledger->refusals, memory_order_relaxed);
	struct softmig_share share;
	memcpy(&share, (const void *)in_ledger->share_words, sizeof share);
	gpu->used_permille = softmig_share_used_permille(&share, now_ns);
	gpu->busy_ns = atomic_load_explicit(&share.busy_ns, memory_order_relaxed);
	gpu->throttled_ns = atomic_load_explicit(&share.throttled_ns, memory_order_relaxed);
	int cursor = 0;
	struct softmig_ledger_process process;
	while (softmig_ledger_next(view->ledger, &cursor, &process))
		if (__builtin_add_overflow(gpu->used_bytes, process.used_bytes[index], &gpu->used_bytes))
			gpu->used_bytes = UINT64_MAX;
	if (gpu->peak_bytes < gpu->used_bytes)
		gpu->peak_bytes = gpu->used_bytes;
}

// GPUs that the limit file names and no process has used yet.
static void add_from_limits(struct softmig_view *view, int entry)
{
	for (int i = 0; i < view->gpus; i++)
		if (view->gpu[i].entry == entry)
			return;
	if (view->gpus == SOFTMIG_MAX_GPUS)
		return;
	struct softmig_view_gpu *gpu = &view->gpu[view->gpus++];
	*gpu = (struct softmig_view_gpu){ .ledger = -1, .has_uuid = true };
	memcpy(gpu->uuid, view->limits.uuid[entry], sizeof gpu->uuid);
	set_limits(gpu, &view->limits, entry);
}

// Paths are the user's to choose, the terminal is the admin's: no control characters from one to the other.
static void make_printable(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < ' ' || (unsigned char)*text > '~')
			*text = '?';
}

static enum softmig_view_status fail(struct softmig_view *view, const char *what, const char *why)
{
	snprintf(view->why, sizeof view->why, "%.180s: %.120s", what, why);
	make_printable(view->why);
	return SOFTMIG_VIEW_FAILED;
}

// Fills in everything that does not come from the limits. path is the ledger as it can be opened from here.
static enum softmig_view_status add_ledger(struct softmig_view *view, const char *path)
{
	struct stat status;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (lstat(path, &status) == 0)
		view->uid = status.st_uid;
	else if (errno != ENOENT)
		return fail(view, path, strerror(errno));
	view->ledger = malloc(sizeof *view->ledger);
	int error = view->ledger ? softmig_ledger_snapshot(path, view->ledger) : ENOMEM;
	if (error == EACCES)
		return fail(view, path, "only its owner and root may look at it");
	if (error && error != ENOENT)
		return fail(view, path, error == EINVAL ? "this is no ledger, or one of another version" : strerror(error));
	view->has_ledger = !error;
	for (int i = 0; view->has_ledger && i < SOFTMIG_MAX_GPUS; i++)
		add_from_ledger(view, i, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		if (view->limits.has_uuid[i])
			add_from_limits(view, i);
	return SOFTMIG_VIEW_OK;
}

// ---- Finding slices

static void clear(struct softmig_view *view)
{
	*view = (struct softmig_view){ .uid = (uid_t)-1 };
	softmig_limits_init(&view->limits);
}

static enum softmig_view_status load_limit_file(struct softmig_view *view, uint64_t job)
{
	struct softmig_limits_error error;
	view->job = job;
	view->from_file = true;
	switch (softmig_limits_load(SOFTMIG_STATE_DIR, job, 0, &view->limits, &error, view->source, sizeof view->source)) {
	case SOFTMIG_LIMITS_OK:
		return SOFTMIG_VIEW_OK;
	case SOFTMIG_LIMITS_ABSENT:
		return SOFTMIG_VIEW_NONE;
	case SOFTMIG_LIMITS_BAD:
		break;
	}
	snprintf(view->why, sizeof view->why, "the limits are refused, so the job has no GPU: %.60s line %d: %s", view->source,
	         error.line, error.message);
	make_printable(view->why);
	return SOFTMIG_VIEW_FAILED;
}

enum softmig_view_status softmig_view_job(struct softmig_view *view, uint64_t job)
{
	clear(view);
	enum softmig_view_status status = load_limit_file(view, job);
	if (status != SOFTMIG_VIEW_OK)
		return status;
	snprintf(view->ledger_path, sizeof view->ledger_path, SOFTMIG_STATE_DIR "/%" PRIu64 ".ledger", job);
	return add_ledger(view, view->ledger_path);
}

static enum softmig_view_status from_environment(struct softmig_view *view, pid_t pid, char *const *environment, uint64_t job)
{
	clear(view);
	view->job = job;
	char root[32] = "";
	struct stat status = { .st_uid = geteuid() };
	if (pid) {
		snprintf(view->source, sizeof view->source, "/proc/%d/environ", (int)pid);
		snprintf(root, sizeof root, "/proc/%d/root", (int)pid); // a container's paths are its own
		if (stat(view->source, &status) != 0)
			return SOFTMIG_VIEW_NONE;
	}
	view->uid = status.st_uid;
	struct softmig_limits_error error;
	enum softmig_limits_status limits = softmig_limits_from_environment(environment, &view->limits, &error);
	if (limits == SOFTMIG_LIMITS_ABSENT)
		return SOFTMIG_VIEW_NONE;
	if (limits == SOFTMIG_LIMITS_BAD)
		return fail(view, "the limits in the environment are refused, so the program has no GPU", error.message);
	if (!ledger_of_environment(environment, job, status.st_uid, false, view->ledger_path))
		return fail(view, "the ledger", "in a job it needs SLURM_TMPDIR");
	char seen[PATH_MAX + 64];
	snprintf(seen, sizeof seen, "%s%s", root, view->ledger_path);
	return add_ledger(view, seen);
}

enum softmig_view_status softmig_view_process(struct softmig_view *view, pid_t pid)
{
	struct softmig_job job = softmig_job_find(pid, pid == 0);
	if (job.source != SOFTMIG_JOB_NONE) {
		enum softmig_view_status status = softmig_view_job(view, job.id);
		if (status == SOFTMIG_VIEW_OK && !view->has_ledger && pid == 0 &&
		    ledger_of_environment(environ, job.id, geteuid(), true, view->ledger_path)) {
			view->gpus = 0; // root made no ledger for this job, so its processes made one
			free(view->ledger);
			view->ledger = NULL;
			return add_ledger(view, view->ledger_path);
		}
		if (status != SOFTMIG_VIEW_NONE)
			return status;
		softmig_view_free(view);
	}
	char **environment = pid ? read_environment(pid) : environ;
	if (!environment) {
		clear(view);
		char what[32];
		snprintf(what, sizeof what, "process %d", (int)pid);
		return fail(view, what, strerror(errno));
	}
	enum softmig_view_status status = from_environment(view, pid, environment, job.id);
	if (pid)
		free(environment);
	return status;
}

void softmig_view_free(struct softmig_view *view)
{
	free(view->ledger);
	view->ledger = NULL;
}

static int by_number(const void *a, const void *b)
{
	uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
	return (first > second) - (first < second);
}

// The jobs that have a limit file, in order. Malloc'ed, NULL where there is none.
static uint64_t *find_jobs(size_t *count)
{
	DIR *files = opendir(SOFTMIG_STATE_DIR);
	uint64_t *jobs = NULL;
	*count = 0;
	for (struct dirent *entry; files && (entry = readdir(files));) {
		size_t digits = strspn(entry->d_name, "0123456789");
		const char *rest = entry->d_name + digits;
		rest += *rest == '_' ? 1 + strspn(rest + 1, "0123456789") : 0;
		uint64_t job = strcmp(rest, ".conf") == 0 ? softmig_job_parse_id(entry->d_name, digits) : 0;
		uint64_t *more = job ? realloc(jobs, (*count + 1) * sizeof *jobs) : NULL;
		if (more) {
			jobs = more;
			jobs[(*count)++] = job;
		}
	}
	if (files)
		closedir(files);
	if (jobs)
		qsort(jobs, *count, sizeof *jobs, by_number);
	return jobs;
}

struct seen {
	dev_t device;
	ino_t inode;
};

struct search {
	void (*each)(void *context, enum softmig_view_status status, const struct softmig_view *view);
	void *context;
	struct seen seen[256];
	size_t seen_count;
	int count;
};

static bool seen_before(struct search *search, const char *path)
{
	struct stat status;
	if (stat(path, &status) != 0)
		return true; // no ledger: the process does not use the library
	for (size_t i = 0; i < search->seen_count; i++)
		if (search->seen[i].device == status.st_dev && search->seen[i].inode == status.st_ino)
			return true;
	if (search->seen_count == sizeof search->seen / sizeof search->seen[0])
		return true;
	search->seen[search->seen_count++] = (struct seen){ status.st_dev, status.st_ino };
	return false;
}

// A process whose environment holds limits: its slice, unless another process of the slice was there first.
static void visit_process(struct search *search, pid_t pid)
{
	char **environment = read_environment(pid);
	if (!environment)
		return;
	struct softmig_job job = softmig_job_find(pid, false);
	char path[PATH_MAX], seen[PATH_MAX + 64];
	struct stat status;
	snprintf(path, sizeof path, "/proc/%d", (int)pid);
	if ((variable(environment, "CUDA_DEVICE_MEMORY_SHARED_CACHE") || variable(environment, "LD_PRELOAD")) && stat(path, &status) == 0 &&
	    ledger_of_environment(environment, job.id, status.st_uid, false, path)) {
		struct softmig_view view;
		snprintf(seen, sizeof seen, "/proc/%d/root%s", (int)pid, path);
		if (!seen_before(search, seen)) {
			enum softmig_view_status outcome = from_environment(&view, pid, environment, job.id);
			if (outcome != SOFTMIG_VIEW_NONE) {
				search->each(search->context, outcome, &view);
				search->count++;
			}
			softmig_view_free(&view);
		}
	}
	free(environment);
}

int softmig_view_all(void (*each)(void *context, enum softmig_view_status status, const struct softmig_view *view), void *context)
{
	struct search search = { .each = each, .context = context };
	size_t count;
	uint64_t *jobs = find_jobs(&count);
	for (size_t i = 0; i < count; i++) {
		struct softmig_view view;
		enum softmig_view_status status = softmig_view_job(&view, jobs[i]);
		if (status != SOFTMIG_VIEW_NONE && (i == 0 || jobs[i] != jobs[i - 1])) {
			each(context, status, &view);
			search.count++;
		}
		softmig_view_free(&view);
	}
	free(jobs);
	DIR *processes = opendir("/proc");
	for (struct dirent *entry; processes && (entry = readdir(processes));)
		if (*entry->d_name >= '1' && *entry->d_name <= '9')
			visit_process(&search, (pid_t)strtol(entry->d_name, NULL, 10));
	if (processes)
		closedir(processes);
	return search.count;
}

// ---- Processes

static uint64_t own_pid_namespace(void)
{
	struct stat status;
	return stat("/proc/self/ns/pid", &status) == 0 ? status.st_ino : 0;
}

static void name_process(struct softmig_view_process *process)
{
	char path[64];
	FILE *file = NULL;
	strcpy(process->name, "?");
	snprintf(path, sizeof path, "/proc/%d/comm", (int)process->in_ledger.pid);
	if (process->in_ledger.pid_ns == own_pid_namespace())
		file = fopen(path, "re");
	if (!file)
		return;
	if (fgets(process->name, sizeof process->name, file)) {
		process->name[strcspn(process->name, "\n")] = '\0';
		make_printable(process->name); // a program chooses its own
	}
	fclose(file);
}

bool softmig_view_next_process(const struct softmig_view *view, int *cursor, struct softmig_view_process *process)
{
	if (!view->has_ledger || !softmig_ledger_next(view->ledger, cursor, &process->in_ledger))
		return false;
	name_process(process);
	return true;
}
