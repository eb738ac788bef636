#include "plimsoll/pool.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "blocks.h"
#include "plimsoll/units.h"
#include "pool_trace.h"

/* The counting half of the pool: tags, budgets, peaks, refusals. blocks.c has the memory. */

struct plim_pool {
    pthread_mutex_t mutex;
    struct blocks blocks;
    uint64_t budget_bytes[PLIM_TIER_COUNT];
    uint64_t fail_in;               /* 1: the next allocation fails; 0: none does */
    char scope[64];
    struct plim_pool_stats stats;   /* but for what `blocks` counts */
    struct plim_pool_refusal refusal;
    struct pool_trace *trace;       /* NULL: nothing is recorded */
    bool traced;                    /* ever: blocks may keep origins of that trace */
};

/* ---- counting ---- */

/* Changes what `tag` holds, by a difference modulo 2^64, and remembers a new peak. */
static void count_requested(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, uint16_t origin,
                            uint64_t difference)
{
    struct plim_pool_stats *stats = &pool->stats;
    struct plim_pool_usage *current = &stats->current[tier];
    current->bytes[tag] += difference;
    current->total_bytes += difference;
    if (pool->trace)
        pool_trace_change(pool->trace, tier, tag, origin, difference);
    if (current->bytes[tag] > stats->tag_peak_bytes[tier][tag])
        stats->tag_peak_bytes[tier][tag] = current->bytes[tag];
    if (current->total_bytes > stats->peak[tier].total_bytes) {
        stats->peak[tier] = *current;
        stats->peak_tag[tier] = tag;
        memcpy(stats->peak_scope[tier], pool->scope, sizeof pool->scope);
    }
}

/* ---- refusals ---- */

/* "weights 300 MiB, kv_cache 180 MiB": the largest holders first. */
static void format_holders(const struct plim_pool_usage *held, char *buffer, size_t size)
{
    bool listed[PLIM_TAG_COUNT] = { false };
    size_t length = 0;
    buffer[0] = '\0';
    listed[PLIM_TAG_WEIGHTS_MAPPED] = true;
    for (;;) {
        int largest = -1;
        for (int tag = 0; tag < PLIM_TAG_COUNT; tag++) {
            if (!listed[tag] && held->bytes[tag] > 0 && (largest < 0 || held->bytes[tag] > held->bytes[largest]))
                largest = tag;
        }
        if (largest < 0 || length >= size)
            return;
        char bytes[24];
        listed[largest] = true;
        plim_format_bytes(bytes, sizeof bytes, held->bytes[largest]);
        length += (size_t)snprintf(buffer + length, size - length, "%s%s %s", length ? ", " : "",
                                   plim_tag_name((enum plim_tag)largest), bytes);
    }
}

/* Records why `bytes` more for `tag` were refused; `why` is "budget 512 MiB" or what the system said. */
static void refuse(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, uint64_t bytes, const char *why,
                   struct plim_err *err)
{
    struct plim_pool_refusal *refusal = &pool->refusal;
    char needed[24], held[24], holders[400];
    *refusal = (struct plim_pool_refusal){
        .valid = true, .tier = tier, .tag = tag, .requested_bytes = bytes, .held = pool->stats.current[tier]
    };
    memcpy(refusal->scope, pool->scope, sizeof pool->scope);
    format_holders(&refusal->held, holders, sizeof holders);
    plim_format_bytes(needed, sizeof needed, bytes);
    plim_format_bytes(held, sizeof held, refusal->held.total_bytes);
    plim_err_set(err, PLIM_ERR_MEMORY, "out of memory: %s needs %s on the %s tier; %s, held %s%s%s%s%s%s",
                 plim_tag_name(tag), needed, plim_tier_name(tier), why, held, *holders ? " (" : "", holders,
                 *holders ? ")" : "", *pool->scope ? " in " : "", pool->scope);
}

static void refuse_for_system(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, uint64_t bytes,
                              struct plim_err *err)
{
    char why[240];
    bool remote = pool->blocks.has_arena && tier == PLIM_FAST;
    snprintf(why, sizeof why, "the %s refused (%.200s)", remote ? "device" : "system",
             blocks_reason(&pool->blocks, tier));
    refuse(pool, tier, tag, bytes, why, err);
}

/* Whether `bytes` more may be had at all: failure injection, then the budget. */
static bool admit(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, uint64_t bytes,
                  struct plim_err *err)
{
    if (pool->fail_in > 0 && --pool->fail_in == 0) {
        refuse(pool, tier, tag, bytes, "the failure was injected", err);
        pool->refusal.injected = true;
        return false;
    }
    uint64_t budget = pool->budget_bytes[tier], held = pool->stats.current[tier].total_bytes;
    if (budget > 0 && (held > budget || bytes > budget - held)) {
        char text[24], why[48];
        snprintf(why, sizeof why, "budget %s", plim_format_bytes(text, sizeof text, budget));
        refuse(pool, tier, tag, bytes, why, err);
        pool->refusal.budget_bytes = budget;
        return false;
    }
    return true;
}

/* ---- the pool ---- */

int plim_pool_open(struct plim_pool **pool, const struct plim_pool_options *options, struct plim_err *err)
{
    struct plim_pool *new_pool = calloc(1, sizeof *new_pool);
    *pool = NULL;
    if (!new_pool || blocks_init(&new_pool->blocks, options ? options->spill_directory : NULL,
                                 options ? options->fast_memory : NULL, options ? options->fast_memory_count : 0) < 0) {
        free(new_pool);
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory opening a memory pool");
    }
    pthread_mutex_init(&new_pool->mutex, NULL);
    if (options) {
        new_pool->budget_bytes[PLIM_FAST] = options->fast_budget_bytes;
        new_pool->budget_bytes[PLIM_SLOW] = options->slow_budget_bytes;
        new_pool->fail_in = options->fail_allocation;
        memcpy(new_pool->blocks.limit_bytes, new_pool->budget_bytes, sizeof new_pool->budget_bytes);
    }
    *pool = new_pool;
    return 0;
}

int plim_pool_spill_to(struct plim_pool *pool, const char *directory, struct plim_err *err)
{
    pthread_mutex_lock(&pool->mutex);
    /* Cached ranges would hold the old file. */
    blocks_trim(&pool->blocks, PLIM_SLOW);
    int rc = spill_move(&pool->blocks.spill, directory);
    pthread_mutex_unlock(&pool->mutex);
    return rc < 0 ? plim_err_set(err, PLIM_ERR_MEMORY, "out of memory moving the spill file") : 0;
}

uint64_t plim_pool_close(struct plim_pool *pool)
{
    if (!pool)
        return 0;
    struct plim_err unsaid = PLIM_ERR_INIT;
    uint64_t leaked = pool->stats.live_blocks;
    plim_pool_trace_stop(pool, &unsaid);
    blocks_release(&pool->blocks);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
    return leaked;
}

/* Takes and counts a block. *zeroed says whether its memory is known to be zero. */
static struct block *take(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes,
                          const char *site, bool *zeroed, struct plim_err *err)
{
    if (tier == PLIM_HOST)
        tier = pool->blocks.ram;
    if (!admit(pool, tier, tag, bytes, err))
        return NULL;
    struct block *block = blocks_take(&pool->blocks, tier, bytes, zeroed);
    if (!block) {
        refuse_for_system(pool, tier, tag, bytes, err);
        return NULL;
    }
    block->tag = (uint8_t)tag;
    block->origin = pool->trace ? pool_trace_origin(pool->trace, site) : 0;
    pool->stats.live_blocks++;
    pool->stats.allocation_count++;
    count_requested(pool, tier, tag, block->origin, bytes);
    return block;
}

void *plim_pool_alloc_at(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes,
                         const char *site, struct plim_err *err)
{
    bool zeroed;
    pthread_mutex_lock(&pool->mutex);
    struct block *block = take(pool, tier, tag, bytes, site, &zeroed, err);
    pthread_mutex_unlock(&pool->mutex);
    return block ? block_memory(block) : NULL;
}

void *plim_pool_calloc_at(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t count, size_t size,
                          const char *site, struct plim_err *err)
{
    bool zeroed;
    size_t bytes;
    if (!plim_size_mul(count, size, &bytes))
        bytes = SIZE_MAX;   /* refused below, with its record */
    pthread_mutex_lock(&pool->mutex);
    struct block *block = take(pool, tier, tag, bytes, site, &zeroed, err);
    pthread_mutex_unlock(&pool->mutex);
    if (!block)
        return NULL;
    if (!zeroed && blocks_zero(&pool->blocks, block, err) < 0) {
        plim_pool_free(pool, block_memory(block));
        return NULL;
    }
    return block_memory(block);
}

void *plim_pool_realloc_at(struct plim_pool *pool, enum plim_tag tag, void *memory, size_t bytes, const char *site,
                           struct plim_err *err)
{
    if (!memory)
        return plim_pool_alloc_at(pool, PLIM_HOST, tag, bytes, site, err);
    enum plim_tier tier = pool->blocks.ram;
    struct block *block = block_of(&pool->blocks, memory), *resized = NULL;
    pthread_mutex_lock(&pool->mutex);
    enum plim_tag held_by = block->tag;
    uint64_t old_bytes = block->bytes, more_bytes = bytes > old_bytes ? bytes - old_bytes : 0;
    if (admit(pool, tier, held_by, more_bytes, err)) {
        resized = blocks_resize(&pool->blocks, block, bytes);
        if (!resized)
            refuse_for_system(pool, tier, held_by, more_bytes, err);
    }
    if (resized) {
        pool->stats.allocation_count++;
        count_requested(pool, tier, held_by, resized->origin, bytes - old_bytes);
    }
    pthread_mutex_unlock(&pool->mutex);
    return resized ? block_memory(resized) : NULL;
}

char *plim_pool_strdup_at(struct plim_pool *pool, enum plim_tag tag, const char *text, const char *site,
                          struct plim_err *err)
{
    size_t bytes = strlen(text) + 1;
    char *copy = plim_pool_alloc_at(pool, PLIM_HOST, tag, bytes, site, err);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

void plim_pool_free(struct plim_pool *pool, void *memory)
{
    if (!memory)
        return;
    pthread_mutex_lock(&pool->mutex);
    struct block *block = block_of(&pool->blocks, memory);
    count_requested(pool, block->tier, block->tag, block->origin, 0 - block->bytes);
    pool->stats.live_blocks--;
    blocks_give(&pool->blocks, block);
    pthread_mutex_unlock(&pool->mutex);
}

size_t plim_pool_block_bytes(struct plim_pool *pool, const void *memory)
{
    pthread_mutex_lock(&pool->mutex);
    size_t bytes = block_of(&pool->blocks, memory)->bytes;
    pthread_mutex_unlock(&pool->mutex);
    return bytes;
}

void plim_pool_set_aside(struct plim_pool *pool, void *memory, size_t offset, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = (uintptr_t)memory + offset, end = begin + bytes;

    pthread_mutex_lock(&pool->mutex);
    const struct block *block = block_of(&pool->blocks, memory);
    /* A block with a mapping of its own, of the spill file; its whole pages, so that no neighbour's come along. */
    bool in_file = block->tier == PLIM_SLOW && pool->blocks.ram != PLIM_SLOW && !block->chunk;
    pthread_mutex_unlock(&pool->mutex);
    begin = (begin + page - 1) / page * page;
    end = end / page * page;
    if (in_file && begin < end)
        (void)madvise((void *)begin, end - begin, MADV_DONTNEED);
}

enum plim_tier plim_pool_host_tier(const struct plim_pool *pool)
{
    return pool->blocks.ram;
}

void plim_pool_note_mapped(struct plim_pool *pool, int64_t bytes)
{
    pthread_mutex_lock(&pool->mutex);
    enum plim_tier tier = pool->blocks.ram;
    uint64_t *held = &pool->stats.current[tier].bytes[PLIM_TAG_WEIGHTS_MAPPED];
    uint64_t *peak = &pool->stats.tag_peak_bytes[tier][PLIM_TAG_WEIGHTS_MAPPED];
    *held += (uint64_t)bytes;
    if (*held > *peak)
        *peak = *held;
    if (pool->trace)
        pool_trace_mapped(pool->trace, tier, (uint64_t)bytes);
    pthread_mutex_unlock(&pool->mutex);
}

void plim_pool_set_place(struct plim_pool *pool, size_t place)
{
    pthread_mutex_lock(&pool->mutex);
    if (place < pool->blocks.arena_count)
        pool->blocks.place = place;
    pthread_mutex_unlock(&pool->mutex);
}

void plim_pool_set_scope(struct plim_pool *pool, const char *scope)
{
    pthread_mutex_lock(&pool->mutex);
    size_t length = strnlen(scope, sizeof pool->scope - 1);
    memcpy(pool->scope, scope, length);
    memset(pool->scope + length, 0, sizeof pool->scope - length);
    if (pool->trace)
        pool_trace_scope(pool->trace, pool->scope);
    pthread_mutex_unlock(&pool->mutex);
}

uint64_t plim_pool_trim(struct plim_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    uint64_t given_back = blocks_trim(&pool->blocks, PLIM_FAST) + blocks_trim(&pool->blocks, PLIM_SLOW);
    pthread_mutex_unlock(&pool->mutex);
    return given_back;
}

void plim_pool_reset_peak(struct plim_pool *pool)
{
    struct plim_pool_stats *stats = &pool->stats;
    pthread_mutex_lock(&pool->mutex);
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        stats->peak[tier] = stats->current[tier];
        memcpy(stats->tag_peak_bytes[tier], stats->current[tier].bytes, sizeof stats->tag_peak_bytes[tier]);
        memcpy(stats->peak_scope[tier], pool->scope, sizeof pool->scope);
        stats->peak_tag[tier] = 0;
        pool->blocks.reserved_peak_bytes[tier] = pool->blocks.reserved_bytes[tier];
    }
    pthread_mutex_unlock(&pool->mutex);
}

/* Reading takes the lock too; the pool that callers hold as const is never an object that really is. */
static pthread_mutex_t *mutex_of(const struct plim_pool *pool)
{
    return (pthread_mutex_t *)(uintptr_t)&pool->mutex;
}

void plim_pool_stats(const struct plim_pool *pool, struct plim_pool_stats *out)
{
    const struct blocks *blocks = &pool->blocks;
    pthread_mutex_lock(mutex_of(pool));
    *out = pool->stats;
    out->system_allocation_count = blocks->system_count;
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        out->reserved_bytes[tier] = blocks->reserved_bytes[tier];
        out->reserved_peak_bytes[tier] = blocks->reserved_peak_bytes[tier];
        out->cached_bytes[tier] = blocks->reserved_bytes[tier] - blocks->live_span_bytes[tier];
    }
    pthread_mutex_unlock(mutex_of(pool));
}

void plim_pool_last_refusal(const struct plim_pool *pool, struct plim_pool_refusal *out)
{
    pthread_mutex_lock(mutex_of(pool));
    *out = pool->refusal;
    pthread_mutex_unlock(mutex_of(pool));
}

void plim_pool_fail_allocation(struct plim_pool *pool, uint64_t nth)
{
    pthread_mutex_lock(&pool->mutex);
    pool->fail_in = nth;
    pthread_mutex_unlock(&pool->mutex);
}

int plim_pool_trace_start(struct plim_pool *pool, const char *path, struct plim_err *err)
{
    int rc = -1;
    pthread_mutex_lock(&pool->mutex);
    if (pool->traced)
        plim_err_set(err, PLIM_ERR_INTERNAL, "memory trace %s: a pool is traced only once", path);
    else if ((pool->trace = pool_trace_open(path, &pool->stats, pool->scope, err)))
        rc = 0;
    pool->traced |= rc == 0;
    pthread_mutex_unlock(&pool->mutex);
    return rc;
}

int plim_pool_trace_stop(struct plim_pool *pool, struct plim_err *err)
{
    int rc = 0;
    pthread_mutex_lock(&pool->mutex);
    if (pool->trace)
        rc = pool_trace_close(pool->trace, err);
    pool->trace = NULL;
    pthread_mutex_unlock(&pool->mutex);
    return rc;
}

const char *plim_tag_name(enum plim_tag tag)
{
    static const char *const names[PLIM_TAG_COUNT] = {
#define PLIM_TAG_TEXT(name, text) text,
        PLIM_TAGS(PLIM_TAG_TEXT)
#undef PLIM_TAG_TEXT
    };
    return names[tag];
}

const char *plim_tier_name(enum plim_tier tier)
{
    return tier == PLIM_FAST ? "fast" : "slow";
}
