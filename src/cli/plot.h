// SPDX-License-Identifier: Apache-2.0
// A job's course in time as a picture. Owns: what is drawn, and running gnuplot for it. Must never: leave half a picture at its place.
#ifndef SOFTMIG_CLI_PLOT_H
#define SOFTMIG_CLI_PLOT_H
#include <stddef.h>
#include <stdio.h>

#include "cli/summary.h"

// Writes a PNG of memory and compute over time to path. 0, else why (one sentence without a full stop).
int softmig_plot(const struct softmig_summary *summary, const char *path, char *why, size_t why_size);
// What gnuplot is told. For softmig_plot and tests.
void softmig_plot_script(const struct softmig_summary *summary, FILE *out);
#endif
