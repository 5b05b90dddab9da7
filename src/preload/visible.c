// SPDX-License-Identifier: Apache-2.0
// Which number CUDA gives a GPU of the node: see visible.h. Entries are numbers, or (prefixes of) UUIDs; the list ends at the
// first entry that is neither.
#include "preload/visible.h"

#include <stdbool.h>
#include <string.h>
#include <strings.h>

static bool is_number(const char *entry, size_t length, unsigned int *value)
{
	if (length == 0 || length > 4)
		return false;
	*value = 0;
	for (size_t i = 0; i < length; i++) {
		if (entry[i] < '0' || entry[i] > '9')
			return false;
		*value = *value * 10 + (unsigned int)(entry[i] - '0');
	}
	return true;
}

int softmig_visible_number(const char *visible, unsigned int index, const char *uuid)
{
	if (visible == NULL)
		return (int)index;
	for (int number = 0;; number++) {
		visible += strspn(visible, " ");
		size_t length = strcspn(visible, ", ");
		unsigned int value;
		if (is_number(visible, length, &value)) {
			if (value == index)
				return number;
		} else if (length > 4 && (strncasecmp(visible, "GPU-", 4) == 0 || strncasecmp(visible, "MIG-", 4) == 0)) {
			if (strncasecmp(visible, uuid, length) == 0)
				return number;
		} else {
			return -1;
		}
		visible += length;
		visible += strspn(visible, " ");
		if (*visible != ',')
			return -1;
		visible++;
	}
}
