// SPDX-License-Identifier: Apache-2.0
// pool_pass OTHERS ROUNDS HOW: a process passes pieces of one pool on to others of its slice, by its pointer, and frees them, more than the slice could hold at once. See
// tests/system/pool_export.bats. HOW: the others
//   frees    import each and free it
//   rests    have imported the pool and do nothing
//   keeps    import each and free none
//   one_each import two each time, and free one of them
//   in_turn  import one each at each of several places, one process after another, and free none
#include <stdbool.h>
#include <sys/socket.h>

#include "slice.h"
#include "../../descriptor.h"

enum { MOST = 64, PLACES = 3 };
static const size_t SIZE = 128 * MIB;

static struct {
	pid_t pid;
	int orders;
} other[MOST];
static int others;
static CUmemoryPool pool;
static int descriptor;
static CUmemPoolPtrExportData data;

// ---- One of the others: 'i' imports the pool, 'p' a pointer, 'f' frees the oldest, 's' settles

static int receive_descriptor(int from)
{
	char byte;
	int fd;
	EXPECT(receive_with_descriptor(from, &byte, 1, &fd) && fd >= 0, 1);
	return fd;
}

static void obey(int orders)
{
	CUdeviceptr pointer[8 * MOST], none;
	int count = 0, freed = 0, fd;
	char order;
	while (read(orders, &order, 1) == 1) {
		switch (order) {
		case 'b': use_device(0); break;
		case 'i':
			fd = receive_descriptor(orders);
			OK(CU(cuMemPoolImportFromShareableHandle)(&pool, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
			close(fd);
			break;
		case 'p':
			EXPECT(read(orders, &data, sizeof(data)), sizeof(data));
			OK(CU(cuMemPoolImportPointer)(&pointer[count++], pool, &data));
			break;
		case 'f':
			OK(CU(cuMemFreeAsync)(pointer[freed++], NULL));
			OK(freed % 2 == 0 ? CU(cuStreamSynchronize)(NULL) : CU(cuCtxSynchronize)());
			break;
		case 's': REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); break;
		default: EXPECT(order, 0);
		}
		EXPECT(write(orders, "", 1), 1);
	}
	_exit(0);
}

static void tell(int which, char order)
{
	EXPECT(write(other[which].orders, &order, 1), 1);
	if (order == 'p')
		EXPECT(write(other[which].orders, &data, sizeof(data)), sizeof(data));
	if (order == 'i')
		EXPECT(send_with_descriptor(other[which].orders, "", 1, descriptor), 1);
	EXPECT(read(other[which].orders, &order, 1), 1);
}

static void tell_all(char order)
{
	for (int i = 0; i < others; i++)
		tell(i, order);
}

static void begin_others(void)
{
	for (int i = 0; i < others; i++) {
		int pair[2];
		EXPECT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		other[i].orders = pair[0];
		other[i].pid = fork();
		if (other[i].pid == 0) {
			for (int j = 0; j <= i; j++)
				close(other[j].orders);
			obey(pair[1]);
		}
		close(pair[1]);
	}
}

// ---- Whoever passes them on, and judges

static void release(CUdeviceptr pointer)
{
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
}

static void judge(void)
{
	uint64_t charged = slice_bytes(), has = outside_bytes_of(0, 0);
	EXPECT(charged < has, 0);
	EXPECT(has > limit_bytes(), 0);
}

static CUresult take(CUdeviceptr *pointer)
{
	CUresult result = CU(cuMemAllocFromPoolAsync)(pointer, SIZE, pool, NULL);
	if (result == CUDA_SUCCESS)
		OK(CU(cuMemPoolExportPointer)(&data, *pointer));
	return result;
}

static void frees(int round)
{
	CUdeviceptr pointer;
	OK(take(&pointer));
	tell(round % others, 'p');
	tell(round % others, 'f');
	release(pointer);
	judge();
}

static void rests(int round)
{
	CUdeviceptr pointer;
	OK(take(&pointer));
	release(pointer);
	judge();
	EXPECT(round < 0, 0);
}

static void keeps(int round)
{
	CUdeviceptr pointer;
	OK(take(&pointer));
	judge();
	tell_all('p');
	judge();
	release(pointer);
	EXPECT(round < 0, 0);
}

static void one_each(int round)
{
	CUdeviceptr freed, kept;
	OK(take(&freed));
	CUmemPoolPtrExportData first = data;
	judge();
	OK(take(&kept));
	CUmemPoolPtrExportData second = data;
	judge();
	data = first;
	tell_all('p');
	data = second;
	tell_all('p');
	for (int i = 0; i < (round == 0 ? 1 : 2); i++) // the one that was kept last time, which is older
		tell_all('f');
	judge();
	release(freed);
	release(kept);
	judge();
}

// In each round another one imports what lies at all places; then it has that for good. False: refused.
static bool in_turn(int round)
{
	CUdeviceptr pointer[PLACES];
	int count = 0;
	while (count < PLACES && take(&pointer[count]) == CUDA_SUCCESS) {
		judge();
		if (round < others)
			tell(round, 'p');
		count++;
	}
	bool all = count == PLACES;
	while (count > 0)
		release(pointer[--count]);
	judge();
	return all;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*round)(int round);
		uint64_t kept; // at the end
		uint64_t fit;  // what is kept, and the next one; 0: it does not matter
	} ways[] = {{"frees", frees, 1, 2}, {"rests", rests, 1, 2}, {"keeps", keeps, 1, 2}, {"one_each", one_each, 2, 0}};
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                        .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUdeviceptr none;
	if (argc != 4)
		return 2;
	others = atoi(argv[1]);
	start_observer(argv[0]);
	begin_others();
	use_device(0);
	tell_all('b');
	uint64_t before = outside_bytes_of(0, 0);
	OK(CU(cuMemPoolCreate)(&pool, &props));
	OK(CU(cuMemPoolExportToShareableHandle)(&descriptor, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	tell_all('i');
	int rounds = 0;
	uint64_t kept = 0, fit = (limit_bytes() - slice_bytes()) / SIZE;
	for (unsigned way = 0; way < sizeof(ways) / sizeof(ways[0]); way++) {
		if (strcmp(argv[3], ways[way].name) != 0)
			continue;
		EXPECT(ways[way].fit == 0 || ways[way].fit == fit, 1);
		for (; rounds < atoi(argv[2]); rounds++)
			ways[way].round(rounds);
		kept = ways[way].kept;
	}
	if (strcmp(argv[3], "in_turn") == 0) {
		EXPECT(fit >= PLACES, 1);
		while (rounds < atoi(argv[2]) && in_turn(rounds))
			rounds++;
		EXPECT(rounds >= 1 && rounds < atoi(argv[2]), 1);
	}
	EXPECT(rounds > 0, 1);
	tell_all('s');
	REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
	EXPECT(slice_bytes(), outside_bytes_of(0, 0) + ((uint64_t)others + 1) * HEADROOM);
	if (kept != 0)
		EXPECT(outside_bytes_of(0, 0) - before, kept * SIZE);
	for (int i = 0; i < others; i++) {
		close(other[i].orders);
		EXPECT(waitpid(other[i].pid, NULL, 0), other[i].pid);
	}
	return 0;
}
