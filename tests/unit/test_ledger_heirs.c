// SPDX-License-Identifier: Apache-2.0
// Memory that outlives its owner stays charged, to whoever may have it open, and to nobody else.
#include "ledger_test.h"

#include <sys/mman.h>
#include <time.h>

#include "slice/ledger_private.h"

enum { GPU = 3 };

static uint64_t now_ns(void)
{
	return softmig_ledger_clock_ns(CLOCK_MONOTONIC);
}

// A child that holds 1 GiB and 256 MiB of overhead, has exported so much, and is dead.
static void exporter_dies(struct softmig_ledger *ledger, uint64_t exported_bytes)
{
	pid_t pid = fork();
	if (pid == 0) {
		softmig_ledger_reserve(ledger, GPU, SOFTMIG_LEDGER_TRACKED, GIB, 0);
		softmig_ledger_reserve(ledger, GPU, SOFTMIG_LEDGER_OVERHEAD, GIB / 4, 0);
		softmig_ledger_export(ledger, exported_bytes, true);
		_exit(0);
	}
	wait_for(pid);
	softmig_ledger_reclaim(ledger);
}

static void what_a_dead_process_had_exported_is_charged_to_who_has_imported(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	softmig_ledger_import(&ledger, true);
	assert_false(softmig_ledger_inherited(&ledger, GPU));
	exporter_dies(&ledger, GIB / 2);
	assert_int_equal(softmig_ledger_used(&ledger, GPU), GIB / 2);
	assert_int_equal(softmig_ledger_self(&ledger)->use[GPU].overhead_bytes, GIB / 2);
	assert_true(softmig_ledger_inherited(&ledger, GPU)); // told once
	assert_false(softmig_ledger_inherited(&ledger, GPU));
	assert_false(softmig_ledger_inherited(&ledger, GPU + 1));
	exporter_dies(&ledger, 0);
	assert_int_equal(softmig_ledger_used(&ledger, GPU), GIB / 2);
	exporter_dies(&ledger, 1ull << 55); // never more than it held
	assert_int_equal(softmig_ledger_used(&ledger, GPU), GIB / 2 + GIB + GIB / 4);
	assert_int_equal(softmig_ledger_used(&ledger, GPU + 1), 0);
	softmig_ledger_close(&ledger);
}

static void who_holds_no_imports_inherits_nothing(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	assert_non_null(softmig_ledger_self(&ledger));
	exporter_dies(&ledger, GIB);
	assert_int_equal(softmig_ledger_used(&ledger, GPU), 0);
	softmig_ledger_import(&ledger, true);
	softmig_ledger_import(&ledger, false);
	exporter_dies(&ledger, GIB);
	assert_int_equal(softmig_ledger_used(&ledger, GPU), 0);
	softmig_ledger_close(&ledger);
}

static void what_is_no_longer_exported_is_not_passed_on(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	softmig_ledger_export(&ledger, GIB, true);
	softmig_ledger_export(&ledger, 3 * GIB, true);
	softmig_ledger_export(&ledger, GIB, false);
	assert_int_equal(softmig_ledger_self(&ledger)->exported_bytes, 3 * GIB);
	softmig_ledger_export(&ledger, 4 * GIB, false);
	assert_int_equal(softmig_ledger_self(&ledger)->exported_bytes, 0);
	softmig_ledger_close(&ledger);
}

static void only_who_imported_since_it_was_exported_may_have_it(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	softmig_ledger_import(&ledger, true);
	uint64_t later_ns = now_ns() + 10000000, before_ns = now_ns() - 10000000;
	for (int time = 0; time < 2; time++) {
		pid_t pid = fork();
		if (pid == 0) {
			softmig_ledger_pass_on(&ledger, GPU, GIB, time == 0 ? later_ns : before_ns, false);
			_exit(0);
		}
		wait_for(pid);
		assert_int_equal(softmig_ledger_used(&ledger, GPU), time == 0 ? 0 : GIB);
	}
	softmig_ledger_pass_on(&ledger, GPU, GIB, 0, false); // to others, not to oneself
	assert_int_equal(softmig_ledger_used(&ledger, GPU), GIB);
	softmig_ledger_close(&ledger);
}

static void who_has_let_go_of_the_later_ones_has_the_earlier_ones_still(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	uint64_t before_ns = now_ns(), between_ns = before_ns + 10000000;
	softmig_ledger_import(&ledger, true);
	softmig_ledger_import_last(&ledger, before_ns + 5000000);
	for (int time = 0; time < 2; time++) {
		pid_t pid = fork();
		if (pid == 0) {
			softmig_ledger_pass_on(&ledger, GPU, GIB, time == 0 ? between_ns : before_ns, false);
			_exit(0);
		}
		wait_for(pid);
		assert_int_equal(softmig_ledger_used(&ledger, GPU), time == 0 ? 0 : GIB);
	}
	assert_true(softmig_ledger_inherited(&ledger, GPU));
	softmig_ledger_close(&ledger);
}

// One who sums, slot by slot, may have been at the heir's before it was charged and come to the former owner's after that gave it back.
static void nobody_sees_a_moment_in_which_it_is_charged_to_nobody(void **state)
{
	(void)state;
	enum { ROUNDS = 20000 };
	struct softmig_ledger ledger = open_ledger();
	_Atomic uint32_t *rounds = mmap(NULL, sizeof(*rounds), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(rounds, MAP_FAILED);
	softmig_ledger_import(&ledger, true); // slot 0, which is looked at first
	pid_t pid = fork();
	if (pid == 0) {
		for (uint32_t i = 0; i < ROUNDS; i++) {
			softmig_ledger_reserve(&ledger, GPU, SOFTMIG_LEDGER_TRACKED, MIB, 0);
			atomic_fetch_add(rounds, 1);
			softmig_ledger_pass_on(&ledger, GPU, MIB, 0, false);
			softmig_ledger_release(&ledger, GPU, SOFTMIG_LEDGER_TRACKED, MIB);
		}
		_exit(0);
	}
	uint32_t done;
	do {
		done = atomic_load(rounds);
		assert_true(softmig_ledger_used(&ledger, GPU) >= done * MIB);
	} while (done < ROUNDS);
	wait_for(pid);
	assert_int_equal(softmig_ledger_used(&ledger, GPU), ROUNDS * MIB);
	softmig_ledger_close(&ledger);
	munmap(rounds, sizeof(*rounds));
}

// Who is being charged, and asks after it has looked, is told of all that it has seen.
static void who_is_charged_knows_how_much_was_passed_on(void **state)
{
	(void)state;
	enum { ROUNDS = 20000 };
	struct softmig_ledger ledger = open_ledger();
	uint64_t bytes = 0;
	softmig_ledger_import(&ledger, true);
	struct softmig_ledger_use *use = &softmig_ledger_self(&ledger)->use[GPU];
	assert_int_equal(softmig_ledger_passed_on(&ledger, GPU), 0);
	pid_t pid = fork();
	if (pid == 0) {
		for (uint32_t i = 0; i < ROUNDS; i++)
			softmig_ledger_pass_on(&ledger, GPU, 3 * MIB, 0, true);
		_exit(0);
	}
	while (bytes < ROUNDS * 3 * MIB) {
		bytes = atomic_load(&use->overhead_bytes);
		assert_true(softmig_ledger_passed_on(&ledger, GPU) >= bytes);
	}
	wait_for(pid);
	pid = fork();
	if (pid == 0) {
		softmig_ledger_pass_on(&ledger, GPU, GIB, 0, false); // no pool's
		_exit(0);
	}
	wait_for(pid);
	assert_int_equal(softmig_ledger_passed_on(&ledger, GPU), ROUNDS * 3 * MIB);
	assert_int_equal(softmig_ledger_passed_on(&ledger, GPU + 1), 0);
	softmig_ledger_close(&ledger);
}

// A slot that is another's says nothing of what its former owner was charged.
static void a_new_owner_was_passed_on_nothing(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t heir = fork();
	if (heir == 0) {
		softmig_ledger_import(&ledger, true);
		exporter_dies(&ledger, GIB / 2);
		_exit(softmig_ledger_passed_on(&ledger, GPU) == GIB / 2 ? 0 : 1);
	}
	assert_int_equal(wait_for(heir), 0);
	softmig_ledger_reclaim(&ledger);
	assert_int_equal(softmig_ledger_passed_on(&ledger, GPU), 0);
	softmig_ledger_close(&ledger);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(what_a_dead_process_had_exported_is_charged_to_who_has_imported),
		TEST(who_holds_no_imports_inherits_nothing),
		TEST(what_is_no_longer_exported_is_not_passed_on),
		TEST(only_who_imported_since_it_was_exported_may_have_it),
		TEST(who_has_let_go_of_the_later_ones_has_the_earlier_ones_still),
		TEST(who_is_charged_knows_how_much_was_passed_on),
		TEST(a_new_owner_was_passed_on_nothing),
		TEST(nobody_sees_a_moment_in_which_it_is_charged_to_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
