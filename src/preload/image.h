// SPDX-License-Identifier: Apache-2.0
// What a module will take, told by its image before the driver loads it. Owns: reading cubins, fat binaries and PTX as far as that needs.
// Must never: read beyond what the image's own headers say is there, trust a figure not to overflow.
#ifndef SOFTMIG_PRELOAD_IMAGE_H
#define SOFTMIG_PRELOAD_IMAGE_H
#include <stdbool.h>
#include <stdint.h>

struct softmig_image {
	uint64_t bytes; // code, constants and variables together, not rounded
	bool bound;     // it takes no more than that. False: as much as is known (nothing, or what a compressed image unpacks to)
};

// image: as cuModuleLoadData takes it.
struct softmig_image softmig_image_measure(const void *image);
// The same for a file, as cuModuleLoad takes it. A file that cannot be read: nothing is known.
struct softmig_image softmig_image_measure_file(const char *path);
#endif
