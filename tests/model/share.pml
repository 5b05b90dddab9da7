// SPDX-License-Identifier: Apache-2.0
// The bucket's concurrent steps (src/slice/share.c) as a model: processes of one job bill their spans on one time line and
// charge one bucket, each load and each compare-and-swap a step of its own, and a killer strikes between any two.
// GPU time is in ticks, the share 100 percent: the rate is arithmetic, and the unit tests' business. Checked by run.sh:
//   once      no tick of GPU time is billed twice, whatever the processes' spans overlap;
//   complete  after a bill, everything up to the span's end is billed;
//   kept      what was charged stays in the bucket, whoever charges at the same time and whoever dies;
//   bounded   a process killed between bill and charge costs its own span, and nothing else;
//   progress  (-DPROGRESS) every call returns.
// Each MUTANT_... is a mistake that must be found.
#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef SPANS
#define SPANS 2 // that each process bills
#endif
#ifndef KILLS
#define KILLS 1
#endif
#ifndef END
#define END 3 // ticks
#endif
#define ALLOWANCE 1

byte now;
byte billed_until, zero; // the words in the file
bool alive[PROCESSES], ended[PROCESSES];
byte kills;

// For the judge only.
bool was_billed[END];
byte charged, lost, owed[PROCESSES];

inline note_billed(from, to) // in atomic
{
	t = from;
	do
	:: t < to -> assert(!was_billed[t]); was_billed[t] = true; t++
	:: else -> break
	od;
	t = 0
}

inline bill()
{
	until = billed_until;
	do
	:: atomic {
			true ->
			start = (until < span_from -> span_from : until);
			new = (span_to > start -> span_to : start);
#ifndef MUTANT_BILL_WITHOUT_SWAP
			if
			:: new == until || billed_until == until ->
#endif
				if
				:: new != until -> billed_until = new
				:: else
				fi;
				busy = (span_to > start -> span_to - start : 0);
				note_billed(start, start + busy);
				owed[me] = busy;
				assert(billed_until >= span_to);
				until = 0; start = 0; new = 0;
				break
#ifndef MUTANT_BILL_WITHOUT_SWAP
			:: else -> until = billed_until
			fi
#endif
		}
	od
}

inline charge()
{
	old = zero;
	do
	:: atomic {
			true ->
			new = (old + ALLOWANCE < since -> since - ALLOWANCE : old) + busy; // what is over the allowance is lost
#ifndef MUTANT_CHARGE_WITHOUT_SWAP
			if
			:: zero == old ->
#endif
				zero = new;
				charged = charged + busy;
				owed[me] = 0;
				assert(zero >= charged); // each charge moved it by at least what it was
				new = 0; old = 0;
				break
#ifndef MUTANT_CHARGE_WITHOUT_SWAP
			:: else -> old = zero
			fi
#endif
		}
	od
}

proctype process(byte me)
{
	byte spans, until, start, new, old, since, busy, t, span_from, span_to, last;
	{
		do
		:: spans < SPANS ->
			atomic { // a span that has just ended on the GPU, after the last one of ours
				span_to = now;
				span_from = last;
				do
				:: span_from < span_to -> span_from++
				:: break
				od;
				last = span_to
			}
			bill();
			since = span_to - busy;
			if
			:: busy > 0 -> charge()
			:: else
			fi;
			atomic { spans++; busy = 0; since = 0; span_from = 0; span_to = 0 }
		:: else -> break
		od;
		ended[me] = true
#if KILLS > 0
	} unless { !alive[me] }
#else
	}
#endif
}

inline kill_one(p)
{
	atomic {
		kills < KILLS && alive[p] && !ended[p] ->
		kills++;
		alive[p] = false;
		lost = lost + owed[p];
		assert(owed[p] <= END);
		owed[p] = 0
	}
}

proctype killer()
{
	do
	:: kill_one(0)
	:: kill_one(1)
#if PROCESSES > 2
	:: kill_one(2)
#endif
	:: break
	od
}

proctype clock()
{
	do
	:: now < END -> now++
	:: else -> break
	od
}

#if PROCESSES > 2
#define ALL_DONE ((ended[0] || !alive[0]) && (ended[1] || !alive[1]) && (ended[2] || !alive[2]))
#else
#define ALL_DONE ((ended[0] || !alive[0]) && (ended[1] || !alive[1]))
#endif

init {
	byte t, total;
	atomic {
		alive[0] = true; alive[1] = true;
		run process(0);
		run process(1);
#if PROCESSES > 2
		alive[2] = true;
		run process(2);
#endif
		run clock();
		run killer()
	}
	ALL_DONE;
	atomic {
		do
		:: t < END -> total = total + was_billed[t]; t++
		:: else -> break
		od;
		assert(charged + lost == total); // every tick billed was charged, but for what the dead still owed
		assert(zero >= charged)
	}
}

#ifdef PROGRESS
ltl every_call_returns { <> (ended[0] && ended[1]) }
#endif
