// SPDX-License-Identifier: Apache-2.0
// Passive or sliced: see mode.h. Data flow: job (cgroup) -> limit file or environment -> limits; -> ledger.
#include "preload/mode.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "slice/job.h"
#include "slice/log.h"
#include "slice/owner.h"
#include "slice/series.h"
#include "slice/sys.h"
#include "slice/format.h"

enum { UNDECIDED = -1 };

static struct {
	_Atomic int mode;       // UNDECIDED or enum softmig_mode
	_Atomic pid_t deciding; // the process that is at it, so that a child forked meanwhile does not wait for a thread it lacks
	bool has_share, from_file, secure;
	uint64_t job;
	char file[256]; // the limit file
} state = {.mode = UNDECIDED};

struct softmig_ledger softmig_the_ledger;

// Two copies, so that a reader's stays whole while the next is written; a third version comes a second later at the earliest.
static struct softmig_limits limits[2];
static _Atomic unsigned limits_index;
static _Atomic uint64_t next_check_ns;
static struct stat limits_stat; // of the version in force; touched only by whoever moved next_check_ns

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static const char *variable(const char *name)
{
	return state.secure ? NULL : getenv(name);
}

static bool disabled_by_root(void)
{
	struct stat status;
	return softmig_sys_lstat(SOFTMIG_DISABLED_FILE, &status) == 0 && S_ISREG(status.st_mode) &&
	       status.st_uid == softmig_owner_here(0);
}

// Root's ledger beside its limit file belongs to the job's user; anybody else's is not ours to use, root's processes apart.
static int open_root_ledger(char *path, size_t size)
{
	struct stat status;

	softmig_format(path, size, SOFTMIG_STATE_DIR "/%llu.ledger", (unsigned long long)state.job);
	if (softmig_sys_lstat(path, &status) != 0)
		return errno;
	if (status.st_uid != geteuid() && geteuid() != 0)
		return EPERM;
	return softmig_ledger_open(&softmig_the_ledger, path, status.st_uid, false);
}

static int open_user_ledger(char *path, size_t size)
{
	const char *named = state.from_file ? NULL : variable("CUDA_DEVICE_MEMORY_SHARED_CACHE");
	const char *directory = variable("SLURM_TMPDIR");
	const char *array = variable("SLURM_ARRAY_TASK_ID");

	if (named != NULL && named[0] == '/')
		softmig_format(path, size, "%s", named);
	else if (state.job == 0)
		softmig_format(path, size, "/tmp/cudevshr.cache.%u", (unsigned)geteuid());
	else if (directory == NULL || directory[0] != '/')
		return ENOENT; // never a job's ledger in a /tmp that other jobs share
	else if (array != NULL && array[0] != '\0' && strspn(array, "0123456789") == strlen(array))
		softmig_format(path, size, "%s/cudevshr.cache.%llu.%s", directory, (unsigned long long)state.job, array);
	else
		softmig_format(path, size, "%s/cudevshr.cache.%llu", directory, (unsigned long long)state.job);
	return softmig_ledger_open(&softmig_the_ledger, path, geteuid(), true);
}

static enum softmig_mode open_ledger(void)
{
	char path[512] = "";
	int error = ENOENT;

	if (state.from_file)
		error = open_root_ledger(path, sizeof(path));
	if (error == ENOENT)
		error = open_user_ledger(path, sizeof(path));
	if (error == 0)
		return SOFTMIG_MODE_SLICE;
	if (error == EINVAL)
		softmig_log(SOFTMIG_LOG_ERROR, "%s is no ledger of this version of SoftMig: remove it when no process of the slice runs any more; this process gets no GPU", path);
	else
		softmig_log(SOFTMIG_LOG_ERROR, "the ledger %s of the slice cannot be opened (errno %d): this process gets no GPU", path, error);
	return SOFTMIG_MODE_REFUSED;
}

static enum softmig_mode decide(void)
{
	struct softmig_limits_error fault = {0};
	enum softmig_limits_status status = SOFTMIG_LIMITS_ABSENT;

	state.secure = getauxval(AT_SECURE) != 0;
	if (disabled_by_root())
		return SOFTMIG_MODE_PASSIVE;
	struct softmig_job job = softmig_job_find(0, !state.secure);
	state.job = job.id;
	softmig_limits_init(&limits[0]);
	if (job.source != SOFTMIG_JOB_NONE)
		status = softmig_limits_load(SOFTMIG_STATE_DIR, job.id, 0, &limits[0], &fault, state.file, sizeof(state.file));
	state.from_file = status != SOFTMIG_LIMITS_ABSENT;
	if (status == SOFTMIG_LIMITS_ABSENT && !state.secure)
		status = softmig_limits_from_environment(environ, &limits[0], &fault);
	if (status == SOFTMIG_LIMITS_ABSENT)
		return SOFTMIG_MODE_PASSIVE;
	softmig_log_init(state.job, status == SOFTMIG_LIMITS_OK ? limits[0].log_level : -1);
	if (status == SOFTMIG_LIMITS_BAD) {
		softmig_log(SOFTMIG_LOG_ERROR, "%s line %d: %s; this process gets no GPU",
		            state.from_file ? state.file : "environment", fault.line, fault.message);
		return SOFTMIG_MODE_REFUSED;
	}
	if (state.from_file)
		softmig_sys_lstat(state.file, &limits_stat);
	state.has_share = limits[0].has_sm;
	enum softmig_mode mode = open_ledger();
	if (mode == SOFTMIG_MODE_SLICE)
		softmig_log(SOFTMIG_LOG_INFO, "slice from %s, memory of GPU 0 %llu bytes, SM limit %u %%",
		            state.from_file ? state.file : "the environment", (unsigned long long)limits[0].memory_bytes[0],
		            (unsigned)limits[0].sm_pct[0]);
	return mode;
}

enum softmig_mode softmig_mode(void)
{
	int mode = atomic_load_explicit(&state.mode, memory_order_acquire);

	while (mode == UNDECIDED) {
		pid_t self = getpid(), other = atomic_load(&state.deciding);
		if (other != self && atomic_compare_exchange_strong(&state.deciding, &other, self)) {
			int kept = errno;
			mode = (int)decide();
			errno = kept;
			atomic_store_explicit(&state.mode, mode, memory_order_release);
			break;
		}
		sched_yield();
		mode = atomic_load_explicit(&state.mode, memory_order_acquire);
	}
	return (enum softmig_mode)mode;
}

bool softmig_mode_known_passive(void)
{
	return atomic_load_explicit(&state.mode, memory_order_relaxed) == SOFTMIG_MODE_PASSIVE;
}

bool softmig_mode_has_share(void)
{
	return softmig_mode() == SOFTMIG_MODE_SLICE && state.has_share;
}

static bool same_version(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

// A file that has vanished or cannot be understood any more changes nothing for a running process: neither an escape nor an end.
static void reload(void)
{
	struct softmig_limits_error fault = {0};
	struct stat status;
	unsigned spare = (atomic_load(&limits_index) + 1) % 2;

	if (softmig_sys_lstat(state.file, &status) != 0 || same_version(&status, &limits_stat))
		return;
	limits_stat = status;
	if (softmig_limits_load_path(state.file, 0, &limits[spare], &fault) != SOFTMIG_LIMITS_OK) {
		softmig_log(SOFTMIG_LOG_ERROR, "%s line %d: %s; the limits stay as they were", state.file, fault.line, fault.message);
		return;
	}
	if (limits[spare].log_level >= 0)
		softmig_log_set_level(limits[spare].log_level);
	atomic_store_explicit(&limits_index, spare, memory_order_release);
	softmig_log(SOFTMIG_LOG_WARN, "limits changed: memory of GPU 0 %llu bytes, SM limit %u %%",
	            (unsigned long long)limits[spare].memory_bytes[0], (unsigned)limits[spare].sm_pct[0]);
}

const struct softmig_limits *softmig_limits_now(void)
{
	if (state.from_file) {
		uint64_t now = now_ns(), due = atomic_load_explicit(&next_check_ns, memory_order_relaxed);
		// Half a second, so that a change is in force within one.
		if (now >= due && atomic_compare_exchange_strong(&next_check_ns, &due, now + 500000000u)) {
			int kept = errno;
			reload();
			errno = kept;
		}
		softmig_series_sample(&softmig_the_ledger, now);
	}
	return &limits[atomic_load_explicit(&limits_index, memory_order_acquire)];
}

uint64_t softmig_mode_job(void)
{
	return state.job;
}

bool softmig_mode_from_file(void)
{
	return state.from_file;
}
