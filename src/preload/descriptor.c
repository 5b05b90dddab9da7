// SPDX-License-Identifier: Apache-2.0
// Descriptors of exported memory: see descriptor.h. One is known again by what its link under /proc says: of NVIDIA's, that it is a file of the
// driver; so one that was closed and whose number another file of the driver bears counts as open, and its memory as there, for as long.
#include "preload/descriptor.h"

#include <errno.h>
#include <stdatomic.h>

#include "preload/track.h"
#include "slice/format.h"
#include "slice/sys.h"

static _Atomic bool any; // has been exported so, by this process or its parent

// A hash of what the link says. 0: it is closed.
static uint64_t identity_of(int fd)
{
	char path[40], text[128];
	int kept = errno;

	softmig_format(path, sizeof(path), "/proc/self/fd/%d", fd);
	ssize_t length = softmig_sys_readlink(path, text, sizeof(text));
	errno = kept;
	uint64_t hash = 0xcbf29ce484222325ull; // FNV-1a
	for (ssize_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ull;
	return length <= 0 ? 0 : hash | 1;
}

bool softmig_descriptor_add(int fd, uint64_t allocation, uint64_t *former)
{
	struct softmig_track_entry old, entry = {.kind = SOFTMIG_TRACK_DESCRIPTOR, .key = (uint64_t)fd, .more = allocation, .bytes = identity_of(fd)};

	*former = 0;
	atomic_store(&any, true);
	if (!softmig_track_swap(&entry, &old))
		return false;
	if (old.kind != SOFTMIG_TRACK_FREE)
		*former = old.more;
	return true;
}

uint64_t softmig_descriptor_of(int fd)
{
	struct softmig_track_entry entry;

	if (!atomic_load_explicit(&any, memory_order_relaxed) || !softmig_track_find(SOFTMIG_TRACK_DESCRIPTOR, (uint64_t)fd, &entry))
		return 0;
	return identity_of(fd) == entry.bytes ? entry.more : 0;
}

bool softmig_descriptor_is_open(uint64_t allocation)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (atomic_load_explicit(&any, memory_order_relaxed) && softmig_track_next(SOFTMIG_TRACK_DESCRIPTOR, &cursor, &entry))
		if (entry.more == allocation && identity_of((int)entry.key) == entry.bytes)
			return true;
	return false;
}

uint64_t softmig_descriptor_closed(void)
{
	struct softmig_track_entry entry;
	uint64_t cursor = 0;

	while (atomic_load_explicit(&any, memory_order_relaxed) && softmig_track_next(SOFTMIG_TRACK_DESCRIPTOR, &cursor, &entry))
		if (identity_of((int)entry.key) != entry.bytes && softmig_track_remove_exactly(&entry))
			return entry.more;
	return 0;
}
