/*
 * A developer's benchmark of linear layers; prints figures, asserts nothing. Not part of the tests.
 *
 *     bench_linear decode  [rows] [threads]    fused kernels: weight bytes a second against plain reads in the same run
 *     bench_linear prefill [rows] [threads]    chunks of several max_dq_size against OpenBLAS on ready fp32 weights
 *     bench_linear fused   [rows] [threads]    fused kernels against OpenBLAS, with the groups that models at 4 bits have
 *     bench_linear rows    [threads]           fused against chunked over rows: where dq_rows should be
 *     bench_linear dense   [rows] [threads]    stored dense weights
 *     bench_linear expand                      the dequantisers alone
 *
 * Cases are interleaved, forwards and backwards in turn, and medians are printed, so that drift of the machine hits all
 * alike. Packed weights are rotated over more memory than the last-level cache holds. On a machine with other work,
 * BENCH_CPU_TIME=1 with one thread counts processor time instead.
 */

#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "backend.h"
#include "cpu/blas.h"
#include "cpu/linear_internal.h"
#include "exl2.h"
#include "half.h"
#include "plimsoll/clock.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"
#include "threads.h"

enum { ROUNDS = 11, MAX_CASES = 64 };
static const size_t rotate_bytes = 192 * PLIM_MI;

static void *need(void *p)
{
    if (!p) {
        fprintf(stderr, "bench_linear: out of memory\n");
        exit(1);
    }
    return p;
}

static void check(int rc, const struct plim_err *err)
{
    if (rc < 0) {
        fprintf(stderr, "bench_linear: %s\n", err->message);
        exit(1);
    }
}

static double now_s(void)
{
    struct timespec cpu;
    if (!getenv("BENCH_CPU_TIME"))
        return (double)plim_now_ns() * 1e-9;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return (double)cpu.tv_sec + (double)cpu.tv_nsec * 1e-9;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare_doubles);
    return values[n / 2];
}

/* ---- the engine's side ---- */

struct rig {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
    struct plim_random random;
};

static void rig_open(struct rig *rig, int thread_count)
{
    struct plim_err err = PLIM_ERR_INIT;
    char text[32];

    check(plim_pool_open(&rig->pool, NULL, &err), &err);
    plim_parameters_default(&rig->parameters);
    snprintf(text, sizeof text, "%d", thread_count);
    check(plim_parameters_set(&rig->parameters, "cpu_threads", text, &err), &err);
    check(plim_parameters_resolve(&rig->parameters, &err), &err);
    check(threads_open(&rig->threads, thread_count, &err), &err);
    check(backend_open(&rig->backend, "cpu", rig->pool, rig->threads, &rig->parameters, &err), &err);
    plim_random_seed(&rig->random, 1, 0);
}

static float *random_floats(struct rig *rig, size_t n)
{
    float *x = need(malloc(n * sizeof *x));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)((int32_t)plim_random_u64(&rig->random)) * 0x1p-31f;
    return x;
}

/* Several copies of one matrix, more than caches hold. */
struct shape {
    const char *name;
    size_t in, out;
    struct exl2_layout layout;
};

static const struct shape shapes[] = {
    { "q,o  4@128", 4096, 4096, { 1, { { 4, 128, 1.0 } } } },
    { "k,v  4@128", 4096, 1024, { 1, { { 4, 128, 1.0 } } } },
    { "gate 4@128", 4096, 14336, { 1, { { 4, 128, 1.0 } } } },
    { "down 8@32+4@128", 14336, 4096, { 2, { { 8, 32, 0.05 }, { 4, 128, 0.95 } } } },
    { "head 8+6@128", 4096, 128256, { 2, { { 8, 128, 0.15 }, { 6, 128, 0.85 } } } },
    { "2@64", 4096, 14336, { 1, { { 2, 64, 1.0 } } } },
    { "3@128", 4096, 14336, { 1, { { 3, 128, 1.0 } } } },
    { "4@32", 4096, 14336, { 1, { { 4, 32, 1.0 } } } },
    { "5@128", 4096, 14336, { 1, { { 5, 128, 1.0 } } } },
    { "6@128", 4096, 14336, { 1, { { 6, 128, 1.0 } } } },
    { "8@128", 4096, 14336, { 1, { { 8, 128, 1.0 } } } },
};
enum { SHAPE_COUNT = sizeof shapes / sizeof *shapes, LLAMA_SHAPES = 5 };

struct copies {
    struct matrix *matrices;
    size_t count, next;
    size_t bytes;          /* codes and scales of one */
};

static void copies_make(struct copies *copies, struct rig *rig, const struct shape *shape, size_t at_least_bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t group_count = exl2_layout_groups(&shape->layout, shape->in, NULL);
    struct exl2_group *groups = need(malloc(group_count * sizeof *groups));
    exl2_layout_groups(&shape->layout, shape->in, groups);
    int16_t *q_groups = need(malloc(2 * group_count * sizeof *q_groups));
    uint16_t *scale_max = need(malloc(group_count * sizeof *scale_max));
    for (size_t g = 0; g < group_count; g++) {
        q_groups[2 * g] = (int16_t)groups[g].bits;
        q_groups[2 * g + 1] = (int16_t)groups[g].first_word;
        scale_max[g] = half_from_float(0.02f);
    }
    const struct exl2_group *last = &groups[group_count - 1];
    size_t word_rows = last->first_word + last->row_count * last->bits / 32;
    size_t words = word_rows * shape->out, scales = group_count * shape->out / 8;
    uint32_t *order = need(malloc(shape->in * sizeof *order));
    plim_random_permutation(&rig->random, order, shape->in);

    copies->bytes = (words + scales) * sizeof(uint32_t);
    copies->count = plim_max(1, plim_ceil_div(at_least_bytes, copies->bytes));
    copies->next = 0;
    copies->matrices = need(calloc(copies->count, sizeof *copies->matrices));
    for (size_t i = 0; i < copies->count; i++) {
        uint32_t *q_weight = need(malloc(words * sizeof *q_weight)), *q_scale = need(malloc(scales * sizeof *q_scale));
        for (size_t w = 0; w < words; w++)
            q_weight[w] = (uint32_t)plim_random_u64(&rig->random);
        for (size_t w = 0; w < scales; w++)
            q_scale[w] = (uint32_t)plim_random_u64(&rig->random);
        struct linear_source source = {
            .name = shape->name, .is_exl2 = true, .in_features = shape->in, .out_features = shape->out, .prescale = 1,
            .exl2 = { .name = shape->name, .q_weight = (int32_t *)q_weight, .word_rows = word_rows,
                      .out_features = shape->out, .q_scale = (int32_t *)q_scale, .group_count = group_count,
                      .q_scale_max = scale_max, .q_groups = q_groups, .q_invperm = (int32_t *)order,
                      .in_features = shape->in },
        };
        check(rig->backend.ops->matrix_init(&rig->backend, &copies->matrices[i], &source, &err), &err);
    }
}

static void linear(struct rig *rig, struct copies *copies, const float *x, size_t rows, float *y)
{
    struct plim_err err = PLIM_ERR_INIT;
    check(rig->backend.ops->linear(&rig->backend, &copies->matrices[copies->next++ % copies->count], x, rows, y, false,
                                   &err), &err);
}

/* ---- plain reads, the yardstick ---- */

struct reading {
    const uint64_t *words;
    uint64_t sums[64];
};

static void read_piece(void *context, size_t begin, size_t end, int thread)
{
    struct reading *reading = context;
    uint64_t sum[8] = { 0 };
    for (size_t i = begin; i < end; i += 8) {
        __builtin_prefetch(reading->words + i + 128);   /* across the 4 KiB borders where hardware prefetchers stop */
        for (size_t j = 0; j < 8; j++)
            sum[j] += reading->words[i + j];
    }
    for (size_t j = 1; j < 8; j++)
        sum[0] += sum[j];
    reading->sums[thread] += sum[0];
}

static void reading_make(struct reading *reading, size_t bytes)
{
    void *words = need(aligned_alloc(2 * PLIM_MI, bytes));
    madvise(words, bytes, MADV_HUGEPAGE);
    memset(words, 1, bytes);
    *reading = (struct reading){ .words = words };
}

static double read_gb_s(struct rig *rig, struct reading *reading, size_t bytes)
{
    double start = now_s();
    threads_run(rig->threads, bytes / 8, 4096, read_piece, reading);
    return (double)bytes / (now_s() - start) * 1e-9;
}

static void decode(int rows, int thread_count)
{
    struct rig rig;
    struct copies copies[SHAPE_COUNT];
    static double seconds[SHAPE_COUNT][ROUNDS], bandwidth[ROUNDS];
    struct reading reading;
    reading_make(&reading, 512 * PLIM_MI);

    rig_open(&rig, thread_count);
    float *x = random_floats(&rig, (size_t)rows * 14336), *y = need(malloc((size_t)rows * 128256 * sizeof *y));
    for (size_t s = 0; s < SHAPE_COUNT; s++)
        copies_make(&copies[s], &rig, &shapes[s], rotate_bytes);

    for (int round = -1; round < ROUNDS; round++) {
        double gb_s = read_gb_s(&rig, &reading, 512 * PLIM_MI);
        if (round >= 0)
            bandwidth[round] = gb_s;
        for (size_t i = 0; i < SHAPE_COUNT; i++) {
            size_t s = round % 2 ? SHAPE_COUNT - 1 - i : i;
            double start = now_s();
            for (size_t c = 0; c < copies[s].count; c++)
                linear(&rig, &copies[s], x, (size_t)rows, y);
            if (round >= 0)
                seconds[s][round] = (now_s() - start) / (double)copies[s].count;
        }
    }
    double read = median(bandwidth, ROUNDS);
    printf("%d threads, %d rows; plain reads %.1f GB/s (medians of %d)\n", thread_count, rows, read, ROUNDS);
    for (size_t s = 0; s < SHAPE_COUNT; s++) {
        double t = median(seconds[s], ROUNDS), gb_s = (double)copies[s].bytes / t * 1e-9;
        printf("%-16s %5zu x %6zu  %8.1f us  %5.1f GB/s  %3.0f %% of reads  %6.1f GMAC/s\n", shapes[s].name,
               shapes[s].in, shapes[s].out, t * 1e6, gb_s, 100 * gb_s / read,
               (double)rows * (double)(shapes[s].in * shapes[s].out) / t * 1e-9);
    }
}

/* ---- many rows ---- */

static void prefill(int rows, int thread_count)
{
    static const size_t limits[] = { (size_t)512 << 20, 64 << 20, 16 << 20, 4 << 20, 1 << 20, 512 << 10, 256 << 10,
                                     64 << 10 };
    enum { LIMITS = sizeof limits / sizeof *limits, FUSED = LIMITS, SGEMM_KN, SGEMM_NK, CASES, PREFILL_ROUNDS = 7 };
    struct rig rig;
    char library[128], core[64];

    rig_open(&rig, thread_count);
    blas_describe(library, sizeof library, core, sizeof core);
    openblas_set_num_threads(thread_count);
    printf("%d threads, %d rows; %s, core %s\n", thread_count, rows, library, core);
    for (size_t s = 0; s < LLAMA_SHAPES - 1; s++) {
        static double seconds[CASES][PREFILL_ROUNDS];
        size_t in = shapes[s].in, out = shapes[s].out;
        struct copies copies;
        copies_make(&copies, &rig, &shapes[s], 1);
        float *x = random_floats(&rig, (size_t)rows * in), *w = random_floats(&rig, in * out);
        float *y = need(malloc((size_t)rows * out * sizeof *y));

        for (int round = -1; round < PREFILL_ROUNDS; round++) {
            for (int i = 0; i < CASES; i++) {
                int c = round % 2 ? CASES - 1 - i : i;
                double start = now_s();
                if (c == SGEMM_KN) {
                    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, (int)out, (int)in, 1, x, (int)in, w,
                                (int)out, 0, y, (int)out);
                } else if (c == SGEMM_NK) {
                    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, (int)out, (int)in, 1, x, (int)in, w,
                                (int)in, 0, y, (int)out);
                } else {
                    rig.parameters.count[PLIM_DQ_ROWS] = c == FUSED ? 4096 : 0;
                    if (c != FUSED)
                        rig.parameters.count[PLIM_MAX_DQ_SIZE] = (int64_t)limits[c];
                    linear(&rig, &copies, x, (size_t)rows, y);
                }
                if (round >= 0)
                    seconds[c][round] = now_s() - start;
            }
        }
        double flop = 2.0 * rows * (double)(in * out);
        double kn = median(seconds[SGEMM_KN], PREFILL_ROUNDS), nk = median(seconds[SGEMM_NK], PREFILL_ROUNDS);
        double ready = kn < nk ? kn : nk;
        printf("%zu x %zu: sgemm on ready fp32 [K,N] %.1f GFLOP/s, [N,K] %.1f GFLOP/s\n", in, out, flop / kn * 1e-9,
               flop / nk * 1e-9);
        for (int c = 0; c < LIMITS; c++) {
            struct chunk_plan plan = chunk_plan(in, out, limits[c]);
            double t = median(seconds[c], PREFILL_ROUNDS);
            printf("  max_dq_size %9zu  chunk %5zu x %5zu  %8.2f ms  %6.1f GFLOP/s  %5.1f %% of ready\n", limits[c],
                   plan.chunk_rows, plan.chunk_columns, t * 1e3, flop / t * 1e-9, 100 * ready / t);
        }
        double fused = median(seconds[FUSED], PREFILL_ROUNDS);
        printf("  fused for all rows                        %8.2f ms  %6.1f GFLOP/s  %5.1f %% of ready\n", fused * 1e3,
               flop / fused * 1e-9, 100 * ready / fused);
        free(x);
        free(w);
        free(y);
    }
}

/* Layouts of the synthetic models, and of attention and MLPs at 4 bits. */
static const struct shape model_shapes[] = {
    { "q,o  4+3@128", 4096, 4096, { 2, { { 4, 128, 0.125 }, { 3, 128, 0.875 } } } },
    { "k,v  4+3@128", 4096, 1024, { 2, { { 4, 128, 0.125 }, { 3, 128, 0.875 } } } },
    { "gate 4@32", 4096, 14336, { 1, { { 4, 32, 1.0 } } } },
    { "down 8+4@32", 14336, 4096, { 2, { { 8, 32, 0.05 }, { 4, 32, 0.95 } } } },
    { "gate 4@32", 2048, 5632, { 1, { { 4, 32, 1.0 } } } },
    { "6@128", 4096, 4096, { 1, { { 6, 128, 1.0 } } } },
};

static void fused_alone(int rows, int thread_count)
{
    enum { SHAPES = sizeof model_shapes / sizeof *model_shapes, FUSED_ROUNDS = 5 };
    struct rig rig;
    rig_open(&rig, thread_count);
    rig.parameters.count[PLIM_DQ_ROWS] = 4096;
    openblas_set_num_threads(thread_count);

    for (size_t s = 0; s < SHAPES; s++) {
        double fused[FUSED_ROUNDS], ready[FUSED_ROUNDS];
        size_t in = model_shapes[s].in, out = model_shapes[s].out;
        struct copies copies;
        copies_make(&copies, &rig, &model_shapes[s], 1);
        float *x = random_floats(&rig, (size_t)rows * in), *w = random_floats(&rig, in * out);
        float *y = need(malloc((size_t)rows * out * sizeof *y));
        for (int round = -1; round < FUSED_ROUNDS; round++) {
            double start = now_s();
            linear(&rig, &copies, x, (size_t)rows, y);
            double middle = now_s();
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, (int)out, (int)in, 1, x, (int)in, w, (int)out,
                        0, y, (int)out);
            if (round >= 0) {
                fused[round] = middle - start;
                ready[round] = now_s() - middle;
            }
        }
        double flop = 2.0 * rows * (double)(in * out) * 1e-9;
        double t = median(fused, FUSED_ROUNDS), blas = median(ready, FUSED_ROUNDS);
        printf("%-14s %5zu x %5zu  fused %6.1f GFLOP/s  sgemm %6.1f GFLOP/s  %5.1f %%\n", model_shapes[s].name, in, out,
               flop / t, flop / blas, 100 * blas / t);
        free(x);
        free(w);
        free(y);
    }
}

static void row_sweep(int thread_count)
{
    static const size_t row_counts[] = { 1, 8, 32, 128, 512 };
    enum { COUNTS = sizeof row_counts / sizeof *row_counts, SWEEP_ROUNDS = 3 };
    struct rig rig;
    rig_open(&rig, thread_count);
    rig.parameters.count[PLIM_MAX_DQ_SIZE] = 1 << 20;

    static const size_t chosen[] = { 0, 2, 5, 6, 10 };
    setvbuf(stdout, NULL, _IONBF, 0);
    for (size_t c = 0; c < sizeof chosen / sizeof *chosen; c++) {
        size_t s = chosen[c];
        struct copies copies;
        copies_make(&copies, &rig, &shapes[s], 1);
        float *x = random_floats(&rig, 512 * shapes[s].in), *y = need(malloc(512 * shapes[s].out * sizeof *y));
        printf("%s %zu x %zu, GMAC/s fused / chunked:", shapes[s].name, shapes[s].in, shapes[s].out);
        for (size_t i = 0; i < COUNTS; i++) {
            double seconds[2][SWEEP_ROUNDS], rate[2];
            for (int round = 0; round < SWEEP_ROUNDS; round++) {
                for (int path = 0; path < 2; path++) {
                    rig.parameters.count[PLIM_DQ_ROWS] = path ? 0 : 4096;
                    double start = now_s();
                    linear(&rig, &copies, x, row_counts[i], y);
                    seconds[path][round] = now_s() - start;
                }
            }
            for (int path = 0; path < 2; path++)
                rate[path] = (double)(row_counts[i] * shapes[s].in * shapes[s].out) /
                             median(seconds[path], SWEEP_ROUNDS) * 1e-9;
            printf("  %zu: %.0f/%.0f", row_counts[i], rate[0], rate[1]);
        }
        printf("\n");
        free(x);
        free(y);
    }
}

static void dense(int rows, int thread_count)
{
    struct rig rig;
    size_t in = 4096, out = 4096, bytes = in * out * sizeof(float), copies = 3;
    struct reading reading;
    reading_make(&reading, 512 * PLIM_MI);

    rig_open(&rig, thread_count);
    float *x = random_floats(&rig, (size_t)rows * in), *y = need(malloc((size_t)rows * out * sizeof *y));
    double bandwidth[ROUNDS];
    for (int round = 0; round < ROUNDS; round++)
        bandwidth[round] = read_gb_s(&rig, &reading, 512 * PLIM_MI);
    double read = median(bandwidth, ROUNDS);
    printf("%d threads, %d rows; plain reads %.1f GB/s\n", thread_count, rows, read);
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_BF16; dtype++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct matrix matrices[3];
        double seconds[ROUNDS], load = 0;
        for (size_t c = 0; c < copies; c++) {
            float *w = random_floats(&rig, in * out);
            for (size_t k = 0; dtype != DTYPE_F32 && k < in * out; k++)
                ((uint16_t *)(void *)w)[k] = dtype == DTYPE_F16 ? half_from_float(w[k]) : bfloat_from_float(w[k]);
            struct linear_source source = { .name = "dense", .dtype = dtype, .weight = w, .in_features = in,
                                            .out_features = out, .prescale = 1 };
            double start = now_s();
            check(rig.backend.ops->matrix_init(&rig.backend, &matrices[c], &source, &err), &err);
            load = now_s() - start;
        }
        for (int round = -1; round < ROUNDS; round++) {
            double start = now_s();
            for (size_t c = 0; c < copies; c++)
                check(rig.backend.ops->linear(&rig.backend, &matrices[c], x, (size_t)rows, y, false, &err), &err);
            if (round >= 0)
                seconds[round] = (now_s() - start) / (double)copies;
        }
        double t = median(seconds, ROUNDS), gb = (double)(bytes / 4 * dtype_bytes(dtype)) * 1e-9;
        printf("%-5s %8.1f us  %5.1f GB/s  %3.0f %% of reads  %6.1f GMAC/s; NaN scan %.1f GB/s\n", dtype_name(dtype),
               t * 1e6, gb / t, 100 * gb / t / read, (double)rows * (double)(in * out) / t * 1e-9, gb / load);
    }
}

static void expand(void)
{
    enum { N = 1024, K = 256 };
    static uint32_t words[K * 8 / 32 * N], scales[N / 8];
    static float out[K * N];
    static const unsigned widths[] = { 2, 3, 4, 5, 6, 8 };
    for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
        if (!plim_isa_supported(isa))
            continue;
        printf("%s, elements/ns of one thread:", plim_isa_name(isa));
        for (size_t w = 0; w < 6; w++) {
            double seconds[ROUNDS];
            for (int round = 0; round < ROUNDS; round++) {
                double start = now_s();
                for (size_t k = 0; k < K; k += 128)
                    linear_kernels(isa)->dequantise(&(struct dequant_block){
                        .bits = widths[w], .rows = 128, .columns = N, .words = words + k * widths[w] / 32 * N,
                        .word_stride = N, .scale_codes = scales, .scale_unit = 0.01f, .out = out + k * N,
                        .out_stride = N });
                seconds[round] = now_s() - start;
            }
            printf("  %u bits %.2f", widths[w], N * K / median(seconds, ROUNDS) * 1e-9);
        }
        printf("\n");
    }
}

int main(int argc, char **argv)
{
    const char *verb = argc > 1 ? argv[1] : "";
    int first = argc > 2 ? atoi(argv[2]) : 0, second = argc > 3 ? atoi(argv[3]) : plim_cpu_core_count();

    if (strcmp(verb, "decode") == 0)
        decode(first > 0 ? first : 1, second);
    else if (strcmp(verb, "prefill") == 0)
        prefill(first > 0 ? first : 512, second);
    else if (strcmp(verb, "fused") == 0)
        fused_alone(first > 0 ? first : 512, second);
    else if (strcmp(verb, "rows") == 0)
        row_sweep(first > 0 ? first : plim_cpu_core_count());
    else if (strcmp(verb, "dense") == 0)
        dense(first > 0 ? first : 1, second);
    else if (strcmp(verb, "expand") == 0)
        expand();
    else
        fprintf(stderr, "usage: bench_linear decode|prefill|fused|rows|dense|expand [rows] [threads]\n");
    return 0;
}
