/*
 * A tokenizer.json, a NUL byte, and a text for it (the document itself when there is no NUL). What is accepted encodes
 * any text or says why not, gives ids that have tokens, and decodes them to UTF-8, streamed or not.
 */

#include <string.h>

#include "fuzz.h"
#include "plimsoll/tokenizer.h"
#include "unicode.h"

#define BUDGET_BYTES ((size_t)16 << 20)

struct streamed {
    size_t length;
};

static int count_bytes(void *context, const char *text, size_t length, struct plim_err *err)
{
    struct streamed *s = context;
    (void)err;
    FUZZ_CLAIM(length > 0 && text_utf8_valid_prefix(text, length) == length);
    s->length += length;
    return 0;
}

static void claim_refusal(const struct plim_err *err)
{
    FUZZ_CLAIM(err->kind == PLIM_ERR_INPUT || err->kind == PLIM_ERR_MEMORY);
    FUZZ_CLAIM(!strchr(err->message, '\n'));
}

static void check_decoding(const struct plim_tokenizer *tokenizer, struct plim_pool *pool, const struct plim_ids *ids,
                           bool skip_special)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_text_stream stream;
    struct streamed streamed = { 0 };
    char *text = NULL;
    size_t length;
    if (plim_tokenizer_decode(tokenizer, ids->ids, ids->count, skip_special, &text, &length, &err) < 0) {
        claim_refusal(&err);
        return;
    }
    FUZZ_CLAIM(text[length] == '\0' && text_utf8_valid_prefix(text, length) == length);
    plim_text_stream_init(&stream, tokenizer, skip_special);
    for (size_t i = 0; i < ids->count; i++)
        FUZZ_CLAIM(plim_text_stream_push(&stream, ids->ids[i], count_bytes, &streamed, &err) == 0);
    FUZZ_CLAIM(plim_text_stream_end(&stream, count_bytes, &streamed, &err) == 0);
    /* A bad run of byte tokens is the one case where the two differ; it leaves its mark in the text. */
    FUZZ_CLAIM(streamed.length == length || memmem(text, length, TEXT_REPLACEMENT, 3));
    plim_pool_free(pool, text);
}

static void check_encoding(const struct plim_tokenizer *tokenizer, struct plim_pool *pool, const char *text,
                           size_t length)
{
    for (int special = 0; special < 2; special++) {
        struct plim_err err = PLIM_ERR_INIT;
        struct plim_ids ids = { 0 };
        if (plim_tokenizer_encode(tokenizer, text, length, special, &ids, &err) < 0) {
            claim_refusal(&err);
            FUZZ_CLAIM(ids.count == 0);
        }
        for (size_t i = 0; i < ids.count; i++)
            FUZZ_CLAIM(ids.ids[i] >= 0 && (size_t)ids.ids[i] < plim_tokenizer_vocab_size(tokenizer));
        check_decoding(tokenizer, pool, &ids, special);
        plim_ids_release(&ids, pool);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct plim_err err = PLIM_ERR_INIT;
    struct plim_pool_options options = { .fast_budget_bytes = BUDGET_BYTES };
    struct plim_pool *pool = NULL;
    struct plim_tokenizer *tokenizer = NULL;
    const char *document = (const char *)data;
    const char *end = size > 0 ? memchr(document, '\0', size) : NULL;
    size_t document_length = end ? (size_t)(end - document) : size;
    const char *text = end ? end + 1 : document;

    FUZZ_CLAIM(plim_pool_open(&pool, &options, &err) == 0);
    if (plim_tokenizer_parse(&tokenizer, pool, "input", document, document_length, &err) == 0)
        check_encoding(tokenizer, pool, text, size - (size_t)(text - document));
    else
        claim_refusal(&err);
    plim_tokenizer_free(tokenizer);
    FUZZ_CLAIM(plim_pool_close(pool) == 0);
    return 0;
}
