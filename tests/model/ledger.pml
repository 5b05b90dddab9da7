// SPDX-License-Identifier: Apache-2.0
// The ledger's concurrent steps (src/slice/ledger.c, ledger_slot.c) as a model: claim, announce, look, grant, refuse, contend, release,
// reclaim, exec, each shared access a step of its own, and a killer that strikes between any two. Checked by run.sh:
//   safety    what the driver has handed out never passes the limit;
//   justice   a request is refused only if at some instant during it, it did not fit beside what the living had;
//   recovery  when all others are dead or done, a newcomer is granted the whole limit;
//   progress  (-DPROGRESS) with nobody killed and a fair scheduler every request ends, without any time limit of its own.
// -DCOVER: the processes below COVER first make small allocations under cover, of which the driver decides whether they take memory.
// Each MUTANT_... is a mistake that must be found.
#define SLOTS 3
#ifndef PROCESSES // 2 or 3, and one newcomer, number 3, at the end
#define PROCESSES 3
#endif
#ifndef KILLS
#define KILLS 2
#endif
#ifndef LIMIT
#define LIMIT 1
#endif
#ifdef UNEVEN // what process p asks for
#define WANT(p) (1 + (p))
#else
#define WANT(p) 1
#endif

#define FREE 0
#define OWNED 1
#define BUSY 2
#ifdef MUTANT_NO_GENERATION
#define WORD(state, generation, pid) ((state) * 256 + (pid))
#else
#define WORD(state, generation, pid) ((state) * 256 + ((generation) % 16) * 16 + (pid))
#endif
#define STATE(word) ((word) / 256)
#define GENERATION(word) (((word) / 16) % 16)
#define PID(word) ((word) % 16)

// The file.
short owner[SLOTS];
byte pending[SLOTS], used[SLOTS], waiting[SLOTS];
#ifdef COVER
byte cover[SLOTS]; // twice the bytes, and 1 while in use
#endif
byte mark, claims, image[SLOTS];

// The machine: who lives, in which image since its last exec, what the driver has handed out.
bool alive[4], ended[4];
byte image_now[4];
byte held[4], total, kills, clock;

// For the judge only: what the living have charged, what they ask for, and whether that did not fit at some instant.
byte charge[4], charged, want[4];
bool did_not_fit[4];

inline judge() // inside atomic
{
	did_not_fit[0] = did_not_fit[0] || (charged + want[0] > LIMIT);
	did_not_fit[1] = did_not_fit[1] || (charged + want[1] > LIMIT);
	did_not_fit[2] = did_not_fit[2] || (charged + want[2] > LIMIT);
	did_not_fit[3] = did_not_fit[3] || (charged + want[3] > LIMIT)
}

inline lose_everything(p) // inside atomic: the driver frees what a dead or exec'ed process had
{
	total = total - held[p];
	held[p] = 0;
	charged = charged - charge[p];
	charge[p] = 0;
	want[p] = 0
}

#define CAPPED(sum) ((sum) > LIMIT -> LIMIT + 1 : (sum)) // "too much" is all one

#define OLDER(i) (pending[i] > 0 && waiting[i] != 0 && waiting[i] < began && STATE(owner[i]) == OWNED)

#define DEAD(i) (STATE(owner[i]) != FREE && (!alive[PID(owner[i])] || (STATE(owner[i]) == OWNED && image[i] != image_now[PID(owner[i])])))

// take(): the compare-and-swap, then the zeroing. taken tells whether it was ours.
inline take(index)
{
	atomic {
		taken = (owner[index] == word);
		if
		:: taken -> word = WORD(BUSY, GENERATION(word) + 1, me); owner[index] = word
		:: else
		fi
	}
	if
	:: taken ->
#ifndef MUTANT_NO_ZEROING
		pending[index] = 0;
		used[index] = 0;
#ifdef COVER
		cover[index] = 0;
#endif
#endif
		waiting[index] = 0
	:: else
	fi
}

inline discard(index)
{
	take(index);
	atomic {
		if
		:: taken && owner[index] == word -> owner[index] = WORD(FREE, GENERATION(word), 0)
		:: else
		fi
	}
}

// The mark and the count of claims are one word: read together, swapped together.
inline lower_mark()
{
	atomic { seen_mark = mark; seen_claims = claims; i = seen_mark }
	do
	:: atomic { i > 0 && STATE(owner[i - 1]) == FREE -> i-- }
	:: atomic { else -> break }
	od;
	atomic {
		if
#ifdef MUTANT_MARK_WITHOUT_CLAIMS
		:: i < seen_mark && mark == seen_mark -> mark = i
#else
		:: i < seen_mark && mark == seen_mark && claims == seen_claims -> mark = i
#endif
		:: else
		fi;
		seen_mark = 0; seen_claims = 0; i = 0
	}
}

inline sweep()
{
	atomic { freed = false; j = 0 }
	do
	:: atomic { j < mark && (j == slot || !DEAD(j)) -> j++ }
	:: atomic { j < mark && j != slot && DEAD(j) -> word = owner[j] } // judged: from here on others may act
		discard(j);
		atomic { freed = freed || taken; j++ }
	:: atomic { j >= mark -> break }
	od;
	atomic { j = 0; word = 0; taken = false }
	if
	:: freed -> lower_mark()
	:: else
	fi
}

inline claim()
{
	atomic { i = 0; slot = SLOTS }
	do
	:: atomic { slot == SLOTS && i < SLOTS && STATE(owner[i]) == FREE -> word = owner[i] }
		take(i);
		if
		:: taken ->
			image[i] = image_now[me];
#ifndef MUTANT_NO_MARK
			atomic { // raise_mark
				mark = (mark < i + 1 -> i + 1 : mark);
				claims++
			}
#endif
			atomic {
				if
				:: owner[i] == word -> owner[i] = WORD(OWNED, GENERATION(word), me); slot = i
				:: else
				fi
			}
		:: else
		fi
	:: atomic { slot == SLOTS && i < SLOTS && STATE(owner[i]) != FREE -> i++ }
	:: atomic { slot < SLOTS || i == SLOTS -> break }
	od;
	atomic { word = 0; taken = false; i = 0 }
	assert(slot < SLOTS)
}

inline announce()
{
	pending[slot] = pending[slot] + bytes
}

inline withdraw()
{
	pending[slot] = (pending[slot] > bytes -> pending[slot] - bytes : 0)
}

// look(): pending and used are read in two steps; print is the used figures themselves, which the fingerprint stands for.
inline look()
{
	atomic { i = 0; sum_used = 0; sum_pending = 0; print = 0; older = false; top = mark }
	do
	:: atomic {
			i < top ->
#ifdef MUTANT_USED_BEFORE_PENDING
			b = used[i]
#else
			a = pending[i]
#endif
		}
#ifdef COVER
#ifndef MUTANT_COVER_UNSEEN
		atomic { a = a + cover[i] / 2; kept = kept || (cover[i] > 0 && cover[i] % 2 == 0) }
#endif
#endif
		atomic {
#ifdef MUTANT_USED_BEFORE_PENDING
			a = pending[i];
#else
			b = used[i];
#endif
			if
			:: a + b > 0 && STATE(owner[i]) == OWNED ->
				sum_used = CAPPED(sum_used + b);
				sum_pending = CAPPED(sum_pending + a);
				print = print * 4 + b;
				older = older || (pending[i] > 0 && i != slot && waiting[i] != 0 && waiting[i] < began)
			:: else -> print = print * 4
			fi;
			a = 0; b = 0; i++
		}
	:: atomic { i >= top -> break }
	od;
	atomic { top = 0; i = 0 }
}

inline grant()
{
#ifdef MUTANT_PENDING_BEFORE_USED
	withdraw();
	atomic { used[slot] = used[slot] + bytes; charged = charged + bytes; charge[me] = bytes; want[me] = 0; judge() }
#else
	atomic { used[slot] = used[slot] + bytes; charged = charged + bytes; charge[me] = bytes; want[me] = 0; judge() }
	withdraw();
#endif
	granted = true
}

#ifdef COVER
// Takes away all cover that is kept.
inline take_cover()
{
	i = 0;
	do
	:: atomic { i < mark ->
			if
#ifdef MUTANT_COVER_TAKEN_IN_USE
			:: cover[i] > 0 -> cover[i] = 0
#else
			:: cover[i] > 0 && cover[i] % 2 == 0 -> cover[i] = 0
#endif
			:: else
			fi;
			i++
		}
	:: atomic { i >= mark -> break }
	od;
	i = 0
}

// One small allocation: granted tells whether it took memory, which is then charged.
inline small()
{
	atomic {
		granted = (cover[slot] == 2 * bytes); // kept
		cover[slot] = 2 * bytes + 1
	}
	if
	:: granted
	:: else ->
		look();
		atomic { granted = (sum_used + sum_pending <= LIMIT); sum_used = 0; sum_pending = 0; print = 0; older = false; kept = false }
#ifdef MUTANT_COVER_WITHOUT_LOOK
		granted = true
#endif
	fi;
	if
	:: !granted -> cover[slot] = 0
	:: granted -> // it takes memory,
		atomic { total = total + bytes; held[me] = bytes; assert(total <= LIMIT) }
#ifdef MUTANT_COVER_DROPPED_BEFORE_SPENT
		cover[slot] = 0;
#endif
		atomic { used[slot] = used[slot] + bytes; charged = charged + bytes; charge[me] = bytes; judge() }
		cover[slot] = 0
	:: granted -> // or not
		atomic { cover[slot] = 2 * bytes; granted = false }
	fi
}
#endif

inline reserve()
{
	atomic { want[me] = bytes; did_not_fit[me] = false; judge(); granted = false; refused = false; swept = false; began = 0 }
#ifdef MUTANT_LOOK_BEFORE_ANNOUNCE
	look();
	sum_pending = sum_pending + bytes;
	announce();
	if
	:: sum_used + sum_pending <= LIMIT -> grant()
	:: else
	fi;
#else
	announce();
#endif
	do
	:: granted || refused -> break
	:: else ->
		look();
		if
		:: sum_used + sum_pending <= LIMIT -> grant()
		:: sum_used + sum_pending > LIMIT && sum_used + bytes > LIMIT ->
			first = print;
			look();
			if
#ifdef MUTANT_NO_SECOND_LOOK
			:: true ->
#else
			:: sum_used + bytes > LIMIT && print == first ->
#endif
#ifdef MUTANT_NO_SECOND_LOOK
				swept = true;
#endif
				withdraw();
				if
				:: swept -> atomic { refused = true; assert(did_not_fit[me]); want[me] = 0 }
#ifdef MUTANT_NO_SWEEP
				:: else -> swept = true; announce()
#else
				:: else -> sweep(); swept = !freed; freed = false; announce()
#endif
				fi
			:: else
			fi;
			first = 0
#ifdef COVER
		:: sum_used + sum_pending > LIMIT && sum_used + bytes <= LIMIT && kept -> take_cover()
#endif
		:: else -> // only announcements are in the way
			if
			:: began == 0 -> atomic { clock++; began = clock }; waiting[slot] = began
			:: began != 0 && !older ->
				// It stands; the dead among the announcers are looked for now and then.
				if
				:: true -> skip
#if KILLS > 0
				:: (!alive[0] || !alive[1] || !alive[2]) -> withdraw(); sweep(); freed = false; announce()
#endif
				fi
			:: else ->
				withdraw();
#ifndef MUTANT_IMPATIENT
				if
				:: !OLDER(0) && !OLDER(1) && !OLDER(2) // not in an older one's way again
#if KILLS > 0
				:: !alive[0] || !alive[1] || !alive[2] -> sweep(); freed = false // nor waiting for the dead
#endif
				fi;
#endif
				announce()
			fi
		fi;
		atomic {
			sum_used = 0; sum_pending = 0; print = 0; older = false;
#ifdef COVER
			kept = false
#endif
		}
	od;
	if
	:: began != 0 -> waiting[slot] = 0
	:: else
	fi;
	atomic { swept = false; began = 0 }
}

inline release()
{
	atomic { total = total - bytes; held[me] = 0 }
	atomic { used[slot] = (used[slot] > bytes -> used[slot] - bytes : 0); charged = charged - bytes; charge[me] = 0 }
}

proctype process(byte me; byte bytes; bool alone)
{
	short word;
	byte slot, i, j, a, b, top, sum_used, sum_pending, began, seen_mark, seen_claims, life;
	short print, first;
	bool taken, freed, granted, refused, swept, older;
#ifdef COVER
	bool kept;
#endif
	{
#ifdef ADMISSION // the slots are owned from the start, and only the newcomer claims one
		if
		:: me < 3 -> slot = me
		:: else -> claim()
		fi;
#else
		claim();
#endif
#ifdef COVER
		if
		:: me < COVER ->
			small();
			if
			:: granted -> release(); granted = false
			:: else -> // and one more, for which the cover may have been kept
				small();
				if
				:: granted -> release(); granted = false
				:: else
				fi
			fi
		:: else
		fi;
#endif
		do
		:: reserve();
			assert(granted || !alone);
			if
			:: granted ->
				atomic { total = total + bytes; held[me] = bytes } // the driver
				assert(total <= LIMIT)
			:: else
			fi;
#ifdef EXEC
			if
			:: me == 0 && life == 0 -> // another program, which opens the ledger and finds what its former self left
				atomic { lose_everything(me); image_now[me] = 1; granted = false; life = 1 }
				i = 0;
				do
				:: atomic { i < mark && STATE(owner[i]) == OWNED && PID(owner[i]) == me -> word = owner[i] }
					discard(i);
					i++
				:: atomic { i < mark && !(STATE(owner[i]) == OWNED && PID(owner[i]) == me) -> i++ }
				:: atomic { i >= mark -> break }
				od;
				atomic { word = 0; i = 0; taken = false }
				claim();
				goto next_life
			:: else
			fi;
#endif
			if
			:: granted -> release(); granted = false
			:: else
			fi;
			break;
next_life:		skip
		od;
		word = owner[slot]; // close
		discard(slot);
#ifndef ADMISSION
		lower_mark();
#endif
		ended[me] = true
#if KILLS > 0
	} unless { !alive[me] }
#else // without unless, so that spin can leave out orders that make no difference
	}
#endif
}

proctype killer()
{
	do
	:: kills < KILLS ->
		atomic {
			kills++;
			if
			:: alive[0] && !ended[0] -> alive[0] = false; lose_everything(0)
			:: else
			fi
		}
	:: kills < KILLS ->
		atomic {
			kills++;
			if
			:: alive[1] && !ended[1] -> alive[1] = false; lose_everything(1)
			:: else
			fi
		}
	:: kills < KILLS ->
		atomic {
			kills++;
			if
			:: alive[2] && !ended[2] -> alive[2] = false; lose_everything(2)
			:: else
			fi
		}
	:: break
	od
}

init {
	atomic {
		alive[0] = true; alive[1] = true; alive[2] = true; alive[3] = true;
		run process(0, WANT(0), false);
		run process(1, WANT(1), false);
#if PROCESSES > 2
		run process(2, WANT(2), false);
#else
		ended[2] = true;
#endif
#ifdef ADMISSION
		owner[0] = WORD(OWNED, 0, 0); owner[1] = WORD(OWNED, 0, 1); mark = PROCESSES;
		if
		:: PROCESSES > 2 -> owner[2] = WORD(OWNED, 0, 2)
		:: else
		fi;
#endif
		run killer()
	}
	(ended[0] || !alive[0]) && (ended[1] || !alive[1]) && (ended[2] || !alive[2]);
	run process(3, LIMIT, true)
}

#ifdef PROGRESS
ltl every_request_ends { <> (ended[0] && ended[1] && ended[2] && ended[3]) }
#endif
