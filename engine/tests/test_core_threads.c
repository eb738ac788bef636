#include <criterion/criterion.h>

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "plimsoll/clock.h"
#include "plimsoll/cpu.h"
#include "threads.h"

struct cover {
    unsigned char *seen;
    size_t grain, range;
    _Atomic int pieces, bad;
    _Atomic unsigned busy, used;   /* bit per thread */
};

static void mark(void *context, size_t begin, size_t end, int thread)
{
    struct cover *cover = context;
    if (begin >= end || begin % cover->grain || (end % cover->grain && end != cover->range))
        atomic_fetch_add(&cover->bad, 1);
    if (atomic_fetch_or(&cover->busy, 1u << thread) & 1u << thread)
        atomic_fetch_add(&cover->bad, 1);
    for (size_t i = begin; i < end; i++)
        cover->seen[i]++;
    atomic_fetch_add(&cover->pieces, 1);
    atomic_fetch_or(&cover->used, 1u << thread);
    atomic_fetch_and(&cover->busy, ~(1u << thread));
}

Test(threads, every_index_is_run_once_in_pieces_cut_at_the_grain)
{
    struct plim_err err = PLIM_ERR_INIT;
    static const size_t grains[] = { 1, 3, 32, 1000 };
    for (int count = 1; count <= 5; count++) {
        struct threads *threads = NULL;
        cr_assert_eq(threads_open(&threads, count, &err), 0, "%s", err.message);
        cr_assert_eq(threads_count(threads), count);
        for (size_t range = 0; range < 300; range += 7) {
            for (size_t g = 0; g < 4; g++) {
                unsigned char seen[300] = { 0 };
                struct cover cover = { .seen = seen, .grain = grains[g], .range = range };
                threads_run(threads, range, grains[g], mark, &cover);
                cr_assert_eq(cover.bad, 0);
                cr_assert_leq(cover.pieces, count);
                for (size_t i = 0; i < 300; i++)
                    cr_assert_eq(seen[i], i < range);
            }
        }
        threads_close(threads);
    }
}

Test(threads, no_team_is_one_thread)
{
    unsigned char seen[10] = { 0 };
    struct cover cover = { .seen = seen, .grain = 1, .range = 10 };
    struct plim_err err = PLIM_ERR_INIT;
    struct threads *threads = NULL;
    cr_assert_eq(threads_count(NULL), 1);
    threads_run(NULL, 10, 1, mark, &cover);
    cr_assert_eq(cover.pieces, 1);
    cr_assert_eq(cover.used, 1u);
    threads_close(NULL);
    cr_assert_eq(threads_open(&threads, 0, &err), -1);
    cr_assert_eq(err.kind, PLIM_ERR_INPUT);
}

static void add_one(void *context, size_t begin, size_t end, int thread)
{
    (void)thread;
    for (size_t i = begin; i < end; i++)
        ((long *)context)[i]++;
}

/* Loops back to back keep the team spinning; a pause now and then sends it to sleep. Neither may lose a loop. */
Test(threads, thousands_of_loops_awake_and_asleep)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct threads *threads = NULL;
    long sums[8] = { 0 };
    cr_assert_eq(threads_open(&threads, 4, &err), 0);
    for (int loop = 0; loop < 3000; loop++) {
        threads_run(threads, 8, 1, add_one, sums);
        if (loop % 500 == 0)
            plim_sleep_ns(2000000);
    }
    for (int i = 0; i < 8; i++)
        cr_assert_eq(sums[i], 3000);
    threads_close(threads);
}

/* ---- clock and processor ---- */

static uint64_t fixed_clock(void *context)
{
    return *(uint64_t *)context;
}

Test(clock, can_be_replaced_and_does_not_run_backwards)
{
    uint64_t now = 42, before = plim_now_ns();
    plim_clock_replace(fixed_clock, &now);
    cr_assert_eq(plim_now_ns(), 42u);
    plim_sleep_ns((uint64_t)3600 * 1000000000);
    plim_clock_replace(NULL, NULL);
    plim_sleep_ns(1000000);
    uint64_t after = plim_now_ns();
    cr_assert_geq(after, before + 1000000);
    cr_assert_lt(after - before, (uint64_t)60 * 1000000000);
}

Test(cpu, the_environment_chooses_only_what_is_there)
{
    struct plim_err err = PLIM_ERR_INIT;
    enum plim_isa isa, best;
    unsetenv("PLIMSOLL_ISA");
    cr_assert_eq(plim_isa_select(&best, &err), 0);
    cr_assert(plim_isa_supported(best));
    for (enum plim_isa higher = best + 1; higher < PLIM_ISA_COUNT; higher++)
        cr_assert_not(plim_isa_supported(higher));
    for (enum plim_isa wanted = 0; wanted < PLIM_ISA_COUNT; wanted++) {
        setenv("PLIMSOLL_ISA", plim_isa_name(wanted), 1);
        plim_err_clear(&err);
        int rc = plim_isa_select(&isa, &err);
        cr_assert_eq(rc == 0, plim_isa_supported(wanted));
        cr_assert(rc < 0 ? err.kind == PLIM_ERR_INPUT : isa == wanted);
    }
    setenv("PLIMSOLL_ISA", "avx3", 1);
    plim_err_clear(&err);
    cr_assert_eq(plim_isa_select(&isa, &err), -1);
    cr_assert(strstr(err.message, "did you mean avx2?"), "%s", err.message);
}

/* The kernel lists the flags independently of our cpuid. */
Test(cpu, support_agrees_with_the_kernels_list)
{
    char line[8192] = "";
    FILE *file = fopen("/proc/cpuinfo", "re");
    while (file && fgets(line, sizeof line, file) && strncmp(line, "flags", 5) != 0)
        continue;
    if (file)
        fclose(file);
    if (strncmp(line, "flags", 5) != 0)
        cr_skip_test("no flags in /proc/cpuinfo");
    bool avx2 = strstr(line, " avx2") && strstr(line, " fma") && strstr(line, " f16c");
    bool avx512 = avx2 && strstr(line, " avx512f") && strstr(line, " avx512bw") && strstr(line, " avx512dq") &&
                  strstr(line, " avx512vl") && strstr(line, " avx512_vnni");
    cr_assert_eq(plim_isa_supported(PLIM_ISA_AVX2), avx2);
    cr_assert_eq(plim_isa_supported(PLIM_ISA_AVX512), avx512);
}

Test(cpu, brand_and_cores)
{
    char brand[64] = "", small[5];
    plim_cpu_brand(brand, sizeof brand);
    cr_assert_gt(strlen(brand), 3u);
    cr_assert_neq(brand[0], ' ');
    plim_cpu_brand(small, sizeof small);
    cr_assert_eq(strncmp(small, brand, 3), 0);
    cr_assert_lt(strlen(small), sizeof small);
    cr_assert_geq(plim_cpu_core_count(), 1);
}
