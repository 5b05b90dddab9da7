// SPDX-License-Identifier: Apache-2.0
// How a driver function is taken over. hooks.def holds one line per function, HOOK(name, group); everything else follows
// from it: the export, the table by driver address, the surface test. A hook is a C function hook_NAME with exactly the
// prototype that abi/ declares for NAME (the compiler checks it), and calls the driver by DRIVER(NAME)(...).
#ifndef SOFTMIG_PRELOAD_HOOK_H
#define SOFTMIG_PRELOAD_HOOK_H
#include "preload/abi/cuda_types.h"
#include "preload/abi/cuda_functions.h"
#include "preload/abi/nvml_types.h"
#include "preload/abi/nvml_functions.h"

enum softmig_hook_group {
	SOFTMIG_HOOK_DOOR,  // engaged in every mode but passive, also when the limits were refused
	SOFTMIG_HOOK_SLICE, // engaged in a slice
	SOFTMIG_HOOK_SHARE, // engaged in a slice that names a compute share
};

// One per line of hooks.def, gathered by the linker in the section softmig_hooks.
struct softmig_hook {
	const char *name;
	void *function;      // hook_NAME
	void *driver;        // the driver's own, NULL: this driver lacks it
	void *target;        // where the export NAME jumps: first the resolver, then hook or driver
	enum softmig_hook_group group;
	int library;         // enum softmig_library
};

#define HOOK(name, group) \
	extern struct softmig_hook softmig_hook_##name; \
	extern __typeof__(name) hook_##name;
#include "preload/hooks.def"
#undef HOOK

// The driver's own function behind a hook. Inside a hook it is never NULL: a hook is handed out only where the driver has the function
// (calling another function than the hook's own: check SOFTMIG_HAS first).
#define DRIVER(name) ((__typeof__(&name))softmig_hook_##name.driver)
#define SOFTMIG_HAS(name) (softmig_hook_##name.driver != NULL)
#endif
