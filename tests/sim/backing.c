// SPDX-License-Identifier: Apache-2.0
// What device memory is made of: pages of a file without a name, mapped where the program sees the device's addresses.
// Pages exist once written, so a simulated GPU of 140 GiB costs what is really stored. Owns: that file and the
// mappings; counts nothing.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

static int own_file = -1;
static uint64_t next_offset;

int sim_backing_file(uint64_t bytes, uint64_t *offset)
{
	if (own_file < 0)
		own_file = memfd_create("softmig-sim-gpu-memory", MFD_CLOEXEC);
	if (own_file < 0)
		return -1;
	*offset = next_offset;
	if (ftruncate(own_file, (off_t)(next_offset + bytes)) != 0)
		return -1;
	next_offset += bytes;
	return own_file;
}

void sim_backing_discard(int fd, uint64_t offset, uint64_t bytes)
{
	fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
}

int sim_backing_open(int pid, int fd)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, fd);
	return open(path, O_RDWR | O_CLOEXEC);
}

uint64_t sim_backing_reserve(uint64_t bytes, uint64_t alignment, uint64_t wanted)
{
	if (alignment < SIM_GRANULE)
		alignment = SIM_GRANULE;
	char *at = mmap(
		(void *)(uintptr_t)wanted, bytes + alignment, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		return 0;
	uint64_t from = (uint64_t)(uintptr_t)at, start = sim_round_up(from, alignment);
	if (start > from)
		munmap(at, start - from);
	munmap((void *)(uintptr_t)(start + bytes), from + alignment - start);
	return start;
}

bool sim_backing_map(struct sim_backing *backing, uint64_t bytes, bool accessible)
{
	return sim_backing_map_aligned(backing, bytes, SIM_GRANULE, accessible);
}

bool sim_backing_map_aligned(struct sim_backing *backing, uint64_t bytes, uint64_t alignment, bool accessible)
{
	backing->bytes = bytes;
	backing->own_file = true;
	backing->fd = sim_backing_file(bytes, &backing->offset);
	backing->address = backing->fd < 0 ? 0 : sim_backing_reserve(bytes, alignment, 0);
	if (backing->address == 0)
		return false;
	void *at = mmap((void *)(uintptr_t)backing->address, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
		MAP_SHARED | MAP_FIXED | MAP_NORESERVE, backing->fd, (off_t)backing->offset);
	if (at != MAP_FAILED)
		return true;
	munmap((void *)(uintptr_t)backing->address, bytes);
	return false;
}

void sim_backing_unmap(struct sim_backing *backing)
{
	if (backing->address == 0)
		return;
	munmap((void *)(uintptr_t)backing->address, backing->bytes);
	if (backing->own_file)
		sim_backing_discard(backing->fd, backing->offset, backing->bytes);
	backing->address = 0;
}
