/* The plain kernels: what each one computes, as anybody would write it down. */

#include <math.h>
#include <stdbool.h>

#include "half.h"
#include "kernels.h"
#include "polynomials.h"

static float exp_plain(float x)
{
    if (isnan(x))
        return x;
    x = fmaxf(EXP_LOW, fminf(EXP_HIGH, x));
    float n = nearbyintf(x * INV_LN2);
    float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float q = EXP_Q0 + r * (EXP_Q1 + r * (EXP_Q2 + r * (EXP_Q3 + r * EXP_Q4)));
    float p = 1.0f + (r + r * r * q);
    /* 2^n in two factors: n reaches 129 and -150, a float's exponent doesn't. */
    int whole = (int)n, half = whole / 2;
    return p * float_from_bits((uint32_t)(half + 127) << 23) * float_from_bits((uint32_t)(whole - half + 127) << 23);
}

static float tanh_plain(float y)
{
    float magnitude = fabsf(y);
    if (magnitude < TANH_SMALL) {
        float z = y * y;
        return y + y * z * (TANH_T0 + z * (TANH_T1 + z * (TANH_T2 + z * (TANH_T3 + z * TANH_T4))));
    }
    return copysignf(1.0f - 2.0f / (exp_plain(2.0f * magnitude) + 1.0f), y);
}

static void rms_norm(const float *x, const float *weight, float offset, double eps, size_t width, float *out)
{
    double sum = 0;
    for (size_t i = 0; i < width; i++)
        sum += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / sqrt(sum / (double)width + eps));
    for (size_t i = 0; i < width; i++)
        out[i] = x[i] * scale * (weight[i] + offset);
}

static void rope(float *x, const float *cos_sin, size_t head_count, size_t head_dim)
{
    size_t half = head_dim / 2;
    const float *cosines = cos_sin, *sines = cos_sin + half;
    for (size_t h = 0; h < head_count; h++, x += head_dim)
        for (size_t j = 0; j < half; j++) {
            float a = x[j], b = x[j + half];
            x[j] = a * cosines[j] - b * sines[j];
            x[j + half] = b * cosines[j] + a * sines[j];
        }
}

static void silu_mul(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        gate[i] = gate[i] / (1.0f + exp_plain(-gate[i])) * up[i];
}

static void gelu_tanh_mul(float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float g = gate[i];
        gate[i] = g / (1.0f + exp_plain(g * (GELU_A + GELU_B * (g * g)))) * up[i];
    }
}

static void add(float *x, const float *y, float scale, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] += y[i] * scale;
}

static void scale(float *x, float factor, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void softcap(float *x, float cap, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = cap * tanh_plain(x[i] / cap);
}

static void to_half(const float *x, size_t n, uint16_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = half_from_float(x[i]);
}

static void from_half(const uint16_t *x, size_t n, float factor, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = half_to_float(x[i]) * factor;
}

static void from_bfloat(const uint16_t *x, size_t n, float factor, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = bfloat_to_float(x[i]) * factor;
}

static void from_float(const float *x, size_t n, float factor, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * factor;
}

static float softmax_step(float *scores, size_t n, float *max, float *sum)
{
    float highest = *max;
    for (size_t i = 0; i < n; i++)
        if (scores[i] > highest)
            highest = scores[i];
    float rescale = *max == highest ? 1.0f : exp_plain(*max - highest);
    float piece = 0;
    for (size_t i = 0; i < n; i++) {
        scores[i] = exp_plain(scores[i] - highest);
        piece += scores[i];
    }
    *sum = *sum * rescale + piece;
    *max = highest;
    return rescale;
}

/* The two caches differ in how an element is read. */
#define DEFINE_CACHE_KERNELS(suffix, type, read)                                                                       \
    static void scores_##suffix(const float *q, size_t q_stride, size_t rows, const type *keys, size_t key_stride,     \
                                size_t key_count, size_t dim, float *out, size_t out_stride)                           \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++)                                                                              \
            for (size_t c = 0; c < key_count; c++) {                                                                   \
                float dot = 0;                                                                                         \
                for (size_t j = 0; j < dim; j++)                                                                       \
                    dot += q[r * q_stride + j] * read(keys[c * key_stride + j]);                                       \
                out[r * out_stride + c] = dot;                                                                         \
            }                                                                                                          \
    }                                                                                                                  \
                                                                                                                       \
    static void values_##suffix(const float *weights, size_t weights_stride, size_t rows, const type *cached,          \
                                size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)      \
    {                                                                                                                  \
        for (size_t r = 0; r < rows; r++)                                                                              \
            for (size_t c = 0; c < key_count; c++)                                                                     \
                for (size_t j = 0; j < dim; j++)                                                                       \
                    out[r * out_stride + j] +=                                                                         \
                        weights[r * weights_stride + c] * read(cached[c * value_stride + j]);                          \
    }

#define AS_IT_IS(x) (x)

DEFINE_CACHE_KERNELS(half, uint16_t, half_to_float)
DEFINE_CACHE_KERNELS(float, float, AS_IT_IS)

static void kv_decode(const struct kv_format *format, const uint8_t *cache, size_t rows, size_t first, size_t n, float *out,
                      size_t out_stride)
{
    for (size_t r = 0; r < rows; r++, cache += format->row_bytes, out += out_stride) {
        const uint16_t *scales = (const uint16_t *)(const void *)(cache + format->scale_offset);
        for (size_t i = first; i < first + n; i++) {
            float scale = half_to_float(scales[i / format->group]);
            int code = format->element == KV_Q8 ? cache[i] - 128 : (cache[i / 2] >> (i % 2 * 4) & 15) - 8;
            out[i - first] = (float)code * scale;
        }
    }
}

#define KERNELS_ISA PLIM_ISA_PORTABLE
#define KERNELS_NAME cpu_kernels_portable
#include "kernels_table.h"
