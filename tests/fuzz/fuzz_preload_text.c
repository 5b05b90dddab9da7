// SPDX-License-Identifier: Apache-2.0
// /etc/ld.so.preload with any content: what is added is there, what is removed is not, and adding and removing gives
// back the text, so that nothing of others is lost. The second line of the input's first bytes is the entry.
#include <string.h>

#include "cli/preload_text.h"
#include "fuzz.h"

static int count(const char *text, size_t length) {
	size_t position = 0, start, end, last = 0;
	int entries = 0;
	while (softmig_preload_next(text, length, &position, &start, &end)) {
		CHECK(start >= last && start < end && end <= length && position <= length);
		last = end;
		entries++;
	}
	return entries;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	static const char *const entries[] = {"/var/lib/shared/libsoftmig.so", "/usr/lib/libother.so", "/a"};
	const char *entry = entries[size > 0 ? data[0] % 3 : 0];
	const char *text = size > 0 ? (const char *)data + 1 : "";
	size_t length = size > 0 ? size - 1 : 0, added_length, removed_length;
	CHECK(softmig_preload_can_enter(entry));
	int before = count(text, length);
	bool had = softmig_preload_has(text, length, entry), sane = softmig_preload_is_sane(text, length);
	char *added = softmig_preload_add(text, length, entry, &added_length);
	CHECK(added != NULL && added[added_length] == '\0');
	char *removed = softmig_preload_remove(added, added_length, entry, &removed_length);
	CHECK(removed != NULL && removed[removed_length] == '\0');
	if (sane) {
		CHECK(softmig_preload_has(added, added_length, entry));
		CHECK(!softmig_preload_has(removed, removed_length, entry));
		CHECK(count(added, added_length) == before + (had ? 0 : 1));
		if (had)
			CHECK(added_length == length && memcmp(added, text, length) == 0);
		else
			CHECK(removed_length == length && memcmp(removed, text, length) == 0);
	}
	free(added);
	free(removed);
	return 0;
}
