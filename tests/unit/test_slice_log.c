// SPDX-License-Identifier: Apache-2.0
// A job's log is made for its user alone, and never somebody else's.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/slice_log.h"

enum { ALICE = 12345, BOB = 12346 };

static char directory[64], path[96];

static int setup(void **state)
{
	(void)state;
	strcpy(directory, "/tmp/softmig-log.XXXXXX");
	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof path, "%s/17.log", directory);
	return chmod(directory, 0755);
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	return rmdir(directory);
}

static void put(const char *text, uid_t uid)
{
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	assert_int_equal(chown(path, uid, uid), 0);
}

static void holds(const char *text, uid_t uid)
{
	struct stat status;
	char got[64] = "";
	assert_int_equal(lstat(path, &status), 0);
	assert_true(S_ISREG(status.st_mode));
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(status.st_uid, uid);
	FILE *file = fopen(path, "r");
	assert_non_null(file);
	got[fread(got, 1, sizeof got - 1, file)] = '\0';
	fclose(file);
	assert_string_equal(got, text);
}

static void test_a_new_log_is_the_users_alone(void **state)
{
	(void)state;
	umask(0);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	holds("", ALICE);
}

static void test_what_root_noted_before_the_job_started_is_kept(void **state)
{
	(void)state;
	put("no GPU\n", 0);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	holds("no GPU\n", ALICE);
}

static void test_the_log_of_a_requeued_job_goes_on(void **state)
{
	(void)state;
	put("first run\n", ALICE);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	holds("first run\n", ALICE);
}

static void test_the_log_of_another_user_with_the_same_number_is_not_handed_on(void **state)
{
	(void)state;
	put("secret\n", BOB);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	holds("", ALICE);
}

static void test_a_link_is_not_followed(void **state)
{
	(void)state;
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	holds("", ALICE);
	struct stat status;
	assert_int_equal(stat("/etc/passwd", &status), 0);
	assert_int_equal(status.st_uid, 0);
}

static void test_in_a_directory_that_others_can_write_no_log_is_made(void **state)
{
	(void)state;
	assert_int_equal(chmod(directory, 01777), 0);
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), EPERM);
	assert_int_equal(access(path, F_OK), -1);
}

static void test_an_array_elements_log_bears_its_task(void **state)
{
	(void)state;
	assert_int_equal(softmig_slice_log_make(directory, 17, 4, ALICE, ALICE), 0);
	assert_int_equal(access(path, F_OK), -1);
	char other[sizeof path + 8];
	snprintf(other, sizeof other, "%s/17_4.log", directory);
	assert_int_equal(access(other, F_OK), 0);
	softmig_slice_log_tidy(directory, 17);
	assert_int_equal(access(other, F_OK), -1);
}

static void test_after_the_job_an_empty_log_goes_and_another_stays(void **state)
{
	(void)state;
	assert_int_equal(softmig_slice_log_make(directory, 17, -1, ALICE, ALICE), 0);
	softmig_slice_log_tidy(directory, 1);
	softmig_slice_log_tidy(directory, 177);
	assert_int_equal(access(path, F_OK), 0);
	softmig_slice_log_tidy(directory, 17);
	assert_int_equal(access(path, F_OK), -1);
	put("refused\n", ALICE);
	softmig_slice_log_tidy(directory, 17);
	assert_int_equal(access(path, F_OK), 0);
}

int main(void)
{
	if (geteuid() != 0) {
		puts("skipped: needs root, who alone makes logs for others");
		return 0;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_new_log_is_the_users_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_root_noted_before_the_job_started_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_log_of_a_requeued_job_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_log_of_another_user_with_the_same_number_is_not_handed_on, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_link_is_not_followed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_in_a_directory_that_others_can_write_no_log_is_made, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_array_elements_log_bears_its_task, setup, teardown),
		cmocka_unit_test_setup_teardown(test_after_the_job_an_empty_log_goes_and_another_stays, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
