// SPDX-License-Identifier: Apache-2.0
// cuGetProcAddress: name, CUDA version and stream kind into the address of an export, as the driver's own versions go.
#include <stdlib.h>
#include <string.h>

#include "sim.h"

enum { LEGACY, PER_THREAD };

// The exports, by address only: here their types do not matter, and many are declared in no header of ours.
#define VERSION(name, version, kind, symbol) extern char address_of_##symbol[] __asm__(#symbol);
#include "proc_versions.def"
#undef VERSION

static const struct entry {
	const char *name;
	int version, kind;
	void *address;
} entries[] = {
#define VERSION(name, version, kind, symbol) {#name, version, kind, address_of_##symbol},
#include "proc_versions.def"
#undef VERSION
};
#define ENTRIES (sizeof(entries) / sizeof(entries[0]))

static const struct entry *first_of(const char *name)
{
	size_t low = 0, high = ENTRIES;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (strcmp(entries[middle].name, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low < ENTRIES && strcmp(entries[low].name, name) == 0 ? &entries[low] : NULL;
}

static CUdriverProcAddressQueryResult look_up(const char *name, int version, bool per_thread, void **address)
{
	int driver = 0;
	cuDriverGetVersion(&driver);
	bool known = false;
	const struct entry *best[2] = {NULL, NULL};
	for (const struct entry *entry = first_of(name); entry != NULL && entry < entries + ENTRIES; entry++) {
		if (strcmp(entry->name, name) != 0)
			break;
		if (entry->version > driver)
			continue; // this driver is older than the function
		known = true;
		if (entry->version <= version && (best[entry->kind] == NULL || best[entry->kind]->version < entry->version))
			best[entry->kind] = entry;
	}
	const struct entry *answer = per_thread && best[PER_THREAD] != NULL ? best[PER_THREAD] : best[LEGACY];
	*address = answer != NULL ? answer->address : NULL;
	if (answer != NULL)
		return CU_GET_PROC_ADDRESS_SUCCESS;
	return known ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
}

CUresult cuGetProcAddress_v2(
	const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags, CUdriverProcAddressQueryResult *symbolStatus)
{
	const cuuint64_t known = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
	if (symbol == NULL || pfn == NULL || (flags & ~known) != 0 || flags == known)
		return CUDA_ERROR_INVALID_VALUE;
	int driver = 0;
	cuDriverGetVersion(&driver);
	if (cudaVersion > driver)
		return CUDA_ERROR_INVALID_VALUE;
	CUdriverProcAddressQueryResult status =
		look_up(symbol, cudaVersion, (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0, pfn);
	if (symbolStatus == NULL) // nobody to read it: CUDA 11's form
		return status == CU_GET_PROC_ADDRESS_SUCCESS ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
	*symbolStatus = status;
	return CUDA_SUCCESS;
}

CUresult cuGetProcAddress(const char *symbol, void **pfn, int cudaVersion, cuuint64_t flags)
{
	return cuGetProcAddress_v2(symbol, pfn, cudaVersion, flags, NULL);
}

CUresult cuGetExportTable(const void **ppExportTable, const CUuuid *pExportTableId)
{
	if (ppExportTable == NULL || pExportTableId == NULL)
		return CUDA_ERROR_INVALID_VALUE;
	*ppExportTable = NULL;
	return CUDA_ERROR_INVALID_VALUE; // as for a table that this driver does not know
}
