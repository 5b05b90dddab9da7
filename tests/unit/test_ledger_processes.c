// SPDX-License-Identifier: Apache-2.0
// The ledger across processes: fork, exec, spawn, threads, death in all its forms, stopped processes, PID namespaces.
#include "ledger_test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include "slice/ledger_private.h"

extern char **environ;

static uint64_t now_ns(void)
{
	return softmig_ledger_clock_ns(CLOCK_MONOTONIC);
}

// Waits until the child has ended, and leaves it a zombie.
static void wait_zombie(pid_t pid)
{
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

static void wait_stopped(pid_t pid)
{
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WSTOPPED | WNOWAIT), 0);
}

// A child that runs body, tells that it is ready, and waits to be killed.
static pid_t start_child(struct softmig_ledger *ledger, void (*body)(struct softmig_ledger *))
{
	int ready[2];
	char byte = 0;
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		close(ready[0]);
		body(ledger);
		(void)!write(ready[1], "x", 1);
		alarm(60);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return pid;
}

static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	wait_for(pid);
}

static void take_a_gibibyte(struct softmig_ledger *ledger)
{
	if (!softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 0))
		_exit(9);
}

static void a_forked_child_has_its_own_slot_and_inherits_no_charge(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 4 * GIB));
	pid_t pid = fork();
	if (pid == 0) {
		struct softmig_ledger_slot *slot = softmig_ledger_self(&ledger);
		softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB); // the parent's memory: not ours to give back
		bool ok = slot == &ledger.file->slot[1] && atomic_load(&slot->use[0].tracked_bytes) == 0 &&
		          softmig_ledger_used(&ledger, 0) == 2 * GIB &&
		          softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 4 * GIB) &&
		          !softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 4 * GIB);
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(raw_sum(ledger.file, 0), 4 * GIB); // still in the file,
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 4 * GIB)); // and nobody's
	assert_int_equal(softmig_ledger_used(&ledger, 0), 4 * GIB);
	softmig_ledger_close(&ledger);
}

static void a_child_that_closes_the_handle_leaves_the_parents_slot_alone(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	pid_t pid = fork();
	if (pid == 0) {
		softmig_ledger_close(&ledger);
		_exit(0);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, GIB));
	softmig_ledger_close(&ledger);
}

static void where_the_kernel_cannot_wipe_the_pid_is_compared(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	munmap(ledger.mine, 4096);
	ledger.mine = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ledger.wipes = false;
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	pid_t pid = fork();
	if (pid == 0) {
		bool ok = softmig_ledger_self(&ledger) == &ledger.file->slot[1] &&
		          softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB) &&
		          !softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB);
		_exit(ok ? 0 : 1);
	}
	assert_int_equal(wait_for(pid), 0);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 1);
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	softmig_ledger_close(&ledger);
}

static void a_killed_process_gives_back_at_once_even_as_a_zombie(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_a_gibibyte);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	kill(pid, SIGKILL);
	wait_zombie(pid);
	assert_int_equal(raw_sum(ledger.file, 0), GIB);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	wait_for(pid);
	softmig_ledger_close(&ledger);
}

static void what_the_dead_used_is_not_shown_as_used(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_a_gibibyte);
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	end_child(pid);
	atomic_store(&ledger.mine->looked_ns, 0); // as if 10 ms had passed
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	softmig_ledger_close(&ledger);
}

static void *hold_on(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void lose_the_leader(struct softmig_ledger *ledger)
{
	take_a_gibibyte(ledger);
	pthread_t thread;
	pthread_create(&thread, NULL, hold_on, NULL);
}

static void a_zombie_leader_with_living_threads_is_alive(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	int ready[2];
	char byte, name[64], text[256] = {0};
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		alarm(60);
		lose_the_leader(&ledger);
		(void)!write(ready[1], "x", 1);
		syscall(SYS_exit, 0); // this thread alone
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	snprintf(name, sizeof name, "/proc/%d/stat", pid);
	for (int i = 0; i < 1000 && strstr(text, ") Z") == NULL; i++) { // until the leader is gone
		int fd = open(name, O_RDONLY);
		assert_true(read(fd, text, sizeof text - 1) > 0);
		close(fd);
		usleep(1000);
	}
	assert_non_null(strstr(text, ") Z"));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	end_child(pid);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	close(ready[0]);
	close(ready[1]);
	softmig_ledger_close(&ledger);
}

static void take_under_an_odd_name(struct softmig_ledger *ledger)
{
	prctl(PR_SET_NAME, "a) Z 1 (b) X 2");
	take_a_gibibyte(ledger);
}

static void a_process_with_parentheses_in_its_name_is_alive(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_under_an_odd_name);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 0);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	end_child(pid);
	softmig_ledger_close(&ledger);
}

static void a_pid_given_to_another_process_is_dead(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_a_gibibyte);
	struct softmig_ledger_slot *slot = &ledger.file->slot[0];
	assert_int_equal(softmig_ledger_slot_pid(slot), pid);
	assert_true(softmig_ledger_slot_alive(&ledger, slot));
	atomic_fetch_sub(&slot->owner, 100); // its start time: as if an older process had owned it
	assert_false(softmig_ledger_slot_alive(&ledger, slot));
	assert_int_equal(softmig_ledger_reclaim(&ledger), 1);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	end_child(pid);
	softmig_ledger_close(&ledger);
}

static void spawned_and_vforked_children_do_not_touch_the_parents_slot(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	char *const argv[] = {"true", NULL};
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	for (int i = 0; i < 10; i++) {
		pid_t pid;
		assert_int_equal(posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ), 0);
		assert_int_equal(wait_for(pid), 0);
	}
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	assert_int_equal(owned_slots(ledger.file), 1);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 0);
	softmig_ledger_close(&ledger);
}

static char self_path[256];

static void exec_self(struct softmig_ledger *ledger)
{
	take_a_gibibyte(ledger);
	execl(self_path, self_path, "after-exec", path, NULL);
	_exit(8);
}

// The second life of exec_self: the same pid and start time.
static int after_exec(const char *ledger_path)
{
	struct softmig_ledger ledger;
	if (softmig_ledger_open(&ledger, ledger_path, geteuid(), false) != 0)
		return 2;
	if (raw_sum(ledger.file, 0) != 0 || owned_slots(ledger.file) != 0) // from the opening on
		return 3;
	struct softmig_ledger_slot *slot = softmig_ledger_self(&ledger);
	if (slot == NULL || owned_slots(ledger.file) != 1)
		return 4;
	return softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB) ? 0 : 5;
}

static void after_exec_the_former_selfs_slot_is_emptied(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = fork();
	if (pid == 0)
		exec_self(&ledger);
	assert_int_equal(wait_for(pid), 0);
	softmig_ledger_close(&ledger);
}

// The exec is over when the new program sleeps: in the midst of one the kernel shows neither the old image nor the new one.
static void wait_until_asleep(pid_t pid, const char *program)
{
	char name[64], text[256] = "", expected[64];
	snprintf(name, sizeof name, "/proc/%d/stat", pid);
	snprintf(expected, sizeof expected, "(%s) S ", program);
	for (int i = 0; i < 5000 && strstr(text, expected) == NULL; i++, usleep(1000)) {
		FILE *file = fopen(name, "re");
		assert_non_null(file);
		assert_non_null(fgets(text, sizeof text, file));
		fclose(file);
	}
	assert_non_null(strstr(text, expected));
}

static void a_process_that_execed_something_else_is_found_out(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t keeper = start_child(&ledger, take_a_gibibyte);
	pid_t pid = fork();
	if (pid == 0) {
		take_a_gibibyte(&ledger);
		execl("/bin/sleep", "sleep", "60", NULL);
		_exit(8);
	}
	wait_until_asleep(pid, "sleep");
	// The one that maps the ledger keeps its gibibyte, the one that sleeps does not.
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 2 * GIB));
	assert_int_equal(kill(pid, 0), 0);
	end_child(pid);
	end_child(keeper);
	softmig_ledger_close(&ledger);
}

static void give_back_on_gpus_2_and_3(struct softmig_ledger *ledger)
{
	for (int gpu = 2; gpu < 5; gpu++)
		softmig_ledger_gives_back(ledger, gpu, true);
	softmig_ledger_gives_back(ledger, 4, false);
}

static void who_gives_back_is_known_to_others_for_a_second_at_most_and_while_it_lives(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	uint64_t now_word = (now_ns() >> 10) << 16, second_word = (1000000000ull >> 10) << 16;
	softmig_ledger_gives_back(&ledger, 1, true);
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++)
		assert_false(softmig_ledger_others_give_back(&ledger, gpu)); // oneself is no other
	pid_t pid = start_child(&ledger, give_back_on_gpus_2_and_3);
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++)
		assert_int_equal(softmig_ledger_others_give_back(&ledger, gpu), gpu == 2 || gpu == 3);
	assert_false(softmig_ledger_others_give_back(&ledger, -1));
	assert_false(softmig_ledger_others_give_back(&ledger, SOFTMIG_MAX_GPUS));
	_Atomic uint64_t *word = &ledger.file->slot[1].giving;
	assert_true(atomic_load(word) >= now_word);
	atomic_store(word, (now_word - second_word) | 4);
	assert_false(softmig_ledger_others_give_back(&ledger, 2));
	atomic_store(word, (now_word + 10 * second_word) | 4); // nonsense
	assert_false(softmig_ledger_others_give_back(&ledger, 2));
	atomic_store(word, (now_word - second_word / 2) | 4);
	assert_true(softmig_ledger_others_give_back(&ledger, 2));
	end_child(pid);
	softmig_ledger_reclaim(&ledger);
	assert_false(softmig_ledger_others_give_back(&ledger, 2));
	assert_int_equal(atomic_load(word), 0);
	softmig_ledger_close(&ledger);
}

static void announce_for_ever(struct softmig_ledger *ledger)
{
	struct softmig_ledger_slot *slot = softmig_ledger_self(ledger); // as if it stopped between look and grant
	atomic_store(&slot->use[0].pending_bytes, GIB);
}

static void a_stopped_announcer_costs_a_bounded_wait_and_only_what_it_announced(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, announce_for_ever);
	kill(pid, SIGSTOP);
	wait_stopped(pid);
	uint64_t before = now_ns();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB)); // fits beside it
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	uint64_t took = now_ns() - before;
	assert_true(took >= 10 * 1000000ull && took < 900 * 1000000ull); // not the second that a runnable one is waited for
	end_child(pid);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 2 * GIB));
	softmig_ledger_close(&ledger);
}

static void an_announcer_killed_before_its_grant_blocks_nobody(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, announce_for_ever);
	kill(pid, SIGKILL);
	wait_zombie(pid);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 2 * GIB));
	assert_int_equal(owned_slots(ledger.file), 1);
	wait_for(pid);
	softmig_ledger_close(&ledger);
}

static void sixty_four_processes_starting_at_once_share_one_file(void **state)
{
	(void)state;
	int gate[2];
	pid_t pids[64];
	assert_int_equal(pipe(gate), 0);
	for (int i = 0; i < 64; i++) {
		pids[i] = fork();
		if (pids[i] == 0) {
			struct softmig_ledger ledger;
			char byte;
			close(gate[1]);
			(void)!read(gate[0], &byte, 1); // until the parent closes it
			if (softmig_ledger_open(&ledger, path, geteuid(), true) != 0)
				_exit(1);
			_exit(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, MIB, 64 * MIB) ? 0 : 2);
		}
	}
	close(gate[0]);
	close(gate[1]);
	for (int i = 0; i < 64; i++)
		wait_zombie(pids[i]); // so that none is reclaimed by accident of pid reuse
	for (int i = 0; i < 64; i++)
		assert_int_equal(wait_for(pids[i]), 0);
	struct softmig_ledger ledger = open_ledger();
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	softmig_ledger_reclaim(&ledger);
	assert_int_equal(owned_slots(ledger.file), 0);
	assert_int_equal((uint32_t)atomic_load(&ledger.file->mark), 0);
	softmig_ledger_close(&ledger);
}

static pthread_barrier_t barrier;

static void *claim_at_the_barrier(void *ledger)
{
	pthread_barrier_wait(&barrier);
	return softmig_ledger_self(ledger);
}

static void threads_claiming_at_once_get_one_slot(void **state)
{
	(void)state;
	for (int round = 0; round < 50; round++) {
		struct softmig_ledger ledger = open_ledger();
		pthread_t threads[8];
		void *slots[8];
		pthread_barrier_init(&barrier, NULL, 8);
		for (int i = 0; i < 8; i++)
			pthread_create(&threads[i], NULL, claim_at_the_barrier, &ledger);
		for (int i = 0; i < 8; i++)
			pthread_join(threads[i], &slots[i]);
		assert_non_null(slots[0]);
		for (int i = 1; i < 8; i++)
			assert_ptr_equal(slots[i], slots[0]);
		assert_int_equal(owned_slots(ledger.file), 1);
		softmig_ledger_close(&ledger);
		pthread_barrier_destroy(&barrier);
	}
}

static void slots_of_short_lived_processes_are_used_again(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	softmig_ledger_self(&ledger);
	for (int i = 0; i < 200; i++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 0) ? 0 : 1);
		assert_int_equal(wait_for(pid), 0);
	}
	assert_true(owned_slots(ledger.file) <= 16);
	assert_true((uint32_t)atomic_load(&ledger.file->mark) <= 16);
	softmig_ledger_close(&ledger);
}

static void a_full_table_refuses_and_the_dead_make_room(void **state)
{
	(void)state;
	struct softmig_ledger *handles = calloc(SOFTMIG_LEDGER_SLOTS, sizeof *handles), ledger;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS - 1; i++) {
		handles[i] = open_ledger();
		assert_non_null(softmig_ledger_self(&handles[i]));
	}
	ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_a_gibibyte);
	assert_int_equal(owned_slots(ledger.file), SOFTMIG_LEDGER_SLOTS);
	assert_null(softmig_ledger_self(&ledger));
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, 0));
	end_child(pid);
	// As if it had been killed while claiming.
	struct softmig_ledger_slot *last = &ledger.file->slot[SOFTMIG_LEDGER_SLOTS - 1];
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	uint64_t word = atomic_load(&last->owner);
	atomic_store(&last->owner, owner_word(OWNER_BUSY, word, owner_pid(word), (owner_start(word) & 0xffff) | viewer_ns_mark(&viewer) << 16));
	atomic_store(&ledger.file->mark, SOFTMIG_LEDGER_SLOTS - 1);
	assert_ptr_equal(softmig_ledger_self(&ledger), last);
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS - 1; i++)
		softmig_ledger_close(&handles[i]);
	free(handles);
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, GIB));
	softmig_ledger_close(&ledger);
}

static void a_dead_holder_of_a_slot_is_replaced_and_a_living_one_is_not(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t pid = start_child(&ledger, take_a_gibibyte);
	struct softmig_ledger_slot *slot = &ledger.file->slot[0];
	uint64_t word = atomic_load(&slot->owner);
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	// As if the child were just zeroing it: it counts for nothing, and is left alone.
	uint64_t busy = owner_word(OWNER_BUSY, word, owner_pid(word), (owner_start(word) & 0xffff) | viewer_ns_mark(&viewer) << 16);
	atomic_store(&slot->owner, busy);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 0);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 0);
	assert_int_equal(atomic_load(&slot->owner), busy);
	end_child(pid);
	assert_int_equal(softmig_ledger_reclaim(&ledger), 1);
	assert_int_equal(atomic_load(&slot->use[0].tracked_bytes), 0);
	assert_ptr_equal(softmig_ledger_self(&ledger), slot);
	softmig_ledger_close(&ledger);
}

// In a PID namespace of its own, with /proc still the parent's: outsiders cannot be judged and must not be taken for dead.
static int in_a_namespace(struct softmig_ledger *ledger)
{
	if (unshare(CLONE_NEWPID) != 0)
		return 77;
	pid_t pid = fork();
	if (pid == 0) {
		alarm(60);
		if (softmig_ledger_reclaim(ledger) != 0 || softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB, 4 * GIB))
			_exit(1);
		if (!softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB))
			_exit(2);
		// A second process beside it, seen by kill() alone.
		pid_t second = fork();
		if (second == 0)
			_exit(!softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB + 1, 4 * GIB) &&
			              softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB)
			          ? 0
			          : 3);
		int status;
		waitpid(second, &status, 0);
		if (status != 0)
			_exit(3);
		if (!softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, 4 * GIB))
			_exit(4);
		_exit(0);
	}
	return wait_for(pid);
}

static void processes_of_other_pid_namespaces_are_told_alive_or_dead(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 4 * GIB));
	pid_t pid = fork();
	if (pid == 0)
		_exit(in_a_namespace(&ledger));
	int status = wait_for(pid);
	if (status == 77) {
		softmig_ledger_close(&ledger);
		skip();
	}
	assert_int_equal(status, 0);
	// They have ended, their namespace with them; only the machine's own namespace can know.
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	bool sees_all = viewer.pid_ns == 0xeffffffc;
	assert_int_equal(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 2 * GIB, 4 * GIB), sees_all);
	softmig_ledger_close(&ledger);
}

static void hold_in_a_namespace(struct softmig_ledger *ledger)
{
	if (unshare(CLONE_NEWPID) != 0)
		_exit(77);
	int ready[2];
	char byte;
	(void)!pipe(ready);
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		take_a_gibibyte(ledger);
		(void)!write(ready[1], "x", 1);
		for (;;)
			pause();
	}
	(void)!read(ready[0], &byte, 1);
}

static void a_living_process_of_a_namespace_below_is_found(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	if (geteuid() != 0)
		skip();
	pid_t pid = start_child(&ledger, hold_in_a_namespace);
	assert_false(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, 1, GIB));
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	end_child(pid);
	softmig_ledger_close(&ledger);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "after-exec") == 0)
		return after_exec(argv[2]);
	if (readlink("/proc/self/exe", self_path, sizeof self_path - 1) < 0)
		return 1;
	const struct CMUnitTest tests[] = {
		TEST(a_forked_child_has_its_own_slot_and_inherits_no_charge),
		TEST(a_child_that_closes_the_handle_leaves_the_parents_slot_alone),
		TEST(where_the_kernel_cannot_wipe_the_pid_is_compared),
		TEST(a_killed_process_gives_back_at_once_even_as_a_zombie),
		TEST(what_the_dead_used_is_not_shown_as_used),
		TEST(a_zombie_leader_with_living_threads_is_alive),
		TEST(a_process_with_parentheses_in_its_name_is_alive),
		TEST(a_pid_given_to_another_process_is_dead),
		TEST(spawned_and_vforked_children_do_not_touch_the_parents_slot),
		TEST(after_exec_the_former_selfs_slot_is_emptied),
		TEST(a_process_that_execed_something_else_is_found_out),
		TEST(who_gives_back_is_known_to_others_for_a_second_at_most_and_while_it_lives),
		TEST(a_stopped_announcer_costs_a_bounded_wait_and_only_what_it_announced),
		TEST(an_announcer_killed_before_its_grant_blocks_nobody),
		TEST(sixty_four_processes_starting_at_once_share_one_file),
		TEST(threads_claiming_at_once_get_one_slot),
		TEST(slots_of_short_lived_processes_are_used_again),
		TEST(a_full_table_refuses_and_the_dead_make_room),
		TEST(a_dead_holder_of_a_slot_is_replaced_and_a_living_one_is_not),
		TEST(processes_of_other_pid_namespaces_are_told_alive_or_dead),
		TEST(a_living_process_of_a_namespace_below_is_found),
	};
	return cmocka_run_group_tests_name("ledger, processes", tests, NULL, NULL);
}
