// SPDX-License-Identifier: Apache-2.0
// A job's course in time: bounded, in order, whatever stands in the ledger.
#include "cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "slice/series.h"
#include "slice/share.h"

static struct softmig_ledger_file file;
static struct softmig_series *series;
static struct softmig_series_point points[SOFTMIG_SERIES_READ];

// How many points there are besides now.
static int read_until(uint32_t second, uint64_t now_ns, const struct softmig_ledger_file *from)
{
	struct softmig_series_point now = { second, 0, UINT32_MAX, UINT32_MAX };
	int count = softmig_series_read(from, &now, now_ns, points);
	assert_int_equal(points[count - 1].second, second);
	return count - 1;
}

static int set_up(void **state)
{
	(void)state;
	memset(&file, 0, sizeof file);
	series = (struct softmig_series *)file.series_words;
	return 0;
}

static void add(uint32_t second)
{
	softmig_series_add(series, &(struct softmig_series_point){ second, second * 2, second * 100, second * 10 });
}

static void test_points_come_back_in_order(void **state)
{
	(void)state;
	assert_int_equal(read_until(1000000, 0, &file), 0);
	add(1);
	add(2);
	add(5);
	assert_int_equal(read_until(1000000, 0, &file), 3);
	assert_int_equal(points[2].second, 5);
	assert_int_equal(points[2].used_mib, 10);
	assert_int_equal(points[2].busy_ms, 500);
	assert_int_equal(points[2].throttled_ms, 50);
}

static void test_a_week_fits_at_a_distance_that_grows(void **state)
{
	(void)state;
	uint32_t second = 0;
	while (second < 7 * 86400) {
		uint64_t distance_s = series->taken >> 32;
		second += distance_s ? (uint32_t)distance_s : 1;
		add(second);
	}
	int count = read_until(1000000, 0, &file);
	assert_in_range(count, SOFTMIG_SERIES_POINTS / 2, SOFTMIG_SERIES_POINTS);
	assert_int_equal(points[0].second, 1); // the beginning stays
	assert_true(points[count - 1].second >= 7 * 86400);
	for (int i = 2; i < count; i++)
		assert_int_equal(points[i].second - points[i - 1].second, 4096);
}

static void test_a_sample_is_taken_when_it_is_due_and_says_what_the_job_uses(void **state)
{
	(void)state;
	char path[] = "/tmp/softmig-series.XXXXXX";
	struct softmig_ledger ledger = { 0 };
	uint8_t uuid[16] = "some GPU";
	close(mkstemp(path));
	unlink(path);
	assert_int_equal(softmig_ledger_open(&ledger, path, geteuid(), true), 0);
	int gpu = softmig_ledger_gpu(&ledger, uuid);
	assert_true(softmig_ledger_reserve(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, 300 << 20, 0));
	softmig_share_count((struct softmig_share *)ledger.file->gpu[gpu].share_words, 4000000, 7000000, 1000000000);
	ledger.file->created_ns -= 50000000000u;
	softmig_series_sample(&ledger, 1000000000);
	softmig_series_sample(&ledger, 1999999999); // not due
	assert_int_equal(read_until(1000000, 0, ledger.file), 1);
	assert_in_range(points[0].second, 50, 55);
	assert_int_equal(points[0].used_mib, 300);
	assert_int_equal(points[0].busy_ms, 4);
	assert_int_equal(points[0].throttled_ms, 7);
	ledger.file->created_ns -= 5000000000u;
	softmig_series_sample(&ledger, 2000000000);
	assert_int_equal(read_until(1000000, 0, ledger.file), 2);
	((struct softmig_series *)ledger.file->series_words)->due_ns = UINT64_MAX; // scribbled: no end of samples
	ledger.file->created_ns -= 5000000000u;
	softmig_series_sample(&ledger, 3000000000);
	assert_int_equal(read_until(1000000, 0, ledger.file), 3);
	softmig_ledger_close(&ledger);
	unlink(path);
}

static void test_what_was_held_since_the_job_was_last_heard_of_is_a_point(void **state)
{
	(void)state;
	add(1);
	series->seen_ns = 5000000000;
	file.slot[3].owner = 1ull << 62 | 4711ull << 32; // ended long ago, and nobody has looked since
	file.slot[3].use[0].tracked_bytes = 70 << 20;
	file.slot[3].use[1].overhead_bytes = 7 << 20;
	assert_int_equal(read_until(61, 55000000000, &file), 2);
	assert_int_equal(points[1].second, 11);
	assert_int_equal(points[1].used_mib, 77);
	assert_int_equal(points[2].used_mib, 0);
	assert_int_equal(read_until(51, 55000000000, &file), 1); // in the second of the last sample: that one is set right
	assert_int_equal(points[0].used_mib, 77);
	assert_int_equal(read_until(61, 4000000000, &file), 1); // a moment to come: garbage
}

static void test_garbage_is_left_out(void **state)
{
	(void)state;
	add(10);
	add(4); // out of order: somebody was killed while dropping samples
	add(10);
	softmig_series_add(series, &(struct softmig_series_point){ 11, 5, 3, 200 }); // GPU time that goes backwards
	add(12);
	assert_int_equal(read_until(1000000, 0, &file), 2);
	assert_int_equal(points[1].second, 12);
	memset(file.series_words, 0xff, sizeof file.series_words);
	assert_in_range(read_until(1000000, 0, &file), 0, 1);
	add(1); // and goes on
	assert_int_equal((uint32_t)series->taken, SOFTMIG_SERIES_POINTS / 2 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_points_come_back_in_order, set_up),
		cmocka_unit_test_setup(test_a_week_fits_at_a_distance_that_grows, set_up),
		cmocka_unit_test(test_a_sample_is_taken_when_it_is_due_and_says_what_the_job_uses),
		cmocka_unit_test_setup(test_what_was_held_since_the_job_was_last_heard_of_is_a_point, set_up),
		cmocka_unit_test_setup(test_garbage_is_left_out, set_up),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
