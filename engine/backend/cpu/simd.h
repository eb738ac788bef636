#ifndef PLIM_SIMD_H
#define PLIM_SIMD_H

/*
 * Vectors of floats: 8 in an AVX2 register, 16 in an AVX-512 one, under one set of names, so that a kernel is written
 * once. For files that are compiled for one of the two; `_n` operations touch only the first n < VF_WIDTH elements.
 *
 * vf_min and vf_max return their second argument when either is NaN, as the instructions do.
 */

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define KERNEL static inline __attribute__((always_inline))

/* Fixed small loops over arrays of registers must be unrolled, or the arrays live in memory. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#if defined(__AVX512F__)

#define VF_WIDTH 16
typedef __m512 vf;
typedef __mmask16 vf_mask;

KERNEL vf_mask vf_first(size_t n) { return (vf_mask)((1u << n) - 1); }

KERNEL vf vf_set1(float x) { return _mm512_set1_ps(x); }
KERNEL vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
KERNEL void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
KERNEL vf vf_load_n(const float *p, size_t n, float rest)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(rest), vf_first(n), p);
}
KERNEL void vf_store_n(float *p, vf x, size_t n) { _mm512_mask_storeu_ps(p, vf_first(n), x); }

KERNEL vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
KERNEL vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
KERNEL vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
KERNEL vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
KERNEL vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
KERNEL vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
KERNEL vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }     /* a b + c */
KERNEL vf vf_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }   /* c - a b */
KERNEL vf vf_round(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KERNEL vf vf_abs(vf x) { return _mm512_abs_ps(x); }
/* The sign of b on the magnitude a >= 0. */
KERNEL vf vf_with_sign(vf a, vf b) { return _mm512_or_ps(a, _mm512_and_ps(b, _mm512_set1_ps(-0.0f))); }
KERNEL vf vf_if_less(vf a, vf b, vf yes, vf no)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}
/* x 2^n, n integral. */
KERNEL vf vf_ldexp(vf x, vf n) { return _mm512_scalef_ps(x, n); }
KERNEL float vf_lane0(vf x) { return _mm512_cvtss_f32(x); }
KERNEL float vf_sum(vf x) { return _mm512_reduce_add_ps(x); }
KERNEL float vf_highest(vf x) { return _mm512_reduce_max_ps(x); }

KERNEL vf vf_load_half(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
KERNEL void vf_store_half(uint16_t *p, vf x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KERNEL vf vf_load_bfloat(const uint16_t *p)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

/* The first VF_WIDTH bytes of x, as numbers. */
KERNEL vf vf_from_bytes(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)); }

/* Sums of four vectors, in order. */
KERNEL __m128 vf_sum4(vf a, vf b, vf c, vf d)
{
    __m256 a8 = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m256 b8 = _mm256_add_ps(_mm512_castps512_ps256(b), _mm512_extractf32x8_ps(b, 1));
    __m256 c8 = _mm256_add_ps(_mm512_castps512_ps256(c), _mm512_extractf32x8_ps(c, 1));
    __m256 d8 = _mm256_add_ps(_mm512_castps512_ps256(d), _mm512_extractf32x8_ps(d, 1));
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a8, b8), _mm256_hadd_ps(c8, d8));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

#elif defined(__AVX2__)

#define VF_WIDTH 8
typedef __m256 vf;

KERNEL __m256i vf_first(size_t n)
{
    static const int32_t mask[16] = { -1, -1, -1, -1, -1, -1, -1, -1 };
    return _mm256_loadu_si256((const __m256i *)(const void *)(mask + 8 - n));
}

KERNEL vf vf_set1(float x) { return _mm256_set1_ps(x); }
KERNEL vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
KERNEL void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }
KERNEL vf vf_load_n(const float *p, size_t n, float rest)
{
    __m256i first = vf_first(n);
    return _mm256_blendv_ps(_mm256_set1_ps(rest), _mm256_maskload_ps(p, first), _mm256_castsi256_ps(first));
}
KERNEL void vf_store_n(float *p, vf x, size_t n) { _mm256_maskstore_ps(p, vf_first(n), x); }

KERNEL vf vf_add(vf a, vf b) { return _mm256_add_ps(a, b); }
KERNEL vf vf_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
KERNEL vf vf_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
KERNEL vf vf_div(vf a, vf b) { return _mm256_div_ps(a, b); }
KERNEL vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
KERNEL vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
KERNEL vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }     /* a b + c */
KERNEL vf vf_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }   /* c - a b */
KERNEL vf vf_round(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
KERNEL vf vf_abs(vf x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
/* The sign of b on the magnitude a >= 0. */
KERNEL vf vf_with_sign(vf a, vf b) { return _mm256_or_ps(a, _mm256_and_ps(b, _mm256_set1_ps(-0.0f))); }
KERNEL vf vf_if_less(vf a, vf b, vf yes, vf no) { return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ)); }
/* x 2^n, n integral, |n| < 250: in two factors, since n may pass a float's exponent where x 2^n does not. */
KERNEL vf vf_ldexp(vf x, vf n)
{
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1), one = _mm256_set1_epi32(127);
    __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, one), 23);
    __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), one), 23);
    return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}
KERNEL float vf_lane0(vf x) { return _mm256_cvtss_f32(x); }
KERNEL float vf_sum(vf x)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
KERNEL float vf_highest(vf x)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

KERNEL vf vf_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
KERNEL void vf_store_half(uint16_t *p, vf x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
KERNEL vf vf_load_bfloat(const uint16_t *p)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

/* The first VF_WIDTH bytes of x, as numbers. */
KERNEL vf vf_from_bytes(__m128i x) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)); }

/* Sums of four vectors, in order. */
KERNEL __m128 vf_sum4(vf a, vf b, vf c, vf d)
{
    __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
}

#else
#error "simd.h is for files that are compiled for AVX2 or AVX-512"
#endif

KERNEL vf vf_zero(void) { return vf_set1(0.0f); }

/* Sixteen-bit elements have no masked load in AVX2: tails go through a small buffer. */
KERNEL vf vf_load_half_n(const uint16_t *p, size_t n)
{
    uint16_t buffer[VF_WIDTH] = { 0 };
    memcpy(buffer, p, n * sizeof *p);
    return vf_load_half(buffer);
}
KERNEL vf vf_load_bfloat_n(const uint16_t *p, size_t n)
{
    uint16_t buffer[VF_WIDTH] = { 0 };
    memcpy(buffer, p, n * sizeof *p);
    return vf_load_bfloat(buffer);
}
KERNEL void vf_store_half_n(uint16_t *p, vf x, size_t n)
{
    uint16_t buffer[VF_WIDTH];
    vf_store_half(buffer, x);
    memcpy(p, buffer, n * sizeof *p);
}

#endif
