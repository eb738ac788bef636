/* The inner loops of attention over the vectors of simd.h. Included once by each kernels_ISA.c. */

static float softmax_step(float *scores, size_t n, float *max, float *sum)
{
    vf high = vf_set1(*max);
    size_t i = 0;
    for (; i + VF_WIDTH <= n; i += VF_WIDTH)
        high = vf_max(high, vf_load(scores + i));
    if (i < n)
        high = vf_max(high, vf_load_n(scores + i, n - i, -INFINITY));
    float highest = vf_highest(high);
    float rescale = *max == highest ? 1.0f : vf_lane0(vf_exp(vf_set1(*max - highest)));

    high = vf_set1(highest);
    vf total = vf_zero();
    for (i = 0; i + VF_WIDTH <= n; i += VF_WIDTH) {
        vf weight = vf_exp(vf_sub(vf_load(scores + i), high));
        vf_store(scores + i, weight);
        total = vf_add(total, weight);
    }
    if (i < n) {
        vf weight = vf_exp(vf_sub(vf_load_n(scores + i, n - i, -INFINITY), high));
        vf_store_n(scores + i, weight, n - i);
        total = vf_add(total, vf_load_n(scores + i, n - i, 0.0f));
    }
    *sum = *sum * rescale + vf_sum(total);
    *max = highest;
    return rescale;
}

/* Queries of a score tile: the 12 or 16 sums and the queries fit in registers. */
#if VF_WIDTH == 16
#define SCORE_ROWS 4
#else
#define SCORE_ROWS 3
#endif

/* Keys ahead that are asked for, and rows of a tile of the result. */
#define PREFETCH_KEYS 16
#define VALUE_ROWS    6

#define CACHED uint16_t
#define CACHED_NAME(function) function##_half
#define CACHED_LOAD vf_load_half
#define CACHED_LOAD_N vf_load_half_n
#include "attention_tiles.h"

#define CACHED float
#define CACHED_NAME(function) function##_float
#define CACHED_LOAD vf_load
#define CACHED_LOAD_N(p, n) vf_load_n((p), (n), 0.0f)
#include "attention_tiles.h"

/* Sixteen bytes from `from` where that many are wanted; `bytes` is 16, 8 or 4. */
KERNEL __m128i load_codes(const uint8_t *from, size_t bytes)
{
    if (bytes == 16)
        return _mm_loadu_si128((const __m128i *)(const void *)from);
    if (bytes == 8)
        return _mm_loadl_epi64((const __m128i *)(const void *)from);
    return _mm_cvtsi32_si128((int)((uint32_t)from[0] | (uint32_t)from[1] << 8 | (uint32_t)from[2] << 16 |
                                   (uint32_t)from[3] << 24));
}

/* A group is 16 or 32 elements, so a vector never has two scales. */
static void kv_decode(const struct kv_format *format, const uint8_t *cache, size_t rows, size_t first, size_t n, float *out,
                      size_t out_stride)
{
    const __m128i low = _mm_set1_epi8(15);
    for (size_t r = 0; r < rows; r++, cache += format->row_bytes, out += out_stride) {
        const uint16_t *scales = (const uint16_t *)(const void *)(cache + format->scale_offset);
        for (size_t i = first; i < first + n; i += VF_WIDTH) {
            vf scale = vf_set1(_cvtsh_ss(scales[i / format->group])), code;
            if (format->element == KV_Q8) {
                code = vf_sub(vf_from_bytes(load_codes(cache + i, VF_WIDTH)), vf_set1(128.0f));
            } else {
                __m128i pairs = load_codes(cache + i / 2, VF_WIDTH / 2);
                __m128i even = _mm_and_si128(pairs, low), odd = _mm_and_si128(_mm_srli_epi16(pairs, 4), low);
                code = vf_sub(vf_from_bytes(_mm_unpacklo_epi8(even, odd)), vf_set1(8.0f));
            }
            vf_store(out + i - first, vf_mul(code, scale));
        }
    }
}
