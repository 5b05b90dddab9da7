// SPDX-License-Identifier: Apache-2.0
// The real driver. Owns: the hooks' table, found once per library by the driver's own addresses. Must never: load a driver
// that the program did not ask for (NVML apart, for a CUDA program in a slice), hand out what the driver lacks.
// Everything here is idempotent: threads that come together write the same values, so there is no lock to be left held.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#include "preload/elf.h"
#include "preload/hook.h"
#include "preload/mode.h"

_Static_assert(offsetof(struct softmig_hook, target) == 24, "entry.S jumps through this offset");

#define HOOK(name_, group_) \
	extern char softmig_first_##name_[]; \
	struct softmig_hook softmig_hook_##name_ = { \
		.name = #name_, .function = (void *)hook_##name_, .target = softmig_first_##name_, .group = group_};
#define CALL(name_) struct softmig_hook softmig_hook_##name_ = {.name = #name_, .group = UNHOOKED};
#include "preload/hooks.def"
#undef HOOK
#undef CALL

static struct softmig_hook *const hooks[] = {
#define HOOK(name_, group_) &softmig_hook_##name_,
#define CALL(name_) &softmig_hook_##name_,
#include "preload/hooks.def"
#undef HOOK
#undef CALL
};
#define HOOKS (sizeof(hooks) / sizeof(hooks[0]))

static const char *const sonames[SOFTMIG_LIBRARIES] = {"libcuda.so.1", "libnvidia-ml.so.1"};
// What Nsight Compute gives a program that opens the driver: a library that wraps every function of it. There this is the
// driver: hooks stand before the wrappers, so that slices hold and the profiler sees what it would see; what the
// wrappers ask of libcuda.so.1 is their own affair.
static const char stand_in[] = "libcuda-injection.so";

// Where a library was found; read without a lock, so base last.
static struct {
	_Atomic uintptr_t start, end, base;
} attached[SOFTMIG_LIBRARIES];

// Open addressing on the driver's addresses. Entries are only added; one whose hook has since found another address (the
// library was closed and loaded elsewhere) no longer counts.
#define TABLE_SIZE 2048
_Static_assert(HOOKS * 4 <= TABLE_SIZE, "the table stays sparse, a reload included");
static _Atomic(uintptr_t) table_address[TABLE_SIZE];
static struct softmig_hook *_Atomic table_hook[TABLE_SIZE];

static enum softmig_library library_of(const char *name)
{
	return strncmp(name, "nvml", 4) == 0 ? SOFTMIG_LIBNVML : SOFTMIG_LIBCUDA;
}

static size_t slot_of(uintptr_t address)
{
	return (size_t)((address * 0x9e3779b97f4a7c15ull) >> 40) % TABLE_SIZE;
}

static void table_add(struct softmig_hook *hook, uintptr_t address)
{
	for (size_t i = slot_of(address), n = 0; n < TABLE_SIZE; i = (i + 1) % TABLE_SIZE, n++) {
		uintptr_t seen = 0;
		if (!atomic_compare_exchange_strong(&table_address[i], &seen, address) && seen != address)
			continue;
		atomic_store_explicit(&table_hook[i], hook, memory_order_release);
		return;
	}
}

static struct softmig_hook *table_find(uintptr_t address)
{
	for (size_t i = slot_of(address), n = 0; n < TABLE_SIZE; i = (i + 1) % TABLE_SIZE, n++) {
		uintptr_t seen = atomic_load_explicit(&table_address[i], memory_order_acquire);
		if (seen == 0)
			return NULL;
		if (seen != address)
			continue;
		struct softmig_hook *hook = atomic_load_explicit(&table_hook[i], memory_order_acquire);
		return hook != NULL && (uintptr_t)hook->driver == address ? hook : NULL;
	}
	return NULL;
}

static void attach(enum softmig_library library, const struct softmig_elf *elf)
{
	for (size_t i = 0; i < HOOKS; i++) {
		struct softmig_hook *hook = hooks[i];
		if (library_of(hook->name) != library)
			continue;
		void *driver = softmig_elf_symbol(elf, hook->name);
		struct softmig_elf real;
		if (driver == NULL && strcmp(elf->soname, stand_in) == 0 && softmig_elf_by_soname(sonames[library], &real))
			driver = softmig_elf_symbol(&real, hook->name);
		__atomic_store_n(&hook->driver, driver, __ATOMIC_RELEASE);
		if (driver != NULL && hook->group != UNHOOKED)
			table_add(hook, (uintptr_t)driver);
	}
	atomic_store_explicit(&attached[library].start, elf->start, memory_order_relaxed);
	atomic_store_explicit(&attached[library].end, elf->end, memory_order_relaxed);
	atomic_store_explicit(&attached[library].base, elf->base, memory_order_release);
}

static bool find_stand_in(struct softmig_elf *elf)
{
	return softmig_elf_by_soname(stand_in, elf) && softmig_elf_symbol(elf, "cuGetProcAddress") != NULL &&
	       softmig_elf_symbol(elf, "cuLaunchKernel") != NULL && softmig_elf_symbol(elf, "cuMemAlloc_v2") != NULL;
}

static bool find_loaded(enum softmig_library library, struct softmig_elf *elf)
{
	return (library == SOFTMIG_LIBCUDA && find_stand_in(elf)) || softmig_elf_by_soname(sonames[library], elf);
}

static bool is_attached(enum softmig_library library, uintptr_t address)
{
	return atomic_load_explicit(&attached[library].base, memory_order_acquire) != 0 &&
	       address >= atomic_load_explicit(&attached[library].start, memory_order_relaxed) &&
	       address < atomic_load_explicit(&attached[library].end, memory_order_relaxed);
}

// Which driver library, if any, an address belongs to; attaches it when it is new.
static bool attach_by_address(const void *address)
{
	struct softmig_elf elf, other;

	for (enum softmig_library i = 0; i < SOFTMIG_LIBRARIES; i++)
		if (is_attached(i, (uintptr_t)address))
			return true;
	if (!softmig_elf_by_address(address, &elf) || elf.soname == NULL)
		return false;
	if (strcmp(elf.soname, stand_in) == 0 && find_stand_in(&other)) {
		attach(SOFTMIG_LIBCUDA, &elf);
		return true;
	}
	for (enum softmig_library i = 0; i < SOFTMIG_LIBRARIES; i++) {
		if (strcmp(elf.soname, sonames[i]) == 0) {
			if (i == SOFTMIG_LIBCUDA && find_stand_in(&other))
				return false;
			attach(i, &elf);
			return true;
		}
	}
	return false;
}

static bool engaged(const struct softmig_hook *hook)
{
	switch (softmig_mode()) {
	case SOFTMIG_MODE_REFUSED: return hook->group == DOOR;
	case SOFTMIG_MODE_SLICE: return hook->group != SHARE || softmig_mode_has_share();
	case SOFTMIG_MODE_PASSIVE: break;
	}
	return false;
}

void *softmig_driver_replace(void *answer)
{
	if (answer == NULL || softmig_mode_known_passive() || !attach_by_address(answer))
		return answer;
	struct softmig_hook *hook = table_find((uintptr_t)answer);
	return hook != NULL && engaged(hook) ? hook->function : answer;
}

// The library's place if it is loaded now. A library may be closed and loaded again elsewhere, so this looks each time.
static bool attach_loaded(enum softmig_library library)
{
	struct softmig_elf elf;

	if (!find_loaded(library, &elf))
		return false;
	if (atomic_load_explicit(&attached[library].base, memory_order_acquire) != elf.base)
		attach(library, &elf);
	return true;
}

void *softmig_driver_loaded_symbol(const char *name)
{
	struct softmig_elf elf;

	if (!softmig_elf_by_soname(sonames[library_of(name)], &elf))
		return NULL;
	return softmig_elf_symbol(&elf, name);
}

// What a program gets that calls a driver function without the driver: the code that says so in each API.
static int without_libcuda(void)
{
	return CUDA_ERROR_STUB_LIBRARY;
}

static int without_nvml(void)
{
	return NVML_ERROR_LIBRARY_NOT_FOUND;
}

static int lacking_in_libcuda(void)
{
	return CUDA_ERROR_NOT_SUPPORTED;
}

static int lacking_in_nvml(void)
{
	return NVML_ERROR_FUNCTION_NOT_FOUND;
}

void *softmig_driver_target(struct softmig_hook *hook)
{
	enum softmig_library library = library_of(hook->name);

	if (!attach_loaded(library))
		return library == SOFTMIG_LIBNVML ? (void *)without_nvml : (void *)without_libcuda;
	void *target = hook->driver;
	if (target == NULL)
		target = library == SOFTMIG_LIBNVML ? (void *)lacking_in_nvml : (void *)lacking_in_libcuda;
	else if (engaged(hook))
		target = hook->function;
	// Linked programs keep their driver loaded; a program that dlopens it may close it, so only the first is remembered.
	if (library == SOFTMIG_LIBCUDA)
		__atomic_store_n(&hook->target, target, __ATOMIC_RELEASE);
	return target;
}

bool softmig_driver_is_own(const void *address)
{
	static _Atomic uintptr_t start, end;
	uintptr_t last = atomic_load_explicit(&end, memory_order_acquire);

	if (last == 0) {
		struct softmig_elf elf;
		if (!softmig_elf_by_address(hooks, &elf))
			return false;
		last = elf.end;
		atomic_store_explicit(&start, elf.start, memory_order_relaxed);
		atomic_store_explicit(&end, last, memory_order_release);
	}
	return (uintptr_t)address >= atomic_load_explicit(&start, memory_order_relaxed) && (uintptr_t)address < last;
}

bool softmig_driver_exports(const char *name)
{
	struct softmig_elf elf;

	return softmig_elf_by_address(hooks, &elf) && softmig_elf_symbol(&elf, name) != NULL;
}

void *softmig_driver_loader_symbol(const char *name)
{
	// glibc up to 2.33 has these in libdl, later ones in libc.
	static const char *const homes[] = {"libc.so.6", "libdl.so.2"};

	for (size_t i = 0; i < sizeof(homes) / sizeof(homes[0]); i++) {
		struct softmig_elf elf;
		void *found = softmig_elf_by_soname(homes[i], &elf) ? softmig_elf_symbol(&elf, name) : NULL;
		if (found != NULL)
			return found;
	}
	return NULL;
}

bool softmig_driver_load(enum softmig_library library)
{
	if (!attach_loaded(library)) {
		void *(*open_library)(const char *, int) = (void *(*)(const char *, int))softmig_driver_loader_symbol("dlopen");
		if (open_library == NULL || open_library(sonames[library], RTLD_NOW | RTLD_LOCAL) == NULL)
			return false;
		return attach_loaded(library);
	}
	return true;
}
