/* Rotary position embedding, and the table of cosines and sines that it reads. */

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

/* ---- the table ---- */

struct pair_frequencies {
    double of[BACKEND_ROPE_DIM / 2];
};

/* Block: a position; thread: a pair. */
static __global__ void rope_table_kernel(const __grid_constant__ pair_frequencies frequencies, double factor, size_t first,
                                         unsigned head_dim, float *table)
{
    unsigned half = head_dim / 2;
    float *row = table + (size_t)blockIdx.x * head_dim;

    cuda_let_next_start();
    cuda_wait_for_previous();
    for (unsigned j = threadIdx.x; j < half; j += blockDim.x) {
        double sine, cosine;
        sincos((double)(first + blockIdx.x) * frequencies.of[j], &sine, &cosine);
        row[j] = (float)(cosine * factor);
        row[half + j] = (float)(sine * factor);
    }
}

extern "C" int cuda_rope_table(struct backend *backend, const double *inv_freq, double factor, size_t first, size_t rows,
                               size_t head_dim, float *table, struct plim_err *err)
{
    pair_frequencies frequencies = {};

    if (rows == 0)
        return 0;
    for (size_t j = 0; j < head_dim / 2; j++)
        frequencies.of[j] = inv_freq[j];
    return cuda_launch(cuda_of(backend), "rope_table", err, rope_table_kernel, dim3((unsigned)rows), dim3(64), 0, frequencies,
                       factor, first, (unsigned)head_dim, table);
}
