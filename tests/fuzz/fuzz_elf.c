// SPDX-License-Identifier: Apache-2.0
// A shared library with any content, as doctor reads it before anybody loads it: no offset in it is believed, and it ends.
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "cli/elf_file.h"
#include "fuzz.h"

static char path[64];

static void remove_file(void) {
	unlink(path);
}

int LLVMFuzzerInitialize(int *count, char ***arguments) {
	(void)count;
	(void)arguments;
	snprintf(path, sizeof(path), "%s/softmig-fuzz-elf.%d", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp",
	         (int)getpid());
	atexit(remove_file);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(descriptor >= 0 && write(descriptor, data, size) == (ssize_t)size);
	close(descriptor);
	struct softmig_elf elf;
	int error = softmig_elf_read(path, &elf);
	CHECK(error == 0 || error == ENOEXEC);
	CHECK(strnlen(elf.needed, sizeof(elf.needed)) < sizeof(elf.needed));
	CHECK(elf.glibc_minor >= 0 && elf.glibc_minor < 1000);
	return 0;
}
