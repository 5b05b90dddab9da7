// SPDX-License-Identifier: Apache-2.0
// What device memory is made of: pages of a file without a name, mapped where the program sees the device's addresses.
// Pages exist once written, so a simulated GPU of 140 GiB costs what is really stored. Owns: that file and the
// mappings; counts nothing.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "sim.h"

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
// Where managed memory lies, apart from all other: the kernel itself begins higher.
#define MANAGED_FROM 0x7ea000000000ull
#define MANAGED_TO 0x7ee000000000ull

static int own_file = -1;
static uint64_t next_offset, managed_from = MANAGED_FROM;

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

void sim_backing_reserve_at(uint64_t address, uint64_t bytes)
{
	mmap((void *)(uintptr_t)address, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

// The lowest place in managed memory's range that has room; elsewhere where it has none, or the machine no such addresses.
static uint64_t reserve_managed(uint64_t bytes)
{
	for (uint64_t wanted = managed_from; bytes <= MANAGED_TO - wanted; wanted += SIM_GRANULE) {
		void *at = mmap((void *)(uintptr_t)wanted, bytes, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
		if (at == (void *)(uintptr_t)wanted) {
			if (wanted == managed_from)
				managed_from += bytes;
			return wanted;
		}
		if (at != MAP_FAILED) // a kernel before 4.17: taken
			munmap(at, bytes);
		else if (errno != EEXIST)
			break;
	}
	return sim_backing_reserve(bytes, SIM_GRANULE, 0);
}

bool sim_backing_map(struct sim_backing *backing, uint64_t bytes, bool accessible)
{
	return sim_backing_map_aligned(backing, bytes, SIM_GRANULE, accessible);
}

static bool map_at(struct sim_backing *backing, uint64_t address, bool accessible)
{
	backing->address = address;
	if (address == 0)
		return false;
	void *at = mmap((void *)(uintptr_t)address, backing->bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
		MAP_SHARED | MAP_FIXED | MAP_NORESERVE, backing->fd, (off_t)backing->offset);
	if (at != MAP_FAILED)
		return true;
	munmap((void *)(uintptr_t)address, backing->bytes);
	return false;
}

static bool take_file(struct sim_backing *backing, uint64_t bytes)
{
	*backing = (struct sim_backing){.bytes = bytes, .own_file = true};
	backing->fd = sim_backing_file(bytes, &backing->offset);
	return backing->fd >= 0;
}

bool sim_backing_map_aligned(struct sim_backing *backing, uint64_t bytes, uint64_t alignment, bool accessible)
{
	return take_file(backing, bytes) && map_at(backing, sim_backing_reserve(bytes, alignment, 0), accessible);
}

bool sim_backing_map_at(struct sim_backing *backing, uint64_t bytes, uint64_t address, uint64_t offset)
{
	*backing = (struct sim_backing){.bytes = bytes, .fd = own_file, .offset = offset, .own_file = true, .inside = true};
	if (map_at(backing, address, true))
		return true;
	sim_backing_reserve_at(address, bytes);
	return false;
}

bool sim_backing_extend(struct sim_backing *backing, uint64_t bytes)
{
	struct sim_backing more;
	if (!sim_backing_map_at(&more, bytes, backing->address + backing->bytes, backing->offset + backing->bytes))
		return false;
	backing->bytes += bytes;
	return true;
}

bool sim_backing_map_managed(struct sim_backing *backing, uint64_t bytes)
{
	return take_file(backing, bytes) && map_at(backing, reserve_managed(bytes), true);
}

void sim_backing_unmap(struct sim_backing *backing)
{
	if (backing->address == 0)
		return;
	if (backing->inside)
		sim_backing_reserve_at(backing->address, backing->bytes);
	else
		munmap((void *)(uintptr_t)backing->address, backing->bytes);
	if (backing->address >= MANAGED_FROM && backing->address < managed_from)
		managed_from = backing->address;
	if (backing->own_file)
		sim_backing_discard(backing->fd, backing->offset, backing->bytes);
	backing->address = 0;
}
