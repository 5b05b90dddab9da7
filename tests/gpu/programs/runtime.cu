// SPDX-License-Identifier: Apache-2.0
// A CUDA runtime program in a slice: runtime LIMIT_MIB. Built with the static and the shared runtime.
#include <cuda_runtime.h>

#include "check.h"

#define MIB (1024ull * 1024)
#define CHUNK (256 * MIB)
#define NUMBERS (1 << 20)

__global__ void square_add(const float *x, float *y, int n)
{
	int i = blockIdx.x * blockDim.x + threadIdx.x;
	if (i < n)
		y[i] = x[i] * x[i] + (float)i;
}

static float host[NUMBERS], back[NUMBERS];

static int take_chunks(void **chunks, cudaError_t *refusal)
{
	int count = 0;
	while (count < 1024 && (*refusal = cudaMalloc(&chunks[count], CHUNK)) == cudaSuccess)
		count++;
	return count;
}

int main(int argc, char **argv)
{
	const unsigned long long limit = strtoull(argc > 1 ? argv[1] : "4096", NULL, 10) * MIB;
	static void *chunks[1024];
	size_t free_bytes = 0, total = 0;
	cudaDeviceProp properties;
	if (!check_number("cudaGetDeviceProperties", cudaSuccess, cudaGetDeviceProperties(&properties, 0)))
		return 1;
	check_number("totalGlobalMem", limit, properties.totalGlobalMem);
	check_number("cudaMemGetInfo", cudaSuccess, cudaMemGetInfo(&free_bytes, &total));
	check_number("total", limit, total);
	check(free_bytes < total, "free is below total", "< %zu\t%zu", total, free_bytes);
	cudaError_t refusal = cudaSuccess;
	for (int cycle = 0; cycle < 3; cycle++) {
		int count = take_chunks(chunks, &refusal);
		check_number("chunks of 256 MiB granted", free_bytes / CHUNK, (unsigned)count);
		check_number("then cudaErrorMemoryAllocation", cudaErrorMemoryAllocation, refusal);
		cudaGetLastError();
		for (int i = 0; i < count; i++)
			cudaFree(chunks[i]);
	}
	cudaStream_t stream;
	cudaStreamCreate(&stream);
	int count = 0;
	while (count < 1024 && (refusal = cudaMallocAsync(&chunks[count], CHUNK, stream)) == cudaSuccess)
		count++;
	check(count >= (int)(free_bytes / CHUNK) - 1 && count <= (int)(free_bytes / CHUNK), "cudaMallocAsync: chunks granted", "%llu\t%d", free_bytes / CHUNK, count);
	check_number("then cudaErrorMemoryAllocation", cudaErrorMemoryAllocation, refusal);
	cudaGetLastError();
	for (int i = 0; i < count; i++)
		cudaFreeAsync(chunks[i], stream);
	check_number("cudaStreamSynchronize", cudaSuccess, cudaStreamSynchronize(stream));
	check_number("cudaMalloc after it, the idle pool trimmed", cudaSuccess, cudaMalloc(&chunks[0], free_bytes / 2));
	cudaFree(chunks[0]);

	float *x = NULL, *y = NULL;
	int wrong = 0;
	for (int i = 0; i < NUMBERS; i++)
		host[i] = (float)(i % 1024);
	check_number("cudaMallocManaged", cudaSuccess, cudaMallocManaged(&y, sizeof host));
	check_number("cudaMalloc", cudaSuccess, cudaMalloc(&x, sizeof host));
	cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
	square_add<<<NUMBERS / 256, 256>>>(x, y, NUMBERS);
	check_number("the kernel runs", cudaSuccess, cudaDeviceSynchronize());
	cudaMemcpy(back, y, sizeof back, cudaMemcpyDefault);
	for (int i = 0; i < NUMBERS; i++)
		wrong += back[i] != host[i] * host[i] + (float)i;
	check_number("its wrong results, against the CPU", 0, (unsigned)wrong);
	cudaPointerAttributes attributes;
	cudaPointerGetAttributes(&attributes, y);
	check_number("managed memory is reported as managed", cudaMemoryTypeManaged, attributes.type);
	check_number("cudaDeviceReset", cudaSuccess, cudaDeviceReset());
	check_number("cudaMemGetInfo after it", cudaSuccess, cudaMemGetInfo(&free_bytes, &total));
	check_number("total after it", limit, total);
	return check_failures != 0;
}
