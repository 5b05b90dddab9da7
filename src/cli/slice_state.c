// SPDX-License-Identifier: Apache-2.0
// What root keeps of a job: see slice_state.h.
#include "cli/slice_state.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/lock.h"
#include "cli/slice_sum.h"
#include "cli/units.h"
#include "slice/ledger.h"
#include "slice/turn_files.h"

#define LOCK_NAME ".lock"
enum { NAME_BYTES = 64, TEXT_BYTES = 8192 };

static void complain(char *why, size_t why_size, const char *what, int error) {
	static const char full[] = "; " SOFTMIG_STATE_DIR " is full: enlarge its file system or remove stale jobs from it";
	snprintf(why, why_size, "%s: %s%s", what, strerror(error), error == ENOSPC || error == EDQUOT ? full : "");
}

bool softmig_state_open(struct softmig_state *state, char *why, size_t why_size) {
	if (mkdir(SOFTMIG_STATE_DIR, 0755) == 0)
		chmod(SOFTMIG_STATE_DIR, 0755); // whatever the umask
	*state = (struct softmig_state){.directory = open(SOFTMIG_STATE_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
	if (state->directory < 0) {
		complain(why, why_size, SOFTMIG_STATE_DIR " cannot be opened", errno);
		return false;
	}
	struct stat status;
	if (fstat(state->directory, &status) != 0 || status.st_uid != 0 || (status.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
		snprintf(why, why_size, SOFTMIG_STATE_DIR " must belong to root and be writable by root alone");
	} else {
		state->lock = softmig_lock_take(state->directory, LOCK_NAME);
		if (state->lock >= 0)
			return true;
		complain(why, why_size, SOFTMIG_STATE_DIR "/" LOCK_NAME " cannot be locked", errno);
	}
	close(state->directory);
	return false;
}

void softmig_state_close(const struct softmig_state *state) {
	softmig_lock_give_back(state->directory, LOCK_NAME, state->lock);
	close(state->directory);
}

static void name_of(char name[NAME_BYTES], uint64_t job, const char *ending) {
	snprintf(name, NAME_BYTES, "%" PRIu64 "%s", job, ending);
}

bool softmig_state_has_limits(const struct softmig_state *state, uint64_t job) {
	char name[NAME_BYTES];
	struct stat status;
	name_of(name, job, ".conf");
	return fstatat(state->directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0;
}

enum softmig_limits_status softmig_state_load(uint64_t job, struct softmig_limits *limits, struct softmig_limits_error *error) {
	char path[sizeof(SOFTMIG_STATE_DIR) + NAME_BYTES];
	snprintf(path, sizeof(path), SOFTMIG_STATE_DIR "/%" PRIu64 ".conf", job);
	return softmig_limits_load_path(path, 0, limits, error);
}

static size_t format_limits(char *text, size_t size, uint64_t job, const struct softmig_limits *limits) {
	size_t length = (size_t)snprintf(text, size, "# Job %" PRIu64 ", written by softmig slice\n", job);
	for (int i = 0; i < softmig_slice_entries(limits); i++) {
		bool whole = limits->memory_bytes[i] % (1 << 20) == 0; // MiB are easier to read
		uint64_t number = whole ? limits->memory_bytes[i] >> 20 : limits->memory_bytes[i];
		length += (size_t)snprintf(text + length, size - length, "CUDA_DEVICE_MEMORY_LIMIT_%d=%" PRIu64 "%s\n", i, number,
		                           whole ? "M" : "");
		length += (size_t)snprintf(text + length, size - length, "CUDA_DEVICE_SM_LIMIT_%d=%u\n", i, limits->sm_pct[i]);
		length += (size_t)snprintf(text + length, size - length, "SOFTMIG_GPU_UUID_%d=%s\n", i,
		                           softmig_text_uuid(limits->uuid[i]).text);
	}
	if (limits->oom_killer)
		length += (size_t)snprintf(text + length, size - length, "ACTIVE_OOM_KILLER=1\n");
	if (limits->share_mode == SOFTMIG_SHARE_BORROW)
		length += (size_t)snprintf(text + length, size - length, "SOFTMIG_SHARE_MODE=borrow\n");
	if (limits->log_level >= 0)
		length += (size_t)snprintf(text + length, size - length, "SOFTMIG_LOG_LEVEL=%d\n", limits->log_level);
	return length;
}

int softmig_state_write_named(const struct softmig_state *state, const char *name, uint64_t job, const struct softmig_limits *limits,
                              char *why, size_t why_size) {
	// 16 GPUs of about 150 bytes and three more lines: the text always fits.
	char text[TEXT_BYTES], temporary[NAME_BYTES + sizeof(".new")];
	_Static_assert(SOFTMIG_MAX_GPUS * 200 + 256 <= TEXT_BYTES, "room for every GPU");
	size_t length = format_limits(text, sizeof(text), job, limits), written = 0;
	int directory = state->directory;
	snprintf(temporary, sizeof(temporary), "%s.new", name);
	unlinkat(directory, temporary, 0); // of one that was killed: we hold the lock
	int file = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (file < 0) {
		complain(why, why_size, "the limit file cannot be created", errno);
		return -1;
	}
	int error = 0;
	while (written < length && error == 0) {
		ssize_t part = write(file, text + written, length - written);
		if (part > 0)
			written += (size_t)part;
		else if (part < 0 && errno != EINTR)
			error = errno;
	}
	if (error == 0 && (fchown(file, 0, 0) != 0 || fchmod(file, 0644) != 0))
		error = errno;
	if (close(file) != 0 && error == 0)
		error = errno;
	if (error == 0 && renameat(directory, temporary, directory, name) != 0)
		error = errno;
	if (error == 0)
		return 0;
	unlinkat(directory, temporary, 0);
	complain(why, why_size, "the limit file cannot be written", error);
	return -1;
}

int softmig_state_write(const struct softmig_state *state, uint64_t job, const struct softmig_limits *limits, char *why, size_t why_size) {
	char name[NAME_BYTES];
	name_of(name, job, ".conf");
	return softmig_state_write_named(state, name, job, limits, why, why_size);
}

int softmig_state_create_shared(uint64_t job, uid_t uid, gid_t gid, const struct softmig_limits *limits, char *why, size_t why_size) {
	char path[sizeof(SOFTMIG_TURN_DIR) + sizeof(struct softmig_text) + NAME_BYTES];
	snprintf(path, sizeof(path), SOFTMIG_STATE_DIR "/%" PRIu64 ".ledger", job);
	int error = softmig_ledger_create(path, uid, gid);
	if (error != 0 && error != EEXIST) {
		complain(why, why_size, "the ledger cannot be created", error);
		return -1;
	}
	for (int i = 0; i < softmig_slice_entries(limits); i++) {
		struct stat status;
		struct softmig_text uuid = softmig_text_uuid(limits->uuid[i]);
		snprintf(path, sizeof(path), SOFTMIG_TURN_DIR "/%s/%" PRIu64, uuid.text, job);
		if (lstat(path, &status) == 0 && S_ISREG(status.st_mode) && status.st_uid == uid)
			continue; // running processes have it mapped
		error = softmig_turn_create(SOFTMIG_TURN_DIR, uuid.text, job, uid, gid);
		if (error != 0) {
			complain(why, why_size, "the page of turns cannot be created", error);
			return -1;
		}
	}
	return 0;
}

bool softmig_state_shared_fits(const struct softmig_state *state, uint64_t job, uid_t uid) {
	char name[NAME_BYTES];
	struct stat status;
	name_of(name, job, ".ledger");
	return fstatat(state->directory, name, &status, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(status.st_mode) && status.st_uid == uid &&
	       status.st_size == (off_t)sizeof(struct softmig_ledger_file);
}

// Of every GPU's, since the limit file that named the GPUs may be gone.
static int remove_turns(uint64_t job) {
	DIR *turns = opendir(SOFTMIG_TURN_DIR);
	if (turns == NULL)
		return errno == ENOENT ? 0 : errno;
	int result = 0;
	struct dirent *gpu;
	while ((gpu = readdir(turns)) != NULL) {
		int error = gpu->d_name[0] == '.' ? 0 : softmig_turn_remove(SOFTMIG_TURN_DIR, gpu->d_name, job);
		if (error != 0)
			result = error;
	}
	closedir(turns);
	rmdir(SOFTMIG_TURN_DIR); // if it is empty: of a delete that was killed
	return result;
}

static int remove_file(const struct softmig_state *state, const char *name, char *why, size_t why_size) {
	char what[NAME_BYTES + 32];
	if (unlinkat(state->directory, name, 0) == 0 || errno == ENOENT)
		return 0;
	int error = errno;
	snprintf(what, sizeof(what), "%s cannot be removed", name);
	complain(why, why_size, what, error);
	return -1;
}

int softmig_state_remove(const struct softmig_state *state, uint64_t job, char *why, size_t why_size) {
	static const char *const endings[] = { ".ledger", ".conf.new", ".conf" };
	char name[NAME_BYTES];
	int result = 0, error = remove_turns(job);
	if (error != 0) {
		complain(why, why_size, "a page of turns cannot be removed", error);
		result = -1;
	}
	for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
		name_of(name, job, endings[i]);
		result |= remove_file(state, name, why, why_size);
	}
	return result;
}

int softmig_state_remove_named(const struct softmig_state *state, const char *name, char *why, size_t why_size) {
	char temporary[NAME_BYTES + sizeof(".new")];
	snprintf(temporary, sizeof(temporary), "%s.new", name);
	return remove_file(state, temporary, why, why_size) | remove_file(state, name, why, why_size);
}
