/*
 * Scores and weighted sums of values over a cache of CACHED elements. attention_simd.h includes this once for each type,
 * with CACHED_NAME, CACHED_LOAD and CACHED_LOAD_N (a vector, or its first n elements and zeros).
 */

/*
 * A tile of `rows` queries (at most SCORE_ROWS) by four keys: each key vector is widened once for all queries, and
 * the 12 or 16 sums and the queries fit in registers.
 */
KERNEL void CACHED_NAME(score_tile)(size_t rows, const float *q, size_t q_stride, const CACHED *keys, size_t key_stride,
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
            const CACHED *from = keys + c * key_stride + j;
            vf key = n >= VF_WIDTH ? CACHED_LOAD(from) : CACHED_LOAD_N(from, n);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r][c] = vf_fma(key, query[r], sum[r][c]);
        }
    }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        _mm_storeu_ps(out + r * out_stride, vf_sum4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]));
}

KERNEL float CACHED_NAME(score_one)(const float *q, const CACHED *key, size_t dim)
{
    vf sum = vf_zero();
    size_t j = 0;
    for (; j + VF_WIDTH <= dim; j += VF_WIDTH)
        sum = vf_fma(CACHED_LOAD(key + j), vf_load(q + j), sum);
    if (j < dim)
        sum = vf_fma(CACHED_LOAD_N(key + j, dim - j), vf_load_n(q + j, dim - j, 0.0f), sum);
    return vf_sum(sum);
}

/*
 * Rows of one head lie a page or half a page apart, where no hardware prefetcher follows; a fifth of a decode step at
 * 4096 tokens. Asking for memory beyond the cache's end does no harm.
 */
KERNEL void CACHED_NAME(prefetch_keys)(const CACHED *keys, size_t key_stride, size_t dim)
{
    for (size_t c = 0; c < 4; c++, keys += key_stride)
        for (size_t j = 0; j < dim; j += 64 / sizeof(CACHED))
            _mm_prefetch((const char *)(keys + j), _MM_HINT_T0);
}

static void CACHED_NAME(scores)(const float *q, size_t q_stride, size_t rows, const CACHED *keys, size_t key_stride,
                                size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t c = 0;
    for (; c + 4 <= key_count; c += 4, keys += 4 * key_stride) {
        CACHED_NAME(prefetch_keys)(keys + PREFETCH_KEYS * key_stride, key_stride, dim);
        const float *query = q;
        float *to = out + c;
        size_t left = rows;
        /* Four are two and two: a tile of one row widens as much as a full one. */
        for (; left >= SCORE_ROWS && left != 4; left -= SCORE_ROWS) {
            CACHED_NAME(score_tile)(SCORE_ROWS, query, q_stride, keys, key_stride, dim, to, out_stride);
            query += SCORE_ROWS * q_stride;
            to += SCORE_ROWS * out_stride;
        }
        for (; left >= 2; left -= 2) {
            CACHED_NAME(score_tile)(2, query, q_stride, keys, key_stride, dim, to, out_stride);
            query += 2 * q_stride;
            to += 2 * out_stride;
        }
        if (left)
            CACHED_NAME(score_tile)(1, query, q_stride, keys, key_stride, dim, to, out_stride);
    }
    for (; c < key_count; c++, keys += key_stride)
        for (size_t r = 0; r < rows; r++)
            out[r * out_stride + c] = CACHED_NAME(score_one)(q + r * q_stride, keys, dim);
}

/* A tile of `rows` x (`vectors` * VF_WIDTH) of the result stays in registers while all keys go by. */
KERNEL void CACHED_NAME(value_tile)(size_t rows, size_t vectors, const float *weights, size_t weights_stride,
                                    const CACHED *values, size_t value_stride, size_t key_count, float *out,
                                     size_t out_stride)
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
            value[v] = CACHED_LOAD(values + v * VF_WIDTH);
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
KERNEL void CACHED_NAME(value_rows)(size_t rows, const float *weights, size_t weights_stride, const CACHED *values,
                                    size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t wide = rows > 3 ? 2 : 4, j = 0;
    for (; j + wide * VF_WIDTH <= dim; j += wide * VF_WIDTH)
        CACHED_NAME(value_tile)(rows, wide, weights, weights_stride, values + j, value_stride, key_count, out + j,
                                out_stride);
    for (; j + VF_WIDTH <= dim; j += VF_WIDTH)
        CACHED_NAME(value_tile)(rows, 1, weights, weights_stride, values + j, value_stride, key_count, out + j,
                                out_stride);
    if (j == dim)
        return;
    size_t n = dim - j;
    for (size_t r = 0; r < rows; r++) {
        vf sum = vf_load_n(out + r * out_stride + j, n, 0.0f);
        for (size_t c = 0; c < key_count; c++)
            sum = vf_fma(vf_set1(weights[r * weights_stride + c]), CACHED_LOAD_N(values + c * value_stride + j, n),
                         sum);
        vf_store_n(out + r * out_stride + j, sum, n);
    }
}

static void CACHED_NAME(values)(const float *weights, size_t weights_stride, size_t rows, const CACHED *cached,
                                size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)
{
    while (rows > 0) {
        size_t step = rows >= 6 ? 6 : rows >= 4 ? 4 : rows;
        switch (step) {   /* each with a constant, so that its sums are registers */
        case 6:
            CACHED_NAME(value_rows)(6, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 4:
            CACHED_NAME(value_rows)(4, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 3:
            CACHED_NAME(value_rows)(3, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        case 2:
            CACHED_NAME(value_rows)(2, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
            break;
        default:
            CACHED_NAME(value_rows)(1, weights, weights_stride, cached, value_stride, key_count, dim, out, out_stride);
        }
        weights += step * weights_stride;
        out += step * out_stride;
        rows -= step;
    }
}

#undef CACHED
#undef CACHED_NAME
#undef CACHED_LOAD
#undef CACHED_LOAD_N
