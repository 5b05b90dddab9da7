// SPDX-License-Identifier: Apache-2.0
// Shared objects of this process, looked at without the dynamic loader's functions (which may be ours). Owns: finding a
// loaded object by soname or by an address inside it, and a symbol in it. Must never: load anything, keep a lock.
#ifndef SOFTMIG_PRELOAD_ELF_H
#define SOFTMIG_PRELOAD_ELF_H
#include <link.h>
#include <stdbool.h>
#include <stdint.h>

struct softmig_elf {
	uintptr_t base;       // load bias
	uintptr_t start, end; // the span of its loaded segments
	const char *soname;   // NULL: none
	const ElfW(Sym) *symbols;
	const char *strings;
	const uint32_t *gnu_hash; // NULL: none
	const uint32_t *hash;     // the old table, NULL: none
};

// The first loaded object whose soname is the given one. False: not loaded.
bool softmig_elf_by_soname(const char *soname, struct softmig_elf *elf);
// The object that address lies in. False: none.
bool softmig_elf_by_address(const void *address, struct softmig_elf *elf);
// The address of a defined function or object, NULL: not there. Versions are ignored: the first definition counts.
void *softmig_elf_symbol(const struct softmig_elf *elf, const char *name);
#endif
