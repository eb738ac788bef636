#include "arena.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "plimsoll/units.h"

struct arena_range {
    struct block block;                   /* the pool's view while in use; span_bytes and remote always */
    struct arena_range *above, *below;    /* by address; they touch unless the addresses between have no memory */
    struct arena_range *next, *prev;      /* in the list of free ranges, or in a bucket */
    bool in_use;
};

static uint64_t begin_of(const struct arena_range *range)
{
    return (uint64_t)(uintptr_t)range->block.remote;
}

static uint64_t end_of(const struct arena_range *range)
{
    return begin_of(range) + range->block.span_bytes;
}

/* ---- lists ---- */

static struct arena_range **list_of(struct arena *arena, const struct arena_range *range)
{
    return range->in_use ? &arena->buckets[begin_of(range) / ARENA_ALIGN % ARENA_BUCKETS] : &arena->free;
}

static void enlist(struct arena *arena, struct arena_range *range, bool in_use)
{
    range->in_use = in_use;
    struct arena_range **list = list_of(arena, range);
    range->prev = NULL;
    range->next = *list;
    if (*list)
        (*list)->prev = range;
    *list = range;
}

static void delist(struct arena *arena, struct arena_range *range)
{
    if (range->prev)
        range->prev->next = range->next;
    else
        *list_of(arena, range) = range->next;
    if (range->next)
        range->next->prev = range->prev;
}

/* A range of [begin, begin + bytes) between two neighbours, in no list yet. NULL when memory is out. */
static struct arena_range *insert(struct arena *arena, struct arena_range *below, struct arena_range *above,
                                  uint64_t begin, uint64_t bytes)
{
    struct arena_range *range = malloc(sizeof *range);
    if (!range)
        return NULL;
    *range = (struct arena_range){
        .block = { .remote = (void *)(uintptr_t)begin, .span_bytes = bytes }, .below = below, .above = above
    };
    if (below)
        below->above = range;
    else
        arena->lowest = range;
    if (above)
        above->below = range;
    return range;
}

/* Of a range that is in no list. */
static void drop(struct arena *arena, struct arena_range *range)
{
    if (range->below)
        range->below->above = range->above;
    else
        arena->lowest = range->above;
    if (range->above)
        range->above->below = range->below;
    free(range);
}

/* Puts a range into the free list, one with the free ranges that it touches. */
static void set_free(struct arena *arena, struct arena_range *range)
{
    struct arena_range *below = range->below, *above = range->above;

    if (above && !above->in_use && begin_of(above) == end_of(range)) {
        delist(arena, above);
        range->block.span_bytes += above->block.span_bytes;
        drop(arena, above);
    }
    if (below && !below->in_use && end_of(below) == begin_of(range)) {
        delist(arena, below);
        below->block.span_bytes += range->block.span_bytes;
        drop(arena, range);
        range = below;
    }
    enlist(arena, range, false);
}

/* ---- the device's memory ---- */

static int refuse(struct arena *arena, const char *why)
{
    return plim_err_set(&arena->refusal, PLIM_ERR_MEMORY, "%s", why);
}

static int reserve(struct arena *arena)
{
    const struct plim_pool_memory *memory = &arena->memory;
    if (arena->bytes > 0)
        return 0;
    if (memory->reserve(memory->context, &arena->base, &arena->bytes, &arena->refusal) == 0)
        return 0;
    arena->bytes = 0;
    return -1;
}

/* Room for one more commit; found at place `at` of those by address. */
static int reserve_commit(struct arena *arena, uint64_t address, size_t *at)
{
    if (arena->commit_count == arena->commit_capacity) {
        size_t capacity = plim_max(64, 2 * arena->commit_capacity);
        struct arena_commit *grown = realloc(arena->commits, capacity * sizeof *grown);
        if (!grown)
            return refuse(arena, "out of host memory for the device's book-keeping");
        arena->commits = grown;
        arena->commit_capacity = capacity;
    }
    for (*at = arena->commit_count; *at > 0 && arena->commits[*at - 1].address > address; --*at)
        ;
    return 0;
}

/* Backs `bytes` at `address`, behind `below`, and makes them free. */
static int commit(struct arena *arena, struct arena_range *below, struct arena_range *above, uint64_t address,
                  uint64_t bytes)
{
    const struct plim_pool_memory *memory = &arena->memory;
    size_t at = 0;

    if (reserve_commit(arena, address, &at) < 0)
        return -1;
    struct arena_range *range = insert(arena, below, above, address, bytes);
    if (!range)
        return refuse(arena, "out of host memory for the device's book-keeping");
    if (memory->commit(memory->context, address, bytes, &arena->refusal) < 0) {
        drop(arena, range);
        return -1;
    }
    memmove(arena->commits + at + 1, arena->commits + at, (arena->commit_count - at) * sizeof *arena->commits);
    arena->commits[at] = (struct arena_commit){ address, bytes };
    arena->commit_count++;
    arena->committed_bytes += bytes;
    set_free(arena, range);
    return 0;
}

/* Commits what is missing for a block of `span` bytes in the lowest place that has the addresses. */
static int grow(struct arena *arena, uint64_t span)
{
    uint64_t granule = arena->memory.granule_bytes, gap_begin = arena->base;
    struct arena_range *below = NULL, *above = arena->lowest;

    for (;;) {
        uint64_t gap_end = above ? begin_of(above) : arena->base + arena->bytes;
        uint64_t there = below && !below->in_use ? below->block.span_bytes : 0;
        uint64_t missing = there < span ? plim_round_up(span - there, granule) : 0;
        if (missing > 0 && missing <= gap_end - gap_begin)
            return commit(arena, below, above, gap_begin, missing);
        if (!above)
            return refuse(arena, "no device has that much memory");
        below = above;
        gap_begin = end_of(below);
        above = below->above;
    }
}

/* ---- single blocks ---- */

static struct block *take_single(struct arena *arena, size_t bytes)
{
    const struct plim_pool_memory *memory = &arena->memory;
    struct arena_range *range = malloc(sizeof *range);
    uint64_t address;

    if (!range) {
        refuse(arena, "out of host memory for the device's book-keeping");
        return NULL;
    }
    if (memory->alloc(memory->context, bytes, &address, &arena->refusal) < 0) {
        free(range);
        return NULL;
    }
    *range = (struct arena_range){ .block = { .remote = (void *)(uintptr_t)address, .span_bytes = bytes } };
    enlist(arena, range, true);
    arena->committed_bytes += bytes;
    return &range->block;
}

/* Of a range that is in no list. */
static void give_single(struct arena *arena, struct arena_range *range)
{
    arena->memory.free(arena->memory.context, begin_of(range));
    arena->committed_bytes -= range->block.span_bytes;
    free(range);
}

static void give_all_singles(struct arena *arena)
{
    for (size_t i = 0; i < ARENA_BUCKETS; i++)
        for (struct arena_range *range; (range = arena->buckets[i]);) {
            delist(arena, range);
            give_single(arena, range);
        }
}

/* ---- blocks ---- */

static struct arena_range *best_fit(const struct arena *arena, uint64_t span)
{
    struct arena_range *best = NULL;
    for (struct arena_range *range = arena->free; range; range = range->next) {
        uint64_t bytes = range->block.span_bytes;
        if (bytes < span || (best && bytes > best->block.span_bytes))
            continue;
        /* Of equals the lowest, so that addresses depend on nothing but the requests. */
        if (!best || bytes < best->block.span_bytes || begin_of(range) < begin_of(best))
            best = range;
    }
    return best;
}

/* Cuts a free range so that it has `span` bytes; the rest stays free. */
static int cut(struct arena *arena, struct arena_range *range, uint64_t span)
{
    uint64_t rest = range->block.span_bytes - span;
    if (rest == 0)
        return 0;
    struct arena_range *upper = insert(arena, range, range->above, begin_of(range) + span, rest);
    if (!upper)
        return refuse(arena, "out of host memory for the device's book-keeping");
    range->block.span_bytes = span;
    enlist(arena, upper, false);
    return 0;
}

struct block *arena_take(struct arena *arena, size_t bytes, bool may_commit)
{
    struct arena_range *range;

    plim_err_clear(&arena->refusal);
    if (bytes > SIZE_MAX / 2) {
        refuse(arena, "no device has that much memory");
        return NULL;
    }
    if (arena->memory.alloc)
        return may_commit ? take_single(arena, plim_max(bytes, 1)) : NULL;
    uint64_t span = plim_round_up(plim_max(bytes, 1), ARENA_ALIGN);
    range = best_fit(arena, span);
    if (!range && !may_commit)
        return NULL;
    if (!range && (reserve(arena) < 0 || grow(arena, span) < 0))
        return NULL;
    if (!range)
        range = best_fit(arena, span);
    if (!range || cut(arena, range, span) < 0)
        return NULL;
    delist(arena, range);
    enlist(arena, range, true);
    return &range->block;
}

static struct arena_range *find(const struct arena *arena, const void *memory)
{
    struct arena_range *range = arena->buckets[(uint64_t)(uintptr_t)memory / ARENA_ALIGN % ARENA_BUCKETS];
    while (range && range->block.remote != memory)
        range = range->next;
    return range;
}

bool arena_has(const struct arena *arena, const void *memory)
{
    if (arena->memory.alloc)
        return find(arena, memory) != NULL;
    return (uint64_t)(uintptr_t)memory - arena->base < arena->bytes;
}

struct block *arena_find(const struct arena *arena, const void *memory)
{
    struct arena_range *range = find(arena, memory);
    assert(range);
    return &range->block;
}

void arena_give(struct arena *arena, struct block *block)
{
    struct arena_range *range = (struct arena_range *)block;
    delist(arena, range);
    if (arena->memory.alloc)
        give_single(arena, range);
    else
        set_free(arena, range);
}

/* ---- giving back ---- */

/* The free range that has all of a commit. */
static struct arena_range *free_range_with(const struct arena *arena, const struct arena_commit *c)
{
    for (struct arena_range *range = arena->free; range; range = range->next)
        if (begin_of(range) <= c->address && end_of(range) >= c->address + c->bytes)
            return range;
    return NULL;
}

/* Takes [begin, end) out of a free range. False when there is no memory to keep what is left on both sides. */
static bool carve(struct arena *arena, struct arena_range *range, uint64_t begin, uint64_t end)
{
    uint64_t lower = begin - begin_of(range), upper = end_of(range) - end;

    if (upper > 0) {
        struct arena_range *rest = insert(arena, range, range->above, end, upper);
        if (!rest)
            return false;
        enlist(arena, rest, false);
    }
    range->block.span_bytes = lower;
    if (lower == 0) {
        delist(arena, range);
        drop(arena, range);
    }
    return true;
}

uint64_t arena_trim(struct arena *arena)
{
    const struct plim_pool_memory *memory = &arena->memory;
    uint64_t before = arena->committed_bytes;
    size_t kept = 0;

    for (size_t i = 0; i < arena->commit_count; i++) {
        struct arena_commit c = arena->commits[i];
        struct arena_range *range = free_range_with(arena, &c);
        if (range && carve(arena, range, c.address, c.address + c.bytes)) {
            memory->decommit(memory->context, c.address, c.bytes);
            arena->committed_bytes -= c.bytes;
        } else {
            arena->commits[kept++] = c;
        }
    }
    arena->commit_count = kept;
    return before - arena->committed_bytes;
}

void arena_init(struct arena *arena, const struct plim_pool_memory *memory)
{
    *arena = (struct arena){ .memory = *memory };
}

void arena_release(struct arena *arena)
{
    const struct plim_pool_memory *memory = &arena->memory;

    if (memory->alloc)
        give_all_singles(arena);
    for (size_t i = 0; i < arena->commit_count; i++)
        memory->decommit(memory->context, arena->commits[i].address, arena->commits[i].bytes);
    if (arena->bytes > 0)
        memory->unreserve(memory->context, arena->base, arena->bytes);
    while (arena->lowest)
        drop(arena, arena->lowest);
    free(arena->commits);
    *arena = (struct arena){ 0 };
}
