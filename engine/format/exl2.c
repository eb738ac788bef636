/*
 * Checking an EXL2 matrix and decoding it, plainly: the functions here are the reference that every fast kernel is
 * compared with, bit for bit.
 */

#include "exl2.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "half.h"
#include "plimsoll/units.h"

#define MAX_IN_FEATURES 65536   /* the reference narrows permutations to 16 bits */
#define ROW_MULTIPLE    32      /* of every group, and of in_features */
#define COLUMN_MULTIPLE 32      /* writers pad out_features to it */
#define WORD_BITS       32
#define CODES_PER_SCALE_WORD 8

static bool is_width(int bits)
{
    return (bits >= 2 && bits <= 6) || bits == 8;
}

static bool is_aligned(const void *address, size_t alignment)
{
    return (uintptr_t)address % alignment == 0;
}

/* The small tables are read bytewise: a file may hold them at odd addresses. */
static int16_t load_i16(const int16_t *table, size_t index)
{
    int16_t value;
    memcpy(&value, (const char *)table + index * sizeof value, sizeof value);
    return value;
}

static int32_t load_i32(const int32_t *table, size_t index)
{
    int32_t value;
    memcpy(&value, (const char *)table + index * sizeof value, sizeof value);
    return value;
}

size_t exl2_matrix_bytes(size_t in_features, size_t group_count)
{
    return group_count * sizeof(struct exl2_group) + 2 * in_features * sizeof(uint16_t);
}

static size_t weight_bytes(const struct exl2_tensors *t)
{
    return t->word_rows * t->out_features * sizeof(uint32_t);
}

static size_t scale_bytes(const struct exl2_tensors *t)
{
    return t->group_count * (t->out_features / CODES_PER_SCALE_WORD) * sizeof(uint32_t);
}

size_t exl2_copied_bytes(const struct exl2_tensors *t)
{
    if (is_aligned(t->q_weight, sizeof(uint32_t)) && is_aligned(t->q_scale, sizeof(uint32_t)))
        return 0;
    return weight_bytes(t) + scale_bytes(t);
}

/* Points at the words where they lie, or copies them to where words may lie. */
static int take_words(struct exl2_matrix *matrix, struct plim_pool *pool, const struct exl2_tensors *t,
                      struct plim_err *err)
{
    size_t copied_bytes = exl2_copied_bytes(t);
    matrix->q_weight = (const uint32_t *)t->q_weight;
    matrix->q_scale = (const uint32_t *)t->q_scale;
    if (copied_bytes == 0)
        return 0;
    matrix->copy = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, copied_bytes, err);
    if (!matrix->copy)
        return -1;
    char *scales = (char *)matrix->copy + weight_bytes(t);
    memcpy(matrix->copy, (const void *)t->q_weight, weight_bytes(t));
    memcpy(scales, (const void *)t->q_scale, scale_bytes(t));
    matrix->q_weight = matrix->copy;
    matrix->q_scale = (const uint32_t *)(const void *)scales;
    return 0;
}

static int check_sizes(const struct exl2_tensors *t, struct plim_err *err)
{
    if (t->in_features == 0 || t->in_features > MAX_IN_FEATURES || t->in_features % ROW_MULTIPLE)
        return plim_err_input(err, "q_invperm: %zu input features, expected a multiple of %d up to %d", t->in_features,
                              ROW_MULTIPLE, MAX_IN_FEATURES);
    if (t->out_features == 0 || t->out_features % COLUMN_MULTIPLE)
        return plim_err_input(err, "q_weight: %zu columns, expected a multiple of %d", t->out_features,
                              COLUMN_MULTIPLE);
    if (t->group_count == 0 || t->group_count > EXL2_MAX_GROUPS)
        return plim_err_input(err, "q_groups: %zu groups, expected 1 to %d", t->group_count, EXL2_MAX_GROUPS);
    return 0;
}

/* P = h(scale_max * (prescale / 256)): one product in fp32, one rounding to fp16, as the reference's load does it. */
static int read_scale_unit(struct exl2_group *group, const struct exl2_tensors *t, size_t g, float prescale,
                           struct plim_err *err)
{
    float scale_max = half_to_float((uint16_t)load_i16((const int16_t *)t->q_scale_max, g));
    float unit = half_to_float(half_from_float(scale_max * (float)((double)prescale / 256.0)));
    /* The largest scale is 256 units; an infinite one would make NaN of the codes that stand for zero. */
    if (!isfinite(scale_max) || !isfinite(half_to_float(half_from_float(256.0f * unit))))
        return plim_err_input(err, "q_scale_max[%zu] is %g (prescale %g): scales must be finite in fp16", g,
                              (double)scale_max, (double)prescale);
    group->scale_unit = unit;
    return 0;
}

/* A group's size is not stored: it follows from where the next one begins. */
static int read_group(struct exl2_group *group, const struct exl2_tensors *t, size_t g, struct plim_err *err)
{
    int bits = load_i16(t->q_groups, 2 * g);
    int first_word = load_i16(t->q_groups, 2 * g + 1);
    size_t end_word = t->word_rows;
    if (g + 1 < t->group_count) {
        int next = load_i16(t->q_groups, 2 * g + 3);
        if (next < 0)
            return plim_err_input(err, "q_groups: group %zu begins at row %d", g + 1, next);
        end_word = (size_t)next;
    }
    if (!is_width(bits))
        return plim_err_input(err, "q_groups: group %zu has width %d, expected 2, 3, 4, 5, 6 or 8", g, bits);
    if (g == 0 && first_word != 0)
        return plim_err_input(err, "q_groups: group 0 begins at row %d, expected 0", first_word);
    /* first_word is not negative: group 0 was checked above, later ones as the end of their predecessor. */
    if (end_word <= (size_t)first_word || end_word > t->word_rows)
        return plim_err_input(err, "q_groups: group %zu would hold rows %d to %zu of the %zu of q_weight", g,
                              first_word, end_word, t->word_rows);
    size_t words = end_word - (size_t)first_word;
    if (words % (size_t)bits)
        return plim_err_input(err, "q_groups: group %zu has %zu rows of q_weight, expected a multiple of its width %d",
                              g, words, bits);
    group->bits = (uint32_t)bits;
    group->first_word = (uint32_t)first_word;
    group->row_count = (uint32_t)(words / (size_t)bits * WORD_BITS);
    return 0;
}

static int read_groups(struct exl2_matrix *matrix, const struct exl2_tensors *t, float prescale, struct plim_err *err)
{
    size_t rows = 0;
    for (size_t g = 0; g < t->group_count; g++) {
        struct exl2_group *group = &matrix->groups[g];
        if (read_group(group, t, g, err) < 0 || read_scale_unit(group, t, g, prescale, err) < 0)
            return -1;
        if (g > 0 && group->bits > group[-1].bits)
            return plim_err_input(err, "q_groups: group %zu has width %u after width %u; widths must descend", g,
                                  group->bits, group[-1].bits);
        /* Checked here, not only at the end, so that first_row cannot wrap. */
        if (group->row_count > t->in_features - rows)
            return plim_err_input(err, "q_groups: the groups hold more than the %zu input features of q_invperm",
                                  t->in_features);
        group->first_row = (uint32_t)rows;
        rows += group->row_count;
    }
    if (rows != t->in_features)
        return plim_err_input(err, "q_groups: the groups hold %zu rows, q_invperm has %zu", rows, t->in_features);
    return 0;
}

static int read_permutation(struct exl2_matrix *matrix, const struct exl2_tensors *t, struct plim_err *err)
{
    size_t count = t->in_features;
    for (size_t k = 0; k < count; k++) {
        int32_t packed = load_i32(t->q_invperm, k);
        if (packed < 0 || (size_t)packed >= count)
            return plim_err_input(err, "q_invperm[%zu] is %d, expected 0 to %zu", k, packed, count - 1);
        matrix->invperm[k] = (uint16_t)packed;
        matrix->perm[packed] = (uint16_t)k;
    }
    /* A value that was written twice points back to the later of its two only. */
    for (size_t k = 0; k < count; k++) {
        if (matrix->perm[matrix->invperm[k]] != k)
            return plim_err_input(err, "q_invperm[%zu] repeats the value %u", k, matrix->invperm[k]);
    }
    return 0;
}

int exl2_matrix_tables(struct exl2_matrix *matrix, struct plim_pool *pool, const struct exl2_tensors *t, float prescale,
                       struct plim_err *err)
{
    int rc = -1;
    *matrix = (struct exl2_matrix){ 0 };
    if (check_sizes(t, err) < 0)
        goto out;
    matrix->groups = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_WEIGHTS,
                                     exl2_matrix_bytes(t->in_features, t->group_count), err);
    if (!matrix->groups)
        goto out;
    matrix->perm = (uint16_t *)(matrix->groups + t->group_count);
    matrix->invperm = matrix->perm + t->in_features;
    matrix->in_features = t->in_features;
    matrix->out_features = t->out_features;
    matrix->group_count = t->group_count;
    matrix->word_rows = t->word_rows;
    if (read_groups(matrix, t, prescale, err) < 0 || read_permutation(matrix, t, err) < 0)
        goto out;
    rc = 0;

out:
    if (rc < 0) {
        exl2_matrix_release(matrix, pool);
        plim_err_wrap(err, "%s", t->name);
    }
    return rc;
}

int exl2_matrix_init(struct exl2_matrix *matrix, struct plim_pool *pool, const struct exl2_tensors *t, float prescale,
                     struct plim_err *err)
{
    if (exl2_matrix_tables(matrix, pool, t, prescale, err) < 0)
        return -1;
    if (take_words(matrix, pool, t, err) == 0)
        return 0;
    exl2_matrix_release(matrix, pool);
    return plim_err_wrap(err, "%s", t->name);
}

void exl2_matrix_release(struct exl2_matrix *matrix, struct plim_pool *pool)
{
    plim_pool_free(pool, matrix->copy);
    plim_pool_free(pool, matrix->groups);
    *matrix = (struct exl2_matrix){ 0 };
}

/* ---- decoding ---- */

/* The group that holds packed row `row`. */
static const struct exl2_group *group_of_row(const struct exl2_matrix *matrix, size_t row)
{
    size_t low = 0, high = matrix->group_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (matrix->groups[middle].first_row <= row)
            low = middle;
        else
            high = middle;
    }
    return &matrix->groups[low];
}

/* Code `r` of a stream of `bits`-bit codes whose words lie `stride` words apart. */
static uint32_t stream_code(const uint32_t *words, size_t stride, size_t r, uint32_t bits)
{
    size_t position = r * bits;
    size_t word = position / WORD_BITS, shift = position % WORD_BITS;
    uint64_t window = words[word * stride];
    if (shift + bits > WORD_BITS)
        window |= (uint64_t)words[(word + 1) * stride] << WORD_BITS;
    return (uint32_t)(window >> shift) & ((1u << bits) - 1);
}

static uint32_t code_in_group(const struct exl2_matrix *matrix, const struct exl2_group *group, size_t row, size_t n)
{
    const uint32_t *words = matrix->q_weight + (size_t)group->first_word * matrix->out_features + n;
    return stream_code(words, matrix->out_features, row - group->first_row, group->bits);
}

float exl2_scale(const struct exl2_matrix *matrix, size_t g, size_t n)
{
    uint32_t word = matrix->q_scale[g * (matrix->out_features / CODES_PER_SCALE_WORD) + n / CODES_PER_SCALE_WORD];
    uint32_t level = (word >> (4 * (n % CODES_PER_SCALE_WORD)) & 15u) + 1;
    /* level^2 has 9 bits and the unit 11: the fp32 product is exact and rounds once. */
    return half_to_float(half_from_float((float)(level * level) * matrix->groups[g].scale_unit));
}

uint32_t exl2_code(const struct exl2_matrix *matrix, size_t i, size_t n)
{
    return code_in_group(matrix, group_of_row(matrix, i), i, n);
}

/* h((code - zero) * scale); the fp32 product of 8 and 11 bits is exact. */
static uint16_t decode(uint32_t code, uint32_t bits, float scale)
{
    int centred = (int)code - (1 << (bits - 1));
    return half_from_float((float)centred * scale);
}

/* Where packed row i goes: row i - row of `out`, or row perm[i] when a permutation is given. */
static void dequantise_rows(const struct exl2_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                            const uint16_t *perm, uint16_t *out, size_t out_stride)
{
    size_t end = row + rows;
    for (size_t first = row; first < end;) {
        const struct exl2_group *group = group_of_row(matrix, first);
        size_t last = plim_min(end, (size_t)group->first_row + group->row_count);
        for (size_t n = column; n < column + columns; n++) {
            float scale = exl2_scale(matrix, (size_t)(group - matrix->groups), n);
            for (size_t i = first; i < last; i++) {
                size_t out_row = perm ? perm[i] : i - row;
                out[out_row * out_stride + n - column] = decode(code_in_group(matrix, group, i, n), group->bits, scale);
            }
        }
        first = last;
    }
}

void exl2_dequantise_packed(const struct exl2_matrix *matrix, size_t row, size_t rows, size_t column, size_t columns,
                            uint16_t *out, size_t out_stride)
{
    dequantise_rows(matrix, row, rows, column, columns, NULL, out, out_stride);
}

void exl2_dequantise(const struct exl2_matrix *matrix, uint16_t *out)
{
    dequantise_rows(matrix, 0, matrix->in_features, 0, matrix->out_features, matrix->perm, out, matrix->out_features);
}
