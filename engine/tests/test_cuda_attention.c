/* Attention and the KV cache on CUDA against their definitions, for every kind of cache, kernel and shape. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention_reference.h"
#include "cpu/kv_cache.h"
#include "half.h"
#include "test_cuda.h"

struct attention_case {
    struct attention_shape shape;
    size_t past, rows;
};

static const struct attention_case cases[] = {
    { { 8, 2, 64, 0.125f, 0, 0 }, 0, 1 },
    { { 8, 2, 128, 0.0883883f, 0, 0 }, 700, 1 },      /* split */
    { { 7, 1, 96, 0.1f, 0, 0 }, 130, 1 },
    { { 12, 1, 128, 0.0883883f, 0, 0 }, 64, 1 },      /* more than 8 vectors */
    { { 10, 2, 64, 0.125f, 30.0f, 0 }, 300, 3 },      /* soft cap, 15 vectors */
    { { 8, 2, 256, 0.0625f, 50.0f, 33 }, 260, 4 },    /* window */
    { { 2, 2, 80, 0.11f, 0, 0 }, 37, 1 },
    { { 8, 2, 128, 0.0883883f, 0, 0 }, 0, 97 },       /* prefill */
    { { 2, 2, 64, 0.125f, 0, 0 }, 131, 70 },
    { { 8, 2, 128, 0.0883883f, 0, 0 }, 1100, 17 },    /* split tiles */
    { { 3, 1, 80, 0.1f, 20.0f, 0 }, 311, 45 },
    { { 4, 2, 96, 0.1f, 0, 40 }, 77, 33 },
    { { 4, 2, 256, 0.0625f, 50.0f, 90 }, 260, 70 },
    { { 8, 1, 64, 0.125f, 0, 17 }, 5, 260 },
    { { 4, 1, 6, 0.4f, 0, 0 }, 11, 40 },              /* only the plain path takes these */
    { { 4, 2, 24, 0.2f, 30.0f, 0 }, 140, 20 },
    { { 4, 2, 32, 0.2f, 0, 50 }, 120, 70 },
    { { 4, 2, 16, 0.25f, 0, 1 }, 5, 20 },
    { { 8, 2, 128, 0.0883883f, 0, 0 }, 62, 70 },      /* a first row that sees all of a step but one key */
};
#define CASE_COUNT (sizeof cases / sizeof cases[0])

static const char *const caches[] = { "fp16", "fp32", "q8", "q6", "q4" };
#define CACHE_COUNT (sizeof caches / sizeof caches[0])

/* fp16 operands with fp32 sums: 3e-4 to 4e-4 everywhere, measured. The plain path is fp32 throughout. */
#define TOLERANCE_FP16 1e-3
#define TOLERANCE_FP32 2e-5

/* One case on one kind of cache, stored on the device. */
struct stored {
    const struct attention_case *c;
    size_t keys, width, q_count;
    struct kv_format key_format, value_format;
    float *q, *k, *v;             /* host */
    double *expected;             /* over what the cache holds */
    float *device_q, *device_k, *device_v, *out;
    uint8_t *cache_k, *cache_v;   /* device */
};

/* Under a sanitizer each cache meets some of the cases, each others. */
static bool is_left_out(size_t cache, size_t c)
{
    return c % cuda_thinning() != cache % cuda_thinning();
}

static bool can_hold(const struct cuda_fixture *f, const struct attention_case *c)
{
    struct plim_err err = PLIM_ERR_INIT;
    return backend_kv_check(&f->parameters, c->shape.head_dim, &err) == 0;
}

static void store(struct cuda_fixture *f, const struct attention_case *c, uint64_t seed, struct stored *s)
{
    struct plim_err err = PLIM_ERR_INIT;
    const struct attention_shape *shape = &c->shape;

    *s = (struct stored){ .c = c, .keys = c->past + c->rows, .width = shape->kv_head_count * shape->head_dim };
    s->q_count = c->rows * shape->head_count * shape->head_dim;
    s->key_format = backend_kv_format(&f->parameters, KV_KEYS, shape->kv_head_count, shape->head_dim);
    s->value_format = backend_kv_format(&f->parameters, KV_VALUES, shape->kv_head_count, shape->head_dim);
    s->q = normal_floats(s->q_count, 1, seed);
    s->k = normal_floats(s->keys * s->width, 2, seed + 1);
    s->v = normal_floats(s->keys * s->width, 1, seed + 2);
    s->device_q = device_floats(f, s->q, s->q_count);
    s->device_k = device_floats(f, s->k, s->keys * s->width);
    s->device_v = device_floats(f, s->v, s->keys * s->width);
    s->out = device_floats(f, NULL, s->q_count);
    s->cache_k = device_bytes(f, NULL, s->keys * s->key_format.row_bytes);
    s->cache_v = device_bytes(f, NULL, s->keys * s->value_format.row_bytes);
    cr_assert_eq(f->backend.ops->kv_store(&f->backend, shape, s->device_k, s->device_v, s->keys, 0, s->cache_k, s->cache_v,
                                          &err), 0, "%s", err.message);
    uint8_t *k = host_bytes(f, s->cache_k, s->keys * s->key_format.row_bytes);
    uint8_t *v = host_bytes(f, s->cache_v, s->keys * s->value_format.row_bytes);
    double *dk = kv_reference(&s->key_format, k, s->keys, s->width);
    double *dv = kv_reference(&s->value_format, v, s->keys, s->width);
    s->expected = attention_reference(shape, s->q, dk, dv, c->past, c->rows);
    free(k), free(v), free(dk), free(dv);
}

static void release(struct cuda_fixture *f, struct stored *s)
{
    device_free(f, s->device_q), device_free(f, s->device_k), device_free(f, s->device_v), device_free(f, s->out);
    device_free(f, s->cache_k), device_free(f, s->cache_v);
    free(s->q), free(s->k), free(s->v), free(s->expected);
}

static int attend(struct cuda_fixture *f, const struct stored *s, const float *q, float *out, struct plim_err *err)
{
    return f->backend.ops->attention(&f->backend, &s->c->shape, q, s->cache_k, s->cache_v, s->c->past, s->c->rows, out, err);
}

/* Values, the same bits twice, and the memory that was predicted. */
static void check(struct cuda_fixture *f, const struct stored *s, double tolerance, const char *what)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats before, stats;
    struct attention_scratch predicted =
        backend_predict("cuda")->attention_scratch(&s->c->shape, s->c->past, s->c->rows, &f->parameters);

    plim_pool_reset_peak(f->pool);
    plim_pool_stats(f->pool, &before);
    cr_assert_eq(attend(f, s, s->device_q, s->out, &err), 0, "%s", err.message);
    plim_pool_stats(f->pool, &stats);
    float *first = host_floats(f, s->out, s->q_count);
    double error = relative_error(first, s->expected, s->q_count);
    cr_assert_lt(error, tolerance, "%s, case %zu: relative error %.2e", what, (size_t)(s->c - cases), error);
    cr_assert_leq(predicted.attention_bytes, (size_t)f->parameters.count[PLIM_MAX_ATTENTION_SIZE] * sizeof(float));
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_ATTENTION], predicted.attention_bytes, "%s", what);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], predicted.workspace_bytes, "%s", what);
    cr_assert_eq(stats.peak[PLIM_FAST].total_bytes - before.current[PLIM_FAST].total_bytes,
                 predicted.attention_bytes + predicted.workspace_bytes);

    /* In place, and again and again: the same bits. */
    for (size_t repeat = 0; repeat < cuda_count(20, 1); repeat++) {
        float *both = device_floats(f, s->q, s->q_count);
        cr_assert_eq(attend(f, s, both, both, &err), 0, "%s", err.message);
        float *second = host_floats(f, both, s->q_count);
        cr_assert_eq(memcmp(first, second, s->q_count * sizeof *first), 0, "%s, case %zu: not the same bits", what,
                     (size_t)(s->c - cases));
        device_free(f, both);
        free(second);
    }
    free(first);
}

Test(cuda_attention, agrees_with_its_definition_over_every_cache)
{
    for (size_t t = 0; t < CACHE_COUNT; t++) {
        char settings[64];
        struct cuda_fixture f;
        snprintf(settings, sizeof settings, "kv_cache=%s", caches[t]);
        cuda_fixture_open_with(&f, NULL, settings);
        for (size_t c = 0; c < CASE_COUNT; c++) {
            struct stored s;
            if (is_left_out(t, c) || !can_hold(&f, &cases[c]))
                continue;
            store(&f, &cases[c], 10 * c, &s);
            check(&f, &s, TOLERANCE_FP16, caches[t]);
            release(&f, &s);
        }
        cuda_fixture_close(&f);
    }
}

Test(cuda_attention, plain_agrees_within_every_bound)
{
    static const int64_t bounds[] = { 2048 * 2048, 5000, 300 };
    for (size_t t = 0; t < CACHE_COUNT; t++) {
        char settings[64];
        struct cuda_fixture f;
        snprintf(settings, sizeof settings, "kv_cache=%s attention_mode=plain", caches[t]);
        cuda_fixture_open_with(&f, NULL, settings);
        for (size_t c = 0; c < CASE_COUNT; c++) {
            struct stored s;
            if (is_left_out(t, c) || !can_hold(&f, &cases[c]))
                continue;
            store(&f, &cases[c], 10 * c, &s);
            for (size_t b = cuda_count(0, 1); b < sizeof bounds / sizeof bounds[0]; b += cuda_count(1, 2)) {
                f.parameters.count[PLIM_MAX_ATTENTION_SIZE] = bounds[b];
                check(&f, &s, TOLERANCE_FP32, "plain");
            }
            release(&f, &s);
        }
        cuda_fixture_close(&f);
    }
}

Test(cuda_attention, stores_what_the_cpu_stores)
{
    enum { ROWS = 9, FIRST = 4 };
    for (size_t t = 0; t < CACHE_COUNT; t++)
        for (size_t c = 0; c < CASE_COUNT; c++) {
            const struct attention_shape *shape = &cases[c].shape;
            size_t width = shape->kv_head_count * shape->head_dim;
            struct plim_err err = PLIM_ERR_INIT;
            struct cuda_fixture f;
            char settings[64];
            if (is_left_out(t, c))
                continue;
            snprintf(settings, sizeof settings, "kv_cache=%s", caches[t]);
            cuda_fixture_open_with(&f, NULL, settings);
            if (!can_hold(&f, &cases[c])) {
                cuda_fixture_close(&f);
                continue;
            }
            struct kv_format kf = backend_kv_format(&f.parameters, KV_KEYS, shape->kv_head_count, shape->head_dim);
            struct kv_format vf = backend_kv_format(&f.parameters, KV_VALUES, shape->kv_head_count, shape->head_dim);
            float *k = normal_floats(ROWS * width, 3, c), *v = normal_floats(ROWS * width, 1, c + 50);
            float *dk = device_floats(&f, k, ROWS * width), *dv = device_floats(&f, v, ROWS * width);
            uint8_t *ck = device_bytes(&f, NULL, (FIRST + ROWS) * kf.row_bytes);
            uint8_t *cv = device_bytes(&f, NULL, (FIRST + ROWS) * vf.row_bytes);
            struct backend cpu;
            uint8_t *expected_k = malloc((FIRST + ROWS) * kf.row_bytes), *expected_v = malloc((FIRST + ROWS) * vf.row_bytes);
            memset(expected_k, 0xff, (FIRST + ROWS) * kf.row_bytes);
            memset(expected_v, 0xff, (FIRST + ROWS) * vf.row_bytes);
            cr_assert_eq(backend_open(&cpu, "cpu", f.pool, f.threads, &f.parameters, &err), 0);
            cr_assert_eq(cpu.ops->kv_store(&cpu, shape, k, v, ROWS, FIRST, expected_k, expected_v, &err), 0);
            backend_close(&cpu);
            cr_assert_eq(f.backend.ops->kv_store(&f.backend, shape, dk, dv, ROWS, FIRST, ck, cv, &err), 0, "%s", err.message);
            uint8_t *got_k = host_bytes(&f, ck, (FIRST + ROWS) * kf.row_bytes);
            uint8_t *got_v = host_bytes(&f, cv, (FIRST + ROWS) * vf.row_bytes);
            cr_assert_eq(memcmp(got_k, expected_k, (FIRST + ROWS) * kf.row_bytes), 0, "keys, %s, case %zu", caches[t], c);
            cr_assert_eq(memcmp(got_v, expected_v, (FIRST + ROWS) * vf.row_bytes), 0, "values, %s, case %zu", caches[t], c);
            device_free(&f, dk), device_free(&f, dv), device_free(&f, ck), device_free(&f, cv);
            free(k), free(v), free(expected_k), free(expected_v), free(got_k), free(got_v);
            cuda_fixture_close(&f);
        }
}

/* rope, rope, kv_store and attention, in one and one by one. */
Test(cuda_attention, a_step_is_its_parts)
{
    for (size_t t = 0; t < CACHE_COUNT; t++)
        for (size_t c = 0; c < CASE_COUNT; c++) {
            const struct attention_shape *shape = &cases[c].shape;
            size_t dim = shape->head_dim, past = cases[c].past, rows = cases[c].rows;
            struct plim_err err = PLIM_ERR_INIT;
            struct cuda_fixture f;
            struct stored s;
            char settings[64];
            if (is_left_out(t, c))
                continue;
            snprintf(settings, sizeof settings, "kv_cache=%s", caches[t]);
            cuda_fixture_open_with(&f, NULL, settings);
            if (!can_hold(&f, &cases[c])) {
                cuda_fixture_close(&f);
                continue;
            }
            store(&f, &cases[c], c, &s);
            float *angles = normal_floats(rows * dim, 1, 99), *table = malloc(rows * dim * sizeof *table);
            for (size_t i = 0; i < rows * dim; i++)
                table[i] = i % dim < dim / 2 ? cosf(angles[i]) : sinf(angles[i - dim / 2]);
            float *device_table = device_floats(&f, table, rows * dim), *step_q = device_floats(&f, s.q, s.q_count);
            float *step_k = device_floats(&f, s.k + past * s.width, rows * s.width);
            float *step_v = device_floats(&f, s.v + past * s.width, rows * s.width);
            float *parts_k = device_floats(&f, s.k + past * s.width, rows * s.width);
            const struct backend_ops *ops = f.backend.ops;

            cr_assert_eq(ops->attention_step(&f.backend, shape, step_q, step_k, step_v, device_table, s.cache_k, s.cache_v,
                                             past, rows, step_q, &err), 0, "%s", err.message);
            float *step = host_floats(&f, step_q, s.q_count);
            uint8_t *step_rows = host_bytes(&f, s.cache_k, s.keys * s.key_format.row_bytes);
            cr_assert(ops->rope(&f.backend, s.device_q, device_table, 0, rows, shape->head_count, dim, &err) == 0 &&
                      ops->rope(&f.backend, parts_k, device_table, 0, rows, shape->kv_head_count, dim, &err) == 0 &&
                      ops->kv_store(&f.backend, shape, parts_k, step_v, rows, past, s.cache_k, s.cache_v, &err) == 0 &&
                      ops->attention(&f.backend, shape, s.device_q, s.cache_k, s.cache_v, past, rows, s.device_q, &err) == 0,
                      "%s", err.message);
            float *parts = host_floats(&f, s.device_q, s.q_count);
            uint8_t *parts_rows = host_bytes(&f, s.cache_k, s.keys * s.key_format.row_bytes);
            cr_assert_eq(memcmp(step, parts, s.q_count * sizeof *step), 0, "%s, case %zu", caches[t], c);
            cr_assert_eq(memcmp(step_rows, parts_rows, s.keys * s.key_format.row_bytes), 0, "%s, case %zu", caches[t], c);
            device_free(&f, device_table), device_free(&f, step_q), device_free(&f, step_k), device_free(&f, step_v);
            device_free(&f, parts_k);
            free(angles), free(table), free(step), free(parts), free(step_rows), free(parts_rows);
            release(&f, &s);
            cuda_fixture_close(&f);
        }
}

Test(cuda_attention, memory_does_not_grow_with_the_past)
{
    struct plim_parameters parameters;
    struct attention_shape shape = { 32, 8, 128, 1, 0, 0 };
    const struct backend_predict_ops *predict = backend_predict("cuda");

    plim_parameters_default(&parameters);
    for (size_t rows = 1; rows <= 2048; rows *= 2) {
        struct attention_scratch near = predict->attention_scratch(&shape, 16384, rows, &parameters);
        struct attention_scratch far = predict->attention_scratch(&shape, 1000000, rows, &parameters);
        cr_assert_eq(near.attention_bytes, 0);
        cr_assert_eq(near.workspace_bytes, far.workspace_bytes);
        cr_assert_leq(far.workspace_bytes, (size_t)18 << 20);
    }
}

/* Decoding and prompts, parts of the keys in both; the result is right once there is memory. */
Test(cuda_attention, survives_each_failed_allocation)
{
    static const char *const settings[] = { "", "attention_mode=plain", "kv_cache=q8", "kv_cache=q6", "kv_cache=q4" };
    static const size_t split[] = { 1, 9 };
    for (size_t i = 0; i < 2 * sizeof settings / sizeof *settings; i++) {
        bool plain = i / 2 == 1;
        struct cuda_fixture f;
        struct stored s;
        int failures = 0;
        cuda_fixture_open_with(&f, NULL, settings[i / 2]);
        store(&f, &cases[split[i % 2]], 3, &s);
        for (uint64_t nth = 1;; nth++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct plim_pool_stats before, after;
            plim_pool_stats(f.pool, &before);
            plim_pool_fail_allocation(f.pool, nth);
            int rc = attend(&f, &s, s.device_q, s.out, &err);
            plim_pool_fail_allocation(f.pool, 0);
            plim_pool_stats(f.pool, &after);
            cr_assert_eq(after.live_blocks, before.live_blocks);
            if (rc == 0)
                break;
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY, "%s", err.message);
            failures++;
        }
        cr_assert_eq(failures, plain ? 2 : 1, "[%s], case %zu: %d", settings[i / 2], split[i % 2], failures);
        check(&f, &s, plain ? TOLERANCE_FP32 : TOLERANCE_FP16, settings[i / 2]);
        release(&f, &s);
        cuda_fixture_close(&f);
    }
}
