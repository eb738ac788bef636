/* Which device has which layer: against shares worked out by hand. */

#include <criterion/criterion.h>

#include "model.h"

#define LAYERS 4

/* Parts: the layers, then the head. */
static void expect_places(const struct plim_split *split, const uint64_t *free_bytes, const uint64_t parts[LAYERS + 1],
                          const size_t expected[LAYERS + 1])
{
    struct plim_err err = PLIM_ERR_INIT;
    size_t place[LAYERS + 1];

    cr_assert_eq(model_split(split, free_bytes, parts, LAYERS, place, &err), 0, "%s", err.message);
    for (size_t i = 0; i <= LAYERS; i++)
        cr_expect_eq(place[i], expected[i], "part %zu lies on %zu, expected %zu", i, place[i], expected[i]);
}

Test(model_split, a_layer_goes_where_its_middle_lies)
{
    const struct plim_split two = { .count = 2, .automatic = true };
    const uint64_t even[] = { 1, 1, 1, 1, 0 }, heavy_first[] = { 4, 1, 1, 1, 1 };

    /* Middles at 1/8, 3/8, 5/8 and 7/8 of all. */
    expect_places(&two, (uint64_t[]){ 5, 5 }, even, (size_t[]){ 0, 0, 1, 1, 1 });
    expect_places(&two, (uint64_t[]){ 1, 3 }, even, (size_t[]){ 0, 1, 1, 1, 1 });
    expect_places(&two, (uint64_t[]){ 7, 3 }, even, (size_t[]){ 0, 0, 0, 1, 1 });
    /* Middles at 4/16, 9/16, 11/16 and 13/16. */
    expect_places(&two, (uint64_t[]){ 5, 5 }, heavy_first, (size_t[]){ 0, 1, 1, 1, 1 });
}

Test(model_split, every_device_has_a_layer)
{
    const struct plim_split three = { .count = 3, .automatic = true };

    expect_places(&three, (uint64_t[]){ 98, 1, 1 }, (uint64_t[]){ 1, 1, 1, 1, 1 }, (size_t[]){ 0, 0, 1, 2, 2 });
}

Test(model_split, sizes_are_filled_in_turn)
{
    struct plim_split sizes = { .count = 3 };

    sizes.bytes[0] = 20;
    sizes.bytes[1] = 5;    /* too small for anything: passed over */
    sizes.bytes[2] = 100;
    expect_places(&sizes, NULL, (uint64_t[]){ 10, 10, 10, 10, 30 }, (size_t[]){ 0, 0, 2, 2, 2 });
}
