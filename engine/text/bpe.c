#include "bpe.h"

#include <string.h>

#include "unicode.h"

#define NONE UINT32_MAX

struct text_symbol {
    int32_t id;               /* -1: merged into the symbol on its left */
    uint32_t previous, next;  /* NONE at the ends */
};

/* Two neighbours that may merge. Stale once either has changed; checked when it comes up, not removed before. */
struct text_candidate {
    uint64_t order;           /* rank << 32 | position of the left symbol: smallest first */
    int32_t id;               /* the merged token */
};

int text_ids_append(struct plim_ids *out, struct plim_pool *pool, const int32_t *ids, size_t count,
                    struct plim_err *err)
{
    if (count == 0)
        return 0;
    int32_t *grown = text_grow(pool, out->ids, &out->capacity, out->count + count, sizeof *ids, err);
    if (!grown)
        return -1;
    out->ids = grown;
    memcpy(out->ids + out->count, ids, count * sizeof *ids);
    out->count += count;
    return 0;
}

void text_bpe_scratch_release(struct text_bpe_scratch *scratch)
{
    plim_pool_free(scratch->pool, scratch->symbols);
    plim_pool_free(scratch->pool, scratch->heap);
    *scratch = (struct text_bpe_scratch){ .pool = scratch->pool };
}

/* ---- the heap ---- */

static int heap_push(struct text_bpe_scratch *s, struct text_candidate candidate, struct plim_err *err)
{
    struct text_candidate *heap = text_grow(s->pool, s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *heap, err);
    if (!heap)
        return -1;
    s->heap = heap;
    size_t i = s->heap_count++;
    while (i > 0 && heap[(i - 1) / 2].order > candidate.order) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = candidate;
    return 0;
}

static struct text_candidate heap_pop(struct text_bpe_scratch *s)
{
    struct text_candidate *heap = s->heap, top = heap[0], last = heap[--s->heap_count];
    size_t i = 0, count = s->heap_count;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= count)
            break;
        if (child + 1 < count && heap[child + 1].order < heap[child].order)
            child++;
        if (heap[child].order >= last.order)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* ---- merging ---- */

static const struct text_merge *find_merge(const struct text_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t mask = ((size_t)1 << bpe->merge_bits) - 1;
    size_t slot = (size_t)(pair * 0x9e3779b97f4a7c15u >> (64 - bpe->merge_bits));
    for (;; slot = (slot + 1) & mask) {
        const struct text_merge *merge = &bpe->merges[slot];
        if (merge->pair == pair)
            return merge;
        if (merge->pair == UINT64_MAX)
            return NULL;
    }
}

static int propose(const struct text_bpe *bpe, struct text_bpe_scratch *s, uint32_t left, uint32_t right,
                   struct plim_err *err)
{
    const struct text_merge *merge = find_merge(bpe, s->symbols[left].id, s->symbols[right].id);
    if (!merge)
        return 0;
    return heap_push(s, (struct text_candidate){ (uint64_t)merge->rank << 32 | left, merge->id }, err);
}

static int merge_symbols(const struct text_bpe *bpe, struct text_bpe_scratch *s, size_t count, struct plim_err *err)
{
    struct text_symbol *symbols = s->symbols;
    s->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++) {
        if (propose(bpe, s, (uint32_t)i, (uint32_t)i + 1, err) < 0)
            return -1;
    }
    while (s->heap_count > 0) {
        struct text_candidate best = heap_pop(s);
        uint32_t position = (uint32_t)best.order;
        struct text_symbol *left = &symbols[position];
        if (left->id < 0 || left->next == NONE)
            continue;
        struct text_symbol *right = &symbols[left->next];
        const struct text_merge *merge = find_merge(bpe, left->id, right->id);
        /* As Hugging Face has it, a candidate is still good when its place now merges into the same token. */
        if (!merge || merge->id != best.id)
            continue;
        left->id = best.id;
        left->next = right->next;
        right->id = -1;
        if (left->next != NONE)
            symbols[left->next].previous = position;
        if (left->previous != NONE && propose(bpe, s, left->previous, position, err) < 0)
            return -1;
        if (left->next != NONE && propose(bpe, s, position, left->next, err) < 0)
            return -1;
    }
    return 0;
}

/* ---- a piece ---- */

static int32_t character_id(const struct text_bpe *bpe, const char *text, size_t *used)
{
    uint32_t character = text_utf8_decode(text, used);
    if (character < TEXT_DIRECT_CHARACTERS)
        return bpe->character_ids[character];
    return text_vocab_find_model(bpe->vocab, text, *used);
}

static size_t add_symbol(struct text_symbol *symbols, size_t count, int32_t id)
{
    symbols[count] = (struct text_symbol){ id, count == 0 ? NONE : (uint32_t)count - 1, (uint32_t)count + 1 };
    return count + 1;
}

static bool has_byte_ids(const struct text_bpe *bpe, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (bpe->byte_ids[(unsigned char)text[i]] < 0)
            return false;
    }
    return true;
}

/* One symbol for each character, at most one for each byte; `symbols` has room. Returns how many. */
static size_t first_symbols(const struct text_bpe *bpe, struct text_symbol *symbols, const char *piece, size_t length)
{
    size_t count = 0, used;
    bool unknown_waits = false;   /* an unknown token is due, and may take in the unknown characters that follow */
    for (size_t i = 0; i < length; i += used) {
        int32_t id = character_id(bpe, piece + i, &used);
        if (id < 0 && bpe->byte_fallback && has_byte_ids(bpe, piece + i, used)) {
            /* An unknown token that waits stays waiting, so it comes after these bytes: Hugging Face does so. */
            for (size_t j = 0; j < used; j++)
                count = add_symbol(symbols, count, bpe->byte_ids[(unsigned char)piece[i + j]]);
            continue;
        }
        if (id < 0 && bpe->unknown_id < 0)
            continue;
        if (unknown_waits && (id >= 0 || !bpe->fuse_unknown))
            count = add_symbol(symbols, count, bpe->unknown_id);
        if (id >= 0)
            count = add_symbol(symbols, count, id);
        unknown_waits = id < 0;
    }
    if (unknown_waits)
        count = add_symbol(symbols, count, bpe->unknown_id);
    if (count > 0)
        symbols[count - 1].next = NONE;
    return count;
}

static int encode_whole(const struct text_bpe *bpe, struct text_bpe_scratch *s, const char *piece, size_t length,
                        struct plim_ids *out, struct plim_err *err)
{
    struct text_symbol *symbols = text_grow(s->pool, s->symbols, &s->symbol_capacity, length, sizeof *symbols, err);
    if (!symbols)
        return -1;
    s->symbols = symbols;
    size_t count = first_symbols(bpe, symbols, piece, length);
    if (merge_symbols(bpe, s, count, err) < 0)
        return -1;

    int32_t *ids = text_grow(s->pool, out->ids, &out->capacity, out->count + count + 1, sizeof *ids, err);
    if (!ids)
        return -1;
    out->ids = ids;
    for (uint32_t i = count > 0 ? 0 : NONE; i != NONE; i = symbols[i].next)
        out->ids[out->count++] = symbols[i].id;
    return 0;
}

/* The end of the word at the start of `text`: before the first U+2581 (e2 96 81) that follows another character. */
static size_t word_end(const char *text, size_t length)
{
    size_t i = 0;
    while (length - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0)
        i += 3;
    while (i < length) {
        const char *next = memchr(text + i, '\xe2', length - i);
        if (!next)
            break;
        i = (size_t)(next - text);
        if (length - i >= 3 && memcmp(next, "\xe2\x96\x81", 3) == 0)
            return i;
        i++;
    }
    return length;
}

int text_bpe_encode(const struct text_bpe *bpe, struct text_bpe_scratch *scratch, const char *piece, size_t length,
                    struct plim_ids *out, struct plim_err *err)
{
    if (length == 0)
        return 0;
    if (bpe->ignore_merges) {
        int32_t id = text_vocab_find_model(bpe->vocab, piece, length);
        if (id >= 0)
            return text_ids_append(out, scratch->pool, &id, 1, err);
    }
    if (!bpe->words_apart)
        return encode_whole(bpe, scratch, piece, length, out, err);

    /*
     * SentencePiece-style tokenizers give the whole text as one piece. Where no merge joins a word to the next, word
     * by word gives the same ids, with scratch memory and a heap as small as a word.
     */
    for (size_t i = 0; i < length;) {
        size_t word = word_end(piece + i, length - i);
        if (encode_whole(bpe, scratch, piece + i, word, out, err) < 0)
            return -1;
        i += word;
    }
    return 0;
}
