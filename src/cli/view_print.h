// SPDX-License-Identifier: Apache-2.0
// A slice written down. Owns: the screens of status, list and top, the JSON of status and list. Must never: judge.
#ifndef SOFTMIG_CLI_VIEW_PRINT_H
#define SOFTMIG_CLI_VIEW_PRINT_H
#include "cli/json.h"
#include "cli/view.h"

void softmig_view_print(FILE *out, const struct softmig_view *view);
// status: SOFTMIG_VIEW_OK, or FAILED: then the object says why and has no figures.
void softmig_view_json(struct softmig_json *json, const char *key, enum softmig_view_status status, const struct softmig_view *view);
// Every slice on this node by GPU (list.c). 0, or ENOMEM: some are missing.
int softmig_list_print(FILE *out);
#endif
