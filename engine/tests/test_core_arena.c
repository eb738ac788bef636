/*
 * The pool with a fast tier that isn't RAM, over a device that is made up: addresses are reserved pages without access, and
 * commits give access, so that touching anything that the pool has not backed is a crash.
 */

#include <criterion/criterion.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "plimsoll/pool.h"
#include "plimsoll/random.h"
#include "plimsoll/units.h"

#define GRANULE      ((size_t)64 << 10)
#define RESERVATION  ((uint64_t)1 << 30)
#define DEVICE_BYTES ((uint64_t)64 << 20)

struct device {
    uint64_t committed_bytes, commits, reservations;
    bool refuses_zero;
    uint64_t singles;
};

static int device_reserve(void *context, uint64_t *base, uint64_t *bytes, struct plim_err *err)
{
    struct device *device = context;
    void *memory = mmap(NULL, RESERVATION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    (void)err;
    cr_assert_neq(memory, MAP_FAILED);
    *base = (uint64_t)(uintptr_t)memory;
    *bytes = RESERVATION;
    device->reservations++;
    return 0;
}

static void device_unreserve(void *context, uint64_t base, uint64_t bytes)
{
    struct device *device = context;
    munmap((void *)(uintptr_t)base, bytes);
    device->reservations--;
}

static int device_commit(void *context, uint64_t address, uint64_t bytes, struct plim_err *err)
{
    struct device *device = context;

    cr_assert_eq(bytes % GRANULE, 0);
    cr_assert_gt(bytes, 0);
    if (device->committed_bytes + bytes > DEVICE_BYTES)
        return plim_err_set(err, PLIM_ERR_MEMORY, "the made-up device is full");
    cr_assert_eq(mprotect((void *)(uintptr_t)address, bytes, PROT_READ | PROT_WRITE), 0);
    device->committed_bytes += bytes;
    device->commits++;
    return 0;
}

static void device_decommit(void *context, uint64_t address, uint64_t bytes)
{
    struct device *device = context;
    void *at = (void *)(uintptr_t)address;

    cr_assert_eq(mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0), at);
    device->committed_bytes -= bytes;
    device->commits--;
}

static int device_zero(void *context, uint64_t address, uint64_t bytes, struct plim_err *err)
{
    struct device *device = context;

    if (device->refuses_zero)
        return plim_err_set(err, PLIM_ERR_SYSTEM, "no zeroes today");
    memset((void *)(uintptr_t)address, 0, bytes);
    return 0;
}

static struct plim_pool *open_pool(struct device *device, uint64_t budget)
{
    struct plim_pool_memory memory = {
        .context = device, .granule_bytes = GRANULE, .reserve = device_reserve, .unreserve = device_unreserve,
        .commit = device_commit, .decommit = device_decommit, .zero = device_zero,
    };
    struct plim_pool_options options = { .fast_memory = &memory, .fast_budget_bytes = budget };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool = NULL;

    *device = (struct device){ 0 };
    cr_assert_eq(plim_pool_open(&pool, &options, &err), 0);
    cr_assert_eq(plim_pool_host_tier(pool), PLIM_SLOW);
    return pool;
}

static void close_pool(struct plim_pool *pool, struct device *device)
{
    cr_assert_eq(plim_pool_close(pool), 0);
    cr_assert_eq(device->committed_bytes, 0);
    cr_assert_eq(device->commits, 0);
    cr_assert_eq(device->reservations, 0);
}

static struct plim_pool_stats stats_of(struct plim_pool *pool)
{
    struct plim_pool_stats stats;
    plim_pool_stats(pool, &stats);
    return stats;
}

static char *get(struct plim_pool *pool, size_t bytes)
{
    struct plim_err err = PLIM_ERR_INIT;
    char *memory = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, bytes, &err);
    cr_assert_not_null(memory, "%s", err.message);
    cr_assert_eq((uintptr_t)memory % 512, 0);
    return memory;
}

Test(arena, a_device_is_asked_only_when_needed)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    struct plim_err err = PLIM_ERR_INIT;

    void *host = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 100, &err);
    void *large = plim_pool_alloc(pool, PLIM_SLOW, PLIM_TAG_METADATA, 1 << 20, &err);
    memset(host, 1, 100);
    memset(large, 1, 1 << 20);
    cr_assert_eq(device.reservations, 0);
    cr_assert_eq(stats_of(pool).current[PLIM_SLOW].total_bytes, 100 + (1 << 20));
    cr_assert_eq(stats_of(pool).current[PLIM_FAST].total_bytes, 0);
    plim_pool_free(pool, host);
    plim_pool_free(pool, large);
    close_pool(pool, &device);
}

/* Matrices of any size lie end to end: only the last one's rounding is wasted. */
Test(arena, blocks_waste_less_than_a_granule_in_all)
{
    enum { COUNT = 40 };
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    char *blocks[COUNT];
    uint64_t total = 0;

    for (size_t i = 0; i < COUNT; i++) {
        size_t bytes = 512 * (1 + i * 37 % 300);
        blocks[i] = get(pool, bytes);
        memset(blocks[i], (int)i, bytes);
        total += bytes;
    }
    struct plim_pool_stats s = stats_of(pool);
    cr_assert_eq(s.current[PLIM_FAST].total_bytes, total);
    cr_assert_eq(s.reserved_bytes[PLIM_FAST], plim_round_up(total, GRANULE));
    cr_assert_eq(s.reserved_bytes[PLIM_FAST], device.committed_bytes);
    for (size_t i = 0; i < COUNT; i++) {
        cr_assert_eq(plim_pool_block_bytes(pool, blocks[i]), 512 * (1 + i * 37 % 300));
        cr_assert_eq(blocks[i][0], (char)i);
        plim_pool_free(pool, blocks[i]);
    }
    cr_assert_eq(stats_of(pool).cached_bytes[PLIM_FAST], device.committed_bytes);
    close_pool(pool, &device);
}

/* Two devices, one tier: blocks come from the place that is set, go back to where they came from, and count together. */
Test(arena, several_devices_are_one_tier)
{
    struct device device[2] = { { 0 } };
    struct plim_pool_memory memory[2];
    struct plim_pool_options options = { .fast_memory = memory, .fast_memory_count = 2, .fast_budget_bytes = 3 * GRANULE };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;

    for (int i = 0; i < 2; i++)
        memory[i] = (struct plim_pool_memory){
            .context = &device[i], .granule_bytes = GRANULE, .reserve = device_reserve, .unreserve = device_unreserve,
            .commit = device_commit, .decommit = device_decommit, .zero = device_zero,
        };
    cr_assert_eq(plim_pool_open(&pool, &options, &err), 0);
    char *first = get(pool, GRANULE);
    plim_pool_set_place(pool, 1);
    char *second = get(pool, GRANULE);
    cr_assert_eq(device[0].committed_bytes, GRANULE);
    cr_assert_eq(device[1].committed_bytes, GRANULE);
    cr_assert_eq(stats_of(pool).current[PLIM_FAST].total_bytes, 2 * GRANULE);
    cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], 2 * GRANULE);
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, GRANULE + 512, &err), "the budget is of both");
    plim_pool_free(pool, first);
    cr_assert_eq(plim_pool_block_bytes(pool, second), GRANULE);
    first = get(pool, GRANULE);
    cr_assert_eq(device[1].committed_bytes, 2 * GRANULE, "what is cached on the other device is of no use here");
    plim_pool_free(pool, first);
    plim_pool_free(pool, second);
    cr_assert_eq(plim_pool_trim(pool), 3 * GRANULE);
    cr_assert_eq(device[0].committed_bytes + device[1].committed_bytes, 0);
    cr_assert_eq(plim_pool_close(pool), 0);
    cr_assert_eq(device[0].reservations + device[1].reservations, 0);
}

/* Free neighbours are one range, whatever they were cut or committed as. */
Test(arena, what_was_freed_in_pieces_serves_one_large_block)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    char *blocks[16];

    for (size_t i = 0; i < 16; i++)
        blocks[i] = get(pool, GRANULE);
    uint64_t before = device.committed_bytes;
    for (size_t i = 0; i < 16; i++)
        plim_pool_free(pool, blocks[i * 7 % 16]);
    char *large = get(pool, 16 * GRANULE);
    cr_assert_eq(large, blocks[0]);
    memset(large, 1, 16 * GRANULE);
    cr_assert_eq(device.committed_bytes, before);
    plim_pool_free(pool, large);
    close_pool(pool, &device);
}

Test(arena, trimming_gives_back_what_is_free_and_nothing_else)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    char *a = get(pool, GRANULE), *b = get(pool, 3 * GRANULE), *c = get(pool, GRANULE / 2);

    memset(a, 1, GRANULE);
    memset(c, 3, GRANULE / 2);
    plim_pool_free(pool, b);
    cr_assert_eq(plim_pool_trim(pool), 3 * GRANULE);
    cr_assert_eq(plim_pool_trim(pool), 0);
    cr_assert_eq(a[GRANULE - 1], 1);
    cr_assert_eq(c[GRANULE / 2 - 1], 3);
    /* The hole is the lowest place that can be backed again. */
    char *again = get(pool, 2 * GRANULE);
    cr_assert_eq(again, b);
    memset(again, 2, 2 * GRANULE);
    plim_pool_free(pool, a);
    plim_pool_free(pool, again);
    plim_pool_free(pool, c);
    cr_assert_eq(plim_pool_trim(pool), 4 * GRANULE);
    close_pool(pool, &device);
}

/* The cache makes room before the device's refusal is passed on, which says what the device said. */
Test(arena, a_full_device_is_an_outcome)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_refusal refusal;
    char *held = get(pool, 10 << 20), *cached = get(pool, 30 << 20);

    plim_pool_free(pool, cached);
    char *large = get(pool, 50 << 20);   /* fits only when the cached 30 MiB are used or given back */
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_DEQUANT, 10 << 20, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert(strstr(err.message, "dequant") && strstr(err.message, "the made-up device is full"), "%s", err.message);
    plim_pool_last_refusal(pool, &refusal);
    cr_assert(refusal.valid && refusal.tier == PLIM_FAST && refusal.held.total_bytes == 60 << 20);
    cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], device.committed_bytes);
    plim_pool_free(pool, held);
    plim_pool_free(pool, large);
    close_pool(pool, &device);
}

Test(arena, a_budget_counts_requested_bytes)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 100000);
    struct plim_err err = PLIM_ERR_INIT;
    char *all = get(pool, 100000);

    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_IO, 1, &err));
    plim_pool_free(pool, all);
    all = get(pool, 60000);
    plim_pool_free(pool, all);
    close_pool(pool, &device);
}

Test(arena, zeroing_is_the_devices_work_and_may_fail)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    struct plim_err err = PLIM_ERR_INIT;
    char *memory = get(pool, 1000);

    memset(memory, 1, 1000);
    plim_pool_free(pool, memory);
    memory = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_KV_CACHE, 1000, 1, &err);
    for (size_t i = 0; i < 1000; i++)
        cr_assert_eq(memory[i], 0);
    plim_pool_free(pool, memory);
    device.refuses_zero = true;
    cr_assert_null(plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_KV_CACHE, 1000, 1, &err));
    cr_assert(strstr(err.message, "no zeroes today"));
    close_pool(pool, &device);
}

/* Host structures grow and move; they never come to the device. */
Test(arena, strings_and_growing_blocks_are_in_host_memory)
{
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    struct plim_err err = PLIM_ERR_INIT;
    char *text = plim_pool_strdup(pool, PLIM_TAG_TOKENIZER, "text", &err), *grown = NULL;

    for (size_t bytes = 10; bytes < 1 << 20; bytes *= 3) {
        grown = plim_pool_realloc(pool, PLIM_TAG_METADATA, grown, bytes, &err);
        memset(grown, 1, bytes);
    }
    plim_pool_note_mapped(pool, 5000);
    cr_assert_str_eq(text, "text");
    cr_assert_eq(stats_of(pool).current[PLIM_FAST].total_bytes, 0);
    cr_assert_eq(stats_of(pool).current[PLIM_SLOW].bytes[PLIM_TAG_WEIGHTS_MAPPED], 5000);
    cr_assert_eq(device.reservations, 0);
    plim_pool_note_mapped(pool, -5000);
    plim_pool_free(pool, text);
    plim_pool_free(pool, grown);
    close_pool(pool, &device);
}

/* Random requests and releases; every block keeps its contents and no two overlap. */
Test(arena, contents_survive_any_order_of_requests)
{
    enum { SLOTS = 60, STEPS = 20000 };
    struct device device;
    struct plim_pool *pool = open_pool(&device, 0);
    struct plim_random random;
    unsigned char *blocks[SLOTS] = { 0 };
    size_t bytes[SLOTS] = { 0 };

    plim_random_seed(&random, 1, 0);
    for (int step = 0; step < STEPS; step++) {
        size_t i = plim_random_below(&random, SLOTS);
        if (blocks[i]) {
            cr_assert_eq(plim_pool_block_bytes(pool, blocks[i]), bytes[i]);
            cr_assert(blocks[i][0] == (unsigned char)i && blocks[i][bytes[i] - 1] == (unsigned char)i);
            plim_pool_free(pool, blocks[i]);
            blocks[i] = NULL;
        } else {
            bytes[i] = 1 + plim_random_below(&random, (uint64_t)1 << plim_random_below(&random, 20));
            blocks[i] = (unsigned char *)get(pool, bytes[i]);
            blocks[i][0] = blocks[i][bytes[i] - 1] = (unsigned char)i;
        }
        if (step % 500 == 0)
            plim_pool_trim(pool);
        cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], device.committed_bytes);
    }
    for (size_t i = 0; i < SLOTS; i++)
        plim_pool_free(pool, blocks[i]);
    plim_pool_trim(pool);
    cr_assert_eq(device.committed_bytes, 0, "all of it could be given back");
    close_pool(pool, &device);
}

/* ---- single blocks ---- */

/* A page of its own for each block, which ends where the page does. */
static int device_alloc(void *context, uint64_t bytes, uint64_t *address, struct plim_err *err)
{
    struct device *device = context;

    if (bytes > 4096)
        return plim_err_set(err, PLIM_ERR_MEMORY, "the made-up device has small pages only");
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(page, MAP_FAILED);
    cr_assert_eq(mprotect(page + 4096, 4096, PROT_NONE), 0);
    *address = (uint64_t)(uintptr_t)(page + 4096 - bytes);
    device->singles++;
    return 0;
}

static void device_free_single(void *context, uint64_t address)
{
    struct device *device = context;
    munmap((void *)(uintptr_t)(address / 4096 * 4096), 8192);
    device->singles--;
}

/* For memory checkers: a block is given back when it is freed, and is of just its size. */
Test(arena, single_blocks_are_the_devices_own)
{
    struct device device = { 0 };
    struct plim_pool_memory memory = { .context = &device, .granule_bytes = GRANULE, .zero = device_zero,
                                       .alloc = device_alloc, .free = device_free_single };
    struct plim_pool_options options = { .fast_memory = &memory };
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool *pool;
    char *blocks[40], *host;

    cr_assert_eq(plim_pool_open(&pool, &options, &err), 0);
    host = plim_pool_alloc(pool, PLIM_HOST, PLIM_TAG_METADATA, 100, &err);
    for (size_t i = 0; i < 40; i++) {
        blocks[i] = plim_pool_calloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, i + 1, 1, &err);
        cr_assert_not_null(blocks[i], "%s", err.message);
        cr_assert_eq(blocks[i][i], 0);
        cr_assert_eq(plim_pool_block_bytes(pool, blocks[i]), i + 1);
    }
    cr_assert_null(plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_WEIGHTS, 5000, &err));
    cr_assert_eq(err.kind, PLIM_ERR_MEMORY);
    cr_assert_eq(device.singles, 40);
    cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], 40 * 41 / 2);
    for (size_t i = 0; i < 39; i++)
        plim_pool_free(pool, blocks[i]);
    cr_assert_eq(device.singles, 1);
    cr_assert_eq(stats_of(pool).reserved_bytes[PLIM_FAST], 40);
    plim_pool_free(pool, host);
    cr_assert_eq(plim_pool_close(pool), 1, "one leaked, and is given back all the same");
    cr_assert_eq(device.singles, 0);
}
