// SPDX-License-Identifier: Apache-2.0
// What tests pass on by a socket: bytes, and with them a descriptor.
#ifndef SOFTMIG_TESTS_DESCRIPTOR_H
#define SOFTMIG_TESTS_DESCRIPTOR_H
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

// fd: -1: none. False: not all of it went.
static inline bool send_with_descriptor(int socket, const void *bytes, size_t length, int fd)
{
	char space[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec part = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = length};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
	if (fd >= 0) {
		message.msg_control = space;
		message.msg_controllen = sizeof(space);
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(header), &fd, sizeof(int));
	}
	return sendmsg(socket, &message, MSG_NOSIGNAL) == (ssize_t)length;
}

// *fd: -1: none came. False: not all bytes came.
static inline bool receive_with_descriptor(int socket, void *bytes, size_t length, int *fd)
{
	char space[CMSG_SPACE(sizeof(int))];
	struct iovec part = {.iov_base = bytes, .iov_len = length};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)};
	bool all = recvmsg(socket, &message, 0) == (ssize_t)length;
	const struct cmsghdr *header = all ? CMSG_FIRSTHDR(&message) : NULL;
	*fd = -1;
	if (header != NULL)
		memcpy(fd, CMSG_DATA(header), sizeof(int));
	return all;
}
#endif
