// SPDX-License-Identifier: Apache-2.0
// The files of turns; see turn_files.h.
#include "slice/turn_files.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "slice/format.h"
#include "slice/sys.h"

// A listing is renewed this often: the directory's time stamp may be too coarse to tell of a new page, and nothing tells that a
// silent one wakes up.
#define LIST_NS UINT64_C(100000000)
// Pages of jobs that have not wanted the GPU for so long get no place in the list: outside Slurm those of finished jobs stay.
#define IDLE_NS UINT64_C(5000000000)
// So many pages of the silent are looked at in a listing, by turns: a listing is made in the midst of launches, and a hundred pages take longer than
// a small kernel. Where the directory changed all are.
#define SILENT_LOOKS 4
// Outside Slurm nobody removes a finished job's page; one that has been silent for this long is nobody's.
#define SILENT_NS (UINT64_C(3600) * 1000000000)

// Each miss of a creator is another job's removal. Tries without a pause can stay in step with one who makes and removes pages in
// a loop (168 misses in a row were seen). So there is a pause, short after the first miss, each time twice as long.
#define CREATE_TRIES 100
#define CREATE_PAUSE_NS 1000L
#define CREATE_PAUSE_MAX_NS 1000000L

// As getdents64 gives it; the C library's readdir allocates.
struct entry {
	uint64_t inode;
	int64_t offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

static int open_directory(const char *path, uid_t owner)
{
	struct stat status;
	int fd = softmig_sys_open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (softmig_sys_fstat(fd, &status) == 0 && status.st_uid == owner && (status.st_mode & 022) == 0)
		return fd;
	softmig_sys_close(fd);
	errno = EPERM;
	return -1;
}

static int make_directory(const char *path, mode_t mode)
{
	if (syscall(SYS_mkdirat, AT_FDCWD, path, mode) != 0 && errno != EEXIST)
		return errno;
	return 0;
}

static int map_page(int directory, const char *name, int flags, uid_t owner, uint64_t key, struct softmig_turn_page **page)
{
	struct stat status;
	int error = 0;
	int fd = (int)syscall(SYS_openat, directory, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | flags, 0600);
	if (fd < 0)
		return errno;
	if (softmig_sys_fstat(fd, &status) != 0)
		error = errno;
	else if (!S_ISREG(status.st_mode) || status.st_uid != owner || (status.st_mode & 022) != 0)
		error = EPERM;
	else if (status.st_size < SOFTMIG_TURN_PAGE_BYTES && syscall(SYS_ftruncate, fd, (long)SOFTMIG_TURN_PAGE_BYTES) != 0)
		error = errno;
	if (!error) {
		void *mapped = mmap(NULL, SOFTMIG_TURN_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (mapped == MAP_FAILED)
			error = errno;
		else
			*page = mapped;
	}
	softmig_sys_close(fd);
	if (!error)
		softmig_turn_init(*page, key);
	return error;
}

static int create_page(const char *base, const char *uuid, uint64_t job, uid_t uid, gid_t gid)
{
	char path[160];
	int error = make_directory(base, 0755);
	softmig_format(path, sizeof(path), "%s/%s", base, uuid);
	if (!error)
		error = make_directory(path, 0755);
	if (!error && (syscall(SYS_fchmodat, AT_FDCWD, base, 0755) != 0 || syscall(SYS_fchmodat, AT_FDCWD, path, 0755) != 0))
		error = errno; // whatever the umask was
	int directory = error ? -1 : open_directory(path, (uid_t)syscall(SYS_geteuid));
	if (!error && directory < 0)
		error = errno;
	if (!error) {
		// A requeued job's old page goes first: the new one is a fresh file of the job's user, readable by its neighbours.
		softmig_format(path, sizeof(path), "%llu", (unsigned long long)job);
		syscall(SYS_unlinkat, directory, path, 0);
		int fd = (int)syscall(SYS_openat, directory, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0 || syscall(SYS_ftruncate, fd, (long)SOFTMIG_TURN_PAGE_BYTES) != 0 || syscall(SYS_fchmod, fd, 0644) != 0
		    || syscall(SYS_fchown, fd, uid, gid) != 0)
			error = errno;
		if (error && fd >= 0)
			syscall(SYS_unlinkat, directory, path, 0);
		if (fd >= 0)
			softmig_sys_close(fd);
	}
	if (directory >= 0)
		softmig_sys_close(directory);
	return error;
}

int softmig_turn_create(const char *base, const char *uuid, uint64_t job, uid_t uid, gid_t gid)
{
	int kept = errno, error;
	// Whoever removes the last page beside us takes the directories along, between any two of our steps: then from the beginning.
	error = create_page(base, uuid, job, uid, gid);
	for (long try = 1, pause_ns = CREATE_PAUSE_NS; try < CREATE_TRIES && error == ENOENT; try++) {
		softmig_sys_sleep_ns(pause_ns);
		pause_ns = 2 * pause_ns < CREATE_PAUSE_MAX_NS ? 2 * pause_ns : CREATE_PAUSE_MAX_NS;
		error = create_page(base, uuid, job, uid, gid);
	}
	errno = kept;
	return error;
}

// Only while it is empty: the kernel decides, so a page made meanwhile stays.
static int remove_empty(const char *path)
{
	bool fine = syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR) == 0 || errno == ENOENT || errno == ENOTEMPTY || errno == EEXIST;
	return fine ? 0 : errno;
}

int softmig_turn_remove(const char *base, const char *uuid, uint64_t job)
{
	char path[200];
	int kept = errno, error = 0;
	softmig_format(path, sizeof(path), "%s/%s/%llu", base, uuid, (unsigned long long)job);
	if (syscall(SYS_unlinkat, AT_FDCWD, path, 0) != 0 && errno != ENOENT)
		error = errno;
	softmig_format(path, sizeof(path), "%s/%s", base, uuid);
	if (!error)
		error = remove_empty(path);
	if (!error)
		error = remove_empty(base);
	errno = kept;
	return error;
}

static int open_page(struct softmig_turn_directory *directory, int flags, uint64_t key, struct softmig_turn_page **page)
{
	uid_t user = (uid_t)syscall(SYS_geteuid);
	int fd = open_directory(directory->path, directory->owner);
	int error = fd < 0 ? errno : map_page(fd, directory->own, flags, user, key, page);
	if (fd >= 0)
		softmig_sys_close(fd);
	if (error)
		directory->path[0] = '\0';
	return error;
}

int softmig_turn_open_root(struct softmig_turn_directory *directory, const char *base, const char *uuid, uint64_t job,
                           struct softmig_turn_page **page)
{
	int kept = errno;
	*directory = (struct softmig_turn_directory){.owner = 0};
	softmig_format(directory->path, sizeof(directory->path), "%s/%s", base, uuid);
	softmig_format(directory->own, sizeof(directory->own), "%llu", (unsigned long long)job);
	int error = open_page(directory, 0, job, page);
	errno = kept;
	return error;
}

static struct softmig_turn_seen read_page(int directory, const char *name)
{
	struct softmig_turn_seen page = {0};
	int file = softmig_sys_openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	if (file < 0)
		return page;
	if (softmig_sys_pread(file, &page, sizeof(page), 0) != (ssize_t)sizeof(page))
		page = (struct softmig_turn_seen){0};
	softmig_sys_close(file);
	return page;
}

// Between two listings: whose directory it is was looked at in the last one.
static struct softmig_turn_seen read_by_path(const struct softmig_turn_directory *directory, const char *name)
{
	char path[sizeof(directory->path) + SOFTMIG_TURN_NAME];
	softmig_format(path, sizeof(path), "%s/%s", directory->path, name);
	return read_page(AT_FDCWD, path);
}

// When a page's job last said that it works or wants to, or until when.
static uint64_t active_ns(const struct softmig_turn_seen *page)
{
	return page->want_until_ns > page->burst_until_ns ? page->want_until_ns : page->burst_until_ns;
}

// Removes what earlier runs left behind. The directory is this user's own.
static void sweep_out(const char *path, uint64_t now_ns)
{
	char buffer[2048] __attribute__((aligned(8)));
	int fd = open_directory(path, (uid_t)syscall(SYS_geteuid));
	long length;
	while (fd >= 0 && (length = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < length;) {
			const struct entry *entry = (const struct entry *)(const void *)(buffer + at);
			at += entry->length;
			if (entry->name[0] == '.')
				continue;
			struct softmig_turn_seen page = read_page(fd, entry->name);
			uint64_t last_ns = active_ns(&page);
			if (last_ns != 0 && (last_ns + SILENT_NS < now_ns || last_ns > now_ns + SILENT_NS))
				syscall(SYS_unlinkat, fd, entry->name, 0);
		}
	if (fd >= 0)
		softmig_sys_close(fd);
}

int softmig_turn_open_user(struct softmig_turn_directory *directory, const char *tmp, const char *uuid, uint64_t key,
                           uint64_t now_ns, struct softmig_turn_page **page)
{
	int kept = errno, error;
	*directory = (struct softmig_turn_directory){.owner = (uid_t)syscall(SYS_geteuid), .users = true};
	softmig_format(directory->path, sizeof(directory->path), "%s/softmig-turns.%u", tmp, (unsigned)directory->owner);
	error = make_directory(directory->path, 0700);
	int fd = error ? -1 : open_directory(directory->path, directory->owner);
	if (!error && fd < 0)
		error = errno;
	if (fd >= 0)
		softmig_sys_close(fd);
	if (!error) {
		softmig_format(directory->path, sizeof(directory->path), "%s/softmig-turns.%u/%s", tmp, (unsigned)directory->owner, uuid);
		error = make_directory(directory->path, 0700);
	}
	if (!error) {
		sweep_out(directory->path, now_ns);
		softmig_format(directory->own, sizeof(directory->own), "%llx", (unsigned long long)key);
		error = open_page(directory, O_CREAT, key, page);
	}
	if (error)
		directory->path[0] = '\0';
	errno = kept;
	return error;
}

// Is this a neighbour to be heard: one who wanted the GPU lately, or has only just come?
static bool is_present(int directory, const char *name, uint64_t now_ns)
{
	struct softmig_turn_seen page = read_page(directory, name);
	uint64_t last_ns = active_ns(&page);
	return page.magic == SOFTMIG_TURN_MAGIC && (last_ns == 0 || last_ns + IDLE_NS > now_ns);
}

static int place_of(const struct softmig_turn_directory *directory, const char *name)
{
	for (int i = 0; i < directory->count; i++)
		if (strcmp(directory->name[i], name) == 0)
			return i;
	return -1;
}

static int free_place(const struct softmig_turn_directory *directory)
{
	for (int i = 0; i < SOFTMIG_TURN_PEERS; i++)
		if (i >= directory->count || directory->name[i][0] == '\0')
			return i;
	return -1; // more neighbours than places: without turns among them
}

static void list(struct softmig_turn_directory *directory, struct softmig_turn *turn, int fd, bool all, uint64_t now_ns)
{
	char buffer[2048] __attribute__((aligned(8)));
	bool seen[SOFTMIG_TURN_PEERS] = {false};
	unsigned silent = 0, first = directory->silent;
	long length;
	while ((length = syscall(SYS_getdents64, fd, buffer, sizeof(buffer))) > 0)
		for (long at = 0; at < length;) {
			const struct entry *entry = (const struct entry *)(const void *)(buffer + at);
			at += entry->length;
			size_t size = strlen(entry->name);
			if (entry->name[0] == '.' || size >= SOFTMIG_TURN_NAME || strcmp(entry->name, directory->own) == 0)
				continue;
			int place = place_of(directory, entry->name);
			if (place < 0 && silent++ - first >= SILENT_LOOKS && !all)
				continue;
			if (!is_present(fd, entry->name, now_ns))
				continue; // its place, if it had one, is free again
			if (place < 0)
				place = free_place(directory);
			if (place < 0)
				continue;
			memcpy(directory->name[place], entry->name, size + 1);
			seen[place] = true;
			if (place >= directory->count)
				directory->count = place + 1;
		}
	directory->silent = first + SILENT_LOOKS < silent ? first + SILENT_LOOKS : 0;
	for (int i = 0; i < directory->count; i++)
		if (!seen[i])
			directory->name[i][0] = '\0';
	if (turn->peers < directory->count)
		turn->peers = directory->count;
}

// Has it been silent for so long that others may have stopped listening? They look at a directory that changed, and once more a listing later.
static bool wakes_up(const struct softmig_turn *turn, const struct softmig_turn_directory *directory, uint64_t now_ns)
{
	struct softmig_turn_seen own = {0};
	if (turn->own != NULL) {
		own.want_until_ns = atomic_load_explicit(&turn->own->want_until_ns, memory_order_relaxed);
		own.burst_until_ns = atomic_load_explicit(&turn->own->burst_until_ns, memory_order_relaxed);
	}
	return active_ns(&own) != 0 && active_ns(&own) + IDLE_NS / 2 < now_ns && now_ns > directory->listed_ns + LIST_NS;
}

void softmig_turn_read(struct softmig_turn_directory *directory, struct softmig_turn *turn, uint64_t now_ns)
{
	struct stat status;
	int kept = errno;
	if (directory->path[0] == '\0')
		return;
	if (directory->users && wakes_up(turn, directory, now_ns))
		syscall(SYS_utimensat, AT_FDCWD, directory->path, NULL, 0);
	bool changed = softmig_sys_lstat(directory->path, &status) != 0 || status.st_mtim.tv_sec != directory->changed.tv_sec ||
	               status.st_mtim.tv_nsec != directory->changed.tv_nsec;
	bool stale = changed || now_ns > directory->listed_ns + LIST_NS;
	if (!stale && directory->count == 0) { // nobody is there: nothing to open
		errno = kept;
		return;
	}
	int fd = stale ? open_directory(directory->path, directory->owner) : -1;
	if (fd >= 0) {
		list(directory, turn, fd, changed || directory->again, now_ns);
		directory->again = changed;
		directory->changed = status.st_mtim;
		directory->listed_ns = now_ns;
	}
	for (int i = 0; i < directory->count; i++) {
		struct softmig_turn_seen page = {0};
		if (directory->name[i][0] != '\0' && fd >= 0)
			page = read_page(fd, directory->name[i]);
		else if (directory->name[i][0] != '\0' && !stale)
			page = read_by_path(directory, directory->name[i]);
		softmig_turn_see(turn, i, &page, now_ns);
	}
	if (fd >= 0)
		softmig_sys_close(fd);
	errno = kept;
}
