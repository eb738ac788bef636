/* Bit allocation: against brute force on small cases, and on the measurement that ExLlamaV2 wrote. */

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "allocation.h"
#include "plimsoll/json.h"
#include "plimsoll/random.h"

static struct plim_pool *open_pool(void)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    cr_assert_eq(plim_pool_open(&pool, NULL, &err), 0);
    return pool;
}

/* Options as they are: more bits, less error, with a few that are bad bargains. */
static void random_slots(struct plim_random *random, struct allocation_slot *slots, size_t count, int options)
{
    for (size_t i = 0; i < count; i++) {
        double scale = exp(plim_random_normal(random)) * 0.1;
        slots[i] = (struct allocation_slot){ .option_count = options, .weight = exp(plim_random_normal(random)) };
        for (int o = 0; o < options; o++) {
            double bits = 2.1 + 6 * plim_random_double(random);
            slots[i].option[o].bits = (uint64_t)(bits * 100000);
            slots[i].option[o].error = scale * exp2(-bits) * (1 + 0.5 * plim_random_double(random));
        }
    }
}

static double brute_force(const struct allocation_slot *slots, size_t count, uint64_t budget)
{
    size_t combinations = 1;
    double best = INFINITY;
    for (size_t i = 0; i < count; i++)
        combinations *= (size_t)slots[i].option_count;
    for (size_t c = 0; c < combinations; c++) {
        uint64_t bits = 0;
        double error = 0;
        size_t rest = c;
        for (size_t i = 0; i < count; i++) {
            const struct allocation_option *option = &slots[i].option[rest % (size_t)slots[i].option_count];
            rest /= (size_t)slots[i].option_count;
            bits += option->bits;
            error += slots[i].weight * option->error * option->error;
        }
        if (bits <= budget && error < best)
            best = error;
    }
    return best;
}

Test(allocation, equals_brute_force_on_small_cases)
{
    struct plim_pool *pool = open_pool();
    struct plim_random random;
    plim_random_seed(&random, 7, 0);
    for (int trial = 0; trial < 150; trial++) {
        struct allocation_slot slots[6];
        int choice[6];
        struct allocation allocation;
        struct plim_err err = PLIM_ERR_INIT;
        random_slots(&random, slots, 6, 6);
        uint64_t budget = (uint64_t)((2.6 + 5 * plim_random_double(&random)) * 600000);
        double best = brute_force(slots, 6, budget);
        int rc = allocate(slots, 6, budget, 0, pool, choice, &allocation, &err);
        if (isinf(best)) {
            cr_assert_eq(rc, -1);
            cr_assert_eq(err.kind, PLIM_ERR_INPUT);
            continue;
        }
        cr_assert_eq(rc, 0, "%s", err.message);
        cr_assert_leq(allocation.bits, budget);
        cr_assert_float_eq(allocation.loss, best, best * 1e-12, "trial %d", trial);
        cr_assert_float_eq(allocation.lower_bound, best, best * 1e-12, "trial %d", trial);
    }
    cr_assert_eq(plim_pool_close(pool), 0);
}

Test(allocation, a_large_model_is_solved_to_a_tight_bound)
{
    enum { SLOTS = 160 };
    static struct allocation_slot slots[SLOTS];
    static int choice[SLOTS];
    struct plim_pool *pool = open_pool();
    struct plim_random random;
    struct allocation allocation;
    struct plim_err err = PLIM_ERR_INIT;
    plim_random_seed(&random, 8, 0);
    random_slots(&random, slots, SLOTS, 19);
    uint64_t budget = (uint64_t)(4.0 * 100000 * SLOTS), bits = 0;
    cr_assert_eq(allocate(slots, SLOTS, budget, 0, pool, choice, &allocation, &err), 0, "%s", err.message);
    for (size_t i = 0; i < SLOTS; i++)
        bits += slots[i].option[choice[i]].bits;
    cr_assert_eq(bits, allocation.bits);
    cr_assert_leq(bits, budget);
    cr_assert_gt((double)bits, 0.999 * (double)budget);
    cr_assert_leq(allocation.lower_bound, allocation.loss);
    cr_assert_gt(allocation.lower_bound, 0.999 * allocation.loss);
    cr_assert_eq(plim_pool_close(pool), 0);
}

Test(allocation, says_which_rates_can_be_reached)
{
    struct plim_pool *pool = open_pool();
    struct allocation_slot slot = { 2, 1, { { 250, 0.5 }, { 800, 0.1 } } };
    struct allocation allocation;
    struct plim_err err = PLIM_ERR_INIT;
    int choice;
    cr_assert_eq(allocate(&slot, 1, 200, 100, pool, &choice, &allocation, &err), -1);
    cr_assert_not_null(strstr(err.message, "2.5000 to 8.0000"), "%s", err.message);
    plim_err_clear(&err);
    cr_assert_eq(allocate(&slot, 1, 1000, 100, pool, &choice, &allocation, &err), 0);
    cr_assert_eq(choice, 1);
    cr_assert_eq(plim_pool_close(pool), 0);
}

Test(allocation, every_failed_allocation_is_clean)
{
    struct plim_random random;
    struct allocation_slot slots[6];
    struct allocation allocation;
    int choice[6], rc;
    plim_random_seed(&random, 9, 0);
    random_slots(&random, slots, 6, 6);
    struct plim_pool *pool = open_pool();
    uint64_t nth = 0;
    do {
        struct plim_err err = PLIM_ERR_INIT;
        plim_pool_fail_allocation(pool, ++nth);
        rc = allocate(slots, 6, 6 * 500000, 0, pool, choice, &allocation, &err);
        cr_assert(rc == 0 || err.kind == PLIM_ERR_MEMORY);
    } while (rc < 0);
    cr_assert_gt(nth, 4);
    cr_assert_eq(plim_pool_close(pool), 0);
}
