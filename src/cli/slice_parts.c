// SPDX-License-Identifier: Apache-2.0
// See slice_parts.h.
#include "cli/slice_parts.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/slice_sum.h"
#include "slice/job.h"

enum { PARTS_MAX = 256, NAME_BYTES = 48 }; // Slurm lets a job have 128 components

struct part {
	uint64_t first, job;
};

static void name_of(char name[NAME_BYTES], uint64_t first, uint64_t job)
{
	snprintf(name, NAME_BYTES, "%" PRIu64 "+%" PRIu64 ".part", first, job);
}

static bool is_part(const char *name, struct part *part)
{
	const char *plus = strchr(name, '+'), *dot = plus ? strchr(plus, '.') : NULL;
	if (!dot || strcmp(dot, ".part") != 0)
		return false;
	part->first = softmig_job_parse_id(name, (size_t)(plus - name));
	part->job = softmig_job_parse_id(plus + 1, (size_t)(dot - plus - 1));
	return part->first && part->job;
}

static int in_order(const void *a, const void *b)
{
	const struct part *first = a, *second = b;
	return (first->job > second->job) - (first->job < second->job);
}

// All parts of all jobs on this node; -1 with errno.
static int list(const struct softmig_state *state, struct part parts[PARTS_MAX])
{
	int copy = openat(state->directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), count = 0;
	DIR *files = copy < 0 ? NULL : fdopendir(copy);
	if (!files) {
		int error = errno;
		if (copy >= 0)
			close(copy);
		errno = error;
		return -1;
	}
	for (struct dirent *entry; count < PARTS_MAX && (entry = readdir(files));)
		count += is_part(entry->d_name, &parts[count]);
	closedir(files);
	qsort(parts, (size_t)count, sizeof *parts, in_order);
	return count;
}

uint64_t softmig_parts_first(const struct softmig_state *state, uint64_t job)
{
	struct part parts[PARTS_MAX];
	int count = list(state, parts);
	for (int i = 0; i < count; i++)
		if (parts[i].job == job || parts[i].first == job)
			return parts[i].first;
	return 0;
}

int softmig_parts_write(const struct softmig_state *state, uint64_t first, uint64_t job, const struct softmig_limits *limits, char *why,
                        size_t why_size)
{
	char name[NAME_BYTES];
	name_of(name, first, job);
	return softmig_state_write_named(state, name, job, limits, why, why_size);
}

int softmig_parts_remove(const struct softmig_state *state, uint64_t first, uint64_t job, char *why, size_t why_size)
{
	char name[NAME_BYTES];
	name_of(name, first, job);
	return softmig_state_remove_named(state, name, why, why_size);
}

enum softmig_limits_status softmig_parts_load(uint64_t first, uint64_t job, struct softmig_limits *limits, struct softmig_limits_error *error)
{
	char name[NAME_BYTES], path[sizeof SOFTMIG_STATE_DIR + NAME_BYTES];
	name_of(name, first, job);
	snprintf(path, sizeof path, SOFTMIG_STATE_DIR "/%s", name);
	return softmig_limits_load_path(path, 0, limits, error);
}

int softmig_parts_sum(const struct softmig_state *state, uint64_t first, uint64_t except, struct softmig_limits *sum, char *why,
                      size_t why_size)
{
	struct part parts[PARTS_MAX];
	struct softmig_limits limits;
	struct softmig_limits_error error;
	int count = list(state, parts), added = 0;
	softmig_limits_init(sum);
	if (count < 0)
		snprintf(why, why_size, SOFTMIG_STATE_DIR " cannot be listed: %s", strerror(errno));
	for (int i = 0; i < count; i++) {
		if (parts[i].first != first || parts[i].job == except)
			continue;
		if (softmig_parts_load(first, parts[i].job, &limits, &error) != SOFTMIG_LIMITS_OK) {
			snprintf(why, why_size, "what its component %" PRIu64 " was given cannot be read: %s", parts[i].job, error.message);
			return -1;
		}
		if (added++ == 0) {
			*sum = limits; // its modes are the job's
		} else if (!softmig_slice_add(sum, &limits)) {
			snprintf(why, why_size, "its job has more than %d GPUs on this node", SOFTMIG_MAX_GPUS);
			return -1;
		}
	}
	return count < 0 ? -1 : added;
}
