// SPDX-License-Identifier: Apache-2.0
// A GPU program of a given kind, for bench/share: launches kernels of known length and tells how much work was done in each second.
// It knows nothing of slices. Kernels are loops of a calibrated number of steps, so that being preempted does not shorten
// them; on the simulated driver they are kernels named after their length.
//
//   share_work KIND US SECONDS [START]
//
// KIND: plain mix graph streams streams-few coop launch (nothing but short launches) part (30 % busy) infer (requests of four kernels with
//       pauses, 40 % busy) pdl (programmatic dependent launches in pieces of 2 ms) pdl-all (nothing but dependent launches)
//       loader (each kernel waits for a copy of 64 MiB, 8 on the simulated driver, in another stream, as a program has it that loads data beside its work)
//       small (one kernel every 50 ms) single (one small kernel and a pause, by the hundred).
// START: CLOCK_MONOTONIC in ns at which to begin, or "-": say "ready" and read it from standard input.
// SHARE_WORK_SLOT_MS=MS with SHARE_WORK_PHASE=0|1: single commands, or launches without end, only in every second slot, for two programs by turns.
// Output: "steps_per_ns" as calibrated, "window I US" for each full second the GPU time's worth of kernels done in it, "total US
// SECONDS", "latency MEDIAN_NS P99_NS COUNT" where single commands are timed, "round I MEDIAN_NS P99_NS COUNT" for each slot,
// "intact 1" if dependent kernels ran whole and in order. Status 77: this GPU or driver cannot do it.
#include <math.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

#define DRIVER_FUNCTIONS(X) \
	X(cuInit) X(cuDeviceGet) X(cuDeviceGetAttribute) X(cuDevicePrimaryCtxRetain) X(cuCtxSetCurrent) X(cuCtxSynchronize) \
	X(cuModuleLoadData) X(cuModuleGetFunction) X(cuLaunchKernel) X(cuLaunchCooperativeKernel) X(cuStreamCreate) \
	X(cuStreamSynchronize) X(cuEventCreate) X(cuEventRecord) X(cuEventSynchronize) X(cuEventElapsedTime) X(cuStreamBeginCapture_v2) \
	X(cuStreamEndCapture) X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuLaunchKernelEx) X(cuMemAlloc_v2) X(cuMemsetD8_v2) \
	X(cuMemcpyDtoH_v2) X(cuMemHostAlloc) X(cuMemcpyHtoDAsync_v2) X(cuStreamWaitEvent)
#include "../tests/gpu/programs/driver.h"

enum { STREAMS = 8, GRAPH = 20, RING = 16, QUEUE = 4, WINDOWS = 256, LATENCIES = 1 << 16, LOADED = 64 << 20 };

static const char ptx[] =
	".version 6.0\n.target sm_60\n.address_size 64\n"
	".visible .entry work(.param .u64 steps)\n{\n"
	"	.reg .u64 %n;\n	.reg .u32 %x;\n	.reg .pred %p;\n"
	"	ld.param.u64 %n, [steps];\n	mov.u32 %x, %tid.x;\n"
	"again:\n"
	"	mad.lo.u32 %x, %x, 1664525, 1013904223;\n	mad.lo.u32 %x, %x, 1664525, 1013904223;\n"
	"	mad.lo.u32 %x, %x, 1664525, 1013904223;\n	mad.lo.u32 %x, %x, 1664525, 1013904223;\n"
	"	sub.u64 %n, %n, 1;\n	setp.ne.u64 %p, %n, 0;\n	@%p bra again;\n"
	"	setp.ne.u32 %p, %x, 12345;\n	@%p bra done;\n	trap;\n" // %x is never 12345 for the seeds used, but the compiler does not know
	"done:\n	ret;\n}\n";

// Each block finds what the kernel before it left, or counts an error: a kernel that ran before its turn, not at all or
// twice shows.
static const char chained_ptx[] =
	".version 7.8\n.target sm_90\n.address_size 64\n"
	".visible .entry chained(.param .u64 steps, .param .u64 number, .param .u64 buffer)\n{\n"
	"	.reg .u64 %n, %k, %base, %at, %seen;\n	.reg .u32 %x, %b;\n	.reg .pred %p, %first, %wrong;\n"
	"	griddepcontrol.wait;\n"
	"	ld.param.u64 %n, [steps];\n	ld.param.u64 %k, [number];\n	ld.param.u64 %base, [buffer];\n"
	"	cvta.to.global.u64 %base, %base;\n	mov.u32 %b, %ctaid.x;\n	mad.wide.u32 %at, %b, 8, %base;\n	add.u64 %at, %at, 8;\n"
	"	mov.u32 %x, %tid.x;\n	setp.eq.u32 %first, %x, 0;\n	mov.u64 %seen, %k;\n"
	"	@%first ld.volatile.global.u64 %seen, [%at];\n"
	"again:\n"
	"	mad.lo.u32 %x, %x, 1664525, 1013904223;\n	mad.lo.u32 %x, %x, 1664525, 1013904223;\n"
	"	mad.lo.u32 %x, %x, 1664525, 1013904223;\n	mad.lo.u32 %x, %x, 1664525, 1013904223;\n"
	"	sub.u64 %n, %n, 1;\n	setp.ne.u64 %p, %n, 0;\n	@%p bra again;\n"
	"	setp.ne.u32 %p, %x, 12345;\n	@%p bra done;\n	trap;\n"
	"done:\n"
	"	griddepcontrol.launch_dependents;\n"
	"	setp.ne.u64 %wrong, %seen, %k;\n	@%wrong red.global.add.u64 [%base], 1;\n"
	"	add.u64 %k, %k, 1;\n	@%first st.volatile.global.u64 [%at], %k;\n	ret;\n}\n";

static bool simulated;
static CUmodule module;
static CUfunction work;
static CUstream stream[STREAMS];
static unsigned blocks;
static double steps_per_ns = 0.1;
static bool told; // the moment to begin is told on standard input
static CUfunction chained;
static CUdeviceptr chain; // errors, then the number of kernels that each block has seen
static uint64_t links;

static uint64_t clock_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t until_ns)
{
	struct timespec time = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

// Everything is warm: wait for the moment to begin.
static void begin_at(uint64_t start_ns)
{
	if (told) {
		char line[64] = "";
		printf("ready\n");
		fflush(stdout);
		if (fgets(line, sizeof line, stdin) != NULL)
			start_ns = strtoull(line, NULL, 10);
	}
	if (start_ns > clock_ns())
		sleep_until(start_ns);
}

struct kernel {
	CUfunction function;
	uint64_t steps;
	double us;
};

static struct kernel kernel_of(double us)
{
	struct kernel kernel = {.function = work, .steps = (uint64_t)fmax(1, us * 1000 * steps_per_ns), .us = us};
	if (simulated) {
		char name[64];
		snprintf(name, sizeof name, "spin_%uus", (unsigned)us);
		CHECK(CU(cuModuleGetFunction)(&kernel.function, module, name));
	}
	return kernel;
}

static void launch(const struct kernel *kernel, CUstream on)
{
	uint64_t steps = kernel->steps;
	void *params[] = {&steps};
	CHECK(CU(cuLaunchKernel)(kernel->function, blocks, 1, 1, 128, 1, 1, 0, on, simulated ? NULL : params, NULL));
}

static void launch_cooperative(const struct kernel *kernel, CUstream on)
{
	uint64_t steps = kernel->steps;
	void *params[] = {&steps};
	CHECK(CU(cuLaunchCooperativeKernel)(kernel->function, blocks, 1, 1, 128, 1, 1, 0, on, simulated ? NULL : params));
}

static void launch_dependent(const struct kernel *kernel, CUstream on, bool dependent)
{
	uint64_t steps = kernel->steps, number = links++, buffer = (uint64_t)chain;
	void *params[] = {&steps, &number, &buffer};
	CUlaunchAttribute attribute = {.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, .value.programmaticStreamSerializationAllowed = 1};
	CUlaunchConfig config = {.gridDimX = blocks, .gridDimY = 1, .gridDimZ = 1, .blockDimX = 128, .blockDimY = 1, .blockDimZ = 1,
	                         .hStream = on, .attrs = &attribute, .numAttrs = dependent ? 1 : 0};
	CHECK(CU(cuLaunchKernelEx)(&config, simulated ? kernel->function : chained, simulated ? NULL : params, NULL));
}

static void make_chain(void)
{
	CUmodule with_chain;
	size_t bytes = 8 * ((size_t)blocks + 1);
	if (!simulated) {
		if (CU(cuModuleLoadData)(&with_chain, chained_ptx) != CUDA_SUCCESS || CU(cuModuleGetFunction)(&chained, with_chain, "chained") != CUDA_SUCCESS) {
			fprintf(stderr, "share_work: no dependent launches on this GPU\n");
			exit(77);
		}
	}
	CHECK(CU(cuMemAlloc_v2)(&chain, bytes));
	CHECK(CU(cuMemsetD8_v2)(chain, 0, bytes));
	CHECK(CU(cuCtxSynchronize)());
}

static void check_chain(void)
{
	static uint64_t seen[1 << 16];
	bool intact = true;
	CHECK(CU(cuCtxSynchronize)());
	CHECK(CU(cuMemcpyDtoH_v2)(seen, chain, 8 * ((size_t)blocks + 1)));
	for (unsigned i = 0; i <= blocks && !simulated; i++)
		intact = intact && seen[i] == (i == 0 ? 0 : links);
	printf("intact %d\n", intact);
}

static double elapsed_us(CUevent from, CUevent to)
{
	float ms;
	CHECK(CU(cuEventElapsedTime)(&ms, from, to));
	return ms * 1000.0;
}

// How many steps make a nanosecond, from two long kernels, so that the cost of launching cancels out.
static void calibrate(void)
{
	enum { MOST = 600, STEADY = 64 };
	CUevent event[3];
	double least_us[2] = {1e9, 1e9};
	for (int i = 0; i < 3; i++)
		CHECK(CU(cuEventCreate)(&event[i], CU_EVENT_DEFAULT));
	const struct kernel shorter = {work, 20000, 0}, longer = {work, 220000, 0};
	// [H200] Clocks rise for a while when work begins: 7 % more after the first 60 ms have been seen. So until they have not risen for 0.3 s.
	for (int i = 0, steady = 0; i < MOST && steady < STEADY; i++, steady++) {
		CHECK(CU(cuEventRecord)(event[0], stream[0]));
		launch(&shorter, stream[0]);
		CHECK(CU(cuEventRecord)(event[1], stream[0]));
		launch(&longer, stream[0]);
		CHECK(CU(cuEventRecord)(event[2], stream[0]));
		CHECK(CU(cuEventSynchronize)(event[2]));
		double longer_us = elapsed_us(event[1], event[2]);
		if (longer_us < least_us[1] * 0.999)
			steady = 0;
		least_us[0] = fmin(least_us[0], elapsed_us(event[0], event[1]));
		least_us[1] = fmin(least_us[1], longer_us);
	}
	steps_per_ns = 200000 / (least_us[1] - least_us[0]) / 1000;
}

static void set_up(void)
{
	CUdevice device;
	CUcontext context;
	int processors = 0;
	driver_open();
	CHECK(CU(cuInit)(0));
	CHECK(CU(cuDeviceGet)(&device, 0));
	CHECK(CU(cuDevicePrimaryCtxRetain)(&context, device));
	CHECK(CU(cuCtxSetCurrent)(context));
	CHECK(CU(cuDeviceGetAttribute)(&processors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device));
	blocks = (unsigned)processors;
	CHECK(CU(cuModuleLoadData)(&module, ptx));
	for (int i = 0; i < STREAMS; i++)
		CHECK(CU(cuStreamCreate)(&stream[i], CU_STREAM_NON_BLOCKING));
	simulated = CU(cuModuleGetFunction)(&work, module, "spin_1us") == CUDA_SUCCESS; // no such kernel above
	if (simulated)
		blocks *= 16; // fills it
	else
		CHECK(CU(cuModuleGetFunction)(&work, module, "work"));
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

// Sorts them.
static void print_latency(const char *name, double *values, int count)
{
	if (count == 0)
		return;
	qsort(values, (size_t)count, sizeof values[0], compare);
	printf("%s %.0f %.0f %d\n", name, values[count / 2], values[(int)((count - 1) * 0.99)], count);
}

// ---- throughput: pieces of work with an event after each; a ring of them keeps the GPU busy

static double window_us[WINDOWS], total_us, taken_ns[LATENCIES];
static int timings;
static uint64_t seed = 88172645463325252u;

static double random_unit(void)
{
	seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
	return (double)(seed >> 11) / 9007199254740992.0;
}

// Work done from from_us to to_us after the beginning, spread evenly over that time.
static void count(double from_us, double to_us, double done_us, double end_us)
{
	if (to_us > end_us) {
		done_us *= from_us < end_us ? (end_us - from_us) / (to_us - from_us) : 0;
		to_us = end_us;
	}
	total_us += done_us;
	for (int i = (int)(from_us / 1e6); i <= (int)(to_us / 1e6) && i < WINDOWS && to_us > from_us; i++) {
		double low = fmax(from_us, i * 1e6), high = fmin(to_us, (i + 1) * 1e6);
		window_us[i] += done_us * (high - low) / (to_us - from_us);
	}
	if (to_us <= from_us && to_us < WINDOWS * 1e6) // another stream's was done after it
		window_us[(int)(to_us / 1e6)] += done_us;
}

static CUgraphExec make_graph(const struct kernel *kernel)
{
	CUgraph graph;
	CUgraphExec executable;
	CHECK(CU(cuStreamBeginCapture_v2)(stream[0], CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
	for (int i = 0; i < GRAPH; i++)
		launch(kernel, stream[0]);
	CHECK(CU(cuStreamEndCapture)(stream[0], &graph));
	CHECK(CU(cuGraphInstantiateWithFlags)(&executable, graph, 0));
	return executable;
}

// What comes next in the first stream waits for data that are copied in the second.
static void load(unsigned piece)
{
	static CUevent loaded[RING];
	static CUdeviceptr there;
	static void *here;
	if (here == NULL) {
		CHECK(CU(cuMemAlloc_v2)(&there, LOADED));
		CHECK(CU(cuMemHostAlloc)(&here, LOADED, 0));
		for (int i = 0; i < RING; i++)
			CHECK(CU(cuEventCreate)(&loaded[i], CU_EVENT_DISABLE_TIMING));
	}
	CHECK(CU(cuMemcpyHtoDAsync_v2)(there, here, simulated ? LOADED / 8 : LOADED, stream[1])); // the simulated copy engine is the processor
	CHECK(CU(cuEventRecord)(loaded[piece % RING], stream[1]));
	CHECK(CU(cuStreamWaitEvent)(stream[0], loaded[piece % RING], 0));
}

static void throughput(const char *kind, double us, double seconds, uint64_t start_ns)
{
	bool mix = strcmp(kind, "mix") == 0, graphs = strcmp(kind, "graph") == 0, few = strcmp(kind, "streams-few") == 0, many = few || strcmp(kind, "streams") == 0;
	unsigned queue = many && !few ? RING : QUEUE; // pieces under way: two for each stream, or in half of the streams one
	bool cooperative = strcmp(kind, "coop") == 0, infer = strcmp(kind, "infer") == 0, part = infer || strcmp(kind, "part") == 0;
	bool loader = strcmp(kind, "loader") == 0;
	bool all_dependent = strcmp(kind, "pdl-all") == 0, dependent = all_dependent || strcmp(kind, "pdl") == 0;
	static const double lengths[] = {10, 50, 100, 500, 1000, 5000};
	struct kernel kernel = kernel_of(mix ? 100 : us), mixed[6];
	CUevent base, event[RING];
	double done_us[RING], began_us[RING], last_us = 0, end_us = seconds * 1e6;
	for (int i = 0; i < 6 && mix; i++)
		mixed[i] = kernel_of(lengths[i]);
	CUgraphExec graph = graphs ? make_graph(&kernel) : NULL;
	CHECK(CU(cuEventCreate)(&base, CU_EVENT_DEFAULT));
	for (int i = 0; i < RING; i++)
		CHECK(CU(cuEventCreate)(&event[i], CU_EVENT_DEFAULT));
	if (graphs)
		CHECK(CU(cuGraphLaunch)(graph, stream[0]));
	if (loader)
		load(0);
	launch(&kernel, stream[0]); // warm
	CHECK(CU(cuCtxSynchronize)());
	if (dependent)
		make_chain();
	begin_at(start_ns);
	CHECK(CU(cuEventRecord)(base, stream[0]));
	CHECK(CU(cuStreamSynchronize)(stream[0]));
	uint64_t begin_ns = clock_ns();
	int piece = mix ? 1000 : loader || us > 2000 ? 1 : (int)(2000 / us);
	unsigned in = 0, out = 0;
	for (;;) {
		bool full = in - out == queue || (part && in != out);
		bool over = (double)(clock_ns() - begin_ns) / 1000 >= end_us;
		if (full || (over && in != out)) {
			CHECK(CU(cuEventSynchronize)(event[out % RING]));
			if (infer && timings < LATENCIES)
				taken_ns[timings++] = (double)(clock_ns() - begin_ns) - began_us[out % RING] * 1000;
			double to_us = elapsed_us(base, event[out % RING]);
			count(fmax(last_us, began_us[out % RING]), to_us, done_us[out % RING], end_us);
			last_us = fmax(last_us, to_us);
			out++;
			continue;
		}
		if (over)
			break;
		if (part) { // 2 ms of work, then a pause of 4.7 ms, or of 2 to 4 ms until the next request comes
			struct timespec pause = {0, infer ? 2000000 + (long)(2000000 * random_unit()) : 4666667};
			nanosleep(&pause, NULL);
		}
		double did_us = 0;
		began_us[in % RING] = (double)(clock_ns() - begin_ns) / 1000;
		if (loader)
			load(in);
		for (int i = 0; i < piece; i++) {
			const struct kernel *chosen = mix ? &mixed[(int)(random_unit() * 6)] : &kernel;
			if (graphs)
				CHECK(CU(cuGraphLaunch)(graph, stream[0]));
			else if (cooperative)
				launch_cooperative(chosen, stream[0]);
			else if (dependent)
				launch_dependent(chosen, stream[0], i > 0 || all_dependent);
			else
				launch(chosen, stream[many ? (int)(in % STREAMS) : 0]);
			did_us += chosen->us * (graphs ? GRAPH : 1);
			if (graphs || (mix && did_us > 2000))
				break;
		}
		done_us[in % RING] = did_us;
		CHECK(CU(cuEventRecord)(event[in % RING], stream[many ? (int)(in % STREAMS) : 0]));
		in++;
	}
	for (int i = 0; i < (int)seconds && i < WINDOWS; i++)
		printf("window %d %.1f\n", i, window_us[i]);
	printf("total %.1f %.3f\n", total_us, seconds);
	if (infer)
		print_latency("latency", taken_ns, timings);
	if (dependent)
		check_chain();
}

// ---- slots: two programs by turns

struct slots {
	uint64_t ns, begin_ns; // 0: all the time is this program's
	unsigned phase;
};

static struct slots slots_from(uint64_t begin_ns)
{
	const char *slot_ms = getenv("SHARE_WORK_SLOT_MS"), *phase = getenv("SHARE_WORK_PHASE");
	return (struct slots){slot_ms != NULL ? strtoull(slot_ms, NULL, 10) * 1000000 : 0, begin_ns, phase != NULL && *phase == '1'};
}

static uint64_t slot_of(const struct slots *slots, uint64_t now_ns)
{
	return slots->ns != 0 ? (now_ns - slots->begin_ns) / slots->ns : 0;
}

static bool slot_is_mine(const struct slots *slots, uint64_t now_ns)
{
	return slots->ns == 0 || slot_of(slots, now_ns) % 2 == slots->phase;
}

static uint64_t next_slot_ns(const struct slots *slots, uint64_t now_ns)
{
	return slots->begin_ns + (slot_of(slots, now_ns) + 1) * slots->ns;
}

// ---- launches without end: how many a second

// What is launched in the first moments of a slot is not counted: the bucket holds more after a rest.
#define SLOT_RUN_IN_NS UINT64_C(200000000)

static void launch_bound(double us, double seconds, uint64_t start_ns)
{
	struct kernel kernel = kernel_of(us);
	begin_at(start_ns);
	struct slots slots = slots_from(clock_ns());
	uint64_t launches = 0, counted_ns = 0, now_ns, end_ns = slots.begin_ns + (uint64_t)(seconds * 1e9);
	while ((now_ns = clock_ns()) < end_ns) {
		if (!slot_is_mine(&slots, now_ns)) {
			CHECK(CU(cuStreamSynchronize)(stream[0]));
			sleep_until(next_slot_ns(&slots, now_ns));
			continue;
		}
		uint64_t since_ns = 0, from_ns = now_ns + (slots.ns != 0 ? SLOT_RUN_IN_NS : 0), until_ns = slots.ns != 0 ? next_slot_ns(&slots, now_ns) : end_ns;
		while (now_ns < until_ns) {
			for (int i = 0; i < 64; i++)
				launch(&kernel, stream[0]);
			now_ns = clock_ns();
			if (since_ns != 0)
				launches += 64;
			else if (now_ns >= from_ns)
				since_ns = now_ns;
		}
		counted_ns += since_ns != 0 ? now_ns - since_ns : 0;
	}
	CHECK(CU(cuStreamSynchronize)(stream[0]));
	printf("total %.1f %.6f\n", (double)launches * us, (double)counted_ns / 1e9);
}

// ---- single commands: how long each takes

static void latency(double us, double seconds, double pause_ms, uint64_t start_ns)
{
	struct kernel kernel = kernel_of(us);
	int warm = 0, from = 0;
	for (int i = 0; i < 5; i++) {
		launch(&kernel, stream[0]);
		CHECK(CU(cuStreamSynchronize)(stream[0]));
	}
	begin_at(start_ns);
	struct slots slots = slots_from(clock_ns());
	uint64_t slot = 0;
	while ((double)(clock_ns() - slots.begin_ns) < seconds * 1e9 && timings < LATENCIES) {
		uint64_t now_ns = clock_ns(), now_slot = slot_of(&slots, now_ns);
		if (!slot_is_mine(&slots, now_ns)) {
			sleep_until(next_slot_ns(&slots, now_ns));
			warm = 5; // the first after a long pause are another thing
			continue;
		}
		if (now_slot != slot) {
			char name[32];
			snprintf(name, sizeof name, "round %u", (unsigned)slot);
			print_latency(name, &taken_ns[from], timings - from);
			from = timings, slot = now_slot;
		}
		uint64_t from_ns = clock_ns();
		launch(&kernel, stream[0]);
		CHECK(CU(cuStreamSynchronize)(stream[0]));
		taken_ns[timings] = (double)(clock_ns() - from_ns);
		if (warm > 0)
			warm--;
		else
			timings++;
		sleep_until(clock_ns() + (uint64_t)(pause_ms * 1e6 * (0.9 + 0.2 * random_unit())));
	}
	if (slots.ns != 0) {
		char name[32];
		snprintf(name, sizeof name, "round %u", (unsigned)slot);
		print_latency(name, &taken_ns[from], timings - from);
	}
	print_latency("latency", taken_ns, timings);
	printf("total %.1f %.3f\n", timings * us, seconds);
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: share_work plain|mix|graph|streams|streams-few|coop|launch|part|loader|infer|pdl|pdl-all|small|single US SECONDS [START_NS|-]\n");
		return 2;
	}
	const char *kind = argv[1];
	double us = atof(argv[2]), seconds = atof(argv[3]);
	uint64_t start_ns = argc > 4 ? strtoull(argv[4], NULL, 10) : 0;
	told = argc > 4 && strcmp(argv[4], "-") == 0;
	set_up();
	const char *rate = getenv("SHARE_WORK_STEPS_PER_NS"); // the same work for all processes of a comparison
	if (rate != NULL)
		steps_per_ns = atof(rate);
	else if (!simulated)
		calibrate();
	printf("steps_per_ns %.6f\n", steps_per_ns);
	if (strcmp(kind, "launch") == 0)
		launch_bound(us, seconds, start_ns);
	else if (strcmp(kind, "small") == 0)
		latency(us, seconds, 50, start_ns);
	else if (strcmp(kind, "single") == 0)
		latency(us, seconds, 2, start_ns);
	else
		throughput(kind, us, seconds, start_ns);
	return 0;
}
