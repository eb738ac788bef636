#include "blocks.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "plimsoll/units.h"

#define PAGE_BYTES       ((size_t)4096)
#define SMALL_MAX        ((size_t)32 << 10)
#define CHUNK_MIN_BYTES  ((size_t)64 << 10)
#define CHUNK_MIN_BLOCKS 8
#define HUGE_PAGE_FROM   ((size_t)4 << 20)
#define MAPPED_MAX       ((size_t)1 << 47)

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

static void show_only(struct block *block, size_t bytes)
{
    char *memory = block_memory(block);
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

static void push_usable(struct blocks *blocks, struct chunk *chunk)
{
    struct chunk **list = &blocks->usable[chunk->size_class];
    chunk->usable = true;
    chunk->prev_usable = NULL;
    chunk->next_usable = *list;
    if (*list)
        (*list)->prev_usable = chunk;
    *list = chunk;
}

static void take_usable(struct blocks *blocks, struct chunk *chunk)
{
    chunk->usable = false;
    if (chunk->prev_usable)
        chunk->prev_usable->next_usable = chunk->next_usable;
    else
        blocks->usable[chunk->size_class] = chunk->next_usable;
    if (chunk->next_usable)
        chunk->next_usable->prev_usable = chunk->prev_usable;
}

/* ---- the system's memory ---- */

static void count_reserved(struct blocks *blocks, enum plim_tier tier, int64_t bytes)
{
    blocks->reserved_bytes[tier] += (uint64_t)bytes;
    if (blocks->reserved_bytes[tier] > blocks->reserved_peak_bytes[tier])
        blocks->reserved_peak_bytes[tier] = blocks->reserved_bytes[tier];
}

static bool in_arena(const struct blocks *blocks, enum plim_tier tier)
{
    return blocks->has_arena && tier == PLIM_FAST;
}

static void *map_ram(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    if (bytes >= HUGE_PAGE_FROM)
        madvise(memory, bytes, MADV_HUGEPAGE);   /* a hint: kernels without huge pages refuse it */
    return memory;
}

/* Gives a mapped block back that is in no list. */
static void unmap_block(struct blocks *blocks, struct block *block)
{
    enum plim_tier tier = block->tier;
    uint64_t span_bytes = block->span_bytes, file_offset = block->file_offset;
    SHOW(block, span_bytes);
    munmap(block, span_bytes);
    if (tier != blocks->ram)
        spill_give(&blocks->spill, file_offset, span_bytes);
    count_reserved(blocks, tier, -(int64_t)span_bytes);
}

static void unmap_chunk(struct blocks *blocks, struct chunk *chunk)
{
    if (chunk->prev)
        chunk->prev->next = chunk->next;
    else
        blocks->chunks = chunk->next;
    if (chunk->next)
        chunk->next->prev = chunk->prev;
    if (chunk->usable)
        take_usable(blocks, chunk);
    count_reserved(blocks, blocks->ram, -(int64_t)chunk->bytes);
    SHOW(chunk, chunk->bytes);
    munmap(chunk, chunk->bytes);
}

uint64_t blocks_trim(struct blocks *blocks, enum plim_tier tier)
{
    uint64_t before = blocks->reserved_bytes[tier];
    if (in_arena(blocks, tier)) {
        uint64_t given_back = 0;
        for (size_t i = 0; i < blocks->arena_count; i++)
            given_back += arena_trim(&blocks->arena[i]);
        count_reserved(blocks, tier, -(int64_t)given_back);
        return given_back;
    }
    for (int bin = 0; bin < BLOCKS_BINS; bin++) {
        struct block *block;
        while ((block = blocks->bins[tier][bin])) {
            take_block(&blocks->bins[tier][bin], block);
            unmap_block(blocks, block);
        }
    }
    for (struct chunk *chunk = blocks->chunks, *next; tier == blocks->ram && chunk; chunk = next) {
        next = chunk->next;
        if (chunk->live == 0)
            unmap_chunk(blocks, chunk);
    }
    return before - blocks->reserved_bytes[tier];
}

/* With a limit, cached blocks make room before more than that is held from the system. */
static void make_room(struct blocks *blocks, enum plim_tier tier, size_t span_bytes)
{
    uint64_t limit = blocks->limit_bytes[tier];
    uint64_t reserved = blocks->reserved_bytes[tier];
    if (limit > 0 && reserved + span_bytes > limit && reserved > blocks->live_span_bytes[tier])
        blocks_trim(blocks, tier);
}

/* ---- small blocks ---- */

static struct chunk *new_chunk(struct blocks *blocks, unsigned size_class, size_t block_span)
{
    size_t bytes = plim_max(CHUNK_MIN_BYTES, CHUNK_HEADER_BYTES + CHUNK_MIN_BLOCKS * block_span);
    bytes = plim_round_up(bytes, PAGE_BYTES);
    make_room(blocks, blocks->ram, bytes);
    struct chunk *chunk = map_ram(bytes);
    if (!chunk && blocks_trim(blocks, blocks->ram) > 0)
        chunk = map_ram(bytes);
    if (!chunk)
        return NULL;
    *chunk = (struct chunk){
        .next = blocks->chunks,
        .capacity = (uint32_t)((bytes - CHUNK_HEADER_BYTES) / block_span),
        .size_class = size_class,
        .bytes = bytes,
    };
    if (blocks->chunks)
        blocks->chunks->prev = chunk;
    blocks->chunks = chunk;
    push_usable(blocks, chunk);
    count_reserved(blocks, blocks->ram, (int64_t)bytes);
    blocks->system_count++;
    return chunk;
}

static struct block *take_small(struct blocks *blocks, size_t bytes)
{
    size_t class_bytes;
    unsigned size_class = class_of(bytes, &class_bytes);
    size_t span_bytes = PLIM_POOL_ALIGN + class_bytes;
    struct chunk *chunk = blocks->usable[size_class];
    if (!chunk)
        chunk = new_chunk(blocks, size_class, span_bytes);
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
        take_usable(blocks, chunk);
    return block;
}

static void give_small(struct blocks *blocks, struct block *block)
{
    struct chunk *chunk = block->chunk;
    block->next = chunk->free;
    chunk->free = block;
    chunk->live--;
    if (!chunk->usable)
        push_usable(blocks, chunk);
}

/* ---- mapped blocks ---- */

static size_t span_of(size_t bytes)
{
    return plim_round_up(bytes + PLIM_POOL_ALIGN, PAGE_BYTES);
}

/* The cached block that fits best: no more than a quarter larger than needed. NULL when none does. */
static struct block *take_cached(struct blocks *blocks, enum plim_tier tier, size_t span_bytes)
{
    size_t limit = span_bytes + span_bytes / 4;
    struct block *best = NULL;
    for (unsigned bin = bin_of(span_bytes); bin <= bin_of(limit) && !best; bin++) {
        for (struct block *block = blocks->bins[tier][bin]; block; block = block->next) {
            if (block->span_bytes < span_bytes || block->span_bytes > limit)
                continue;
            if (!best || block->span_bytes < best->span_bytes)
                best = block;
            if (best->span_bytes == span_bytes)
                break;
        }
    }
    if (best)
        take_block(&blocks->bins[tier][bin_of(best->span_bytes)], best);
    return best;
}

/* A new mapping, in no list. NULL with errno. */
static struct block *map_block(struct blocks *blocks, enum plim_tier tier, size_t span_bytes)
{
    uint64_t file_offset = 0;
    struct block *block =
        tier == blocks->ram ? map_ram(span_bytes) : spill_map(&blocks->spill, span_bytes, &file_offset);
    if (!block)
        return NULL;
    *block = (struct block){ .span_bytes = span_bytes, .file_offset = file_offset, .tier = (uint8_t)tier };
    count_reserved(blocks, tier, (int64_t)span_bytes);
    blocks->system_count++;
    return block;
}

/* *zeroed: fresh anonymous memory, known to be zero. A range of the spill file may have been used before. */
static struct block *take_mapped(struct blocks *blocks, enum plim_tier tier, size_t bytes, bool *zeroed)
{
    size_t span_bytes = span_of(bytes);
    struct block *block = take_cached(blocks, tier, span_bytes);
    *zeroed = !block && tier == blocks->ram;
    if (!block) {
        make_room(blocks, tier, span_bytes);
        block = map_block(blocks, tier, span_bytes);
    }
    if (!block && blocks_trim(blocks, tier) > 0)
        block = map_block(blocks, tier, span_bytes);
    if (block)
        push_block(&blocks->live[tier], block);
    return block;
}

/* ---- blocks in the arena ---- */

/* Takes and counts what the device had to lend for it. */
static struct block *lend(struct blocks *blocks, size_t bytes)
{
    struct arena *arena = &blocks->arena[blocks->place];
    uint64_t before = arena->committed_bytes;
    struct block *block = arena_take(arena, bytes, true);
    uint64_t lent = arena->committed_bytes - before;

    if (lent > 0) {
        count_reserved(blocks, PLIM_FAST, (int64_t)lent);
        blocks->system_count++;
    }
    return block;
}

static struct block *take_remote(struct blocks *blocks, size_t bytes)
{
    struct block *block = arena_take(&blocks->arena[blocks->place], bytes, false);
    if (block)
        return block;
    make_room(blocks, PLIM_FAST, bytes);
    block = lend(blocks, bytes);
    if (!block && blocks_trim(blocks, PLIM_FAST) > 0)
        block = lend(blocks, bytes);
    return block;
}

/* ---- blocks of any kind ---- */

static bool is_small(const struct blocks *blocks, enum plim_tier tier, size_t bytes)
{
    return tier == blocks->ram && bytes <= SMALL_MAX;
}

/* A block that is in use, but not yet anybody's. */
static struct block *find(struct blocks *blocks, enum plim_tier tier, size_t bytes, bool *zeroed)
{
    *zeroed = false;
    errno = ENOMEM;
    if (in_arena(blocks, tier))
        return take_remote(blocks, bytes);
    if (is_small(blocks, tier, bytes))
        return take_small(blocks, bytes);
    return bytes <= MAPPED_MAX ? take_mapped(blocks, tier, bytes, zeroed) : NULL;
}

struct block *blocks_take(struct blocks *blocks, enum plim_tier tier, size_t bytes, bool *zeroed)
{
    struct block *block = find(blocks, tier, bytes, zeroed);
    if (!block)
        return NULL;
    block->bytes = bytes;
    block->state = BLOCK_LIVE;
    block->tier = (uint8_t)tier;
    if (!block->remote)
        show_only(block, bytes);
    blocks->live_span_bytes[tier] += block->span_bytes;
    return block;
}

void blocks_give(struct blocks *blocks, struct block *block)
{
    enum plim_tier tier = block->tier;
    assert(block->state == BLOCK_LIVE);
    block->state = BLOCK_FREE;
    blocks->live_span_bytes[tier] -= block->span_bytes;
    if (block->remote) {
        struct arena *arena = blocks_arena(blocks, block->remote);
        uint64_t before = arena->committed_bytes;
        arena_give(arena, block);
        count_reserved(blocks, PLIM_FAST, (int64_t)(arena->committed_bytes - before));
        return;
    }
    HIDE(block_memory(block), block->span_bytes - PLIM_POOL_ALIGN);
    if (block->chunk) {
        give_small(blocks, block);
    } else {
        take_block(&blocks->live[tier], block);
        push_block(&blocks->bins[tier][bin_of(block->span_bytes)], block);
    }
}

/* Gives a live mapped block of RAM a new span, moving pages instead of copying them. NULL with errno. */
static struct block *remap(struct blocks *blocks, struct block *block, size_t span_bytes)
{
    size_t old_span = block->span_bytes;
    take_block(&blocks->live[blocks->ram], block);
    SHOW(block, old_span);
    struct block *moved = mremap(block, old_span, span_bytes, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED) {
        push_block(&blocks->live[blocks->ram], block);
        show_only(block, block->bytes);
        return NULL;
    }
    moved->span_bytes = span_bytes;
    push_block(&blocks->live[blocks->ram], moved);
    count_reserved(blocks, blocks->ram, (int64_t)span_bytes - (int64_t)old_span);
    blocks->live_span_bytes[blocks->ram] += span_bytes - old_span;
    if (span_bytes > old_span)
        blocks->system_count++;
    return moved;
}

/* Moves the contents of a block into one of the other kind or class. */
static struct block *copy_block(struct blocks *blocks, struct block *block, size_t bytes)
{
    bool zeroed;
    struct block *copy = blocks_take(blocks, blocks->ram, bytes, &zeroed);
    if (!copy)
        return NULL;
    copy->tag = block->tag;
    copy->origin = block->origin;
    memcpy(block_memory(copy), block_memory(block), plim_min(bytes, block->bytes));
    blocks_give(blocks, block);
    return copy;
}

static bool same_class(const struct blocks *blocks, const struct block *block, size_t bytes)
{
    size_t class_bytes;
    return block->chunk && is_small(blocks, blocks->ram, bytes) && class_of(bytes, &class_bytes) == block->chunk->size_class;
}

struct block *blocks_resize(struct blocks *blocks, struct block *block, size_t bytes)
{
    struct block *resized = block;
    assert(block->state == BLOCK_LIVE && block->tier == blocks->ram);
    errno = ENOMEM;
    if (bytes > MAPPED_MAX)
        return NULL;
    if (block->chunk || is_small(blocks, blocks->ram, bytes)) {
        if (!same_class(blocks, block, bytes))
            resized = copy_block(blocks, block, bytes);
    } else if (span_of(bytes) != block->span_bytes) {
        resized = remap(blocks, block, span_of(bytes));
    }
    if (!resized)
        return NULL;
    resized->bytes = bytes;
    show_only(resized, bytes);
    return resized;
}

/* ---- all of them ---- */

const char *blocks_reason(const struct blocks *blocks, enum plim_tier tier)
{
    return in_arena(blocks, tier) ? blocks->arena[blocks->place].refusal.message : strerror(errno);
}

int blocks_zero(struct blocks *blocks, struct block *block, struct plim_err *err)
{
    if (block->remote) {
        const struct plim_pool_memory *memory = &blocks_arena(blocks, block->remote)->memory;
        return memory->zero(memory->context, (uint64_t)(uintptr_t)block->remote, block->bytes, err);
    }
    memset(block_memory(block), 0, block->bytes);
    return 0;
}

int blocks_init(struct blocks *blocks, const char *spill_directory, const struct plim_pool_memory *fast_memory,
                size_t fast_memory_count)
{
    *blocks = (struct blocks){ .has_arena = fast_memory != NULL, .ram = fast_memory ? PLIM_SLOW : PLIM_FAST };
    if (fast_memory)
        blocks->arena_count = fast_memory_count ? fast_memory_count : 1;
    assert(blocks->arena_count <= PLIM_POOL_MOST_PLACES);
    for (size_t i = 0; i < blocks->arena_count; i++)
        arena_init(&blocks->arena[i], &fast_memory[i]);
    return spill_init(&blocks->spill, spill_directory);
}

void blocks_release(struct blocks *blocks)
{
    for (enum plim_tier tier = 0; tier < PLIM_TIER_COUNT; tier++) {
        struct block *block;
        blocks_trim(blocks, tier);
        while ((block = blocks->live[tier])) {
            take_block(&blocks->live[tier], block);
            unmap_block(blocks, block);
        }
    }
    while (blocks->chunks)
        unmap_chunk(blocks, blocks->chunks);
    spill_release(&blocks->spill);
    for (size_t i = 0; i < blocks->arena_count; i++)
        arena_release(&blocks->arena[i]);
}
