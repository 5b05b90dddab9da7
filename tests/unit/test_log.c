// SPDX-License-Identifier: Apache-2.0
// The log reaches its file and nothing else: no user's screen, no other file, no signal, no descriptor left.
// Each test runs in a child process of its own, in a private /var/log and /tmp.
#include <errno.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sysmacros.h>
#include <time.h>

#include "cmocka_all.h"
#include "scratch.h"
#include "slice/log.h"

#define LOG      SOFTMIG_LOG_DIR "/7.log"
#define FALLBACK "/tmp/job/softmig_7.log"

static void forget_variables(void) {
	static const char *const names[] = {"SOFTMIG_LOG_FILE", "SOFTMIG_LOG_LEVEL", "LIBCUDA_LOG_LEVEL", "SLURM_TMPDIR",
	                                    "SLURM_ARRAY_TASK_ID"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
}

// A private machine: /var/log/softmig is there, /tmp/job is the job's folder.
static bool private_machine(void) {
	forget_variables();
	return scratch_namespace() && scratch_cover("/var/log") && scratch_cover("/tmp") &&
	       mkdir(SOFTMIG_LOG_DIR, 01777) == 0 && chmod(SOFTMIG_LOG_DIR, 01777) == 0 && mkdir("/tmp/job", 0777) == 0 &&
	       chmod("/tmp/job", 0777) == 0;
}

// In the child an assertion is this: what failed goes to the real standard error, kept at descriptor 200.
#define EXPECT(condition)                                                                                              \
	do {                                                                                                               \
		if (!(condition)) {                                                                                            \
			dprintf(200, "line %d: %s\n", __LINE__, #condition);                                                       \
			_exit(1);                                                                                                  \
		}                                                                                                              \
	} while (0)

static void in_child(void (*body)(void)) {
	if (geteuid() != 0)
		skip();
	pid_t child = fork();
	if (child == 0) {
		dup2(STDERR_FILENO, 200);
		if (!private_machine())
			_exit(77);
		body();
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (WIFSIGNALED(status))
		fail_msg("killed by signal %d", WTERMSIG(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static int count(const char *text, const char *word) {
	int found = 0;
	for (const char *at = text; (at = strstr(at, word)) != NULL; at++)
		found++;
	return found;
}

// What came to standard error since it was replaced by a file.
static void capture_stderr(void) {
	int descriptor = open("/tmp/stderr", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	EXPECT(descriptor >= 0 && dup2(descriptor, STDERR_FILENO) == STDERR_FILENO);
	close(descriptor);
}

static void a_line(void) {
	softmig_log_init(7, 0);
	EXPECT(access(LOG, F_OK) != 0); // nothing to say, no file
	int before = scratch_descriptors();
	errno = 33;
	softmig_log(SOFTMIG_LOG_ERROR, "refused %s: %d of %llu", "it", -5, 12ull);
	EXPECT(errno == 33);
	EXPECT(scratch_descriptors() == before);
	const char *text = scratch_read(LOG);
	int year, month, day, hour, minute, second, milli, pid, length = 0;
	EXPECT(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %d error: refused it: -5 of 12%n", &year, &month, &day, &hour,
	              &minute, &second, &milli, &pid, &length) == 8);
	EXPECT(pid == getpid());
	EXPECT(strcmp(text + length, "\n") == 0);
	struct tm when = {.tm_year = year - 1900,
	                  .tm_mon = month - 1,
	                  .tm_mday = day,
	                  .tm_hour = hour,
	                  .tm_min = minute,
	                  .tm_sec = second};
	time_t written = timegm(&when), now = time(NULL);
	EXPECT(written <= now && written >= now - 5);
	struct stat file;
	EXPECT(stat(LOG, &file) == 0 && (file.st_mode & 07777) == 0600);
}
static void a_message_is_one_dated_line(void **state) {
	(void)state;
	in_child(a_line);
}

static void levels(void) {
	static const enum softmig_log_kind kinds[] = {SOFTMIG_LOG_ERROR, SOFTMIG_LOG_WARN, SOFTMIG_LOG_DEBUG,
	                                              SOFTMIG_LOG_INFO, SOFTMIG_LOG_TRACE};
	capture_stderr();
	softmig_log(SOFTMIG_LOG_ERROR, "before init");
	EXPECT(access(LOG, F_OK) != 0);
	for (int level = 0; level <= 4; level++) {
		unlink(LOG);
		EXPECT(truncate("/tmp/stderr", 0) == 0);
		softmig_log_init(7, level);
		EXPECT(softmig_log_level() == level);
		for (int kind = 0; kind <= 4; kind++)
			softmig_log(kinds[kind], "message");
		EXPECT(count(scratch_read(LOG), "message\n") == level + 1);
		EXPECT(count(scratch_read("/tmp/stderr"), "message\n") == (level >= 3 ? level + 1 : 0));
	}
	softmig_log_set_level(0);
	EXPECT(truncate("/tmp/stderr", 0) == 0);
	softmig_log(SOFTMIG_LOG_WARN, "late");
	EXPECT(count(scratch_read(LOG), "late") == 0);
	softmig_log_set_level(1);
	softmig_log(SOFTMIG_LOG_WARN, "later");
	EXPECT(count(scratch_read(LOG), "later") == 1);
	EXPECT(strcmp(scratch_read("/tmp/stderr"), "") == 0);
}
static void the_level_decides_what_is_written_and_where(void **state) {
	(void)state;
	in_child(levels);
}

static void environment_level(void) {
	softmig_log_init(7, -1);
	EXPECT(softmig_log_level() == 0);
	setenv("LIBCUDA_LOG_LEVEL", "2", 1);
	softmig_log_init(7, -1);
	EXPECT(softmig_log_level() == 2);
	setenv("SOFTMIG_LOG_LEVEL", "1", 1);
	softmig_log_init(7, -1);
	EXPECT(softmig_log_level() == 1);
	softmig_log_init(7, 4); // the limits name one
	EXPECT(softmig_log_level() == 4);
	softmig_log_set_level(-1); // and no longer do
	EXPECT(softmig_log_level() == 1);
	static const char *const strange[] = {"", "5", "-1", "10", "x", "1 ", "99999999999999999999"};
	unsetenv("LIBCUDA_LOG_LEVEL");
	for (size_t i = 0; i < sizeof(strange) / sizeof(strange[0]); i++) {
		setenv("SOFTMIG_LOG_LEVEL", strange[i], 1);
		softmig_log_init(7, -1);
		EXPECT(softmig_log_level() == 0);
	}
}
static void the_environment_names_a_level_where_the_limits_do_not(void **state) {
	(void)state;
	in_child(environment_level);
}

static void destinations(void) {
	char name[96];
	setenv("SLURM_TMPDIR", "/tmp/job", 1);
	setenv("SLURM_ARRAY_TASK_ID", "3", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "element");
	EXPECT(count(scratch_read(SOFTMIG_LOG_DIR "/7_3.log"), "element") == 1);
	setenv("SLURM_ARRAY_TASK_ID", "../../../tmp/x", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "plain");
	EXPECT(count(scratch_read(LOG), "plain") == 1);
	softmig_log_init(0, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "outside");
	snprintf(name, sizeof(name), SOFTMIG_LOG_DIR "/pid%d.log", (int)getpid());
	EXPECT(count(scratch_read(name), "outside") == 1);
	pid_t child = fork();
	if (child == 0) {
		softmig_log(SOFTMIG_LOG_ERROR, "child");
		_exit(0);
	}
	waitpid(child, NULL, 0);
	EXPECT(count(scratch_read(name), "child") == 0);
	snprintf(name, sizeof(name), SOFTMIG_LOG_DIR "/pid%d.log", (int)child);
	EXPECT(count(scratch_read(name), "child") == 1);
	setenv("SOFTMIG_LOG_FILE", "/tmp/own.log", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "chosen");
	EXPECT(count(scratch_read("/tmp/own.log"), "chosen") == 1);
	EXPECT(count(scratch_read(LOG), "chosen") == 0);
	EXPECT(access(FALLBACK, F_OK) != 0);
}
static void each_process_has_its_destination(void **state) {
	(void)state;
	in_child(destinations);
}

static void fallback(void) {
	EXPECT(rmdir(SOFTMIG_LOG_DIR) == 0);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "lost");
	setenv("SLURM_TMPDIR", "/tmp/job", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "kept");
	EXPECT(count(scratch_read(FALLBACK), "error: kept\n") == 1);
	EXPECT(count(scratch_read(FALLBACK), "lost") == 0);
	softmig_log_init(0, 0); // outside Slurm there is none
	softmig_log(SOFTMIG_LOG_ERROR, "outside");
	EXPECT(count(scratch_read(FALLBACK), "outside") == 0);
	setenv("SLURM_TMPDIR", "job", 1); // relative to wherever the program is
	softmig_log_init(7, 0);
	EXPECT(chdir("/tmp") == 0);
	softmig_log(SOFTMIG_LOG_ERROR, "relative");
	EXPECT(count(scratch_read(FALLBACK), "relative") == 0);
	static char long_name[8000];
	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[0] = '/';
	setenv("SLURM_TMPDIR", long_name, 1);
	setenv("SOFTMIG_LOG_FILE", long_name, 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "nowhere");
}
static void without_the_log_directory_the_jobs_own_is_used(void **state) {
	(void)state;
	in_child(fallback);
}

// What lies at the log's name before the message is another's trap; the message goes to the fallback.
static void expect_refused(void) {
	setenv("SLURM_TMPDIR", "/tmp/job", 1);
	softmig_log_init(7, 0);
	unlink(FALLBACK);
	alarm(5); // a FIFO that blocks ends the test
	softmig_log(SOFTMIG_LOG_ERROR, "kept");
	alarm(0);
	EXPECT(count(scratch_read(FALLBACK), "error: kept\n") == 1);
}

static void traps(void) {
	EXPECT(scratch_write("/tmp/victim", "", 0));
	EXPECT(symlink("/tmp/victim", LOG) == 0);
	expect_refused();
	unlink(LOG);
	EXPECT(symlink("/tmp/made", LOG) == 0);
	expect_refused();
	EXPECT(access("/tmp/made", F_OK) != 0);
	unlink(LOG);
	EXPECT(mkfifo(LOG, 0666) == 0);
	expect_refused();
	int reader = open(LOG, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	expect_refused();
	char byte;
	EXPECT(read(reader, &byte, 1) <= 0);
	close(reader);
	unlink(LOG);
	EXPECT(mkdir(LOG, 0777) == 0);
	expect_refused();
	EXPECT(rmdir(LOG) == 0);
	EXPECT(mknod(LOG, S_IFCHR | 0666, makedev(1, 3)) == 0);
	expect_refused();
	unlink(LOG);
	EXPECT(scratch_write(SOFTMIG_LOG_DIR "/8.log", "", 0) && link(SOFTMIG_LOG_DIR "/8.log", LOG) == 0);
	expect_refused();
	EXPECT(strcmp(scratch_read(SOFTMIG_LOG_DIR "/8.log"), "") == 0);
	unlink(LOG);
	EXPECT(scratch_write(LOG, "", 0) && chown(LOG, 1234, 1234) == 0 && chmod(LOG, 0666) == 0);
	expect_refused();
	EXPECT(strcmp(scratch_read(LOG), "") == 0);
	EXPECT(strcmp(scratch_read("/tmp/victim"), "") == 0);
}
static void links_fifos_devices_and_others_files_are_refused(void **state) {
	(void)state;
	in_child(traps);
}

static void chosen_traps(void) {
	EXPECT(scratch_write("/tmp/victim", "", 0) && symlink("/tmp/victim", "/tmp/link") == 0 &&
	       mkfifo("/tmp/fifo", 0666) == 0);
	setenv("SOFTMIG_LOG_FILE", "/tmp/link", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "x");
	setenv("SOFTMIG_LOG_FILE", "/tmp/fifo", 1);
	softmig_log_init(7, 0);
	alarm(5);
	softmig_log(SOFTMIG_LOG_ERROR, "x");
	EXPECT(strcmp(scratch_read("/tmp/victim"), "") == 0);
	EXPECT(access(LOG, F_OK) != 0); // it was chosen; there is no other
}
static void a_chosen_file_is_held_to_the_same(void **state) {
	(void)state;
	in_child(chosen_traps);
}

static void users_log(void) {
	EXPECT(scratch_write(LOG, "", 0)); // root's, made for the job, not the user's to write
	EXPECT(setgroups(0, NULL) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
	setenv("SLURM_TMPDIR", "/tmp/job", 1);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "mine");
	EXPECT(count(scratch_read(FALLBACK), "mine") == 1);
	softmig_log_init(8, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "mine");
	EXPECT(count(scratch_read(SOFTMIG_LOG_DIR "/8.log"), "mine") == 1);
}
static void a_user_writes_where_he_may(void **state) {
	(void)state;
	in_child(users_log);
}

static void escapes(void) {
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "a\nb\rc\td\x1b[31me\x7f\xff%s", "\n2026-01-01 fake");
	EXPECT(count(scratch_read(LOG), "error: a\\x0ab\\x0dc\\x09d\\x1b[31me\\x7f\\xff\\x0a2026-01-01 fake\n") == 1);
	EXPECT(count(scratch_read(LOG), "\n") == 1);
	unlink(LOG);
	static char long_text[5000];
	memset(long_text, 'y', sizeof(long_text) - 1);
	softmig_log(SOFTMIG_LOG_ERROR, "%s", long_text);
	size_t length = strlen(scratch_read(LOG));
	EXPECT(length > 1000 && length < SOFTMIG_LOG_LINE_BYTES);
	EXPECT(strcmp(scratch_read(LOG) + length - 5, "y...\n") == 0);
	unlink(LOG);
	memset(long_text, '\n', sizeof(long_text) - 1);
	softmig_log(SOFTMIG_LOG_ERROR, "%s", long_text);
	length = strlen(scratch_read(LOG));
	EXPECT(length > 1000 && length < SOFTMIG_LOG_LINE_BYTES);
	EXPECT(strcmp(scratch_read(LOG) + length - 8, "\\x0a...\n") == 0);
}
static void a_message_cannot_fake_a_second_line(void **state) {
	(void)state;
	in_child(escapes);
}

static void closed_standard_descriptors(void) {
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int standard = 0; standard < 3; standard++)
		EXPECT(null == standard || dup2(null, standard) == standard);
	softmig_log_init(7, 4);
	for (unsigned closed = 1; closed < 8; closed++) { // every set of them
		int kept[3];
		unlink(LOG);
		for (int standard = 0; standard < 3; standard++) {
			kept[standard] = fcntl(standard, F_DUPFD_CLOEXEC, 100);
			if ((closed & 1u << standard) != 0)
				close(standard);
		}
		int before = scratch_descriptors();
		softmig_log(SOFTMIG_LOG_ERROR, "closed");
		EXPECT(scratch_descriptors() == before);
		unsigned still_closed = 0;
		for (int standard = 0; standard < 3; standard++)
			still_closed |= (fcntl(standard, F_GETFD) < 0 ? 1u : 0u) << standard;
		EXPECT(still_closed == closed);
		EXPECT(count(scratch_read(LOG), "closed") ==
		       1); // once: not a second time as the "standard error" that we opened
		for (int standard = 0; standard < 3; standard++) {
			dup2(kept[standard], standard);
			close(kept[standard]);
		}
	}
}
static void closed_standard_descriptors_stay_closed(void **state) {
	(void)state;
	in_child(closed_standard_descriptors);
}

static void no_descriptors(void) {
	struct rlimit limit = {3, 3};
	capture_stderr();
	softmig_log_init(7, 3);
	EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	softmig_log(SOFTMIG_LOG_ERROR, "said");
	limit.rlim_cur = limit.rlim_max;
	char text[256] = "";
	EXPECT(pread(STDERR_FILENO, text, sizeof(text) - 1, 0) > 0);
	EXPECT(count(text, "said") == 1);
	close(STDOUT_FILENO);
	softmig_log(SOFTMIG_LOG_ERROR, "one free");
	EXPECT(fcntl(STDOUT_FILENO, F_GETFD) < 0);
}
static void without_descriptors_it_gives_up(void **state) {
	(void)state;
	in_child(no_descriptors);
}

static void broken_pipe(void) {
	int ends[2];
	EXPECT(pipe(ends) == 0);
	close(ends[0]);
	EXPECT(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
	close(ends[1]);
	softmig_log_init(7, 3);
	softmig_log(SOFTMIG_LOG_ERROR, "to nobody"); // SIGPIPE would end this process
	EXPECT(count(scratch_read(LOG), "to nobody") == 1);
	sigset_t pending, mask;
	sigpending(&pending);
	EXPECT(!sigismember(&pending, SIGPIPE));
	sigprocmask(SIG_BLOCK, NULL, &mask);
	EXPECT(!sigismember(&mask, SIGPIPE) && !sigismember(&mask, SIGXFSZ));
	// One that the program itself keeps waiting is still there afterwards.
	sigset_t own;
	sigemptyset(&own);
	sigaddset(&own, SIGPIPE);
	sigprocmask(SIG_BLOCK, &own, NULL);
	raise(SIGPIPE);
	softmig_log(SOFTMIG_LOG_ERROR, "again");
	sigpending(&pending);
	EXPECT(sigismember(&pending, SIGPIPE));
}
static void a_broken_stderr_harms_nobody(void **state) {
	(void)state;
	in_child(broken_pipe);
}

static void full_pipe(void) {
	int ends[2];
	EXPECT(pipe2(ends, O_NONBLOCK) == 0);
	char block[4096] = "";
	while (write(ends[1], block, sizeof(block)) > 0)
		continue;
	EXPECT(dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
	softmig_log_init(7, 3);
	alarm(5);
	softmig_log(SOFTMIG_LOG_ERROR, "dropped");
	EXPECT(count(scratch_read(LOG), "dropped") == 1);
}
static void a_full_nonblocking_stderr_is_skipped(void **state) {
	(void)state;
	in_child(full_pipe);
}

static void file_size_limit(void) {
	struct rlimit limit = {64, 64};
	EXPECT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	softmig_log_init(7, 0);
	for (int i = 0; i < 5; i++)
		softmig_log(SOFTMIG_LOG_ERROR, "a message of some length"); // SIGXFSZ would end this process
	struct stat file;
	EXPECT(stat(LOG, &file) == 0 && file.st_size == 64);
	sigset_t pending;
	sigpending(&pending);
	EXPECT(!sigismember(&pending, SIGXFSZ));
}
static void a_file_size_limit_harms_nobody(void **state) {
	(void)state;
	in_child(file_size_limit);
}

static void full_disk(void) {
	EXPECT(mount("none", SOFTMIG_LOG_DIR, "tmpfs", 0, "size=4k,mode=1777") == 0);
	int filler = open(SOFTMIG_LOG_DIR "/filler", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	char block[4096] = "";
	while (write(filler, block, sizeof(block)) > 0)
		continue;
	softmig_log_init(7, 0);
	errno = 33;
	softmig_log(SOFTMIG_LOG_ERROR, "lost");
	EXPECT(errno == 33);
	EXPECT(strcmp(scratch_read(LOG), "") == 0);
}
static void a_full_disk_harms_nobody(void **state) {
	(void)state;
	in_child(full_disk);
}

static void size_cap(void) {
	EXPECT(scratch_write(LOG, "", 0) && truncate(LOG, SOFTMIG_LOG_FILE_BYTES - 10) == 0);
	softmig_log_init(7, 0);
	softmig_log(SOFTMIG_LOG_ERROR, "last");
	struct stat file, after;
	EXPECT(stat(LOG, &file) == 0 && file.st_size > SOFTMIG_LOG_FILE_BYTES &&
	       file.st_size < SOFTMIG_LOG_FILE_BYTES + 100);
	char end[64] = "";
	int descriptor = open(LOG, O_RDONLY | O_CLOEXEC);
	EXPECT(pread(descriptor, end, sizeof(end) - 1, file.st_size - 22) == 22);
	EXPECT(strcmp(end, "last\nthis log is full\n") == 0);
	softmig_log(SOFTMIG_LOG_ERROR, "too late");
	EXPECT(stat(LOG, &after) == 0 && after.st_size == file.st_size);
}
static void a_log_stops_growing(void **state) {
	(void)state;
	in_child(size_cap);
}

static void *thousand_messages(void *number) {
	for (int i = 0; i < 250; i++)
		softmig_log(SOFTMIG_LOG_ERROR, "thread %d message %d end", *(const int *)number, i);
	return NULL;
}

static void together(void) {
	softmig_log_init(7, 0);
	pid_t child = fork(); // two processes of four threads
	pthread_t threads[4];
	int numbers[4] = {0, 1, 2, 3};
	for (int i = 0; i < 4; i++)
		EXPECT(pthread_create(&threads[i], NULL, thousand_messages, &numbers[i]) == 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
	FILE *file = fopen(LOG, "re");
	EXPECT(file != NULL);
	char line[256];
	int lines = 0, thread, message, length;
	while (fgets(line, sizeof(line), file) != NULL) {
		const char *text = strstr(line, " error: ");
		length = 0;
		EXPECT(text != NULL && sscanf(text, " error: thread %d message %d end%n", &thread, &message, &length) == 2);
		EXPECT(strcmp(text + length, "\n") == 0);
		lines++;
	}
	EXPECT(lines == 2000);
}
static void lines_of_threads_and_processes_stay_whole(void **state) {
	(void)state;
	in_child(together);
}

// This program again as a setuid program of root's, run by a user whose every variable points somewhere.
static void setuid_program(void) {
	static char block[1 << 16];
	int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC),
		to = open("/tmp/program", O_WRONLY | O_CREAT | O_CLOEXEC, 0755);
	ssize_t got;
	while ((got = read(from, block, sizeof(block))) > 0)
		EXPECT(write(to, block, (size_t)got) == got);
	EXPECT(fchmod(to, 04755) == 0);
	close(to);
	capture_stderr();
	pid_t child = fork();
	if (child == 0) {
		char *const arguments[] = {(char *)"program", (char *)"as-setuid", NULL};
		char *const variables[] = {(char *)"SOFTMIG_LOG_FILE=/tmp/job/chosen.log", (char *)"SOFTMIG_LOG_LEVEL=4",
		                           (char *)"SLURM_TMPDIR=/tmp/job", (char *)"SLURM_ARRAY_TASK_ID=3", NULL};
		EXPECT(setgroups(0, NULL) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
		execve("/tmp/program", arguments, variables);
		_exit(99);
	}
	int status;
	waitpid(child, &status, 0);
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	EXPECT(access("/tmp/job/chosen.log", F_OK) != 0 && access(FALLBACK, F_OK) != 0);
	EXPECT(count(scratch_read(LOG), "error: as root\n") == 1);
	EXPECT(count(scratch_read(LOG), "info") == 0);
	EXPECT(strcmp(scratch_read("/tmp/stderr"), "") == 0);
	// Without the directory nothing is written anywhere, least of all where a variable says.
	EXPECT(unlink(LOG) == 0 && rmdir(SOFTMIG_LOG_DIR) == 0);
	child = fork();
	if (child == 0) {
		char *const arguments[] = {(char *)"program", (char *)"as-setuid", NULL};
		char *const variables[] = {(char *)"SLURM_TMPDIR=/tmp/job", NULL};
		EXPECT(setgroups(0, NULL) == 0 && setgid(1234) == 0 && setuid(1234) == 0);
		execve("/tmp/program", arguments, variables);
		_exit(99);
	}
	waitpid(child, &status, 0);
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	EXPECT(access(FALLBACK, F_OK) != 0);
}
static void a_setuid_program_obeys_no_variable(void **state) {
	(void)state;
	in_child(setuid_program);
}

static int as_setuid(void) {
	if (geteuid() != 0 || getuid() == 0)
		return 2;
	softmig_log_init(7, -1);
	softmig_log(SOFTMIG_LOG_ERROR, "as root");
	softmig_log(SOFTMIG_LOG_INFO, "info");
	return 0;
}

int main(int argc, char **argv) {
	if (argc == 2 && strcmp(argv[1], "as-setuid") == 0)
		return as_setuid();
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_is_one_dated_line),
		cmocka_unit_test(the_level_decides_what_is_written_and_where),
		cmocka_unit_test(the_environment_names_a_level_where_the_limits_do_not),
		cmocka_unit_test(each_process_has_its_destination),
		cmocka_unit_test(without_the_log_directory_the_jobs_own_is_used),
		cmocka_unit_test(links_fifos_devices_and_others_files_are_refused),
		cmocka_unit_test(a_chosen_file_is_held_to_the_same),
		cmocka_unit_test(a_user_writes_where_he_may),
		cmocka_unit_test(a_message_cannot_fake_a_second_line),
		cmocka_unit_test(closed_standard_descriptors_stay_closed),
		cmocka_unit_test(without_descriptors_it_gives_up),
		cmocka_unit_test(a_broken_stderr_harms_nobody),
		cmocka_unit_test(a_full_nonblocking_stderr_is_skipped),
		cmocka_unit_test(a_file_size_limit_harms_nobody),
		cmocka_unit_test(a_full_disk_harms_nobody),
		cmocka_unit_test(a_log_stops_growing),
		cmocka_unit_test(lines_of_threads_and_processes_stay_whole),
		cmocka_unit_test(a_setuid_program_obeys_no_variable),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
