// SPDX-License-Identifier: Apache-2.0
// Memory of two processes: IPC handles, exported handles and pools; charged once, gone with the last holder.
#include "check.h"
#include "../descriptor.h"

#include <sys/socket.h>

static int sockets[2];

static void send_fd(int fd)
{
	CHECK(send_with_descriptor(sockets[0], "", 1, fd));
}

static int receive_fd(void)
{
	char byte;
	int fd;
	CHECK(receive_with_descriptor(sockets[1], &byte, 1, &fd) && fd >= 0);
	return fd;
}

static void export_all(int to_parent, int from_parent)
{
	CUdeviceptr plain, pooled;
	CUipcMemHandle ipc;
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	CUmemoryPool pool;
	CUmemPoolPtrExportData data;
	int fd;
	start(0);
	OK(cuMemAlloc_v2(&plain, 10 * MIB));
	OK(cuMemsetD8_v2(plain, 'p', 10 * MIB));
	OK(cuIpcGetMemHandle(&ipc, plain));
	CHECK(write(to_parent, &ipc, sizeof(ipc)) == sizeof(ipc));
	OK(cuMemCreate(&handle, 20 * MIB, &prop, 0));
	OK(cuMemExportToShareableHandle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	send_fd(fd);
	close(fd);
	OK(cuMemPoolCreate(&pool, &props));
	OK(cuMemAllocFromPoolAsync(&pooled, MIB, pool, NULL));
	OK(cuMemsetD8Async(pooled, 'q', MIB, NULL));
	OK(cuMemPoolExportToShareableHandle(&fd, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	send_fd(fd);
	OK(cuMemPoolExportPointer(&data, pooled));
	CHECK(write(to_parent, &data, sizeof(data)) == sizeof(data));
	hear(from_parent);
}

// ---- exported descriptors: while one is open and the original is gone, the memory is in nobody's figure

static const CUmemAllocationProp exportable = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
	.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
	.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
static const size_t SIZE = 256 * MIB;
static size_t own_before, device_before;
static pid_t other; // 0: there is none

static void begin(pid_t another)
{
	other = another;
	own_before = process_bytes(0, getpid());
	device_before = used_bytes(0);
}

// In units of SIZE, since begin.
#define FIGURES(own, others, device) \
	do { \
		EQUAL(process_bytes(0, getpid()), own_before + (own) * SIZE); \
		if (other != 0) \
			EQUAL(process_bytes(0, other), 518 * MIB + (others) * SIZE); \
		EQUAL(used_bytes(0), device_before + (device) * SIZE); \
	} while (0)

static CUmemGenericAllocationHandle make_exported(int *fd)
{
	CUmemGenericAllocationHandle handle;
	OK(cuMemCreate(&handle, SIZE, &exportable, 0));
	OK(cuMemExportToShareableHandle(fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	return handle;
}

static CUmemGenericAllocationHandle import(int fd)
{
	CUmemGenericAllocationHandle handle;
	OK(cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	return handle;
}

static CUdeviceptr map(CUmemGenericAllocationHandle handle)
{
	CUmemAccessDesc access = {.location = exportable.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr address;
	OK(cuMemAddressReserve(&address, SIZE, 0, 0, 0));
	OK(cuMemMap(address, SIZE, 0, handle, 0));
	OK(cuMemSetAccess(address, SIZE, &access, 1));
	return address;
}

static void unmap(CUdeviceptr address)
{
	OK(cuMemUnmap(address, SIZE));
	OK(cuMemAddressFree(address, SIZE));
}

static void descriptor_outlives_original(bool mapped)
{
	int fd;
	begin(0);
	CUmemGenericAllocationHandle original = make_exported(&fd);
	FIGURES(1, 0, 1);
	CUmemGenericAllocationHandle imported = import(fd);
	CHECK(imported != original);
	CUdeviceptr address = mapped ? map(imported) : 0;
	FIGURES(1, 0, 1);
	OK(cuMemRelease(original));
	FIGURES(0, 0, 1);
	close(fd);
	FIGURES(1, 0, 1);
	if (mapped)
		unmap(address);
	FIGURES(1, 0, 1);
	OK(cuMemRelease(imported));
	FIGURES(0, 0, 0);
}

static void descriptor_closed_first(void)
{
	int fd;
	begin(0);
	CUmemGenericAllocationHandle original = make_exported(&fd), imported = import(fd);
	CUdeviceptr address = map(imported);
	close(fd);
	FIGURES(1, 0, 1);
	OK(cuMemRelease(original));
	FIGURES(1, 0, 1);
	OK(cuMemRelease(imported));
	FIGURES(1, 0, 1);
	unmap(address);
	FIGURES(0, 0, 0);
}

static void descriptor_alone(void)
{
	int fd;
	char byte;
	begin(0);
	CUmemGenericAllocationHandle handle = make_exported(&fd);
	CUdeviceptr address = map(handle);
	OK(cuMemsetD8_v2(address, 'd', 1));
	unmap(address);
	OK(cuMemRelease(handle));
	FIGURES(0, 0, 1);
	size_t idle = free_bytes();
	handle = import(fd);
	FIGURES(0, 0, 1);
	address = map(handle);
	OK(cuMemcpyDtoH_v2(&byte, address, 1));
	EQUAL(byte, 'd');
	unmap(address);
	OK(cuMemRelease(handle));
	FIGURES(0, 0, 1);
	int copy = dup(fd);
	close(fd);
	FIGURES(0, 0, 1);
	send_fd(copy); // nobody has it open then, but the socket
	close(copy);
	FIGURES(0, 0, 1);
	close(receive_fd());
	FIGURES(0, 0, 0);
	EQUAL(free_bytes(), idle + SIZE);
}

static void mapping_of_original(void)
{
	int fd;
	begin(0);
	CUmemGenericAllocationHandle handle = make_exported(&fd);
	CUdeviceptr address = map(handle);
	OK(cuMemRelease(handle));
	FIGURES(1, 0, 1);
	unmap(address);
	FIGURES(0, 0, 1);
	close(fd);
	FIGURES(0, 0, 0);
}

static void tell(struct child child, char order)
{
	CHECK(write(child.to, &order, 1) == 1);
	hear(child.from);
}

// ---- exported pools: what was exported by its pointer and is free is in nobody's figure, until the pool, its imports and descriptors are gone

struct shared_pool {
	CUmemoryPool pool;
	int fd;
	CUmemPoolPtrExportData data;
	CUdeviceptr pointer;
};

static void make_pool(struct shared_pool *shared)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	OK(cuMemPoolCreate(&shared->pool, &props));
	OK(cuMemPoolExportToShareableHandle(&shared->fd, shared->pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
}

static void import_pool(struct shared_pool *shared, int fd)
{
	shared->fd = fd;
	OK(cuMemPoolImportFromShareableHandle(
		&shared->pool, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
}

static void import_pointer(struct shared_pool *shared)
{
	OK(cuMemPoolImportPointer(&shared->pointer, shared->pool, &shared->data));
}

static CUdeviceptr allocate_pooled(const struct shared_pool *shared)
{
	CUdeviceptr pointer;
	OK(cuMemAllocFromPoolAsync(&pointer, SIZE, shared->pool, NULL));
	OK(cuStreamSynchronize(NULL));
	return pointer;
}

static CUdeviceptr allocate_exported(struct shared_pool *shared)
{
	CUdeviceptr pointer = allocate_pooled(shared);
	OK(cuMemPoolExportPointer(&shared->data, pointer));
	return pointer;
}

static void free_pooled(CUdeviceptr pointer)
{
	OK(cuMemFreeAsync(pointer, NULL));
	OK(cuStreamSynchronize(NULL));
}

static void pool_is_empty(const struct shared_pool *shared)
{
	uint64_t reserved, used;
	OK(cuMemPoolGetAttribute(shared->pool, CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, &reserved));
	OK(cuMemPoolGetAttribute(shared->pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used));
	EQUAL(reserved, 0);
	EQUAL(used, 0);
}

static void pool_exported_alone(bool closed_first)
{
	struct shared_pool shared;
	begin(0);
	make_pool(&shared);
	free_pooled(allocate_pooled(&shared));
	FIGURES(0, 0, 0); // its pointer was not exported
	if (closed_first)
		close(shared.fd);
	CUdeviceptr pointer = allocate_exported(&shared);
	FIGURES(1, 0, 1);
	free_pooled(pointer);
	FIGURES(0, 0, 1);
	pool_is_empty(&shared);
	OK(cuMemPoolTrimTo(shared.pool, 0));
	FIGURES(0, 0, 1);
	pointer = allocate_exported(&shared); // at the same place: that is let go of
	FIGURES(1, 0, 1);
	free_pooled(pointer);
	FIGURES(0, 0, 1);
	OK(cuMemPoolDestroy(shared.pool));
	FIGURES(0, 0, !closed_first);
	if (!closed_first)
		close(shared.fd);
	FIGURES(0, 0, 0);
}

// "Released automatically once there are no more outstanding allocations", says the documentation of what is destroyed.
static void pool_destroyed_with_memory_out(void)
{
	struct shared_pool shared;
	begin(0);
	make_pool(&shared);
	close(shared.fd);
	CUdeviceptr out = allocate_pooled(&shared);
	free_pooled(allocate_exported(&shared));
	FIGURES(1, 0, 2);
	OK(cuMemPoolDestroy(shared.pool));
	FIGURES(1, 0, 2);
	free_pooled(out);
	FIGURES(0, 0, 0);
}

static void import_destroyed_with_a_pointer_out(void)
{
	struct shared_pool shared, import;
	begin(0);
	make_pool(&shared);
	import_pool(&import, shared.fd);
	close(shared.fd);
	shared.pointer = allocate_exported(&shared);
	import.data = shared.data;
	import_pointer(&import);
	OK(cuMemPoolDestroy(import.pool));
	free_pooled(shared.pointer);
	OK(cuMemPoolDestroy(shared.pool));
	FIGURES(0, 0, 1);
	free_pooled(import.pointer);
	FIGURES(0, 0, 0);
}

static void pool_imported_by_its_maker(bool original_first)
{
	struct shared_pool shared, import;
	begin(0);
	make_pool(&shared);
	import_pool(&import, dup(shared.fd));
	close(import.fd);
	close(shared.fd);
	shared.pointer = allocate_exported(&shared);
	import.data = shared.data;
	import_pointer(&import);
	FIGURES(1, 0, 1);
	free_pooled(shared.pointer);
	FIGURES(0, 0, 1);
	free_pooled(import.pointer);
	FIGURES(0, 0, 1);
	OK(cuMemPoolDestroy(original_first ? shared.pool : import.pool));
	FIGURES(0, 0, 1);
	OK(cuMemPoolDestroy(original_first ? import.pool : shared.pool));
	FIGURES(0, 0, 0);
}

// One that the child has imported, without descriptors.
static void make_pool_for(struct child child, struct shared_pool *shared)
{
	begin(child.pid);
	make_pool(shared);
	send_fd(shared->fd);
	tell(child, 'I');
	close(shared->fd);
	tell(child, 'C');
}

static void pool_imported_elsewhere(struct child child, bool exporter_first)
{
	struct shared_pool shared;
	make_pool_for(child, &shared);
	shared.pointer = allocate_exported(&shared);
	CHECK(write(child.to, "P", 1) == 1 && write(child.to, &shared.data, sizeof(shared.data)) == sizeof(shared.data));
	hear(child.from);
	FIGURES(1, 0, 1);
	if (!exporter_first) {
		tell(child, 'F');
		FIGURES(1, 0, 1);
	}
	free_pooled(shared.pointer);
	FIGURES(0, 0, 1);
	if (exporter_first) {
		OK(cuMemPoolDestroy(shared.pool));
		FIGURES(0, 0, 1);
		tell(child, 'F');
		FIGURES(0, 0, 1);
	}
	if (!exporter_first) { // new memory, which is not exported
		CUdeviceptr pointer = allocate_pooled(&shared);
		FIGURES(1, 0, 2);
		free_pooled(pointer);
		FIGURES(0, 0, 1);
	}
	tell(child, 'D');
	FIGURES(0, 0, !exporter_first);
	if (!exporter_first)
		OK(cuMemPoolDestroy(shared.pool));
	FIGURES(0, 0, 0);
}

static void pool_imported_elsewhere_without_a_pointer(struct child child)
{
	struct shared_pool shared;
	make_pool_for(child, &shared);
	for (int i = 0; i < 3; i++) {
		CUdeviceptr pointer = allocate_exported(&shared); // what was kept of its place is let go of
		FIGURES(1, 0, 1);
		free_pooled(pointer);
		FIGURES(0, 0, 1);
	}
	OK(cuMemPoolDestroy(shared.pool));
	FIGURES(0, 0, 1);
	tell(child, 'D');
	FIGURES(0, 0, 0);
}

static void pool_maker_killed(struct child child)
{
	struct shared_pool shared;
	tell(child, 's');
	begin(child.pid);
	CHECK(write(child.to, "X", 1) == 1);
	import_pool(&shared, receive_fd());
	close(shared.fd);
	CHECK(read(child.from, &shared.data, sizeof(shared.data)) == sizeof(shared.data));
	hear(child.from);
	import_pointer(&shared);
	FIGURES(0, 1, 1);
	kill(child.pid, SIGKILL);
	EQUAL(finish(child), 128 + SIGKILL);
	other = 0;
	device_before -= 518 * MIB;
	FIGURES(0, 0, 1);
	free_pooled(shared.pointer);
	FIGURES(0, 0, 1);
	OK(cuMemPoolDestroy(shared.pool));
	FIGURES(0, 0, 0);
}

// Does what it is told, a letter each: starts, imports, closes the descriptor, maps, releases and unmaps; exports one itself; quits. The same
// of pools: imports one and a pointer, closes the descriptor, frees the pointer, destroys the pool; exports both itself.
static void obey(int to_parent, int from_parent)
{
	CUmemGenericAllocationHandle handle = 0;
	CUdeviceptr address = 0;
	struct shared_pool shared = {0};
	char order;
	int fd = -1;
	while (read(from_parent, &order, 1) == 1) {
		switch (order) {
		case 's': start(0); break;
		case 'q': return;
		case 'i': fd = receive_fd(); handle = import(fd); break;
		case 'c': close(fd); break;
		case 'm': address = map(handle); OK(cuMemRelease(handle)); break;
		case 'u': unmap(address); break;
		case 'r': OK(cuMemRelease(handle)); break;
		case 'I': import_pool(&shared, receive_fd()); break;
		case 'C': close(shared.fd); break;
		case 'P': CHECK(read(from_parent, &shared.data, sizeof(shared.data)) == sizeof(shared.data)); import_pointer(&shared); break;
		case 'F': free_pooled(shared.pointer); break;
		case 'D': OK(cuMemPoolDestroy(shared.pool)); break;
		case 'X':
			make_pool(&shared);
			send_fd(shared.fd);
			close(shared.fd);
			shared.pointer = allocate_exported(&shared);
			CHECK(write(to_parent, &shared.data, sizeof(shared.data)) == sizeof(shared.data));
			break;
		case 'e': handle = make_exported(&fd); send_fd(fd); break;
		}
		say(to_parent);
	}
}

static void imported_elsewhere(struct child child, bool closed_first, bool mapped)
{
	int fd;
	begin(child.pid);
	CUmemGenericAllocationHandle handle = make_exported(&fd);
	send_fd(fd);
	tell(child, 'i');
	if (mapped)
		tell(child, 'm');
	FIGURES(1, 0, 1);
	if (closed_first) {
		close(fd);
		tell(child, 'c');
		FIGURES(1, 0, 1);
		OK(cuMemRelease(handle));
	} else {
		OK(cuMemRelease(handle));
		FIGURES(0, 0, 1);
		close(fd);
		FIGURES(0, 0, 1);
		tell(child, 'c');
	}
	FIGURES(0, 1, 1);
	tell(child, mapped ? 'u' : 'r');
	FIGURES(0, 0, 0);
}

// The exporter is killed, with its descriptor: those of others count, and after them who has imported it.
static void exporter_killed(struct child child, bool imported, bool descriptor)
{
	CUmemGenericAllocationHandle handle = 0;
	tell(child, 's');
	begin(child.pid);
	tell(child, 'e');
	int fd = receive_fd();
	if (imported)
		handle = import(fd);
	if (!descriptor)
		close(fd);
	FIGURES(0, 1, 1);
	kill(child.pid, SIGKILL);
	EQUAL(finish(child), 128 + SIGKILL);
	other = 0;
	device_before -= 518 * MIB;
	if (descriptor) {
		FIGURES(0, 0, 1);
		close(fd);
	}
	FIGURES(imported, 0, imported);
	if (imported)
		OK(cuMemRelease(handle));
	FIGURES(0, 0, 0);
}

static void descriptors(const struct child child[5])
{
	descriptor_outlives_original(false);
	descriptor_outlives_original(true);
	descriptor_closed_first();
	descriptor_alone();
	mapping_of_original();
	tell(child[4], 's');
	for (int way = 0; way < 4; way++)
		imported_elsewhere(child[4], way % 2 != 0, way / 2 != 0);
	CHECK(write(child[4].to, "q", 1) == 1);
	EQUAL(finish(child[4]), 0);
	for (int way = 0; way < 4; way++)
		exporter_killed(child[way], way % 2 != 0, way / 2 != 0);
}

static void pools(const struct child child[2])
{
	pool_exported_alone(false);
	pool_exported_alone(true);
	pool_destroyed_with_memory_out();
	import_destroyed_with_a_pointer_out();
	pool_imported_by_its_maker(false);
	pool_imported_by_its_maker(true);
	tell(child[0], 's');
	pool_imported_elsewhere(child[0], false);
	pool_imported_elsewhere(child[0], true);
	pool_imported_elsewhere_without_a_pointer(child[0]);
	CHECK(write(child[0].to, "q", 1) == 1);
	EQUAL(finish(child[0]), 0);
	pool_maker_killed(child[1]);
}

int main(void)
{
	CUipcMemHandle ipc;
	CUmemPoolPtrExportData data;
	CUmemGenericAllocationHandle handle;
	CUmemoryPool pool;
	CUdeviceptr plain, twice, mapped, pooled;
	char byte;
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	struct child child = spawn(export_all), later[7];
	for (int i = 0; i < 7; i++)
		later[i] = spawn(obey); // before this process starts the driver: it does not outlive a fork
	CHECK(read(child.from, &ipc, sizeof(ipc)) == sizeof(ipc));
	int vmm_fd = receive_fd(), pool_fd = receive_fd();
	CHECK(read(child.from, &data, sizeof(data)) == sizeof(data));
	const size_t exported = (518 + 10 + 20 + 32) * MIB;
	EQUAL(process_bytes(0, child.pid), exported);
	start(0);
	OK(cuIpcOpenMemHandle_v2(&plain, ipc, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
	OK(cuMemcpyDtoH_v2(&byte, plain + 10 * MIB - 1, 1));
	EQUAL(byte, 'p');
	OK(cuIpcOpenMemHandle_v2(&twice, ipc, 0));
	EQUAL(twice, plain);
	OK(cuIpcCloseMemHandle(twice));
	OK(cuMemImportFromShareableHandle(&handle, (void *)(intptr_t)vmm_fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
	OK(cuMemAddressReserve(&mapped, 20 * MIB, 0, 0, 0));
	OK(cuMemMap(mapped, 20 * MIB, 0, handle, 0));
	OK(cuMemPoolImportFromShareableHandle(
		&pool, (void *)(intptr_t)pool_fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	OK(cuMemPoolImportPointer(&pooled, pool, &data));
	OK(cuMemcpyDtoH_v2(&byte, pooled + MIB - 1, 1));
	EQUAL(byte, 'q');
	EQUAL(cuMemAllocFromPoolAsync(&twice, 10, pool, NULL), CUDA_ERROR_INVALID_VALUE);
	EQUAL(process_bytes(0, getpid()), 518 * MIB); // all of it is charged to the exporter
	EQUAL(process_bytes(0, child.pid), exported);
	kill(child.pid, SIGKILL);
	EQUAL(finish(child), 128 + SIGKILL);
	EQUAL(process_bytes(0, getpid()), (518 + 10) * MIB); // now to the one that still holds it,
	EQUAL(used_bytes(0), (518 + 10 + 20 + 32) * MIB); // and of the pool to nobody,
	close(vmm_fd); // for an allocation once nobody has a descriptor of it
	EQUAL(process_bytes(0, getpid()), (518 + 10 + 20) * MIB);
	OK(cuMemcpyDtoH_v2(&byte, plain, 1));
	EQUAL(byte, 'p');
	OK(cuIpcCloseMemHandle(plain));
	EQUAL(process_bytes(0, getpid()), (518 + 20) * MIB);
	OK(cuMemRelease(handle));
	OK(cuMemUnmap(mapped, 20 * MIB));
	OK(cuMemFreeAsync(pooled, NULL));
	EQUAL(used_bytes(0), (518 + 32) * MIB); // of the pool, which is still imported and has a descriptor
	OK(cuMemPoolDestroy(pool));
	EQUAL(used_bytes(0), (518 + 32) * MIB);
	close(pool_fd);
	EQUAL(used_bytes(0), 518 * MIB);
	descriptors(later);
	pools(&later[5]);
	return 0;
}
