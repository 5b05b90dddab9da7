// SPDX-License-Identifier: Apache-2.0
// ipc TEST: memory that two processes share, judged from within the slice and from without. See tests/system/ipc.bats. The parent makes the
// memory, the child (forked before anybody touches the driver) opens it; each observes itself.
#include <signal.h>
#include <sys/socket.h>

#include "slice.h"
#include "../../descriptor.h"

static const size_t SIZE = 64 * MIB;
static int peer;
static pid_t child;

static void say(const void *data, size_t bytes)
{
	OK(write(peer, data, bytes) == (ssize_t)bytes ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void hear(void *data, size_t bytes)
{
	OK(read(peer, data, bytes) == (ssize_t)bytes ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void step(void)
{
	char byte = 0;
	say(&byte, 1);
}

static void await(void)
{
	char byte;
	hear(&byte, 1);
}

static void say_descriptor(int fd)
{
	OK(send_with_descriptor(peer, "", 1, fd) ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static int hear_descriptor(void)
{
	char byte;
	int fd;
	OK(receive_with_descriptor(peer, &byte, 1, &fd) && fd >= 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	return fd;
}

// One slice, two processes: what both together hold, within and without.
static uint64_t outside_both(void)
{
	return outside_bytes_of(child, 0) + outside_bytes(0);
}

static void two(const char *self, void (*opener)(void), void (*maker)(void))
{
	int pair[2], status;
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	child = fork();
	peer = pair[child == 0];
	close(pair[child != 0]);
	if (child == 0) {
		use_device(0);
		step();
		opener();
		_exit(0);
	}
	start_observer(self);
	await();
	use_device(0);
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	maker();
	OK(waitpid(child, &status, 0) == child && status == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
}

static void open_memory(void)
{
	CUipcMemHandle handle;
	CUdeviceptr pointer;
	hear(&handle, sizeof(handle));
	OK(CU(cuIpcOpenMemHandle_v2)(&pointer, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
	step();
	await();
	OK(CU(cuIpcCloseMemHandle)(pointer));
	step();
	await();
}

static void make_memory(void)
{
	CUipcMemHandle handle;
	CUdeviceptr pointer;
	uint64_t before = inside_bytes();
	OK(CU(cuMemAlloc_v2)(&pointer, SIZE));
	EXPECT(inside_bytes() - before, SIZE);
	OK(CU(cuIpcGetMemHandle)(&handle, pointer));
	say(&handle, sizeof(handle));
	await();
	EXPECT(inside_bytes() - before, SIZE); // once
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
	await();
	EXPECT(inside_bytes() - before, SIZE);
	OK(CU(cuMemFree_v2)(pointer));
	EXPECT(inside_bytes(), before);
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
}

// What the peer sends a descriptor of, mapped and held by the mapping alone.
static CUdeviceptr import_mapped(void)
{
	CUmemGenericAllocationHandle handle;
	CUdeviceptr address;
	int fd = hear_descriptor();
	OK(CU(cuMemImportFromShareableHandle)(&handle, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	close(fd);
	OK(CU(cuMemAddressReserve)(&address, SIZE, 0, 0, 0));
	OK(CU(cuMemMap)(address, SIZE, 0, handle, 0));
	OK(CU(cuMemRelease)(handle));
	return address;
}

static void import_allocation(void)
{
	CUdeviceptr address = import_mapped();
	step();
	await();
	OK(CU(cuMemUnmap)(address, SIZE));
	step();
	await();
}

// Memory and a descriptor of it.
static CUmemGenericAllocationHandle create_exported(int *fd)
{
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
	                            .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                            .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemGenericAllocationHandle handle;
	OK(CU(cuMemCreate)(&handle, SIZE, &prop, 0));
	OK(CU(cuMemExportToShareableHandle)(fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	return handle;
}

static void export_allocation(void)
{
	int fd;
	uint64_t before = inside_bytes();
	CUmemGenericAllocationHandle handle = create_exported(&fd);
	say_descriptor(fd);
	close(fd);
	await();
	EXPECT(inside_bytes() - before, SIZE); // once
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
	await();
	EXPECT(inside_bytes() - before, SIZE);
	OK(CU(cuMemRelease)(handle));
	EXPECT(inside_bytes(), before);
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
}

// Whose it is then, in the slice: the opener's, until it lets go as well, though it allocates nothing any more.
static void export_allocation_and_let_go(void)
{
	int fd;
	uint64_t before = slice_bytes();
	CUmemGenericAllocationHandle handle = create_exported(&fd);
	say_descriptor(fd);
	close(fd);
	await();
	OK(CU(cuMemRelease)(handle));
	EXPECT(slice_bytes() - before, SIZE);
	step();
	await();
	EXPECT(slice_bytes(), before);
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
}

// A pool that the peer sends, and a pointer of it.
static CUmemoryPool receive_pool(CUdeviceptr *pointer)
{
	CUmemPoolPtrExportData data;
	CUmemoryPool pool;
	int fd = hear_descriptor();
	OK(CU(cuMemPoolImportFromShareableHandle)(&pool, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	close(fd);
	hear(&data, sizeof(data));
	OK(CU(cuMemPoolImportPointer)(pointer, pool, &data));
	return pool;
}

static void import_pool(void)
{
	CUdeviceptr pointer;
	CUmemoryPool pool = receive_pool(&pointer);
	step();
	await();
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	step();
	await();
	OK(CU(cuMemPoolDestroy)(pool));
	step();
	await();
}

static CUmemoryPool exportable_pool(void)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
	                        .handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	                        .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemoryPool pool;
	OK(CU(cuMemPoolCreate)(&pool, &props));
	return pool;
}

static void export_pool(void)
{
	CUmemPoolPtrExportData data;
	CUmemoryPool pool = exportable_pool();
	CUdeviceptr pointer;
	int fd;
	uint64_t before = inside_bytes();
	OK(CU(cuMemAllocFromPoolAsync)(&pointer, SIZE, pool, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	OK(CU(cuMemPoolExportToShareableHandle)(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	say_descriptor(fd);
	close(fd);
	OK(CU(cuMemPoolExportPointer)(&data, pointer));
	say(&data, sizeof(data));
	await();
	EXPECT(inside_bytes() - before, SIZE); // once
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	step();
	await();
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM + SIZE); // in nobody's figure, and there
	EXPECT(slice_bytes(), outside_bytes_of(0, 0) + 2 * HEADROOM);
	step();
	await();
	OK(CU(cuMemPoolDestroy)(pool));
	EXPECT(slice_bytes(), outside_both() + 2 * HEADROOM);
	EXPECT(slice_bytes(), outside_bytes_of(0, 0) + 2 * HEADROOM);
	step();
}

// ---- The maker lets go, or dies, and the opener has it all the same: nobody else may have that much again.

static const size_t PIECE = 16 * MIB;
static pid_t maker, filler;
static int to_maker, to_filler;

static pid_t fork_peer(int *end, void (*life)(void))
{
	int pair[2];
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	pid_t pid = fork();
	if (pid == 0) {
		peer = pair[1];
		close(pair[0]);
		use_device(0);
		step();
		life();
		_exit(0);
	}
	close(pair[1]);
	*end = pair[0];
	return pid;
}

// Takes pieces until it is refused one, each time it is told to.
static void fill(void)
{
	for (;;) {
		uint32_t pieces = 0;
		CUdeviceptr pointer;
		await();
		while (CU(cuMemAlloc_v2)(&pointer, PIECE) == CUDA_SUCCESS)
			pieces++;
		say(&pieces, sizeof(pieces));
	}
}

static uint32_t filled(void)
{
	uint32_t pieces;
	peer = to_filler;
	step();
	hear(&pieces, sizeof(pieces));
	return pieces;
}

static void make_memory_and_wait(void)
{
	CUipcMemHandle handle;
	CUdeviceptr pointer;
	await();
	OK(CU(cuMemAlloc_v2)(&pointer, SIZE));
	OK(CU(cuIpcGetMemHandle)(&handle, pointer));
	say(&handle, sizeof(handle));
	await(); // killed in it
}

static void make_allocation_and_let_go(void)
{
	int fd;
	await();
	CUmemGenericAllocationHandle handle = create_exported(&fd);
	say_descriptor(fd);
	close(fd);
	await();
	OK(CU(cuMemRelease)(handle));
	step();
	await(); // it lives on
}

static uint64_t outside_all(void)
{
	return outside_bytes(0) + outside_bytes_of(maker, 0) + outside_bytes_of(filler, 0);
}

static void begin_three(const char *self, void (*make)(void))
{
	maker = fork_peer(&to_maker, make);
	filler = fork_peer(&to_filler, fill);
	start_observer(self);
	peer = to_maker;
	await();
	peer = to_filler;
	await();
	use_device(0);
	peer = to_maker;
	step();
}

// What this process holds open is charged, though the other two do not know of it. Closed, it is there again.
static void judge_three(void (*close_it)(CUdeviceptr), CUdeviceptr pointer)
{
	EXPECT(filled() > 0, 1);
	EXPECT(outside_all() <= limit_bytes(), 1);
	EXPECT(limit_bytes() - outside_all() < PIECE + 3 * HEADROOM, 1); // and not twice
	close_it(pointer);
	EXPECT(filled() * PIECE + PIECE > SIZE, 1);
	EXPECT(outside_all() <= limit_bytes(), 1);
	kill(maker, SIGKILL);
	kill(filler, SIGKILL);
}

static void close_memory(CUdeviceptr pointer)
{
	OK(CU(cuIpcCloseMemHandle)(pointer));
}

static void unmap(CUdeviceptr pointer)
{
	OK(CU(cuMemUnmap)(pointer, SIZE));
}

static void outlive(const char *self)
{
	CUipcMemHandle handle;
	CUdeviceptr pointer;
	begin_three(self, make_memory_and_wait);
	hear(&handle, sizeof(handle));
	OK(CU(cuIpcOpenMemHandle_v2)(&pointer, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
	kill(maker, SIGKILL);
	OK(waitpid(maker, NULL, 0) == maker ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	judge_three(close_memory, pointer);
}

static void keep(const char *self)
{
	begin_three(self, make_allocation_and_let_go);
	CUdeviceptr address = import_mapped();
	step();
	await();
	judge_three(unmap, address);
}

// A pool and a pointer of it, as the peer has imported them when it answers.
static CUmemoryPool make_exported_pool(CUdeviceptr *pointer)
{
	CUmemPoolPtrExportData data;
	int fd;
	await();
	CUmemoryPool pool = exportable_pool();
	OK(CU(cuMemAllocFromPoolAsync)(pointer, SIZE, pool, NULL));
	OK(CU(cuMemPoolExportToShareableHandle)(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	say_descriptor(fd);
	close(fd);
	OK(CU(cuMemPoolExportPointer)(&data, *pointer));
	say(&data, sizeof(data));
	await();
	return pool;
}

static void make_pool_and_let_go(void)
{
	CUdeviceptr pointer;
	CUmemoryPool pool = make_exported_pool(&pointer);
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	OK(CU(cuMemPoolDestroy)(pool));
	step();
	await(); // it lives on
}

static void make_pool_and_wait(void)
{
	CUdeviceptr pointer;
	make_exported_pool(&pointer);
	step();
	await(); // killed in it
}

// The maker of a pool lets go of it, or dies; this process has imported it and a pointer, and keeps the pool alone.
static void pool_kept(const char *self, void (*make)(void), bool maker_dies)
{
	CUdeviceptr pointer;
	begin_three(self, make);
	CUmemoryPool pool = receive_pool(&pointer);
	step();
	await();
	if (maker_dies) {
		kill(maker, SIGKILL);
		OK(waitpid(maker, NULL, 0) == maker ? CUDA_SUCCESS : CUDA_ERROR_UNKNOWN);
	}
	uint64_t processes = maker_dies ? 2 : 3;
	EXPECT(filled() > 0, 1);
	EXPECT(outside_bytes_of(0, 0) - outside_all(), SIZE); // in nobody's figure
	EXPECT(outside_bytes_of(0, 0) <= limit_bytes(), 1);
	EXPECT(limit_bytes() - outside_bytes_of(0, 0) < PIECE + 3 * HEADROOM, 1); // and charged once
	OK(CU(cuMemFreeAsync)(pointer, NULL));
	OK(CU(cuStreamSynchronize)(NULL));
	REFUSED(CU(cuMemAlloc_v2)(&pointer, limit_bytes())); // settles
	EXPECT(filled(), 0);
	EXPECT(slice_bytes(), outside_bytes_of(0, 0) + processes * HEADROOM);
	OK(CU(cuMemPoolDestroy)(pool));
	EXPECT(outside_bytes_of(0, 0) - outside_all(), 0);
	EXPECT(slice_bytes(), outside_bytes_of(0, 0) + processes * HEADROOM);
	EXPECT(filled() * PIECE + PIECE > SIZE, 1);
	EXPECT(outside_bytes_of(0, 0) <= limit_bytes(), 1);
	kill(maker, SIGKILL);
	kill(filler, SIGKILL);
}

// ---- An open descriptor holds memory that the driver shows to no process.

static void descriptor(const char *self)
{
	CUmemGenericAllocationHandle original, again;
	CUdeviceptr address, none;
	int fd;
	start_observer(self);
	use_device(0);
	OK(CU(cuMemAddressReserve)(&address, SIZE, 0, 0, 0));
	uint64_t before = slice_bytes(), outside = outside_bytes(0);
	for (int alone = 0; alone < 2; alone++) {
		original = create_exported(&fd);
		OK(CU(cuMemRelease)(original));
		EXPECT(outside_bytes(0), outside); // as if it were gone
		EXPECT(slice_bytes() - before, SIZE);
		REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes())); // settles
		EXPECT(slice_bytes() - before, SIZE);
		if (!alone) {
			OK(CU(cuMemImportFromShareableHandle)(&again, (void *)(uintptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
			OK(CU(cuMemMap)(address, SIZE, 0, again, 0));
			OK(CU(cuMemRelease)(again));
			EXPECT(slice_bytes() - before, SIZE); // once
			EXPECT(outside_bytes(0), outside);
		}
		close(fd);
		REFUSED(CU(cuMemAlloc_v2)(&none, limit_bytes()));
		EXPECT(outside_bytes(0) - outside, alone ? 0 : SIZE);
		EXPECT(slice_bytes() - before, alone ? 0 : SIZE);
		if (!alone)
			OK(CU(cuMemUnmap)(address, SIZE));
		EXPECT(slice_bytes(), before);
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "memory") == 0)
		two(argv[0], open_memory, make_memory);
	else if (argc == 2 && strcmp(argv[1], "allocation") == 0)
		two(argv[0], import_allocation, export_allocation);
	else if (argc == 2 && strcmp(argv[1], "let_go") == 0)
		two(argv[0], import_allocation, export_allocation_and_let_go);
	else if (argc == 2 && strcmp(argv[1], "pool") == 0)
		two(argv[0], import_pool, export_pool);
	else if (argc == 2 && strcmp(argv[1], "outlive") == 0)
		outlive(argv[0]);
	else if (argc == 2 && strcmp(argv[1], "pool_keep") == 0)
		pool_kept(argv[0], make_pool_and_let_go, false);
	else if (argc == 2 && strcmp(argv[1], "pool_outlive") == 0)
		pool_kept(argv[0], make_pool_and_wait, true);
	else if (argc == 2 && strcmp(argv[1], "descriptor") == 0)
		descriptor(argv[0]);
	else if (argc == 2 && strcmp(argv[1], "keep") == 0)
		keep(argv[0]);
	else
		return 2;
	return 0;
}
