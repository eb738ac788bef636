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

/* ---- straight from the cache ---- */

/*
 * Four keys at a time against SCORE_ROWS queries: each key vector is widened once for all of them, and SCORE_ROWS * 4
 * sums fit in registers.
 */
#if VF_WIDTH == 16
#define SCORE_ROWS 4
#else
#define SCORE_ROWS 2
#endif

KERNEL void score_tile(size_t rows, const float *q, size_t q_stride, const uint16_t *keys, size_t key_stride,
                       size_t dim, float *out, size_t out_stride)
{
    vf sum[SCORE_ROWS][4];
    size_t j = 0;

    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t c = 0; c < 4; c++)
            sum[r][c] = vf_zero();
    for (; j + VF_WIDTH <= dim; j += VF_WIDTH)
        UNROLL
        for (size_t c = 0; c < 4; c++) {
            vf k = vf_load_half(keys + c * key_stride + j);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r][c] = vf_fma(k, vf_load(q + r * q_stride + j), sum[r][c]);
        }
    if (j < dim)
        UNROLL
        for (size_t c = 0; c < 4; c++) {
            vf k = vf_load_half_n(keys + c * key_stride + j, dim - j);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r][c] = vf_fma(k, vf_load_n(q + r * q_stride + j, dim - j, 0.0f), sum[r][c]);
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

static void scores(const float *q, size_t q_stride, size_t rows, const uint16_t *keys, size_t key_stride,
                   size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t c = 0;
    for (; c + 4 <= key_count; c += 4, keys += 4 * key_stride) {
        size_t r = 0;
        for (; r + SCORE_ROWS <= rows; r += SCORE_ROWS)
            score_tile(SCORE_ROWS, q + r * q_stride, q_stride, keys, key_stride, dim, out + r * out_stride + c,
                       out_stride);
        for (; r < rows; r++)
            score_tile(1, q + r * q_stride, q_stride, keys, key_stride, dim, out + r * out_stride + c, out_stride);
    }
    for (; c < key_count; c++, keys += key_stride)
        for (size_t r = 0; r < rows; r++)
            out[r * out_stride + c] = score_one(q + r * q_stride, keys, dim);
}

/* `rows` x (`vectors` * VF_WIDTH) of the result stay in registers while all keys go by. */
KERNEL void value_tile(size_t rows, size_t vectors, const float *weights, size_t weights_stride,
                       const uint16_t *values, size_t value_stride, size_t key_count, float *out, size_t out_stride)
{
    vf sum[4][4];
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            sum[r][v] = vf_load(out + r * out_stride + v * VF_WIDTH);
    for (size_t c = 0; c < key_count; c++, values += value_stride)
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            vf value = vf_load_half(values + v * VF_WIDTH);
            UNROLL
            for (size_t r = 0; r < rows; r++)
                sum[r][v] = vf_fma(vf_set1(weights[r * weights_stride + c]), value, sum[r][v]);
        }
    UNROLL
    for (size_t r = 0; r < rows; r++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            vf_store(out + r * out_stride + v * VF_WIDTH, sum[r][v]);
}

/* The columns of `rows` rows, rows a constant. */
KERNEL void value_rows(size_t rows, const float *weights, size_t weights_stride, const uint16_t *values,
                       size_t value_stride, size_t key_count, size_t dim, float *out, size_t out_stride)
{
    size_t wide = rows > 2 ? 2 : 4, j = 0;   /* vectors: 8 or fewer sums */
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
    size_t r = 0;
    for (; r + 4 <= rows; r += 4)
        value_rows(4, weights + r * weights_stride, weights_stride, cached, value_stride, key_count, dim,
                   out + r * out_stride, out_stride);
    for (; r + 2 <= rows; r += 2)
        value_rows(2, weights + r * weights_stride, weights_stride, cached, value_stride, key_count, dim,
                   out + r * out_stride, out_stride);
    for (; r < rows; r++)
        value_rows(1, weights + r * weights_stride, weights_stride, cached, value_stride, key_count, dim,
                   out + r * out_stride, out_stride);
}

/* ---- packed ---- */

/* Rows of 8 floats to columns. */
KERNEL void transpose8(__m256 r[8])
{
    __m256 t[8], u[8];
    UNROLL
    for (size_t i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    UNROLL
    for (size_t i = 0; i < 8; i += 4) {
        u[i] = _mm256_shuffle_ps(t[i], t[i + 2], _MM_SHUFFLE(1, 0, 1, 0));
        u[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], _MM_SHUFFLE(3, 2, 3, 2));
        u[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], _MM_SHUFFLE(1, 0, 1, 0));
        u[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], _MM_SHUFFLE(3, 2, 3, 2));
    }
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        r[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

/* Eight keys, or fewer, into half a panel: panel[j][0..7] = keys[0..7][j]. */
KERNEL void pack_keys8(const uint16_t *keys, size_t key_stride, size_t count, size_t dim, float *panel)
{
    for (size_t j = 0; j < dim; j += 8) {
        size_t n = dim - j < 8 ? dim - j : 8;
        __m256 r[8];
        UNROLL
        for (size_t i = 0; i < 8; i++) {
            uint16_t buffer[8] = { 0 };
            const uint16_t *from = keys + i * key_stride + j;
            if (i >= count || n < 8) {
                if (i < count)
                    memcpy(buffer, from, n * sizeof *buffer);
                from = buffer;
            }
            r[i] = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)from));
        }
        transpose8(r);
        for (size_t i = 0; i < n; i++)
            _mm256_storeu_ps(panel + (j + i) * PANEL_COLUMNS, r[i]);
    }
}

static void pack_keys(const uint16_t *keys, size_t key_stride, size_t key_count, size_t dim, float *panels)
{
    for (size_t first = 0; first < key_count; first += 8) {
        size_t count = key_count - first < 8 ? key_count - first : 8;
        float *panel = panels + first / PANEL_COLUMNS * PANEL_COLUMNS * dim + first % PANEL_COLUMNS;
        pack_keys8(keys + first * key_stride, key_stride, count, dim, panel);
    }
    if (key_count % PANEL_COLUMNS != 0 && key_count % PANEL_COLUMNS <= 8) {
        float *panel = panels + key_count / PANEL_COLUMNS * PANEL_COLUMNS * dim + 8;
        pack_keys8(keys, key_stride, 0, dim, panel);
    }
}

static void pack_values(const uint16_t *cached, size_t value_stride, size_t key_count, size_t dim, float *panels)
{
    for (size_t c = 0; c < key_count; c++, cached += value_stride) {
        float *out = panels + c * PANEL_COLUMNS;
        size_t j = 0;
        for (; j + PANEL_COLUMNS <= dim; j += PANEL_COLUMNS, out += key_count * PANEL_COLUMNS)
            UNROLL
            for (size_t v = 0; v < PANEL_COLUMNS; v += VF_WIDTH)
                vf_store(out + v, vf_load_half(cached + j + v));
        if (j < dim) {
            uint16_t buffer[PANEL_COLUMNS] = { 0 };
            memcpy(buffer, cached + j, (dim - j) * sizeof *buffer);
            UNROLL
            for (size_t v = 0; v < PANEL_COLUMNS; v += VF_WIDTH)
                vf_store(out + v, vf_load_half(buffer + v));
        }
    }
}

/*
 * A tile of `rows` x 2 vectors: one panel of 16 columns in AVX2, two panels side by side in AVX-512, where `vectors` is
 * 1 for the last one of an odd number. 12 sums with AVX2, 16 with AVX-512: enough to hide the latency of two FMA
 * units, and they leave registers for the operands.
 */
#if VF_WIDTH == 16
#define TILE_ROWS 8
#else
#define TILE_ROWS 6
#endif

KERNEL void multiply_tile(size_t rows, size_t vectors, const float *a, size_t a_stride, const float *b,
                          size_t second, size_t k, int accumulate, float *c, size_t c_stride)
{
    vf sum[TILE_ROWS][2];
    UNROLL
    for (size_t i = 0; i < rows; i++)
        UNROLL
        for (size_t v = 0; v < vectors; v++)
            sum[i][v] = vf_zero();
    for (size_t l = 0; l < k; l++, b += PANEL_COLUMNS) {
        vf b0 = vf_load(b), b1 = vectors > 1 ? vf_load(b + second) : vf_zero();
        UNROLL
        for (size_t i = 0; i < rows; i++) {
            vf x = vf_set1(a[i * a_stride + l]);
            sum[i][0] = vf_fma(x, b0, sum[i][0]);
            if (vectors > 1)
                sum[i][1] = vf_fma(x, b1, sum[i][1]);
        }
    }
    UNROLL
    for (size_t i = 0; i < rows; i++)
        UNROLL
        for (size_t v = 0; v < vectors; v++) {
            float *out = c + i * c_stride + v * VF_WIDTH;
            vf_store(out, accumulate ? vf_add(vf_load(out), sum[i][v]) : sum[i][v]);
        }
}

/* All rows against one or two panels; `vectors` is a constant. */
KERNEL void multiply_columns(size_t vectors, const float *a, size_t a_stride, size_t m, const float *b, size_t second,
                             size_t k, int accumulate, float *c, size_t c_stride)
{
    size_t i = 0;
    for (; i + TILE_ROWS <= m; i += TILE_ROWS)
        multiply_tile(TILE_ROWS, vectors, a + i * a_stride, a_stride, b, second, k, accumulate, c + i * c_stride,
                      c_stride);
    for (; i + 4 <= m; i += 4)
        multiply_tile(4, vectors, a + i * a_stride, a_stride, b, second, k, accumulate, c + i * c_stride, c_stride);
    for (; i + 2 <= m; i += 2)
        multiply_tile(2, vectors, a + i * a_stride, a_stride, b, second, k, accumulate, c + i * c_stride, c_stride);
    for (; i < m; i++)
        multiply_tile(1, vectors, a + i * a_stride, a_stride, b, second, k, accumulate, c + i * c_stride, c_stride);
}

static void multiply(const float *a, size_t a_stride, size_t m, const float *panels, size_t panel_count, size_t k,
                     int accumulate, float *c, size_t c_stride)
{
    size_t panel_floats = k * PANEL_COLUMNS, p = 0;
#if VF_WIDTH == 16
    for (; p + 2 <= panel_count; p += 2)
        multiply_columns(2, a, a_stride, m, panels + p * panel_floats, panel_floats, k, accumulate,
                         c + p * PANEL_COLUMNS, c_stride);
    for (; p < panel_count; p++)
        multiply_columns(1, a, a_stride, m, panels + p * panel_floats, 0, k, accumulate, c + p * PANEL_COLUMNS,
                         c_stride);
#else
    for (; p < panel_count; p++)
        multiply_columns(2, a, a_stride, m, panels + p * panel_floats, VF_WIDTH, k, accumulate, c + p * PANEL_COLUMNS,
                         c_stride);
#endif
}
