// SPDX-License-Identifier: Apache-2.0
// What the GPU keeps of a pool's memory that was exported by its pointer and freed: by its place in the pool, until something else is exported there. The
// steps and figures are an H200's (bench/results/h200-hold.md).
#include <fcntl.h>
#include <sys/socket.h>

#include "check.h"
#include "../descriptor.h"

#define SIZE (256 * MIB)

struct other {
	pid_t pid;
	int orders, fds;
	long long before; // NVML's bytes of it when a case began
};

static struct other others[2], *other = &others[0];

static CUmemoryPool pool;
static int descriptor;
static CUmemPoolPtrExportData data;
static long long own_before, device_before;

// ---- The other processes: each imports a pool, imports pointers of it, frees them one after another, destroys the pool.

static int receive_fd(int socket)
{
	char byte;
	int fd;
	CHECK(receive_with_descriptor(socket, &byte, 1, &fd) && fd >= 0);
	return fd;
}

static void obey(int orders, int fds)
{
	CUdeviceptr pointer[16];
	CUmemoryPool imported = NULL;
	int count = 0, freed = 0, fd;
	char order;
	start(0);
	CHECK(write(orders, "", 1) == 1);
	while (read(orders, &order, 1) == 1) {
		switch (order) {
		case 'i':
			fd = receive_fd(fds);
			OK(cuMemPoolImportFromShareableHandle(&imported, (void *)(intptr_t)fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
			close(fd);
			count = freed = 0;
			break;
		case 'p':
			CHECK(read(fds, &data, sizeof(data)) == sizeof(data));
			OK(cuMemPoolImportPointer(&pointer[count++], imported, &data));
			break;
		case 'f':
			OK(cuMemFreeAsync(pointer[freed++], NULL));
			OK(cuStreamSynchronize(NULL));
			break;
		case 'd': OK(cuMemPoolDestroy(imported)); break;
		default: CHECK(false);
		}
		CHECK(write(orders, "", 1) == 1);
	}
	_exit(0);
}

static void tell(char order)
{
	CHECK(write(other->orders, &order, 1) == 1);
	if (order == 'p')
		CHECK(write(other->fds, &data, sizeof(data)) == sizeof(data));
	if (order == 'i')
		CHECK(send_with_descriptor(other->fds, "", 1, descriptor));
	CHECK(read(other->orders, &order, 1) == 1);
}

static void begin_other(void)
{
	int orders[2], fds[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, orders) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
	other->pid = fork();
	if (other->pid == 0) {
		close(orders[0]);
		close(fds[0]);
		if (other != others) { // that one's end is this process's parent's alone
			close(others[0].orders);
			close(others[0].fds);
		}
		obey(orders[1], fds[1]);
	}
	close(orders[1]);
	close(fds[1]);
	other->orders = orders[0];
	other->fds = fds[0];
	CHECK(read(other->orders, &(char){0}, 1) == 1);
}

// ---- The steps

// MiB more than at the beginning: this process's, those of the other one that is spoken to, the device's.
#define SHOWN(own, others_mib, device) \
	do { \
		EQUAL((long long)process_bytes(0, getpid()) - own_before, (own) * (long long)MIB); \
		EQUAL((long long)process_bytes(0, other->pid) - other->before, (others_mib) * (long long)MIB); \
		EQUAL((long long)used_bytes(0) - device_before, (device) * (long long)MIB); \
	} while (0)

static void begin(bool imported)
{
	CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED,
		.handleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
	own_before = (long long)process_bytes(0, getpid());
	for (int i = 0; i < 2; i++)
		others[i].before = (long long)process_bytes(0, others[i].pid);
	device_before = (long long)used_bytes(0);
	OK(cuMemPoolCreate(&pool, &props));
	OK(cuMemPoolExportToShareableHandle(&descriptor, pool, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	if (imported)
		tell('i');
}

static void end(bool imported, int kept)
{
	OK(cuMemPoolDestroy(pool));
	SHOWN(0, 0, kept);
	close(descriptor);
	SHOWN(0, 0, imported ? kept : 0);
	if (imported)
		tell('d');
	SHOWN(0, 0, 0);
}

static CUdeviceptr allocate(size_t bytes)
{
	CUdeviceptr pointer;
	OK(cuMemAllocFromPoolAsync(&pointer, bytes, pool, NULL));
	OK(cuStreamSynchronize(NULL));
	return pointer;
}

static void export(CUdeviceptr pointer)
{
	OK(cuMemPoolExportPointer(&data, pointer));
}

static void release(CUdeviceptr pointer)
{
	OK(cuMemFreeAsync(pointer, NULL));
	OK(cuStreamSynchronize(NULL));
}

// Cases 1 to 4: at one place, imported by nobody, the pool alone, or with the pointers, which the other frees first.
static void one_place_keeps_one_piece(bool imported, bool pointers, int not_exported)
{
	CUdeviceptr place = 0;
	begin(imported);
	for (int i = 0; i < 3; i++) {
		CUdeviceptr pointer = allocate(SIZE);
		EQUAL(place == 0 || pointer == place, 1);
		place = pointer;
		SHOWN(256, 0, i == 0 ? 256 : 512);
		if (i != not_exported) {
			export(pointer);
			SHOWN(256, 0, 256);
			if (pointers) {
				tell('p');
				SHOWN(256, 0, 256);
				tell('f');
				SHOWN(256, 0, 256);
			}
		}
		release(pointer);
		SHOWN(0, 0, 256);
	}
	end(imported, 256);
}

// Cases 5 to 7.
static void four_places_keep_four(bool imported, bool pointers)
{
	CUdeviceptr pointer[4], place[4] = {0};
	begin(imported);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 4; i++) {
			pointer[i] = allocate(SIZE);
			if (round == 0)
				place[i] = pointer[i];
			EQUAL(pointer[i], place[i]);
			export(pointer[i]);
			if (pointers)
				tell('p');
		}
		SHOWN(1024, 0, 1024);
		for (int i = 0; i < 4; i++) {
			if (pointers)
				tell('f');
			release(pointer[i]);
			SHOWN(256 * (3 - i), 0, 1024);
		}
	}
	pointer[0] = allocate(SIZE);
	EQUAL(pointer[0], place[0]);
	SHOWN(256, 0, 1280);
	export(pointer[0]);
	SHOWN(256, 0, 1024);
	release(pointer[0]);
	SHOWN(0, 0, 1024);
	end(imported, 1024);
}

// Case 8.
static void who_has_imported_it_has_it_still(void)
{
	begin(true);
	for (int i = 0; i < 3; i++) {
		CUdeviceptr pointer = allocate(SIZE);
		SHOWN(256, 0, i == 0 ? 256 : 512);
		export(pointer);
		SHOWN(256, i == 0 ? 0 : 256, i == 0 ? 256 : 512);
		tell('p');
		SHOWN(256, 0, 256);
		release(pointer);
		SHOWN(0, 0, 256);
	}
	for (int i = 0; i < 3; i++) {
		tell('f');
		SHOWN(0, 0, 256);
	}
	end(true, 256);
}

// It frees the old pointer instead of importing the next one.
static void until_it_has_freed_it(void)
{
	begin(true);
	CUdeviceptr pointer = allocate(SIZE);
	export(pointer);
	tell('p');
	release(pointer);
	SHOWN(0, 0, 256);
	pointer = allocate(SIZE);
	export(pointer);
	SHOWN(256, 256, 512);
	tell('f');
	SHOWN(256, 0, 256);
	release(pointer);
	SHOWN(0, 0, 256);
	end(true, 256);
}

static void of_two_who_have_it_the_last_is_shown_with_it(void)
{
	begin(true);
	other = &others[1];
	tell('i');
	other = &others[0];
	CUdeviceptr pointer = allocate(SIZE);
	export(pointer);
	for (other = others; other < others + 2; other++)
		tell('p');
	release(pointer);
	other = &others[0];
	SHOWN(0, 0, 256);
	pointer = allocate(SIZE);
	export(pointer);
	SHOWN(256, 0, 512);
	tell('p');
	SHOWN(256, 0, 512);
	other = &others[1];
	SHOWN(256, 256, 512);
	tell('f');
	SHOWN(256, 0, 256);
	release(pointer);
	SHOWN(0, 0, 256);
	tell('d');
	other = &others[0];
	SHOWN(0, 0, 256);
	OK(cuMemPoolDestroy(pool));
	close(descriptor);
	tell('d');
	SHOWN(0, 0, 256); // it has not freed its pointers; what follows was not measured
	tell('f');
	tell('f');
	SHOWN(0, 0, 0);
}

// Nothing goes with the pool and its import while the other one has a pointer.
static void a_pointer_that_is_held_keeps_all(void)
{
	begin(true);
	CUdeviceptr pointer = allocate(SIZE);
	export(pointer);
	tell('p');
	release(pointer);
	pointer = allocate(SIZE);
	export(pointer);
	SHOWN(256, 256, 512);
	release(pointer);
	OK(cuMemPoolDestroy(pool));
	SHOWN(0, 256, 512);
	close(descriptor);
	SHOWN(0, 256, 512);
	tell('d');
	SHOWN(0, 256, 512);
	tell('f'); // from here on it was not measured
	SHOWN(0, 0, 0);
}

// Case 9.
static void half_of_a_place_is_let_go_of_alone(void)
{
	begin(false);
	CUdeviceptr whole = allocate(128 * MIB);
	export(whole);
	release(whole);
	SHOWN(0, 0, 128);
	CUdeviceptr first = allocate(64 * MIB), second = allocate(64 * MIB);
	EQUAL(first, whole);
	EQUAL(second, whole + 64 * MIB);
	SHOWN(128, 0, 256);
	export(first);
	SHOWN(128, 0, 192);
	export(second);
	SHOWN(128, 0, 128);
	release(first);
	SHOWN(64, 0, 128);
	release(second);
	SHOWN(0, 0, 128);
	end(false, 128);
}

// Case 10.
static void a_trim_lets_go_of_nothing(void)
{
	begin(false);
	CUdeviceptr one = allocate(SIZE);
	export(one);
	CUdeviceptr two = allocate(SIZE);
	release(one);
	SHOWN(256, 0, 512);
	OK(cuMemPoolTrimTo(pool, 0));
	SHOWN(256, 0, 512);
	CUdeviceptr again = allocate(SIZE);
	EQUAL(again, one);
	SHOWN(512, 0, 768);
	release(again);
	release(two);
	SHOWN(0, 0, 256);
	end(false, 256);
}

// ---- By what pieces: chunks of 32 MiB, and what does not fit into the end of one goes on in the next

static CUdeviceptr leave(size_t bytes)
{
	CUdeviceptr pointer = allocate(bytes);
	export(pointer);
	release(pointer);
	return pointer;
}

static void small_memory_keeps_its_chunk(void)
{
	begin(false);
	for (int i = 0; i < 2; i++) {
		CUdeviceptr pointer = allocate(2 * MIB);
		SHOWN(32, 0, i == 0 ? 32 : 64);
		export(pointer);
		SHOWN(32, 0, 32);
		release(pointer);
		SHOWN(0, 0, 32);
	}
	end(false, 32);
}

static void by_its_chunks_a_place_is_let_go_of(void)
{
	begin(false);
	CUdeviceptr place = leave(SIZE), one, two;
	SHOWN(0, 0, 256);
	one = allocate(2 * MIB);
	EQUAL(one, place);
	SHOWN(32, 0, 288);
	export(one);
	SHOWN(32, 0, 256);
	release(one);
	SHOWN(0, 0, 256);
	one = allocate(40 * MIB);
	export(one);
	SHOWN(64, 0, 256);
	release(one);
	SHOWN(0, 0, 256);
	one = allocate(2 * MIB);
	two = allocate(62 * MIB);
	EQUAL(two, one + 2 * MIB);
	export(two);
	SHOWN(64, 0, 256);
	release(two);
	release(one);
	SHOWN(0, 0, 256);
	end(false, 256);
}

static void what_lies_across_two_chunks_lets_go_of_both(void)
{
	begin(false);
	CUdeviceptr place = leave(100 * MIB), one = allocate(33 * MIB), two = allocate(67 * MIB);
	EQUAL(one, place);
	EQUAL(two, one + 33 * MIB);
	SHOWN(128, 0, 256);
	export(one);
	SHOWN(128, 0, 192);
	export(two);
	SHOWN(128, 0, 128);
	release(one);
	release(two);
	SHOWN(0, 0, 128);
	end(false, 128);
}

static void one_of_several_keeps_their_chunk_alone(void)
{
	CUdeviceptr some[5];
	begin(false);
	for (int i = 0; i < 5; i++)
		some[i] = allocate(8 * MIB);
	SHOWN(64, 0, 64);
	export(some[2]);
	for (int i = 0; i < 5; i++)
		release(some[i]);
	SHOWN(0, 0, 32);
	EQUAL(leave(8 * MIB), some[0]);
	SHOWN(0, 0, 32);
	end(false, 32);
}

static void the_second_half_is_let_go_of_alone(void)
{
	begin(false);
	leave(4 * SIZE);
	SHOWN(0, 0, 1024);
	CUdeviceptr one = allocate(2 * SIZE), two = allocate(2 * SIZE);
	SHOWN(1024, 0, 2048);
	export(two);
	SHOWN(1024, 0, 1536);
	release(one);
	release(two);
	SHOWN(0, 0, 1024);
	end(false, 1024);
}

int main(void)
{
	int status;
	EQUAL(nvmlInit_v2(), NVML_SUCCESS);
	for (other = others; other < others + 2; other++)
		begin_other();
	other = &others[0];
	start(0);
	one_place_keeps_one_piece(false, false, -1);
	one_place_keeps_one_piece(true, false, -1);
	one_place_keeps_one_piece(true, true, -1);
	one_place_keeps_one_piece(true, true, 1);
	one_place_keeps_one_piece(false, false, 1);
	four_places_keep_four(false, false);
	four_places_keep_four(true, false);
	four_places_keep_four(true, true);
	who_has_imported_it_has_it_still();
	until_it_has_freed_it();
	of_two_who_have_it_the_last_is_shown_with_it();
	a_pointer_that_is_held_keeps_all();
	half_of_a_place_is_let_go_of_alone();
	a_trim_lets_go_of_nothing();
	small_memory_keeps_its_chunk();
	by_its_chunks_a_place_is_let_go_of();
	what_lies_across_two_chunks_lets_go_of_both();
	one_of_several_keeps_their_chunk_alone();
	the_second_half_is_let_go_of_alone();
	for (other = others; other < others + 2; other++) {
		close(other->orders);
		CHECK(waitpid(other->pid, &status, 0) == other->pid && status == 0);
	}
	return 0;
}
