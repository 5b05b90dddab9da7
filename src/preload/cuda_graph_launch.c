// SPDX-License-Identifier: Apache-2.0
// Launching graphs: their memory nodes are charged (cuda_graph_memory.c), and in a slice with a compute share a launch is one command
// to the meter, however many kernels, conditions or loops are in it. Owns: the hooks.
#include "preload/cuda_graph_memory.h"
#include "preload/hook.h"
#include "preload/meter.h"
#include "preload/mode.h"

// An executable graph is known by its handle.
static uint64_t key_of(CUgraphExec graph)
{
	return (uint64_t)(uintptr_t)graph * 0xd6e8feb86659fd93ull;
}

static CUresult launch_graph(CUgraphExec graph, CUstream stream, bool per_thread, __typeof__(&cuGraphLaunch) call)
{
	struct softmig_meter_launch launch;
	if (!softmig_mode_has_share())
		return softmig_graph_memory_launch(graph, stream, per_thread, call);
	softmig_meter_before(&launch, stream, per_thread, key_of(graph), false);
	return softmig_meter_after(&launch, softmig_graph_memory_launch(graph, stream, per_thread, call));
}

CUresult hook_cuGraphLaunch(CUgraphExec hGraph, CUstream hStream)
{
	return launch_graph(hGraph, hStream, false, DRIVER(cuGraphLaunch));
}

CUresult hook_cuGraphLaunch_ptsz(CUgraphExec hGraphExec, CUstream hStream)
{
	return launch_graph(hGraphExec, hStream, true, DRIVER(cuGraphLaunch_ptsz));
}
