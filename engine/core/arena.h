#ifndef PLIM_ARENA_H
#define PLIM_ARENA_H

/*
 * Blocks in memory that the host cannot touch: the fast tier on CUDA. All book-keeping is here, in host memory; the device
 * only lends addresses and backs them (struct plim_pool_memory).
 *
 *     addresses   |== commit ==|=== commit ===|            |=== commit ===|                 ...  end of the reservation
 *     ranges      [use ][ free    ][   use    ]            [  use  ][free ]
 *
 * The backed parts are cut into ranges, in use or free; free neighbours are one range, across commits too. A block is cut
 * from the free range that fits best; when none does, as little as possible is committed behind the lowest range that can
 * grow, so that no size of block wastes more than one granule at the top. Commits are given back whole, when all of them is
 * free.
 *
 * Where the device lends single blocks instead (plim_pool_memory's alloc and free, for memory checkers), all of this is one
 * range a block, in the buckets alone.
 *
 * Threads: the pool's lock is held around every call.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/pool.h"

/* Every block begins at a multiple of this: what CUDA's own allocator promises twice over, and a whole line of any cache. */
#define ARENA_ALIGN 512
#define ARENA_BUCKETS 1024

struct block;
struct arena_range;

struct arena_commit {
    uint64_t address, bytes;
};

struct arena {
    struct plim_pool_memory memory;
    uint64_t base, bytes;                       /* the reservation; bytes 0: not made yet */
    struct arena_range *lowest;                 /* all ranges, by address */
    struct arena_range *free;                   /* free ones */
    struct arena_range *buckets[ARENA_BUCKETS]; /* those in use, by address */
    struct arena_commit *commits;               /* by address */
    size_t commit_count, commit_capacity;
    uint64_t committed_bytes;
    struct plim_err refusal;                    /* why the last take failed */
};

/* Reserves nothing yet. `memory` is copied. */
void arena_init(struct arena *arena, const struct plim_pool_memory *memory);

/* Gives everything back, blocks in use included. */
void arena_release(struct arena *arena);

/* Whether an address is the arena's: any in its reservation, or where blocks are single ones the beginning of one. */
bool arena_has(const struct arena *arena, const void *memory);

/*
 * A block of `bytes`, its `remote` and `span_bytes` set. NULL with arena->refusal when it takes more than is free and
 * `commit` is not set, or when the device refuses.
 */
struct block *arena_take(struct arena *arena, size_t bytes, bool commit);

/* The block whose memory begins at `memory`. */
struct block *arena_find(const struct arena *arena, const void *memory);

void arena_give(struct arena *arena, struct block *block);

/* Gives back every commit that is free; returns its bytes. */
uint64_t arena_trim(struct arena *arena);

#endif
