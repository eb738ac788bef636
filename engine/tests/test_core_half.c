#include <criterion/criterion.h>

#include <math.h>
#include <stdint.h>

#include "half.h"

/* The value of an fp16 by its definition, in double. */
static double value_of_half(uint16_t half)
{
    int exponent = half >> 10 & 31, mantissa = half & 1023;
    double magnitude = exponent == 0 ? ldexp(mantissa, -24) : ldexp(1024 + mantissa, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

Test(half, all_65536_values_widen_exactly_and_come_back)
{
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t half = (uint16_t)i;
        float wide = half_to_float(half);
        if ((half & 0x7c00) == 0x7c00) {
            cr_assert(half & 0x3ff ? isnan(wide) : isinf(wide), "%04x", i);
            cr_assert_eq(signbit(wide) != 0, half >> 15, "%04x", i);
            if (half & 0x3ff)
                cr_assert(isnan(half_to_float(half_from_float(wide))), "%04x", i);
            else
                cr_assert_eq(half_from_float(wide), half, "%04x", i);
            continue;
        }
        cr_assert_eq((double)wide, value_of_half(half), "%04x", i);
        cr_assert_eq(signbit(wide) != 0, half >> 15, "%04x", i);
        cr_assert_eq(half_from_float(wide), half, "%04x", i);
    }
}

/*
 * Rounding, checked against the definition: between two neighbouring fp16 values the nearer one wins, in the middle the
 * one with the even mantissa, and one fp32 step to either side of the middle decides.
 */
Test(half, rounding_is_to_nearest_even_between_all_neighbours)
{
    for (uint32_t i = 0; i < 0x7c00; i++) {
        uint16_t low = (uint16_t)i, high = (uint16_t)(i + 1);   /* 0x7c00, infinity, stands for 65536 */
        double top = high == 0x7c00 ? 65536.0 : value_of_half(high);
        float middle = (float)((value_of_half(low) + top) / 2);   /* exact: one bit more than fp16 */
        uint16_t even = low & 1 ? high : low;
        cr_assert_eq(half_from_float(middle), even, "%04x", i);
        cr_assert_eq(half_from_float(nextafterf(middle, 0)), low, "%04x", i);
        cr_assert_eq(half_from_float(nextafterf(middle, INFINITY)), high, "%04x", i);
        cr_assert_eq(half_from_float(-middle), even | 0x8000, "%04x", i);
    }
}

Test(half, tiny_and_huge_floats)
{
    cr_assert_eq(half_from_float(0x1p-149f), 0);
    cr_assert_eq(half_from_float(-0x1p-149f), 0x8000);
    cr_assert_eq(half_from_float(0x1p-25f), 0);          /* half of the smallest: even is zero */
    cr_assert_eq(half_from_float(0x1.000002p-25f), 1);
    cr_assert_eq(half_from_float(65519.996f), 0x7bff);
    cr_assert_eq(half_from_float(65520.0f), 0x7c00);
    cr_assert_eq(half_from_float(3e38f), 0x7c00);
    cr_assert_eq(half_from_float(-INFINITY), 0xfc00);
}

Test(half, bfloat_widens_exactly_and_rounds_to_nearest_even)
{
    for (uint32_t i = 0; i < 65536; i++) {
        float wide = bfloat_to_float((uint16_t)i);
        if (isnan(wide)) {
            cr_assert(isnan(bfloat_to_float(bfloat_from_float(wide))));
            continue;
        }
        cr_assert_eq(bfloat_from_float(wide), i);
        if ((i & 0x7fff) >= 0x7f7f)
            continue;
        float next = bfloat_to_float((uint16_t)(i + 1)), middle = wide + (next - wide) / 2;
        cr_assert_eq(bfloat_from_float(middle), i & 1 ? i + 1 : i, "%04x", i);
        cr_assert_eq(bfloat_from_float(nextafterf(middle, wide)), i, "%04x", i);
        cr_assert_eq(bfloat_from_float(nextafterf(middle, next)), i + 1, "%04x", i);
    }
    cr_assert(isnan(bfloat_to_float(bfloat_from_float(float_from_bits(0x7f800001u)))));
}
