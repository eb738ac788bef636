#include <criterion/criterion.h>

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "plimsoll/pool.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

static struct plim_pool *open_pool(const struct plim_pool_options *options)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;
    cr_assert_eq(plim_pool_open(&pool, options, &err), 0, "%s", err.message);
    return pool;
}

static void *get(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    void *block = plim_pool_alloc(pool, tier, tag, bytes, &err);
    cr_assert_not_null(block, "%s", err.message);
    return block;
}

static struct plim_pool_stats stats_of(struct plim_pool *pool)
{
    struct plim_pool_stats stats;
    plim_pool_stats(pool, &stats);
    return stats;
}

static const size_t sizes[] = { 0,     1,     63,     64,      65,      256,     257,     1000,           4096,     32767,
                                32768, 32769, 100000, 1048576, 1048577, 5000000, 9999999, 4 * 1048576 - 64 };
#define SIZE_COUNT (sizeof sizes / sizeof *sizes)

Test(pool, blocks_of_all_sizes_are_aligned_distinct_and_remember_their_size)
{
    struct plim_pool *pool = open_pool(NULL);
    char *blocks[PLIM_TIER_COUNT][SIZE_COUNT];
    uint64_t total = 0;
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t i = 0; i < SIZE_COUNT; i++) {
            blocks[tier][i] = get(pool, tier, PLIM_TAG_IO, sizes[i]);
            cr_assert_eq((uintptr_t)blocks[tier][i] % PLIM_POOL_ALIGN, 0u);
            cr_assert_eq(plim_pool_block_bytes(pool, blocks[tier][i]), sizes[i]);
            memset(blocks[tier][i], (int)(i + 1), sizes[i]);
            total += tier == 0 ? sizes[i] : 0;
        }
    }
    struct plim_pool_stats stats = stats_of(pool);
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        cr_assert_eq(stats.current[tier].total_bytes, total);
        cr_assert_eq(stats.current[tier].bytes[PLIM_TAG_IO], total);
        cr_assert_geq(stats.reserved_bytes[tier], total);
        for (size_t i = 0; i < SIZE_COUNT; i++) {
            for (size_t at = 0; at < sizes[i]; at += 61)
                cr_assert_eq(blocks[tier][i][at], (char)(i + 1));
            plim_pool_free(pool, blocks[tier][i]);
        }
    }
    stats = stats_of(pool);
    cr_assert_eq(stats.live_blocks, 0u);
    cr_assert_eq(stats.current[PLIM_FAST].total_bytes, 0u);
    cr_assert_eq(stats.cached_bytes[PLIM_FAST], stats.reserved_bytes[PLIM_FAST]);
    cr_assert_eq(stats.cached_bytes[PLIM_SLOW], stats.reserved_bytes[PLIM_SLOW]);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

/* Rounding, beyond the header: at most a quarter for small blocks, at most a page for fresh mapped ones. */
Test(pool, rounding_is_bounded)
{
    struct plim_pool *pool = open_pool(NULL);
    for (size_t bytes = 257; bytes <= 70000; bytes += 511) {
        uint64_t before = stats_of(pool).cached_bytes[PLIM_FAST];
        uint64_t reserved = stats_of(pool).reserved_bytes[PLIM_FAST];
        void *block = get(pool, PLIM_FAST, PLIM_TAG_IO, bytes);
        struct plim_pool_stats stats = stats_of(pool);
        uint64_t span = stats.reserved_bytes[PLIM_FAST] - reserved + before - stats.cached_bytes[PLIM_FAST];
        uint64_t allowed = bytes <= 32768 ? bytes + bytes / 4 + 128 : bytes + 4096 + 64;
        cr_assert_leq(span, allowed, "%zu bytes took %llu", bytes, (unsigned long long)span);
        cr_assert_geq(span, bytes + 64);
        plim_pool_free(pool, block);
        plim_pool_trim(pool);
    }
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, a_freed_block_is_reused_and_large_ones_only_where_they_fit)
{
    struct plim_pool *pool = open_pool(NULL);
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t i = 0; i < SIZE_COUNT; i++) {
            void *block = get(pool, tier, PLIM_TAG_IO, sizes[i]);
            plim_pool_free(pool, block);
            uint64_t system = stats_of(pool).system_allocation_count;
            void *again = get(pool, tier, PLIM_TAG_LOGITS, sizes[i]);
            cr_assert_eq(again, block, "%zu bytes", sizes[i]);
            cr_assert_eq(stats_of(pool).system_allocation_count, system);
            plim_pool_free(pool, again);
            plim_pool_trim(pool);
        }
    }
    void *large = get(pool, PLIM_FAST, PLIM_TAG_IO, 10 * PLIM_MI);
    void *larger = get(pool, PLIM_FAST, PLIM_TAG_IO, 11 * PLIM_MI);
    plim_pool_free(pool, large);
    plim_pool_free(pool, larger);
    void *fits = get(pool, PLIM_FAST, PLIM_TAG_IO, 9 * PLIM_MI);
    cr_assert_eq(fits, large, "the smaller of two that fit");
    void *wasteful = get(pool, PLIM_FAST, PLIM_TAG_IO, 8 * PLIM_MI);
    cr_assert_neq(wasteful, larger, "11 MiB for 8 is too much");
    void *quarter = get(pool, PLIM_FAST, PLIM_TAG_IO, 9 * PLIM_MI);
    cr_assert_eq(quarter, larger);
    plim_pool_free(pool, fits);
    plim_pool_free(pool, wasteful);
    plim_pool_free(pool, quarter);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, trim_gives_everything_that_is_free_back)
{
    struct plim_pool *pool = open_pool(NULL);
    void *kept = get(pool, PLIM_FAST, PLIM_TAG_IO, 100);
    void *blocks[2][200];
    for (size_t i = 0; i < 200; i++) {
        blocks[0][i] = get(pool, PLIM_FAST, PLIM_TAG_IO, i * 2000);
        blocks[1][i] = get(pool, PLIM_SLOW, PLIM_TAG_IO, i * 2000);
    }
    for (size_t i = 0; i < 200; i++) {
        plim_pool_free(pool, blocks[0][i]);
        plim_pool_free(pool, blocks[1][i * 77 % 200]);
    }
    struct plim_pool_stats before = stats_of(pool);
    uint64_t given = plim_pool_trim(pool);
    struct plim_pool_stats after = stats_of(pool);
    cr_assert_eq(given, before.reserved_bytes[0] + before.reserved_bytes[1] - after.reserved_bytes[0]);
    cr_assert_eq(after.reserved_bytes[PLIM_SLOW], 0u);
    cr_assert_eq(after.reserved_bytes[PLIM_FAST], 64u << 10, "only the chunk of the live block is left");
    cr_assert_eq(after.reserved_peak_bytes[PLIM_FAST], before.reserved_peak_bytes[PLIM_FAST]);
    *(char *)kept = 1;
    plim_pool_free(pool, kept);
    cr_assert_eq(plim_pool_trim(pool), 64u << 10);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, peaks_say_who_held_what_when_and_where)
{
    struct plim_pool *pool = open_pool(NULL);
    plim_pool_set_scope(pool, "load");
    void *weights = get(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 1000);
    plim_pool_set_scope(pool, "layers.0");
    void *io = get(pool, PLIM_FAST, PLIM_TAG_IO, 5000);
    plim_pool_free(pool, io);
    plim_pool_set_scope(pool, "layers.3.mlp");
    void *dequant = get(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 6000);
    plim_pool_free(pool, dequant);
    struct plim_pool_stats stats = stats_of(pool);
    cr_assert_eq(stats.peak[PLIM_FAST].total_bytes, 7000u);
    cr_assert_eq(stats.peak[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS], 1000u);
    cr_assert_eq(stats.peak[PLIM_FAST].bytes[PLIM_TAG_DEQUANT], 6000u);
    cr_assert_eq(stats.peak[PLIM_FAST].bytes[PLIM_TAG_IO], 0u);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_IO], 5000u);
    cr_assert_eq(stats.peak_tag[PLIM_FAST], PLIM_TAG_DEQUANT);
    cr_assert_str_eq(stats.peak_scope[PLIM_FAST], "layers.3.mlp");
    cr_assert_eq(stats.peak[PLIM_SLOW].total_bytes, 0u);
    cr_assert_eq(stats.allocation_count, 3u);

    plim_pool_set_scope(pool, "decode");
    plim_pool_reset_peak(pool);
    stats = stats_of(pool);
    cr_assert_eq(stats.peak[PLIM_FAST].total_bytes, 1000u);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_IO], 0u);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS], 1000u);
    cr_assert_str_eq(stats.peak_scope[PLIM_FAST], "decode");
    cr_assert_eq(stats.allocation_count, 3u);
    plim_pool_free(pool, weights);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, a_long_scope_is_cut)
{
    struct plim_pool *pool = open_pool(NULL);
    char scope[200];
    memset(scope, 's', sizeof scope);
    scope[199] = '\0';
    plim_pool_set_scope(pool, scope);
    plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, 1));
    cr_assert_eq(strlen(stats_of(pool).peak_scope[PLIM_FAST]), 63u);
    plim_pool_close(pool);
}

Test(pool, the_budget_refuses_with_a_report_and_nothing_changes)
{
    struct plim_pool_options options = { .fast_budget_bytes = 512 * PLIM_MI, .slow_budget_bytes = 10 };
    struct plim_pool *pool = open_pool(&options);
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_refusal refusal;
    plim_pool_last_refusal(pool, &refusal);
    cr_assert_not(refusal.valid);
    void *weights = get(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 300 * PLIM_MI);
    void *cache = get(pool, PLIM_FAST, PLIM_TAG_KV_CACHE, 180 * PLIM_MI);
    plim_pool_note_mapped(pool, (int64_t)1 << 40);   /* takes no part */
    plim_pool_set_scope(pool, "layers.3.mlp");
    struct plim_pool_stats before = stats_of(pool);
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 64 * PLIM_MI, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert_str_eq(err.message,
                     "out of memory: dequant needs 64 MiB on the fast tier; budget 512 MiB, held 480 MiB"
                     " (weights 300 MiB, kv_cache 180 MiB) in layers.3.mlp");
    struct plim_pool_stats after = stats_of(pool);
    cr_assert_eq(memcmp(&before, &after, sizeof before), 0);
    plim_pool_last_refusal(pool, &refusal);
    cr_assert(refusal.valid && !refusal.injected);
    cr_assert_eq(refusal.tier, PLIM_FAST);
    cr_assert_eq(refusal.tag, PLIM_TAG_DEQUANT);
    cr_assert_eq(refusal.requested_bytes, 64 * PLIM_MI);
    cr_assert_eq(refusal.budget_bytes, 512 * PLIM_MI);
    cr_assert_eq(refusal.held.total_bytes, 480 * PLIM_MI);
    cr_assert_str_eq(refusal.scope, "layers.3.mlp");

    /* Exactly to the line is allowed, one byte more is not; a free makes room. */
    void *rest = get(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 32 * PLIM_MI);
    plim_err_clear(&err);
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_IO, 1, &err));
    plim_pool_free(pool, rest);
    plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, 32 * PLIM_MI));
    plim_err_clear(&err);
    cr_assert_null(plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_HESSIAN, 11, &err));
    cr_assert(strstr(err.message, "hessian needs 11 B on the slow tier; budget 10 B, held 0 B in"), "%s", err.message);
    plim_pool_free(pool, weights);
    plim_pool_free(pool, cache);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

/* Blocks of ever new sizes must not pile up in the cache: reserved memory stays near the budget too. */
Test(pool, with_a_budget_the_cache_makes_room)
{
    struct plim_pool_options options = { .fast_budget_bytes = 64 * PLIM_MI };
    struct plim_pool *pool = open_pool(&options);
    for (size_t mib = 40; mib > 0; mib /= 2)
        plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, mib * PLIM_MI));
    for (size_t i = 0; i < 50; i++)
        plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, (60 - i) * PLIM_MI));
    cr_assert_leq(stats_of(pool).reserved_peak_bytes[PLIM_FAST], 64 * PLIM_MI);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, the_nth_allocation_fails_and_only_that)
{
    struct plim_pool_options options = { .fail_allocation = 3 };
    struct plim_pool *pool = open_pool(&options);
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_refusal refusal;
    void *a = get(pool, PLIM_FAST, PLIM_TAG_IO, 10);
    plim_pool_free(pool, a);   /* frees, stats and scopes don't count */
    plim_pool_set_scope(pool, "x");
    plim_pool_trim(pool);
    a = get(pool, PLIM_SLOW, PLIM_TAG_IO, 10);
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_LOGITS, 77, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    plim_pool_last_refusal(pool, &refusal);
    cr_assert(refusal.valid && refusal.injected);
    cr_assert_eq(refusal.budget_bytes, 0u);
    cr_assert_eq(refusal.requested_bytes, 77u);
    void *b = get(pool, PLIM_FAST, PLIM_TAG_IO, 10);
    plim_pool_fail_allocation(pool, 1);
    plim_err_clear(&err);
    cr_assert_null(plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_IO, 2, 2, &err));
    plim_pool_fail_allocation(pool, 1);
    plim_err_clear(&err);
    cr_assert_null(plim_pool_strdup(pool, PLIM_TAG_IO, "text", &err));
    plim_pool_fail_allocation(pool, 1);
    plim_err_clear(&err);
    cr_assert_null(plim_pool_realloc(pool, PLIM_TAG_IO, b, 100, &err));
    cr_assert_eq(plim_pool_block_bytes(pool, b), 10u, "the old block stays");
    plim_pool_fail_allocation(pool, 1);
    plim_pool_fail_allocation(pool, 0);
    plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, 1));
    plim_pool_free(pool, a);
    plim_pool_free(pool, b);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, leaks_are_counted_and_given_back)
{
    struct plim_pool *pool = open_pool(NULL);
    get(pool, PLIM_FAST, PLIM_TAG_IO, 10);
    get(pool, PLIM_FAST, PLIM_TAG_IO, 10 * PLIM_MI);
    get(pool, PLIM_SLOW, PLIM_TAG_IO, 10);
    plim_pool_free(pool, NULL);
    cr_assert_eq(plim_pool_close(pool), 3u);
    cr_assert_eq(plim_pool_close(NULL), 0u);
}

Test(pool, calloc_is_zero_even_in_a_used_block_and_checks_overflow)
{
    struct plim_pool *pool = open_pool(NULL);
    struct plim_err err = PLIM_ERR_INIT;
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (size_t i = 0; i < SIZE_COUNT; i++) {
            void *dirty = get(pool, tier, PLIM_TAG_IO, sizes[i]);
            memset(dirty, 0xff, sizes[i]);
            plim_pool_free(pool, dirty);
            if (i % 2)
                plim_pool_trim(pool);
            char *zeros = plim_pool_calloc(pool, tier, PLIM_TAG_IO, 1, sizes[i], &err);
            for (size_t at = 0; at < sizes[i]; at++)
                cr_assert_eq(zeros[at], 0);
            plim_pool_free(pool, zeros);
        }
    }
    cr_assert_null(plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_IO, SIZE_MAX / 2, 3, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, absurd_sizes_are_refused)
{
    struct plim_pool *pool = open_pool(NULL);
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        for (int shift = 0; shift < 20; shift++) {
            struct plim_err err = PLIM_ERR_INIT;
            cr_assert_null(plim_pool_alloc(pool, tier, PLIM_TAG_IO, SIZE_MAX >> (shift < 10 ? shift : 0), &err));
            cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
        }
    }
    struct plim_pool_refusal refusal;
    plim_pool_last_refusal(pool, &refusal);
    cr_assert_eq(refusal.budget_bytes, 0u);
    cr_assert_not(refusal.injected);
    cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], 0u);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, realloc_keeps_contents_and_counts_the_difference)
{
    struct plim_pool *pool = open_pool(NULL);
    struct plim_err err = PLIM_ERR_INIT;
    static const size_t steps[] = { 10, 60, 3000, 32768, 32769, 1000000, 1000001, 40000000, 500000, 100, 0, 64 };
    unsigned char *block = NULL;
    size_t held = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        block = plim_pool_realloc(pool, PLIM_TAG_METADATA, block, steps[i], &err);
        cr_assert_not_null(block, "%s", err.message);
        for (size_t at = 0; at < plim_min(held, steps[i]); at++)
            cr_assert_eq(block[at], (unsigned char)(at * 31), "byte %zu after the step to %zu", at, steps[i]);
        for (size_t at = 0; at < steps[i]; at++)
            block[at] = (unsigned char)(at * 31);
        held = steps[i];
        struct plim_pool_stats stats = stats_of(pool);
        cr_assert_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_METADATA], held);
        cr_assert_eq(stats.live_blocks, 1u);
        cr_assert_eq(stats.allocation_count, i + 1);
    }
    cr_assert_eq(stats_of(pool).peak[PLIM_FAST].total_bytes, 40000000u);
    plim_pool_free(pool, block);
    struct plim_pool_stats stats = stats_of(pool);
    cr_assert_eq(stats.cached_bytes[PLIM_FAST], stats.reserved_bytes[PLIM_FAST]);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, realloc_past_the_budget_leaves_the_block)
{
    struct plim_pool_options options = { .fast_budget_bytes = 1000 };
    struct plim_pool *pool = open_pool(&options);
    struct plim_err err = PLIM_ERR_INIT;
    char *block = get(pool, PLIM_FAST, PLIM_TAG_IO, 900);
    cr_assert_not_null(plim_pool_realloc(pool, PLIM_TAG_IO, block, 1000, &err), "only the difference is asked for");
    cr_assert_null(plim_pool_realloc(pool, PLIM_TAG_IO, block, 1001, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert_eq(plim_pool_block_bytes(pool, block), 1000u);
    plim_pool_free(pool, block);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, mapped_weights_are_counted_apart)
{
    struct plim_pool *pool = open_pool(NULL);
    plim_pool_note_mapped(pool, 5000);
    plim_pool_note_mapped(pool, 3000);
    plim_pool_note_mapped(pool, -6000);
    struct plim_pool_stats stats = stats_of(pool);
    cr_assert_eq(stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED], 2000u);
    cr_assert_eq(stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS_MAPPED], 8000u);
    cr_assert_eq(stats.current[PLIM_FAST].total_bytes, 0u);
    cr_assert_eq(stats.peak[PLIM_FAST].total_bytes, 0u);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, a_spill_directory_that_is_not_there_is_a_refusal)
{
    struct plim_pool_options options = { .spill_directory = "/no/such/directory" };
    struct plim_pool *pool = open_pool(&options);
    struct plim_err err = PLIM_ERR_INIT;
    plim_pool_free(pool, get(pool, PLIM_FAST, PLIM_TAG_IO, 10));
    cr_assert_null(plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_IO, 10, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert(strstr(err.message, "No such file or directory"), "%s", err.message);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

/* A full disk must be an error at the allocation, never SIGBUS at the first write. */
Test(pool, a_full_disk_refuses_the_slow_tier)
{
    struct plim_pool *pool = open_pool(NULL);
    struct plim_err err = PLIM_ERR_INIT;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ PLIM_MI, PLIM_MI });
    cr_assert_null(plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_HESSIAN, 2 * PLIM_MI, &err));
    cr_assert(strstr(err.message, "File too large"), "%s", err.message);
    char *fits = get(pool, PLIM_SLOW, PLIM_TAG_HESSIAN, PLIM_MI / 2);
    memset(fits, 1, PLIM_MI / 2);
    plim_pool_free(pool, fits);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

/* Random allocations, checked against a plain model of what is held; both tiers, with trims in between. */
Test(pool, a_long_random_life)
{
    enum { SLOTS = 64, STEPS = 6000 };
    struct plim_pool *pool = open_pool(NULL);
    struct plim_random random;
    struct {
        unsigned char *block;
        size_t bytes;
        enum plim_tag tag;
        enum plim_tier tier;
    } slots[SLOTS] = { 0 };
    uint64_t held[PLIM_TIER_COUNT][PLIM_TAG_COUNT] = { 0 }, peak[PLIM_TIER_COUNT] = { 0 }, live = 0;
    plim_random_seed(&random, 2, 0);
    for (int step = 0; step < STEPS; step++) {
        size_t s = plim_random_below(&random, SLOTS);
        if (slots[s].block) {
            cr_assert(slots[s].bytes == 0 || (slots[s].block[0] == (unsigned char)s &&
                                              slots[s].block[slots[s].bytes - 1] == (unsigned char)s));
            held[slots[s].tier][slots[s].tag] -= slots[s].bytes;
            plim_pool_free(pool, slots[s].block);
            slots[s].block = NULL;
            live--;
        } else {
            slots[s].bytes = plim_random_below(&random, (uint64_t)1 << plim_random_below(&random, 21));
            slots[s].tag = (enum plim_tag)plim_random_below(&random, PLIM_TAG_WEIGHTS_MAPPED);
            slots[s].tier = plim_random_below(&random, 8) == 0 ? PLIM_SLOW : PLIM_FAST;
            slots[s].block = get(pool, slots[s].tier, slots[s].tag, slots[s].bytes);
            if (slots[s].bytes > 0)
                slots[s].block[0] = slots[s].block[slots[s].bytes - 1] = (unsigned char)s;
            held[slots[s].tier][slots[s].tag] += slots[s].bytes;
            live++;
        }
        if (step % 500 == 499)
            plim_pool_trim(pool);
        struct plim_pool_stats stats = stats_of(pool);
        for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
            uint64_t total = 0;
            for (int tag = 0; tag < PLIM_TAG_COUNT; tag++)
                total += held[tier][tag];
            peak[tier] = total > peak[tier] ? total : peak[tier];
            cr_assert_eq(stats.current[tier].total_bytes, total);
            cr_assert_eq(stats.peak[tier].total_bytes, peak[tier]);
            cr_assert_eq(memcmp(stats.current[tier].bytes, held[tier], sizeof held[tier]), 0);
            cr_assert_geq(stats.reserved_bytes[tier], total + stats.cached_bytes[tier]);
        }
        cr_assert_eq(stats.live_blocks, live);
    }
    for (size_t s = 0; s < SLOTS; s++)
        plim_pool_free(pool, slots[s].block);
    cr_assert_eq(plim_pool_close(pool), 0u);
}

Test(pool, names_are_stable)
{
    cr_assert_str_eq(plim_tag_name(PLIM_TAG_WEIGHTS), "weights");
    cr_assert_str_eq(plim_tag_name(PLIM_TAG_WEIGHTS_MAPPED), "weights_mapped");
    cr_assert_str_eq(plim_tier_name(PLIM_FAST), "fast");
    cr_assert_str_eq(plim_tier_name(PLIM_SLOW), "slow");
}
