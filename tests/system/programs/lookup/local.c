// SPDX-License-Identifier: Apache-2.0
// liblocal.so: loaded for itself alone (RTLD_LOCAL); RTLD_DEFAULT finds its functions only where it is taken for the caller.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

void only_local(void);
void only_local(void) {}

int local_finds_itself(void);
int local_finds_itself(void)
{
	return dlsym(RTLD_DEFAULT, "only_local") == (void *)only_local;
}
