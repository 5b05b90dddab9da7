// SPDX-License-Identifier: Apache-2.0
// softmig doctor: what surrounds jobs: control groups, Slurm's configuration, containers.
#include "cli/doctor.h"
#include "cli/library.h"
#include "cli/slurm_conf.h"
#include "slice/limits.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define OK SOFTMIG_FINDING_OK
#define SKIPPED SOFTMIG_FINDING_SKIPPED
#define WARNING SOFTMIG_FINDING_WARNING
#define FAULT SOFTMIG_FINDING_FAULT

void softmig_doctor_cgroup(struct softmig_doctor *doctor)
{
	if (access("/proc/self/cgroup", R_OK) != 0)
		softmig_doctor_tell(doctor, FAULT, "cgroups", "mount /proc", "/proc/self/cgroup cannot be read: jobs are not recognised");
	else if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0)
		softmig_doctor_tell(doctor, OK, "cgroups", NULL, "version 2 is mounted");
	else if (access("/sys/fs/cgroup/freezer", F_OK) == 0)
		softmig_doctor_tell(doctor, OK, "cgroups", NULL, "version 1 is mounted");
	else
		softmig_doctor_tell(doctor, WARNING, "cgroups", "mount them, and use ProctrackType=proctrack/cgroup",
		                    "no control groups are mounted: a job is recognised by SLURM_JOB_ID alone, which its user can change");
}

// Is the word one of the list's, which has commas between?
static bool lists(const char *list, const char *word)
{
	for (size_t length; *list; list += length + (list[length] == ',')) {
		length = strcspn(list, ",");
		if (length == strlen(word) && strncasecmp(list, word, length) == 0)
			return true;
	}
	return false;
}

static bool mentions_softmig(const char *path)
{
	FILE *file = fopen(path, "re");
	char *line = NULL;
	size_t size = 0;
	bool found = strstr(path, "softmig") != NULL;
	while (file && !found && getline(&line, &size, file) > 0)
		found = strstr(line, "softmig") != NULL && line[strspn(line, " \t")] != '#';
	free(line);
	if (file)
		fclose(file);
	return found;
}

// Prolog= and Epilog= name a script or a pattern for several.
static void check_script(struct softmig_doctor *doctor, const char *key, const char *value, enum softmig_finding finding, const char *loss)
{
	glob_t scripts = { 0 };
	char advice[128];
	bool found = false;
	if (*value && glob(value, 0, NULL, &scripts) == 0)
		for (size_t i = 0; i < scripts.gl_pathc; i++)
			found |= access(scripts.gl_pathv[i], X_OK) == 0 && mentions_softmig(scripts.gl_pathv[i]);
	globfree(&scripts);
	snprintf(advice, sizeof advice, "set %s=/usr/share/softmig/slurm/softmig-%s, or call that from yours", key, strcmp(key, "Prolog") ? "epilog" : "prolog");
	if (found)
		softmig_doctor_tell(doctor, OK, "slurm", NULL, "%s calls softmig", key);
	else
		softmig_doctor_tell(doctor, finding, "slurm", advice, "%s=%s does not call softmig: %s", key, value, loss);
}

static void check_shards(struct softmig_doctor *doctor, const struct softmig_slurm_conf *conf)
{
	struct softmig_shards shards;
	int error = softmig_shards_read(conf, &shards);
	int faults = doctor->faults;
	if (error) {
		softmig_doctor_tell(doctor, FAULT, "slurm", "copy /usr/share/softmig/slurm/examples/softmig.conf there and edit it",
		                    "%s/softmig.conf, the table of shards: %s", conf->directory, strerror(error));
		return;
	}
	if (shards.bad_line)
		softmig_doctor_tell(doctor, FAULT, "slurm", "write TYPE and the shards of one GPU, 1 to 100, once for each type", "%s/softmig.conf line %d is not understood",
		                    conf->directory, shards.bad_line);
	for (int i = 0; i < conf->nodes; i++) {
		for (int j = 0; j < shards.entries; j++) {
			const char *type = shards.entry[j].type;
			int gpus = softmig_slurm_count(conf->node[i].gres, "gpu", type);
			int have = softmig_slurm_count(conf->node[i].gres, "shard", type);
			int want = gpus * shards.entry[j].shards;
			if (have != want)
				softmig_doctor_tell(doctor, FAULT, "slurm", "make softmig.conf, slurm.conf and gres.conf agree",
				                    "NodeName=%s has %d GPUs of type %s and %d shards; with %d shards per GPU it needs shard:%s:%d",
				                    conf->node[i].name, gpus, type, have, shards.entry[j].shards, type, want);
		}
		if (softmig_slurm_count(conf->node[i].gres, "shard", NULL) > 0)
			softmig_doctor_tell(doctor, WARNING, "slurm", "write shard:TYPE:COUNT", "NodeName=%s has shards without a type", conf->node[i].name);
	}
	if (doctor->faults == faults)
		softmig_doctor_tell(doctor, OK, "slurm", NULL, "the nodes' shards are those of softmig.conf");
}

static void check_proctrack(struct softmig_doctor *doctor, const struct softmig_slurm_conf *conf)
{
	if (strcasecmp(conf->proctrack, "proctrack/cgroup") == 0 || !*conf->proctrack) // the default since 17.11
		return;
	softmig_doctor_tell(doctor, WARNING, "slurm", "ProctrackType=proctrack/cgroup",
	                    "ProctrackType=%s: a job is recognised by SLURM_JOB_ID alone, which its user can change", conf->proctrack);
}

void softmig_doctor_slurm(struct softmig_doctor *doctor)
{
	struct softmig_slurm_conf *conf = malloc(sizeof *conf);
	if (!conf || !softmig_slurm_conf_read(conf)) {
		softmig_doctor_tell(doctor, SKIPPED, "slurm", NULL, "this machine has no slurm.conf");
		free(conf);
		return;
	}
	if (!lists(conf->gres_types, "gpu") || !lists(conf->gres_types, "shard"))
		softmig_doctor_tell(doctor, FAULT, "slurm", "GresTypes=gpu,shard", "%s: GresTypes=%s lacks gpu or shard", conf->path, conf->gres_types);
	if (!lists(conf->job_submit_plugins, "lua"))
		softmig_doctor_tell(doctor, FAULT, "slurm", "JobSubmitPlugins=lua, with job_submit_softmig.lua in job_submit.lua",
		                    "%s: JobSubmitPlugins=%s lacks lua, so no request for a slice is understood", conf->path, conf->job_submit_plugins);
	if (!lists(conf->cli_filter_plugins, "lua"))
		softmig_doctor_tell(doctor, WARNING, "slurm", "CliFilterPlugins=lua, with cli_filter_softmig.lua in cli_filter.lua",
		                    "%s: CliFilterPlugins=%s lacks lua, so srun without sbatch or salloc gets no slice", conf->path,
		                    conf->cli_filter_plugins);
	if (!lists(conf->prolog_flags, "Alloc") && !lists(conf->prolog_flags, "Contain"))
		softmig_doctor_tell(doctor, FAULT, "slurm", "PrologFlags=Alloc", "%s: PrologFlags=%s lacks Alloc, so a job can start before its prolog",
		                    conf->path, conf->prolog_flags);
	check_script(doctor, "Prolog", conf->prolog, FAULT, "jobs get no limits");
	check_script(doctor, "Epilog", conf->epilog, WARNING, "limit files and ledgers stay after jobs");
	check_proctrack(doctor, conf);
	check_shards(doctor, conf);
	free(conf);
}

// Containers see the files of their image: what a runtime does not bring in is not there.
void softmig_doctor_containers(struct softmig_doctor *doctor)
{
	static const char bind_lines[] = "in it: bind path = " SOFTMIG_LIBRARY_DIR ", and the same for /etc/ld.so.preload and " SOFTMIG_STATE_DIR;
	static const char mount_file[] = "a file in /etc/enroot/mounts.d that binds " SOFTMIG_LIBRARY_DIR ", /etc/ld.so.preload and " SOFTMIG_STATE_DIR;
	static const struct {
		const char *name, *configuration, *advice;
	} runtimes[] = {
		{ "Apptainer", "/etc/apptainer/apptainer.conf", bind_lines },
		{ "Apptainer", "/usr/local/etc/apptainer/apptainer.conf", bind_lines },
		{ "Singularity", "/etc/singularity/singularity.conf", bind_lines },
		{ "Enroot", "/etc/enroot/enroot.conf", mount_file },
	};
	int found = 0;
	for (size_t i = 0; i < sizeof runtimes / sizeof runtimes[0]; i++) {
		if (access(runtimes[i].configuration, F_OK) != 0)
			continue;
		found++;
		glob_t mounts = { 0 };
		bool bound = mentions_softmig(runtimes[i].configuration);
		if (strcmp(runtimes[i].name, "Enroot") == 0 && glob("/etc/enroot/mounts.d/*", 0, NULL, &mounts) == 0)
			for (size_t j = 0; j < mounts.gl_pathc; j++)
				bound |= mentions_softmig(mounts.gl_pathv[j]);
		globfree(&mounts);
		if (bound)
			softmig_doctor_tell(doctor, OK, "containers", NULL, "%s brings the library in", runtimes[i].name);
		else
			softmig_doctor_tell(doctor, WARNING, "containers", runtimes[i].advice, "%s does not bring the library in: programs there see the whole GPU",
			                    runtimes[i].name);
	}
	if (!found)
		softmig_doctor_tell(doctor, SKIPPED, "containers", NULL, "no configuration of Apptainer, Singularity or Enroot");
}
