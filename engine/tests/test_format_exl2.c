/* EXL2 matrices: the format notes' worked examples, the models quantised by ExLlamaV2, and bad tensors. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format_test.h"
#include "half.h"
#include "plimsoll/json.h"
#include "sha256.h"

static const unsigned widths[] = { 2, 3, 4, 5, 6, 8 };
#define WIDTH_COUNT (sizeof widths / sizeof *widths)

/* ---- packing ---- */

/* Format notes 2.1: one column, code(r) = r mod 2^b, r = 0 ... 31. */
Test(exl2_pack, reference_vectors)
{
    static const uint32_t expected[WIDTH_COUNT][8] = {
        { 0xe4e4e4e4, 0xe4e4e4e4 },
        { 0x88fac688, 0xc688fac6, 0xfac688fa },
        { 0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98 },
        { 0x8a418820, 0xc5a92839, 0xca307b9a, 0x38bdab49, 0xffbbcdeb },
        { 0x440c2040, 0xa2481c61, 0x3ce34c2c, 0x544d2450, 0xa6585d65, 0x7de75c6d },
        { 0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c, 0x13121110, 0x17161514, 0x1b1a1918, 0x1f1e1d1c },
    };
    for (size_t w = 0; w < WIDTH_COUNT; w++) {
        uint8_t codes[32], back[32];
        uint32_t words[8];
        for (unsigned r = 0; r < 32; r++)
            codes[r] = (uint8_t)(r % (1u << widths[w]));
        exl2_pack_rows(codes, 32, 1, widths[w], words);
        cr_assert_arr_eq(words, expected[w], widths[w] * sizeof *words, "width %u", widths[w]);
        exl2_unpack_rows(words, 32, 1, widths[w], back);
        cr_assert_arr_eq(back, codes, sizeof codes, "width %u", widths[w]);
    }
}

/* Levels 1..8 in columns 0..7, then 9..16: format notes 2.4 and 12. */
Test(exl2_pack, scale_nibbles)
{
    uint8_t levels[16];
    uint32_t words[2];
    for (int i = 0; i < 16; i++)
        levels[i] = (uint8_t)(i + 1);
    exl2_pack_scales(levels, 16, words);
    cr_assert_eq(words[0], 0x76543210u);
    cr_assert_eq(words[1], 0xfedcba98u);
}

Test(exl2_pack, round_trip_of_every_width)
{
    enum { ROWS = 160, COLUMNS = 24 };
    static uint8_t codes[ROWS * COLUMNS], back[ROWS * COLUMNS];
    static uint32_t words[ROWS * 8 / 32 * COLUMNS];
    uint32_t state = 12345;
    for (size_t w = 0; w < WIDTH_COUNT; w++) {
        for (size_t i = 0; i < ROWS * COLUMNS; i++) {
            state = state * 1664525u + 1013904223u;
            codes[i] = (uint8_t)(state >> 24 & ((1u << widths[w]) - 1));
        }
        exl2_pack_rows(codes, ROWS, COLUMNS, widths[w], words);
        exl2_unpack_rows(words, ROWS, COLUMNS, widths[w], back);
        cr_assert_arr_eq(back, codes, sizeof codes, "width %u", widths[w]);
    }
}

/* ---- the worked example, format notes 2.8 ---- */

enum { EXAMPLE_ROWS = 64, EXAMPLE_COLUMNS = 32, EXAMPLE_WORD_ROWS = 7, EXAMPLE_GROUPS = 2 };

struct example {
    int32_t q_weight[EXAMPLE_WORD_ROWS * EXAMPLE_COLUMNS];
    int32_t q_scale[EXAMPLE_GROUPS * EXAMPLE_COLUMNS / 8];
    uint16_t q_scale_max[EXAMPLE_GROUPS];
    int16_t q_groups[2 * EXAMPLE_GROUPS];
    int32_t q_invperm[EXAMPLE_ROWS];
    struct exl2_tensors tensors;
};

static void make_example(struct example *e)
{
    static const uint32_t column[EXAMPLE_WORD_ROWS] = { 0x76543210, 0xfedcba98, 0x76543210, 0xfedcba98,
                                                        0x88fac688, 0xc688fac6, 0xfac688fa };
    memset(e, 0, sizeof *e);
    for (int row = 0; row < EXAMPLE_WORD_ROWS; row++) {
        for (int n = 0; n < EXAMPLE_COLUMNS; n++)
            memcpy(&e->q_weight[row * EXAMPLE_COLUMNS + n], &column[row], sizeof *column);
    }
    e->q_scale[0] = 1;
    e->q_scale[EXAMPLE_COLUMNS / 8] = 6;
    e->q_scale_max[0] = 0x3800;
    e->q_scale_max[1] = 0x1d39;
    memcpy(e->q_groups, (int16_t[]){ 4, 0, 3, 4 }, sizeof e->q_groups);
    for (int k = 0; k < EXAMPLE_ROWS; k++)
        e->q_invperm[k] = (k + 1) % EXAMPLE_ROWS;
    e->tensors = (struct exl2_tensors){
        .name = "example",
        .q_weight = e->q_weight,
        .word_rows = EXAMPLE_WORD_ROWS,
        .out_features = EXAMPLE_COLUMNS,
        .q_scale = e->q_scale,
        .group_count = EXAMPLE_GROUPS,
        .q_scale_max = e->q_scale_max,
        .q_groups = e->q_groups,
        .q_invperm = e->q_invperm,
        .in_features = EXAMPLE_ROWS,
    };
}

Test(exl2, worked_example)
{
    struct example e;
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    uint16_t natural[EXAMPLE_ROWS * EXAMPLE_COLUMNS], packed[EXAMPLE_ROWS * EXAMPLE_COLUMNS];

    make_example(&e);
    expect_ok(exl2_matrix_init(&matrix, pool, &e.tensors, 1.0f, &err), &err);
    cr_assert_eq(matrix.groups[0].row_count, 32);
    cr_assert_eq(matrix.groups[1].row_count, 32);
    cr_assert_eq(matrix.groups[1].first_row, 32);
    cr_assert_eq(matrix.groups[1].first_word, 4);
    cr_assert_eq(matrix.perm[0], 63);
    cr_assert_eq(matrix.perm[1], 0);
    cr_assert_eq(half_from_float(matrix.groups[0].scale_unit), 0x1800);
    cr_assert_eq(half_from_float(matrix.groups[1].scale_unit), 0x014e);
    cr_assert_eq(half_from_float(exl2_scale(&matrix, 0, 0)), half_from_float(0.0078125f));
    cr_assert_eq(half_from_float(exl2_scale(&matrix, 1, 0)), 0x13fe);
    for (unsigned i = 0; i < EXAMPLE_ROWS; i++)
        cr_assert_eq(exl2_code(&matrix, i, 0), i < 32 ? i % 16 : (i - 32) % 8, "row %u", i);

    exl2_dequantise(&matrix, natural);
    cr_assert_eq(natural[63 * EXAMPLE_COLUMNS], 0xac00);
    cr_assert_eq(natural[4 * EXAMPLE_COLUMNS], 0xa600);
    cr_assert_eq(natural[40 * EXAMPLE_COLUMNS], 0x99fe);
    cr_assert_float_eq(half_to_float(natural[41 * EXAMPLE_COLUMNS]), -0.00195121765f, 1e-10f);

    exl2_dequantise_packed(&matrix, 0, EXAMPLE_ROWS, 0, EXAMPLE_COLUMNS, packed, EXAMPLE_COLUMNS);
    for (size_t i = 0; i < EXAMPLE_ROWS; i++)
        cr_assert_arr_eq(packed + i * EXAMPLE_COLUMNS, natural + matrix.perm[i] * (size_t)EXAMPLE_COLUMNS,
                         EXAMPLE_COLUMNS * sizeof *packed);
    exl2_matrix_release(&matrix, pool);
    test_pool_close(pool);
}

/* P = h(scale_max * prescale / 256), format notes 2.4: one rounding, in fp16, subnormal results kept. */
Test(exl2, prescale_is_a_product_in_fp16)
{
    struct example e;
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    make_example(&e);
    expect_ok(exl2_matrix_init(&matrix, pool, &e.tensors, 0.22f, &err), &err);
    /* 0.5 * 0.22 / 256 = 4.296875e-4 -> 0x0f0a (4.2963e-4); 334.25 * 0.22 = 73.535 -> 74 * 2^-24 */
    cr_assert_eq(half_from_float(matrix.groups[0].scale_unit), 0x0f0a);
    cr_assert_eq(half_from_float(matrix.groups[1].scale_unit), 74);
    exl2_matrix_release(&matrix, pool);
    test_pool_close(pool);
}

Test(exl2, allocates_what_it_says)
{
    struct example e;
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct plim_pool_stats stats;
    make_example(&e);
    expect_ok(exl2_matrix_init(&matrix, pool, &e.tensors, 1.0f, &err), &err);
    plim_pool_stats(pool, &stats);
    cr_assert_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS], exl2_matrix_bytes(EXAMPLE_ROWS, EXAMPLE_GROUPS));
    cr_assert_eq(stats.live_blocks, 1);
    exl2_matrix_release(&matrix, pool);

    plim_pool_fail_allocation(pool, 1);
    cr_assert_eq(exl2_matrix_init(&matrix, pool, &e.tensors, 1.0f, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    test_pool_close(pool);
}

/* A file may hold its tensors at any address; words that lie badly are copied. */
Test(exl2, words_at_odd_addresses)
{
    struct example e;
    struct exl2_matrix matrix, odd;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct plim_pool_stats stats;
    uint16_t wanted[EXAMPLE_ROWS * EXAMPLE_COLUMNS], got[EXAMPLE_ROWS * EXAMPLE_COLUMNS];
    static char at[sizeof e.q_scale + 1];

    make_example(&e);
    expect_ok(exl2_matrix_init(&matrix, pool, &e.tensors, 1.0f, &err), &err);
    exl2_dequantise(&matrix, wanted);
    cr_assert_eq(exl2_copied_bytes(&e.tensors), 0);
    exl2_matrix_release(&matrix, pool);

    memcpy(at + 1, e.q_scale, sizeof e.q_scale);
    e.tensors.q_scale = (const int32_t *)(const void *)(at + 1);
    cr_assert_eq(exl2_copied_bytes(&e.tensors), sizeof e.q_weight + sizeof e.q_scale);
    expect_ok(exl2_matrix_init(&odd, pool, &e.tensors, 1.0f, &err), &err);
    exl2_dequantise(&odd, got);
    cr_assert_arr_eq(got, wanted, sizeof wanted);
    plim_pool_stats(pool, &stats);
    cr_assert_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS],
                 exl2_matrix_bytes(EXAMPLE_ROWS, EXAMPLE_GROUPS) + sizeof e.q_weight + sizeof e.q_scale);
    exl2_matrix_release(&odd, pool);

    plim_pool_fail_allocation(pool, 2);
    cr_assert_eq(exl2_matrix_init(&odd, pool, &e.tensors, 1.0f, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    test_pool_close(pool);
}

/* ---- bad tensors ---- */

static void expect_refused(struct example *e, float prescale, const char *text)
{
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    expect_input_error(exl2_matrix_init(&matrix, pool, &e->tensors, prescale, &err), &err, text);
    cr_assert(strstr(err.message, "example: "), "%s", err.message);
    cr_assert_null(matrix.groups);
    test_pool_close(pool);
}

Test(exl2_bad, groups)
{
    static const struct {
        int16_t q_groups[4];
        const char *text;
    } cases[] = {
        { { 4, 1, 3, 4 }, "group 0 begins at row 1, expected 0" },
        { { 4, -1, 3, 4 }, "group 0 begins at row -1" },
        { { 7, 0, 3, 4 }, "group 0 has width 7" },
        { { 0, 0, 3, 4 }, "group 0 has width 0" },
        { { -4, 0, 3, 4 }, "group 0 has width -4" },
        { { 4, 0, 1, 4 }, "group 1 has width 1" },
        { { 3, 0, 4, 3 }, "group 1 has width 4 after width 3; widths must descend" },
        { { 4, 0, 3, 3 }, "group 0 has 3 rows of q_weight, expected a multiple of its width 4" },
        { { 4, 0, 2, 4 }, "group 1 has 3 rows of q_weight, expected a multiple of its width 2" },
        { { 4, 0, 3, 7 }, "group 0 has 7 rows of q_weight" },
        { { 4, 0, 3, 0 }, "group 0 would hold rows 0 to 0 of the 7" },
        { { 4, 0, 3, 8 }, "group 0 would hold rows 0 to 8 of the 7" },
        { { 4, 0, 3, -4 }, "group 1 begins at row -4" },
        { { 2, 0, 2, 4 }, "group 1 has 3 rows" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct example e;
        make_example(&e);
        memcpy(e.q_groups, cases[i].q_groups, sizeof e.q_groups);
        expect_refused(&e, 1.0f, cases[i].text);
    }
}

Test(exl2_bad, groups_that_do_not_add_up)
{
    struct example e;
    make_example(&e);
    e.tensors.in_features = 32;
    expect_refused(&e, 1.0f, "the groups hold more than the 32 input features");

    make_example(&e);
    e.tensors.word_rows = 4;   /* one group of 32 rows for 64 features */
    e.tensors.group_count = 1;
    expect_refused(&e, 1.0f, "the groups hold 32 rows, q_invperm has 64");
}

Test(exl2_bad, sizes)
{
    struct example e;
    make_example(&e);
    e.tensors.in_features = 65536 + 32;
    expect_refused(&e, 1.0f, "65568 input features, expected a multiple of 32 up to 65536");
    e.tensors.in_features = 33;
    expect_refused(&e, 1.0f, "33 input features");
    e.tensors.in_features = 0;
    expect_refused(&e, 1.0f, "0 input features");

    make_example(&e);
    e.tensors.out_features = 24;
    expect_refused(&e, 1.0f, "24 columns, expected a multiple of 32");
    e.tensors.out_features = 0;
    expect_refused(&e, 1.0f, "0 columns");

    make_example(&e);
    e.tensors.group_count = 0;
    expect_refused(&e, 1.0f, "0 groups");
    e.tensors.group_count = 32768;
    expect_refused(&e, 1.0f, "32768 groups");
}

Test(exl2_bad, permutation)
{
    struct example e;
    make_example(&e);
    e.q_invperm[5] = 64;
    expect_refused(&e, 1.0f, "q_invperm[5] is 64, expected 0 to 63");
    e.q_invperm[5] = -1;
    expect_refused(&e, 1.0f, "q_invperm[5] is -1");
    e.q_invperm[5] = 65536 + 6;   /* right once it's cut to 16 bits */
    expect_refused(&e, 1.0f, "q_invperm[5] is 65542");
    e.q_invperm[5] = 7;
    expect_refused(&e, 1.0f, "repeats the value 7");
}

Test(exl2_bad, scales)
{
    struct example e;
    make_example(&e);
    e.q_scale_max[1] = 0x7e00;
    expect_refused(&e, 1.0f, "q_scale_max[1] is nan");
    e.q_scale_max[1] = 0x7c00;
    expect_refused(&e, 1.0f, "q_scale_max[1] is inf");
    e.q_scale_max[1] = 0x7bff;   /* 65504 is fine alone */
    expect_refused(&e, 2.0f, "scales must be finite");
    make_example(&e);
    expect_refused(&e, NAN, "scales must be finite");
}

/* ---- K and rows at the limits of the types ---- */

/* One group of 65536 rows: permutation entries use all 16 bits. */
Test(exl2, largest_in_features)
{
    enum { K = 65536, N = 32, WORDS = K / 32 * 2 };
    struct exl2_matrix matrix;
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    int32_t *q_weight = calloc(WORDS * N, sizeof *q_weight);
    int32_t *q_invperm = calloc(K, sizeof *q_invperm);
    static const int32_t q_scale[N / 8] = { 0 };
    static const int16_t q_groups[2] = { 2, 0 };
    static const uint16_t q_scale_max[1] = { 0x3c00 };
    for (int k = 0; k < K; k++)
        q_invperm[k] = K - 1 - k;
    q_weight[(WORDS - 1) * N] = (int32_t)0xc0000000u;   /* the last row's code of column 0 is 3 */
    struct exl2_tensors tensors = { .name = "large", .q_weight = q_weight, .word_rows = WORDS, .out_features = N,
                                    .q_scale = q_scale, .group_count = 1, .q_scale_max = q_scale_max,
                                    .q_groups = q_groups, .q_invperm = q_invperm, .in_features = K };
    expect_ok(exl2_matrix_init(&matrix, pool, &tensors, 1.0f, &err), &err);
    cr_assert_eq(matrix.perm[K - 1], 0);
    cr_assert_eq(matrix.perm[0], K - 1);
    cr_assert_eq(exl2_code(&matrix, K - 1, 0), 3);
    cr_assert_eq(exl2_code(&matrix, K - 2, 0), 0);

    q_invperm[0] = 0;   /* was 65535; 0 is there already */
    exl2_matrix_release(&matrix, pool);
    expect_input_error(exl2_matrix_init(&matrix, pool, &tensors, 1.0f, &err), &err, "repeats");
    free(q_weight);
    free(q_invperm);
    test_pool_close(pool);
}

/* ---- the models that ExLlamaV2 quantised ---- */

static void check_groups(const struct exl2_matrix *matrix, struct plim_json groups, const char *key)
{
    struct plim_err err = PLIM_ERR_INIT;
    cr_assert_eq(matrix->group_count, plim_json_length(groups), "%s", key);
    for (size_t g = 0; g < matrix->group_count; g++) {
        int64_t bits = 0, rows = 0;
        struct plim_json pair = plim_json_at(groups, g);
        expect_ok(plim_json_int(plim_json_at(pair, 0), 2, 8, &bits, &err), &err);
        expect_ok(plim_json_int(plim_json_at(pair, 1), 32, 65536, &rows, &err), &err);
        cr_assert_eq(matrix->groups[g].bits, bits, "%s, group %zu", key, g);
        cr_assert_eq(matrix->groups[g].row_count, rows, "%s, group %zu", key, g);
    }
}

static void check_corner(const struct tensor_store *reference, const uint16_t *weights, size_t columns,
                         const char *key)
{
    char name[200];
    struct plim_err err = PLIM_ERR_INIT;
    const int64_t shape[2] = { 64, 64 };
    snprintf(name, sizeof name, "corner.%s", key);
    const struct tensor *corner = tensor_store_need(reference, name, 1u << DTYPE_F16, 2, shape, &err);
    cr_assert_not_null(corner, "%s", err.message);
    for (size_t row = 0; row < 64; row++)
        cr_assert_eq(memcmp(weights + row * columns, (const char *)corner->data + row * 64 * sizeof *weights,
                            64 * sizeof *weights),
                     0, "%s, row %zu", key, row);
}

/* Every group's words come back from its codes, and the codes are those that exl2_code sees. */
static void check_repacking(const struct exl2_matrix *matrix, const char *key)
{
    size_t columns = matrix->out_features;
    uint8_t *codes = malloc(matrix->in_features * columns);
    uint32_t *words = malloc(matrix->word_rows * columns * sizeof *words);
    for (size_t g = 0; g < matrix->group_count; g++) {
        const struct exl2_group *group = &matrix->groups[g];
        const uint32_t *stored = matrix->q_weight + group->first_word * columns;
        exl2_unpack_rows(stored, group->row_count, columns, group->bits, codes);
        for (size_t r = 0; r < group->row_count; r++) {
            for (size_t n = 0; n < columns; n += 7)
                cr_assert_eq(codes[r * columns + n], exl2_code(matrix, group->first_row + r, n), "%s", key);
        }
        exl2_pack_rows(codes, group->row_count, columns, group->bits, words);
        cr_assert_eq(memcmp(words, stored, group->row_count * group->bits / 32 * columns * sizeof *words), 0,
                     "%s, group %zu", key, g);
    }
    free(codes);
    free(words);
}

static void check_blocks(const struct exl2_matrix *matrix, const uint16_t *natural, const char *key)
{
    /* A block that begins and ends inside groups and words. */
    size_t row = 13, rows = matrix->in_features - 30, column = 5, columns = 50, stride = 53;
    uint16_t *block = malloc(rows * stride * sizeof *block);
    exl2_dequantise_packed(matrix, row, rows, column, columns, block, stride);
    for (size_t i = 0; i < rows; i++) {
        const uint16_t *expected = natural + matrix->perm[row + i] * matrix->out_features + column;
        cr_assert_eq(memcmp(block + i * stride, expected, columns * sizeof *block), 0, "%s, row %zu", key, i);
    }
    free(block);
}

static void check_model(const char *bits)
{
    char directory[400], reference_path[400];
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = test_pool_open();
    struct tensor_store *store = NULL, *reference = NULL;
    cJSON *root = NULL;
    snprintf(directory, sizeof directory, FIXTURE "/exl2-%s", bits);
    snprintf(reference_path, sizeof reference_path, FIXTURE "/reference-%s.safetensors", bits);
    expect_ok(tensor_store_open_directory(&store, pool, directory, false, &err), &err);
    expect_ok(tensor_store_open_file(&reference, pool, reference_path, &err), &err);
    expect_ok(plim_json_read(FIXTURE "/reference.json", 1 << 20, &root, &err), &err);

    struct plim_json models = plim_json_get(plim_json_root(root, "reference.json"), "quantized");
    struct plim_json linears = plim_json_get(plim_json_get(models, bits), "linears");
    size_t matrix_count = 0;
    const cJSON *node;
    cJSON_ArrayForEach(node, linears.node) {
        const char *key = node->string, *expected = NULL;
        struct plim_json entry = plim_json_get(linears, key);
        struct exl2_tensors tensors;
        struct exl2_matrix matrix;
        char digest[65];
        test_exl2_tensors(store, key, &tensors);
        expect_ok(exl2_matrix_init(&matrix, pool, &tensors, 1.0f, &err), &err);
        check_groups(&matrix, plim_json_get(entry, "groups"), key);

        size_t bytes = matrix.in_features * matrix.out_features * sizeof(uint16_t);
        uint16_t *weights = malloc(bytes);
        exl2_dequantise(&matrix, weights);
        sha256_hex(weights, bytes, digest);
        expect_ok(plim_json_string(plim_json_get(entry, "dequantized_sha256"), &expected, &err), &err);
        cr_assert_str_eq(digest, expected, "%s", key);
        check_corner(reference, weights, matrix.out_features, key);
        check_repacking(&matrix, key);
        check_blocks(&matrix, weights, key);
        free(weights);
        exl2_matrix_release(&matrix, pool);
        matrix_count++;
    }
    cr_assert_eq(matrix_count, 15);
    cJSON_Delete(root);
    tensor_store_close(reference);
    tensor_store_close(store);
    test_pool_close(pool);
}

Test(exl2, model_of_exllamav2_at_4_bits)
{
    check_model("4.0");
}

Test(exl2, model_of_exllamav2_at_2_6_bits)
{
    check_model("2.6");
}

Test(exl2, sha256_helper)
{
    char hex[65];
    sha256_hex("abc", 3, hex);
    cr_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    cr_assert_str_eq(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}
