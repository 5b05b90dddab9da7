// SPDX-License-Identifier: Apache-2.0
// Start of the driver in a process: cuInit, which devices it sees, versions, names of errors.
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "gpus.h"
#include "sim.h"

struct sim_device sim_device[SIM_GPUS];
int sim_device_count;
int sim_slot = -1;
int sim_driver_version = 13000;

static pthread_mutex_t local_lock;
static pthread_once_t local_once = PTHREAD_ONCE_INIT;
static pid_t ready_pid; // the process that cuInit succeeded in

static void make_local_lock(void)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&local_lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
}

void sim_enter(void)
{
	pthread_mutex_lock(&local_lock);
}

void sim_leave(void)
{
	pthread_mutex_unlock(&local_lock);
}

uint64_t sim_thread_id(void)
{
	static __thread uint64_t id;
	if (id == 0)
		id = (uint64_t)syscall(SYS_gettid);
	return id;
}

CUresult sim_ready(void)
{
	// A forked child has its parent's memory, but the driver's connection is not inherited.
	return ready_pid != 0 && ready_pid == getpid() ? CUDA_SUCCESS : CUDA_ERROR_NOT_INITIALIZED;
}

// Now and then the driver takes a block for itself, which nobody asked for.
static void take_own_block(void)
{
	static uint64_t due_ns;
	static int taken;
	long every_ms = sim_fault("own");
	CUresult result = CUDA_SUCCESS;
	struct CUctx_st *context = every_ms > 0 ? sim_context_current(&result) : NULL;
	if (context == NULL)
		return;
	sim_enter();
	struct sim_small_block *block;
	uint64_t address, now_ns = sim_now_ns();
	if (taken < 16 && now_ns >= due_ns && sim_small_alloc(context, &context->code, SIM_SMALL_BYTES, &block, &address) == CUDA_SUCCESS) {
		taken++;
		due_ns = now_ns + (uint64_t)every_ms * 1000000;
	}
	sim_leave();
}

bool sim_alloc_fault(void)
{
	static _Atomic long count;
	long every = sim_fault("alloc");
	take_own_block();
	return every > 0 && ++count % every == 0;
}

// The GPUs whose device file this process may open: all of them, unless SOFTMIG_SIM_DEVICES is the path of the files
// without their number ("/dev/nvidia") and a device cgroup or the file's mode forbids some. Like the driver, which then
// counts the others from 0.
static int permitted[SIM_GPUS], permitted_count;

static void find_permitted(void)
{
	const char *prefix = getenv("SOFTMIG_SIM_DEVICES");
	permitted_count = 0;
	for (int gpu = 0; gpu < sim_state->gpu_count; gpu++) {
		char path[512];
		snprintf(path, sizeof(path), "%s%d", prefix != NULL ? prefix : "", gpu);
		int fd = prefix != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;
		bool forbidden = prefix != NULL && fd < 0 && (errno == EPERM || errno == EACCES);
		if (fd >= 0)
			close(fd);
		if (!forbidden)
			permitted[permitted_count++] = gpu;
	}
}

// One entry of CUDA_VISIBLE_DEVICES into an index, -1 where it names no GPU.
static int visible_entry(const char *text, size_t length)
{
	if (length > 4 && strncasecmp(text, "GPU-", 4) == 0) {
		int found = -1;
		for (int i = 0; i < permitted_count; i++) {
			int gpu = permitted[i];
			char uuid[41];
			sim_gpus_uuid_text(sim_state->gpu[gpu].uuid, uuid);
			if (length <= 40 && strncasecmp(uuid, text, length) == 0) {
				if (found >= 0)
					return -1; // an ambiguous prefix
				found = gpu;
			}
		}
		return found;
	}
	char number[16];
	if (length == 0 || length >= sizeof(number))
		return -1;
	memcpy(number, text, length);
	number[length] = '\0';
	char *rest;
	long index = strtol(number, &rest, 10);
	return rest != number && index >= 0 && index < permitted_count ? permitted[index] : -1;
}

static void see_devices(void)
{
	const char *text = getenv("CUDA_VISIBLE_DEVICES");
	sim_device_count = 0;
	find_permitted();
	if (text == NULL) {
		for (int i = 0; i < permitted_count; i++)
			sim_device[sim_device_count++].gpu = permitted[i];
		return;
	}
	while (*text != '\0' && sim_device_count < SIM_GPUS) {
		while (*text == ' ')
			text++;
		size_t length = strcspn(text, ", ");
		int gpu = visible_entry(text, length);
		if (gpu < 0)
			return; // an invalid entry ends the list
		for (int seen = 0; seen < sim_device_count; seen++) {
			if (sim_device[seen].gpu == gpu) { // naming one twice makes the whole list invalid
				sim_device_count = 0;
				return;
			}
		}
		sim_device[sim_device_count++].gpu = gpu;
		text += length;
		text += strspn(text, " ");
		if (*text == ',')
			text++;
	}
}

static CUresult initialise(void)
{
	if (sim_fault("nodriver") >= 0)
		return CUDA_ERROR_NO_DEVICE;
	if (sim_state_open() != 0)
		return CUDA_ERROR_OPERATING_SYSTEM;
	sim_lock();
	see_devices();
	sim_unlock();
	if (sim_device_count == 0)
		return CUDA_ERROR_NO_DEVICE;
	for (int device = 0; device < sim_device_count; device++) {
		sim_device[device].primary.device = device;
		sim_device[device].primary.gpu = sim_device[device].gpu;
		sim_device[device].primary.primary = true;
	}
	ready_pid = getpid();
	return CUDA_SUCCESS;
}

CUresult cuInit(unsigned int Flags)
{
	if (Flags != 0)
		return CUDA_ERROR_INVALID_VALUE;
	if (ready_pid != 0)
		return sim_ready();
	pthread_once(&local_once, make_local_lock);
	sim_enter();
	CUresult result = ready_pid != 0 ? sim_ready() : initialise();
	sim_leave();
	return result;
}

CUresult cuDriverGetVersion(int *driverVersion)
{
	if (driverVersion == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*driverVersion = (int)sim_env_number("SOFTMIG_SIM_DRIVER_VERSION", sim_driver_version);
	return CUDA_SUCCESS;
}

#define ERROR(code, text) {code, #code, text}
static const struct {
	int code;
	const char *name, *text;
} errors[] = {
	ERROR(CUDA_SUCCESS, "no error"),
	ERROR(CUDA_ERROR_INVALID_VALUE, "invalid argument"),
	ERROR(CUDA_ERROR_OUT_OF_MEMORY, "out of memory"),
	ERROR(CUDA_ERROR_NOT_INITIALIZED, "initialization error"),
	ERROR(CUDA_ERROR_DEINITIALIZED, "driver shutting down"),
	ERROR(CUDA_ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
	ERROR(CUDA_ERROR_INVALID_DEVICE, "invalid device ordinal"),
	ERROR(CUDA_ERROR_INVALID_IMAGE, "device kernel image is invalid"),
	ERROR(CUDA_ERROR_INVALID_CONTEXT, "invalid device context"),
	ERROR(CUDA_ERROR_MAP_FAILED, "mapping of buffer object failed"),
	ERROR(CUDA_ERROR_UNMAP_FAILED, "unmapping of buffer object failed"),
	ERROR(CUDA_ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
	ERROR(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"),
	ERROR(CUDA_ERROR_FILE_NOT_FOUND, "file not found"),
	ERROR(CUDA_ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
	ERROR(CUDA_ERROR_INVALID_HANDLE, "invalid resource handle"),
	ERROR(CUDA_ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
	ERROR(CUDA_ERROR_NOT_FOUND, "named symbol not found"),
	ERROR(CUDA_ERROR_NOT_READY, "device not ready"),
	ERROR(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
	ERROR(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
	ERROR(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
	ERROR(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
	ERROR(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
	ERROR(CUDA_ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
	ERROR(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"),
	ERROR(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
	ERROR(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure"),
	ERROR(CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch"),
	ERROR(CUDA_ERROR_NOT_PERMITTED, "operation not permitted"),
	ERROR(CUDA_ERROR_NOT_SUPPORTED, "operation not supported"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_MERGE, "operation would result in a merge of separate capture sequences"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, "dependency created on uncaptured work in another stream"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
		"operation would make the legacy stream depend on a capturing blocking stream"),
	ERROR(CUDA_ERROR_CAPTURED_EVENT, "operation not permitted on an event last recorded in a capturing stream"),
	ERROR(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
		"attempt to terminate a thread-local capture sequence from another thread"),
	ERROR(CUDA_ERROR_TIMEOUT, "wait operation timed out"),
	ERROR(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, "the graph update was not performed"),
	ERROR(CUDA_ERROR_UNKNOWN, "unknown error"),
};

CUresult cuGetErrorName(CUresult error, const char **pStr)
{
	for (size_t i = 0; pStr != NULL && i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].code == (int)error) {
			*pStr = errors[i].name;
			return CUDA_SUCCESS;
		}
	}
	if (pStr != NULL)
		*pStr = NULL;
	return CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **pStr)
{
	for (size_t i = 0; pStr != NULL && i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (errors[i].code == (int)error) {
			*pStr = errors[i].text;
			return CUDA_SUCCESS;
		}
	}
	if (pStr != NULL)
		*pStr = NULL;
	return CUDA_ERROR_INVALID_VALUE;
}
