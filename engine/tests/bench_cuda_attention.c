/*
 * A developers' benchmark of attention on CUDA, 32 heads of 128 over 8 key/value heads: microseconds by cache type, rows and
 * tokens before them.
 *
 *     build/release/tests/bench_cuda_attention [CACHE ...]        for example fp16 q8
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "bench_cuda_must.h"
#include "plimsoll/clock.h"
#include "plimsoll/units.h"
#include "threads.h"

static const struct attention_shape shape = { 32, 8, 128, 0.0883883f, 0, 0 };

struct rig {
    struct plim_pool *pool;
    struct threads *threads;
    struct plim_parameters parameters;
    struct backend backend;
    float *q;
    char *keys, *values;
};

#define MOST_ROWS 2048
#define MOST_KEYS (32768 + MOST_ROWS)

static void *device_random(struct rig *rig, size_t bytes, int kind)
{
    char *host = malloc(bytes), *device = plim_pool_alloc(rig->pool, PLIM_FAST, PLIM_TAG_IO, bytes, &err);

    must(host && device ? 0 : -1);
    uint64_t x = 88172645463325252u;
    for (size_t i = 0; i < bytes / 4; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        float f = (float)(x >> 40) / (1 << 23) - 1.0f;
        uint32_t halves = 0x30003000u | ((uint32_t)x & 0x83ff83ffu);   /* fp16 of +-0.125 to 0.25, whatever it is read as */
        memcpy(host + 4 * i, kind ? (const void *)&halves : (const void *)&f, 4);
    }
    must(rig->backend.ops->upload(&rig->backend, device, host, bytes, &err));
    free(host);
    return device;
}

static double once_us(struct rig *rig, size_t past, size_t rows)
{
    enum { CALLS = 20, REPEATS = 5 };
    double best = 1e30;
    float sink;

    for (int r = 0; r < REPEATS; r++) {
        must(rig->backend.ops->download(&rig->backend, &sink, rig->q, sizeof sink, &err));
        uint64_t start = plim_now_ns();
        for (int i = 0; i < CALLS; i++)
            must(rig->backend.ops->attention(&rig->backend, &shape, rig->q, rig->keys, rig->values, past, rows, rig->q, &err));
        must(rig->backend.ops->download(&rig->backend, &sink, rig->q, sizeof sink, &err));
        double us = (double)(plim_now_ns() - start) * 1e-3 / CALLS;
        best = us < best ? us : best;
    }
    return best;
}

static void bench(const char *cache)
{
    static const size_t pasts[] = { 0, 2048, 8192, 32768 };
    static const size_t rows[] = { 1, 4, 8, 16, 32, 64, 128, 512, 2048 };
    struct plim_pool_memory memory;
    struct plim_pool_options options = { .fast_memory = &memory };
    struct rig rig = { 0 };

    plim_parameters_default(&rig.parameters);
    must(plim_parameters_set(&rig.parameters, "kv_cache", cache, &err));
    must(plim_parameters_set(&rig.parameters, "backend", "cuda", &err));
    must(plim_parameters_resolve(&rig.parameters, &err));
    must(backend_memory("cuda", &rig.parameters, &memory) ? 0 : -1);
    must(plim_pool_open(&rig.pool, &options, &err));
    must(threads_open(&rig.threads, 1, &err));
    must(backend_open(&rig.backend, "cuda", rig.pool, rig.threads, &rig.parameters, &err));
    size_t k = backend_kv_format(&rig.parameters, KV_KEYS, shape.kv_head_count, shape.head_dim).row_bytes;
    size_t v = backend_kv_format(&rig.parameters, KV_VALUES, shape.kv_head_count, shape.head_dim).row_bytes;
    rig.q = device_random(&rig, MOST_ROWS * shape.head_count * shape.head_dim * sizeof *rig.q, 0);
    rig.keys = device_random(&rig, MOST_KEYS * k, 1);
    rig.values = device_random(&rig, MOST_KEYS * v, 1);
    printf("%-5s rows ", cache);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        printf("%9zu", rows[r]);
    printf("\n");
    for (size_t p = 0; p < sizeof pasts / sizeof *pasts; p++) {
        printf("past %5zu ", pasts[p]);
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            printf("%9.1f", once_us(&rig, pasts[p], rows[r]));
        printf("\n");
    }
    plim_pool_free(rig.pool, rig.q);
    plim_pool_free(rig.pool, rig.keys);
    plim_pool_free(rig.pool, rig.values);
    backend_close(&rig.backend);
    threads_close(rig.threads);
    plim_pool_close(rig.pool);
}

int main(int argc, char **argv)
{
    static const char *const all[] = { "fp16", "q8", "q6", "q4" };

    for (int i = 1; i < argc; i++)
        bench(argv[i]);
    for (size_t i = 0; argc == 1 && i < sizeof all / sizeof *all; i++)
        bench(all[i]);
    return 0;
}
