#include "blas.h"

#include <stdio.h>

#include <cblas.h>

void blas_gemm(const struct blas_gemm *g)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, g->b_transposed ? CblasTrans : CblasNoTrans, (blasint)g->m, (blasint)g->n,
                (blasint)g->k, g->alpha, g->a, (blasint)g->a_stride, g->b, (blasint)g->b_stride, g->beta, g->c,
                (blasint)g->c_stride);
}

int blas_serial_begin(void)
{
    int threads = openblas_get_num_threads();
    if (threads != 1)
        openblas_set_num_threads(1);
    return threads;
}

void blas_serial_end(int token)
{
    if (token != 1)
        openblas_set_num_threads(token);
}

void blas_describe(char *library, size_t library_size, char *core, size_t core_size)
{
    snprintf(library, library_size, "%s", openblas_get_config());
    snprintf(core, core_size, "%s", openblas_get_corename());
}
