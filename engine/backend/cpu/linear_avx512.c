/* The kernels of linear_simd.h for AVX-512 (F, BW, DQ, VL) with VNNI. */

#include <immintrin.h>
#include <stdint.h>

#define LANES 16
typedef __m512i veci;
typedef __m512 vecf;

#define vi_load(p)             _mm512_loadu_si512(p)
#define vi_set1(a)             _mm512_set1_epi32(a)
#define vi_add(a, b)           _mm512_add_epi32(a, b)
#define vi_and(a, b)           _mm512_and_si512(a, b)
#define vi_or(a, b)            _mm512_or_si512(a, b)
#define vi_sll(a, n)           _mm512_slli_epi32(a, (unsigned)(n))
#define vi_srl(a, n)           _mm512_srli_epi32(a, (unsigned)(n))
#define vi_sra(a, n)           _mm512_srai_epi32(a, n)
#ifdef __clang__   /* takes an unsigned count, gcc 12 an int */
#define vi_srl16(a, n)         _mm512_srli_epi16(a, (unsigned)(n))
#else
#define vi_srl16(a, n)         _mm512_srli_epi16(a, n)
#endif
#define vi_halves(low, high)   _mm512_mask_blend_epi16(0xaaaaaaaau, low, high)
#define vi_mac(sum, codes, x)  _mm512_dpwssd_epi32(sum, codes, x)
#define vi_from_float(a)       _mm512_cvtps_epi32(a)
#define vi_sum(a)              _mm512_reduce_add_epi32(a)

#define vf_load(p)             _mm512_loadu_ps(p)
#define vf_store(p, a)         _mm512_storeu_ps(p, a)
#define vf_set1(a)             _mm512_set1_ps(a)
#define vf_mul(a, b)           _mm512_mul_ps(a, b)
#define vf_fma(a, b, c)        _mm512_fmadd_ps(a, b, c)
#define vf_from_int(a)         _mm512_cvtepi32_ps(a)
#define vf_round_half(a)       _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC))
#define vf_sum(a)              _mm512_reduce_add_ps(a)

#define vf_load_f32(p)   _mm512_loadu_ps(p)
#define vf_load_f16(p)   _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vf_load_bf16(p)                                                                                                \
    _mm512_castsi512_ps(_mm512_slli_epi32(                                                                             \
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p))), 16))

static inline void vi_store_int16(int16_t *out, veci a)
{
    _mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtsepi32_epi16(a));
}

/* Sixteen 4-bit codes of two words, one a lane. */
static inline veci vi_scale_codes(const uint32_t *words)
{
    __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
    __m512i both = _mm512_mask_set1_epi32(_mm512_set1_epi32((int)words[0]), 0xff00, (int)words[1]);
    return _mm512_and_si512(_mm512_srlv_epi32(both, shifts), _mm512_set1_epi32(15));
}

typedef __m512 vf_table;

static inline vf_table vf_table_make(float unit)
{
    __m512 squares = _mm512_setr_ps(1, 4, 9, 16, 25, 36, 49, 64, 81, 100, 121, 144, 169, 196, 225, 256);
    return vf_round_half(_mm512_mul_ps(squares, _mm512_set1_ps(unit)));
}

static inline vecf vf_table_look(vf_table table, veci codes)
{
    return _mm512_permutexvar_ps(codes, table);
}

#include "linear_simd.h"

const struct linear_kernels linear_kernels_avx512 = LINEAR_KERNELS;
