// SPDX-License-Identifier: Apache-2.0
// The job is what Slurm's cgroup says, and a variable only where no cgroup speaks.
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cmocka_all.h"
#include "scratch.h"
#include "slice/job.h"

static uint64_t job_in(const char *text) {
	return softmig_job_from_cgroup(text, strlen(text));
}

static void cgroup_v1_names_the_job(void **state) {
	(void)state;
	assert_int_equal(job_in("4:memory:/slurm/uid_1000/job_123/step_0/task_0\n"), 123);
	assert_int_equal(job_in("4:memory:/slurm_node7/uid_1000/job_123/step_batch\n"), 123);
	assert_int_equal(job_in("4:memory:/slurm/uid_0/job_1"), 1);
	assert_int_equal(
		job_in("11:cpuset:/\n10:devices:/system.slice/slurmd.service\n9:freezer:/slurm/uid_5/job_77/step_extern\n"
	           "0::/system.slice/slurmd.service\n"),
		77);
	assert_int_equal(job_in("5:cpu,cpuacct:/docker/ab12/slurm/uid_1/job_9/step_0\n"), 9);
	assert_int_equal(job_in("1:name=systemd:/slurm/uid_1/job_9\n"), 9);
}

static void cgroup_v2_names_the_job(void **state) {
	(void)state;
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0\n"), 42);
	assert_int_equal(job_in("0::/system.slice/node-3_slurmstepd.scope/job_42/step_extern\n"), 42);
	assert_int_equal(job_in("0::/gpu.slice/slurmstepd.scope/job_42\n"), 42);
	assert_int_equal(job_in("0::/kubepods/pod1/system.slice/slurmstepd.scope/job_42/step_0/docker-abc.scope/init\n"),
	                 42);
	assert_int_equal(job_in("0::/../../slurmstepd.scope/job_42/step_0\n"), 42);
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_4294967294/step_0\n"), 4294967294u);
}

static void what_is_not_slurms_is_no_job(void **state) {
	(void)state;
	static const char *const none[] = {"",
	                                   "\n",
	                                   ":",
	                                   "::",
	                                   "0::/\n",
	                                   "0::/user.slice/job_5\n",
	                                   "0::/job_5/step_0\n",
	                                   "0::/user.slice/user-1000.slice/session-2.scope\n",
	                                   "0::/system.slice/slurmstepd.scope/system\n",
	                                   "0::/system.slice/slurmstepd.scope\n",
	                                   "0::/system.slice/slurmstepd.scope/step_0/job_5\n",
	                                   "0::/system.slice/slurmstepd.scopes/job_5\n",
	                                   "0::/system.slice/evilslurmstepd.scope/job_5\n",
	                                   "0::/system.slice/slurmd.service/job_5\n",
	                                   "4:memory:/slurm/job_5\n",
	                                   "4:memory:/slurm/uid_/job_5\n",
	                                   "4:memory:/slurm/uid_1x/job_5\n",
	                                   "4:memory:/slurm/uid_1/job_\n",
	                                   "4:memory:/slurm/uid_1/job_0\n",
	                                   "4:memory:/slurm/uid_1/job_5x\n",
	                                   "4:memory:/slurm/uid_1/job_-5\n",
	                                   "4:memory:/slurm/uid_1/job_ 5\n",
	                                   "4:memory:/slurm/uid_1/xjob_5\n",
	                                   "4:memory:/slurm/uid_1/step_0\n",
	                                   "uid_1/job_5\n",
	                                   "/uid_1/job_5\n",
	                                   "4:/uid_1/job_5\n",
	                                   "1:a:/x/uid_1\n2:b:/job_5\n",
	                                   "4:memory:/slurm/uid_1/job_99999999999999999999\n"};
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
		if (job_in(none[i]) != 0)
			fail_msg("a job was seen in '%s'", none[i]);
	}
	assert_int_equal(softmig_job_from_cgroup(NULL, 0), 0);
}

static void what_a_user_creates_below_his_job_changes_nothing(void **state) {
	(void)state;
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_5/step_0/user/task_0/slurmstepd.scope/job_999\n"),
	                 5);
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_5/job_999\n"), 5);
	assert_int_equal(job_in("4:memory:/slurm/uid_7/job_5/uid_7/job_999\n"), 5);
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_5/step_0/uid_0/job_999\n"), 5);
	// A hierarchy that is the user's to arrange, listed before and after Slurm's own.
	static const char own[] = "1:name=systemd:/user.slice/user-7.slice/user@7.service/slurm/uid_7/job_999\n";
	static const char slurms[] = "9:freezer:/slurm/uid_7/job_5/step_0\n";
	char both[512];
	assert_int_equal(job_in(strcat(strcpy(both, own), slurms)), 5);
	assert_int_equal(job_in(strcat(strcpy(both, slurms), own)), 5);
	assert_int_equal(job_in("9:freezer:/x/uid_7/job_5\n1:name=systemd:/uid_7/job_0\n"), 5);
	// A line break cannot be in a cgroup's name, and a colon does not end the path.
	assert_int_equal(job_in("0::/system.slice/slurmstepd.scope/job_5/a:b:/uid_1/job_6\n"), 5);
}

static void only_length_bytes_are_read(void **state) {
	(void)state;
	static const char text[] = "0::/slurmstepd.scope/job_123";
	assert_int_equal(softmig_job_from_cgroup(text, strlen(text)), 123);
	assert_int_equal(softmig_job_from_cgroup(text, strlen(text) - 1), 12);
	assert_int_equal(softmig_job_from_cgroup(text, strlen("0::/slurmstepd.scope/job")), 0);
	static const char with_nul[] = "0::/\0/slurmstepd.scope/job_7";
	assert_int_equal(softmig_job_from_cgroup(with_nul, sizeof(with_nul) - 1), 7);
}

static void long_names_and_paths_are_read_whole(void **state) {
	(void)state;
	size_t size = 1 << 20;
	char *text = malloc(size);
	assert_non_null(text);
	// A component longer than any directory's name is none of Slurm's, and hides nothing behind it.
	memset(text, 'x', size);
	static const char head[] = "0::/", tail[] = "/slurmstepd.scope/job_31\n";
	memcpy(text, head, sizeof(head) - 1);
	memcpy(text + size - (sizeof(tail) - 1), tail, sizeof(tail) - 1);
	assert_int_equal(softmig_job_from_cgroup(text, size), 31);
	// Its ending does not make it Slurm's either.
	static const char fake[] = "_slurmstepd.scope/job_31\n";
	memcpy(text + size - (sizeof(fake) - 1), fake, sizeof(fake) - 1);
	assert_int_equal(softmig_job_from_cgroup(text, size), 0);
	free(text);
}

static void slurms_variable_is_digits(void **state) {
	(void)state;
	assert_int_equal(softmig_job_parse_id("17", 2), 17);
	static const char *const none[] = {"", "0", "-1", "1x", " 1", "1 ", "0x10", "1_2", "99999999999999999999"};
	for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
		assert_int_equal(softmig_job_parse_id(none[i], strlen(none[i])), 0);
}

// Covers /proc/PID/cgroup of this process by text.
static void pretend_cgroup(const char *folder, const char *text, size_t length) {
	char file[128], target[64];
	snprintf(file, sizeof(file), "%s/cgroup", folder);
	snprintf(target, sizeof(target), "/proc/%d/cgroup", (int)getpid());
	assert_true(scratch_write(file, text, length));
	assert_int_equal(mount(file, target, NULL, MS_BIND, NULL), 0);
}

static void uncover_cgroup(void) {
	char target[64];
	snprintf(target, sizeof(target), "/proc/%d/cgroup", (int)getpid());
	assert_int_equal(umount2(target, MNT_DETACH), 0);
}

static bool in_namespace;

static void the_cgroup_wins_over_the_variable(void **state) {
	(void)state;
	if (!in_namespace)
		skip();
	const char *folder = scratch_folder();
	static const char text[] = "0::/system.slice/slurmstepd.scope/job_42/step_0\n";
	pretend_cgroup(folder, text, sizeof(text) - 1);
	setenv("SLURM_JOB_ID", "999", 1);
	int before = scratch_descriptors();
	errno = 33;
	struct softmig_job job = softmig_job_find(0, true);
	assert_int_equal(errno, 33);
	assert_int_equal(job.source, SOFTMIG_JOB_CGROUP);
	assert_int_equal(job.id, 42);
	unsetenv("SLURM_JOB_ID");
	job = softmig_job_find(0, true);
	assert_int_equal(job.id, 42);
	job = softmig_job_find(getpid(), false);
	assert_int_equal(job.source, SOFTMIG_JOB_CGROUP);
	assert_int_equal(job.id, 42);
	assert_int_equal(scratch_descriptors(), before);
	uncover_cgroup();
	scratch_remove(folder);
}

static void a_job_far_into_a_long_file_is_found(void **state) {
	(void)state;
	if (!in_namespace)
		skip();
	const char *folder = scratch_folder();
	static char text[200000];
	size_t length = 0;
	// Line lengths that let the job's line straddle every read.
	for (int i = 0; length < sizeof(text) - 200; i++)
		length += (size_t)snprintf(text + length, 64, "%d:name=h%d:/a/b/%.*s\n", i, i, i % 7, "xxxxxxx");
	length += (size_t)snprintf(text + length, 100, "0::/slurmstepd.scope/job_123456789/step_0\n");
	pretend_cgroup(folder, text, length);
	assert_int_equal(softmig_job_find(0, false).id, 123456789);
	uncover_cgroup();
	for (size_t pad = 0; pad < 48; pad++) { // the job's number itself across the border of 2048 bytes
		length = (size_t)snprintf(text, sizeof(text), "1::/%0*d\n0::/slurmstepd.scope/job_123456789/s\n",
		                          (int)(1990 + pad), 0);
		pretend_cgroup(folder, text, length);
		assert_int_equal(softmig_job_find(0, false).id, 123456789);
		uncover_cgroup();
	}
	scratch_remove(folder);
}

static void without_a_cgroup_the_variable_speaks_where_it_may(void **state) {
	(void)state;
	if (!in_namespace)
		skip();
	const char *folder = scratch_folder();
	static const char text[] = "0::/user.slice/job_5\n";
	pretend_cgroup(folder, text, sizeof(text) - 1);
	setenv("SLURM_JOB_ID", "17", 1);
	struct softmig_job job = softmig_job_find(0, true);
	assert_int_equal(job.source, SOFTMIG_JOB_ENVIRONMENT);
	assert_int_equal(job.id, 17);
	job = softmig_job_find(0, false);
	assert_int_equal(job.source, SOFTMIG_JOB_NONE);
	assert_int_equal(job.id, 0);
	// The variable is this process's, not another's.
	assert_int_equal(softmig_job_find(getpid(), true).source, SOFTMIG_JOB_NONE);
	setenv("SLURM_JOB_ID", "17; rm", 1);
	assert_int_equal(softmig_job_find(0, true).source, SOFTMIG_JOB_NONE);
	unsetenv("SLURM_JOB_ID");
	assert_int_equal(softmig_job_find(0, true).source, SOFTMIG_JOB_NONE);
	uncover_cgroup();
	scratch_remove(folder);
}

static void without_proc_the_variable_speaks(void **state) {
	(void)state;
	if (!in_namespace)
		skip();
	assert_int_equal(mount("none", "/proc", "tmpfs", 0, NULL), 0);
	setenv("SLURM_JOB_ID", "17", 1);
	errno = 33;
	struct softmig_job job = softmig_job_find(0, true);
	assert_int_equal(errno, 33);
	assert_int_equal(umount2("/proc", MNT_DETACH), 0);
	assert_int_equal(job.source, SOFTMIG_JOB_ENVIRONMENT);
	assert_int_equal(job.id, 17);
	unsetenv("SLURM_JOB_ID");
}

static void a_process_that_is_gone_has_no_job(void **state) {
	(void)state;
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
	setenv("SLURM_JOB_ID", "17", 1);
	assert_int_equal(softmig_job_find(child, true).source, SOFTMIG_JOB_NONE);
	assert_int_equal(softmig_job_find(-1, true).source, SOFTMIG_JOB_NONE);
	unsetenv("SLURM_JOB_ID");
}

int main(void) {
	in_namespace = scratch_namespace();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cgroup_v1_names_the_job),
		cmocka_unit_test(cgroup_v2_names_the_job),
		cmocka_unit_test(what_is_not_slurms_is_no_job),
		cmocka_unit_test(what_a_user_creates_below_his_job_changes_nothing),
		cmocka_unit_test(only_length_bytes_are_read),
		cmocka_unit_test(long_names_and_paths_are_read_whole),
		cmocka_unit_test(slurms_variable_is_digits),
		cmocka_unit_test(the_cgroup_wins_over_the_variable),
		cmocka_unit_test(a_job_far_into_a_long_file_is_found),
		cmocka_unit_test(without_a_cgroup_the_variable_speaks_where_it_may),
		cmocka_unit_test(without_proc_the_variable_speaks),
		cmocka_unit_test(a_process_that_is_gone_has_no_job),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
