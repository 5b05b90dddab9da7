// SPDX-License-Identifier: Apache-2.0
// softmig doctor: the driver, and a slice on it. The driver is only ever loaded in a scratch process: it may hang or die there.
#include "cli/doctor.h"
#include "cli/library.h"
#include "cli/units.h"
#include "slice/job.h"
#include "slice/limits.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

// The oldest driver that SoftMig is for, and the newest whose every function has been classified (src/preload/surface).
enum { OLDEST_DRIVER = 525, CLASSIFIED_DRIVER = 580 };
enum { PATIENCE_S = 30 };
#define PROBE_LIMIT "1G"
static const uint64_t probe_limit_bytes = 1ull << 30;

struct answer {
	char stage[16];        // how far it came: "none" (no libcuda), "init", "none-visible", "done"
	int code;              // the driver's answer there
	char version[64];      // of the driver, as NVML tells it
	uint64_t total_bytes;  // of GPU 0
	bool late;
};

static void *symbol(void *library, const char *name)
{
	return library ? dlsym(library, name) : NULL;
}

static void print_version(void)
{
	void *nvml = dlopen("libnvidia-ml.so.1", RTLD_NOW);
	int (*init)(void) = (int (*)(void))(uintptr_t)symbol(nvml, "nvmlInit_v2");
	int (*get)(char *, unsigned) = (int (*)(char *, unsigned))(uintptr_t)symbol(nvml, "nvmlSystemGetDriverVersion");
	char version[64];
	if (init && get && init() == 0 && get(version, sizeof version) == 0)
		printf("version %.63s\n", version);
}

// In the scratch process. Its output is read by probe(), so it is not for people.
int softmig_doctor_probe(void)
{
	void *cuda = dlopen("libcuda.so.1", RTLD_NOW);
	int (*init)(unsigned) = (int (*)(unsigned))(uintptr_t)symbol(cuda, "cuInit");
	int (*count)(int *) = (int (*)(int *))(uintptr_t)symbol(cuda, "cuDeviceGetCount");
	int (*get)(int *, int) = (int (*)(int *, int))(uintptr_t)symbol(cuda, "cuDeviceGet");
	int (*total)(size_t *, int) = (int (*)(size_t *, int))(uintptr_t)symbol(cuda, "cuDeviceTotalMem_v2");
	if (!init || !count || !get || !total) {
		puts("stage none");
		return SOFTMIG_EXIT_OK;
	}
	print_version();
	int devices = 0, device = 0;
	size_t bytes = 0;
	int code = init(0);
	if (code == 0)
		code = count(&devices);
	if (code != 0 || devices == 0) {
		printf("code %d\nstage %s\n", code, code ? "init" : "none-visible");
		return SOFTMIG_EXIT_OK;
	}
	code = get(&device, 0);
	if (code == 0)
		code = total(&bytes, device);
	printf("total %zu\ncode %d\nstage %s\n", bytes, code, code ? "init" : "done");
	return SOFTMIG_EXIT_OK;
}

// Nothing that the admin's environment holds shall speak for the library, or against it.
static void drop_slice(void)
{
	static const char *const names[] = { "LD_PRELOAD", "SLURM_JOB_ID", "CUDA_DEVICE_MEMORY_SHARED_CACHE", "CUDA_VISIBLE_DEVICES",
		                             "ACTIVE_OOM_KILLER", "SOFTMIG_SHARE_MODE" };
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		unsetenv(names[i]);
	for (int i = 0; i < SOFTMIG_MAX_GPUS; i++) {
		char name[64];
		snprintf(name, sizeof name, "SOFTMIG_GPU_UUID_%d", i);
		unsetenv(name);
	}
	softmig_library_drop_limits();
}

static void become_probe(const char *library, const char *ledger, int output)
{
	drop_slice();
	if (library && (setenv("LD_PRELOAD", library, 1) != 0 || setenv("CUDA_DEVICE_MEMORY_LIMIT", PROBE_LIMIT, 1) != 0 ||
	                setenv("CUDA_DEVICE_MEMORY_SHARED_CACHE", ledger, 1) != 0))
		_exit(1);
	if (dup2(output, STDOUT_FILENO) < 0 || !freopen("/dev/null", "w", stderr))
		_exit(1);
	alarm(PATIENCE_S);
	execl("/proc/self/exe", "softmig", "doctor", "--probe", (char *)NULL);
	_exit(1);
}

static void take_line(struct answer *answer, const char *line)
{
	if (strncmp(line, "version ", 8) == 0)
		snprintf(answer->version, sizeof answer->version, "%.63s", line + 8);
	else if (strncmp(line, "total ", 6) == 0)
		answer->total_bytes = strtoull(line + 6, NULL, 10);
	else if (strncmp(line, "code ", 5) == 0)
		answer->code = (int)strtol(line + 5, NULL, 10);
	else if (strncmp(line, "stage ", 6) == 0)
		snprintf(answer->stage, sizeof answer->stage, "%.15s", line + 6);
}

// library and ledger NULL: without a slice.
static void probe(const char *library, const char *ledger, struct answer *answer)
{
	int ends[2];
	*answer = (struct answer){ .stage = "failed" };
	if (pipe2(ends, O_CLOEXEC) == 0) {
		pid_t pid = fork();
		if (pid == 0)
			become_probe(library, ledger, ends[1]);
		close(ends[1]);
		FILE *output = fdopen(ends[0], "r");
		char line[256];
		while (output && fgets(line, sizeof line, output)) {
			line[strcspn(line, "\n")] = '\0';
			take_line(answer, line);
		}
		if (output)
			fclose(output);
		int status = 0;
		if (pid > 0)
			waitpid(pid, &status, 0);
		answer->late = WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM;
	}
}

static void check_version(struct softmig_doctor *doctor, const char *version)
{
	long major = strtol(version, NULL, 10);
	if (major == 0)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_WARNING, "driver", "install libnvidia-ml.so.1, which the accounting asks",
		                    "NVML does not tell the driver's version");
	else if (major < OLDEST_DRIVER)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "driver", "update the driver", "version %s is older than %d", version, OLDEST_DRIVER);
	else if (major > CLASSIFIED_DRIVER)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_WARNING, "driver", "look for a newer SoftMig; until then run its surface test against this driver",
		                    "version %s is newer than %d: functions that it adds are not looked at", version, CLASSIFIED_DRIVER);
	else
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_OK, "driver", NULL, "version %s, every function of it is known", version);
}

static void check_slice(struct softmig_doctor *doctor, const struct answer *whole)
{
	char directory[] = "/tmp/softmig-doctor.XXXXXX", ledger[64];
	struct answer slice;
	if (!mkdtemp(directory)) {
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "slice", "make room in /tmp, and make it writable", "/tmp cannot be written: %s",
		                    strerror(errno));
		return;
	}
	snprintf(ledger, sizeof ledger, "%s/ledger", directory);
	probe(doctor->node.installed, ledger, &slice);
	unlink(ledger);
	rmdir(directory);
	if (slice.late)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "slice", "softmig disable, and report it", "a program in a slice hangs");
	else if (strcmp(slice.stage, "done") != 0)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "slice", "look at the log, with SOFTMIG_LOG_LEVEL=4 in the environment",
		                    "a program in a slice cannot use the GPU: it came to '%s', where the driver said %d", slice.stage, slice.code);
	else if (slice.total_bytes == probe_limit_bytes)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_OK, "slice", NULL, "a program in a slice of " PROBE_LIMIT " sees %s of the GPU's %s",
		                    softmig_text_bytes(slice.total_bytes).text, softmig_text_bytes(whole->total_bytes).text);
	else
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "slice", "report it, with the driver's version",
		                    "a program in a slice of " PROBE_LIMIT " sees %s", softmig_text_bytes(slice.total_bytes).text);
}

static void try_slice(struct softmig_doctor *doctor, const struct answer *whole)
{
	struct softmig_job job = softmig_job_find(0, false);
	struct softmig_limits limits;
	struct softmig_limits_error error;
	if (softmig_library_is_disabled(doctor->node.disabled))
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_SKIPPED, "slice", NULL, "limits are switched off by %s", doctor->node.disabled);
	else if (job.source != SOFTMIG_JOB_NONE &&
	         softmig_limits_load(SOFTMIG_STATE_DIR, job.id, 0, &limits, &error, NULL, 0) != SOFTMIG_LIMITS_ABSENT)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_SKIPPED, "slice", NULL, "this shell is in job %llu, whose slice every program here is in",
		                    (unsigned long long)job.id);
	else
		check_slice(doctor, whole);
}

void softmig_doctor_driver(struct softmig_doctor *doctor)
{
	struct answer answer;
	bool has_gpu = access("/proc/driver/nvidia/version", F_OK) == 0 || access("/dev/nvidiactl", F_OK) == 0;
	probe(NULL, NULL, &answer);
	if (*answer.version)
		check_version(doctor, answer.version);
	if (answer.late)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "driver", "look at dmesg", "the driver did not answer within %d s", PATIENCE_S);
	else if (strcmp(answer.stage, "none") == 0 && has_gpu)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "driver", "install the driver's libcuda.so.1 and run ldconfig",
		                    "there is a GPU, but libcuda.so.1 cannot be loaded");
	else if (strcmp(answer.stage, "none") == 0)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_SKIPPED, "driver", NULL, "this machine has no NVIDIA driver");
	else if (strcmp(answer.stage, "none-visible") == 0)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_SKIPPED, "driver", NULL, "the driver sees no GPU here");
	else if (strcmp(answer.stage, "done") != 0)
		softmig_doctor_tell(doctor, SOFTMIG_FINDING_FAULT, "driver", "look at dmesg; does nvidia-smi work?",
		                    "the driver cannot be used: it came to '%s' and said %d", answer.stage, answer.code);
	else if (access(doctor->node.installed, R_OK) == 0)
		try_slice(doctor, &answer);
}
