// SPDX-License-Identifier: Apache-2.0
// A stream as the meter sees it, on a driver with one stream that works off commands in a time of the test's own: what is billed, how
// many events it takes, and what is learned when others had a part of the GPU.
#include "cmocka_all.h"

// The library's own files, which are part of no library to link with.
#include "../../src/preload/estimate.c"
#include "../../src/preload/lane.c"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
enum { EVENTS = 64 };

static uint64_t now_ns, done_ns; // the test's clock; when the stream will have drained
static bool others; // other streams are at work
static uint64_t event_ns[EVENTS]; // when it happens
static uintptr_t events;
static int records;
static struct softmig_lane_scene scene;

static CUresult create(CUevent *event, unsigned int flags)
{
	(void)flags;
	*event = (CUevent)++events;
	return CUDA_SUCCESS;
}

static CUresult event_record(CUevent event, CUstream stream)
{
	(void)stream;
	event_ns[(uintptr_t)event] = done_ns > now_ns ? done_ns : now_ns;
	records++;
	return CUDA_SUCCESS;
}

static CUresult event_query(CUevent event)
{
	return event_ns[(uintptr_t)event] <= now_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

static CUresult elapsed(float *ms, CUevent from, CUevent to)
{
	*ms = (float)((double)event_ns[(uintptr_t)to] - (double)event_ns[(uintptr_t)from]) / 1e6f;
	return CUDA_SUCCESS;
}

static CUresult stream_query(CUstream stream)
{
	(void)stream;
	return done_ns <= now_ns ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

static CUresult current(CUcontext *context)
{
	*context = (CUcontext)1;
	return CUDA_SUCCESS;
}

static bool capturing;
_Atomic bool softmig_stream_captures;
_Atomic int softmig_stream_captures_open;

static CUresult is_capturing(CUstream stream, CUstreamCaptureStatus *status)
{
	(void)stream;
	*status = capturing ? CU_STREAM_CAPTURE_STATUS_ACTIVE : CU_STREAM_CAPTURE_STATUS_NONE;
	return CUDA_SUCCESS;
}

#define DRIVER_IS(which, answers) struct softmig_hook softmig_hook_##which = {.driver = (void *)(answers)};
DRIVER_IS(cuEventCreate, create)
DRIVER_IS(cuEventRecord, event_record)
DRIVER_IS(cuEventQuery, event_query)
DRIVER_IS(cuEventElapsedTime, elapsed)
DRIVER_IS(cuStreamQuery, stream_query)
DRIVER_IS(cuStreamIsCapturing, is_capturing)
DRIVER_IS(cuStreamIsCapturing_ptsz, is_capturing)
DRIVER_IS(cuCtxGetCurrent, current)
DRIVER_IS(cuCtxPushCurrent_v2, current)
DRIVER_IS(cuCtxPopCurrent_v2, current)

static struct softmig_lane *lane;
static struct softmig_estimate *small;

static int fresh(void **state)
{
	(void)state;
	softmig_lane_context_gone((CUcontext)1);
	now_ns = 5000 * 1000 * MS;
	done_ns = 0;
	others = false;
	events = 0;
	scene = (struct softmig_lane_scene){.crowd_permille = 1000};
	lane = softmig_lane_find((CUcontext)1, 0, (CUstream)1000, 0, now_ns);
	small = softmig_estimate_find(now_ns ^ 12345);
	atomic_store(&small->value, 0);
	return 0;
}

static void launch(bool alone, uint64_t takes_ns)
{
	bool known;
	uint64_t estimate_ns = softmig_estimate_ns(small, &known);
	bool covered = others && known && softmig_lane_may_be_covered(lane) && softmig_lane_is_empty(lane, 7);
	softmig_lane_launch(lane, 7, small, estimate_ns, false, alone && known, covered, now_ns);
	done_ns = (done_ns > now_ns ? done_ns : now_ns) + takes_ns;
	if (softmig_lane_is_due(lane, known, now_ns))
		softmig_lane_close(lane, 7, true, false, now_ns);
}

// The program waits: what the meter does around it. Returns the busy time billed.
static uint64_t sync(void)
{
	struct softmig_lane_span span[8];
	uint64_t busy_ns = 0;
	if (!softmig_lane_await(lane))
		softmig_lane_close(lane, 7, false, false, now_ns);
	now_ns = (done_ns > now_ns ? done_ns : now_ns) + 3 * US;
	int spans = softmig_lane_look(lane, 7, span, 8, &scene, now_ns);
	for (int i = 0; i < spans; i++)
		busy_ns += span[i].to_ns - span[i].from_ns;
	assert_false(softmig_lane_busy(lane));
	lane->rested = true;
	return busy_ns;
}

static void assert_about(uint64_t value, uint64_t expected, uint64_t off)
{
	if (value + off < expected || value > expected + off)
		fail_msg("%llu is not within %llu of %llu", (unsigned long long)value, (unsigned long long)off, (unsigned long long)expected);
}

static void a_first_kernel_is_measured_with_events(void **state)
{
	(void)state;
	launch(true, 30 * US);
	assert_about(sync(), 30 * US, 5 * US); // the clocks are compared for the first time
	assert_int_equal(records, 2);
}

static void a_known_small_kernel_after_a_pause_needs_no_event(void **state)
{
	(void)state;
	launch(true, 30 * US);
	sync();
	for (int i = 0; i < 10; i++) {
		now_ns += 2 * MS;
		records = 0;
		launch(true, 30 * US);
		assert_about(sync(), 30 * US, 4 * US);
		assert_int_equal(records, 0);
	}
}

static void one_that_takes_longer_than_ever_is_billed_whole_and_measured_next_time(void **state)
{
	(void)state;
	bool known;
	launch(true, 30 * US);
	sync();
	now_ns += 2 * MS;
	records = 0;
	launch(true, 900 * US);
	assert_about(sync(), 900 * US, 4 * US);
	assert_int_equal(records, 0);
	now_ns += 2 * MS;
	launch(true, 900 * US);
	assert_about(sync(), 900 * US, 4 * US);
	assert_int_equal(records, 2);
	assert_true(softmig_estimate_ns(small, &known) > 100 * US);
}

static void bursts_behind_copies_are_measured_but_one_of_seventeen(void **state)
{
	(void)state;
	uint64_t billed_ns = 0;
	launch(true, 30 * US);
	sync();
	for (int i = 0; i < 34; i++) {
		now_ns += 2 * MS;
		done_ns = now_ns + 3 * MS; // a copy that the program has put before it
		records = 0;
		launch(true, 30 * US);
		uint64_t busy_ns = sync();
		assert_int_equal(records, i % 17 == 0 ? 0 : 2);
		assert_about(busy_ns, i % 17 == 0 ? 3030 * US : 30 * US, 4 * US);
		billed_ns += busy_ns;
	}
	assert_true(billed_ns < 2 * 3035 * US + 32 * 35 * US);
}

static void without_a_pause_or_beside_others_events_are_set(void **state)
{
	(void)state;
	launch(true, 30 * US);
	sync();
	records = 0;
	now_ns += 200 * US; // so soon after the last, host time would be a tenth off
	launch(true, 30 * US);
	assert_about(sync(), 30 * US, US);
	assert_int_equal(records, 2);
	now_ns += 2 * MS;
	records = 0;
	launch(false, 30 * US);
	assert_about(sync(), 30 * US, US);
	assert_int_equal(records, 2);
}

static void a_burst_that_grows_gets_its_end_from_an_event(void **state)
{
	(void)state;
	launch(true, 30 * US);
	sync();
	now_ns += 2 * MS;
	records = 0;
	for (int i = 0; i < 10; i++)
		launch(true, 30 * US);
	assert_about(sync(), 300 * US, 4 * US);
	assert_int_equal(records, 1);
}

static void beside_other_streams_one_beginning_of_eight_is_measured_and_learned_from(void **state)
{
	(void)state;
	bool known;
	launch(false, 30 * US);
	sync();
	others = true;
	for (int round = 0; round < 3; round++)
		for (int i = 0; i < 8; i++) {
			uint64_t estimate_ns = softmig_estimate_ns(small, &known);
			now_ns += 200 * US;
			records = 0;
			launch(false, 30 * (uint64_t)(round + 1) * US);
			assert_about(sync(), 30 * (uint64_t)(round + 1) * US, 4 * US);
			assert_int_equal(records, i == 7 ? 2 : 1);
			if (i < 7)
				assert_int_equal(softmig_estimate_ns(small, &known), estimate_ns);
			else if (round > 0)
				assert_true(softmig_estimate_ns(small, &known) > estimate_ns + 5 * US);
		}
}

static void behind_a_copy_a_beginning_is_measured_also_beside_other_streams(void **state)
{
	(void)state;
	launch(false, 30 * US);
	sync();
	others = true;
	for (int i = 0; i < 3; i++) {
		now_ns += 200 * US;
		done_ns = now_ns + 5 * MS; // a copy that the program has put before it
		records = 0;
		launch(false, 30 * US);
		assert_about(sync(), 30 * US, 4 * US);
		assert_int_equal(records, 2);
	}
}

static void what_comes_behind_a_copy_begins_when_that_is_done(void **state)
{
	(void)state;
	struct softmig_lane_span span[8];
	uint64_t busy_ns = 0;
	launch(false, 900 * US);
	sync();
	now_ns += 200 * US;
	for (int i = 0; i < 6; i++) // two batches that are closed, the second without a beginning of its own
		launch(false, 1200 * US);
	assert_true(lane->closed >= 2);
	uint64_t kernels_ns = done_ns;
	now_ns = kernels_ns - 2 * MS; // in the midst of the last batch
	softmig_lane_look(lane, 7, span, 8, &scene, now_ns);
	lane->anew = true;
	done_ns += 5 * MS; // the copy
	launch(false, 100 * US);
	now_ns = kernels_ns + 10 * US;
	assert_int_equal(softmig_lane_look(lane, 7, span, 8, &scene, now_ns), 1);
	assert_about(span[0].to_ns, kernels_ns, 4 * US);
	assert_true(span[0].to_ns - span[0].from_ns > 2100 * US); // from before the copy was ordered
	now_ns = done_ns - 200 * US; // the copy is nearly done
	assert_int_equal(softmig_lane_look(lane, 7, span, 8, &scene, now_ns), 0);
	busy_ns = sync();
	assert_about(busy_ns, 100 * US, 4 * US);
}

static void what_had_to_wait_and_was_not_seen_to_end_is_billed_as_estimated(void **state)
{
	(void)state;
	struct softmig_lane_span span[8];
	launch(false, 900 * US);
	sync();
	now_ns += 200 * US;
	done_ns = now_ns + 5 * MS; // it waits for something
	launch(false, 900 * US);
	now_ns = done_ns + 3 * MS; // the program does something else
	assert_int_equal(softmig_lane_look(lane, 7, span, 8, &scene, now_ns), 1);
	assert_about(span[0].to_ns - span[0].from_ns, 900 * US, 100 * US);
	assert_about(span[0].to_ns, done_ns, 100 * US);
}

static void a_lane_works_from_its_beginning_to_its_end(void **state)
{
	(void)state;
	launch(false, 900 * US);
	assert_true(softmig_lane_works(lane, now_ns));
	sync();
	assert_false(softmig_lane_works(lane, now_ns));
	now_ns += 200 * US;
	done_ns = now_ns + MS; // it waits for something
	for (int i = 0; i < 2; i++)
		launch(false, 1200 * US);
	assert_false(softmig_lane_works(lane, now_ns));
	now_ns += MS + 10 * US;
	assert_true(softmig_lane_works(lane, now_ns)); // no event tells of its end: the estimate does
	softmig_lane_close(lane, 7, false, false, now_ns);
	now_ns = done_ns - 10 * US;
	assert_true(softmig_lane_works(lane, now_ns)); // longer than estimated
	now_ns = done_ns + US;
	assert_false(softmig_lane_works(lane, now_ns));
}

static void an_estimate_made_too_long_shrinks_even_while_others_share_the_gpu(void **state)
{
	(void)state;
	bool known;
	launch(false, 3 * MS); // its first launch had to load it
	sync();
	assert_about(softmig_estimate_ns(small, &known), 3 * MS, 300 * US);
	scene.sharers = 3;
	for (int i = 0; i < 10; i++) {
		now_ns += 100 * US;
		launch(false, MS);
		sync();
	}
	assert_about(softmig_estimate_ns(small, &known), MS, 50 * US);
	for (int i = 0; i < 10; i++) { // and does not grow with the time that others took
		now_ns += 100 * US;
		launch(false, 4 * MS);
		sync();
	}
	assert_about(softmig_estimate_ns(small, &known), MS, 50 * US);
}

static void a_queue_of_long_kernels_estimated_short_makes_the_estimate_no_longer_than_they_are(void **state)
{
	(void)state;
	bool known;
	launch(false, 300 * US);
	sync();
	now_ns += 100 * US;
	for (int i = 0; i < 6; i++) {
		launch(false, 5 * MS);
		softmig_lane_close(lane, 7, false, false, now_ns);
	}
	sync();
	assert_in_range(softmig_estimate_ns(small, &known), 2 * MS, 5 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_first_kernel_is_measured_with_events, fresh),
		cmocka_unit_test_setup(a_known_small_kernel_after_a_pause_needs_no_event, fresh),
		cmocka_unit_test_setup(one_that_takes_longer_than_ever_is_billed_whole_and_measured_next_time, fresh),
		cmocka_unit_test_setup(bursts_behind_copies_are_measured_but_one_of_seventeen, fresh),
		cmocka_unit_test_setup(without_a_pause_or_beside_others_events_are_set, fresh),
		cmocka_unit_test_setup(beside_other_streams_one_beginning_of_eight_is_measured_and_learned_from, fresh),
		cmocka_unit_test_setup(behind_a_copy_a_beginning_is_measured_also_beside_other_streams, fresh),
		cmocka_unit_test_setup(what_comes_behind_a_copy_begins_when_that_is_done, fresh),
		cmocka_unit_test_setup(what_had_to_wait_and_was_not_seen_to_end_is_billed_as_estimated, fresh),
		cmocka_unit_test_setup(a_lane_works_from_its_beginning_to_its_end, fresh),
		cmocka_unit_test_setup(a_burst_that_grows_gets_its_end_from_an_event, fresh),
		cmocka_unit_test_setup(a_queue_of_long_kernels_estimated_short_makes_the_estimate_no_longer_than_they_are, fresh),
		cmocka_unit_test_setup(an_estimate_made_too_long_shrinks_even_while_others_share_the_gpu, fresh),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
