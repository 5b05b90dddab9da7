// SPDX-License-Identifier: Apache-2.0
// Where do the driver's functions lie, as this program gets them? doors MODE, names on standard input, one a line.
// MODE passive: every pointer, by dlsym and by cuGetProcAddress (flags 0 and 2), is the driver's own: inside libcuda's
// mapping and exactly its symbol. MODE memory: launches are the driver's own, allocations are not.
#define DRIVER_FUNCTIONS(X) X(cuInit) X(cuGetProcAddress_v2)
#include "check.h"
#include "driver.h"

// Is the pointer the start of the driver's own function, and of the symbol called name?
static bool driver_own(void *pointer, const char *name)
{
	Dl_info info;
	return pointer != NULL && dladdr(pointer, &info) != 0 && strstr(info.dli_fname, "libcuda.so") != NULL && info.dli_saddr == pointer &&
	       (name == NULL || (info.dli_sname != NULL && strcmp(info.dli_sname, name) == 0));
}

static bool in_libcuda_mapping(void *pointer)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];
	bool inside = false;
	while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
		unsigned long from, to;
		if (sscanf(line, "%lx-%lx", &from, &to) == 2 && (unsigned long)pointer >= from && (unsigned long)pointer < to)
			inside = strstr(line, "libcuda.so") != NULL;
	}
	if (maps != NULL)
		fclose(maps);
	return inside;
}

static const char *const launches[] = { "cuLaunchKernel", "cuLaunchKernel_ptsz", "cuLaunchKernelEx", "cuLaunchCooperativeKernel",
	                                "cuEventRecord", "cuMemcpyAsync", "cuStreamQuery" };
static const char *const taken_over[] = { "cuMemAlloc_v2", "cuMemFree_v2", "cuMemGetInfo_v2", "cuDeviceTotalMem_v2", "cuMemAllocAsync" };
#define COUNT(list) (sizeof(list) / sizeof *(list))

int main(int argc, char **argv)
{
	bool passive = argc < 2 || strcmp(argv[1], "passive") == 0;
	driver_open();
	CU(cuInit)(0);
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	if (!passive) {
		for (size_t i = 0; i < COUNT(launches); i++)
			check(driver_own(dlsym(library, launches[i]), launches[i]), launches[i], "the driver's own\t%p", dlsym(library, launches[i]));
		for (size_t i = 0; i < COUNT(taken_over); i++)
			check(!in_libcuda_mapping(dlsym(library, taken_over[i])), taken_over[i], "taken over\t%p", dlsym(library, taken_over[i]));
		return check_failures != 0;
	}
	char name[128], odd[256] = "none";
	int asked = 0, foreign = 0, procs = 0, procs_foreign = 0;
	while (scanf("%127s", name) == 1) {
		void *pointer = dlsym(library, name);
		if (pointer == NULL)
			continue;
		asked++;
		if (!driver_own(pointer, name) || !in_libcuda_mapping(pointer)) {
			foreign++;
			snprintf(odd, sizeof odd, "%s", name);
		}
		for (unsigned flags = 0; flags <= 2; flags += 2) {
			void *answer = NULL;
			char base[128];
			snprintf(base, sizeof base, "%s", name);
			char *tail = strstr(base, "_v");
			if (tail != NULL)
				*tail = '\0';
			if (CU(cuGetProcAddress_v2)(base, &answer, 12000, flags, NULL) != CUDA_SUCCESS || answer == NULL)
				continue;
			procs++;
			procs_foreign += !driver_own(answer, NULL);
		}
	}
	check(asked > 0 && foreign == 0, "passive: dlsym gives the driver's own addresses", "0 of %d foreign\t%d (%s)", asked, foreign, odd);
	check(procs > 0 && procs_foreign == 0, "passive: cuGetProcAddress gives the driver's own addresses", "0 of %d foreign\t%d", procs, procs_foreign);
	return check_failures != 0;
}
