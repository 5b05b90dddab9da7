// SPDX-License-Identifier: Apache-2.0
// What a shared library needs and gives, read from its file. Must never: load it, or trust an offset in it.
#ifndef SOFTMIG_CLI_ELF_FILE_H
#define SOFTMIG_CLI_ELF_FILE_H
#include <stdbool.h>
#include <stddef.h>

struct softmig_elf {
	bool is_64_bit;
	int machine;          // EM_X86_64, ...
	char needed[256];     // DT_NEEDED, separated by spaces
	int glibc_minor;      // the newest GLIBC_2.N that it wants, 0: none
	bool gives_dlsym;     // exports dlsym ...
	bool gives_driver;    // ... and functions of the driver
};

// 0, ENOEXEC: no shared library of this machine's byte order, or a damaged one; else the errno of reading it.
int softmig_elf_read(const char *path, struct softmig_elf *elf);
// Can programs like this one load it?
bool softmig_elf_is_for_this_machine(const struct softmig_elf *elf);
#endif
