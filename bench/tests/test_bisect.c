/* The search alone, over rows of commits whose answers are known. */

#include <criterion/criterion.h>

#include "bisect.h"

struct row {
    size_t first_bad;
    unsigned long long skips;   /* a bit a commit */
};

static int judge(void *context, size_t index, enum bisect_answer *answer, struct plim_err *err)
{
    const struct row *row = context;
    (void)err;
    *answer = row->skips >> index & 1 ? BISECT_SKIP : index >= row->first_bad ? BISECT_BAD : BISECT_GOOD;
    return 0;
}

static int fail(void *context, size_t index, enum bisect_answer *answer, struct plim_err *err)
{
    (void)context;
    (void)index;
    (void)answer;
    return plim_err_set(err, PLIM_ERR_INTERRUPTED, "enough");
}

Test(bisect, finds_every_first_bad_commit_in_few_steps)
{
    struct plim_err err = PLIM_ERR_INIT;
    for (size_t count = 1; count <= 40; count++) {
        size_t most = 0;
        while ((size_t)1 << most < count)
            most++;
        for (size_t bad = 0; bad < count; bad++) {
            struct row row = { bad, 0 };
            struct bisect_outcome outcome;
            cr_assert_eq(bisect_search(count, judge, &row, &outcome, &err), 0);
            cr_assert(outcome.first == bad && outcome.last == bad, "%zu of %zu: %zu", bad, count, outcome.first);
            cr_assert_leq(outcome.asked, most);
        }
    }
}

Test(bisect, steps_around_what_cannot_be_judged_and_says_what_is_left)
{
    struct plim_err err = PLIM_ERR_INIT;
    for (unsigned long long skips = 0; skips < 512; skips++) {
        for (size_t bad = 0; bad < 10; bad++) {
            struct row row = { bad, skips };   /* the last one, 9, is known to be bad */
            struct bisect_outcome outcome;
            cr_assert_eq(bisect_search(10, judge, &row, &outcome, &err), 0);
            cr_assert(outcome.first <= bad && bad <= outcome.last, "skips %llx, bad %zu", skips, bad);
            for (size_t i = outcome.first; i < outcome.last; i++)
                cr_assert(skips >> i & 1, "commit %zu could have been judged", i);
        }
    }
}

Test(bisect, ends_when_judging_fails)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct bisect_outcome outcome;
    cr_assert_eq(bisect_search(10, fail, NULL, &outcome, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INTERRUPTED);
}
