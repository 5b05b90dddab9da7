// SPDX-License-Identifier: Apache-2.0
// dlsym and dlvsym: which lookups are looked at. Owns: that decision. Must never: change what a lookup answers unless it is
// an address in the hooks' table, or our own export where the program would have found the driver's, or nothing.
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdint.h>

#include "preload/hook.h"

// For entry.S: done, the answer is to be returned; else it is the loader's function, to be jumped to.
struct softmig_answer {
	uintptr_t done;
	void *pointer;
};

struct softmig_answer softmig_entry_dlsym(void *handle, const char *name, const void *caller);
struct softmig_answer softmig_entry_dlvsym(void *handle, const char *name, const char *version, const void *caller);

// Driver names are "cu" or "nvml" and a capital: cuMemAlloc, but not curl_easy_init or cublasCreate.
static bool driver_like(const char *name)
{
	if (name == NULL)
		return false;
	if (name[0] == 'c' && name[1] == 'u')
		return name[2] >= 'A' && name[2] <= 'Z';
	return name[0] == 'n' && name[1] == 'v' && name[2] == 'm' && name[3] == 'l' && name[4] >= 'A' && name[4] <= 'Z';
}

static void *loader_symbol(_Atomic(void *) *kept, const char *name)
{
	void *found = atomic_load_explicit(kept, memory_order_acquire);
	if (found == NULL) {
		found = softmig_driver_loader_symbol(name);
		atomic_store_explicit(kept, found, memory_order_release);
	}
	return found;
}

struct lookup {
	void *(*dlsym)(void *, const char *);
	void *(*dlvsym)(void *, const char *, const char *);
	const char *name, *version;
	const void *caller;
};

// The loader's answer with this library as the caller. It also leaves dlerror as the program expects it.
static void *ask(const struct lookup *lookup, void *handle)
{
	return lookup->version != NULL ? lookup->dlvsym(handle, lookup->name, lookup->version)
	                               : lookup->dlsym(handle, lookup->name);
}

static struct softmig_answer answer(const struct lookup *lookup, void *handle)
{
	void *found;

	if (handle == RTLD_NEXT) {
		// After the caller, whoever that is: the driver if it is loaded. A name of ours must not be found in us: what comes after us.
		// Any other is the caller's own affair.
		found = softmig_driver_loaded_symbol(lookup->name);
		if (found == NULL && !softmig_driver_exports(lookup->name))
			return (struct softmig_answer){0, lookup->version != NULL ? (void *)lookup->dlvsym : (void *)lookup->dlsym};
		if (found == NULL)
			found = ask(lookup, RTLD_NEXT);
	} else {
		found = ask(lookup, handle);
		if (found != NULL && softmig_driver_is_own(found)) {
			// Our export stands in front of the driver's: without the driver, the program must find nothing.
			found = softmig_driver_loaded_symbol(lookup->name);
			if (found == NULL)
				found = ask(lookup, RTLD_NEXT);
		}
	}
	return (struct softmig_answer){1, softmig_driver_replace(found, lookup->caller)};
}

struct softmig_answer softmig_entry_dlsym(void *handle, const char *name, const void *caller)
{
	static _Atomic(void *) kept;
	struct lookup lookup = {.dlsym = (void *(*)(void *, const char *))loader_symbol(&kept, "dlsym"), .name = name, .caller = caller};

	if (lookup.dlsym == NULL)
		return (struct softmig_answer){1, NULL};
	if (!driver_like(name))
		return (struct softmig_answer){0, (void *)lookup.dlsym};
	return answer(&lookup, handle);
}

struct softmig_answer softmig_entry_dlvsym(void *handle, const char *name, const char *version, const void *caller)
{
	static _Atomic(void *) kept;
	struct lookup lookup = {.dlvsym = (void *(*)(void *, const char *, const char *))loader_symbol(&kept, "dlvsym"),
	                        .name = name,
	                        .version = version,
	                        .caller = caller};

	if (lookup.dlvsym == NULL)
		return (struct softmig_answer){1, NULL};
	if (!driver_like(name) || version == NULL)
		return (struct softmig_answer){0, (void *)lookup.dlvsym};
	return answer(&lookup, handle);
}
