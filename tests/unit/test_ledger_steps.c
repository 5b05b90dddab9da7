// SPDX-License-Identifier: Apache-2.0
// Killed at every step: a child process runs one operation on the ledger and dies at its first, second, third ... step, until it
// outlives the operation; after each death the others find a ledger that is whole. The ledger's own files are compiled into this program
// with their steps switched on.
#define SOFTMIG_LEDGER_STEPS
#include "../../src/slice/ledger.c" // NOLINT(bugprone-suspicious-include)
#include "../../src/slice/ledger_alive.c" // NOLINT(bugprone-suspicious-include)
#include "../../src/slice/ledger_file.c" // NOLINT(bugprone-suspicious-include)
#include "../../src/slice/ledger_slot.c" // NOLINT(bugprone-suspicious-include)

#include "ledger_test.h"

static int steps_to_live = -1; // negative: for ever
static void (*at_step)(void);  // instead of dying

void softmig_ledger_step(void)
{
	if (at_step != NULL)
		at_step();
	if (steps_to_live > 0 && --steps_to_live == 0)
		kill(getpid(), SIGKILL);
}

#define LIMIT (4 * GIB)

struct operation {
	const char *name;
	void (*prepare)(struct softmig_ledger *ledger); // in the child, before it can be killed
	bool (*run)(struct softmig_ledger *ledger);
};

static void nothing(struct softmig_ledger *ledger)
{
	(void)ledger;
}

static void claim_slot(struct softmig_ledger *ledger)
{
	softmig_ledger_self(ledger);
}

static void take_one(struct softmig_ledger *ledger)
{
	softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, LIMIT);
}

// Others that died with a charge and an announcement, for the sweep to find.
static void leave_the_dead(struct softmig_ledger *ledger)
{
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			take_one(ledger);
			atomic_store(&softmig_ledger_self(ledger)->use[0].pending_bytes, GIB / 2);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
}

static bool op_claim(struct softmig_ledger *ledger)
{
	return softmig_ledger_self(ledger) != NULL;
}

static bool op_reserve(struct softmig_ledger *ledger)
{
	return softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, LIMIT);
}

static bool op_reserve_overhead(struct softmig_ledger *ledger)
{
	return softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_OVERHEAD, GIB, LIMIT);
}

static bool op_cover_and_spend(struct softmig_ledger *ledger)
{
	struct softmig_ledger_use *use = softmig_ledger_cover(ledger, 0, GIB, LIMIT);
	if (use == NULL)
		return false;
	softmig_ledger_cover_keep(use, GIB);
	STEP();
	if (softmig_ledger_cover_kept(ledger, 0, GIB) != use)
		return false;
	softmig_ledger_cover_spend(ledger, 0, use, GIB);
	return true;
}

// Cover of the one who asks, and of others that died with theirs kept and in use.
static void leave_cover(struct softmig_ledger *ledger)
{
	for (int i = 0; i < 3; i++) {
		pid_t pid = fork();
		if (pid == 0) {
			struct softmig_ledger_use *use = softmig_ledger_cover(ledger, 0, GIB, LIMIT);
			if (i != 0)
				softmig_ledger_cover_keep(use, GIB);
			_exit(0);
		}
		waitpid(pid, NULL, 0);
	}
	softmig_ledger_cover_keep(softmig_ledger_cover(ledger, 0, GIB, LIMIT), GIB);
}

static bool op_take_the_cover(struct softmig_ledger *ledger)
{
	return softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, LIMIT, LIMIT);
}

static bool op_be_refused(struct softmig_ledger *ledger)
{
	return !softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, LIMIT, LIMIT);
}

static bool op_release(struct softmig_ledger *ledger)
{
	softmig_ledger_release(ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB);
	return true;
}

static bool op_measure(struct softmig_ledger *ledger)
{
	softmig_ledger_set_overhead(ledger, 0, GIB);
	return true;
}

static bool op_reclaim(struct softmig_ledger *ledger)
{
	return softmig_ledger_reclaim(ledger) == 3;
}

// Refused at first sight: 3 GiB are the dead's.
static bool op_reserve_over_the_dead(struct softmig_ledger *ledger)
{
	return softmig_ledger_reserve(ledger, 0, SOFTMIG_LEDGER_TRACKED, 3 * GIB, LIMIT);
}

static bool op_close(struct softmig_ledger *ledger)
{
	softmig_ledger_close(ledger);
	return true;
}

static bool op_add_gpu(struct softmig_ledger *ledger)
{
	static const uint8_t uuid[16] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
	return softmig_ledger_gpu(ledger, uuid) == 0;
}

static bool op_open(struct softmig_ledger *ledger)
{
	struct softmig_ledger own;
	(void)ledger;
	return softmig_ledger_open(&own, path, geteuid(), true) == 0;
}

// What must hold in the ledger when all but the witness have died, wherever they were.
static void assert_whole(struct softmig_ledger *witness)
{
	static const uint8_t uuid[16] = {7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7};
	assert_true(raw_sum(witness->file, 0) <= LIMIT);
	// All of the limit can be had, to the last byte, and not one more.
	assert_true(softmig_ledger_reserve(witness, 0, SOFTMIG_LEDGER_TRACKED, LIMIT, LIMIT));
	assert_false(softmig_ledger_reserve(witness, 0, SOFTMIG_LEDGER_TRACKED, 1, LIMIT));
	softmig_ledger_release(witness, 0, SOFTMIG_LEDGER_TRACKED, LIMIT);
	assert_int_equal(softmig_ledger_used(witness, 0), 0);
	atomic_store(&witness->mine->deep_ns, 0);
	softmig_ledger_reclaim(witness);
	uint32_t mark = (uint32_t)atomic_load(&witness->file->mark);
	for (uint32_t i = 0; i < SOFTMIG_LEDGER_SLOTS; i++) {
		struct softmig_ledger_slot *slot = &witness->file->slot[i];
		if (slot == softmig_ledger_self(witness)) {
			assert_true(i < mark);
			continue;
		}
		// A slot taken but not yet below the mark is of no weight; all others are free again, and empty.
		assert_true(owner_state(atomic_load(&slot->owner)) == OWNER_FREE || i >= mark);
		assert_int_equal(atomic_load(&slot->use[0].tracked_bytes), 0);
		assert_int_equal(atomic_load(&slot->use[0].overhead_bytes), 0);
		assert_int_equal(atomic_load(&slot->use[0].pending_bytes), 0);
		assert_int_equal(atomic_load(&slot->use[0].cover_bytes), 0);
	}
	assert_int_equal(softmig_ledger_gpu(witness, uuid), 0);
}

static void kill_at_every_step(const struct operation *operation)
{
	int status = -SIGKILL, step;
	for (step = 1; status == -SIGKILL; step++) {
		struct softmig_ledger witness = open_ledger();
		assert_non_null(softmig_ledger_self(&witness));
		pid_t pid = fork();
		if (pid == 0) {
			operation->prepare(&witness);
			steps_to_live = step;
			bool right = operation->run(&witness);
			steps_to_live = -1;
			_exit(right ? 0 : 1);
		}
		status = wait_for(pid);
		assert_true(status == 0 || status == -SIGKILL); // the operation did what it should, or died
		assert_whole(&witness);
		softmig_ledger_close(&witness);
		assert_int_equal(unlink(path), 0);
	}
	assert_true(step > 2); // it has steps at all
	print_message("%s: killed at %d steps\n", operation->name, step - 2);
}

static void the_ledger_is_whole_after_a_death_at_every_step(void **state)
{
	(void)state;
	static const struct operation operations[] = {
		{"claim", nothing, op_claim},
		{"claim and reserve", nothing, op_reserve},
		{"reserve", claim_slot, op_reserve},
		{"reserve overhead", claim_slot, op_reserve_overhead},
		{"be refused", take_one, op_be_refused},
		{"release", take_one, op_release},
		{"measure overhead", claim_slot, op_measure},
		{"cover, keep and spend", nothing, op_cover_and_spend},
		{"take all cover away", leave_cover, op_take_the_cover},
		{"reclaim", leave_the_dead, op_reclaim},
		{"reserve over the dead", leave_the_dead, op_reserve_over_the_dead},
		{"close", take_one, op_close},
		{"add a GPU", nothing, op_add_gpu},
	};
	for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++)
		kill_at_every_step(&operations[i]);
}

// The file itself: whoever comes after a creator killed at any step opens a complete ledger.
static void a_ledger_half_made_at_every_step_is_completed(void **state)
{
	(void)state;
	int status = -SIGKILL, step;
	for (step = 1; status == -SIGKILL; step++) {
		unlink(path);
		pid_t pid = fork();
		if (pid == 0) {
			steps_to_live = step;
			_exit(op_open(NULL) ? 0 : 1);
		}
		status = wait_for(pid);
		assert_true(status == 0 || status == -SIGKILL);
		struct softmig_ledger witness = open_ledger();
		assert_int_equal(atomic_load(&witness.file->magic), SOFTMIG_LEDGER_MAGIC);
		assert_int_equal(atomic_load(&witness.file->version), SOFTMIG_LEDGER_VERSION);
		assert_true(atomic_load(&witness.file->created_ns) > 0);
		assert_whole(&witness);
		softmig_ledger_close(&witness);
	}
	print_message("create: killed at %d steps\n", step - 2);
	assert_true(step - 2 >= 6);
}

// A reclaimer stopped between its judgement and its first write.
static void a_reclaimer_that_was_stopped_cannot_touch_a_slot_claimed_anew(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	pid_t dead = fork();
	if (dead == 0) {
		take_one(&ledger);
		_exit(0);
	}
	wait_for(dead);
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	struct softmig_ledger_slot *slot = &ledger.file->slot[0];
	uint64_t judged = atomic_load(&slot->owner); // dead, says the first reclaimer, and is stopped here
	assert_true(discard(ledger.file, slot, &viewer, judged)); // a second one is faster,
	assert_true(softmig_ledger_reserve(&ledger, 0, SOFTMIG_LEDGER_TRACKED, GIB, LIMIT)); // and a new owner faster still
	assert_ptr_equal(softmig_ledger_self(&ledger), slot);
	assert_false(discard(ledger.file, slot, &viewer, judged));
	assert_int_equal(softmig_ledger_used(&ledger, 0), GIB);
	softmig_ledger_close(&ledger);
}

static void the_same_process_claiming_the_same_slot_again_has_another_word(void **state)
{
	(void)state;
	struct softmig_ledger ledger = open_ledger();
	struct viewer viewer;
	softmig_ledger_viewer(&viewer);
	uint64_t first = atomic_load(&softmig_ledger_self(&ledger)->owner);
	assert_true(discard(ledger.file, &ledger.file->slot[0], &viewer, first));
	uint64_t second = atomic_load(&softmig_ledger_self(&ledger)->owner);
	assert_int_equal(OWNER_IDENTITY(first), OWNER_IDENTITY(second));
	assert_int_not_equal(first, second);
	assert_false(discard(ledger.file, &ledger.file->slot[0], &viewer, first));
	softmig_ledger_close(&ledger);
}

static struct softmig_ledger_file *moving_file;
static int moves;

// Two others pass a gibibyte to and fro so that each look sees it twice, in ever other amounts, for the first 20 looks.
static void move_the_bytes(void)
{
	_Atomic uint64_t *near = &moving_file->slot[0].use[0].tracked_bytes, *far = &moving_file->slot[1].use[0].tracked_bytes;
	if (moves == 60) {
		atomic_store(near, GIB);
		atomic_store(far, 0);
	} else if (moves < 60) { // three slots, three steps a look: near has been read, far, our own
		bool near_was_read = moves % 3 == 0;
		uint64_t bytes = GIB + (unsigned)moves;
		atomic_store(near, near_was_read ? 0 : bytes);
		atomic_store(far, near_was_read ? bytes : 0);
	}
	moves++;
}

static void a_sum_that_was_never_true_refuses_nobody(void **state)
{
	(void)state;
	struct softmig_ledger first = open_ledger(), second = open_ledger(), ledger = open_ledger();
	moving_file = ledger.file;
	assert_ptr_equal(softmig_ledger_self(&first), &first.file->slot[0]);
	assert_ptr_equal(softmig_ledger_self(&second), &second.file->slot[1]);
	assert_ptr_equal(softmig_ledger_self(&ledger), &moving_file->slot[2]);
	atomic_store(&moving_file->slot[0].use[0].tracked_bytes, GIB);
	// The first look, before any step: over.
	atomic_store(&moving_file->slot[1].use[0].tracked_bytes, GIB);
	struct request request = {&ledger, &moving_file->slot[2].use[0], 2, 0, SOFTMIG_LEDGER_TRACKED, GIB, 5 * GIB / 2};
	announce(&request);
	moves = 0;
	at_step = move_the_bytes;
	bool granted = contend(&request);
	at_step = NULL;
	assert_true(moves > 3);
	assert_true(granted);
	assert_int_equal(softmig_ledger_used(&ledger, 0), 2 * GIB);
	softmig_ledger_close(&first);
	softmig_ledger_close(&second);
	softmig_ledger_close(&ledger);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_directory, remove_directory)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(the_ledger_is_whole_after_a_death_at_every_step),
		TEST(a_ledger_half_made_at_every_step_is_completed),
		TEST(a_reclaimer_that_was_stopped_cannot_touch_a_slot_claimed_anew),
		TEST(a_sum_that_was_never_true_refuses_nobody),
		TEST(the_same_process_claiming_the_same_slot_again_has_another_word),
	};
	return cmocka_run_group_tests_name("ledger, killed at every step", tests, NULL, NULL);
}
