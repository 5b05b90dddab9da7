// SPDX-License-Identifier: Apache-2.0
// The mapped file: making it, locking it, knowing who is alive. See state.h.
#include "state.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "gpus.h"
#include "timeline.h"

struct sim_state *sim_state;
static pthread_mutex_t open_lock = PTHREAD_MUTEX_INITIALIZER;
static char state_path[PATH_MAX]; // absolute: a program may change its directory
static int live_fd = -1; // byte n of this file is locked by the owner of process slot n for as long as it lives
static int my_slot = -1;
static int my_pid;

uint64_t sim_now_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

uint64_t sim_realtime_ns(void)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static uint64_t own_pid_ns(void)
{
	struct stat status;
	return stat("/proc/self/ns/pid", &status) == 0 ? (uint64_t)status.st_ino : 0;
}

static void make_lock(struct sim_state *state)
{
	pthread_mutexattr_t attributes;
	pthread_mutexattr_init(&attributes);
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&state->lock, &attributes);
	pthread_mutexattr_destroy(&attributes);
}

static void fill(struct sim_state *state, const char *config)
{
	snprintf(state->config, sizeof(state->config), "%s", config);
	state->slice_ns = (uint64_t)sim_env_number("SOFTMIG_SIM_SLICE_US", 2000) * 1000;
	state->switch_ns = (uint64_t)sim_env_number("SOFTMIG_SIM_SWITCH_US", 212) * 1000;
	state->idle_switch_ns = (uint64_t)sim_env_number("SOFTMIG_SIM_IDLE_SWITCH_US", 100) * 1000;
	state->next_id = 1;
	state->gpu_count = sim_gpus_parse(state->config, state->gpu);
	for (int gpu = 0; gpu < SIM_GPUS; gpu++)
		state->gpu[gpu].current = -1;
}

void sim_shared_path(const struct sim_shared_block *block, char *path, size_t size)
{
	snprintf(path, size, "%s.softmig-sim-vmm-%llu-%d-%llu", state_path, (unsigned long long)block->id, block->gpu,
		(unsigned long long)block->bytes);
}

void sim_shared_pool_path(const struct sim_shared_pool *pool, char *path, size_t size)
{
	snprintf(path, size, "%s.softmig-sim-pool-%llu-%d-0", state_path, (unsigned long long)pool->id, pool->gpu);
}

static void discard_pool(struct sim_shared_pool *pool)
{
	char path[PATH_MAX + 96];
	sim_shared_pool_path(pool, path, sizeof(path));
	if (pool->exported)
		unlink(path);
	pool->used = 0;
}

static void discard(struct sim_shared_block *block)
{
	char path[PATH_MAX + 96];
	sim_shared_path(block, path, sizeof(path));
	if (block->has_file)
		unlink(path);
	block->used = 0;
}

static bool descriptor_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno != ENOENT;
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};
	bool open = fcntl(fd, F_OFD_GETLK, &lock) != 0 || lock.l_type != F_UNLCK;
	close(fd);
	return open;
}

static bool somebody_lives(void)
{
	for (int slot = 0; slot < SIM_PROCESSES; slot++)
		if (sim_process_alive(slot))
			return true;
	return false;
}

// Takes effect only while nobody uses the GPUs: one cannot exchange them under a running program.
static void reconfigure(struct sim_state *state, const char *config)
{
	sim_lock();
	if (strcmp(state->config, config) != 0 && !somebody_lives()) {
		for (int block = 0; block < SIM_SHARED_BLOCKS; block++)
			if (state->block[block].used)
				discard(&state->block[block]);
		for (int pool = 0; pool < SIM_SHARED_POOLS; pool++)
			if (state->pool[pool].used)
				discard_pool(&state->pool[pool]);
		size_t from = offsetof(struct sim_state, config);
		memset((char *)state + from, 0, sizeof(*state) - from);
		fill(state, config);
	}
	sim_unlock();
}

static int map_state(void)
{
	char path[512], live[544];
	const char *wanted = getenv("SOFTMIG_SIM_STATE");
	if (wanted != NULL && wanted[0] != '\0')
		snprintf(path, sizeof(path), "%s", wanted);
	else
		snprintf(path, sizeof(path), "/dev/shm/softmig-sim.%u", (unsigned)geteuid());
	snprintf(live, sizeof(live), "%s.live", path);
	const char *config = getenv("SOFTMIG_SIM_GPUS");
	if (config != NULL && config[0] == '\0')
		config = NULL;

	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (fd < 0)
		return errno;
	int error = 0;
	struct sim_state *state = MAP_FAILED;
	if (live_fd < 0)
		live_fd = open(live, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (live_fd < 0 || realpath(path, state_path) == NULL || flock(fd, LOCK_EX) != 0)
		goto fail;
	struct stat status;
	if (fstat(fd, &status) != 0)
		goto fail;
	if ((uint64_t)status.st_size < sizeof(*state) && ftruncate(fd, (off_t)sizeof(*state)) != 0)
		goto fail;
	state = mmap(NULL, sizeof(*state), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (state == MAP_FAILED)
		goto fail;
	sim_state = state;
	if (state->magic != SIM_MAGIC || state->size_bytes != sizeof(*state)) {
		memset(state, 0, offsetof(struct sim_state, context));
		for (int context = 0; context < SIM_CONTEXTS; context++)
			state->context[context].used = 0;
		make_lock(state);
		fill(state, config != NULL ? config : "1xL40S:46068M");
		state->size_bytes = sizeof(*state);
		state->host_pid_ns = own_pid_ns();
		state->magic = SIM_MAGIC;
	} else if (config != NULL) {
		reconfigure(state, config);
	}
	flock(fd, LOCK_UN); // closing is not enough: the mapping keeps the file open
	close(fd);
	return 0;
fail:
	error = errno;
	flock(fd, LOCK_UN);
	close(fd);
	return error != 0 ? error : EIO;
}

int sim_state_open(void)
{
	if (__atomic_load_n(&sim_state, __ATOMIC_ACQUIRE) != NULL && my_pid == getpid())
		return 0;
	pthread_mutex_lock(&open_lock);
	int error = 0;
	if (sim_state == NULL)
		error = map_state();
	if (error == 0 && my_pid != getpid()) { // first call, or a forked child: it is another process and holds nothing
		my_pid = getpid();
		my_slot = -1;
	}
	pthread_mutex_unlock(&open_lock);
	return error;
}

static bool stopped(int thread)
{
	char path[32], text[512];
	snprintf(path, sizeof(path), "/proc/%d/stat", thread);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);
	if (fd >= 0)
		close(fd);
	text[length > 0 ? length : 0] = '\0';
	const char *end = strrchr(text, ')');
	return end != NULL && end[1] == ' ' && end[2] == 'T';
}

static struct timespec in_ms(long ms)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	return until;
}

// A real driver's call ends before its process can be stopped. Here a process may be stopped while it holds the lock:
// it is then let go on for the moment that it needs, and stopped again.
static int lock_past_the_stopped(void)
{
	struct timespec until = in_ms(10);
	int result = pthread_mutex_timedlock(&sim_state->lock, &until);
	while (result == ETIMEDOUT) {
		int owner = sim_state->lock.__data.__owner;
		bool stop_again = owner > 0 && stopped(owner);
		if (stop_again)
			kill(owner, SIGCONT);
		until = in_ms(50);
		result = pthread_mutex_timedlock(&sim_state->lock, &until);
		if (stop_again)
			kill(owner, SIGSTOP);
	}
	return result;
}

void sim_lock(void)
{
	int result = pthread_mutex_trylock(&sim_state->lock);
	if (result == EBUSY)
		result = lock_past_the_stopped();
	if (result == EOWNERDEAD) {
		sim_timeline_repair();
		pthread_mutex_consistent(&sim_state->lock);
	}
}

void sim_unlock(void)
{
	pthread_mutex_unlock(&sim_state->lock);
}

static void own_name(char *name, size_t size)
{
	ssize_t length = readlink("/proc/self/exe", name, size - 1);
	name[length > 0 ? length : 0] = '\0';
}

// A process in a namespace of its own can tell its pid on the host only where it sees the host's /proc.
static int host_pid(void)
{
	char text[32];
	ssize_t length = readlink("/proc/self", text, sizeof(text) - 1);
	text[length > 0 ? length : 0] = '\0';
	int pid = (int)strtol(text, NULL, 10);
	if (own_pid_ns() == sim_state->host_pid_ns)
		return getpid();
	return pid != getpid() ? pid : 0;
}

int sim_process_claim(void)
{
	if (my_slot >= 0)
		return my_slot;
	for (int pass = 0; pass < 2; pass++) {
		for (int slot = 0; slot < SIM_PROCESSES; slot++) {
			struct sim_process *process = &sim_state->process[slot];
			if (process->pid != 0)
				continue;
			// A lock of this file's byte ends with the process, however it ends, before its parent learns of it.
			struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
			if (fcntl(live_fd, F_SETLK, &lock) != 0)
				continue;
			uint64_t generation = process->generation + 1;
			memset(process, 0, sizeof(*process));
			process->generation = generation;
			process->start_ns = sim_realtime_ns();
			own_name(process->name, sizeof(process->name));
			process->pid_ns = own_pid_ns();
			process->host_pid = host_pid();
			process->pid = getpid();
			my_slot = slot;
			return slot;
		}
		sim_reap();
	}
	return -1;
}

// Who holds the lock of slot's byte, in the caller's terms: 0: nobody, -1: somebody of another PID namespace.
static int holder(int slot)
{
	const struct sim_process *process = &sim_state->process[slot];
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = slot, .l_len = 1};
	if (process->pid == 0)
		return 0;
	if (fcntl(live_fd, F_GETLK, &lock) != 0)
		return -1;
	if (lock.l_type != F_UNLCK)
		return lock.l_pid > 0 ? lock.l_pid : -1;
	// One's own lock does not show: the driver's other library in this same process looks here too.
	return process->pid == getpid() && process->pid_ns == own_pid_ns() ? process->pid : 0;
}

bool sim_process_alive(int slot)
{
	return holder(slot) != 0;
}

int sim_process_pid(int slot)
{
	struct sim_process *process = &sim_state->process[slot];
	const char *faults = getenv("SOFTMIG_SIM_FAULT");
	if (faults == NULL || strstr(faults, "nvml:hostpids") == NULL) {
		int pid = holder(slot);
		return pid > 0 ? pid : 0;
	}
	if (process->host_pid == 0 && own_pid_ns() == sim_state->host_pid_ns) {
		int pid = holder(slot);
		process->host_pid = pid > 0 ? pid : 0;
	}
	return process->host_pid;
}

static void remember(struct sim_gpu *gpu, const struct sim_process *process, int index)
{
	if (process->peak_bytes[index] == 0)
		return;
	uint32_t place = gpu->history_next++ % SIM_ACCOUNTING;
	gpu->history[place].pid = process->pid;
	gpu->history[place].running = 0;
	gpu->history[place].peak_bytes = process->peak_bytes[index];
	gpu->history[place].busy_ns = process->busy_ns[index];
	gpu->history[place].start_ns = process->start_ns;
	gpu->history[place].end_ns = sim_realtime_ns();
}

static void let_go(struct sim_shared_block *block, int slot)
{
	for (int i = 0; i < SIM_HOLDERS; i++)
		if (block->holder[i].process == slot)
			block->holder[i].count = 0;
	if (block->owner == slot) {
		block->owner = -1;
		block->originals = 0;
	}
}

bool sim_pool_import_covers(const struct sim_pool_import *import, uint64_t place, uint64_t bytes)
{
	return import->used && place < import->place + import->bytes && import->place < place + bytes;
}

void sim_pool_import_pass_on(struct sim_shared_pool *pool, struct sim_pool_import *import)
{
	uint64_t bytes = import->charged_bytes;
	import->charged_bytes = 0;
	if (bytes == 0)
		return;
	sim_uncharge(import->process, pool->gpu, bytes);
	for (int i = 0; i < SIM_POOL_IMPORTS; i++) {
		struct sim_pool_import *next = &pool->import[i];
		if (next == import || !sim_pool_import_covers(next, import->place, import->bytes) || next->generation >= import->renewed)
			continue;
		next->charged_bytes += bytes;
		next->renewed = import->renewed;
		sim_state->process[next->process].used_bytes[pool->gpu] += bytes;
		return;
	}
}

static void let_go_of_pool(struct sim_shared_pool *pool, int slot)
{
	for (int i = 0; i < SIM_HOLDERS; i++)
		if (pool->holder[i].process == slot)
			pool->holder[i].count = 0;
	for (int i = 0; i < SIM_POOL_IMPORTS; i++) {
		if (!pool->import[i].used || pool->import[i].process != slot)
			continue;
		sim_pool_import_pass_on(pool, &pool->import[i]);
		pool->import[i].used = 0;
	}
	if (pool->maker == slot) { // what its pool still had
		pool->hidden_bytes += pool->reserved_bytes;
		pool->reserved_bytes = 0;
		pool->maker = -1;
	}
}

static void settle_pool(struct sim_shared_pool *pool, uint64_t *hidden)
{
	char path[PATH_MAX + 96];
	bool held = false;
	for (int i = 0; i < SIM_HOLDERS; i++)
		held |= pool->holder[i].count > 0;
	sim_shared_pool_path(pool, path, sizeof(path));
	if (!held && !(pool->exported && descriptor_open(path)))
		pool->hidden_bytes = 0;
	else
		held = true;
	*hidden += pool->hidden_bytes;
	if (!held && pool->reserved_bytes == 0)
		discard_pool(pool);
}

void sim_shared_settle(void)
{
	char path[PATH_MAX + 96];
	uint64_t hidden[SIM_GPUS] = {0};
	for (int index = 0; index < SIM_SHARED_BLOCKS; index++) {
		struct sim_shared_block *block = &sim_state->block[index];
		if (!block->used || block->owner >= 0)
			continue;
		sim_shared_path(block, path, sizeof(path));
		if (block->exported && descriptor_open(path)) {
			hidden[block->gpu] += block->bytes;
			continue;
		}
		int heir = -1;
		for (int i = 0; i < SIM_HOLDERS && heir < 0; i++)
			if (block->holder[i].count > 0)
				heir = block->holder[i].process;
		if (heir < 0) {
			discard(block);
			continue;
		}
		block->owner = heir;
		block->inherited = 1;
		sim_state->process[heir].used_bytes[block->gpu] += block->bytes;
	}
	for (int index = 0; index < SIM_SHARED_POOLS; index++)
		if (sim_state->pool[index].used)
			settle_pool(&sim_state->pool[index], &hidden[sim_state->pool[index].gpu]);
	// Counted anew each time: whoever was killed while it settled leaves nothing wrong.
	for (int gpu = 0; gpu < SIM_GPUS; gpu++)
		sim_state->gpu[gpu].hidden_bytes = hidden[gpu];
}

void sim_process_discard(int slot)
{
	struct sim_process *process = &sim_state->process[slot];
	for (int gpu = 0; gpu < sim_state->gpu_count; gpu++)
		remember(&sim_state->gpu[gpu], process, gpu);
	for (int gpu = 0; gpu < sim_state->gpu_count; gpu++) {
		struct sim_gpu *its = &sim_state->gpu[gpu];
		for (int i = its->context_count - 1; i >= 0; i--)
			if (sim_state->context[its->context[i]].process == slot)
				sim_timeline_close(its->context[i]);
	}
	for (int block = 0; block < SIM_SHARED_BLOCKS; block++)
		if (sim_state->block[block].used)
			let_go(&sim_state->block[block], slot);
	for (int pool = 0; pool < SIM_SHARED_POOLS; pool++)
		if (sim_state->pool[pool].used)
			let_go_of_pool(&sim_state->pool[pool], slot);
	process->pid = 0;
}

int sim_reap(void)
{
	int count = 0;
	sim_state->reaped_ns = sim_now_ns();
	for (int slot = 0; slot < SIM_PROCESSES; slot++) {
		if (sim_state->process[slot].pid != 0 && !sim_process_alive(slot)) {
			sim_process_discard(slot);
			count++;
		}
	}
	sim_shared_settle();
	return count;
}

uint64_t sim_gpu_used(int gpu)
{
	uint64_t bytes = sim_state->gpu[gpu].hidden_bytes;
	for (int slot = 0; slot < SIM_PROCESSES; slot++)
		if (sim_state->process[slot].pid != 0)
			bytes += sim_state->process[slot].used_bytes[gpu] + sim_state->process[slot].managed_bytes[gpu];
	return bytes;
}

uint64_t sim_gpu_capacity(int gpu)
{
	return sim_state->gpu[gpu].total_bytes - sim_state->gpu[gpu].reserved_bytes;
}

bool sim_charge(int slot, int gpu, uint64_t bytes)
{
	struct sim_process *process = &sim_state->process[slot];
	uint64_t capacity = sim_gpu_capacity(gpu);
	if (bytes > capacity)
		return false;
	if (sim_gpu_used(gpu) > capacity - bytes) {
		sim_reap();
		if (sim_gpu_used(gpu) > capacity - bytes)
			return false;
	}
	process->used_bytes[gpu] += bytes;
	if (process->used_bytes[gpu] > process->peak_bytes[gpu])
		process->peak_bytes[gpu] = process->used_bytes[gpu];
	return true;
}

void sim_uncharge(int slot, int gpu, uint64_t bytes)
{
	struct sim_process *process = &sim_state->process[slot];
	process->used_bytes[gpu] -= bytes <= process->used_bytes[gpu] ? bytes : process->used_bytes[gpu];
}

long sim_fault(const char *name)
{
	const char *text = getenv("SOFTMIG_SIM_FAULT");
	size_t length = strlen(name);
	while (text != NULL && *text != '\0') {
		if (strncmp(text, name, length) == 0 && (text[length] == ':' || text[length] == ',' || text[length] == '\0'))
			return text[length] == ':' ? strtol(text + length + 1, NULL, 10) : 0;
		text = strchr(text, ',');
		if (text != NULL)
			text++;
	}
	return -1;
}

long sim_env_number(const char *name, long fallback)
{
	const char *text = getenv(name);
	return text != NULL && text[0] != '\0' ? strtol(text, NULL, 10) : fallback;
}

uint64_t sim_env_bytes(const char *name, uint64_t fallback)
{
	const char *text = getenv(name);
	return text != NULL && text[0] != '\0' ? sim_gpus_bytes(text, NULL) : fallback;
}
