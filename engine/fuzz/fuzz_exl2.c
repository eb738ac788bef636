/*
 * The tensors of an EXL2 matrix. The first bytes of the input choose the sizes, the rest fills the tensors in the order
 * q_groups, q_scale_max, q_invperm, q_scale, q_weight (zeros where it ends). What is accepted decodes to finite or
 * infinite values, never NaN, and packs to the same words.
 */

#include <string.h>

#include "exl2.h"
#include "fuzz.h"
#include "half.h"

#define MAX_GROUPS    8
#define MAX_ROWS      256
#define MAX_COLUMNS   64
#define MAX_WORD_ROWS 96

struct matrix_data {
    int16_t q_groups[2 * MAX_GROUPS];
    uint16_t q_scale_max[MAX_GROUPS];
    int32_t q_invperm[MAX_ROWS];
    int32_t q_scale[MAX_GROUPS * MAX_COLUMNS / 8];
    int32_t q_weight[MAX_WORD_ROWS * MAX_COLUMNS];
};

/* The permutation by transpositions (pairs of bytes), since random entries would hardly ever be one; 255, 255 leaves
 * the raw entries. */
static void fill_permutation(struct matrix_data *m, size_t rows, const uint8_t *bytes, size_t count)
{
    for (size_t k = 0; k < rows; k++)
        m->q_invperm[k] = (int32_t)k;
    for (size_t i = 0; i + 1 < count; i += 2) {
        size_t a = bytes[i] % rows, b = bytes[i + 1] % rows;
        int32_t swap = m->q_invperm[a];
        m->q_invperm[a] = m->q_invperm[b];
        m->q_invperm[b] = bytes[i] == 255 ? (int32_t)bytes[i + 1] : swap;
    }
}

static void take(const uint8_t **data, size_t *size, void *out, size_t bytes)
{
    size_t count = bytes < *size ? bytes : *size;
    if (count > 0)
        memcpy(out, *data, count);
    *data += count;
    *size -= count;
}

static void use(const struct exl2_matrix *matrix)
{
    static uint16_t weights[MAX_ROWS * MAX_COLUMNS];
    static uint8_t codes[MAX_ROWS * MAX_COLUMNS];
    static uint32_t words[MAX_WORD_ROWS * MAX_COLUMNS];
    size_t columns = matrix->out_features;
    exl2_dequantise(matrix, weights);
    for (size_t i = 0; i < matrix->in_features * columns; i++)
        FUZZ_CLAIM((weights[i] & 0x7fff) <= 0x7c00);
    for (size_t g = 0; g < matrix->group_count; g++) {
        const struct exl2_group *group = &matrix->groups[g];
        const uint32_t *stored = matrix->q_weight + group->first_word * columns;
        exl2_unpack_rows(stored, group->row_count, columns, group->bits, codes);
        exl2_pack_rows(codes, group->row_count, columns, group->bits, words);
        FUZZ_CLAIM(memcmp(words, stored, group->row_count / 32 * group->bits * columns * sizeof *words) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct matrix_data m;
    uint8_t head[4] = { 0 }, swaps[32] = { 0 };
    struct plim_pool *pool = NULL;
    struct plim_err err = PLIM_ERR_INIT;
    struct exl2_matrix matrix;

    memset(&m, 0, sizeof m);
    take(&data, &size, head, sizeof head);
    size_t groups = head[0] % (MAX_GROUPS + 1), rows = (size_t)head[1] % MAX_ROWS + 1;
    size_t columns = (size_t)head[2] % (MAX_COLUMNS / 8 + 1) * 8, word_rows = head[3] % (MAX_WORD_ROWS + 1);
    take(&data, &size, m.q_groups, 2 * groups * sizeof *m.q_groups);
    take(&data, &size, m.q_scale_max, groups * sizeof *m.q_scale_max);
    take(&data, &size, swaps, sizeof swaps);
    fill_permutation(&m, rows, swaps, sizeof swaps);
    take(&data, &size, m.q_scale, sizeof m.q_scale);
    take(&data, &size, m.q_weight, sizeof m.q_weight);

    struct exl2_tensors tensors = {
        .name = "input",
        .q_weight = m.q_weight,
        .word_rows = word_rows,
        .out_features = columns,
        .q_scale = m.q_scale,
        .group_count = groups,
        .q_scale_max = m.q_scale_max,
        .q_groups = m.q_groups,
        .q_invperm = m.q_invperm,
        .in_features = rows,
    };
    FUZZ_CLAIM(plim_pool_open(&pool, NULL, &err) == 0);
    if (exl2_matrix_init(&matrix, pool, &tensors, 1.0f, &err) == 0)
        use(&matrix);
    else
        FUZZ_CLAIM(err.kind == PLIM_ERR_INPUT && !strchr(err.message, '\n'));
    exl2_matrix_release(&matrix, pool);
    FUZZ_CLAIM(plim_pool_close(pool) == 0);
    return 0;
}
