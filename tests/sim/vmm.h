// SPDX-License-Identifier: Apache-2.0
// Physical memory by handle, and multicast objects, which are handles too. sim_enter held in all calls but
// sim_vmm_make.
#ifndef SOFTMIG_SIM_VMM_H
#define SOFTMIG_SIM_VMM_H
#include "sim.h"

#define SIM_VMM_MAGIC 0x564d4d48u

// A piece of memory that a multicast object or a sparse array has bound: it lives at least as long.
struct sim_vmm_binding {
	struct sim_vmm_binding *next;
	struct sim_vmm *memory;
	uint64_t offset, bytes; // within the multicast object
};

struct sim_vmm {
	uint32_t magic;
	unsigned references, mappings; // handles given out; mappings and bindings
	int device;                    // ordinal, -1: host memory or a multicast object
	uint64_t bytes;
	int fd;
	uint64_t offset;
	bool own_fd; // a file of its own, so that it can be exported
	int shared_block;
	bool original; // made by cuMemCreate, not imported
	CUmemAllocationProp properties;
	bool multicast;
	unsigned devices_wanted, devices; // of a multicast object: how many it is for, those added (a bit each)
	struct sim_vmm_binding *bindings;
	struct sim_vmm *next_spare;
};

struct sim_vmm *sim_vmm_of(CUmemGenericAllocationHandle value); // NULL: not a handle
struct sim_vmm *sim_vmm_make(const CUmemAllocationProp *properties, uint64_t bytes);
void sim_vmm_let_go(struct sim_vmm *handle); // frees it where nothing refers to it any more
struct sim_vmm *sim_vmm_at(uint64_t address); // what is mapped there
void sim_multicast_unbind_all(struct sim_vmm *handle);
#endif
