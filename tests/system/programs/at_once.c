// SPDX-License-Identifier: Apache-2.0
// at_once TEST: several need a pool's idle memory at the same moment, in a slice that is full but for it. A smaller GPU's driver serves them one
// after another; so each must be granted what fits. NVML is slow, so that whoever asks it meets the others. See tests/system/at_once.bats.
#include <pthread.h>

#include "slice.h"

enum { ROUNDS = 3 };

static CUcontext shared_context;

static CUstream new_stream(void)
{
	CUstream stream;
	OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
	return stream;
}

static CUmemoryPool new_pool(void)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	cuuint64_t all = UINT64_MAX;
	CUmemoryPool pool;
	OK(CU(cuMemPoolCreate)(&pool, &props));
	OK(CU(cuMemPoolSetAttribute)(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &all));
	return pool;
}

static void simulate(const char *fault)
{
	OK(setenv("SOFTMIG_SIM_FAULT", fault, 1) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

// The pool has so much, and none of it is in use.
static void make_idle(CUmemoryPool pool, CUstream stream, size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, bytes, pool, stream));
	OK(CU(cuMemFreeAsync)(pointer, stream));
	OK(CU(cuStreamSynchronize)(stream));
}

// Takes all that is left but so much.
static CUdeviceptr fill_but(uint64_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuMemAlloc_v2)(&pointer, limit_bytes() - slice_bytes() - bytes));
	EXPECT(limit_bytes() - slice_bytes(), bytes);
	return pointer;
}

// One request of a thread; pool NULL: not stream-ordered.
struct request {
	pthread_barrier_t *start;
	CUmemoryPool pool;
	CUstream stream;
	size_t bytes;
	CUdeviceptr pointer;
	CUresult result;
};

static CUresult ask(struct request *request)
{
	return request->pool == NULL ? CU(cuMemAlloc_v2)(&request->pointer, request->bytes) :
	       CU(cuMemAllocFromPoolAsync)(&request->pointer, request->bytes, request->pool, request->stream);
}

static void give_back(const struct request *request)
{
	if (request->pool == NULL)
		OK(CU(cuMemFree_v2)(request->pointer));
	else
		OK(CU(cuMemFreeAsync)(request->pointer, request->stream));
	if (request->pool != NULL) {
		OK(CU(cuStreamSynchronize)(request->stream));
		OK(CU(cuMemPoolTrimTo)(request->pool, 0));
	}
}

static void *ask_with_others(void *argument)
{
	struct request *request = argument;
	OK(CU(cuCtxSetCurrent)(shared_context));
	pthread_barrier_wait(request->start);
	request->result = ask(request);
	return NULL;
}

// All at the same moment; each is granted, or only so many are.
static void ask_at_once(struct request *requests, int count, int granted)
{
	pthread_t thread[8];
	pthread_barrier_t start;
	OK(CU(cuCtxGetCurrent)(&shared_context));
	pthread_barrier_init(&start, NULL, (unsigned)count);
	for (int i = 0; i < count; i++) {
		requests[i].start = &start;
		pthread_create(&thread[i], NULL, ask_with_others, &requests[i]);
	}
	int got = 0;
	for (int i = 0; i < count; i++) {
		pthread_join(thread[i], NULL);
		got += requests[i].result == CUDA_SUCCESS;
		if (requests[i].result != CUDA_SUCCESS)
			REFUSED(requests[i].result);
	}
	pthread_barrier_destroy(&start);
	EXPECT(got, granted);
	EXPECT(outside_bytes(0) + HEADROOM <= limit_bytes(), 1);
}

// count threads, of which granted get what they ask for, out of idle_bytes.
static void of_threads(size_t idle_bytes, struct request *requests, int count, int granted)
{
	CUstream stream = new_stream();
	CUmemoryPool pool = new_pool();
	for (int i = 0; i < ROUNDS; i++) {
		mark(0);
		make_idle(pool, stream, idle_bytes);
		CUdeviceptr all = fill_but(0);
		simulate("nvml:slow:20");
		ask_at_once(requests, count, granted);
		simulate("");
		for (int k = 0; k < count; k++)
			if (requests[k].result == CUDA_SUCCESS)
				give_back(&requests[k]);
		OK(CU(cuMemPoolTrimTo)(pool, 0));
		OK(CU(cuMemFree_v2)(all));
		GREW(0);
	}
}

static void threads_plain(void)
{
	struct request small[2] = {{.bytes = 4 * KIB}, {.bytes = 4 * KIB}}, large[2] = {{.bytes = 16 * MIB}, {.bytes = 16 * MIB}};
	use_device(0);
	of_threads(32 * MIB, small, 2, 2);
	of_threads(32 * MIB, large, 2, 2);
}

static void threads_stream_ordered(void)
{
	use_device(0);
	struct request requests[2] = {{.bytes = 4 * KIB, .pool = new_pool(), .stream = new_stream()},
	                              {.bytes = 4 * KIB, .pool = new_pool(), .stream = new_stream()}};
	of_threads(64 * MIB, requests, 2, 2);
	requests[1].pool = requests[0].pool; // one chunk has room for both
	of_threads(32 * MIB, requests, 2, 2);
}

static void threads_of_both_kinds(void)
{
	use_device(0);
	struct request requests[3] = {{.bytes = 4 * KIB, .pool = new_pool(), .stream = new_stream()}, {.bytes = 4 * KIB}, {.bytes = 8 * MIB}};
	of_threads(64 * MIB, requests, 3, 3);
}

static void threads_that_do_not_fit(void)
{
	struct request requests[4] = {{.bytes = 12 * MIB}, {.bytes = 12 * MIB}, {.bytes = 12 * MIB}, {.bytes = 12 * MIB}};
	use_device(0);
	of_threads(32 * MIB, requests, 4, 2);
}

// --- Beside threads that always have a call under way.

static _Atomic bool busy;

static void *pairs(size_t bytes)
{
	CUdeviceptr pointer;
	OK(CU(cuCtxSetCurrent)(shared_context));
	while (busy) {
		OK(CU(cuMemAlloc_v2)(&pointer, bytes));
		OK(CU(cuMemFree_v2)(pointer));
	}
	return NULL;
}

static void *large_pairs(void *unused)
{
	(void)unused;
	return pairs(2 * MIB);
}

static void *small_pairs(void *unused)
{
	(void)unused;
	return pairs(4 * KIB);
}

// A warm stream-ordered allocation takes nothing, but for an instant it has reserved what the pool might have grown by. It may be refused here.
static void *warm_pairs(void *unused)
{
	CUdeviceptr pointer;
	OK(CU(cuCtxSetCurrent)(shared_context));
	CUstream stream = new_stream();
	while (busy)
		if (CU(cuMemAllocAsync)(&pointer, 4 * KIB, stream) == CUDA_SUCCESS)
			OK(CU(cuMemFreeAsync)(pointer, stream));
	return unused;
}

enum { WORKERS = 5 };

static void begin_work(pthread_t thread[WORKERS], void *(*const work[WORKERS])(void *))
{
	busy = true;
	for (int i = 0; i < WORKERS; i++)
		pthread_create(&thread[i], NULL, work[i], NULL);
	usleep(20000);
}

static void end_work(const pthread_t thread[WORKERS])
{
	busy = false;
	for (int i = 0; i < WORKERS; i++)
		pthread_join(thread[i], NULL);
}

static void agrees(void)
{
	CUdeviceptr none;
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
}

static void beside_busy_threads(void)
{
	static void *(*const work[WORKERS])(void *) = {large_pairs, large_pairs, large_pairs, large_pairs, small_pairs};
	pthread_t thread[WORKERS];
	CUdeviceptr pointer, block;
	shared_context = use_device(0);
	CUstream stream = new_stream();
	CUmemoryPool pool = new_pool();
	OK(CU(cuMemAlloc_v2)(&block, 4 * KIB)); // the small pairs' block is there
	for (int i = 0; i < ROUNDS; i++) {
		make_idle(pool, stream, 32 * MIB);
		CUdeviceptr all = fill_but((WORKERS + 1) * 2 * MIB); // for the pairs, and a block that is not certain yet
		simulate("nvml:slow:2");
		begin_work(thread, work);
		OK(CU(cuMemAlloc_v2)(&pointer, 30 * MIB));
		EXPECT(outside_bytes(0) + HEADROOM <= limit_bytes(), 1);
		end_work(thread);
		simulate("");
		OK(CU(cuMemFree_v2)(all));
		OK(CU(cuMemFree_v2)(pointer));
		agrees();
	}
}

static CUdeviceptr freed_late;

static void *free_it(void *unused)
{
	OK(CU(cuCtxSetCurrent)(shared_context));
	OK(CU(cuMemFree_v2)(freed_late));
	return unused;
}

// The driver has freed it, and the call has not ended: NVML says less than is charged, which is nothing to go by.
static void beside_a_slow_release(void)
{
	pthread_t thread;
	CUdeviceptr pointer;
	shared_context = use_device(0);
	CUdeviceptr all = fill_but(64 * MIB);
	OK(CU(cuMemAlloc_v2)(&freed_late, 64 * MIB));
	uint64_t full = outside_bytes(0);
	simulate("free:late:300");
	pthread_create(&thread, NULL, free_it, NULL);
	while (outside_bytes(0) == full)
		;
	for (int i = 0; i < 3; i++) {
		REFUSED(CU(cuMemAlloc_v2)(&pointer, limit_bytes())); // settles
		EXPECT(slice_bytes(), limit_bytes());
	}
	pthread_join(thread, NULL);
	simulate("");
	EXPECT(slice_bytes(), outside_bytes(0) + HEADROOM);
	OK(CU(cuMemAlloc_v2)(&pointer, 64 * MIB));
	EXPECT(slice_bytes(), limit_bytes());
	OK(CU(cuMemFree_v2)(all));
}

// What another thread's call has charged and the driver does not hold (any more) hides what this thread's call made the driver take.
static void a_stack_beside_a_slow_release(void)
{
	pthread_t thread;
	shared_context = use_device(0);
	OK(CU(cuMemAlloc_v2)(&freed_late, 64 * MIB));
	uint64_t full = outside_bytes(0);
	simulate("free:late:300");
	pthread_create(&thread, NULL, free_it, NULL);
	while (outside_bytes(0) == full)
		;
	uint64_t less = outside_bytes(0);
	OK(CU(cuCtxSetLimit)(CU_LIMIT_STACK_SIZE, 1024 + 64));
	EXPECT(outside_bytes(0) > less, 1);
	pthread_join(thread, NULL);
	EXPECT(slice_bytes() >= outside_bytes(0), 1);
	simulate("");
	agrees();
}

static void beside_reservations(void)
{
	static void *(*const work[WORKERS])(void *) = {warm_pairs, warm_pairs, warm_pairs, warm_pairs, warm_pairs};
	pthread_t thread[WORKERS];
	CUdeviceptr pointer, kept;
	shared_context = use_device(0);
	CUstream stream = new_stream();
	OK(CU(cuMemAllocAsync)(&kept, 4 * KIB, stream)); // the pool has a chunk, and never more
	for (int i = 0; i < WORKERS; i++)
		new_stream(); // their memory is there
	CUdeviceptr all = fill_but(WORKERS * 32 * MIB);
	begin_work(thread, work);
	for (int i = 0; i < 300; i++) {
		OK(CU(cuMemAlloc_v2)(&pointer, (WORKERS - 1) * 32 * MIB));
		OK(CU(cuMemFree_v2)(pointer));
	}
	end_work(thread);
	OK(CU(cuMemFree_v2)(all));
	agrees();
}

// --- Two processes: what the one has given back is there for the other, though the one is still asking NVML about it.

static void wait_for(int descriptor)
{
	char byte;
	OK(read(descriptor, &byte, 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void tell(int descriptor)
{
	OK(write(descriptor, "", 1) == 1 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void of_processes(bool stream_ordered)
{
	int ready[2], go[2], done[2], end[2], status;
	struct request request = {.bytes = 4 * KIB};
	OK(pipe(ready) == 0 && pipe(go) == 0 && pipe(done) == 0 && pipe(end) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	uint64_t idle = stream_ordered ? 64 * MIB : 32 * MIB;
	pid_t parent = getpid(), child = fork();
	use_device(0);
	if (stream_ordered) {
		request.pool = new_pool();
		request.stream = new_stream();
	}
	if (child == 0) {
		tell(ready[1]);
		wait_for(go[0]);
		uint64_t full = outside_bytes_of(parent, 0);
		tell(ready[1]);
		while (outside_bytes_of(parent, 0) + 32 * MIB > full) // until it has given back
			;
		OK(ask(&request));
		tell(done[1]);
		wait_for(end[0]);
		_exit(0);
	}
	wait_for(ready[0]);
	CUstream stream = new_stream();
	CUmemoryPool pool = new_pool();
	make_idle(pool, stream, idle);
	fill_but(0);
	tell(go[1]);
	wait_for(ready[0]);
	simulate("nvml:slow:200");
	OK(ask(&request));
	simulate("");
	close(done[1]);
	wait_for(done[0]); // a child that was refused is gone
	EXPECT(outside_bytes(0) + outside_bytes_of(child, 0) + 2 * HEADROOM <= limit_bytes(), 1);
	EXPECT(slice_bytes(), outside_bytes(0) + outside_bytes_of(child, 0) + 2 * HEADROOM);
	tell(end[1]);
	OK(waitpid(child, &status, 0) == child && status == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void processes_plain(void)
{
	of_processes(false);
}

static void processes_stream_ordered(void)
{
	of_processes(true);
}

int main(int argc, char **argv)
{
	static const struct test tests[] = {{"threads_plain", threads_plain},
	                                    {"threads_stream_ordered", threads_stream_ordered},
	                                    {"threads_of_both_kinds", threads_of_both_kinds},
	                                    {"threads_that_do_not_fit", threads_that_do_not_fit},
	                                    {"beside_busy_threads", beside_busy_threads},
	                                    {"beside_reservations", beside_reservations},
	                                    {"beside_a_slow_release", beside_a_slow_release},
	                                    {"a_stack_beside_a_slow_release", a_stack_beside_a_slow_release},
	                                    {"processes_plain", processes_plain},
	                                    {"processes_stream_ordered", processes_stream_ordered},
	                                    {NULL, NULL}};
	return run_test(argc, argv, tests);
}
