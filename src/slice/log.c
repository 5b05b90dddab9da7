// SPDX-License-Identifier: Apache-2.0
// The log: see log.h. Each message is one append of one line, so that the processes of a job can share a file without a
// lock.
#include "slice/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "slice/format.h"
#include "slice/owner.h"
#include "slice/sys.h"

static struct {
	uint64_t job;
	char array_task[24];     // digits, empty: no array element
	char file[PATH_MAX];     // SOFTMIG_LOG_FILE, empty: not given
	char fallback[PATH_MAX]; // $SLURM_TMPDIR/softmig_{job}.log, empty: none
	int environment_level;
	_Atomic int level;
	_Atomic bool ready; // released last by init: what is above is then fixed
} log_state;

static int level_of_variable(const char *name) {
	const char *value = getenv(name);
	return value != NULL && value[0] >= '0' && value[0] <= '4' && value[1] == '\0' ? value[0] - '0' : -1;
}

static void copy_variables(uint64_t job) {
	uint64_t task;
	const char *value = getenv("SOFTMIG_LOG_FILE");
	if (value != NULL && strlen(value) < sizeof(log_state.file))
		softmig_format(log_state.file, sizeof(log_state.file), "%s", value);
	if (job == 0)
		return;
	value = getenv("SLURM_ARRAY_TASK_ID");
	if (value != NULL && softmig_parse_decimal(value, strlen(value), UINT32_MAX, &task))
		softmig_format(log_state.array_task, sizeof(log_state.array_task), "%llu", (unsigned long long)task);
	value = getenv("SLURM_TMPDIR");
	if (value != NULL && value[0] == '/' && strlen(value) < sizeof(log_state.fallback) - 64)
		softmig_format(log_state.fallback, sizeof(log_state.fallback), "%s/softmig_%llu.log", value,
		               (unsigned long long)job);
}

void softmig_log_init(uint64_t job, int level) {
	atomic_store_explicit(&log_state.ready, false, memory_order_relaxed);
	log_state.job = job;
	log_state.array_task[0] = log_state.file[0] = log_state.fallback[0] = '\0';
	log_state.environment_level = 0;
	if (getauxval(AT_SECURE) == 0) {
		copy_variables(job);
		int named = level_of_variable("SOFTMIG_LOG_LEVEL");
		int older = level_of_variable("LIBCUDA_LOG_LEVEL");
		log_state.environment_level = named >= 0 ? named : older >= 0 ? older : 0;
	}
	softmig_log_set_level(level);
	// Release: a thread that sees ready also sees the names.
	atomic_store_explicit(&log_state.ready, true, memory_order_release);
}

void softmig_log_set_level(int level) {
	if (level < 0)
		level = log_state.environment_level;
	atomic_store_explicit(&log_state.level, level > SOFTMIG_LOG_TRACE ? SOFTMIG_LOG_TRACE : level,
	                      memory_order_relaxed);
}

int softmig_log_level(void) {
	return atomic_load_explicit(&log_state.level, memory_order_relaxed);
}

// The descriptor of path, at least 3: in a program that closed its standard descriptors, another thread's printf must
// not land in the log. Until ours is open, what is free below 3 is held by descriptors that cannot be read or written.
static int open_above_standard(const char *path, int flags) {
	int held[3], count = 0, descriptor = -1;
	for (int standard = 0; standard < 3; standard++) {
		if (fcntl(standard, F_GETFD) >= 0 || errno != EBADF)
			continue;
		int placeholder = softmig_sys_open("/", O_PATH | O_CLOEXEC, 0);
		if (placeholder < 0)
			goto out;
		held[count++] = placeholder;
	}
	descriptor = softmig_sys_open(path, flags, 0600);
	if (descriptor >= 0 && descriptor < 3) { // another thread closed one meanwhile
		softmig_sys_close(descriptor);
		descriptor = -1;
		errno = EAGAIN;
	}
out:
	while (count > 0)
		softmig_sys_close(held[--count]);
	return descriptor;
}

// Appends to path. anyone: may the file belong to another user? A second link could be a user's name for root's file.
// Returns false where there is nothing to write to.
static bool append(const char *path, bool anyone, const char *line, size_t length) {
	static const char full[] = "this log is full\n";
	// A FIFO without a reader, a dead NFS lock, a terminal: O_NONBLOCK and O_NOCTTY, and then regular files only.
	int descriptor =
		open_above_standard(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (descriptor < 0)
		return false;
	struct stat file;
	bool ours = softmig_sys_fstat(descriptor, &file) == 0 && S_ISREG(file.st_mode) && file.st_nlink == 1 &&
	            (anyone || file.st_uid == geteuid() || file.st_uid == softmig_owner_here(0));
	if (ours && file.st_size < SOFTMIG_LOG_FILE_BYTES) {
		// What does not go through (a full disk, a quota) is lost, and nobody is told.
		ssize_t ignored = softmig_sys_write(descriptor, line, length);
		if (file.st_size + (off_t)length >= SOFTMIG_LOG_FILE_BYTES)
			ignored = softmig_sys_write(descriptor, full, sizeof(full) - 1);
		(void)ignored;
	}
	softmig_sys_close(descriptor);
	return ours;
}

static void append_to_destination(const char *line, size_t length) {
	char path[sizeof(SOFTMIG_LOG_DIR) + 64];
	if (log_state.file[0] != '\0') {
		append(log_state.file, true, line, length);
		return;
	}
	if (log_state.job == 0) // the pid of now: a child after fork has its own file
		softmig_format(path, sizeof(path), SOFTMIG_LOG_DIR "/pid%d.log", (int)softmig_sys_getpid());
	else
		softmig_format(path, sizeof(path), SOFTMIG_LOG_DIR "/%llu%s%s.log", (unsigned long long)log_state.job,
		               log_state.array_task[0] != '\0' ? "_" : "", log_state.array_task);
	if (!append(path, false, line, length) && log_state.fallback[0] != '\0')
		append(log_state.fallback, false, line, length);
}

// Days since 1970-01-01 as year, month and day of the proleptic Gregorian calendar, counted from 1 March so that the
// leap day comes last. gmtime_r reads time zone files under a lock.
static void civil_date(int64_t days, int *year, int *month, int *day) {
	days += 719468; // to 0000-03-01
	int64_t era = days / 146097, day_of_era = days % 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t shifted_month = (5 * day_of_year + 2) / 153;
	*day = (int)(day_of_year - (153 * shifted_month + 2) / 5 + 1);
	*month = (int)(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
	*year = (int)(year_of_era + era * 400 + (*month <= 2));
}

static size_t put_prefix(char *line, size_t size, enum softmig_log_kind kind) {
	static const char *const names[] = {"error", "warning", "debug", "info", "trace"};
	struct timespec now = {0};
	int year, month, day;
	clock_gettime(CLOCK_REALTIME, &now);
	int64_t seconds = now.tv_sec > 0 ? now.tv_sec : 0;
	civil_date(seconds / 86400, &year, &month, &day);
	int of_day = (int)(seconds % 86400);
	return softmig_format(line, size, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %d %s: ", year, month, day, of_day / 3600,
	                      of_day / 60 % 60, of_day % 60, (int)(now.tv_nsec / 1000000), (int)softmig_sys_getpid(),
	                      names[kind]);
}

// Puts message behind the prefix in line, escaped, and a newline. Returns the whole length.
static size_t put_message(char *line, size_t size, size_t length, const char *message, bool cut) {
	size_t room = size - sizeof("...\n");
	for (; *message != '\0'; message++) {
		unsigned char character = (unsigned char)*message;
		bool plain = character >= ' ' && character <= '~';
		if (length + (plain ? 1 : 4) > room) {
			cut = true;
			break;
		}
		length += plain ? 0 : softmig_format(line + length, size - length, "\\x%02x", character);
		if (plain)
			line[length++] = *message;
	}
	return length + softmig_format(line + length, size - length, "%s\n", cut ? "..." : "");
}

// The signals that a write can raise: a reader gone, a file size limit. They are kept from the program while we write,
// and taken back if they came of it; one that was already waiting stays.
struct held_signals {
	sigset_t mask, before;
};

static void hold_signals(struct held_signals *held) {
	sigset_t block;
	sigemptyset(&block);
	sigaddset(&block, SIGPIPE);
	sigaddset(&block, SIGXFSZ);
	sigpending(&held->before);
	sigprocmask(SIG_BLOCK, &block,
	            &held->mask); // this thread's, on Linux; pthread_sigmask's symbol is newer than allowed
}

static void release_signals(const struct held_signals *held) {
	static const int raised[] = {SIGPIPE, SIGXFSZ};
	const struct timespec at_once = {0};
	sigset_t pending, one;
	sigpending(&pending);
	for (size_t i = 0; i < sizeof(raised) / sizeof(raised[0]); i++) {
		if (sigismember(&held->before, raised[i]) != 0 || sigismember(&pending, raised[i]) <= 0)
			continue;
		sigemptyset(&one);
		sigaddset(&one, raised[i]);
		syscall(SYS_rt_sigtimedwait, &one, NULL, &at_once, (size_t)_NSIG / 8);
	}
	sigprocmask(SIG_SETMASK, &held->mask, NULL);
}

void softmig_log(enum softmig_log_kind kind, const char *format, ...) {
	int level = softmig_log_level();
	// Acquire: pairs with init's release.
	if (!atomic_load_explicit(&log_state.ready, memory_order_acquire) || (int)kind > level ||
	    (int)kind < SOFTMIG_LOG_ERROR)
		return;
	int saved_errno = errno;
	char message[SOFTMIG_LOG_LINE_BYTES], line[SOFTMIG_LOG_LINE_BYTES];
	va_list list;
	va_start(list, format);
	size_t length = softmig_format_list(message, sizeof(message), format, list);
	va_end(list);
	size_t prefix = put_prefix(line, sizeof(line), kind);
	length = put_message(line, sizeof(line), prefix, message, length == sizeof(message) - 1);
	struct held_signals held;
	hold_signals(&held);
	append_to_destination(line, length);
	if (level >= SOFTMIG_LOG_INFO) {
		ssize_t ignored = softmig_sys_write(STDERR_FILENO, line, length);
		(void)ignored;
	}
	release_signals(&held);
	errno = saved_errno;
}
