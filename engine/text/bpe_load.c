/* The merge table and the options of a BPE model, from the tokenizer's "model". */

#include "bpe.h"

#include <stdio.h>
#include <string.h>

#include "component.h"
#include "unicode.h"

#define WORD_MARK "\xe2\x96\x81"   /* U+2581, a space in SentencePiece's tokens */

struct span {
    const char *text;
    size_t length;
};

struct merge_reader {
    struct text_bpe *bpe;
    struct text_buffer joined;
    uint32_t rank;
};

static struct span span_of(const char *text)
{
    return (struct span){ text, strlen(text) };
}

/* A merge is "left right", or in newer files ["left", "right"]. */
static int split_merge(struct plim_json merge, struct span *left, struct span *right, struct plim_err *err)
{
    const cJSON *first = cJSON_IsArray(merge.node) ? merge.node->child : NULL;
    const cJSON *second = first ? first->next : NULL;
    if (second && !second->next && cJSON_IsString(first) && cJSON_IsString(second)) {
        *left = span_of(first->valuestring);
        *right = span_of(second->valuestring);
        return 0;
    }
    if (!cJSON_IsString(merge.node))
        return plim_json_err(merge, err, "expected \"left right\" or [\"left\", \"right\"]");
    const char *text = merge.node->valuestring, *space = strchr(text, ' ');
    if (!space || strchr(space + 1, ' '))
        return plim_json_err(merge, err, "broken merge \"%.60s\": expected two tokens with one space between", text);
    *left = (struct span){ text, (size_t)(space - text) };
    *right = span_of(space + 1);
    return 0;
}

static int find_token(struct merge_reader *r, struct plim_json merge, struct span token, int32_t *id,
                      struct plim_err *err)
{
    *id = text_vocab_find_model(r->bpe->vocab, token.text, token.length);
    if (*id >= 0)
        return 0;
    return plim_json_err(merge, err, "broken merge: token \"%.*s\" is not in the vocabulary",
                         token.length > 60 ? 60 : (int)token.length, token.text);
}

static void insert_merge(struct text_bpe *bpe, struct text_merge merge)
{
    size_t mask = ((size_t)1 << bpe->merge_bits) - 1;
    size_t slot = (size_t)(merge.pair * 0x9e3779b97f4a7c15u >> (64 - bpe->merge_bits));
    while (bpe->merges[slot].pair != UINT64_MAX && bpe->merges[slot].pair != merge.pair)
        slot = (slot + 1) & mask;
    bpe->merges[slot] = merge;   /* of a pair listed twice the last counts, as in Hugging Face's reader */
}

static bool starts_with_mark(struct span token)
{
    return token.length >= 3 && memcmp(token.text, WORD_MARK, 3) == 0;
}

static bool ends_with_mark(struct span token)
{
    return token.length >= 3 && memcmp(token.text + token.length - 3, WORD_MARK, 3) == 0;
}

static int read_merge(struct merge_reader *r, struct plim_json merge, struct plim_err *err)
{
    struct span left = { 0 }, right = { 0 };
    int32_t left_id, right_id, id;
    if (cJSON_IsString(merge.node) && strncmp(merge.node->valuestring, "#version", 8) == 0)
        return 0;
    if (split_merge(merge, &left, &right, err) < 0 || find_token(r, merge, left, &left_id, err) < 0 ||
        find_token(r, merge, right, &right_id, err) < 0)
        return -1;
    r->joined.length = 0;
    if (text_buffer_append(&r->joined, left.text, left.length, err) < 0 ||
        text_buffer_append(&r->joined, right.text, right.length, err) < 0 ||
        find_token(r, merge, (struct span){ r->joined.data, r->joined.length }, &id, err) < 0)
        return -1;
    insert_merge(r->bpe, (struct text_merge){ (uint64_t)(uint32_t)left_id << 32 | (uint32_t)right_id, r->rank++, id });
    if (starts_with_mark(right) && !ends_with_mark(left))
        r->bpe->words_apart = false;
    return 0;
}

static int read_merges(struct text_bpe *bpe, struct plim_json merges, struct plim_err *err)
{
    struct merge_reader reader = { .bpe = bpe };
    struct plim_err found = PLIM_ERR_INIT;
    size_t index = 0, count;
    int rc = -1;

    if (plim_json_array(merges, err) < 0)
        return -1;
    count = plim_json_length(merges);
    bpe->merge_bits = 4;
    while ((size_t)1 << bpe->merge_bits < count * 2)
        bpe->merge_bits++;
    size_t bytes = sizeof *bpe->merges << bpe->merge_bits;
    bpe->merges = plim_pool_alloc(bpe->vocab->pool, PLIM_HOST, PLIM_TAG_TOKENIZER, bytes, err);
    if (!bpe->merges)
        return -1;
    memset(bpe->merges, 0xff, bytes);   /* pair UINT64_MAX: free */

    text_buffer_init(&reader.joined, bpe->vocab->pool);
    /* A path costs more than a merge: the view without its index is good enough until something is wrong. */
    for (const cJSON *node = merges.node->child; node; node = node->next, index++) {
        struct plim_json view = merges;
        view.node = node;
        if (read_merge(&reader, view, &found) == 0)
            continue;
        if (found.kind != PLIM_ERR_INPUT)
            *err = found;
        else
            read_merge(&reader, text_item(merges, node, index), err);
        goto out;
    }
    rc = 0;

out:
    text_buffer_release(&reader.joined);
    return rc;
}

static void find_characters(struct text_bpe *bpe)
{
    for (uint32_t c = 0; c < TEXT_DIRECT_CHARACTERS; c++) {
        char text[4];
        bpe->character_ids[c] = text_vocab_find_model(bpe->vocab, text, text_utf8_encode(c, text));
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", byte);
        bpe->byte_ids[byte] = text_vocab_find_model(bpe->vocab, text, 6);
    }
}

static int read_options(struct text_bpe *bpe, struct plim_json model, struct plim_err *err)
{
    const char *unknown = NULL;
    if (text_must_be_off(model, "dropout", err) < 0 ||
        text_must_be_off(model, "continuing_subword_prefix", err) < 0 ||
        text_must_be_off(model, "end_of_word_suffix", err) < 0 ||
        text_optional_bool(model, "fuse_unk", &bpe->fuse_unknown, err) < 0 ||
        text_optional_bool(model, "byte_fallback", &bpe->byte_fallback, err) < 0 ||
        text_optional_bool(model, "ignore_merges", &bpe->ignore_merges, err) < 0 ||
        text_optional_string(model, "unk_token", &unknown, err) < 0)
        return -1;
    if (!unknown)
        return 0;
    bpe->unknown_id = text_vocab_find_model(bpe->vocab, unknown, strlen(unknown));
    if (bpe->unknown_id < 0)
        return plim_json_err(plim_json_get(model, "unk_token"), err, "\"%.60s\" is not in the vocabulary", unknown);
    return 0;
}

int text_bpe_load(struct text_bpe *bpe, const struct text_vocab *vocab, struct plim_json model,
                  struct plim_err *err)
{
    *bpe = (struct text_bpe){ .vocab = vocab, .unknown_id = -1 };
    if (read_options(bpe, model, err) < 0)
        return -1;
    find_characters(bpe);
    bpe->words_apart = text_vocab_find_model(vocab, WORD_MARK, 3) >= 0;
    return read_merges(bpe, plim_json_get(model, "merges"), err);
}

void text_bpe_release(struct text_bpe *bpe)
{
    if (bpe->vocab)
        plim_pool_free(bpe->vocab->pool, bpe->merges);
    *bpe = (struct text_bpe){ .unknown_id = -1 };
}
