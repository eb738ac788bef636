#ifndef PLIM_BLOCKS_H
#define PLIM_BLOCKS_H

/*
 * Where the pool's memory comes from: blocks of any size on two tiers, cached when freed. Knows nothing of tags, budgets
 * and peaks, which are the pool's part.
 *
 * Two kinds of blocks:
 *
 *   small   up to 32 KiB in RAM, carved from chunks that hold blocks of one size class each;
 *   mapped  everything else: one mapping a block (anonymous memory, or a range of the spill file), page-rounded.
 *
 * A fast tier that isn't RAM has blocks of a third kind, in an arena (arena.h); the slow tier is RAM then, and there is no
 * spill file. The first two begin with a header of PLIM_POOL_ALIGN bytes; the caller's memory follows it:
 *
 *   small    [chunk: header][block: header | memory][block: header | memory] ...
 *   mapped   [header | memory ................. | rounding]
 *
 * The header of a block in an arena lies elsewhere. Freed blocks stay: small ones in their chunk, mapped ones in bins by
 * size, from which the best fit is taken, and those of an arena as its free ranges.
 *
 * Threads: the pool's lock is held around every call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "arena.h"
#include "plimsoll/pool.h"
#include "spill.h"

/* Size classes of small blocks: 4 in each doubling, at most a quarter of a block is rounding. */
#define BLOCKS_CLASSES 32
/* Bins of mapped blocks: 4 in each doubling of the span, from one page to 2^52 bytes; no x86-64 maps more than 2^47. */
#define BLOCKS_BINS 160

struct chunk;

/* The header of a block. */
struct block {
    uint64_t bytes;              /* as asked for */
    uint64_t span_bytes;         /* with header and rounding: what is taken from the chunk or the system */
    struct chunk *chunk;         /* NULL: mapped, or in the arena */
    void *remote;                /* in the arena: the memory; NULL: it follows the header */
    struct block *next, *prev;   /* mapped: live list or bin; small and free: next free one of the chunk */
    uint64_t file_offset;        /* slow tier: place in the spill file */
    uint32_t state;
    uint8_t tag, tier;           /* the tag is the pool's */
    uint16_t origin;             /* the pool's: who asked for it, while a trace is recorded */
};

struct blocks {
    struct chunk *chunks;
    struct chunk *usable[BLOCKS_CLASSES];             /* with room, by class */
    struct block *live[PLIM_TIER_COUNT];              /* mapped blocks in use */
    struct block *bins[PLIM_TIER_COUNT][BLOCKS_BINS]; /* mapped blocks that are free */
    struct spill spill;
    struct arena arena[PLIM_POOL_MOST_PLACES];        /* the fast tier's, one a device, if has_arena */
    size_t arena_count;
    size_t place;                                     /* the one that blocks are taken from */
    bool has_arena;
    enum plim_tier ram;                               /* the tier that is RAM: slow, if has_arena */

    uint64_t limit_bytes[PLIM_TIER_COUNT];            /* the cache makes room before more is reserved; 0: none */
    uint64_t reserved_bytes[PLIM_TIER_COUNT];         /* held from the system */
    uint64_t reserved_peak_bytes[PLIM_TIER_COUNT];
    uint64_t live_span_bytes[PLIM_TIER_COUNT];        /* of these, in blocks that are in use */
    uint64_t system_count;                            /* how often the system was asked for more */
};

/* All as in plim_pool_options. -1 when memory is out. */
int blocks_init(struct blocks *blocks, const char *spill_directory, const struct plim_pool_memory *fast_memory,
                size_t fast_memory_count);

/* Gives everything back, live blocks included. */
void blocks_release(struct blocks *blocks);

/* NULL with a reason. *zeroed: the memory is known to be zero. Tag and origin are the caller's to set. */
struct block *blocks_take(struct blocks *blocks, enum plim_tier tier, size_t bytes, bool *zeroed);

/* Puts a live block into the cache. */
void blocks_give(struct blocks *blocks, struct block *block);

/* Why the last take or resize on a tier failed. */
const char *blocks_reason(const struct blocks *blocks, enum plim_tier tier);

/* Zeroes what the caller asked for. -1 with `err` (a device may refuse). */
int blocks_zero(struct blocks *blocks, struct block *block, struct plim_err *err);

/* Changes the size of a live block in RAM, keeping contents and tag. NULL with a reason, and `block` as it was. */
struct block *blocks_resize(struct blocks *blocks, struct block *block, size_t bytes);

/* Gives what is cached on a tier back to the system; returns its bytes. */
uint64_t blocks_trim(struct blocks *blocks, enum plim_tier tier);

static inline void *block_memory(struct block *block)
{
    return block->remote ? block->remote : (char *)block + PLIM_POOL_ALIGN;
}

/* Whose arena an address is in; NULL: it is in RAM. */
static inline struct arena *blocks_arena(const struct blocks *blocks, const void *memory)
{
    for (size_t i = 0; i < blocks->arena_count; i++)
        if (arena_has(&blocks->arena[i], memory))
            return (struct arena *)(uintptr_t)&blocks->arena[i];
    return NULL;
}

static inline struct block *block_of(const struct blocks *blocks, const void *memory)
{
    const struct arena *arena = blocks_arena(blocks, memory);
    if (arena)
        return arena_find(arena, memory);
    return (struct block *)(uintptr_t)((const char *)memory - PLIM_POOL_ALIGN);
}

#endif
