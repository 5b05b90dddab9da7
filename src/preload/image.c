// SPDX-License-Identifier: Apache-2.0
// What a module will take: see image.h. A cubin is an ELF file: what it takes are its allocated sections, those without contents too. A
// fat binary holds several of which the driver picks one. PTX is compiled by the driver: its variables are declared in it, and its code
// is no longer than some bytes for each of its characters.
#include "preload/image.h"

#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "slice/sys.h"

// An instruction is 16 bytes, and takes 20 characters and more of PTX; unrolling and calls inlined make it more.
enum { PTX_CODE_TIMES = 4 };

// No cubin is larger: where its length is not known, its own figures are believed up to here.
#define ELF_MOST_BYTES (4ull << 30)

#define WRAPPER_MAGIC 0x466243b1u // what nvcc's host code hands over: points to the fat binary
#define FAT_MAGIC 0xba55ed50u
enum { FAT_PTX = 1, FAT_ELF = 2 };

struct wrapper {
	uint32_t magic, version;
	const void *data;
};

struct fat_header {
	uint32_t magic;
	uint16_t version, header_bytes;
	uint64_t bytes; // of all entries
};

struct fat_entry {
	uint16_t kind, unknown0;
	uint32_t header_bytes;
	uint64_t bytes; // of what follows the header
	uint32_t compressed_bytes; // 0: it is not compressed
	uint32_t unknown1[9];
	uint64_t unpacked_bytes;
};
_Static_assert(offsetof(struct fat_entry, unpacked_bytes) == 56 && sizeof(struct fat_entry) == 64, "as nvcc writes it");

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t length_of(const char *text, uint64_t most)
{
	uint64_t length = 0;
	while (length < most && text[length] != '\0')
		length++;
	return length;
}

static uint64_t multiply(uint64_t a, uint64_t b)
{
	uint64_t product;
	return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

// most_bytes: of the image, as far as that is known.
static struct softmig_image measure_elf(const unsigned char *image, uint64_t most_bytes)
{
	struct softmig_image measured = {0, true};
	Elf64_Ehdr header;

	memcpy(&header, image, sizeof(header));
	uint64_t table_bytes = multiply(header.e_shnum, header.e_shentsize);
	if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_shentsize < sizeof(Elf64_Shdr) || header.e_shnum == 0 ||
	    add(header.e_shoff, table_bytes) > most_bytes)
		return (struct softmig_image){0, false};
	for (unsigned i = 0; i < header.e_shnum; i++) {
		Elf64_Shdr section;
		memcpy(&section, image + header.e_shoff + (uint64_t)i * header.e_shentsize, sizeof(section));
		if (section.sh_flags & SHF_ALLOC) // each begins where it is aligned
			measured.bytes = add(measured.bytes, add(section.sh_size, section.sh_addralign < 4096 ? section.sh_addralign : 4096));
	}
	return measured;
}

static bool is_space(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_word(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' || c == '%';
}

static const char *read_number(const char *at, const char *end, uint64_t *value)
{
	uint64_t base = 10;

	if (end - at > 2 && at[0] == '0' && (at[1] == 'x' || at[1] == 'X')) {
		base = 16;
		at += 2;
	}
	for (*value = 0; at < end; at++) {
		unsigned digit = at[0] >= '0' && at[0] <= '9' ? (unsigned)(at[0] - '0') : (unsigned)((at[0] | 0x20) - 'a') + 10;
		if (digit >= base)
			break;
		*value = add(multiply(*value, base), digit);
	}
	return at;
}

// Bytes of a type by its name: the bits are its number, ".f16x2" are two; what has none is a reference to a texture.
static uint64_t type_bytes(const char *at, const char *end)
{
	uint64_t bits = 0, times = 1;

	while (at < end && (*at < '0' || *at > '9'))
		at++;
	if (at == end)
		return 64;
	at = read_number(at, end, &bits);
	if (at < end && *at == 'x')
		read_number(at + 1, end, &times);
	return multiply(bits, times) / 8;
}

// The variables that a declaration from after ".global" or ".const" on makes room for.
static uint64_t declared_bytes(const char *at, const char *end)
{
	uint64_t bytes = 0, element = 1, vector = 1, count = 1;
	int depth = 0;

	for (; at < end && *at != ';'; at++) {
		if (*at == '{')
			depth++;
		else if (*at == '}')
			depth--;
		else if (depth > 0)
			continue;
		if (*at == '.') {
			const char *word = at + 1;
			while (at + 1 < end && is_word(at[1]))
				at++;
			if (at - word == 1 && word[0] == 'v')
				vector = word[1] == '2' ? 2 : 4;
			else if ((size_t)(at + 1 - word) != strlen("align") || memcmp(word, "align", strlen("align")) != 0)
				element = type_bytes(word, at + 1);
		} else if (*at == '[') {
			uint64_t dimension;
			do
				at++;
			while (at < end && is_space(*at));
			at = read_number(at, end, &dimension) - 1;
			count = multiply(count, dimension);
		} else if (*at == ',') {
			bytes = add(bytes, multiply(multiply(element, vector), count) + 256);
			count = 1;
		}
	}
	return add(bytes, add(multiply(multiply(element, vector), count), 256)); // aligned
}

static bool has_word(const char *at, const char *end, const char *word)
{
	size_t length = strlen(word);
	return (size_t)(end - at) > length && memcmp(at, word, length) == 0 && is_space(at[length]);
}

static struct softmig_image measure_ptx(const char *text, uint64_t length)
{
	struct softmig_image measured = {multiply(length, PTX_CODE_TIMES), true};
	const char *end = text + length;

	// In instructions these words have neighbours: ld.global.f32.
	for (const char *at = text; (at = memchr(at, '.', (size_t)(end - at))) != NULL; at++) {
		if (at > text && (is_word(at[-1]) || at[-1] == '.'))
			continue;
		if (has_word(at, end, ".global"))
			measured.bytes = add(measured.bytes, declared_bytes(at + strlen(".global"), end));
		else if (has_word(at, end, ".const"))
			measured.bytes = add(measured.bytes, declared_bytes(at + strlen(".const"), end));
	}
	return measured;
}

static struct softmig_image measure_entry(const struct fat_entry *entry, const unsigned char *contents)
{
	// What is compressed has variables that are not seen.
	if (entry->compressed_bytes != 0)
		return (struct softmig_image){multiply(entry->unpacked_bytes, entry->kind == FAT_PTX ? PTX_CODE_TIMES : 1), false};
	if (entry->kind == FAT_ELF && entry->bytes >= sizeof(Elf64_Ehdr) && memcmp(contents, ELFMAG, SELFMAG) == 0)
		return measure_elf(contents, entry->bytes);
	if (entry->kind == FAT_PTX)
		return measure_ptx((const char *)contents, length_of((const char *)contents, entry->bytes));
	return (struct softmig_image){0, false};
}

static struct softmig_image measure_fat(const unsigned char *image)
{
	struct softmig_image measured = {0, true};
	struct fat_header header;

	memcpy(&header, image, sizeof(header));
	for (uint64_t at = 0; at < header.bytes;) {
		struct fat_entry entry;
		uint64_t left = header.bytes - at;
		if (left < sizeof(entry))
			break;
		memcpy(&entry, image + header.header_bytes + at, sizeof(entry));
		if (entry.header_bytes < sizeof(entry) || add(entry.header_bytes, entry.bytes) > left)
			return (struct softmig_image){measured.bytes, false};
		struct softmig_image one = measure_entry(&entry, image + header.header_bytes + at + entry.header_bytes);
		measured.bytes = one.bytes > measured.bytes ? one.bytes : measured.bytes;
		measured.bound &= one.bound;
		at += entry.header_bytes + entry.bytes;
	}
	return measured;
}

// length: of the image, UINT64_MAX: unknown; then text ends with a zero.
static struct softmig_image measure(const unsigned char *image, uint64_t length)
{
	uint32_t magic;
	memcpy(&magic, image, sizeof(magic));
	if (magic == WRAPPER_MAGIC && length == UINT64_MAX) {
		struct wrapper wrapper;
		memcpy(&wrapper, image, sizeof(wrapper));
		if (wrapper.data == NULL)
			return (struct softmig_image){0, false};
		image = wrapper.data;
		memcpy(&magic, image, sizeof(magic));
	}
	if (magic == FAT_MAGIC) {
		struct fat_header header;
		memcpy(&header, image, sizeof(header));
		if (length != UINT64_MAX && add(header.bytes, header.header_bytes) > length)
			return (struct softmig_image){0, false};
		return measure_fat(image);
	}
	if (memcmp(image, ELFMAG, SELFMAG) == 0)
		return measure_elf(image, length == UINT64_MAX ? ELF_MOST_BYTES : length);
	const char *text = (const char *)image;
	uint64_t letters = length_of(text, length);
	const char *first = text;
	while (first < text + letters && is_space(*first))
		first++;
	if (*first == '.' || *first == '/') // a directive or a comment
		return measure_ptx(text, letters);
	return (struct softmig_image){0, false};
}

struct softmig_image softmig_image_measure(const void *image)
{
	// Text may be shorter than a magic number, none of which has a zero in it.
	if (image == NULL || length_of(image, sizeof(uint32_t)) < sizeof(uint32_t))
		return (struct softmig_image){0, false};
	return measure(image, UINT64_MAX);
}

struct softmig_image softmig_image_measure_file(const char *path)
{
	struct softmig_image measured = {0, false};
	struct stat status;
	int kept = errno;
	int file = path == NULL ? -1 : softmig_sys_open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0);

	if (file >= 0 && softmig_sys_fstat(file, &status) == 0 && S_ISREG(status.st_mode) && (uint64_t)status.st_size > sizeof(Elf64_Ehdr)) {
		size_t length = (size_t)status.st_size;
		const unsigned char *image = mmap(NULL, length, PROT_READ, MAP_PRIVATE, file, 0);
		if (image != MAP_FAILED) {
			measured = measure(image, length);
			munmap((void *)(uintptr_t)image, length);
		}
	}
	if (file >= 0)
		softmig_sys_close(file);
	errno = kept;
	return measured;
}
