// SPDX-License-Identifier: Apache-2.0
// Figures as text. Owns: how sizes, times, shares, GPUs and users are written. Must never: be used for what a script reads, UUIDs apart.
#ifndef SOFTMIG_CLI_UNITS_H
#define SOFTMIG_CLI_UNITS_H
#include <stdint.h>
#include <sys/types.h>

struct softmig_text {
	char text[48];
};

struct softmig_text softmig_text_bytes(uint64_t bytes);      // "3.1 GiB"
struct softmig_text softmig_text_duration(uint64_t ns);      // "12.3 s", "4 min 05 s", "3 h 07 min"
struct softmig_text softmig_text_permille(unsigned permille); // "24.9 %"
struct softmig_text softmig_text_uuid(const uint8_t uuid[16]); // "GPU-8-4-4-4-12"
struct softmig_text softmig_text_user(uid_t uid);            // name, else number
#endif
