// SPDX-License-Identifier: Apache-2.0
// Memory that several processes hold open: see sharing.h. And IPC handles, by which plain allocations are shared.
#include "preload/sharing.h"

#include <time.h>

#include "preload/block.h"
#include "preload/hook.h"
#include "preload/mode.h"
#include "preload/private.h"
#include "preload/track.h"

// What a fork finds empty: a forked child has nothing open.
struct imports {
	int64_t count, pools; // all, and those that are pools
	uint64_t pool_ns;     // when one was imported last
	_Atomic uint64_t ended, waited;
};

static struct softmig_private imports_lock, private_imports;

uint64_t softmig_exported(uint64_t bytes)
{
	softmig_ledger_export(softmig_ledger_now(), bytes, true);
	return softmig_ledger_clock_ns(CLOCK_MONOTONIC);
}

void softmig_export_ended(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns)
{
	softmig_ledger_pass_on(softmig_ledger_now(), gpu->ledger, bytes, since_ns, false);
	softmig_ledger_export(softmig_ledger_now(), bytes, false);
}

void softmig_pool_memory_ended(struct softmig_gpu *gpu, uint64_t bytes, uint64_t since_ns)
{
	softmig_ledger_pass_on(softmig_ledger_now(), gpu->ledger, bytes, since_ns, true);
	softmig_ledger_export(softmig_ledger_now(), bytes, false);
}

// More or fewer imports; where they cannot be counted, there are some.
static struct imports *count_imports(int change)
{
	struct imports *imports = softmig_private_get(&private_imports, sizeof(*imports));
	int64_t now = imports == NULL ? 1 : (imports->count += change);

	if (change > 0 || now <= 0)
		softmig_ledger_import(softmig_ledger_now(), now > 0);
	if (change < 0 && imports != NULL)
		atomic_fetch_add(&imports->ended, 1);
	return imports;
}

void softmig_import_begins(void)
{
	softmig_private_lock(&imports_lock, 1, 0);
	count_imports(1);
	softmig_private_unlock(&imports_lock, 1, 0);
}

void softmig_import_ended(void)
{
	softmig_private_lock(&imports_lock, 1, 0);
	count_imports(-1);
	softmig_private_unlock(&imports_lock, 1, 0);
}

void softmig_import_of_pool_begins(void)
{
	softmig_private_lock(&imports_lock, 1, 0);
	struct imports *imports = count_imports(1);
	if (imports != NULL) {
		imports->pools++;
		imports->pool_ns = softmig_ledger_clock_ns(CLOCK_MONOTONIC);
	}
	softmig_private_unlock(&imports_lock, 1, 0);
}

void softmig_import_of_pool_ended(void)
{
	softmig_private_lock(&imports_lock, 1, 0);
	struct imports *imports = count_imports(-1);
	if (imports != NULL)
		imports->pools--;
	softmig_private_unlock(&imports_lock, 1, 0);
}

uint64_t softmig_imports_ended(void)
{
	struct imports *imports = softmig_private_get(&private_imports, sizeof(*imports));
	uint64_t ended = imports == NULL ? 0 : atomic_load(&imports->ended);

	return ended == 0 || ended == atomic_load(&imports->waited) ? 0 : ended;
}

void softmig_imports_waited(uint64_t ended)
{
	softmig_private_lock(&imports_lock, 1, 0);
	struct imports *imports = softmig_private_get(&private_imports, sizeof(*imports));
	if (imports != NULL && atomic_load(&imports->ended) == ended && imports->count == imports->pools && imports->count > 0) {
		softmig_ledger_import_last(softmig_ledger_now(), imports->pool_ns);
		atomic_store(&imports->waited, ended);
	}
	softmig_private_unlock(&imports_lock, 1, 0);
}

// ---- IPC handles

// What is exported is marked, so that its end is known to be an export's. Of a small allocation the whole block may live on.
CUresult hook_cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr)
{
	CUresult result = DRIVER(cuIpcGetMemHandle)(pHandle, dptr);
	struct softmig_track_entry entry;
	CUdeviceptr base = dptr;
	size_t bytes = 0;

	if (result != CUDA_SUCCESS)
		return result;
	if (SOFTMIG_HAS(cuMemGetAddressRange_v2) && DRIVER(cuMemGetAddressRange_v2)(&base, &bytes, dptr) != CUDA_SUCCESS)
		base = dptr;
	if (softmig_track_adjust(SOFTMIG_TRACK_POINTER, base, 1, 0, &entry)) {
		if (entry.count == 1)
			softmig_exported(entry.bytes);
	} else if (softmig_block_export(dptr)) {
		softmig_exported(SOFTMIG_BLOCK_BYTES);
	}
	return result;
}

#define OPEN(call) \
	do { \
		softmig_import_begins(); \
		CUresult result = (call); \
		if (result != CUDA_SUCCESS) \
			softmig_import_ended(); \
		return result; \
	} while (0)

CUresult hook_cuIpcOpenMemHandle(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
	OPEN(DRIVER(cuIpcOpenMemHandle)(pdptr, handle, Flags));
}

CUresult hook_cuIpcOpenMemHandle_v2(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags)
{
	OPEN(DRIVER(cuIpcOpenMemHandle_v2)(pdptr, handle, Flags));
}

// The memory may have been this process's last: then it is the driver's again.
CUresult hook_cuIpcCloseMemHandle(CUdeviceptr dptr)
{
	CUresult result = DRIVER(cuIpcCloseMemHandle)(dptr);
	struct softmig_gpu *gpu = result == CUDA_SUCCESS ? softmig_gpu_current() : NULL;

	if (result == CUDA_SUCCESS)
		softmig_import_ended();
	if (gpu != NULL)
		softmig_settle(gpu);
	return result;
}
