// SPDX-License-Identifier: Apache-2.0
// The grammar of limits: what is meant is understood, and what is doubtful is refused with its line.
#include <stdio.h>
#include <string.h>

#include "cmocka_all.h"
#include "slice/limits.h"

static struct softmig_limits limits;
static struct softmig_limits_error error;

static enum softmig_limits_status parse(const char *text) {
	memset(&limits, 0x5a, sizeof(limits));
	memset(&error, 0x5a, sizeof(error));
	return softmig_limits_parse(text, strlen(text), &limits, &error);
}

static void assert_no_limits(const struct softmig_limits *given) {
	struct softmig_limits none;
	softmig_limits_init(&none);
	assert_memory_equal(given, &none, sizeof(none));
}

// text is refused in its line, saying something with word in it, and leaves no limits.
static void assert_bad(const char *text, int line, const char *word) {
	if (parse(text) != SOFTMIG_LIMITS_BAD)
		fail_msg("accepted: %s", text);
	if (strstr(error.message, word) == NULL)
		fail_msg("of '%s' it is said: %s", text, error.message);
	assert_int_equal(error.line, line);
	assert_no_limits(&limits);
}

static void sizes_are_understood(void **state) {
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {
		{"12288M", 12288ull << 20},
		{"24G", 24ull << 30},
		{"16g", 16ull << 30},
		{"12GB", 12ull << 30},
		{"12GiB", 12ull << 30},
		{"12gib", 12ull << 30},
		{"12Gb", 12ull << 30},
		{"12gIB", 12ull << 30},
		{"1048576k", 1ull << 30},
		{"1048576K", 1ull << 30},
		{"2T", 2ull << 40},
		{"1tib", 1ull << 40},
		{"1", 1},
		{"4294967296", 4294967296},
		{"007m", 7ull << 20},
		{"1g", 1ull << 30},
		{"9223372036854775807", INT64_MAX},
		{"8388607T", 8388607ull << 40},
		{"9007199254740991K", 9007199254740991ull << 10},
	};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		uint64_t bytes = 0;
		if (!softmig_limits_parse_bytes(sizes[i].text, strlen(sizes[i].text), &bytes) || bytes != sizes[i].bytes)
			fail_msg("%s is read as %llu", sizes[i].text, (unsigned long long)bytes);
	}
}

static void doubtful_sizes_are_refused(void **state) {
	(void)state;
	static const char *const refused[] = {"",
	                                      "0",
	                                      "0m",
	                                      "0G",
	                                      "00",
	                                      "m",
	                                      "G",
	                                      "GiB",
	                                      "-1",
	                                      "+1",
	                                      "-1G",
	                                      "1.5G",
	                                      "1,5G",
	                                      "1e9",
	                                      " 1G",
	                                      "1G ",
	                                      "1 G",
	                                      "12Gi",
	                                      "12GBB",
	                                      "12B",
	                                      "12b",
	                                      "12iB",
	                                      "12X",
	                                      "12P",
	                                      "12MM",
	                                      "12Mb/s",
	                                      "0x10",
	                                      "1G\n",
	                                      "1G#",
	                                      "1_000M",
	                                      "unlimited",
	                                      "inf",
	                                      "50%",
	                                      "9223372036854775808",
	                                      "18446744073709551616",
	                                      "18446744073709551617",
	                                      "8388608T",
	                                      "9007199254740992K",
	                                      "8796093022208M",
	                                      "8589934592G",
	                                      "99999999999999999999999999999999G",
	                                      "1\xc2\xa0G",
	                                      "\xd9\xa1G"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		uint64_t bytes = 4711;
		if (softmig_limits_parse_bytes(refused[i], strlen(refused[i]), &bytes))
			fail_msg("'%s' is read as %llu", refused[i], (unsigned long long)bytes);
		assert_int_equal(bytes, 4711);
	}
	uint64_t bytes = 4711;
	assert_false(softmig_limits_parse_bytes("1\0G", 3, &bytes));
	assert_true(softmig_limits_parse_bytes("12GX", 3, &bytes)); // only length bytes are read
	assert_int_equal(bytes, 12ull << 30);
}

static void percentages_are_0_to_100(void **state) {
	(void)state;
	uint8_t pct = 0;
	for (int expected = 1; expected <= 100; expected++) {
		char text[8];
		snprintf(text, sizeof(text), "%d", expected);
		assert_true(softmig_limits_parse_pct(text, strlen(text), &pct));
		assert_int_equal(pct, expected);
	}
	pct = 7;
	assert_true(softmig_limits_parse_pct("0", 1, &pct));
	assert_int_equal(pct, 100); // no limit
	static const char *const refused[] = {
		"", "101", "-1", "+5", "50%", "5.5", " 5", "5 ", "256", "300", "4294967346", "18446744073709551666", "x"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		pct = 7;
		assert_false(softmig_limits_parse_pct(refused[i], strlen(refused[i]), &pct));
		assert_int_equal(pct, 7);
	}
}

static void uuids_are_sixteen_bytes(void **state) {
	(void)state;
	static const uint8_t expected[16] = {0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
	                                     0x01, 0x23, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54};
	uint8_t uuid[16];
	static const char *const same[] = {"GPU-01234567-89ab-cdef-0123-fedcba987654",
	                                   "gpu-01234567-89AB-CDEF-0123-FEDCBA987654"};
	for (size_t i = 0; i < 2; i++) {
		memset(uuid, 0, sizeof(uuid));
		assert_true(softmig_limits_parse_uuid(same[i], strlen(same[i]), uuid));
		assert_memory_equal(uuid, expected, 16);
	}
	static const char *const refused[] = {"",
	                                      "GPU-",
	                                      "MIG-01234567-89ab-cdef-0123-fedcba987654",
	                                      "01234567-89ab-cdef-0123-fedcba987654",
	                                      "GPU-01234567-89ab-cdef-0123-fedcba98765",
	                                      "GPU-01234567-89ab-cdef-0123-fedcba9876543",
	                                      "GPU-0123456789ab-cdef-0123-fedcba9876-54",
	                                      "GPU-01234567-89ab-cdef-0123-fedcba98765g",
	                                      "GPU-01234567-89ab-cdef-0123-fedcba98765 ",
	                                      "GPU-01234567_89ab_cdef_0123_fedcba987654"};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		assert_false(softmig_limits_parse_uuid(refused[i], strlen(refused[i]), uuid));
	assert_memory_equal(uuid, expected, 16); // left alone
}

static void a_whole_file_is_understood(void **state) {
	(void)state;
	assert_int_equal(parse("# slice of job 7\n"
	                       "CUDA_DEVICE_MEMORY_LIMIT=12288M\n"
	                       "\n"
	                       "  CUDA_DEVICE_SM_LIMIT = 25   # a quarter\n"
	                       "\tACTIVE_OOM_KILLER\t=\t1\n"
	                       "SOFTMIG_LOG_LEVEL=2\r\n"
	                       "SOFTMIG_SHARE_MODE=borrow\n"
	                       "SOFTMIG_GPU_UUID_3=GPU-01234567-89ab-cdef-0123-fedcba987654\n"),
	                 SOFTMIG_LIMITS_OK);
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
		assert_int_equal(limits.memory_bytes[gpu], 12288ull << 20);
		assert_int_equal(limits.sm_pct[gpu], 25);
		assert_int_equal(limits.has_uuid[gpu], gpu == 3);
	}
	assert_int_equal(limits.uuid[3][15], 0x54);
	assert_true(limits.has_memory);
	assert_true(limits.has_sm);
	assert_true(limits.oom_killer);
	assert_int_equal(limits.log_level, 2);
	assert_int_equal(limits.share_mode, SOFTMIG_SHARE_BORROW);
}

static void what_is_not_named_is_not_limited(void **state) {
	(void)state;
	assert_int_equal(parse("CUDA_DEVICE_MEMORY_LIMIT=1G"), SOFTMIG_LIMITS_OK); // no newline at the end
	assert_true(limits.has_memory);
	assert_false(limits.has_sm);
	assert_int_equal(limits.sm_pct[0], 100);
	assert_false(limits.oom_killer);
	assert_int_equal(limits.log_level, -1);
	assert_int_equal(limits.share_mode, SOFTMIG_SHARE_CAP);
	assert_int_equal(parse("CUDA_DEVICE_SM_LIMIT=0\n"), SOFTMIG_LIMITS_OK);
	assert_true(limits.has_sm); // launches are hooked, so that a share can come later
	assert_int_equal(limits.sm_pct[0], 100);
	assert_false(limits.has_memory);
	assert_int_equal(limits.memory_bytes[0], 0);
	assert_int_equal(parse("SOFTMIG_LOG_LEVEL=4\n"), SOFTMIG_LIMITS_OK);
	assert_false(limits.has_memory);
	assert_false(limits.has_sm);
}

static void a_gpus_own_value_wins_whichever_comes_first(void **state) {
	(void)state;
	static const char *const both[] = {"CUDA_DEVICE_MEMORY_LIMIT_1=2G\nCUDA_DEVICE_SM_LIMIT_15=10\nCUDA_DEVICE_MEMORY_"
	                                   "LIMIT=1G\nCUDA_DEVICE_SM_LIMIT=50\n",
	                                   "CUDA_DEVICE_MEMORY_LIMIT=1G\nCUDA_DEVICE_SM_LIMIT=50\nCUDA_DEVICE_SM_LIMIT_15="
	                                   "10\nCUDA_DEVICE_MEMORY_LIMIT_1=2G\n"};
	for (int i = 0; i < 2; i++) {
		assert_int_equal(parse(both[i]), SOFTMIG_LIMITS_OK);
		for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
			assert_int_equal(limits.memory_bytes[gpu], gpu == 1 ? 2ull << 30 : 1ull << 30);
			assert_int_equal(limits.sm_pct[gpu], gpu == 15 ? 10 : 50);
		}
	}
	assert_int_equal(parse("CUDA_DEVICE_SM_LIMIT=50\nCUDA_DEVICE_SM_LIMIT_2=0\nCUDA_DEVICE_MEMORY_LIMIT_0=3G\n"),
	                 SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.sm_pct[2], 100);
	assert_int_equal(limits.sm_pct[3], 50);
	assert_int_equal(limits.memory_bytes[0], 3ull << 30);
	assert_int_equal(limits.memory_bytes[1], 0);
	assert_true(limits.has_memory);
}

static void faults_are_named_with_their_line(void **state) {
	(void)state;
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\nCUDA_DEVICE_SM_LIMIT\n", 2, "no '='");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\nhello world\n", 2, "hello world");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\n\n\nCUDA_DEVICE_MEMORY_LIMITS=1G\n", 4, "unknown key");
	assert_bad("cuda_device_memory_limit=1G\n", 1, "unknown key");
	assert_bad("export CUDA_DEVICE_MEMORY_LIMIT=1G\n", 1, "unknown key");
	assert_bad("=1G\n", 1, "unknown key");
	assert_bad("SOFTMIG_FUTURE_LIMIT=1G\nCUDA_DEVICE_MEMORY_LIMIT=1G\n", 1, "unknown key");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=# none\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT= # none\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=0\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G#5\n", 1, "not a size"); // a comment follows a blank
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=\"1G\"\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G=2G\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\rCUDA_DEVICE_SM_LIMIT=5\n", 1, "not a size");
	assert_bad("CUDA_DEVICE_SM_LIMIT=101\n", 1, "0 to 100");
	assert_bad("CUDA_DEVICE_SM_LIMIT=50%\n", 1, "0 to 100");
	assert_bad("ACTIVE_OOM_KILLER=2\n", 1, "0 or 1");
	assert_bad("ACTIVE_OOM_KILLER=yes\n", 1, "0 or 1");
	assert_bad("SOFTMIG_LOG_LEVEL=5\n", 1, "0 to 4");
	assert_bad("SOFTMIG_LOG_LEVEL=-1\n", 1, "0 to 4");
	assert_bad("SOFTMIG_LOG_LEVEL=11\n", 1, "0 to 4");
	assert_bad("SOFTMIG_SHARE_MODE=lend\n", 1, "cap or borrow");
	assert_bad("SOFTMIG_SHARE_MODE=CAP\n", 1, "cap or borrow");
	assert_bad("SOFTMIG_GPU_UUID_0=MIG-01234567-89ab-cdef-0123-fedcba987654\n", 1, "UUID");
	assert_bad("SOFTMIG_GPU_UUID=GPU-01234567-89ab-cdef-0123-fedcba987654\n", 1, "unknown key");
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\nSOFTMIG_LOG_FILE=/x\n", 2, "environment only");
	assert_bad("CUDA_DEVICE_MEMORY_SHARED_CACHE=/x\n", 1, "environment only");
	assert_bad("\xef\xbb\xbf"
	           "CUDA_DEVICE_MEMORY_LIMIT=1G\n",
	           1, "byte order mark");
	assert_bad("C\0U", 1, "no '='");
}

static void gpu_numbers_are_0_to_15(void **state) {
	(void)state;
	static const char *const suffixes[] = {"16", "99", "", "-1", "00", "01", "1 ", "x", "1x", "18446744073709551616",
	                                       "1_2"};
	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		char text[128];
		snprintf(text, sizeof(text), "CUDA_DEVICE_MEMORY_LIMIT_%s=1G\n", suffixes[i]);
		if (strcmp(suffixes[i], "1 ") == 0)
			assert_int_equal(parse(text), SOFTMIG_LIMITS_OK); // a blank before '='
		else
			assert_bad(text, 1, "names no GPU from 0 to 15");
	}
	assert_bad("ACTIVE_OOM_KILLER_0=1\n", 1, "unknown key");
	assert_bad("CUDA_DEVICE_SM_LIMIT_16=1\n", 1, "names no GPU");
	assert_bad("SOFTMIG_GPU_UUID_16=GPU-01234567-89ab-cdef-0123-fedcba987654\n", 1, "names no GPU");
}

static void nothing_is_given_twice(void **state) {
	(void)state;
	assert_bad("CUDA_DEVICE_MEMORY_LIMIT=1G\n\nCUDA_DEVICE_MEMORY_LIMIT=1G\n", 3, "first in line 1");
	assert_bad("#\nCUDA_DEVICE_SM_LIMIT_4=1\nCUDA_DEVICE_SM_LIMIT_4=0\n", 3, "first in line 2");
	assert_bad("SOFTMIG_SHARE_MODE=cap\nSOFTMIG_SHARE_MODE=cap\n", 2, "twice");
	assert_bad("SOFTMIG_GPU_UUID_0=GPU-01234567-89ab-cdef-0123-fedcba987654\n"
	           "SOFTMIG_GPU_UUID_2=GPU-01234567-89AB-cdef-0123-fedcba987654\n",
	           2, "same GPU");
}

static void the_older_log_key_gives_way(void **state) {
	(void)state;
	assert_int_equal(parse("LIBCUDA_LOG_LEVEL=4\n"), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.log_level, 4);
	assert_int_equal(parse("SOFTMIG_LOG_LEVEL=0\nLIBCUDA_LOG_LEVEL=4\n"), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.log_level, 0);
	assert_int_equal(parse("LIBCUDA_LOG_LEVEL=4\nSOFTMIG_LOG_LEVEL=1\n"), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.log_level, 1);
}

static void a_text_without_a_key_is_refused(void **state) {
	(void)state;
	static const char *const empty[] = {"", "\n", "\n\n\n", "# nothing\n", "   \t\r\n", "#"};
	for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
		assert_bad(empty[i], 0, "names no key");
	assert_int_equal(softmig_limits_parse(NULL, 0, &limits, &error), SOFTMIG_LIMITS_BAD);
}

static void a_nul_byte_is_refused(void **state) {
	(void)state;
	static const char text[] = "CUDA_DEVICE_SM_LIMIT=5\nCUDA_DEVICE_MEMORY_LIMIT=1G\0\n";
	assert_int_equal(softmig_limits_parse(text, sizeof(text) - 1, &limits, &error), SOFTMIG_LIMITS_BAD);
	assert_int_equal(error.line, 2);
	assert_non_null(strstr(error.message, "NUL"));
	static const char in_comment[] = "CUDA_DEVICE_SM_LIMIT=5\n# \0\n";
	assert_int_equal(softmig_limits_parse(in_comment, sizeof(in_comment) - 1, &limits, &error), SOFTMIG_LIMITS_BAD);
}

static void long_lines_and_files_are_refused(void **state) {
	(void)state;
	static char text[SOFTMIG_LIMITS_FILE_BYTES + 64];
	memset(text, '#', sizeof(text));
	text[SOFTMIG_LIMITS_LINE_BYTES] = '\n';
	memcpy(text + SOFTMIG_LIMITS_LINE_BYTES + 1, "CUDA_DEVICE_SM_LIMIT=5", 22);
	size_t length = SOFTMIG_LIMITS_LINE_BYTES + 23;
	assert_int_equal(softmig_limits_parse(text, length, &limits, &error), SOFTMIG_LIMITS_OK);
	text[SOFTMIG_LIMITS_LINE_BYTES] = '#';
	text[SOFTMIG_LIMITS_LINE_BYTES + 1] = '\n';
	assert_int_equal(softmig_limits_parse(text, length, &limits, &error), SOFTMIG_LIMITS_BAD);
	assert_int_equal(error.line, 1);
	assert_non_null(strstr(error.message, "longer"));
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = i % 64 == 63 ? '\n' : '#';
	memcpy(text, "CUDA_DEVICE_SM_LIMIT=5\n", 23);
	assert_int_equal(softmig_limits_parse(text, SOFTMIG_LIMITS_FILE_BYTES, &limits, &error), SOFTMIG_LIMITS_OK);
	assert_int_equal(softmig_limits_parse(text, SOFTMIG_LIMITS_FILE_BYTES + 1, &limits, &error), SOFTMIG_LIMITS_BAD);
	assert_int_equal(error.line, 0);
	assert_non_null(strstr(error.message, "larger"));
}

static void messages_are_printable_and_short(void **state) {
	(void)state;
	assert_int_equal(parse("\x1b[31mRED\n"), SOFTMIG_LIMITS_BAD);
	assert_string_equal(error.message, "'?[31mRED' has no '='; KEY=VALUE is expected");
	char text[512];
	memset(text, 'K', sizeof(text));
	memcpy(text + 300, "=1\n", 4);
	assert_int_equal(parse(text), SOFTMIG_LIMITS_BAD);
	assert_int_equal(strncmp(error.message, "unknown key 'KKKK", 17), 0);
	assert_non_null(strstr(error.message, "K...'"));
	assert_true(strlen(error.message) < 80);
	assert_int_equal(softmig_limits_parse("x", 1, &limits, NULL), SOFTMIG_LIMITS_BAD);
}

static enum softmig_limits_status from(char *const *environment) {
	memset(&limits, 0x5a, sizeof(limits));
	memset(&error, 0x5a, sizeof(error));
	return softmig_limits_from_environment(environment, &limits, &error);
}

static void the_environment_says_the_same(void **state) {
	(void)state;
	char *const some[] = {(char *)"HOME=/root",
	                      (char *)"CUDA_DEVICE_MEMORY_LIMIT=1g",
	                      (char *)"CUDA_DEVICE_SM_LIMIT_1=50",
	                      (char *)"ACTIVE_OOM_KILLER=1",
	                      (char *)"SOFTMIG_SHARE_MODE=borrow",
	                      (char *)"LIBCUDA_LOG_LEVEL=3",
	                      (char *)"CUDA_DEVICE_MEMORY_LIMIT=2g",
	                      (char *)"SOFTMIG_LOG_FILE=/x",
	                      (char *)"nonsense",
	                      NULL};
	assert_int_equal(from(some), SOFTMIG_LIMITS_OK);
	assert_int_equal(limits.memory_bytes[0], 1ull << 30); // the first, as getenv
	assert_int_equal(limits.memory_bytes[15], 1ull << 30);
	assert_int_equal(limits.sm_pct[0], 100);
	assert_int_equal(limits.sm_pct[1], 50);
	assert_true(limits.has_memory && limits.has_sm && limits.oom_killer);
	assert_int_equal(limits.log_level, 3);
	assert_int_equal(limits.share_mode, SOFTMIG_SHARE_BORROW);
}

static void an_environment_without_limits_is_none(void **state) {
	(void)state;
	char *const other[] = {(char *)"PATH=/bin",
	                       (char *)"ACTIVE_OOM_KILLER=maybe",
	                       (char *)"SOFTMIG_LOG_LEVEL=9",
	                       (char *)"CUDA_DEVICE_MEMORY_LIMITED=x",
	                       (char *)"CUDA_DEVICE_MEMORY_SHARED_CACHE=/x",
	                       (char *)"XCUDA_DEVICE_MEMORY_LIMIT=1G",
	                       (char *)"CUDA_DEVICE_MEMORY_LIMIT",
	                       (char *)"=",
	                       (char *)"",
	                       NULL};
	assert_int_equal(from(other), SOFTMIG_LIMITS_ABSENT);
	assert_no_limits(&limits);
	assert_int_equal(from((char *const[]){NULL}), SOFTMIG_LIMITS_ABSENT);
	assert_int_equal(from(NULL), SOFTMIG_LIMITS_ABSENT);
}

static void a_doubtful_environment_is_refused(void **state) {
	(void)state;
	static const char *const refused[][2] = {
		{"CUDA_DEVICE_MEMORY_LIMIT=", "not a size"},    {"CUDA_DEVICE_MEMORY_LIMIT=0", "not a size"},
		{"CUDA_DEVICE_MEMORY_LIMIT=4 G", "not a size"}, {"CUDA_DEVICE_MEMORY_LIMIT_16=4G", "names no GPU"},
		{"CUDA_DEVICE_SM_LIMIT=200", "0 to 100"},       {"CUDA_DEVICE_SM_LIMIT_x=2", "names no GPU"}};
	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		char *const one[] = {(char *)(uintptr_t)refused[i][0], NULL};
		assert_int_equal(from(one), SOFTMIG_LIMITS_BAD);
		assert_int_equal(error.line, 0);
		if (strstr(error.message, refused[i][1]) == NULL)
			fail_msg("of '%s' it is said: %s", refused[i][0], error.message);
		assert_no_limits(&limits);
	}
	char *const twins[] = {(char *)"CUDA_DEVICE_SM_LIMIT=20",
	                       (char *)"SOFTMIG_GPU_UUID_0=GPU-01234567-89ab-cdef-0123-fedcba987654",
	                       (char *)"SOFTMIG_GPU_UUID_1=GPU-01234567-89ab-cdef-0123-fedcba987654", NULL};
	assert_int_equal(from(twins), SOFTMIG_LIMITS_BAD);
	assert_int_equal(error.line, 0); // there are no lines
	assert_non_null(strstr(error.message, "same GPU"));
	char *const level[] = {(char *)"CUDA_DEVICE_SM_LIMIT=20", (char *)"SOFTMIG_LOG_LEVEL=9", NULL};
	assert_int_equal(from(level), SOFTMIG_LIMITS_BAD);
}

int main(void) {
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_understood),
		cmocka_unit_test(doubtful_sizes_are_refused),
		cmocka_unit_test(percentages_are_0_to_100),
		cmocka_unit_test(uuids_are_sixteen_bytes),
		cmocka_unit_test(a_whole_file_is_understood),
		cmocka_unit_test(what_is_not_named_is_not_limited),
		cmocka_unit_test(a_gpus_own_value_wins_whichever_comes_first),
		cmocka_unit_test(faults_are_named_with_their_line),
		cmocka_unit_test(gpu_numbers_are_0_to_15),
		cmocka_unit_test(nothing_is_given_twice),
		cmocka_unit_test(the_older_log_key_gives_way),
		cmocka_unit_test(a_text_without_a_key_is_refused),
		cmocka_unit_test(a_nul_byte_is_refused),
		cmocka_unit_test(long_lines_and_files_are_refused),
		cmocka_unit_test(messages_are_printable_and_short),
		cmocka_unit_test(the_environment_says_the_same),
		cmocka_unit_test(an_environment_without_limits_is_none),
		cmocka_unit_test(a_doubtful_environment_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
