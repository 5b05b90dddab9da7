// SPDX-License-Identifier: Apache-2.0
// The files of turns: made by root for a job or by a user for himself, read by neighbours, refused where they are not what they should be.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "slice/turn_files.h"

#define MS UINT64_C(1000000)
#define NOW (UINT64_C(5000) * 1000 * MS)
#define UUID "GPU-01234567-89ab-cdef-0123-456789abcdef"

static char base[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(base, sizeof base, "/tmp/softmig-turn-test.XXXXXX");
	return mkdtemp(base) == NULL;
}

static int tear_down(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof command, "rm -rf '%s'", base);
	return system(command);
}

static const char *path_of(const char *name)
{
	static char path[256];
	snprintf(path, sizeof path, "%s/" UUID "/%s", base, name);
	return path;
}

static void a_page_is_the_users_own_and_its_neighbours_can_read_it(void **state)
{
	struct stat status;
	(void)state;
	if (geteuid() != 0)
		skip();
	mode_t old = umask(077);
	assert_int_equal(softmig_turn_create(base, UUID, 77, 12345, 54321), 0);
	umask(old);
	assert_int_equal(stat(path_of("77"), &status), 0);
	assert_int_equal(status.st_uid, 12345);
	assert_int_equal(status.st_gid, 54321);
	assert_int_equal(status.st_mode & 07777, 0644);
	assert_int_equal(status.st_size, SOFTMIG_TURN_PAGE_BYTES);
	assert_int_equal(stat(path_of(""), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0755);
	assert_int_equal(softmig_turn_remove(base, UUID, 77), 0);
	assert_int_equal(stat(path_of("77"), &status), -1);
	assert_int_equal(softmig_turn_remove(base, UUID, 77), 0); // already gone
}

static void the_last_page_takes_its_directories_along(void **state)
{
	struct stat status;
	char turns[80], inside[160];
	(void)state;
	if (geteuid() != 0)
		skip();
	snprintf(turns, sizeof turns, "%s/turns", base);
	assert_int_equal(softmig_turn_create(turns, UUID, 7, 1, 1), 0);
	assert_int_equal(softmig_turn_create(turns, UUID, 8, 1, 1), 0);
	assert_int_equal(softmig_turn_create(turns, "GPU-other", 8, 1, 1), 0);
	assert_int_equal(softmig_turn_remove(turns, UUID, 7), 0);
	snprintf(inside, sizeof inside, "%s/" UUID "/8", turns);
	assert_int_equal(stat(inside, &status), 0);
	assert_int_equal(softmig_turn_remove(turns, UUID, 8), 0);
	snprintf(inside, sizeof inside, "%s/" UUID, turns);
	assert_int_equal(stat(inside, &status), -1);
	assert_int_equal(softmig_turn_remove(turns, "GPU-other", 8), 0);
	assert_int_equal(stat(turns, &status), -1);
	assert_int_equal(softmig_turn_remove(turns, UUID, 8), 0); // already gone
}

static void who_makes_a_page_while_another_removes_the_last_one_gets_it(void **state)
{
	enum { ROUNDS = 3000 };
	char turns[80];
	int status;
	(void)state;
	if (geteuid() != 0)
		skip();
	snprintf(turns, sizeof turns, "%s/turns", base);
	pid_t child = fork();
	assert_true(child >= 0);
	for (int round = 0; round < ROUNDS; round++) {
		int made = softmig_turn_create(turns, UUID, child == 0 ? 1 : 2, 1, 1);
		int removed = made ? made : softmig_turn_remove(turns, UUID, child == 0 ? 1 : 2);
		if (child == 0 && removed)
			_exit(removed); // the error tells why
		if (removed)
			fail_msg("round %d: %s", round, strerror(removed));
	}
	if (child == 0)
		_exit(0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(rmdir(base), 0); // nothing is left in it
}

static void two_jobs_of_root_see_each_other(void **state)
{
	struct softmig_turn_directory first = {0}, second = {0};
	struct softmig_turn_page *one, *two;
	struct softmig_turn turn = {0};
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(softmig_turn_create(base, UUID, 7, 0, 0), 0);
	assert_int_equal(softmig_turn_create(base, UUID, 8, 0, 0), 0);
	assert_int_equal(softmig_turn_open_root(&first, base, UUID, 7, &one), 0);
	assert_int_equal(softmig_turn_open_root(&second, base, UUID, 8, &two), 0);
	turn.own = one;
	softmig_turn_read(&first, &turn, NOW);
	assert_int_equal(turn.peers, 1);
	assert_int_equal(turn.peer[0].page.key, 8);
	assert_int_equal(softmig_turn_others(&turn, NOW), 0);
	struct softmig_turn other = {.own = two};
	assert_int_equal(softmig_turn_ask(&other, 50, NOW).verdict, SOFTMIG_TURN_ALONE); // wants it from now on
	softmig_turn_read(&first, &turn, NOW + MS);
	assert_int_equal(softmig_turn_others(&turn, NOW + MS), 1);
	// A new neighbour is found, one that left is forgotten.
	assert_int_equal(softmig_turn_create(base, UUID, 9, 0, 0), 0);
	assert_int_equal(softmig_turn_remove(base, UUID, 8), 0);
	softmig_turn_read(&first, &turn, NOW + 300 * MS);
	assert_string_equal(first.name[0], ""); // made, but no process of the job has come yet
	assert_int_equal(softmig_turn_open_root(&second, base, UUID, 9, &two), 0);
	softmig_turn_read(&first, &turn, NOW + 600 * MS);
	assert_int_equal(softmig_turn_others(&turn, NOW + MS), 0);
	assert_string_equal(first.name[0][0] ? first.name[0] : first.name[1], "9");
}

static void a_user_makes_his_own_and_old_ones_go(void **state)
{
	struct softmig_turn_directory directory = {0}, again = {0};
	struct softmig_turn_page *page, *later;
	char path[300];
	(void)state;
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 0xabc, NOW, &page), 0);
	assert_string_equal(directory.own, "abc");
	snprintf(path, sizeof path, "%s/abc", directory.path);
	assert_int_equal(access(path, F_OK), 0);
	struct softmig_turn turn = {.own = page};
	softmig_turn_ask(&turn, 50, NOW);
	assert_int_equal(softmig_turn_open_user(&again, base, UUID, 0xdef, NOW + 60000 * MS, &later), 0);
	assert_int_equal(access(path, F_OK), 0); // a minute's silence is none
	assert_int_equal(softmig_turn_open_user(&again, base, UUID, 0xdef, NOW + 7200000 * MS, &later), 0);
	assert_int_equal(access(path, F_OK), -1);
}

static void what_another_could_have_made_is_refused(void **state)
{
	struct softmig_turn_directory directory = {0};
	struct softmig_turn_page *page = NULL;
	char path[200];
	(void)state;
	snprintf(path, sizeof path, "%s/softmig-turns.%u", base, (unsigned)geteuid());
	assert_int_equal(symlink("/tmp", path), 0);
	assert_int_not_equal(softmig_turn_open_user(&directory, base, UUID, 1, NOW, &page), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 1, NOW, &page), EPERM);
	assert_int_equal(directory.path[0], 0);
	assert_null(page);
	if (geteuid() != 0)
		return;
	assert_int_equal(softmig_turn_create(base, UUID, 5, 4321, 4321), 0); // another user's page
	assert_int_equal(softmig_turn_open_root(&directory, base, UUID, 5, &page), EPERM);
	assert_int_equal(softmig_turn_open_root(&directory, base, UUID, 6, &page), ENOENT);
	assert_int_equal(symlink("5", path_of("6")), 0);
	assert_int_equal(softmig_turn_open_root(&directory, base, UUID, 6, &page), ELOOP);
}

static void a_neighbour_who_truncates_his_page_or_puts_something_else_there_is_not_heard(void **state)
{
	struct softmig_turn_directory directory = {0}, other = {0};
	struct softmig_turn_page *page, *theirs;
	(void)state;
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 1, NOW, &page), 0);
	assert_int_equal(softmig_turn_open_user(&other, base, UUID, 2, NOW, &theirs), 0);
	struct softmig_turn turn = {.own = page}, neighbour = {.own = theirs};
	softmig_turn_ask(&neighbour, 50, NOW);
	softmig_turn_read(&directory, &turn, NOW);
	assert_int_equal(softmig_turn_others(&turn, NOW), 1);
	char path[300];
	snprintf(path, sizeof path, "%s/2", other.path);
	assert_int_equal(truncate(path, 0), 0);
	softmig_turn_read(&directory, &turn, NOW);
	assert_int_equal(softmig_turn_others(&turn, NOW), 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0); // reading it must not block
	softmig_turn_read(&directory, &turn, NOW + 600 * MS);
	assert_int_equal(softmig_turn_others(&turn, NOW), 0);
	for (int i = 0; i < 100; i++) { // and more neighbours than there are places
		snprintf(path, sizeof path, "%s/n%d", other.path, i);
		FILE *file = fopen(path, "w");
		assert_non_null(file);
		fclose(file);
	}
	softmig_turn_read(&directory, &turn, NOW + 1200 * MS);
	assert_in_range(turn.peers, 1, SOFTMIG_TURN_PEERS);
}

static void pages_that_finished_jobs_left_behind_take_nobodys_place(void **state)
{
	struct softmig_turn_directory directory = {0}, other = {0};
	struct softmig_turn_page *page, *theirs;
	struct softmig_turn turn = {0}, neighbour = {0};
	(void)state;
	for (uint64_t key = 100; key < 200; key++) { // a day of short runs
		assert_int_equal(softmig_turn_open_user(&other, base, UUID, key, NOW, &theirs), 0);
		neighbour = (struct softmig_turn){.own = theirs};
		softmig_turn_ask(&neighbour, 50, NOW);
	}
	uint64_t now_ns = NOW + 60000 * MS;
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 1, now_ns, &page), 0);
	assert_int_equal(softmig_turn_open_user(&other, base, UUID, 2, now_ns, &theirs), 0);
	turn.own = page;
	neighbour = (struct softmig_turn){.own = theirs};
	softmig_turn_read(&directory, &turn, now_ns);
	softmig_turn_ask(&neighbour, 50, now_ns + MS);
	softmig_turn_read(&directory, &turn, now_ns + 2 * MS);
	assert_int_equal(softmig_turn_others(&turn, now_ns + 2 * MS), 1);
	assert_int_equal(turn.peer[0].page.key, 2);
	// It falls silent for a while, and is heard again a tenth of a second after it wakes up.
	for (int i = 0; i < 200; i++)
		softmig_turn_read(&directory, &turn, now_ns += 100 * MS + 1);
	assert_int_equal(softmig_turn_others(&turn, now_ns), 0);
	usleep(20000); // the time stamp of a directory is as coarse as the kernel's ticks
	softmig_turn_read(&other, &neighbour, now_ns + 90 * MS);
	softmig_turn_read(&directory, &turn, now_ns + 91 * MS); // the page does not say so yet
	softmig_turn_ask(&neighbour, 50, now_ns + 92 * MS);
	softmig_turn_ask(&neighbour, 50, now_ns + 190 * MS);
	softmig_turn_read(&directory, &turn, now_ns + 192 * MS);
	assert_int_equal(softmig_turn_others(&turn, now_ns + 192 * MS), 1);
}

static int opens_of_pages(int watch)
{
	char buffer[65536] __attribute__((aligned(8)));
	int opens = 0;
	long length;
	while ((length = read(watch, buffer, sizeof buffer)) > 0)
		for (long at = 0; at < length;) {
			const struct inotify_event *event = (const struct inotify_event *)(const void *)(buffer + at);
			opens += event->len > 0;
			at += (long)(sizeof *event + event->len);
		}
	return opens;
}

static void they_do_not_make_a_listing_long_and_one_that_wakes_is_heard_in_the_end_without_a_word(void **state)
{
	struct softmig_turn_directory directory = {0}, other = {0};
	struct softmig_turn_page *page, *theirs = NULL;
	struct softmig_turn turn = {0}, neighbour = {0};
	uint64_t now_ns = NOW;
	(void)state;
	for (uint64_t key = 100; key < 140; key++) {
		assert_int_equal(softmig_turn_open_user(&other, base, UUID, key, NOW, &theirs), 0);
		neighbour = (struct softmig_turn){.own = theirs};
		softmig_turn_ask(&neighbour, 50, NOW);
	}
	now_ns += 60000 * MS;
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 1, now_ns, &page), 0);
	turn.own = page;
	softmig_turn_read(&directory, &turn, now_ns);
	softmig_turn_read(&directory, &turn, now_ns += 101 * MS);
	int watch = inotify_init1(IN_NONBLOCK);
	assert_in_range(inotify_add_watch(watch, other.path, IN_OPEN), 0, 1000);
	for (int i = 0; i < 20; i++) {
		softmig_turn_read(&directory, &turn, now_ns += 101 * MS);
		assert_int_equal(opens_of_pages(watch), 4);
	}
	close(watch);
	for (int i = 0; i < 11; i++) {
		softmig_turn_ask(&neighbour, 50, now_ns += 100 * MS);
		softmig_turn_read(&directory, &turn, now_ns += MS);
	}
	assert_int_equal(softmig_turn_others(&turn, now_ns), 1);
}

static void errno_stays_and_no_descriptor_is_kept(void **state)
{
	struct softmig_turn_directory directory = {0};
	struct softmig_turn_page *page;
	struct softmig_turn turn = {0};
	(void)state;
	int before = dup(0);
	close(before);
	errno = 4711;
	assert_int_equal(softmig_turn_open_user(&directory, base, UUID, 1, NOW, &page), 0);
	turn.own = page;
	softmig_turn_read(&directory, &turn, NOW);
	softmig_turn_remove(base, UUID, 99);
	assert_int_equal(errno, 4711);
	int after = dup(0);
	close(after);
	assert_int_equal(after, before);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
		TEST(a_page_is_the_users_own_and_its_neighbours_can_read_it),
		TEST(the_last_page_takes_its_directories_along),
		TEST(who_makes_a_page_while_another_removes_the_last_one_gets_it),
		TEST(two_jobs_of_root_see_each_other),
		TEST(a_user_makes_his_own_and_old_ones_go),
		TEST(what_another_could_have_made_is_refused),
		TEST(a_neighbour_who_truncates_his_page_or_puts_something_else_there_is_not_heard),
		TEST(pages_that_finished_jobs_left_behind_take_nobodys_place),
		TEST(they_do_not_make_a_listing_long_and_one_that_wakes_is_heard_in_the_end_without_a_word),
		TEST(errno_stays_and_no_descriptor_is_kept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
