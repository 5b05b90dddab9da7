// SPDX-License-Identifier: Apache-2.0
// Many processes and threads fight for one limit while they are killed and stopped at random. The judge is outside the ledger, as the
// driver is outside the library: a total that grows only after a grant and shrinks before a release, changed under a lock that no
// process is ever killed in (as the driver's own code is not).
#include "ledger_test.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>

#define WORKERS 8
#define LIMIT (4 * GIB)
#define RUN_NS 1500000000ull

struct driver {
	_Atomic int lock;
	uint64_t total_bytes;
	uint64_t held_bytes[WORKERS];
	uint64_t peak_bytes;
	_Atomic uint64_t grants, refusals, covers;
	_Atomic int faults; // the total was over the limit
};

static struct driver *driver;

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

static void lock_driver(void)
{
	int free_value = 0;
	while (!atomic_compare_exchange_weak(&driver->lock, &free_value, 1)) {
		free_value = 0;
		sched_yield();
	}
}

static void unlock_driver(void)
{
	atomic_store(&driver->lock, 0);
}

static void driver_allocates(int worker, uint64_t bytes)
{
	lock_driver();
	driver->total_bytes += bytes;
	driver->held_bytes[worker] += bytes;
	if (driver->total_bytes > driver->peak_bytes)
		driver->peak_bytes = driver->total_bytes;
	if (driver->total_bytes > LIMIT)
		atomic_fetch_add(&driver->faults, 1);
	unlock_driver();
}

static void driver_frees(int worker, uint64_t bytes)
{
	lock_driver();
	driver->total_bytes -= bytes;
	driver->held_bytes[worker] -= bytes;
	unlock_driver();
}

static int make_driver(void **state)
{
	driver = mmap(NULL, sizeof *driver, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return driver == MAP_FAILED ? -1 : make_directory(state);
}

static int remove_driver(void **state)
{
	munmap(driver, sizeof *driver);
	return remove_directory(state);
}

#define COVER (64ull << 10)

// An allocation of COVER bytes, of which the driver alone decides whether it takes memory. True: it took it.
static bool allocate_small(struct softmig_ledger *ledger, int worker, bool takes)
{
	struct softmig_ledger_use *use = softmig_ledger_cover_kept(ledger, 0, COVER);
	if (use == NULL)
		use = softmig_ledger_cover(ledger, 0, COVER, LIMIT);
	if (use == NULL && !softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, COVER, LIMIT)) {
		atomic_fetch_add(&driver->refusals, 1);
		return false;
	}
	atomic_fetch_add(use == NULL ? &driver->grants : &driver->covers, 1);
	if (takes)
		driver_allocates(worker, COVER);
	if (use == NULL && !takes)
		softmig_ledger_release(ledger, 0, SOFTMIG_LEDGER_TRACKED, COVER);
	else if (use != NULL && takes)
		softmig_ledger_cover_spend(ledger, 0, use, COVER);
	else if (use != NULL)
		softmig_ledger_cover_keep(use, COVER);
	return takes;
}

// Takes and gives back until the time is over, never more than most_bytes at once.
static void fight(struct softmig_ledger *ledger, int worker, uint64_t most_bytes, unsigned seed, uint64_t until_ns)
{
	uint64_t held[16] = {0}, sum = 0;
	while (now_ns() < until_ns) {
		for (int i = 0; i < 64; i++) {
			uint64_t *one = &held[rand_r(&seed) % 16];
			enum softmig_ledger_kind kind = (one - held) % 4 == 0 ? SOFTMIG_LEDGER_OVERHEAD : SOFTMIG_LEDGER_TRACKED;
			if (*one > 0) {
				driver_frees(worker, *one);
				softmig_ledger_release(ledger, 0, kind, *one);
				sum -= *one;
				*one = 0;
				continue;
			}
			uint64_t bytes = 1 + (uint64_t)rand_r(&seed) % most_bytes;
			if (bytes > most_bytes - sum)
				bytes = most_bytes - sum; // to the last byte
			if (bytes == 0)
				continue;
			if (kind == SOFTMIG_LEDGER_TRACKED && most_bytes - sum >= COVER && rand_r(&seed) % 2 == 0) {
				*one = allocate_small(ledger, worker, rand_r(&seed) % 4 == 0) ? COVER : 0;
				sum += *one;
				continue;
			}
			if (softmig_ledger_reserve(ledger, 0, kind, bytes, LIMIT)) {
				driver_allocates(worker, bytes);
				atomic_fetch_add(&driver->grants, 1);
				*one = bytes;
				sum += bytes;
			} else {
				atomic_fetch_add(&driver->refusals, 1);
			}
		}
	}
}

static pid_t start_worker(struct softmig_ledger *ledger, int worker, uint64_t most_bytes, unsigned seed, uint64_t until_ns)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fight(ledger, worker, most_bytes, seed, until_ns);
		for (;;)
			pause(); // holding what it has: only death gives it back
	}
	return pid;
}

// The driver frees what a dead process held.
static void kill_worker(pid_t pid, int worker)
{
	lock_driver(); // it dies in the ledger or outside, not in the driver
	kill(pid, SIGKILL);
	assert_int_equal(wait_for(pid), -SIGKILL);
	driver->total_bytes -= driver->held_bytes[worker];
	driver->held_bytes[worker] = 0;
	unlock_driver();
}

static void processes_fight(uint64_t most_bytes, bool stop_some)
{
	struct softmig_ledger ledger = open_ledger();
	pid_t pids[WORKERS];
	unsigned seed = 4711;
	uint64_t until = now_ns() + RUN_NS;
	int kills = 0;
	for (int i = 0; i < WORKERS; i++)
		pids[i] = start_worker(&ledger, i, most_bytes, seed + (unsigned)i, until);
	while (now_ns() < until) {
		int victim = rand_r(&seed) % WORKERS;
		if (stop_some && rand_r(&seed) % 4 == 0) {
			kill(pids[victim], SIGSTOP);
			usleep(1000);
			kill(pids[victim], SIGCONT);
			continue;
		}
		kill_worker(pids[victim], victim);
		kills++;
		pids[victim] = start_worker(&ledger, victim, most_bytes, seed + (unsigned)kills * 100, until);
		usleep((useconds_t)(rand_r(&seed) % 5000));
	}
	for (int i = 0; i < WORKERS; i++)
		kill_worker(pids[i], i);
	print_message("%d kills, %lu grants, %lu under cover, %lu refusals, peak %lu MiB\n", kills, atomic_load(&driver->grants),
	              atomic_load(&driver->covers), atomic_load(&driver->refusals), driver->peak_bytes >> 20);
	assert_int_equal(atomic_load(&driver->faults), 0);
	assert_int_equal(driver->total_bytes, 0);
	assert_true(atomic_load(&driver->grants) > 1000);
	assert_true(atomic_load(&driver->covers) > 1000);
	assert_true(kills > 20);
	// Nothing stays charged, nothing blocks.
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, LIMIT, LIMIT));
	assert_int_equal(softmig_ledger_used(&ledger, 0), LIMIT);
	softmig_ledger_release(&ledger, 0, SOFTMIG_LEDGER_TRACKED, LIMIT);
	softmig_ledger_reclaim(&ledger);
	assert_int_equal(owned_slots(ledger.file), 1);
	softmig_ledger_close(&ledger);
}

static void greedy_processes_killed_at_random_never_pass_the_limit(void **state)
{
	(void)state;
	processes_fight(LIMIT / 2, true);
	assert_true(atomic_load(&driver->refusals) > 0); // it was a fight
	assert_true(driver->peak_bytes > LIMIT / 10 * 9);
}

static void processes_that_fit_together_to_the_byte_are_never_refused(void **state)
{
	(void)state;
	processes_fight(LIMIT / WORKERS, false);
	assert_int_equal(atomic_load(&driver->refusals), 0);
}

struct thread_task {
	struct softmig_ledger *ledger;
	int worker;
	uint64_t most_bytes, until_ns;
};

static void *thread_fights(void *argument)
{
	const struct thread_task *task = argument;
	fight(task->ledger, task->worker, task->most_bytes, (unsigned)task->worker, task->until_ns);
	return NULL;
}

static void threads_fight(uint64_t most_bytes)
{
	struct softmig_ledger ledger = open_ledger();
	pthread_t threads[WORKERS];
	struct thread_task tasks[WORKERS];
	for (int i = 0; i < WORKERS; i++) {
		tasks[i] = (struct thread_task){&ledger, i, most_bytes, now_ns() + RUN_NS / 2};
		assert_int_equal(pthread_create(&threads[i], NULL, thread_fights, &tasks[i]), 0);
	}
	for (int i = 0; i < WORKERS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(atomic_load(&driver->faults), 0);
	assert_int_equal(softmig_ledger_used(&ledger, 0), driver->total_bytes);
	assert_int_equal(atomic_load(&softmig_ledger_self(&ledger)->use[0].pending_bytes), 0);
	assert_int_equal(atomic_load(&softmig_ledger_self(&ledger)->use[0].waiting_ns), 0);
	assert_true(atomic_load(&driver->grants) > 1000);
	softmig_ledger_close(&ledger);
}

static void greedy_threads_of_one_process_never_pass_the_limit(void **state)
{
	(void)state;
	threads_fight(LIMIT / 2);
	assert_true(atomic_load(&driver->refusals) > 0);
}

static void threads_that_fit_together_to_the_byte_are_never_refused(void **state)
{
	(void)state;
	threads_fight(LIMIT / WORKERS);
	assert_int_equal(atomic_load(&driver->refusals), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_driver, remove_driver)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(greedy_processes_killed_at_random_never_pass_the_limit),
		TEST(processes_that_fit_together_to_the_byte_are_never_refused),
		TEST(greedy_threads_of_one_process_never_pass_the_limit),
		TEST(threads_that_fit_together_to_the_byte_are_never_refused),
	};
	return cmocka_run_group_tests_name("ledger, hammered", tests, NULL, NULL);
}
