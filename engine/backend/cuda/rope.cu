/* Rotary position embedding, from the table of cosines and sines. */

#include "cuda_kernels.cuh"

#define THREADS 128

/*
 * Block (row, part of the pairs); thread: one pair (j, j + head_dim/2) of one head of x [rows, head_count, head_dim]. The
 * table [positions, head_dim] is the chunk's own and begins at `first`, so it needs no step.
 */
static __global__ void rope_kernel(float *x, const float *sin_cos, size_t first, unsigned head_count, unsigned head_dim)
{
    unsigned half = head_dim / 2, pair = blockIdx.y * blockDim.x + threadIdx.x;
    unsigned head = pair / half, j = pair % half;
    const float *table = sin_cos + (first + blockIdx.x) * head_dim;
    float *at = x + ((size_t)blockIdx.x * head_count + head) * head_dim + j;

    cuda_let_next_start();
    cuda_wait_for_previous();
    if (head >= head_count)
        return;
    float c = table[j], s = table[half + j], a = at[0], b = at[half];
    /* Rounded by name, so that a decode step, which rotates inside attention, has the same bits. */
    at[0] = __fmaf_rn(a, c, -__fmul_rn(b, s));
    at[half] = __fmaf_rn(b, c, __fmul_rn(a, s));
}

extern "C" int cuda_rope(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows,
                         size_t head_count, size_t head_dim, struct plim_err *err)
{
    size_t pairs = head_count * (head_dim / 2);

    if (rows == 0)
        return 0;
    return cuda_launch(cuda_of(backend), "rope", err, rope_kernel,
                       dim3((unsigned)rows, (unsigned)((pairs + THREADS - 1) / THREADS)), dim3(THREADS), 0, x, sin_cos,
                       first, (unsigned)head_count, (unsigned)head_dim);
}
