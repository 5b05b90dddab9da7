// SPDX-License-Identifier: Apache-2.0
// What a module will take, told by its image: never less than its variables and its code, and nothing is believed that is not there.
#include "cmocka_all.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "preload/image.c"

#define PTX(text) ".version 8.0\n.target sm_70\n.address_size 64\n" text
#define MOST_CODE 4096 // of these short texts

static void assert_about(const char *ptx, uint64_t bytes)
{
	struct softmig_image image = softmig_image_measure(ptx);
	assert_true(image.bound);
	assert_in_range(image.bytes, bytes, bytes + MOST_CODE);
}

static void ptx_takes_its_variables(void **state)
{
	(void)state;
	assert_about(PTX(".visible .entry idle() { ret; }"), 0);
	assert_about(PTX(".visible .global .align 16 .b8 field[20971520];"), 20971520);
	assert_about(PTX(".global .f64 matrix[1000][1000];"), 8000000);
	assert_about(PTX(".global .v4 .f32 vectors[0x10000];"), 1048576);
	assert_about(PTX(".global .f16x2 halves[65536];"), 262144);
	assert_about(PTX(".global .u32 a[65536], b[65536], c;"), 524288);
	assert_about(PTX(".const .u32 table[16384] = {1, 2, 3, 4};"), 65536);
	assert_about(PTX(".global .attribute(.managed) .align 8 .u64 m[131072];\n.global .u8 n[1000000];"), 2048576);
	assert_about(PTX(".global .align 1 .b8 text[] = {72, 101, 0};"), 0);
	assert_about("// compiled\n.version 8.0\n\t.global .b32 x[ 100000 ];", 400000);
}

static void words_in_instructions_declare_nothing(void **state)
{
	(void)state;
	assert_about(PTX(".entry f() { ld.global.f32 %f1, [1000000000]; st.global.v4.f32 [%rd1 + 99999999], {%f1, %f1, %f1, %f1}; ret; }"), 0);
	assert_about(PTX(".entry f(.param .u64 .ptr .global .align 4 p) { ret; }"), 0);
}

static void absurd_sizes_do_not_overflow(void **state)
{
	(void)state;
	struct softmig_image image = softmig_image_measure(PTX(".global .b64 x[0xffffffffffffffff][16];"));
	assert_true(image.bound);
	assert_int_equal(image.bytes, UINT64_MAX);
	image = softmig_image_measure(PTX(".global .b8 x[99999999999999999999999999];\n.global .b8 y[18446744073709551615];"));
	assert_int_equal(image.bytes, UINT64_MAX);
}

static void what_is_no_image_says_nothing(void **state)
{
	(void)state;
	const char *images[] = {"", ".", "a", "abc", "softmig-sim-module code=6M", "\x7f" "EL"};
	for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
		struct softmig_image image = softmig_image_measure(images[i]);
		assert_false(image.bound);
		assert_int_equal(image.bytes, 0);
	}
	assert_false(softmig_image_measure(NULL).bound);
	assert_false(softmig_image_measure_file(NULL).bound);
	assert_false(softmig_image_measure_file("/nowhere").bound);
	assert_false(softmig_image_measure_file("/dev/zero").bound);
}

struct cubin {
	Elf64_Ehdr header;
	Elf64_Shdr section[4];
};

static struct cubin cubin_of(uint64_t code, uint64_t variables)
{
	struct cubin cubin = {.header = {.e_shoff = sizeof(Elf64_Ehdr), .e_shentsize = sizeof(Elf64_Shdr), .e_shnum = 4},
	                      .section = {{0},
	                                  {.sh_type = SHT_PROGBITS, .sh_flags = SHF_ALLOC | SHF_EXECINSTR, .sh_size = code, .sh_addralign = 128},
	                                  {.sh_type = SHT_NOBITS, .sh_flags = SHF_ALLOC | SHF_WRITE, .sh_size = variables},
	                                  {.sh_type = SHT_PROGBITS, .sh_size = 1 << 30}}}; // what a debugger reads
	memcpy(cubin.header.e_ident, ELFMAG, SELFMAG);
	cubin.header.e_ident[EI_CLASS] = ELFCLASS64;
	return cubin;
}

static void a_cubin_takes_its_allocated_sections(void **state)
{
	(void)state;
	struct cubin cubin = cubin_of(100000, 5000000);
	struct softmig_image image = softmig_image_measure(&cubin);
	assert_true(image.bound);
	assert_int_equal(image.bytes, 5100000 + 128);
	cubin.header.e_shoff = UINT64_MAX - 8;
	assert_false(softmig_image_measure(&cubin).bound);
	cubin.header.e_shnum = 0;
	assert_false(softmig_image_measure(&cubin).bound);
}

static void a_file_is_read_no_further_than_it_goes(void **state)
{
	(void)state;
	char path[] = "/tmp/softmig-image.XXXXXX";
	int file = mkstemp(path);
	struct cubin cubin = cubin_of(1000, 3000000);
	assert_int_equal(write(file, &cubin, sizeof(cubin)), sizeof(cubin));
	struct softmig_image image = softmig_image_measure_file(path);
	assert_true(image.bound);
	assert_int_equal(image.bytes, 3001000 + 128);
	assert_int_equal(ftruncate(file, sizeof(cubin) - 1), 0);
	assert_false(softmig_image_measure_file(path).bound);
	assert_int_equal(ftruncate(file, 0), 0);
	const char text[] = PTX(".global .b8 field[7000000]; // and some more, so that it is longer than a header");
	assert_int_equal(pwrite(file, text, sizeof(text) - 1, 0), sizeof(text) - 1);
	image = softmig_image_measure_file(path);
	assert_true(image.bound);
	assert_in_range(image.bytes, 7000000, 7000000 + MOST_CODE);
	close(file);
	unlink(path);
}

static size_t put_entry(unsigned char *at, unsigned kind, const void *contents, size_t bytes, uint64_t compressed, uint64_t unpacked)
{
	struct fat_entry entry = {.kind = (uint16_t)kind, .header_bytes = sizeof(entry), .bytes = bytes, .compressed_bytes = (uint32_t)compressed,
	                          .unpacked_bytes = unpacked};
	memcpy(at, &entry, sizeof(entry));
	memcpy(at + sizeof(entry), contents, bytes);
	return sizeof(entry) + bytes;
}

static void a_fat_binary_takes_the_largest_of_what_is_in_it(void **state)
{
	(void)state;
	unsigned char fat[4096] = {0};
	struct cubin small = cubin_of(1000, 1000), large = cubin_of(1000, 9000000);
	static const char text[] = PTX(".global .b8 field[30000000];");
	struct fat_header header = {.magic = FAT_MAGIC, .version = 1, .header_bytes = sizeof(header)};
	size_t at = sizeof(header);
	at += put_entry(fat + at, FAT_ELF, &small, sizeof(small), 0, 0);
	at += put_entry(fat + at, FAT_ELF, &large, sizeof(large), 0, 0);
	header.bytes = at - sizeof(header);
	memcpy(fat, &header, sizeof(header));
	struct wrapper wrapper = {WRAPPER_MAGIC, 1, fat};
	struct softmig_image image = softmig_image_measure(&wrapper);
	assert_true(image.bound);
	assert_int_equal(image.bytes, 9001000 + 128);
	assert_int_equal(softmig_image_measure(fat).bytes, image.bytes);

	at += put_entry(fat + at, FAT_PTX, text, sizeof(text), 0, 0);
	header.bytes = at - sizeof(header);
	memcpy(fat, &header, sizeof(header));
	assert_in_range(softmig_image_measure(fat).bytes, 30000000, 30000000 + MOST_CODE);

	put_entry(fat + at, FAT_ELF, text, sizeof(text), 10, 50000000);
	header.bytes = at - sizeof(header) + sizeof(struct fat_entry) + sizeof(text);
	memcpy(fat, &header, sizeof(header));
	image = softmig_image_measure(fat);
	assert_false(image.bound); // its variables are packed up
	assert_int_equal(image.bytes, 50000000);

	header.bytes -= 1; // its last entry is cut off
	memcpy(fat, &header, sizeof(header));
	assert_false(softmig_image_measure(fat).bound);
	wrapper.data = NULL;
	assert_false(softmig_image_measure(&wrapper).bound);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ptx_takes_its_variables),
		cmocka_unit_test(words_in_instructions_declare_nothing),
		cmocka_unit_test(absurd_sizes_do_not_overflow),
		cmocka_unit_test(what_is_no_image_says_nothing),
		cmocka_unit_test(a_cubin_takes_its_allocated_sections),
		cmocka_unit_test(a_file_is_read_no_further_than_it_goes),
		cmocka_unit_test(a_fat_binary_takes_the_largest_of_what_is_in_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
