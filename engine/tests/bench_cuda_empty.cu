/*
 * The least that a CUDA program can be: one kernel that does nothing. Prints milliseconds from main on until it is done, and
 * the device's bytes in use then, by cudaMemGetInfo. bench_cuda_start runs it.
 */

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <time.h>

static __global__ void nothing()
{
}

static double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main()
{
    double start = now_ms();
    size_t available, total;

    nothing<<<1, 1>>>();
    if (cudaDeviceSynchronize() != cudaSuccess)
        return 1;
    double ms = now_ms() - start;
    if (cudaMemGetInfo(&available, &total) != cudaSuccess)
        return 1;
    printf("%.3f %zu\n", ms, total - available);
    return 0;
}
