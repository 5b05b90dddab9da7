// SPDX-License-Identifier: Apache-2.0
// See series.h. Who is killed while it drops samples leaves some of them twice or out of order: reading leaves those out.
#include "slice/series.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "slice/share.h"

#define SECOND_NS UINT64_C(1000000000)
#define SEEN_NS   UINT64_C(10000000)

enum { LONGEST_S = 1 << 20 };

static uint32_t clipped(uint64_t value)
{
	return value < UINT32_MAX ? (uint32_t)value : UINT32_MAX;
}

static uint32_t count_of(uint64_t taken)
{
	return (uint32_t)taken < SOFTMIG_SERIES_POINTS ? (uint32_t)taken : SOFTMIG_SERIES_POINTS;
}

static uint64_t distance_of(uint64_t taken)
{
	uint64_t distance_s = taken >> 32;
	return distance_s == 0 ? 1 : distance_s < LONGEST_S ? distance_s : LONGEST_S;
}

void softmig_series_add(struct softmig_series *series, const struct softmig_series_point *point)
{
	uint64_t taken = atomic_load_explicit(&series->taken, memory_order_relaxed), distance_s = distance_of(taken);
	uint32_t count = count_of(taken);
	if (count == SOFTMIG_SERIES_POINTS) {
		count /= 2;
		for (uint32_t i = 1; i < count; i++)
			for (int half = 0; half < 2; half++)
				atomic_store_explicit(&series->word[i][half], atomic_load_explicit(&series->word[(size_t)i * 2][half], memory_order_relaxed),
				                      memory_order_relaxed);
		distance_s *= 2;
	}
	atomic_store_explicit(&series->word[count][0], (uint64_t)point->second << 32 | point->used_mib, memory_order_relaxed);
	atomic_store_explicit(&series->word[count][1], (uint64_t)point->busy_ms << 32 | point->throttled_ms, memory_order_relaxed);
	// After the words: who reads the count finds the point.
	atomic_store_explicit(&series->taken, distance_s << 32 | (count + 1), memory_order_release);
}

void softmig_series_sample(struct softmig_ledger *ledger, uint64_t now_ns)
{
	if (ledger->file == NULL)
		return;
	struct softmig_series *series = (struct softmig_series *)ledger->file->series_words;
	if (now_ns - atomic_load_explicit(&series->seen_ns, memory_order_relaxed) > SEEN_NS)
		atomic_store_explicit(&series->seen_ns, now_ns, memory_order_relaxed);
	uint64_t due_ns = atomic_load_explicit(&series->due_ns, memory_order_relaxed);
	uint64_t distance_ns = distance_of(atomic_load_explicit(&series->taken, memory_order_relaxed)) * SECOND_NS;
	// Further off than one distance is damage, or from before a reboot.
	if ((now_ns < due_ns && due_ns - now_ns <= distance_ns) ||
	    !atomic_compare_exchange_strong_explicit(&series->due_ns, &due_ns, now_ns + distance_ns, memory_order_relaxed, memory_order_relaxed))
		return;
	int kept = errno;
	struct timespec now;
	uint64_t used_bytes = 0, busy_ns = 0, throttled_ns = 0, made_ns = atomic_load_explicit(&ledger->file->created_ns, memory_order_relaxed);
	uint8_t uuid[16];
	for (int gpu = 0; gpu < SOFTMIG_MAX_GPUS; gpu++) {
		if (!softmig_ledger_gpu_uuid(ledger->file, gpu, uuid))
			continue;
		const struct softmig_share *share = (const struct softmig_share *)ledger->file->gpu[gpu].share_words;
		used_bytes += softmig_ledger_used(ledger, gpu);
		busy_ns += atomic_load_explicit(&share->busy_ns, memory_order_relaxed);
		throttled_ns += atomic_load_explicit(&share->throttled_ns, memory_order_relaxed);
	}
	clock_gettime(CLOCK_REALTIME, &now);
	uint64_t real_ns = (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
	softmig_series_add(series, &(struct softmig_series_point){
		.second = real_ns > made_ns ? clipped((real_ns - made_ns) / SECOND_NS) : 0,
		.used_mib = clipped(used_bytes >> 20),
		.busy_ms = clipped(busy_ns / 1000000),
		.throttled_ms = clipped(throttled_ns / 1000000),
	});
	errno = kept;
}

bool softmig_series_follows(const struct softmig_series_point *a, const struct softmig_series_point *b)
{
	return b->second > a->second && b->busy_ms >= a->busy_ms && b->throttled_ms >= a->throttled_ms;
}

// Of all that have ended without anybody having looked since, too: they held it until their end.
static uint64_t last_used_bytes(const struct softmig_ledger_file *file)
{
	uint64_t sum = 0;
	for (int i = 0; i < SOFTMIG_LEDGER_SLOTS; i++) {
		const struct softmig_ledger_slot *slot = &file->slot[i];
		for (int gpu = 0; softmig_ledger_slot_pid(slot) > 0 && gpu < SOFTMIG_MAX_GPUS; gpu++)
			if (__builtin_add_overflow(sum, atomic_load_explicit(&slot->use[gpu].tracked_bytes, memory_order_relaxed), &sum) ||
			    __builtin_add_overflow(sum, atomic_load_explicit(&slot->use[gpu].overhead_bytes, memory_order_relaxed), &sum))
				return UINT64_MAX;
	}
	return sum;
}

// Nobody asked for anything since the job was last heard of: it has held since then what its slots say.
static void read_last(const struct softmig_ledger_file *file, const struct softmig_series_point *now, uint64_t now_ns,
                      struct softmig_series_point points[SOFTMIG_SERIES_READ], int *count)
{
	uint64_t seen_ns = atomic_load_explicit(&((const struct softmig_series *)file->series_words)->seen_ns, memory_order_relaxed);
	uint64_t ago_s = (now_ns - seen_ns) / SECOND_NS;
	if (seen_ns == 0 || seen_ns > now_ns || ago_s > now->second)
		return;
	struct softmig_series_point last = *now;
	last.second -= (uint32_t)ago_s;
	last.used_mib = clipped(last_used_bytes(file) >> 20);
	if (*count > 0 && points[*count - 1].second == last.second)
		points[*count - 1].used_mib = last.used_mib;
	else if (*count == 0 || softmig_series_follows(&points[*count - 1], &last))
		points[(*count)++] = last;
}

int softmig_series_read(const struct softmig_ledger_file *file, const struct softmig_series_point *now, uint64_t now_ns,
                        struct softmig_series_point points[SOFTMIG_SERIES_READ])
{
	const struct softmig_series *series = (const struct softmig_series *)file->series_words;
	uint32_t count = count_of(atomic_load_explicit(&series->taken, memory_order_acquire));
	int kept = 0;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t first = atomic_load_explicit(&series->word[i][0], memory_order_relaxed);
		uint64_t second = atomic_load_explicit(&series->word[i][1], memory_order_relaxed);
		points[kept] = (struct softmig_series_point){ (uint32_t)(first >> 32), (uint32_t)first, (uint32_t)(second >> 32), (uint32_t)second };
		if (kept == 0 || softmig_series_follows(&points[kept - 1], &points[kept]))
			kept++;
	}
	read_last(file, now, now_ns, points, &kept);
	while (kept > 0 && !softmig_series_follows(&points[kept - 1], now))
		kept--;
	points[kept++] = *now;
	return kept;
}
