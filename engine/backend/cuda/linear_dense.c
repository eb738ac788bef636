/*
 * Dense layers. Weights stay as they are stored: fp16, bf16 or fp32, [out_features, in_features].
 *
 * A product of many rows is cuBLAS', with x in the weights' type and sums in fp32. bf16 keeps 8 bits of x, too few beside
 * the CPU's fp32: x goes in as the sum of two bf16 numbers, which costs a second product and leaves an error of 2^-17.
 */

#include "cuda_libraries.h"
#include "linear.h"
#include "plimsoll/units.h"

/* Bytes of x in the weights' type, where it has to be made. */
static size_t converted_bytes(const struct cuda_linear_shape *shape)
{
    size_t elements = shape->rows * shape->in_features;

    if (shape->dtype == DTYPE_F32 || shape->x_ready)
        return 0;
    return plim_round_up(elements * sizeof(uint16_t), CUDA_LINEAR_ALIGN) * (shape->dtype == DTYPE_BF16 ? 2 : 1);
}

struct linear_scratch cuda_dense_scratch(const struct cuda_linear_shape *shape)
{
    struct linear_scratch scratch = { 0 };

    if (shape->rows > LINEAR_DENSE_ROWS)
        scratch.workspace_bytes = converted_bytes(shape) + CUDA_LINEAR_BLAS_BYTES;
    return scratch;
}

static int dots(const struct cuda_linear_call *call, struct plim_err *err)
{
    struct cuda *cuda = cuda_of(call->backend);
    struct linear_dense dense = {
        .type = call->matrix->dtype == DTYPE_F32   ? LINEAR_F32
                : call->matrix->dtype == DTYPE_F16 ? LINEAR_F16
                                                   : LINEAR_BF16,
        .weight = call->matrix->weight,
        .x = call->x,
        .y = call->y,
        .bias = call->matrix->bias,
        .in_features = (uint32_t)call->shape.in_features,
        .out_features = (uint32_t)call->shape.out_features,
        .rows = (uint32_t)call->shape.rows,
        .alpha = call->matrix->alpha,
        .accumulate = call->accumulate,
        .overlap = cuda->overlap_launches,
    };
    return cuda_check(linear_dense_dots(&dense, cuda->stream), "multiplying dense weights", err);
}

/* y = alpha x W + beta y, x [rows, in_features] of cuBLAS' `type`, which is the weights' too. */
static int product(const struct cuda_linear_call *call, const struct cuda_blas *blas, const void *x, cudaDataType type,
                   float beta, struct plim_err *err)
{
    const struct cuda_linear_shape *shape = &call->shape;
    int in = (int)shape->in_features, out = (int)shape->out_features;
    void *y = call->y_half ? (void *)call->y_half : (void *)call->y;

    return cuda_blas_check(blas->gemm_ex(blas->handle, CUBLAS_OP_T, CUBLAS_OP_N, out, (int)shape->rows, in,
                                         &call->matrix->alpha, call->matrix->weight, type, in, x, type, in, &beta,
                                         y, call->y_half ? CUDA_R_16F : CUDA_R_32F, out, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                           "cublasGemmEx of dense weights", err);
}

static int multiply(const struct cuda_linear_call *call, char *workspace, struct plim_err *err)
{
    const struct cuda_linear_shape *shape = &call->shape;
    struct cuda *cuda = cuda_of(call->backend);
    size_t elements = shape->rows * shape->in_features;
    float beta = call->accumulate ? 1.0f : 0.0f;
    uint16_t *high = (uint16_t *)(void *)workspace;
    uint16_t *low = (uint16_t *)(void *)(workspace + converted_bytes(shape) / 2);

    const struct cuda_blas *blas = cuda_blas(call->backend, workspace + converted_bytes(shape), CUDA_LINEAR_BLAS_BYTES,
                                             err);
    if (!blas)
        return -1;
    switch (shape->dtype) {
    case DTYPE_F32:
        return product(call, blas, call->x, CUDA_R_32F, beta, err);
    case DTYPE_F16:
        if (shape->x_ready)
            return product(call, blas, call->x_half, CUDA_R_16F, beta, err);
        if (cuda_check(linear_halve(call->x, elements, high, cuda->overlap_launches, cuda->stream),
                       "converting activations", err) < 0)
            return -1;
        return product(call, blas, high, CUDA_R_16F, beta, err);
    default:
        break;
    }
    if (cuda_check(linear_split(call->x, elements, high, low, cuda->overlap_launches, cuda->stream),
                   "splitting activations", err) < 0 ||
        product(call, blas, high, CUDA_R_16BF, beta, err) < 0)
        return -1;
    return product(call, blas, low, CUDA_R_16BF, 1.0f, err);
}

int cuda_dense_linear(const struct cuda_linear_call *call, struct plim_err *err)
{
    struct plim_pool *pool = call->backend->pool;
    size_t bytes = cuda_dense_scratch(&call->shape).workspace_bytes;
    char *workspace = NULL;
    int rc = -1;

    if (bytes == 0) {
        rc = dots(call, err);
        goto out;
    }
    workspace = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WORKSPACE, bytes, err);
    if (!workspace || multiply(call, workspace, err) < 0)
        goto out;
    rc = 0;
    if (call->matrix->bias)
        rc = cuda_check(linear_bias(call->y, call->matrix->bias, call->shape.rows, call->shape.out_features,
                                    cuda_of(call->backend)->stream),
                        "adding a bias", err);

out:
    plim_pool_free(pool, workspace);
    if (rc == 0)
        call->backend->counters.weight_bytes_read += call->matrix->stored_bytes;
    return rc;
}
