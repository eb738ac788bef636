#include "plimsoll/pool.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "plimsoll/units.h"
#include "spill.h"

/*
 * Two kinds of blocks:
 *
 *   small   up to SMALL_MAX bytes on the fast tier, carved from chunks that hold blocks of one size class each;
 *   mapped  everything else: one mapping a block (anonymous memory, or a range of the spill file), page-rounded.
 *
 * Both begin with a header of PLIM_POOL_ALIGN bytes; the caller's memory follows it:
 *
 *   small    [chunk: header][block: header | memory][block: header | memory] ...
 *   mapped   [header | memory ................. | rounding]
 *
 * Freed blocks stay: small ones in their chunk, mapped ones in bins by size, from which the best fit is taken.
 */

#define PAGE_BYTES ((size_t)4096)
#define SMALL_MAX ((size_t)32 << 10)
#define CHUNK_MIN_BYTES ((size_t)64 << 10)
#define CHUNK_MIN_BLOCKS 8
#define HUGE_PAGE_FROM ((size_t)4 << 20)

/* Size classes: up to 256 bytes each multiple of 64, then 4 in each doubling: at most 25% of a block is rounding. */
#define CLASS_COUNT 32
/* Bins of mapped blocks: 4 in each doubling of the span, from one page to 2^52 bytes; no x86-64 maps more than 2^47. */
#define BIN_COUNT 160
#define MAPPED_MAX ((size_t)1 << 47)

struct chunk;

struct block {
    uint64_t bytes;              /* as asked for */
    uint64_t span_bytes;         /* with header and rounding: what is taken from the chunk or the system */
    struct chunk *chunk;         /* NULL: mapped */
    struct block *next, *prev;   /* mapped: live list or bin; small and free: next free one of the chunk */
    uint64_t file_offset;        /* slow tier: place in the spill file */
    uint32_t state;
    uint8_t tag, tier;
};

enum { BLOCK_FREE = 0x46726565, BLOCK_LIVE = 0x4c697665 };

_Static_assert(sizeof(struct block) <= PLIM_POOL_ALIGN, "the header must not move the memory behind it");

struct chunk {
    struct chunk *next, *prev;                /* all chunks */
    struct chunk *next_usable, *prev_usable;  /* those of its class with room, while `usable` */
    struct block *free;
    uint32_t carved, capacity, live;          /* blocks; live <= carved <= capacity */
    uint32_t size_class;
    size_t bytes;
    bool usable;
};

#define CHUNK_HEADER_BYTES ((sizeof(struct chunk) + PLIM_POOL_ALIGN - 1) / PLIM_POOL_ALIGN * PLIM_POOL_ALIGN)

struct plim_pool {
    pthread_mutex_t mutex;
    uint64_t budget_bytes[PLIM_TIER_COUNT];
    uint64_t live_span_bytes[PLIM_TIER_COUNT];
    uint64_t fail_in;                             /* 1: the next allocation fails; 0: none does */
    char scope[64];
    struct chunk *chunks;
    struct chunk *usable[CLASS_COUNT];
    struct block *live[PLIM_TIER_COUNT];          /* mapped blocks in use */
    struct block *bins[PLIM_TIER_COUNT][BIN_COUNT];
    struct spill spill;
    struct plim_pool_stats stats;
    struct plim_pool_refusal refusal;
};

/* ---- sanitizer ---- */

/* Under AddressSanitizer free blocks and the rounding behind live ones are out of bounds, as with malloc. */
#if defined(__SANITIZE_ADDRESS__)
#define POOL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POOL_ASAN 1
#endif
#endif
#ifdef POOL_ASAN
#include <sanitizer/asan_interface.h>
#define HIDE(address, bytes) ASAN_POISON_MEMORY_REGION(address, bytes)
#define SHOW(address, bytes) ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#else
#define HIDE(address, bytes) ((void)(address), (void)(bytes))
#define SHOW(address, bytes) ((void)(address), (void)(bytes))
#endif

static void *memory_of(struct block *block)
{
    return (char *)block + PLIM_POOL_ALIGN;
}

static struct block *block_of(const void *memory)
{
    return (struct block *)(uintptr_t)((const char *)memory - PLIM_POOL_ALIGN);
}

static void show_only(struct block *block, size_t bytes)
{
    char *memory = memory_of(block);
    SHOW(memory, bytes);
    HIDE(memory + bytes, block->span_bytes - PLIM_POOL_ALIGN - bytes);
}

/* ---- size classes ---- */

/* Index of n among 4 steps a doubling: 4 * floor(log2 n) + the two bits below the leading one. n >= 4. */
static unsigned quarter_log2(uint64_t n)
{
    unsigned log2 = 63u - (unsigned)__builtin_clzll(n);
    return 4 * log2 + ((unsigned)(n >> (log2 - 2)) & 3u);
}

/* The smallest class whose blocks hold `bytes` <= SMALL_MAX, and the size of its memory. */
static unsigned class_of(size_t bytes, size_t *class_bytes)
{
    size_t units = bytes == 0 ? 1 : (bytes + 63) / 64;   /* of 64 bytes, 1 .. 512 */
    if (units <= 4) {
        *class_bytes = units * 64;
        return (unsigned)units - 1;
    }
    /* (4, 5] (5, 6] (6, 7] (7, 8] (8, 10] ...: round up to the next quarter of the doubling. */
    unsigned quarter = quarter_log2(units - 1);
    unsigned log2 = quarter / 4;
    *class_bytes = ((size_t)(4 + quarter % 4 + 1) << (log2 - 2)) * 64;
    return quarter - 8 + 4;
}

static unsigned bin_of(uint64_t span_bytes)
{
    return quarter_log2(span_bytes) - 4 * 12;
}

/* ---- lists ---- */

static void push_block(struct block **list, struct block *block)
{
    block->prev = NULL;
    block->next = *list;
    if (*list)
        (*list)->prev = block;
    *list = block;
}

static void take_block(struct block **list, struct block *block)
{
    if (block->prev)
        block->prev->next = block->next;
    else
        *list = block->next;
    if (block->next)
        block->next->prev = block->prev;
}

static void push_usable(struct plim_pool *pool, struct chunk *chunk)
{
    struct chunk **list = &pool->usable[chunk->size_class];
    chunk->usable = true;
    chunk->prev_usable = NULL;
    chunk->next_usable = *list;
    if (*list)
        (*list)->prev_usable = chunk;
    *list = chunk;
}

static void take_usable(struct plim_pool *pool, struct chunk *chunk)
{
    chunk->usable = false;
    if (chunk->prev_usable)
        chunk->prev_usable->next_usable = chunk->next_usable;
    else
        pool->usable[chunk->size_class] = chunk->next_usable;
    if (chunk->next_usable)
        chunk->next_usable->prev_usable = chunk->prev_usable;
}

/* ---- counting ---- */

static void count_reserved(struct plim_pool *pool, enum plim_tier tier, int64_t bytes)
{
    struct plim_pool_stats *stats = &pool->stats;
    stats->reserved_bytes[tier] += (uint64_t)bytes;
    if (stats->reserved_bytes[tier] > stats->reserved_peak_bytes[tier])
        stats->reserved_peak_bytes[tier] = stats->reserved_bytes[tier];
}

/* Changes what `tag` holds, by a difference modulo 2^64, and remembers a new peak. */
static void count_requested(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, uint64_t difference)
{
    struct plim_pool_stats *stats = &pool->stats;
    struct plim_pool_usage *current = &stats->current[tier];
    current->bytes[tag] += difference;
    current->total_bytes += difference;
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

/* ---- the system's memory ---- */

static void *map_fast(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_PAGE_FROM)
        madvise(memory, bytes, MADV_HUGEPAGE);   /* a hint: kernels without huge pages refuse it */
    return memory;
}

/* Gives a mapped block back that is in no list. */
static void unmap_block(struct plim_pool *pool, struct block *block)
{
    enum plim_tier tier = block->tier;
    uint64_t span_bytes = block->span_bytes, file_offset = block->file_offset;
    SHOW(block, span_bytes);
    munmap(block, span_bytes);
    if (tier == PLIM_SLOW)
        spill_give(&pool->spill, file_offset, span_bytes);
    count_reserved(pool, tier, -(int64_t)span_bytes);
}

static void unmap_chunk(struct plim_pool *pool, struct chunk *chunk)
{
    if (chunk->prev)
        chunk->prev->next = chunk->next;
    else
        pool->chunks = chunk->next;
    if (chunk->next)
        chunk->next->prev = chunk->prev;
    if (chunk->usable)
        take_usable(pool, chunk);
    count_reserved(pool, PLIM_FAST, -(int64_t)chunk->bytes);
    SHOW(chunk, chunk->bytes);
    munmap(chunk, chunk->bytes);
}

static uint64_t trim_tier(struct plim_pool *pool, enum plim_tier tier)
{
    uint64_t before = pool->stats.reserved_bytes[tier];
    for (int bin = 0; bin < BIN_COUNT; bin++) {
        struct block *block;
        while ((block = pool->bins[tier][bin])) {
            take_block(&pool->bins[tier][bin], block);
            unmap_block(pool, block);
        }
    }
    for (struct chunk *chunk = pool->chunks, *next; tier == PLIM_FAST && chunk; chunk = next) {
        next = chunk->next;
        if (chunk->live == 0)
            unmap_chunk(pool, chunk);
    }
    return before - pool->stats.reserved_bytes[tier];
}

/* With a budget, cached blocks make room before the pool would hold more than that from the system. */
static void make_room(struct plim_pool *pool, enum plim_tier tier, size_t span_bytes)
{
    uint64_t budget = pool->budget_bytes[tier];
    uint64_t reserved = pool->stats.reserved_bytes[tier];
    if (budget > 0 && reserved + span_bytes > budget && reserved > pool->live_span_bytes[tier])
        trim_tier(pool, tier);
}

/* ---- small blocks ---- */

static struct chunk *new_chunk(struct plim_pool *pool, unsigned size_class, size_t block_span)
{
    size_t bytes = plim_max(CHUNK_MIN_BYTES, CHUNK_HEADER_BYTES + CHUNK_MIN_BLOCKS * block_span);
    bytes = plim_round_up(bytes, PAGE_BYTES);
    make_room(pool, PLIM_FAST, bytes);
    struct chunk *chunk = map_fast(bytes);
    if (!chunk && trim_tier(pool, PLIM_FAST) > 0)
        chunk = map_fast(bytes);
    if (!chunk)
        return NULL;
    *chunk = (struct chunk){
        .next = pool->chunks,
        .capacity = (uint32_t)((bytes - CHUNK_HEADER_BYTES) / block_span),
        .size_class = size_class,
        .bytes = bytes,
    };
    if (pool->chunks)
        pool->chunks->prev = chunk;
    pool->chunks = chunk;
    push_usable(pool, chunk);
    count_reserved(pool, PLIM_FAST, (int64_t)bytes);
    pool->stats.system_allocation_count++;
    return chunk;
}

static struct block *take_small(struct plim_pool *pool, size_t bytes)
{
    size_t class_bytes;
    unsigned size_class = class_of(bytes, &class_bytes);
    size_t span_bytes = PLIM_POOL_ALIGN + class_bytes;
    struct chunk *chunk = pool->usable[size_class];
    if (!chunk)
        chunk = new_chunk(pool, size_class, span_bytes);
    if (!chunk)
        return NULL;
    struct block *block = chunk->free;
    if (block) {
        chunk->free = block->next;
    } else {
        block = (struct block *)((char *)chunk + CHUNK_HEADER_BYTES + chunk->carved * span_bytes);
        *block = (struct block){ .span_bytes = span_bytes, .chunk = chunk };
        chunk->carved++;
    }
    chunk->live++;
    if (!chunk->free && chunk->carved == chunk->capacity)
        take_usable(pool, chunk);
    return block;
}

static void give_small(struct plim_pool *pool, struct block *block)
{
    struct chunk *chunk = block->chunk;
    block->next = chunk->free;
    chunk->free = block;
    chunk->live--;
    if (!chunk->usable)
        push_usable(pool, chunk);
}

/* ---- mapped blocks ---- */

/* The cached block that fits best: no more than a quarter larger than needed. NULL when none does. */
static struct block *take_cached(struct plim_pool *pool, enum plim_tier tier, size_t span_bytes)
{
    size_t limit = span_bytes + span_bytes / 4;
    struct block *best = NULL;
    for (unsigned bin = bin_of(span_bytes); bin <= bin_of(limit) && !best; bin++) {
        for (struct block *block = pool->bins[tier][bin]; block; block = block->next) {
            if (block->span_bytes < span_bytes || block->span_bytes > limit)
                continue;
            if (!best || block->span_bytes < best->span_bytes)
                best = block;
            if (best->span_bytes == span_bytes)
                break;
        }
    }
    if (best)
        take_block(&pool->bins[tier][bin_of(best->span_bytes)], best);
    return best;
}

/* A new mapping, in no list. NULL with errno. */
static struct block *map_block(struct plim_pool *pool, enum plim_tier tier, size_t span_bytes)
{
    uint64_t file_offset = 0;
    struct block *block =
        tier == PLIM_FAST ? map_fast(span_bytes) : spill_map(&pool->spill, span_bytes, &file_offset);
    if (!block)
        return NULL;
    *block = (struct block){ .span_bytes = span_bytes, .file_offset = file_offset, .tier = (uint8_t)tier };
    count_reserved(pool, tier, (int64_t)span_bytes);
    pool->stats.system_allocation_count++;
    return block;
}

/* *zeroed: fresh anonymous memory, known to be zero. A range of the spill file may have been used before. */
static struct block *take_mapped(struct plim_pool *pool, enum plim_tier tier, size_t bytes, bool *zeroed)
{
    size_t span_bytes = plim_round_up(bytes + PLIM_POOL_ALIGN, PAGE_BYTES);
    struct block *block = take_cached(pool, tier, span_bytes);
    *zeroed = !block && tier == PLIM_FAST;
    if (!block) {
        make_room(pool, tier, span_bytes);
        block = map_block(pool, tier, span_bytes);
    }
    if (!block && trim_tier(pool, tier) > 0)
        block = map_block(pool, tier, span_bytes);
    if (block)
        push_block(&pool->live[tier], block);
    return block;
}

/* ---- blocks of either kind ---- */

static bool is_small(enum plim_tier tier, size_t bytes)
{
    return tier == PLIM_FAST && bytes <= SMALL_MAX;
}

/* Takes and counts a block. *zeroed says whether its memory is known to be zero. */
static struct block *take(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes, bool *zeroed,
                          struct plim_err *err)
{
    struct block *block = NULL;
    *zeroed = false;
    if (!admit(pool, tier, tag, bytes, err))
        return NULL;
    errno = ENOMEM;
    if (is_small(tier, bytes))
        block = take_small(pool, bytes);
    else if (bytes <= MAPPED_MAX)
        block = take_mapped(pool, tier, bytes, zeroed);
    if (!block) {
        char why[200];
        snprintf(why, sizeof why, "the system refused (%s)", strerror(errno));
        refuse(pool, tier, tag, bytes, why, err);
        return NULL;
    }
    block->bytes = bytes;
    block->state = BLOCK_LIVE;
    block->tag = (uint8_t)tag;
    block->tier = (uint8_t)tier;
    show_only(block, bytes);
    pool->live_span_bytes[tier] += block->span_bytes;
    pool->stats.live_blocks++;
    pool->stats.allocation_count++;
    count_requested(pool, tier, tag, bytes);
    return block;
}

static void give(struct plim_pool *pool, struct block *block)
{
    enum plim_tier tier = block->tier;
    assert(block->state == BLOCK_LIVE);
    block->state = BLOCK_FREE;
    pool->live_span_bytes[tier] -= block->span_bytes;
    pool->stats.live_blocks--;
    count_requested(pool, tier, block->tag, 0 - block->bytes);
    HIDE(memory_of(block), block->span_bytes - PLIM_POOL_ALIGN);
    if (block->chunk) {
        give_small(pool, block);
    } else {
        take_block(&pool->live[tier], block);
        push_block(&pool->bins[tier][bin_of(block->span_bytes)], block);
    }
}

/* ---- the pool ---- */

int plim_pool_open(struct plim_pool **pool, const struct plim_pool_options *options, struct plim_err *err)
{
    *pool = NULL;
    struct plim_pool *new_pool = calloc(1, sizeof *new_pool);
    if (!new_pool)
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory opening a memory pool");
    if (spill_init(&new_pool->spill, options ? options->spill_directory : NULL) < 0) {
        free(new_pool);
        return plim_err_set(err, PLIM_ERR_MEMORY, "out of memory opening a memory pool");
    }
    pthread_mutex_init(&new_pool->mutex, NULL);
    if (options) {
        new_pool->budget_bytes[PLIM_FAST] = options->fast_budget_bytes;
        new_pool->budget_bytes[PLIM_SLOW] = options->slow_budget_bytes;
        new_pool->fail_in = options->fail_allocation;
    }
    *pool = new_pool;
    return 0;
}

uint64_t plim_pool_close(struct plim_pool *pool)
{
    if (!pool)
        return 0;
    uint64_t leaked = pool->stats.live_blocks;
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        trim_tier(pool, tier);
        struct block *block;
        while ((block = pool->live[tier])) {
            take_block(&pool->live[tier], block);
            unmap_block(pool, block);
        }
    }
    while (pool->chunks)
        unmap_chunk(pool, pool->chunks);
    spill_release(&pool->spill);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
    return leaked;
}

void *plim_pool_alloc(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes,
                      struct plim_err *err)
{
    bool zeroed;
    pthread_mutex_lock(&pool->mutex);
    struct block *block = take(pool, tier, tag, bytes, &zeroed, err);
    pthread_mutex_unlock(&pool->mutex);
    return block ? memory_of(block) : NULL;
}

void *plim_pool_calloc(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t count, size_t size,
                       struct plim_err *err)
{
    bool zeroed;
    size_t bytes;
    if (!plim_size_mul(count, size, &bytes))
        bytes = SIZE_MAX;   /* refused below, with its record */
    pthread_mutex_lock(&pool->mutex);
    struct block *block = take(pool, tier, tag, bytes, &zeroed, err);
    pthread_mutex_unlock(&pool->mutex);
    if (!block)
        return NULL;
    if (!zeroed)
        memset(memory_of(block), 0, bytes);
    return memory_of(block);
}

/* Gives a live mapped block of the fast tier a new span, moving pages instead of copying them. NULL with errno. */
static struct block *remap(struct plim_pool *pool, struct block *block, size_t span_bytes)
{
    size_t old_span = block->span_bytes;
    take_block(&pool->live[PLIM_FAST], block);
    SHOW(block, old_span);
    struct block *moved = mremap(block, old_span, span_bytes, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) {
        push_block(&pool->live[PLIM_FAST], block);
        show_only(block, block->bytes);
        return NULL;
    }
    moved->span_bytes = span_bytes;
    push_block(&pool->live[PLIM_FAST], moved);
    count_reserved(pool, PLIM_FAST, (int64_t)span_bytes - (int64_t)old_span);
    pool->live_span_bytes[PLIM_FAST] += span_bytes - old_span;
    if (span_bytes > old_span)
        pool->stats.system_allocation_count++;
    return moved;
}

/* Moves the contents of a block into one of the other kind or class; what is counted stays with `block`. */
static struct block *copy_block(struct plim_pool *pool, struct block *block, size_t bytes)
{
    bool zeroed;
    struct block *copy = is_small(PLIM_FAST, bytes) ? take_small(pool, bytes)
                                                    : take_mapped(pool, PLIM_FAST, bytes, &zeroed);
    if (!copy)
        return NULL;
    copy->bytes = block->bytes;
    copy->state = block->state;
    copy->tag = block->tag;
    copy->tier = block->tier;
    show_only(copy, bytes);
    memcpy(memory_of(copy), memory_of(block), plim_min(bytes, block->bytes));
    pool->live_span_bytes[PLIM_FAST] += copy->span_bytes;
    pool->stats.live_blocks++;
    block->bytes = 0;
    give(pool, block);
    return copy;
}

static struct block *resize(struct plim_pool *pool, struct block *block, size_t bytes)
{
    errno = ENOMEM;
    if (bytes > MAPPED_MAX)
        return NULL;
    if (block->chunk || is_small(PLIM_FAST, bytes)) {
        size_t class_bytes;
        bool fits = is_small(PLIM_FAST, bytes) && block->chunk &&
                    class_of(bytes, &class_bytes) == block->chunk->size_class;
        return fits ? block : copy_block(pool, block, bytes);
    }
    size_t span_bytes = plim_round_up(bytes + PLIM_POOL_ALIGN, PAGE_BYTES);
    return span_bytes == block->span_bytes ? block : remap(pool, block, span_bytes);
}

void *plim_pool_realloc(struct plim_pool *pool, enum plim_tag tag, void *memory, size_t bytes, struct plim_err *err)
{
    if (!memory)
        return plim_pool_alloc(pool, PLIM_FAST, tag, bytes, err);
    struct block *block = block_of(memory), *resized = NULL;
    pthread_mutex_lock(&pool->mutex);
    enum plim_tag held_by = block->tag;
    uint64_t old_bytes = block->bytes;
    uint64_t more_bytes = bytes > old_bytes ? bytes - old_bytes : 0;
    assert(block->state == BLOCK_LIVE && block->tier == PLIM_FAST);
    if (admit(pool, PLIM_FAST, held_by, more_bytes, err)) {
        resized = resize(pool, block, bytes);
        if (!resized)
            refuse(pool, PLIM_FAST, held_by, more_bytes, "the system refused (Cannot allocate memory)", err);
    }
    if (resized) {
        resized->bytes = bytes;
        show_only(resized, bytes);
        pool->stats.allocation_count++;
        count_requested(pool, PLIM_FAST, held_by, bytes - old_bytes);
    }
    pthread_mutex_unlock(&pool->mutex);
    return resized ? memory_of(resized) : NULL;
}

char *plim_pool_strdup(struct plim_pool *pool, enum plim_tag tag, const char *text, struct plim_err *err)
{
    size_t bytes = strlen(text) + 1;
    char *copy = plim_pool_alloc(pool, PLIM_FAST, tag, bytes, err);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

void plim_pool_free(struct plim_pool *pool, void *memory)
{
    if (!memory)
        return;
    pthread_mutex_lock(&pool->mutex);
    give(pool, block_of(memory));
    pthread_mutex_unlock(&pool->mutex);
}

size_t plim_pool_block_bytes(const void *memory)
{
    return block_of(memory)->bytes;
}

void plim_pool_note_mapped(struct plim_pool *pool, int64_t bytes)
{
    pthread_mutex_lock(&pool->mutex);
    uint64_t *held = &pool->stats.current[PLIM_FAST].bytes[PLIM_TAG_WEIGHTS_MAPPED];
    uint64_t *peak = &pool->stats.tag_peak_bytes[PLIM_FAST][PLIM_TAG_WEIGHTS_MAPPED];
    *held += (uint64_t)bytes;
    if (*held > *peak)
        *peak = *held;
    pthread_mutex_unlock(&pool->mutex);
}

void plim_pool_set_scope(struct plim_pool *pool, const char *scope)
{
    pthread_mutex_lock(&pool->mutex);
    size_t length = strnlen(scope, sizeof pool->scope - 1);
    memcpy(pool->scope, scope, length);
    memset(pool->scope + length, 0, sizeof pool->scope - length);
    pthread_mutex_unlock(&pool->mutex);
}

uint64_t plim_pool_trim(struct plim_pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    uint64_t given_back = trim_tier(pool, PLIM_FAST) + trim_tier(pool, PLIM_SLOW);
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
        stats->reserved_peak_bytes[tier] = stats->reserved_bytes[tier];
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
    pthread_mutex_lock(mutex_of(pool));
    *out = pool->stats;
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++)
        out->cached_bytes[tier] = out->reserved_bytes[tier] - pool->live_span_bytes[tier];
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
