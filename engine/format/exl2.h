#ifndef PLIM_EXL2_H
#define PLIM_EXL2_H

/*
 * The EXL2 matrix format: packed codes of 2, 3, 4, 5, 6 or 8 bits in groups of rows, 4-bit scales, and a permutation
 * of the input rows. Facts: the format notes of ExLlamaV2 0.3.2; in short,
 *
 *   y = x W,  W [in_features, out_features]; packed row i is input feature perm[i]
 *   code of packed row r of a group (first word row a, width b), column n: bits (r*b) .. (r*b + b - 1), least
 *   significant first, of the column's words q_weight[a ...][n] read as one bit stream
 *   scale[g][n] = h(h((c + 1)^2) * h(q_scale_max[g] / 256)),  c = nibble n mod 8 of q_scale[g][n / 8]
 *   W = h((code - 2^(b-1)) * scale)                                          h rounds to fp16, subnormals kept
 *
 * Widths descend over the groups; every group has a multiple of 32 rows.
 */

#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"
#include "plimsoll/pool.h"

#define EXL2_MAX_GROUPS 32767

struct exl2_group {
    uint32_t first_row;     /* packed row */
    uint32_t row_count;
    uint32_t first_word;    /* row of q_weight */
    uint32_t bits;
    float scale_unit;       /* h(q_scale_max / 256 [* prescale]), widened */
};

/*
 * A checked view of one matrix. q_weight and q_scale point into the mapped file, or to their copy; groups, permutations
 * and copy are owned by whoever called exl2_matrix_init, in pool memory tagged weights.
 */
struct exl2_matrix {
    size_t in_features;        /* K, multiple of 32, <= 65536 */
    size_t out_features;       /* N as stored, multiple of 32 */
    size_t group_count;
    size_t word_rows;          /* rows of q_weight */
    const uint32_t *q_weight;  /* [word_rows, N] */
    const uint32_t *q_scale;   /* [group_count, N / 8] */
    struct exl2_group *groups;
    uint16_t *perm;            /* [K] packed row -> input feature */
    uint16_t *invperm;         /* [K] input feature -> packed row */
    void *copy;                /* of q_weight and q_scale, see exl2_copied_bytes; or NULL */
};

/* Raw tensors as they stand in a file; sizes in elements. */
struct exl2_tensors {
    const char *name;                                          /* for errors */
    const int32_t *q_weight;   size_t word_rows, out_features;
    const int32_t *q_scale;    size_t group_count;             /* [group_count, out_features / 8] */
    const uint16_t *q_scale_max;                               /* fp16 [group_count] */
    const int16_t *q_groups;                                   /* [2 * group_count] */
    const int32_t *q_invperm;  size_t in_features;
};

/*
 * Checks the tensors (groups add up, widths valid and descending, rows multiples of 32, the permutation is one) and
 * prepares a view. `prescale` multiplies the scales as the reference does, in fp16 (1 for none). Allocates
 * exl2_matrix_bytes(...) bytes in one block, and exl2_copied_bytes(...) in another.
 */
int exl2_matrix_init(struct exl2_matrix *matrix, struct plim_pool *pool, const struct exl2_tensors *tensors,
                     float prescale, struct plim_err *err);
void exl2_matrix_release(struct exl2_matrix *matrix, struct plim_pool *pool);

/* The same without codes and scales: q_weight and q_scale stay NULL, nothing is copied. For backends that upload those. */
int exl2_matrix_tables(struct exl2_matrix *matrix, struct plim_pool *pool, const struct exl2_tensors *tensors,
                       float prescale, struct plim_err *err);

size_t exl2_matrix_bytes(size_t in_features, size_t group_count);

/*
 * Codes and scales are used where they are mapped, unless the file holds them at addresses that are no multiple of 4
 * (a header of odd length does that to a whole file): then they are copied, and this is how much. Else 0.
 */
size_t exl2_copied_bytes(const struct exl2_tensors *tensors);

/* The scale of group `g`, column `n`, exactly as stored (an fp16 value, widened). */
float exl2_scale(const struct exl2_matrix *matrix, size_t g, size_t n);

/* The code of packed row `i`, column `n`. */
uint32_t exl2_code(const struct exl2_matrix *matrix, size_t i, size_t n);

/*
 * The plain dequantiser, bit-exact, the twin of every fast one: packed rows [row, row + rows) and columns
 * [column, column + columns) as fp16 into out [rows, out_stride]. Packed row order: the permutation is not undone.
 */
void exl2_dequantise_packed(const struct exl2_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                            uint16_t *out, size_t out_stride);

/* Whole matrix in natural row order as fp16 [K, N]. */
void exl2_dequantise(const struct exl2_matrix *matrix, uint16_t *out);

/* ---- packing ---- */

/*
 * Packs codes [rows, columns] (row-major, one byte a code) of one group into words [rows * bits / 32, columns], and
 * back. rows * bits must be a multiple of 32.
 */
void exl2_pack_rows(const uint8_t *codes, size_t rows, size_t columns, unsigned bits, uint32_t *words);
void exl2_unpack_rows(const uint32_t *words, size_t rows, size_t columns, unsigned bits, uint8_t *codes);

/* Packs scale levels 1..16, [columns], into words [columns / 8] (stored nibble is level - 1). */
void exl2_pack_scales(const uint8_t *levels, size_t columns, uint32_t *words);

/* A layout: widths in storage order with group size and share of the rows (format notes, 2.3 and 3). */
#define EXL2_MAX_WIDTHS 4
struct exl2_layout {
    int width_count;
    struct { uint32_t bits, group_rows; double share; } width[EXL2_MAX_WIDTHS];
};

/* Groups of a layout for K rows; returns their number, at most EXL2_MAX_GROUPS. `groups` may be NULL (count only). */
size_t exl2_layout_groups(const struct exl2_layout *layout, size_t in_features, struct exl2_group *groups);

/* Size of a matrix in bits by the format's own formula (3.1), without bias. */
uint64_t exl2_layout_bits(const struct exl2_layout *layout, size_t in_features, size_t out_features);

/* The head's layout for head_bits 2, 3, 4, 5, 6, 8 (3.4); NULL for others. */
const struct exl2_layout *exl2_head_layout(int head_bits);

/* Attention options (19 rows of q, k, v, o) and MLP options (17 rows of gate, up, down): 3.2, 3.3. */
#define EXL2_ATTENTION_OPTIONS 19
#define EXL2_MLP_OPTIONS 17
const struct exl2_layout *exl2_attention_option(int option);   /* [4] */
const struct exl2_layout *exl2_mlp_option(int option);         /* [3] */

#endif
