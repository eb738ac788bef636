/* Each kernel of each instruction set that this machine has, against exact arithmetic or its portable twin. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/kernels.h"
#include "half.h"
#include "test_backend.h"

static const size_t sizes[] = { 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 129, 1000 };
#define SIZE_COUNT (sizeof sizes / sizeof sizes[0])
#define LARGEST 1000

#define FOR_EACH_ISA(kernels)                                                                                         \
    for (int isa_ = 0; isa_ < PLIM_ISA_COUNT; isa_++)                                                                 \
        for (const struct cpu_kernels *kernels =                                                                      \
                 plim_isa_supported((enum plim_isa)isa_) ? cpu_kernels_for((enum plim_isa)isa_) : NULL;               \
             kernels; kernels = NULL)

/* Distance in units of the last place of `expected`, as fp32 (subnormal steps below 2^-126). */
static double ulps(float actual, double expected)
{
    int exponent;
    frexp(expected, &exponent);
    if (exponent < -125)
        exponent = -125;
    return fabs((double)actual - expected) / ldexp(1.0, exponent - 24);
}

Test(backend_kernels, tables_say_their_isa)
{
    FOR_EACH_ISA(k)
        cr_assert_eq((int)k->isa, isa_);
}

Test(backend_kernels, exp_is_within_two_ulps_down_to_zero)
{
    enum { COUNT = 40000 };
    float *x = malloc(COUNT * sizeof *x);
    FOR_EACH_ISA(k) {
        double worst = 0;
        float max = 0, sum = 0;
        for (size_t i = 0; i < COUNT; i++)
            x[i] = -104.5f * (float)i / COUNT;
        k->softmax_step(x, COUNT, &max, &sum);
        cr_assert_eq(max, 0.0f);
        for (size_t i = 0; i < COUNT; i++)
            worst = fmax(worst, ulps(x[i], exp((double)(-104.5f * (float)i / COUNT))));
        cr_assert_leq(worst, 2.0, "%s: %.2f ulp", plim_isa_name(k->isa), worst);
    }
    free(x);
}

Test(backend_kernels, tanh_is_within_three_ulps_and_odd)
{
    enum { COUNT = 40000 };
    float *x = malloc(COUNT * sizeof *x);
    FOR_EACH_ISA(k) {
        double worst = 0;
        for (size_t i = 0; i < COUNT; i++)
            x[i] = ((float)i - COUNT / 2) * 5e-4f;
        k->softcap(x, 1.0f, COUNT);
        for (size_t i = 0; i < COUNT; i++)
            worst = fmax(worst, ulps(x[i], tanh((double)(((float)i - COUNT / 2) * 5e-4f))));
        cr_assert_leq(worst, 3.0, "%s: %.2f ulp", plim_isa_name(k->isa), worst);
        for (size_t i = 1; i < COUNT / 2; i++)
            cr_assert_eq(x[COUNT / 2 + i], -x[COUNT / 2 - i]);
    }
    free(x);
}

Test(backend_kernels, softcap_bounds_and_keeps_small_values)
{
    FOR_EACH_ISA(k) {
        float x[4] = { 1e30f, -1e30f, 1e-3f, NAN };
        k->softcap(x, 30.0f, 4);
        cr_assert_eq(x[0], 30.0f);
        cr_assert_eq(x[1], -30.0f);
        cr_assert_float_eq(x[2], 1e-3f, 1e-9f);
        cr_assert(isnan(x[3]));
    }
}

Test(backend_kernels, silu_and_gelu_agree_with_their_formulas)
{
    float *gate = random_floats(LARGEST, 4, 1), *up = random_floats(LARGEST, 1, 2);
    float *silu = malloc(LARGEST * sizeof *silu), *gelu = malloc(LARGEST * sizeof *gelu);
    double expected_silu[LARGEST], expected_gelu[LARGEST];

    gate[0] = -200.0f;   /* exp overflows on the way: the result is -0 */
    gate[1] = 200.0f;
    gate[2] = 0.0f;
    for (size_t i = 0; i < LARGEST; i++) {
        double g = (double)gate[i], u = (double)up[i];
        expected_silu[i] = g / (1 + exp(-g)) * u;
        expected_gelu[i] = 0.5 * g * (1 + tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g))) * u;
    }
    FOR_EACH_ISA(k)
        for (size_t s = 0; s < SIZE_COUNT; s++) {
            memcpy(silu, gate, LARGEST * sizeof *silu);
            memcpy(gelu, gate, LARGEST * sizeof *gelu);
            k->silu_mul(silu, up, sizes[s]);
            k->gelu_tanh_mul(gelu, up, sizes[s]);
            check_close(silu, expected_silu, sizes[s], 1e-30, 1e-6, "silu");
            /* The exponent u grows with g^3, and its rounding error with it: absolute where the result vanishes. */
            check_close(gelu, expected_gelu, sizes[s], 1e-6, 1e-6, "gelu");
            if (sizes[s] < LARGEST)
                cr_assert_eq(silu[sizes[s]], gate[sizes[s]], "written past the end");
        }
    free(gate);
    free(up);
    free(silu);
    free(gelu);
}

Test(backend_kernels, rms_norm_agrees_with_its_formula)
{
    float *x = random_floats(LARGEST, 3, 3), *weight = random_floats(LARGEST, 1, 4), out[LARGEST + 1];
    double expected[LARGEST];

    for (size_t s = 0; s < SIZE_COUNT; s++) {
        size_t n = sizes[s];
        double squares = 0;
        for (size_t i = 0; i < n; i++)
            squares += (double)x[i] * (double)x[i];
        for (size_t i = 0; i < n; i++)
            expected[i] = (double)x[i] / sqrt(squares / (double)n + 1e-6) * ((double)weight[i] + 1);
        FOR_EACH_ISA(k) {
            out[n] = 77;
            k->rms_norm(x, weight, 1.0f, 1e-6, n, out);
            check_close(out, expected, n, 1e-7, 1e-6, "rms_norm");
            cr_assert_eq(out[n], 77.0f, "written past the end");
            memcpy(out, x, n * sizeof *out);
            k->rms_norm(out, weight, 1.0f, 1e-6, n, out);
            check_close(out, expected, n, 1e-7, 1e-6, "rms_norm in place");
        }
    }
    free(x);
    free(weight);
}

Test(backend_kernels, rope_rotates_pairs_half_a_head_apart)
{
    static const size_t dims[] = { 2, 6, 16, 32, 64, 80, 128 };
    enum { HEADS = 3 };
    for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
        size_t dim = dims[d], half = dim / 2, n = HEADS * dim;
        float *x = random_floats(n, 1, d), *angles = random_floats(half, 2, 50 + d);
        float *table = malloc(dim * sizeof *table);
        float *rotated = malloc(n * sizeof *rotated);
        double *expected = malloc(n * sizeof *expected);
        for (size_t j = 0; j < half; j++) {
            table[j] = cosf(angles[j]);
            table[j + half] = sinf(angles[j]);
        }
        for (size_t i = 0; i < n; i++) {
            size_t j = i % dim % half;
            double c = (double)table[j], s = (double)table[j + half];
            double other = (double)(i % dim < half ? -x[i + half] : x[i - half]);
            expected[i] = (double)x[i] * c + other * s;
        }
        FOR_EACH_ISA(k) {
            memcpy(rotated, x, n * sizeof *x);
            k->rope(rotated, table, HEADS, dim);
            check_close(rotated, expected, n, 1e-6, 1e-6, "rope");
        }
        free(x);
        free(angles);
        free(table);
        free(rotated);
        free(expected);
    }
}

Test(backend_kernels, add_and_scale)
{
    float *x = random_floats(LARGEST, 1, 5), *y = random_floats(LARGEST, 1, 6), *z = malloc(LARGEST * sizeof *z);
    double sum[LARGEST], scaled[LARGEST];
    for (size_t i = 0; i < LARGEST; i++) {
        sum[i] = (double)x[i] + (double)y[i] * 0.37;
        scaled[i] = (double)x[i] * 0.37;
    }
    FOR_EACH_ISA(k)
        for (size_t s = 0; s < SIZE_COUNT; s++) {
            memcpy(z, x, LARGEST * sizeof *z);
            k->add(z, y, 0.37f, sizes[s]);
            check_close(z, sum, sizes[s], 2e-7, 2e-7, "add");
            memcpy(z, x, LARGEST * sizeof *z);
            k->scale(z, 0.37f, sizes[s]);
            check_close(z, scaled, sizes[s], 0, 2e-7, "scale");
            if (sizes[s] < LARGEST)
                cr_assert_eq(z[sizes[s]], x[sizes[s]], "written past the end");
        }
    free(x);
    free(y);
    free(z);
}

/* Every fp16 value, and every halfway point between two of them, where nearest-even shows. */
Test(backend_kernels, half_conversions_are_exact_and_round_to_even)
{
    enum { COUNT = 65536 };
    uint16_t *halves = malloc(COUNT * sizeof *halves), *back = malloc(COUNT * sizeof *back);
    float *wide = malloc(COUNT * sizeof *wide), *between = malloc(COUNT * sizeof *between);
    for (size_t i = 0; i < COUNT; i++)
        halves[i] = (uint16_t)i;
    for (size_t i = 0; i < COUNT; i++)
        between[i] = 0.5f * (half_to_float((uint16_t)i) + half_to_float((uint16_t)(i + 1)));
    FOR_EACH_ISA(k) {
        k->from_half(halves, COUNT, 1.0f, wide);
        for (size_t i = 0; i < COUNT; i++)
            cr_assert(isnan(wide[i]) ? isnan(half_to_float((uint16_t)i)) : wide[i] == half_to_float((uint16_t)i));
        k->to_half(wide, COUNT, back);
        for (size_t i = 0; i < COUNT; i++)
            cr_assert(back[i] == i || isnan(wide[i]), "%zx became %x", i, back[i]);
        k->to_half(between, COUNT, back);
        for (size_t i = 0; i < COUNT; i++)
            cr_assert(isnan(between[i]) || back[i] == half_from_float(between[i]), "%a became %x", (double)between[i],
                      back[i]);
    }
    free(halves);
    free(back);
    free(wide);
    free(between);
}

Test(backend_kernels, embedding_rows_are_widened_and_scaled)
{
    float *x = random_floats(LARGEST, 1, 7), out[LARGEST + 1];
    uint16_t half[LARGEST], bfloat[LARGEST];
    for (size_t i = 0; i < LARGEST; i++) {
        half[i] = half_from_float(x[i]);
        bfloat[i] = bfloat_from_float(x[i]);
    }
    FOR_EACH_ISA(k)
        for (size_t s = 0; s < SIZE_COUNT; s++) {
            size_t n = sizes[s];
            out[n] = 77;
            k->from_half(half, n, 1.5f, out);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(out[i], half_to_float(half[i]) * 1.5f);
            k->from_bfloat(bfloat, n, 1.5f, out);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(out[i], bfloat_to_float(bfloat[i]) * 1.5f);
            k->from_float(x, n, 1.5f, out);
            for (size_t i = 0; i < n; i++)
                cr_assert_eq(out[i], x[i] * 1.5f);
            cr_assert_eq(out[n], 77.0f, "written past the end");
        }
    free(x);
}

/* Two pieces one after the other are the softmax of both together. */
Test(backend_kernels, softmax_in_steps_is_softmax)
{
    for (size_t s = 0; s < SIZE_COUNT; s++) {
        size_t n = sizes[s], first = (n + 1) / 2;
        float *x = random_floats(n, 5, 8 + s), *weights = malloc(n * sizeof *weights);
        double *expected = malloc(n * sizeof *expected), highest = -INFINITY, total = 0;
        for (size_t i = 0; i < n; i++)
            highest = fmax(highest, (double)x[i]);
        for (size_t i = 0; i < n; i++)
            total += exp((double)x[i] - highest);
        for (size_t i = 0; i < n; i++)
            expected[i] = exp((double)x[i] - highest) / total;
        FOR_EACH_ISA(k) {
            float max = -INFINITY, sum = 0, rescale = 1;
            memcpy(weights, x, n * sizeof *weights);
            cr_assert_eq(k->softmax_step(weights, first, &max, &sum), 0.0f);
            if (n > first)
                rescale = k->softmax_step(weights + first, n - first, &max, &sum);
            for (size_t i = 0; i < n; i++)
                weights[i] *= (i < first ? rescale : 1.0f) / sum;
            check_close(weights, expected, n, 1e-9, 3e-6, "softmax");
        }
        free(x);
        free(weights);
        free(expected);
    }
}

Test(backend_kernels, softmax_of_nan_is_nan)
{
    FOR_EACH_ISA(k) {
        float scores[3] = { 1, NAN, 2 }, max = -INFINITY, sum = 0;
        k->softmax_step(scores, 3, &max, &sum);
        cr_assert(isnan(sum));
    }
}

static const struct {
    size_t rows, keys, dim;
} attention_sizes[] = {
    { 1, 1, 2 }, { 1, 4, 16 }, { 1, 129, 128 }, { 2, 7, 64 }, { 3, 33, 80 }, { 4, 128, 128 }, { 5, 6, 6 },
    { 7, 17, 24 }, { 8, 64, 128 }, { 13, 41, 40 }, { 23, 100, 96 }, { 64, 128, 128 }, { 66, 31, 256 },
};
#define ATTENTION_SIZE_COUNT (sizeof attention_sizes / sizeof attention_sizes[0])

struct attention_case {
    size_t rows, keys, dim, stride, padded_dim, padded_keys;
    float *q;               /* [rows, padded_dim] */
    float *weights;         /* [rows, padded_keys] */
    uint16_t *cache;        /* [keys, stride] */
    float *wide_cache;      /* the same in fp32 */
    double *scores;         /* [rows, padded_keys]: q cache^T */
    double *out;            /* [rows, padded_dim]: q + weights cache */
};

static size_t pad(size_t n)
{
    return (n + 15) / 16 * 16;
}

static struct attention_case attention_case_make(size_t i)
{
    struct attention_case c = { .rows = attention_sizes[i].rows, .keys = attention_sizes[i].keys };
    c.dim = attention_sizes[i].dim;
    c.stride = c.dim + 2 * (i % 3);
    c.padded_dim = pad(c.dim);
    c.padded_keys = pad(c.keys);
    c.q = random_floats(c.rows * c.padded_dim, 1, i);
    c.weights = random_floats(c.rows * c.padded_keys, 1, 100 + i);
    c.cache = random_halves(c.keys * c.stride, 1, 200 + i);
    c.wide_cache = malloc(c.keys * c.stride * sizeof *c.wide_cache);
    for (size_t j = 0; j < c.keys * c.stride; j++)
        c.wide_cache[j] = half_to_float(c.cache[j]);
    c.scores = calloc(c.rows * c.padded_keys, sizeof *c.scores);
    c.out = calloc(c.rows * c.padded_dim, sizeof *c.out);
    for (size_t r = 0; r < c.rows; r++) {
        for (size_t j = 0; j < c.padded_dim; j++)
            c.out[r * c.padded_dim + j] = (double)c.q[r * c.padded_dim + j];
        for (size_t k = 0; k < c.keys; k++)
            for (size_t j = 0; j < c.dim; j++) {
                double x = (double)half_to_float(c.cache[k * c.stride + j]);
                c.scores[r * c.padded_keys + k] += (double)c.q[r * c.padded_dim + j] * x;
                c.out[r * c.padded_dim + j] += (double)c.weights[r * c.padded_keys + k] * x;
            }
    }
    return c;
}

static void attention_case_free(struct attention_case *c)
{
    free(c->q);
    free(c->weights);
    free(c->cache);
    free(c->wide_cache);
    free(c->scores);
    free(c->out);
}

/* Sums of up to 256 products of normal variates: rounding stays below 256 * 2^-24 of the largest partial sum. */
#define DOT_TOLERANCE 3e-5

Test(backend_kernels, scores_and_values_straight_from_the_cache)
{
    for (size_t i = 0; i < ATTENTION_SIZE_COUNT; i++) {
        struct attention_case c = attention_case_make(i);
        size_t score_count = c.rows * c.padded_keys, out_count = c.rows * c.padded_dim;
        float *scores = malloc(score_count * sizeof *scores), *out = malloc(out_count * sizeof *out);
        FOR_EACH_ISA(k) {
            memset(scores, 0, score_count * sizeof *scores);
            k->scores_half(c.q, c.padded_dim, c.rows, c.cache, c.stride, c.keys, c.dim, scores, c.padded_keys);
            check_close(scores, c.scores, score_count, DOT_TOLERANCE, DOT_TOLERANCE, "scores");
            memset(scores, 0, score_count * sizeof *scores);
            k->scores_float(c.q, c.padded_dim, c.rows, c.wide_cache, c.stride, c.keys, c.dim, scores, c.padded_keys);
            check_close(scores, c.scores, score_count, DOT_TOLERANCE, DOT_TOLERANCE, "scores of fp32 keys");
            memcpy(out, c.q, out_count * sizeof *out);
            k->values_half(c.weights, c.padded_keys, c.rows, c.cache, c.stride, c.keys, c.dim, out, c.padded_dim);
            check_close(out, c.out, out_count, DOT_TOLERANCE, DOT_TOLERANCE, "values");
            memcpy(out, c.q, out_count * sizeof *out);
            k->values_float(c.weights, c.padded_keys, c.rows, c.wide_cache, c.stride, c.keys, c.dim, out, c.padded_dim);
            check_close(out, c.out, out_count, DOT_TOLERANCE, DOT_TOLERANCE, "fp32 values");
        }
        free(scores);
        free(out);
        attention_case_free(&c);
    }
}
