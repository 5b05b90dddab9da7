// SPDX-License-Identifier: Apache-2.0
// Estimates; see estimate.h. Races lose a sample at worst.
#include "preload/estimate.h"

#include <stdatomic.h>

enum { PLACES = 4096, PROBES = 8 };
// 100 s: what fits the word below.
#define LONGEST_NS UINT64_C(100000000000)

struct softmig_estimate {
	_Atomic uint64_t key;
	_Atomic uint64_t value; // ns << 1 | measured
};

static struct softmig_estimate table[PLACES];

struct softmig_estimate *softmig_estimate_find(uint64_t key)
{
	uint64_t hash = key * 0x9e3779b97f4a7c15ull >> 40;
	struct softmig_estimate *entry = &table[hash % PLACES];
	if (atomic_load_explicit(&entry->key, memory_order_relaxed) == key)
		return entry;
	for (unsigned i = 0; i < PROBES; i++) {
		uint64_t seen = 0;
		entry = &table[(hash + i) % PLACES];
		if (atomic_load_explicit(&entry->key, memory_order_relaxed) == key ||
		    atomic_compare_exchange_strong_explicit(&entry->key, &seen, key, memory_order_relaxed, memory_order_relaxed) ||
		    seen == key)
			return entry;
	}
	entry = &table[(hash + (key >> 4) % PROBES) % PLACES];
	atomic_store_explicit(&entry->value, 0, memory_order_relaxed);
	atomic_store_explicit(&entry->key, key, memory_order_relaxed);
	return entry;
}

uint64_t softmig_estimate_ns(const struct softmig_estimate *estimate, bool *known)
{
	uint64_t value = atomic_load_explicit(&estimate->value, memory_order_relaxed);
	*known = value & 1;
	return value & 1 ? value >> 1 : SOFTMIG_ESTIMATE_UNKNOWN_NS;
}

void softmig_estimate_learn(struct softmig_estimate *estimate, uint32_t count, uint64_t part_ns, uint64_t expected_ns, uint64_t actual_ns, bool shrinks)
{
	bool known;
	uint64_t old_ns = softmig_estimate_ns(estimate, &known), new_ns;
	if (actual_ns > LONGEST_NS || expected_ns == 0 || count == 0)
		return;
	if (!known) {
		// The others in the batch are taken at their word; what is left is this one's, at least its part by count.
		uint64_t others_ns = expected_ns - (expected_ns < old_ns * count ? expected_ns : old_ns * count);
		new_ns = (actual_ns > others_ns ? actual_ns - others_ns : actual_ns / 16) / count;
	} else {
		// Every command of the batch was off by the same factor, when it was submitted: since then others may have been learned from that were
		// submitted at the same time. Half of it is believed.
		uint64_t permille = actual_ns * 1000 / expected_ns;
		permille = permille < 125 ? 125 : permille > 8000 ? 8000 : permille;
		new_ns = old_ns / 2 + part_ns / count * permille / 2000;
		if (shrinks && new_ns > old_ns)
			return;
	}
	if (new_ns < 500)
		new_ns = 500;
	if (new_ns > LONGEST_NS)
		new_ns = LONGEST_NS;
	atomic_store_explicit(&estimate->value, new_ns << 1 | 1, memory_order_relaxed);
}
