/* The quantizer's table on CUDA, and the matrix products behind it. */

#include "quantize_cuda.h"

#include "cuda_libraries.h"

int quantize_product(struct backend *backend, void *workspace, const struct product *p, struct plim_err *err)
{
    const struct cuda_blas *blas = cuda_blas(backend, workspace, CUDA_BLAS_WORKSPACE_BYTES, err);

    if (!blas)
        return -1;
    /* cuBLAS is column-major: it sees every matrix transposed, so C^T = op(B)^T op(A)^T. */
    return cuda_blas_check(blas->gemm_ex(blas->handle, p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                                         p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, (int)p->n, (int)p->m, (int)p->k,
                                         &p->alpha, p->b, CUDA_R_32F, (int)p->b_stride, p->a, CUDA_R_32F,
                                         (int)p->a_stride, &p->beta, p->c, CUDA_R_32F, (int)p->c_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                           "a product of the quantizer", err);
}

int quantize_copy(struct backend *backend, float *to, size_t to_stride, const float *from, size_t from_stride,
                  size_t rows, size_t columns, struct plim_err *err)
{
    return cuda_check(cudaMemcpy2DAsync(to, to_stride * sizeof *to, from, from_stride * sizeof *from,
                                        columns * sizeof *to, rows, cudaMemcpyDeviceToDevice, cuda_of(backend)->stream),
                      "copying part of a matrix", err);
}

static int cuda_multiply(struct backend *backend, const struct matrix_product *p, struct plim_err *err)
{
    struct product product = {
        .transpose_a = p->transpose_a,
        .m = p->m,
        .n = p->n,
        .k = p->k,
        .alpha = p->alpha,
        .beta = p->beta,
        .a = p->a,
        .b = p->b,
        .c = p->c,
        .a_stride = p->a_stride,
        .b_stride = p->b_stride,
        .c_stride = p->c_stride,
    };
    void *workspace = plim_pool_alloc(backend->pool, PLIM_FAST, PLIM_TAG_WORKSPACE, CUDA_BLAS_WORKSPACE_BYTES, err);
    int rc = workspace ? quantize_product(backend, workspace, &product, err) : -1;
    plim_pool_free(backend->pool, workspace);
    return rc;
}

static int cuda_wait(struct backend *backend, struct plim_err *err)
{
    return cuda_check(cudaStreamSynchronize(cuda_of(backend)->stream), "waiting for the quantizer's work", err);
}

const struct quantize_ops cuda_quantize_ops = {
    .hessian_add = cuda_hessian_add,
    .hessian_scale = cuda_hessian_scale,
    .hessian_permute = cuda_hessian_permute,
    .cholesky = cuda_cholesky,
    .invert_and_reverse = cuda_invert_and_reverse,
    .gather_weights = cuda_gather_weights,
    .scale_search = cuda_scale_search,
    .fit_scales = cuda_fit_scales,
    .quantise_rows = cuda_quantise_rows,
    .spread_errors = cuda_spread_errors,
    .pack_group = cuda_pack_group,
    .multiply = cuda_multiply,
    .divergence = cuda_divergence,
    .wait = cuda_wait,
    .hessian_bytes = cuda_hessian_bytes,
    .order_bytes = cuda_order_bytes,
    .cholesky_bytes = cuda_factor_bytes,
    .invert_bytes = cuda_factor_bytes,
    .gather_bytes = cuda_gather_bytes,
    .search_bytes = cuda_search_bytes,
    .spread_bytes = cuda_spread_bytes,
};
