// SPDX-License-Identifier: Apache-2.0
// Descriptors of exported memory: see descriptor.h. One is known again by the file that it stands for: a dma-buf has one of its own, but NVIDIA's are
// all files of the driver's device; so one of these that was closed and whose number another one bears counts as open, and its memory as there, for as long.
#include "preload/descriptor.h"

#include <errno.h>
#include <stdatomic.h>

#include "preload/track.h"
#include "slice/sys.h"

static _Atomic bool any; // has been exported so, by this process or its parent

// A DESCRIPTOR's key: the descriptor, and above it which of those that it stands for.
static int fd_of(const struct softmig_track_entry *entry)
{
	return (int)(uint32_t)entry->key;
}

uint64_t softmig_descriptor_identity(int fd)
{
	struct stat status;
	int kept = errno;
	bool is_open = softmig_sys_fstat(fd, &status) == 0;

	errno = kept;
	return is_open ? (((uint64_t)status.st_dev << 40) ^ (uint64_t)status.st_ino) << 1 | 1 : 0;
}

static bool is_open(const struct softmig_track_entry *entry)
{
	return softmig_descriptor_identity(fd_of(entry)) == entry->bytes;
}

// The next one, while there has been any.
static bool next(uint64_t *cursor, struct softmig_track_entry *entry)
{
	return atomic_load_explicit(&any, memory_order_relaxed) && softmig_track_next(SOFTMIG_TRACK_DESCRIPTOR, cursor, entry);
}

bool softmig_descriptor_add(int fd, uint64_t allocation)
{
	struct softmig_track_entry old, entry = {
		.kind = SOFTMIG_TRACK_DESCRIPTOR, .key = allocation << 32 | (uint32_t)fd, .more = allocation, .bytes = softmig_descriptor_identity(fd)};

	atomic_store(&any, true);
	return softmig_track_swap(&entry, &old) && old.kind == SOFTMIG_TRACK_FREE;
}

uint64_t softmig_descriptor_reissued(int fd)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (next(&cursor, &entry))
		if (fd_of(&entry) == fd && softmig_track_remove_exactly(&entry))
			return entry.more;
	return 0;
}

uint64_t softmig_descriptor_of(int fd)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (next(&cursor, &entry))
		if (fd_of(&entry) == fd)
			return is_open(&entry) ? entry.more : 0;
	return 0;
}

bool softmig_descriptor_is_open(uint64_t allocation)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (next(&cursor, &entry))
		if (entry.more == allocation && is_open(&entry))
			return true;
	return false;
}

uint64_t softmig_descriptor_closed(void)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (next(&cursor, &entry))
		if (!is_open(&entry) && softmig_track_remove_exactly(&entry))
			return entry.more;
	return 0;
}
