/* Embedding: rows of the mapped table, widened to fp32 and scaled. Only the rows that are asked for are read. */

#include "cpu.h"

struct embed_job {
    const struct cpu_kernels *kernels;
    enum dtype dtype;
    const void *table;
    size_t width;
    const int32_t *ids;
    float scale;
    float *out;
};

static void embed_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct embed_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        size_t offset = (size_t)job->ids[r] * job->width;
        float *out = job->out + r * job->width;
        if (job->dtype == DTYPE_F16)
            job->kernels->from_half((const uint16_t *)job->table + offset, job->width, job->scale, out);
        else if (job->dtype == DTYPE_BF16)
            job->kernels->from_bfloat((const uint16_t *)job->table + offset, job->width, job->scale, out);
        else
            job->kernels->from_float((const float *)job->table + offset, job->width, job->scale, out);
    }
}

int cpu_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
              size_t rows, float scale, float *out, struct plim_err *err)
{
    struct embed_job job = { cpu_kernels(backend), dtype, table, width, ids, scale, out };

    if (dtype != DTYPE_F32 && dtype != DTYPE_F16 && dtype != DTYPE_BF16)
        return plim_err_input(err, "embedding table: dtype %s, expected F32, F16 or BF16", dtype_name(dtype));
    cpu_run(backend, rows * width, rows, 1, embed_rows, &job);
    return 0;
}
