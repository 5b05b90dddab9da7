// SPDX-License-Identifier: Apache-2.0
// A program with functions of its own called dlsym and cuMemAlloc_v2: its own count, whatever is preloaded.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int cuMemAlloc_v2(void *pointer, unsigned long bytes);
int cuMemAlloc_v2(void *pointer, unsigned long bytes)
{
	(void)pointer;
	return (int)bytes;
}

static int asked;

void *dlsym(void *restrict handle, const char *restrict name)
{
	asked++;
	return strcmp(name, "of its own") == 0 ? &asked : dlvsym(handle, name, "GLIBC_2.2.5");
}

int main(void)
{
	void *own = dlsym(RTLD_DEFAULT, "of its own");
	void *of_libc = dlsym(RTLD_DEFAULT, "getpid");
	int (*through)(void *, unsigned long) = (__typeof__(through))dlvsym(RTLD_DEFAULT, "cuMemAlloc_v2", "GLIBC_2.2.5");
	printf("asked %d, own %d, libc's %d, cuMemAlloc %d, versioned %d\n", asked, own == &asked, of_libc != NULL, cuMemAlloc_v2(NULL, 7), through != NULL);
	return 0;
}
