// SPDX-License-Identifier: Apache-2.0
// What a job is told about its slice.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/summary.h"

static const uint64_t GIB = 1ull << 30;

// A job of 1000 s on one GPU, with a quarter of it.
static struct softmig_summary job(uint64_t peak_bytes, uint64_t refusals, uint64_t busy_s, uint64_t throttled_s)
{
	struct softmig_summary summary = { .job = 17, .began_s = 1000, .ended_s = 2000, .gpus = 1 };
	summary.gpu[0] = (struct softmig_summary_gpu){ .used = peak_bytes > 0, .limit_bytes = 12 * GIB, .peak_bytes = peak_bytes, .refusals = refusals,
		                                       .sm_pct = 25, .busy_ns = busy_s * 1000000000, .throttled_ns = throttled_s * 1000000000 };
	return summary;
}

static void suggests(struct softmig_summary summary, const char *words)
{
	if (!strstr(softmig_summary_suggestion(&summary), words))
		fail_msg("'%s' lacks '%s'", softmig_summary_suggestion(&summary), words);
}

static void test_the_suggestion_names_what_held_the_job_up_first(void **state)
{
	(void)state;
	suggests(job(0, 0, 0, 0), "never used");
	suggests(job(12 * GIB, 3, 240, 500), "memory was refused");
	suggests(job(11 * GIB, 0, 240, 500), "compute time was the limit");
	suggests(job(2 * GIB, 0, 40, 0), "half the size");
	suggests(job(2 * GIB, 0, 240, 0), "fitted");  // all of its share, but nothing waited
	suggests(job(10 * GIB, 0, 40, 0), "fitted");  // needs the memory
}

static void test_the_mean_share_is_of_the_whole_time(void **state)
{
	(void)state;
	struct softmig_summary summary = job(GIB, 0, 249, 0);
	assert_int_equal(softmig_summary_mean_permille(&summary, 0), 249);
	summary.gpu[0].busy_ns = UINT64_MAX;
	assert_int_equal(softmig_summary_mean_permille(&summary, 0), 1000);
	summary.ended_s = summary.began_s;
	assert_int_equal(softmig_summary_mean_permille(&summary, 0), 0);
}

static int read_text(const char *text, struct softmig_summary *summary)
{
	char directory[] = "/tmp/softmig-summary.XXXXXX", path[64];
	assert_non_null(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/17.report", directory);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
	int error = softmig_summary_read(directory, 17, summary);
	unlink(path);
	rmdir(directory);
	return error;
}

#define HEAD "job=17\nuid=5\nbegan_s=1\nended_s=2\n"
#define GPU "gpu0_uuid=GPU-01020304-0506-0708-090a-0b0c0d0e0f10\ngpu0_used=1\ngpu0_limit_bytes=4096\ngpu0_peak_bytes=17\n" \
	"gpu0_refusals=2\ngpu0_sm_pct=25\ngpu0_busy_ns=3\ngpu0_throttled_ns=4\n"

static void test_a_report_is_read_back(void **state)
{
	(void)state;
	struct softmig_summary summary;
	assert_int_equal(read_text(HEAD "gpus=1\n" GPU, &summary), 0);
	assert_int_equal(summary.gpus, 1);
	assert_int_equal(summary.gpu[0].limit_bytes, 4096);
	assert_int_equal(summary.gpu[0].uuid[15], 16);
	assert_int_equal(summary.gpu[0].throttled_ns, 4);
}

static void test_the_course_is_read_back_and_has_to_go_forward(void **state)
{
	(void)state;
	struct softmig_summary summary;
	assert_int_equal(read_text(HEAD "gpus=1\n" GPU "point=0 5 0 0\npoint=7 6 20 4294967295\n", &summary), 0);
	assert_int_equal(summary.points, 2);
	assert_int_equal(summary.point[1].second, 7);
	assert_int_equal(summary.point[1].used_mib, 6);
	assert_int_equal(summary.point[1].busy_ms, 20);
	assert_int_equal(summary.point[1].throttled_ms, UINT32_MAX);
	assert_int_equal(read_text(HEAD "gpus=1\n" GPU "point=7 5 0 0\npoint=7 6 20 3\n", &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=1\n" GPU "point=7 5 0 4294967296\n", &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=1\n" GPU "point=7 5 0\n", &summary), EINVAL);
	char text[8192] = HEAD "gpus=1\n" GPU;
	for (int i = 0; i <= SOFTMIG_SERIES_READ; i++)
		snprintf(text + strlen(text), sizeof text - strlen(text), "point=%d 0 0 0\n", i);
	assert_int_equal(read_text(text, &summary), EINVAL); // one too many
}

static void test_a_report_that_its_user_has_edited_harms_nobody(void **state)
{
	(void)state;
	struct softmig_summary summary;
	assert_int_equal(read_text("", &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=17\n" GPU, &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=2\n" GPU, &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=-1\n" GPU, &summary), EINVAL);
	assert_int_equal(read_text("job=18\nuid=5\nbegan_s=1\nended_s=2\ngpus=0\n", &summary), EINVAL);
	assert_int_equal(read_text("job=17\nuid=5\nbegan_s=3\nended_s=2\ngpus=0\n", &summary), EINVAL);
	assert_int_equal(read_text(HEAD "gpus=99999999999999999999999\n", &summary), EINVAL);
	assert_int_equal(softmig_summary_read("/nowhere", 17, &summary), ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_suggestion_names_what_held_the_job_up_first),
		cmocka_unit_test(test_the_mean_share_is_of_the_whole_time),
		cmocka_unit_test(test_a_report_is_read_back),
		cmocka_unit_test(test_the_course_is_read_back_and_has_to_go_forward),
		cmocka_unit_test(test_a_report_that_its_user_has_edited_harms_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
