// SPDX-License-Identifier: Apache-2.0
// Memory of two processes: IPC handles, exported handles and pools; charged once, gone with the last holder.
#include "check.h"

#include <sys/socket.h>

static int sockets[2];

static void send_fd(int fd)
{
	char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec io = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {
		.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	CHECK(sendmsg(sockets[0], &message, 0) == 1);
}

static int receive_fd(void)
{
	char byte, control[CMSG_SPACE(sizeof(int))];
	struct iovec io = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {
		.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	CHECK(recvmsg(sockets[1], &message, 0) == 1);
	int fd;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(fd));
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
	struct child child = spawn(export_all);
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
	EQUAL(process_bytes(0, getpid()), (518 + 10 + 20) * MIB); // now to the one that still holds it
	OK(cuMemcpyDtoH_v2(&byte, plain, 1));
	EQUAL(byte, 'p');
	OK(cuIpcCloseMemHandle(plain));
	EQUAL(process_bytes(0, getpid()), (518 + 20) * MIB);
	OK(cuMemRelease(handle));
	OK(cuMemUnmap(mapped, 20 * MIB));
	OK(cuMemFreeAsync(pooled, NULL));
	EQUAL(used_bytes(0), 518 * MIB);
	return 0;
}
