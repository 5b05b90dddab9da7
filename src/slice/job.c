// SPDX-License-Identifier: Apache-2.0
// Which Slurm job does this process belong to? See job.h. The text is fed through a small state machine, so that its
// length does not matter and a path across two reads is the same as one.
#include "slice/job.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/types.h>
#include <unistd.h>

#include "slice/format.h"
#include "slice/sys.h"

struct scanner {
	int colons;              // of the line so far; from the second on it is the path
	unsigned depth;          // components of the path so far
	bool parent_is_slurms;   // the component before this one is uid_U or slurmstepd.scope
	char name[NAME_MAX + 1]; // the component so far
	size_t name_length;      // larger than NAME_MAX: longer than any directory's name
	uint64_t job;            // the best so far, 0: none
	unsigned job_depth;
};

static bool starts_with(const struct scanner *scanner, const char *prefix) {
	size_t length = strlen(prefix);
	return scanner->name_length >= length && memcmp(scanner->name, prefix, length) == 0;
}

static bool ends_with(const struct scanner *scanner, const char *suffix) {
	size_t length = strlen(suffix);
	return scanner->name_length >= length && memcmp(scanner->name + scanner->name_length - length, suffix, length) == 0;
}

static bool is_numbered(const struct scanner *scanner, const char *prefix, uint64_t *number) {
	size_t length = strlen(prefix);
	return starts_with(scanner, prefix) &&
	       softmig_parse_decimal(scanner->name + length, scanner->name_length - length, INT64_MAX, number);
}

static bool is_slurms_parent(const struct scanner *scanner) {
	uint64_t uid;
	if (is_numbered(scanner, "uid_", &uid))
		return true;
	return ends_with(scanner, "slurmstepd.scope") &&
	       (scanner->name_length == strlen("slurmstepd.scope") || ends_with(scanner, "_slurmstepd.scope"));
}

static void end_component(struct scanner *scanner) {
	uint64_t job;
	if (scanner->name_length > 0) {
		bool fits = scanner->name_length <= NAME_MAX;
		scanner->depth++;
		if (fits && scanner->parent_is_slurms && is_numbered(scanner, "job_", &job) && job > 0 &&
		    (scanner->job == 0 || scanner->depth < scanner->job_depth)) {
			scanner->job = job;
			scanner->job_depth = scanner->depth;
		}
		scanner->parent_is_slurms = fits && is_slurms_parent(scanner);
	}
	scanner->name_length = 0;
}

static void end_line(struct scanner *scanner) {
	end_component(scanner);
	scanner->colons = 0;
	scanner->depth = 0;
	scanner->parent_is_slurms = false;
}

static void feed(struct scanner *scanner, const char *text, size_t length) {
	for (size_t i = 0; i < length; i++) {
		if (text[i] == '\n')
			end_line(scanner);
		else if (scanner->colons < 2)
			scanner->colons += text[i] == ':';
		else if (text[i] == '/')
			end_component(scanner);
		else if (scanner->name_length < NAME_MAX)
			scanner->name[scanner->name_length++] = text[i];
		else
			scanner->name_length = NAME_MAX + 1;
	}
}

uint64_t softmig_job_from_cgroup(const char *text, size_t length) {
	struct scanner scanner = {0};
	feed(&scanner, text, length);
	end_line(&scanner);
	return scanner.job;
}

uint64_t softmig_job_parse_id(const char *text, size_t length) {
	uint64_t id;
	return softmig_parse_decimal(text, length, INT64_MAX, &id) ? id : 0;
}

static uint64_t job_of_cgroup_file(const char *path) {
	int descriptor = softmig_sys_open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0);
	if (descriptor < 0)
		return 0;
	struct scanner scanner = {0};
	char buffer[2048];
	ssize_t got;
	do {
		got = softmig_sys_read(descriptor, buffer, sizeof(buffer));
		if (got > 0)
			feed(&scanner, buffer, (size_t)got);
	} while (got > 0 || (got < 0 && errno == EINTR));
	if (got == 0) // after an error the last component may be cut: "job_12" of "job_123"
		end_line(&scanner);
	softmig_sys_close(descriptor);
	return scanner.job;
}

struct softmig_job softmig_job_find(int pid, bool use_environment) {
	struct softmig_job job = {.source = SOFTMIG_JOB_NONE, .id = 0};
	int saved_errno = errno;
	char path[32];
	if (pid == 0)
		softmig_format(path, sizeof(path), "/proc/self/cgroup");
	else
		softmig_format(path, sizeof(path), "/proc/%d/cgroup", pid);
	job.id = job_of_cgroup_file(path);
	if (job.id > 0) {
		job.source = SOFTMIG_JOB_CGROUP;
	} else if (use_environment && pid == 0 && getauxval(AT_SECURE) == 0) {
		const char *value = getenv("SLURM_JOB_ID");
		job.id = value != NULL ? softmig_job_parse_id(value, strlen(value)) : 0;
		job.source = job.id > 0 ? SOFTMIG_JOB_ENVIRONMENT : SOFTMIG_JOB_NONE;
	}
	errno = saved_errno;
	return job;
}
