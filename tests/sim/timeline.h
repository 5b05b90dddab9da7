// SPDX-License-Identifier: Apache-2.0
// The GPUs' time: what each has done by now. Nothing runs in the background: whoever asks computes, from where the last
// one stopped, what the hardware would have done since; queues and clocks are in the shared state, so the answer is the
// same for all.
//
// The model: a GPU works for one context at a time, up to slice_ns while others want it too; preempting costs
// switch_ns, passing on when idle idle_switch_ns. Within a context, streams run side by side as long as their kernels
// together fit the GPU (width_ppm), started in the order of submission. Event marks are commands of their context: they
// too wait for its slice. Copies do not. A kernel of a collective keeps its GPU busy like any other, but gets on only while
// those of its other ranks run on other GPUs at the same time (collective.c). All functions: lock held.
#ifndef SOFTMIG_SIM_TIMELINE_H
#define SOFTMIG_SIM_TIMELINE_H
#include "state.h"

#define SIM_FULL_WIDTH 1000000u

// Calls body with `number` for every stream of queue that has something queued.
#define FOR_ACTIVE(queue, number) \
	for (int word_ = 0; word_ < SIM_STREAMS / 64; word_++) \
		for (uint64_t bits_ = (queue)->active[word_]; bits_ != 0; bits_ &= bits_ - 1) \
			for (int number = word_ * 64 + __builtin_ctzll(bits_), once_ = 1; once_; once_ = 0)

// A new context of process slot on gpu, with stream 0 as its legacy default stream. -1: no room.
int sim_timeline_open(int gpu, int slot);
void sim_timeline_close(int context);
// A stream of context; flags SIM_STREAM_*. -1: no room.
int sim_timeline_stream_open(int context, uint32_t flags);
// The stream's number is free again once its work is done.
void sim_timeline_stream_close(int context, int stream);

// Appends a command; ns is its duration, tag what the owner knows it by. Returns its index, *sequence its name; -1: the
// queue is full.
int sim_timeline_submit(
	int context, int stream, enum sim_command_kind kind, uint64_t ns, uint32_t width_ppm, int tag, uint64_t *sequence);
// Appends the kernel of one rank: its context's next collective in the communicator. -2: too many communicators.
int sim_timeline_submit_collective(
	int context, int stream, uint64_t ns, uint32_t width_ppm, uint32_t ranks, uint64_t communicator);
// Appends a wait for another command, which may be of another context.
int sim_timeline_submit_wait(int context, int stream, int on_context, int on_command, uint64_t on_sequence);

// Brings a GPU to the time now, and while there are collectives all GPUs.
void sim_timeline_advance(int gpu, uint64_t now_ns);
// The same before something is submitted: what bringing it there took (after a pause half a millisecond, with looking after the dead) would
// else lie between an event and the kernel behind it.
void sim_timeline_catch_up(int gpu);

// Is this command done? *end_ns (where not NULL and known) is when.
bool sim_timeline_done(int context, int command, uint64_t sequence, uint64_t *end_ns);
// Its owner has read a mark's end, or has done what a host command or a poll asks for.
void sim_timeline_release(int context, int command, uint64_t sequence, uint64_t now_ns);
// At least so long from now until the stream (-1: the whole context) is done with all up to sequence. 0: it is done.
uint64_t sim_timeline_left(int context, int stream, uint64_t sequence);

// After a process was killed in the middle of a change: rebuilds all that is linked from the commands themselves.
void sim_timeline_repair(void);
#endif
