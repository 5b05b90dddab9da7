// SPDX-License-Identifier: Apache-2.0
// The ledger's file: opening, creating, mapping, its table of GPUs, and copies for tools. Must never: follow a link, overwrite what is not a
// ledger, keep a descriptor, use descriptors 0 to 2 where others may print to them.
//
// An empty ledger is a file of zeros of the full size with 24 bytes of header, so making one needs no lock and no temporary file:
// whoever finds it half made does the missing steps, each of which leaves alone what is already done.
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "slice/format.h"
#include "slice/ledger_private.h"
#include "slice/sys.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define MINE_BYTES sizeof(struct softmig_ledger_mine)
#define FILE_BYTES ((off_t)sizeof(struct softmig_ledger_file))

// A program that closed its descriptors 0 to 2 may open one of them any time and print into it.
static int open_above_standard(const char *path, int flags, mode_t mode)
{
	int fd = softmig_sys_open(path, flags | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, mode);
	if (fd < 0 || fd > 2)
		return fd;
	int moved = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3);
	if (moved < 0)
		return fd; // none is left (ulimit -n 3)
	softmig_sys_close(fd);
	return moved;
}

// Allocates the whole file; only ever grows it, and writes nothing.
static int allocate(int fd)
{
	struct stat status;
	if (syscall(SYS_fallocate, fd, 0, (off_t)0, FILE_BYTES) == 0)
		return 0;
	if (errno != EOPNOTSUPP && errno != ENOSYS)
		return errno;
	if (softmig_sys_fstat(fd, &status) != 0)
		return errno;
	return status.st_size >= FILE_BYTES || ftruncate(fd, FILE_BYTES) == 0 ? 0 : errno;
}

// The header in the file's first bytes. Is it a ledger of ours, one not finished yet, or something else?
enum header { HEADER_LEDGER, HEADER_EMPTY, HEADER_FOREIGN };

static enum header judge_header(int fd)
{
	struct {
		uint64_t magic;
		uint32_t version, size_bytes;
		uint64_t rest[509];
	} head;
	_Static_assert(offsetof(struct softmig_ledger_file, version) == 8, "as in the file");
	_Static_assert(offsetof(struct softmig_ledger_file, size_bytes) == 12, "as in the file");
	memset(&head, 0, sizeof head);
	ssize_t got = softmig_sys_pread(fd, &head, sizeof head, 0);
	if (got < 0)
		return HEADER_FOREIGN;
	if (head.magic == SOFTMIG_LEDGER_MAGIC)
		return head.version == SOFTMIG_LEDGER_VERSION && head.size_bytes == FILE_BYTES ? HEADER_LEDGER : HEADER_FOREIGN;
	// Half made: what may stand there without the magic is right or zero, and nothing else is in the page.
	if (head.magic != 0 || (head.version != 0 && head.version != SOFTMIG_LEDGER_VERSION) ||
	    (head.size_bytes != 0 && head.size_bytes != FILE_BYTES))
		return HEADER_FOREIGN;
	for (size_t i = 1; i < sizeof head.rest / sizeof head.rest[0]; i++) // rest[0] is the time of creation
		if (head.rest[i] != 0)
			return HEADER_FOREIGN;
	return HEADER_EMPTY;
}

static void complete_header(struct softmig_ledger_file *file)
{
	atomic_store(&file->version, SOFTMIG_LEDGER_VERSION);
	STEP();
	atomic_store(&file->size_bytes, (uint32_t)FILE_BYTES);
	STEP();
	uint64_t none = 0;
	atomic_compare_exchange_strong(&file->created_ns, &none, softmig_ledger_clock_ns(CLOCK_REALTIME));
	STEP();
	atomic_store(&file->magic, SOFTMIG_LEDGER_MAGIC); // last: what stands before it is complete
	STEP();
}

static int check_file(int fd, uid_t owner_uid, struct stat *status)
{
	if (softmig_sys_fstat(fd, status) != 0)
		return errno;
	if (!S_ISREG(status->st_mode))
		return EINVAL;
	return status->st_uid == owner_uid && (status->st_mode & 022) == 0 ? 0 : EPERM;
}

static int open_or_make(const char *path, bool create, int *fd)
{
	for (int attempt = 0; attempt < 8; attempt++) {
		*fd = open_above_standard(path, O_RDWR, 0);
		if (*fd >= 0)
			return 0;
		if (errno != ENOENT || !create)
			return errno;
		*fd = open_above_standard(path, O_RDWR | O_CREAT | O_EXCL, 0600);
		STEP();
		if (*fd >= 0) {
			// Whatever umask says: a ledger that its own user cannot open is none. Ours alone so far.
			return fchmod(*fd, 0600) == 0 ? 0 : errno;
		}
		if (errno != EEXIST) // another process was faster: open what it made
			return errno;
	}
	return EAGAIN;
}

static int prepare(int fd, uid_t owner_uid, bool create, struct softmig_ledger_file **file)
{
	struct stat status;
	int error = check_file(fd, owner_uid, &status);
	if (error != 0)
		return error;
	enum header header = judge_header(fd);
	if (header == HEADER_FOREIGN || ((header == HEADER_EMPTY || status.st_size < FILE_BYTES) && !create))
		return EINVAL;
	// Short, or with holes: the blocks of a file that was written through are counted from 512 bytes each.
	if (status.st_size < FILE_BYTES || (off_t)status.st_blocks * 512 < FILE_BYTES) {
		STEP();
		error = allocate(fd);
		STEP();
		if (error != 0)
			return error;
	}
	void *map = mmap(NULL, sizeof **file, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return errno;
	*file = map;
	if (header == HEADER_EMPTY)
		complete_header(*file);
	return 0;
}

static int open_and_map(struct softmig_ledger *ledger, const char *path, uid_t owner_uid, bool create)
{
	struct softmig_ledger_file *file = NULL;
	int fd;
	int error = open_or_make(path, create, &fd);
	if (error == 0)
		error = prepare(fd, owner_uid, create, &file);
	if (fd >= 0)
		softmig_sys_close(fd);
	if (error != 0)
		return error;
	void *mine = mmap(NULL, MINE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mine == MAP_FAILED) {
		error = errno;
		munmap(file, sizeof *file);
		return error;
	}
	ledger->wipes = madvise(mine, MINE_BYTES, MADV_WIPEONFORK) == 0;
	ledger->mine = mine;
	ledger->file = file;
	softmig_ledger_discard_former_self(file);
	return 0;
}

int softmig_ledger_open(struct softmig_ledger *ledger, const char *path, uid_t owner_uid, bool create)
{
	int saved_errno = errno;
	memset(ledger, 0, sizeof *ledger);
	int error = open_and_map(ledger, path, owner_uid, create);
	errno = saved_errno;
	return error;
}

void softmig_ledger_close(struct softmig_ledger *ledger)
{
	int saved_errno = errno;
	if (ledger->file != NULL) {
		softmig_ledger_leave(ledger);
		munmap(ledger->file, sizeof *ledger->file);
		munmap(ledger->mine, MINE_BYTES);
	}
	memset(ledger, 0, sizeof *ledger);
	errno = saved_errno;
}

int softmig_ledger_create(const char *path, uid_t uid, gid_t gid)
{
	int saved_errno = errno, error = 0;
	struct softmig_ledger_file *file = NULL;
	int fd = open_above_standard(path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0) {
		error = errno;
		errno = saved_errno;
		return error;
	}
	error = prepare(fd, geteuid(), true, &file);
	// Last: from then on its owner may do with it what he likes.
	if (error == 0 && (fchmod(fd, 0600) != 0 || fchown(fd, uid, gid) != 0))
		error = errno;
	if (file != NULL)
		munmap(file, sizeof *file);
	if (error != 0)
		unlink(path);
	softmig_sys_close(fd);
	errno = saved_errno;
	return error;
}

static uint64_t uuid_key(const uint8_t uuid[16])
{
	uint64_t key = 0xcbf29ce484222325ull; // FNV-1a
	for (int i = 0; i < 16; i++)
		key = (key ^ uuid[i]) * 0x100000001b3ull;
	return key | 1; // zero is "free"
}

static bool uuid_equals(const struct softmig_ledger_gpu *entry, const uint8_t uuid[16])
{
	for (int i = 0; i < 16; i++)
		if (atomic_load_explicit(&entry->uuid[i], memory_order_relaxed) != uuid[i])
			return false;
	return true;
}

int softmig_ledger_gpu(struct softmig_ledger *ledger, const uint8_t uuid[16])
{
	uint64_t key = uuid_key(uuid);
	if (ledger->file == NULL)
		return -1;
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		struct softmig_ledger_gpu *entry = &ledger->file->gpu[i];
		uint64_t have = 0;
		if (!atomic_compare_exchange_strong(&entry->key, &have, key) && have != key)
			continue;
		STEP();
		// Ours, or made by a process with the same GPU that may have died before it was done: every one writes the same.
		if (atomic_load(&entry->state) != SOFTMIG_LEDGER_GPU_KNOWN) {
			for (int byte = 0; byte < 16; byte++)
				atomic_store_explicit(&entry->uuid[byte], uuid[byte], memory_order_relaxed);
			STEP();
			atomic_store_explicit(&entry->state, SOFTMIG_LEDGER_GPU_KNOWN, memory_order_release);
		}
		if (uuid_equals(entry, uuid))
			return i;
	}
	return -1;
}

bool softmig_ledger_gpu_uuid(const struct softmig_ledger_file *file, int gpu, uint8_t uuid[16])
{
	if (gpu < 0 || gpu >= SOFTMIG_MAX_GPUS ||
	    atomic_load_explicit(&file->gpu[gpu].state, memory_order_acquire) != SOFTMIG_LEDGER_GPU_KNOWN)
		return false;
	for (int i = 0; i < 16; i++)
		uuid[i] = atomic_load_explicit(&file->gpu[gpu].uuid[i], memory_order_relaxed);
	return true;
}

// The path is a user's to choose, who asks is root: nothing but a regular file is ever opened, since opening a device (a watchdog, a
// tape) does something. The descriptor that is judged names no more than the file; the one that reads is opened through it.
static int open_regular(const char *path, int *fd)
{
	struct stat status;
	char name[32];
	int found = softmig_sys_open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
	if (found < 0)
		return errno;
	int error = softmig_sys_fstat(found, &status) != 0 ? errno : S_ISLNK(status.st_mode) ? ELOOP : !S_ISREG(status.st_mode) ? EINVAL : 0;
	if (error == 0) {
		softmig_format(name, sizeof name, "/proc/self/fd/%d", found);
		*fd = softmig_sys_open(name, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0);
		error = *fd >= 0 ? 0 : errno == ENOENT ? ENOTSUP : errno; // ENOENT: no /proc here
	}
	softmig_sys_close(found);
	return error;
}

int softmig_ledger_snapshot(const char *path, struct softmig_ledger_file *copy)
{
	int saved_errno = errno, fd = -1;
	char *to = (char *)copy;
	size_t have = 0;
	ssize_t got = 1;
	int error = open_regular(path, &fd);
	if (error != 0) {
		errno = saved_errno;
		return error;
	}
	while (error == 0 && have < sizeof *copy && got > 0) {
		got = softmig_sys_pread(fd, to + have, sizeof *copy - have, (off_t)have);
		if (got < 0 && errno != EINTR)
			error = errno;
		else if (got > 0)
			have += (size_t)got;
		else if (got < 0)
			got = 1;
	}
	softmig_sys_close(fd);
	if (error == 0 && (have < sizeof *copy || atomic_load(&copy->magic) != SOFTMIG_LEDGER_MAGIC ||
	                   atomic_load(&copy->version) != SOFTMIG_LEDGER_VERSION || atomic_load(&copy->size_bytes) != sizeof *copy))
		error = EINVAL;
	errno = saved_errno;
	return error;
}

pid_t softmig_ledger_slot_pid(const struct softmig_ledger_slot *slot)
{
	uint64_t word = atomic_load_explicit(&slot->owner, memory_order_relaxed);
	return owner_state(word) == OWNER_OWNED ? (pid_t)owner_pid(word) : 0;
}

bool softmig_ledger_next(const struct softmig_ledger_file *file, int *cursor, struct softmig_ledger_process *process)
{
	while (*cursor >= 0 && *cursor < SOFTMIG_LEDGER_SLOTS) {
		const struct softmig_ledger_slot *slot = &file->slot[(*cursor)++];
		process->pid = softmig_ledger_slot_pid(slot);
		if (process->pid <= 0 || !softmig_ledger_slot_alive(NULL, slot))
			continue;
		process->pid_ns = atomic_load_explicit(&slot->pid_ns, memory_order_relaxed);
		process->claimed_ns = atomic_load_explicit(&slot->claimed_ns, memory_order_relaxed);
		for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
			const struct softmig_ledger_use *use = &slot->use[i];
			process->overhead_bytes[i] = atomic_load_explicit(&use->overhead_bytes, memory_order_relaxed);
			process->used_bytes[i] = add_saturated(atomic_load_explicit(&use->tracked_bytes, memory_order_relaxed),
			                                       process->overhead_bytes[i]);
			process->peak_bytes[i] = atomic_load_explicit(&use->peak_bytes, memory_order_relaxed);
			process->busy_ns[i] = atomic_load_explicit(&use->busy_ns, memory_order_relaxed);
			process->throttled_ns[i] = atomic_load_explicit(&use->throttled_ns, memory_order_relaxed);
		}
		return true;
	}
	return false;
}
