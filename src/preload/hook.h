// SPDX-License-Identifier: Apache-2.0
// How a driver function is taken over. hooks.def holds one line per function: HOOK(name, group) is taken over, CALL(name) is
// only called. Everything else follows from it: the export, the table by driver address, the surface test. A hook is a C
// function hook_NAME with exactly the prototype that abi/ declares for NAME (the compiler checks it), and reaches the
// driver's own by DRIVER(NAME)(...).
#ifndef SOFTMIG_PRELOAD_HOOK_H
#define SOFTMIG_PRELOAD_HOOK_H
#include <stdbool.h>
#include <stddef.h>

#include "preload/abi/cuda_types.h"
#include "preload/abi/nvml_types.h"

#include "preload/abi/cuda_functions.h"
#include "preload/abi/nvml_functions.h"

enum softmig_hook_group {
	DOOR,     // engaged in every mode but passive, also when the limits were refused
	SLICE,    // engaged in a slice
	SHARE,    // engaged in a slice that names a compute share
	UNHOOKED, // CALL: never handed out
};

enum softmig_library { SOFTMIG_LIBCUDA, SOFTMIG_LIBNVML, SOFTMIG_LIBRARIES };

struct softmig_hook {
	const char *name;
	void *function; // hook_NAME
	void *driver;   // what it calls: the driver's own, or what a profiler put before that. NULL: this driver lacks it, or it is not there yet
	void *target;   // where the export NAME jumps: at first softmig_first_NAME, then hook or driver (offset used in entry.S)
	enum softmig_hook_group group;
	void *real; // the driver's own
};

#define HOOK(name, group) \
	extern struct softmig_hook softmig_hook_##name; \
	extern __typeof__(name) hook_##name;
#define CALL(name) extern struct softmig_hook softmig_hook_##name;
#include "preload/hooks.def"
#undef HOOK
#undef CALL

// The driver's own function. Inside a hook, the hook's own is never NULL: it is handed out only where the driver has the
// function. Any other may be missing in an old driver: check SOFTMIG_HAS first.
#define DRIVER(name) ((__typeof__(&name))softmig_hook_##name.driver)
#define SOFTMIG_HAS(name) (softmig_hook_##name.driver != NULL)

// What to hand out for an address that the driver or the loader answered with: the hook's, where one is engaged, else the
// address itself. The first address inside a driver library decides the process's mode. Thread-safe, lock-free.
// Caller: an address in the code that asked, NULL: it asked the driver.
void *softmig_driver_replace(void *answer, const void *caller);
// The driver's own function of that name in a library that is loaded, NULL otherwise. Loads nothing.
void *softmig_driver_loaded_symbol(const char *name);
// Where an export of ours jumps (called from entry.S).
void *softmig_driver_target(struct softmig_hook *hook);
// Does address lie in this library itself?
bool softmig_driver_is_own(const void *address);
// Is this one of the names that this library exports?
bool softmig_driver_exports(const char *name);
// The loader's dlsym or dlvsym or dlopen, found without calling them. NULL: not in this process.
void *softmig_driver_loader_symbol(const char *name);
// Loads the driver library (NVML for a CUDA program) and fills its hooks' driver pointers. False: not to be had.
bool softmig_driver_load(enum softmig_library library);
#endif
