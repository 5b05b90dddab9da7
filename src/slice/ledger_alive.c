// SPDX-License-Identifier: Apache-2.0
// Who lives. Owns: telling from /proc whether the owner of a slot is alive. Must never: take one for dead that may be alive, signal
// anybody, allocate, keep a descriptor. What cannot be read is presumed alive.
//
// Dead is: no such pid; the pid is another process's now (start time); a zombie whose threads are all gone (the kernel closes a
// process's files, and so the driver frees its memory, before it becomes one; a zombie leader with running threads is alive).
// By the costly means also: a process that has exec'ed since (its driver state went with the old image); a process of another PID
// namespace that is nowhere on the machine, seen from the machine's own namespace.
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>

#include "slice/ledger_private.h"
#include "slice/sys.h"

#define INITIAL_PID_NS 0xeffffffcu // the kernel's PROC_PID_INIT_INO
#define SCAN_MAX 65536             // processes looked at in one scan of /proc

uint64_t softmig_ledger_clock_ns(int clock)
{
	struct timespec now = {0, 0};
	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static char *append(char *end, const char *text)
{
	size_t length = strlen(text);
	memcpy(end, text, length + 1);
	return end + length;
}

static char *append_number(char *end, uint64_t number)
{
	char digits[20];
	int count = 0;
	do
		digits[count++] = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	while (count > 0)
		*end++ = digits[--count];
	*end = 0;
	return end;
}

// "/proc/PID/file"; pid 0: self. path has room for 64 bytes.
static void proc_path(char *path, uint32_t pid, const char *file)
{
	char *end = append(path, "/proc/");
	end = pid == 0 ? append(end, "self") : append_number(end, pid);
	append(append(end, "/"), file);
}

// The start of a file under /proc, terminated. -1: not readable.
static ssize_t read_proc(uint32_t pid, const char *file, bool one_line, char *text, size_t size)
{
	char path[64];
	proc_path(path, pid, file);
	int fd = softmig_sys_open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
	if (fd < 0)
		return -1;
	size_t have = 0;
	ssize_t got;
	// Short files come in one piece: a last line that ends is the end.
	while (have < size - 1 && (got = softmig_sys_read(fd, text + have, size - 1 - have)) > 0) {
		have += (size_t)got;
		if (one_line && text[have - 1] == '\n')
			break;
	}
	softmig_sys_close(fd);
	text[have] = 0;
	return have > 0 ? (ssize_t)have : -1;
}

static const char *parse_number(const char *text, uint64_t *number)
{
	const char *start = text;
	uint64_t value = 0;
	for (; *text >= '0' && *text <= '9'; text++)
		value = value * 10 + (uint64_t)(*text - '0');
	*number = value;
	return text > start ? text : NULL;
}

struct stat_fields {
	char state;
	uint64_t threads;
	uint64_t start; // clock ticks since boot
};

// The name stands in parentheses and may hold anything, parentheses and spaces too: fields are counted from the last ')'.
static bool read_stat(uint32_t pid, struct stat_fields *fields)
{
	char text[1024];
	if (read_proc(pid, "stat", true, text, sizeof text) < 0)
		return false;
	const char *at = strrchr(text, ')');
	if (at == NULL || at[1] != ' ' || at[2] == 0 || at[3] != ' ')
		return false;
	fields->state = at[2];
	at += 4;
	for (int field = 4; field <= 22; field++) {
		uint64_t number;
		if (*at == '-')
			at++;
		at = parse_number(at, &number);
		if (at == NULL || (*at != ' ' && *at != '\n' && *at != 0))
			return false;
		if (field == 20)
			fields->threads = number;
		if (field == 22)
			fields->start = number;
		if (*at == ' ')
			at++;
	}
	return true;
}

static bool is_gone(const struct stat_fields *fields)
{
	return (fields->state == 'Z' || fields->state == 'X' || fields->state == 'x') && fields->threads <= 1;
}

// A hash of the process's auxiliary vector. Its addresses change with every exec (where address space randomisation is off they may not: then
// nothing is found out). Unlike the list of mappings it is read without the lock of the process's memory, which a process
// stuck in a page fault can hold for ever. 0: not readable, or the process is ending or
// about to exec.
static uint64_t image_of(uint32_t pid)
{
	char vector[512];
	ssize_t length = read_proc(pid, "auxv", false, vector, sizeof vector);
	uint64_t hash = 0xcbf29ce484222325ull; // FNV-1a
	for (ssize_t i = 0; i < length; i++)
		hash = (hash ^ (unsigned char)vector[i]) * 0x100000001b3ull;
	// In the middle of an exec it is all zeros, and the driver's files may still be open.
	return length > 16 ? hash | 1 : 0;
}

void softmig_ledger_viewer(struct viewer *viewer)
{
	struct stat_fields fields;
	struct stat status;
	char link[24];
	uint64_t listed = 0;
	memset(viewer, 0, sizeof *viewer);
	viewer->pid = (uint32_t)softmig_sys_getpid();
	if (read_stat(0, &fields))
		viewer->start = (uint32_t)fields.start;
	if (softmig_sys_stat("/proc/self/ns/pid", &status) == 0)
		viewer->pid_ns = status.st_ino;
	// In a PID namespace with its parent's /proc, the numbers there are not ours.
	ssize_t length = softmig_sys_readlink("/proc/self", link, sizeof link - 1);
	if (length > 0) {
		link[length] = 0;
		viewer->proc_is_ours = parse_number(link, &listed) != NULL && listed == viewer->pid;
	}
	viewer->image = image_of(0);
	const void *random = (const void *)getauxval(AT_RANDOM); // 16 bytes, new at every exec
	if (random != NULL)
		memcpy(&viewer->random, random, sizeof viewer->random);
}

// A process that is ending has no program any more, long before it is a zombie.
bool softmig_ledger_pid_runs(uint64_t word)
{
	char path[64], start[8];
	proc_path(path, owner_pid(word), "exe");
	return softmig_sys_readlink(path, start, sizeof start) > 0;
}

enum fate softmig_ledger_fate(const struct viewer *viewer, uint64_t word, uint64_t pid_ns)
{
	uint32_t pid = owner_pid(word), start = owner_start(word), start_mask = 0xffffffff;
	if (pid == 0)
		return FATE_DEAD;
	if (owner_state(word) == OWNER_BUSY) { // the holder's namespace is in the word; pid_ns is still that of the slot's former owner
		start_mask = 0xffff;
		if (start >> 16 != viewer_ns_mark(viewer))
			return FATE_UNKNOWN;
	} else if (pid_ns != viewer->pid_ns) {
		return FATE_UNKNOWN;
	}
	struct stat_fields fields;
	if (!viewer->proc_is_ours || !read_stat(pid, &fields))
		return kill((pid_t)pid, 0) != 0 && errno == ESRCH ? FATE_DEAD : FATE_ALIVE;
	if ((start & start_mask) != 0 && ((start ^ fields.start) & start_mask) != 0)
		return FATE_DEAD; // the pid has been given to another process
	if (is_gone(&fields))
		return FATE_DEAD;
	return fields.state == 'T' || fields.state == 't' ? FATE_STOPPED : FATE_ALIVE;
}

int softmig_ledger_find_execed(const struct softmig_ledger_file *file, const struct viewer *viewer, const uint16_t *candidates,
                               int count, uint16_t *dead)
{
	int found = 0;
	if (!viewer->proc_is_ours)
		return 0;
	for (int i = 0; i < count; i++) {
		const struct softmig_ledger_slot *slot = &file->slot[candidates[i]];
		uint64_t word = atomic_load(&slot->owner), image = atomic_load(&slot->image), image_now;
		struct stat_fields before, after;
		uint32_t pid = owner_pid(word);
		// The start time before and after: it is one process whose vector we read.
		if (pid != viewer->pid && owner_state(word) == OWNER_OWNED && image != 0 && read_stat(pid, &before) &&
		    (image_now = image_of(pid)) != 0 && image_now != image && read_stat(pid, &after) && before.start == after.start &&
		    (uint32_t)before.start == owner_start(word))
			dead[found++] = candidates[i];
	}
	return found;
}

// The pid that the process has in its innermost PID namespace: the last number of "NSpid:" in its status.
static uint32_t innermost_pid(uint32_t pid)
{
	char text[2048];
	if (read_proc(pid, "status", false, text, sizeof text) < 0)
		return 0;
	const char *at = strstr(text, "\nNSpid:");
	uint64_t number = 0;
	if (at == NULL)
		return 0;
	for (at += 7; *at == '\t' || *at == ' ';) {
		at = parse_number(at + 1, &number);
		if (at == NULL)
			return 0;
	}
	return (uint32_t)number;
}

struct directory_entry { // struct linux_dirent64
	uint64_t inode;
	int64_t offset;
	uint16_t length;
	uint8_t type;
	char name[];
};

int softmig_ledger_find_elsewhere(const struct softmig_ledger_file *file, const struct viewer *viewer, const uint16_t *candidates,
                                  int count, uint16_t *dead)
{
	struct stat status;
	// Only from the machine's own namespace is every process seen, and only where /proc hides none.
	if (count == 0 || count > 64 || !viewer->proc_is_ours || viewer->pid_ns != INITIAL_PID_NS ||
	    softmig_sys_stat("/proc/1/status", &status) != 0)
		return 0;
	uint64_t words[64], alive = 0;
	for (int i = 0; i < count; i++)
		words[i] = atomic_load(&file->slot[candidates[i]].owner);
	int fd = softmig_sys_open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	_Alignas(8) char buffer[2048];
	long got = -1;
	int scanned = 0;
	while (scanned < SCAN_MAX && (got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0) {
		for (long at = 0; at < got;) {
			const struct directory_entry *entry = (const struct directory_entry *)(const void *)(buffer + at);
			at += entry->length;
			uint64_t pid;
			const char *end = parse_number(entry->name, &pid);
			struct stat_fields fields;
			if (end == NULL || *end != 0)
				continue;
			scanned++;
			if (!read_stat((uint32_t)pid, &fields)) // gone meanwhile, or not to be judged
				continue;
			for (int i = 0; i < count; i++)
				if ((owner_start(words[i]) == 0 || owner_start(words[i]) == (uint32_t)fields.start) && !is_gone(&fields) &&
				    innermost_pid((uint32_t)pid) == owner_pid(words[i]))
					alive |= 1ull << i;
		}
	}
	softmig_sys_close(fd);
	if (got != 0) // not to the end: nothing is known about those not seen
		return 0;
	int found = 0;
	for (int i = 0; i < count; i++)
		if (!(alive & 1ull << i) && owner_state(words[i]) == OWNER_OWNED && owner_start(words[i]) != 0)
			dead[found++] = candidates[i];
	return found;
}

bool softmig_ledger_slot_alive(const struct softmig_ledger *ledger, const struct softmig_ledger_slot *slot)
{
	(void)ledger; // a copy's slots are judged alike
	int saved_errno = errno;
	struct viewer viewer;
	uint64_t word = atomic_load(&slot->owner);
	bool alive = false;
	if (owner_state(word) == OWNER_OWNED) {
		softmig_ledger_viewer(&viewer);
		alive = softmig_ledger_fate(&viewer, word, atomic_load(&slot->pid_ns)) != FATE_DEAD;
	}
	errno = saved_errno;
	return alive;
}
