// SPDX-License-Identifier: Apache-2.0
// Who lives. Owns: telling from /proc whether the owner of a slot is alive. Must never: take one for dead that may be alive, signal
// anybody, allocate, keep a descriptor. What cannot be read is presumed alive.
//
// Dead is: no such pid; the pid is another process's now (start time); a zombie whose threads are all gone (the kernel closes a
// process's files, and so the driver frees its memory, before it becomes one; a zombie leader with running threads is alive).
// By the costly means also: a process that maps the ledger no more, because it has exec'ed something else; a process of another PID
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
static ssize_t read_proc(uint32_t pid, const char *file, char *text, size_t size)
{
	char path[64];
	proc_path(path, pid, file);
	int fd = softmig_sys_open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
	if (fd < 0)
		return -1;
	size_t have = 0;
	ssize_t got;
	while (have < size - 1 && (got = softmig_sys_read(fd, text + have, size - 1 - have)) > 0)
		have += (size_t)got;
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
	if (read_proc(pid, "stat", text, sizeof text) < 0)
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
	const void *random = (const void *)getauxval(AT_RANDOM); // 16 bytes, new at every exec
	if (random != NULL)
		memcpy(&viewer->image, random, sizeof viewer->image);
	viewer->image |= 1; // not zero: that is "not written"
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
	if (kill((pid_t)pid, 0) != 0 && errno == ESRCH)
		return FATE_DEAD;
	struct stat_fields fields;
	if (!viewer->proc_is_ours || !read_stat(pid, &fields))
		return FATE_ALIVE;
	if ((start & start_mask) != 0 && ((start ^ fields.start) & start_mask) != 0)
		return FATE_DEAD; // the pid has been given to another process
	if (is_gone(&fields))
		return FATE_DEAD;
	return fields.state == 'T' || fields.state == 't' ? FATE_STOPPED : FATE_ALIVE;
}

// How one mapping of a file is written in /proc/PID/maps: "start-end perms offset dev inode   path".
struct mapping {
	char file[48]; // "dev inode"
	char name[64]; // end of the path, with its last slash; empty: unknown
};

struct line_reader {
	int fd;
	size_t have, at;
	char buffer[2048];
};

// The next line, cut where it does not fit. NULL: end.
static char *next_line(struct line_reader *reader)
{
	for (;;) {
		char *start = reader->buffer + reader->at;
		char *end = memchr(start, '\n', reader->have - reader->at);
		if (end != NULL) {
			*end = 0;
			reader->at = (size_t)(end - reader->buffer) + 1;
			return start;
		}
		if (reader->at == 0 && reader->have == sizeof reader->buffer) // a path of more than 1900 bytes: its end is lost
			reader->have = 512;
		memmove(reader->buffer, start, reader->have - reader->at);
		reader->have -= reader->at;
		reader->at = 0;
		ssize_t got = softmig_sys_read(reader->fd, reader->buffer + reader->have, sizeof reader->buffer - reader->have);
		if (got <= 0)
			return NULL;
		reader->have += (size_t)got;
	}
}

static bool open_maps(uint32_t pid, struct line_reader *reader)
{
	char path[64];
	proc_path(path, pid, "maps");
	reader->have = reader->at = 0;
	reader->fd = softmig_sys_open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY, 0);
	return reader->fd >= 0;
}

// Splits a line of maps. dev_inode is left as the text "dev inode", path as the rest.
static bool split_line(char *line, const char **dev_inode, const char **path)
{
	char *field = line;
	for (int i = 0; i < 3; i++) { // past addresses, permissions, offset
		field = strchr(field, ' ');
		if (field == NULL)
			return false;
		field++;
	}
	char *end = strchr(field, ' ');
	if (end == NULL || (end = strchr(end + 1, ' ')) == NULL) {
		*dev_inode = field;
		*path = "";
		return true;
	}
	*end++ = 0;
	while (*end == ' ')
		end++;
	*dev_inode = field;
	*path = end;
	return true;
}

// How the ledger is written in our own maps: the numbers of stat() differ from those on some file systems (btrfs, overlay).
static bool find_own_mapping(const void *address, struct mapping *mapping)
{
	struct line_reader reader;
	bool found = false;
	char *line;
	if (!open_maps(0, &reader))
		return false;
	while (!found && (line = next_line(&reader)) != NULL) {
		uint64_t start = 0;
		const char *dev_inode, *path;
		// NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): a line of the buffer's unread part is never found
		for (char *digit = line; *digit != 0 && *digit != '-'; digit++)
			start = start << 4 | (uint64_t)(*digit <= '9' ? *digit - '0' : *digit - 'a' + 10);
		if (start != (uint64_t)(uintptr_t)address || !split_line(line, &dev_inode, &path) || strlen(dev_inode) >= sizeof mapping->file)
			continue;
		strcpy(mapping->file, dev_inode);
		const char *name = strrchr(path, '/');
		mapping->name[0] = 0;
		if (name != NULL && strlen(name) < sizeof mapping->name)
			strcpy(mapping->name, name);
		found = true;
	}
	softmig_sys_close(reader.fd);
	return found;
}

// Does the process certainly not map the file? Its memory must be readable and not already torn down (it is before the driver's files are
// closed). Another file of the same name counts too: seen through another mount the numbers may differ.
static bool is_unmapped(uint32_t pid, const struct mapping *mapping)
{
	struct line_reader reader;
	bool found = false, some = false;
	char *line;
	if (!open_maps(pid, &reader))
		return false;
	while (!found && (line = next_line(&reader)) != NULL) {
		const char *dev_inode, *path;
		some = true;
		if (!split_line(line, &dev_inode, &path))
			continue;
		found = strcmp(dev_inode, mapping->file) == 0 || (mapping->name[0] != 0 && strstr(path, mapping->name) != NULL);
	}
	softmig_sys_close(reader.fd);
	return some && !found;
}

int softmig_ledger_find_unmapped(const struct softmig_ledger_file *file, const struct viewer *viewer, const uint16_t *candidates,
                                 int count, uint16_t *dead)
{
	struct mapping mapping;
	int found = 0;
	if (count == 0 || !viewer->proc_is_ours || !find_own_mapping(file, &mapping))
		return 0;
	for (int i = 0; i < count; i++) {
		const struct softmig_ledger_slot *slot = &file->slot[candidates[i]];
		uint64_t word = atomic_load(&slot->owner);
		struct stat_fields before, after;
		uint32_t pid = owner_pid(word);
		// The start time before and after: it is one process that we read the mappings of.
		if (pid != viewer->pid && owner_state(word) == OWNER_OWNED && read_stat(pid, &before) && is_unmapped(pid, &mapping) &&
		    read_stat(pid, &after) && before.start == after.start && (uint32_t)before.start == owner_start(word))
			dead[found++] = candidates[i];
	}
	return found;
}

// The pid that the process has in its innermost PID namespace: the last number of "NSpid:" in its status.
static uint32_t innermost_pid(uint32_t pid)
{
	char text[2048];
	if (read_proc(pid, "status", text, sizeof text) < 0)
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
