// SPDX-License-Identifier: Apache-2.0
// softmig doctor: the files of the installation, and programs with the library in them.
#include "cli/doctor.h"
#include "cli/elf_file.h"
#include "cli/library.h"
#include "cli/preload_text.h"
#include "cli/trial.h"
#include "slice/limits.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { GLIBC_FLOOR_MINOR = 17 };

#define OK SOFTMIG_FINDING_OK
#define SKIPPED SOFTMIG_FINDING_SKIPPED
#define WARNING SOFTMIG_FINDING_WARNING
#define FAULT SOFTMIG_FINDING_FAULT

// The first of a path and its parents that somebody but root may change. False: none.
static bool find_loose(const char *path, char loose[PATH_MAX])
{
	snprintf(loose, PATH_MAX, "%s", path);
	for (;;) {
		struct stat status;
		bool there = stat(loose, &status) == 0;
		bool sticky = there && S_ISDIR(status.st_mode) && (status.st_mode & S_ISVTX);
		if (there && (status.st_uid != 0 || ((status.st_mode & (S_IWGRP | S_IWOTH)) && !sticky)))
			return true;
		char *slash = strrchr(loose, '/');
		if (!slash || slash[1] == '\0')
			return false;
		slash[slash == loose] = '\0';
	}
}

static void check_elf(struct softmig_doctor *doctor)
{
	struct softmig_elf elf;
	const char *advice = "install a library that was built for this machine: softmig update --library FILE";
	int error = softmig_elf_read(doctor->node.installed, &elf);
	if (error) {
		softmig_doctor_tell(doctor, FAULT, "library", advice, "%s is no shared library: %s", doctor->node.installed, strerror(error));
		return;
	}
	if (!softmig_elf_is_for_this_machine(&elf))
		softmig_doctor_tell(doctor, FAULT, "library", advice, "%s is for another kind of machine", doctor->node.installed);
	else if (!elf.gives_dlsym || !elf.gives_driver)
		softmig_doctor_tell(doctor, FAULT, "library", advice, "%s takes over nothing: its functions are hidden", doctor->node.installed);
	else if (elf.glibc_minor > GLIBC_FLOOR_MINOR)
		softmig_doctor_tell(doctor, FAULT, "library", "build it with ./build.sh build, whose test asserts the floor",
		                    "%s needs glibc 2.%d, so programs in older containers would not start", doctor->node.installed, elf.glibc_minor);
	else if (strcmp(elf.needed, "libc.so.6") != 0 && *elf.needed)
		softmig_doctor_tell(doctor, FAULT, "library", advice, "%s needs more than libc: %s", doctor->node.installed, elf.needed);
	else
		softmig_doctor_tell(doctor, OK, "library", NULL, "needs libc alone, glibc 2.%d at most", elf.glibc_minor);
}

void softmig_doctor_library(struct softmig_doctor *doctor)
{
	const struct softmig_node *node = &doctor->node;
	char loose[PATH_MAX], source[PATH_MAX];
	struct stat status;
	if (stat(node->installed, &status) != 0) {
		softmig_doctor_tell(doctor, FAULT, "library", "softmig install", "%s: %s", node->installed, strerror(errno));
		return;
	}
	if (find_loose(node->installed, loose))
		softmig_doctor_tell(doctor, FAULT, "library", "chown root and chmod go-w",
		                    "%s can be changed by others than root, and with it every program of the node", loose);
	else if ((status.st_mode & 0444) != 0444)
		softmig_doctor_tell(doctor, FAULT, "library", "chmod 0644", "%s cannot be read by everybody, so their programs complain",
		                    node->installed);
	else
		softmig_doctor_tell(doctor, OK, "library", NULL, "%s is root's, mode %o", node->installed, status.st_mode & 07777);
	check_elf(doctor);
	if (softmig_library_came_with(source) && !softmig_file_equal(source, node->installed))
		softmig_doctor_tell(doctor, WARNING, "library", "softmig update", "%s is not the version that came with this softmig", node->installed);
}

static void check_entries(struct softmig_doctor *doctor, const struct softmig_file *file)
{
	size_t position = 0, start, end;
	char entry[PATH_MAX];
	int ours = 0;
	while (softmig_preload_next(file->text, file->length, &position, &start, &end)) {
		snprintf(entry, sizeof entry, "%.*s", (int)(end - start), file->text + start);
		bool is_ours = softmig_node_is_ours(&doctor->node, entry);
		ours += is_ours;
		if (*entry == '/' && !strchr(entry, '$') && access(entry, F_OK) != 0)
			softmig_doctor_tell(doctor, FAULT, "entry", "remove the entry, or bring the library back",
			                    "%s names %s, which is not there: every program complains", doctor->node.preload, entry);
	}
	if (softmig_node_has_rival(&doctor->node, file, entry))
		softmig_doctor_tell(doctor, WARNING, "entry", "keep one of them",
		                    "%s also names %s: two libraries take over the same functions", doctor->node.preload, entry);
	doctor->enabled = ours > 0;
}

void softmig_doctor_entry(struct softmig_doctor *doctor)
{
	const struct softmig_node *node = &doctor->node;
	struct softmig_file file;
	int error = softmig_file_read(node->preload, &file);
	if (error) {
		softmig_doctor_tell(doctor, FAULT, "entry", "make it a plain file of root's", "%s cannot be read: %s", node->preload, softmig_file_why(error));
		return;
	}
	check_entries(doctor, &file);
	if (file.exists && (file.status.st_uid != 0 || (file.status.st_mode & (S_IWGRP | S_IWOTH))))
		softmig_doctor_tell(doctor, FAULT, "entry", "chown root and chmod go-w", "%s can be changed by others than root", node->preload);
	if (file.exists && (file.status.st_mode & 0444) != 0444)
		softmig_doctor_tell(doctor, FAULT, "entry", "chmod 0644", "%s cannot be read by everybody, so their programs are not limited",
		                    node->preload);
	if (doctor->enabled)
		softmig_doctor_tell(doctor, OK, "entry", NULL, "%s names %s", node->preload, node->entry);
	else
		softmig_doctor_tell(doctor, FAULT, "entry", "softmig enable", "%s does not name %s, so no program of a job is limited", node->preload,
		                    node->entry);
	if (softmig_library_is_disabled(node->disabled))
		softmig_doctor_tell(doctor, WARNING, "entry", "remove the file to switch limits on again",
		                    "%s exists: the library does nothing in programs that start", node->disabled);
	if (doctor->enabled && access("/lib/ld-linux.so.2", F_OK) == 0 && !strstr(file.text, "$LIB"))
		softmig_doctor_tell(doctor, WARNING, "entry", "nothing, if no job runs them; else an entry with $LIB, see docs/containers.md",
		                    "32-bit programs can run here, cannot load the library, and say so on stderr");
	softmig_file_free(&file);
}

static bool same_file_system(const char *a, const char *b)
{
	struct stat first, second;
	return stat(a, &first) == 0 && stat(b, &second) == 0 && first.st_dev == second.st_dev;
}

static void check_directory(struct softmig_doctor *doctor, const char *path)
{
	struct stat status;
	char loose[PATH_MAX];
	struct statvfs space;
	if (stat(path, &status) != 0)
		softmig_doctor_tell(doctor, FAULT, "directories", "softmig install; after a reboot systemd-tmpfiles makes it", "%s: %s", path,
		                    strerror(errno));
	else if (find_loose(path, loose))
		softmig_doctor_tell(doctor, FAULT, "directories", "chown root and chmod 0755", "%s can be changed by others than root", loose);
	else if ((status.st_mode & 0555) != 0555)
		softmig_doctor_tell(doctor, FAULT, "directories", "chmod 0755", "%s cannot be searched by everybody: programs of jobs get no GPU", path);
	else if (statvfs(path, &space) == 0 && space.f_blocks > 0 && space.f_bavail < space.f_blocks / 50)
		softmig_doctor_tell(doctor, FAULT, "directories", "free some space, or jobs cannot start", "the file system of %s is full", path);
	else
		softmig_doctor_tell(doctor, OK, "directories", NULL, "%s is root's, mode %o", path, status.st_mode & 07777);
}

void softmig_doctor_directories(struct softmig_doctor *doctor)
{
	check_directory(doctor, doctor->node.state);
	check_directory(doctor, doctor->node.log);
	if (same_file_system(doctor->node.state, "/run"))
		softmig_doctor_tell(doctor, WARNING, "directories",
		                    "mount a small one there: tmpfs " SOFTMIG_STATE_DIR " tmpfs size=64m,mode=0755,nosuid,nodev,noexec 0 0",
		                    "%s is on the file system of /run, which a job's user could fill by its ledger", doctor->node.state);
}

void softmig_doctor_limit_files(struct softmig_doctor *doctor)
{
	DIR *files = opendir(doctor->node.state);
	int good = 0, bad = 0;
	for (struct dirent *entry; files && (entry = readdir(files));) {
		const char *suffix = strrchr(entry->d_name, '.');
		if (!suffix || strcmp(suffix, ".conf") != 0)
			continue;
		char path[PATH_MAX];
		struct softmig_limits limits;
		struct softmig_limits_error error;
		snprintf(path, sizeof path, "%.3800s/%s", doctor->node.state, entry->d_name);
		if (softmig_limits_load_path(path, 0, &limits, &error) != SOFTMIG_LIMITS_BAD) {
			good++;
			continue;
		}
		bad++;
		softmig_doctor_tell(doctor, FAULT, "limit files", "correct the file: the job has no GPU until then", "%s line %d: %s", path, error.line,
		                    error.message);
	}
	if (files)
		closedir(files);
	if (!bad)
		softmig_doctor_tell(doctor, OK, "limit files", NULL, "%d job%s in slices", good, good == 1 ? "" : "s");
}

void softmig_doctor_trial(struct softmig_doctor *doctor)
{
	char why[512];
	if (access(doctor->node.installed, R_OK) != 0)
		softmig_doctor_tell(doctor, SKIPPED, "programs", NULL, "there is no library to try");
	else if (!softmig_trial(doctor->enabled ? NULL : doctor->node.installed, true, why, sizeof why))
		softmig_doctor_tell(doctor, FAULT, "programs", doctor->enabled ? "softmig disable" : "do not enable it; install another build",
		                    "with the library %s", why);
	else
		softmig_doctor_tell(doctor, OK, "programs", NULL, "plain programs run with the library as they do without it");
}
