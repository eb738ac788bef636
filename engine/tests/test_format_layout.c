/* Layouts and option tables: the figures of the format notes, sections 2.3 and 3. */

#include "format_test.h"

static double bpw(const struct exl2_layout *layout, size_t in_features, size_t out_features)
{
    return (double)exl2_layout_bits(layout, in_features, out_features) / (double)(in_features * out_features);
}

Test(exl2_layout, example_of_section_2_3)
{
    static const struct exl2_layout layout = { 2, { { 8, 32, 0.05 }, { 4, 128, 0.95 } } };
    struct exl2_group groups[200];
    cr_assert_eq(exl2_layout_groups(&layout, 14336, NULL), 23 + 107);
    cr_assert_eq(exl2_layout_groups(&layout, 14336, groups), 23 + 107);
    cr_assert_eq(groups[22].bits, 8);
    cr_assert_eq(groups[23].bits, 4);
    cr_assert_eq(groups[23].first_row, 736);
    cr_assert_eq(groups[23].first_word, 184);
    cr_assert_eq(groups[128].row_count, 128);
    cr_assert_eq(groups[129].row_count, 32);
    cr_assert_eq(groups[129].first_row + groups[129].row_count, 14336);
}

Test(exl2_layout, examples_of_section_3_1)
{
    static const struct exl2_layout first = { 2, { { 6, 128, 0.1 }, { 5, 128, 0.9 } } };
    static const struct exl2_layout second = { 2, { { 8, 32, 0.05 }, { 4, 128, 0.95 } } };
    cr_assert_eq(exl2_layout_bits(&first, 4096, 4096), 86640128);
    cr_assert_eq(exl2_layout_groups(&first, 4096, NULL), 4 + 28);
    cr_assert_eq(exl2_layout_bits(&second, 14336, 4096), 249534560);
}

/* Bits per weight of each row, as the notes print them: 4 decimals. */
static void expect_bpw(double found, double printed, const char *table, int option)
{
    cr_assert_float_eq(found, printed, 0.5e-4 + 1e-9, "%s %d: %.6f, printed %.4f", table, option, found, printed);
}

Test(exl2_layout, attention_options)
{
    static const double printed[EXL2_ATTENTION_OPTIONS] = { 2.1378, 2.1987, 2.2831, 2.6768, 3.1689, 3.1705, 4.0439,
                                                            4.0471, 4.0816, 4.1381, 4.1705, 4.1902, 4.2737, 4.3295,
                                                            5.2564, 5.3295, 6.0439, 6.3381, 8.0439 };
    static const size_t out_features[4] = { 4096, 1024, 1024, 4096 };
    for (int option = 0; option < EXL2_ATTENTION_OPTIONS; option++) {
        const struct exl2_layout *layouts = exl2_attention_option(option);
        double bits = 0, weights = 0;
        for (int i = 0; i < 4; i++) {
            bits += (double)exl2_layout_bits(&layouts[i], 4096, out_features[i]);
            weights += (double)(4096 * out_features[i]);
        }
        expect_bpw(bits / weights, printed[option], "attention", option);
    }
    cr_assert_null(exl2_attention_option(-1));
    cr_assert_null(exl2_attention_option(EXL2_ATTENTION_OPTIONS));
}

Test(exl2_layout, mlp_options)
{
    static const double printed[EXL2_MLP_OPTIONS] = { 2.2449, 2.3230, 2.5958, 2.9120, 3.2833, 3.3655,
                                                      3.6186, 4.1368, 4.1977, 4.2662, 4.3484, 5.2491,
                                                      5.3313, 6.0713, 6.3032, 6.8687, 8.0354 };
    const size_t hidden = 4096, intermediate = 14336;
    for (int option = 0; option < EXL2_MLP_OPTIONS; option++) {
        const struct exl2_layout *layouts = exl2_mlp_option(option);
        double bits = (double)exl2_layout_bits(&layouts[0], hidden, intermediate) +
                      (double)exl2_layout_bits(&layouts[1], hidden, intermediate) +
                      (double)exl2_layout_bits(&layouts[2], intermediate, hidden);
        expect_bpw(bits / (3.0 * (double)(hidden * intermediate)), printed[option], "MLP", option);
    }
    cr_assert_null(exl2_mlp_option(-1));
    cr_assert_null(exl2_mlp_option(EXL2_MLP_OPTIONS));
}

Test(exl2_layout, head_options)
{
    static const double printed[9] = { [2] = 2.7346, [3] = 3.2815, [4] = 4.4378,
                                       [5] = 5.1878, [6] = 6.3440, [8] = 8.0315 };
    for (int head_bits = -1; head_bits < 12; head_bits++) {
        const struct exl2_layout *layout = exl2_head_layout(head_bits);
        if (head_bits < 0 || head_bits > 8 || printed[head_bits] == 0)
            cr_assert_null(layout, "%d", head_bits);
        else
            expect_bpw(bpw(layout, 4096, 128256), printed[head_bits], "head", head_bits);
    }
}

/* Rows cover K exactly, widths descend, every group is a multiple of 32 rows: for each layout and many K. */
static void check_layout(const struct exl2_layout *layout, size_t in_features)
{
    static struct exl2_group groups[EXL2_MAX_GROUPS];
    size_t count = exl2_layout_groups(layout, in_features, groups);
    size_t row = 0, word = 0;
    cr_assert_gt(count, 0, "K %zu", in_features);
    for (size_t g = 0; g < count; g++) {
        cr_assert_eq(groups[g].first_row, row);
        cr_assert_eq(groups[g].first_word, word);
        cr_assert(groups[g].row_count > 0 && groups[g].row_count % 32 == 0, "K %zu", in_features);
        cr_assert(g == 0 || groups[g].bits <= groups[g - 1].bits);
        row += groups[g].row_count;
        word += groups[g].row_count * groups[g].bits / 32;
    }
    cr_assert_eq(row, in_features);
}

Test(exl2_layout, groups_cover_every_size)
{
    for (size_t in_features = 32; in_features <= 65536; in_features += in_features < 2048 ? 32 : 2080) {
        for (int option = 0; option < EXL2_ATTENTION_OPTIONS; option++) {
            for (int i = 0; i < 4; i++)
                check_layout(&exl2_attention_option(option)[i], in_features);
        }
        for (int option = 0; option < EXL2_MLP_OPTIONS; option++) {
            for (int i = 0; i < 3; i++)
                check_layout(&exl2_mlp_option(option)[i], in_features);
        }
        for (int head_bits = 2; head_bits <= 8; head_bits++) {
            if (exl2_head_layout(head_bits))
                check_layout(exl2_head_layout(head_bits), in_features);
        }
    }
}

Test(exl2_layout, shares_that_leave_rows_over_are_refused)
{
    static const struct exl2_layout layout = { 2, { { 8, 32, 0.05 }, { 4, 32, 0.5 } } };
    cr_assert_eq(exl2_layout_groups(&layout, 4096, NULL), 0);
}
