/* The kernels of linear_simd.h for AVX2 with FMA and F16C. */

#include <immintrin.h>
#include <stdint.h>

#define LANES 8
typedef __m256i veci;
typedef __m256 vecf;

#define vi_load(p)             _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define vi_set1(a)             _mm256_set1_epi32(a)
#define vi_add(a, b)           _mm256_add_epi32(a, b)
#define vi_and(a, b)           _mm256_and_si256(a, b)
#define vi_or(a, b)            _mm256_or_si256(a, b)
#define vi_sll(a, n)           _mm256_slli_epi32(a, (int)(n))
#define vi_srl(a, n)           _mm256_srli_epi32(a, (int)(n))
#define vi_sra(a, n)           _mm256_srai_epi32(a, n)
#define vi_srl16(a, n)         _mm256_srli_epi16(a, n)
#define vi_halves(low, high)   _mm256_blend_epi16(low, high, 0xaa)
#define vi_from_float(a)       _mm256_cvtps_epi32(a)

#define vf_load(p)             _mm256_loadu_ps(p)
#define vf_store(p, a)         _mm256_storeu_ps(p, a)
#define vf_set1(a)             _mm256_set1_ps(a)
#define vf_mul(a, b)           _mm256_mul_ps(a, b)
#define vf_fma(a, b, c)        _mm256_fmadd_ps(a, b, c)
#define vf_from_int(a)         _mm256_cvtepi32_ps(a)
#define vf_round_half(a)       _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT))

#define vf_load_f32(p)   _mm256_loadu_ps((const float *)(const void *)(p))
#define vf_load_f16(p)   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define vf_load_bf16(p)                                                                                                \
    _mm256_castsi256_ps(_mm256_slli_epi32(                                                                             \
        _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p))), 16))

/* gcc 12 does not add in place: a copy for each sum, a quarter of the instructions of the product's inner loop. */
static inline __attribute__((always_inline)) veci vi_mac(veci sum, veci codes, veci x)
{
    veci product = _mm256_madd_epi16(codes, x);
#ifdef __clang__
    return _mm256_add_epi32(sum, product);
#else
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
    return sum;
#endif
}

static inline int32_t vi_sum(veci a)
{
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

static inline float vf_sum(vecf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

static inline void vi_store_int16(int16_t *out, veci a)
{
    __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    _mm_storeu_si128((__m128i *)(void *)out, packed);
}

/* Eight 4-bit codes of one word, one a lane. */
static inline veci vi_scale_codes(const uint32_t *words)
{
    __m256i shifts = _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28);
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32((int)words[0]), shifts), _mm256_set1_epi32(15));
}

typedef struct {
    __m256 low, high;
} vf_table;

static inline vf_table vf_table_make(float unit)
{
    __m256 low = _mm256_setr_ps(1, 4, 9, 16, 25, 36, 49, 64);
    __m256 high = _mm256_setr_ps(81, 100, 121, 144, 169, 196, 225, 256);
    vf_table table = {
        vf_round_half(_mm256_mul_ps(low, _mm256_set1_ps(unit))),
        vf_round_half(_mm256_mul_ps(high, _mm256_set1_ps(unit))),
    };
    return table;
}

static inline vecf vf_table_look(vf_table table, veci codes)
{
    __m256 low = _mm256_permutevar8x32_ps(table.low, codes), high = _mm256_permutevar8x32_ps(table.high, codes);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28)));
}

#include "linear_simd.h"

const struct linear_kernels linear_kernels_avx2 = LINEAR_KERNELS;
