#include "null/null.h"

#include <string.h>

/* The table decides the signatures; most arguments have no use here. */
#pragma GCC diagnostic ignored "-Wunused-parameter"

static int null_open(struct backend *backend, struct plim_err *err)
{
    return 0;
}

static void null_close(struct backend *backend)
{
}

static int null_matrix_init(struct backend *backend, struct matrix *matrix, const struct linear_source *source,
                            struct plim_err *err)
{
    *matrix = (struct matrix){ .in_features = source->in_features, .out_features = source->out_features };
    return 0;
}

static void null_matrix_release(struct backend *backend, struct matrix *matrix)
{
    *matrix = (struct matrix){ 0 };
}

static int null_linear(struct backend *backend, const struct matrix *matrix, const float *x, size_t rows, float *y,
                       bool accumulate, struct plim_err *err)
{
    if (!accumulate)
        memset(y, 0, rows * matrix->out_features * sizeof *y);
    return 0;
}

static int null_embed(struct backend *backend, enum dtype dtype, const void *table, size_t width, const int32_t *ids,
                      size_t rows, float scale, float *out, struct plim_err *err)
{
    memset(out, 0, rows * width * sizeof *out);
    return 0;
}

static int null_rms_norm(struct backend *backend, const float *x, const float *weight, float offset, double eps,
                         size_t rows, size_t width, float *out, struct plim_err *err)
{
    memset(out, 0, rows * width * sizeof *out);
    return 0;
}

static int null_rope(struct backend *backend, float *x, const float *sin_cos, size_t first, size_t rows,
                     size_t head_count, size_t head_dim, struct plim_err *err)
{
    return 0;
}

static int null_kv_store(struct backend *backend, const struct attention_shape *shape, const float *k,
                         const float *v, size_t rows, size_t first, void *cache_k, void *cache_v, struct plim_err *err)
{
    return 0;
}

static int null_attention(struct backend *backend, const struct attention_shape *shape, const float *q,
                          const void *cache_k, const void *cache_v, size_t past, size_t rows, float *out,
                          struct plim_err *err)
{
    memset(out, 0, rows * shape->head_count * shape->head_dim * sizeof *out);
    return 0;
}

static int null_act_mul(struct backend *backend, enum activation activation, float *gate, const float *up, size_t n,
                        struct plim_err *err)
{
    memset(gate, 0, n * sizeof *gate);
    return 0;
}

static int null_add(struct backend *backend, float *x, const float *y, float scale, size_t n, struct plim_err *err)
{
    return 0;
}

static int null_softcap(struct backend *backend, float *x, float cap, size_t n, struct plim_err *err)
{
    return 0;
}

static int null_copy_in(struct backend *backend, void *device, const void *host, size_t bytes, struct plim_err *err)
{
    memcpy(device, host, bytes);
    return 0;
}

static int null_copy_out(struct backend *backend, void *host, const void *device, size_t bytes, struct plim_err *err)
{
    memcpy(host, device, bytes);
    return 0;
}

static size_t null_open_bytes(const struct plim_parameters *parameters)
{
    return 0;
}

const struct backend_ops null_backend_ops = {
    .name = "null",
    .unified_memory = true,
    .open = null_open,
    .close = null_close,
    .matrix_init = null_matrix_init,
    .matrix_release = null_matrix_release,
    .linear = null_linear,
    .embed = null_embed,
    .rms_norm = null_rms_norm,
    .rope = null_rope,
    .kv_store = null_kv_store,
    .attention = null_attention,
    .act_mul = null_act_mul,
    .add = null_add,
    .softcap = null_softcap,
    .upload = null_copy_in,
    .download = null_copy_out,
};

static size_t null_matrix_bytes(const struct linear_shape *shape, const struct plim_parameters *parameters)
{
    return 0;
}

static size_t null_matrix_mapped_bytes(const struct linear_shape *shape)
{
    return 0;
}

static struct linear_scratch null_linear_scratch(const struct linear_shape *shape, size_t rows,
                                                 const struct plim_parameters *parameters)
{
    return (struct linear_scratch){ 0 };
}

static struct attention_scratch null_attention_scratch(const struct attention_shape *shape, size_t past, size_t rows,
                                                       const struct plim_parameters *parameters)
{
    return (struct attention_scratch){ 0 };
}

const struct backend_predict_ops null_backend_predict_ops = {
    .open_bytes = null_open_bytes,
    .matrix_bytes = null_matrix_bytes,
    .matrix_mapped_bytes = null_matrix_mapped_bytes,
    .linear_scratch = null_linear_scratch,
    .attention_scratch = null_attention_scratch,
};
