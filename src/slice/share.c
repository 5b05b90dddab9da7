// SPDX-License-Identifier: Apache-2.0
// The bucket; see share.h for what it means. Every word stands for itself, so relaxed order suffices throughout: no word
// tells that another is ready.
#include "slice/share.h"

#define SECOND_NS UINT64_C(1000000000)
// A moment further ahead than this was not written by a process of this boot.
#define AHEAD_NS (2 * SECOND_NS)
// A mark this long past is that of a process which died, or of one whose clock does not matter any more.
#define STALE_NS SECOND_NS
// A process that has waited for its work longer than this may as well be dead.
#define UNREVOKED_NS (10 * SECOND_NS)
#define MARK_US_MASK ((UINT64_C(1) << 48) - 1)

static unsigned valid_pct(unsigned pct)
{
	return pct >= 1 && pct <= 100 ? pct : 100;
}

// GPU time bought by so much waiting, and the reverse. Both stay far below 2^63 for what the callers clamp.
static int64_t earned(int64_t wait_ns, unsigned pct)
{
	return wait_ns / 100 * (int64_t)pct + wait_ns % 100 * (int64_t)pct / 100;
}

static int64_t price(int64_t busy_ns, unsigned pct)
{
	return busy_ns * 100 / (int64_t)pct;
}

// Tokens in a bucket word, clamped to what can be true.
static int64_t tokens_in(uint64_t word, uint64_t now_ns, int64_t allowance_ns)
{
	unsigned pct = (unsigned)(word & 127);
	if (word == 0 || pct < 1 || pct > 100)
		return allowance_ns;
	int64_t wait_ns = (int64_t)now_ns - (int64_t)(word >> 7);
	if (wait_ns < price(-SOFTMIG_SHARE_DEBT_NS, pct))
		return 0;
	if (wait_ns > price(allowance_ns, pct))
		return allowance_ns;
	return earned(wait_ns, pct);
}

int64_t softmig_share_tokens(const struct softmig_share *share, unsigned pct, uint64_t now_ns, int64_t allowance_ns)
{
	(void)pct; // tokens are GPU time: they keep their worth when the share changes
	return tokens_in(atomic_load_explicit(&share->bucket, memory_order_relaxed), now_ns, allowance_ns);
}

void softmig_share_charge(struct softmig_share *share, unsigned pct, uint64_t busy_ns, uint64_t since_ns, int64_t allowance_ns, int64_t debt_ns)
{
	pct = valid_pct(pct);
	if (busy_ns > (uint64_t)SOFTMIG_SHARE_DEBT_NS)
		busy_ns = (uint64_t)SOFTMIG_SHARE_DEBT_NS;
	uint64_t old = atomic_load_explicit(&share->bucket, memory_order_relaxed);
	for (;;) {
		int64_t tokens = tokens_in(old, since_ns, allowance_ns) - (int64_t)busy_ns;
		if (tokens < -debt_ns)
			tokens = -debt_ns;
		int64_t zero_ns = (int64_t)since_ns - price(tokens, pct);
		uint64_t new = ((uint64_t)(zero_ns > 0 ? zero_ns : 1) << 7) | pct;
		// Reckoned in the same share and within the allowance: move the zero exactly, without rounding it through tokens.
		if ((old & 127) == pct && tokens + (int64_t)busy_ns < allowance_ns && tokens > -debt_ns
		    && (int64_t)(old >> 7) - (int64_t)since_ns <= price(SOFTMIG_SHARE_DEBT_NS, pct))
			new = (((old >> 7) + (uint64_t)price((int64_t)busy_ns, pct)) << 7) | pct;
		if (new == old || atomic_compare_exchange_weak_explicit(&share->bucket, &old, new, memory_order_relaxed,
		                                                       memory_order_relaxed))
			return;
	}
}

uint64_t softmig_share_when(const struct softmig_share *share, unsigned pct, uint64_t now_ns, int64_t tokens_ns)
{
	int64_t missing_ns = tokens_ns - softmig_share_tokens(share, pct, now_ns, tokens_ns > 0 ? tokens_ns : 0);
	return missing_ns > 0 ? now_ns + (uint64_t)price(missing_ns, valid_pct(pct)) + 1 : now_ns;
}

uint64_t softmig_share_others(const struct softmig_share *share, unsigned tag, uint64_t now_ns)
{
	uint64_t latest_ns = 0;
	for (int i = 0; i < SOFTMIG_SHARE_MARKS; i++) {
		uint64_t mark = atomic_load_explicit(&share->mark[i], memory_order_relaxed);
		uint64_t until_ns = (mark & MARK_US_MASK) * 1000;
		if (mark == 0 || mark >> 48 == tag || until_ns > now_ns + AHEAD_NS)
			continue;
		if (until_ns > latest_ns)
			latest_ns = until_ns;
	}
	return latest_ns;
}

uint64_t softmig_share_bill(struct softmig_share *share, unsigned tag, uint64_t from_ns, uint64_t to_ns, uint64_t now_ns)
{
	if (to_ns > now_ns)
		to_ns = now_ns;
	if (from_ns > to_ns)
		from_ns = to_ns;
	uint64_t others_ns = softmig_share_others(share, tag, now_ns);
	uint64_t until_ns = atomic_load_explicit(&share->billed_until_ns, memory_order_relaxed);
	for (;;) {
		uint64_t start_ns = until_ns; // what is billed begins here
		if (until_ns == 0 || until_ns > now_ns + AHEAD_NS)
			start_ns = from_ns;
		uint64_t billed_ns = 0;
		if (start_ns < from_ns) { // a pause, unless another process was working
			if (others_ns > start_ns)
				billed_ns = (others_ns < from_ns ? others_ns : from_ns) - start_ns;
			start_ns = from_ns;
		}
		if (to_ns > start_ns)
			billed_ns += to_ns - start_ns;
		uint64_t new_ns = to_ns > start_ns ? to_ns : start_ns;
		if (new_ns == until_ns
		    || atomic_compare_exchange_weak_explicit(&share->billed_until_ns, &until_ns, new_ns, memory_order_relaxed,
		                                             memory_order_relaxed))
			return billed_ns;
	}
}

void softmig_share_count(struct softmig_share *share, uint64_t busy_ns, uint64_t throttled_ns, uint64_t now_ns)
{
	if (throttled_ns)
		atomic_fetch_add_explicit(&share->throttled_ns, throttled_ns, memory_order_relaxed);
	if (!busy_ns)
		return;
	atomic_fetch_add_explicit(&share->busy_ns, busy_ns, memory_order_relaxed);
	uint64_t second = now_ns / SECOND_NS;
	_Atomic uint64_t *word = &share->second[second % SOFTMIG_SHARE_SECONDS];
	uint64_t old = atomic_load_explicit(word, memory_order_relaxed), new;
	do {
		uint64_t busy_us = (old >> 32 == (second & UINT32_MAX) ? old & UINT32_MAX : 0) + (busy_ns + 500) / 1000;
		new = (second << 32) | (busy_us < UINT32_MAX ? busy_us : UINT32_MAX);
	} while (!atomic_compare_exchange_weak_explicit(word, &old, new, memory_order_relaxed, memory_order_relaxed));
}

bool softmig_share_mark(struct softmig_share *share, unsigned tag, uint64_t until_ns, uint64_t now_ns)
{
	uint64_t new = until_ns ? ((uint64_t)tag << 48) | ((until_ns + 999) / 1000 & MARK_US_MASK) : 0;
	int vacant = -1;
	for (int i = 0; i < SOFTMIG_SHARE_MARKS; i++) {
		uint64_t mark = atomic_load_explicit(&share->mark[i], memory_order_relaxed);
		if (mark >> 48 == tag && mark) {
			atomic_store_explicit(&share->mark[i], new, memory_order_relaxed);
			return true;
		}
		uint64_t until_seen_ns = (mark & MARK_US_MASK) * 1000;
		if (vacant < 0 && (mark == 0 || until_seen_ns + STALE_NS < now_ns || until_seen_ns > now_ns + 60 * SECOND_NS))
			vacant = i;
	}
	if (!new)
		return true;
	if (vacant < 0)
		return false;
	uint64_t old = atomic_load_explicit(&share->mark[vacant], memory_order_relaxed);
	// Lost to another process at the same moment: this one has its place at its next call, a millisecond or two from now.
	return atomic_compare_exchange_strong_explicit(&share->mark[vacant], &old, new, memory_order_relaxed,
	                                               memory_order_relaxed);
}

void softmig_share_expect(struct softmig_share *share, uint64_t due_ns)
{
	atomic_store_explicit(&share->due_ns, due_ns, memory_order_relaxed);
}

uint64_t softmig_share_due(const struct softmig_share *share)
{
	return atomic_load_explicit(&share->due_ns, memory_order_relaxed);
}

bool softmig_share_works(const struct softmig_share *share, uint64_t now_ns)
{
	for (int i = 0; i < SOFTMIG_SHARE_MARKS; i++) {
		uint64_t until_ns = (atomic_load_explicit(&share->mark[i], memory_order_relaxed) & MARK_US_MASK) * 1000;
		if (until_ns != 0 && until_ns < now_ns + AHEAD_NS && now_ns < until_ns + UNREVOKED_NS)
			return true;
	}
	return false;
}

unsigned softmig_share_used_permille(const struct softmig_share *share, uint64_t now_ns)
{
	uint64_t second = now_ns / SECOND_NS, busy_us = 0;
	const unsigned span = 5;
	for (unsigned back = 1; back <= span && back <= second; back++) {
		uint64_t word = atomic_load_explicit(&share->second[(second - back) % SOFTMIG_SHARE_SECONDS], memory_order_relaxed);
		uint64_t us = word & UINT32_MAX;
		if (word >> 32 == ((second - back) & UINT32_MAX))
			busy_us += us < 1000000 ? us : 1000000;
	}
	return (unsigned)((busy_us + span * 500ull) / (span * 1000ull));
}
