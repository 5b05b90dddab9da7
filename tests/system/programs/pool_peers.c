// SPDX-License-Identifier: Apache-2.0
// pool_peers SEED STEPS: processes of one slice share pools with each other in any order, and are killed. After each step the slice is charged at least what the
// GPU has, and when all has been given back, as much. See tests/system/pool_export.bats.
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>

#include "slice.h"
#include "../../descriptor.h"

enum { PEERS = 3, POOLS = 4, PIECES = 3 };

struct held {
	CUmemoryPool pool; // NULL: none
	CUdeviceptr exported[PIECES], other; // 0: none. Of an import the first alone
	int last; // piece, whose data that is
	CUmemPoolPtrExportData data;
	int fd; // -1: closed
};

struct order {
	char what;
	int which;
	size_t bytes;
};

struct peer {
	pid_t pid;
	int orders; // and answers
};

static struct peer peer[PEERS];
static int mail[2]; // a pool that is on its way
static unsigned seed;

// ---- A peer's life

static struct held made[POOLS], imported[POOLS];

static CUdeviceptr take(CUmemoryPool pool, size_t bytes)
{
	CUdeviceptr pointer = 0;
	CUresult result = CU(cuMemAllocFromPoolAsync)(&pointer, bytes, pool, NULL);
	if (result != CUDA_ERROR_OUT_OF_MEMORY)
		OK(result);
	return result == CUDA_SUCCESS ? pointer : 0;
}

static void give(CUdeviceptr *pointer)
{
	if (*pointer == 0)
		return;
	OK(CU(cuMemFreeAsync)(*pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	*pointer = 0;
}

static void make(struct held *held, size_t bytes)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                        .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	if (held->pool == NULL) {
		OK(CU(cuMemPoolCreate)(&held->pool, &props));
		OK(CU(cuMemPoolExportToShareableHandle)(&held->fd, held->pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	}
	held->last = (int)(bytes / MIB) % PIECES;
	CUdeviceptr *piece = &held->exported[held->last];
	give(piece);
	*piece = take(held->pool, bytes);
	if (*piece != 0)
		OK(CU(cuMemPoolExportPointer)(&held->data, *piece));
}

static bool post(const struct held *held)
{
	return held->exported[held->last] != 0 && held->fd >= 0 && send_with_descriptor(mail[0], &held->data, sizeof(held->data), held->fd);
}

static void drop(struct held *held)
{
	if (held->pool != NULL)
		OK(CU(cuMemPoolDestroy)(held->pool));
	held->pool = NULL;
	if (held->fd >= 0)
		close(held->fd);
	held->fd = -1;
}

static void receive(struct held *held)
{
	int fd;
	give(&held->exported[0]);
	drop(held);
	OK(receive_with_descriptor(mail[1], &held->data, sizeof(held->data), &fd) && fd >= 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	OK(CU(cuMemPoolImportFromShareableHandle)(&held->pool, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	close(fd);
	OK(CU(cuMemPoolImportPointer)(&held->exported[0], held->pool, &held->data));
}

static void give_everything(void)
{
	for (int i = 0; i < POOLS; i++) {
		for (int j = 0; j < PIECES; j++)
			give(&made[i].exported[j]);
		give(&made[i].other);
		give(&imported[i].exported[0]);
		drop(&made[i]);
		drop(&imported[i]);
	}
}

static void live(int orders)
{
	CUdeviceptr plain[POOLS] = {0};
	struct order order;
	for (int i = 0; i < POOLS; i++)
		made[i].fd = imported[i].fd = -1;
	while (read(orders, &order, sizeof(order)) == sizeof(order)) {
		struct held *held = &made[order.which];
		uint64_t answer = 0;
		switch (order.what) {
		case 'b': { // a context, if there is room
			CUcontext context;
			OK(CU(cuInit)(0));
			answer = CU(cuDevicePrimaryCtxRetain)(&context, 0) != CUDA_SUCCESS;
			if (answer == 0)
				OK(CU(cuCtxSetCurrent)(context));
			break;
		}
		case 'm': make(held, order.bytes); break;
		case 'o': // one that is not exported
			give(&held->other);
			held->other = held->pool == NULL ? 0 : take(held->pool, order.bytes);
			break;
		case 'p': answer = post(held); break;
		case 'r': receive(&imported[order.which]); break;
		case 'f': give(&held->exported[order.bytes / MIB % PIECES]); break;
		case 'F': give(&imported[order.which].exported[0]); break;
		case 'c': // the descriptor
			if (held->fd >= 0)
				close(held->fd);
			held->fd = -1;
			break;
		case 'd': drop(held); break;
		case 'D': drop(&imported[order.which]); break;
		case 'a': // as much as is left
			if (plain[order.which] != 0)
				OK(CU(cuMemFree_v2)(plain[order.which]));
			plain[order.which] = 0;
			for (size_t bytes = GIB; bytes >= 2 * MIB && plain[order.which] == 0; bytes /= 2)
				if (CU(cuMemAlloc_v2)(&plain[order.which], bytes) != CUDA_SUCCESS)
					plain[order.which] = 0;
			break;
		case 'u': answer = slice_bytes(); break;
		case 'g':
			give_everything();
			for (int i = 0; i < POOLS; i++)
				if (plain[i] != 0)
					OK(CU(cuMemFree_v2)(plain[i]));
			memset(plain, 0, sizeof(plain));
			break;
		case 's': // settles
			EXPECT(CU(cuMemAlloc_v2)(&(CUdeviceptr){0}, limit_bytes()), CUDA_ERROR_OUT_OF_MEMORY);
			break;
		default: break;
		}
		OK(write(orders, &answer, sizeof(answer)) == sizeof(answer) ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	}
	_exit(0);
}

// ---- Whoever orders and judges

static uint64_t tell(int to, char what, int which, size_t bytes)
{
	struct order order = {what, which, bytes};
	uint64_t answer;
	OK(write(peer[to].orders, &order, sizeof(order)) == sizeof(order) ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	OK(read(peer[to].orders, &answer, sizeof(answer)) == sizeof(answer) ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	return answer;
}

static void begin(int which)
{
	int pair[2];
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	peer[which].pid = fork();
	peer[which].orders = pair[0];
	if (peer[which].pid == 0) {
		for (int i = 0; i < PEERS; i++) // else it would not end with its orders
			if (i != which && peer[i].pid != 0)
				close(peer[i].orders);
		close(pair[0]);
		live(pair[1]);
	}
	close(pair[1]);
	for (int round = 0; tell(which, 'b', 0, 0) != 0; round++) {
		EXPECT(round, 0);
		for (int i = 0; i < PEERS; i++) // a full slice
			if (i != which)
				tell(i, 'g', 0, 0);
		for (int i = 0; i < PEERS; i++)
			if (i != which)
				tell(i, 's', 0, 0);
	}
}

static int any(int below)
{
	return rand_r(&seed) % below;
}

static void step(void)
{
	static const char orders[] = "mmmooffFFccdDDaapppppp";
	int who = any(PEERS), which = any(POOLS);
	char what = orders[any((int)sizeof(orders) - 1)];
	if (any(60) == 0) {
		kill(peer[who].pid, SIGKILL);
		waitpid(peer[who].pid, NULL, 0);
		close(peer[who].orders);
		begin(who);
	} else if (tell(who, what, which, ((size_t)any(96) + 1) * MIB) != 0) {
		tell((who + 1 + any(PEERS - 1)) % PEERS, 'r', any(POOLS), 0);
	}
	uint64_t charged = tell(any(PEERS), 'u', 0, 0), used = outside_bytes_of(0, 0);
	if (charged < used)
		fprintf(stderr, "peer %d after %c %d\n", who, what, which);
	EXPECT(charged < used, 0);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	seed = (unsigned)atoi(argv[1]);
	OK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, mail) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	start_observer(argv[0]);
	for (int i = 0; i < PEERS; i++)
		begin(i);
	for (int i = 0; i < atoi(argv[2]); i++)
		step();
	for (int i = 0; i < PEERS; i++)
		tell(i, 'g', 0, 0);
	for (int i = 0; i < PEERS; i++)
		tell(i, 's', 0, 0);
	EXPECT(tell(0, 'u', 0, 0), outside_bytes_of(0, 0) + PEERS * HEADROOM);
	for (int i = 0; i < PEERS; i++) {
		close(peer[i].orders);
		waitpid(peer[i].pid, NULL, 0);
	}
	return 0;
}
