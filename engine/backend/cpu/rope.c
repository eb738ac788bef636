/* Rotary position embedding (Su et al., "RoFormer", 2021) in the half-split layout, and storing keys and values. */

#include <string.h>

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

struct store_job {
    const struct cpu_kernels *kernels;
    const float *k, *v;
    size_t width;
    uint16_t *cache_k, *cache_v;   /* fp16, at the first row's position */
};

static void store_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct store_job *job = context;
    size_t offset = begin * job->width, n = (end - begin) * job->width;
    (void)thread;
    job->kernels->to_half(job->k + offset, n, job->cache_k + offset);
    job->kernels->to_half(job->v + offset, n, job->cache_v + offset);
}

int cpu_kv_store(struct backend *backend, const float *k, const float *v, size_t rows, size_t width, size_t first,
                 void *cache_k, void *cache_v, struct plim_err *err)
{
    struct store_job job = {
        .kernels = cpu_kernels(backend),
        .k = k,
        .v = v,
        .width = width,
        .cache_k = (uint16_t *)cache_k + first * width,
        .cache_v = (uint16_t *)cache_v + first * width,
    };
    (void)err;
    if (backend->parameters->count[PLIM_KV_CACHE] == PLIM_KV_FP32) {
        memcpy((float *)cache_k + first * width, k, rows * width * sizeof *k);
        memcpy((float *)cache_v + first * width, v, rows * width * sizeof *v);
        return 0;
    }
    cpu_run(backend, 2 * rows * width, rows, 1, store_rows, &job);
    return 0;
}
