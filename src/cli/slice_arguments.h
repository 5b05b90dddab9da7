// SPDX-License-Identifier: Apache-2.0
// The words after softmig slice. Owns: which options there are, for which of its verbs, and their values. Must never: look at the node.
#ifndef SOFTMIG_CLI_SLICE_ARGUMENTS_H
#define SOFTMIG_CLI_SLICE_ARGUMENTS_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "slice/limits.h"

enum softmig_slice_act { SOFTMIG_SLICE_CREATE = 1, SOFTMIG_SLICE_RESIZE = 2, SOFTMIG_SLICE_DELETE = 4, SOFTMIG_SLICE_FAIL = 8 };

// "GPU=SHARDS/TOTAL" of the command line.
struct softmig_slice_request {
	bool by_uuid;
	uint8_t uuid[16];
	int minor;
	unsigned shards, total;
};

struct softmig_slice_arguments {
	enum softmig_slice_act act;
	uint64_t job;
	bool has_uid, replace;
	uid_t uid;
	gid_t gid;
	int requests;
	struct softmig_slice_request request[SOFTMIG_MAX_GPUS];
	uint64_t memory_bytes; // 0: not given
	uint8_t sm_pct;        // 0: not given
	int oom_killer;        // -1: not given
	int share_mode;        // -1: not given
	int log_level;         // -1: not given
	uint64_t het_job;      // 0: not given
	int64_t array_task;    // -1: the job is no element of an array
	const char *reason;    // of fail
};

// True: what is asked for is whole and makes sense by itself. Else *status is what to return: the help has been printed, or what is wrong.
bool softmig_slice_parse(int argc, char **argv, struct softmig_slice_arguments *arguments, int *status);
#endif
