/*
 * A developer's benchmark of the quantizer's operations on the CPU; prints figures, asserts nothing. Not part of the tests.
 *
 *     bench_quantize [K] [N] [threads] [rounds]        default: 4096 4096 2 5
 *
 * Hessian and Cholesky against OpenBLAS's own ssyrk, spotrf and strtri with as many threads on the same operands, by turns;
 * then what is left of GPTQ without the product that spreads errors, which is 3 N / K Cholesky factors of arithmetic.
 * Medians, and the median of the rounds' ratios. On a machine with other work, BENCH_CPU_TIME=1 with one thread counts
 * processor time instead.
 */

#include <cblas.h>
#include <f77blas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend.h"
#include "plimsoll/clock.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "quantize_ops.h"
#include "threads.h"

enum { PIECE = 256, GROUP = 128, BITS = 4, MAX_ROUNDS = 64 };

struct bench {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
    const struct quantize_ops *ops;
    size_t k, n;
    int thread_count;
    float *x, *h, *theirs, *w, *errors;
    uint8_t *codes, *levels;
};

enum step { OUR_SYRK, THEIR_SYRK, OUR_CHOLESKY, THEIR_CHOLESKY, OUR_INVERSE, THEIR_INVERSE, SEARCH, QUANTISE, STEPS };

static void check(bool fine, const struct plim_err *err)
{
    if (!fine) {
        fprintf(stderr, "bench_quantize: %s\n", err && err->kind != PLIM_ERR_NONE ? err->message : "out of memory");
        exit(1);
    }
}

static float *floats(size_t count)
{
    float *x = calloc(count, sizeof *x);
    check(x != NULL, NULL);
    return x;
}

static void bench_open(struct bench *b)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    char text[32];

    check(plim_pool_open(&b->pool, NULL, &err) == 0, &err);
    plim_parameters_default(&b->parameters);
    snprintf(text, sizeof text, "%d", b->thread_count);
    check(plim_parameters_set(&b->parameters, "cpu_threads", text, &err) == 0, &err);
    check(plim_parameters_resolve(&b->parameters, &err) == 0, &err);
    check(threads_open(&b->threads, b->thread_count, &err) == 0, &err);
    check(backend_open(&b->backend, "cpu", b->pool, b->threads, &b->parameters, &err) == 0, &err);
    b->ops = backend_quantize_ops("cpu");
    b->x = floats(PIECE * b->k);
    b->h = floats(b->k * b->k);
    b->theirs = floats(b->k * b->k);
    b->w = floats(b->k * b->n);
    b->errors = floats(GROUP * b->n);
    b->codes = malloc(GROUP * b->n);
    b->levels = malloc(b->n);
    check(b->codes && b->levels, NULL);
    plim_random_seed(&random, 1, 0);
    for (size_t i = 0; i < PIECE * b->k; i++)
        b->x[i] = (float)plim_random_normal(&random);
}

/* A diagonally dominant lower triangle: the same factor for both. */
static void set_matrix(const struct bench *b, float *h)
{
    for (size_t i = 0; i < b->k; i++) {
        for (size_t j = 0; j < i; j++)
            h[i * b->k + j] = 0.5f / (float)(1 + i - j);
        h[i * b->k + i] = 8.0f;
    }
}

static uint64_t now_ns(void)
{
    struct timespec cpu;
    if (!getenv("BENCH_CPU_TIME"))
        return plim_now_ns();
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
}

static double since_ms(uint64_t start)
{
    return (double)(now_ns() - start) / 1e6;
}

static void time_syrk(struct bench *b, double ms[STEPS])
{
    struct plim_err err = PLIM_ERR_INIT;
    blasint k = (blasint)b->k;

    uint64_t start = now_ns();
    check(b->ops->hessian_add(&b->backend, b->h, b->x, PIECE, b->k, &err) == 0, &err);
    ms[OUR_SYRK] = since_ms(start);
    openblas_set_num_threads(b->thread_count);
    start = now_ns();
    cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, k, PIECE, 1.0f, b->x, k, 1.0f, b->theirs, k);
    ms[THEIR_SYRK] = since_ms(start);
    openblas_set_num_threads(1);
}

static void time_factor(struct bench *b, double ms[STEPS])
{
    struct plim_err err = PLIM_ERR_INIT;
    char upper[] = "U", non_unit[] = "N";
    blasint k = (blasint)b->k, info = 0;

    set_matrix(b, b->h);
    uint64_t start = now_ns();
    check(b->ops->cholesky(&b->backend, b->h, b->k, &err) == 0, &err);
    ms[OUR_CHOLESKY] = since_ms(start);
    start = now_ns();
    check(b->ops->invert_and_reverse(&b->backend, b->h, b->k, &err) == 0, &err);
    ms[OUR_INVERSE] = since_ms(start);
    set_matrix(b, b->theirs);
    openblas_set_num_threads(b->thread_count);
    start = now_ns();
    spotrf_(upper, &k, b->theirs, &k, &info);
    ms[THEIR_CHOLESKY] = since_ms(start);
    start = now_ns();
    strtri_(upper, non_unit, &k, b->theirs, &k, &info);
    ms[THEIR_INVERSE] = since_ms(start);
    openblas_set_num_threads(1);
}

static void time_groups(struct bench *b, double ms[STEPS])
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_random random;
    struct group_scales scales;

    plim_random_seed(&random, 2, 0);
    for (size_t i = 0; i < b->k * b->n; i++)
        b->w[i] = (float)((int32_t)plim_random_u64(&random)) * 0x1p-31f;
    ms[SEARCH] = ms[QUANTISE] = 0;
    for (size_t first = 0; first < b->k; first += GROUP) {
        size_t rows = plim_min((size_t)GROUP, b->k - first);
        const float *u = b->h + first * b->k + first;
        float *w = b->w + first * b->n;
        uint64_t start = now_ns();
        check(b->ops->fit_scales(&b->backend, w, rows, b->n, BITS, u, b->k, b->levels, &scales, &err) == 0, &err);
        ms[SEARCH] += since_ms(start);
        start = now_ns();
        check(b->ops->quantise_rows(&b->backend, w, rows, b->n, BITS, b->levels, &scales, u, b->k, b->codes, b->errors,
                                    &err) == 0, &err);
        ms[QUANTISE] += since_ms(start);
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Of value(round), or of the rounds' ratios when `over` is a step. */
static double median(double (*ms)[STEPS], int rounds, int step, int over)
{
    double values[MAX_ROUNDS];
    for (int r = 0; r < rounds; r++)
        values[r] = over < 0 ? ms[r][step] : ms[r][over] / ms[r][step];
    qsort(values, (size_t)rounds, sizeof *values, compare_doubles);
    return values[rounds / 2];
}

static void print_pair(double (*ms)[STEPS], int rounds, const char *name, double gflop, enum step ours, enum step theirs)
{
    double a = median(ms, rounds, (int)ours, -1), b = median(ms, rounds, (int)theirs, -1);
    printf("%-10s ours %9.1f ms %6.1f GFLOP/s   OpenBLAS %9.1f ms %6.1f GFLOP/s   %4.0f%% of its rate\n", name, a,
           gflop / a * 1e3, b, gflop / b * 1e3, 100 * median(ms, rounds, (int)ours, (int)theirs));
}

int main(int argc, char **argv)
{
    struct bench b = {
        .k = argc > 1 ? (size_t)atol(argv[1]) : 4096,
        .n = argc > 2 ? (size_t)atol(argv[2]) : 4096,
        .thread_count = argc > 3 ? atoi(argv[3]) : 2,
    };
    static double ms[MAX_ROUNDS][STEPS];
    int rounds = argc > 4 ? atoi(argv[4]) : 5;

    if (b.k == 0 || b.k % 32 != 0 || b.k > 65536 || b.n == 0 || b.n % 32 != 0 || b.thread_count < 1 || rounds < 1 ||
        rounds > MAX_ROUNDS) {
        fprintf(stderr, "usage: bench_quantize [K] [N] [threads] [rounds]; K and N are multiples of 32\n");
        return 2;
    }
    bench_open(&b);
    for (int r = 0; r < rounds; r++) {
        time_syrk(&b, ms[r]);
        time_factor(&b, ms[r]);
        time_groups(&b, ms[r]);
    }
    double k = (double)b.k;
    printf("K %zu, N %zu, %d threads, %d rounds\n", b.k, b.n, b.thread_count, rounds);
    print_pair(ms, rounds, "Hessian", k * k * PIECE / 1e9, OUR_SYRK, THEIR_SYRK);
    print_pair(ms, rounds, "Cholesky", k * k * k / 3e9, OUR_CHOLESKY, THEIR_CHOLESKY);
    print_pair(ms, rounds, "inverse", k * k * k / 3e9, OUR_INVERSE, THEIR_INVERSE);
    double search = median(ms, rounds, SEARCH, -1), quantise = median(ms, rounds, QUANTISE, -1);
    printf("search %.1f ms + rows %.1f ms = %.2f of our Cholesky's time\n", search, quantise,
           (search + quantise) / median(ms, rounds, OUR_CHOLESKY, -1));
    return 0;
}
