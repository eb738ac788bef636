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

/*
 * A tile of `rows` queries (at most SCORE_ROWS) by four keys: each key vector is widened once for all queries, and
 * the 12 or 16 sums and the queries fit in registers.
 */
#if VF_WIDTH == 16
#define SCORE_ROWS 4
#else
#define SCORE_ROWS 3
#endif

KERNEL void score_tile(size_t rows, const float *q, size_t q_stride, const uint16_t *keys, size_t key_stride,
                       size_t dim, float *out, size_t out_stride)
{
    vf sum[SCORE_ROWS][4], query[SCORE_ROWS];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t c = 0; c < 4; c++)
            sum[r][c] = vf_zero();
    for (size_t j = 0; j < dim; j += VF_WIDTH) {
        size_t n = dim - j;
        UNROLL
        for (size_t r = 0; r < rows; r++)
            query[r] = n >= VF_WIDTH ? vf_load(q + r * q_stride + j) : vf_load_n(q + r * q_stride + j, n, 0.0f);
        UNROLL
        for (size_t c = 0; c < 4; c++) {
            const uint16_t *from = keys + c * key_stride + j;
            vf key = n >= VF_WIDTH ? vf_load_half(from) : vf_load_half_n(from, n);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r][c] = vf_fma(key, query[r], sum[r][c]);
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        _mm_storeu_ps(out + r * out_stride, vf_sum4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
}

KERNEL float score_one(const float *q, const uint16_t *key, size_t dim)
{
    vf sum = vf_zero();
    size_t j = 0;
    for (; j + VF_WIDTH <= dim; j += VF_WIDTH)
        sum = vf_fma(vf_load_half(key + j), vf_load(q + j), sum);
    if (j < dim)
        sum = vf_fma(vf_load_half_n(key + j, dim - j), vf_load_n(q + j, dim - j, 0.0f), sum);
    return vf_sum(sum);
}

/*
 * Rows of one head lie a page or half a page apart, where no hardware prefetcher follows; a fifth of a decode step at
 * 4096 tokens. Asking for memory beyond the cache's end does no harm.
 */
#define PREFETCH_KEYS 16

KERNEL void prefetch_keys(const uint16_t *keys, size_t key_stride, size_t dim)
{
    for (size_t c = 0; c < 4; c++, keys += key_stride)
        for (size_t j = 0; j < dim; j += 32)
            _mm_prefetch((const char *)(keys + j), _MM_HINT_T0);
}

static void scores(const float *q, size_t q_stride, size_t rows, const uint16_t *keys, size_t key_stride,
                   size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t c = 0;
    for (; c + 4 <= key_count; c += 4, keys += 4 * key_stride) {
        prefetch_keys(keys + PREFETCH_KEYS * key_stride, key_stride, dim);
        const float *query = q;
        float *to = out + c;
        size_t left = rows;
        /* Four are two and two: a tile of one row widens as much as a full one. */
        for (; left >= SCORE_ROWS && left != 4; left -= SCORE_ROWS) {
            score_tile(SCORE_ROWS, query, q_stride, keys, key_stride, dim, to, out_stride);
            query += SCORE_ROWS * q_stride;
            to += SCORE_ROWS * out_stride;
        }
        for (; left >= 2; left -= 2) {
            score_tile(2, query, q_stride, keys, key_stride, dim, to, out_stride);
            query += 2 * q_stride;
            to += 2 * out_stride;
        }
        if (left)
            score_tile(1, query, q_stride, keys, key_stride, dim, to, out_stride);
    }
    for (; c < key_count; c++, keys += key_stride)
        for (size_t r = 0; r < rows; r++)
            out[r * out_stride + c] = score_one(q + r * q_stride, keys, dim);
}

/* A tile of `rows` x (`vectors` * VF_WIDTH) of the result stays in registers while all keys go by. */
#define VALUE_ROWS 6

KERNEL void value_tile(size_t rows, size_t vectors, const float *weights, size_t weights_stride,
                       const uint16_t *values, size_t value_stride, size_t key_count, float *out, size_t out_stride)
{
    vf sum[VALUE_ROWS][4];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            sum[r][v] = vf_load(out + r * out_stride + v * VF_WIDTH);
    for (size_t c = 0; c < key_count; c++, values += value_stride) {
        vf value[4];
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            value[v] = vf_load_half(values + v * VF_WIDTH);
        UNROLL
        for (size_t r = 0; r < rows; r++) {
            vf weight = vf_set1(weights[r * weights_stride + c]);
            UNROLL
            for (size_t v = 0; v < vectors; v++)
                sum[r][v] = vf_fma(weight, value[v], sum[r][v]);
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            vf_store(out + r * out_stride + v * VF_WIDTH, sum[r][v]);
}

/* All columns of `rows` rows: tiles of at most 12 sums, then of one vector, then what is left of a vector. */
KERNEL void value_rows(size_t rows, const float *weights, size_t weights_stride, const uint16_t *values,
                       size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t wide = rows > 3 ? 2 : 4, j = 0;
    for (; j + wide * VF_WIDTH <= dim; j += wide * VF_WIDTH)
        value_tile(rows, wide, weights, weights_stride, values + j, value_stride, key_count, out + j, out_stride);
    for (; j + VF_WIDTH <= dim; j += VF_WIDTH)
        value_tile(rows, 1, weights, weights_stride, values + j, value_stride, key_count, out + j, out_stride);
    if (j == dim)
        return;
    size_t n = dim - j;
    for (size_t r = 0; r < rows; r++) {
        vf sum = vf_load_n(out + r * out_stride + j, n, 0.0f);
        for (size_t c = 0; c < key_count; c++)
            sum = vf_fma(vf_set1(weights[r * weights_stride + c]), vf_load_half_n(values + c * value_stride + j, n),
                         sum);
        vf_store_n(out + r * out_stride + j, sum, n);
    }
}

static void values(const float *weights, size_t weights_stride, size_t rows, const uint16_t *cached,
                   size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)
{
    while (rows > 0) {
        size_t step = rows >= 6 ? 6 : rows >= 4 ? 4 : rows;
        switch (step) {   /* each with a constant, so that its sums are registers */
        case 6:
            value_rows(6, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 4:
            value_rows(4, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 3:
            value_rows(3, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 2:
            value_rows(2, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        default:
            value_rows(1, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
        }
        weights += step * weights_stride;
        out += step * out_stride;
        rows -= step;
    }
}
