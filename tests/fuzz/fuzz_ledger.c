// SPDX-License-Identifier: Apache-2.0
// A ledger that others have scribbled on. The first byte chooses: the input is the file itself; or a list of steps on a
// good ledger, with scribbles between them (nothing may crash, hang or write outside the map); or the same steps
// without a scribble, where every answer is checked against a plain sum.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "fuzz_input.h"
#include "slice/ledger.h"

#define STEPS 24

static char path[64];
static struct softmig_ledger_file copy;
static void remove_file(void) {
	unlink(path);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
	(void)count;
	(void)arguments;
	const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
	snprintf(path, sizeof(path), "%s/softmig-fuzz-ledger.%d", folder, (int)getpid());
	atexit(remove_file);
	return 0;
}

static int descriptors(void) {
	int found = 0;
	for (int descriptor = 0; descriptor < 32; descriptor++)
		found += fcntl(descriptor, F_GETFD) >= 0;
	return found;
}

// Reads the file as tools do. What it says may be nonsense, but not out of range.
static void look_from_outside(void) {
	int error = softmig_ledger_snapshot(path, &copy);
	CHECK(error == 0 || error == EINVAL);
	if (error != 0)
		return;
	struct softmig_ledger_process process;
	int cursor = 0, found = 0;
	while (softmig_ledger_next(&copy, &cursor, &process)) {
		CHECK(process.pid > 0 && ++found <= SOFTMIG_LEDGER_SLOTS);
		CHECK(cursor > 0 && cursor <= SOFTMIG_LEDGER_SLOTS);
	}
	for (int gpu = -1; gpu <= SOFTMIG_MAX_GPUS; gpu++) {
		uint8_t uuid[16];
		softmig_ledger_gpu_uuid(&copy, gpu, uuid);
	}
}

static void content_of_the_input(void) {
	bool create = next() % 2 == 0;
	size_t size = next() % 4 == 0 ? sizeof(copy) : left;
	int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(descriptor >= 0 && write(descriptor, input, left) == (ssize_t)left &&
	      ftruncate(descriptor, (off_t)size) == 0);
	struct softmig_ledger ledger;
	int error = softmig_ledger_open(&ledger, path, geteuid(), create);
	CHECK(error == 0 || error == EINVAL);
	struct stat file;
	CHECK(fstat(descriptor, &file) == 0);
	if (error != 0) { // refused: untouched
		static uint8_t now[4096];
		CHECK(file.st_size == (off_t)size && pread(descriptor, now, left, 0) == (ssize_t)left &&
		      memcmp(now, input, left) == 0);
		CHECK(ledger.file == NULL);
	} else {
		CHECK(file.st_size >= (off_t)sizeof(copy));
		softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1 << 20, 1 << 30);
		softmig_ledger_used(&ledger, 0);
		softmig_ledger_close(&ledger);
	}
	close(descriptor);
	look_from_outside();
}

// Some word that another process could have left there: the pieces of the layout, and anything.
static void scribble(struct softmig_ledger *ledger) {
	struct softmig_ledger_file *file = ledger->file;
	struct softmig_ledger_slot *slot = &file->slot[next() % 4 == 0 ? next_word() % SOFTMIG_LEDGER_SLOTS : next() % 4];
	struct softmig_ledger_use *use = &slot->use[next() % 2];
	unsigned what = next() % 12;
	uint64_t word = next_word();
	switch (what) {
	case 0: slot->owner = word; break;
	// A living process of another start time, one of another namespace, one half claimed.
	case 1: slot->owner = 1ull << 62 | 1ull << 32 | (word & 0xffff); break;
	case 2: slot->owner = 1ull << 62 | (uint64_t)(uint32_t)getpid() << 32 | (word & 0xff); break;
	case 3: slot->owner = 2ull << 62 | (word & 0x3fffffffffffffff); break;
	case 4: slot->pid_ns = word; break;
	case 5: use->tracked_bytes = word; break;
	case 6: use->overhead_bytes = word; break;
	case 7: use->pending_bytes = word; break;
	case 8: use->waiting_ns = word; break;
	case 9: file->mark = word; break;
	case 10: file->gpu[word % SOFTMIG_MAX_GPUS].key = word >> 8; break;
	default: ((_Atomic uint8_t *)file)[next_word() % sizeof(*file)] = (uint8_t)word; break;
	}
}

static void steps(bool scribbles) {
	struct softmig_ledger ledger;
	unlink(path);
	CHECK(softmig_ledger_open(&ledger, path, geteuid(), true) == 0);
	uint64_t tracked[2] = {0, 0}, overhead[2] = {0, 0};
	const uint64_t limit = 1ull << 34;
	for (int step = 0; step < STEPS && left > 0; step++) {
		unsigned choice = next();
		int gpu = (int)(choice >> 4) % 2;
		// Sizes whose sums come to the limit exactly.
		uint64_t bytes = (uint64_t)(next() % 9) << 31;
		uint8_t uuid[16] = {(uint8_t)next()};
		errno = 33;
		switch (choice % 8) {
		case 0:
		case 1: {
			uint64_t under = choice % 16 < 8 ? limit : 0;
			bool granted = softmig_ledger_reserve(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, bytes, under);
			if (!scribbles)
				CHECK(granted == (bytes == 0 || under == 0 || tracked[gpu] + overhead[gpu] + bytes <= limit));
			tracked[gpu] += granted ? bytes : 0;
			break;
		}
		case 2: {
			bool granted = softmig_ledger_reserve(&ledger, gpu, SOFTMIG_LEDGER_OVERHEAD, bytes, limit);
			if (!scribbles)
				CHECK(granted == (bytes == 0 || tracked[gpu] + overhead[gpu] + bytes <= limit));
			overhead[gpu] += granted ? bytes : 0;
			break;
		}
		case 3:
			softmig_ledger_release(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, bytes);
			tracked[gpu] -= bytes < tracked[gpu] ? bytes : tracked[gpu];
			break;
		case 4:
			softmig_ledger_set_overhead(&ledger, gpu, bytes);
			overhead[gpu] = bytes;
			break;
		case 5: {
			int index = softmig_ledger_gpu(&ledger, uuid);
			CHECK(index >= -1 && index < SOFTMIG_MAX_GPUS);
			if (!scribbles && index >= 0)
				CHECK(softmig_ledger_gpu(&ledger, uuid) == index);
			break;
		}
		case 6: {
			int reclaimed = softmig_ledger_reclaim(&ledger);
			CHECK(scribbles ? reclaimed >= 0 && reclaimed <= SOFTMIG_LEDGER_SLOTS : reclaimed == 0);
			break;
		}
		default:
			if (scribbles)
				scribble(&ledger);
			break;
		}
		CHECK(errno == 33);
		uint64_t used = softmig_ledger_used(&ledger, gpu);
		if (!scribbles)
			CHECK(used == tracked[gpu] + overhead[gpu]);
	}
	look_from_outside();
	softmig_ledger_close(&ledger);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	int before = descriptors();
	input = data;
	left = size;
	switch (next() % 4) {
	case 0: content_of_the_input(); break;
	case 1: steps(false); break;
	default: steps(true); break;
	}
	CHECK(descriptors() == before);
	return 0;
}
