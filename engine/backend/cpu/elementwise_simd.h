/* Norm, rope, activations and conversions over the vectors of simd.h. Included once by each kernels_ISA.c. */

#include <math.h>

#include "kernels.h"
#include "polynomials.h"
#include "simd.h"

KERNEL vf vf_exp(vf x)
{
    x = vf_max(vf_set1(EXP_LOW), vf_min(vf_set1(EXP_HIGH), x));   /* in this order NaN stays */
    vf n = vf_round(vf_mul(x, vf_set1(INV_LN2)));
    vf r = vf_fnma(n, vf_set1(LN2_LOW), vf_fnma(n, vf_set1(LN2_HIGH), x));
    vf q = vf_fma(r, vf_set1(EXP_Q4), vf_set1(EXP_Q3));
    q = vf_fma(r, q, vf_set1(EXP_Q2));
    q = vf_fma(r, q, vf_set1(EXP_Q1));
    q = vf_fma(r, q, vf_set1(EXP_Q0));
    return vf_ldexp(vf_add(vf_set1(1.0f), vf_fma(vf_mul(r, r), q, r)), n);
}

KERNEL vf vf_tanh(vf y)
{
    vf one = vf_set1(1.0f), magnitude = vf_abs(y), z = vf_mul(y, y);
    vf t = vf_fma(z, vf_set1(TANH_T4), vf_set1(TANH_T3));
    t = vf_fma(z, t, vf_set1(TANH_T2));
    t = vf_fma(z, t, vf_set1(TANH_T1));
    t = vf_fma(z, t, vf_set1(TANH_T0));
    vf small = vf_fma(vf_mul(y, z), t, y);
    vf large = vf_sub(one, vf_div(vf_set1(2.0f), vf_add(vf_exp(vf_add(magnitude, magnitude)), one)));
    return vf_if_less(magnitude, vf_set1(TANH_SMALL), small, vf_with_sign(large, y));
}

static void rms_norm(const float *x, const float *weight, float offset, double eps, size_t width, float *out)
{
    vf sum[4] = { vf_zero(), vf_zero(), vf_zero(), vf_zero() };
    size_t i = 0;

    for (; i + 4 * VF_WIDTH <= width; i += 4 * VF_WIDTH)
        UNROLL
        for (size_t u = 0; u < 4; u++) {
            vf v = vf_load(x + i + u * VF_WIDTH);
            sum[u] = vf_fma(v, v, sum[u]);
        }
    for (; i < width; i += VF_WIDTH) {
        vf v = i + VF_WIDTH <= width ? vf_load(x + i) : vf_load_n(x + i, width - i, 0.0f);
        sum[0] = vf_fma(v, v, sum[0]);
    }
    float squares = vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3])));
    vf scale = vf_set1((float)(1.0 / sqrt((double)squares / (double)width + eps)));
    vf shift = vf_set1(offset);

    for (i = 0; i + VF_WIDTH <= width; i += VF_WIDTH)
        vf_store(out + i, vf_mul(vf_mul(vf_load(x + i), scale), vf_add(vf_load(weight + i), shift)));
    if (i < width) {
        size_t n = width - i;
        vf v = vf_mul(vf_load_n(x + i, n, 0.0f), scale);
        vf_store_n(out + i, vf_mul(v, vf_add(vf_load_n(weight + i, n, 0.0f), shift)), n);
    }
}

static void rope(float *x, const float *cos_sin, size_t head_count, size_t head_dim)
{
    size_t half = head_dim / 2;
    const float *cosines = cos_sin, *sines = cos_sin + half;

    for (size_t h = 0; h < head_count; h++, x += head_dim) {
        size_t j = 0;
        for (; j + VF_WIDTH <= half; j += VF_WIDTH) {
            vf a = vf_load(x + j), b = vf_load(x + j + half), c = vf_load(cosines + j), s = vf_load(sines + j);
            vf_store(x + j, vf_fnma(b, s, vf_mul(a, c)));
            vf_store(x + j + half, vf_fma(a, s, vf_mul(b, c)));
        }
        if (j < half) {
            size_t n = half - j;
            vf a = vf_load_n(x + j, n, 0.0f), b = vf_load_n(x + j + half, n, 0.0f);
            vf c = vf_load_n(cosines + j, n, 0.0f), s = vf_load_n(sines + j, n, 0.0f);
            vf_store_n(x + j, vf_fnma(b, s, vf_mul(a, c)), n);
            vf_store_n(x + j + half, vf_fma(a, s, vf_mul(b, c)), n);
        }
    }
}

/* g / (1 + exp(z)) * u: both activations are a logistic of some z. */
KERNEL vf logistic_mul(vf g, vf z, vf u)
{
    return vf_mul(vf_div(g, vf_add(vf_set1(1.0f), vf_exp(z))), u);
}

KERNEL vf silu_step(vf g, vf u)
{
    return logistic_mul(g, vf_sub(vf_zero(), g), u);
}

KERNEL vf gelu_tanh_step(vf g, vf u)
{
    return logistic_mul(g, vf_mul(g, vf_fma(vf_set1(GELU_B), vf_mul(g, g), vf_set1(GELU_A))), u);
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(gate + i, silu_step(vf_load(gate + i), vf_load(up + i)));
    if (i < n)
        vf_store_n(gate + i, silu_step(vf_load_n(gate + i, n - i, 0.0f), vf_load_n(up + i, n - i, 0.0f)), n - i);
}

static void gelu_tanh_mul(float *gate, const float *up, size_t n)
{
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(gate + i, gelu_tanh_step(vf_load(gate + i), vf_load(up + i)));
    if (i < n)
        vf_store_n(gate + i, gelu_tanh_step(vf_load_n(gate + i, n - i, 0.0f), vf_load_n(up + i, n - i, 0.0f)), n - i);
}

static void add(float *x, const float *y, float factor, size_t n)
{
    vf f = vf_set1(factor);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(x + i, vf_fma(vf_load(y + i), f, vf_load(x + i)));
    if (i < n)
        vf_store_n(x + i, vf_fma(vf_load_n(y + i, n - i, 0.0f), f, vf_load_n(x + i, n - i, 0.0f)), n - i);
}

static void from_float(const float *x, size_t n, float factor, float *out)
{
    vf f = vf_set1(factor);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(out + i, vf_mul(vf_load(x + i), f));
    if (i < n)
        vf_store_n(out + i, vf_mul(vf_load_n(x + i, n - i, 0.0f), f), n - i);
}

static void scale(float *x, float factor, size_t n)
{
    from_float(x, n, factor, x);
}

static void softcap(float *x, float cap, size_t n)
{
    vf c = vf_set1(cap);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(x + i, vf_mul(c, vf_tanh(vf_div(vf_load(x + i), c))));
    if (i < n)
        vf_store_n(x + i, vf_mul(c, vf_tanh(vf_div(vf_load_n(x + i, n - i, 0.0f), c))), n - i);
}

static void to_half(const float *x, size_t n, uint16_t *out)
{
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store_half(out + i, vf_load(x + i));
    if (i < n)
        vf_store_half_n(out + i, vf_load_n(x + i, n - i, 0.0f), n - i);
}

static void from_half(const uint16_t *x, size_t n, float factor, float *out)
{
    vf f = vf_set1(factor);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(out + i, vf_mul(vf_load_half(x + i), f));
    if (i < n)
        vf_store_n(out + i, vf_mul(vf_load_half_n(x + i, n - i), f), n - i);
}

static void from_bfloat(const uint16_t *x, size_t n, float factor, float *out)
{
    vf f = vf_set1(factor);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        vf_store(out + i, vf_mul(vf_load_bfloat(x + i), f));
    if (i < n)
        vf_store_n(out + i, vf_mul(vf_load_bfloat_n(x + i, n - i), f), n - i);
}
