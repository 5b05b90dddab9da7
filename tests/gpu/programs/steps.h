// SPDX-License-Identifier: Apache-2.0
// What each process of a fight did when, in a file that outlives those who are killed: so that what the judge saw outside can be laid
// to somebody's door (../steps.py reads it). Owns: that file, a header of 64 bytes and then a record of 64 bytes for each step.
#ifndef SOFTMIG_TESTS_GPU_STEPS_H
#define SOFTMIG_TESTS_GPU_STEPS_H
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum step_kind { STEP_TAKE, STEP_GIVE, STEP_MARK, STEP_READ, STEP_CONTEXT };

struct step {
	uint64_t begin_ns, end_ns; // CLOCK_MONOTONIC; end 0: killed in it
	uint32_t pid, thread;
	uint32_t kind, way;
	uint64_t bytes;
	int32_t code;
	char unused[20];
};
_Static_assert(sizeof(struct step) == 64, "steps.py counts on it");

#define STEPS_MOST (1u << 20)
struct steps {
	_Atomic uint64_t count;
	uint64_t unused[7];
	struct step step[STEPS_MOST];
};
static struct steps *kept_steps;

static inline uint64_t step_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

// path NULL: nothing is kept.
static inline void steps_open(const char *path)
{
	int file = path == NULL ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (file >= 0 && ftruncate(file, sizeof(struct steps)) == 0)
		kept_steps = mmap(NULL, sizeof(struct steps), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (kept_steps == MAP_FAILED)
		kept_steps = NULL;
	if (file >= 0)
		close(file);
}

static inline struct step *step_begin(enum step_kind kind, int way, uint64_t bytes)
{
	uint64_t index = kept_steps == NULL ? STEPS_MOST : atomic_fetch_add(&kept_steps->count, 1);
	if (index >= STEPS_MOST)
		return NULL;
	struct step *step = &kept_steps->step[index];
	step->pid = (uint32_t)getpid();
	step->thread = (uint32_t)syscall(SYS_gettid);
	step->kind = kind;
	step->way = (uint32_t)way;
	step->bytes = bytes;
	step->begin_ns = step_now_ns();
	return step;
}

static inline void step_end(struct step *step, int code)
{
	if (step == NULL)
		return;
	step->code = code;
	step->end_ns = step_now_ns();
}
#endif
