// SPDX-License-Identifier: Apache-2.0
// The sum of the slices of a heterogeneous job's components.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "cli/slice_sum.h"

static struct softmig_limits slice(int gpus, const uint8_t *names, uint64_t bytes, uint8_t pct)
{
	struct softmig_limits limits;
	softmig_limits_init(&limits);
	for (int i = 0; i < gpus; i++) {
		limits.has_uuid[i] = true;
		memset(limits.uuid[i], names[i], 16);
		limits.memory_bytes[i] = bytes;
		limits.sm_pct[i] = pct;
	}
	return limits;
}

static void test_different_gpus_stand_beside_each_other(void **state)
{
	(void)state;
	struct softmig_limits sum = slice(1, (const uint8_t[]){ 1 }, 100, 25), part = slice(1, (const uint8_t[]){ 2 }, 70, 50);
	assert_true(softmig_slice_add(&sum, &part));
	assert_int_equal(softmig_slice_entries(&sum), 2);
	assert_int_equal(softmig_slice_entry(&sum, part.uuid[0]), 1);
	assert_int_equal(sum.memory_bytes[1], 70);
	assert_int_equal(sum.sm_pct[1], 50);
}

static void test_parts_of_one_gpu_add_up_and_never_pass_the_whole(void **state)
{
	(void)state;
	struct softmig_limits sum = slice(1, (const uint8_t[]){ 1 }, 100, 75), part = slice(1, (const uint8_t[]){ 1 }, 60, 50);
	assert_true(softmig_slice_add(&sum, &part));
	assert_int_equal(softmig_slice_entries(&sum), 1);
	assert_int_equal(sum.memory_bytes[0], 160);
	assert_int_equal(sum.sm_pct[0], 100);
}

static void test_more_gpus_than_a_slice_can_hold_are_refused(void **state)
{
	(void)state;
	uint8_t names[SOFTMIG_MAX_GPUS];
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++)
		names[i] = (uint8_t)i;
	struct softmig_limits sum = slice(SOFTMIG_MAX_GPUS, names, 1, 1), part = slice(1, (const uint8_t[]){ 77 }, 1, 1);
	assert_false(softmig_slice_add(&sum, &part));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_different_gpus_stand_beside_each_other),
		cmocka_unit_test(test_parts_of_one_gpu_add_up_and_never_pass_the_whole),
		cmocka_unit_test(test_more_gpus_than_a_slice_can_hold_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
