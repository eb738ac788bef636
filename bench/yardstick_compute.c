/* Arithmetic: multiply-adds in registers, and BLAS sgemm. */

#include <cblas.h>
#include <stdlib.h>

#include "heap.h"
#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "plimsoll/units.h"
#include "yardstick.h"
#include "yardstick_threads.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* ---- multiply-adds ----
 *
 * Twelve independent chains cover latency (4 or 5 cycles) times ports (2) of current processors. x -> x * a + b with
 * a = 0.5 stays bounded. */

#define FMA_CHAINS 12
#define FMA_STEPS 20000

static _Thread_local volatile float fma_sink;

static size_t fma_portable(void)
{
    float x[FMA_CHAINS][4];

    for (int c = 0; c < FMA_CHAINS; c++)
        for (int k = 0; k < 4; k++)
            x[c][k] = (float)c;
    for (int step = 0; step < FMA_STEPS; step++)
        for (int c = 0; c < FMA_CHAINS; c++)
            for (int k = 0; k < 4; k++)
                x[c][k] = x[c][k] * 0.5f + 1.0f;
    for (int c = 0; c < FMA_CHAINS; c++)
        fma_sink = x[c][c % 4];
    return (size_t)FMA_STEPS * FMA_CHAINS * 4 * 2;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static size_t fma_avx2(void)
{
    const __m256 half = _mm256_set1_ps(0.5f), one = _mm256_set1_ps(1.0f);
    __m256 x[FMA_CHAINS];

    for (int c = 0; c < FMA_CHAINS; c++)
        x[c] = _mm256_set1_ps((float)c);
    for (int step = 0; step < FMA_STEPS; step++) {
#pragma GCC unroll 12
        for (int c = 0; c < FMA_CHAINS; c++)
            x[c] = _mm256_fmadd_ps(x[c], half, one);
    }
    for (int c = 0; c < FMA_CHAINS; c++)
        fma_sink = _mm256_cvtss_f32(x[c]);
    return (size_t)FMA_STEPS * FMA_CHAINS * 8 * 2;
}

__attribute__((target("avx512f"))) static size_t fma_avx512(void)
{
    const __m512 half = _mm512_set1_ps(0.5f), one = _mm512_set1_ps(1.0f);
    __m512 x[FMA_CHAINS];

    for (int c = 0; c < FMA_CHAINS; c++)
        x[c] = _mm512_set1_ps((float)c);
    for (int step = 0; step < FMA_STEPS; step++) {
#pragma GCC unroll 12
        for (int c = 0; c < FMA_CHAINS; c++)
            x[c] = _mm512_fmadd_ps(x[c], half, one);
    }
    for (int c = 0; c < FMA_CHAINS; c++)
        fma_sink = _mm512_cvtss_f32(x[c]);
    return (size_t)FMA_STEPS * FMA_CHAINS * 16 * 2;
}
#endif

static size_t fma_best(void)
{
#if defined(__x86_64__)
    if (plim_isa_supported(PLIM_ISA_AVX512))
        return fma_avx512();
    if (plim_isa_supported(PLIM_ISA_AVX2))
        return fma_avx2();
#endif
    return fma_portable();
}

static void fma_pass(void *context, int thread)
{
    size_t *flops = context;
    size_t done = fma_best();

    if (thread == 0)
        *flops = done;
}

int fma_yardstick_measure(int threads, uint64_t duration_ns, double *flops_per_s, struct plim_err *err)
{
    size_t flops = 0;
    double pass_ns;

    if (timed_passes(threads, duration_ns, fma_pass, &flops, &pass_ns, err) < 0)
        return -1;
    *flops_per_s = (double)flops * threads / pass_ns * 1e9;
    return 0;
}

/* ---- sgemm ---- */

static float *operand(size_t rows, size_t columns, struct plim_err *err)
{
    float *values = heap_calloc(rows * columns, sizeof *values, err);

    /* Any ordinary numbers: subnormals or one value everywhere would not be what a model multiplies. */
    for (size_t i = 0; values && i < rows * columns; i++)
        values[i] = (float)(i % 251) / 251.0f - 0.5f;
    return values;
}

int gemm_yardstick_open(struct gemm_yardstick *gemm, size_t rows, const struct gemm_shape *shapes, size_t shape_count,
                        int threads, struct plim_err *err)
{
    size_t in = 1, out = 1, weight = 1;

    *gemm = (struct gemm_yardstick){ .rows = rows, .shapes = shapes, .shape_count = shape_count, .threads = threads };
    for (size_t i = 0; i < shape_count; i++) {
        in = plim_max(in, shapes[i].in);
        out = plim_max(out, shapes[i].out);
        weight = plim_max(weight, shapes[i].in * shapes[i].out);
    }
    gemm->x = operand(rows, in, err);
    gemm->w = operand(weight, 1, err);
    gemm->y = operand(rows, out, err);
    return gemm->x && gemm->w && gemm->y ? 0 : -1;
}

double gemm_yardstick_measure(struct gemm_yardstick *gemm)
{
    int threads_before = openblas_get_num_threads();
    double flops = 0, time_ns = 0;

    openblas_set_num_threads(gemm->threads);
    for (size_t i = 0; i < gemm->shape_count; i++) {
        const struct gemm_shape *s = &gemm->shapes[i];
        uint64_t start_ns = plim_now_ns();

        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)gemm->rows, (blasint)s->out, (blasint)s->in,
                    1.0f, gemm->x, (blasint)s->in, gemm->w, (blasint)s->out, 0.0f, gemm->y, (blasint)s->out);
        time_ns += (double)(plim_now_ns() - start_ns) * (double)s->times;
        flops += 2.0 * (double)gemm->rows * (double)s->in * (double)s->out * (double)s->times;
    }
    openblas_set_num_threads(threads_before);
    return time_ns > 0 ? flops / time_ns * 1e9 : 0;
}

void gemm_yardstick_close(struct gemm_yardstick *gemm)
{
    free(gemm->x);
    free(gemm->w);
    free(gemm->y);
    *gemm = (struct gemm_yardstick){ 0 };
}
