/* Attention against its definition in double, over shapes, windows, bounds, instruction sets and threads. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "test_backend.h"

struct attention_case {
    struct attention_shape shape;
    size_t past, rows;
};

static const struct attention_case cases[] = {
    { { 1, 1, 2, 1.0f, 0, 0 }, 0, 1 },
    { { 4, 2, 16, 0.25f, 0, 0 }, 0, 1 },
    { { 8, 2, 64, 0.125f, 0, 0 }, 300, 1 },           /* decode, grouped */
    { { 6, 6, 80, 0.1f, 0, 0 }, 200, 1 },             /* decode, one query head a key head, 80 = 5 * 16 */
    { { 14, 2, 64, 0.125f, 0, 0 }, 150, 1 },          /* decode, groups of 7 */
    { { 24, 2, 32, 0.2f, 0, 0 }, 140, 1 },            /* a group larger than what streams */
    { { 8, 2, 128, 0.0883883f, 0, 0 }, 0, 97 },       /* prefill */
    { { 4, 4, 64, 0.125f, 0, 0 }, 130, 70 },          /* prefill onto a past */
    { { 4, 1, 6, 0.4f, 0, 0 }, 11, 40 },              /* a dimension that no vector divides */
    { { 4, 2, 24, 0.2f, 30.0f, 0 }, 140, 60 },        /* soft cap */
    { { 8, 4, 32, 0.2f, 0, 50 }, 200, 90 },           /* window shorter than the chunk */
    { { 8, 4, 32, 0.2f, 50.0f, 300 }, 260, 2 },       /* window that cuts a block, few rows */
    { { 8, 4, 32, 0.2f, 0, 17 }, 400, 1 },            /* window at decode */
    { { 4, 2, 16, 0.25f, 0, 1 }, 5, 20 },             /* each token sees itself only */
};
#define CASE_COUNT (sizeof cases / sizeof cases[0])

/* q [rows, heads, dim]; k and v [past + rows, kv_heads * dim]. */
static double *reference(const struct attention_case *c, const float *q, const uint16_t *k, const uint16_t *v)
{
    const struct attention_shape *s = &c->shape;
    size_t width = s->kv_head_count * s->head_dim, keys = c->past + c->rows;
    double *out = calloc(c->rows * s->head_count * s->head_dim, sizeof *out);
    double *weights = malloc(keys * sizeof *weights);

    for (size_t r = 0; r < c->rows; r++)
        for (size_t h = 0; h < s->head_count; h++) {
            size_t kv = h / (s->head_count / s->kv_head_count) * s->head_dim, position = c->past + r;
            size_t first = s->window && position + 1 > s->window ? position + 1 - s->window : 0;
            const float *query = q + (r * s->head_count + h) * s->head_dim;
            double highest = -INFINITY, sum = 0;
            for (size_t p = first; p <= position; p++) {
                double dot = 0;
                for (size_t j = 0; j < s->head_dim; j++)
                    dot += (double)query[j] * (double)half_to_float(k[p * width + kv + j]);
                dot *= (double)s->scale;
                if (s->softcap > 0)
                    dot = (double)s->softcap * tanh(dot / (double)s->softcap);
                weights[p] = dot;
                highest = fmax(highest, dot);
            }
            for (size_t p = first; p <= position; p++)
                sum += weights[p] = exp(weights[p] - highest);
            for (size_t p = first; p <= position; p++)
                for (size_t j = 0; j < s->head_dim; j++)
                    out[(r * s->head_count + h) * s->head_dim + j] +=
                        weights[p] / sum * (double)half_to_float(v[p * width + kv + j]);
        }
    free(weights);
    return out;
}

struct inputs {
    float *q, *out;
    uint16_t *k, *v;
    double *expected;
    size_t q_count, kv_count;
};

/* Keys of deviation 3 make the softmax peaked, so that a wrong maximum or mask shows. */
static struct inputs inputs_make(const struct attention_case *c, uint64_t seed)
{
    struct inputs in = { 0 };
    in.q_count = c->rows * c->shape.head_count * c->shape.head_dim;
    in.kv_count = (c->past + c->rows) * c->shape.kv_head_count * c->shape.head_dim;
    in.q = random_floats(in.q_count, 1, seed);
    in.out = malloc(in.q_count * sizeof *in.out);
    /* Exact size: a read past the last position is an error under the address sanitizer. */
    uint16_t *k = random_halves(in.kv_count, 3, seed + 1), *v = random_halves(in.kv_count, 1, seed + 2);
    in.k = memcpy(malloc(in.kv_count * sizeof *k), k, in.kv_count * sizeof *k);
    in.v = memcpy(malloc(in.kv_count * sizeof *v), v, in.kv_count * sizeof *v);
    free(k);
    free(v);
    in.expected = reference(c, in.q, in.k, in.v);
    return in;
}

static void inputs_free(struct inputs *in)
{
    free(in->q);
    free(in->out);
    free(in->k);
    free(in->v);
    free(in->expected);
}

/* Runs one case; checks values, the bound, and that memory is what was predicted. */
static void check_case(struct fixture *f, const struct attention_case *c, const struct inputs *in)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_stats stats;
    struct attention_scratch predicted =
        backend_predict("cpu")->attention_scratch(&c->shape, c->past, c->rows, &f->parameters);
    int64_t bound = f->parameters.count[PLIM_MAX_ATTENTION_SIZE];

    memset(in->out, 0xff, in->q_count * sizeof *in->out);
    plim_pool_reset_peak(f->pool);
    cr_assert_eq(f->backend.ops->attention(&f->backend, &c->shape, in->q, in->k, in->v, c->past, c->rows, in->out,
                                           &err), 0, "%s", err.message);
    /* Scores reach 30; their fp32 rounding, some 1e-5, is the relative error of a weight. */
    check_close(in->out, in->expected, in->q_count, 5e-5, 5e-5, "attention");

    plim_pool_stats(f->pool, &stats);
    cr_assert_leq(predicted.attention_bytes, (size_t)bound * sizeof(float));
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_ATTENTION], predicted.attention_bytes);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WORKSPACE], predicted.workspace_bytes);
    cr_assert_eq(stats.peak[PLIM_FAST].total_bytes, predicted.attention_bytes + predicted.workspace_bytes);
    cr_assert_eq(stats.current[PLIM_FAST].total_bytes, 0);
}

Test(backend_attention, agrees_with_its_definition_for_every_isa_thread_count_and_bound)
{
    static const int64_t bounds[] = { 2048 * 2048, 5000, 300, 40, 16, 3, 1 };
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct inputs in = inputs_make(&cases[i], 10 * i);
        for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++)
            for (int threads = 1; threads <= 3 && plim_isa_supported(isa); threads += 2) {
                struct fixture f;
                fixture_open(&f, isa, threads);
                /* Small cases use several threads too. */
                f.parameters.count[PLIM_CPU_THREADS_SMALL] = threads;
                for (size_t b = 0; b < sizeof bounds / sizeof bounds[0]; b++) {
                    f.parameters.count[PLIM_MAX_ATTENTION_SIZE] = bounds[b];
                    check_case(&f, &cases[i], &in);
                }
                fixture_close(&f);
            }
        inputs_free(&in);
    }
}

Test(backend_attention, a_cache_of_fp32_agrees_too)
{
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct inputs in = inputs_make(&cases[i], 10 * i);
        float *k = malloc(in.kv_count * sizeof *k), *v = malloc(in.kv_count * sizeof *v);
        for (size_t j = 0; j < in.kv_count; j++) {
            k[j] = half_to_float(in.k[j]);
            v[j] = half_to_float(in.v[j]);
        }
        for (enum plim_isa isa = 0; isa < PLIM_ISA_COUNT; isa++) {
            struct plim_err err = PLIM_ERR_INIT;
            struct fixture f;
            if (!plim_isa_supported(isa))
                continue;
            fixture_open(&f, isa, 2);
            f.parameters.count[PLIM_KV_CACHE] = PLIM_KV_FP32;
            cr_assert_eq(f.backend.ops->attention(&f.backend, &cases[i].shape, in.q, k, v, cases[i].past,
                                                  cases[i].rows, in.out, &err), 0, "%s", err.message);
            check_close(in.out, in.expected, in.q_count, 5e-5, 5e-5, "attention over fp32");
            fixture_close(&f);
        }
        free(k);
        free(v);
        inputs_free(&in);
    }
}

Test(backend_attention, memory_does_not_depend_on_the_past)
{
    struct plim_parameters parameters;
    struct attention_shape shape = { 32, 8, 128, 1, 0, 0 };
    const struct backend_predict_ops *predict = backend_predict("cpu");

    plim_parameters_default(&parameters);
    parameters.count[PLIM_CPU_THREADS] = 8;
    for (size_t rows = 1; rows <= 2048; rows *= 8) {
        struct attention_scratch near = predict->attention_scratch(&shape, 4096, rows, &parameters);
        struct attention_scratch far = predict->attention_scratch(&shape, 1000000, rows, &parameters);
        cr_assert_eq(near.attention_bytes, far.attention_bytes);
        cr_assert_eq(near.workspace_bytes, far.workspace_bytes);
    }
}

Test(backend_attention, results_and_counters_do_not_depend_on_threads)
{
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct inputs in = inputs_make(&cases[i], 10 * i);
        float *first = malloc(in.q_count * sizeof *first);
        uint64_t pieces = 0;
        for (int threads = 1; threads <= 4; threads++) {
            struct fixture f;
            fixture_open(&f, PLIM_ISA_PORTABLE, threads);
            f.parameters.count[PLIM_CPU_THREADS_SMALL] = threads;
            check_case(&f, &cases[i], &in);
            if (threads == 1) {
                memcpy(first, in.out, in.q_count * sizeof *first);
                pieces = f.backend.counters.attention_chunks;
                cr_assert_gt(pieces, 0);
            }
            cr_assert_eq(memcmp(first, in.out, in.q_count * sizeof *first), 0, "case %zu, %d threads", i, threads);
            cr_assert_eq(f.backend.counters.attention_chunks, pieces);
            fixture_close(&f);
        }
        free(first);
        inputs_free(&in);
    }
}

Test(backend_attention, out_may_be_q)
{
    for (size_t i = 0; i < CASE_COUNT; i++) {
        struct inputs in = inputs_make(&cases[i], 10 * i);
        struct fixture f;
        struct plim_err err = PLIM_ERR_INIT;
        fixture_open(&f, PLIM_ISA_PORTABLE, 2);
        cr_assert_eq(f.backend.ops->attention(&f.backend, &cases[i].shape, in.q, in.k, in.v, cases[i].past,
                                              cases[i].rows, in.q, &err), 0);
        check_close(in.q, in.expected, in.q_count, 5e-5, 5e-5, "attention in place");
        fixture_close(&f);
        inputs_free(&in);
    }
}

Test(backend_attention, survives_each_failed_allocation)
{
    const struct attention_case *c = &cases[6];
    struct inputs in = inputs_make(c, 1);
    struct fixture f;
    int failures = 0;

    fixture_open(&f, PLIM_ISA_PORTABLE, 2);
    for (uint64_t nth = 1;; nth++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_pool_stats stats;
        plim_pool_fail_allocation(f.pool, nth);
        int rc = f.backend.ops->attention(&f.backend, &c->shape, in.q, in.k, in.v, c->past, c->rows, in.out, &err);
        plim_pool_stats(f.pool, &stats);
        cr_assert_eq(stats.live_blocks, 0);
        if (rc == 0)
            break;
        cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
        failures++;
    }
    cr_assert_eq(failures, 2, "attention allocates two blocks");
    fixture_close(&f);
    inputs_free(&in);
}

Test(backend_attention, no_rows_is_nothing_to_do)
{
    struct fixture f;
    struct plim_err err = PLIM_ERR_INIT;
    fixture_open(&f, PLIM_ISA_PORTABLE, 1);
    cr_assert_eq(f.backend.ops->attention(&f.backend, &cases[1].shape, NULL, NULL, NULL, 5, 0, NULL, &err), 0);
    fixture_close(&f);
}
