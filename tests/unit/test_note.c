// SPDX-License-Identifier: Apache-2.0
// Launches noted down without a lock: who may note what, and that each is reckoned up once, also while others end the noting at any moment.
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "cmocka_all.h"

#include "../../src/preload/note.c"

enum { THREAD = 0x7f0000001000, OTHER = 0x7f0000002000 };
#define STREAM ((CUstream)0x100)
#define ESTIMATE(i) ((struct softmig_estimate *)(uintptr_t)(0x1000 + (i)))

static struct softmig_lane_context home;
static struct softmig_lane lane = {.home = &home, .stream = STREAM}, another = {.home = &home};
static struct { struct softmig_lane *lane; struct softmig_estimate *estimate; uint64_t estimate_ns, at_ns; } counted[2 * SOFTMIG_NOTES];
static unsigned long launches, work_ns;

void softmig_lane_more(struct softmig_lane *of, struct softmig_estimate *estimate, uint64_t estimate_ns, uint64_t now_ns)
{
	if (launches < 2 * SOFTMIG_NOTES) {
		counted[launches].lane = of;
		counted[launches].estimate = estimate;
		counted[launches].estimate_ns = estimate_ns;
		counted[launches].at_ns = now_ns;
	}
	of->used_ns = now_ns;
	launches++;
	work_ns += estimate_ns;
}

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void begin(uint64_t thread, CUstream stream, struct softmig_lane *of, uint32_t ns)
{
	uint64_t now_ns = clock_ns();
	of->used_ns = now_ns;
	softmig_notes_begin(thread, stream, NULL, of, ns, 60000000000, now_ns);
	softmig_note_page_of(thread)->gap_ticks = UINT32_MAX; // the test may be held up anywhere
}

static unsigned reckon(void)
{
	struct softmig_lane *of;
	launches = work_ns = 0;
	uint64_t told_ns = softmig_notes_end() ? softmig_notes_reckon(&of, clock_ns()) : 0;
	assert_int_equal(told_ns, work_ns);
	return (unsigned)launches;
}

static int set_up(void **state)
{
	(void)state;
	memset(softmig_note_pages, 0, sizeof(softmig_note_pages));
	memset(counted, 0, sizeof(counted));
	softmig_note_open = NULL;
	compared_ns = compared_ticks = ticks_per_us = 0;
	compare(clock_ns(), softmig_note_ticks());
	nanosleep(&(struct timespec){.tv_nsec = 2 * COMPARE_NS}, NULL);
	return 0;
}

static void test_nothing_is_noted_that_was_not_allowed(void **state)
{
	(void)state;
	assert_false(softmig_notes_end());
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1));
	begin(THREAD, STREAM, &lane, 1000);
	assert_null(softmig_note(OTHER, STREAM, NULL, ESTIMATE(1), 1));
	assert_null(softmig_note(THREAD, (CUstream)0x200, NULL, ESTIMATE(1), 1));
	assert_null(softmig_note(THREAD, STREAM, (CUcontext)1, ESTIMATE(1), 1));
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1001));
	assert_ptr_equal(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 600), &lane);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 600)); // more work than the gate allowed
	assert_ptr_equal(softmig_note(THREAD, STREAM, NULL, ESTIMATE(2), 400), &lane);
	assert_int_equal(reckon(), 2);
	assert_int_equal(work_ns, 1000);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 0)); // until it is allowed anew
}

static void test_the_processors_clock_must_be_known_first(void **state)
{
	(void)state;
	compared_ns = compared_ticks = ticks_per_us = 0;
	begin(THREAD, STREAM, &lane, 1000);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1));
}

static void test_a_page_full_of_notes_takes_no_more(void **state)
{
	(void)state;
	uint64_t before_ns = clock_ns();
	begin(THREAD, STREAM, &lane, UINT32_MAX);
	uint64_t begun_ns = lane.used_ns;
	for (unsigned i = 0; i < SOFTMIG_NOTES; i++)
		assert_ptr_equal(softmig_note(THREAD, STREAM, NULL, ESTIMATE(i), 10 + i), &lane);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(99), 1));
	assert_int_equal(reckon(), SOFTMIG_NOTES);
	for (unsigned i = 0; i < SOFTMIG_NOTES; i++) {
		assert_ptr_equal(counted[i].lane, &lane);
		assert_ptr_equal(counted[i].estimate, ESTIMATE(i));
		assert_int_equal(counted[i].estimate_ns, 10 + i);
		assert_true(counted[i].at_ns >= (i == 0 ? begun_ns : counted[i - 1].at_ns) && counted[i].at_ns <= clock_ns());
	}
	assert_true(begun_ns >= before_ns);
}

static void test_a_pause_ends_the_noting(void **state)
{
	(void)state;
	begin(THREAD, STREAM, &lane, 1000);
	assert_non_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1));
	softmig_note_page_of(THREAD)->gap_ticks = (uint32_t)ticks_in(SOFTMIG_LANE_GAP_NS);
	nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1));
	uint64_t reckoned_ns = clock_ns();
	assert_int_equal(reckon(), 1);
	assert_true(counted[0].at_ns < reckoned_ns - 5000000); // when it was launched, not when it was reckoned up
}

static void test_what_was_allowed_lapses(void **state)
{
	(void)state;
	uint64_t now_ns = clock_ns();
	softmig_notes_begin(THREAD, STREAM, NULL, &lane, 1000, 0, now_ns);
	assert_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1));
}

static void test_what_slipped_in_after_the_end_is_not_lost(void **state)
{
	(void)state;
	begin(THREAD, STREAM, &lane, 1000);
	struct softmig_note_page *page = softmig_note_page_of(THREAD);
	assert_int_equal(reckon(), 0);
	page->writer = THREAD; // it had looked just before
	assert_non_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 7));
	assert_int_equal(reckon(), 1);
	assert_int_equal(work_ns, 7);
	// But it is not counted for another stream, nor in a context that is gone.
	page->writer = THREAD;
	assert_non_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 7));
	begin(THREAD, (CUstream)0x200, &another, 1000);
	assert_int_equal(reckon(), 0);
	begin(THREAD, STREAM, &lane, 1000);
	assert_non_null(softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 7));
	lane.home = NULL;
	assert_int_equal(reckon(), 0);
	assert_false(softmig_notes_end());
	lane.home = &home;
}

// ---- one notes, the other ends it again and again

enum { ROUNDS = 200000 };
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static _Atomic bool over;
static unsigned long reckoned, by_begin;

static void reckon_locked(unsigned long *sum)
{
	struct softmig_lane *of;
	launches = 0;
	if (softmig_notes_end())
		softmig_notes_reckon(&of, clock_ns());
	*sum += launches;
}

static void *end_again_and_again(void *argument)
{
	while (!atomic_load(&over)) {
		pthread_mutex_lock(&mutex);
		reckon_locked(&reckoned);
		pthread_mutex_unlock(&mutex);
	}
	return argument;
}

static void test_every_launch_is_reckoned_once(void **state)
{
	(void)state;
	pthread_t thread;
	unsigned long noted = 0;
	reckoned = by_begin = 0;
	assert_int_equal(pthread_create(&thread, NULL, end_again_and_again, NULL), 0);
	for (int i = 0; i < ROUNDS; i++) {
		if (softmig_note(THREAD, STREAM, NULL, ESTIMATE(1), 1) != NULL) {
			noted++;
			continue;
		}
		pthread_mutex_lock(&mutex);
		reckon_locked(&by_begin);
		begin(THREAD, STREAM, &lane, 1000000000);
		pthread_mutex_unlock(&mutex);
	}
	atomic_store(&over, true);
	pthread_join(thread, NULL);
	reckon_locked(&reckoned);
	assert_true(noted > 0);
	assert_int_equal(reckoned + by_begin, noted);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_nothing_is_noted_that_was_not_allowed, set_up),
		cmocka_unit_test_setup(test_the_processors_clock_must_be_known_first, set_up),
		cmocka_unit_test_setup(test_a_page_full_of_notes_takes_no_more, set_up),
		cmocka_unit_test_setup(test_a_pause_ends_the_noting, set_up),
		cmocka_unit_test_setup(test_what_was_allowed_lapses, set_up),
		cmocka_unit_test_setup(test_what_slipped_in_after_the_end_is_not_lost, set_up),
		cmocka_unit_test_setup(test_every_launch_is_reckoned_once, set_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
