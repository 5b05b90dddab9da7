// SPDX-License-Identifier: Apache-2.0
// The rule of turns; see turn.h. All pages are reckoned with what this process last read of them.
#include "slice/turn.h"

#include <string.h>

#define MS UINT64_C(1000000)
// One round of all wanting jobs, and what one turn of it may last. [H200] A hand-over costs 0.165 ms of GPU time.
#define ROUND_NS (24 * MS)
#define ROUND_PER_JOB_NS (8 * MS)
#define ROUND_MAX_NS (48 * MS)
#define TURN_MIN_NS (3 * MS)
#define TURN_MAX_NS (30 * MS)
// A hold is respected this long after its announced end, and this long in all, whatever the page says.
#define GRACE_NS (MS / 4)
#define HOLD_MAX_NS (40 * MS)
// The time that each job better placed is given to take a turn that has become free.
#define TAKE_UP_NS (MS / 4)
// How long an announced wish stands by itself; whoever waits renews it.
#define WANT_NS (20 * MS)
// Pages that speak of a later moment are damaged.
#define AHEAD_NS (2000 * MS)
// How far a job may be behind the others in virtual time when it comes back, and after a longer pause not at all: idleness
// is not saved up. Nor is it held against anybody for more than that what the others' figures were before.
#define LAG_NS (50 * MS)
#define PAUSE_NS (100 * MS)
// Who held last goes on only if it is behind by more than this, so that two jobs with equal rights alternate.
#define AGAIN_NS (ROUND_NS / 2)
#define VIRTUAL_MAX (UINT64_C(1) << 62)
// Waiting that no weight explains, after which turns are given up for a while, longer each time: enough for a round of
// neighbours whose kernels last 20 ms each.
#define DEPRIVED_NS(weight, others) ((int64_t)(10 * MS + 4 * MS / 10 * (weight) + 3 * MS / 2 * (uint64_t)(others)))
// A long kernel of its own explains so much waiting afterwards.
#define SURPLUS_NS ((int64_t)(20 * MS))
#define PLAIN_MIN_NS (1000 * MS)
#define PLAIN_MAX_NS (64000 * MS)
#define PLAIN_GROWTH 4

static uint64_t load(const _Atomic uint64_t *word)
{
	return atomic_load_explicit(word, memory_order_acquire);
}

static void store(_Atomic uint64_t *word, uint64_t value)
{
	atomic_store_explicit(word, value, memory_order_release);
}

static unsigned valid_pct(uint64_t pct)
{
	return pct >= 1 && pct <= 100 ? (unsigned)pct : 100;
}

void softmig_turn_init(struct softmig_turn_page *page, uint64_t key)
{
	if (load(&page->magic) == SOFTMIG_TURN_MAGIC && load(&page->key) != 0)
		return; // another process of the job was here first
	store(&page->key, key ? key : 1);
	store(&page->magic, SOFTMIG_TURN_MAGIC);
}

static bool sound(const struct softmig_turn_seen *page, uint64_t now_ns)
{
	return page->magic == SOFTMIG_TURN_MAGIC && page->key != 0 && page->pct >= 1 && page->pct <= 100 &&
	       page->want_until_ns < now_ns + AHEAD_NS && page->hold_until_ns < now_ns + AHEAD_NS &&
	       page->virtual_ns < VIRTUAL_MAX;
}

static bool holding(const struct softmig_turn_peer *peer, uint64_t now_ns)
{
	return sound(&peer->page, now_ns) && peer->page.hold_until_ns + GRACE_NS > now_ns && peer->held_since_ns != 0 &&
	       peer->held_since_ns + HOLD_MAX_NS > now_ns;
}

static bool wanting(const struct softmig_turn_peer *peer, uint64_t now_ns)
{
	return sound(&peer->page, now_ns) && peer->page.want_until_ns > now_ns;
}

void softmig_turn_see(struct softmig_turn *turn, int i, const struct softmig_turn_seen *page, uint64_t now_ns)
{
	struct softmig_turn_peer *peer = &turn->peer[i];
	if (peer->page.key != page->key)
		peer->held_since_ns = 0;
	// A hold that ended and began anew between two looks is known by its beginning, as far as that can be true.
	bool anew = page->hold_since_ns > peer->held_since_ns && page->hold_since_ns <= now_ns &&
	            page->turns != peer->page.turns;
	peer->page = *page;
	if (!sound(page, now_ns) || page->hold_until_ns + GRACE_NS <= now_ns)
		peer->held_since_ns = 0;
	else if (peer->held_since_ns == 0)
		peer->held_since_ns = now_ns;
	else if (anew)
		peer->held_since_ns = page->hold_since_ns;
}

int softmig_turn_others(const struct softmig_turn *turn, uint64_t now_ns)
{
	int others = 0;
	for (int i = 0; i < turn->peers; i++)
		others += wanting(&turn->peer[i], now_ns) || holding(&turn->peer[i], now_ns);
	return others;
}

// The job's weight in percent of the GPU among those that want it. Shares that come to more than the whole are levelled: the
// small ones are granted, the rest is divided evenly.
static unsigned weight(const struct softmig_turn *turn, unsigned pct, uint64_t now_ns, unsigned *sum)
{
	unsigned share[SOFTMIG_TURN_PEERS + 1], others = 0;
	int count = 0;
	for (int i = 0; i < turn->peers; i++)
		if (wanting(&turn->peer[i], now_ns) || holding(&turn->peer[i], now_ns)) {
			share[count] = valid_pct(turn->peer[i].page.pct);
			others += share[count++];
		}
	*sum = others + pct;
	if (*sum <= 100)
		return pct;
	if (turn->sum_is_whole && pct < 100) { // then a neighbour claims too much
		*sum = 100;
		return pct;
	}
	*sum = 100;
	share[count++] = pct;
	unsigned left = 100;
	int open = count;
	for (bool changed = true; changed && open > 0;) {
		changed = false;
		unsigned level = left / (unsigned)open;
		for (int i = 0; i < count; i++)
			if (share[i] != 0 && share[i] <= level) {
				if (i == count - 1)
					return pct;
				left -= share[i];
				share[i] = 0;
				open--;
				changed = true;
			}
	}
	return open > 0 && left / (unsigned)open > 0 ? left / (unsigned)open : 1;
}

static uint64_t length_ns(const struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	unsigned sum, mine = weight(turn, pct, now_ns, &sum);
	uint64_t round_ns = (uint64_t)(softmig_turn_others(turn, now_ns) + 1) * ROUND_PER_JOB_NS;
	if (round_ns < ROUND_NS)
		round_ns = ROUND_NS;
	if (round_ns > ROUND_MAX_NS)
		round_ns = ROUND_MAX_NS;
	uint64_t length = round_ns * mine / sum;
	return length < TURN_MIN_NS ? TURN_MIN_NS : length > TURN_MAX_NS ? TURN_MAX_NS : length;
}

static void charge(struct softmig_turn *turn, unsigned pct, uint64_t since_ns, uint64_t end_ns, uint64_t now_ns)
{
	unsigned sum, mine = weight(turn, pct, now_ns, &sum);
	uint64_t virtual_ns = load(&turn->own->virtual_ns);
	if (since_ns < end_ns && end_ns - since_ns < AHEAD_NS)
		virtual_ns += (end_ns - since_ns) * 100 / mine;
	store(&turn->own->virtual_ns, virtual_ns < VIRTUAL_MAX ? virtual_ns : 0);
}

// Ends the hold that was announced until old_ns, accounting for it. Of several processes that try, one does.
static void settle(struct softmig_turn *turn, unsigned pct, uint64_t old_ns, uint64_t end_ns, uint64_t now_ns)
{
	struct softmig_turn_page *own = turn->own;
	uint64_t since_ns = load(&own->hold_since_ns);
	if (!atomic_compare_exchange_strong(&own->hold_until_ns, &old_ns, 0))
		return;
	charge(turn, pct, since_ns, end_ns, now_ns);
	atomic_fetch_add_explicit(&own->turns, 1, memory_order_relaxed);
}

// Says that the job wants to work.
static void want(struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	struct softmig_turn_page *own = turn->own;
	uint64_t wanted_ns = load(&own->want_until_ns);
	store(&own->pct, pct);
	if (wanted_ns <= now_ns || wanted_ns > now_ns + AHEAD_NS) {
		uint64_t least_ns = VIRTUAL_MAX, mine_ns = load(&own->virtual_ns);
		for (int i = 0; i < turn->peers; i++)
			if (wanting(&turn->peer[i], now_ns) && turn->peer[i].page.virtual_ns < least_ns)
				least_ns = turn->peer[i].page.virtual_ns;
		uint64_t lag_ns = wanted_ns + PAUSE_NS > now_ns && least_ns > LAG_NS ? LAG_NS : 0;
		if (least_ns != VIRTUAL_MAX && mine_ns < least_ns - lag_ns)
			store(&own->virtual_ns, least_ns - lag_ns);
		else if (least_ns != VIRTUAL_MAX && mine_ns > least_ns + LAG_NS)
			store(&own->virtual_ns, least_ns + LAG_NS);
		if (load(&own->hold_until_ns) > now_ns + AHEAD_NS)
			store(&own->hold_until_ns, 0);
	}
	store(&own->want_until_ns, now_ns + WANT_NS);
}

// Has this job waited longer than its weight explains, so that somebody is not keeping to the turns?
static bool deprived(struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns > turn->last_ns ? now_ns - turn->last_ns : 0;
	bool paused = passed_ns > WANT_NS; // it was not asking all that time
	if (passed_ns > AHEAD_NS)
		passed_ns = AHEAD_NS;
	unsigned sum, mine = weight(turn, pct, now_ns, &sum);
	uint64_t due = mine * 9ull; // in thousandths: a tenth is what handing over may cost, and what time-slicing does
	if (turn->waited && !paused)
		turn->deprived_ns += (int64_t)(passed_ns * due / 1000);
	else
		turn->deprived_ns -= (int64_t)(passed_ns * (1000 - due) / 1000);
	if (turn->deprived_ns < -SURPLUS_NS)
		turn->deprived_ns = -SURPLUS_NS;
	turn->last_ns = now_ns;
	turn->waited = false;
	if (turn->deprived_ns < DEPRIVED_NS(mine, softmig_turn_others(turn, now_ns)))
		return now_ns < turn->plain_until_ns;
	turn->deprived_ns = 0;
	bool again = turn->plain_until_ns != 0 && now_ns < turn->plain_until_ns + 2 * turn->plain_length_ns + PLAIN_MAX_NS;
	turn->plain_length_ns = again ? turn->plain_length_ns * PLAIN_GROWTH : PLAIN_MIN_NS;
	if (turn->plain_length_ns > PLAIN_MAX_NS)
		turn->plain_length_ns = PLAIN_MAX_NS;
	turn->plain_until_ns = now_ns + turn->plain_length_ns;
	return true;
}

// How many wanting neighbours are better placed than this job would be with so much virtual time.
static int rank(const struct softmig_turn *turn, uint64_t mine_ns, uint64_t now_ns)
{
	uint64_t key = load(&turn->own->key), last_ns = load(&turn->own->hold_since_ns);
	int last = -1, better = 0;
	for (int i = 0; i < turn->peers; i++)
		if (sound(&turn->peer[i].page, now_ns) && turn->peer[i].page.hold_since_ns <= now_ns &&
		    turn->peer[i].page.hold_since_ns > last_ns) {
			last_ns = turn->peer[i].page.hold_since_ns;
			last = i;
		}
	if (last < 0 && last_ns != 0)
		mine_ns += AGAIN_NS;
	for (int i = 0; i < turn->peers; i++) {
		uint64_t theirs_ns = turn->peer[i].page.virtual_ns + (i == last ? AGAIN_NS : 0);
		if (wanting(&turn->peer[i], now_ns) &&
		    (theirs_ns < mine_ns || (theirs_ns == mine_ns && turn->peer[i].page.key < key)))
			better++;
	}
	return better;
}

static bool take(struct softmig_turn *turn, uint64_t old_ns, uint64_t length, uint64_t now_ns)
{
	struct softmig_turn_page *own = turn->own;
	store(&own->hold_since_ns, now_ns);
	// Announced until the end of the turn only when work is submitted; this long it takes to do so.
	uint64_t first_ns = now_ns + (length < 2 * MS ? length : 2 * MS);
	return atomic_compare_exchange_strong(&own->hold_until_ns, &old_ns, first_ns);
}

struct softmig_turn_answer softmig_turn_ask(struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	struct softmig_turn_answer answer = {.verdict = SOFTMIG_TURN_ALONE, .until_ns = now_ns + 2 * MS};
	struct softmig_turn_page *own = turn->own;
	pct = valid_pct(pct);
	answer.others = softmig_turn_others(turn, now_ns);
	if (answer.others == 0) {
		// Shown to whoever comes next, who will not have to wait for a whole turn.
		uint64_t held_ns = load(&own->hold_until_ns);
		want(turn, pct, now_ns);
		if (held_ns != 0)
			charge(turn, pct, load(&own->hold_since_ns), held_ns < now_ns ? held_ns : now_ns, now_ns);
		store(&own->hold_since_ns, now_ns);
		turn->alone = true;
		turn->free_since_ns = 0;
		deprived(turn, pct, now_ns); // also a neighbour who wants only now and then may be a nuisance
		return answer;
	}
	if (deprived(turn, pct, now_ns)) {
		uint64_t old_ns = load(&own->hold_until_ns);
		if (old_ns != 0)
			settle(turn, pct, old_ns, now_ns, now_ns);
		store(&own->want_until_ns, 0);
		turn->free_since_ns = 0;
		answer.verdict = SOFTMIG_TURN_PLAIN;
		return answer;
	}
	want(turn, pct, now_ns);
	uint64_t length = length_ns(turn, pct, now_ns), until_ns = load(&own->hold_until_ns);
	if (until_ns > now_ns) {
		uint64_t since_ns = load(&own->hold_since_ns);
		if (turn->alone)
			length = TURN_MIN_NS;
		answer.verdict = SOFTMIG_TURN_MINE;
		answer.until_ns = since_ns + length;
		turn->free_since_ns = 0;
		if (answer.until_ns > now_ns)
			return answer;
		unsigned sum;
		uint64_t virtual_ns = load(&own->virtual_ns) + (now_ns - since_ns) * 100 / weight(turn, pct, now_ns, &sum);
		if (rank(turn, virtual_ns, now_ns) > 0) {
			answer.verdict = SOFTMIG_TURN_OVER;
			return answer;
		}
		turn->alone = false;
		store(&own->virtual_ns, virtual_ns); // nobody is better placed: another turn, without emptying the GPU
		store(&own->hold_since_ns, now_ns);
		atomic_fetch_add_explicit(&own->turns, 1, memory_order_release);
		answer.until_ns = now_ns + length;
		return answer;
	}
	turn->alone = false;
	if (until_ns != 0)
		settle(turn, pct, until_ns, until_ns, now_ns); // lapsed: the job paused
	uint64_t held_until_ns = 0;
	for (int i = 0; i < turn->peers; i++)
		if (holding(&turn->peer[i], now_ns) && turn->peer[i].page.hold_until_ns + GRACE_NS > held_until_ns)
			held_until_ns = turn->peer[i].page.hold_until_ns + GRACE_NS;
	int better = rank(turn, load(&own->virtual_ns), now_ns);
	if (held_until_ns != 0) {
		turn->free_since_ns = 0;
	} else {
		if (turn->free_since_ns == 0)
			turn->free_since_ns = now_ns;
		held_until_ns = turn->free_since_ns + (uint64_t)better * TAKE_UP_NS;
		if (held_until_ns <= now_ns && take(turn, 0, length, now_ns)) {
			turn->free_since_ns = 0;
			answer.verdict = SOFTMIG_TURN_MINE;
			answer.until_ns = now_ns + length;
			return answer;
		}
	}
	answer.verdict = SOFTMIG_TURN_WAIT;
	answer.free_ns = held_until_ns > GRACE_NS + SOFTMIG_TURN_LINGER_NS ? held_until_ns - GRACE_NS - SOFTMIG_TURN_LINGER_NS : 0;
	answer.until_ns = held_until_ns > now_ns ? held_until_ns : now_ns;
	answer.next = better <= 1;
	turn->waited = true;
	return answer;
}

int softmig_turn_sharers(const struct softmig_turn *turn, uint64_t now_ns)
{
	int sharers = 0;
	for (int i = 0; i < turn->peers; i++) {
		const struct softmig_turn_seen *page = &turn->peer[i].page;
		sharers += sound(page, now_ns) && (page->hold_until_ns > now_ns ||
		           (page->burst_until_ns > now_ns && page->burst_until_ns < now_ns + AHEAD_NS));
	}
	return sharers;
}

bool softmig_turn_is_full(const struct softmig_turn *turn, unsigned pct, uint64_t now_ns)
{
	unsigned sum;
	weight(turn, valid_pct(pct), now_ns, &sum);
	return sum >= 95;
}

unsigned softmig_turn_before(const struct softmig_turn *turn, uint64_t now_ns)
{
	unsigned before = 0;
	for (int i = 0; i < turn->peers; i++)
		if (sound(&turn->peer[i].page, now_ns) && turn->peer[i].page.key < load(&turn->own->key))
			before += (unsigned)turn->peer[i].page.pct;
	return before;
}

void softmig_turn_burst(struct softmig_turn *turn, unsigned pct, uint64_t until_ns, uint64_t now_ns)
{
	store(&turn->own->pct, valid_pct(pct));
	uint64_t old_ns = load(&turn->own->burst_until_ns);
	if (old_ns < until_ns || old_ns > now_ns + AHEAD_NS)
		store(&turn->own->burst_until_ns, until_ns);
}

bool softmig_turn_hold(struct softmig_turn *turn, unsigned pct, uint64_t until_ns, uint64_t now_ns)
{
	struct softmig_turn_page *own = turn->own;
	uint64_t old_ns = load(&own->hold_until_ns);
	(void)pct;
	if (softmig_turn_others(turn, now_ns) == 0) {
		store(&own->hold_until_ns, until_ns);
		return true;
	}
	// Lapsed because the estimate was too short, and nobody has taken the turn: it goes on.
	for (int i = 0; i < turn->peers && old_ns <= now_ns; i++)
		if (holding(&turn->peer[i], now_ns))
			return false;
	// Several processes of the job move it on; the latest end stands.
	while (old_ns != 0 && old_ns < until_ns)
		if (atomic_compare_exchange_weak(&own->hold_until_ns, &old_ns, until_ns))
			return true;
	return old_ns != 0;
}

void softmig_turn_release(struct softmig_turn *turn, unsigned pct, uint64_t keep_ns, uint64_t now_ns)
{
	struct softmig_turn_page *own = turn->own;
	uint64_t old_ns = load(&own->hold_until_ns);
	if (old_ns > now_ns + keep_ns && keep_ns != 0)
		atomic_compare_exchange_strong(&own->hold_until_ns, &old_ns, now_ns + keep_ns);
	else if (old_ns != 0 && keep_ns == 0)
		settle(turn, valid_pct(pct), old_ns, now_ns, now_ns);
}

void softmig_turn_leave(struct softmig_turn *turn, uint64_t now_ns)
{
	if (load(&turn->own->want_until_ns) > now_ns)
		store(&turn->own->want_until_ns, now_ns);
}
