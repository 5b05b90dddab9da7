// SPDX-License-Identifier: Apache-2.0
// Shared objects of this process: see elf.h. dl_iterate_phdr is the loader's own list, in libc since 2.2.4; it is called by
// libc's own address, because sanitizers put theirs in front and ask dlsym for libc's while theirs cannot run yet.
#include "preload/elf.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/auxv.h>

struct search {
	const char *soname;
	uintptr_t address;
	struct softmig_elf *elf;
};

// d_ptr is relocated by glibc for most objects but not for all (vDSO): relative values are below the load bias.
static uintptr_t absolute(uintptr_t base, uintptr_t pointer)
{
	return pointer < base ? base + pointer : pointer;
}

static bool describe_dynamic(uintptr_t base, const ElfW(Dyn) *dynamic, struct softmig_elf *elf)
{
	uintptr_t soname = 0;

	*elf = (struct softmig_elf){.base = base};
	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		uintptr_t pointer = absolute(base, dynamic->d_un.d_ptr);
		switch (dynamic->d_tag) {
		case DT_STRTAB: elf->strings = (const char *)pointer; break;
		case DT_SYMTAB: elf->symbols = (const ElfW(Sym) *)pointer; break;
		case DT_GNU_HASH: elf->gnu_hash = (const uint32_t *)pointer; break;
		case DT_HASH: elf->hash = (const uint32_t *)pointer; break;
		case DT_SONAME: soname = dynamic->d_un.d_val; break;
		default: break;
		}
	}
	if (elf->strings == NULL || elf->symbols == NULL)
		return false;
	if (soname != 0)
		elf->soname = elf->strings + soname;
	return true;
}

static bool describe(const struct dl_phdr_info *info, struct softmig_elf *elf)
{
	const ElfW(Dyn) *dynamic = NULL;
	uintptr_t start = UINTPTR_MAX, end = 0;

	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		if (header->p_type == PT_DYNAMIC)
			dynamic = (const ElfW(Dyn) *)(info->dlpi_addr + header->p_vaddr);
		if (header->p_type != PT_LOAD)
			continue;
		if (info->dlpi_addr + header->p_vaddr < start)
			start = info->dlpi_addr + header->p_vaddr;
		if (info->dlpi_addr + header->p_vaddr + header->p_memsz > end)
			end = info->dlpi_addr + header->p_vaddr + header->p_memsz;
	}
	if (dynamic == NULL)
		return false;
	if (!describe_dynamic(info->dlpi_addr, dynamic, elf))
		return false;
	elf->start = start;
	elf->end = end;
	return true;
}

static int visit(struct dl_phdr_info *info, size_t size, void *data)
{
	struct search *search = data;
	(void)size;
	if (search->soname == NULL) {
		bool inside = false;
		for (int i = 0; i < info->dlpi_phnum; i++) {
			const ElfW(Phdr) *header = &info->dlpi_phdr[i];
			uintptr_t start = info->dlpi_addr + header->p_vaddr;
			if (header->p_type == PT_LOAD && search->address >= start && search->address - start < header->p_memsz)
				inside = true;
		}
		return inside && describe(info, search->elf) ? 1 : 0;
	}
	return describe(info, search->elf) && search->elf->soname != NULL &&
	       strcmp(search->elf->soname, search->soname) == 0;
}

typedef int iterate_function(int (*)(struct dl_phdr_info *, size_t, void *), void *);

// libc's own dl_iterate_phdr, found in the list that the loader keeps for debuggers (libc stands near its head and is
// never unloaded, so the list needs no lock as far as that). NULL: a program without DT_DEBUG.
static iterate_function *find_iterate(void)
{
	const ElfW(Phdr) *header = (const ElfW(Phdr) *)getauxval(AT_PHDR); // NOLINT(performance-no-int-to-ptr)
	unsigned long count = getauxval(AT_PHNUM);
	const ElfW(Dyn) *dynamic = NULL;
	uintptr_t base = 0;

	for (unsigned long i = 0; header != NULL && i < count; i++)
		if (header[i].p_type == PT_PHDR)
			base = (uintptr_t)header - header[i].p_vaddr;
	for (unsigned long i = 0; header != NULL && i < count; i++)
		if (header[i].p_type == PT_DYNAMIC)
			dynamic = (const ElfW(Dyn) *)(base + header[i].p_vaddr);
	const struct r_debug *debug = NULL;
	for (; dynamic != NULL && dynamic->d_tag != DT_NULL; dynamic++)
		if (dynamic->d_tag == DT_DEBUG)
			debug = (const struct r_debug *)dynamic->d_un.d_ptr;
	for (const struct link_map *map = debug != NULL ? debug->r_map : NULL; map != NULL; map = map->l_next) {
		struct softmig_elf elf;
		if (map->l_ld != NULL && describe_dynamic(map->l_addr, map->l_ld, &elf) && elf.soname != NULL &&
		    strcmp(elf.soname, "libc.so.6") == 0)
			return (iterate_function *)softmig_elf_symbol(&elf, "dl_iterate_phdr");
	}
	return NULL;
}

static bool iterate(struct search *search)
{
	static _Atomic(iterate_function *) kept;
	iterate_function *function = atomic_load_explicit(&kept, memory_order_acquire);

	if (function == NULL) {
		function = find_iterate();
		if (function == NULL)
			function = dl_iterate_phdr;
		atomic_store_explicit(&kept, function, memory_order_release);
	}
	return function(visit, search) == 1;
}

bool softmig_elf_by_soname(const char *soname, struct softmig_elf *elf)
{
	struct search search = {.soname = soname, .elf = elf};
	return iterate(&search);
}

bool softmig_elf_by_address(const void *address, struct softmig_elf *elf)
{
	struct search search = {.address = (uintptr_t)address, .elf = elf};
	return iterate(&search);
}

static void *defined(const struct softmig_elf *elf, uint32_t index, const char *name)
{
	const ElfW(Sym) *symbol = &elf->symbols[index];
	if (symbol->st_shndx == SHN_UNDEF || symbol->st_value == 0 || strcmp(elf->strings + symbol->st_name, name) != 0)
		return NULL;
	return (void *)(elf->base + symbol->st_value);
}

// System V gABI, "Hash Table".
static void *by_hash(const struct softmig_elf *elf, const char *name)
{
	uint32_t hash = 0;
	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		hash = (hash << 4) + *c;
		hash = (hash ^ ((hash & 0xf0000000u) >> 24)) & 0x0fffffffu;
	}
	uint32_t buckets = elf->hash[0];
	const uint32_t *bucket = elf->hash + 2, *chain = bucket + buckets;
	if (buckets == 0)
		return NULL;
	for (uint32_t i = bucket[hash % buckets]; i != 0; i = chain[i]) {
		void *found = defined(elf, i, name);
		if (found != NULL)
			return found;
	}
	return NULL;
}

// The GNU hash section: bucket count, first symbol, bloom words, shift; bloom filter; buckets; chain of hashes.
static void *by_gnu_hash(const struct softmig_elf *elf, const char *name)
{
	uint32_t hash = 5381;
	for (const unsigned char *c = (const unsigned char *)name; *c; c++)
		hash = hash * 33 + *c;
	uint32_t buckets = elf->gnu_hash[0], first = elf->gnu_hash[1], bloom_words = elf->gnu_hash[2];
	const ElfW(Addr) *bloom = (const ElfW(Addr) *)(elf->gnu_hash + 4);
	const uint32_t *bucket = (const uint32_t *)(bloom + bloom_words), *chain = bucket + buckets;
	if (buckets == 0)
		return NULL;
	for (uint32_t i = bucket[hash % buckets]; i >= first; i++) {
		uint32_t link = chain[i - first];
		if ((link | 1u) == (hash | 1u)) {
			void *found = defined(elf, i, name);
			if (found != NULL)
				return found;
		}
		if (link & 1u)
			break;
	}
	return NULL;
}

void *softmig_elf_symbol(const struct softmig_elf *elf, const char *name)
{
	if (elf->gnu_hash != NULL)
		return by_gnu_hash(elf, name);
	if (elf->hash != NULL)
		return by_hash(elf, name);
	return NULL;
}
