// SPDX-License-Identifier: Apache-2.0
// The gate among neighbours whose pages say anything, at any moment, and with bucket words that the job's own processes
// scribbled on. Nothing may crash or overflow; and what neighbours alone do must not keep a launch waiting for ever:
// the worst that a page can bring about is plain time-slicing, after a while that the job's weight explains.
#include <string.h>

#include "fuzz.h"
#include "fuzz_input.h"
#include "slice/gate.h"

#define MS      UINT64_C(1000000)
#define ACTIONS 48
// turn.c gives up the turns after waiting (10 + 0.4 x weight + 1.5 x others) ms more than the weight explains, reckoned
// at 0.9 % of the time per point of weight: 6.7 s at a weight of 1 beside 32 others. Tokens of a share of 1 % take 0.2
// s more.
#define PATIENCE_NS (12000 * MS)

static struct softmig_turn_page own;
static struct softmig_turn turn;
static struct softmig_gate gate;
static struct softmig_share share;
static uint64_t now_ns;
static unsigned adversary; // how the neighbours behave while a launch waits

// A moment near now, or any word at all.
static uint64_t some_moment(void) {
	unsigned choice = next();
	uint64_t distance = (uint64_t)next() << (choice % 28);
	if (choice >= 240)
		return next_word();
	return choice >= 120 ? now_ns + distance : now_ns > distance ? now_ns - distance : 0;
}

static void rewrite(int place) {
	struct softmig_turn_seen page = turn.peer[place].page;
	page.magic = next() == 255 ? next_word() : SOFTMIG_TURN_MAGIC;
	page.key = next() % 8;
	page.pct = next() % 104;
	page.want_until_ns = some_moment();
	page.hold_since_ns = some_moment();
	page.hold_until_ns = some_moment();
	page.virtual_ns = some_moment();
	page.burst_until_ns = some_moment();
	page.turns += next() % 2;
	softmig_turn_see(&turn, place, &page, now_ns);
}

// What hostile neighbours do again and again, each in its way.
static void disturb(void) {
	for (int i = 0; i < turn.peers; i++) {
		struct softmig_turn_seen page = turn.peer[i].page;
		if (adversary & 1)
			page.want_until_ns = now_ns + 15 * MS;
		if (adversary & 2)
			page.hold_until_ns = now_ns + 5 * MS;
		if (adversary & 4)
			page.hold_since_ns = now_ns;
		if (adversary & 8)
			page.turns++;
		if (adversary & 16)
			page.key ^= 1;
		if (adversary & 32)
			page.virtual_ns = 0;
		if (adversary & 64)
			page.magic = now_ns / MS % 2 == 0 ? SOFTMIG_TURN_MAGIC : 0;
		softmig_turn_see(&turn, i, &page, now_ns);
	}
}

static void launch(unsigned pct, bool patient) {
	struct softmig_gate_ask ask = {
		.now_ns = now_ns, .pct = pct, .borrow = next() % 2 == 0, .estimate_ns = (uint64_t)next() << (next() % 18)};
	uint64_t began_ns = now_ns, drained_ns = now_ns + ((uint64_t)next() << (next() % 16));
	for (unsigned round = 0;; round++) {
		disturb();
		ask.now_ns = now_ns;
		ask.in_flight = drained_ns > now_ns;
		ask.outstanding_ns = ask.in_flight ? drained_ns - now_ns : 0;
		struct softmig_gate_answer answer = softmig_gate_decide(&gate, &share, &turn, &ask);
		uint64_t pct_now = own.pct;
		CHECK(pct_now <= 100);
		if (answer.reason == SOFTMIG_GATE_GO) {
			softmig_gate_bill(&gate, &share, pct, ask.borrow, now_ns, now_ns + ask.estimate_ns,
			                  now_ns + ask.estimate_ns);
			now_ns += ask.estimate_ns;
			return;
		}
		CHECK(answer.reason >= SOFTMIG_GATE_BUDGET && answer.reason <= SOFTMIG_GATE_TURN);
		// Nobody sleeps for long on what others wrote: limits may change meanwhile.
		CHECK(answer.until_ns <= now_ns + 1000 * MS);
		if (patient && now_ns > began_ns + PATIENCE_NS) {
			fprintf(stderr, "still waiting after %llu ms, reason %d\n", (unsigned long long)((now_ns - began_ns) / MS),
			        (int)answer.reason);
			CHECK(now_ns <= began_ns + PATIENCE_NS);
		}
		if (!patient && round > 200)
			return;
		now_ns = answer.until_ns > now_ns + 30000 ? answer.until_ns : now_ns + 30000;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	input = data;
	left = size;
	memset(&turn, 0, sizeof(turn));
	memset(&gate, 0, sizeof(gate));
	memset(&share, 0, sizeof(share));
	memset(&own, 0, sizeof(own));
	now_ns = 1000000 * MS + (uint64_t)next() * MS;
	bool scribbles = next() % 2 == 0;
	unsigned pct = next() % 101;
	adversary = next();
	turn.own = &own;
	turn.peers = (int)(next() % (SOFTMIG_TURN_PEERS + 1));
	turn.sum_is_whole = next() % 2 == 0;
	gate.tag = 7;
	softmig_turn_init(&own, 5);
	for (int action = 0; action < ACTIONS && left > 0; action++) {
		switch (next() % 6) {
		case 0: now_ns += (uint64_t)next() << (next() % 30); break;
		case 1:
			if (turn.peers > 0)
				rewrite((int)(next() % (unsigned)turn.peers));
			break;
		case 2: softmig_gate_drained(&gate, &share, &turn, pct >= 1 && pct <= 100 ? pct : 100, now_ns); break;
		case 3:
			if (scribbles) {
				_Atomic uint64_t *words = (_Atomic uint64_t *)&share;
				words[next() % SOFTMIG_SHARE_WORDS] = next() % 2 == 0 ? some_moment() : next_word();
			}
			break;
		default: launch(pct, !scribbles); break;
		}
		softmig_share_used_permille(&share, now_ns);
		int sharers = softmig_turn_sharers(&turn, now_ns), others = softmig_turn_others(&turn, now_ns);
		CHECK(sharers >= 0 && sharers <= turn.peers && others >= 0 && others <= turn.peers);
	}
	return 0;
}
