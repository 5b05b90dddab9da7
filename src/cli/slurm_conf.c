// SPDX-License-Identifier: Apache-2.0
// See slurm_conf.h.
#include "cli/slurm_conf.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "slice/format.h"

enum { INCLUDES_MAX = 4, LINE_MAX_BYTES = 65536 };

static void keep(char *to, size_t size, const char *value)
{
	size_t length = strlen(value);
	bool quoted = length >= 2 && value[0] == '"' && value[length - 1] == '"';
	snprintf(to, size, "%.*s", (int)(quoted ? length - 2 : length), value + quoted);
}

static void take_node(struct softmig_slurm_conf *conf, const char *name, const char *gres)
{
	if (!*gres || conf->nodes == SOFTMIG_SLURM_NODES)
		return;
	keep(conf->node[conf->nodes].name, sizeof conf->node[0].name, name);
	keep(conf->node[conf->nodes++].gres, sizeof conf->node[0].gres, gres);
}

static void take_value(struct softmig_slurm_conf *conf, const char *key, const char *value)
{
	const struct {
		const char *key;
		char *to;
		size_t size;
	} keys[] = {
		{ "JobSubmitPlugins", conf->job_submit_plugins, sizeof conf->job_submit_plugins },
		{ "CliFilterPlugins", conf->cli_filter_plugins, sizeof conf->cli_filter_plugins },
		{ "PrologFlags", conf->prolog_flags, sizeof conf->prolog_flags },
		{ "Prolog", conf->prolog, sizeof conf->prolog },
		{ "Epilog", conf->epilog, sizeof conf->epilog },
		{ "GresTypes", conf->gres_types, sizeof conf->gres_types },
		{ "ProctrackType", conf->proctrack, sizeof conf->proctrack },
	};
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (strcasecmp(key, keys[i].key) == 0)
			keep(keys[i].to, keys[i].size, value);
}

static void read_file(struct softmig_slurm_conf *conf, const char *path, int depth);

// One line without its comment: words KEY=VALUE.
static void take_line(struct softmig_slurm_conf *conf, char *line, int depth)
{
	char *rest = line + strspn(line, " \t\r\n");
	if (strncasecmp(rest, "include", 7) == 0 && isspace((unsigned char)rest[7])) {
		char path[2 * PATH_MAX];
		rest += 7 + strspn(rest + 7, " \t");
		rest[strcspn(rest, " \t\r\n")] = '\0';
		snprintf(path, sizeof path, "%s%s%s", *rest == '/' ? "" : conf->directory, *rest == '/' ? "" : "/", rest);
		if (depth < INCLUDES_MAX)
			read_file(conf, path, depth + 1);
		return;
	}
	const char *node = NULL, *gres = "";
	for (char *word; (word = strsep(&rest, " \t\r\n"));) {
		char *equals = strchr(word, '=');
		if (!equals)
			continue;
		*equals = '\0';
		if (strcasecmp(word, "NodeName") == 0)
			node = equals + 1;
		else if (strcasecmp(word, "Gres") == 0)
			gres = equals + 1;
		else if (!node)
			take_value(conf, word, equals + 1);
	}
	if (node)
		take_node(conf, node, gres);
}

static void read_file(struct softmig_slurm_conf *conf, const char *path, int depth)
{
	FILE *file = fopen(path, "re");
	char *line = NULL, *whole = calloc(1, LINE_MAX_BYTES);
	size_t size = 0, used = 0;
	while (file && whole && getline(&line, &size, file) > 0) {
		line[strcspn(line, "#\n")] = '\0';
		size_t length = strlen(line);
		bool goes_on = length > 0 && line[length - 1] == '\\';
		if (goes_on)
			line[length - 1] = ' ';
		if (used + length + 1 < LINE_MAX_BYTES) {
			memcpy(whole + used, line, length + 1);
			used += length;
		}
		if (goes_on)
			continue;
		take_line(conf, whole, depth);
		used = 0;
		whole[0] = '\0';
	}
	free(line);
	free(whole);
	if (file)
		fclose(file);
}

bool softmig_slurm_conf_read(struct softmig_slurm_conf *conf)
{
	const char *const places[] = { getenv("SLURM_CONF"), "/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf",
		                       "/etc/slurm-llnl/slurm.conf", "/usr/local/etc/slurm.conf", "/opt/slurm/etc/slurm.conf" };
	*conf = (struct softmig_slurm_conf){ 0 };
	for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
		if (!places[i] || access(places[i], R_OK) != 0)
			continue;
		snprintf(conf->path, sizeof conf->path, "%s", places[i]);
		snprintf(conf->directory, sizeof conf->directory, "%s", places[i]);
		char *slash = strrchr(conf->directory, '/');
		if (slash)
			*slash = '\0';
		read_file(conf, conf->path, 0);
		return true;
	}
	return false;
}

// softmig.conf where the prolog looks for it, too.
static FILE *open_table(const struct softmig_slurm_conf *conf)
{
	char path[PATH_MAX + 32];
	snprintf(path, sizeof path, "%s/softmig.conf", conf->directory);
	return fopen(access(path, F_OK) == 0 ? path : "/etc/slurm/softmig.conf", "re");
}

static bool is_known(const struct softmig_shards *shards, const char *type)
{
	for (int i = 0; i < shards->entries; i++)
		if (strcasecmp(shards->entry[i].type, type) == 0)
			return true;
	return false;
}

// TYPE COUNT, as softmig_slices.lua takes it.
static bool take_type(struct softmig_shards *shards, const char *type, const char *count, const char *more)
{
	uint64_t value;
	if (!count || more || !softmig_parse_decimal(count, strlen(count), 100, &value) || value == 0 || is_known(shards, type) ||
	    shards->entries == SOFTMIG_SLURM_TYPES)
		return false;
	snprintf(shards->entry[shards->entries].type, sizeof shards->entry[0].type, "%s", type);
	shards->entry[shards->entries++].shards = (int)value;
	return true;
}

int softmig_shards_read(const struct softmig_slurm_conf *conf, struct softmig_shards *shards)
{
	char line[512];
	*shards = (struct softmig_shards){ 0 };
	FILE *file = open_table(conf);
	if (!file)
		return errno;
	for (int number = 1; fgets(line, sizeof line, file); number++) {
		line[strcspn(line, "#")] = '\0';
		char *rest = NULL;
		const char *type = strtok_r(line, " \t\r\n", &rest);
		const char *count = strtok_r(NULL, " \t\r\n", &rest);
		if (type && !take_type(shards, type, count, strtok_r(NULL, " \t\r\n", &rest)))
			shards->bad_line = number;
	}
	fclose(file);
	return 0;
}

// gpu:l40s:4(S:0-1) or gpu:4 or gpu.
int softmig_slurm_count(const char *gres_list, const char *gres, const char *type)
{
	char list[512];
	int total = 0;
	snprintf(list, sizeof list, "%s", gres_list);
	char *rest = list;
	for (char *item; (item = strsep(&rest, ","));) {
		item[strcspn(item, "(")] = '\0';
		char *parts[3] = { strsep(&item, ":"), NULL, NULL };
		parts[1] = strsep(&item, ":");
		parts[2] = strsep(&item, ":");
		if (strcasecmp(parts[0], gres) != 0)
			continue;
		bool typed = parts[1] && !isdigit((unsigned char)*parts[1]);
		const char *count = typed ? parts[2] : parts[1];
		if (type ? typed && strcasecmp(parts[1], type) == 0 : !typed)
			total += count ? (int)strtol(count, NULL, 10) : 1;
	}
	return total;
}
