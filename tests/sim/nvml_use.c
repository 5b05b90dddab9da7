// SPDX-License-Identifier: Apache-2.0
// NVML: how busy a GPU and its processes were, in samples of a sixth of a second; accounting of ended processes.
#include <string.h>

#include "nvml.h"
#include "timeline.h"

static void advance(int index)
{
	sim_timeline_advance(index, sim_now_ns());
}

// Microseconds since 1970, NVML's unit, at the end of a sample window.
static unsigned long long stamp_us(uint64_t window)
{
	uint64_t end_ns = (window + 1) * SIM_SAMPLE_NS, ago_ns = sim_now_ns() - end_ns;
	return (sim_realtime_ns() - ago_ns) / 1000;
}

static unsigned percent(uint64_t busy_ns)
{
	uint64_t value = (busy_ns * 100 + SIM_SAMPLE_NS / 2) / SIM_SAMPLE_NS;
	return value > 100 ? 100 : (unsigned)value;
}

static uint64_t sample(const struct sim_gpu *gpu, uint64_t window)
{
	// Windows are only written while the GPU is busy: those after the last one were idle.
	return window <= gpu->sample_index && window + SIM_SAMPLES > gpu->sample_index
		? gpu->sample_ns[window % SIM_SAMPLES]
		: 0;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	NVML_DEVICE(device);
	if (utilization == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	sim_lock();
	advance(index);
	utilization->gpu = percent(sample(gpu, sim_now_ns() / SIM_SAMPLE_NS - 1));
	utilization->memory = utilization->gpu / 2;
	sim_unlock();
	return NVML_SUCCESS;
}

struct use {
	unsigned pid, percent;
	unsigned long long stamp_us;
};

static unsigned uses(int index, unsigned long long since_us, struct use use[SIM_PROCESSES])
{
	unsigned count = 0;
	sim_lock();
	sim_reap();
	advance(index);
	uint64_t last = sim_now_ns() / SIM_SAMPLE_NS - 1;
	for (int slot = 0; slot < SIM_PROCESSES; slot++) {
		const struct sim_process *process = &sim_state->process[slot];
		if (process->pid == 0)
			continue;
		uint64_t window = process->window_index[index], ns = 0;
		if (window == last)
			ns = process->window_ns[index][0];
		else if (window == last + 1)
			ns = process->window_ns[index][1];
		if (ns == 0 || stamp_us(last) <= since_us)
			continue;
		use[count++] =
			(struct use){.pid = (unsigned)sim_process_pid(slot), .percent = percent(ns), .stamp_us = stamp_us(last)};
	}
	sim_unlock();
	return count;
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
	unsigned int *processSamplesCount, unsigned long long lastSeenTimeStamp)
{
	NVML_DEVICE(device);
	if (processSamplesCount == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	struct use use[SIM_PROCESSES];
	unsigned count = uses(index, lastSeenTimeStamp, use), room = *processSamplesCount;
	*processSamplesCount = count;
	if (utilization == NULL || room < count)
		return count == 0 ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < count; i++)
		utilization[i] = (nvmlProcessUtilizationSample_t){
			.pid = use[i].pid, .timeStamp = use[i].stamp_us, .smUtil = use[i].percent, .memUtil = use[i].percent / 2};
	return count == 0 ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *info)
{
	NVML_DEVICE(device);
	if (info == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (info->version != nvmlProcessesUtilizationInfo_v1)
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	struct use use[SIM_PROCESSES];
	unsigned count = uses(index, info->lastSeenTimeStamp, use), room = info->processSamplesCount;
	info->processSamplesCount = count;
	if (info->procUtilArray == NULL || room < count)
		return count == 0 ? NVML_ERROR_NOT_FOUND : NVML_ERROR_INSUFFICIENT_SIZE;
	for (unsigned i = 0; i < count; i++)
		info->procUtilArray[i] = (nvmlProcessUtilizationInfo_v1_t){
			.timeStamp = use[i].stamp_us, .pid = use[i].pid, .smUtil = use[i].percent, .memUtil = use[i].percent / 2};
	return count == 0 ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long lastSeenTimeStamp,
	nvmlValueType_t *sampleValType, unsigned int *sampleCount, nvmlSample_t *samples)
{
	NVML_DEVICE(device);
	if (sampleValType == NULL || sampleCount == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (type != NVML_GPU_UTILIZATION_SAMPLES)
		return NVML_ERROR_NOT_SUPPORTED;
	*sampleValType = NVML_VALUE_TYPE_UNSIGNED_INT;
	if (samples == NULL) {
		*sampleCount = SIM_SAMPLES;
		return NVML_SUCCESS;
	}
	unsigned count = 0;
	sim_lock();
	advance(index);
	uint64_t last = sim_now_ns() / SIM_SAMPLE_NS;
	for (uint64_t window = last > SIM_SAMPLES ? last - SIM_SAMPLES : 0; window < last && count < *sampleCount;
		 window++) {
		if (stamp_us(window) <= lastSeenTimeStamp)
			continue;
		samples[count].timeStamp = stamp_us(window);
		samples[count++].sampleValue.uiVal = percent(sample(gpu, window));
	}
	sim_unlock();
	*sampleCount = count;
	return count == 0 ? NVML_ERROR_NOT_FOUND : NVML_SUCCESS;
}

// --- accounting

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
	NVML_DEVICE(device);
	if (mode == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*mode = gpu->accounting ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceSetAccountingMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
	NVML_DEVICE(device);
	gpu->accounting = mode == NVML_FEATURE_ENABLED;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingBufferSize(nvmlDevice_t device, unsigned int *bufferSize)
{
	NVML_DEVICE(device);
	if (bufferSize == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	*bufferSize = SIM_ACCOUNTING;
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
	NVML_DEVICE(device);
	if (count == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	unsigned found[SIM_ACCOUNTING + SIM_PROCESSES], there = 0;
	sim_lock();
	sim_reap();
	for (int i = 0; i < SIM_ACCOUNTING; i++)
		if (gpu->history[i].pid != 0)
			found[there++] = (unsigned)gpu->history[i].pid;
	for (int slot = 0; slot < SIM_PROCESSES; slot++)
		if (sim_state->process[slot].pid != 0 && sim_state->process[slot].peak_bytes[index] > 0)
			found[there++] = (unsigned)sim_process_pid(slot);
	sim_unlock();
	unsigned room = *count;
	*count = there;
	if (pids == NULL || room < there)
		return room == 0 && there == 0 ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
	memcpy(pids, found, there * sizeof(*pids));
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats)
{
	NVML_DEVICE(device);
	if (stats == NULL)
		return NVML_ERROR_INVALID_ARGUMENT;
	bool found = false;
	memset(stats, 0, sizeof(*stats));
	sim_lock();
	sim_reap();
	advance(index);
	for (int i = 0; i < SIM_ACCOUNTING && !found; i++) {
		if (pid == 0 || gpu->history[i].pid != (int)pid)
			continue;
		found = true;
		uint64_t life_ns = gpu->history[i].end_ns - gpu->history[i].start_ns;
		stats->maxMemoryUsage = gpu->history[i].peak_bytes;
		stats->time = life_ns / 1000000;
		stats->startTime = gpu->history[i].start_ns / 1000;
		stats->gpuUtilization = life_ns > 0 ? (unsigned)(gpu->history[i].busy_ns * 100 / life_ns) : 0;
	}
	for (int slot = 0; slot < SIM_PROCESSES && !found; slot++) {
		const struct sim_process *process = &sim_state->process[slot];
		if (process->pid == 0 || sim_process_pid(slot) != (int)pid)
			continue;
		found = true;
		stats->isRunning = 1;
		stats->maxMemoryUsage = process->peak_bytes[index];
		stats->startTime = process->start_ns / 1000;
		uint64_t life_ns = sim_realtime_ns() - process->start_ns;
		stats->gpuUtilization = life_ns > 0 ? (unsigned)(process->busy_ns[index] * 100 / life_ns) : 0;
	}
	sim_unlock();
	return found ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceClearAccountingPids(nvmlDevice_t device)
{
	NVML_DEVICE(device);
	sim_lock();
	memset(gpu->history, 0, sizeof(gpu->history));
	sim_unlock();
	return NVML_SUCCESS;
}
