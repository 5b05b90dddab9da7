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
// What Nsight Compute gives a program that opens the driver: a library that wraps every function of it, and finds the driver's
// past everybody's dlsym. From the first wrapper on that a program was answered with, hooks stand before the wrappers and
// call them, so that slices hold and the profiler sees every call. The driver's own functions stay hooked beside that: a
// library of this name must not free the rest of the process. Only what it asks of dlsym itself is its own affair: a hook
// there would call the wrapper that called it, for ever.
static const char stand_in[] = "libcuda-injection.so";

// Where a library was found; read without a lock, so base last. Base 0: it has not been met.
enum { STAND_IN = SOFTMIG_LIBRARIES, PLACES };
static struct {
	_Atomic uintptr_t start, end, base;
} attached[PLACES];

// Open addressing on the driver's addresses. Entries are only added; one whose hook has since found another address (the
// library was closed and loaded elsewhere) no longer counts.
#define TABLE_SIZE 2048
_Static_assert(HOOKS * 4 <= TABLE_SIZE, "the table stays sparse, a reload and a stand-in included");
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
		return hook != NULL && ((uintptr_t)hook->driver == address || (uintptr_t)hook->real == address) ? hook : NULL;
	}
	return NULL;
}

static void place(size_t i, const struct softmig_elf *elf)
{
	atomic_store_explicit(&attached[i].start, elf != NULL ? elf->start : 0, memory_order_relaxed);
	atomic_store_explicit(&attached[i].end, elf != NULL ? elf->end : 0, memory_order_relaxed);
	atomic_store_explicit(&attached[i].base, elf != NULL ? elf->base : 0, memory_order_release);
}

// Fills the hooks of a library. Wrappers: what stands before it, NULL: nothing; only then elf may be NULL, not loaded yet.
static void attach(enum softmig_library library, const struct softmig_elf *elf, const struct softmig_elf *wrappers)
{
	for (size_t i = 0; i < HOOKS; i++) {
		struct softmig_hook *hook = hooks[i];
		if (library_of(hook->name) != library)
			continue;
		void *real = elf != NULL ? softmig_elf_symbol(elf, hook->name) : NULL;
		void *driver = wrappers != NULL && (elf == NULL || real != NULL) ? softmig_elf_symbol(wrappers, hook->name) : NULL;
		if (driver == NULL)
			driver = real;
		__atomic_store_n(&hook->real, real, __ATOMIC_RELEASE);
		__atomic_store_n(&hook->driver, driver, __ATOMIC_RELEASE);
		if (real != NULL && hook->group != UNHOOKED)
			table_add(hook, (uintptr_t)real);
		if (driver != real && hook->group != UNHOOKED)
			table_add(hook, (uintptr_t)driver);
	}
	if (library == SOFTMIG_LIBCUDA)
		place(STAND_IN, wrappers);
	place(library, elf);
}

static bool is_stand_in(const struct softmig_elf *elf)
{
	return elf->soname != NULL && strcmp(elf->soname, stand_in) == 0 && softmig_elf_symbol(elf, "cuGetProcAddress") != NULL &&
	       softmig_elf_symbol(elf, "cuLaunchKernel") != NULL && softmig_elf_symbol(elf, "cuMemAlloc_v2") != NULL;
}

static bool is_attached(size_t i, uintptr_t address)
{
	return atomic_load_explicit(&attached[i].base, memory_order_acquire) != 0 &&
	       address >= atomic_load_explicit(&attached[i].start, memory_order_relaxed) &&
	       address < atomic_load_explicit(&attached[i].end, memory_order_relaxed);
}

// The stand-in that hooks call, if it is still where it was.
static bool stand_in_attached(struct softmig_elf *elf)
{
	uintptr_t base = atomic_load_explicit(&attached[STAND_IN].base, memory_order_acquire);

	return base != 0 && softmig_elf_by_soname(stand_in, elf) && elf->base == base;
}

// Does an address belong to a driver library, or to what stands before it? Attaches it when it is new.
static bool attach_by_address(const void *address)
{
	struct softmig_elf elf, other;
	bool stood = atomic_load_explicit(&attached[STAND_IN].base, memory_order_acquire) != 0;
	bool stands = stood && stand_in_attached(&other);

	for (size_t i = 0; i < PLACES && stood == stands; i++)
		if (is_attached(i, (uintptr_t)address))
			return true;
	if (!softmig_elf_by_address(address, &elf) || elf.soname == NULL)
		return false;
	if (is_stand_in(&elf)) {
		attach(SOFTMIG_LIBCUDA, softmig_elf_by_soname(sonames[SOFTMIG_LIBCUDA], &other) ? &other : NULL, &elf);
		return true;
	}
	for (enum softmig_library i = 0; i < SOFTMIG_LIBRARIES; i++) {
		if (strcmp(elf.soname, sonames[i]) == 0) {
			attach(i, &elf, i == SOFTMIG_LIBCUDA && stands ? &other : NULL);
			return true;
		}
	}
	return false;
}

// Is it the stand-in that asks, and for the driver's own?
static bool by_stand_in(const void *caller, const void *answer)
{
	static _Atomic uintptr_t another; // the last caller that was not: programs ask for hundreds of names from one place
	struct softmig_elf elf;

	if (caller == NULL || (uintptr_t)caller == atomic_load_explicit(&another, memory_order_relaxed) ||
	    !is_attached(SOFTMIG_LIBCUDA, (uintptr_t)answer))
		return false;
	if (softmig_elf_by_address(caller, &elf) && is_stand_in(&elf))
		return true;
	atomic_store_explicit(&another, (uintptr_t)caller, memory_order_relaxed);
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

void *softmig_driver_replace(void *answer, const void *caller)
{
	if (answer == NULL || softmig_mode_known_passive() || !attach_by_address(answer))
		return answer;
	if (by_stand_in(caller, answer))
		return answer;
	struct softmig_hook *hook = table_find((uintptr_t)answer);
	return hook != NULL && engaged(hook) ? hook->function : answer;
}

// The library's place if it is loaded now. A library may be closed and loaded again elsewhere, so this looks each time.
static bool attach_loaded(enum softmig_library library)
{
	struct softmig_elf elf, before;

	if (!softmig_elf_by_soname(sonames[library], &elf))
		return false;
	if (atomic_load_explicit(&attached[library].base, memory_order_acquire) != elf.base)
		attach(library, &elf, library == SOFTMIG_LIBCUDA && stand_in_attached(&before) ? &before : NULL);
	return true;
}

// Where calls of an export of ours would go without us, if that is a stand-in.
static void attach_next(const char *name)
{
	struct softmig_elf elf;
	void *(*find)(void *, const char *) = (void *(*)(void *, const char *))softmig_driver_loader_symbol("dlsym");
	void *next = softmig_elf_by_soname(stand_in, &elf) && find != NULL ? find(RTLD_NEXT, name) : NULL;

	if (next != NULL)
		attach_by_address(next);
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

	if (library == SOFTMIG_LIBCUDA)
		attach_next(hook->name);
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
