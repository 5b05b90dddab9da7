// SPDX-License-Identifier: Apache-2.0
// A slice seen from outside: the figures of status, list and metrics are those of the ledger and of the limits.
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/view.h"
#include "slice/share.h"

static const uint8_t first[16] = { 1, 2, 3 };
static const uint8_t second[16] = { 9, 8, 7 };
enum { MIB = 1 << 20 };

static char path[64];
static struct softmig_ledger ledger;
static struct softmig_view view;

static int setup(void **state)
{
	(void)state;
	for (int i = -1; i < SOFTMIG_MAX_GPUS; i++) {
		char name[64];
		snprintf(name, sizeof name, i < 0 ? "CUDA_DEVICE_MEMORY_LIMIT" : "CUDA_DEVICE_MEMORY_LIMIT_%d", i);
		unsetenv(name);
		snprintf(name, sizeof name, i < 0 ? "CUDA_DEVICE_SM_LIMIT" : "CUDA_DEVICE_SM_LIMIT_%d", i);
		unsetenv(name);
	}
	unsetenv("SLURM_JOB_ID");
	snprintf(path, sizeof path, "/tmp/softmig-view.%d", (int)getpid());
	setenv("CUDA_DEVICE_MEMORY_SHARED_CACHE", path, 1);
	ledger = (struct softmig_ledger){ 0 };
	return softmig_ledger_open(&ledger, path, geteuid(), true);
}

static int teardown(void **state)
{
	(void)state;
	softmig_view_free(&view);
	softmig_ledger_close(&ledger);
	return unlink(path);
}

static int use(const uint8_t uuid[16], uint64_t tracked_bytes, uint64_t overhead_bytes)
{
	int gpu = softmig_ledger_gpu(&ledger, uuid);
	assert_true(gpu >= 0);
	assert_true(softmig_ledger_reserve(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, tracked_bytes, 0));
	softmig_ledger_set_overhead(&ledger, gpu, overhead_bytes);
	return gpu;
}

static void test_without_limits_there_is_no_slice(void **state)
{
	(void)state;
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_NONE);
}

static void test_limits_that_are_refused_are_told(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", "lots", 1);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_FAILED);
	assert_non_null(strstr(view.why, "refused"));
}

static void test_used_left_peak_and_refusals_are_the_ledgers(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", "1G", 1);
	setenv("CUDA_DEVICE_SM_LIMIT", "25", 1);
	int gpu = use(first, 700 * MIB, 100 * MIB);
	softmig_ledger_release(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, 500 * MIB);
	assert_false(softmig_ledger_reserve(&ledger, gpu, SOFTMIG_LEDGER_TRACKED, 900ull * MIB, 1024ull * MIB));
	softmig_ledger_count_refusal(&ledger, gpu);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_OK);
	assert_int_equal(view.gpus, 1);
	assert_memory_equal(view.gpu[0].uuid, first, sizeof first);
	assert_int_equal(view.gpu[0].limit_bytes, 1024ull * MIB);
	assert_int_equal(view.gpu[0].sm_pct, 25);
	assert_int_equal(view.gpu[0].used_bytes, 300ull * MIB);
	assert_int_equal(view.gpu[0].peak_bytes, 800ull * MIB);
	assert_int_equal(view.gpu[0].refusals, 1);
	assert_false(view.from_file);
	assert_int_equal(view.uid, geteuid());
}

static void test_a_process_is_told_with_its_name_and_its_overhead(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", "1G", 1);
	use(first, 10 * MIB, 5 * MIB);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_OK);
	int cursor = 0;
	struct softmig_view_process process;
	assert_true(softmig_view_next_process(&view, &cursor, &process));
	assert_int_equal(process.in_ledger.pid, getpid());
	assert_int_equal(process.in_ledger.used_bytes[view.gpu[0].ledger], 15 * MIB);
	assert_int_equal(process.in_ledger.overhead_bytes[view.gpu[0].ledger], 5 * MIB);
	assert_string_equal(process.name, "test_view");
	assert_false(softmig_view_next_process(&view, &cursor, &process));
}

static void test_limits_that_differ_from_gpu_to_gpu_are_not_guessed(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT_0", "1G", 1);
	setenv("CUDA_DEVICE_MEMORY_LIMIT_1", "2G", 1);
	use(first, MIB, 0);
	use(second, 2 * MIB, 0);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_OK);
	assert_int_equal(view.gpus, 2);
	assert_false(view.gpu[0].limit_known);
	assert_int_equal(view.gpu[1].used_bytes, 2 * MIB);
}

static void test_time_used_and_time_throttled_are_the_shares(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_SM_LIMIT", "50", 1);
	int gpu = use(first, MIB, 0);
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	struct softmig_share *share = (struct softmig_share *)(void *)ledger.file->gpu[gpu].share_words;
	softmig_share_count(share, 3000000, 2000000, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_OK);
	assert_int_equal(view.gpu[0].busy_ns, 3000000);
	assert_int_equal(view.gpu[0].throttled_ns, 2000000);
}

static void test_a_ledger_full_of_garbage_harms_nobody(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", "1G", 1);
	use(first, MIB, 0);
	memset(ledger.file->gpu, 0xff, sizeof ledger.file->gpu);
	memset(ledger.file->slot, 0xff, sizeof ledger.file->slot);
	enum softmig_view_status status = softmig_view_process(&view, 0);
	assert_true(status == SOFTMIG_VIEW_OK || status == SOFTMIG_VIEW_FAILED);
	assert_in_range(view.gpus, 0, SOFTMIG_MAX_GPUS);
}

static void test_a_file_that_is_no_ledger_is_said_to_be_none(void **state)
{
	(void)state;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", "1G", 1);
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(softmig_view_process(&view, 0), SOFTMIG_VIEW_FAILED);
	assert_non_null(strstr(view.why, "no ledger"));
	assert_int_equal(truncate(path, sizeof(struct softmig_ledger_file)), 0);
}

static void test_another_process_is_seen_by_its_environment(void **state)
{
	(void)state;
	int ready[2];
	assert_int_equal(pipe(ready), 0);
	use(first, 7 * MIB, 0);
	pid_t child = fork();
	if (child == 0) {
		char cache[128];
		snprintf(cache, sizeof cache, "CUDA_DEVICE_MEMORY_SHARED_CACHE=%s", path);
		char *environment[] = { cache, (char[]){ "CUDA_DEVICE_MEMORY_LIMIT=64M" }, NULL };
		dup2(ready[1], 1);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		// It stays what it is: in the middle of an exec it would have no environment.
		execle("/bin/sh", "sh", "-c", "echo; kill -STOP $$", (char *)NULL, environment);
		_exit(1);
	}
	char byte;
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_int_equal(softmig_view_process(&view, child), SOFTMIG_VIEW_OK);
	assert_int_equal(view.gpu[0].limit_bytes, 64 * MIB);
	assert_int_equal(view.gpu[0].used_bytes, 7 * MIB);
	kill(child, SIGKILL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_without_limits_there_is_no_slice, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits_that_are_refused_are_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_used_left_peak_and_refusals_are_the_ledgers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_process_is_told_with_its_name_and_its_overhead, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits_that_differ_from_gpu_to_gpu_are_not_guessed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_time_used_and_time_throttled_are_the_shares, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_ledger_full_of_garbage_harms_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_file_that_is_no_ledger_is_said_to_be_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_process_is_seen_by_its_environment, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
