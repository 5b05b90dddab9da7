// SPDX-License-Identifier: Apache-2.0
// Slurm's configuration, as far as slices depend on it. Owns: reading slurm.conf and the table of shards beside it. Must never:
// judge (doctor_slurm.c does) or run a Slurm command.
#ifndef SOFTMIG_CLI_SLURM_CONF_H
#define SOFTMIG_CLI_SLURM_CONF_H
#include <limits.h>
#include <stdbool.h>

enum { SOFTMIG_SLURM_NODES = 64, SOFTMIG_SLURM_TYPES = 32 };

struct softmig_slurm_conf {
	char path[PATH_MAX];
	char directory[PATH_MAX];
	// values as they stand, "" where the key is absent
	char job_submit_plugins[256];
	char cli_filter_plugins[256];
	char prolog_flags[256];
	char prolog[PATH_MAX];
	char epilog[PATH_MAX];
	char gres_types[256];
	char proctrack[128];
	struct {
		char name[128]; // NodeName, a host list
		char gres[512];
	} node[SOFTMIG_SLURM_NODES]; // those with Gres=
	int nodes;
};

struct softmig_shards {
	struct {
		char type[64];
		int shards;
	} entry[SOFTMIG_SLURM_TYPES];
	int entries;
	int bad_line; // the last that is not understood or has a type again; 0: none
};

// Reads $SLURM_CONF or the usual places, and what it includes. False: this host has none.
bool softmig_slurm_conf_read(struct softmig_slurm_conf *conf);
// softmig.conf beside it, else /etc/slurm/softmig.conf. 0 or errno.
int softmig_shards_read(const struct softmig_slurm_conf *conf, struct softmig_shards *shards);
// How many of gres (gpu, shard) and type a node's Gres= grants. Types compare without case; type NULL: those without a type.
int softmig_slurm_count(const char *gres_list, const char *gres, const char *type);
#endif
