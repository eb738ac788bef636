#ifndef PLIM_CPU_BLAS_H
#define PLIM_CPU_BLAS_H

/*
 * OpenBLAS, the little that we need of it.
 *
 * Concurrency comes from our own team of threads: each calls single-threaded sgemm on its own columns. OpenBLAS
 * supports that when its own thread count is 1; blas_serial_begin/end set and restore it around such a stretch.
 *
 * Memory that the pool does not see: for each thread that is inside sgemm at once, OpenBLAS maps a packing buffer and
 * keeps it. Debian's 0.3.21 maps 128 MiB each, of which a call touches what it packs: some 1.2 MiB of W and, for each
 * row of x, 1.5 KiB (384 columns). Measured with 2 threads: 2 MiB resident at 512 rows, 6 MiB at 2048. Loading the
 * library starts one idle thread for each further core.
 */

#include <stddef.h>

/*
 * C [m, n] = alpha A [m, k] B + beta C, all row-major fp32. B is [k, n], or [n, k] with b_transposed. Strides in
 * elements. Call it between blas_serial_begin and blas_serial_end, from any number of threads.
 */
struct blas_gemm {
    size_t m, n, k;
    float alpha, beta;
    const float *a;
    size_t a_stride;
    const float *b;
    size_t b_stride;
    int b_transposed;
    float *c;
    size_t c_stride;
};
void blas_gemm(const struct blas_gemm *gemm);

/* Not reentrant; the token restores what was set before. */
int blas_serial_begin(void);
void blas_serial_end(int token);

/* "OpenBLAS 0.3.21 ... DYNAMIC_ARCH" and the core type that it chose ("Haswell"). */
void blas_describe(char *library, size_t library_size, char *core, size_t core_size);

#endif
