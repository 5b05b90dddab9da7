// SPDX-License-Identifier: Apache-2.0
// Where the pages of turn.h lie. Owns: making, mapping, reading and removing them. A directory per GPU, named by its UUID, holds
// one page file per job. Root makes both for a job (the file is the job's user's, the directory root's, so that nobody can
// replace another's); outside Slurm a user's jobs have a directory of their own in /tmp.
// Must never: map another's page (its owner may truncate it, and reading would then kill this process): those are read with
// pread, a few hundred bytes every millisecond or two; keep a descriptor, allocate, print, change errno.
#ifndef SOFTMIG_SLICE_TURN_FILES_H
#define SOFTMIG_SLICE_TURN_FILES_H
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "slice/turn.h"

#define SOFTMIG_TURN_DIR "/var/run/softmig/turns"
#define SOFTMIG_TURN_NAME 24

// A GPU's directory as one process knows it.
struct softmig_turn_directory {
	char path[160];               // empty: there are no turns
	char own[SOFTMIG_TURN_NAME];  // the name of the job's page in it
	uid_t owner;                  // of the directory
	int count;
	char name[SOFTMIG_TURN_PEERS][SOFTMIG_TURN_NAME]; // the others'; empty: a place left free
	struct timespec changed;      // of the directory when it was last listed
	uint64_t listed_ns;
	bool users;                   // outside Slurm: it is the user's own
	bool again;                   // it changed when it was last listed, and what made it change may have come since
	unsigned silent;              // pages of the silent looked at in this round of listings
};

// For root: makes base/UUID and the page of a job in it; removes the page, and the two directories when they are empty then. Both may run
// beside each other for several jobs. uuid as text ("GPU-..."). Returns 0 or errno.
int softmig_turn_create(const char *base, const char *uuid, uint64_t job, uid_t uid, gid_t gid);
int softmig_turn_remove(const char *base, const char *uuid, uint64_t job);

// Opens the page that root made for the job and maps it. Refuses what is not root's directory or not this user's own file.
// Returns 0 or errno; the page stays mapped for the life of the process.
int softmig_turn_open_root(struct softmig_turn_directory *directory, const char *base, const char *uuid, uint64_t job,
                           struct softmig_turn_page **page);
// The same outside Slurm: /tmp/softmig-turns.UID/UUID/KEY, made where missing, refused where another could have made it.
int softmig_turn_open_user(struct softmig_turn_directory *directory, const char *tmp, const char *uuid, uint64_t key,
                           uint64_t now_ns, struct softmig_turn_page **page);

// Reads the neighbours' pages into turn, before the job asks for its turn. Lists the directory anew when it changed; outside Slurm a job that was silent for
// seconds makes it change.
void softmig_turn_read(struct softmig_turn_directory *directory, struct softmig_turn *turn, uint64_t now_ns);
#endif
