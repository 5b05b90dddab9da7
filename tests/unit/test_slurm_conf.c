// SPDX-License-Identifier: Apache-2.0
// Reading Slurm's configuration for softmig doctor.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cli/slurm_conf.h"

static char directory[64];
static struct softmig_slurm_conf conf;
static struct softmig_shards shards;

static void put(const char *name, const char *text)
{
	char path[128];
	snprintf(path, sizeof path, "%s/%s", directory, name);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static int setup(void **state)
{
	(void)state;
	char path[128];
	strcpy(directory, "/tmp/softmig-slurm.XXXXXX");
	if (!mkdtemp(directory))
		return 1;
	snprintf(path, sizeof path, "%s/slurm.conf", directory);
	return setenv("SLURM_CONF", path, 1);
}

static int teardown(void **state)
{
	(void)state;
	static const char *const names[] = { "slurm.conf", "nodes.conf", "softmig.conf" };
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		char path[128];
		snprintf(path, sizeof path, "%s/%s", directory, names[i]);
		unlink(path);
	}
	return rmdir(directory);
}

static void test_values_are_read_whatever_case_and_comment(void **state)
{
	(void)state;
	put("slurm.conf", "# JobSubmitPlugins=none\njobsubmitplugins=lua # why\nPrologFlags=\"Alloc,Contain\"\nProlog=/a/b\nGresTypes=gpu,\\\nshard\n");
	assert_true(softmig_slurm_conf_read(&conf));
	assert_string_equal(conf.job_submit_plugins, "lua");
	assert_string_equal(conf.prolog_flags, "Alloc,Contain");
	assert_string_equal(conf.prolog, "/a/b");
	assert_string_equal(conf.epilog, "");
}

static void test_nodes_are_found_in_included_files_too(void **state)
{
	(void)state;
	put("slurm.conf", "NodeName=n[1-4] CPUs=8 Gres=gpu:l40s:4,shard:l40s:16 State=UNKNOWN\nNodeName=c1 CPUs=4\nInclude nodes.conf\n");
	put("nodes.conf", "NodeName=h1 \\\n  Gres=gpu:h200:8,shard:h200:32\nInclude nodes.conf\n"); // includes itself: must end
	assert_true(softmig_slurm_conf_read(&conf));
	assert_in_range(conf.nodes, 2, 6);
	assert_string_equal(conf.node[0].name, "n[1-4]");
	assert_string_equal(conf.node[1].gres, "gpu:h200:8,shard:h200:32");
}

static void test_gres_are_counted_by_type(void **state)
{
	(void)state;
	static const char list[] = "gpu:l40s:4(S:0-1),gpu:h200:2,shard:l40s:16,shard:8,gpu:L40S";
	assert_int_equal(softmig_slurm_count(list, "gpu", "l40s"), 5);
	assert_int_equal(softmig_slurm_count(list, "gpu", "h200"), 2);
	assert_int_equal(softmig_slurm_count(list, "gpu", "a100"), 0);
	assert_int_equal(softmig_slurm_count(list, "shard", "l40s"), 16);
	assert_int_equal(softmig_slurm_count(list, "shard", NULL), 8);
	assert_int_equal(softmig_slurm_count("gpu", "gpu", NULL), 1);
	assert_int_equal(softmig_slurm_count("", "gpu", NULL), 0);
}

static void test_the_table_of_shards(void **state)
{
	(void)state;
	put("slurm.conf", "");
	put("softmig.conf", "# type shards\nl40s 4\n\n  h200\t8 # eight\n");
	assert_true(softmig_slurm_conf_read(&conf));
	assert_int_equal(softmig_shards_read(&conf, &shards), 0);
	assert_int_equal(shards.entries, 2);
	assert_string_equal(shards.entry[1].type, "h200");
	assert_int_equal(shards.entry[1].shards, 8);
	assert_int_equal(shards.bad_line, 0);
	put("softmig.conf", "l40s 4\nh200 many\n");
	assert_int_equal(softmig_shards_read(&conf, &shards), 0);
	assert_int_equal(shards.bad_line, 2);
	put("softmig.conf", "l40s 4 5\n");
	softmig_shards_read(&conf, &shards);
	assert_int_equal(shards.bad_line, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_values_are_read_whatever_case_and_comment, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nodes_are_found_in_included_files_too, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gres_are_counted_by_type, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_table_of_shards, setup, teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
