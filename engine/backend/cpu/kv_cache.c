/* Storing keys and values, in the cache's own format (kv_format.h). */

#include "kv_cache.h"

#include <math.h>
#include <string.h>

#include "cpu.h"
#include "half.h"

/* The butterflies of one chunk: even and odd elements apart, so a step between partners is 2 * half. */
static void rotate_chunk(float *x, size_t chunk)
{
    float norm = 1.0f / sqrtf((float)(chunk / 2));

    for (size_t half = 1; half < chunk / 2; half *= 2)
        for (size_t block = 0; block < chunk; block += 4 * half)
            for (size_t i = block; i < block + 2 * half; i++) {
                float a = x[i], b = x[i + 2 * half];
                x[i] = a + b;
                x[i + 2 * half] = a - b;
            }
    for (size_t i = 0; i < chunk; i++)
        x[i] *= norm;
}

void kv_rotate(float *x, size_t n, size_t chunk)
{
    for (size_t i = 0; i < n; i += chunk)
        rotate_chunk(x + i, chunk);
}

/* Codes of one group, and its scale: the element of largest magnitude, the first of equals, gets code 0. */
static uint16_t encode_group(const float *x, size_t n, float zero, uint8_t *codes)
{
    float most = 0;
    for (size_t i = 0; i < n; i++)
        if (fabsf(x[i]) > fabsf(most))
            most = x[i];
    uint16_t scale = half_from_float(most / -zero);
    float value = half_to_float(scale);
    for (size_t i = 0; i < n; i++) {
        float code = value == 0 ? zero : rintf(x[i] / value) + zero;
        codes[i] = (uint8_t)fminf(fmaxf(code, 0.0f), 2 * zero - 1);
    }
    return scale;
}

void kv_encode(const struct kv_format *format, const float *x, size_t width, uint8_t *row)
{
    uint16_t *scales = (uint16_t *)(void *)(row + format->scale_offset);

    for (size_t i = 0; i < width; i += format->chunk) {
        float rotated[64];
        uint8_t codes[64];
        memcpy(rotated, x + i, format->chunk * sizeof *x);
        rotate_chunk(rotated, format->chunk);
        for (size_t j = 0; j < format->chunk; j += format->group)
            scales[(i + j) / format->group] = encode_group(rotated + j, format->group,
                                                           format->element == KV_Q8 ? 128.0f : 8.0f, codes + j);
        if (format->element == KV_Q8) {
            memcpy(row + i, codes, format->chunk);
            continue;
        }
        for (size_t j = 0; j < format->chunk; j += 2)
            row[(i + j) / 2] = (uint8_t)(codes[j] | codes[j + 1] << 4);
    }
}

struct store_job {
    const struct cpu_kernels *kernels;
    const float *k, *v;
    size_t width;
    struct kv_format key_format, value_format;
    uint8_t *cache_k, *cache_v;   /* at the first row's position */
};

static void store_row(const struct store_job *job, const struct kv_format *format, const float *x, uint8_t *row)
{
    if (format->element == KV_F32)
        memcpy(row, x, job->width * sizeof *x);
    else if (format->element == KV_F16)
        job->kernels->to_half(x, job->width, (uint16_t *)(void *)row);
    else
        kv_encode(format, x, job->width, row);
}

static void store_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct store_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        store_row(job, &job->key_format, job->k + r * job->width, job->cache_k + r * job->key_format.row_bytes);
        store_row(job, &job->value_format, job->v + r * job->width, job->cache_v + r * job->value_format.row_bytes);
    }
}

int cpu_kv_store(struct backend *backend, const struct attention_shape *shape, const float *k, const float *v,
                 size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err)
{
    struct store_job job = {
        .kernels = cpu_kernels(backend),
        .k = k,
        .v = v,
        .width = shape->kv_head_count * shape->head_dim,
        .key_format = backend_kv_format(backend->parameters, KV_KEYS, shape->kv_head_count, shape->head_dim),
        .value_format = backend_kv_format(backend->parameters, KV_VALUES, shape->kv_head_count, shape->head_dim),
    };

    if (backend_kv_check(backend->parameters, shape->head_dim, err) < 0)
        return -1;
    job.cache_k = (uint8_t *)cache_k + first * job.key_format.row_bytes;
    job.cache_v = (uint8_t *)cache_v + first * job.value_format.row_bytes;
    cpu_run(backend, 2 * rows * job.width, rows, 1, store_rows, &job);
    return 0;
}
