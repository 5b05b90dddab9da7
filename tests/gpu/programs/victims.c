// SPDX-License-Identifier: Apache-2.0
// The active OOM killer: victims 0|1 (ACTIVE_OOM_KILLER). Processes of one slice hold memory, one more asks for what is not left: without the
// killer it is refused and everybody lives; with it all of that slice on the GPU are killed, another slice of the same user goes
// on, and the memory is there for the next process. Started by root it becomes another user first: processes of root are spared.
#define DRIVER_FUNCTIONS(X) X(cuInit) X(cuDeviceGet) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuMemAlloc_v2)
#include "check.h"
#include "driver.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HOLDERS = 3, NOBODY = 65534, REFUSED = 2 };
#define LIMIT "6G"
#define HOLDS (512 * MIB)
#define ASKS (4096 * MIB) // more than three contexts and what is held leave, less than the slice

static char place[] = "/tmp/softmig-victims.XXXXXX";

static const char *in_place(const char *name)
{
	static char path[64];
	snprintf(path, sizeof path, "%s/%s", place, name);
	return path;
}

// A process of the slice whose ledger is called so: a context, so many bytes; tells the answer; then it lives as long as it is let.
static pid_t start(const char *slice, unsigned long long bytes, int *answer)
{
	int told[2];
	unsigned char code = 0;
	*answer = -1;
	if (pipe(told) != 0)
		return -1;
	pid_t child = fork();
	if (child == 0) {
		CUdevice device;
		CUcontext context;
		CUdeviceptr pointer;
		close(told[0]);
		setenv("CUDA_DEVICE_MEMORY_SHARED_CACHE", in_place(slice), 1);
		driver_open();
		if (CU(cuInit)(0) != CUDA_SUCCESS || CU(cuDeviceGet)(&device, 0) != CUDA_SUCCESS ||
		    CU(cuDevicePrimaryCtxRetain)(&context, device) != CUDA_SUCCESS || CU(cuCtxSetCurrent)(context) != CUDA_SUCCESS)
			_exit(3);
		code = (unsigned char)CU(cuMemAlloc_v2)(&pointer, bytes);
		if (write(told[1], &code, 1) != 1)
			_exit(4);
		alarm(60);
		for (;;)
			pause();
	}
	close(told[1]);
	if (child > 0 && read(told[0], &code, 1) == 1)
		*answer = code;
	close(told[0]);
	return child;
}

// How a child ended, within ten seconds: its signal, or 0: it lives.
static int killed_by(pid_t child)
{
	for (int i = 0; i < 1000; i++) {
		int status;
		if (waitpid(child, &status, WNOHANG) == child)
			return WIFSIGNALED(status) ? WTERMSIG(status) : -1;
		usleep(10000);
	}
	return 0;
}

static bool lives(pid_t child)
{
	return waitpid(child, NULL, WNOHANG) == 0;
}

static void end(pid_t child)
{
	if (child > 0 && lives(child)) {
		kill(child, SIGKILL);
		waitpid(child, NULL, 0);
	}
}

static void become_nobody(void)
{
	if (geteuid() == 0 && (setgid(NOBODY) != 0 || setuid(NOBODY) != 0))
		exit(77);
	prctl(PR_SET_DUMPABLE, 1); // as a user's process is: /proc shows it as his
}

int main(int argc, char **argv)
{
	bool kills = argc > 1 && argv[1][0] == '1';
	int answer;
	pid_t holder[HOLDERS], neighbour, asker, next;
	become_nobody();
	if (mkdtemp(place) == NULL)
		return 77;
	setenv("CUDA_DEVICE_MEMORY_LIMIT", LIMIT, 1);
	setenv("ACTIVE_OOM_KILLER", kills ? "1" : "0", 1);
	neighbour = start("neighbour", HOLDS, &answer);
	check_number("a process of another slice of the user gets its memory", 0, (unsigned)answer);
	for (int i = 0; i < HOLDERS; i++) {
		holder[i] = start("slice", HOLDS, &answer);
		check_number("one that holds memory gets it", 0, (unsigned)answer);
	}
	asker = start("slice", ASKS, &answer);
	if (kills) {
		check_number("who asks for too much is killed", SIGKILL, (unsigned)killed_by(asker));
		for (int i = 0; i < HOLDERS; i++)
			check_number("and who holds memory is", SIGKILL, (unsigned)killed_by(holder[i]));
		next = start("slice", ASKS, &answer);
		check_number("the memory is there for the next one", 0, (unsigned)answer);
		end(next);
	} else {
		check_number("who asks for too much is refused", REFUSED, (unsigned)answer);
		check_true(lives(asker), "and lives");
		for (int i = 0; i < HOLDERS; i++) {
			check_true(lives(holder[i]), "who holds memory lives");
			end(holder[i]);
		}
		end(asker);
	}
	check_true(lives(neighbour), "the other slice's process lives");
	end(neighbour);
	unlink(in_place("slice"));
	unlink(in_place("neighbour"));
	rmdir(place);
	return check_failures != 0;
}
