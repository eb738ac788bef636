#ifndef PLIM_TEXT_BPE_H
#define PLIM_TEXT_BPE_H

/*
 * Byte pair encoding of one piece of text.
 *
 * The piece starts as one symbol a character. Of all neighbouring pairs that the merge table knows, the one of lowest
 * rank (the leftmost of equals) becomes one symbol, again and again, until none is left. Symbols form a doubly linked
 * list and candidate pairs a heap, so a piece of n characters takes O(n log n).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plimsoll/json.h"
#include "plimsoll/tokenizer.h"
#include "vocab.h"

#define TEXT_DIRECT_CHARACTERS 512   /* covers ASCII, Latin-1 and the byte-level alphabet */

struct text_merge {
    uint64_t pair;   /* left id << 32 | right id; UINT64_MAX when the slot is free */
    uint32_t rank;
    int32_t id;      /* the merged token */
};

struct text_bpe {
    const struct text_vocab *vocab;
    struct text_merge *merges;    /* [1 << merge_bits], open addressing */
    unsigned merge_bits;
    int32_t unknown_id;           /* -1: characters without a token are dropped */
    bool fuse_unknown;            /* a run of unknown characters becomes one unknown token */
    bool byte_fallback;           /* a character without a token becomes its bytes' tokens */
    bool ignore_merges;           /* a piece that is a token as a whole is not taken apart */
    bool words_apart;             /* no merge crosses from a character other than U+2581 to U+2581 */
    int32_t byte_ids[256];        /* "<0x00>" ... "<0xFF>", -1 where missing */
    int32_t character_ids[TEXT_DIRECT_CHARACTERS];   /* single-character tokens by code point, -1 where missing */
};

struct text_bpe_scratch {
    struct plim_pool *pool;
    struct text_symbol *symbols;
    size_t symbol_capacity;
    struct text_candidate *heap;
    size_t heap_count, heap_capacity;
};

/* Reads the tokenizer's "model". The vocabulary is complete and outlives `bpe`. On failure release does no harm. */
int text_bpe_load(struct text_bpe *bpe, const struct text_vocab *vocab, struct plim_json model,
                  struct plim_err *err);
void text_bpe_release(struct text_bpe *bpe);

void text_bpe_scratch_release(struct text_bpe_scratch *scratch);

/* Appends the ids of a piece of valid UTF-8. */
int text_bpe_encode(const struct text_bpe *bpe, struct text_bpe_scratch *scratch, const char *piece, size_t length,
                    struct plim_ids *out, struct plim_err *err);

/* Appends ids; the array grows in the pool. */
int text_ids_append(struct plim_ids *out, struct plim_pool *pool, const int32_t *ids, size_t count,
                    struct plim_err *err);

#endif
