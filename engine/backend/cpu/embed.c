/* Embedding: rows of the mapped table, widened to fp32 and scaled. Only the rows that are asked for are read. */

#include <string.h>

#include "cpu.h"
#include "plimsoll/units.h"

/* Elements that are widened at a time: a file may hold its table at an odd address, so they are copied out of it. */
#define PIECE 1024

struct embed_job {
    const struct cpu_kernels *kernels;
    enum dtype dtype;
    const void *table;
    size_t width;
    const int32_t *ids;
    float scale;
    float *out;
};

static void embed_row(const struct embed_job *job, size_t id, float *out)
{
    size_t element_bytes = dtype_bytes(job->dtype);
    const char *row = (const char *)job->table + id * job->width * element_bytes;
    union {
        float floats[PIECE];
        uint16_t halves[PIECE];
    } piece;

    for (size_t i = 0; i < job->width; i += PIECE) {
        size_t n = plim_min(PIECE, job->width - i);
        memcpy(&piece, row + i * element_bytes, n * element_bytes);
        if (job->dtype == DTYPE_F16)
            job->kernels->from_half(piece.halves, n, job->scale, out + i);
        else if (job->dtype == DTYPE_BF16)
            job->kernels->from_bfloat(piece.halves, n, job->scale, out + i);
        else
            job->kernels->from_float(piece.floats, n, job->scale, out + i);
    }
}

static void embed_rows(void *context, size_t begin, size_t end, int thread)
{
    const struct embed_job *job = context;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        embed_row(job, (size_t)job->ids[r], job->out + r * job->width);
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
