#ifndef PLIM_KERNELS_H
#define PLIM_KERNELS_H

/*
 * The CPU backend's inner loops: one table for each instruction set, chosen once when the backend is opened. The
 * portable table is the plain twin that the others are tested against; the others are written once, in *_simd.h, over
 * the vectors of simd.h, and compiled for AVX2 and for AVX-512.
 *
 * No kernel allocates, fails, or starts threads.
 */

#include <stddef.h>
#include <stdint.h>

#include "kv_format.h"
#include "plimsoll/cpu.h"

struct cpu_kernels {
    enum plim_isa isa;

    /* out = x * (weight + offset) / sqrt(mean(x^2) + eps), one row; x and out may be the same. */
    void (*rms_norm)(const float *x, const float *weight, float offset, double eps, size_t width, float *out);

    /* Rotates the heads x [head_count, head_dim] of one token by cos_sin [head_dim]: cosines, then sines. */
    void (*rope)(float *x, const float *cos_sin, size_t head_count, size_t head_dim);

    /* gate = silu(gate) * up; gate = gelu_tanh(gate) * up. */
    void (*silu_mul)(float *gate, const float *up, size_t n);
    void (*gelu_tanh_mul)(float *gate, const float *up, size_t n);

    /* x += y * scale; x *= scale; x = cap * tanh(x / cap). */
    void (*add)(float *x, const float *y, float scale, size_t n);
    void (*scale)(float *x, float scale, size_t n);
    void (*softcap)(float *x, float cap, size_t n);

    /* fp16, to nearest even; and fp16, bf16, fp32 widened and scaled. */
    void (*to_half)(const float *x, size_t n, uint16_t *out);
    void (*from_half)(const uint16_t *x, size_t n, float scale, float *out);
    void (*from_bfloat)(const uint16_t *x, size_t n, float scale, float *out);
    void (*from_float)(const float *x, size_t n, float scale, float *out);

    /*
     * One step of an online softmax (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018):
     * raises *max over scores[n], n >= 1, replaces the scores by exp(score - *max), and makes *sum the sum over all
     * pieces so far. Returns what earlier pieces' weights must be multiplied by. Start with *max -INFINITY, *sum 0.
     */
    float (*softmax_step)(float *scores, size_t n, float *max, float *sum);

    /*
     * scores[r][c] = q[r] . keys[c], and out[r] += sum over c of weights[r][c] * values[c], straight from a cache of
     * fp16 or fp32. Strides are in elements.
     */
    void (*scores_half)(const float *q, size_t q_stride, size_t rows, const uint16_t *keys, size_t key_stride,
                        size_t key_count, size_t dim, float *scores, size_t scores_stride);
    void (*values_half)(const float *weights, size_t weights_stride, size_t rows, const uint16_t *values,
                        size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride);
    void (*scores_float)(const float *q, size_t q_stride, size_t rows, const float *keys, size_t key_stride,
                         size_t key_count, size_t dim, float *scores, size_t scores_stride);
    void (*values_float)(const float *weights, size_t weights_stride, size_t rows, const float *values,
                         size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride);

    /*
     * Elements first .. first + n - 1 of `rows` quantised rows of the cache to out [rows, out_stride], still rotated; first
     * and n are multiples of the format's group.
     */
    void (*kv_decode)(const struct kv_format *format, const uint8_t *cache, size_t rows, size_t first, size_t n, float *out,
                      size_t out_stride);
};

extern const struct cpu_kernels cpu_kernels_portable;
extern const struct cpu_kernels cpu_kernels_avx2;
extern const struct cpu_kernels cpu_kernels_avx512;

/* The table of one instruction set, which must be supported. */
const struct cpu_kernels *cpu_kernels_for(enum plim_isa isa);

#endif
