/*
 * The SIMD kernels of linear layers, once for all vector widths: linear_avx2.c and linear_avx512.c define the vector
 * type and the operations below and include this file. Not a header for anybody else.
 *
 *   LANES                      32-bit lanes of a vector: 8 or 16
 *   veci, vecf                 vectors of LANES integers, floats
 *   vi_load                    LANES uint32_t of any alignment
 *   vi_set1 vi_add vi_and vi_or vi_sum
 *   vi_sll vi_srl vi_sra       each 32-bit lane shifted by a constant
 *   vi_srl16                   each 16-bit lane shifted by a constant
 *   vi_halves(low, high)       low 16 bits of each lane from one vector, high 16 bits from the other
 *   vi_mac(sum, codes, x)      sum + codes.low * x.low + codes.high * x.high, lanes of two int16
 *   vi_scale_codes(words)      the LANES 4-bit codes of LANES / 8 words, one a lane
 *   vi_from_float              rounded to nearest even
 *   vi_store_int16             LANES int16_t
 *   vf_load vf_store vf_set1 vf_mul vf_fma vf_from_int vf_sum
 *   vf_round_half              to fp16 and back
 *   vf_table_make(unit), vf_table_look(table, codes)    the sixteen scales of a group, chosen by 4-bit codes
 *   vf_load_f32, vf_load_f16, vf_load_bf16              LANES mapped elements of any alignment, widened
 */

#include <math.h>
#include <string.h>

#include "dtype.h"
#include "half.h"
#include "linear_kernels.h"

#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#define IN_ORDER(v) ((void)0)
#else
#define UNROLL _Pragma("GCC unroll 32")
/*
 * After each step of a sum: gcc 12 would otherwise gather the products first and add them up later, or load the next
 * operands early, and spill what then finds no register (rows of x at once: 35 instead of 70 GMAC/s on Zen 3).
 */
#define IN_ORDER(v) __asm__("" : "+x"(v))
#endif

/* ---- taking codes out of words ---- */

/*
 * Where the codes of a unit of 32 rows go, pair by pair in fused_order. A walk hands over pairs of codes as they come
 * out of the words with one AND, multiplied by 2^shift in place; shifting each down would cost a third of the loop. The
 * product adds them into one accumulator for each shift (`slot`) and shifts the sums; storing shifts the codes.
 */
struct sink {
    veci sums[4];
    const int16_t *x;   /* multiply by these pairs, */
    veci *out;          /* or store here, out[pair * out_step] */
    size_t out_step;
};

enum sink_mode { SINK_MULTIPLY, SINK_STORE };

INLINE veci pair_of(const int16_t *x, int pair)
{
    int32_t both;
    memcpy(&both, x + 2 * pair, sizeof both);
    return vi_set1(both);
}

INLINE void give(struct sink *sink, enum sink_mode mode, int pair, int slot, int shift, veci codes)
{
    if (mode == SINK_MULTIPLY) {
        sink->sums[slot] = vi_mac(sink->sums[slot], codes, pair_of(sink->x, pair));
        IN_ORDER(sink->sums[slot]);
    } else {
        sink->out[(size_t)pair * sink->out_step] = shift ? vi_srl16(codes, shift) : codes;
    }
}

/* One mask for both halves of each lane. */
INLINE veci both_halves(veci v, int mask)
{
    return vi_and(v, vi_set1(mask << 16 | mask));
}

/*
 *  bits 31            16 15             0
 *      | 7    6   5   4 | 3   2   1   0 |     rows of a word: (0,4) (1,5) (2,6) (3,7)
 */
INLINE void walk_4(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    UNROLL for (int i = 0; i < 4; i++) {
        veci w = vi_load(words + (size_t)i * stride);
        give(sink, mode, 4 * i + 0, 0, 0, both_halves(w, 0x0f));
        give(sink, mode, 4 * i + 1, 1, 4, both_halves(w, 0xf0));
        w = vi_srl16(w, 8);
        give(sink, mode, 4 * i + 2, 0, 0, both_halves(w, 0x0f));
        give(sink, mode, 4 * i + 3, 1, 4, both_halves(w, 0xf0));
    }
}

/* Rows of a word: 0..7 in the low half, 8..15 in the high half: (0,8) (1,9) ... (7,15). */
INLINE void walk_2(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    UNROLL for (int i = 0; i < 2; i++) {
        veci w = vi_load(words + (size_t)i * stride);
        UNROLL for (int half = 0; half < 2; half++) {
            int pair = 8 * i + 4 * half;
            give(sink, mode, pair + 0, 0, 0, both_halves(w, 0x03));
            give(sink, mode, pair + 1, 1, 2, both_halves(w, 0x0c));
            give(sink, mode, pair + 2, 2, 4, both_halves(w, 0x30));
            give(sink, mode, pair + 3, 3, 6, both_halves(w, 0xc0));
            w = vi_srl16(w, 8);
        }
    }
}

/* Rows of a word: 3 2 | 1 0: (0,2) (1,3). */
INLINE void walk_8(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    UNROLL for (int i = 0; i < 8; i++) {
        veci w = vi_load(words + (size_t)i * stride);
        give(sink, mode, 2 * i + 0, 0, 0, both_halves(w, 0xff));
        give(sink, mode, 2 * i + 1, 0, 0, vi_srl16(w, 8));
    }
}

/*
 * The other widths have codes across the halves and across words. Each word's codes are brought into rows of slots in
 * both halves (two shifts and a blend), and what two words share is put together last. First rows and their first bits:
 *
 *   word 0   0:0   1:3   2:6   3:9   4:12  5:15  6:18  7:21  8:24  9:27   10:30 (2 bits)
 *   word 1         11:1  12:4  13:7  14:10 15:13 16:16 17:19 18:22 19:25 20:28  21:31 (1 bit)
 *   word 2         22:2  23:5  24:8  25:11 26:14 27:17 28:20 29:23 30:26 31:29
 */
INLINE void give_3(struct sink *sink, enum sink_mode mode, int pair, veci w)
{
    give(sink, mode, pair + 0, 0, 0, both_halves(w, 0x07));
    give(sink, mode, pair + 1, 1, 3, both_halves(w, 0x38));
    w = vi_srl16(w, 6);
    give(sink, mode, pair + 2, 0, 0, both_halves(w, 0x07));
    give(sink, mode, pair + 3, 1, 3, both_halves(w, 0x38));
    give(sink, mode, pair + 4, 2, 6, both_halves(w, 0x1c0));
}

INLINE void walk_3(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    veci w0 = vi_load(words), w1 = vi_load(words + stride), w2 = vi_load(words + 2 * stride);

    give_3(sink, mode, 0, vi_halves(w0, vi_sll(w0, 1)));
    give_3(sink, mode, 5, vi_halves(vi_srl(w1, 1), w1));
    give_3(sink, mode, 10, vi_halves(vi_srl(w2, 2), vi_srl(w2, 1)));
    veci first = vi_halves(vi_srl(w0, 30), vi_srl(w1, 15));   /* low bits of rows 10 and 21 */
    veci rest = vi_halves(vi_sll(w1, 2), vi_sll(w2, 17));
    give(sink, mode, 15, 0, 0, vi_or(first, vi_and(rest, vi_set1(0x00060004))));
}

/*
 *   word 0   0:0   1:5   2:10  3:15  4:20  5:25   6:30 (2 bits)
 *   word 1         7:3   8:8   9:13 10:18 11:23  12:28 (4 bits)
 *   word 2        13:1  14:6  15:11 16:16 17:21  18:26  19:31 (1 bit)
 *   word 3        20:4  21:9  22:14 23:19 24:24  25:29 (3 bits)
 *   word 4        26:2  27:7  28:12 29:17 30:22  31:27
 */
INLINE void give_5(struct sink *sink, enum sink_mode mode, int pair, veci w)
{
    give(sink, mode, pair + 0, 0, 0, both_halves(w, 0x1f));
    give(sink, mode, pair + 1, 1, 5, both_halves(w, 0x3e0));
    give(sink, mode, pair + 2, 0, 0, both_halves(vi_srl16(w, 10), 0x1f));
}

INLINE void walk_5(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    veci w0 = vi_load(words), w1 = vi_load(words + stride), w2 = vi_load(words + 2 * stride);
    veci w3 = vi_load(words + 3 * stride), w4 = vi_load(words + 4 * stride);

    give_5(sink, mode, 0, vi_halves(w0, vi_sll(w0, 1)));
    /* Rows 12 and 25 get their high bits, at 30 and 29, from the next word; bit 31 is masked away. */
    give_5(sink, mode, 3, vi_or(vi_halves(vi_srl(w1, 3), vi_srl(w1, 2)), vi_sll(w2, 30)));
    give_5(sink, mode, 6, vi_halves(vi_srl(w2, 1), w2));
    give_5(sink, mode, 9, vi_or(vi_halves(vi_srl(w3, 4), vi_srl(w3, 3)), vi_sll(w4, 29)));
    give_5(sink, mode, 12, vi_halves(vi_srl(w4, 2), vi_srl(w4, 1)));
    veci first = vi_halves(vi_srl(w0, 30), vi_srl(w2, 15));   /* low bits of rows 6 and 19 */
    veci rest = vi_halves(vi_sll(w1, 2), vi_sll(w3, 17));
    give(sink, mode, 15, 0, 0, vi_or(first, vi_and(rest, vi_set1(0x001e001c))));
}

/*
 *   word 0   0:0   1:6   2:12  3:18  4:24   5:30 (2 bits)
 *   word 1         6:4   7:10  8:16  9:22  10:28 (4 bits)
 *   word 2        11:2  12:8  13:14 14:20  15:26
 */
INLINE void give_6(struct sink *sink, enum sink_mode mode, int pair, veci w)
{
    give(sink, mode, pair + 0, 0, 0, both_halves(w, 0x3f));
    give(sink, mode, pair + 1, 0, 0, both_halves(vi_srl16(w, 6), 0x3f));
}

INLINE void walk_6(struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    UNROLL for (int half = 0; half < 2; half++) {
        int pair = 8 * half;
        veci w0 = vi_load(words), w1 = vi_load(words + stride), w2 = vi_load(words + 2 * stride);

        give_6(sink, mode, pair, vi_halves(w0, vi_srl(w0, 2)));
        give_6(sink, mode, pair + 2, vi_halves(vi_srl(w1, 4), w1));
        give_6(sink, mode, pair + 4, vi_halves(vi_srl(w2, 2), vi_srl(w2, 4)));
        give(sink, mode, pair + 6, 0, 0, both_halves(vi_halves(vi_srl(w0, 12), vi_sll(w2, 2)), 0x3f));
        veci first = vi_halves(vi_srl(w0, 30), vi_srl(w1, 12));   /* low bits of rows 5 and 10 */
        veci rest = vi_halves(vi_sll(w1, 2), vi_sll(w2, 20));
        give(sink, mode, pair + 7, 0, 0, vi_or(first, vi_and(rest, vi_set1(0x0030003c))));
        words += 3 * stride;
    }
}

INLINE void walk(unsigned bits, struct sink *sink, enum sink_mode mode, const uint32_t *words, size_t stride)
{
    switch (bits) {
    case 2: walk_2(sink, mode, words, stride); break;
    case 3: walk_3(sink, mode, words, stride); break;
    case 4: walk_4(sink, mode, words, stride); break;
    case 5: walk_5(sink, mode, words, stride); break;
    case 6: walk_6(sink, mode, words, stride); break;
    default: walk_8(sink, mode, words, stride); break;
    }
}

/* The sums of all slots, on one scale. Exact: each is a multiple of its 2^shift. */
INLINE veci total(unsigned bits, const struct sink *sink)
{
    switch (bits) {
    case 2:
        return vi_add(vi_add(sink->sums[0], vi_sra(sink->sums[1], 2)),
                      vi_add(vi_sra(sink->sums[2], 4), vi_sra(sink->sums[3], 6)));
    case 3: return vi_add(vi_add(sink->sums[0], vi_sra(sink->sums[1], 3)), vi_sra(sink->sums[2], 6));
    case 4: return vi_add(sink->sums[0], vi_sra(sink->sums[1], 4));
    case 5: return vi_add(sink->sums[0], vi_sra(sink->sums[1], 5));
    default: return sink->sums[0];
    }
}

/* ---- the fused product ---- */

/* y += scale * x_scale * sums, the last step of each block, as in linear_kernels.h. */
INLINE void add_scaled(float *y, vecf scale, float x_scale, veci sums)
{
    vf_store(y, vf_fma(vf_mul(scale, vf_set1(x_scale)), vf_from_int(sums), vf_load(y)));
}

/*
 * One row of x: codes go from the words straight into the sums.
 *
 * 32 rows at a time, over PASS_COLUMNS columns, with the block's integer sums kept in first-level cache in between: so
 * only `bits` word rows are read at once. Whole blocks at once, up to 32 word rows, ran at 45 to 65 % of the machine's
 * read bandwidth where this runs at 80 to 95 %: too many streams for the prefetchers (2-core Zen 3, 4096 x 14336).
 */
#define PASS_COLUMNS 4096

INLINE void fused_row(unsigned bits, const struct fused_block *b)
{
    vf_table table = vf_table_make(b->scale_unit);
    veci kept[PASS_COLUMNS / LANES];

    for (size_t first = 0; first < b->columns; first += PASS_COLUMNS) {
        size_t columns = b->columns - first < PASS_COLUMNS ? b->columns - first : PASS_COLUMNS;
        for (size_t row = 0; row < b->rows; row += 32) {
            const uint32_t *words = b->words + row * bits / 32 * b->word_stride + first;
            bool last = row + 32 == b->rows;

            for (size_t n = 0; n < columns; n += LANES) {
                veci start = row == 0 ? vi_set1(b->x_offset[0]) : kept[n / LANES];
                struct sink sink = { .sums = { start, vi_set1(0), vi_set1(0), vi_set1(0) }, .x = b->x + row };
                walk(bits, &sink, SINK_MULTIPLY, words + n, b->word_stride);
                veci sums = total(bits, &sink);
                if (last) {
                    vecf scale = vf_table_look(table, vi_scale_codes(b->scale_codes + (first + n) / 8));
                    add_scaled(b->y + first + n, scale, b->x_scale[0], sums);
                } else {
                    kept[n / LANES] = sums;
                }
            }
        }
    }
}

/* Rows of x at once: their sums of two vectors, two vectors of codes, a pair of x and a product fill 16 registers. */
#define TILE_ROWS 6

/* `count` rows of x times codes that lie ready as [rows / 2 pairs][2 vectors]. */
INLINE void multiply_rows(int count, const struct fused_block *b, size_t row, size_t column, const veci *codes,
                          const vecf *scale)
{
    /* Copies: the compiler would read *b again after each store to y. */
    const float *x_scale = b->x_scale + row;
    float *y = b->y + row * b->y_stride + column;
    size_t y_stride = b->y_stride;
    veci sums[TILE_ROWS][2];
    const int16_t *x[TILE_ROWS];

    UNROLL for (int r = 0; r < count; r++) {
        x[r] = b->x + (row + (size_t)r) * b->x_stride;
        sums[r][0] = sums[r][1] = vi_set1(b->x_offset[row + (size_t)r]);
    }
    for (int pair = 0, pairs = (int)(b->rows / 2); pair < pairs; pair++) {
        veci c0 = codes[2 * pair], c1 = codes[2 * pair + 1];
        UNROLL for (int r = 0; r < count; r++) {
            veci both = pair_of(x[r], pair);
            sums[r][0] = vi_mac(sums[r][0], c0, both);
            sums[r][1] = vi_mac(sums[r][1], c1, both);
            IN_ORDER(sums[r][0]);
            IN_ORDER(sums[r][1]);
        }
    }
    UNROLL for (int r = 0; r < count; r++, y += y_stride) {
        add_scaled(y, scale[0], x_scale[r], sums[r][0]);
        add_scaled(y + LANES, scale[1], x_scale[r], sums[r][1]);
    }
}

/* Two steps of the columns: with one, a busy memory is late. */
#define PREFETCH_COLUMNS (4 * LANES)

/* Several rows of x: the codes of two vectors of columns are taken out once, into first-level cache. */
INLINE void fused_rows(unsigned bits, const struct fused_block *b)
{
    vf_table table = vf_table_make(b->scale_unit);

    for (size_t n = 0; n < b->columns; n += 2 * LANES) {
        veci codes[FUSED_BLOCK_ROWS / 2 * 2];
        vecf scale[2];
        for (int v = 0; v < 2; v++) {
            size_t column = n + (size_t)v * LANES;
            scale[v] = vf_table_look(table, vi_scale_codes(b->scale_codes + column / 8));
            for (size_t unit = 0; unit < b->rows; unit += 32) {
                const uint32_t *words = b->words + column + unit / 32 * bits * b->word_stride;
                struct sink sink = { .out = codes + unit + v, .out_step = 2 };
                walk(bits, &sink, SINK_STORE, words, b->word_stride);
                UNROLL for (unsigned i = 0; i < bits; i++)   /* what comes next, while the rows are multiplied */
                    __builtin_prefetch(words + i * b->word_stride + PREFETCH_COLUMNS);
            }
        }
        size_t r = 0;
        for (; r + TILE_ROWS <= b->row_count; r += TILE_ROWS)
            multiply_rows(TILE_ROWS, b, r, n, codes, scale);
        for (; r + 2 <= b->row_count; r += 2)
            multiply_rows(2, b, r, n, codes, scale);
        for (; r < b->row_count; r++)
            multiply_rows(1, b, r, n, codes, scale);
    }
}

#define FUSED_KERNEL(bits)                                                                                             \
    static void fused_##bits(const struct fused_block *b)                                                              \
    {                                                                                                                  \
        if (b->row_count == 1)                                                                                         \
            fused_row(bits, b);                                                                                        \
        else                                                                                                           \
            fused_rows(bits, b);                                                                                       \
    }

FUSED_KERNEL(2)
FUSED_KERNEL(3)
FUSED_KERNEL(4)
FUSED_KERNEL(5)
FUSED_KERNEL(6)
FUSED_KERNEL(8)

static void fused(const struct fused_block *b)
{
    static void (*const kernels[9])(const struct fused_block *) = {
        [2] = fused_2, [3] = fused_3, [4] = fused_4, [5] = fused_5, [6] = fused_6, [8] = fused_8,
    };
    kernels[b->bits](b);
}

/* ---- activations ---- */

static void quantise(const float *x, const uint16_t *perm, size_t rows, unsigned bits, int16_t *out, float *scale,
                     int32_t *offset)
{
    float gathered[FUSED_BLOCK_ROWS];
    uint32_t max_bits = 0;   /* compared as integers, so that NaN counts as the largest */

    for (size_t unit = 0; unit < rows; unit += 32)
        for (size_t j = 0; j < 32; j++)
            gathered[unit + j] = x[perm[unit + fused_order[bits][j]]];
    for (size_t j = 0; j < rows; j++) {
        uint32_t magnitude = float_bits(gathered[j]) & 0x7fffffffu;
        max_bits = magnitude > max_bits ? magnitude : max_bits;
    }

    float max = float_from_bits(max_bits);
    *offset = 0;
    if (max_bits >= 0x7f800000u || max < FUSED_TINY) {
        *scale = max_bits >= 0x7f800000u ? NAN : 0.0f;
        memset(out, 0, rows * sizeof *out);
        return;
    }
    vecf inverse = vf_set1(32767.0f / max);
    veci sums = vi_set1(0);
    for (size_t j = 0; j < rows; j += LANES) {
        veci q = vi_from_float(vf_mul(vf_load(gathered + j), inverse));
        vi_store_int16(out + j, q);
        sums = vi_add(sums, q);
    }
    *scale = max / 32767.0f;
    *offset = -(1 << (bits - 1)) * vi_sum(sums);
}

/* ---- expanding ---- */

/*
 * Row by row over a strip of columns: rows of `out` are often a multiple of 4 KiB apart, and going down the rows
 * instead (the codes of a word are eight rows or so) has them fight for the same cache sets, at half the speed. The
 * strip's words and scales stay in first-level cache meanwhile.
 */
#define STRIP_COLUMNS 1024

INLINE void dequantise_bits(unsigned bits, const struct dequant_block *b)
{
    vf_table table = vf_table_make(b->scale_unit);
    veci mask = vi_set1((1 << bits) - 1), minus_zero = vi_set1(-(1 << (bits - 1)));
    float scale[STRIP_COLUMNS];

    for (size_t first = 0; first < b->columns; first += STRIP_COLUMNS) {
        size_t columns = b->columns - first < STRIP_COLUMNS ? b->columns - first : STRIP_COLUMNS;
        for (size_t n = 0; n < columns; n += LANES)
            vf_store(scale + n, vf_table_look(table, vi_scale_codes(b->scale_codes + (first + n) / 8)));

        const uint32_t *words = b->words + first;
        float *out = b->out + first;
        for (size_t unit = 0; unit < b->rows; unit += 32) {
            UNROLL for (unsigned row = 0; row < 32; row++) {
                const uint32_t *word = words + row * bits / 32 * b->word_stride;
                unsigned shift = row * bits % 32;
                for (size_t n = 0; n < columns; n += LANES) {
                    veci code = vi_srl(vi_load(word + n), shift);
                    if (shift + bits > 32)   /* the code goes on in the next word */
                        code = vi_or(code, vi_sll(vi_load(word + b->word_stride + n), 32 - shift));
                    vecf value = vf_from_int(vi_add(vi_and(code, mask), minus_zero));
                    vf_store(out + n, vf_round_half(vf_mul(value, vf_load(scale + n))));
                }
                out += b->out_stride;
            }
            words += bits * b->word_stride;
        }
    }
}

static void dequantise(const struct dequant_block *b)
{
    switch (b->bits) {
    case 2: dequantise_bits(2, b); break;
    case 3: dequantise_bits(3, b); break;
    case 4: dequantise_bits(4, b); break;
    case 5: dequantise_bits(5, b); break;
    case 6: dequantise_bits(6, b); break;
    default: dequantise_bits(8, b); break;
    }
}

/* ---- dense ---- */

/* `columns` stored rows of w times `rows` rows of x; the dtypes differ only in how a vector is loaded. */
#define DENSE_KERNELS(type, element_bytes, scalar)                                                                     \
    INLINE void tile_##type(int columns, int rows, const struct dense_block *b, size_t n, size_t r)                    \
    {                                                                                                                  \
        const char *w[4];                                                                                              \
        const float *x[4];                                                                                             \
        vecf sum[4][4];                                                                                                \
        UNROLL for (int j = 0; j < columns; j++)                                                                       \
            w[j] = (const char *)b->w + (n + (size_t)j) * b->inner * element_bytes;                                    \
        UNROLL for (int i = 0; i < rows; i++)                                                                          \
            x[i] = b->x + (r + (size_t)i) * b->inner;                                                                  \
        UNROLL for (int j = 0; j < columns; j++)                                                                       \
            UNROLL for (int i = 0; i < rows; i++)                                                                      \
                sum[j][i] = vf_set1(0.0f);                                                                             \
        size_t k = 0;                                                                                                  \
        for (; k + LANES <= b->inner; k += LANES)                                                                      \
            UNROLL for (int j = 0; j < columns; j++) {                                                                 \
                vecf v = vf_load_##type(w[j] + k * element_bytes);                                                     \
                UNROLL for (int i = 0; i < rows; i++)                                                                  \
                    sum[j][i] = vf_fma(v, vf_load(x[i] + k), sum[j][i]);                                               \
            }                                                                                                          \
        UNROLL for (int j = 0; j < columns; j++)                                                                       \
            UNROLL for (int i = 0; i < rows; i++) {                                                                    \
                float product = vf_sum(sum[j][i]);                                                                     \
                for (size_t rest = k; rest < b->inner; rest++)                                                         \
                    product += scalar(w[j], rest) * x[i][rest];                                                        \
                float *y = b->y + (r + (size_t)i) * b->y_stride + n + (size_t)j;                                       \
                *y = (b->accumulate ? *y : 0.0f) + b->alpha * product;                                                 \
            }                                                                                                          \
    }                                                                                                                  \
    INLINE void column_##type(int columns, const struct dense_block *b, size_t n)                                      \
    {                                                                                                                  \
        size_t r = 0;                                                                                                  \
        for (; r + 3 <= b->row_count; r += 3)                                                                          \
            tile_##type(columns, 3, b, n, r);                                                                          \
        for (; r < b->row_count; r++)                                                                                  \
            tile_##type(columns, 1, b, n, r);                                                                          \
    }                                                                                                                  \
    static void dense_##type(const struct dense_block *b)                                                              \
    {                                                                                                                  \
        size_t n = 0;                                                                                                  \
        for (; n + 4 <= b->columns; n += 4)                                                                            \
            column_##type(4, b, n);                                                                                    \
        for (; n < b->columns; n++)                                                                                    \
            column_##type(1, b, n);                                                                                    \
    }                                                                                                                  \
    static void widen_##type(const void *from, size_t n, float *to)                                                    \
    {                                                                                                                  \
        size_t k = 0;                                                                                                  \
        for (; k + LANES <= n; k += LANES)                                                                             \
            vf_store(to + k, vf_load_##type((const char *)from + k * element_bytes));                                  \
        for (; k < n; k++)                                                                                             \
            to[k] = scalar(from, k);                                                                                   \
    }                                                                                                                  \
    static bool all_finite_##type(const void *values, size_t n)                                                        \
    {                                                                                                                  \
        /* Zero times a value is zero, unless that is NaN or infinite; NaN then stays. */                             \
        vecf sum[4] = { vf_set1(0.0f), vf_set1(0.0f), vf_set1(0.0f), vf_set1(0.0f) };                                  \
        vecf zero = vf_set1(0.0f);                                                                                     \
        float rest = 0.0f;                                                                                             \
        size_t k = 0;                                                                                                  \
        for (; k + 4 * LANES <= n; k += 4 * LANES)                                                                     \
            UNROLL for (size_t i = 0; i < 4; i++)                                                                      \
                sum[i] = vf_fma(zero, vf_load_##type((const char *)values + (k + i * LANES) * element_bytes), sum[i]); \
        for (; k < n; k++)                                                                                             \
            rest += 0.0f * scalar(values, k);                                                                          \
        return vf_sum(sum[0]) + vf_sum(sum[1]) + vf_sum(sum[2]) + vf_sum(sum[3]) + rest == 0.0f;                       \
    }

INLINE uint16_t load_u16(const void *values, size_t k)
{
    uint16_t value;
    memcpy(&value, (const char *)values + k * sizeof value, sizeof value);
    return value;
}

INLINE float scalar_f32(const void *values, size_t k)
{
    float value;
    memcpy(&value, (const char *)values + k * sizeof value, sizeof value);
    return value;
}

INLINE float scalar_f16(const void *values, size_t k)
{
    return half_to_float(load_u16(values, k));
}

INLINE float scalar_bf16(const void *values, size_t k)
{
    return bfloat_to_float(load_u16(values, k));
}

DENSE_KERNELS(f32, 4, scalar_f32)
DENSE_KERNELS(f16, 2, scalar_f16)
DENSE_KERNELS(bf16, 2, scalar_bf16)

static void gather(const float *x, const uint16_t *perm, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = x[perm[i]];
}

#define LINEAR_KERNELS                                                                                                 \
    {                                                                                                                  \
        .quantise = quantise, .fused = fused, .dequantise = dequantise,                                                \
        .dense = { [DTYPE_F32] = dense_f32, [DTYPE_F16] = dense_f16, [DTYPE_BF16] = dense_bf16 },                      \
        .widen = { [DTYPE_F32] = widen_f32, [DTYPE_F16] = widen_f16, [DTYPE_BF16] = widen_bf16 },                      \
        .all_finite = { [DTYPE_F32] = all_finite_f32, [DTYPE_F16] = all_finite_f16, [DTYPE_BF16] = all_finite_bf16 },  \
        .gather = gather,                                                                                              \
    }
