/*
 * Time of attention and of the small operations at the shapes of Llama-3-8B, the best and the median of several runs.
 * A developer's benchmark, not a test: bench_attention [threads [isa]]
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "threads.h"

enum { HEADS = 32, KV_HEADS = 8, HEAD_DIM = 128, CONTEXT = 8192, LARGEST_ROWS = 2048, RUNS = 15 };

static struct backend backend;

static void *filled(size_t bytes)
{
    unsigned char *p = plim_pool_alloc(backend.pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, bytes, &(struct plim_err){ 0 });
    if (!p)
        exit(1);
    /* 0x3333 is 0.23 as fp16, 0x33333333 is 4e-8 as fp32: no special values anywhere. */
    memset(p, 0x33, bytes);
    return p;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void report(const char *name, double *ms, double giga, const char *unit)
{
    qsort(ms, RUNS, sizeof *ms, by_value);
    printf("%-34s best %9.3f ms  median %9.3f ms   %8.1f %s\n", name, ms[0], ms[RUNS / 2], giga / ms[0] * 1e3, unit);
}

static void attention(const float *q, const uint16_t *k, const uint16_t *v, size_t past, size_t rows, float *out)
{
    const struct attention_shape shape = { HEADS, KV_HEADS, HEAD_DIM, 0.0883883f, 0, 0 };
    struct plim_err err = PLIM_ERR_INIT;
    double ms[RUNS];
    char name[80];

    for (int i = 0; i < RUNS; i++) {
        uint64_t start = plim_now_ns();
        if (backend.ops->attention(&backend, &shape, q, k, v, past, rows, out, &err) < 0)
            exit(1);
        ms[i] = (double)(plim_now_ns() - start) * 1e-6;
    }
    snprintf(name, sizeof name, "attention, %zu rows at %zu", rows, past);
    double keys = (double)rows * (double)past + (double)rows * (double)(rows + 1) / 2;
    if (rows == 1)
        report(name, ms, keys * 2 * KV_HEADS * HEAD_DIM * 2 * 1e-9, "GB/s of cache");
    else
        report(name, ms, keys * HEADS * HEAD_DIM * 4 * 1e-9, "GFLOP/s");
}

int main(int argc, char **argv)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_parameters parameters;
    struct plim_pool *pool = NULL;
    struct threads *threads = NULL;
    int count = argc > 1 ? atoi(argv[1]) : plim_cpu_core_count();

    if (argc > 2)
        setenv("PLIMSOLL_ISA", argv[2], 1);
    plim_parameters_default(&parameters);
    parameters.count[PLIM_CPU_THREADS] = count;
    if (plim_pool_open(&pool, NULL, &err) < 0 || threads_open(&threads, count, &err) < 0 ||
        backend_open(&backend, "cpu", pool, threads, &parameters, &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }

    size_t q_floats = (size_t)LARGEST_ROWS * HEADS * HEAD_DIM, kv = (size_t)CONTEXT * KV_HEADS * HEAD_DIM;
    float *q = filled(q_floats * sizeof *q), *out = filled(q_floats * sizeof *out);
    uint16_t *k = filled(kv * sizeof *k), *v = filled(kv * sizeof *v);
    attention(q, k, v, 511, 1, out);
    attention(q, k, v, 4095, 1, out);
    attention(q, k, v, 4092, 4, out);
    attention(q, k, v, 4080, 16, out);
    attention(q, k, v, 0, 128, out);
    attention(q, k, v, 0, 512, out);
    attention(q, k, v, 0, 2048, out);

    static const size_t sizes[] = { 14336, 14336 * 128 };
    for (size_t s = 0; s < 2; s++) {
        double act[RUNS], norm[RUNS];
        for (int i = 0; i < RUNS; i++) {
            uint64_t start = plim_now_ns();
            backend.ops->act_mul(&backend, ACTIVATION_SILU, q, out, sizes[s], &err);
            uint64_t middle = plim_now_ns();
            backend.ops->rms_norm(&backend, q, out, 0, 1e-5, sizes[s] / 2048, 2048, q, &err);
            act[i] = (double)(middle - start) * 1e-6;
            norm[i] = (double)(plim_now_ns() - middle) * 1e-6;
        }
        printf("%zu elements:\n", sizes[s]);
        report("silu_mul", act, (double)sizes[s] * 1e-9, "Gelement/s");
        report("rms_norm", norm, (double)sizes[s] * 1e-9, "Gelement/s");
    }

    plim_pool_free(pool, q);
    plim_pool_free(pool, out);
    plim_pool_free(pool, k);
    plim_pool_free(pool, v);
    backend_close(&backend);
    threads_close(threads);
    return plim_pool_close(pool) == 0 ? 0 : 1;
}
