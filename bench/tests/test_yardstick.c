/* Yardsticks and the machine's class: plausible figures, passes that every thread takes part in, names that are stable. */

#include <criterion/criterion.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fingerprint.h"
#include "yardstick.h"
#include "yardstick_threads.h"

struct counters {
    atomic_int passes[4];
};

static void count_pass(void *context, int thread)
{
    struct counters *c = context;

    atomic_fetch_add(&c->passes[thread], 1);
}

Test(yardstick, every_thread_takes_part_in_every_pass)
{
    struct counters c = { 0 };
    struct plim_err err = PLIM_ERR_INIT;
    double median_ns;

    cr_assert_eq(timed_passes(4, 1000000, count_pass, &c, &median_ns, &err), 0, "%s", err.message);
    cr_expect_geq(c.passes[0], 2, "one to warm up, one that is timed");
    for (int i = 1; i < 4; i++)
        cr_expect_eq(c.passes[i], c.passes[0]);
    cr_expect_gt(median_ns, 0);
}

Test(yardstick, too_many_threads_are_refused)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct counters c = { 0 };
    double median_ns;

    cr_expect_eq(timed_passes(100000, 1000000, count_pass, &c, &median_ns, &err), -1);
    cr_expect_eq(err.kind, PLIM_ERR_INPUT);
}

/* From a slow emulator to a machine that does not exist yet. */
Test(yardstick, figures_are_plausible)
{
    static const struct gemm_shape shapes[] = { { 64, 128, 2 }, { 128, 64, 1 } };
    struct plim_err err = PLIM_ERR_INIT;
    struct gemm_yardstick gemm;
    struct read_yardstick read;
    double value;

    cr_assert_eq(fma_yardstick_measure(2, 2000000, &value, &err), 0, "%s", err.message);
    cr_expect(value > 1e7 && value < 1e15, "%g flop/s", value);
    cr_assert_eq(gemm_yardstick_open(&gemm, 64, shapes, 2, 1, &err), 0, "%s", err.message);
    value = gemm_yardstick_measure(&gemm);
    cr_expect(value > 1e6 && value < 1e15, "%g flop/s", value);
    gemm_yardstick_close(&gemm);
    cr_assert_eq(read_yardstick_open(&read, 2, &err), 0, "%s", err.message);
    cr_assert_eq(read_yardstick_measure(&read, 1, &value, &err), 0, "%s", err.message);
    cr_expect(value > 1e6 && value < 1e14, "%g bytes/s", value);
    read_yardstick_close(&read);
}

/* ---- classes ---- */

static char *class_of(const char *brand, const char *isa, double cores, double ram)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct facts facts = { 0 };
    char *class;

    cr_assert_eq(facts_set_text(&facts, "cpu_model", brand, &err), 0);
    cr_assert_eq(facts_set_text(&facts, "isa", isa, &err), 0);
    cr_assert_eq(facts_set_number(&facts, "cores", cores, &err), 0);
    cr_assert_eq(facts_set_number(&facts, "ram_gib", ram, &err), 0);
    class = fingerprint_class(&facts, &err);
    facts_release(&facts);
    cr_assert_not_null(class);
    cr_expect(result_name_is_plain(class), "%s", class);
    return class;
}

static void expect_prefix(const char *brand, const char *prefix)
{
    char *class = class_of(brand, "avx2", 2, 24);

    cr_expect_eq(strncmp(class, prefix, strlen(prefix)), 0, "%s: %s", brand, class);
    cr_expect_eq(strlen(class), strlen(prefix) + 6, "%s", class);
    free(class);
}

Test(fingerprint, classes_have_names_that_a_person_recognises)
{
    expect_prefix("AMD EPYC", "amd-epyc-2c-avx2-");
    expect_prefix("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-2c-avx2-");
    expect_prefix("Intel(R) Xeon(R) Platinum 8480+", "intel-xeon-platinum-8480-2c-avx2-");
    expect_prefix("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "intel-i7-8650u-2c-avx2-");
    expect_prefix("", "unknown-2c-avx2-");
}

Test(fingerprint, every_fact_counts)
{
    char *one = class_of("AMD EPYC", "avx2", 2, 24), *same = class_of("AMD EPYC", "avx2", 2, 24);
    char *other = class_of("AMD EPYC", "avx2", 2, 26);

    cr_expect_str_eq(one, same);
    cr_expect_str_neq(one, other);
    free(one);
    free(same);
    free(other);
}
