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
