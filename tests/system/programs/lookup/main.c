// SPDX-License-Identifier: Apache-2.0
// Prints what callers in three libraries find by dlsym and dlvsym. lookup LIBLOCAL
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

const char *first_next(const char *name);
const char *first_next_versioned(const char *name);
const char *marker(void);

const char *marker(void)
{
	return "main";
}

int main(int argc, char **argv)
{
	const char *(*next)(void) = (const char *(*)(void))dlsym(RTLD_NEXT, "marker");
	void *local = dlopen(argv[argc - 1], RTLD_NOW | RTLD_LOCAL);
	int (*finds_itself)(void) = (int (*)(void))dlsym(local, "local_finds_itself");
	printf("after main: %s\n", next != NULL ? next() : "nothing");
	printf("after first: %s\n", first_next("marker"));
	printf("after first, of a version: %s\n", first_next_versioned("marker"));
	printf("after first, named like the driver's: %s\n", first_next("cuMarkerOfNobody"));
	printf("after first, named like the driver's, of a version: %s\n", first_next_versioned("cuMarkerOfNobody"));
	printf("after first, a name of the driver's: %s\n", first_next("cuInit"));
	printf("local, by default: %d\n", finds_itself != NULL && finds_itself());
	printf("main, by default: %d\n", dlsym(RTLD_DEFAULT, "only_local") != NULL);
	return 0;
}
