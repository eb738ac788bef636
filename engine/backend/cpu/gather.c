/* The working copy of a layer's weights: widened, transposed, in the Hessian's order. */

#include <string.h>

#include "half.h"
#include "quantize_cpu.h"
#include "threads.h"

struct gather {
    const struct linear_source *source;
    const uint16_t *order;
    size_t stride;
    float *w;
};

/* Outputs that are gathered side by side: a cache line of w, and as many weight rows as stay in the cache. */
#define GATHER_OUTPUTS 16

static void gather_outputs(void *context, size_t begin, size_t end, int thread)
{
    const struct gather *g = context;
    const struct linear_source *s = g->source;
    size_t k = s->in_features;
    (void)thread;

    for (size_t n = begin; n < end; n++) {
        float *column = g->w + n;
        if (n >= s->out_features) {
            for (size_t i = 0; i < k; i++)
                column[i * g->stride] = 0;
            continue;
        }
        const char *row = (const char *)s->weight + n * k * dtype_bytes(s->dtype);
        for (size_t i = 0; i < k; i++) {
            const char *at = row + g->order[i] * dtype_bytes(s->dtype);
            if (s->dtype == DTYPE_F32) {
                memcpy(column + i * g->stride, at, sizeof *column);
            } else {
                uint16_t half;
                memcpy(&half, at, sizeof half);
                column[i * g->stride] = s->dtype == DTYPE_F16 ? half_to_float(half) : bfloat_to_float(half);
            }
        }
    }
}

int cpu_gather_weights(struct backend *backend, const struct linear_source *source, const uint16_t *order, size_t columns,
                       size_t stride, float *w, struct plim_err *err)
{
    (void)err;
    struct gather gather = { source, order, stride, w };
    threads_run(backend->threads, columns, GATHER_OUTPUTS, gather_outputs, &gather);
    return 0;
}
