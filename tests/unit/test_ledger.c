// SPDX-License-Identifier: Apache-2.0
// The ledger in one process: the file's refusals, the table of GPUs, the arithmetic of reserve and release, garbage in the file.
#include "ledger_test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

static const uint8_t uuid_a[16] = {0xaa, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const uint8_t uuid_b[16] = {0xbb, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static int try_open(bool create)
{
	struct softmig_ledger ledger;
	int error = softmig_ledger_open(&ledger, path, geteuid(), create);
	if (error == 0)
		softmig_ledger_close(&ledger);
	else
		assert_null(ledger.file);
	return error;
}

static void a_new_ledger_is_empty_private_and_fully_allocated(void **state)
{
	(void)state;
	mode_t before = umask(0777); // even so
	errno = 77;
	struct softmig_ledger ledger = open_ledger();
	assert_int_equal(errno, 77);
	umask(before);
	struct stat status;
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(status.st_size, sizeof(struct softmig_ledger_file));
	assert_true(status.st_blocks * 512 >= status.st_size);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_int_equal(owned_slots(ledger.file), 0);
	softmig_ledger_close(&ledger);
	assert_int_equal(try_open(false), 0);
}

static void an_absent_ledger_is_only_made_on_request(void **state)
{
	(void)state;
	assert_int_equal(try_open(false), ENOENT);
	assert_int_equal(try_open(true), 0);
	assert_int_equal(try_open(false), 0);
}

static void links_fifos_directories_and_foreign_files_are_refused_and_left_alone(void **state)
{
	(void)state;
	char other[160], text[8] = {0};
	snprintf(other, sizeof other, "%s/other", directory);
	assert_int_equal(symlink(other, path), 0);
	assert_int_equal(try_open(true), ELOOP);
	assert_int_equal(access(other, F_OK), -1);
	unlink(path);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(try_open(true), EINVAL);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(try_open(true), EISDIR);
	rmdir(path);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, "thesis", 6), 6);
	close(fd);
	assert_int_equal(try_open(true), EINVAL);
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, text, sizeof text), 6);
	assert_string_equal(text, "thesis");
	close(fd);
}

static void another_owners_or_a_writable_file_is_refused(void **state)
{
	(void)state;
	struct softmig_ledger ledger;
	assert_int_equal(try_open(true), 0);
	chmod(path, 0620);
	assert_int_equal(try_open(true), EPERM);
	chmod(path, 0602);
	assert_int_equal(try_open(true), EPERM);
	chmod(path, 0644);
	assert_int_equal(try_open(true), 0);
	assert_int_equal(softmig_ledger_open(&ledger, path, geteuid() + 1, true), EPERM);
}

static void a_half_made_ledger_is_completed_but_one_of_another_version_refused(void **state)
{
	(void)state;
	int fd = open(path, O_WRONLY | O_CREAT, 0600); // killed after creating it
	close(fd);
	assert_int_equal(try_open(false), EINVAL);
	assert_int_equal(try_open(true), 0);
	assert_int_equal(truncate(path, 5000), 0);
	assert_int_equal(try_open(false), EINVAL);
	assert_int_equal(try_open(true), 0);
	uint32_t version = 2;
	fd = open(path, O_WRONLY);
	assert_int_equal(pwrite(fd, &version, 4, 8), 4);
	close(fd);
	assert_int_equal(try_open(true), EINVAL);
}

static void a_full_file_system_is_an_error_not_a_sigbus(void **state)
{
	(void)state;
	struct rlimit before, small = {100000, RLIM_INFINITY};
	getrlimit(RLIMIT_FSIZE, &before);
	small.rlim_max = before.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	int error = try_open(true);
	setrlimit(RLIMIT_FSIZE, &before);
	assert_int_equal(error, EFBIG);
	assert_int_equal(try_open(true), 0);
}

static void descriptors_0_to_2_are_not_left_open_when_they_were_closed(void **state)
{
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		struct softmig_ledger ledger;
		close(0);
		close(1);
		close(2);
		close(3); // of whoever started this test
		int error = softmig_ledger_open(&ledger, path, geteuid(), true);
		bool ok = error == 0 && fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1 && fcntl(2, F_GETFD) == -1 &&
		          fcntl(3, F_GETFD) == -1;
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(wait_for(pid), 0);
}

static void a_made_ledger_belongs_to_the_user_and_is_never_made_twice(void **state)
{
	(void)state;
	struct softmig_ledger ledger;
	struct stat status;
	if (geteuid() != 0)
		skip();
	assert_int_equal(softmig_ledger_create(path, 12345, 54321), 0);
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_uid, 12345);
	assert_int_equal(status.st_gid, 54321);
	assert_int_equal(status.st_mode & 07777, 0600);
	assert_int_equal(softmig_ledger_create(path, 1, 1), EEXIST);
	assert_int_equal(softmig_ledger_open(&ledger, path, 12345, false), 0);
	softmig_ledger_close(&ledger);
	assert_int_equal(softmig_ledger_open(&ledger, path, 0, false), EPERM);
	unlink(path);
	assert_int_equal(symlink("/nowhere", path), 0);
	assert_int_equal(softmig_ledger_create(path, 1, 1), EEXIST);
}

static void gpus_keep_their_index(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger(), again = open_ledger();
	uint8_t uuid[16] = {0};
	assert_false(softmig_ledger_gpu_uuid(ledger.file, 0, uuid));
	assert_int_equal(softmig_ledger_gpu(&ledger, uuid_a), 0);
	assert_int_equal(softmig_ledger_gpu(&again, uuid_b), 1);
	assert_int_equal(softmig_ledger_gpu(&again, uuid_a), 0);
	assert_int_equal(softmig_ledger_gpu(&ledger, uuid_b), 1);
	assert_true(softmig_ledger_gpu_uuid(ledger.file, 1, uuid));
	assert_memory_equal(uuid, uuid_b, 16);
	for (int i = 2; i < SOFTMIG_MAX_GPUS; i++) {
		uint8_t next[16] = {(uint8_t)i};
		assert_int_equal(softmig_ledger_gpu(&ledger, next), i);
	}
	uint8_t last[16] = {99};
	assert_int_equal(softmig_ledger_gpu(&ledger, last), -1);
	softmig_ledger_close(&ledger);
	softmig_ledger_close(&again);
}

static void a_gpu_entry_whose_writer_was_killed_is_completed(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_int_equal(softmig_ledger_gpu(&ledger, uuid_a), 0);
	atomic_store(&ledger.file->gpu[0].state, 0);
	for (int i = 0; i < 16; i++)
		atomic_store(&ledger.file->gpu[0].uuid[i], i < 7 ? uuid_a[i] : 0);
	uint8_t uuid[16];
	assert_false(softmig_ledger_gpu_uuid(ledger.file, 0, uuid));
	assert_int_equal(softmig_ledger_gpu(&ledger, uuid_a), 0);
	assert_true(softmig_ledger_gpu_uuid(ledger.file, 0, uuid));
	assert_memory_equal(uuid, uuid_a, 16);
	softmig_ledger_close(&ledger);
}

static void what_fits_is_granted_to_the_last_byte_and_no_byte_more(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB, 4 * GIB));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB + 1, 4 * GIB));
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_OVERHEAD, GIB, 4 * GIB));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 4 * GIB));
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 0, 4 * GIB));
	assert_int_equal(softmig_ledger_used(&ledger, 0), 4 * GIB);
	assert_int_equal(softmig_ledger_used(&ledger, 1), 0);
	assert_true(softmig_ledger_reserve(&ledger, 1, SOFTMIG_LEDGER_TRACKED, GIB, GIB)); // each GPU has its own limit
	softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB, 4 * GIB));
	softmig_ledger_count_refusal(&ledger, 0);
	softmig_ledger_count_refusal(&ledger, 0);
	softmig_ledger_count_refusal(&ledger, SOFTMIG_MAX_GPUS);
	assert_int_equal(atomic_load(&ledger.file->gpu[0].refusals), 2);
	assert_int_equal(atomic_load(&ledger.file->gpu[0].peak_bytes), 4 * GIB);
	assert_int_equal(atomic_load(&ledger.file->gpu[1].peak_bytes), GIB);
	assert_int_equal(atomic_load(&softmig_ledger_self(&ledger)->use[0].peak_bytes), 4 * GIB);
	assert_int_equal(atomic_load(&softmig_ledger_self(&ledger)->use[0].pending_bytes), 0);
	softmig_ledger_close(&ledger);
}

static void a_limit_below_what_is_used_refuses_until_enough_is_given_back(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 4 * GIB, 4 * GIB));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 2 * GIB));
	softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	softmig_ledger_close(&ledger);
}

static void no_limit_counts_and_never_refuses(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	for (int i = 0; i < 100; i++)
		assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1024 * GIB, 0));
	assert_int_equal(softmig_ledger_used(&ledger, 0), 100 * (1024 * GIB));
	assert_int_equal(atomic_load(&ledger.file->gpu[0].peak_bytes), 100 * (1024 * GIB));
	softmig_ledger_close(&ledger);
}

static void absurd_requests_are_refused_and_charge_nothing(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, UINT64_MAX, 4 * GIB));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, UINT64_MAX, 0));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, UINT64_MAX - GIB, UINT64_MAX));
	assert_false(softmig_ledger_reserve(&ledger, -1, SOFTMIG_LEDGER_TRACKED, 1, 0));
	assert_false(softmig_ledger_reserve(&ledger, SOFTMIG_MAX_GPUS, SOFTMIG_LEDGER_TRACKED, 1, 0));
	softmig_ledger_release(&ledger, -1, SOFTMIG_LEDGER_TRACKED, 1);
	softmig_ledger_release(&ledger, SOFTMIG_MAX_GPUS, SOFTMIG_LEDGER_TRACKED, 1);
	assert_int_equal(softmig_ledger_used(&ledger, -1), 0);
	assert_int_equal(softmig_ledger_used(&ledger, SOFTMIG_MAX_GPUS), 0);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	softmig_ledger_close(&ledger);
}

static void release_never_goes_below_zero(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB));
	softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_OVERHEAD, 1);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 4 * GIB, 4 * GIB));
	softmig_ledger_close(&ledger);
}

static void measured_overhead_replaces_the_estimate_limit_or_not(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_OVERHEAD, 500 * MIB, GIB));
	softmig_ledger_set_overhead(&ledger, 0, 300 * MIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 300 * MIB);
	softmig_ledger_set_overhead(&ledger, 0, 2 * GIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 2 * GIB);
	assert_int_equal(atomic_load(&ledger.file->gpu[0].peak_bytes), 2 * GIB);
	assert_int_equal(atomic_load(&softmig_ledger_self(&ledger)->use[0].peak_bytes), 2 * GIB);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, GIB));
	softmig_ledger_set_overhead(&ledger, 0, 0);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	softmig_ledger_close(&ledger);
}

static void a_closed_handle_frees_its_slot_and_does_nothing(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger(), other = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	assert_false(softmig_ledger_reserve(&other, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	softmig_ledger_close(&ledger);
	assert_null(softmig_ledger_self(&ledger));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 0));
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 0);
	softmig_ledger_close(&ledger);
	assert_true(softmig_ledger_reserve(&other, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	softmig_ledger_close(&other);
}

static void two_handles_of_one_process_on_one_file_share_the_limit(void **state)
{
	(void)state;
	struct softmig_ledger first = open_ledger(), second = open_ledger();
	assert_true(softmig_ledger_reserve(&first, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	assert_true(softmig_ledger_reserve(&second, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	assert_false(softmig_ledger_reserve(&first, 0, SOFTMIG_LEDGER_TRACKED, 1, 2 * GIB));
	assert_int_equal(softmig_ledger_used(&first, 0), 2 * GIB);
	assert_int_equal(softmig_ledger_reclaim(&first), 0);
	softmig_ledger_close(&first);
	assert_int_equal(softmig_ledger_used(&second, 0), GIB);
	softmig_ledger_close(&second);
}

static void garbage_everywhere_in_the_slots_is_neither_believed_nor_fatal(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	unsigned seed = 1;
	for (int pattern = 0; pattern < 6; pattern++) {
		unsigned char *bytes = (unsigned char *)ledger.file->slot;
		for (size_t i = 0; i < sizeof ledger.file->slot; i++)
			bytes[i] = pattern == 0 ? 0xff : pattern == 1 ? 0x7f : pattern == 2 ? 0x40 : (unsigned char)rand_r(&seed);
		atomic_store(&ledger.file->mark, pattern % 2 ? UINT64_MAX : 7);
		softmig_ledger_used(&ledger, 0);
		softmig_ledger_reclaim(&ledger);
		struct softmig_ledger_slot *slot = softmig_ledger_self(&ledger);
		if (slot == NULL) // every slot names a holder of a namespace that cannot be seen from here
			continue;
		assert_int_equal(softmig_ledger_slot_pid(slot), getpid());
		assert_int_equal(atomic_load(&slot->use[3].tracked_bytes), 0);
		softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB);
		softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB);
	}
	softmig_ledger_close(&ledger);
}

static void garbage_in_free_slots_and_dead_ones_does_not_cost_a_byte(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB));
	atomic_store(&ledger.file->mark, 100);
	for (int i = 1; i < 100; i++) {
		atomic_store(&ledger.file->slot[i].use[0].tracked_bytes, UINT64_MAX);
		atomic_store(&ledger.file->slot[i].use[0].pending_bytes, UINT64_MAX / 2);
		if (i % 2) // "owned" by a pid that cannot be, in our namespace
			atomic_store(&ledger.file->slot[i].owner, 1ull << 62 | 0x3ffffeull << 32 | 5);
		atomic_store(&ledger.file->slot[i].pid_ns, atomic_load(&ledger.file->slot[0].pid_ns));
	}
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB, 4 * GIB));
	assert_int_equal(softmig_ledger_used(&ledger, 0), 4 * GIB);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 4 * GIB));
	assert_int_equal(softmig_ledger_reclaim(&ledger), 0); // they were all found dead before
	softmig_ledger_close(&ledger);
}

static void a_mark_scribbled_to_zero_does_not_hide_us_for_long(void **state)
{
	(void)state;
	struct softmig_ledger first = open_ledger(), second = open_ledger();
	assert_true(softmig_ledger_reserve(&first, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	assert_true(softmig_ledger_reserve(&second, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	atomic_store(&first.file->mark, 0);
	assert_false(softmig_ledger_reserve(&second, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	assert_int_equal(softmig_ledger_used(&first, 0), 2 * GIB);
	softmig_ledger_close(&first);
	softmig_ledger_close(&second);
}

static void a_lost_slot_is_claimed_anew(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	struct softmig_ledger_slot *slot = softmig_ledger_self(&ledger);
	assert_ptr_equal(slot, &ledger.file->slot[0]);
	atomic_store(&slot->owner, 1ull << 62 | 1ull << 32 | 77); // another's now, and that other may well live
	atomic_store(&slot->pid_ns, 4242);
	assert_ptr_equal(softmig_ledger_self(&ledger), &ledger.file->slot[1]);
	assert_ptr_equal(softmig_ledger_self(&ledger), &ledger.file->slot[1]);
	softmig_ledger_close(&ledger);
	ledger = open_ledger();
	assert_int_equal(atomic_load(&ledger.file->slot[0].pid_ns), 4242);
	softmig_ledger_close(&ledger);
}

static void a_snapshot_opens_nothing_but_a_regular_file(void **state)
{
	(void)state;
	// To open a device is to do something to it, and whose snapshot it is chooses the path.
	static struct softmig_ledger_file copy;
	char event[sizeof(struct inotify_event) + NAME_MAX + 1];
	assert_int_equal(mkfifo(path, 0600), 0);
	int watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	assert_true(inotify_add_watch(watch, path, IN_OPEN) >= 0);
	assert_int_equal(softmig_ledger_snapshot(path, &copy), EINVAL);
	assert_int_equal(read(watch, event, sizeof event), -1);
	assert_int_equal(errno, EAGAIN);
	close(watch);
	unlink(path);
}

static void a_snapshot_shows_the_living_and_refuses_what_is_no_ledger(void **state)
{
	(void)state;
	struct softmig_ledger_file *copy = malloc(sizeof *copy);
	struct softmig_ledger_process process;
	struct softmig_ledger ledger = open_ledger();
	int cursor = 0;
	assert_true(softmig_ledger_reserve(&ledger, 2, SOFTMIG_LEDGER_TRACKED, GIB, 0));
	softmig_ledger_set_overhead(&ledger, 2, MIB);
	softmig_ledger_release(&ledger, 2, SOFTMIG_LEDGER_TRACKED, GIB / 2);
	atomic_fetch_add(&softmig_ledger_self(&ledger)->use[2].busy_ns, 123);
	assert_int_equal(softmig_ledger_snapshot(path, copy), 0);
	assert_true(softmig_ledger_next(copy, &cursor, &process));
	assert_int_equal(process.pid, getpid());
	assert_int_equal(process.used_bytes[2], GIB / 2 + MIB);
	assert_int_equal(process.peak_bytes[2], GIB + MIB);
	assert_int_equal(process.busy_ns[2], 123);
	assert_int_equal(process.used_bytes[0], 0);
	assert_false(softmig_ledger_next(copy, &cursor, &process));
	softmig_ledger_close(&ledger);
	assert_int_equal(truncate(path, 4096), 0);
	assert_int_equal(softmig_ledger_snapshot(path, copy), EINVAL);
	unlink(path);
	assert_int_equal(softmig_ledger_snapshot(path, copy), ENOENT);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(softmig_ledger_snapshot(path, copy), EINVAL);
	unlink(path);
	assert_int_equal(symlink("/etc/passwd", path), 0);
	assert_int_equal(softmig_ledger_snapshot(path, copy), ELOOP);
	free(copy);
}

// What all processes have announced as cover, in use or not.
static uint64_t raw_cover(const struct softmig_ledger *ledger)
{
	uint64_t sum = 0;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS; i++)
		sum += atomic_load(&ledger->file->slot[i].use[0].cover_bytes) & ~SOFTMIG_LEDGER_COVER_IN_USE;
	return sum;
}

static void cover_is_had_if_it_fits_kept_without_a_look_and_charged_when_spent(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_null(softmig_ledger_cover_kept(&ledger, 0, 2 * MIB)); // none was kept yet
	struct softmig_ledger_use *use = softmig_ledger_cover(&ledger, 0, 2 * MIB, 2 * MIB);
	assert_non_null(use);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_null(softmig_ledger_cover(&ledger, 0, 2 * MIB, GIB)); // one thread at a time
	assert_null(softmig_ledger_cover_kept(&ledger, 0, 2 * MIB));
	softmig_ledger_cover_keep(use, 2 * MIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_int_equal(raw_cover(&ledger), 2 * MIB);
	assert_ptr_equal(softmig_ledger_cover_kept(&ledger, 0, 2 * MIB), use);
	softmig_ledger_cover_spend(&ledger, 0, use, 2 * MIB);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 2 * MIB);
	assert_int_equal(raw_cover(&ledger), 0);
	assert_int_equal(atomic_load(&use->tracked_bytes), 2 * MIB);
	assert_int_equal(atomic_load(&use->peak_bytes), 2 * MIB);
	assert_int_equal(atomic_load(&ledger.file->gpu[0].peak_bytes), 2 * MIB);
	assert_null(softmig_ledger_cover(&ledger, 0, 2 * MIB, 4 * MIB - 1)); // does not fit: nothing stays announced
	assert_int_equal(raw_cover(&ledger), 0);
	assert_non_null(softmig_ledger_cover(&ledger, 0, 2 * MIB, 4 * MIB));
	assert_null(softmig_ledger_cover(&ledger, SOFTMIG_MAX_GPUS, 2 * MIB, 0));
	softmig_ledger_close(&ledger);
}

static void cover_that_is_only_kept_is_in_nobodys_way(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t neighbour = fork();
	if (neighbour == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		softmig_ledger_cover_keep(softmig_ledger_cover(&ledger, 0, MIB, 4 * MIB), MIB);
		for (;;)
			pause();
	}
	softmig_ledger_cover_keep(softmig_ledger_cover(&ledger, 0, MIB, 4 * MIB), MIB);
	while (raw_cover(&ledger) < 2 * MIB)
		usleep(100);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * MIB, 4 * MIB)); // fits beside both
	assert_int_equal(raw_cover(&ledger), 2 * MIB);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * MIB, 4 * MIB));
	assert_int_equal(raw_cover(&ledger), 0); // taken away
	assert_null(softmig_ledger_cover_kept(&ledger, 0, MIB));
	assert_null(softmig_ledger_cover(&ledger, 0, MIB, 4 * MIB));
	assert_int_equal(softmig_ledger_used(&ledger, 0), 4 * MIB);
	kill(neighbour, SIGKILL);
	wait_for(neighbour);
	softmig_ledger_close(&ledger);
}

// The driver may take its time over an allocation: whoever asks meanwhile is told what is true meanwhile.
static void cover_in_use_counts_as_used_for_whoever_waits_long(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t neighbour = fork();
	if (neighbour == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		softmig_ledger_cover(&ledger, 0, MIB, 4 * MIB);
		for (;;)
			pause();
	}
	while (raw_cover(&ledger) < MIB)
		usleep(100);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * MIB, 4 * MIB));
	struct timespec before, after;
	clock_gettime(CLOCK_MONOTONIC, &before);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, MIB, 4 * MIB));
	clock_gettime(CLOCK_MONOTONIC, &after);
	int64_t took_ns = (after.tv_sec - before.tv_sec) * INT64_C(1000000000) + after.tv_nsec - before.tv_nsec;
	assert_true(took_ns < INT64_C(1000000000)); // 10 ms, and what a busy machine adds
	assert_int_equal(raw_cover(&ledger), MIB);
	kill(neighbour, SIGKILL);
	wait_for(neighbour);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, MIB, 4 * MIB)); // at once
	softmig_ledger_close(&ledger);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_new_ledger_is_empty_private_and_fully_allocated),
		TEST(an_absent_ledger_is_only_made_on_request),
		TEST(links_fifos_directories_and_foreign_files_are_refused_and_left_alone),
		TEST(another_owners_or_a_writable_file_is_refused),
		TEST(a_half_made_ledger_is_completed_but_one_of_another_version_refused),
		TEST(a_full_file_system_is_an_error_not_a_sigbus),
		TEST(descriptors_0_to_2_are_not_left_open_when_they_were_closed),
		TEST(a_made_ledger_belongs_to_the_user_and_is_never_made_twice),
		TEST(gpus_keep_their_index),
		TEST(a_gpu_entry_whose_writer_was_killed_is_completed),
		TEST(what_fits_is_granted_to_the_last_byte_and_no_byte_more),
		TEST(a_limit_below_what_is_used_refuses_until_enough_is_given_back),
		TEST(no_limit_counts_and_never_refuses),
		TEST(absurd_requests_are_refused_and_charge_nothing),
		TEST(release_never_goes_below_zero),
		TEST(measured_overhead_replaces_the_estimate_limit_or_not),
		TEST(a_closed_handle_frees_its_slot_and_does_nothing),
		TEST(two_handles_of_one_process_on_one_file_share_the_limit),
		TEST(garbage_everywhere_in_the_slots_is_neither_believed_nor_fatal),
		TEST(garbage_in_free_slots_and_dead_ones_does_not_cost_a_byte),
		TEST(a_mark_scribbled_to_zero_does_not_hide_us_for_long),
		TEST(a_lost_slot_is_claimed_anew),
		TEST(cover_is_had_if_it_fits_kept_without_a_look_and_charged_when_spent),
		TEST(cover_that_is_only_kept_is_in_nobodys_way),
		TEST(cover_in_use_counts_as_used_for_whoever_waits_long),
		TEST(a_snapshot_opens_nothing_but_a_regular_file),
		TEST(a_snapshot_shows_the_living_and_refuses_what_is_no_ledger),
	};
	return cmocka_run_group_tests_name("ledger", tests, NULL, NULL);
}
