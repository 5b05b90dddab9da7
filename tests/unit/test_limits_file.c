// SPDX-License-Identifier: Apache-2.0
// The limit file is believed only where nobody but its owner could have written it, and found without any variable.
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/un.h>

#include "cmocka_all.h"
#include "scratch.h"
#include "slice/limits.h"

static struct softmig_limits limits;
static struct softmig_limits_error error;
static char path[256], folder[96];

static const char *in_folder(const char *name) {
	static char full[4][256];
	static int next;
	next = (next + 1) % 4;
	snprintf(full[next], sizeof(full[next]), "%s/%s", folder, name);
	return full[next];
}

static void put(const char *name, const char *text) {
	assert_true(scratch_write(in_folder(name), text, strlen(text)));
}

static enum softmig_limits_status load(uint64_t job) {
	memset(&limits, 0x5a, sizeof(limits));
	memset(&error, 0, sizeof(error));
	strcpy(path, "untouched");
	int before = scratch_descriptors();
	errno = 33;
	enum softmig_limits_status status =
		softmig_limits_load(folder, job, geteuid(), &limits, &error, path, sizeof(path));
	assert_int_equal(errno, 33);
	assert_int_equal(scratch_descriptors(), before);
	return status;
}

static void assert_refused(uint64_t job, const char *word) {
	if (load(job) != SOFTMIG_LIMITS_BAD)
		fail_msg("accepted, where '%s' was expected", word);
	if (strstr(error.message, word) == NULL)
		fail_msg("it is said: %s", error.message);
	struct softmig_limits none;
	softmig_limits_init(&none);
	assert_memory_equal(&limits, &none, sizeof(none));
}

static int fresh_folder(void **state) {
	(void)state;
	const char *outer = scratch_folder();
	snprintf(folder, sizeof(folder), "%s/state", outer);
	return mkdir(folder, 0755);
}

static int remove_folder(void **state) {
	(void)state;
	*strrchr(folder, '/') = '\0';
	scratch_remove(folder);
	return 0;
}

static void the_jobs_file_is_loaded(void **state) {
	(void)state;
	put("123.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(load(123), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 4ull << 30);
	assert_string_equal(path, in_folder("123.conf"));
	assert_int_equal(load(12), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(1), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(1234), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(0), SOFTMIG_LIMITS_ABSENT);
}

static void the_largest_job_number_has_a_file_too(void **state) {
	(void)state;
	put("18446744073709551615.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(load(UINT64_MAX), SOFTMIG_LIMITS_OK);
}

static void an_array_elements_file_is_found_by_the_raw_job_number(void **state) {
	(void)state;
	put("12_7.conf", "CUDA_DEVICE_MEMORY_LIMIT=5G\n");
	setenv("SLURM_ARRAY_TASK_ID", "8", 1); // says nothing
	setenv("SLURM_ARRAY_JOB_ID", "3", 1);
	assert_int_equal(load(12), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 5ull << 30);
	assert_string_equal(path, in_folder("12_7.conf"));
	assert_int_equal(load(1), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(2), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(127), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(load(3), SOFTMIG_LIMITS_ABSENT);
	unsetenv("SLURM_ARRAY_TASK_ID");
	unsetenv("SLURM_ARRAY_JOB_ID");
}

static void other_names_are_not_the_jobs(void **state) {
	(void)state;
	static const char *const names[] = {"12_.conf",   "12_x.conf",  "12_7.conf.tmp", "12_7",       "12_7.con",
	                                    "x12_7.conf", ".12_7.conf", "112_7.conf",    "12_-7.conf", "12_7 .conf",
	                                    "012.conf",   "12.CONF",    "12 .conf",      "12_7_8.conf"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		put(names[i], "CUDA_DEVICE_MEMORY_LIMIT=5G\n");
	assert_int_equal(load(12), SOFTMIG_LIMITS_ABSENT);
}

static void the_plain_name_wins_and_rivals_are_refused(void **state) {
	(void)state;
	put("12.conf", "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
	put("12_7.conf", "CUDA_DEVICE_MEMORY_LIMIT=5G\n");
	put("12_8.conf", "CUDA_DEVICE_MEMORY_LIMIT=6G\n");
	assert_int_equal(load(12), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 1ull << 30);
	assert_int_equal(unlink(in_folder("12.conf")), 0);
	assert_refused(12, "one job has one limit file");
}

static void a_file_among_thousands_is_found(void **state) {
	(void)state;
	for (int i = 0; i < 2000; i++) {
		char name[64];
		snprintf(name, sizeof(name), "%d_%d.conf", 100000 + i, i);
		put(name, "CUDA_DEVICE_MEMORY_LIMIT=1G\n");
	}
	put("12_7.conf", "CUDA_DEVICE_MEMORY_LIMIT=5G\n");
	assert_int_equal(load(12), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 5ull << 30);
	assert_int_equal(load(101999), SOFTMIG_LIMITS_OK);
	assert_int_equal(load(13), SOFTMIG_LIMITS_ABSENT);
}

static void a_fault_in_the_text_names_its_line(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\nCUDA_DEVICE_SM_LIMIT=400\n");
	assert_refused(5, "0 to 100");
	assert_int_equal(error.line, 2);
	assert_string_equal(path, in_folder("5.conf"));
	put("6.conf", "");
	assert_refused(6, "cut short");
	put("7_1.conf", "bad\n");
	assert_refused(7, "no '='");
	assert_string_equal(path, in_folder("7_1.conf"));
}

static void a_file_that_others_may_write_is_refused(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	static const mode_t refused[] = {0664, 0646, 0666, 0777, 0620, 0602};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		assert_int_equal(chmod(in_folder("5.conf"), refused[i]), 0);
		assert_refused(5, "may be written by group or others");
		assert_int_equal(error.line, 0);
	}
	static const mode_t accepted[] = {0644, 0444, 0600, 0755, 0400};
	for (size_t i = 0; i < sizeof(accepted) / sizeof(accepted[0]); i++) {
		assert_int_equal(chmod(in_folder("5.conf"), accepted[i]), 0);
		assert_int_equal(load(5), SOFTMIG_LIMITS_OK);
	}
	chmod(in_folder("5.conf"), 0664);
	load(5);
	assert_non_null(strstr(error.message, "mode 664"));
}

static void a_file_of_another_owner_is_refused(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	if (chown(in_folder("5.conf"), 1234, 0) != 0)
		skip();
	assert_refused(5, "belongs to uid 1234");
	assert_int_equal(chown(in_folder("5.conf"), 65534, 0), 0); // only in a user namespace is this one root's
	assert_refused(5, "belongs to uid 65534");
}

static void a_directory_of_another_owner_or_open_to_others_is_refused(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(chmod(folder, 0775), 0);
	assert_refused(5, "directory may be written by group or others");
	assert_string_equal(path, in_folder("5.conf"));
	assert_int_equal(chmod(folder, 0757), 0);
	assert_refused(5, "directory may be written by group or others");
	assert_int_equal(chmod(folder, 01777), 0);
	assert_refused(5, "directory may be written");
	assert_refused(99, "directory may be written"); // also where there is no file: somebody may have removed it
	assert_int_equal(chmod(folder, 0755), 0);
	assert_int_equal(load(5), SOFTMIG_LIMITS_OK);
	if (chown(folder, 1234, 0) != 0)
		skip();
	assert_refused(5, "directory belongs to uid 1234");
}

static void links_are_refused(void **state) {
	(void)state;
	put("real", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(symlink(in_folder("real"), in_folder("5.conf")), 0);
	assert_refused(5, "symbolic link");
	assert_int_equal(symlink("nowhere", in_folder("6.conf")), 0);
	assert_refused(6, "symbolic link");
	assert_int_equal(symlink(in_folder("real"), in_folder("7_1.conf")), 0);
	assert_refused(7, "symbolic link");
	char real[256];
	snprintf(real, sizeof(real), "%s-moved", folder);
	put("8.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(rename(folder, real), 0);
	assert_int_equal(symlink(real, folder), 0);
	assert_refused(8, "directory is a symbolic link");
}

static void what_is_no_file_is_refused_without_waiting(void **state) {
	(void)state;
	assert_int_equal(mkfifo(in_folder("1.conf"), 0644), 0);
	assert_refused(1, "not a regular file");
	assert_int_equal(mkdir(in_folder("2.conf"), 0755), 0);
	assert_refused(2, "not a regular file");
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/3.conf", folder);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	close(listener);
	assert_refused(3, "device or socket");
	if (mknod(in_folder("4.conf"), S_IFCHR | 0644, makedev(1, 5)) != 0) // /dev/zero
		skip();
	assert_refused(4, "not a regular file");
}

static void a_large_file_is_refused(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(truncate(in_folder("5.conf"), SOFTMIG_LIMITS_FILE_BYTES + 1), 0);
	assert_refused(5, "larger than 64 KiB");
	static char text[SOFTMIG_LIMITS_FILE_BYTES];
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 50 == 49 ? '\n' : '#';
	memcpy(text + sizeof(text) - 30, "\nCUDA_DEVICE_MEMORY_LIMIT=4G\n ", 30);
	assert_true(scratch_write(in_folder("5.conf"), text, sizeof(text)));
	assert_int_equal(load(5), SOFTMIG_LIMITS_OK); // its last line counts
	assert_int_equal(limits.memory_bytes[3], 4ull << 30);
}

static void a_missing_directory_is_no_limit_and_a_strange_one_is_a_fault(void **state) {
	(void)state;
	char real[sizeof(folder)];
	strcpy(real, folder);
	strcat(folder, "-none");
	assert_int_equal(load(5), SOFTMIG_LIMITS_ABSENT);
	strcpy(folder, real);
	assert_int_equal(rmdir(folder), 0);
	assert_true(scratch_write(folder, "x", 1));
	assert_refused(5, "is not a directory");
}

static void a_path_is_loaded_with_the_same_refusals(void **state) {
	(void)state;
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(softmig_limits_load_path(in_folder("5.conf"), geteuid(), &limits, &error), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 4ull << 30);
	assert_int_equal(softmig_limits_load_path(in_folder("6.conf"), geteuid(), &limits, &error), SOFTMIG_LIMITS_ABSENT);
	chmod(in_folder("5.conf"), 0666);
	assert_int_equal(softmig_limits_load_path(in_folder("5.conf"), geteuid(), &limits, &error), SOFTMIG_LIMITS_BAD);
	chmod(in_folder("5.conf"), 0644);
	chmod(folder, 0777);
	assert_int_equal(softmig_limits_load_path(in_folder("5.conf"), geteuid(), &limits, &error), SOFTMIG_LIMITS_BAD);
	chmod(folder, 0755);
	char here[256];
	assert_non_null(getcwd(here, sizeof(here)));
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(softmig_limits_load_path("5.conf", geteuid(), &limits, &error), SOFTMIG_LIMITS_OK);
	assert_int_equal(chdir(here), 0);
	assert_int_equal(softmig_limits_load_path("", geteuid(), &limits, &error), SOFTMIG_LIMITS_ABSENT);
	static char too_long[5000];
	memset(too_long, 'x', sizeof(too_long) - 3);
	memcpy(too_long + sizeof(too_long) - 3, "/y", 3);
	assert_int_equal(softmig_limits_load_path(too_long, geteuid(), &limits, &error), SOFTMIG_LIMITS_BAD);
}

// Runs check in a child, as uid, and returns its exit status.
static int in_child(void (*prepare)(void), int (*check)(void)) {
	pid_t child = fork();
	if (child == 0) {
		if (prepare != NULL)
			prepare();
		_exit(check());
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void become_user(void) {
	// Dumpable again: else /proc/self stays root's.
	if (setgroups(0, NULL) != 0 || setgid(1234) != 0 || setuid(1234) != 0 || prctl(PR_SET_DUMPABLE, 1) != 0)
		_exit(100);
}

// As a job's process does it: root's file, whoever asks.
static int load_roots(void) {
	return (int)softmig_limits_load(folder, 5, 0, &limits, &error, path, sizeof(path));
}

static void a_user_loads_roots_file_and_fails_closed_where_he_may_not(void **state) {
	(void)state;
	if (geteuid() != 0)
		skip();
	char outer[sizeof(folder)];
	strcpy(outer, folder);
	*strrchr(outer, '/') = '\0';
	chmod(outer, 0755);
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_OK);
	chmod(in_folder("5.conf"), 0600);
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_BAD);
	chmod(in_folder("5.conf"), 0644);
	chmod(folder, 0711); // found by name, and nothing else can be known
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_OK);
	unlink(in_folder("5.conf"));
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_BAD);
	chmod(folder, 0700);
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_BAD);
	chmod(folder, 0755);
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_ABSENT);
	chmod(outer, 0700); // whether there is one cannot be known
	assert_int_equal(in_child(become_user, load_roots), SOFTMIG_LIMITS_BAD);
}

static void write_map(const char *file, const char *text) {
	int descriptor = open(file, O_WRONLY | O_CLOEXEC);
	if (descriptor < 0 || write(descriptor, text, strlen(text)) < 0)
		_exit(100);
	close(descriptor);
}

// A user who calls himself root, as in "unshare --user --map-root-user" or a rootless container.
static void become_root_of_a_user_namespace(void) {
	become_user();
	if (unshare(CLONE_NEWUSER) != 0)
		_exit(101);
	write_map("/proc/self/setgroups", "deny");
	write_map("/proc/self/uid_map", "0 1234 1");
}

static void in_a_user_namespace_root_is_still_the_hosts(void **state) {
	(void)state;
	if (geteuid() != 0)
		skip();
	char outer[sizeof(folder)];
	strcpy(outer, folder);
	*strrchr(outer, '/') = '\0';
	chmod(outer, 0755);
	put("5.conf", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	int status = in_child(become_root_of_a_user_namespace, load_roots);
	if (status >= 100)
		skip(); // no user namespaces here
	assert_int_equal(status, SOFTMIG_LIMITS_OK);
	// What the user wrote looks like root's in there, and is not.
	assert_int_equal(chown(in_folder("5.conf"), 1234, 1234), 0);
	assert_int_equal(in_child(become_root_of_a_user_namespace, load_roots), SOFTMIG_LIMITS_BAD);
	assert_int_equal(chown(folder, 1234, 1234), 0);
	assert_int_equal(in_child(become_root_of_a_user_namespace, load_roots), SOFTMIG_LIMITS_BAD);
	assert_int_equal(chown(in_folder("5.conf"), 0, 0), 0);
	assert_int_equal(in_child(become_root_of_a_user_namespace, load_roots), SOFTMIG_LIMITS_BAD);
}

// Another process exchanges the file for a link to a foreign file all the time: what is loaded is either the real thing
// or refused, never what the link points to.
static void an_exchange_between_look_and_use_gains_nothing(void **state) {
	(void)state;
	put("good", "CUDA_DEVICE_MEMORY_LIMIT=4G\n");
	put("evil", "CUDA_DEVICE_MEMORY_LIMIT=8G\n");
	assert_int_equal(link(in_folder("good"), in_folder("5.conf")), 0);
	char good[256], evil[256], target[256], temporary[256];
	strcpy(good, in_folder("good"));
	strcpy(evil, in_folder("evil"));
	strcpy(target, in_folder("5.conf"));
	strcpy(temporary, in_folder("tmp"));
	pid_t child = fork();
	if (child == 0) {
		for (int i = 0; i < 2000; i++) {
			if ((i % 2 == 0 ? symlink(evil, temporary) : link(good, temporary)) != 0 || rename(temporary, target) != 0)
				_exit(1);
		}
		_exit(0);
	}
	int loaded = 0, refused = 0, status;
	while (waitpid(child, &status, WNOHANG) == 0) {
		enum softmig_limits_status got = softmig_limits_load(folder, 5, geteuid(), &limits, &error, path, sizeof(path));
		assert_int_not_equal(got, SOFTMIG_LIMITS_ABSENT);
		if (got == SOFTMIG_LIMITS_OK)
			assert_int_equal(limits.memory_bytes[0], 4ull << 30);
		loaded += got == SOFTMIG_LIMITS_OK;
		refused += got == SOFTMIG_LIMITS_BAD;
	}
	assert_int_equal(status, 0);
	assert_true(loaded + refused > 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_folder, remove_folder)

int main(void) {
	const struct CMUnitTest tests[] = {
		TEST(the_jobs_file_is_loaded),
		TEST(the_largest_job_number_has_a_file_too),
		TEST(an_array_elements_file_is_found_by_the_raw_job_number),
		TEST(other_names_are_not_the_jobs),
		TEST(the_plain_name_wins_and_rivals_are_refused),
		TEST(a_file_among_thousands_is_found),
		TEST(a_fault_in_the_text_names_its_line),
		TEST(a_file_that_others_may_write_is_refused),
		TEST(a_file_of_another_owner_is_refused),
		TEST(a_directory_of_another_owner_or_open_to_others_is_refused),
		TEST(links_are_refused),
		TEST(what_is_no_file_is_refused_without_waiting),
		TEST(a_large_file_is_refused),
		TEST(a_missing_directory_is_no_limit_and_a_strange_one_is_a_fault),
		TEST(a_path_is_loaded_with_the_same_refusals),
		TEST(a_user_loads_roots_file_and_fails_closed_where_he_may_not),
		TEST(in_a_user_namespace_root_is_still_the_hosts),
		TEST(an_exchange_between_look_and_use_gains_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
