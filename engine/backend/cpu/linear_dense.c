/* Few rows over dense weights: dot products along the stored rows, which stream through once. */

#include "linear_internal.h"

static void dot_columns(void *context, size_t begin, size_t end, int thread)
{
    const struct linear_call *call = context;
    const struct cpu_matrix *matrix = call->matrix;
    (void)thread;

    struct dense_block block = {
        .w = (const char *)matrix->weight + begin * call->in_features * dtype_bytes(matrix->dtype),
        .inner = call->in_features,
        .columns = end - begin,
        .row_count = call->rows,
        .x = call->x,
        .y = call->y + begin,
        .y_stride = call->out_features,
        .alpha = matrix->alpha,
        .accumulate = call->accumulate,
    };
    matrix->kernels->dense[matrix->dtype](&block);
    linear_add_bias(call, 0, call->rows, begin, end);
}

void dense_linear(const struct linear_call *call)
{
    linear_run(call, call->out_features, 16, dot_columns, (void *)(uintptr_t)call);
    call->backend->counters.weight_bytes_read += call->matrix->stored_bytes;
}
