// SPDX-License-Identifier: Apache-2.0
// libfirst.so: asks for the next function of its own names, as interposers do. What it gets depends on who is taken for the caller.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

const char *marker(void);
const char *marker(void)
{
	return "first";
}

const char *cuMarkerOfNobody(void);
const char *cuMarkerOfNobody(void)
{
	return "first";
}

static const char *call(void *function)
{
	return function == NULL ? "nothing" : ((const char *(*)(void))function)();
}

const char *first_next(const char *name);
const char *first_next(const char *name)
{
	return call(dlsym(RTLD_NEXT, name));
}

const char *first_next_versioned(const char *name);
const char *first_next_versioned(const char *name)
{
	return call(dlvsym(RTLD_NEXT, name, "LOOKUP_1"));
}
