// SPDX-License-Identifier: Apache-2.0
// softmig run: a command in a slice of this machine's GPUs. Owns: the options, the environment that the library reads.
// Must never: stand between the command and its parent: it becomes the command, so pid, signals, terminal, descriptors and
// exit status are the command's own.
#include "cli/cli.h"
#include "cli/elf_file.h"
#include "cli/library.h"
#include "cli/run_directory.h"
#include "slice/job.h"
#include "slice/limits.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127 }; // the shell's own

// What was asked for, as the texts that go into the environment; all NULL or for GPUs that were not named: nothing.
struct request {
	const char *memory;
	const char *sm;
	char *device_memory[SOFTMIG_MAX_GPUS];
	char *device_sm[SOFTMIG_MAX_GPUS];
	bool any;
	char preloaded[PATH_MAX]; // the library
};

static const struct softmig_verb *const self = &softmig_verb_run;

static bool good_memory(const char *option, const char *text)
{
	uint64_t bytes;
	if (softmig_limits_parse_bytes(text, strlen(text), &bytes))
		return true;
	softmig_cli_usage(self, "%s needs a size such as 4G, 512M or 1073741824, not '%s'", option, text);
	return false;
}

static bool good_sm(const char *option, const char *text)
{
	uint8_t pct;
	if (softmig_limits_parse_pct(text, strlen(text), &pct))
		return true;
	softmig_cli_usage(self, "%s needs a percentage from 0 to 100, not '%s'", option, text);
	return false;
}

// The loader passes over what it cannot load, and the command would run without a limit.
static bool good_library(const char *path, struct request *request)
{
	struct softmig_elf elf;
	if (!realpath(path, request->preloaded) || access(request->preloaded, R_OK) != 0)
		softmig_cli_usage(self, "the library '%s' cannot be read: %s", path, strerror(errno));
	else if (softmig_elf_read(request->preloaded, &elf) != 0 || !softmig_elf_is_for_this_machine(&elf))
		softmig_cli_usage(self, "'%s' is no library that programs of this machine can load", path);
	else
		return true;
	return false;
}

// N:memory=SIZE,sm=PCT with either part left out. The texts stay in argv.
static bool parse_device(char *text, struct request *request)
{
	char *end;
	unsigned long number = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end != ':' || number >= SOFTMIG_MAX_GPUS) {
		softmig_cli_usage(self, "--device needs a GPU number from 0 to %d and its limits, such as 1:memory=4G,sm=50, not '%s'",
		                  SOFTMIG_MAX_GPUS - 1, text);
		return false;
	}
	char *rest = end + 1;
	for (char *part; (part = strsep(&rest, ","));) {
		if (strncmp(part, "memory=", 7) == 0 && good_memory("--device memory", part + 7)) {
			request->device_memory[number] = part + 7;
		} else if (strncmp(part, "sm=", 3) == 0 && good_sm("--device sm", part + 3)) {
			request->device_sm[number] = part + 3;
		} else {
			if (strncmp(part, "memory=", 7) != 0 && strncmp(part, "sm=", 3) != 0)
				softmig_cli_usage(self, "--device knows memory=SIZE and sm=PCT, not '%s'", part);
			return false;
		}
	}
	return true;
}

// SOFTMIG_EXIT_OK: request is filled and argv[optind] is the command. *help: the help was printed instead.
static int parse(int argc, char **argv, struct request *request, bool *help)
{
	static const struct option options[] = {
		{ "memory", required_argument, NULL, 'm' },
		{ "sm", required_argument, NULL, 's' },
		{ "device", required_argument, NULL, 'd' },
		{ "library", required_argument, NULL, 'l' },
		{ 0 },
	};
	for (int option; (option = softmig_cli_option(self, argc, argv, options)) != -1;) {
		switch (option) {
		case 'm':
			request->memory = optarg;
			if (!good_memory("--memory", optarg))
				return SOFTMIG_EXIT_USAGE;
			request->any = true;
			break;
		case 's':
			request->sm = optarg;
			if (!good_sm("--sm", optarg))
				return SOFTMIG_EXIT_USAGE;
			request->any = true;
			break;
		case 'd':
			if (!parse_device(optarg, request))
				return SOFTMIG_EXIT_USAGE;
			request->any = true;
			break;
		case 'l':
			if (!good_library(optarg, request))
				return SOFTMIG_EXIT_USAGE;
			break;
		case 'h':
			*help = true;
			return SOFTMIG_EXIT_OK;
		default:
			return SOFTMIG_EXIT_USAGE;
		}
	}
	if (!request->any)
		return softmig_cli_usage(self, "a limit is missing: give --memory, --sm or --device");
	if (!argv[optind])
		return softmig_cli_usage(self, "a command is missing");
	return SOFTMIG_EXIT_OK;
}

// In a job whose limits root has set, the environment counts for nothing: saying so beats a slice that is not the one asked for.
static bool refused_by_limit_file(void)
{
	struct softmig_job job = softmig_job_find(0, true);
	if (job.source == SOFTMIG_JOB_NONE)
		return false;
	struct softmig_limits limits;
	struct softmig_limits_error error;
	char path[PATH_MAX];
	if (softmig_limits_load(SOFTMIG_STATE_DIR, job.id, 0, &limits, &error, path, sizeof path) == SOFTMIG_LIMITS_ABSENT)
		return false;
	softmig_cli_fail(self, "job %llu is in a slice already, and its limits come from %s alone; run the command without softmig run",
	                 (unsigned long long)job.id, path);
	return true;
}

static bool set_for_gpu(const char *name, int gpu, const char *value)
{
	char full[64];
	snprintf(full, sizeof full, "%s_%d", name, gpu);
	return !value || setenv(full, value, 1) == 0;
}

static bool set_limits(const struct request *request)
{
	softmig_library_drop_limits(); // those that the environment happens to hold would mix with these
	bool good = (!request->memory || setenv("CUDA_DEVICE_MEMORY_LIMIT", request->memory, 1) == 0) &&
	            (!request->sm || setenv("CUDA_DEVICE_SM_LIMIT", request->sm, 1) == 0);
	for (int gpu = 0; good && gpu < SOFTMIG_MAX_GPUS; gpu++)
		good = set_for_gpu("CUDA_DEVICE_MEMORY_LIMIT", gpu, request->device_memory[gpu]) &&
		       set_for_gpu("CUDA_DEVICE_SM_LIMIT", gpu, request->device_sm[gpu]);
	return good;
}

// The dynamic loader splits LD_PRELOAD at spaces and colons and knows no quoting: a path with one is reached through a link.
static bool set_preload(const char *library, const char *directory)
{
	char link[PATH_MAX + 32];
	if (strpbrk(library, ": ")) {
		snprintf(link, sizeof link, "%s/" SOFTMIG_LIBRARY_NAME, directory);
		if (symlink(library, link) != 0)
			return false;
		library = link;
	}
	char *list = softmig_library_preload(library, getenv("LD_PRELOAD"));
	bool good = list && setenv("LD_PRELOAD", list, 1) == 0;
	free(list);
	return good;
}

static bool set_environment(const struct request *request, const char *directory)
{
	char ledger[PATH_MAX + 32];
	snprintf(ledger, sizeof ledger, "%s/ledger", directory);
	return set_limits(request) && setenv("CUDA_DEVICE_MEMORY_SHARED_CACHE", ledger, 1) == 0 &&
	       set_preload(request->preloaded, directory);
}

static int execute(char **command)
{
	execvp(command[0], command);
	int error = errno;
	softmig_cli_fail(self, "'%s' cannot be run: %s", command[0], strerror(error));
	return error == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_EXECUTE;
}

static int run(int argc, char **argv)
{
	struct request request = { 0 };
	bool help = false;
	int status = parse(argc, argv, &request, &help);
	if (status != SOFTMIG_EXIT_OK || help)
		return status;
	if (refused_by_limit_file())
		return SOFTMIG_EXIT_FAILED;
	if (softmig_library_is_disabled(SOFTMIG_DISABLED_PATH))
		return softmig_cli_fail(self, "limits are switched off on this machine by " SOFTMIG_DISABLED_PATH "; run the command without softmig run");
	if (!*request.preloaded && !softmig_library_find(request.preloaded))
		return softmig_cli_fail(self, SOFTMIG_LIBRARY_NAME " is neither beside softmig nor in " SOFTMIG_LIBRARY_DIR
		                              "; name it with --library");
	struct softmig_run_directory directory;
	int error = softmig_run_directory_make(&directory);
	if (error && !*directory.path)
		return softmig_cli_fail(self, "in a job the run's ledger needs a directory of the job's own; set SLURM_TMPDIR to one");
	if (error)
		return softmig_cli_fail(self, "no directory for the run's ledger can be made in %s: %s", directory.path, strerror(error));
	if (!set_environment(&request, directory.path)) {
		status = softmig_cli_fail(self, "the environment cannot be set up: %s", strerror(errno));
	} else if ((error = softmig_run_directory_leave(&directory)) != 0) {
		status = softmig_cli_fail(self, "no process can be started: %s", strerror(error));
	} else {
		return execute(argv + optind); // the directory is the keeper's now
	}
	softmig_run_directory_remove(&directory);
	return status;
}

const struct softmig_verb softmig_verb_run = {
	.name = "run",
	.arguments = "[--memory SIZE] [--sm PCT] [--device N:LIMITS]... [--] CMD [ARGUMENT]...",
	.summary = "Run a command in a slice of this machine's GPUs",
	.help = "Options:\n"
	        "  --memory SIZE       memory of the slice on each GPU: 4G, 512M, bytes\n"
	        "  --sm PCT            percent of each GPU's compute time, 0 to 100 (0 and 100: no limit)\n"
	        "  --device N:LIMITS   other limits for GPU number N, as in 1:memory=8G,sm=50; may be repeated\n"
	        "  --library PATH      the libsoftmig.so to use, instead of the one beside softmig or the installed one\n"
	        "  --help              this text\n\n"
	        "softmig becomes CMD: its pid, signals, terminal and exit status are CMD's own.\n"
	        "127: CMD was not found, 126: CMD could not be executed, 1: no slice could be set up, 2: wrong usage.\n",
	.run = run,
};
