// SPDX-License-Identifier: Apache-2.0
// The fight for memory: processes of one slice take memory in every way the driver has, at random, free it at random, are
// killed at random and restarted. The judge is outside (watcher.c); this program counts what each way was granted and
// refused, that no other error ever came, that memory kept what was written into it, and that afterwards one process can
// have everything again. Owns: the fight. The ways themselves: ways.h; what was done when: steps.h.
//   fighter fight PROCESSES SECONDS [SEED]    the fight; FIGHT_WAYS=0,4,7 in the environment: with these ways alone; FIGHT_LOG=FILE: see steps.h
//   fighter ways                              their names, from 0
//   fighter fill LIMIT_MIB                    one process takes all that is left beside its context
//   fighter audit SECONDS [SEED]              one process alone: after each step, does the driver hold more than the slice was charged?
//                                             FIGHT_TELL=1: a line for each step that made it so
//   fighter churn PROCESSES                   so many short lives, eight at a time: each gets its context and memory, exits or is killed
//   fighter toil STEPS [SEED]                 one long life: what it has grown by in memory, mappings and descriptors between a quarter and the end
//   fighter live [SEED]                       a life without end: at a byte of input it gives everything back, tells its steps, KiB, mappings and
//                                             descriptors, and rests until the next one
//   fighter outlive                           whose is memory that another process holds open when its owner dies? Measures, judges nothing
//   fighter hide LIMIT_MIB                   one process takes memory and keeps it by descriptors alone, which the driver shows to nobody
//   fighter hide-pool LIMIT_MIB              the same by pointers of a pool that it exports, another process imports, and both free
//   fighter together PROCESSES LIMIT_MIB      all take 16 MiB pieces at once until refused; the sum fits, nothing is wasted
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../descriptor.h"
#include "check.h"
#include "nvml_self.h"
#include "steps.h"
#include "ways.h"

#define MAX_PROCESSES 128
#define THINGS 24
#define THREADS 2

struct tally {
	_Atomic unsigned long granted, refused, lacking;
};

// Shared by all the processes of the fight.
struct arena {
	struct tally way[WAYS];
	_Atomic unsigned long contexts, contexts_refused, odd, corrupted;
	_Atomic bool was_full;
	_Atomic int odd_way, odd_code; // the last unexpected error
	_Atomic unsigned long together_bytes, together_ready, together_done;
	struct bazaar bazaar;
};
static struct arena *arena;

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

// Log-uniform from 1 B to 256 MiB: small ones find rounding errors, large ones find the limit.
static size_t random_size(unsigned *seed)
{
	unsigned bits = (unsigned)rand_r(seed) % 29;
	return (1ull << bits) + (size_t)((unsigned)rand_r(seed) & ((1u << bits) - 1));
}

static void note(int way, CUresult code)
{
	struct tally *tally = &arena->way[way];
	if (code == CUDA_SUCCESS)
		tally->granted++;
	else if (code == CUDA_ERROR_OUT_OF_MEMORY) {
		tally->refused++;
		arena->was_full = true;
	} else if (code == CUDA_ERROR_NOT_SUPPORTED || code == CUDA_ERROR_NOT_PERMITTED || code == WAY_IDLE)
		tally->lacking++;
	else {
		arena->odd++;
		arena->odd_way = way;
		arena->odd_code = (int)code;
	}
}

static int allowed[WAYS], allowed_count;

static void choose_ways(void)
{
	const char *text = getenv("FIGHT_WAYS");
	for (int i = 0; text == NULL && i < WAYS; i++)
		allowed[allowed_count++] = i;
	while (text != NULL && allowed_count < WAYS) {
		allowed[allowed_count++] = abs(atoi(text)) % WAYS;
		text = strchr(text, ',');
		text += text != NULL;
	}
}

struct worker {
	unsigned seed;
	CUcontext context;
	CUdevice device;
};

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct thing things[THINGS];
	int count = 0;
	unsigned seed = worker->seed;
	CU(cuCtxSetCurrent)(worker->context);
	for (;;) {
		int give_pct = arena->was_full ? 42 : 10; // at first towards the limit, however slow the machine is
		if (count == THINGS || (count > 0 && rand_r(&seed) % 100 < give_pct)) {
			int which = rand_r(&seed) % count, way = things[which].way;
			struct step *reading = step_begin(STEP_READ, way, things[which].bytes);
			if (!thing_intact(&things[which]))
				arena->corrupted++;
			step_end(reading, CUDA_SUCCESS);
			struct step *giving = step_begin(STEP_GIVE, way, things[which].bytes);
			ways[way].give(&things[which]);
			step_end(giving, CUDA_SUCCESS);
			things[which] = things[--count];
			continue;
		}
		struct thing *thing = &things[count];
		memset(thing, 0, sizeof *thing);
		thing->way = allowed[rand_r(&seed) % allowed_count];
		thing->device = worker->device;
		thing->seed = (unsigned)rand_r(&seed);
		thing->bytes = random_size(&seed);
		thing->bazaar = &arena->bazaar;
		struct step *taking = step_begin(STEP_TAKE, thing->way, thing->bytes);
		CUresult code = ways[thing->way].take(thing);
		step_end(taking, (int)code);
		note(thing->way, code);
		if (code != CUDA_SUCCESS)
			continue;
		struct step *marking = step_begin(STEP_MARK, thing->way, thing->bytes);
		thing_mark(thing);
		step_end(marking, CUDA_SUCCESS);
		count++;
	}
	return NULL;
}

static bool open_gpu(struct worker *worker)
{
	driver_open();
	struct step *opening = step_begin(STEP_CONTEXT, 0, 0);
	CUresult code = CU(cuInit)(0);
	if (code == CUDA_SUCCESS)
		code = CU(cuDeviceGet)(&worker->device, 0);
	if (code == CUDA_SUCCESS)
		code = CU(cuDevicePrimaryCtxRetain)(&worker->context, worker->device);
	step_end(opening, (int)code);
	if (code == CUDA_SUCCESS)
		CU(cuCtxSetCurrent)(worker->context);
	if (code != CUDA_SUCCESS && code != CUDA_ERROR_OUT_OF_MEMORY) {
		arena->odd++;
		arena->odd_way = -1;
		arena->odd_code = (int)code;
	}
	if (code == CUDA_SUCCESS)
		arena->contexts++;
	else
		arena->contexts_refused++;
	return code == CUDA_SUCCESS;
}

static void fight_on(unsigned seed)
{
	struct worker worker[THREADS] = { { .seed = seed } };
	if (!open_gpu(&worker[0])) {
		usleep(50000); // no room for a context: another will die soon
		_exit(0);
	}
	for (int i = 1; i < THREADS; i++) {
		pthread_t thread;
		worker[i] = worker[0];
		worker[i].seed = seed + 7919u * (unsigned)i;
		pthread_create(&thread, NULL, work, &worker[i]);
	}
	work(&worker[0]);
}

static int fight(int processes, double seconds, unsigned seed)
{
	pid_t pid[MAX_PROCESSES] = { 0 };
	unsigned long started = 0, killed = 0;
	double end = now() + seconds, next_kill = now() + seconds / 10;
	while (now() < end) {
		for (int i = 0; i < processes; i++) {
			if (pid[i] > 0 && waitpid(pid[i], NULL, WNOHANG) == pid[i])
				pid[i] = 0;
			if (pid[i] == 0) {
				unsigned child_seed = (unsigned)rand_r(&seed);
				pid[i] = fork();
				if (pid[i] == 0)
					fight_on(child_seed);
				started++;
			}
		}
		if (now() > next_kill) {
			int victim = rand_r(&seed) % processes;
			if (pid[victim] > 0 && kill(pid[victim], SIGKILL) == 0)
				killed++;
			next_kill = now() + 0.05 + (double)(rand_r(&seed) % 100) / 100 * seconds / 15;
		}
		usleep(2000);
	}
	for (int i = 0; i < processes; i++)
		if (pid[i] > 0)
			kill(pid[i], SIGKILL);
	while (wait(NULL) > 0)
		;
	check(killed > 0, "processes killed and restarted", "> 0\t%lu of %lu", killed, started);
	check(arena->contexts > 0, "contexts granted", "> 0\t%lu (%lu refused)", (unsigned long)arena->contexts, (unsigned long)arena->contexts_refused);
	unsigned long granted = 0, refused = 0;
	for (int k = 0; k < allowed_count; k++) {
		char name[80];
		int i = allowed[k];
		const struct tally *tally = &arena->way[i];
		granted += tally->granted;
		refused += tally->refused;
		snprintf(name, sizeof name, "way: %s", ways[i].name);
		if (tally->granted == 0 && tally->refused == 0)
			check_skip(name, "the driver does not do it here");
		else
			check(tally->granted > 0, name, "granted > 0\t%lu granted, %lu refused", (unsigned long)tally->granted, (unsigned long)tally->refused);
	}
	check(granted > 0 && refused > 0, "all ways together", "granted and refused\t%lu granted, %lu refused", granted, refused);
	check(arena->odd == 0, "errors other than out of memory", "0\t%lu (last %d by %s)", (unsigned long)arena->odd, arena->odd_code,
	      arena->odd_way < 0 ? "context" : ways[arena->odd_way].name);
	check(arena->corrupted == 0, "memory that lost what was written", "0\t%lu", (unsigned long)arena->corrupted);
	return check_failures != 0;
}

static unsigned long long take_all(unsigned long long piece, unsigned long long least)
{
	unsigned long long got = 0;
	CUdeviceptr pointer;
	while (piece >= least) {
		if (CU(cuMemAlloc_v2)(&pointer, piece) == CUDA_SUCCESS)
			got += piece;
		else
			piece /= 2;
	}
	return got;
}

static int fill(unsigned long long limit)
{
	struct worker worker = { 0 };
	size_t free_bytes = 0, total = 0;
	if (!check_true(open_gpu(&worker), "one process alone gets a context"))
		return 1;
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	check_number("total", limit, total);
	unsigned long long got = take_all(256 * MIB, 2 * MIB), context = total - free_bytes;
	check(got >= free_bytes / 1000 * 995 && got <= free_bytes, "takes what is left beside its context", "99.5 %% of %zu MiB\t%llu MiB (%.2f %%)",
	      free_bytes >> 20, got >> 20, 100.0 * (double)got / (double)free_bytes);
	check(context < limit / 2, "what its context is charged", "< %llu MiB\t%llu MiB", limit / 2 >> 20, context >> 20);
	usleep(300000); // long enough for the watcher to see it
	return check_failures != 0;
}

// A piece of which only the descriptor is kept.
static bool take_by_descriptor(CUdevice device, int *descriptor, size_t bytes)
{
	struct thing thing = { .device = device };
	CUmemAllocationProp properties = vmm_properties(&thing);
	CUmemGenericAllocationHandle handle;
	if (CU(cuMemCreate)(&handle, bytes, &properties, 0) != CUDA_SUCCESS)
		return false;
	bool kept = CU(cuMemExportToShareableHandle)(descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) == CUDA_SUCCESS;
	CU(cuMemRelease)(handle);
	return kept;
}

static bool take_by_dma_buf(CUdevice device, int *descriptor, size_t bytes)
{
	struct thing thing = { .device = device, .bytes = bytes };
	CUresult code = take_dma_buf(&thing);
	*descriptor = thing.descriptor;
	return code == CUDA_SUCCESS;
}

static int hide(unsigned long long limit)
{
	enum { MOST = 512 };
	static bool (*const take[2])(CUdevice, int *, size_t) = { take_by_descriptor, take_by_dma_buf };
	static const char *const what[2] = { "pieces granted that descriptors alone keep", "and when these are closed, that dma-bufs alone keep" };
	struct worker worker = { 0 };
	int descriptor[MOST];
	size_t free_bytes = 0, total = 0, piece = limit / 64 / (2 * MIB) * (2 * MIB);
	if (!check_true(open_gpu(&worker), "one process alone gets a context"))
		return 1;
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	int fit = (int)(free_bytes / piece);
	for (int round = 0; round < 4; round++) { // what was closed is there again
		int count = 0;
		while (count < MOST && take[round / 2](worker.device, &descriptor[count], piece))
			count++;
		check(count == fit, round % 2 == 0 ? what[round / 2] : "and again when these are closed", "%d, as many as fit\t%d", fit, count);
		usleep(600000); // two quarters of a second, for the watcher
		while (count > 0)
			close(descriptor[--count]);
	}
	return check_failures != 0;
}

// What the other process is told: a descriptor of a pool, to import it; a pointer of that, to import it and free it; neither, to destroy its import.
struct request {
	bool has_pointer;
	CUmemPoolPtrExportData pointer;
};

static CUresult obey(CUmemoryPool *pool, const struct request *request, int descriptor)
{
	CUdeviceptr pointer;
	if (descriptor >= 0) {
		CUresult code = CU(cuMemPoolImportFromShareableHandle)(pool, (void *)(intptr_t)descriptor, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
		close(descriptor);
		return code;
	}
	if (!request->has_pointer) {
		CUmemoryPool gone = *pool;
		*pool = NULL;
		return gone == NULL ? CUDA_SUCCESS : CU(cuMemPoolDestroy)(gone);
	}
	CUmemPoolPtrExportData data = request->pointer;
	CUresult code = CU(cuMemPoolImportPointer)(&pointer, *pool, &data);
	if (code == CUDA_SUCCESS)
		code = CU(cuMemFreeAsync)(pointer, NULL);
	return code == CUDA_SUCCESS ? CU(cuStreamSynchronize)(NULL) : code;
}

static void import_pools(int peer)
{
	struct worker worker = { 0 };
	CUmemoryPool pool = NULL;
	bool open = open_gpu(&worker);
	for (;;) {
		struct request request;
		int descriptor;
		if (!receive_with_descriptor(peer, &request, sizeof(request), &descriptor))
			_exit(0);
		CUresult code = open ? obey(&pool, &request, descriptor) : CUDA_ERROR_NOT_INITIALIZED;
		if (write(peer, &code, sizeof(code)) != sizeof(code))
			_exit(0);
	}
}

// Sends the importer a descriptor, unless it is -1, or what a pointer was exported as, unless it is NULL. Returns what it was answered.
static CUresult tell_importer(int peer, int descriptor, const CUmemPoolPtrExportData *pointer)
{
	struct request request = { .has_pointer = pointer != NULL };
	CUresult code = CUDA_ERROR_UNKNOWN;
	if (pointer != NULL)
		request.pointer = *pointer;
	if (!send_with_descriptor(peer, &request, sizeof(request), descriptor) || read(peer, &code, sizeof(code)) != sizeof(code))
		return CUDA_ERROR_UNKNOWN;
	return code;
}

static CUresult show_pointer(int peer, const CUmemPoolPtrExportData *pointer)
{
	return tell_importer(peer, -1, pointer);
}

enum { MOST_POOLED = 512 };

// Takes as many pieces of the pool as there is room for, at once, so that each has its own place; exports each, has it imported and freed there, and frees all. The driver
// keeps one piece for each place (docs/driver-facts.md). Returns how many; *code: what ended it, or went wrong.
static int leave_all_in_pool(CUmemoryPool pool, size_t piece, int peer, CUresult *code)
{
	CUdeviceptr pointer[MOST_POOLED];
	CUmemPoolPtrExportData data;
	CUresult last = CUDA_SUCCESS;
	int count = 0;
	while (count < MOST_POOLED && (*code = CU(cuMemAllocFromPoolAsync)(&pointer[count], piece, pool, NULL)) == CUDA_SUCCESS)
		count++;
	for (int i = 0; i < count && last == CUDA_SUCCESS; i++) {
		last = CU(cuMemPoolExportPointer)(&data, pointer[i]);
		if (last == CUDA_SUCCESS)
			last = show_pointer(peer, &data);
	}
	for (int i = 0; i < count; i++)
		CU(cuMemFreeAsync)(pointer[i], NULL);
	CU(cuStreamSynchronize)(NULL);
	*code = last != CUDA_SUCCESS ? last : *code;
	return count;
}

// What is exported at a place lets go of what was kept there: natively this goes on for ever. Returns how often it went, -1: something else failed.
static int leave_at_one_place(CUdevice device, size_t piece, int peer, int most)
{
	CUmemoryPool pool;
	int count = 0, descriptor;
	CUresult code = exported_pool(device, &pool, &descriptor);
	if (code != CUDA_SUCCESS)
		return -1;
	if (tell_importer(peer, descriptor, NULL) == CUDA_SUCCESS)
		while (count < most && leave_in_pool(pool, piece, show_pointer, peer) == CUDA_SUCCESS)
			count++;
	CU(cuMemPoolDestroy)(pool);
	close(descriptor);
	return tell_importer(peer, -1, NULL) == CUDA_SUCCESS ? count : -1;
}

enum { MOST_POOLS = 256 };

// Pools that keep three chunks each, of 32 MiB: what is exported begins at the end of the first and ends at the beginning of the third. Returns how many were granted.
static int leave_across_chunks(CUdevice device, CUmemoryPool pools[MOST_POOLS])
{
	int count = 0;
	for (CUdeviceptr before; count < MOST_POOLS; count++) {
		int descriptor;
		if (exported_pool(device, &pools[count], &descriptor) != CUDA_SUCCESS)
			return count;
		close(descriptor);
		CUresult code = CU(cuMemAllocFromPoolAsync)(&before, 31 * MIB, pools[count], NULL);
		if (code == CUDA_SUCCESS) {
			code = leave_in_pool(pools[count], 34 * MIB, NULL, -1);
			CU(cuMemFreeAsync)(before, NULL);
			CU(cuStreamSynchronize)(NULL);
		}
		if (code != CUDA_SUCCESS) {
			CU(cuMemPoolDestroy)(pools[count]);
			return count;
		}
	}
	return count;
}

static int hide_pool(unsigned long long limit)
{
	struct worker worker = { 0 };
	size_t free_bytes = 0, total = 0, piece = (limit / 64 / (32 * MIB) + 1) * (32 * MIB);
	int peer[2];
	CUdeviceptr none;
	pid_t importer = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, peer) == 0 ? fork() : -1;
	if (importer == 0) {
		close(peer[0]);
		import_pools(peer[1]);
	}
	close(peer[1]);
	if (!check_true(importer > 0 && tell_importer(peer[0], -1, NULL) == CUDA_SUCCESS && open_gpu(&worker), "two processes get a context"))
		return 1;
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	int fit = (int)(free_bytes / piece);
	for (int round = 0; round < 3; round++) { // what was let go of is there again
		int descriptor;
		CUmemoryPool pool;
		CUresult code = exported_pool(worker.device, &pool, &descriptor);
		if (code == CUDA_SUCCESS)
			code = tell_importer(peer[0], descriptor, NULL);
		if (!check_true(code == CUDA_SUCCESS, "a pool is exported, and imported by the other"))
			return 1;
		int count = leave_all_in_pool(pool, piece, peer[0], &code);
		check_number("then out of memory", CUDA_ERROR_OUT_OF_MEMORY, code);
		check(count == fit || count == fit - 1, round == 0 ? "pieces granted that were exported and freed" : "and again when their pool is gone",
		      "%d, as many as fit, or one fewer as the driver keeps a chunk for itself\t%d", fit, count);
		check(CU(cuMemAllocFromPoolAsync)(&none, 2 * piece, pool, NULL) == CUDA_ERROR_OUT_OF_MEMORY, "more of that pool", "refused\t");
		usleep(600000); // two quarters of a second, for the watcher
		CU(cuMemPoolDestroy)(pool);
		if (round == 1)
			close(descriptor);
		check(CU(cuMemAlloc_v2)(&none, 2 * piece) == CUDA_ERROR_OUT_OF_MEMORY, round == 1 ? "while the other has imported it" : "while its descriptor is open", "refused\t");
		usleep(600000);
		check_true(tell_importer(peer[0], -1, NULL) == CUDA_SUCCESS, "the other destroys its import");
		if (round != 1)
			close(descriptor);
	}
	int again = leave_at_one_place(worker.device, piece, peer[0], 3 * fit);
	check(again == 3 * fit, "one after another at one place", "%d, three times as many as fit\t%d", 3 * fit, again);
	static CUmemoryPool pools[MOST_POOLS];
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	int three = (int)(free_bytes / (96 * MIB)), across = leave_across_chunks(worker.device, pools);
	check(across == three || across == three - 1, "pools granted that keep three chunks of 32 MiB each", "%d, as many as fit, or one fewer\t%d", three, across);
	usleep(600000);
	for (int i = 0; i < across; i++)
		CU(cuMemPoolDestroy)(pools[i]);
	CU(cuMemGetInfo_v2)(&free_bytes, &total);
	check(free_bytes / piece >= (unsigned)fit - 1, "free in the end", ">= %d pieces\t%zu", fit - 1, free_bytes / piece);
	close(peer[0]);
	waitpid(importer, NULL, 0);
	return check_failures != 0;
}

static int together(int processes, unsigned long long limit)
{
	for (int i = 0; i < processes; i++) {
		if (fork() != 0)
			continue;
		struct worker worker = { 0 };
		bool open = open_gpu(&worker);
		arena->together_ready++;
		while (arena->together_ready < (unsigned)processes)
			usleep(100);
		if (open)
			arena->together_bytes += take_all(16 * MIB, 2 * MIB);
		arena->together_done++;
		while (arena->together_done < (unsigned)processes)
			usleep(100);
		size_t free_bytes = 0, total = 0;
		if (open && i == 0) {
			CU(cuMemGetInfo_v2)(&free_bytes, &total);
			check(free_bytes < 2 * MIB, "together they leave nothing", "< 2 MiB\t%zu KiB", free_bytes >> 10);
			check_number("and see one slice", limit, total);
		}
		usleep(300000);
		_exit(0);
	}
	while (wait(NULL) > 0)
		;
	check(arena->contexts == (unsigned)processes, "each got a context", "%d\t%lu", processes, (unsigned long)arena->contexts);
	check(arena->together_bytes > limit / 4 && arena->together_bytes < limit, "bytes of all of them", "below %llu MiB\t%lu MiB", limit >> 20,
	      (unsigned long)arena->together_bytes >> 20);
	return check_failures != 0;
}

static int audit(double seconds, unsigned seed)
{
	struct worker worker = { .seed = seed };
	struct thing things[THINGS];
	unsigned long long worst[WAYS] = { 0 }, steps[WAYS] = { 0 }, before = 0, step = 0, sum = 0;
	bool tell = getenv("FIGHT_TELL") != NULL;
	int count = 0;
	if (!check_true(open_gpu(&worker), "one process alone gets a context"))
		return 1;
	for (double end = now() + seconds; now() < end; step++) {
		int way, which = count == 0 ? 0 : rand_r(&seed) % count;
		bool give = count == THINGS || (count > 0 && rand_r(&seed) % 100 < 45);
		CUresult code = CUDA_SUCCESS;
		size_t bytes;
		if (give) {
			way = things[which].way;
			bytes = things[which].bytes;
			ways[way].give(&things[which]);
			things[which] = things[--count];
		} else {
			struct thing *thing = &things[count];
			memset(thing, 0, sizeof *thing);
			way = thing->way = allowed[rand_r(&seed) % allowed_count];
			thing->device = worker.device;
			thing->seed = (unsigned)rand_r(&seed);
			thing->bytes = bytes = random_size(&seed);
			thing->bazaar = &arena->bazaar;
			code = ways[way].take(thing);
			if (code == CUDA_SUCCESS) {
				thing_mark(thing);
				count++;
			}
		}
		size_t free_bytes = 0, total = 0;
		unsigned long long held = nvml_bytes();
		CU(cuMemGetInfo_v2)(&free_bytes, &total);
		unsigned long long charged = total - free_bytes;
		steps[way]++;
		unsigned long long uncharged = held > charged ? held - charged : 0;
		if (uncharged > before && uncharged - before > worst[way])
			worst[way] = uncharged - before; // this step's doing
		if (uncharged > before) {
			sum += uncharged - before;
			if (tell)
				printf("@grew\tstep %llu\t%s %s of %zu bytes: %d\t%llu KiB more, held %llu KiB, charged %llu KiB, unforeseen in all %llu KiB\n", step,
				       give ? "give" : "take", ways[way].name, bytes, (int)code, (uncharged - before) >> 10, held >> 10, charged >> 10, sum >> 10);
		}
		before = uncharged;
	}
	for (int i = 0; i < allowed_count; i++)
		check(worst[allowed[i]] == 0, ways[allowed[i]].name, "never more than charged\t%llu MiB, in %llu steps", worst[allowed[i]] >> 20, steps[allowed[i]]);
	return check_failures != 0;
}

static int churn(int processes)
{
	unsigned seed = 1;
	int started = 0, ended = 0, running = 0;
	while (ended < processes) {
		while (started < processes && running < 8) {
			bool killed = rand_r(&seed) % 2 == 0;
			if (fork() == 0) {
				struct worker worker = { 0 };
				CUdeviceptr pointer;
				bool good = open_gpu(&worker) && CU(cuMemAlloc_v2)(&pointer, 64 * MIB) == CUDA_SUCCESS;
				arena->together_done += good;
				if (killed)
					kill(getpid(), SIGKILL);
				_exit(0);
			}
			started++;
			running++;
		}
		if (wait(NULL) > 0)
			running--, ended++;
	}
	check_number("short lives that got a context and memory", (unsigned)processes, (unsigned)arena->together_done);
	return check_failures != 0;
}

struct footprint {
	long resident_kib, mappings, descriptors;
};

static long lines_of(const char *path)
{
	long lines = 0;
	FILE *file = fopen(path, "re");
	for (int c; file != NULL && (c = fgetc(file)) != EOF;)
		lines += c == '\n';
	if (file != NULL)
		fclose(file);
	return lines;
}

static struct footprint look(void)
{
	struct footprint seen = { .mappings = lines_of("/proc/self/maps") };
	long total = 0, resident = 0;
	FILE *file = fopen("/proc/self/statm", "re");
	if (file != NULL && fscanf(file, "%ld %ld", &total, &resident) == 2)
		seen.resident_kib = resident * (sysconf(_SC_PAGESIZE) / 1024);
	if (file != NULL)
		fclose(file);
	for (int fd = 0; fd < 4096; fd++)
		seen.descriptors += fcntl(fd, F_GETFD) >= 0;
	return seen;
}

struct life {
	struct worker worker;
	struct thing things[THINGS];
	int count;
	unsigned seed;
};

static void give_everything(struct life *life)
{
	while (life->count > 0) {
		life->count--;
		ways[life->things[life->count].way].give(&life->things[life->count]);
	}
}

static void take_or_give(struct life *life)
{
	if (life->count == THINGS || (life->count > 0 && rand_r(&life->seed) % 100 < 45)) {
		life->count--;
		ways[life->things[life->count].way].give(&life->things[life->count]);
		return;
	}
	struct thing *thing = &life->things[life->count];
	memset(thing, 0, sizeof *thing);
	thing->way = allowed[rand_r(&life->seed) % allowed_count];
	thing->device = life->worker.device;
	thing->seed = (unsigned)rand_r(&life->seed);
	thing->bytes = random_size(&life->seed);
	thing->bazaar = &arena->bazaar;
	life->count += ways[thing->way].take(thing) == CUDA_SUCCESS;
}

static int toil(long steps, unsigned seed)
{
	struct life life = { .worker.seed = seed, .seed = seed };
	struct footprint quarter = { 0 };
	if (!check_true(open_gpu(&life.worker), "a long life gets its context"))
		return 1;
	for (long step = 0; step < steps; step++) {
		if (step % 2000 == 0) // now and then everything: what is left then is what has leaked
			give_everything(&life);
		else
			take_or_give(&life);
		if (step == steps / 4 / 2000 * 2000)
			quarter = look();
	}
	give_everything(&life);
	struct footprint end = look();
	printf("@grown\t%ld\t%ld\t%ld\n", end.resident_kib - quarter.resident_kib, end.mappings - quarter.mappings, end.descriptors - quarter.descriptors);
	check(end.descriptors <= quarter.descriptors, "descriptors of a long life", "no more than %ld\t%ld", quarter.descriptors, end.descriptors);
	return check_failures != 0;
}

// What the driver keeps for the next allocation.
static void empty_pools(const struct worker *worker)
{
	CUmemoryPool pool;
	CU(cuStreamSynchronize)(NULL);
	if (CU(cuDeviceGetDefaultMemPool)(&pool, worker->device) == CUDA_SUCCESS)
		CU(cuMemPoolTrimTo)(pool, 0);
	CU(cuDeviceGraphMemTrim)(worker->device);
}

// At a byte of input: gives everything back and tells what it has then. At the next one: goes on.
static int live(unsigned seed)
{
	struct life life = { .worker.seed = seed, .seed = seed };
	struct pollfd input = { .fd = 0, .events = POLLIN };
	char line;
	if (!check_true(open_gpu(&life.worker), "a long life gets its context"))
		return 1;
	for (unsigned long steps = 0;; steps++) {
		if (steps % 16 == 0 && poll(&input, 1, 0) != 0) {
			if (read(0, &line, 1) <= 0) // one at a time: the next one may be there already
				return 0;
			give_everything(&life);
			empty_pools(&life.worker);
			size_t free_bytes, total_bytes;
			CU(cuMemGetInfo_v2)(&free_bytes, &total_bytes); // a slice learns by it which descriptors have been closed
			struct footprint seen = look();
			printf("%lu %ld %ld %ld\n", steps, seen.resident_kib, seen.mappings, seen.descriptors);
			fflush(stdout);
			if (read(0, &line, 1) <= 0) // idle until told to go on
				return 0;
		}
		take_or_give(&life);
	}
}

// One process gives, this one opens, the giver is killed: NVML's bytes of the one who is left.
static int outlive(void)
{
	struct worker worker = { 0 };
	size_t bytes = 1024 * MIB;
	int step[2];
	if (pipe(step) != 0)
		return 1;
	pid_t giver = fork();
	if (giver == 0) {
		CUdeviceptr pointer;
		CUipcMemHandle handle;
		if (open_gpu(&worker) && CU(cuMemAlloc_v2)(&pointer, bytes) == CUDA_SUCCESS && CU(cuIpcGetMemHandle)(&handle, pointer) == CUDA_SUCCESS &&
		    write(step[1], &handle, sizeof handle) == sizeof handle)
			pause();
		_exit(1);
	}
	close(step[1]);
	CUipcMemHandle handle;
	CUdeviceptr opened;
	bool has = read(step[0], &handle, sizeof handle) == sizeof handle && open_gpu(&worker);
	unsigned long long before = nvml_bytes();
	has = has && CU(cuIpcOpenMemHandle_v2)(&opened, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) == CUDA_SUCCESS;
	unsigned long long open = nvml_bytes();
	kill(giver, SIGKILL);
	waitpid(giver, NULL, 0);
	usleep(200000);
	unsigned long long alone = nvml_bytes();
	check(has, "1024 MiB of another process, opened by IPC: NVML's MiB of the opener", "before, open, its owner dead\t%llu, %llu, %llu", before >> 20,
	      open >> 20, alone >> 20);
	return 0;
}

int main(int argc, char **argv)
{
	arena = mmap(NULL, sizeof *arena, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	choose_ways();
	steps_open(getenv("FIGHT_LOG"));
	for (int i = 0; argc == 2 && strcmp(argv[1], "ways") == 0 && i < WAYS; i++)
		puts(ways[i].name);
	if (argc == 2 && strcmp(argv[1], "ways") == 0)
		return 0;
	if (argc >= 4 && strcmp(argv[1], "fight") == 0)
		return fight(atoi(argv[2]), atof(argv[3]), argc > 4 ? (unsigned)atoi(argv[4]) : 1);
	if (argc >= 3 && strcmp(argv[1], "audit") == 0)
		return audit(atof(argv[2]), argc > 3 ? (unsigned)atoi(argv[3]) : 1);
	if (argc >= 3 && strcmp(argv[1], "churn") == 0)
		return churn(atoi(argv[2]));
	if (argc >= 3 && strcmp(argv[1], "toil") == 0)
		return toil(atol(argv[2]), argc > 3 ? (unsigned)atoi(argv[3]) : 1);
	if (argc >= 2 && strcmp(argv[1], "live") == 0)
		return live(argc > 2 ? (unsigned)atoi(argv[2]) : 1);
	if (argc >= 2 && strcmp(argv[1], "outlive") == 0)
		return outlive();
	if (argc >= 3 && strcmp(argv[1], "fill") == 0)
		return fill(strtoull(argv[2], NULL, 10) * MIB);
	if (argc >= 3 && strcmp(argv[1], "hide") == 0)
		return hide(strtoull(argv[2], NULL, 10) * MIB);
	if (argc >= 3 && strcmp(argv[1], "hide-pool") == 0)
		return hide_pool(strtoull(argv[2], NULL, 10) * MIB);
	if (argc >= 4 && strcmp(argv[1], "together") == 0)
		return together(atoi(argv[2]), strtoull(argv[3], NULL, 10) * MIB);
	fputs("usage: fighter fight PROCESSES SECONDS [SEED] | ways | audit SECONDS [SEED] | churn PROCESSES | toil STEPS [SEED] | live [SEED] | outlive | fill LIMIT_MIB | hide LIMIT_MIB | hide-pool LIMIT_MIB | together PROCESSES LIMIT_MIB\n", stderr);
	return 2;
}
