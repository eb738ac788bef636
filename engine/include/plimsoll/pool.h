#ifndef PLIMSOLL_POOL_H
#define PLIMSOLL_POOL_H

/*
 * The tracking memory pool: where all engine memory comes from.
 *
 * Each block carries a tag. The pool knows at any moment, and at the peak, how many bytes each tag holds, how many
 * blocks there are, and which scope of the program raised the peak. There are two tiers, fast and slow: on the CPU
 * backend RAM and a memory-mapped spill file, on CUDA device memory and host RAM. What the host itself reads and writes
 * is asked for from PLIM_HOST, which is the fast tier in the first case and the slow one in the second.
 *
 *     struct plim_pool *pool = NULL;
 *     struct plim_pool_options options = { .fast_budget_bytes = 512 * PLIM_MI };
 *     if (plim_pool_open(&pool, &options, &err) < 0)
 *         ...
 *     float *x = plim_pool_alloc(pool, PLIM_FAST, PLIM_TAG_ACTIVATIONS, n * sizeof *x, &err);
 *     if (!x)
 *         ...                      // err says what was asked, held, allowed; plim_pool_last_refusal has it as data
 *     plim_pool_free(pool, x);
 *     plim_pool_close(pool);       // everything must have been freed: a leak is reported and counted
 *
 * Three figures are kept apart. *Requested* bytes are what callers asked for: the same on every machine for the same
 * work, so they are gated exactly. *Reserved* bytes are what the pool holds from the operating system or driver,
 * rounding and cached free blocks included. *Resident* bytes are the system's business, not the pool's.
 *
 * A freed block is cached and reused for requests of its size; plim_pool_trim gives cached blocks back. Memory is
 * aligned to PLIM_POOL_ALIGN bytes (device memory: 512) and not zeroed.
 *
 * Threads: every function may be called from any thread, except open and close.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/err.h"

#define PLIM_POOL_ALIGN 64

enum plim_tier {
    PLIM_FAST,
    PLIM_SLOW,
    PLIM_TIER_COUNT,
    PLIM_HOST = PLIM_TIER_COUNT   /* in requests: whichever of the two the host can read and write as ordinary memory */
};

/*
 * Who holds the memory. `weights_mapped` is not allocated: it counts file bytes that are mapped and read in place,
 * and takes no part in the totals or in the budget.
 */
#define PLIM_TAGS(X)                                                                                                   \
    X(WEIGHTS, "weights")               /* matrices, norms, embeddings in owned memory */                              \
    X(KV_CACHE, "kv_cache")                                                                                            \
    X(ACTIVATIONS, "activations")       /* hidden states and everything proportional to a chunk's rows */              \
    X(DEQUANT, "dequant")               /* expanded weights of a chunk; bounded by max_dq_size */                      \
    X(ATTENTION, "attention")           /* scores of a chunk; bounded by max_attention_size */                         \
    X(LOGITS, "logits")                                                                                                \
    X(HESSIAN, "hessian")                                                                                              \
    X(CALIBRATION, "calibration")                                                                                      \
    X(WORKSPACE, "workspace")           /* packed operands, partial sums, library workspaces that are ours */          \
    X(TOKENIZER, "tokenizer")                                                                                          \
    X(METADATA, "metadata")             /* headers, configurations, tensor tables, handles */                          \
    X(IO, "io")                         /* staging buffers of readers and writers */                                   \
    X(WEIGHTS_MAPPED, "weights_mapped")

enum plim_tag {
#define PLIM_TAG_ENUM(name, text) PLIM_TAG_##name,
    PLIM_TAGS(PLIM_TAG_ENUM)
#undef PLIM_TAG_ENUM
    PLIM_TAG_COUNT
};

struct plim_pool;

/*
 * Memory of a fast tier that isn't RAM. The pool asks for addresses once, backs parts of them as needed, cuts those into
 * blocks and caches them; it never touches their contents. The slow tier then is RAM, and PLIM_HOST means it.
 *
 * Calls that fail return -1 with `err`: its text becomes the reason of a refusal.
 */
struct plim_pool_memory {
    void *context;
    size_t granule_bytes;         /* commits are multiples of it */
    int (*reserve)(void *context, uint64_t *base, uint64_t *bytes, struct plim_err *err);   /* addresses; never 0 bytes */
    void (*unreserve)(void *context, uint64_t base, uint64_t bytes);
    int (*commit)(void *context, uint64_t address, uint64_t bytes, struct plim_err *err);
    void (*decommit)(void *context, uint64_t address, uint64_t bytes);   /* one commit, whole; waits for its users */
    int (*zero)(void *context, uint64_t address, uint64_t bytes, struct plim_err *err);

    /*
     * Both or neither. With them every block is an allocation of its own, of just its bytes, and nothing is cached, so that a
     * memory checker sees where blocks begin and end; of the calls above only `zero` is made then.
     */
    int (*alloc)(void *context, uint64_t bytes, uint64_t *address, struct plim_err *err);   /* never 0 bytes */
    void (*free)(void *context, uint64_t address);   /* waits for its users */
};

/* Devices whose memory is one fast tier. */
#define PLIM_POOL_MOST_PLACES 16

struct plim_pool_options {
    const struct plim_pool_memory *fast_memory;   /* copied; NULL: the fast tier is RAM */
    size_t fast_memory_count;     /* of several devices; 0: one */
    size_t fast_budget_bytes;     /* requested bytes on the fast tier may not pass this; 0: no limit */
    size_t slow_budget_bytes;     /* likewise on the slow tier */
    const char *spill_directory;  /* borrowed; where the slow tier's unlinked file goes; NULL: $TMPDIR or /tmp */
    uint64_t fail_allocation;     /* for tests: the N-th allocation from now fails (1 is the next); 0: none */
};

struct plim_pool_usage {
    uint64_t bytes[PLIM_TAG_COUNT];  /* requested, per tag */
    uint64_t total_bytes;            /* the sum, without weights_mapped */
};

struct plim_pool_stats {
    struct plim_pool_usage current[PLIM_TIER_COUNT];
    struct plim_pool_usage peak[PLIM_TIER_COUNT];      /* what each tag held at the moment of the total's peak */
    uint64_t tag_peak_bytes[PLIM_TIER_COUNT][PLIM_TAG_COUNT];  /* each tag's own peak, whenever it was */
    char peak_scope[PLIM_TIER_COUNT][64];              /* plim_pool_set_scope's text when the peak was reached */
    enum plim_tag peak_tag[PLIM_TIER_COUNT];           /* the tag of the allocation that reached the peak */
    uint64_t reserved_bytes[PLIM_TIER_COUNT];
    uint64_t reserved_peak_bytes[PLIM_TIER_COUNT];
    uint64_t cached_bytes[PLIM_TIER_COUNT];            /* reserved but free */
    uint64_t live_blocks;
    uint64_t allocation_count;                         /* successful allocations since open */
    uint64_t system_allocation_count;                  /* of these, not served from cache */
};

/* Why the last allocation was refused. */
struct plim_pool_refusal {
    bool valid;                 /* false: nothing was refused yet */
    enum plim_tier tier;
    enum plim_tag tag;
    uint64_t requested_bytes;
    uint64_t budget_bytes;      /* 0: the system refused, or the failure was injected */
    bool injected;
    struct plim_pool_usage held;
    char scope[64];
};

/* Creates a pool. On failure nothing is left to undo. `options` may be NULL (no budget). */
int plim_pool_open(struct plim_pool **pool, const struct plim_pool_options *options, struct plim_err *err);

/*
 * Gives everything back, blocks that are still live included, and returns the number of live blocks (0 unless
 * something leaked). `pool` may be NULL.
 */
uint64_t plim_pool_close(struct plim_pool *pool);

/*
 * Returns `bytes` bytes (0 gives a valid, unique block), or NULL with `err` (kind memory) set, the refusal recorded
 * and the pool unchanged. The caller owns the block until plim_pool_free.
 *
 * This and the next three are macros that add the calling function's name, the site of the allocation in memory traces.
 * A helper that allocates for others may pass on another name through the function behind the macro; it must live as long
 * as the program.
 */
#define plim_pool_alloc(pool, tier, tag, bytes, err) plim_pool_alloc_at(pool, tier, tag, bytes, __func__, err)
void *plim_pool_alloc_at(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t bytes,
                         const char *site, struct plim_err *err);

/* As plim_pool_alloc for `count` items of `size` bytes, overflow checked, zeroed. */
#define plim_pool_calloc(pool, tier, tag, count, size, err)                                                            \
    plim_pool_calloc_at(pool, tier, tag, count, size, __func__, err)
void *plim_pool_calloc_at(struct plim_pool *pool, enum plim_tier tier, enum plim_tag tag, size_t count, size_t size,
                          const char *site, struct plim_err *err);

/*
 * Grows or shrinks a block of PLIM_HOST, keeping its contents and tag; `block` NULL is plim_pool_alloc. On
 * failure returns NULL and the old block stays valid. Counts as one allocation; requested bytes change by the
 * difference, never by both sizes at once (large blocks are moved by their pages, not copied).
 */
#define plim_pool_realloc(pool, tag, block, bytes, err) plim_pool_realloc_at(pool, tag, block, bytes, __func__, err)
void *plim_pool_realloc_at(struct plim_pool *pool, enum plim_tag tag, void *block, size_t bytes, const char *site,
                           struct plim_err *err);

/* Copies a string into PLIM_HOST. */
#define plim_pool_strdup(pool, tag, text, err) plim_pool_strdup_at(pool, tag, text, __func__, err)
char *plim_pool_strdup_at(struct plim_pool *pool, enum plim_tag tag, const char *text, const char *site,
                          struct plim_err *err);

/* Returns a block to the cache. NULL is allowed. */
void plim_pool_free(struct plim_pool *pool, void *block);

/* The size that was asked for `block`. */
size_t plim_pool_block_bytes(struct plim_pool *pool, const void *block);

/*
 * Takes `bytes` of a block from `offset` on out of the resident set, where a file holds them: the slow tier on the CPU. They
 * come back when they are touched. Nothing elsewhere.
 */
void plim_pool_set_aside(struct plim_pool *pool, void *block, size_t offset, size_t bytes);

/* The tier that PLIM_HOST means. */
enum plim_tier plim_pool_host_tier(const struct plim_pool *pool);

/* Counts `bytes` mapped file bytes (negative: unmapped) under weights_mapped. */
void plim_pool_note_mapped(struct plim_pool *pool, int64_t bytes);

/*
 * From now on blocks of the fast tier are taken on this one of its devices (0 until the first call). Tags, budgets and peaks
 * are of all of them together; a block goes back to where it came from.
 */
void plim_pool_set_place(struct plim_pool *pool, size_t place);

/*
 * Names what the program is doing ("layers.3.mlp"), for peak reports and refusals. The text is copied, cut at 63
 * bytes.
 */
void plim_pool_set_scope(struct plim_pool *pool, const char *scope);

/* Gives all cached free blocks of both tiers back to the system; returns the bytes given back. */
uint64_t plim_pool_trim(struct plim_pool *pool);

/*
 * From now on the slow tier's file lies in `directory` (copied), unless the one that there is holds live blocks: then it
 * stays where it is.
 */
int plim_pool_spill_to(struct plim_pool *pool, const char *directory, struct plim_err *err);

/* Starts a new peak from the current usage (phases, suites). Allocation counts go on. */
void plim_pool_reset_peak(struct plim_pool *pool);

void plim_pool_stats(const struct plim_pool *pool, struct plim_pool_stats *out);
void plim_pool_last_refusal(const struct plim_pool *pool, struct plim_pool_refusal *out);

/*
 * Records every change of requested bytes from now on in a file (memory_trace.h: time, tier, tag, scope, site, bytes),
 * for `plimsoll memory`. Once in a pool's life. The recorder's own memory is not the pool's: all counts stay what they
 * are without it. Costs one branch when off. Stopping writes the rest and says whether all of it could be written;
 * closing the pool stops too, silently.
 */
int plim_pool_trace_start(struct plim_pool *pool, const char *path, struct plim_err *err);
int plim_pool_trace_stop(struct plim_pool *pool, struct plim_err *err);

/* Makes the N-th allocation from now fail (tests); 0 switches it off. */
void plim_pool_fail_allocation(struct plim_pool *pool, uint64_t nth);

/* "weights", "kv_cache", ...; "fast", "slow": stable names used in result files. */
const char *plim_tag_name(enum plim_tag tag);
const char *plim_tier_name(enum plim_tier tier);

#endif
