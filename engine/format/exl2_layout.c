/*
 * Layouts: which share of a matrix' rows gets which width. The tables are those of ExLlamaV2's quantizer (format notes,
 * section 3); an option is a row, cheapest first.
 */

#include "exl2.h"

#include <math.h>

#include "plimsoll/units.h"

#define ONE(bits, rows)                              { 1, { { bits, rows, 1.0 } } }
#define PAIR(bits, rows, share)                      { 2, { { bits, rows, share }, { bits - 1, rows, 1 - (share) } } }
#define TWO(b0, r0, s0, b1, r1, s1)                  { 2, { { b0, r0, s0 }, { b1, r1, s1 } } }
#define THREE(b0, r0, s0, b1, r1, s1, b2, r2, s2)    { 3, { { b0, r0, s0 }, { b1, r1, s1 }, { b2, r2, s2 } } }

/* clang-format off */

/* q_proj, k_proj, v_proj, o_proj */
static const struct exl2_layout attention_options[EXL2_ATTENTION_OPTIONS][4] = {
    /*  0 */ { PAIR(3, 64, 0.05), PAIR(3, 64, 0.05), PAIR(3, 64, 0.05), PAIR(3, 64, 0.05) },
    /*  1 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.10), PAIR(3, 64, 0.25), PAIR(3, 64, 0.10) },
    /*  2 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.10), PAIR(4, 128, 0.10), PAIR(3, 64, 0.10) },
    /*  3 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.10), PAIR(4, 128, 0.10), PAIR(4, 128, 0.10) },
    /*  4 */ { PAIR(4, 128, 0.10), PAIR(4, 128, 0.10), PAIR(4, 128, 0.10), PAIR(4, 128, 0.10) },
    /*  5 */ { PAIR(4, 128, 0.10), PAIR(4, 128, 0.10), PAIR(4, 64, 0.10), PAIR(4, 128, 0.10) },
    /*  6 */ { ONE(4, 128), ONE(4, 128), ONE(4, 128), ONE(4, 128) },
    /*  7 */ { ONE(4, 128), ONE(4, 128), ONE(4, 64), ONE(4, 128) },
    /*  8 */ { ONE(4, 64), ONE(4, 64), ONE(4, 32), ONE(4, 64) },
    /*  9 */ { ONE(4, 32), ONE(4, 32), ONE(4, 32), ONE(4, 32) },
    /* 10 */ { PAIR(5, 128, 0.10), PAIR(5, 128, 0.10), PAIR(5, 64, 0.10), PAIR(5, 128, 0.10) },
    /* 11 */ { PAIR(5, 64, 0.10), PAIR(5, 64, 0.10), PAIR(5, 32, 0.10), PAIR(5, 64, 0.10) },
    /* 12 */ { PAIR(5, 64, 0.10), PAIR(5, 64, 0.10), ONE(5, 64), PAIR(5, 64, 0.10) },
    /* 13 */ { PAIR(5, 32, 0.10), PAIR(5, 32, 0.10), ONE(5, 32), PAIR(5, 32, 0.10) },
    /* 14 */ { PAIR(6, 128, 0.10), PAIR(6, 128, 0.10), ONE(6, 128), PAIR(6, 128, 0.10) },
    /* 15 */ { PAIR(6, 32, 0.10), PAIR(6, 32, 0.10), ONE(6, 32), PAIR(6, 32, 0.10) },
    /* 16 */ { ONE(6, 128), ONE(6, 128), ONE(6, 128), ONE(6, 128) },
    /* 17 */ { ONE(6, 32), ONE(6, 32), ONE(8, 32), ONE(6, 32) },
    /* 18 */ { ONE(8, 128), ONE(8, 128), ONE(8, 128), ONE(8, 128) },
};

/* gate_proj, up_proj, down_proj */
static const struct exl2_layout mlp_options[EXL2_MLP_OPTIONS][3] = {
    /*  0 */ { PAIR(3, 64, 0.05), PAIR(3, 64, 0.05), THREE(6, 32, 0.05, 3, 64, 0.20, 2, 64, 0.75) },
    /*  1 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.25), THREE(6, 32, 0.05, 3, 64, 0.20, 2, 64, 0.75) },
    /*  2 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.30), TWO(5, 32, 0.05, 3, 32, 0.95) },
    /*  3 */ { PAIR(3, 64, 0.10), PAIR(3, 64, 0.30), PAIR(5, 32, 0.05) },
    /*  4 */ { PAIR(4, 128, 0.10), PAIR(4, 128, 0.25), THREE(8, 32, 0.05, 4, 128, 0.10, 3, 128, 0.85) },
    /*  5 */ { PAIR(4, 32, 0.10), PAIR(4, 32, 0.25), THREE(8, 32, 0.05, 4, 32, 0.10, 3, 32, 0.85) },
    /*  6 */ { PAIR(4, 32, 0.10), PAIR(4, 32, 0.25), TWO(8, 32, 0.05, 4, 128, 0.95) },
    /*  7 */ { ONE(4, 128), ONE(4, 32), TWO(8, 32, 0.05, 4, 128, 0.95) },
    /*  8 */ { ONE(4, 32), ONE(4, 32), TWO(8, 32, 0.05, 4, 32, 0.95) },
    /*  9 */ { PAIR(5, 128, 0.10), PAIR(5, 128, 0.25), THREE(8, 32, 0.05, 5, 128, 0.10, 4, 128, 0.85) },
    /* 10 */ { PAIR(5, 32, 0.10), PAIR(5, 32, 0.25), THREE(8, 32, 0.05, 5, 32, 0.10, 4, 32, 0.85) },
    /* 11 */ { PAIR(6, 128, 0.10), PAIR(6, 128, 0.25), THREE(8, 32, 0.05, 6, 128, 0.10, 5, 128, 0.85) },
    /* 12 */ { PAIR(6, 32, 0.10), PAIR(6, 32, 0.25), THREE(8, 32, 0.05, 6, 32, 0.10, 5, 32, 0.85) },
    /* 13 */ { ONE(6, 128), ONE(6, 128), TWO(8, 32, 0.05, 6, 128, 0.95) },
    /* 14 */ { TWO(8, 128, 0.10, 6, 128, 0.90), TWO(8, 128, 0.10, 6, 128, 0.90), TWO(8, 128, 0.15, 6, 128, 0.85) },
    /* 15 */ { TWO(8, 128, 0.10, 6, 128, 0.90), TWO(8, 128, 0.10, 6, 128, 0.90), ONE(8, 128) },
    /* 16 */ { ONE(8, 128), ONE(8, 128), ONE(8, 128) },
};

/* clang-format on */

/* By head_bits; 7 and the others are not offered. */
static const struct exl2_layout head_layouts[] = {
    [2] = TWO(4, 32, 0.30, 2, 32, 0.70),
    [3] = PAIR(4, 32, 0.15),
    [4] = TWO(6, 32, 0.15, 4, 32, 0.85),
    [5] = PAIR(6, 128, 0.15),
    [6] = TWO(8, 128, 0.15, 6, 128, 0.85),
    [8] = ONE(8, 128),
};

const struct exl2_layout *exl2_attention_option(int option)
{
    return option >= 0 && option < EXL2_ATTENTION_OPTIONS ? attention_options[option] : NULL;
}

const struct exl2_layout *exl2_mlp_option(int option)
{
    return option >= 0 && option < EXL2_MLP_OPTIONS ? mlp_options[option] : NULL;
}

const struct exl2_layout *exl2_head_layout(int head_bits)
{
    if (head_bits < 0 || (size_t)head_bits >= sizeof head_layouts / sizeof *head_layouts)
        return NULL;
    return head_layouts[head_bits].width_count ? &head_layouts[head_bits] : NULL;
}

/*
 * Groups of width i: ceil(min(K * share, rows left) / group_rows), in double precision as the reference computes it.
 * The last group of all takes what is left and may be shorter.
 */
static size_t group_count_of_width(const struct exl2_layout *layout, int i, size_t in_features, size_t rows_left)
{
    double wanted_rows = fmin((double)in_features * layout->width[i].share, (double)rows_left);
    return (size_t)ceil(wanted_rows / (double)layout->width[i].group_rows);
}

size_t exl2_layout_groups(const struct exl2_layout *layout, size_t in_features, struct exl2_group *groups)
{
    size_t count = 0, first_row = 0, first_word = 0;
    for (int i = 0; i < layout->width_count; i++) {
        uint32_t bits = layout->width[i].bits;
        size_t of_width = group_count_of_width(layout, i, in_features, in_features - first_row);
        for (size_t g = 0; g < of_width; g++, count++) {
            size_t rows = plim_min(layout->width[i].group_rows, in_features - first_row);
            if (count == EXL2_MAX_GROUPS)
                return 0;
            if (groups)
                groups[count] = (struct exl2_group){ .first_row = (uint32_t)first_row, .row_count = (uint32_t)rows,
                                                     .first_word = (uint32_t)first_word, .bits = bits };
            first_row += rows;
            first_word += rows * bits / 32;
        }
    }
    return first_row == in_features ? count : 0;
}

uint64_t exl2_layout_bits(const struct exl2_layout *layout, size_t in_features, size_t out_features)
{
    uint64_t code_bits = 0, groups = 0;
    size_t rows_left = in_features;
    for (int i = 0; i < layout->width_count; i++) {
        size_t of_width = group_count_of_width(layout, i, in_features, rows_left);
        size_t rows = plim_min(of_width * layout->width[i].group_rows, rows_left);
        code_bits += (uint64_t)rows * out_features * layout->width[i].bits;
        groups += of_width;
        rows_left -= rows;
    }
    /* A group: fp16 scale maximum, two 16-bit entries of q_groups, and 4 bits a column. A row: 32 bits of q_invperm. */
    return code_bits + groups * (16 + 32 + 4 * (uint64_t)out_features) + 32 * (uint64_t)in_features;
}
