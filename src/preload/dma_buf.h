// SPDX-License-Identifier: Apache-2.0
// Memory that a dma-buf keeps after its program has freed it.
#ifndef SOFTMIG_PRELOAD_DMA_BUF_H
#define SOFTMIG_PRELOAD_DMA_BUF_H
#include <stdbool.h>

#include "preload/allocation.h"
#include "preload/track.h"

// The POINTER, which the driver has just freed: does an open dma-buf keep its memory? Then it stays charged until that is closed, and its charge is no longer
// the caller's to give back. Between enter and leave of its GPU.
bool softmig_dma_buf_keeps(const struct softmig_track_entry *pointer);
// cuda_vmm.c: is memory of cuMemCreate mapped there?
bool softmig_vmm_is_mapped(uint64_t address);
// What is mapped in the range is held by fd from now on. Outside enter and leave.
void softmig_vmm_export_range(uint64_t address, uint64_t bytes, int fd, struct softmig_ended *ended);
#endif
