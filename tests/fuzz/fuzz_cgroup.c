// SPDX-License-Identifier: Apache-2.0
// The text of /proc/PID/cgroup against a second reading of it that takes lines and paths apart with other means.
#include <string.h>

#include "fuzz.h"
#include "slice/job.h"

struct name {
	const char *text;
	size_t length;
};

// The number behind prefix if the rest of the name is digits and fits 63 bits.
static int numbered(struct name name, const char *prefix, uint64_t *number) {
	size_t length = strlen(prefix);
	if (name.length <= length || name.length > 255 || memcmp(name.text, prefix, length) != 0)
		return 0;
	unsigned __int128 value = 0;
	for (size_t i = length; i < name.length; i++) {
		if (name.text[i] < '0' || name.text[i] > '9')
			return 0;
		value = value * 10 + (unsigned)(name.text[i] - '0');
		if (value > INT64_MAX)
			return 0;
	}
	*number = (uint64_t)value;
	return 1;
}

static int is_scope(struct name name) {
	static const char scope[] = "slurmstepd.scope";
	size_t length = sizeof(scope) - 1;
	if (name.length < length || name.length > 255 || memcmp(name.text + name.length - length, scope, length) != 0)
		return 0;
	return name.length == length || name.text[name.length - length - 1] == '_';
}

static void read_line(const char *line, size_t length, uint64_t *best, unsigned *best_depth) {
	const char *first = length > 0 ? memchr(line, ':', length) : NULL;
	const char *second = first != NULL ? memchr(first + 1, ':', length - (size_t)(first + 1 - line)) : NULL;
	if (second == NULL)
		return;
	struct name parent = {NULL, 0};
	unsigned depth = 0;
	for (const char *at = second + 1, *end = line + length; at < end;) {
		const char *slash = memchr(at, '/', (size_t)(end - at));
		struct name name = {at, (size_t)((slash != NULL ? slash : end) - at)};
		at += name.length + 1;
		if (name.length == 0)
			continue;
		depth++;
		uint64_t uid, job;
		if (parent.length > 0 && (is_scope(parent) || numbered(parent, "uid_", &uid)) && numbered(name, "job_", &job) &&
		    job > 0 && (*best == 0 || depth < *best_depth)) {
			*best = job;
			*best_depth = depth;
		}
		parent = name;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	const char *text = (const char *)data;
	uint64_t best = 0;
	unsigned depth = 0;
	for (size_t at = 0; at < size;) {
		const char *end = memchr(text + at, '\n', size - at);
		size_t length = end != NULL ? (size_t)(end - text) - at : size - at;
		read_line(text + at, length, &best, &depth);
		at += length + 1;
	}
	CHECK(softmig_job_from_cgroup(text, size) == best);
	return 0;
}
