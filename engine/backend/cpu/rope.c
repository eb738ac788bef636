/* Rotary position embedding (Su et al., "RoFormer", 2021) in the half-split layout. */

#include "cpu.h"

struct rope_job {
    const struct cpu_kernels *kernels;
    float *x;
    const float *sin_cos;   /* of the first row's position */
    size_t head_count, head_dim;
};

static void rope_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct rope_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        job->kernels->rope(job->x + r * job->head_count * job->head_dim, job->sin_cos + r * job->head_dim,
                           job->head_count, job->head_dim);
}

int cpu_rope(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows, size_t head_count,
             size_t head_dim, struct plim_err *err)
{
    struct rope_job job = { cpu_kernels(backend), x, sin_cos + first * head_dim, head_count, head_dim };
    (void)err;
    cpu_run(backend, rows * head_count * head_dim, rows, 1, rope_rows, &job);
    return 0;
}
