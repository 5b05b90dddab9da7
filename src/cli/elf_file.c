// SPDX-License-Identifier: Apache-2.0
// See elf_file.h. Works on section headers, which every library that a linker made has.
#include "cli/elf_file.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 64 << 20 };

struct image {
	const char *bytes;
	size_t size;
};

// length bytes at offset, NULL if they are not all there or not where a structure of that alignment can be.
static const void *at(const struct image *image, uint64_t offset, uint64_t length, size_t alignment)
{
	return offset <= image->size && length <= image->size - offset && offset % alignment == 0 ? image->bytes + offset : NULL;
}

static const Elf64_Shdr *section(const struct image *image, const Elf64_Ehdr *header, unsigned index)
{
	return header->e_shentsize == sizeof(Elf64_Shdr) && index < header->e_shnum ?
	               at(image, header->e_shoff + (uint64_t)index * sizeof(Elf64_Shdr), sizeof(Elf64_Shdr), _Alignof(Elf64_Shdr)) :
	               NULL;
}

// A string of the table that belongs to a section; "" where the offset leads nowhere.
static const char *string(const struct image *image, const Elf64_Ehdr *header, const Elf64_Shdr *of, uint64_t offset)
{
	const Elf64_Shdr *table = section(image, header, of->sh_link);
	const char *text = table ? at(image, table->sh_offset, table->sh_size, 1) : NULL;
	if (!text || offset >= table->sh_size || !memchr(text + offset, '\0', table->sh_size - offset))
		return "";
	return text + offset;
}

static void read_dynamic(const struct image *image, const Elf64_Ehdr *header, const Elf64_Shdr *part, struct softmig_elf *elf)
{
	const Elf64_Dyn *entry = at(image, part->sh_offset, part->sh_size, _Alignof(Elf64_Dyn));
	for (uint64_t i = 0; entry && i < part->sh_size / sizeof *entry; i++) {
		if (entry[i].d_tag != DT_NEEDED)
			continue;
		size_t used = strlen(elf->needed);
		snprintf(elf->needed + used, sizeof elf->needed - used, "%s%s", used ? " " : "", string(image, header, part, entry[i].d_un.d_val));
	}
}

static void read_versions(const struct image *image, const Elf64_Ehdr *header, const Elf64_Shdr *part, struct softmig_elf *elf)
{
	uint64_t offset = part->sh_offset, left = part->sh_size / sizeof(Elf64_Vernaux);
	for (uint32_t i = 0; i < part->sh_info; i++) {
		const Elf64_Verneed *need = at(image, offset, sizeof *need, _Alignof(Elf64_Verneed));
		uint64_t entry = need ? offset + need->vn_aux : 0;
		for (unsigned j = 0; need && j < need->vn_cnt; j++) {
			const Elf64_Vernaux *version = at(image, entry, sizeof *version, _Alignof(Elf64_Vernaux));
			if (!version || left-- == 0) // entries that lead back would keep us here
				return;
			const char *name = string(image, header, part, version->vna_name);
			long minor = strncmp(name, "GLIBC_2.", 8) == 0 ? strtol(name + 8, NULL, 10) : 0;
			if (minor > elf->glibc_minor && minor < 1000)
				elf->glibc_minor = (int)minor;
			if (version->vna_next == 0)
				break;
			entry += version->vna_next;
		}
		if (!need || need->vn_next == 0)
			return;
		offset += need->vn_next;
	}
}

static void read_symbols(const struct image *image, const Elf64_Ehdr *header, const Elf64_Shdr *part, struct softmig_elf *elf)
{
	const Elf64_Sym *symbol = at(image, part->sh_offset, part->sh_size, _Alignof(Elf64_Sym));
	for (uint64_t i = 0; symbol && i < part->sh_size / sizeof *symbol; i++) {
		if (symbol[i].st_shndx == SHN_UNDEF || ELF64_ST_BIND(symbol[i].st_info) == STB_LOCAL)
			continue;
		const char *name = string(image, header, part, symbol[i].st_name);
		elf->gives_dlsym |= strcmp(name, "dlsym") == 0;
		elf->gives_driver |= strcmp(name, "cuMemAlloc_v2") == 0;
	}
}

static int read_image(const struct image *image, struct softmig_elf *elf)
{
	const Elf64_Ehdr *header = at(image, 0, sizeof *header, 1);
	unsigned char order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
	if (!header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 || header->e_ident[EI_DATA] != order || header->e_type != ET_DYN)
		return ENOEXEC;
	elf->is_64_bit = header->e_ident[EI_CLASS] == ELFCLASS64;
	elf->machine = header->e_machine;
	if (!elf->is_64_bit)
		return 0;
	for (unsigned i = 0; i < header->e_shnum; i++) {
		const Elf64_Shdr *part = section(image, header, i);
		if (!part)
			return ENOEXEC;
		if (part->sh_type == SHT_DYNAMIC)
			read_dynamic(image, header, part, elf);
		else if (part->sh_type == SHT_GNU_verneed)
			read_versions(image, header, part, elf);
		else if (part->sh_type == SHT_DYNSYM)
			read_symbols(image, header, part, elf);
	}
	return 0;
}

// Read, not mapped: a file that somebody truncates meanwhile must not kill us.
int softmig_elf_read(const char *path, struct softmig_elf *elf)
{
	*elf = (struct softmig_elf){ 0 };
	struct stat status;
	int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (file < 0)
		return errno;
	int error = fstat(file, &status) != 0 ? errno : !S_ISREG(status.st_mode) || status.st_size > FILE_MAX_BYTES ? ENOEXEC : 0;
	char *bytes = error ? NULL : malloc((size_t)status.st_size + 1);
	struct image image = { .bytes = bytes };
	while (bytes && image.size < (size_t)status.st_size) {
		ssize_t count = read(file, bytes + image.size, (size_t)status.st_size - image.size);
		if (count <= 0 && !(count < 0 && errno == EINTR))
			break;
		image.size += count > 0 ? (size_t)count : 0;
	}
	if (!error)
		error = bytes ? read_image(&image, elf) : ENOMEM;
	free(bytes);
	close(file);
	return error;
}

bool softmig_elf_is_for_this_machine(const struct softmig_elf *elf)
{
	struct softmig_elf ours;
	return softmig_elf_read("/proc/self/exe", &ours) != 0 || (elf->machine == ours.machine && elf->is_64_bit == ours.is_64_bit);
}
